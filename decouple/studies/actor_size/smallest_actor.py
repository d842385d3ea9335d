"""The smallest actor that still does the job on a task, with an algorithm: a search over sizes, six seeds each.

    counts = actor_parameters(settings, options.sizes)  # TD3Control(env="pendulum", ...), SearchSettings()
    found = run_search(settings, options, counts)
    print(search_text(settings, counts, found))

Baseline, smallest symmetric pair, smallest actor beside that critic: decouple/studies/actor_size/search.py. Each size
is trained as by `experiments/control.py`, all its seeds as one batch, and its results go to `cells.sqlite` in
`run_dir`, which any number of searches may share. Started again, after a kill or with more seeds or sizes, it
trains what is missing. As a command: experiments/smallest_actor.py. After Mysore et al., *Honey, I Shrunk The Actor*
(CoG 2021, https://arxiv.org/abs/2102.11893), section IV and Table I.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from decouple.checks import Must, all_of, at_least, check_fields, check_setting, checked, inside
from decouple.networks.counting import parameter_count
from decouple.runs.files import replace_file
from decouple.runs.progress import StepProgress
from decouple.studies.actor_size.algorithms import make_model
from decouple.studies.actor_size.build import make_small_env
from decouple.studies.actor_size.cell_files import MAXIMUM, load_cells, save_cells
from decouple.studies.actor_size.engines import CellError, WorkerSettings
from decouple.studies.actor_size.results import training_maxima
from decouple.studies.actor_size.search import SIZES, SmallestActor, rounded_threshold, search_steps
from decouple.studies.actor_size.settings import LEARNED, ControlSettings
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.study import (
    AT_ITS_BEST,
    csv_table,
    markdown_table,
    old_searches,
    read_paper,
    reduction_percent,
    search_record,
    table_rows,
)
from decouple.studies.actor_size.trials import Step, Trial, return_text, size_name, t_interval
from decouple.studies.actor_size.workers import Stopping, cell_of, frames_done, train_cells

__all__ = [
    "SearchProgress",
    "SearchSettings",
    "actor_parameters",
    "check_order",
    "is_trained",
    "run_search",
    "search_goes_on",
    "search_text",
    "train_pairs",
    "untrained_model",
    "write_table",
]

Size = tuple[int, ...]

EXPORTS = ("auto", "onnx", "c", "page", "none")
POSITIVE = all_of(at_least(1))
POWER = Must(lambda power: 0.5 <= power < 1, "in [0.5, 1)")
SEVERAL_SIZES = Must(
    lambda sizes: len(sizes) and all(map(POSITIVE.allowed, sizes)), "lists of sizes, each at least 1, and not empty"
)


@dataclass
class SearchSettings(WorkerSettings):
    """Settings of the search: its target, its sizes, and its workers.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    threshold: Any = "baseline"  # return to reach: a number, baseline, rounded or paper (docs/smallest_actor.md)
    tolerance: float = 0.1  # share of the threshold by which a mean return may lie below it (the paper's)
    sizes: list[list[int]] = field(
        default_factory=lambda: [list(size) for size in SIZES]
    )  # hidden layers to try; smallest first
    confidence: float = 0.95  # confidence level of the intervals
    power: float = 0.8  # probability that as many seeds as the notes ask for would tell
    exhaustive: bool = False  # evaluate every size in both stages instead of bisecting
    # Return that is compared: final, after training; maximum, the largest reached in training; auto: as in Table I,
    # whose footnote d has the maximum for SAC on Food Collector alone
    measure: str = "auto"
    # Share of the learning after which a size's seeds are stopped where they are not expected to reach the bound any
    # more (docs/smallest_actor.md says by which rule, and how often it is wrong); None: all are trained to their end
    stop_after: float | None = None
    # File of the smallest actor at the search's end: onnx, c, page, none; auto: onnx where the extra is installed
    export: str = "auto"
    # Folder of text files with the results of cells: read before the search, which then goes on from them without the
    # folders of their runs, and written after each size; None: only the store has them
    results: str | None = None
    # Pairs [actor, critic] that are trained in place of a search, into the same store; empty: the search
    pairs: list[Any] = field(default_factory=list)
    train: bool = True  # false: only write the table, of searches that are done

    def __post_init__(self) -> None:
        shares = {"tolerance": at_least(0), "confidence": inside(0, 1), "power": POWER}
        check_fields(self, "search.", sizes=SEVERAL_SIZES, **shares)

        def known(value: Any) -> bool:  # our baseline's mean, that rounded down to one digit, or Table I's
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return (number and math.isfinite(value)) or value in ("baseline", "rounded", "paper")

        check_setting("search.threshold", self.threshold, known, "a finite number, baseline, rounded or paper")
        check_setting(
            "search.measure", self.measure, ("auto", "final", "maximum").__contains__, "auto, final or maximum"
        )
        stops = self.stop_after is None or 0.5 <= self.stop_after < 1
        check_setting("search.stop_after", self.stop_after, lambda _: stops, "None, or in [0.5, 1)")
        check_setting("search.pairs", self.pairs, _are_pairs, "pairs [actor, critic] of hidden layers, each at least 1")
        folder = self.results is None or not Path(self.results).exists() or Path(self.results).is_dir()
        check_setting("search.results", self.results, lambda _: folder, "None or a folder, which may be made")
        self.check_workers("search.")
        check_setting("search.export", self.export, EXPORTS.__contains__, "auto, onnx, c, page or none")

    def told(self) -> dict[str, Any]:
        """The settings that decide the outcome."""
        told = {name: getattr(self, name) for name in ("threshold", "tolerance", "sizes", "confidence", "exhaustive")}
        return told | ({"stop_after": self.stop_after} if self.stop_after is not None else {})  # 0.1 stopped nothing

    def measured(self, settings: ControlSettings) -> str:
        """The return that is compared: final or maximum."""
        at_its_best = (settings.env, settings.algorithm) in AT_ITS_BEST
        return ("maximum" if at_its_best else "final") if self.measure == "auto" else self.measure

    def threshold_of(self, task: str, algorithm: str) -> Any:
        """The threshold as `search_steps` takes it: a number, a function of the baseline's mean, None for that mean.

        Raises:
            ValueError: `paper` on a task and an algorithm that Table I has no threshold for.
        """
        if self.threshold != "paper":
            return {"baseline": None, "rounded": rounded_threshold}.get(self.threshold, self.threshold)
        threshold = read_paper().get((task, algorithm), {}).get("threshold")
        allowed = f"a number, baseline or rounded for {task}, {algorithm}, which Table I has no threshold for"
        check_setting("search.threshold", self.threshold, lambda _: threshold is not None, allowed)
        return threshold

    def stopping(self, step: Step) -> Stopping | None:
        """The rule by which seeds of this step are stopped; None for the baseline, and where no seed has reached the
        bound."""
        if self.stop_after is None or step.bound is None or step.best is None or step.best < step.bound:
            return None
        return Stopping(step.bound, step.best, self.stop_after)

    def steps(self, settings: ControlSettings) -> Any:
        """The search as a generator, from `search_steps`."""
        _check_separation(settings)
        threshold = self.threshold_of(settings.env, settings.algorithm)
        sizes = settings.actor, settings.critic
        check_setting("actor and critic", sizes, lambda v: v[0] == v[1], "of one size, the baseline's")
        rules = {name: getattr(self, name) for name in ("tolerance", "sizes", "confidence", "exhaustive", "power")}
        return search_steps(threshold=threshold, baseline=settings.actor, **rules)


