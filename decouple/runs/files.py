"""Files of runs and reports: replaced as a whole or appended to in one piece, and CSV, Markdown, JSON and YAML.

    replace_file(Path("runs/one/result.json"), json_bytes({"frames": 1000}))
    read_json(Path("runs/one/result.json"))["frames"]

A kill leaves the old file or the new one, never half of one. What cannot be read is told by the file's name.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from decouple.checks import SOME, checked

__all__ = [
    "append_whole",
    "csv_lines",
    "csv_rows",
    "file_text",
    "json_bytes",
    "markdown_lines",
    "naming_file",
    "read_json",
    "read_yaml",
    "replace_file",
]


@checked()
def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content such that a kill leaves the old or the new, whole.

    Raises:
        FileNotFoundError: the folder is not there.
        OSError: the disk is full or the folder cannot be written; the file under `path` is as it was.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "path must lie in a folder that is there; got", os.fspath(path))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming_file(path):
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append_whole(file: io.FileIO, content: bytes) -> None:
    """Append to an unbuffered file and put it on the disk: all of the content, or none where that fails."""
    before = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]  # a full disk, or a signal, may end a write before its end
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise


@checked()
@contextlib.contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around what writes a file: its name is in the error where the system does not say it, as for a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@checked()
def csv_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns; ValueError with the file's name where it has them not."""
    rows = csv.DictReader(io.StringIO(file_text(path, path.read_bytes()), newline=""))
    if not set(columns) <= set(rows.fieldnames or ()):
        raise ValueError(f"path must be of a table with the columns {', '.join(columns)}; got {path}")
    return list(rows)


@checked()
def csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows as the lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@checked(rows=SOME)
def markdown_lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heads of the columns, as a table in Markdown; a `|` in a cell stands as it is.

    >>> print(markdown_lines([["size", "return"], ["|4,4|", "-150"]]))
    | size | return |
    |---|---|
    | \\|4,4\\| | -150 |
    """
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])


@checked()
def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run's folder holds, as result.json or record.json; empty where there is none.

    Raises:
        ValueError: damaged; the message names the file.
    """
    if not path.exists():
        return {}
    text = file_text(path, path.read_bytes())
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be whole JSON; got {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object; got {text[:40]!r}")
    return found


@checked()
def json_bytes(record: Mapping[str, Any]) -> bytes:
    """A mapping as the lines of a JSON file."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


@checked()
def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a run's config.yaml.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged; the message names the file.
    """
    text = file_text(path, path.read_bytes())
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ValueError(f"{path} must be whole YAML; got {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold settings by name; got {text[:40]!r}")
    return found


@checked()
def file_text(path: Path, content: bytes) -> str:
    """What has been read from a run's file, as text.

    No tracker writes a byte-order mark: where one stands, another program has been at it.

    Args:
        path: of the file, for the message.
        content: what it holds, or the part of it that is wanted.

    Raises:
        ValueError: no UTF-8, or a byte-order mark; the message names the file.
    """
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} must be UTF-8 without a byte-order mark; got one, which some editors write")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        at = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise ValueError(f"{path} must be UTF-8 text; got bytes that are none ({at})") from error
