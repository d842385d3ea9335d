"""Table I from the stored cells in docs/results/honey/cells, at our baseline's threshold and at the paper's.

A file of cells is one of `search.results` of experiments/smallest_actor.py. The search is run again here on the stored
returns, which trains nothing: where it asks for a pair that is not stored, the cell of the table is unfinished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decouple.studies.actor_size.cell_files import KeptCell, read_cell_file
from decouple.studies.actor_size.search import (
    SIZES,
    SmallestActor,
    Trial,
    lower_bound,
    return_text,
    search_steps,
    size_name,
    t_interval,
)
from decouple.studies.actor_size.study import AT_ITS_BEST, read_paper, reduction_percent

HERE = Path(__file__).parent / "honey"
SEEDS = range(6)
PAPER = {pair: row for pair, row in read_paper().items() if row["threshold"] is not None}
BUDGETS = {  # steps of each agent: docs/studies/protocol.md
    **{("pendulum", "sac"): 60_000, ("pendulum", "td3"): 100_000, ("pendulum", "ddpg"): 200_000},
    **{("pendulum", "ppo"): 2_000_000, ("acrobot", "ppo"): 1_000_000, ("acrobot", "sac"): 100_000},
    **{("pixelcopter", "ppo"): 1_000_000, ("pixelcopter", "sac"): 160_000},
    **{("pong", "ppo"): 8_000_000, ("pong", "sac"): 1_000_000},
    **{("foodcollector", "ppo"): 2_000_000, ("foodcollector", "sac"): 2_000_000},
    **{(task, algorithm): 1_000_000 for task, algorithm in PAPER if task in ("reacher", "halfcheetah", "ant")},
}

Size = tuple[int, ...]
Pair = tuple[Size, Size]


class MissingPairError(Exception):
    """A pair of sizes, or a measure of it, that is not stored."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(f"actor {size_name(pair[0])} beside critic {size_name(pair[1])}")
        self.pair = pair


@dataclass(frozen=True)
class Outcome:
    """A search on stored cells: its result, or the pair that it lacks."""

    found: SmallestActor | None
    missing: MissingPairError | None


@dataclass(frozen=True)
class TableCell:
    """A task and an algorithm with all its stored pairs, trained for the protocol's number of steps."""

    task: str
    algorithm: str
    kept: Mapping[Pair, KeptCell]
    ours: Outcome  # at our baseline's mean
    papers: Outcome  # at Table I's threshold

    @property
    def name(self) -> str:
        return f"{self.task}, {self.algorithm.upper()}"

    @property
    def threshold(self) -> float:
        return PAPER[self.task, self.algorithm]["threshold"]

    @property
    def bound(self) -> float:
        return lower_bound(self.threshold)

    @property
    def reached(self) -> bool | None:
        """Whether our baseline reaches the paper's threshold within 10 %; None where it is not stored."""
        try:
            return self.accepts(self.baseline)[0]
        except MissingPairError:
            return None

    @property
    def baseline(self) -> Pair:
        size = PAPER[self.task, self.algorithm]["baseline_size"]
        return size, size

    def returns(self, pair: Pair, seeds: Sequence[int] = SEEDS) -> list[float]:
        """Returns of a pair's seeds; of Table I's footnote d, the largest in training."""
        return self.measured(pair, "maximum" if (self.task, self.algorithm) in AT_ITS_BEST else "return", seeds)

    def accepts(self, pair: Pair, seeds: Sequence[int] = SEEDS) -> tuple[bool, bool]:
        """Whether a pair's mean reaches the paper's bound, and whether its interval supports that."""
        values = self.returns(pair, seeds)
        low, high = t_interval(values)
        return sum(values) / len(values) >= self.bound, self.bound <= low or self.bound > high

    def measured(self, pair: Pair, measure: str, seeds: Sequence[int] = SEEDS) -> list[float]:
        """A measure of a pair's seeds."""
        measures = self.kept[pair].measures if pair in self.kept else {}
        values = measures.get(measure, {})
        if measure == "maximum":  # a failed seed has none
            values = {s: -math.inf for s, of in measures.get("return", {}).items() if not math.isfinite(of)} | values
        if not set(seeds) <= set(values):
            raise MissingPairError(pair)
        return [values[seed] for seed in seeds]

    def mean(self, pair: Pair, measure: str) -> float:
        return sum(self.measured(pair, measure)) / len(SEEDS)

    def parameters(self, actor: Size) -> int | None:
        return next((cell.parameters for pair, cell in self.kept.items() if pair[0] == actor), None)