class SearchProgress:
    """Progress of a study's cells on stderr: those done, and an estimate of the time left.

    Args:
        settings: settings of a cell, or the study's name.
        parallel: number of cells trained at once.
        name_of: function that gives a cell's name, of its settings; None: its sizes.
    """

    def __init__(
        self, settings: ControlSettings | str, parallel: int, name_of: Callable[[Any], str] | None = None
    ) -> None:
        self.name = settings if isinstance(settings, str) else _name(settings)
        self.parallel, self.name_of = parallel, name_of or _sizes
        self.lines = StepProgress()
        self.done: list[float] = []  # seconds of each cell

    def begin(self, cells: int, more: int = 0) -> None:
        """Begin a step, in which `cells` cells are to be trained, and at most `more` after it."""
        self.cells, self.more = cells, more
        self.first: dict[str, tuple[float, int]] = {}  # batch -> time and frames when it was first seen

    def watch(self, config: Any) -> None:
        """Show what is being trained."""
        now, frames = time.monotonic(), min(frames_done(config.run_dir), config.learning.total_frames)
        since, before = self.first.setdefault(config.run_dir, (now, frames))
        others = max(0, self.cells - len(self.first)) + self.more
        left = "?"
        if frames > before:
            rest = (config.learning.total_frames - frames) * (now - since) / (frames - before)
            typical = sum(self.done) / len(self.done) if self.done else now - since + rest
            left = _clock(rest + others * typical / self.parallel)
        cell = len(self.done) + len(self.first)
        of = f"{cell} of at most {cell + others}, {self.name_of(config)}"
        text = f"{self.name}, cell {of}; about {left} left; frames"
        self.lines(text, frames, config.learning.total_frames)

    def close(self) -> None:
        self.lines.close()


