"""The smallest student: a search over sizes for the smallest actor that can be distilled from a teacher.

    lesson = read_lesson(distillation(checkpoint="runs/control/pendulum/td3/...", sizes="search"))
    counts = student_parameters(lesson, options.sizes)  # SearchSettings()
    found = run_student_search(lesson, options, counts)
    print(student_search_text(lesson, counts, found))

The threshold is the teacher's mean return over the episodes that the students are compared by, unless it is given. A
size is accepted by the bound of the search for a trained actor (`lower_bound`), over its seeds, with the same
intervals. There is no critic, and so one bisection where that search has two. Results go to `students.sqlite` in
`run_dir`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decouple.checks import ANY_NUMBER, all_of, at_least, check_setting, checked
from decouple.networks.counting import parameter_count
from decouple.runs.files import json_bytes, replace_file
from decouple.studies.actor_size.engines import outcome
from decouple.studies.actor_size.search import SIZES
from decouple.studies.actor_size.settings import sizes_name
from decouple.studies.actor_size.smallest_actor import SearchProgress, SearchSettings, check_order
from decouple.studies.actor_size.store import Cell, CellStore
from decouple.studies.actor_size.trials import (
    Pair,
    Returns,
    Rules,
    Size,
    Step,
    Trial,
    check_rules,
    lower_bound,
    make_trial,
    mean_return,
    open_notes,
    return_text,
    size_name,
    stage_notes,
    stage_steps,
)
from decouple.studies.actor_size.workers import train_cells
from decouple.studies.distillation.settings import DistillationSettings
from decouple.studies.distillation.training import Lesson, distill, done_students, read_lesson, teacher_returns

__all__ = [
    "SmallestStudent",
    "run_student_search",
    "smallest_student",
    "student_cell",
    "student_parameters",
    "student_search_goes_on",
    "student_search_text",
    "student_steps",
    "student_store",
    "untrained_student",
]

# Settings of the search for a trained actor that do nothing in one for a student -> what they must be.
NOT_OF_STUDENTS = {"train": "true", "pairs": "left out", "results": "None"}


@dataclass(frozen=True)
class SmallestStudent:
    """The result of a search. Trials are in the order of the sizes."""

    threshold: float
    bound: float  # least mean return that is accepted: `lower_bound` of the threshold
    confidence: float
    exhaustive: bool
    sizes: tuple[Size, ...]
    teacher: Trial  # the teacher over each student's episodes
    trials: tuple[Trial, ...]
    smallest: Trial | None  # None: no size is accepted
    power: float = 0.8  # probability that `seeds_needed` seeds of a trial would tell

    @property
    def notes(self) -> list[str]:
        """Sentences on the result's limits: sizes not tried, returns not monotone, decisions left open."""
        notes = []
        if not self.teacher.accepted:
            notes.append(f"The teacher does not reach {return_text(self.bound)} itself.")
        if self.smallest is None:
            notes.append(f"No size that was tried reaches {return_text(self.bound)}: there is no result.")
        notes += stage_notes("students", self.smallest, self.trials, self.sizes)
        return notes + open_notes(self.trials, Rules(self.bound, self.confidence, self.power))


def student_steps(
    teacher: Sequence[float],
    of_size: Sequence[int],
    *,
    sizes: Sequence[Sequence[int]] = SIZES,
    threshold: float | Callable[[float], float] | None = None,
    tolerance: float = 0.1,
    confidence: float = 0.95,
    exhaustive: bool = False,
    power: float = 0.8,
) -> Generator[Step, Mapping[Pair, Returns], SmallestStudent]:
    """The search as a generator: it yields a `Step`, and is sent each pair's returns. A student's pair is its size,
    twice.

    Args:
        teacher: the teacher's mean return over each student's episodes.
        of_size: the teacher's hidden layers.
        sizes, threshold, tolerance, confidence, exhaustive, power: as for `search_steps`; the baseline is the teacher.

    Raises:
        ValueError: an argument that is not as above.
    """
    ordered = check_rules(sizes, tolerance, confidence, power)
    mean = mean_return(teacher)
    target = mean if threshold is None else threshold(mean) if callable(threshold) else float(threshold)
    check_setting("threshold", target, math.isfinite, "finite, and so the teacher's returns if it is set by them")
    rules = Rules(lower_bound(target, tolerance), confidence, power)
    trials: dict[Pair, Trial] = {}
    pairs = [(size, size) for size in ordered]
    smallest = yield from stage_steps("student", pairs, trials, rules, exhaustive=exhaustive)
    pair = tuple(of_size), tuple(of_size)
    return SmallestStudent(
        threshold=target,
        bound=rules.bound,
        confidence=confidence,
        exhaustive=exhaustive,
        sizes=ordered,
        teacher=make_trial(pair, teacher, *rules),
        trials=tuple(trials[pair] for pair in pairs if pair in trials),
        smallest=smallest,
        power=power,
    )


