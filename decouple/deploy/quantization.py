"""An actor's layers in int8, by symmetric scales, one for each tensor.

    layers = quantized_layers(constants, observations)             # scales from recorded observations
    quantized_actions(constants, layers, observation)              # (B, O) -> (B, A): what the C file computes

A layer's weights are whole numbers times `max |w| / 127`, its inputs whole numbers times `max |x| / 127` over the
recorded observations; a larger input counts as that maximum. Products are summed in 32 bits. Biases, activations and
the action's bounds stay in float32. Whether the actor still does its job is a question to its task: see
`decouple.studies.export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decouple.checks import check_setting
from decouple.deploy.constants import ActorConstants, LinearLayer, activate, choose, scaled_observation

__all__ = ["Int8Layer", "quantized_actions", "quantized_layers"]

STEPS = 127  # largest whole number


class Int8Layer(NamedTuple):
    """A linear layer in int8 and its activation: `activation(scale (weight round(steps x)) + bias)`."""

    weight: np.ndarray  # (outputs, inputs), int8
    bias: np.ndarray  # (outputs,), float32
    activation: str
    slope: float
    scale: float  # what a sum of products of whole numbers is multiplied by
    steps: float  # whole numbers per unit of an input


def quantized_layers(constants: ActorConstants, observations: np.ndarray) -> list[Int8Layer]:
    """The layers in int8, with inputs' scales from these observations (n, O), unscaled.

    Raises:
        ValueError: an observation that is not finite.
    """
    finite = bool(np.isfinite(observations).all())
    check_setting("observations", observations.shape, lambda _: finite, "finite")
    x = scaled_observation(constants, observations)
    layers = []
    for layer in constants.layers:
        layers.append(_quantized(layer, float(np.abs(x).max())))
        x = activate(x @ layer.weight.T + layer.bias, layer.activation, layer.slope)
    return layers


def quantized_actions(
    constants: ActorConstants, layers: Sequence[Int8Layer], observation: np.ndarray, noise: np.ndarray | None = None
) -> np.ndarray:
    """The actions of the int8 actor, as `constant_actions` gives those of the float32 one."""
    x = scaled_observation(constants, observation)
    for layer in layers:
        with np.errstate(over="ignore"):
            inside = np.clip(x * np.float32(layer.steps), -STEPS, STEPS)
        whole = np.trunc(inside + np.where(inside < 0, np.float32(-0.5), np.float32(0.5))).astype(np.int32)
        sums = whole @ layer.weight.T.astype(np.int32)  # (B, outputs)
        x = activate(sums.astype(np.float32) * np.float32(layer.scale) + layer.bias, layer.activation, layer.slope)
    return choose(constants, x, noise)


def _quantized(layer: LinearLayer, largest: float) -> Int8Layer:
    tiny = float(np.finfo(np.float32).tiny) * STEPS  # where all are zero, any scale will do
    of_weights = max(float(np.abs(layer.weight).max()), tiny) / STEPS
    of_inputs = max(largest, 1e-30) / STEPS
    weight = np.rint(layer.weight / of_weights).astype(np.int8)
    scale, steps = np.float32(of_weights * of_inputs), np.float32(1 / of_inputs)
    return Int8Layer(weight, layer.bias, layer.activation, layer.slope, float(scale), float(steps))
