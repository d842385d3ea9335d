"""Seeds as an axis: S networks of one architecture as one network whose parameters carry a leading S.

    models = [make_model(seed) for seed in range(6)]       # each made as for training alone
    together = stack(models)                               # (S, *B, ...) -> (S, *B, ...), one matrix product per layer
    unstack(together, models)                              # copy each seed's parameters back into its model

A small network's time goes into kernel launches, not arithmetic: six together cost little more than one. Wide networks
gain nothing. Seeds share no parameters, so the sum of their losses gives each seed the gradient of its own loss.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from tensordict.nn import AddStateIndependentNormalScale
from tensordict.nn.utils import mappings
from torch import Tensor, nn
from torch.func import functional_call

from decouple.checks import SOME, Must, check_setting, checked
from decouple.networks.batching import AnyBatch

__all__ = [
    "StackedBlock",
    "StackedLinear",
    "StackedNormalScale",
    "clip_grad_norm_per_seed_",
    "clip_per_seed",
    "seed_count",
    "stack",
    "unstack",
]

Network = TypeVar("Network", bound=nn.Module)

ALL_MODULES = Must(lambda models: all(isinstance(model, nn.Module) for model in models), "a sequence of modules")


@checked(models=ALL_MODULES)
def stack(models: Sequence[Network]) -> Network:
    """One model that holds S models of one architecture: parameters, inputs and outputs get a leading axis S.

    The result is a copy of the first model whose linear layers hold the parameters of all; it has the same class, keys
    and methods. Model s reads only row s of the inputs.

    Args:
        models: S models of one architecture, each with its own parameters. Where blocks and heads are linear layers
            (`mlp_blocks`, `actor_value` and `actor_qvalue` on them), with modules without parameters between them, all
            seeds run as one; a block of another kind runs seed by seed.

    Raises:
        ValueError: no models, models that differ in architecture, or parameters in a module that is neither linear nor
            in a block.
    """
    models = list(models)
    if not models:
        raise ValueError("models must hold at least one model; got none")
    shapes = [[(name, tuple(value.shape)) for name, value in model.state_dict().items()] for model in models]
    for shape, model in zip(shapes, models, strict=True):  # modules without parameters, as activations, must agree too
        shape += [(name, f"{type(m).__name__}({m.extra_repr()})") for name, m in model.named_modules()]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            differing = next(
                (pair for pair in zip(shapes[0], shape, strict=False) if pair[0] != pair[1]), "their length"
            )
            raise ValueError(f"models must be of one architecture; models[0] and models[{index}] differ in {differing}")
    return _stacked(copy.deepcopy(models[0]), models, "model")  # pyright: ignore[reportReturnType]


@checked(models=SOME)
def unstack(stacked: nn.Module, models: Sequence[nn.Module]) -> None:
    """Copy each seed's parameters in place into the models that `stack` was given, or into models of their kind."""
    together = dict(stacked.named_parameters())
    blocks = [module for module in stacked.modules() if isinstance(module, StackedBlock)]
    as_they_are = {id(parameter) for block in blocks for parameter in block.parameters()}
    for index, model in enumerate(models):
        own = dict(model.named_parameters())
        if own.keys() != together.keys():
            raise ValueError(f"models must be those that were stacked; models[{index}] has other parameters")
        rows = {len(parameter) for parameter in together.values()}
        check_setting("models", len(models), lambda number, rows=rows: rows <= {number}, "as many as were stacked")
        with torch.no_grad():
            for name, parameter in own.items():
                row = together[name][index]
                parameter.copy_(row if id(together[name]) in as_they_are else _as_alone(row, parameter))


@checked()
def seed_count(model: nn.Module) -> int | None:
    """The number of seeds in a model from `stack`; None for a model that is not stacked."""
    return next((len(module.weight) for module in model.modules() if isinstance(module, StackedLinear)), None)


class StackedLinear(nn.Module):
    """S linear layers as one batched product: y_s = x_s W_s + b_s, (S, *B, in) -> (S, *B, out)."""

    @checked(layers=SOME)
    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))  # (S, in, out)
        biases = [layer.bias.detach()[None] for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None  # (S, 1, out)
        self.in_features, self.out_features = layers[0].in_features, layers[0].out_features
        self.full_precision: bool = getattr(layers[0], "full_precision", False)  # a Head's, kept also under autocast

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False) if self.full_precision else contextlib.nullcontext():
            return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        rows = x if x.ndim == 3 else x.reshape(x.shape[0], -1, x.shape[-1])  # (S, B, in)
        if self.bias is None:
            out = torch.bmm(rows, self.weight)
        else:
            out = torch.baddbmm(self.bias, rows, self.weight)  # (S, B, out)
        return out if x.ndim == 3 else out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"seeds={len(self.weight)}, in_features={self.in_features}, out_features={self.out_features}"


