"""Perceptrons as lists of layers: each activation, one model and a stack, and modules that are none."""

from __future__ import annotations

import pytest
from torch import nn

from decouple.networks.blocks import DenseBlock, mlp_blocks
from decouple.networks.perceptrons import perceptron_layers
from decouple.networks.stacking import stack

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": lambda: nn.ELU(0.5),
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
}
SLOPES = {"elu": 0.5, "leaky_relu": 0.1}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layers_are_told_with_their_activations(name: str):
    network = nn.Sequential(*mlp_blocks(3, [8, 6], ACTIVATIONS[name]), nn.Linear(6, 2))
    slope = SLOPES.get(name, 0.0)
    expected = [(3, 8, name, slope), (8, 6, name, slope), (6, 2, "linear", 0.0)]
    assert perceptron_layers(network, "policy") == expected == perceptron_layers(stack([network, network]), "policy")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Softplus(), "the value holds Softplus"),
        (nn.Linear(3, 2, bias=False), "the value holds Linear"),
        (DenseBlock(3, 2, flatten=1, activation=nn.GELU), "the value has GELU"),
        (DenseBlock(3, 2), "the value holds DenseBlock"),
    ],
)
def test_a_module_that_is_no_perceptron_is_named(module: nn.Module, says: str):
    with pytest.raises(ValueError, match=says):
        perceptron_layers(nn.Sequential(module), "value")
