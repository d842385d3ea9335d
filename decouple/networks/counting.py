"""The cost of a separated network: its parameters and its multiply-adds, per part.

parameter_count(network)["total"], multiply_adds(network)["total"]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from decouple.checks import checked
from decouple.networks.fitting import evaluating, example_inputs

__all__ = ["block_multiply_adds", "multiply_adds", "parameter_count"]

_aten = torch.ops.aten


@checked()
def parameter_count(network: nn.Module) -> dict[str, int]:
    """Number of parameters, per part and in `total`, of a network from `separate` or a model from `actor_value`.

    A model's heads count with their branch.
    """
    counts = {
        part: sum(p.numel() for p in {id(p): p for m in modules for p in m.parameters()}.values())
        for part, modules in _parts(network).items()
    }
    return counts | {"total": sum(counts.values())}


@checked()
def multiply_adds(network: nn.Module, example: Tensor | Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Multiply-adds of convolutions and matrix products for one observation, per part and in `total`.

    Attention counts its two L x S products, queries with keys and weights with values, masked or not. A recurrent layer
    counts every weight once per step. Elementwise operations do not count. A network in training mode is counted in
    evaluation mode.

    Args:
        network: a network from `separate`, or a model from `actor_value` (heads count with their branch).
        example: one observation without batch axes, or a mapping as for `separate`; not needed where the network
            knows its observation's shape.

    Raises:
        ValueError: no example, or operations whose multiply-adds are not known; the message names part and operations.
    """
    parts = _parts(network)
    inputs = example_inputs(network, example)
    if inputs is None:
        raise ValueError("example must be given: the network does not know its observation's shape")
    counts = {}
    hidden: dict[str, Tensor] = {}
    with torch.no_grad(), evaluating(network), _each_operation():
        for part, (body, *heads) in parts.items():
            with _Uncounted() as uncounted, FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
                try:
                    if part == "trunk":
                        hidden["cut"] = body(inputs["observation"])
                    else:
                        features = body(hidden["cut"], *(inputs[key] for key in body.keys))  # pyright: ignore[reportGeneralTypeIssues]
                        features = features[0] if isinstance(features, tuple) else features  # a gated policy's
                        for head in heads:
                            head(features)
                except (RuntimeError, KeyError) as error:
                    shapes = {key: tuple(value.shape[1:]) for key, value in inputs.items()}
                    raise ValueError(f"example must be one that the {part} takes; got {shapes}: {error}") from error
            if uncounted.names:
                names = ", ".join(sorted(uncounted.names))
                raise ValueError(f"network must have operations whose multiply-adds are known; {part} has {names}")
            counts[part] = counter.get_total_flops() // 2
    return counts | {"total": sum(counts.values())}


def block_multiply_adds(
    blocks: Sequence[nn.Module], example: Mapping[str, Tensor]
) -> list[tuple[int, tuple[int, ...]]]:
    """Multiply-adds and the shape of the output, without batch axes, of each block for one observation.

    Args:
        blocks: blocks that run one after another.
        example: a network's `example`, whose `observation` the first block reads.
    """
    shown = example["observation"]
    parameter = next((p for block in blocks for p in block.parameters()), torch.zeros(()))
    x = torch.zeros(1, *shown.shape, dtype=parameter.dtype if shown.is_floating_point() else shown.dtype)
    x, found = x.to(parameter.device), []
    with torch.no_grad(), evaluating(*blocks), _each_operation():
        for block in blocks:
            with FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
                x = block(x)
            found.append((counter.get_total_flops() // 2, tuple(x.shape[1:])))
    return found


def _parts(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Per part, the module that computes its features and then any heads on them."""
    parts = getattr(network, "parts", None)
    if not callable(parts):
        raise ValueError(f"network must come from separate() or actor_value(); got {type(network).__name__}")
    return parts()  # pyright: ignore[reportReturnType]


# --------------------------------------------------------------------- formulas that PyTorch's counter does not have


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Floating-point operations of `softmax(Q K^T) V`: (*B, L, E), (*B, S, E), (*B, S, V)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(steps: Sequence[int], *weights: Any, **_: Any) -> int:
    """Floating-point operations of a recurrent layer on (T, B, I): each weight matrix takes part in every step."""
    shapes = [shape for shape in weights if isinstance(shape, torch.Size)]
    return 2 * math.prod(steps[:-1]) * sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def _product(first: Sequence[int], second: Sequence[int]) -> int:
    """Floating-point operations of a product: a vector, a matrix or a batch of them with a vector or a batch."""
    return 2 * math.prod(first) * (second[-1] if len(second) > 1 else 1)


# Operations without a formula in PyTorch's counter -> floating-point operations, from the shapes of the arguments.
_MORE: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.mkldnn_rnn_layer: lambda x, *rest, **_: _recurrent(x, *rest[:4]),
    _aten._cudnn_rnn: lambda x, weights, *_, **__: _recurrent(x, *weights),
    _aten.mv: lambda matrix, vector, **_: _product(matrix, vector),
    _aten.addmv: lambda bias, matrix, vector, **_: _product(matrix, vector),
    _aten.dot: lambda a, b, **_: _product(a, b),
    _aten.vdot: lambda a, b, **_: _product(a, b),
    _aten.addbmm: lambda bias, a, b, **_: _product(a, b),
}

# Words in the names of operations that multiply matrices; names are split at underscores.
_PRODUCT = re.compile(
    r"(add|badd|addb|b|int4pack|int8pack)?mm|(add)?mv|v?dot|matmul|trilinear|[cp]dist|fft|linalg|solve|cholesky|qr|svd"
    r"|conv\w*|deconv\w*|attention|transformer|rnn|lstm|gru|quantized"
)
# Operations with such a word that multiply no matrices: a norm, a check, and gates whose products count by themselves.
_NO_PRODUCT = re.compile(r"linalg_vector_norm|_linalg_check_errors|upsample_\w+|_thnn_fused_\w+_cell")


class _Uncounted(TorchDispatchMode):
    """Collects the names of operations without a formula that may multiply: products by name, and custom operations."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "overloadpacket", func)
        if packet not in flop_registry and packet not in _MORE and isinstance(func, torch._ops.OpOverload):
            name = packet.__name__
            product = any(map(_PRODUCT.fullmatch, name.split("_"))) and not _NO_PRODUCT.fullmatch(name)
            if product or func.namespace not in ("aten", "prim", "prims"):
                self.names.add(f"{func.namespace}::{name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _each_operation() -> Iterator[None]:
    """Turn off PyTorch's fast path of attention, a single operation whose products cannot be seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