@checked(teacher=all_of(ANY_NUMBER, least=1), of_size=all_of(at_least(1)))
def smallest_student(
    evaluate: Callable[[Size], Returns], teacher: Sequence[float], of_size: Sequence[int], **options: Any
) -> SmallestStudent:
    """Search with a function that evaluates one size at a time; no size is evaluated twice.

    Args:
        evaluate: function of hidden layers; it gives the returns of such students, one per seed.
        teacher, of_size, options: arguments of `student_steps`.
    """
    steps = student_steps(teacher, of_size, **options)
    try:
        step = next(steps)
        while True:
            step = steps.send({pair: evaluate(pair[0]) for pair in step.pairs})
    except StopIteration as end:
        return end.value


@checked()
def student_parameters(lesson: Lesson, sizes: Sequence[Sequence[int]]) -> dict[Size, int]:
    """Size -> parameters of its actor, and of the teacher's size, counted on the model that is trained.

    Raises:
        ValueError: the sizes do not go from the smallest to the largest, or a model cannot be made.
    """
    counts = {}
    for size in (*sizes, lesson.teacher.facts["actor"]):
        parts = parameter_count(untrained_student(lesson, size))
        counts[tuple(size)] = parts["trunk"] + parts["policy"]
    check_order(sizes, counts)
    return counts


def untrained_student(lesson: Lesson, size: Sequence[int]) -> Any:
    """A model of this size, as its distillation begins with it."""
    (model,) = lesson.task.students([lesson.settings.seed], lesson.sized(list(size)).student_settings)
    return model


@checked()
def student_cell(lesson: Lesson) -> Cell:
    """The cell of these students: all that can change a student's final return, except its seed."""
    own = {name: value for name, value in lesson.identity.items() if name not in ("actor", "seed", "seeds")}
    own |= {"total_frames": lesson.settings.learning.total_frames, "final_episodes": lesson.settings.final_episodes}
    facts = lesson.teacher.facts
    return Cell(facts["task"], f"distilled_{facts['algorithm']}", json.dumps(own, sort_keys=True), _size(lesson), ())


def _size(lesson: Lesson) -> Size:
    return tuple(lesson.settings.actor or ())


@checked()
def student_store(lesson: Lesson, lease: float = 300.0) -> CellStore:
    """The store of a search's results, made where it is missing."""
    return CellStore(Path(lesson.settings.run_dir) / "students.sqlite", lease=lease)


def run_student_search(lesson: Lesson, options: SearchSettings, parameters: Mapping[Size, int]) -> SmallestStudent:
    """Run the search, distilling the students that the store lacks; started again, it goes on.

    The result is written to `search.json` in `run_dir` too.

    Raises:
        ValueError: a setting of the search that students have no use for, before anything is trained.
        CellError: a size could not be trained.
    """
    check_setting("search.measure", options.measure, lambda measure: measure != "maximum", "auto or final for students")
    for name, says in NOT_OF_STUDENTS.items():
        default = getattr(SearchSettings(), name)
        check_setting(f"search.{name}", getattr(options, name), lambda v, d=default: v == d, f"{says} for students")
    facts = lesson.teacher.facts
    rules = {name: getattr(options, name) for name in ("tolerance", "sizes", "confidence", "exhaustive", "power")}
    threshold = options.threshold_of(facts["task"], facts["algorithm"])
    steps = student_steps(teacher_returns(lesson), facts["actor"], threshold=threshold, **rules)
    store, settings = student_store(lesson, options.lease), lesson.settings
    name = f"{facts['task']}, students of {facts['algorithm']}"
    progress = SearchProgress(name, options.parallel, lambda config: size_name(config.actor))
    how: dict[str, Any] = {"parallel": options.parallel, "folder": lambda config: _folder(lesson.sized(config.actor))}
    how |= {"cell": lambda config: student_cell(lesson.sized(config.actor))}
    how |= {"watch": progress.watch} if settings.show_progress else {}
    with options.start(trained_students) as train, contextlib.closing(progress):
        try:
            step = next(steps)
            while True:
                configs = [lesson.sized(list(size)).settings for size, _ in step.pairs]
                cells = [student_cell(lesson.sized(config.actor)) for config in configs]
                done = [set(settings.all_seeds) <= store.returns(cell).keys() for cell in cells]
                progress.begin(done.count(False), step.more)
                returns = train_cells(configs, store, train, stopping=options.stopping(step), **how)
                progress.done += [sum(batch.seconds for batch in store.batches(cell)) for cell in cells]
                step = steps.send(dict(zip(step.pairs, returns, strict=True)))
        except StopIteration as end:
            found = end.value
    _record(lesson, found, parameters, sum(progress.done))
    return found


