"""Results of the actor-size study's cells: from the store, and from the folders of their runs.

    for study in read_studies(CellStore("runs/smallest_actor/cells.sqlite")):
        for cell in study.cells:
            print(cell.actor, cell.critic, cell.mean("return"), cell.mean("value_bias"))

A study is a task and an algorithm with all its settings; its cells are the pairs of sizes that any search trained. The
value loss is `loss/critic` of metrics.csv, and that of a whole run the mean over its last tenth; Mysore et al., *Honey,
I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893), figure 5, draw a "Q-Value Loss during training" and
say no more of it. Bias and overfit are the diagnostics of Mastikhina et al. 2025 (https://arxiv.org/abs/2506.01016).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from decouple.checks import ANY_NUMBER, SEED, all_of, at_least, check_setting, checked, distinct, one_of
from decouple.runs.files import csv_lines, markdown_lines, read_json
from decouple.runs.metrics import read_metrics, read_result
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.settings import settings_key
from decouple.studies.actor_size.store import Batch, Cell, CellStore
from decouple.studies.actor_size.study import csv_cell, old_rules, spread_text
from decouple.studies.actor_size.trials import return_text, size_name, t_interval
from decouple.version import VERSION

__all__ = [
    "SizeCell",
    "SizeStudy",
    "cells_csv",
    "cells_markdown",
    "last_tenth",
    "read_studies",
    "seed_column",
    "size_order",
    "training_maxima",
]

Size = tuple[int, ...]

# Measures of a seed: final return; `loss/critic` on training and on held-out transitions, means over the last tenth of
# training; overfit, their ratio, held-out over training; and those of `decouple.off_policy.value_bias`.
MEASURES = (
    *("return", "value_loss", "value_loss_held_out", "overfit"),
    *("value_predicted", "value_monte_carlo", "value_bias"),
)
COLUMNS = (
    *("actor", "critic", "seeds", "parameters", "multiply_adds"),
    *("return", "return_std", "return_low", "return_high", *MEASURES[1:]),
)


@dataclass(frozen=True)
class SizeCell:
    """A pair of actor and critic sizes, with the results of its seeds' runs."""

    actor: Size
    critic: Size
    parameters: int | None  # the trained actor's parameters; None where no run's record is left
    multiply_adds: int | None  # the actor's, for one observation
    measures: Mapping[str, Mapping[int, float]]  # name in `MEASURES` -> seed -> value, for seeds that have one
    runs: tuple[tuple[tuple[int, ...], Mapping[str, Sequence[float]]], ...]  # seeds of each run, and its metrics.csv
    folders: tuple[Path, ...]  # folders of the runs that have a checkpoint
    damaged: tuple[str, ...] = ()  # errors of runs that could not be read: the file, and its fault

    @property
    def name(self) -> str:
        """The sizes as text: `|16,16|` where both are the same, else `a |4,4|, c |16,16|`."""
        return _pair_name(self.actor, self.critic)

    @checked(measure=one_of(*MEASURES))
    def values(self, measure: str) -> list[float]:
        """Values of a measure, in the order of seeds; empty where none was measured."""
        return list(self.measures[measure].values())

    @checked(measure=one_of(*MEASURES))
    def mean(self, measure: str) -> float | None:
        """Mean of a measure over the seeds that have it; None where none has."""
        values = self.values(measure)
        return statistics.fmean(values) if values else None

    @property
    def mean_return(self) -> float:
        """Mean return over seeds; -inf where an agent failed, which rejects the size."""
        return statistics.fmean(self.measures["return"].values())

    @property
    def failed(self) -> list[int]:
        """The seeds that failed: they have no return, which the store holds as -inf."""
        return [seed for seed, value in self.measures["return"].items() if not math.isfinite(value)]

    @checked()
    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of metrics.csv over training: frames of each agent (T,), and values (S, T), NaN where a row has
        none; S is 0 where no run has the metric."""
        series = [(m["frames"], m.get(seed_column(metric, seed, seeds))) for seeds, m in self.runs for seed in seeds]
        present = [(np.array(frames), np.array(values)) for frames, values in series if values is not None]
        frames = np.unique(np.concatenate([np.empty(0), *(own for own, _ in present)]))
        values = np.full((len(present), len(frames)), np.nan)
        for row, (own, each) in zip(values, present, strict=True):
            row[np.searchsorted(frames, own)] = each
        return frames, values


@dataclass(frozen=True)
class SizeStudy:
    """A task and an algorithm with all its settings, and every cell of it that has results."""

    task: str
    algorithm: str
    settings: str  # JSON, as `Cell` has it
    cells: tuple[SizeCell, ...]  # by the size of the actor, then of the critic
    in_training: tuple[tuple[Size, Size], ...]  # actor and critic of cells that have no results yet
    search: Mapping[str, Any] | None  # the result of the newest search that found something, as the store has it

    @property
    def key(self) -> str:
        """Hash of the settings: eight hexadecimal digits, the name of the folder that the cells' runs are in."""
        return settings_key(self.settings)

    @property
    def sizes(self) -> list[Size]:
        """Sizes that were searched or trained, from the smallest to the largest."""
        searched = [] if self.search is None else [tuple(size) for size in self.search["sizes"]]
        return sorted({*searched, *(size for cell in self.cells for size in (cell.actor, cell.critic))}, key=size_order)

    @property
    def symmetric(self) -> list[SizeCell]:
        """Cells whose actor and critic have one size."""
        return [cell for cell in self.cells if cell.actor == cell.critic]

    @property
    def locked_critic(self) -> Size | None:
        """The critic's size that the search kept. Without a finished search, the one beside which most actors were
        trained, at least two; None where there is none."""
        if self.search is not None and self.search["symmetric"] is not None:
            return tuple(self.search["symmetric"]["critic"])
        counts = {cell.critic: len(self.beside(cell.critic)) for cell in self.cells}
        return max((critic for critic, count in counts.items() if count > 1), key=lambda c: counts[c], default=None)

    @checked(critic=all_of(at_least(1)))
    def beside(self, critic: Size | None) -> list[SizeCell]:
        """The cells with this critic; none for None, the critic of a study that keeps no critic."""
        size = None if critic is None else tuple(critic)
        return [cell for cell in self.cells if cell.critic == size]

    def missing(self) -> list[str]:
        """Sentences on what is missing in the pictures and in the table."""
        notes = [] if self.search else ["No search of it is done yet: there is no threshold."]
        if self.in_training:
            names = (_pair_name(actor, critic) for actor, critic in self.in_training)
            notes.append(f"In training, interrupted or stopped early: {', '.join(names)}.")
        stages = [("pairs of one size", self.symmetric)]
        if self.locked_critic is not None:
            stages.append(
                (f"actors beside the critic {size_name(self.locked_critic)}", self.beside(self.locked_critic))
            )
        for stage, cells in stages:
            untrained = [size_name(size) for size in self.sizes if size not in {cell.actor for cell in cells}]
            notes += [f"Not trained, of the {stage}: {', '.join(untrained)}."] if untrained else []
        for cell in self.cells:
            if cell.failed:
                seeds = ", ".join(map(str, cell.failed))
                notes.append(
                    f"Failed, so that the size has no mean return and is rejected: {cell.name}, {len(cell.failed)} of "
                    f"{len(cell.values('return'))} seeds ({seeds}). Other means are over the others."
                )
            notes += [f"Damaged, and left out but for the returns in the store: {text}." for text in cell.damaged]
        notes += self._without("No record of a run", [cell for cell in self.cells if cell.parameters is None])
        wanted = {"value_loss": "No value loss"}
        if not CONTROL_ALGORITHMS[self.algorithm].on_policy:
            wanted |= {
                "overfit": "No held-out loss (held_out_every was not set)",
                "value_bias": "No bias of the critics",
            }
        else:
            name = self.algorithm.upper()
            notes.append(f"{name} is on policy: no action values to have a bias, no replay to hold transitions out of.")
        for measure, text in wanted.items():
            notes += self._without(text, [cell for cell in self.cells if not cell.values(measure)])
            counts = [(cell, len(cell.values(measure)), len(cell.measures["return"])) for cell in self.cells]
            fewer = [f"{cell.name} {n} of {of}" for cell, n, of in counts if 0 < n < of - len(cell.failed)]
            what = text.removeprefix("No ").partition(" (")[0]
            notes += [f"Of fewer seeds than the return, {what}: {', '.join(fewer)}."] if fewer else []
        return notes

    def _without(self, text: str, cells: Sequence[SizeCell]) -> list[str]:
        names = "all cells" if len(cells) == len(self.cells) else ", ".join(cell.name for cell in cells)
        return [f"{text}: {names}."] if cells else []


