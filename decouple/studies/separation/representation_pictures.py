"""Pictures of measurements on features: similarity of blocks, a bar for each block and measure, saliency.

draw_similarity("cka.png", {"training levels": (names, names, cka)})
draw_measures("blocks.png", {"train": rows, "test": rows}, {"effective_rank": "effective rank"})
draw_saliency("saliency.png", frames, {"policy": maps, "value": maps}, ["train"])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decouple.checks import SOME, Must, axes, check_setting, checked
from decouple.runs.curves import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_measures", "draw_saliency", "draw_similarity"]

COLOURS = {"frame": "#9a9a9a", "trunk": "#4d4d4d", "policy": "#1f6fb4", "value": "#d1495b"}


@checked(panels=Must(len, "not empty", any_number=True))
def draw_similarity(
    path: Path,
    panels: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[Sequence[float]]]],
    axis_labels: tuple[str, str] = ("", ""),
) -> None:
    """Draw a matrix of CKA for each title.

    Args:
        path: the file.
        panels: title -> names of the rows, names of the columns, and the numbers.
        axis_labels: labels of the rows and of the columns.
    """
    from matplotlib.figure import Figure

    across, down = (max(len(panel[axis]) for panel in panels.values()) for axis in (1, 0))
    figure = Figure(figsize=(len(panels) * (1.6 + 0.55 * across) + 0.8, 1.7 + 0.55 * down), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shown = None
    for one, (title, (rows, columns, numbers)) in zip(axes, panels.items(), strict=True):
        shown = one.imshow(np.array(numbers), vmin=0, vmax=1, cmap="viridis")
        one.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        one.set_yticks(range(len(rows)), rows)
        one.set_title(title, fontsize="medium")
        one.set_ylabel(axis_labels[0])
        one.set_xlabel(axis_labels[1])
        for row, column in np.ndindex(len(rows), len(columns)):
            number = numbers[row][column]
            dark = math.isnan(number) or number > 0.6
            text = "-" if math.isnan(number) else f"{number + 0:.2f}"
            one.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if dark else "white")
    assert shown is not None
    figure.colorbar(shown, ax=list(axes), label="linear CKA", shrink=0.8)
    save_figure(figure, path, dpi=120)


@checked(
    sets=Must(lambda sets: sets and all("block" in row for rows in sets.values() for row in rows), "rows with a block"),
    measures=SOME,
)
def draw_measures(
    path: Path,
    sets: Mapping[str, Sequence[Mapping[str, Any]]],
    measures: Mapping[str, str],
    lines: Mapping[str, tuple[float, str]] | None = None,
) -> None:
    """Draw a panel for each measure, with a bar for each block: the first set of rows filled, the second hatched.

    Args:
        path: the file.
        sets: rows of each set of frames, in the same order; `block` is `frame`, or a branch and a number from 1.
        measures: column -> title of its panel.
        lines: column -> a level drawn for comparison, and its label.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = 3
    figure = Figure(figsize=(12.5, 2.9 * math.ceil(len(measures) / columns) + 0.5), layout="constrained")
    axes = list(figure.subplots(math.ceil(len(measures) / columns), columns, squeeze=False).flat)
    for one in axes[len(measures) :]:
        one.set_axis_off()
    for one, (measure, says) in zip(axes, measures.items(), strict=False):
        cut = " (cut at -1)" if _bars(one, sets, measure) else ""
        if lines and measure in lines:
            level, label = lines[measure]
            one.axhline(level, color="black", linestyle=":", linewidth=1)
            cut += f" (dotted: {label})"
        one.set_title(says + cut, fontsize="medium")
    present = [name for name in COLOURS if any(row["block"].split()[0] == name for row in next(iter(sets.values())))]
    handles = [Patch(color=COLOURS[name], label=name) for name in present]
    faces = ["black", *["white"] * (len(sets) - 1)]
    handles += [
        Patch(facecolor=face, edgecolor="black", hatch=_hatch(index), label=name)
        for index, (name, face) in enumerate(zip(sets, faces, strict=True))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    save_figure(figure, path, dpi=120)


def _hatch(position: int) -> str:
    return ("", "////", "....", "xxxx")[position % 4]


def _bars(axes: Axes, sets: Mapping[str, Sequence[Mapping[str, Any]]], measure: str) -> bool:
    """Draw one measure's bars, blocks of one number side by side, policy left of value; returns whether any is cut."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for rows in sets.values():
        for row in rows:
            if measure in row:
                groups.setdefault(row["block"].rpartition(" ")[2], []).append(row)
    width = 0.2
    values = [row[measure] for rows in groups.values() for row in rows if not math.isnan(row[measure])]
    for place, number in enumerate(groups):
        bars = [
            (row["block"].split()[0], index, row[measure])
            for branch in COLOURS
            for index, rows in enumerate(sets.values())
            for row in rows
            if row["block"].rpartition(" ")[2] == number and row["block"].split()[0] == branch
        ]
        for position, (branch, index, height) in enumerate(bars):
            x = place + (position - (len(bars) - 1) / 2) * width
            face, edge = (COLOURS[branch], "white") if index == 0 else ("white", COLOURS[branch])
            axes.bar(x, height, width * 0.95, facecolor=face, edgecolor=edge, hatch=_hatch(index))
    axes.set_xticks(range(len(groups)), [number if number == "frame" else f"block {number}" for number in groups])
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if cut := bool(values) and min(values) < -1:  # a probe that fails badly would hide the others
        axes.set_ylim(-1, max(1.0, *values))
    return cut


@checked(frames=axes(4), maps=SOME)
def draw_saliency(path: Path, frames: Tensor, maps: Mapping[str, Tensor], titles: Sequence[str]) -> None:
    """Draw frames in the first row, each network's saliency below them, and the mean over frames at the end.

    Args:
        path: the file.
        frames: uint8 (N, 3, H, W).
        maps: name -> saliency (N, H, W), at least 0. Each map is scaled by its own maximum, which is printed above it;
            the mean is over scaled maps.
        titles: a title for each of the N frames.
    """
    from matplotlib.figure import Figure

    check_setting("titles", titles, lambda names: len(names) == len(frames), f"a text for each of {len(frames)} frames")
    shape = tuple(frames.shape[:1] + frames.shape[2:])
    for name, of_name in maps.items():
        check_setting("maps", tuple(of_name.shape), lambda v: v == shape, f"of the shape {shape} of frames, for {name}")
    across, down = len(frames) + 1, 1 + len(maps)
    figure = Figure(figsize=(1.55 * across + 0.7, 1.75 * down + 0.3), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    pictures = [*frames.float().div(255), frames.float().div(255).mean(0)]
    for column, (picture, title) in enumerate(zip(pictures, [*titles, "mean"], strict=True)):
        shown = picture.permute(1, 2, 0).numpy()
        axes[0, column].imshow(shown)
        axes[0, column].set_title(title, fontsize="small")
        grey = shown.mean(-1, keepdims=True).repeat(3, -1) * 0.5 + 0.3
        for row, (name, of_name) in enumerate(maps.items(), start=1):
            largest = of_name.amax((1, 2), keepdim=True)
            shares = of_name / torch.where(largest > 0, largest, 1.0)
            heat = (shares[column] if column < len(frames) else shares.mean(0)).numpy()
            strength = (heat / (heat.max() or 1.0))[..., None]
            colour = np.array([int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)])
            axes[row, column].imshow(grey * (1 - strength) + colour * strength)
            says = f"up to {largest[column].item():.2g}" if column < len(frames) else "mean of these"
            axes[row, column].set_title(says, fontsize="x-small")
    for row, name in enumerate(["frame", *maps]):
        axes[row, 0].set_ylabel(name, fontsize="medium")
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
    save_figure(figure, path, dpi=120)