Cells = Mapping[tuple[str, str], TableCell]


def read_table(
    folder: Path = HERE / "cells", budgets: Mapping[tuple[str, str], int] = BUDGETS
) -> dict[tuple[str, str], TableCell]:
    """The table's cells that have a stored pair, in the order of the paper's rows.

    Args:
        folder: where the files of cells lie.
        budgets: task and algorithm -> steps of each agent; files of other lengths are passed over.

    Raises:
        ValueError: a damaged file; or two files of one cell, which differ in a setting; it names the file.
    """
    found: dict[tuple[str, str], dict[Pair, KeptCell]] = {}
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*.json")):
        stored = read_cell_file(path)
        key = (stored[0].cell.task, stored[0].cell.algorithm) if stored else None
        if key not in budgets or not as_published(path, budgets[key]):
            continue
        if key in files:
            raise ValueError(f"{path} must not hold {key} with the protocol's budget: {files[key]} does")
        files[key], found[key] = path, {(kept.cell.actor, kept.cell.critic): kept for kept in stored}
    return {key: _cell(*key, found[key]) for key in PAPER if key in found}


def finished(cells: Cells) -> dict[tuple[str, str], TableCell]:
    """The cells that have an actor at the paper's threshold, with a baseline that reaches it."""
    return {key: c for key, c in cells.items() if c.reached and c.papers.found and c.papers.found.asymmetric}


def as_published(path: Path, budget: int) -> bool:
    """Whether a file's cells have the protocol's budget, and no setting that another claim varies."""
    settings = json.loads(path.read_text())["settings"]
    if "total_frames" not in settings:
        raise ValueError(f"{path} must have total_frames among its settings; got {sorted(settings)}")
    return settings["total_frames"] == budget and not varied(settings)


def varied(settings: Mapping[str, Any]) -> bool:
    """Whether a cell's settings have one that a claim other than Table I's varies."""
    return settings.get("target_aggregation", "min") != "min" or bool(settings.get("held_out_every"))


def _cell(task: str, algorithm: str, kept: Mapping[Pair, KeptCell]) -> TableCell:
    none = Outcome(None, None)
    bare = TableCell(task, algorithm, kept, none, none)
    outcomes = [_search(bare, threshold) for threshold in (None, bare.threshold)]
    return TableCell(task, algorithm, kept, *outcomes)


def _search(cell: TableCell, threshold: float | None) -> Outcome:
    steps = search_steps(baseline=cell.baseline[0], threshold=threshold)
    step = next(steps)
    while True:
        try:
            returns = {pair: cell.returns(pair) for pair in step.pairs}
            if threshold is None and not all(map(math.isfinite, returns.get(cell.baseline, ()))):
                raise ValueError(f"{cell.name}: the baseline's returns must be finite, for they are the threshold")
            step = steps.send(returns)
        except StopIteration as end:
            return Outcome(end.value, None)
        except MissingPairError as missing:
            return Outcome(None, missing)


def smaller(size: Size, by: int = 1) -> Size | None:
    """The size that is `by` steps smaller; None where there is none."""
    index = SIZES.index(size) - by
    return SIZES[index] if index >= 0 else None


def larger(size: Size) -> list[Size]:
    """The sizes above this one, from the smallest on."""
    return list(SIZES[SIZES.index(size) + 1 :])


