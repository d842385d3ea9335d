"""Losses of DAAC and IDAAC that TorchRL lacks: the advantage loss with its head, the value loss, the order losses.

Features are computed once per minibatch, outside the losses, and stand in the TensorDict as `policy_hidden` and
`value_hidden`, with their graph; a loss holds only a head. The policy's own loss is TorchRL's `ClipPPOLoss` on heads.

A policy phase has ClipPPOLoss and `AdvantageLoss` (DAAC), and `OrderLoss` after a step on `OrderClassifierLoss`
(IDAAC); a value phase has `ValueLoss`. IDAAC gives every sample a partner of its level, under the nested key `partner`:
draw it with `same_level_partners` and run trunk and policy branch on the partner's observation too.

>>> head = TensorDictModule(AdvantageHead(256, 15), ["policy_hidden", "action"], ["action_advantage"])
>>> sum(parameter.numel() for parameter in head.parameters())
272
>>> minibatch = TensorDict(policy_hidden=torch.randn(8, 256), action=torch.arange(8), advantage=torch.randn(8, 1))
>>> AdvantageLoss(head)(minibatch)["loss_advantage"].shape
torch.Size([])

All losses take any leading batch *B, do not change their input, and treat targets and step counts as constants. They
raise TypeError if the network is not a TensorDictModule, ValueError for a setting out of range or a wrong shape,
KeyError for a missing tensor (`set_keys` renames it). As in TorchRL, the mean skips samples that `loss_mask_key` marks
invalid, coefficients are buffers (a state dict restores them too), and a deepcopy of a loss copies the parameters.

Paper: Raileanu and Fergus, Decoupling Value and Policy for Generalization in Reinforcement Learning, ICML 2021,
arXiv 2102.10330; initialisations as in the code released with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase, dispatch
from torch import Tensor, nn
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import _clip_value_loss, distance_loss

from decouple.checks import INT32_MAX, check_integer, check_setting
from decouple.networks.blocks import orthogonal_
from decouple.networks.heads import ActionSpace, ActionUnit
from decouple.on_policy.loss_parts import (
    action_vector,
    as_integers,
    as_network,
    constant,
    in_keys,
    keys_of,
    nonnegative,
    run_network,
)

__all__ = [
    "AdvantageHead",
    "AdvantageLoss",
    "OrderClassifier",
    "OrderClassifierLoss",
    "OrderLoss",
    "ValueLoss",
    "same_level_partners",
]


class AdvantageHead(nn.Module):
    """DAAC's advantage of an action, `A_theta(s, a) = w [policy_hidden, a] + b` (section 3.2 of the paper).

    Args:
        hidden_size: F >= 1, the width of the policy's features.
        num_actions: number of discrete actions, or components of a continuous one, >= 1; else ValueError.
        discrete: True where actions are discrete; they enter as one-hot vectors, several at once one behind the other.
        space: the action space; a bounded action then enters in [-1, 1]. None: actions enter as they come.
    """

    def __init__(
        self, hidden_size: int, num_actions: int, *, discrete: bool = True, space: ActionSpace | None = None
    ) -> None:
        super().__init__()
        check_setting("space", space, lambda v: v is None or isinstance(v, ActionSpace), "an ActionSpace or None")
        if space is not None and (space.discrete, space.size) != (discrete, num_actions):
            raise ValueError(f"space must be {'discrete' if discrete else 'continuous'}, of {num_actions}; got {space}")
        self.unit = None if space is None or space.in_unit else ActionUnit(space)
        self.hidden_size = check_integer("hidden_size", hidden_size, 1, INT32_MAX)
        self.num_actions = check_integer("num_actions", num_actions, 1, INT32_MAX)
        check_setting("discrete", discrete, lambda v: isinstance(v, bool), "True or False")
        self.discrete, self.choices = discrete, () if space is None else space.choices
        self.linear = orthogonal_(nn.Linear(hidden_size + num_actions, 1))

    def forward(self, policy_hidden: Tensor, action: Tensor) -> Tensor:
        """The actions' advantages (*B, 1) in the states with the features policy_hidden (*B, F).

        action: (*B, num_actions), continuous or one-hot, or indices (*B,), several at once (*B, K); else ValueError.
        """
        if policy_hidden.shape[-1:] != (self.hidden_size,):
            raise ValueError(f"policy_hidden must be (*B, {self.hidden_size}); got {tuple(policy_hidden.shape)}")
        batch = tuple(policy_hidden.shape[:-1])
        action = action_vector(action, batch, self.num_actions, discrete=self.discrete, choices=self.choices)
        if self.unit is not None:
            action = self.unit(action)
        return self.linear(torch.cat([policy_hidden, action.to(policy_hidden.dtype)], dim=-1))  # (*B, 1)


class OrderClassifier(nn.Module):
    """IDAAC's classifier, which tells which of two states came first (section 3.3): logits (*B, 2).

    Output 0 says that the partner came earlier in its episode than the sample, output 1 that it did not.

    Args:
        hidden_size: F >= 1, the width of the policy's features; else ValueError.
        width: units of one hidden layer with ReLU, >= 1; None (the default) for a classifier linear in both features.
    """

    def __init__(self, hidden_size: int, width: int | None = None) -> None:
        super().__init__()
        self.hidden_size = check_integer("hidden_size", hidden_size, 1, INT32_MAX)
        if width is None:
            self.layers = nn.Sequential(orthogonal_(nn.Linear(2 * hidden_size, 2)))
        else:
            width = check_integer("width", width, 1, INT32_MAX)
            first = orthogonal_(nn.Linear(2 * hidden_size, width), gain=math.sqrt(2))
            self.layers = nn.Sequential(first, nn.ReLU(), orthogonal_(nn.Linear(width, 2)))

    def forward(self, policy_hidden: Tensor, partner_policy_hidden: Tensor) -> Tensor:
        """Logits (*B, 2) from the sample's and the partner's features, both (*B, F); ValueError for other shapes."""
        own, partner = tuple(policy_hidden.shape), tuple(partner_policy_hidden.shape)
        if own != partner or own[-1:] != (self.hidden_size,):
            raise ValueError(f"both features must have the shape (*B, {self.hidden_size}); got {own} and {partner}")
        return self.layers(torch.cat([policy_hidden, partner_policy_hidden], dim=-1))  # (*B, 2)


class AdvantageLoss(LossModule):
    """DAAC's auxiliary loss (section 3.2), `loss_advantage = coeff * mean (A_theta(s, a) - A_hat)^2`.

    It trains head and features. A_hat is `advantage` (*B, 1), normalised over the rollout beforehand.

    Args:
        advantage_network: module that reads policy features and action and writes `action_advantage` (*B, 1).
        coeff: weight of the loss, the paper's alpha_A, finite and >= 0.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        advantage: NestedKey = "advantage"
        action_advantage: NestedKey = "action_advantage"

    default_keys = _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})
    advantage_network: TensorDictModule
    advantage_network_params: TensorDictParams
    target_advantage_network_params: TensorDictParams
    coeff: Tensor

    def __init__(self, advantage_network: TensorDictModuleBase, *, coeff: float = 0.25) -> None:
        super().__init__()
        self.convert_to_functional(as_network("advantage_network", advantage_network), "advantage_network")
        self.register_coeff_buffer("coeff", nonnegative("coeff", coeff), device=self._default_device)
        self.reduction = "mean"
        self.out_keys = ["loss_advantage"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        self.in_keys = in_keys(self.advantage_network, keys_of(self).advantage)

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalar `loss_advantage`, in a TensorDict."""
        keys = keys_of(self)
        prediction = run_network(
            self.advantage_network, self.advantage_network_params, tensordict, keys.action_advantage
        )
        target = constant(tensordict, keys.advantage, prediction.shape)
        loss = self.coeff * distance_loss(prediction, target, "l2")  # (*B, 1)
        return TensorDict({"loss_advantage": self._reduce_loss(loss, tensordict)})


class ValueLoss(LossModule):
    """PPO's clipped value loss alone, for a value phase; the critic part of ClipPPOLoss with loss_critic_type="l2".

    `loss_critic = coeff * mean max((V - R)^2, (V_old + clip(V - V_old, -clip_value, clip_value) - R)^2)`. It trains
    head and features. R is `value_target`, V_old the input's `state_value` from the rollout; all are (*B, 1).

    Args:
        value_network: module that reads the value features and writes `state_value` (*B, 1).
        coeff: weight of the loss, finite and >= 0; the paper's 0.5 multiplies the squared error itself.
        clip_value: clip range of the value's change since the rollout, finite and > 0; None for the squared error.

    Source: Schulman et al. 2017 (arXiv 1707.06347) and Baselines; as a phase, section 3.2 of the paper.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        value_target: NestedKey = "value_target"
        value: NestedKey = "state_value"

    default_keys = _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff", "clip_value"})
    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    coeff: Tensor
    clip_value: Tensor | None

    def __init__(self, value_network: TensorDictModuleBase, *, coeff: float = 0.5, clip_value: float | None = 0.2):
        super().__init__()
        self.convert_to_functional(as_network("value_network", value_network), "value_network")
        self.register_coeff_buffer("coeff", nonnegative("coeff", coeff), device=self._default_device)
        limit = None if clip_value is None else nonnegative("clip_value", clip_value)
        if limit == 0:
            raise ValueError("clip_value must be > 0, or None for no clipping; got 0")
        self.register_coeff_buffer("clip_value", limit, device=self._default_device)
        self.reduction = "mean"
        self.out_keys = ["loss_critic"] if limit is None else ["loss_critic", "value_clip_fraction"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        keys = keys_of(self)
        targets = [keys.value_target] if self.clip_value is None else [keys.value_target, keys.value]
        self.in_keys = in_keys(self.value_network, *targets)

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalar `loss_critic` and, with clipping, `value_clip_fraction`, the share of clipped samples.

        With `reduction = "none"` both are per sample, (*B, 1).
        """
        keys = keys_of(self)
        value = run_network(self.value_network, self.value_network_params, tensordict, keys.value)
        target = constant(tensordict, keys.value_target, value.shape)
        loss = distance_loss(target, value, "l2")  # (*B, 1)
        output = TensorDict()
        if self.clip_value is not None:
            acting_value = constant(tensordict, keys.value, value.shape)
            loss, clip_fraction = _clip_value_loss(acting_value, value, self.clip_value, target, loss, "l2")
            if self.reduction == "none":
                clip_fraction = ((value - acting_value).abs() > self.clip_value).to(value.dtype)  # (*B, 1)
            output["value_clip_fraction"] = clip_fraction
        output["loss_critic"] = self._reduce_loss(self.coeff * loss, tensordict)
        return output


class OrderClassifierLoss(LossModule):
    """IDAAC's loss of the order classifier (section 3.3): it trains the classifier alone, on detached features.

    `loss_order_classifier = mean BCE(softmax(logits)[0], y)`: y = 1 if the partner's `step_count` (*B, 1), counted from
    the episode's start, is less than the sample's, else (ties too) 0. `order_accuracy` is the share of pairs classified
    correctly (the released code compares the output's index with y, and so logs the complement).

    Args:
        classifier_network: module that reads the policy features of sample and partner and writes `order_logits`
            (*B, 2).
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        step_count: NestedKey = "step_count"
        partner_step_count: NestedKey = ("partner", "step_count")
        order_logits: NestedKey = "order_logits"

    default_keys = _AcceptedKeys
    classifier_network: TensorDictModule
    classifier_network_params: TensorDictParams
    target_classifier_network_params: TensorDictParams

    def __init__(self, classifier_network: TensorDictModuleBase) -> None:
        super().__init__()
        self.convert_to_functional(as_network("classifier_network", classifier_network), "classifier_network")
        self.reduction = "mean"
        self.out_keys = ["loss_order_classifier", "order_accuracy"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        keys = keys_of(self)
        self.in_keys = in_keys(self.classifier_network, keys.step_count, keys.partner_step_count)

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalars `loss_order_classifier` and `order_accuracy`, in a TensorDict."""
        keys = keys_of(self)
        logits = run_network(
            self.classifier_network, self.classifier_network_params, tensordict.detach(), keys.order_logits
        )
        log_probability = _order_log_probability(logits)
        shape = (*logits.shape[:-1], 1)
        step = constant(tensordict, keys.step_count, shape)
        earlier = constant(tensordict, keys.partner_step_count, shape) < step  # (*B, 1)
        loss = -torch.where(earlier, log_probability[..., :1], log_probability[..., 1:])  # (*B, 1)
        right = ((logits[..., :1] > logits[..., 1:]) == earlier).to(loss.dtype)
        output = {"loss_order_classifier": loss, "order_accuracy": right}
        return TensorDict({name: self._reduce_loss(value, tensordict) for name, value in output.items()})


class OrderLoss(LossModule):
    """IDAAC's adversarial loss (section 3.3): it trains both features so that the classifier cannot tell their order.

    `loss_order = coeff * mean BCE(softmax(logits)[0], 1/2) = -coeff / 2 * mean (log p_0 + log p_1) >= coeff * log 2`.
    The classifier gets no gradient from it. Unlike TorchRL's losses, this loss does not list the classifier among its
    parameters: the policy's gradient norm and optimizer would else include the `.grad` of the classifier's own loss.

    Args:
        classifier_network: the network of OrderClassifierLoss; it writes `order_logits` (*B, 2).
        coeff: weight of the loss, finite and >= 0.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        order_logits: NestedKey = "order_logits"

    default_keys = _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})
    classifier_network: TensorDictModule
    coeff: Tensor

    def __init__(self, classifier_network: TensorDictModuleBase, *, coeff: float = 0.001) -> None:
        super().__init__()
        # Bypasses nn.Module's registration, as convert_to_functional does, and does not register the parameters either.
        vars(self)["classifier_network"] = as_network("classifier_network", classifier_network)
        self.register_coeff_buffer("coeff", nonnegative("coeff", coeff))
        self.reduction = "mean"
        self.out_keys = ["loss_order"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        self.in_keys = in_keys(self.classifier_network)

    @property
    def classifier_network_params(self) -> TensorDictBase:
        """The classifier's current parameters, detached."""
        return TensorDict.from_module(self.classifier_network).detach()

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalar `loss_order`, in a TensorDict."""
        key = keys_of(self).order_logits
        logits = run_network(self.classifier_network, self.classifier_network_params, tensordict, key)
        loss = -self.coeff * _order_log_probability(logits).mean(dim=-1, keepdim=True)  # (*B, 1)
        return TensorDict({"loss_order": self._reduce_loss(loss, tensordict)})


def same_level_partners(level_seed: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each sample, the index of one drawn uniformly from all samples of its level, itself included: (N,), int64.

    level_seed is an integer tensor (N,) or (N, 1), else ValueError. Equal generators draw equal indices; a generator
    may live on another device. A sample alone in its level gets itself.

    >>> same_level_partners(torch.tensor([7, 3, 5])).tolist()
    [0, 1, 2]
    """
    if level_seed.ndim not in (1, 2) or level_seed.shape[1:] not in ((), (1,)):
        raise ValueError(f"level_seed must have shape (N,) or (N, 1); got {tuple(level_seed.shape)}")
    seeds = as_integers("level_seed", level_seed).flatten()
    _, level, size = torch.unique(seeds, return_inverse=True, return_counts=True)  # (N,) seeds -> (N,), (levels,)
    by_level = level.argsort(stable=True)  # (N,): samples sorted by level
    first = size.cumsum(0) - size  # (levels,): where each level's samples begin
    device = seeds.device if generator is None else generator.device
    # Whole numbers below 2^62 modulo a level's size: exact to one part in 2^40 up to 2^22 samples, unlike float32.
    draw = torch.randint(2**62, level.shape, generator=generator, device=device).to(seeds.device)  # (N,)
    return by_level[first[level] + draw % size[level]]


def _order_log_probability(logits: Tensor) -> Tensor:
    if logits.shape[-1:] != (2,):
        raise ValueError(f"order logits must have shape (*B, 2); got {tuple(logits.shape)}")
    return logits.log_softmax(dim=-1)  # (*B, 2)
