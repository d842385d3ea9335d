"""Passes forward and backward through a perceptron's layers, of batches that go in blocks too, beside autograd's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("numba")

from decouple.compiled.kernel import kernel
from decouple.compiled.layers import backward, forward, matrix
from decouple.compiled.memory import COPIES, GRADIENT, AgentShape, Layer, Tables

ACTIVATIONS = {
    "relu": (nn.ReLU(), 0.0),
    "tanh": (nn.Tanh(), 0.0),
    "elu": (nn.ELU(0.7), 0.7),
    "silu": (nn.SiLU(), 0.0),
    "leaky_relu": (nn.LeakyReLU(0.1), 0.1),
}


@kernel
def passes(layers, slopes, count, memory, size, x, dy, scratch, y, dx):
    """y <- the layers' output; dx <- the gradient of x, and that of the parameters into the memory."""
    out, at = forward(layers, slopes, 0, count, memory, 0, x, scratch, 0)
    y[:] = out
    own = matrix(scratch, at, dy.shape[0], dy.shape[1])
    own[:] = dy
    at += dy.size
    found, _ = backward(layers, slopes, 0, count, memory, 0, GRADIENT * size, x, 0, own, scratch, at, True, True)
    dx[:] = found


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize(("batch", "sizes"), [(300, (5, 64, 80, 3)), (7, (3, 8, 8, 1)), (256, (4, 130, 9, 1))])
def test_values_and_gradients_are_autograds(name: str, batch: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, slope = ACTIVATIONS[name]
    linear = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    whole = nn.Sequential(linear[0], module, linear[1], module, linear[2]).double()
    layers = [Layer(*pair, name, slope) for pair in itertools.pairwise(sizes[:-1])]
    layers.append(Layer(sizes[-2], sizes[-1]))
    tables = Tables([AgentShape([], layers, [])])
    memory = tables.memory(np.float64)
    for row, each in enumerate(linear):
        weight, bias = tables.layer(memory, 0, row)
        weight[...], bias[...] = each.weight.detach().numpy().T, each.bias.detach().numpy()
    x, dy = torch.randn(batch, sizes[0]).double().requires_grad_(), torch.randn(batch, sizes[-1]).double()
    expected = whole(x)
    expected.backward(dy)

    y, dx = np.empty((batch, sizes[-1])), np.empty((batch, sizes[0]))
    scratch, size = np.empty(tables.scratch(batch)), memory.size // COPIES
    passes(tables.layers, tables.slopes, 3, memory, size, x.detach().numpy(), dy.numpy(), scratch, y, dx)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert x.grad is not None
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-12, atol=1e-12)
    for row, each in enumerate(linear):
        of_weight, of_bias = tables.layer(memory, 0, row, GRADIENT)
        assert each.weight.grad is not None and each.bias.grad is not None
        np.testing.assert_allclose(of_weight, each.weight.grad.numpy().T, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(of_bias, each.bias.grad.numpy(), rtol=1e-12, atol=1e-11)