def run_search(settings: ControlSettings, options: SearchSettings, parameters: dict[Size, int]) -> SmallestActor:
    """Run the search, training the seeds that the store lacks, and record it there; started again, it goes on."""
    steps, measure = options.steps(settings), options.measured(settings)
    may_stop = options.stop_after is None or measure == "final"  # the rule is of evaluations
    check_setting("search.stop_after", options.stop_after, lambda _: may_stop, f"None with search.measure={measure}")
    step = next(steps)
    store = CellStore(Path(settings.run_dir) / "cells.sqlite", lease=options.lease)
    told = options.told() | {"baseline": settings.actor, "seed": settings.seed, "seeds": settings.seeds}
    told |= {"measure": measure} if measure != "final" else {}  # 0.1 knew no other
    key = settings.env, settings.algorithm, cell_of(settings).settings, told
    kept = load_cells(store, options.results) if options.results else []
    maximum_of = {of.cell: of.measures[MAXIMUM] for of in kept if MAXIMUM in of.measures}
    progress = SearchProgress(settings, options.parallel)
    watch = progress.watch if settings.show_progress else lambda config: None
    try:
        with options.start() as train, contextlib.closing(progress):
            while True:
                configs = [_pair(settings, *pair) for pair in step.pairs]
                progress.begin(sum(not is_trained(store, config) for config in configs), step.more)
                stopping = options.stopping(step)
                returns = train_cells(configs, store, train, parallel=options.parallel, watch=watch, stopping=stopping)
                if measure == "maximum":
                    cells = [(cell_of(config), config.all_seeds) for config in configs]
                    maxima = [training_maxima(store, *cell, maximum_of.get(cell[0])) for cell in cells]
                    returns = [list(of_cell.values()) for of_cell in maxima]
                if options.results:
                    save_cells(store, options.results)
                progress.done += [_seconds(store, config) for config in configs]
                try:
                    step = steps.send(dict(zip(step.pairs, returns, strict=True)))
                except StopIteration as end:
                    found = end.value
                    break
    except CellError as error:
        store.record_search(*key, "failed", {"error": str(error)})
        raise
    store.record_search(*key, "done", search_record(found, parameters, sum(progress.done), measure))
    return found


def train_pairs(settings: ControlSettings, options: SearchSettings) -> str:
    """Train the seeds of `search.pairs` that the store lacks; returns a line for each pair, with its mean return."""
    _check_separation(settings)
    store = CellStore(Path(settings.run_dir) / "cells.sqlite", lease=options.lease)
    if options.results:
        load_cells(store, options.results)
    configs = [_pair(settings, *pair) for pair in options.pairs]
    progress = SearchProgress(settings, options.parallel)
    watch = progress.watch if settings.show_progress else lambda config: None
    with options.start() as train, contextlib.closing(progress):
        progress.begin(sum(not is_trained(store, config) for config in configs))
        returns = train_cells(configs, store, train, parallel=options.parallel, watch=watch)
    if options.results:
        save_cells(store, options.results)
    lines = [f"{_name(settings)}: {settings.seeds} seeds from {settings.seed} on"]
    for config, values in zip(configs, returns, strict=True):
        low, high = t_interval(values, options.confidence)
        mean = return_text(sum(values) / len(values))
        interval = f"[{return_text(low)}, {return_text(high)}]"
        lines.append(f"actor {size_name(config.actor):11} critic {size_name(config.critic):11} {mean} {interval}")
    return "\n".join(lines)


def actor_parameters(settings: ControlSettings, sizes: Sequence[Sequence[int]]) -> dict[Size, int]:
    """Size -> parameters of its actor, for each size and the baseline's, counted on the model that is trained.

    Raises:
        ValueError: the sizes do not go from the smallest to the largest, or a model cannot be made.
    """
    _check_separation(settings)
    counts = {}
    with contextlib.closing(make_small_env(settings)) as env:
        for size in (*sizes, settings.actor):
            parts = parameter_count(make_model(_pair(settings, size, size), env))
            counts[tuple(size)] = parts["trunk"] + parts["policy"]
    check_order(sizes, counts)
    return counts


def untrained_model(settings: ControlSettings) -> Any:
    """A model of the settings' own sizes, as training begins with it."""
    with contextlib.closing(make_small_env(settings)) as env:
        return make_model(_pair(settings, settings.actor, settings.critic), env)


def check_order(sizes: Sequence[Sequence[int]], counts: Mapping[Size, int]) -> None:
    """ValueError unless the sizes go from the smallest to the largest, by their parameters."""
    for small, large in pairwise(sizes):
        if counts[tuple(small)] >= counts[tuple(large)]:
            raise ValueError(f"search.sizes must go from the smallest to the largest; got {small} before {large}")


