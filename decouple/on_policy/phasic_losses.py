"""Losses of auxiliary and distillation phases, as PPG, DCPG and DNA have them, and what they compare the model with.

    phase = Phase([CloneLoss(head), auxiliary], optimizer, prepare=Before(model), features=model.get_features())

`Before` writes into a rollout what the model says before the phase: the policy's distribution, and if asked its values.
The losses read these as constants, so that a phase changes the features without moving the policy away.

Papers: Cobbe et al. 2021, Phasic Policy Gradient (https://arxiv.org/abs/2009.04416); Aitchison and Sweetser 2022, DNA:
Proximal Policy Optimization with a Dual Network Architecture (https://arxiv.org/abs/2206.10027).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase, dispatch
from torch import Tensor
from torchrl.objectives.common import LossModule

from decouple.checks import at_least, checked, one_of
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import kl_divergence
from decouple.on_policy.losses import ValueLoss

__all__ = ["AuxiliaryValueLoss", "Before", "CloneLoss", "check_no_memory"]

FRAMES_AT_ONCE = 2048  # frames of a rollout that `Before` sends through the model at once


def check_no_memory(model: ActorValue) -> None:
    """Raise ValueError for a recurrent model, whose sequences these phases cannot learn from."""
    if model.recurrent:
        raise ValueError("model must have no recurrent blocks for an auxiliary or a distillation phase")


class Before:
    """Writes what a model says now into a flat rollout, under the nested key `before`; a `prepare` of a phase.

    `("before", "logits")`, or `("before", "loc")` and `("before", "scale")`: the policy's distribution. With `values`
    also `("before", "state_value")`, (*B, 1).

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        values: write the values too.

    Raises:
        ValueError: a recurrent model.
    """

    @checked()
    def __init__(self, model: ActorValue, *, values: bool = False):
        check_no_memory(model)
        keys = ["policy_hidden", "value_hidden"] if values else ["policy_hidden"]
        self.features, self.values = model.get_features(keys), model.get_value_head() if values else None
        parts: Any = model.get_policy_head().module
        *self.layers, sampled = parts
        self.keys = [*sampled.dist_params_keys, *(["state_value"] if values else [])]

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> None:
        """Add `before` to a flat rollout, (B,) or (S, B)."""
        observed = batch.select(*self.features.in_keys)
        parts = [self._of(rows).to(batch.device) for rows in observed.split(FRAMES_AT_ONCE, -1)]
        batch["before"] = torch.cat(parts, batch.ndim - 1)

    def _of(self, rows: TensorDictBase) -> TensorDictBase:
        frames = self.features(rows.to(next(self.features.parameters()).device))
        for module in [*self.layers, *([self.values] if self.values else [])]:
            module(frames)
        return frames.select(*self.keys)


class CloneLoss(LossModule):
    """The divergence of the policy from itself before the phase, `loss_clone = coeff * mean D(pi_old, pi)`.

    It trains head and features. `kl` is KL(pi_old || pi), in nats; `logits` half the mean squared error of the logits,
    for a categorical, as DNA's authors have it on discrete actions.

    Args:
        policy_head: the policy's head, as `model.get_policy_head()`; it reads `policy_hidden`.
        coeff: weight of the loss, finite and >= 0, beta.
        distance: `kl` or `logits`.

    Raises:
        ValueError: a setting that is not allowed, or `logits` for a policy without them.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        before: NestedKey = "before"

    default_keys = _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})
    policy_head: ProbabilisticTensorDictSequential
    policy_head_params: TensorDictParams
    target_policy_head_params: TensorDictParams
    coeff: Tensor

    @checked(coeff=at_least(0), distance=one_of("kl", "logits"))
    def __init__(self, policy_head: ProbabilisticTensorDictSequential, *, coeff: float = 1.0, distance: str = "kl"):
        super().__init__()
        keys = list(policy_head.module[-1].dist_params_keys)
        if distance == "logits" and keys != ["logits"]:
            raise ValueError(f"distance must be kl for a policy that is no categorical; got {distance!r}, and {keys}")
        self.convert_to_functional(policy_head, "policy_head")
        self.register_coeff_buffer("coeff", float(coeff), device=self._default_device)
        self.distance, self.reduction, self.keys = distance, "mean", keys
        self.out_keys = ["loss_clone"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        before: Any = self.tensor_keys.before
        self.in_keys = [*self.policy_head.in_keys, *((before, key) for key in self.keys)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalar `loss_clone`, in a TensorDict."""
        old: TensorDictBase = tensordict.get(self.tensor_keys.before).detach()
        with self.policy_head_params.to_module(self.policy_head):
            new = self.policy_head[:-1](tensordict.select(*self.policy_head.in_keys))
            sampled = self.policy_head[-1]
            if self.distance == "logits":
                divergence = (new["logits"] - old["logits"]).square().mean(-1) / 2
            else:
                divergence = kl_divergence(sampled.get_dist(old), sampled.get_dist(new))
        loss = self.coeff * divergence.unsqueeze(-1)  # (*B, 1)
        return TensorDict({"loss_clone": self._reduce_loss(loss, tensordict)})


class AuxiliaryValueLoss(ValueLoss):
    """The squared error of a value head on the policy's features, `loss_auxiliary_value = coeff * mean (V - R)^2`.

    R is `value_target` (*B, 1), or what `set_keys(value_target=...)` names: DNA's distillation has the value network's
    values before the phase.

    Args:
        value_network: module that reads `policy_hidden` and writes `auxiliary_value` (*B, 1).
        coeff: weight of the loss, finite and >= 0.
    """

    @dataclass
    class _AcceptedKeys(ValueLoss._AcceptedKeys):
        value: NestedKey = "auxiliary_value"

    default_keys = _AcceptedKeys

    def __init__(self, value_network: TensorDictModuleBase, *, coeff: float = 0.5):
        super().__init__(value_network, coeff=coeff, clip_value=None)
        self.out_keys = ["loss_auxiliary_value"]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalar `loss_auxiliary_value`, in a TensorDict."""
        return TensorDict({"loss_auxiliary_value": super().forward(tensordict)["loss_critic"]})
