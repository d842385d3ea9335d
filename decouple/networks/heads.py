"""Heads: the last layer of a policy or a value network, and the distribution or the bounds of its actions.

A discrete action gets logits and a categorical distribution; a bounded continuous one either a tanh-squashed normal
(with a scale of its own, or one that the features decide) or a plain tanh between the bounds. What reads an action
reads it in [-1, 1] (`ActionUnit`), whatever the task's units are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from tensordict.nn import AddStateIndependentNormalScale, InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, OneHot, TensorSpec
from torchrl.modules import OneHotCategorical, ProbabilisticActor, TanhModule, TanhNormal

from decouple.checks import at_least, checked
from decouple.networks.blocks import orthogonal_

__all__ = ["ActionSpace", "ActionUnit", "Head", "action_space", "deterministic_head", "stochastic_head"]

MIN_LOG_SCALE, MAX_LOG_SCALE = -20.0, 2.0  # of a scale that the features decide: OpenAI Spinning Up's SAC


class ActionSpace(NamedTuple):
    """What a policy chooses from: `size` actions, or a vector of `size` floats between `low` and `high` (size,)."""

    size: int
    low: Tensor | None  # None: discrete
    high: Tensor | None
    one_hot: bool = False

    @property
    def discrete(self) -> bool:
        return self.low is None

    @property
    def in_unit(self) -> bool:
        """Whether actions need no `ActionUnit`: they are indices, or each component lies in [-1, 1] as it is."""
        if self.low is None or self.high is None:
            return True
        return bool((self.low == -1).all() and (self.high == 1).all())

    def unit(self) -> ActionSpace:
        """The same with each component in [-1, 1]; a discrete one as it is."""
        if self.low is None:
            return self
        return self._replace(low=-torch.ones_like(self.low), high=torch.ones_like(self.low))


class ActionUnit(nn.Module):
    """Actions in the task's units and in [-1, 1], component by component: `action = middle + half_range * unit`.

    A critic that read the task's units would see a component of +-0.01 hardly at all and one of +-100 alone, and the
    entropy of a policy would depend on what its actions are measured in.

    Args:
        space: of continuous actions, with bounds (A,).

    Attributes:
        low, high: the bounds in the task's units, (A,).
        middle, half_range: their mean, and half of their range.

    Raises:
        ValueError: a discrete action.
    """

    low: Tensor
    high: Tensor
    middle: Tensor
    half_range: Tensor
    divisor: Tensor

    @checked()
    def __init__(self, space: ActionSpace):
        super().__init__()
        if space.low is None or space.high is None:
            raise ValueError(f"space must be of a continuous action; got {space.size} discrete ones")
        low, high = space.low.clone(), space.high.clone()
        middle, half = high / 2 + low / 2, high / 2 - low / 2  # halved first: the range itself may overflow
        bounds = {"low": low, "high": high, "middle": middle, "half_range": half}
        bounds["divisor"] = torch.where(half > 0, half, 1)  # a component with low == high is 0 in the unit
        for name, value in bounds.items():
            self.register_buffer(name, value, persistent=False)  # they follow from the action's spec

    def forward(self, action: Tensor) -> Tensor:
        """Task's units -> [-1, 1], (*B, A)."""
        return (action - self.middle) / self.divisor

    def to_task(self, unit: Tensor) -> Tensor:
        """[-1, 1] -> task's units, (*B, A), within the bounds also where the sum would round past them."""
        return torch.clamp(torch.addcmul(self.middle, self.half_range, unit), self.low, self.high)


class Head(nn.Linear):
    """A linear layer in full precision, also under autocast: logits and values are not rounded to bfloat16."""

    full_precision = True

    @checked(in_features=at_least(1), out_features=at_least(1), gain=at_least(0))
    def __init__(self, in_features: int, out_features: int, gain: float | None):
        """`gain` of the orthogonal initialisation with biases at 0; None keeps PyTorch's own initialisation."""
        super().__init__(in_features, out_features)
        if gain is not None:
            orthogonal_(self, gain)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features)


class NormalParameters(nn.Module):
    """(*B, 2 A) -> loc, scale (*B, A): scale = exp(clip(log_scale, -20, 2)), as OpenAI Spinning Up's SAC."""

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = parameters.chunk(2, -1)
        return loc, log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE).exp()


