"""Honey's figures 4 and 5 from our own runs: `python docs/results/studies.py` draws them.

Figure 4 shows the searched cells of Table I at the paper's thresholds. Figure 5 is drawn of every searched cell whose
trainings are all in `honey/training.csv`, and of the case that the paper has, SAC on Reacher, from shorter trainings of
some pairs. That file is written by

    python docs/results/studies_figures.py FOLDER      # where experiments/smallest_actor.py has its cells.sqlite
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies_cells import BUDGETS, HERE, SEEDS, Cells, Pair, Size, TableCell, read_table, varied
from studies_verdicts import rows_of

from decouple.runs.curves import save_figure
from decouple.runs.files import csv_lines, replace_file
from decouple.studies.actor_size.figures import training_figure
from decouple.studies.actor_size.results import MEASURES, SizeCell, SizeStudy, read_studies, seed_column, size_order
from decouple.studies.actor_size.search import SIZES
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.study import (
    csv_cell,
    csv_size,
    read_paper,
    read_paper_parameters,
    search_record,
    table_rows,
)
from decouple.studies.actor_size.table_one_figures import relative_figure
from decouple.version import VERSION

TRAINING = HERE / "training.csv"
PICTURES = HERE / "figures"
# The paper's case of figure 5, whose search would take days: pairs on a tenth of the cell's steps.
PAPERS_CASE = "reacher", "sac"
SHORTER = {PAPERS_CASE: 100_000}
CRITIC = (128, 128)  # beside which the paper's figure has its actors
PAIRS = [(CRITIC, CRITIC), *((size, critic) for size in SIZES[1 : SIZES.index(CRITIC)] for critic in (size, CRITIC))]
LENGTHS = BUDGETS | SHORTER
POINTS = 40  # of each curve: means of as many parts of the training
CURVES = {"value_loss": "loss/critic", "return": "train/episode_return"}  # column -> metric of a run
KEYS = ("task", "algorithm", "total_frames", "actor", "critic", "seed")
Runs = Mapping[Pair, Mapping[int, Mapping[str, Sequence[float]]]]  # pair -> seed -> metric -> values
Wanted = Mapping[tuple[str, str], Collection[Pair]]  # task and algorithm -> pairs


def thinned(values: Sequence[float]) -> str:
    """A series as means of `POINTS` consecutive parts, of those values that are finite."""
    parts = np.array_split(np.array(values, dtype=float), min(POINTS, len(values)))
    means = [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts]
    return " ".join(f"{mean:.7g}" if abs(mean) >= 1000 else f"{mean:.4g}" for mean in means)


def shown(cell: TableCell) -> set[Pair]:
    """The pairs of a cell that figure 5 has: those of one size, and actors beside the critic that the search kept. Of
    a cell without a search all.
    """
    locked = locked_critic(cell)
    return {(actor, critic) for actor, critic in cell.kept if locked is None or critic in (actor, locked)}


def locked_critic(cell: TableCell) -> Size | None:
    """The critic that the search at the paper's threshold kept; None where it is not done or found no pair."""
    found = cell.papers.found
    return None if found is None or found.symmetric is None else found.symmetric.critic


def trainings(store: CellStore, wanted: Wanted) -> list[dict[str, str]]:
    """A row of each agent, seeds 0 to 5, of the wanted pairs that the store has with the protocol's settings."""
    rows = []
    for study in read_studies(store):
        settings = json.loads(study.settings)
        key = study.task, study.algorithm
        if settings["total_frames"] != LENGTHS.get(key) or varied(settings):
            continue
        for cell in study.cells:
            for seeds, metrics in cell.runs if (cell.actor, cell.critic) in wanted.get(key, ()) else ():
                for seed in sorted(set(seeds) & set(SEEDS)):
                    series = {name: metrics.get(seed_column(of, seed, seeds), []) for name, of in CURVES.items()}
                    named = (*key, settings["total_frames"], cell.actor, cell.critic, seed)
                    row = {name: csv_cell(value) for name, value in zip(KEYS, named, strict=True)}
                    series = {"frames": metrics["frames"], **series}
                    rows.append(row | {name: thinned(values) for name, values in series.items() if len(values)})
    return rows


def write_trainings(folder: Path, wanted: Wanted, path: Path = TRAINING) -> None:
    """Add the trainings of a study's folder to the file; those that it has of other agents stay."""
    if not (folder / "cells.sqlite").exists():
        raise FileNotFoundError(f"{folder / 'cells.sqlite'} is not there: no search has run in {folder}")
    rows = [*rows_of(path), *trainings(CellStore(folder / "cells.sqlite"), wanted)]
    found = {tuple(row[key] for key in KEYS): row for row in rows}
    names = (*KEYS, "frames", *CURVES)
    lines = [names, *([row.get(name, "") for name in names] for _, row in sorted(found.items()))]
    replace_file(path, csv_lines(lines))


