"""What a verdict on a claim of docs/studies/protocol.md is, and how the files in docs/results are read for it."""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).parent
CONFIRMED, REFUTED, OPEN, NOT_RUN = "confirmed", "refuted", "not decided", "not run"
Verdict = tuple[str, str]  # one of the four, and its number in words


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def first_of(outcomes: list[tuple[bool, str]], text: str) -> Verdict:
    """The first verdict whose condition holds; not decided where none does."""
    return next((verdict for holds, verdict in outcomes if holds), OPEN), text


def few(what: str, has: int, needs: int) -> Verdict:
    return NOT_RUN, f"{has} of at least {needs} {what}"
