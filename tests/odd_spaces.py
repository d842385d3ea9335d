"""Gymnasium tasks whose spaces are read wrongly where nobody looks. Importing this registers them as `Odd/<name>-v0`.

Each asserts that an action is one of its space, and `PLAYED[name]` keeps the actions that came.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1, 1, (2,), np.float32)
# What a task does, and what it shows; all of these are played, each component in its place.
PLAYED_SPACES = {
    "Unequal": spaces.Box(np.array([-1, 10, -300], np.float32), np.array([1, 30, 500], np.float32)),
    "Float64": spaces.Box(-0.1, np.array([0.1, 0.3]), (2,), np.float64),  # its bounds are no float32 numbers
    "Half": spaces.Box(-1, 1, (1,), np.float16),
    "Discrete": spaces.Discrete(3),
    "OneChoice": spaces.Discrete(1),
    "StartAtThree": spaces.Discrete(2, start=3),
    "TwoAxes": spaces.Box(np.arange(-7, -1).reshape(2, 3).astype(np.float32), np.float32(1), (2, 3), np.float32),
}
# Actions of these are those of on-policy algorithms alone.
ON_POLICY_SPACES = {
    "Unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "HalfBounded": spaces.Box(0, np.inf, (2,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "StartsDiffer": spaces.MultiDiscrete([[3, 2]], start=[[4, -1]]),
    "MultiBinary": spaces.MultiBinary(3),
}
# The actions of these are refused, by what the error says of them.
REFUSED_ACTIONS = {
    "IntegerBox": (spaces.Box(0, 4, (1,), np.int64), "Box(0, 4, (1,), int64)"),
    "NoAxis": (spaces.Box(-1, 1, (), np.float32), "Box(-1.0, 1.0, (), float32)"),
    "Empty": (spaces.Box(-1, 1, (0,), np.float32), "Box("),
    "FlatComponent": (
        spaces.Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32)),
        "Box([-1.  2.], [1. 2.], (2,), float32)",
    ),
    "FlatInFloat32": (spaces.Box(1, 1 + 1e-12, (1,), np.float64), "Box("),
    "BeyondFloat32": (spaces.Box(-1e300, 1e300, (1,), np.float64), "Box(-1e+300, 1e+300, (1,), float64)"),
    "TooWide": (spaces.Box(-3e38, 3e38, (1,), np.float32), "Box("),
    "Pair": (spaces.Tuple((spaces.Discrete(2), BOX)), "Tuple(Discrete(2), Box("),
}
PICTURE = spaces.Box(0, 255, (16, 16, 1), np.uint8)
# What a task shows, and the numbers of the vector that a network reads.
READ_OBSERVATIONS = {
    "PictureAndVector": (spaces.Dict({"vector": BOX, "picture": PICTURE}), 16 * 16 + 2),
    "Picture": (PICTURE, 16 * 16),
    "Place": (spaces.Discrete(16, start=3), 16),
    "Places": (spaces.MultiDiscrete([2, 3]), 5),
    "Bits": (spaces.MultiBinary(3), 3),
    "Integers": (spaces.Box(0, 4, (2,), np.int64), 2),
    "OfPair": (spaces.Tuple((spaces.Discrete(2), BOX)), 4),
}
REFUSED_OBSERVATIONS = {
    "Nothing": (spaces.Box(-1, 1, (0,), np.float32), "Box("),
    "Words": (spaces.Text(4), "Text("),
    "WordsAndVector": (spaces.Dict({"words": spaces.Text(4), "vector": BOX}), "Dict("),
    "List": (spaces.Sequence(BOX), "Sequence("),
}
PLAYED: dict[str, list[Any]] = {name: [] for name in [*PLAYED_SPACES, *ON_POLICY_SPACES, *READ_OBSERVATIONS]}


class Odd(gymnasium.Env):
    """Ten steps; reward 1 where the first component of the action is above 0."""

    def __init__(self, name: str, actions: gymnasium.Space, observations: gymnasium.Space = BOX):
        self.name, self.action_space, self.observation_space = name, actions, observations

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        if self.observation_space is BOX:
            return self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.shown = self.observation_space.sample()
        return self.shown

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        PLAYED[self.name].append(np.array(action))
        self.steps += 1
        return self.observe(), float(np.ravel(action)[0] > 0), False, self.steps >= 10, {}


def register(name: str, actions: gymnasium.Space, observations: gymnasium.Space = BOX) -> None:
    gymnasium.register(f"Odd/{name}-v0", lambda: Odd(name, actions, observations))


for _name, _space in (PLAYED_SPACES | ON_POLICY_SPACES).items():
    register(_name, _space)
for _name, (_space, _) in REFUSED_ACTIONS.items():
    register(_name, _space)
for _name, (_space, _) in (READ_OBSERVATIONS | REFUSED_OBSERVATIONS).items():
    register(_name, spaces.Discrete(2), _space)


ONE = Odd("Discrete", PLAYED_SPACES["Discrete"])


def make(kind: str) -> Any:
    """A game by a function: an odd one by its name; "None" makes none, and "same" makes one game only."""
    return {"None": None, "same": ONE}.get(kind, Odd(kind, PLAYED_SPACES.get(kind, spaces.Discrete(2))))
