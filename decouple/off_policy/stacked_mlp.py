"""A stacked multilayer perceptron as one autograd operation, for small networks, whose time goes into kernel launches.

    mlp = fuse(stack([nn.Sequential(*mlp_blocks(3, [64, 64], nn.ReLU), head) for ...]))
    mlp(x)                     # (S, B, in) -> (S, B, out), with the module's own outputs and gradients
    out, pull_back = mlp.traced(x)                  # the same, with the backward pass as a function, without autograd
    _, of_parameters = pull_back(torch.ones_like(out))

Activations and their derivatives work in place, and only gradients that are asked for are computed. A layer with a
single output (a value head) is a row times a matrix; the general product would be ten times slower. `fuse` returns
None for modules that are not such a perceptron.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from decouple.checks import SOME, all_of, checked, one_of
from decouple.networks.blocks import Concatenate, DenseBlock
from decouple.networks.stacking import StackedLinear

__all__ = ["FusedMLP", "PullBack", "fuse"]

PullBack: TypeAlias = Callable[..., tuple[Tensor | None, list[Tensor | None]]]

ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "linear"}


def fuse(*modules: nn.Module) -> FusedMLP | None:
    """The modules, one after another, as one operation on the same parameters; None for modules of other kinds.

    Args:
        modules: stacked modules: sequences of dense blocks with ReLU or tanh, and linear layers. The input must already
            hold the further features that a first block would append.
    """
    layers: list[tuple[StackedLinear, str]] = []
    for module in modules:
        found = _layers(module)
        if found is None:
            return None
        layers += found
    return FusedMLP([layer for layer, _ in layers], [activation for _, activation in layers]) if layers else None


class FusedMLP:
    """Linear layers and activations, (S, B, in) -> (S, B, out), on the layers' own parameters; made by `fuse`."""

    @checked(layers=SOME, activations=all_of(one_of("relu", "tanh", "linear"), least=1))
    def __init__(self, layers: Sequence[StackedLinear], activations: Sequence[str]):
        self.activations = tuple(activations)
        self.parameters = [p for layer in layers for p in (layer.weight, layer.bias)]

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _MLP.apply(x, self.activations, *self.parameters)
        return _hidden(x, self.activations, self.parameters)[-1]

    @torch.no_grad()
    def traced(self, x: Tensor) -> tuple[Tensor, PullBack]:
        """The output, and its backward pass as a function; autograd's overhead is a fifth of a small network's time.

        Returns:
            The output (S, B, out), and a function from its gradient (S, B, out) to the gradients of x, (S, B, in), and
            of `parameters`, in their order. Its switches `of_input` (default False) and `of_parameters` (default True)
            choose the gradients; None stands for one that is switched off.
        """
        seen = _hidden(x, self.activations, self.parameters)

        @torch.no_grad()
        def pull_back(
            gradient: Tensor, *, of_input: bool = False, of_parameters: bool = True
        ) -> tuple[Tensor | None, list[Tensor | None]]:
            wanted = [of_parameters] * len(self.activations)
            return _pulled_back(gradient, self.activations, seen, self.parameters[::2], wanted, of_input)

        return seen[-1], pull_back


class _MLP(torch.autograd.Function):
    """The perceptron h_i = f_i(h_{i-1} W_i + b_i) as an autograd function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activations: tuple[str, ...], *parameters: Tensor) -> Tensor:
        seen = _hidden(x, activations, parameters)
        ctx.save_for_backward(*seen, *parameters[::2])
        ctx.activations = activations
        return seen[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        depth, needs = len(ctx.activations), ctx.needs_input_grad
        seen, weights = ctx.saved_tensors[: depth + 1], ctx.saved_tensors[depth + 1 :]
        of_input, found = _pulled_back(gradients[0], ctx.activations, seen, weights, needs[2::2], needs[0])
        return (of_input, None, *found)


def _pulled_back(
    gradient: Tensor,
    activations: Sequence[str],
    seen: Sequence[Tensor],
    weights: Sequence[Tensor],
    wanted: Sequence[bool],
    of_input: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the input, and of weights and biases, layer by layer; None for those that are not wanted."""
    depth = len(activations)
    found: list[Tensor | None] = [None] * (2 * depth)
    for index in reversed(range(depth)):
        gradient = _DERIVATIVES[activations[index]](gradient, seen[index + 1], index == depth - 1)
        before, weight = seen[index], weights[index]
        if wanted[index]:
            if weight.shape[-1] == 1:
                row = gradient.reshape(len(gradient), 1, -1)  # (S, 1, B)
                found[2 * index] = torch.bmm(row, before).view_as(weight)
            else:
                found[2 * index] = torch.bmm(before.transpose(1, 2), gradient)
            found[2 * index + 1] = gradient.sum(1, keepdim=True)
        if index == 0 and not of_input:
            return None, found
        if weight.shape[-1] == 1:
            gradient = gradient * weight.transpose(1, 2)  # (S, B, 1) * (S, 1, in)
        else:
            gradient = torch.bmm(gradient, weight.transpose(1, 2))
    return gradient, found


def _hidden(x: Tensor, activations: Sequence[str], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The input x and the output of each layer after its activation."""
    seen = [x]
    for activation, weight, bias in zip(activations, parameters[::2], parameters[1::2], strict=True):
        if weight.shape[-1] == 1:
            row = torch.bmm(weight.transpose(1, 2), seen[-1].transpose(1, 2))  # (S, 1, B)
            hidden = row.view(len(row), -1, 1).add_(bias)
        else:
            hidden = torch.baddbmm(bias, seen[-1], weight)  # (S, B, out)
        if activation == "relu":
            hidden.relu_()
        elif activation == "tanh":
            hidden.tanh_()
        seen.append(hidden)
    return seen


def _relu_gradient(gradient: Tensor, out: Tensor, fresh: bool) -> Tensor:
    """ReLU's derivative times the gradient: in place, unless the gradient is the caller's (`fresh`)."""
    if fresh:
        return torch.ops.aten.threshold_backward(gradient, out, 0)
    return torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=gradient)


def _tanh_gradient(gradient: Tensor, out: Tensor, fresh: bool) -> Tensor:
    if fresh:
        return torch.ops.aten.tanh_backward(gradient, out)
    return torch.ops.aten.tanh_backward.grad_input(gradient, out, grad_input=gradient)


_DERIVATIVES: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "relu": _relu_gradient,
    "tanh": _tanh_gradient,
    "linear": lambda gradient, out, fresh: gradient,
}


def _layers(module: nn.Module) -> list[tuple[StackedLinear, str]] | None:
    """The linear layers of a stacked module with the activation after each; None for a module of another kind."""
    if isinstance(module, Concatenate):
        return []  # x holds the further features already
    if isinstance(module, StackedLinear):
        return None if module.bias is None else [(module, "linear")]
    if isinstance(module, DenseBlock):
        kind = ACTIVATIONS.get(type(module.activation))
        plain = isinstance(module.leading, nn.Identity) and module.flatten == 1
        return [(module.linear, kind)] if plain and kind and isinstance(module.linear, StackedLinear) else None
    if isinstance(module, nn.Sequential):
        layers: list[tuple[StackedLinear, str]] = []
        for child in module:
            found = _layers(child)
            if found is None:
                return None
            layers += found
        return layers
    return None
