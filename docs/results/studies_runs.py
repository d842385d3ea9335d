"""Runs read for the pages of docs/studies: which commits trained them, and rows written for docs/results."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def commits(run_dir: Path) -> str:
    """The commits of a run's sessions, in their order, nine digits each."""
    sessions = json.loads((run_dir / "record.json").read_text())["sessions"]
    return " ".join(dict.fromkeys((each["git"] or {"commit": "unknown"})["commit"][:9] for each in sessions))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file, whose columns are those of the first one."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
