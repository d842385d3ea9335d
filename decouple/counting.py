"""What a separated network costs: its parameters and its multiply-adds, per part.

parameter_count(network)["total"], multiply_adds(network)["total"]
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from decouple.checks import checked
from decouple.fitting import evaluating, example_inputs

__all__ = ["multiply_adds", "parameter_count"]


@checked()
def parameter_count(network: nn.Module) -> dict[str, int]:
    """Parameters of each part and in `total`; of a network made by `separate` or a model made by `actor_value`.

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

    Args:
        network: made by `separate`, or a model made by `actor_value` (heads count with their branch).
        example: one observation without batch axes, or a mapping as for `separate`; left out where the network
            already knows its observation's shape.
    """
    parts = _parts(network)
    inputs = example_inputs(network, example)
    if inputs is None:
        raise ValueError("example must be given: the network does not know its observation's shape")
    counts = {}
    hidden: dict[str, Tensor] = {}
    with torch.no_grad(), evaluating(network):
        for part, (body, *heads) in parts.items():
            with FlopCounterMode(display=False) as counter:
                try:
                    if part == "trunk":
                        hidden["cut"] = body(inputs["observation"])
                    else:
                        features = body(hidden["cut"], *(inputs[key] for key in body.keys))  # pyright: ignore[reportGeneralTypeIssues]
                        for head in heads:
                            head(features)
                except (RuntimeError, KeyError) as error:
                    shapes = {key: tuple(value.shape[1:]) for key, value in inputs.items()}
                    raise ValueError(f"example must be one that the {part} takes; got {shapes}: {error}") from error
            counts[part] = counter.get_total_flops() // 2
    return counts | {"total": sum(counts.values())}


def _parts(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Per part, the module that makes its features and then any heads on them."""
    parts = getattr(network, "parts", None)
    if not callable(parts):
        raise ValueError(f"network must come from separate() or actor_value(); got {type(network).__name__}")
    return parts()  # pyright: ignore[reportReturnType]
