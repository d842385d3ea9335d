"""The interface of a learner: what the training loop asks of it, and what else it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.heads import ActionSpace
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
from decouple.off_policy.settings import OffPolicySettings
from decouple.seeding import SeedNoise

__all__ = ["OffPolicyLearner", "TrainedAgents"]


class TrainedAgents(Protocol):
    """The interface of S agents for `train_off_policy`; shapes as in `Learner`."""

    settings: OffPolicySettings
    seeds: int
    space: ActionSpace
    device: torch.device
    at: int

    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor: ...

    def random_actions(self, count: int, noise: SeedNoise) -> Tensor: ...

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]: ...

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None: ...

    def anneal(self, left: float) -> None: ...

    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor: ...

    def weights(self) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class OffPolicyLearner(TrainedAgents, Protocol):
    """The whole interface of `Learner` and `TorchRLLearner`, with the critics' values and the agents as models."""

    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]: ...

    def models(self) -> list[ActorQValue]: ...
