"""The interface of a learner, as training loop and diagnosis use it, and the function that makes one for a model.

learner = make_learner(models, TD3Settings())                       # S agents at once: a `Learner`
learner = make_learner(models, TD3Settings(), update="torchrl")     # one agent, TorchRL's own losses
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from decouple.checks import check_setting, checked, one_of
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.heads import ActionSpace
from decouple.off_policy.learner import Learner
from decouple.off_policy.replay import Transition
from decouple.off_policy.settings import OffPolicySettings
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.seeding import SeedNoise

__all__ = ["OffPolicyLearner", "TrainedAgents", "make_learner"]


class TrainedAgents(Protocol):
    """The interface of S agents for `train_off_policy`; shapes as in `Learner`."""

    settings: OffPolicySettings
    seeds: int
    space: ActionSpace

    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor: ...

    def random_actions(self, count: int, noise: SeedNoise) -> Tensor: ...

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]: ...

    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor: ...

    def weights(self) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class OffPolicyLearner(TrainedAgents, Protocol):
    """The whole interface of `Learner` and `TorchRLLearner`, with the critics' values and the agents as models."""

    device: torch.device

    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]: ...

    def models(self) -> list[ActorQValue]: ...


@checked(update=one_of("batched", "torchrl"))
def make_learner(
    models: Sequence[ActorQValue], settings: OffPolicySettings, update: str = "batched"
) -> OffPolicyLearner:
    """Make the learner of these agents.

    Args:
        models: one model per seed, from `actor_qvalue`.
        settings: the algorithm's settings.
        update: `batched` for `Learner`, all agents at once; `torchrl` for `TorchRLLearner`, one agent with TorchRL's
            own losses.

    Raises:
        ValueError: models that the algorithm cannot train or that cannot be stacked; several with `torchrl`.
    """
    if update == "batched":
        return Learner(models, settings)
    check_setting("update", update, lambda _: len(models) == 1, f"batched for {len(models)} models")
    return TorchRLLearner(models[0], settings)