def search_text(
    settings: ControlSettings, counts: dict[Size, int], found: SmallestActor, measure: str = "final"
) -> str:
    """The trials of the search and its result, as lines to read."""
    bound = "the largest returns in training; " if measure == "maximum" else ""
    bound += f"threshold {return_text(found.threshold)}, accepted from {return_text(found.bound)} on"
    lines = [f"{_name(settings)}: {bound}; {settings.seeds} seeds", _line("baseline", found.baseline, counts)]
    lines += [_line("symmetric", trial, counts) for trial in found.symmetric_trials]
    lines += [_line("actor", trial, counts) for trial in found.actor_trials]
    if found.symmetric is not None and found.asymmetric is not None:
        best, symmetric, baseline = (counts[t.actor] for t in (found.asymmetric, found.symmetric, found.baseline))
        names = f"{size_name(found.asymmetric.actor)} beside a critic {size_name(found.asymmetric.critic)}"
        fewer = f"{reduction_percent(best, symmetric):.2f} % fewer than the symmetric actor's {symmetric:,}"
        than_baseline = f"{reduction_percent(best, baseline):.2f} % than the baseline's {baseline:,}"
        lines.append(f"the smallest actor: {names}; {best:,} parameters, {fewer}, {than_baseline}")
    return "\n".join([*lines, *found.notes])


def write_table(run_dir: str) -> str:
    """Write Table I of all searches, beside the paper's, to `table.md` and `table.csv`; returns its text."""
    store = Path(run_dir) / "cells.sqlite"
    if not store.exists():
        raise FileNotFoundError(f"{store} is not there: no search has run in {run_dir}")
    searches = CellStore(store).searches()
    rows = table_rows(searches, read_paper())
    text = "\n".join([markdown_table(rows), *(f"\n{note}" for note in old_searches(searches))])
    replace_file(Path(run_dir) / "table.md", text.encode() + b"\n")
    replace_file(Path(run_dir) / "table.csv", csv_table(rows))
    return text


def search_goes_on(run_dir: str) -> str:
    """How far an interrupted search has come, and what the same command does when it is started again."""
    path = Path(run_dir) / "cells.sqlite"
    store = CellStore(path) if path.exists() else None
    done = sum(bool(store.returns(cell)) for cell in store.cells()) if store else 0
    return f"{done} cells have results in {path}: the same command goes on from the last checkpoints of the others"


def _check_separation(settings: ControlSettings) -> None:
    """ValueError for a separation that gates choose: they mix layers of equal sizes, and the search varies these."""
    says = "a number or full in a search, whose actors are smaller than their critics"
    check_setting("separation", settings.separation, lambda at: at != LEARNED, says)


def _are_pairs(pairs: Any) -> bool:
    """Whether these are pairs of lists of sizes."""

    def sizes(one: Any) -> bool:
        return isinstance(one, list | tuple) and all(isinstance(n, int) and n >= 1 for n in one)

    return all(isinstance(pair, list | tuple) and len(pair) == 2 and all(map(sizes, pair)) for pair in pairs)


def _line(stage: str, trial: Trial, counts: dict[Size, int]) -> str:
    verdict = ("accepted" if trial.accepted else "rejected") + ("" if trial.decided else "?")
    verdict += "" if trial.stopped is None else f", stopped after {trial.stopped:,} frames"
    sizes = f"actor {size_name(trial.actor):11} ({counts[trial.actor]:>7,})  critic {size_name(trial.critic):11}"
    interval = f"[{return_text(trial.low)}, {return_text(trial.high)}]"
    return f"{stage:10}{sizes}{return_text(trial.mean):>10} +- {trial.std:<8.2g}{interval:18} {verdict}"


def _pair(settings: ControlSettings, actor: Sequence[int], critic: Sequence[int]) -> ControlSettings:
    return dataclasses.replace(settings, actor=list(actor), critic=list(critic))


@checked()
def is_trained(store: CellStore, config: ControlSettings) -> bool:
    """Whether the store has a return of every seed."""
    return set(config.all_seeds) <= store.returns(cell_of(config)).keys()


def _seconds(store: CellStore, config: ControlSettings) -> float:
    return sum(batch.seconds for batch in store.batches(cell_of(config)))


def _sizes(config: ControlSettings) -> str:
    return f"a {size_name(config.actor)}, c {size_name(config.critic)}"


def _name(settings: ControlSettings) -> str:
    return f"{settings.env}, {settings.algorithm}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
