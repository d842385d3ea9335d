"""A perceptron's actor as its numbers alone: what is written into source files, and what NumPy makes of it.

    constants = actor_constants(PlainActor(model))     # refuses convolutions
    constant_actions(constants, observation)           # (B, O) -> (B, A), in NumPy's float32

`plain_c` writes these numbers as C, `page` as JavaScript. The functions here are the plain reading of both, with which
a file is compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from decouple.checks import check_setting
from decouple.deploy.plain_actor import PlainActor
from decouple.networks.heads import MAX_LOG_SCALE, MIN_LOG_SCALE, NormalParameters
from decouple.networks.perceptrons import perceptron_layers

__all__ = [
    "ActorConstants",
    "LinearLayer",
    "activate",
    "actor_constants",
    "choose",
    "constant_actions",
    "scaled_observation",
]


class LinearLayer(NamedTuple):
    """A linear layer and its activation: `activation(weight x + bias)`."""

    weight: np.ndarray  # (outputs, inputs), float32
    bias: np.ndarray  # (outputs,), float32
    activation: str  # linear, relu, tanh, elu, silu or leaky_relu
    slope: float  # elu's alpha or leaky_relu's negative slope, else 0


class ActorConstants(NamedTuple):
    """The numbers of an actor, in float32. Observations have O numbers, an action A of them."""

    layers: list[LinearLayer]  # hidden layers, then the head
    mean: np.ndarray | None  # (O,), subtracted from an observation; None: it is not scaled
    std: np.ndarray | None  # (O,), which it is then divided by
    clip: float | None  # bound of a scaled observation; None: there is none
    kind: str  # kind of action: continuous, index, one-hot or indices
    size: int  # number of action components, or of discrete actions over all choices
    choices: tuple[int, ...]  # number of discrete actions of each index; (): a continuous action
    sample: bool  # True: noise is a second input
    scale: np.ndarray | None  # (A,), the normal's scale; None: there is none, or the head computes it
    bounds: dict[str, np.ndarray]  # low, high, middle and half_range, each (A,); {}: there are none

    @property
    def inputs(self) -> int:
        """Number of an observation's components."""
        return self.layers[0].weight.shape[1]

    @property
    def action_size(self) -> int:
        """Number of an action's components."""
        return {"index": 1, "indices": len(self.choices)}.get(self.kind, self.size)

    @property
    def discrete(self) -> bool:
        """True where the action is one of a number, or several such."""
        return self.kind != "continuous"


def actor_constants(actor: PlainActor) -> ActorConstants:
    """The numbers of an actor that is a perceptron.

    Raises:
        ValueError: an actor of convolutions or of other layers, an activation that is not of the settings' five, or
            observations that are not a vector of float32.
    """
    parts = [("trunk", actor.trunk), ("policy", actor.policy), ("head", actor.head)]
    try:
        told = [layer for name, part in parts for layer in perceptron_layers(part, name)]
    except ValueError as error:
        raise ValueError(
            f"model must have an actor of linear layers and activations for this format: {error}"
        ) from None
    shape, dtype = actor.observation_shape, actor.observation_dtype
    check_setting("observation's shape", shape, lambda v: len(v) == 1, "a vector for this format")
    check_setting("observation_dtype", dtype, lambda v: v == torch.float32, "torch.float32 for this format")
    linear = [module for module in actor.modules() if isinstance(module, nn.Linear)]
    pairs = zip(linear, told, strict=True)
    layers = [
        LinearLayer(_array(each.weight), _array(each.bias), kind, float(slope)) for each, (_, _, kind, slope) in pairs
    ]
    space, scaling = actor.space, actor.scaling
    kind = "indices" if space.choices else "one-hot" if space.one_hot else "index" if space.discrete else "continuous"
    bounds = {}
    if actor.bounded and space.low is not None and space.high is not None:
        bounds = {name: _array(getattr(actor, name)) for name in ("middle", "half_range")}
        bounds |= {"low": _array(space.low), "high": _array(space.high)}
    return ActorConstants(
        layers,
        None if scaling is None else np.broadcast_to(_array(actor.mean), shape),
        None if scaling is None else np.broadcast_to(_array(actor.std), shape),
        None if scaling is None or scaling.clip is None else float(scaling.clip),
        kind,
        space.size,
        space.choices or ((space.size,) if space.discrete else ()),
        actor.sample,
        _scale(actor),
        bounds,
    )


def constant_actions(constants: ActorConstants, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """The actions, in float32 or int64: (B, A); (B,) for an index."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = scaled_observation(constants, observation)
        for layer in constants.layers:
            x = activate(x @ layer.weight.T + layer.bias, layer.activation, layer.slope)  # (B, outputs)
        return choose(constants, x, noise)


def scaled_observation(constants: ActorConstants, observation: np.ndarray) -> np.ndarray:
    """Observations as the first layer reads them, (B, O)."""
    x = observation.astype(np.float32)
    if constants.mean is not None and constants.std is not None:
        x = (x - constants.mean) / constants.std
        x = x if constants.clip is None else np.clip(x, np.float32(-constants.clip), np.float32(constants.clip))
    return x


def activate(x: np.ndarray, kind: str, slope: float) -> np.ndarray:
    """An activation by its name, in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "relu":
            return np.where(x < 0, np.float32(0), x)
        if kind == "tanh":
            return np.tanh(x)
        if kind == "elu":
            return np.where(x > 0, x, np.float32(slope) * np.expm1(np.minimum(x, 0)))
        if kind == "silu":
            return x / (1 + np.exp(-x))
        return np.where(x > 0, x, np.float32(slope) * x) if kind == "leaky_relu" else x


def choose(constants: ActorConstants, x: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """The action from the head's output, (B, outputs) -> (B, A), or (B,) for an index."""
    if constants.discrete:
        x = x if noise is None else x + noise
        ends = np.cumsum(constants.choices)[:-1]
        index = np.stack([np.argmax(part, -1) for part in np.split(x, ends, -1)], -1)  # (B, K)
        if constants.kind == "one-hot":
            return np.eye(constants.size, dtype=np.int64)[index[:, 0]]
        return index if constants.kind == "indices" else index[:, 0]
    if constants.sample:
        loc, log_scale = x[:, : constants.size], x[:, constants.size :]
        computed = np.exp(np.clip(log_scale, np.float32(MIN_LOG_SCALE), np.float32(MAX_LOG_SCALE)))
        x = loc + (computed if constants.scale is None else constants.scale) * noise
    if not constants.bounds:
        return x
    low, high, middle, half = (constants.bounds[name] for name in ("low", "high", "middle", "half_range"))
    return np.clip(middle + half * np.tanh(x), low, high)


def _array(of: Tensor) -> np.ndarray:
    return of.detach().cpu().numpy().astype(np.float32)


def _scale(actor: PlainActor) -> np.ndarray | None:
    if actor.distribution is None or isinstance(actor.distribution, NormalParameters):
        return None
    with torch.no_grad():
        return _array(actor.distribution(torch.zeros(actor.space.size))[1])