def read_trainings(path: Path = TRAINING) -> dict[tuple[str, str], Runs]:
    """Task and algorithm -> the stored trainings of its agents, by pair and seed, with the metrics' own names."""
    found: dict[tuple[str, str], Any] = defaultdict(lambda: defaultdict(dict))
    for row in rows_of(path):
        series = {"frames": row["frames"], **{metric: row[name] for name, metric in CURVES.items() if row[name]}}
        metrics = {name: list(map(float, text.split())) for name, text in series.items()}
        pair = csv_size(row["actor"]), csv_size(row["critic"])
        found[row["task"], row["algorithm"]][pair][int(row["seed"])] = metrics
    return found


def study_of(cell: TableCell, runs: Runs) -> SizeStudy:
    """A cell of the table as a study that figures are drawn of, with the trainings that are stored."""
    found, locked, search = cell.papers.found, locked_critic(cell), None
    none: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
    cells = [
        SizeCell(
            *pair,
            kept.parameters,
            kept.multiply_adds,
            none | {name: dict(of) for name, of in kept.measures.items() if name in MEASURES},
            tuple(((seed,), metrics) for seed, metrics in runs.get(pair, {}).items()),
            (),
        )
        for pair, kept in cell.kept.items()
    ]
    cells.sort(key=lambda one: (size_order(one.actor), size_order(one.critic)))
    if found is not None and locked is not None:
        search = {"sizes": SIZES, "symmetric": {"critic": locked}}
        search |= {"threshold": found.threshold, "bound": found.bound}
    return SizeStudy(cell.task, cell.algorithm, "", tuple(cells), (), search)


def of_figure_5(cells: Cells) -> list[TableCell]:
    """The cells that figure 5 is drawn of: those that have been searched, and the paper's case."""
    return [*searched(cells), *read_table(budgets=SHORTER).values()]


def lacking() -> list[Pair]:
    """The pairs of the paper's case that are not stored with all seeds."""
    cell = read_table(budgets=SHORTER).get(PAPERS_CASE)
    stored = {} if cell is None else cell.kept
    return [pair for pair in PAIRS if pair not in stored or not set(SEEDS) <= set(stored[pair].measures["return"])]


def searched(cells: Cells) -> list[TableCell]:
    """The cells whose search at the paper's threshold is done and found a pair."""
    return [cell for cell in cells.values() if locked_critic(cell) is not None]


def search_of(cell: TableCell) -> dict[str, Any]:
    """The search at the paper's threshold, as a store has it."""
    found = cell.papers.found
    assert found is not None
    trials = [trial for trial in (found.baseline, found.symmetric, found.asymmetric) if trial is not None]
    counts = {trial.actor: cell.parameters(trial.actor) for trial in trials}
    missing = [size for size, count in counts.items() if count is None]
    if missing:
        raise ValueError(f"{cell.name}: the stored cells do not say how many parameters the actors {missing} have")
    record = search_record(found, {size: count for size, count in counts.items() if count is not None})
    search = {"state": "done", "task": cell.task, "algorithm": cell.algorithm, "version": VERSION, "settings": {}}
    return search | {"result": record, "options": {"seeds": len(SEEDS)}}


def pictures(cells: Cells, folder: Path = PICTURES) -> list[Path]:
    """Draw figure 4, and figure 5 of each of its cells whose trainings are stored; returns the files."""
    found, runs = searched(cells), read_trainings()
    if not found:
        return []
    folder.mkdir(exist_ok=True)
    rows = table_rows([search_of(cell) for cell in found], read_paper())
    save_figure(relative_figure(rows, read_paper_parameters()), folder / "figure_4.png", 110)
    drawn = [folder / "figure_4.png"]
    for cell in of_figure_5(cells):
        own = runs.get((cell.task, cell.algorithm), {})
        if shown(cell) <= set(own):
            drawn.append(folder / f"figure_5_{cell.task}_{cell.algorithm}.png")
            save_figure(training_figure(study_of(cell, own)), drawn[-1], 90)
    return drawn


if __name__ == "__main__":
    drawn = of_figure_5(read_table())
    write_trainings(Path(sys.argv[1]), {(cell.task, cell.algorithm): shown(cell) for cell in drawn})