@checked()
def read_studies(store: CellStore) -> list[SizeStudy]:
    """Every study of the store that has a cell with results, in the order in which they were begun.

    Cells that were trained under an old rule are left out. Returns come from the store. Other measures are missing in a
    cell where a run's folder lacks them (it was moved, or an older version wrote it) or is damaged, which the cell
    names.
    """
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for search in sorted(store.searches(), key=lambda search: search["updated"]):
        if search["state"] == "done":
            key = search["task"], search["algorithm"], json.dumps(search["settings"], sort_keys=True)
            if search["result"]["symmetric"] is not None or key not in found:
                found[key] = search["result"]
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in store.cells():
        here = VERSION in {batch.version for batch in store.batches(cell)}
        if old_rules(cell.task, cell.algorithm, json.loads(cell.settings), VERSION if here else None):
            continue
        cells.setdefault((cell.task, cell.algorithm, cell.settings), []).append(cell)
    studies = []
    for key, of_study in cells.items():
        returns = {cell: store.returns(cell) for cell in of_study}
        done = [_size_cell(cell, returns[cell], store.batches(cell)) for cell in of_study if returns[cell]]
        done.sort(key=lambda cell: (size_order(cell.actor), size_order(cell.critic)))
        waiting = tuple((cell.actor, cell.critic) for cell in of_study if not returns[cell])
        if done:
            studies.append(SizeStudy(*key, tuple(done), waiting, found.get(key)))
    return studies


