"""Goal tracking on a line, the toy task of "Honey, I Shrunk The Actor" (Mysore et al. 2021, section III).

``goal_tracking_env(seeds=[0, 1, 2])`` trains three agents at once: batch size (S, N), S seeds with N environments each.
With s the state, g the goal and o the observation, all in one dimension:

    o_t = g_t - s_t        s_{t+1} = clip(s_t + a_t, -1, 1)        r_t = -|g_t - s_{t+1}|

The ideal policy a = o is one linear neuron with weight 1 and bias 0, and earns 0. The goals move smoothly and do not
depend on the actions: they are simplex noise along a slowly growing time, mapped to [-1, 1]. The paper takes Perlin's
simplex noise from the library `noise` 1.2.3 (https://github.com/caseman/noise). This file takes OpenSimplex from the
package opensimplex: a noise of the same kind and smoothness, but with other goals, whose distribution is not exactly
the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrl.data import Bounded

from decouple.checks import FLOAT32_MAX, INT32_MAX, check_integer, check_seeds
from decouple.envs import lockstep
from decouple.envs.processes import check_threads, forks

__all__ = ["GoalTrackingEnv", "goal_tracking_env"]

ACTION_LIMIT = 2.0  # largest ideal action g - s, for two points in [-1, 1]
NOISE_LIMIT = 0.86  # largest magnitude of 2-D OpenSimplex noise, to two digits; larger values are clipped
NUM_STARTS = 10_000  # possible starts of an episode in a seed's noise, which takes about 0.1 s to compute
# Goals and first states are multiples of this. Then g - s and s + (g - s) are exact in float32, and the ideal policy
# earns 0 rather than the rounding errors of 200 steps.
GRID = 2.0**-23


def _noise(seed: int, times: np.ndarray) -> np.ndarray:
    """2-D simplex noise along the line y = 0. ``times``: (T,); returns (T,) in about [-0.86, 0.86]."""
    try:
        from opensimplex import OpenSimplex
    except ImportError as error:
        raise ImportError("goal_tracking_env needs opensimplex: pip install 'torchrl-decouple[toy]'") from error
    threads = torch.get_num_threads()
    try:
        return OpenSimplex(seed).noise2array(times, np.zeros(1))[0]
    finally:
        torch.set_num_threads(threads)  # where Numba is installed, OpenSimplex's parallel loop sets them to all


@dataclass
class _Episodes:
    """The running episodes, in a class of their own because setting an attribute of a torch module costs 1.5 us."""

    state: Tensor  # (S, N, 1) float32, as are goal and episode_reward
    goal: Tensor
    episode_reward: Tensor
    position: Tensor  # (S, N, 1) int64, index of the goal in the flattened noise
    step_count: Tensor  # (S, N, 1) int64
    steps_left: int  # steps left in the oldest episode; counted, so that no step has to look at all episodes
    just_loaded: bool = False


class GoalTrackingEnv(lockstep.LockstepEnv):
    """N environments for each of S seeds, in lockstep; batch size (S, N). Made by ``goal_tracking_env``.

    Keys: ``action`` float32 (S, N, 1); ``observation`` float32 (S, N, 1), the goal less the state; ``goal`` and
    ``state`` float32 (S, N, 1) in [-1, 1]; ``reward`` float32 (S, N, 1) in [-2, 0]; ``episode_reward`` float32
    (S, N, 1), the sum of the episode's rewards so far; ``step_count`` int64 (S, N, 1), its steps so far; ``done``,
    ``terminated``, ``truncated`` bool (S, N, 1). An episode ends by truncation only, and the observation next to its
    end is the true last one, g_T - s_T.

    An action beyond the bounds of ``action_spec`` is not clipped; only the state is.

    An episode begins at a random place in its seed's noise, with a state uniform in [-1, 1]. Both are drawn from the
    seed's own generator, so that an agent sees the same numbers, bit for bit, alone and beside others.

    ``state_dict`` carries everything: an environment that loads it continues bit for bit. The first full ``reset``
    after loading returns the restored observations, and begins only the episodes that were due.

    Raises:
        ValueError: an action that is NaN or has another shape; a state that was saved under other settings.
        RuntimeError: a step beyond the end of an episode; use in a forked process with several PyTorch threads
            (``check_threads``).

    Attributes:
        seeds: S integers. episode_steps: T, steps of an episode. frequency: noise time per step.
    """

    EPISODE_KEYS = ("state", "goal", "episode_reward", "position", "step_count")

    def __init__(self, seeds: list[int], num_envs: int, episode_steps: int, frequency: float) -> None:
        super().__init__(batch_size=torch.Size([len(seeds), num_envs]))
        self.seeds, self.episode_steps, self.frequency, self._made_at = seeds, episode_steps, frequency, forks()
        column = torch.Size([*self.batch_size, 1])
        place = Bounded(-1, 1, column, dtype=torch.float32)
        seen = Bounded(-2, 2, column, dtype=torch.float32)
        lockstep.set_specs(self, observation=seen, goal=place, state=place.clone(), **lockstep.episode_specs(self))
        self.action_spec = Bounded(-ACTION_LIMIT, ACTION_LIMIT, column, dtype=torch.float32)
        self._start()

    def _start(self) -> None:
        """Draw every seed's noise; all episodes are due for a reset."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        times = np.arange(NUM_STARTS + self.episode_steps) * self.frequency
        rows = []
        for generator in self._generators:
            noise_seed = int(torch.randint(INT32_MAX, (), generator=generator))
            goals = np.clip(_noise(noise_seed, times) / NOISE_LIMIT, -1, 1)
            rows.append(torch.from_numpy(np.round(goals / GRID) * GRID).float())
        self._goals = torch.stack(rows)  # (S, NUM_STARTS + T)
        zero = torch.zeros(*self.batch_size, 1)
        ended = torch.full(zero.shape, self.episode_steps)
        self._episodes = _Episodes(zero, zero, zero, position=zero.long(), step_count=ended, steps_left=0)

    def _shown(self) -> dict[str, Tensor]:
        episodes = self._episodes
        truncated = episodes.step_count >= self.episode_steps
        return {
            "observation": episodes.goal - episodes.state,
            "goal": episodes.goal,
            "state": episodes.state,
            "episode_reward": episodes.episode_reward,
            "step_count": episodes.step_count,
            "done": truncated,
            "terminated": torch.zeros_like(truncated),
            "truncated": truncated.clone(),
        }

    def _advance(self, actions: Any) -> dict[str, Tensor]:
        check_threads(self._made_at)
        episodes = self._episodes
        action = actions.get("action").detach().float()  # (S, N, 1)
        lockstep.check_shape(action, episodes.state.shape)
        if math.isnan(action.min().item()):
            raise ValueError(f"action must be a number everywhere; got {action.flatten().tolist()}")
        if episodes.steps_left == 0:
            raise RuntimeError(lockstep.ENDED)
        episodes.state = (episodes.state + action).clamp(-1, 1)
        reward = -(episodes.goal - episodes.state).abs()
        episodes.position = episodes.position + 1
        episodes.goal = self._goals.take(episodes.position)
        episodes.episode_reward = episodes.episode_reward + reward
        episodes.step_count = episodes.step_count + 1
        episodes.steps_left -= 1
        episodes.just_loaded = False
        return self._shown() | {"reward": reward}

    def _restart(self, asked: Any) -> dict[str, Tensor]:
        check_threads(self._made_at)
        ended = self._episodes.step_count[..., 0] >= self.episode_steps  # (S, N)
        self._begin(lockstep.to_begin(asked, ended, just_loaded=self._episodes.just_loaded))
        return self._shown()

    def _begin(self, which: Tensor) -> None:
        """Begin episodes where ``which`` is True, bool (S, N). Writes into copies: the old tensors were handed out."""
        episodes = self._episodes
        state, position = episodes.state.clone(), episodes.position.clone()
        length = self._goals.shape[1]
        for index, (generator, asked) in enumerate(zip(self._generators, which, strict=True)):
            number = int(asked.sum())
            if number:
                start = torch.randint(NUM_STARTS, (number, 1), generator=generator)
                ticks = torch.randint(-int(1 / GRID), int(1 / GRID) + 1, (number, 1), generator=generator)
                position[index, asked] = index * length + start
                state[index, asked] = ticks * GRID
        began = which.unsqueeze(-1)  # (S, N, 1)
        step_count = episodes.step_count.masked_fill(began, 0)
        self._episodes = _Episodes(
            state=state,
            goal=self._goals.take(position),
            episode_reward=episodes.episode_reward.masked_fill(began, 0),
            position=position,
            step_count=step_count,
            steps_left=self.episode_steps - int(step_count.max()),
        )

    def _set_seed(self, seed: int | None) -> None:
        """Restart with the seeds ``seed``, ``seed`` + 1, ..., ``seed`` + S - 1."""
        self.seeds = lockstep.following_seeds(seed, len(self.seeds))
        self._start()

    def _settings(self) -> dict[str, Any]:
        return {
            "seeds": list(self.seeds),
            "num_envs": self.batch_size[1],
            "episode_steps": self.episode_steps,
            "frequency": self.frequency,
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The noise, the generators and the running episodes as tensors, and the environment's settings."""
        return {
            "settings": self._settings(),
            "generators": [generator.get_state() for generator in self._generators],
            "goals": self._goals.clone(),
            "episodes": {key: getattr(self._episodes, key).clone() for key in self.EPISODE_KEYS},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the episodes; ValueError, naming the settings that differ, if saved under others."""
        lockstep.check_settings(self._settings(), state["settings"], "episodes")
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)
        self._goals = state["goals"].clone()
        episodes = {key: state["episodes"][key].clone() for key in self.EPISODE_KEYS}
        steps_left = self.episode_steps - int(episodes["step_count"].max())
        self._episodes = _Episodes(**episodes, steps_left=steps_left, just_loaded=True)


def goal_tracking_env(
    seeds: Sequence[int], num_envs: int = 1, *, episode_steps: int = 200, frequency: float = 0.02
) -> GoalTrackingEnv:
    """Make the goal-tracking task for S agents; see ``GoalTrackingEnv`` for keys and shapes.

    The paper gives the three equations, and that the goals are simplex noise. The default numbers are ours.

    Args:
        seeds: S integers in [0, 2^31 - 1], one per agent.
        num_envs: N >= 1, environments per seed. They share the seed's noise and begin at different places in it.
        episode_steps: T >= 1, steps of an episode. 200 steps of 0.02 cross four units of noise time, in which the goal
            turns back several times, so that no constant action does well.
        frequency: noise time per step, finite and > 0. At 0.02 a goal moves by at most about 0.06 per step, so that a
            policy that lags by one step loses little.

    Raises:
        ValueError: an argument outside its range.
        ImportError: opensimplex is not installed.

    >>> from tensordict.nn import TensorDictModule
    >>> ideal = TensorDictModule(torch.nn.Identity(), ["observation"], ["action"])
    >>> env = goal_tracking_env(seeds=[0, 1], num_envs=3)
    >>> env.rollout(200, ideal)["next", "episode_reward"].abs().max().item()
    0.0
    """
    if isinstance(frequency, bool) or not isinstance(frequency, int | float) or not 0 < frequency <= FLOAT32_MAX:
        raise ValueError(f"frequency must be a finite number > 0; got {frequency!r}")
    num_envs = check_integer("num_envs", num_envs, 1, INT32_MAX)
    episode_steps = check_integer("episode_steps", episode_steps, 1, INT32_MAX)
    return GoalTrackingEnv(check_seeds(seeds), num_envs, episode_steps, float(frequency))
