"""The interface of a learner, as training loop and diagnosis use it, and the function that makes one for a model.

learner = make_learner(models, TD3Settings())                       # S agents at once, compiled where that is possible
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
from decouple.off_policy.compiled_learner import CompiledLearner, not_compiled
from decouple.off_policy.learner import Learner
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
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

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None: ...

    def anneal(self, left: float) -> None: ...

    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor: ...

    def weights(self) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class OffPolicyLearner(TrainedAgents, Protocol):
    """The whole interface of `Learner` and `TorchRLLearner`, with the critics' values and the agents as models."""

    device: torch.device

    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]: ...

    def models(self) -> list[ActorQValue]: ...


@checked(update=one_of("auto", "compiled", "batched", "torchrl"))
def make_learner(models: Sequence[ActorQValue], settings: OffPolicySettings, update: str = "auto") -> OffPolicyLearner:
    """Make the learner of these agents.

    Args:
        models: one model per seed, from `actor_qvalue`.
        settings: the algorithm's settings.
        update: `compiled` for `CompiledLearner`, kernels for perceptrons on a processor; `batched` for `Learner`, all
            agents at once in torch; `torchrl` for `TorchRLLearner`, one agent with TorchRL's own losses; `auto` for
            `compiled` where that is possible, else `batched`.

    Raises:
        ValueError: models that the algorithm cannot train, that cannot be stacked or, with `compiled`, that kernels do
            not know; several with `torchrl`.
    """
    if update == "torchrl":
        check_setting(
            "update", update, lambda _: len(models) == 1, f"auto, compiled or batched for {len(models)} models"
        )
        return TorchRLLearner(models[0], settings)
    if update == "batched" or not models:
        return Learner(models, settings)
    why = not_compiled(models)
    if update == "compiled":
        check_setting("update", update, lambda _: why is None, f"auto or batched here: {why}")
    return CompiledLearner(models, settings) if why is None else Learner(models, settings)
