"""The tasks of teachers and students, with raw observations, and the networks of students.

    task = ControlTask(settings)                        # of a run's checkpoint; or ProcgenTask(settings)
    env = task.make_env([0, 1], 16)                     # (2, 16)
    models = task.students([0, 1], {"actor": [8, 8]})   # untrained, each initialised from its seed

A student's networks are those of its teacher's algorithm, with hidden layers of another size. Their critic is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torchrl.envs import EnvBase

from decouple.checks import check_setting
from decouple.envs.games.batched import GAMES, games_env
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, make_model
from decouple.studies.actor_size.build import OF_TASK, make_env, make_small_env
from decouple.studies.actor_size.load import stored_settings
from decouple.studies.separation.experiment import make_env as make_procgen_env
from decouple.studies.separation.experiment import make_model as make_procgen_model
from decouple.studies.separation.settings import PROCGEN_KEYS, procgen_experiment

__all__ = ["ControlTask", "ProcgenTask", "StudentTask", "raw_control_env"]


class StudentTask(Protocol):
    """The interface of a task.

    Attributes:
        settings: settings that make the task and its networks, as a checkpoint keeps them.
        name: name of the task.
        sized_by: name of the setting that gives a student's size.
    """

    settings: dict[str, Any]
    name: str
    sized_by: str

    def make_env(self, seeds: Sequence[int], num_envs: int, *, test: bool = False) -> EnvBase:
        """The task with raw observations, (S, num_envs), or (num_envs,) where there is one student alone; with `test`
        what agents are tested on, where that is another."""
        ...

    def student_settings(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of students of this size.

        Raises:
            ValueError: a size that the task's networks do not have.
        """
        ...

    def students(self, seeds: Sequence[int], settings: Mapping[str, Any]) -> list[Any]:
        """Untrained students with these settings, each initialised from its seed."""
        ...


class ControlTask:
    """A control task, the toy problem or a game.

    Raises:
        ValueError: a task or a network that has no students.
    """

    sized_by = "actor"

    def __init__(self, settings: Mapping[str, Any]):
        self.settings, self.name = dict(settings), settings["env"]
        check_setting("checkpoint", self.name, lambda env: env != "unity", "of another task than a Unity build")
        _check_no_memory(settings)

    def make_env(self, seeds: Sequence[int], num_envs: int, *, test: bool = False) -> EnvBase:
        return raw_control_env(self.settings, seeds, num_envs, test=test)

    def student_settings(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        check_setting("width", sizes.get("width"), lambda width: width is None, f"left out on {self.name}: give actor")
        own = {"actor": list(sizes["actor"]), "critic": [], "separation": "full"}
        activation = {"actor_activation": sizes["actor_activation"]} if sizes.get("actor_activation") else {}
        return self.settings | own | activation

    def students(self, seeds: Sequence[int], settings: Mapping[str, Any]) -> list[Any]:
        config, models = stored_settings(settings), []
        with contextlib.closing(make_small_env(config)) as env, torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                models.append(make_model(config, env))
        return models


def _check_no_memory(settings: Mapping[str, Any]) -> None:
    says = "of an actor without memory: a student sees one observation"
    check_setting("checkpoint", settings.get("recurrent"), lambda recurrent: recurrent is None, says)


class ProcgenTask:
    """A game of Procgen, with one student, since its environment plays for one agent."""

    sized_by = "width"

    def __init__(self, settings: Mapping[str, Any]):
        _check_no_memory(settings)
        known = {key: value for key, value in settings.items() if key in PROCGEN_KEYS.defaults}
        self.settings = known | {"device": "cpu", "precision": "fp32"}
        self.config = procgen_experiment(**self.settings)
        self.name = f"procgen {self.config.env}, {self.config.distribution_mode}"

    def make_env(self, seeds: Sequence[int], num_envs: int, *, test: bool = False) -> EnvBase:
        check_setting("seeds", len(seeds), lambda count: count == 1, "1 on Procgen, whose games play for one agent")
        return make_procgen_env(self.config, max(num_envs, 4), seeds[0], test=test, training=False)

    def student_settings(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("actor", "actor_activation"):
            says = "left out on Procgen: give width"
            check_setting(name, sizes.get(name), lambda given: given is None, says)
        return self.settings | {"width": float(sizes["width"])}

    def students(self, seeds: Sequence[int], settings: Mapping[str, Any]) -> list[Any]:
        config, models = procgen_experiment(**settings), []
        with contextlib.closing(self.make_env([seeds[0]], 4)) as env, torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                models.append(make_procgen_model(config, env))
        return models


def raw_control_env(settings: Mapping[str, Any], seeds: Sequence[int], count: int, *, test: bool = False) -> EnvBase:
    """A run's task, with raw observations: as many games of each seed as are asked for, or a few more."""
    if settings["env"] in GAMES:
        agents, skip = GAMES[settings["env"]].agents_per_game, settings["frame_skip"]
        count = -(-count // agents) * agents
        return games_env(settings["env"], list(seeds), count, frame_skip=skip, scale_observations=False)
    names = (*OF_TASK, *["test_kwargs"] * test)
    task = {name: settings[name] for name in names if name in settings}
    return make_env(CONTROL_ALGORITHMS[settings["algorithm"]](**task), count, list(seeds), test=test)
