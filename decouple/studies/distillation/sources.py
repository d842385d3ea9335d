"""One agent of a run of any study: its model, the scaling of its observations, its task, and facts about it.

    path, state, source = read_source("runs/control/pendulum/td3/...", seed=None)
    source.model, source.scaling, source.facts["seed"]

Runs are those of experiments/control.py, procgen.py and distill.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchrl.envs import EnvBase

from decouple.checks import check_setting
from decouple.deploy.plain_actor import ObservationScaling
from decouple.envs.games.batched import GAMES
from decouple.runs.checkpoint import reading_checkpoint
from decouple.runs.files import read_json
from decouple.runs.finished import frames_of, run_checkpoint
from decouple.runs.metrics import read_result
from decouple.studies.actor_size.load import trained_actor
from decouple.studies.actor_size.settings import OF_TEST_LEVELS
from decouple.studies.distillation.students import Students
from decouple.studies.distillation.tasks import ControlTask, ProcgenTask, StudentTask, raw_control_env
from decouple.studies.separation.experiment import load_agent
from decouple.studies.separation.experiment import make_env as make_procgen_env
from decouple.studies.task_layouts import layout

# Settings under which an id of Gymnasium does not tell the whole task.
AROUND_THE_TASK = ("wrappers", "privileged")
CHANGES_THE_TASK = (*AROUND_THE_TASK, *OF_TEST_LEVELS)

__all__ = ["Source", "agent_source", "read_source", "scaling_state", "task_in", "task_settings"]


class Source(NamedTuple):
    """One agent of a run, and the task that it was trained on."""

    model: Any  # model from actor_qvalue or actor_value
    scaling: ObservationScaling | None  # scaling of observations in training; None: there was none
    # function of a number of games, a seed, and `test=True` for what agents are tested on: the task, raw observations
    make_env: Callable[..., EnvBase]
    facts: dict[str, Any]  # facts for the file's metadata


def agent_source(path: Path, state: Mapping[str, Any], seed: int | None) -> Source:
    """An agent of a run, from its checkpoint at `path`; without a seed the one with the best return."""
    settings = state.get("settings", {})
    # Keyed by a setting that only this kind of run has.
    kinds = {"teacher": from_distillation, "actor": from_control, "protocol": from_procgen}
    read = next((read for setting, read in kinds.items() if setting in settings), None)
    if read is None:
        raise ValueError(f"checkpoint must be of a run of experiments/control.py, procgen.py or distill.py; got {path}")
    source = read(state, _best_seed(path) if seed is None else seed)
    record = path.with_name("record.json")
    sessions = read_json(record).get("sessions") if record.exists() else None
    git = sessions[-1].get("git") if sessions else None
    commit = {"commit": git["commit"], "uncommitted_changes": bool(git.get("dirty"))} if git else {}
    return source._replace(facts=source.facts | {"run": _without_machine(path.parent)} | commit)


def _without_machine(path: Path) -> str:
    """A path from the current folder on, or its name where it is elsewhere."""
    here = Path(os.path.abspath(path))
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else here.name


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """A task's arguments; of a file's path nothing that is of this machine."""

    def told(value: Any) -> Any:
        path = Path(value).expanduser() if isinstance(value, str) and ("/" in value or os.sep in value) else None
        return _without_machine(path) if path is not None and (path.is_absolute() or path.exists()) else value

    return {name: told(value) for name, value in given.items()}


def read_source(checkpoint: str, seed: int | None) -> tuple[Path, dict[str, Any], Source]:
    """The path and the content of a checkpoint, and one of its agents.

    Args:
        checkpoint: a run's folder, or its checkpoint.
        seed: the agent's seed; None: the one with the best return.

    Raises:
        ValueError: a checkpoint of another kind, or a seed that the run has not.
    """
    path, state = run_checkpoint(checkpoint)
    return path, state, agent_source(path, state, seed)


def task_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that made an agent's task and networks: a run's own, or those of the students in a distillation."""
    return state["student"]["settings"] if "student" in state else state["settings"]


def task_in(state: Mapping[str, Any]) -> StudentTask:
    """The task of a run, from its checkpoint."""
    settings = task_settings(state)
    return ProcgenTask(settings) if "protocol" in settings else ControlTask(settings)


def _best_seed(path: Path) -> int | None:
    """The seed with the best return in the run's result.json; None: there is none, or the run has one seed."""
    result = path.with_name("result.json")
    found = read_result(result) if result.exists() else {}
    prefix = "final/return/seed"
    returns = {int(name.removeprefix(prefix)): of for name, of in found.items() if name.startswith(prefix)}
    finite = {seed: of for seed, of in returns.items() if of is not None}
    return max(finite, key=finite.__getitem__, default=None)


