"""A picture of separated networks: what they share, where they separate, and what each block gives.

    late = actor_value(separate(impala_blocks(), impala_blocks(), at="late"), env.action_spec)
    save_figure(network_figure({"late": late}), "networks.png", 110)

Everything in the picture is read from the models: their blocks, the shapes of their outputs, their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from decouple.checks import SOME, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.counting import parameter_count
from decouple.networks.fitting import evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DrawnBlock", "drawn_blocks", "network_figure"]

COLOURS = {"trunk": "#d9d9d9", "policy": "#a6c8e8", "value": "#f4cf8f"}
PLACES = {"trunk": 0.5, "policy": 0.26, "value": 0.74}  # of the middle of a part's boxes, as shares of a panel's width
WIDTH, HEIGHT = 0.42, 0.62  # of a box; a row is 1 high


class DrawnBlock(NamedTuple):
    """A box of the picture."""

    part: str  # trunk, policy or value
    row: int  # 1 for the first block of the network, from the observation on
    shape: tuple[int, ...]  # of its output for one observation


@checked()
def drawn_blocks(model: ActorValue) -> list[DrawnBlock]:
    """The blocks of a model with their outputs' shapes, the trunk's first, then the policy's and the value's.

    Raises:
        ValueError: a model that does not know its observation's shape, or whose branches read further keys.
    """
    example = model.example.get("observation")
    if example is None:
        raise ValueError("model must know its observation's shape: pass separate(..., example=<one observation>)")
    if model.policy.keys or model.value.keys or model.recurrent:
        raise ValueError("model must be one whose blocks read one input each")
    found = []
    with torch.no_grad(), evaluating(model):
        hidden = torch.zeros(1, *example.shape, dtype=example.dtype, device=next(model.parameters()).device)
        hidden = _run(model.trunk, "trunk", 1, hidden, found)
        for part in ("policy", "value"):
            _run(getattr(model, part), part, model.at + 1, hidden, found)
    return found


@checked(models=SOME)
def network_figure(models: Mapping[str, ActorValue]) -> Figure:
    """The models side by side, each from its observation at the foot to its heads, with k and parameters above it.

    Args:
        models: title -> model from `actor_value`.

    Raises:
        ValueError: a model that `drawn_blocks` refuses.
    """
    from matplotlib.figure import Figure

    blocks = {title: drawn_blocks(model) for title, model in models.items()}
    top = max(block.row for each in blocks.values() for block in each) + 1
    figure = Figure(figsize=(3.1 * len(models), 0.75 * (top + 2)), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, (title, model) in zip(panels, models.items(), strict=True):
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, top + 0.6)
        axes.axis("off")
        axes.set_title(f"{title}: k = {model.at}\n{parameter_count(model)['total']:,} parameters", fontsize="medium")
        shape = tuple(model.example["observation"].shape)
        axes.text(0.5, 0, f"observation\n{_shape(shape)}", ha="center", va="center", fontsize="small")
        last: dict[str, tuple[float, float]] = {
            "trunk": (0.5, 0.15)
        }  # middle of the upper edge of each part's last box
        for part, row, outputs in blocks[title]:
            below = last.get(part, last["trunk"])
            last[part] = _box(axes, PLACES[part], row, f"{part} {row}\n{_shape(outputs)}", COLOURS[part], below)
        for part, text in (("policy", "policy head"), ("value", "value head")):
            below = last.get(part, last["trunk"])
            _box(axes, PLACES[part], top, text, COLOURS[part], below)
    return figure


def _run(blocks: nn.Sequential, part: str, first: int, hidden: Tensor, found: list[DrawnBlock]) -> Tensor:
    for row, block in enumerate(blocks, start=first):
        hidden = block(hidden)
        found.append(DrawnBlock(part, row, tuple(hidden.shape[1:])))
    return hidden


def _box(axes: Axes, x: float, row: int, text: str, colour: str, below: tuple[float, float]) -> tuple[float, float]:
    """A box in a row, with an arrow from the box below it; returns the middle of its upper edge."""
    from matplotlib.patches import FancyBboxPatch

    low = row - HEIGHT / 2
    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.03", "facecolor": colour, "edgecolor": "#444444"}
    axes.add_patch(FancyBboxPatch((x - WIDTH / 2, low), WIDTH, HEIGHT, linewidth=0.8, **style))
    axes.text(x, row, text, ha="center", va="center", fontsize="small")
    axes.annotate("", (x, low), below, arrowprops={"arrowstyle": "->", "color": "#444444", "linewidth": 0.8})
    return x, low + HEIGHT


def _shape(shape: tuple[int, ...]) -> str:
    """A shape as text; a single axis is a number of features."""
    return f"{math.prod(shape)} features" if len(shape) == 1 else " x ".join(map(str, shape))
