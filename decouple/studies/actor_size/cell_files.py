"""Results of a study's cells as text files, for a repository: with these alone a search goes on, on any machine.

    save_cells(store, "docs/results/honey/cells")       # a file for each task, algorithm and settings
    load_cells(store, "docs/results/honey/cells")       # on another machine: the returns are in its store now

A file has the settings of its cells and, one cell a line, every measure of every seed, with the version and the commit
that trained it. The runs' folders, with curves and checkpoints, are not needed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from decouple.checks import A_FILE, ANY_NUMBER, at_least, check_fields, check_setting, checked
from decouple.runs.files import read_json, replace_file
from decouple.runs.locks import turn
from decouple.studies.actor_size.results import MEASURES, SizeCell, read_studies, seed_column, size_order
from decouple.studies.actor_size.store import Cell, CellStore

__all__ = ["KeptCell", "load_cells", "read_cell_file", "save_cells"]

# Largest `train/episode_return` of a seed's training, as `training_maxima` has it. A file of an earlier version may
# hold one of a seed that failed, which counts for nothing.
MAXIMUM = "maximum"


@dataclass(frozen=True)
class KeptCell:
    """A cell with the results of its seeds, as a file has it."""

    cell: Cell
    measures: Mapping[str, Mapping[int, float]]  # `MEASURES` and `maximum` -> seed -> value; a failed seed returns -inf
    parameters: int | None = None  # of the trained actor
    multiply_adds: int | None = None  # of the actor, for one observation
    seconds: float = 0.0  # of training, by the clock, of all seeds
    version: str | None = None  # of decouple; None: 0.1
    commit: str | None = None  # of the code that trained it

    def __post_init__(self) -> None:
        check_fields(self, measures=ANY_NUMBER, seconds=at_least(0), parameters=at_least(1), multiply_adds=at_least(1))
        known = set(self.measures) <= {*MEASURES, MAXIMUM} and "return" in self.measures
        check_setting("measures", self.measures, lambda _: known, f"with return, and else {MEASURES[1:]} or {MAXIMUM}")


@checked(folder=A_FILE)
def save_cells(store: CellStore, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every cell of the store that has results to its file in `folder`; returns the files.

    What a file has already, of other cells, other seeds, or runs whose folders are gone, stays in it. Cells that were
    trained under an old rule are left out. Searches with stores of their own may save to one folder: each file is
    read and written by one process at a time.

    Raises:
        ValueError: a file that is damaged; it names the file.
    """
    files = []
    for study in read_studies(store):
        path = Path(folder) / f"{study.task.replace('/', '_')}_{study.algorithm}_{study.key}.json"
        of_study = [
            Cell(study.task, study.algorithm, study.settings, found.actor, found.critic) for found in study.cells
        ]
        new = [_kept(store, cell, found) for cell, found in zip(of_study, study.cells, strict=True)]
        head = {"task": study.task, "algorithm": study.algorithm, "settings": json.loads(study.settings)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with turn(path.with_name(".lock")):
            _add(new, path, head)
        files.append(path)
    return files


def _add(new: Sequence[KeptCell], path: Path, head: Mapping[str, Any]) -> None:
    """Write cells to a file, beside those that it has; `head` is its beginning."""
    cells = {(kept.cell.actor, kept.cell.critic): kept for kept in (read_cell_file(path) if path.exists() else [])}
    for kept in new:
        pair = kept.cell.actor, kept.cell.critic
        cells[pair] = _merged(cells[pair], kept) if pair in cells else kept
    lines = [json.dumps(_as_json(cells[pair])) for pair in sorted(cells, key=_pair_order)]
    text = json.dumps(head, sort_keys=True)[:-1] + ', "cells": [\n' + ",\n".join(lines) + "\n]}\n"
    replace_file(path, text.encode())


@checked(path=A_FILE)
def read_cell_file(path: str | os.PathLike[str]) -> list[KeptCell]:
    """The cells of one file.

    Raises:
        ValueError: a file that is damaged; it names the file.
        FileNotFoundError: there is none.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is not there")
    record = read_json(Path(path))
    try:
        settings = json.dumps(record["settings"], sort_keys=True)
        return [_from_json(record["task"], record["algorithm"], settings, row) for row in record["cells"]]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} must be a file of save_cells; got {error!r}") from error


@checked(folder=A_FILE)
def load_cells(store: CellStore, folder: str | os.PathLike[str]) -> list[KeptCell]:
    """Add the returns of every file in `folder` that the store lacks to it; returns all cells of the files.

    Raises:
        ValueError: a file that is damaged; it names the file.
    """
    cells = [kept for path in sorted(Path(folder).glob("*.json")) for kept in read_cell_file(path)]
    for kept in cells:
        returns = kept.measures["return"]
        if set(returns) - store.returns(kept.cell).keys():
            store.add(kept.cell, returns, seconds=kept.seconds, version=kept.version)
    return cells


def _kept(store: CellStore, cell: Cell, found: SizeCell) -> KeptCell:
    measures = {name: dict(found.measures[name]) for name in MEASURES if found.measures[name]}
    maxima = {}
    for seeds, metrics in found.runs:
        for seed in [seed for seed in seeds if seed not in found.failed]:
            values = [v for v in metrics.get(seed_column("train/episode_return", seed, seeds), []) if math.isfinite(v)]
            maxima |= {seed: max(values)} if values else {}
    measures |= {MAXIMUM: maxima} if maxima else {}
    batches = [batch for batch in store.batches(cell) if batch.state == "done"]
    commits = [_commit(folder) for folder in found.folders]
    return KeptCell(
        cell,
        measures,
        found.parameters,
        found.multiply_adds,
        round(sum(batch.seconds for batch in batches), 1),
        batches[-1].version if batches else None,
        commits[-1] if commits else None,
    )


def _commit(folder: Path) -> str | None:
    """The commit of the code that trained a run, from its record; None where it says none."""
    sessions = read_json(folder / "record.json").get("sessions") or [{}]
    return (sessions[-1].get("git") or {}).get("commit")


def _merged(old: KeptCell, new: KeptCell) -> KeptCell:
    names = {*old.measures, *new.measures}
    measures = {name: {**old.measures.get(name, {}), **new.measures.get(name, {})} for name in names}
    facts = {name: getattr(new, name) or getattr(old, name) for name in ("parameters", "multiply_adds", "commit")}
    return replace(new, measures=measures, seconds=max(old.seconds, new.seconds), **facts)


def _as_json(kept: KeptCell) -> dict[str, Any]:
    row = asdict(kept)
    del row["cell"], row["measures"]
    ordered = [name for name in (*MEASURES, MAXIMUM) if name in kept.measures]
    measures = {
        name: {
            str(seed): value if math.isfinite(value) else None for seed, value in sorted(kept.measures[name].items())
        }
        for name in ordered
    }
    return {"actor": list(kept.cell.actor), "critic": list(kept.cell.critic), **row, "measures": measures}


def _from_json(task: str, algorithm: str, settings: str, row: Mapping[str, Any]) -> KeptCell:
    facts = {name: row[name] for name in ("parameters", "multiply_adds", "seconds", "version", "commit")}
    measures = {
        name: {int(seed): -math.inf if value is None else float(value) for seed, value in of_seeds.items()}
        for name, of_seeds in row["measures"].items()
    }
    cell = Cell(task, algorithm, settings, tuple(row["actor"]), tuple(row["critic"]))
    return KeptCell(cell, measures, **facts)


def _pair_order(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[int, int]:
    return size_order(pair[0]), size_order(pair[1])
