"""Heads: the last layer of a policy or a value network, and the distribution or the bounds of its actions.

A discrete action gets logits and a categorical distribution, several discrete ones at once a categorical each. A
bounded continuous one gets either a tanh-squashed normal (its scale a parameter, or computed from the features) or a
plain tanh between the bounds, an unbounded one a normal. Networks that read an action read it in [-1, 1]
(`ActionUnit`), whatever the task's units are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from tensordict.nn import AddStateIndependentNormalScale, InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, OneHot, TensorSpec, Unbounded
from torchrl.data import MultiCategorical as MultiCategoricalSpec
from torchrl.modules import IndependentNormal, OneHotCategorical, ProbabilisticActor, TanhModule, TanhNormal

from decouple.checks import at_least, check_setting, checked, one_of
from decouple.networks.blocks import orthogonal_
from decouple.networks.distributions import MultiCategorical

__all__ = [
    "DISTRIBUTIONS",
    "ActionSpace",
    "ActionUnit",
    "Head",
    "action_space",
    "bounded_space",
    "deterministic_head",
    "stochastic_head",
    "unbounded",
]

DISTRIBUTIONS = ("auto", "normal", "squashed_normal")
if TYPE_CHECKING:  # a type checker knows the names
    Distribution = Literal["auto", "normal", "squashed_normal"]
else:
    Distribution = str
SUPPORTED = "Categorical, OneHot, MultiCategorical, Binary, or a vector of floats, Bounded or Unbounded"

MIN_LOG_SCALE, MAX_LOG_SCALE = -20.0, 2.0  # bounds of a scale computed from the features: OpenAI Spinning Up's SAC


class ActionSpace(NamedTuple):
    """The actions a policy chooses from: `size` discrete ones, or `size` floats between `low` and `high` (size,).

    With `choices`, an action is several indices, the i-th one of `choices[i]`; `size` is their sum.
    """

    size: int
    low: Tensor | None  # None for discrete actions; -inf where there is no bound
    high: Tensor | None
    one_hot: bool = False
    choices: tuple[int, ...] = ()

    @property
    def discrete(self) -> bool:
        return self.low is None

    @property
    def bounded(self) -> bool:
        """True for a continuous action whose bounds are finite in each component."""
        if self.low is None or self.high is None:
            return False
        return bool((self.low.isfinite() & self.high.isfinite()).all())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action: () for an index."""
        if self.choices:
            return (len(self.choices),)
        return (self.size,) if self.one_hot or not self.discrete else ()

    @property
    def in_unit(self) -> bool:
        """True where actions need no `ActionUnit`: discrete and unbounded ones, and where all bounds are -1 and 1."""
        if self.low is None or self.high is None or not self.bounded:
            return True
        return bool((self.low == -1).all() and (self.high == 1).all())

    def unit(self) -> ActionSpace:
        """The same space with each component in [-1, 1]; a space without bounds itself."""
        if self.low is None or not self.bounded:
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
        if not space.bounded:
            raise ValueError(f"space must have finite bounds; got {space.low.tolist()} to {space.high.tolist()}")
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
        ValueError: a spec that is none of Categorical, OneHot and MultiCategorical without a mask, Binary, and a vector
            of floats, Bounded or Unbounded, whose bounds are the same for the whole batch, each lower one below the
            upper; or actions of another shape.
    """
    space = _action_space(spec)
    if batch is not None:
        shape = (*batch, *space.shape)
        if tuple(spec.shape) != shape:
            raise ValueError(
                f"action_spec must have the shape {shape}, an index or a vector for each game of a batch "
                f"{tuple(batch)}; got {tuple(spec.shape)}: {_line(spec)}"
            )
    return space


def _line(spec: TensorSpec) -> str:
    """A spec on one line: its own text has a line for each of its parts."""
    return " ".join(str(spec).split())


def _action_space(spec: TensorSpec) -> ActionSpace:
    if getattr(spec, "mask", None) is not None:
        raise ValueError(f"action_spec must have no mask, since policies do not read masks; got {_line(spec)}")
    if type(spec) in (Categorical, OneHot):  # not their other subclasses
        return ActionSpace(int(spec.n), None, None, isinstance(spec, OneHot))
    if isinstance(spec, MultiCategoricalSpec):
        rows = spec.nvec.reshape(-1, spec.nvec.shape[-1])  # (B, K)
        if not (rows == rows[0]).all():
            raise ValueError(f"action_spec must have the same choices along all axes but the last; got {_line(spec)}")
        choices = tuple(rows[0].tolist())
        return ActionSpace(sum(choices), None, None, choices=choices)
    if isinstance(spec, Binary):
        return ActionSpace(2 * spec.shape[-1], None, None, choices=(2,) * spec.shape[-1])
    floats = spec.dtype.is_floating_point and spec.ndim > 0 and spec.shape.numel()
    if isinstance(spec, Bounded) and floats:
        low, high = (getattr(spec.space, side).reshape(-1, spec.shape[-1]) for side in ("low", "high"))  # (B, A)
        if not ((low == low[0]).all() and (high == high[0]).all()):
            raise ValueError(f"action_spec must have the same bounds along all axes but the last; got {_line(spec)}")
        low, high = low[0], high[0]
        if not (low < high).all():
            got = f"{low.tolist()} to {high.tolist()}"
            raise ValueError(f"action_spec must have lower bounds below the upper ones in each component; got {got}")
        return ActionSpace(spec.shape[-1], low, high)
    if isinstance(spec, Unbounded) and floats:
        return unbounded(spec.shape[-1])
    raise ValueError(f"action_spec must be {SUPPORTED}; got {_line(spec)}")


@checked(size=at_least(1))
def unbounded(size: int) -> ActionSpace:
    """The space of vectors of `size` floats without bounds."""
    return ActionSpace(size, torch.full((size,), -torch.inf), torch.full((size,), torch.inf))


@checked()
def bounded_space(spec: TensorSpec, kind: str) -> ActionSpace:
    """The action space of a spec, for a policy of this kind that acts in one index, or between finite bounds.

    Raises:
        ValueError: as `action_space`; several indices at once, or a vector without bounds.
    """
    space = action_space(spec)
    if space.choices or not (space.discrete or space.bounded):
        raise ValueError(
            f"action_spec must be Categorical, OneHot or a Bounded vector of floats with finite bounds for {kind}; "
            f"PPO, DAAC, IDAAC and TRPO take others; got {_line(spec)}"
        )
    return space


@checked(size=at_least(1), gain=at_least(0), distribution=one_of(*DISTRIBUTIONS))
def stochastic_head(
    size: int,
    spec: TensorSpec,
    gain: float | None,
    *,
    state_dependent_scale: bool = False,
    distribution: Distribution = "auto",
) -> ProbabilisticActor:
    """`policy_hidden` (*B, size) -> the distribution's parameters, `action` and `action_log_prob`.

    Args:
        size: number of features of `policy_hidden`.
        spec: the environment's action spec.
        gain: gain of the linear layer's orthogonal initialisation; None for PyTorch's own.
        state_dependent_scale: True where the normal's scale is computed from the features (SAC); False where it is a
            parameter (PPO).
        distribution: of a continuous action: squashed_normal, which stays between the bounds; normal, which does not
            know them; auto, squashed_normal where every component is bounded. A discrete action has categoricals.

    Raises:
        ValueError: as `action_space`; squashed_normal without bounds.
    """
    space = bounded_space(spec, "a scale out of the features") if state_dependent_scale else action_space(spec)
    if space.discrete:
        head = TensorDictModule(Head(size, space.size, gain), ["policy_hidden"], ["logits"])
        if space.choices:
            return _actor(head, ["logits"], MultiCategorical, choices=space.choices)
        return _actor(head, ["logits"], OneHotCategorical if space.one_hot else torch.distributions.Categorical)
    if state_dependent_scale:
        layers = nn.Sequential(Head(size, 2 * space.size, gain), NormalParameters())
    else:
        layers = nn.Sequential(Head(size, space.size, gain), AddStateIndependentNormalScale(space.size))
    head = TensorDictModule(layers, ["policy_hidden"], ["loc", "scale"])
    if distribution == "normal" or (distribution == "auto" and not space.bounded):
        return _actor(head, ["loc", "scale"], IndependentNormal)
    check_setting("distribution", distribution, lambda _: space.bounded, "normal for actions without finite bounds")
    return squashed_actor(head, space)


@checked()
def squashed_actor(head: TensorDictModule, space: ActionSpace) -> ProbabilisticActor:
    """The head, which writes `loc` and `scale` (*B, A), followed by a tanh-squashed normal between the bounds."""
    return _actor(head, ["loc", "scale"], TanhNormal, low=space.low, high=space.high)


@checked(size=at_least(1), gain=at_least(0))
def deterministic_head(size: int, spec: TensorSpec, gain: float | None) -> TensorDictSequential:
    """`policy_hidden` (*B, size) -> `action` (*B, A), tanh between the action's bounds (DDPG, TD3).

    Raises:
        ValueError: a discrete action, or one without bounds.
    """
    space = bounded_space(spec, "a deterministic policy")
    if space.discrete:
        others = "as TD3's; SAC, PPO, DAAC, IDAAC and TRPO take discrete actions"
        raise ValueError(f"action_spec must be continuous for a deterministic policy, {others}; got {_line(spec)}")
    head = TensorDictModule(Head(size, space.size, gain), ["policy_hidden"], ["action_logit"])
    return tanh_actor(head, space)


@checked()
def tanh_actor(head: TensorDictModule, space: ActionSpace) -> TensorDictSequential:
    """The head, which writes `action_logit` (*B, A), followed by a tanh between the bounds, which writes `action`."""
    return TensorDictSequential(head, TanhModule(["action_logit"], ["action"], low=space.low, high=space.high))


def _actor(head: TensorDictModule, keys: list[str], distribution: type, **options: Any) -> ProbabilisticActor:
    return ProbabilisticActor(
        head,
        in_keys=keys,
        distribution_class=distribution,
        distribution_kwargs=options,
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )
