"""envpool's MuJoCo tasks, with the interface of ``decouple.envs.control.backends``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from decouple.checks import INT32_MAX, at_least, checked
from decouple.envs.control.backends import Outcome, seeds_after
from decouple.envs.control.making import Task
from decouple.envs.processes import Owned

__all__ = ["EnvpoolGames"]

ENVPOOL_OPTIONS = {"use_contact_forces": "use_contact_force"}  # Gymnasium's name of an option: envpool's name


class EnvpoolGames:
    """envpool's MuJoCo tasks (https://github.com/sail-sg/envpool), stepped by threads outside of Python.

    envpool is another implementation of the tasks, with its own MuJoCo. From the same state its step equals
    Gymnasium's up to rounding. But the same seed starts elsewhere, rewards have 32 bits, and rounding grows, so that
    trajectories differ. envpool cannot save its games: ``load_state`` begins new episodes, with seeds drawn from the
    saved ones, so that a resumed run does not repeat its first episodes.
    """

    resumable = False

    @checked(number=at_least(1))
    def __init__(self, task: Task, number: int) -> None:
        envpool = _import_envpool()
        if task.id not in envpool.list_all_envs():
            raise ValueError(f"backend must be auto or gymnasium for {task.name}, which envpool lacks; got 'envpool'")
        self.id = task.id
        self.options = {ENVPOOL_OPTIONS.get(key, key): value for key, value in task.options.items()}
        # Without post_constraint envpool's v4 observes contact forces of zero, unlike Gymnasium's.
        self.options |= {"post_constraint": True, "max_episode_steps": INT32_MAX}
        spec = envpool.make_spec(self.id, **self.options)
        self.observation_space, self.action_space = spec.gymnasium_observation_space, spec.gymnasium_action_space
        self.number, self.seeds = number, [0] * number
        self.owned: Owned | None = None

    @property
    def games(self) -> Any:
        """envpool's games, made by ``seed``; RuntimeError if they are closed or belong to another process."""
        assert self.owned is not None
        return self.owned.use

    def seed(self, seeds: Sequence[int]) -> None:
        """Rebuild the games: envpool takes seeds at no other time, and only seeds of 31 bits."""
        self.close()
        self.seeds = [seed & INT32_MAX for seed in seeds]
        threads = min(self.number, os.cpu_count() or 1)
        games = _import_envpool().make_gymnasium(
            self.id, num_envs=self.number, num_threads=threads, seed=self.seeds, **self.options
        )
        self.owned = Owned(games, type(games).close, "envpool's games")

    def reset(self, which: np.ndarray) -> np.ndarray:
        return self.games.reset(which.astype(np.int32))[0]

    def step(self, action: np.ndarray) -> Outcome:
        observation, reward, terminated, truncated, _ = self.games.step(action)
        return observation, reward.astype(np.float64), terminated, truncated

    def state(self) -> list[dict[str, Any]]:
        return [{"first_seed": seed} for seed in self.seeds]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self.seed(seeds_after(states))

    def close(self) -> None:
        if self.owned is not None:
            self.owned.close()


def _import_envpool() -> Any:
    try:
        return importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        if error.name != "envpool":
            raise
        raise ImportError("backend envpool needs envpool: pip install 'torchrl-decouple[envpool]'") from error