def from_control(state: Mapping[str, Any], seed: int | None) -> Source:
    """An agent of experiments/control.py; without a seed the first."""
    settings = state["settings"]
    seeds = range(settings["seed"], settings["seed"] + settings["seeds"])
    seed = seeds[0] if seed is None else seed
    check_setting("seed", seed, seeds.__contains__, f"one of the run's, {list(seeds)}")
    facts = _control_facts(settings) | {"seed": seed, "frames": frames_of(state)}
    model, scaling = trained_actor(state, seeds.index(seed))

    def games(count: int, first: int, *, test: bool = False) -> EnvBase:
        return raw_control_env(settings, [first], count, test=test)

    return Source(model, scaling, games, facts)


def from_procgen(state: Mapping[str, Any], seed: int | None) -> Source:
    """The agent of experiments/procgen.py."""
    settings = state["settings"]
    check_setting("seed", seed, (None, settings["seed"]).__contains__, f"the run's, {settings['seed']}")
    config, model, frames = load_agent(state)

    def games(count: int, first: int, *, test: bool = False) -> EnvBase:
        return make_procgen_env(config, max(count, 4), first, test=test, training=False)

    return Source(model, None, games, _procgen_facts(config) | {"seed": config.seed, "frames": frames})


def from_distillation(state: Mapping[str, Any], seed: int | None) -> Source:
    """A student of experiments/distill.py; without a seed the first."""
    seeds = range(state["settings"]["seed"], state["settings"]["seed"] + state["settings"]["seeds"])
    seed = seeds[0] if seed is None else seed
    check_setting("seed", seed, seeds.__contains__, f"one of the run's, {list(seeds)}")
    task, own = task_in(state), state["student"]
    with reading_checkpoint("checkpoint.pt", "students of experiments/distill.py"):
        scaling = None if own["scaling"] is None else ObservationScaling(*own["scaling"])
        students = Students(task.students(list(seeds), own["settings"]), scaling)
        students.model.load_state_dict(state["model"])
    if isinstance(task, ProcgenTask):
        facts = _procgen_facts(task.config)
    else:
        facts = _control_facts(own["settings"])
        del facts["critic"], facts["separation"]  # a student's is not used
    facts |= {"seed": seed, "frames": frames_of(state), "teacher": own["teacher"]}
    model = students.models()[seeds.index(seed)]

    def games(count: int, first: int, *, test: bool = False) -> EnvBase:
        return task.make_env([first], count, test=test)

    return Source(model, scaling, games, facts)


def _control_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("algorithm", "actor", "critic", "separation")
    known = layout(settings["env"])
    if any(settings.get(name) for name in CHANGES_THE_TASK) or settings.get("frame_stack", 1) > 1:
        known.pop("gymnasium", None)  # what the id alone makes is another task
    if any(settings.get(name) for name in AROUND_THE_TASK):
        known = {name: text for name, text in known.items() if name == "assets"}  # numbers may mean something else
    facts = {"task": settings["env"], **{name: settings[name] for name in names}, "layout": known}
    if any(settings.get(name) for name in OF_TEST_LEVELS):
        facts["played_on"] = "the levels of its tests" if settings.get("num_levels") else "the task of its tests"
    facts |= {"env_kwargs": _arguments(settings["env_kwargs"])} if settings.get("env_kwargs") else {}
    facts |= {name: settings[name] for name in AROUND_THE_TASK if settings.get(name)}
    facts |= {"frame_stack": settings["frame_stack"]} if settings.get("frame_stack", 1) > 1 else {}
    return facts | ({"frame_skip": settings["frame_skip"]} if settings["env"] in GAMES else {})


def _procgen_facts(config: Any) -> dict[str, Any]:
    facts = {
        "task": f"procgen {config.env}, {config.distribution_mode}",
        "algorithm": config.learning.algorithm,
        "protocol": config.protocol,
        "separation": config.separation,
        "played_on": "all levels",
    }
    return facts | ({"width": config.width} if config.width != 1 else {})


def scaling_state(scaling: ObservationScaling | None) -> list[Any] | None:
    """A scaling as a checkpoint keeps it, for `ObservationScaling(*state)`."""
    if scaling is None:
        return None
    return [*(torch.as_tensor(each, dtype=torch.float32) for each in (scaling.mean, scaling.std)), scaling.clip]
