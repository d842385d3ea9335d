"""The linear layers of a perceptron, each with its activation: what the compiled kernels know of a network.

layers = perceptron_layers(nn.Sequential(*mlp_blocks(3, [64, 64])), "policy")    # [(3, 64, "tanh", 0.0), ...]
"""

from __future__ import annotations

from torch import nn

from decouple.checks import checked
from decouple.networks.blocks import Concatenate, DenseBlock
from decouple.networks.heads import NormalParameters
from decouple.networks.stacking import StackedLinear, StackedNormalScale

__all__ = ["perceptron_layers"]

ACTIVATIONS = {nn.Identity: "linear", nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu"}


@checked()
def perceptron_layers(module: nn.Module, part: str) -> list[tuple[int, int, str, float]]:
    """The module's linear layers in order, one model's or a stack's: inputs, outputs, activation and its slope.

    The slope is elu's alpha or leaky_relu's negative slope, else 0. What computes a normal's scale, or appends an
    action, is no layer.

    Args:
        module: linear layers, dense blocks without further inputs, and sequences of them.
        part: name of the module, for messages.

    Raises:
        ValueError: a module of another kind, naming it.
    """
    if isinstance(module, StackedNormalScale | NormalParameters | Concatenate):
        return []  # kernels compute the scale themselves, and append the action
    if isinstance(module, nn.Linear | StackedLinear) and module.bias is not None:
        return [(module.in_features, module.out_features, "linear", 0.0)]
    if isinstance(module, DenseBlock) and isinstance(module.leading, nn.Identity) and module.flatten == 1:
        ((inputs, outputs, _, _),) = perceptron_layers(module.linear, part)
        return [(inputs, outputs, *_activation(module.activation, part))]
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in perceptron_layers(child, part)]
    raise ValueError(f"module must hold dense blocks alone; the {part} holds {type(module).__name__}: {module}")


def _activation(module: nn.Module, part: str) -> tuple[str, float]:
    """The activation's name and slope."""
    if isinstance(module, nn.ELU):
        return "elu", module.alpha
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu", module.negative_slope
    if type(module) not in ACTIVATIONS:
        known = ", ".join(kind.__name__ for kind in (*ACTIVATIONS, nn.ELU, nn.LeakyReLU))
        raise ValueError(f"module must have activations of {known}; the {part} has {type(module).__name__}")
    return ACTIVATIONS[type(module)], 0.0
