"""Conversion between ML-Agents' steps and arrays with a row per agent: observations, actions, rewards, ends.

    form = AgentActions(continuous=3, branches=(2,))    # FoodCollector: ours are four floats
    form.to_unity(action)                               # (N, 4) -> (N, 3) floats, (N, 1) integers

    turn = Turn(agents=[0, 1], size=53)
    turn.add(*build.get_steps(behavior))                # True: all agents ask for an action now

Nothing here needs mlagents-envs: a step is any object with the attributes of its steps. Source: mlagents_envs.base_env.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchrl.data import Bounded, Categorical

from decouple.checks import all_of, at_least, check_fields, checked, distinct

__all__ = ["AgentActions", "Turn", "observation_size"]

MOST_ACTIONS = 4096  # largest product of discrete branches taken as one choice; the head has a logit for each


@dataclass(frozen=True)
class AgentActions:
    """The actions of a Unity build's agents, and the form in which our policy gives them.

    - C continuous numbers: a vector of C floats in [-1, 1].
    - C continuous numbers and B branches of two choices: a vector of C + B floats; branch b takes choice 1 where
      number C + b is > 0, else choice 0.
    - Branches only: one integer for all branches; the last branch changes fastest.

    FoodCollector has 3 + one branch of two (four floats; the laser fires where the last is > 0); up to the end of 2020
    it had branches of 3, 3, 3 and 2 (54 actions).

    Attributes:
        continuous: C, number of continuous actions. branches: number of choices of each discrete branch.

    Raises:
        ValueError: no action at all; branches of more than two choices beside continuous numbers; more than 4,096
            discrete actions.
    """

    continuous: int
    branches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, continuous=at_least(0), branches=all_of(at_least(1)))
        object.__setattr__(self, "branches", tuple(self.branches))  # a list serves as well
        if not self.continuous and not self.branches:
            raise ValueError("continuous and branches must not both be empty: the build's agents must have actions")
        if self.continuous and any(choices != 2 for choices in self.branches):
            raise ValueError(
                "discrete branches beside continuous actions must have 2 choices each; "
                f"got branches of {list(self.branches)} beside {self.continuous}"
            )
        if not self.continuous and math.prod(self.branches) > MOST_ACTIONS:
            raise ValueError(f"discrete branches must make at most {MOST_ACTIONS} actions; got {list(self.branches)}")

    def spec(self, batch: torch.Size) -> Bounded | Categorical:
        """The spec of our actions: float32 (*batch, A), or int64 (*batch)."""
        if not self.continuous:
            return Categorical(math.prod(self.branches), shape=batch, dtype=torch.int64)
        shape = torch.Size([*batch, self.continuous + len(self.branches)])
        return Bounded(-1, 1, shape, dtype=torch.float32)

    def to_unity(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert our actions, floats (N, A) or integers (N,), to continuous float32 (N, C), discrete int32 (N, B)."""
        if not self.continuous:
            chosen = np.stack(np.unravel_index(action, self.branches), axis=-1)
            return np.zeros((len(action), 0), dtype=np.float32), chosen.astype(np.int32)
        return action[:, : self.continuous].astype(np.float32), (action[:, self.continuous :] > 0).astype(np.int32)

    def from_unity(self, continuous: np.ndarray, discrete: np.ndarray) -> np.ndarray:
        """The inverse of ``to_unity``, as for recorded play: a branch's 1 becomes 1.0, its 0 becomes -1.0."""
        if not self.continuous:
            return np.asarray(np.ravel_multi_index(tuple(discrete.T), self.branches))
        return np.concatenate([continuous, 2.0 * discrete - 1.0], axis=1, dtype=np.float32)


@checked()
def observation_size(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> int:
    """The size of an observation made of the arrays (name, shape), one after the other in Unity's order.

    Unity sorts an agent's sensors by name: FoodCollector's 49 ray values come before its 4 vector values.

    Raises:
        ValueError: there is no array, or one is a picture or a grid.
    """
    wrong = [f"{name or 'without a name'} of {tuple(shape)}" for name, shape in shapes if len(shape) != 1]
    if wrong or not shapes:
        raise ValueError(
            f"shapes, the build's observations, must be arrays of one axis; got {', '.join(wrong) or 'none'}"
        )
    return sum(shape[0] for _, shape in shapes)


class Turn:
    """The build's answer to one action of its N agents. Rows are agents, by ascending id.

    A build answers in messages. In a message an agent may ask for an action (a decision step), may have ended its
    episode (a terminal step), or both, since Unity begins the next episode at once. Between two actions there may be
    messages in which no agent asks: an episode ended before its next decision was due.

    Attributes:
        observation: newest observation of the episode that was acted in, float32 (N, O); its last one if it ended.
        first: observation for the next action, float32 (N, O); the next episode's first one if the episode ended.
        reward: reward of the agent and its group, float64 (N,). Rewards between an end and the first decision of the
            next episode belong to no action, and are left out, as ML-Agents' own trainers do.
        terminated, truncated: kind of the episode's end, bool (N,); Unity calls truncation "interrupted".
    """

    @checked(agents=distinct(at_least(0)), size=at_least(1))
    def __init__(self, agents: Sequence[int], size: int):
        self.row = {agent: row for row, agent in enumerate(agents)}
        number = len(agents)
        self.observation = np.zeros((number, size), dtype=np.float32)
        self.first = np.zeros_like(self.observation)
        self.reward = np.zeros(number)
        self.terminated, self.truncated = np.zeros(number, dtype=np.bool_), np.zeros(number, dtype=np.bool_)

    def add(self, asking: Any, ended: Any) -> bool:
        """Add a message's decision and terminal steps; return True if all agents ask for an action now.

        Raises:
            RuntimeError: the build does not keep to lockstep: only some agents ask for an action, or not all actions
                are allowed, or an episode ended twice.
        """
        over = self._rows(ended.agent_id)
        if (self.terminated | self.truncated)[over].any():
            raise RuntimeError("an episode must not end twice between two actions, and one did")
        self.observation[over] = _joined(ended.obs)
        self.reward[over] = ended.reward + ended.group_reward
        self.truncated[over] = ended.interrupted
        self.terminated[over] = ~np.asarray(ended.interrupted, dtype=np.bool_)
        if len(asking.agent_id) == 0:
            return False
        missing = sorted(self.row.keys() - set(asking.agent_id.tolist()))
        if missing:
            raise RuntimeError(
                f"all {len(self.row)} agents must ask for an action at the same step (one decision period, none "
                f"disabled); {len(asking.agent_id)} did, and not those with the ids {missing}"
            )
        if any(np.any(mask) for mask in asking.action_mask or ()):
            raise RuntimeError("discrete actions must all be allowed at all times; the build forbids some (masks)")
        rows = self._rows(asking.agent_id)
        self.first[rows] = _joined(asking.obs)
        goes_on = ~(self.terminated | self.truncated)
        self.observation[goes_on] = self.first[goes_on]
        self.reward[rows] += np.where(goes_on[rows], asking.reward + asking.group_reward, 0.0)
        return True

    def _rows(self, agent_id: np.ndarray) -> np.ndarray:
        return np.array([self.row[agent] for agent in agent_id.tolist()], dtype=np.int64)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate arrays (n, O_1), (n, O_2), ... of n agents to (n, O_1 + O_2 + ...)."""
    return np.concatenate(arrays, axis=1, dtype=np.float32)
