"""The smallest actor of a search as a file: the best of its seeds, proven in the task through the file.

    plan, _ = export_plan(options, settings.env)       # onnx, c, html or None; before the search, which may take hours
    found = run_search(settings, options, counts)
    print(winner_text(write_winner(settings, found, plan)))

Which seed is best, episodes tell that no comparison of the search has used; how good it is, fresh ones again.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from decouple.checks import check_setting
from decouple.deploy.card import card_path
from decouple.deploy.checking import RefusedFileError
from decouple.deploy.constants import actor_constants
from decouple.deploy.export import ExportReport
from decouple.deploy.page import GAMES_ON_PAGE
from decouple.deploy.plain_actor import PlainActor
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.runs.finished import run_checkpoint
from decouple.studies.actor_size.search import SmallestActor
from decouple.studies.actor_size.settings import ControlSettings, sizes_name
from decouple.studies.actor_size.smallest_actor import SearchSettings
from decouple.studies.actor_size.store import Cell, CellStore
from decouple.studies.actor_size.trials import return_text
from decouple.studies.actor_size.workers import cell_of
from decouple.studies.distillation.search import SmallestStudent, student_cell, student_store
from decouple.studies.distillation.sources import Source, agent_source
from decouple.studies.distillation.training import Lesson
from decouple.studies.export import write_actor
from decouple.studies.file_playing import VALIDATION_SEED, play_file

__all__ = ["Winner", "check_kind", "export_plan", "winner_text", "write_smallest_student", "write_winner"]

SECONDS = 0.5  # to measure the latency
NEEDED = ("onnx", "onnxscript", "onnxruntime")
NO_ONNX = "ONNX needs the extra: pip install 'torchrl-decouple[export]'; search.export=c writes plain C without it"


class Winner(NamedTuple):
    """The exported actor of a search."""

    report: ExportReport
    seed: int
    validation: dict[int, float]  # seed -> mean return on the episodes that chose it
    bound: float  # least mean return that the search accepts


def export_plan(options: SearchSettings, task: str) -> tuple[str | None, str]:
    """The ending of the file at a search's end, None for no file, and a sentence where that is not what is usual.

    Args:
        options: the search's settings.
        task: name of its task.

    Raises:
        ValueError: a format that cannot be written here.
    """
    wanted, missing = options.export, [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if task == "unity":
        if wanted not in ("auto", "none"):
            raise ValueError(f"search.export must be none on env=unity, whose build a file cannot play; got {wanted!r}")
        return None, ""
    if wanted == "auto" and missing:
        return None, f"no file will be written at the search's end: {NO_ONNX}"
    if wanted == "onnx" and missing:
        raise ValueError(f"search.export must be c or none here: {NO_ONNX}; got 'onnx'")
    if wanted == "page":
        check_setting(
            "search.export=page: the task", task, GAMES_ON_PAGE.__contains__, f"of {', '.join(GAMES_ON_PAGE)}"
        )
        return "html", ""
    return (None if wanted == "none" else "onnx" if wanted == "auto" else wanted), ""


def check_kind(suffix: str | None, model: ActorValue | ActorQValue) -> None:
    """ValueError where the file at a search's end cannot hold actors of this kind; `model` is an untrained one.

    Plain C and pages hold perceptrons without memory alone.
    """
    if suffix in ("c", "html"):
        try:
            actor_constants(PlainActor(model))
        except ValueError as error:
            wanted, says = "page" if suffix == "html" else suffix, "auto, onnx or none for these actors"
            raise ValueError(f"search.export must be {says}; got {wanted!r}: {error}") from error


def write_winner(settings: ControlSettings, found: SmallestActor, suffix: str) -> Winner | None:
    """Write the search's smallest actor to `<run_dir>/actors/`, with its card; None where no size was accepted.

    Args:
        settings: the search's settings, with the store in `run_dir`.
        found: the search's result.
        suffix: ending of the file: onnx, c or html.

    Raises:
        RefusedFileError: the file acts otherwise than the model; nothing is left at its path.
        FileNotFoundError: the runs of the winner are gone.
    """
    best = found.asymmetric
    if best is None:
        return None
    config = dataclasses.replace(settings, actor=list(best.actor), critic=list(best.critic))
    name = f"{settings.env}_{settings.algorithm}_actor{sizes_name(best.actor)}"
    store = CellStore(Path(config.run_dir) / "cells.sqlite")
    agents = _agents(store, cell_of(config), config.all_seeds)
    return _best_of(agents, _path(settings.run_dir, name, suffix), settings.final_episodes, settings.seed, found)


def write_smallest_student(lesson: Lesson, found: SmallestStudent, suffix: str) -> Winner | None:
    """Write the search's smallest student to `<run_dir>/actors/`, with its card; None where no size was accepted.

    Args:
        lesson: the search's lesson, with the store in `run_dir`.
        found, suffix: as for `write_winner`.

    Raises:
        RefusedFileError, FileNotFoundError: as for `write_winner`.
    """
    if found.smallest is None:
        return None
    settings, facts = lesson.settings, lesson.teacher.facts
    name = f"{facts['task']}_distilled_{facts['algorithm']}_actor{sizes_name(found.smallest.actor)}"
    cell = student_cell(lesson.sized(list(found.smallest.actor)))
    agents = _agents(student_store(lesson), cell, settings.all_seeds)
    return _best_of(agents, _path(settings.run_dir, name, suffix), settings.final_episodes, settings.seed, found)


def _path(run_dir: str, name: str, suffix: str) -> Path:
    """The winner's file; what an earlier search left at its place is removed."""
    path = Path(run_dir) / "actors" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.{suffix}"
    for old in (path, path.with_suffix(f".{suffix}.json"), path.with_suffix(".h"), card_path(path)):
        old.unlink(missing_ok=True)
    return path


