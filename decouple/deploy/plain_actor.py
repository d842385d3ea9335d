"""One agent's actor as a plain PyTorch module, from the environment's observations to the environment's actions.

    actor = PlainActor(model, observation_scaling=ObservationScaling(mean, std, clip=10.0))
    actor(observation)                                 # (*B, O) -> (*B, A), between the action's bounds

It holds trunk, policy branch and head of a model from `actor_value` or `actor_qvalue`. It has no critic, uses no
TensorDict and draws no random numbers. `export_actor` writes it to a file and `actor_latency` times it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.checks import SEED, at_least, check_setting, checked
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.gating import GatedPolicy
from decouple.networks.recurrence import recurrent_blocks
from decouple.networks.separation import Branch
from decouple.networks.stacking import StackedLinear

__all__ = ["ObservationScaling", "PlainActor"]


class ObservationScaling(NamedTuple):
    """The scaling of observations before the network: `clip((x - mean) / std, -clip, clip)`.

    Mean and standard deviation are finite numbers, or tensors of one observation's shape; std is positive. For the
    running statistics of `normalize_observation` they are a seed's mean and sqrt(variance + 1e-8), with clip 10; for
    frames that a network of floats reads, 0 and 255. They are kept in float32, as the observations are.
    """

    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0
    clip: float | None = None

    def apply(self, observation: Tensor) -> Tensor:
        """Scale observations (*B, ...); float32, computed in double precision."""
        mean, std = (torch.as_tensor(x, dtype=torch.float32).double() for x in (self.mean, self.std))
        scaled = (observation.double() - mean) / std
        return (scaled if self.clip is None else scaled.clamp(-self.clip, self.clip)).float()


class PlainActor(nn.Module):
    """Maps observation (*B, ...) [, noise (*B, n)] to action (*B, A); a discrete one is (*B,), or one-hot (*B, n).

    A recurrent actor maps observation, state (*B, m) [, noise] to action and next state (*B, m). The state is the
    caller's to keep, and zeros where an episode begins.

    Several discrete ones at once are (*B, K); an action without bounds is the normal's, which the task clips.

    It is a copy of the model's actor, in float32 on the CPU. Without `sample` it takes the distribution's mode, and
    drops the outputs for a scale. With `sample` the caller passes noise: standard normal (n = A) for a squashed normal,
    `low + (high - low) (1 + tanh(loc + scale noise)) / 2`, or a normal, `loc + scale noise`; and standard Gumbel (n
    actions) for categoricals, `argmax(logits + noise)`.

    Args:
        model: one agent's model, from `actor_value` or `actor_qvalue`.
        sample: sample actions, as in training.
        observation_scaling: scaling that the environment applied to observations in training; None for none.
        observation_dtype: float32 or uint8; None: uint8 for frames (three axes, or bytes), which the blocks divide by
            255, else float32.

    Attributes:
        space: the action space.
        observation_shape: shape of one observation.
        state_size: numbers of a recurrent actor's state, m; 0 without recurrent blocks.

    Raises:
        ValueError: another model, stacked agents, parameters that are not finite, a policy that reads further keys, a
            network that does not know its observation's shape, a scaling that does not fit, another dtype; `sample`
            with a deterministic policy (TD3, DDPG).
    """

    middle: Tensor
    half_range: Tensor
    mean: Tensor
    std: Tensor

    @checked()
    def __init__(
        self,
        model: ActorValue | ActorQValue,
        *,
        sample: bool = False,
        observation_scaling: ObservationScaling | None = None,
        observation_dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _check_model(model, sample)
        self.space, self.sample = model.action_space, sample
        self.observation_shape = tuple(model.example["observation"].shape)
        frames = len(self.observation_shape) == 3 or model.example["observation"].dtype == torch.uint8
        allowed = (None, torch.float32, torch.uint8)
        check_setting("observation_dtype", observation_dtype, allowed.__contains__, "torch.float32 or torch.uint8")
        self.observation_dtype = observation_dtype or (torch.uint8 if frames else torch.float32)
        self.trunk, self.policy, layers = (copy.deepcopy(module).cpu().float() for module in _modules(model))
        linear = next(module for module in layers.modules() if isinstance(module, nn.Linear))
        self.head = _first_rows(linear, linear.out_features if sample else self.space.size)
        # The module that turns the head's output into loc and scale, where the scale is needed.
        self.distribution = list(layers.children())[1] if sample and not self.space.discrete else None
        self.bounded = self.space.bounded
        if self.space.low is not None and self.space.high is not None and self.bounded:
            low, high = self.space.low.cpu().float(), self.space.high.cpu().float()
            middle = (high + low) / 2
            self.register_buffer("middle", middle)
            self.register_buffer("half_range", _within(low, high, middle))
        self.scaling = observation_scaling
        if observation_scaling is not None:
            mean, std = _checked(observation_scaling, self.observation_shape)
            if observation_scaling.clip == math.inf:  # which is none, and no number of JSON
                self.scaling = observation_scaling._replace(clip=None)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)
        memory = {name: recurrent_blocks(getattr(self, name), name) for name in ("trunk", "policy")}
        # The states' shapes in the order in which they lie in the state, part by part.
        self.shapes = {name: [block.state_shape for block in own.values()] for name, own in memory.items()}
        self.state_size = sum(math.prod(shape) for own in self.shapes.values() for shape in own)
        self.eval().requires_grad_(False)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The parts in the form of a model's `parts`, for `multiply_adds`."""
        return {"trunk": [self.trunk], "policy": [self.policy, self.head]}

    def forward(self, observation: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Any:
        """`first` and `second` are state and noise, in this order; an actor that has no state takes noise first."""
        state, noise = (first, second) if self.state_size else (None, first)
        if self.scaling is not None:
            observation = (observation - self.mean) / self.std
            if self.scaling.clip is not None:
                observation = observation.clamp(-self.scaling.clip, self.scaling.clip)
        if state is None:
            return self._action(self.policy(self.trunk(observation)), noise)
        features, after = observation, []
        for name, own in self.states(state).items():
            part = getattr(self, name)
            features, *new = part(features, None, *own) if own else (part(features),)
            after += [each.flatten(-2) for each in new]
        return self._action(features, noise), torch.cat(after, -1)

    def states(self, state: Tensor) -> dict[str, list[Tensor]]:
        """The states (*B, *state_shape) of each part's recurrent blocks, from the actor's state (*B, m)."""
        sizes = [math.prod(shape) for own in self.shapes.values() for shape in own]
        pieces = iter(state.split(sizes, -1))
        return {name: [next(pieces).unflatten(-1, shape) for shape in own] for name, own in self.shapes.items()}

    def _action(self, features: Tensor, noise: Tensor | None) -> Tensor:
        x = self.head(features)  # (*B, outputs)
        if self.space.discrete:
            x = x if noise is None else x + noise
            if self.space.choices:
                return torch.stack([part.argmax(-1) for part in x.split(self.space.choices, -1)], -1)  # (*B, K)
            index = x.argmax(-1)  # (*B,)
            return functional.one_hot(index, self.space.size) if self.space.one_hot else index
        if self.distribution is not None:
            loc, scale = self.distribution(x)
            x = loc + scale * noise  # (*B, A)
        if not self.bounded:
            return x
        return self.middle + self.half_range * torch.tanh(x)

    @checked(batch=at_least(1), seed=SEED)
    def random_inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random observations (B, ...), states (B, m) for a recurrent actor, and noise (B, n) for one that samples.

        They are the same for the same seed.
        """
        generator = torch.Generator().manual_seed(seed)
        size = (batch, *self.observation_shape)
        if self.observation_dtype.is_floating_point:
            observation = 2 * torch.randn(size, generator=generator)
            if self.scaling is not None:
                observation = self.mean + self.std * observation
            observation = observation.to(self.observation_dtype)
        else:
            observation = torch.randint(0, 256, size, generator=generator, dtype=self.observation_dtype)
        inputs = [observation]
        if self.state_size:
            inputs.append(2 * torch.rand(batch, self.state_size, generator=generator) - 1)  # as a GRU's
        if self.sample:
            noise = torch.empty(batch, self.space.size)
            gumbel = self.space.discrete
            inputs.append(
                -noise.exponential_(generator=generator).log() if gumbel else noise.normal_(generator=generator)
            )
        return tuple(inputs)


def _modules(model: ActorValue | ActorQValue) -> list[nn.Module]:
    """Trunk, policy branch and the policy head's layers; a branch with gates without what it hands on to the value."""
    parts = model.parts()
    modules = [*parts["trunk"], *parts["policy"]]
    return [Branch(list(module)) if isinstance(module, GatedPolicy) else module for module in modules]


def _check_model(model: ActorValue | ActorQValue, sample: bool) -> None:
    if not isinstance(model, ActorValue | ActorQValue):
        raise ValueError(f"model must come from actor_value() or actor_qvalue(); got {type(model).__name__}")
    if any(isinstance(module, StackedLinear) for module in model.modules()):
        raise ValueError("model must hold one agent; got a stack of several: unstack() them first")
    if "observation" not in model.example:
        raise ValueError("model must know its observation's shape: pass separate(..., example=<one observation>)")
    if keys := list(model.policy.keys):
        raise ValueError(f"model must have a policy that reads the observation alone; it reads {keys} too")
    if not all(p.isfinite().all() for module in _modules(model) for p in module.parameters()):
        raise ValueError("model must have finite parameters; some of the actor's are infinite or NaN")
    if sample and getattr(model, "deterministic", False):
        raise ValueError("sample must be False for a deterministic policy (TD3, DDPG); got True")


def _within(low: Tensor, high: Tensor, middle: Tensor) -> Tensor:
    """Half of each range, so that in float32 `middle + half` and `middle - half` do not lie beyond the bounds."""
    exact = torch.minimum(high.double() - middle, middle - low.double())
    half = exact.float()
    return torch.where(half > exact, torch.nextafter(half, torch.zeros(())), half)


def _first_rows(linear: nn.Linear, rows: int) -> nn.Linear:
    """A plain linear layer with this one's first outputs; a file needs no Head, which switches autocast off."""
    layer: Any = nn.utils.skip_init(nn.Linear, linear.in_features, rows)  # draws no random numbers
    with torch.no_grad():
        layer.weight.copy_(linear.weight[:rows])
        layer.bias.copy_(linear.bias[:rows])
    return layer


def _checked(scaling: ObservationScaling, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The scaling's mean and standard deviation in float32; ValueError unless they fit the shape and are finite."""
    mean, std = (torch.as_tensor(x, dtype=torch.float32, device="cpu") for x in (scaling.mean, scaling.std))
    for name, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), tuple(shape)) or not value.isfinite().all():
            raise ValueError(
                f"observation_scaling.{name} must be a finite number or tensor of shape {tuple(shape)}; got {value}"
            )
    if not (std > 0).all() or (scaling.clip is not None and not scaling.clip > 0):
        raise ValueError(f"observation_scaling must have a positive std and clip; got {std} and {scaling.clip}")
    return mean, std
