"""Gymnasium tasks that break trainers. `register()` makes them known; each id says what is odd about it.

Odd/{Nan,Inf,Huge}-{reward,observation}-{discrete,box}-v0          one NaN, infinity or 1e300 at the 37th step of a game
Odd/{Nan,Inf,Huge}-{reward,observation}-{discrete,box}-seed1-v0    of the first game of an environment's seed 1 alone
Odd/Plain-{discrete,box}-v0                                   never, and the same numbers otherwise
Odd/Global-v0                                                 draws from NumPy's global generator, and shows $ODD

The task refuses an action that its space does not have, as Gymnasium's own tasks may: a nan among them.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

AT = 37  # the step, counted from the first over all episodes, that is odd
SPACES = {"discrete": lambda: spaces.Discrete(3), "box": lambda: spaces.Box(-1, 1, (1,), np.float32)}
VALUES = {"Nan": np.nan, "Inf": np.inf, "Huge": 1e300}


class Odd(gymnasium.Env):
    """Episodes of ten steps with random observations; reward 1 where the first component of the action is 1.

    Args:
        action_space: its actions.
        where: what is not finite at step `AT` of a game: "reward", "observation" or None.
        value: what it is then.
        only: the seed of the one game of which that holds; None: of all.
    """

    def __init__(
        self, action_space: spaces.Space, where: str | None = None, value: float = 0.0, only: int | None = None
    ):
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space, self.where, self.value, self.only, self.steps = action_space, where, value, only, 0
        self.odd = only is None

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None and self.only is not None:
            self.odd = seed == self.only
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        self.t, self.steps = self.t + 1, self.steps + 1
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        reward = float(np.asarray(action, dtype=float).ravel()[0] == 1)
        if self.odd and self.steps == AT and self.where == "reward":
            reward = self.value
        if self.odd and self.steps == AT and self.where == "observation":
            observation[0] = self.value
        return observation, reward, False, self.t >= 10, {}


class Global(Odd):
    """Its observation is a draw from NumPy's global generator, as in old tasks of Gym, and the variable ODD or -1."""

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.array([np.random.uniform(), os.environ.get("ODD", -1)], np.float32), {}


def register() -> None:
    """Make the tasks known to Gymnasium; twice is once."""
    if "Odd/Global-v0" not in gymnasium.registry:
        gymnasium.register("Odd/Global-v0", lambda: Global(SPACES["box"]()))
    of_seed_1 = int(np.random.SeedSequence([1, 0]).generate_state(1)[0])  # as ControlEnv seeds it
    for kind, space in SPACES.items():
        names: dict[str, dict[str, Any]] = {f"Odd/Plain-{kind}-v0": {}}
        for word, value in VALUES.items():
            for where in ("reward", "observation"):
                names[f"Odd/{word}-{where}-{kind}-v0"] = {"where": where, "value": value}
                names[f"Odd/{word}-{where}-{kind}-seed1-v0"] = {"where": where, "value": value, "only": of_seed_1}
        for name, odd in names.items():
            if name not in gymnasium.registry:
                gymnasium.register(name, lambda space=space, odd=odd: Odd(space(), **odd))


register()  # as modules of tasks do: `odd_tasks:Odd/Global-v0` finds it in another process