@checked(size=all_of(at_least(1)))
def size_order(size: Sequence[int]) -> int:
    """Sort key of sizes: the number of weights of hidden layers between one input and one output."""
    return sum(a * b for a, b in pairwise((1, *size, 1)))


@checked(seeds=distinct(SEED))
def training_maxima(
    store: CellStore, cell: Cell, seeds: Sequence[int], known: Mapping[int, float] | None = None
) -> dict[int, float]:
    """The largest return that each seed reached in training, as Table I has it for SAC on Food Collector (footnote d).

    The maximum is over rows of `train/episode_return` in the metrics.csv of the seed's run. Each row is a mean over the
    episodes that ended since the row before, so the maximum depends on `log_every`.

    Args:
        store: store with the cell's results; the folders of its runs must be there.
        cell: cell of the seeds.
        seeds: seeds to read, all with results in the store.
        known: seed -> its maximum, for seeds whose runs are not here (`decouple.studies.actor_size.cell_files`).

    Returns:
        Seed -> return; -inf for a seed that failed, whatever it reached before, and whatever is `known`.

    Raises:
        ValueError: a seed without a result, or a run whose table is damaged or has no such column.
        FileNotFoundError: a run's table is gone.
    """
    final, known = store.returns(cell), known or {}
    found = {seed: -math.inf for seed in seeds if not math.isfinite(final.get(seed, 0))}
    found |= {seed: value for seed, value in known.items() if seed in seeds and seed not in found}
    for batch in store.batches(cell):
        own = [seed for seed in batch.seeds if seed in seeds and seed in final and seed not in found]
        metrics = read_metrics(batch.run_dir) if batch.state == "done" and own else {}
        for seed in own if metrics else ():
            column = seed_column("train/episode_return", seed, tuple(batch.seeds))
            values = [value for value in metrics.get(column, []) if math.isfinite(value)]
            if not values:
                raise ValueError(f"{Path(batch.run_dir) / 'metrics.csv'} must have returns in {column}; got none")
            found[seed] = max(values)
    missing = [seed for seed in seeds if seed not in found]
    check_setting("seeds", missing, lambda none: not none, "seeds of finished runs in the store")
    return {seed: found[seed] for seed in seeds}


@checked(values=ANY_NUMBER)
def last_tenth(frames: Sequence[float], values: Sequence[float]) -> float | None:
    """The mean of the finite values logged in the last tenth of training; None where there are none."""
    check_setting("values", values, lambda v: len(v) == len(frames), f"as many as frames, {len(frames)}")
    if not len(frames):
        return None
    late = [value for at, value in zip(frames, values, strict=True) if at > 0.9 * frames[-1] and math.isfinite(value)]
    return statistics.fmean(late) if late else None


@checked()
def cells_csv(studies: Sequence[SizeStudy]) -> bytes:
    """Every cell of every study as a CSV file: `COLUMNS` after task, algorithm and settings; means over seeds."""
    lines = [["task", "algorithm", "settings", *COLUMNS]]
    for study in studies:
        lines += [[study.task, study.algorithm, study.key, *map(csv_cell, _row(cell).values())] for cell in study.cells]
    return csv_lines(lines)


