"""IDAAC: DAAC, with policy features that do not tell which of two frames of a level came earlier.

    train_on_policy(env, model, idaac_phases(model, settings), settings, log=print)

    model = stack([actor_value(...) for seed in seeds])         # several seeds at once
    train_on_policy(env, model, idaac_phases(model, settings, seeds), settings, log=print, seeds=seeds)

Source: Raileanu and Fergus 2021, Decoupling Value and Policy for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2102.10330), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.agents import kind_of_agents
from decouple.on_policy.losses import OrderClassifier, OrderClassifierLoss, OrderLoss, same_level_partners
from decouple.on_policy.phase_parts import (
    OtherFeatures,
    adam,
    advantage_loss,
    for_agents,
    policy_loss,
    policy_phase,
    unique,
    value_phase,
)
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.seeding import SeedNoise

__all__ = ["idaac_phases"]


@checked(seeds=ANY_NUMBER)
def idaac_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """IDAAC: DAAC with an adversarial loss, so that policy features do not tell which of two frames came earlier.

    On each policy minibatch an order classifier steps first, on detached features, with its own Adam. The rollout must
    also hold `step_count` and, where the task has levels, `level_seed` (B, 1); without it all frames are of one level.
    Source: Raileanu and Fergus 2021, section 4.

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        settings: IDAAC's settings.
        seeds: seeds of a stack's agents, from each of which its advantage head and its classifier are initialised; None
            for one agent. A stack's partners come from the random numbers of its agents' minibatches, one agent's from
            torch's generator.

    Raises:
        ValueError: a recurrent model; seeds that are not different or not as many as the model's.
    """
    if model.recurrent:
        raise ValueError("model must have no recurrent blocks for IDAAC: a frame's partner comes without its history")
    features = model.get_features(["policy_hidden"])
    classifier = TensorDictModule(
        for_agents(model, lambda: OrderClassifier(model.policy_size, settings.order_width), seeds, stream=1),
        ["policy_hidden", ("partner", "policy_hidden")],
        ["order_logits"],
    )
    losses = [policy_loss(model, settings), advantage_loss(model, settings, seeds)]
    parameters = unique(features, *losses)
    order, of_classifier = OrderLoss(classifier, coeff=settings.order_coeff), OrderClassifierLoss(classifier)
    order.reduction = of_classifier.reduction = kind_of_agents(model).reduction
    losses.append(order)
    both_features = TensorDictSequential(features, OtherFeatures(features, "partner"))
    adversary = Phase(
        loss=of_classifier,
        optimizer=adam(model, classifier.parameters(), settings),
        max_grad_norm=settings.max_grad_norm,
        features=both_features,
        train_features=False,
        name="order",
    )
    pairing: dict[str, Any] = {"prepare": lambda batch: _add_partners(batch, features.in_keys)}
    if seeds is not None:
        pairing = {"draw": lambda batch, shuffle: _add_own_partners(batch, features.in_keys, shuffle)}
    policy = policy_phase(
        model,
        losses,
        both_features,
        parameters,
        settings,
        **pairing,
        adversary=adversary,
    )
    return [policy, value_phase(model, settings)]


def _add_partners(batch: TensorDictBase, keys: Sequence[NestedKey]) -> None:
    """Add to each frame of a flat rollout (B,) a random partner of its level, with the given keys and `step_count`."""
    batch["partner"] = batch.select(*keys, "step_count")[same_level_partners(_levels(batch))]


def _add_own_partners(batch: TensorDictBase, keys: Sequence[NestedKey], shuffle: SeedNoise) -> None:
    """`_add_partners` to a flat rollout (S, B): each agent's frames, by the agent's own random numbers."""
    partners = own_partners(batch, shuffle)
    agents: Any = torch.arange(len(partners), device=partners.device).unsqueeze(1)
    batch["partner"] = batch.select(*keys, "step_count")[agents, partners]


def own_partners(batch: TensorDictBase, shuffle: SeedNoise) -> Tensor:
    """Each frame's partner in a flat rollout (S, B): its index among the agent's frames, (S, B), int64."""
    levels = zip(_levels(batch), shuffle.generators, strict=True)
    return torch.stack([same_level_partners(level, generator) for level, generator in levels])


def _levels(batch: TensorDictBase) -> Tensor:
    """The frames' levels (*B, 1), or zeros (*B) where the task has none: all frames are then of one level."""
    levels = batch.get("level_seed", None)
    return torch.zeros(batch.batch_size, dtype=torch.int64, device=batch.device) if levels is None else levels
