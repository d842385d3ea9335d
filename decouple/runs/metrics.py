"""A run's metrics as a table, `metrics.csv`, which any tool reads.

    read_metrics("runs/one")["train/episode_return"]

`append` writes one row, which is on the disk when it returns. Numbers are read back exactly. If a process is killed in
the middle of a line, reading leaves this line out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decouple.checks import SOME, at_least, check_setting, checked
from decouple.runs.files import append_whole, csv_lines, file_text, naming_file, read_json, read_yaml, replace_file
from decouple.runs.locks import BEGIN_ANEW

__all__ = [
    "MetricsTable",
    "check_run_files",
    "column_numbers",
    "read_metrics",
    "read_result",
    "read_table",
    "rows_up_to",
    "table_sum",
]


@checked()
def read_metrics(run_dir: str | os.PathLike[str]) -> dict[str, list[float]]:
    """Read the table of a run, finished or not.

    Returns:
        Column -> its values, one per row: "frames" first, then each metric in the order of first appearance; nan where
        a row has no value. A last line that a killed process left half-written is left out.

    Raises:
        FileNotFoundError: no metrics.csv in `run_dir`.
        ValueError: the table is damaged before its last line; the message names the file, the line and the column.
    """
    path = Path(run_dir) / "metrics.csv"
    columns, rows = read_table(path)
    return {name: column_numbers(path, name, [row[index] for row in rows]) for index, name in enumerate(columns)}


class MetricsTable:
    """metrics.csv, open for appending; numbers are written by `repr`, so that they are read back exactly."""

    @checked(resume_frames=at_least(0))
    def __init__(self, path: Path, resume_frames: int | None) -> None:
        self.path = path
        self.columns, rows = rows_up_to(path, resume_frames or 0) if path.exists() else (["frames"], [])
        self._rewrite(rows if resume_frames else [])

    def append(self, frames: int, row: Mapping[str, float]) -> None:
        """Write one whole row and flush it to the disk, so that a checkpoint is never ahead of its table.

        Raises:
            OSError: the disk is full; the table is unchanged.
        """
        new = [name for name in row if name not in self.columns]
        if new:
            _, rows = read_table(self.path)
            before, self.columns = self.columns, self.columns + new
            try:
                self._rewrite([old + [""] * len(new) for old in rows])
            except OSError:
                self.columns = before
                raise
        cells = [repr(row[name]) if name in row else "" for name in self.columns[1:]]
        line = csv_lines([[str(frames), *cells]])
        with naming_file(self.path):
            append_whole(self._file, line)
        self._sum.update(csv_lines(_without_clock(self.columns, [[str(frames), *cells]])))

    def sum(self) -> str:
        """`table_sum` of the present table, for a checkpoint."""
        return self._sum.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewrite(self, rows: Sequence[Sequence[str]]) -> None:
        """Replace the whole file, and open it for appending."""
        lines = csv_lines([self.columns, *rows])
        replace_file(self.path, lines)
        if hasattr(self, "_file"):
            self._file.close()
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by close()
        self._sum = _summed(self.columns, rows)


@checked(frames=at_least(0))
def rows_up_to(path: Path, frames: int) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of a table as they were at `frames`, for a run that resumes there.

    Raises:
        FileNotFoundError, ValueError: as `read_table`.
    """
    columns, rows = read_table(path)
    at = column_numbers(path, "frames", [row[0] for row in rows])
    rows = [row for row, own in zip(rows, at, strict=True) if own <= frames]
    # A column with values only in dropped rows is dropped too: the resumed run adds it where an unbroken run does.
    kept = [0, *(index for index in range(1, len(columns)) if any(row[index] for row in rows))]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


@checked(columns=SOME)
def table_sum(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """SHA-256 of a table without its time columns (`time/...`), so that a repeated run has the same."""
    says = f"rows of a cell for each of the {len(columns)} columns"
    check_setting("rows", rows, lambda found: all(len(row) == len(columns) for row in found), says)
    return _summed(columns, rows).hexdigest()


def _summed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> hashlib._Hash:
    return hashlib.sha256(csv_lines(_without_clock(columns, [columns, *rows])))


def _without_clock(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    kept = [index for index, name in enumerate(columns) if not name.startswith("time/")]
    return [[row[index] for index in kept] for row in rows]


@checked()
def read_result(path: Path) -> dict[str, Any]:
    """A run's result.json: `frames` and a number for each metric; empty where there is no file.

    A metric of a failed agent (null in the file, or a number that is not finite) is None.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    found = read_json(path)
    if path.exists() and not _finite(found.get("frames")):
        raise ValueError(f"{path} must hold the run's frames, a number; got {found.get('frames')!r}")
    for name, value in found.items():
        if name.startswith(("final/", "eval/")):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{path} must hold a number, or null, as {name}; got {value!r}")
            found[name] = value if _finite(value) else None
    return found


@checked()
def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The column names and the rows of cells; text after the last newline is an unfinished row and is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the table is damaged before its last line; the message names the file and the line.
    """
    text = file_text(path, path.read_bytes().rpartition(b"\n")[0])
    try:
        lines = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(f"{path} must be a table, comma-separated; got {error}") from error
    if not lines or lines[0][:1] != ["frames"]:
        raise ValueError(f"{path} must begin with a line of column names, 'frames' first; got {lines[:1]}")
    columns, *rows = lines
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{path} must have each column once; got {twice} twice")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ValueError(f"{path}, line {number}: must have {len(columns)} cells; got {len(row)}")
    return columns, rows


@checked()
def column_numbers(path: Path, column: str, cells: Sequence[str]) -> list[float]:
    """A column of `read_table` as numbers; nan where a cell is empty.

    Args:
        path: path of the table, for the message.
        column: the column's name; `frames` must be whole numbers that never decrease.
        cells: the column's text, one per row.

    Raises:
        ValueError: a cell is not a number; the message names the file, the line and the column.
    """
    values: list[float] = []
    for line, cell in enumerate(cells, start=2):
        try:
            values.append(float(cell or "nan"))
        except ValueError:
            raise ValueError(f"{path}, line {line}: {column} must be a number; got {cell!r}") from None
        if column == "frames" and not (cell.isdecimal() and values[-1] >= max(values[-2:])):
            before = f", at least the {values[-2]:.0f} of the line before" if line > 2 else ""
            raise ValueError(f"{path}, line {line}: frames must be a whole number{before}; got {cell!r}")
    return values


@checked()
def check_run_files(run_dir: str | os.PathLike[str]) -> None:
    """Refuse to resume a run whose metrics.csv, config.yaml or record.json is damaged; a missing file is accepted.

    Raises:
        ValueError: a file is damaged; the message names the file, the damage, and the ways out.
    """
    run_dir = Path(run_dir)
    try:
        if (run_dir / "metrics.csv").exists():
            read_metrics(run_dir)
        if (config := run_dir / "config.yaml").exists():
            read_yaml(config)
        record = read_json(run_dir / "record.json")
        sessions = record.get("sessions", [])
        if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
            raise ValueError(f"{run_dir / 'record.json'} must hold a list of sessions; got {str(sessions)[:40]}")
    except (ValueError, OSError) as error:
        advice = f"put back a whole copy of that file, or {BEGIN_ANEW}"
        raise ValueError(f"{error}; the run in {run_dir} cannot go on: {advice}") from error


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
