"""Agents of different sizes and learning rates as one learner: groups of equal agents, in one call and one process.

    learner = make_learner([small, small, large], [TD3Settings(), TD3Settings(), TD3Settings(learning_rate=3e-4)])
    train_off_policy(env, learner, seeds=[0, 1, 2], log=print)              # env (3, N): a row for each agent

Each agent learns what it would learn alone with its seed, whatever stands beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from decouple.networks.actor_qvalue import ActorQValue
from decouple.off_policy.interfaces import OffPolicyLearner
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
from decouple.off_policy.settings import OffPolicySettings
from decouple.seeding import SeedNoise

__all__ = ["LearnerGroups"]

OF_A_GROUP = ("learning_rate", "learning_rates")  # settings in which agents of one learner may differ


class LearnerGroups:
    """Groups of agents, one after another along the axis of seeds; the interface of `Learner`.

    Attributes:
        groups: the learners.
        at: the largest separation point.
        settings: the first group's, of which the training loop reads what all groups share.

    Raises:
        ValueError: groups whose settings differ in more than learning rates, or with other action spaces.
    """

    def __init__(self, groups: Sequence[OffPolicyLearner]):
        first = groups[0]
        for each in groups[1:]:
            theirs, own = (_shared(learner.settings) for learner in (each, first))
            differ = [name for name in own if theirs.get(name) != own[name]]
            if type(each.settings) is not type(first.settings) or differ:
                raise ValueError(
                    f"settings must be of one algorithm and differ in {' and '.join(OF_A_GROUP)} alone; got "
                    f"{type(first.settings).__name__} and {type(each.settings).__name__}, which differ in {differ}"
                )
            if each.space != first.space:
                raise ValueError(f"models must have one action space; got {first.space} and {each.space}")
        self.groups, self.settings, self.space, self.device = list(groups), first.settings, first.space, first.device
        self.at = max(each.at for each in groups)
        ends = list(accumulate(each.seeds for each in groups))
        self.seeds = ends[-1]
        self.rows = [slice(end - each.seeds, end) for each, end in zip(groups, ends, strict=True)]

    def _each(self) -> Iterator[tuple[OffPolicyLearner, slice]]:
        return zip(self.groups, self.rows, strict=True)

    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor:
        return torch.cat([each.act(observation[rows], noise and noise.part(rows)) for each, rows in self._each()])

    def random_actions(self, count: int, noise: SeedNoise) -> Tensor:
        return torch.cat([each.random_actions(count, noise.part(rows)) for each, rows in self._each()])

    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]:
        found = [each.judge(observation[rows], noise.part(rows)) for each, rows in self._each()]
        action, value, entropy = (torch.cat(parts) for parts in zip(*found, strict=True))
        return action, value, entropy

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]:
        found = [
            each.update(Transition(*(part[rows] for part in batch)), noise.part(rows)) for each, rows in self._each()
        ]
        return {name: torch.cat([of_group[name] for of_group in found]) for name in found[0]}

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None:
        for each, rows in self._each():
            each.learn(replay.part(rows), indices[rows].contiguous(), noise.part(rows), sums.part(rows))

    def anneal(self, left: float) -> None:
        for each in self.groups:
            each.anneal(left)

    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor:
        parts = ((each, Transition(*(part[rows] for part in batch)), rows) for each, rows in self._each())
        return torch.cat([each.critic_loss(own, noise.part(rows)) for each, own, rows in parts])

    def weights(self) -> dict[str, Tensor]:
        """For each group's parameters their sum, (S,), 0 for the agents of other groups: finite where all are."""
        found = {}
        for number, (each, rows) in enumerate(self._each()):
            for name, value in each.weights().items():
                sums = value.detach().reshape(-1, each.seeds, value[0].numel()).sum((0, 2), dtype=torch.float64)
                found[f"{name} of group {number}"] = torch.zeros(self.seeds, dtype=torch.float64)
                found[f"{name} of group {number}"][rows] = sums.cpu()
        return found

    def models(self) -> list[ActorQValue]:
        return [model for each in self.groups for model in each.models()]

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [each.state_dict() for each in self.groups]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for each, own in zip(self.groups, state["groups"], strict=True):
            each.load_state_dict(own)


def _shared(settings: OffPolicySettings) -> dict[str, Any]:
    """The settings in which agents of one learner may not differ."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in OF_A_GROUP}