@checked()
def cells_markdown(study: SizeStudy) -> str:
    """The cells of one study as a table in Markdown; a dash where something was not measured."""
    heads = (
        "actor",
        "critic",
        "parameters",
        "multiply-adds",
        "seeds",
        "return",
        "value loss",
        "held out",
        "held out / trained on",
    )
    heads += ("predicted", "Monte-Carlo", "bias")
    texts = [heads]
    for cell in study.cells:
        row = _row(cell)
        names = [size_name(size) for size in (cell.actor, cell.critic)]
        counts = ["–" if row[name] is None else f"{row[name]:,}" for name in ("parameters", "multiply_adds", "seeds")]
        measured = ["–" if row[name] is None else f"{row[name]:.3g}" for name in MEASURES[1:]]
        texts.append((*names, *counts, return_text(row["return"]) + spread_text(row["return_std"]), *measured))
    return markdown_lines(texts)


def _size_cell(cell: Cell, returns: Mapping[int, float], batches: Sequence[Batch]) -> SizeCell:
    counts: dict[str, int | None] = {"parameters": None, "multiply_adds": None}
    measures: dict[str, dict[int, float]] = {name: {} for name in MEASURES} | {"return": dict(returns)}
    runs, folders, damaged = [], [], []
    for batch in batches:
        folder = Path(batch.run_dir)
        seeds = [seed for seed in batch.seeds if math.isfinite(returns.get(seed, math.nan))]
        if batch.state != "done" or not folder.exists():
            continue
        try:
            found = _counts(folder / "record.json")
            result = read_result(folder / "result.json")
            metrics = read_metrics(folder) if (folder / "metrics.csv").exists() else {"frames": []}
        except (ValueError, OSError) as error:
            damaged.append(str(error))
            continue
        counts |= found
        folders += [folder] if (folder / "checkpoint.pt").exists() else []
        runs.append((tuple(batch.seeds), metrics))
        for seed in seeds:
            for name, value in _measured(seed, tuple(batch.seeds), result, metrics).items():
                measures[name] |= {} if value is None else {seed: value}
    found = {"measures": measures, "runs": tuple(runs), "folders": tuple(folders), "damaged": tuple(damaged)}
    return SizeCell(cell.actor, cell.critic, **counts, **found)


def _measured(
    seed: int, seeds: Sequence[int], result: Mapping[str, float], metrics: Mapping[str, Sequence[float]]
) -> dict[str, float | None]:
    """`MEASURES` of one seed, except its return."""
    found: dict[str, float | None] = {
        name: result.get(seed_column(f"final/{name}", seed, seeds))
        for name in ("value_predicted", "value_monte_carlo", "value_bias")
    }
    for name, metric in (("value_loss", "loss/critic"), ("value_loss_held_out", "loss/critic_held_out")):
        values = metrics.get(seed_column(metric, seed, seeds))
        found[name] = None if values is None else last_tenth(metrics["frames"], values)
    loss, held_out = found["value_loss"], found["value_loss_held_out"]
    found["overfit"] = held_out / loss if loss and held_out is not None else None
    return found


def _pair_name(actor: Size, critic: Size) -> str:
    return size_name(actor) if actor == critic else f"a {size_name(actor)}, c {size_name(critic)}"


@checked()
def seed_column(metric: str, seed: int, seeds: Sequence[int]) -> str:
    """The column of one seed's metric in a run of these seeds; see `seed_metrics`."""
    return f"{metric}/seed{seed}" if len(seeds) > 1 else metric


def _counts(path: Path) -> dict[str, int | None]:
    """The actor's parameters and multiply-adds, of trunk and policy, as `train_agents` recorded them in record.json;
    empty where there is none."""
    record = read_json(path)
    if not path.exists():
        return {}
    try:
        facts = record["sessions"][-1]["facts"]
        parts = {name: json.loads(facts[name]) for name in ("parameters", "multiply_adds")}
        return {name: int(of["trunk"] + of["policy"]) for name, of in parts.items()}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold the model's parameters and multiply_adds; got {error!r}") from error


def _row(cell: SizeCell) -> dict[str, Any]:
    """The values of `COLUMNS` for one cell."""
    returns = cell.values("return")
    low, high = t_interval(returns)
    finite = len(returns) > 1 and all(map(math.isfinite, returns))
    row = {name: getattr(cell, name) for name in ("actor", "critic", "parameters", "multiply_adds")}
    row |= {name: cell.mean(name) for name in MEASURES} | {"seeds": len(returns)}
    row |= {"return_std": statistics.stdev(returns) if finite else None, "return_low": low, "return_high": high}
    return {name: row[name] for name in COLUMNS}
