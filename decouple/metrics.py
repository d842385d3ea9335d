"""A run's metrics as a table: `metrics.csv`, one row per `append`, which any tool reads.

    read_metrics("runs/one")["train/episode_return"]

Rows are on the disk when `append` returns, and numbers come back exactly. A process killed in mid-line leaves a table
that reads as if the line had not been begun.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["MetricsTable", "csv_lines", "markdown_lines", "read_json", "read_metrics", "read_table", "replace_file"]


def read_metrics(run_dir: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The table of a run, finished or not.

    Returns:
        Column -> its values, one per row: "frames" first, then each metric in the order in which it first came; nan
        where a row has none. A last line that a killed process left half-written is left out.

    Raises:
        FileNotFoundError: no metrics.csv in `run_dir`.
        ValueError: a table that is damaged before its last line.
    """
    columns, rows = read_table(Path(run_dir) / "metrics.csv")
    return {name: [float(row[index] or "nan") for row in rows] for index, name in enumerate(columns)}


class MetricsTable:
    """metrics.csv, open for one more row; numbers as `repr` gives them, so that they come back exactly."""

    def __init__(self, path: Path, resume_frames: int | None) -> None:
        self.path = path
        columns, rows = read_table(path) if path.exists() else (["frames"], [])
        rows = [row for row in rows if resume_frames and int(row[0]) <= resume_frames]
        # A column that only dropped rows had will come again, where an unbroken run has it.
        kept = [0, *(index for index in range(1, len(columns)) if any(row[index] for row in rows))]
        self.columns = [columns[index] for index in kept]
        self._rewrite([[row[index] for index in kept] for row in rows])

    def append(self, frames: int, row: Mapping[str, float]) -> None:
        """Write one row in one piece and put it on the disk: a checkpoint is never ahead of its table."""
        new = [name for name in row if name not in self.columns]
        if new:
            _, rows = read_table(self.path)
            self.columns += new
            self._file.close()
            self._rewrite([old + [""] * len(new) for old in rows])
        cells = [repr(row[name]) if name in row else "" for name in self.columns[1:]]
        self._file.write(csv_lines([[str(frames), *cells]]))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewrite(self, rows: Sequence[Sequence[str]]) -> None:
        """Replace the file as a whole, and open it at its end."""
        replace_file(self.path, csv_lines([self.columns, *rows]))
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by close()


def csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    """Rows as the lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def markdown_lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heads of the columns, as a table in Markdown; a `|` in a cell stands as it is.

    >>> print(markdown_lines([["size", "return"], ["|4,4|", "-150"]]))
    | size | return |
    |---|---|
    | \\|4,4\\| | -150 |
    """
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run's folder holds, as result.json or record.json; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of cells; what stands behind the last newline was never finished."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines = list(csv.reader(io.StringIO(whole.decode())))
    if not lines or lines[0][:1] != ["frames"]:
        raise ValueError(f"{path} must begin with a line of column names, 'frames' first; got {lines[:1]}")
    columns, *rows = lines
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ValueError(f"{path}, line {number}: must have {len(columns)} cells; got {len(row)}")
    return columns, rows


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content such that a kill leaves the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
