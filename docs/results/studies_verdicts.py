"""What a verdict on a claim of docs/studies/protocol.md is, and how the files in docs/results are read for it."""

from __future__ import annotations

import math
from pathlib import Path

from decouple.runs.files import csv_rows
from decouple.runs.metrics import column_numbers

ROOT = Path(__file__).parent
CONFIRMED, REFUTED, OPEN, NOT_RUN = "confirmed", "refuted", "not decided", "not run"
Verdict = tuple[str, str]  # one of the four, and its number in words


def rows_of(path: Path, *numbers: str) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file.

    Raises:
        ValueError: a row that is cut off, or a cell of the columns `numbers` that is no number; it names file and line.
    """
    rows = csv_rows(path, *numbers) if path.exists() else []
    for line, row in enumerate(rows, start=2):
        if None in row.values() or None in row:
            raise ValueError(f"{path}, line {line}: must have a cell for each of the columns; got {row}")
    for column in numbers:
        column_numbers(path, column, [row[column] for row in rows])
    return rows


def first_of(outcomes: list[tuple[bool, str]], text: str) -> Verdict:
    """The first verdict whose condition holds; not decided where none does."""
    return next((verdict for holds, verdict in outcomes if holds), OPEN), text


def few(what: str, has: int, needs: int) -> Verdict:
    return NOT_RUN, f"{has} of at least {needs} {what}"


def sign_test(a: int, b: int) -> float:
    """Two-sided probability of counts as uneven as these, where either is as likely."""
    n, most = a + b, max(a, b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n) if n else 1.0
