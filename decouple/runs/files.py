"""Files of runs and reports: writes that a kill cannot leave half-done, and CSV, Markdown, JSON and YAML.

    replace_file(Path("runs/one/result.json"), json_bytes({"frames": 1000}))
    read_json(Path("runs/one/result.json"))["frames"]

A kill leaves the old file or the new one, never half of one. An error in reading names the file.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import glob
import io
import json
import os
import re
import secrets
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
    "folders_below",
    "json_bytes",
    "markdown_lines",
    "named_places",
    "naming_file",
    "read_json",
    "read_yaml",
    "replace_file",
    "reserve_file",
]

LEFT_OVER_S = 3600.0  # seconds after which a temporary file can only be one that a kill has left


@checked()
def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of `path`; a kill leaves the whole old content or the whole new one.

    Several processes may do so at once: the last one's content stays. A temporary file that a kill has left beside it
    is removed by a replacement an hour later.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the disk is full or the folder cannot be written; the file under `path` is unchanged.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "path must lie in a folder that is there; got", os.fspath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming_file(path):
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                written = os.fstat(file.fileno()).st_mtime
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _remove_left_over(path, written - LEFT_OVER_S)


def _remove_left_over(path: Path, before: float) -> None:
    """Delete temporary files of `path` that were last written before a time, by the clock of the file system."""
    of_path = re.compile(rf"\.{re.escape(path.name)}(\.\d+-[0-9a-f]{{8}})?\.tmp")  # without a number: of 0.2
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            if of_path.fullmatch(entry.name) and entry.stat().st_mtime < before:
                entry.unlink()


def reserve_file(path: Path, size: int) -> None:
    """Give a file at least `size` bytes, whose place on the disk is reserved where the system can.

    Writing to its memory map is then safe, which would end the process where the disk is full. The file is made where
    it is missing; what it holds stays. `size`: at least 1.

    Raises:
        OSError: the disk has no room, or the folder cannot be written.
    """
    with open(path, "ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif os.fstat(file.fileno()).st_size < size:
            file.truncate(size)


def append_whole(file: io.FileIO, content: bytes) -> None:
    """Append to an unbuffered file and flush it to the disk; where that fails, nothing is appended."""
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
    """A context for writing a file: adds its name to an OSError without one, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@checked()
def named_places(text: str) -> list[Path]:
    """What a path or a pattern names: the path itself where there is one, else all that matches, sorted."""
    return [Path(text)] if os.path.lexists(text) else sorted(map(Path, glob.glob(text, recursive=True)))


@checked()
def folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all below it, links followed, each once."""
    seen: set[Path] = set()
    for where, below, _ in os.walk(folder, followlinks=True):
        below.sort()
        if (real := Path(where).resolve()) in seen:
            below.clear()
            continue
        seen.add(real)
        yield Path(where)


@checked()
def csv_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file; ValueError with the file's name where one of `columns` is missing."""
    rows = csv.DictReader(io.StringIO(file_text(path, path.read_bytes()), newline=""))
    if not set(columns) <= set(rows.fieldnames or ()):
        raise ValueError(f"path must be a table with the columns {', '.join(columns)}; got {path}")
    return list(rows)


@checked()
def csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    """Encode rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@checked(rows=SOME)
def markdown_lines(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of rows, of which the first holds the column heads; a `|` in a cell is escaped.

    >>> print(markdown_lines([["size", "return"], ["|4,4|", "-150"]]))
    | size | return |
    |---|---|
    | \\|4,4\\| | -150 |
    """
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])


@checked()
def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a run's folder, as result.json or record.json; empty where there is no file.

    Raises:
        ValueError: the file is damaged; the message names it.
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
    """Encode a mapping as a JSON file."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


@checked()
def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a run's config.yaml.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged; the message names it.
    """
    text = file_text(path, path.read_bytes())
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        raise ValueError(f"{path} must be whole YAML; got {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold settings by name; got {text[:40]!r}")
    return found


@checked()
def file_text(path: Path, content: bytes) -> str:
    """Decode the content of a run's file.

    No tracker writes a byte-order mark: a file that begins with one was changed by another program.

    Args:
        path: path of the file, for the message.
        content: bytes of the file, or of a part of it.

    Raises:
        ValueError: the content is not UTF-8, or has a byte-order mark; the message names the file.
    """
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} must be UTF-8 without a byte-order mark; got one, which some editors write")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        at = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise ValueError(f"{path} must be UTF-8 text; got bytes that are not ({at})") from error