def trained_students(config: DistillationSettings) -> dict[str, Any]:
    """Distil a batch of a search's students; returns its final evaluation."""
    lesson = read_lesson(config)
    return outcome(config.run_dir, lambda: done_students(lesson) or distill(lesson))


def _folder(lesson: Lesson) -> str:
    """Folder of students' runs, relative to the store's: readable, and different for other settings."""
    cell = student_cell(lesson)
    settings = hashlib.sha256(cell.settings.encode()).hexdigest()[:8]
    return f"{cell.task.replace('/', '_')}/{cell.algorithm}/{settings}/{sizes_name(cell.actor)}"


def _record(lesson: Lesson, found: SmallestStudent, parameters: Mapping[Size, int], seconds: float) -> None:
    facts = {name: lesson.teacher.facts[name] for name in ("task", "algorithm", "actor", "seed", "frames")}
    counts = [{"actor": list(size), "parameters": count} for size, count in parameters.items()]
    record = dataclasses.asdict(found) | {"notes": found.notes, "parameters": counts, "seconds": seconds}
    record |= {"of": facts, "seeds": lesson.settings.seeds, "frames": lesson.settings.learning.total_frames}
    replace_file(Path(lesson.settings.run_dir) / "search.json", json_bytes(record))


def student_search_text(lesson: Lesson, counts: Mapping[Size, int], found: SmallestStudent) -> str:
    """The trials of the search and its result, as lines to read."""
    facts = lesson.teacher.facts
    head = f"{facts['task']}, students of {facts['algorithm']}, seed {facts['seed']}"
    bound = f"threshold {return_text(found.threshold)}, accepted from {return_text(found.bound)} on"
    lines = [f"{head}: {bound}; {lesson.settings.seeds} seeds", _line("teacher", found.teacher, counts)]
    lines += [_line("student", trial, counts) for trial in found.trials]
    if found.smallest is not None:
        best, teacher = counts[found.smallest.actor], counts[found.teacher.actor]
        fewer = f"{100 * (1 - best / teacher):.2f} % fewer than the teacher's {teacher:,}"
        lines.append(f"the smallest student: {size_name(found.smallest.actor)}; {best:,} parameters, {fewer}")
    return "\n".join([*lines, *found.notes])


def student_search_goes_on(run_dir: str) -> str:
    """How far an interrupted search has come, and what the same command does when it is started again."""
    path = Path(run_dir) / "students.sqlite"
    store = CellStore(path) if path.exists() else None
    done = sum(bool(store.returns(cell)) for cell in store.cells()) if store else 0
    return f"{done} sizes have results in {path}: the same command goes on from the last checkpoints of the others"


def _line(stage: str, trial: Trial, counts: Mapping[Size, int]) -> str:
    verdict = ("accepted" if trial.accepted else "rejected") + ("" if trial.decided else "?")
    verdict += "" if trial.stopped is None else f", stopped after {trial.stopped:,} frames"
    interval = f"[{return_text(trial.low)}, {return_text(trial.high)}]"
    size = f"actor {size_name(trial.actor):11} ({counts[trial.actor]:>7,})"
    return f"{stage:10}{size}{return_text(trial.mean):>10} +- {trial.std:<8.2g}{interval:18} {verdict}"