class StackedBlock(nn.Module):
    """S blocks of any kind as one module, (S, *B, ...) -> (S, *B, ...): each seed's runs by itself, one after another.

    Parameters have the names of a block alone, and a leading S. For blocks whose work lies in their arithmetic, as
    convolutions, for which one batched operation would save nothing.

    Raises:
        ValueError: blocks with buffers, as running statistics, which are not kept apart.
    """

    @checked(blocks=SOME)
    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        if names := [name for name, _ in blocks[0].named_buffers()]:
            raise ValueError(
                f"models must have no buffers in blocks that are stacked; {type(blocks[0]).__name__} has {names}"
            )
        template = copy.deepcopy(blocks[0])
        for name, _ in list(template.named_parameters()):
            owner, _, own = name.rpartition(".")
            stacked = torch.stack([block.get_parameter(name).detach() for block in blocks])  # (S, ...)
            setattr(template.get_submodule(owner), own, nn.Parameter(stacked))
        # The template's own parameters and modules, so that names are those of a block alone.
        self._parameters, self._modules = template._parameters, template._modules
        object.__setattr__(self, "template", template)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        self.template.training = self.training  # it is no child of this module, and may read it itself
        own = dict(self.named_parameters())
        rows = [
            functional_call(self.template, {name: each[seed] for name, each in own.items()}, (x[seed], *more))
            for seed, more in enumerate(zip(*extra, strict=True) if extra else [()] * len(x))
        ]
        return torch.stack(rows)


class StackedNormalScale(nn.Module):
    """S of tensordict's AddStateIndependentNormalScale as one module: loc (S, *B, A) -> loc, scale (S, *B, A)."""

    @checked(modules=SOME)
    def __init__(self, modules: Sequence[AddStateIndependentNormalScale]):
        super().__init__()
        # (S, A)
        self.state_independent_scale = nn.Parameter(torch.stack([m.state_independent_scale.detach() for m in modules]))
        self.scale_mapping, self.scale_lb = modules[0].scale_mapping, modules[0].scale_lb

    def forward(self, loc: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.state_independent_scale
        raw = raw.reshape(len(raw), *(1 for _ in loc.shape[1:-1]), raw.shape[-1]).expand_as(loc)
        return loc, mappings(self.scale_mapping)(raw).clamp_min(self.scale_lb)


def clip_per_seed(gradients: Sequence[Tensor], max_norm: float, seeds: int) -> tuple[list[Tensor], Tensor]:
    """Gradients of stacked parameters, scaled so that each seed's own norm is at most `max_norm`.

    Args:
        gradients: gradients with a leading axis S, or C * S where C critics per seed were stacked critic by critic.
        max_norm: largest norm of a seed's gradient; infinity only measures.
        seeds: number of seeds, S.

    Returns:
        The scaled gradients, and the norms before scaling, (S,).
    """
    parts = [gradient.reshape(-1, seeds, gradient[0].numel()) for gradient in gradients]  # (C, S, n)
    norms = torch.stack([part.square().sum((0, 2)) for part in parts]).sum(0).sqrt()  # (S,)
    if max_norm == float("inf"):
        return list(gradients), norms
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)[:, None]  # as torch.nn.utils.clip_grad_norm_
    return [(part * scale).view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)], norms


def clip_grad_norm_per_seed_(parameters: Sequence[Tensor], max_norm: float, seeds: int) -> Tensor:
    """Apply `clip_per_seed` to the parameters' `.grad` in place; return the norms before clipping, (S,)."""
    having = [parameter for parameter in parameters if parameter.grad is not None]
    clipped, norms = clip_per_seed([parameter.grad for parameter in having], max_norm, seeds)
    for parameter, gradient in zip(having, clipped, strict=True):
        parameter.grad = gradient
    return norms


def _stacked(template: nn.Module, modules: list[nn.Module], where: str) -> nn.Module:
    """The template (a copy of the first module) with its linear layers replaced by stacks of all modules' layers."""
    if isinstance(template, nn.Linear):
        return StackedLinear(modules)
    if isinstance(template, AnyBatch):
        raise ValueError(f"models must have no block of any_batch(), which would mix the agents; {where} is one")
    if isinstance(template, AddStateIndependentNormalScale):
        return StackedNormalScale(modules)
    if hasattr(template, "stacked"):  # a module that knows how, as the gates of a learned separation
        return template.stacked(modules)
    own = [name for name, _ in template.named_parameters(recurse=False)]
    if own:
        kind = type(template).__name__
        raise ValueError(f"models must have their parameters in linear layers; {where} ({kind}) has {own}")
    for name, child in template.named_children():
        children = [module.get_submodule(name) for module in modules]
        if isinstance(template, nn.Sequential) and not _linear(child):  # a block of a trunk or a branch
            template._modules[name] = StackedBlock(children)
            continue
        template._modules[name] = _stacked(child, children, f"{where}.{name}")
    return template


def _linear(block: nn.Module) -> bool:
    """Whether all parameters are those of linear layers."""
    kinds = nn.Linear | AddStateIndependentNormalScale
    return all(isinstance(m, kinds) for m in block.modules() if any(True for _ in m.parameters(recurse=False)))


def _as_alone(row: Tensor, like: Tensor) -> Tensor:
    """One seed's row of a stacked parameter, in the layout of the layer that it belongs to."""
    if row.shape == like.shape and row.ndim != 2:
        return row
    if row.ndim == 2 and like.ndim == 2:
        return row.T  # a linear layer's weight (in, out) -> (out, in)
    return row.reshape(like.shape)  # a bias (1, out)
