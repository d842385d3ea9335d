"""A study of actor and critic sizes as pictures: the paper's figure 5, returns against costs, and the diagnoses.

    for study in read_studies(store):
        save_figure(training_figure(study), Path(f"training_{study.task}_{study.algorithm}.png"))

After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893), section IV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from decouple.analysis.pareto import pareto_front
from decouple.checks import checked
from decouple.studies.actor_size.results import SizeCell, SizeStudy
from decouple.studies.actor_size.trials import return_text, size_name, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "diagnosis_figure",
    "pareto_figure",
    "sizes_figure",
    "training_figure",
]

Size = tuple[int, ...]
LABEL = 8  # font size of the labels at points


class Point(NamedTuple):
    """A point of a Pareto front: the actor's size, its cost and its return."""

    name: str
    x: float
    y: float


SYMMETRIC = {"color": "#2f6cab", "marker": "o", "label": "actor and critic of one size"}
ASYMMETRIC = {"color": "#d98a00", "marker": "D"}
OTHER = {"color": "#8f8f8f", "marker": "s", "label": "beside another critic"}
RUNTIMES = {"eager": "eager PyTorch", "exported": "torch.export", "onnx": "ONNX Runtime"}


@checked()
def training_figure(study: SizeStudy) -> Figure:
    """Figure 5: value loss and return over training, for each critic and then for each actor beside one critic."""
    from matplotlib.ticker import EngFormatter

    figure = _figure(10, 7.4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    colors = _colors(study)
    for column, (title, cells, size_of) in enumerate(_two_ways(study)):
        axes[0, column].set_title(title, fontsize=10)
        for row, metric in enumerate(("loss/critic", "train/episode_return")):
            for cell in cells:
                _curve(axes[row, column], *cell.curve(metric), colors[size_of(cell)], size_name(size_of(cell)))
            axes[row, column].grid(alpha=0.3)
        if not cells:
            axes[0, column].text(0.5, 0.5, "no such cells", ha="center", transform=axes[0, column].transAxes)
        axes[1, column].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[1, column].set_xlabel("steps of each agent")
    _log_scale(axes[0])
    axes[0, 0].set_ylabel("value loss (loss/critic)")
    axes[1, 0].set_ylabel("return of training episodes")
    named = {label: line for ax in axes[0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [name for name in map(size_name, study.sizes) if name in named]
    if named:
        figure.legend([named[n] for n in order], order, loc="outside right center", frameon=False)
    figure.suptitle(f"{_title(study)}: training (median over seeds, and their middle half)")
    return figure


@checked()
def sizes_figure(study: SizeStudy) -> Figure:
    """Value loss at the end of training and final return against the critic's size, then against the actor's."""
    figure = _figure(10, 7.4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (title, cells, size_of) in enumerate(_two_ways(study)):
        axes[0, column].set_title(title, fontsize=10)
        style = (SYMMETRIC, ASYMMETRIC)[column] | {"label": None}
        for row, measure in enumerate(("value_loss", "return")):
            _against_size(axes[row, column], study, cells, size_of, measure, style)
        axes[1, column].set_xlabel(("size of the critic, and of the actor", "size of the actor")[column])
    _log_scale(axes[0])
    axes[0, 0].set_ylabel("value loss, last tenth of training")
    axes[1, 0].set_ylabel("return after training")
    _returns_axes(axes[1], study)
    figure.suptitle(f"{_title(study)}: each seed, and the mean (of the return with its 95 % interval)")
    figure.supxlabel(_captions(study, f"{_bound_text(study)}A size without a point was not trained."), fontsize=9)
    return figure


@checked()
def pareto_figure(study: SizeStudy, latency: Sequence[Mapping[str, Any]]) -> Figure:
    """Return against the actor's parameters, multiply-adds and latency, with the Pareto front as a line.

    Args:
        study: the study; its cells with finite returns are drawn.
        latency: rows of `study_latency`; those of other studies are passed over.
    """
    own = [row for row in latency if (row["task"], row["algorithm"], row["settings"]) == _key(study)]
    times = {(row["actor"], row["runtime"], row["batch"]): (row["median_us"], row["p99_us"]) for row in own}
    batches, measured = sorted({row["batch"] for row in own}), {row["runtime"] for row in own}
    runtimes = {name: text for name, text in RUNTIMES.items() if name in measured}
    lines = max(2, len(batches)) if own else 1  # parameters and multiply-adds below each other, or alone
    figure = _figure(3.75 * (1 + len(runtimes)) if own else 9, 3.6 * lines + 1)
    grid = figure.subplots(lines, 1 + len(runtimes) if own else 2, sharey=True, squeeze=False)
    fronts: dict[Axes, list[Point]] = {}
    for axes, name in zip(grid[:, 0] if own else grid[0], ("parameters", "multiply_adds"), strict=False):
        fronts[axes] = _front(axes, study, lambda cell, name=name: (getattr(cell, name), None))
        axes.set(xlabel=f"{name.replace('_adds', '-adds')} of the actor", ylabel="return after training")
    for line, batch in enumerate(batches):
        for axes, (runtime, text) in zip(grid[line, 1:], runtimes.items(), strict=True):
            cost = lambda cell, key=(runtime, batch): times.get((cell.actor, *key), (None, None))  # noqa: E731
            fronts[axes] = _front(axes, study, cost)
            axes.set_xlabel(f"microseconds a call: {text}, batch {batch}")
    for axes in grid.flat:
        if axes not in fronts:
            axes.set_axis_off()
    _returns_axes(list(fronts), study)
    handles = {label: handle for handle, label in zip(*grid[0, 0].get_legend_handles_labels(), strict=True)}
    # Two panels are too narrow for title and legend beside each other.
    place = {"loc": "outside upper right", "ncols": 3} if own else {"loc": "outside right center"}
    figure.legend(handles.values(), handles, **place, frameon=False)
    figure.suptitle(f"{_title(study)}: what a return costs", x=0.01, ha="left")
    says = [
        f"{_bound_text(study)}Sizes are the actor's; a vertical line is the mean's 95 % interval over seeds.",
        "Latency on one thread. Filled: the median, its front as a line; hollow: the 99th percentile, its front "
        "dashed.",
    ]
    figure.supxlabel(_captions(study, "\n".join(says if own else says[:1])), fontsize=9)
    _label_fronts(figure, fronts)
    return figure


@checked()
def diagnosis_figure(study: SizeStudy) -> Figure | None:
    """Bias of the critics and their overfit against the actor's size; None where no cell has either (on policy)."""
    measures = {
        "value_bias": "critics' values less Monte-Carlo returns\n(below 0: they underestimate)",
        "overfit": "held-out loss / training loss,\nlast tenth (above 1: they overfit)",
    }
    if not any(cell.values(name) for cell in study.cells for name in measures):
        return None
    figure = _figure(11, 4.6)
    beside = study.beside(study.locked_critic)
    for axes, (name, text), level in zip(figure.subplots(1, 2), measures.items(), (0, 1), strict=True):
        _against_size(axes, study, study.symmetric, lambda cell: cell.actor, name, SYMMETRIC, -0.12)
        locked = ASYMMETRIC | {"label": f"actor {_beside(study)}"}
        _against_size(axes, study, beside, lambda cell: cell.actor, name, locked, 0.12)
        axes.axhline(level, color="#333333", ls="--", lw=1)
        axes.set(xlabel="size of the actor", ylabel=text)
        if not any(cell.values(name) for cell in study.cells):
            axes.text(0.5, 0.5, "not measured: no held_out_every", ha="center", transform=axes.transAxes)
    handles = {label: h for h, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{_title(study)}: each seed, and the mean with its 95 % interval")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _log_scale(panels: Sequence[Axes]) -> None:
    """A logarithmic y axis of panels that share it, where something positive is drawn: matplotlib refuses it else."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for axes in panels for line in axes.lines]
    if any((values > 0).any() for values in drawn):
        panels[0].set_yscale("log")


def _two_ways(study: SizeStudy) -> list[tuple[str, list[SizeCell], Callable[[SizeCell], Size]]]:
    """The two columns of figure 5: a title, the cells, and the size that differs among them."""
    return [
        ("[i] critics and actors of one size", study.symmetric, lambda cell: cell.critic),
        (f"[ii] actors {_beside(study)}", study.beside(study.locked_critic), lambda cell: cell.actor),
    ]


def _beside(study: SizeStudy) -> str:
    return "beside one critic" if study.locked_critic is None else f"beside the critic {size_name(study.locked_critic)}"


def _colors(study: SizeStudy) -> dict[Size, Any]:
    """A colour for each size that figure 5 draws, as far apart as can be."""
    from matplotlib import colormaps

    drawn = {size_of(cell) for _, cells, size_of in _two_ways(study) for cell in cells}
    sizes = [size for size in study.sizes if size in drawn]
    return {size: colormaps["viridis"](0.92 * place / max(1, len(sizes) - 1)) for place, size in enumerate(sizes)}


def _curve(axes: Axes, frames: np.ndarray, values: np.ndarray, color: Any, label: str) -> None:
    """Draw the median over seeds and their middle half, from values (S, T), where any is finite."""
    values = np.where(np.isfinite(values), values, np.nan)
    present = ~np.isnan(values).all(0) if len(values) else np.zeros(0, bool)
    if not present.any():
        return
    low, middle, high = np.nanquantile(values[:, present], [0.25, 0.5, 0.75], axis=0)
    axes.plot(frames[present], middle, color=color, label=label, lw=1.6)
    axes.fill_between(frames[present], low, high, color=color, alpha=0.15, lw=0)


def _against_size(
    axes: Axes,
    study: SizeStudy,
    cells: Sequence[SizeCell],
    size_of: Callable[[SizeCell], Size],
    measure: str,
    style: Mapping[str, Any],
    shift: float = 0.0,
) -> None:
    """Draw a measure of each cell at its size's place among the study's sizes: seeds, mean and interval."""
    places, means, errors = [], [], []
    for cell in cells:
        values, place = cell.values(measure), study.sizes.index(size_of(cell)) + shift
        finite = [value for value in values if math.isfinite(value)]
        axes.plot([place] * len(finite), finite, ".", color=style["color"], alpha=0.4, markersize=5)
        if finite and len(finite) == len(values):  # an agent that diverged leaves no mean
            places, means = [*places, place], [*means, float(np.mean(values))]
            errors.append(means[-1] - t_interval(values)[0] if len(values) > 1 else 0.0)
    # A logarithmic axis has no room for an interval that reaches below 0.
    axes.errorbar(places, means, None if measure == "value_loss" else errors, **style, lw=1, ls="--", markersize=6)
    axes.set_xticks(range(len(study.sizes)), map(size_name, study.sizes), rotation=45, ha="right", fontsize=8)
    axes.set_xlim(-0.5, len(study.sizes) - 0.5)
    axes.grid(alpha=0.3)


def _front(axes: Axes, study: SizeStudy, cost: Callable[[SizeCell], tuple[float | None, float | None]]) -> list[Point]:
    """Draw the cells' returns against a cost, and against a second one as hollow marks, with Pareto fronts.

    Returns:
        The points of the first front.
    """
    named: list[Point] = []
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    costs = [x for cell in study.cells for x in cost(cell) if x is not None]
    wide = bool(costs) and max(costs) > 50 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params("x", labelsize=8)
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    for which, (fill, line) in enumerate((("full", "-"), ("none", "--"))):
        points = [(cell, cost(cell)[which], cell.mean_return) for cell in study.cells]
        drawn = [(cell, x, y) for cell, x, y in points if x is not None and math.isfinite(y)]
        for cell, x, y in drawn:
            style = _style(study, cell) | ({"label": None} if which else {})
            axes.plot(x, y, **style, ls="none", markersize=7, fillstyle=fill)
            if not which and y >= _least_shown(study):
                axes.vlines(x, *t_interval(cell.values("return")), color=style["color"], lw=0.8, alpha=0.6)
        front = [drawn[index] for index in pareto_front([x for _, x, _ in drawn], [y for *_, y in drawn])]
        steps = {"drawstyle": "steps-post", "color": "#333333", "lw": 1, "zorder": 1}
        axes.plot([x for _, x, _ in front], [y for *_, y in front], ls=line, **steps)
        named += [Point(size_name(cell.actor), x, y) for cell, x, y in front] if not which else []
    if not costs:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    elif max(costs) < 4 * min(costs):  # a narrow axis has no ticks, or numbers that nobody reads
        middle = (max(costs) * min(costs)) ** 0.5
        axes.set_xlim(middle / 2.5, 2.5 * middle)
    return named


def _label_fronts(figure: Figure, fronts: Mapping[Axes, Sequence[Point]]) -> None:
    """Write each point's size beside it, where it covers no other size, no point, and stays within its panel.

    Of the places around a point the one that covers least is taken, the nearest first.
    """
    figure.draw_without_rendering()  # settles the layout: from here on places in pixels are known
    dots = figure.dpi / 72  # pixels a point of the font
    for axes, points in fronts.items():
        panel, taken = axes.get_window_extent(), []
        for line in axes.lines:
            if line.get_marker() not in (None, "None", ""):
                marks = axes.transData.transform(np.column_stack(line.get_data()))
                taken += [_box(x, y, 4 * dots, 4 * dots) for x, y in marks]
        for point in points:
            middle = axes.transData.transform((point.x, point.y))
            half = 0.32 * LABEL * dots * len(point.name), 0.6 * LABEL * dots
            places = [
                (side * (half[0] + 5 * dots), up * 6.5 * dots) for up in (1, -1, 3, -3, 5, -5) for side in (1, -1)
            ] + [(0, up * 11 * dots) for up in (1, -1)]
            boxes = [_box(middle[0] + dx, middle[1] + dy, *half) for dx, dy in places]
            best = min(range(len(boxes)), key=lambda place: _covered(boxes[place], taken, panel))
            taken.append(boxes[best])
            offset = places[best][0] / dots, places[best][1] / dots
            text = {"fontsize": LABEL, "ha": "center", "va": "center", "textcoords": "offset points"}
            axes.annotate(point.name, (point.x, point.y), offset, **text).set_in_layout(False)


def _box(x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _covered(box: tuple[float, ...], taken: Sequence[tuple[float, ...]], panel: Any) -> float:
    """The area, in pixels, that a box has in common with others or outside of the panel."""

    def common(a: Sequence[float], b: Sequence[float]) -> float:
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(common(box, other) for other in taken) + area - common(box, panel.extents)


def _style(study: SizeStudy, cell: SizeCell) -> dict[str, Any]:
    if cell.actor == cell.critic:
        return SYMMETRIC
    if cell.critic == study.locked_critic:
        return ASYMMETRIC | {"label": f"actor {_beside(study)}"}
    return OTHER


def _returns_axes(all_axes: Sequence[Axes], study: SizeStudy) -> None:
    """Draw the bound, and limit the axis so that failed cells do not squeeze the others."""
    means = [cell.mean_return for cell in study.cells]
    for axes in all_axes:
        if study.search is not None:
            axes.axhline(study.search["bound"], color="#333333", ls=":", lw=1)
        if min(means) < _least_shown(study):
            axes.set_ylim(_least_shown(study), max(means) + 0.3 * (max(means) - _least_shown(study)))


def _bound_text(study: SizeStudy) -> str:
    return "" if study.search is None else f"Dotted: accepted from {return_text(study.search['bound'])} on. "


def _least_shown(study: SizeStudy) -> float:
    """The start of the axis of returns; -inf without a search, and where no cell is accepted."""
    best = max(cell.mean_return for cell in study.cells)
    if study.search is None or best <= study.search["bound"]:
        return -math.inf
    return study.search["bound"] - 3 * (best - study.search["bound"])


def _captions(study: SizeStudy, text: str) -> str:
    """The text, and the cells that the picture has no room for."""
    low = [c for c in study.cells if c.mean_return < _least_shown(study) or c.mean_return == -math.inf]
    names = [f"{cell.name} {return_text(cell.mean('return'))}" for cell in low]
    lines = ["Below the axis: " + "; ".join(names[i : i + 3]) for i in range(0, len(names), 3)]
    return "\n".join([text, *lines])


def _key(study: SizeStudy) -> tuple[str, str, str]:
    return study.task, study.algorithm, study.key


def _title(study: SizeStudy) -> str:
    return f"{study.task}, {study.algorithm.upper()}"