@checked()
def action_space(spec: TensorSpec, batch: Sequence[int] | None = None) -> ActionSpace:
    """What an environment's action spec allows, batch axes aside.

    Args:
        spec: it does not say which of its axes are the batch's. Of a Bounded one all but the last are taken for them.
        batch: the environment's batch size (*B), where it is known. Actions must then be (*B), (*B, n) where they are
            one-hot, (*B, A) where they are continuous: one number for each of N games is no action of N components.

    Raises:
        ValueError: not Categorical or OneHot without a mask, or a Bounded vector of floats whose bounds are finite, the
            lower below the upper in each component, and the same for the whole batch; actions of another shape.
    """
    space = _action_space(spec)
    if batch is not None:
        shape = (*batch, *(() if space.discrete and not space.one_hot else (space.size,)))
        if tuple(spec.shape) != shape:
            raise ValueError(
                f"action_spec must have the shape {shape}, an index or a vector of floats for each game of a batch "
                f"{tuple(batch)}; got {tuple(spec.shape)}: {spec}"
            )
    return space


def _action_space(spec: TensorSpec) -> ActionSpace:
    if type(spec) in (Categorical, OneHot):  # not their subclasses: several actions at once, or bits
        if getattr(spec, "mask", None) is not None:
            raise ValueError(f"action_spec must have no mask, which a policy would not see; got {spec}")
        return ActionSpace(int(spec.n), None, None, isinstance(spec, OneHot))
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point and spec.ndim > 0 and spec.shape.numel():
        low, high = (getattr(spec.space, side).reshape(-1, spec.shape[-1]) for side in ("low", "high"))  # (B, A)
        if not ((low == low[0]).all() and (high == high[0]).all()):
            raise ValueError(f"action_spec must have the same bounds along all axes but the last; got {spec}")
        low, high = low[0], high[0]
        if not (low.isfinite() & high.isfinite()).all():
            raise ValueError(f"action_spec must have finite bounds; got {low.tolist()} to {high.tolist()}")
        if not (low < high).all():
            got = f"{low.tolist()} to {high.tolist()}"
            raise ValueError(f"action_spec must have lower bounds below the upper ones in each component; got {got}")
        return ActionSpace(spec.shape[-1], low, high)
    raise ValueError(f"action_spec must be Categorical, OneHot or a Bounded vector of floats; got {spec}")


@checked(size=at_least(1), gain=at_least(0))
def stochastic_head(
    size: int, spec: TensorSpec, gain: float | None, *, state_dependent_scale: bool = False
) -> ProbabilisticActor:
    """`policy_hidden` (*B, size) -> the distribution's parameters, `action` and `action_log_prob`.

    Args:
        size: features of `policy_hidden`.
        spec: of the action.
        gain: of the linear layer's orthogonal initialisation; None for PyTorch's own.
        state_dependent_scale: the features decide the normal's scale (SAC); else it is a parameter of its own (PPO).
    """
    space = action_space(spec)
    if space.discrete:
        head = TensorDictModule(Head(size, space.size, gain), ["policy_hidden"], ["logits"])
        return _actor(head, ["logits"], OneHotCategorical if space.one_hot else torch.distributions.Categorical)
    if state_dependent_scale:
        layers = nn.Sequential(Head(size, 2 * space.size, gain), NormalParameters())
    else:
        layers = nn.Sequential(Head(size, space.size, gain), AddStateIndependentNormalScale(space.size))
    head = TensorDictModule(layers, ["policy_hidden"], ["loc", "scale"])
    return squashed_actor(head, space)


@checked()
def squashed_actor(head: TensorDictModule, space: ActionSpace) -> ProbabilisticActor:
    """A module that writes `loc` and `scale`, (*B, A), and behind it a tanh-squashed normal between the bounds."""
    return _actor(head, ["loc", "scale"], TanhNormal, low=space.low, high=space.high)


@checked(size=at_least(1), gain=at_least(0))
def deterministic_head(size: int, spec: TensorSpec, gain: float | None) -> TensorDictSequential:
    """`policy_hidden` (*B, size) -> `action` (*B, A), tanh between the action's bounds (DDPG, TD3).

    Raises:
        ValueError: a discrete action.
    """
    space = action_space(spec)
    if space.discrete:
        raise ValueError(f"action_spec must be continuous for a deterministic policy; got {spec}")
    head = TensorDictModule(Head(size, space.size, gain), ["policy_hidden"], ["action_logit"])
    return tanh_actor(head, space)


@checked()
def tanh_actor(head: TensorDictModule, space: ActionSpace) -> TensorDictSequential:
    """A module that writes `action_logit`, (*B, A), and behind it a tanh between the bounds: `action`."""
    return TensorDictSequential(head, TanhModule(["action_logit"], ["action"], low=space.low, high=space.high))


def _actor(head: TensorDictModule, keys: list[str], distribution: type, **bounds: Tensor | None) -> ProbabilisticActor:
    return ProbabilisticActor(
        head,
        in_keys=keys,
        distribution_class=distribution,
        distribution_kwargs=bounds,
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )
