"""Tasks as environments of TorchRL, as a user would write them, and one of them as Gymnasium's too.

Steer        a point between -1 and 1 is pushed; the reward is minus its distance to 0; ten steps. Starts depend on the
             number of episodes alone, so that both forms have the same numbers.
Noisy        the same, with starts drawn from torch's own generator
Lamps        four lamps, of which some are lit, and indices: observations of every discrete kind
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase, GymEnv, PendulumEnv, StepCounter, TransformedEnv

GOLDEN = 0.618034


class GymSteer(gymnasium.Env):
    observation_space = spaces.Box(-4, 4, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.float32(2) * np.float32(
            np.float32(self.episodes) * np.float32(GOLDEN) % np.float32(1)
        ) - np.float32(1)
        self.t, self.episodes = 0, self.episodes + 1
        return self.shown(), {}

    def shown(self):
        return np.array([self.x, self.t / 10], np.float32)

    def step(self, action):
        self.x, self.t = np.float32(self.x + np.float32(0.2) * action[0]), self.t + 1
        return self.shown(), float(-abs(self.x)), False, self.t >= 10, {}


class Steer(EnvBase):
    """Stateless: the state stands in the TensorDict. `batch_size` is that of the games, at most one axis."""

    def __init__(self, batch_size=(), device="cpu", action=1.0):
        super().__init__(batch_size=torch.Size(batch_size), device=device)
        column = (*self.batch_size, 1)
        state = {name: Unbounded(column) for name in ("x", "t", "episodes")}
        shown = {
            "observation": Unbounded((*self.batch_size, 2)),
            **{name: spec.clone() for name, spec in state.items()},
        }
        self.observation_spec = Composite(shown, shape=self.batch_size)
        self.state_spec = Composite(state, shape=self.batch_size)
        self.action_spec = Bounded(-action, action, column)
        self.reward_spec = Unbounded(column)
        self.seeds: list[int] = []

    def _set_seed(self, seed):
        self.seeds.append(seed)

    def _shown(self, x, t, episodes, **more):
        ended = t >= 10
        found = {"observation": torch.cat([x, t / 10], -1), "x": x, "t": t, "episodes": episodes}
        ends = {"truncated": ended, "terminated": torch.zeros_like(ended), "done": ended}
        return TensorDict({**found, **ends, **more}, self.batch_size)

    def _start(self, episodes):
        return 2 * (episodes * GOLDEN % 1) - 1

    def _reset(self, tensordict=None, **_):
        zero = torch.zeros(*self.batch_size, 1)
        if not hasattr(self, "begun"):
            self.begun = zero
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        asked = torch.ones_like(zero, dtype=torch.bool) if mask is None else mask
        start = self._start(self.begun)
        self.begun = self.begun + asked
        return self._shown(start, zero, self.begun)

    def _step(self, tensordict):
        x, t = tensordict["x"] + 0.2 * tensordict["action"], tensordict["t"] + 1
        return self._shown(x, t, tensordict["episodes"], reward=-x.abs())


class Noisy(Steer):
    def _start(self, episodes):
        return torch.rand(*self.batch_size, 1) * 2 - 1


def four_at_once():
    return Steer([4])


def cart_pole():
    return GymEnv("CartPole-v1")


def pendulum():
    return TransformedEnv(PendulumEnv(), StepCounter(20))


def two_axes():
    return Steer([2, 2])


KEPT: list[Any] = []


def the_same():
    KEPT[:] = KEPT or [Steer()]
    return KEPT[0]


class Tail(Steer):
    """Steer whose exact position is a key of its own, which the policy does not see."""

    def __init__(self, batch_size=(), device="cpu"):
        super().__init__(batch_size, device)
        self.observation_spec["position"] = Unbounded((*self.batch_size, 1))

    def _shown(self, x, t, episodes, **more):
        found = super()._shown(x, t, episodes, **more)
        return found.set("position", x.clone()).set("observation", torch.cat([x.sign(), t / 10], -1))


class OwnArguments(GymSteer):
    """Of Gymnasium, with arguments of its own that have the names of ours."""

    def __init__(self, batch_size=3, device="red"):
        super().__init__()
        self.own = batch_size, device


def needs_device(device):
    return OwnArguments(device=device)


CALLS: list = []


def with_defaults(batch_size=(), device="cpu"):
    CALLS.append((batch_size, device))
    return Steer(batch_size, device)


class Lamps(EnvBase):
    """Nothing happens: the observation is always the same one, of a given kind."""

    KINDS: ClassVar[dict[str, tuple[TensorSpec, torch.Tensor]]] = {
        "binary": (Binary(4, dtype=torch.bool), torch.tensor([True, False, True, False])),
        "one_lamp": (Binary(1, dtype=torch.int8), torch.tensor([1], dtype=torch.int8)),
        "several": (MultiCategorical([3, 2], dtype=torch.int64), torch.tensor([2, 1])),
        "several_of_one": (MultiCategorical([3], dtype=torch.int64), torch.tensor([2])),
        "index": (Categorical(3, dtype=torch.int32), torch.tensor(1, dtype=torch.int32)),
    }

    def __init__(self, kind="binary", batch_size=(), device="cpu"):
        super().__init__(batch_size=torch.Size(batch_size), device=device)
        spec, self.lit = self.KINDS[kind]
        games = self.batch_size
        self.observation_spec = Composite(observation=spec.expand(*games, *spec.shape), shape=games)
        self.action_spec, self.reward_spec = Categorical(2, shape=games), Unbounded((*games, 1))

    def _set_seed(self, seed):
        pass

    def _shown(self, **more):
        shown = self.lit.expand(*self.batch_size, *self.lit.shape).clone()
        ends = {name: torch.zeros(*self.batch_size, 1, dtype=torch.bool) for name in ("done", "terminated")}
        return TensorDict({"observation": shown, **ends, **more}, self.batch_size)

    def _reset(self, tensordict=None, **_):
        return self._shown()

    def _step(self, tensordict):
        return self._shown(reward=torch.ones(*self.batch_size, 1))