def reduction(cell: TableCell, outcome: Outcome) -> float | None:
    """Percent of the smallest pair's actor parameters that the smallest actor saves."""
    found = outcome.found
    if found is None or found.symmetric is None or found.asymmetric is None:
        return None
    counts = [cell.parameters(trial.actor) for trial in (found.asymmetric, found.symmetric)]
    return None if None in counts else reduction_percent(*counts)  # type: ignore[arg-type]


def trial_text(trial: Trial) -> str:
    """Mean and interval of a trial, with a ? where the seeds do not support its verdict."""
    return f"{mean_text(trial.mean, trial.low, trial.high)}{'' if trial.decided else ' ?'}"


def mean_text(mean: float, low: float, high: float) -> str:
    """A mean and its interval."""
    return f"{return_text(mean)} [{return_text(low)}, {return_text(high)}]"


def baseline_text(cell: TableCell) -> str:
    """Our baseline's mean and interval; where nothing is searched, from its returns alone, if it is stored."""
    searched = cell.ours.found or cell.papers.found
    if searched:
        return trial_text(searched.baseline)
    try:
        values = cell.returns(cell.baseline)
    except MissingPairError:
        return ""
    return mean_text(sum(values) / len(values), *t_interval(values))


def decisions(found: SmallestActor) -> tuple[list[Pair], list[Pair]]:
    """The pairs whose verdicts make a pair the smallest, and those that make an actor the smallest beside its critic:
    what was accepted, and the next smaller one, rejected, where there is one.
    """
    assert found.symmetric is not None and found.asymmetric is not None
    pair, actor = found.symmetric.actor, found.asymmetric.actor
    both = [(size, size) for size in (pair, smaller(pair)) if size]
    return both, [(size, pair) for size in (actor, smaller(actor)) if size]


def decided(found: SmallestActor) -> bool:
    """Whether the seeds support all verdicts that make a search's outcome what it is."""
    of_pair = {(trial.actor, trial.critic): trial.decided for trial in (*found.symmetric_trials, *found.actor_trials)}
    return all(of_pair[pair] for pairs in decisions(found) for pair in pairs)


def sizes_text(cell: TableCell, outcome: Outcome) -> str:
    """What a search found, in a few words."""
    found = outcome.found
    if found is None:
        return "not searched" if cell.reached is False else f"unfinished: lacks {outcome.missing}"
    if found.symmetric is None or found.asymmetric is None:
        return "no size reaches it"
    pair, actor = size_name(found.symmetric.actor), size_name(found.asymmetric.actor)
    less = reduction(cell, outcome)
    saved = "" if less is None else f", {less:.0f} % fewer"
    mark = "" if decided(found) else " ?"
    return f"{actor} beside {pair}{saved}{mark}"


def table_lines(cells: Cells) -> list[str]:
    """Table I as Markdown: a row for each of the 23 cells."""
    heads = ("cell", "steps", "our baseline", "at our mean", "at the paper's threshold", "the paper's", "state")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, row in PAPER.items():
        cell = cells.get(key)
        paper = f"{size_name(row['actor_size'])} beside {size_name(row['critic_size'])}, "
        paper += f"{row['reduction_percent']:.0f} % fewer"
        name = f"{key[0]}, {key[1].upper()}"
        if cell is None:
            lines.append(f"| {name} | {BUDGETS[key]:,} |  |  | {return_text(row['threshold'])} | {paper} | not run |")
            continue
        threshold = f"{return_text(row['threshold'])}: {sizes_text(cell, cell.papers)}"
        lines.append(
            f"| {name} | {BUDGETS[key]:,} | {baseline_text(cell)} | {sizes_text(cell, cell.ours)} | {threshold} "
            f"| {paper} | {state(cell)} |"
        )
    return lines


def state(cell: TableCell) -> str:
    """filled, unfinished, or baseline not reached: such a cell needs no search, for it enters no mean."""
    if cell.reached is False:
        return "baseline not reached"
    return "unfinished" if cell.ours.found is None or cell.papers.found is None else "filled"
