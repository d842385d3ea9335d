"""Heads: the last layer of a policy or a value network, and the distribution or the bounds of its actions.

A discrete action gets logits and a categorical distribution. A bounded continuous one gets either a tanh-squashed
normal (its scale a parameter, or computed from the features) or a plain tanh between the bounds. Networks that read an
action read it in [-1, 1] (`ActionUnit`), whatever the task's units are.
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

MIN_LOG_SCALE, MAX_LOG_SCALE = -20.0, 2.0  # bounds of a scale computed from the features: OpenAI Spinning Up's SAC


class ActionSpace(NamedTuple):
    """The actions a policy chooses from: `size` discrete ones, or `size` floats between `low` and `high` (size,)."""

    size: int
    low: Tensor | None  # None for discrete actions
    high: Tensor | None
    one_hot: bool = False

    @property
    def discrete(self) -> bool:
        return self.low is None

    @property
    def in_unit(self) -> bool:
        """True where actions need no `ActionUnit`: they are discrete, or every component's bounds are -1 and 1."""
        if self.low is None or self.high is None:
            return True
        return bool((self.low == -1).all() and (self.high == 1).all())

    def unit(self) -> ActionSpace:
        """The same space with each component in [-1, 1]; a discrete space itself."""
        if self.low is None:
            return self
        return self._replace(low=-torch.ones_like(self.low), high=torch.ones_like(self.low))


class ActionUnit(nn.Module):
    """Converts actions between the task's units and [-1, 1]: `action = middle + half_range * unit` per component.

    To a critic in the task's units a component of +-0.01 would hardly matter beside one of +-100, and a policy's
    entropy would depend on the units of its actions.

    Args:
        space: a space of continuous actions, with bounds (A,).

    Attributes:
        low, high: the bounds in the task's units, (A,).
        middle, half_range: the bounds' mean, and half of their distance, (A,).

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
            raise ValueError(f"space must be continuous; got {space.size} discrete actions")
        low, high = space.low.clone(), space.high.clone()
        middle, half = high / 2 + low / 2, high / 2 - low / 2  # halved first: the range itself may overflow
        bounds = {"low": low, "high": high, "middle": middle, "half_range": half}
        bounds["divisor"] = torch.where(half > 0, half, 1)  # a component with low == high is 0 in the unit
        for name, value in bounds.items():
            self.register_buffer(name, value, persistent=False)  # not in a checkpoint: the action's spec gives them

    def forward(self, action: Tensor) -> Tensor:
        """Task's units -> [-1, 1], (*B, A)."""
        return (action - self.middle) / self.divisor

    def to_task(self, unit: Tensor) -> Tensor:
        """[-1, 1] -> task's units, (*B, A), clamped to the bounds since the sum may round past them."""
        return torch.clamp(torch.addcmul(self.middle, self.half_range, unit), self.low, self.high)


class Head(nn.Linear):
    """A linear layer in full precision, also under autocast: logits and values are not rounded to bfloat16."""

    full_precision = True

    @checked(in_features=at_least(1), out_features=at_least(1), gain=at_least(0))
    def __init__(self, in_features: int, out_features: int, gain: float | None):
        """`gain`: gain of the orthogonal initialisation, with biases at 0; None keeps PyTorch's own initialisation."""
        super().__init__(in_features, out_features)
        if gain is not None:
            orthogonal_(self, gain)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features)


class NormalParameters(nn.Module):
    """Maps (*B, 2 A) to loc and scale (*B, A): scale = exp(clip(log_scale, -20, 2)), as OpenAI Spinning Up's SAC."""

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = parameters.chunk(2, -1)
        return loc, log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE).exp()


@checked()
def action_space(spec: TensorSpec, batch: Sequence[int] | None = None) -> ActionSpace:
    """The action space of an environment's action spec, without batch axes.

    Args:
        spec: the action spec. It does not say which axes are batch axes: of a Bounded spec all but the last are.
        batch: the environment's batch size (*B), where it is known. Actions must then have the shape (*B), (*B, n)
            where they are one-hot, (*B, A) where they are continuous: one number for each of N games is not an action
            with N components.

    Raises:
        ValueError: a spec that is neither Categorical or OneHot without a mask, nor a Bounded vector of floats whose
            bounds are finite, low < high, and the same for the whole batch; or actions of another shape.
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
            raise ValueError(f"action_spec must have no mask, since policies do not read masks; got {spec}")
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
        size: number of features of `policy_hidden`.
        spec: the environment's action spec.
        gain: gain of the linear layer's orthogonal initialisation; None for PyTorch's own.
        state_dependent_scale: True where the normal's scale is computed from the features (SAC); False where it is a
            parameter (PPO).
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
    """The head, which writes `loc` and `scale` (*B, A), followed by a tanh-squashed normal between the bounds."""
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
    """The head, which writes `action_logit` (*B, A), followed by a tanh between the bounds, which writes `action`."""
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
