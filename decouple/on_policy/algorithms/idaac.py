"""IDAAC: DAAC, with policy features that do not tell which of two frames of a level came earlier.

    train_on_policy(env, model, idaac_phases(model, settings), settings, log=print)

Source: Raileanu and Fergus 2021, Decoupling Value and Policy for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2102.10330), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential

from decouple.checks import checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.losses import OrderClassifier, OrderClassifierLoss, OrderLoss, same_level_partners
from decouple.on_policy.phase_parts import (
    adam,
    advantage_loss,
    check_alone,
    like,
    policy_loss,
    policy_phase,
    unique,
    value_phase,
)
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["idaac_phases"]


@checked()
def idaac_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """IDAAC: DAAC with an adversarial loss, so that policy features do not tell which of two frames came earlier.

    On each policy minibatch an order classifier steps first, on detached features, with its own Adam. The rollout must
    also hold `level_seed` and `step_count` (B, 1). Source: Raileanu and Fergus 2021, section 4. ValueError for a
    stacked model.
    """
    check_alone(model, "IDAAC")
    features = model.get_features(["policy_hidden"])
    classifier = TensorDictModule(
        like(model, OrderClassifier(model.policy_size, settings.order_width)),
        ["policy_hidden", ("partner", "policy_hidden")],
        ["order_logits"],
    )
    losses = [policy_loss(model, settings), advantage_loss(model, settings)]
    parameters = unique(features, *losses)
    losses.append(OrderLoss(classifier, coeff=settings.order_coeff))
    both_features = TensorDictSequential(features, _PartnerFeatures(features))
    adversary = Phase(
        loss=OrderClassifierLoss(classifier),
        optimizer=adam(classifier.parameters(), settings),
        max_grad_norm=settings.max_grad_norm,
        features=both_features,
        train_features=False,
        name="order",
    )
    policy = policy_phase(
        losses,
        both_features,
        parameters,
        settings,
        prepare=lambda batch: _add_partners(batch, features.in_keys),
        adversary=adversary,
    )
    return [policy, value_phase(model, settings)]


class _PartnerFeatures(TensorDictModuleBase):
    """Computes the partners' features: (`partner`, `observation`, ...) -> (`partner`, `policy_hidden`)."""

    def __init__(self, features: TensorDictModuleBase):
        super().__init__()
        self.in_keys = [("partner", key) for key in features.in_keys]
        self.out_keys = [("partner", "policy_hidden")]
        self.features = features

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.features(tensordict.get("partner"))
        return tensordict


def _add_partners(batch: TensorDictBase, keys: Sequence[NestedKey]) -> None:
    """Add to each frame of a flat rollout (B,) a random partner of its level, with the given keys and `step_count`."""
    partners = same_level_partners(batch["level_seed"])
    batch["partner"] = batch.select(*keys, "step_count")[partners]