def _best_of(
    agents: Iterable[Source], path: Path, episodes: int, first: int, found: SmallestActor | SmallestStudent
) -> Winner:
    """Write the agent that is best on validation episodes."""
    validation, chosen = dict[int, float](), None
    for source in agents:
        actor = PlainActor(source.model, observation_scaling=source.scaling)
        seed = source.facts["seed"]
        tests = functools.partial(source.make_env, test=True)  # as the search's returns, and so its bound
        played = play_file(tests, actor, actor, episodes, VALIDATION_SEED + first)
        if math.isfinite(played.mean) and played.mean > max(validation.values(), default=-math.inf):
            chosen = source
        validation[seed] = played.mean
    if chosen is None:
        raise RefusedFileError(f"none of the seeds for {path.name} has a finite return")
    facts = {"bound": found.bound, "threshold": found.threshold, "validation": validation}
    report = write_actor(chosen._replace(facts=chosen.facts | facts), path, episodes=episodes, seconds=SECONDS)
    return Winner(report, chosen.facts["seed"], validation, found.bound)


def winner_text(winner: Winner | None) -> str:
    """Where the file is, how good it is, and what to do with it, as lines to read."""
    if winner is None:
        return "no file: no size was accepted"
    report, facts = winner.report, winner.report.metadata
    played, own = facts["return"], facts["return_of_model"]
    interval = "" if played["low"] is None else f" [{return_text(played['low'])}, {return_text(played['high'])}]"
    beside = f"the search's bound is {return_text(winner.bound)}"
    if played["mean"] < winner.bound:
        beside += ", which these episodes do not reach"
    seeds = f"seed {winner.seed}, the best of {len(winner.validation)} on episodes of its own"
    through = (
        f"over {played['episodes']} fresh episodes through the file, {return_text(own['mean'])} by the PyTorch actor"
    )
    return "\n".join(
        [
            f"the file: {report.path}, {report.bytes:,} bytes; {seeds}",
            f"return {return_text(played['mean'])}{interval} {through}; {beside}",
            f"what it reads and gives, and how to run it without this package: {card_path(report.path)}",
        ]
    )


def _agents(store: CellStore, cell: Cell, seeds: Sequence[int]) -> Iterator[Source]:
    """Each agent of the cell's seeds that has a finite return, once."""
    returns, seen = store.returns(cell), set[int]()
    for batch in store.batches(cell):
        left = set(seeds) & set(batch.seeds) - seen
        wanted = sorted(seed for seed in left if math.isfinite(returns.get(seed, -math.inf)))
        if batch.state == "done" and wanted:
            pair = f"{sizes_name(cell.actor)} beside {sizes_name(cell.critic)}"
            if not Path(batch.run_dir).exists():
                lost = f"the runs of {pair} are not here"
                raise FileNotFoundError(f"{lost}, so no file of it can be written; search.export=none writes none")
            path, state = run_checkpoint(batch.run_dir, f"the folder of {pair}")
            for seed in wanted:
                seen.add(seed)
                yield agent_source(path, state, seed)
