"""A perceptron as one operation of autograd: the module's numbers and gradients, and what is left as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from decouple.networks.blocks import Concatenate, mlp_blocks
from decouple.networks.separation import Branch
from decouple.networks.stacking import stack
from decouple.off_policy.stacked_mlp import fuse


def stacked(activation: type[nn.Module], sizes: list[int], outputs: int, seeds: int = 3) -> nn.Sequential:
    blocks = (mlp_blocks(4, sizes, activation) if sizes else [] for _ in range(seeds))
    inputs = sizes[-1] if sizes else 4
    return stack([nn.Sequential(*own, nn.Linear(inputs, outputs)) for own in blocks]).double()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("sizes", [[], [5], [1, 1], [7, 6]])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_numbers_and_gradients_are_the_modules(activation, sizes, outputs):
    module = stacked(activation, sizes, outputs)
    fused = fuse(module)
    x = torch.randn(3, 11, 4, dtype=torch.double, requires_grad=True)
    expected, got = module(x), fused(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(expected)
    inputs = [x, *module.parameters()]
    for own, other in zip(
        torch.autograd.grad(got, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_gradients_are_those_of_finite_differences():
    fused = fuse(stacked(nn.Tanh, [3], 1, seeds=2))
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(fused, (x,))


def test_a_gradient_that_is_also_anothers_is_not_changed():
    """Through the last layer's ReLU, the gradient that comes in is that of the sum, and of x beside it."""
    module = stack([nn.Sequential(*mlp_blocks(4, [4], nn.ReLU)) for _ in range(2)])
    x = torch.randn(2, 5, 4, requires_grad=True)
    (alone,) = torch.autograd.grad((module(x) + x).square().sum(), [x])
    (fused,) = torch.autograd.grad((fuse(module)(x) + x).square().sum(), [x])
    torch.testing.assert_close(fused, alone)


def test_what_nobody_asks_for_is_not_computed():
    module = stacked(nn.ReLU, [5], 1)
    frozen = stacked(nn.ReLU, [5], 1).requires_grad_(False)
    x = torch.randn(3, 2, 4, dtype=torch.double)
    assert not fuse(frozen)(x).requires_grad
    x.requires_grad_()
    fuse(frozen)(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in frozen.parameters())
    fuse(module)(x.detach()).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_it_reads_the_parameters_of_today():
    module = stacked(nn.ReLU, [5], 1)
    fused, x = fuse(module), torch.randn(3, 2, 4, dtype=torch.double)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(fused(x), module(x))


def test_a_concatenation_is_taken_as_done_and_other_modules_are_left_alone():
    linear = stack([nn.Sequential(Branch([Concatenate()], ["action"]), nn.Linear(4, 1)) for _ in range(2)])
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(fuse(*linear)(x), linear[1](x))
    assert fuse(stacked(nn.ELU, [5], 1)) is None
    assert fuse(stack([nn.Sequential(nn.Linear(4, 4, bias=False)) for _ in range(2)])) is None
    assert fuse(nn.Sequential(nn.Linear(4, 4))) is None
    assert fuse(nn.Sequential()) is None


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_way_back_is_autograds(activation, outputs):
    module = stacked(activation, [7, 6], outputs)
    fused = fuse(module)
    x = torch.randn(3, 11, 4, dtype=torch.double, requires_grad=True)
    expected = module(x)
    out, pull_back = fused.traced(x)
    torch.testing.assert_close(out, expected)
    assert not out.requires_grad
    weight = torch.randn_like(expected)
    kept = weight.clone()
    of_input, *of_parameters = torch.autograd.grad(expected, [x, *fused.parameters], weight)
    torch.testing.assert_close(pull_back(weight), (None, of_parameters))
    out, pull_back = fused.traced(x)
    torch.testing.assert_close(pull_back(weight, of_input=True), (of_input, of_parameters))
    out, pull_back = fused.traced(x)
    nothing = [None] * len(of_parameters)
    torch.testing.assert_close(pull_back(weight, of_input=True, of_parameters=False), (of_input, nothing))
    assert torch.equal(weight, kept)
