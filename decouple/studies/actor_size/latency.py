"""Latency of a study's actors, measured once for each size and kept in a CSV file beside the report.

    rows = study_latency(read_studies(store), "runs/smallest_actor/report/latency.csv")     # measures what it lacks

A latency depends on the actor's size, not on its weights nor on the critic that it was trained beside: one trained
actor of each size is timed by `actor_latency`, as it is deployed.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from decouple.checks import SOME, all_of, at_least, checked
from decouple.deploy.export import A_WHILE, RUNTIMES, actor_latency
from decouple.deploy.plain_actor import ObservationScaling
from decouple.runs.checkpoint import CheckpointError, load_checkpoint, reading_checkpoint
from decouple.runs.files import csv_lines, replace_file
from decouple.runs.performance import processor_kind
from decouple.studies.actor_size.load import trained_actor
from decouple.studies.actor_size.results import SizeStudy
from decouple.studies.actor_size.study import csv_cell, csv_size

__all__ = ["available_runtimes", "read_latency", "study_latency"]

OF_SIZE = ("task", "algorithm", "settings", "actor")
COLUMNS = (*OF_SIZE, "runtime", "batch", "median_us", "p99_us", "calls", "measured_utc", "platform")


def available_runtimes() -> list[str]:
    """The runtimes of `actor_latency` that are installed; ONNX Runtime comes with the extra `export`."""
    onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    return [runtime for runtime in RUNTIMES if onnx or runtime != "onnx"]


@checked(runtimes=SOME, batch_sizes=all_of(at_least(1), least=1), seconds=A_WHILE)
def study_latency(
    studies: Sequence[SizeStudy],
    path: Path,
    *,
    runtimes: Sequence[str] = RUNTIMES,
    batch_sizes: Sequence[int] = (1, 64),
    seconds: float = 1.0,
    again: bool = False,
    left_out: Callable[[str], object] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measure the latencies that the file lacks, and add them to it after each actor.

    A size is left out where none of its runs has a checkpoint any more.

    Args:
        studies: studies whose actors are timed.
        path: the CSV file, made where it is missing.
        runtimes, batch_sizes, seconds: arguments of `actor_latency`.
        again: True to measure all latencies anew.
        left_out: function called with the error of each damaged checkpoint; another run of the size is taken.

    Returns:
        All rows of the file: task, algorithm, the settings' key, actor (a tuple), and what `actor_latency` measured.
    """
    rows = read_latency(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for study in studies:
        for actor, folders in _actors(study).items():
            head = dict(zip(OF_SIZE, (study.task, study.algorithm, study.key, actor), strict=True))
            known = [row for row in rows if all(row[name] == value for name, value in head.items())]
            has = set() if again else {(row["runtime"], row["batch"]) for row in known}
            missing = [runtime for runtime in runtimes if not {(runtime, batch) for batch in batch_sizes} <= has]
            if not missing:
                continue
            trained = _first_whole(folders, left_out)
            if trained is None:
                continue
            model, scaling = trained
            measured = actor_latency(
                model, runtimes=missing, batch_sizes=batch_sizes, observation_scaling=scaling, seconds=seconds
            )
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            machine = {"measured_utc": now, "platform": f"{platform.system()}, {processor_kind()}"}
            new = [head | row | machine for row in measured]
            replaced = {(row["runtime"], row["batch"]) for row in new}
            rows = [row for row in rows if row not in known or (row["runtime"], row["batch"]) not in replaced] + new
            lines = [[csv_cell(row[name]) for name in COLUMNS] for row in rows]
            replace_file(path, csv_lines([list(COLUMNS), *lines]))
    return rows


@checked()
def read_latency(path: Path) -> list[dict[str, Any]]:
    """The rows of the file, as `study_latency` gives them; none where there is no file.

    Raises:
        ValueError: a damaged file; the message names it.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        for row in rows:
            row["actor"] = csv_size(row["actor"])
            row |= {name: int(row[name]) for name in ("batch", "calls")}
            row |= {name: float(row[name]) for name in ("median_us", "p99_us")}
            row |= {name: row[name] for name in COLUMNS}
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{path} must be a table of latencies; delete it to measure anew; got {error!r}") from error
    return rows


def _actors(study: SizeStudy) -> dict[tuple[int, ...], list[Path]]:
    """Size -> folders of its runs that have a checkpoint, in the order of the cells."""
    actors: dict[tuple[int, ...], list[Path]] = {}
    for cell in study.cells:
        if cell.folders:
            actors.setdefault(cell.actor, []).extend(cell.folders)
    return actors


def _first_whole(
    folders: Sequence[Path], left_out: Callable[[str], object]
) -> tuple[Any, ObservationScaling | None] | None:
    """The first actor that has not failed, and its scaling, of the first folder whose checkpoint can be read and has
    one; None where none has."""
    for folder in folders:
        path = folder / "checkpoint.pt"
        try:
            state = load_checkpoint(path)
            with reading_checkpoint(path, "agents of train_agents"):
                first, count = (state["settings"].get(name, alone) for name, alone in (("seed", 0), ("seeds", 1)))
                failed = state.get("failed", {})
                whole = [agent for agent in range(count) if str(first + agent) not in failed]
                if whole:
                    return trained_actor(state, whole[0])
        except (CheckpointError, OSError) as error:
            left_out(str(error))
    return None
