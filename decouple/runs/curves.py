"""Learning curves of a run: `plot_curves("runs/one")` draws `curves.png` from `metrics.csv` alone."""

from __future__ import annotations

import fnmatch
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from decouple.checks import Must, at_least, checked
from decouple.runs.files import replace_file
from decouple.runs.metrics import column_numbers, read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_curves", "save_figure"]

_MARKERS_UP_TO = 40  # points; a longer curve is drawn without markers
_Points = list[tuple[int, float]]  # (frames, value), in the order of the rows


class _Panel(NamedTuple):
    """One panel of `curves.png`: the metrics whose names match and that no earlier panel shows."""

    title: str
    unit: str
    patterns: tuple[str, ...]
    wide: bool = False  # a logarithmic axis where the metrics differ much in size


_PANELS = (
    _Panel(
        "Episode return",
        "return per episode",
        ("train/*return", "eval/*return", "train/*return/seed*", "eval/*return/seed*"),
    ),
    _Panel("Losses", "loss", ("loss/*",), wide=True),
    _Panel("Entropy of the policy", "entropy (nats)", ("*entropy",)),
    _Panel("Clip fraction", "share of samples", ("*clip_fraction",)),
    _Panel("Explained variance of the value", "share of variance", ("*explained_variance",)),
    _Panel("Gradient norms", "L2 norm", ("grad_norm/*",), wide=True),
    _Panel("Gradients at the cut: direction", "cosine", ("cut/*cos*",)),
    _Panel("Gradients at the cut", "L2 norm", ("cut/*",), wide=True),
    _Panel("Last features of policy and value: similarity", "linear CKA", ("branches/cka*",)),
    _Panel("Last features: effective rank", "directions", ("branches/*_rank", "branches/*_rank/seed*")),
    _Panel("Speed", "environment frames / s", ("time/frames_per_second",)),
)
_LABELS = {
    "train/episode_return": "train, while collecting",
    "eval/train_return": "train, evaluated",
    "eval/test_return": "test, evaluated",
    "branches/policy_rank": "policy",
    "branches/value_rank": "value",
}


@checked()
def plot_curves(run_dir: str | os.PathLike[str]) -> Path:
    """Draw `curves.png` from `metrics.csv`: one panel for each kind of metric in the table.

    Panels: returns (`train/*return`, `eval/*return`), losses (`loss/*`), `*entropy`, `*clip_fraction`,
    `*explained_variance`, `grad_norm/*`, gradients at the cut (`cut/*`), the branches' last features (`branches/*`) and
    `time/frames_per_second`. Values that are not finite are not drawn; the legend counts them.

    Returns:
        Path of the picture; the file is replaced as a whole.

    Raises:
        FileNotFoundError: no metrics.csv in `run_dir`.
        ValueError: the table is damaged before its last line.
    """
    run_dir = Path(run_dir)
    table = run_dir / "metrics.csv"
    columns, rows = read_table(table)
    frames = [int(at) for at in column_numbers(table, "frames", [row[0] for row in rows])]
    panels: dict[_Panel, dict[str, _Points]] = {}
    for index, name in enumerate(columns[1:], start=1):
        found = [panel for panel in _PANELS if any(fnmatch.fnmatchcase(name, pattern) for pattern in panel.patterns)]
        if found:
            cells = [row[index] for row in rows]
            points = zip(frames, column_numbers(table, name, cells), cells, strict=True)
            panels.setdefault(found[0], {})[name] = [(at, value) for at, value, cell in points if cell]
    figure = _figure(run_dir.resolve().name, {panel: panels[panel] for panel in _PANELS if panel in panels})
    path = run_dir / "curves.png"
    save_figure(figure, path)
    return path


@checked(figure=Must(lambda figure: callable(figure.savefig), "a figure of Matplotlib"), dpi=at_least(1))
def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure as PNG; the file is replaced as a whole."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    replace_file(path, picture.getvalue())


def _figure(title: str, panels: Mapping[_Panel, Mapping[str, _Points]]) -> Figure:
    """A figure of all panels, up to three in a row, with room for the longest legend below each."""
    from matplotlib.figure import Figure

    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    named = [sum(_mean_of(name, series) is None for name in series) for series in panels.values()]
    legend_lines = max([math.ceil(number / 2) for number in named], default=1)
    # Sizes are in inches. matplotlib's automatic layouts draw everything twice, which takes twice as long.
    width, height, across, down = 4.0, 2.5, 0.95, 1.05 + 0.2 * legend_lines
    size = (columns * (width + across) + 0.2, rows * (height + down) + 0.3)
    figure = Figure(figsize=size)
    figure.subplots_adjust(
        left=across / size[0], right=1 - 0.2 / size[0], wspace=across / width,
        bottom=(down - 0.4) / size[1], top=1 - 0.7 / size[1], hspace=down / height,
    )  # fmt: skip
    figure.suptitle(title, y=1 - 0.12 / size[1], va="top")
    if not panels:
        figure.text(0.5, 0.5, "nothing to draw yet", ha="center", va="center")
    last = max((points[-1][0] for series in panels.values() for points in series.values()), default=0)
    for position, (panel, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        axes.set_xlim(0, 1.03 * last or 1)
        _draw(axes, panel, series)
    return figure


def _draw(axes: Axes, panel: _Panel, series: Mapping[str, _Points]) -> None:
    """Draw the curves of one panel. The legend is below the axes, where it hides no curve.

    A mean over seeds is a thick line, and each seed a thin one of its colour.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    magnitudes, values_of_all = [], []
    colours = {
        name: f"C{place}" for place, name in enumerate(name for name in series if _mean_of(name, series) is None)
    }
    for name, points in series.items():
        frames = [frames for frames, _ in points]
        values = [value if abs(value) < 1e100 else math.nan for _, value in points]  # an axis cannot show larger ones
        finite = [abs(value) for value in values if not math.isnan(value)]
        values_of_all += values
        mean = _mean_of(name, series)
        if mean is not None:
            axes.plot(frames, values, color=colours[mean], linewidth=0.6, alpha=0.45, zorder=1)
            continue
        seeds = any(_mean_of(other, series) == name for other in series)
        label = _LABELS.get(name, name) + (", mean and each seed" if seeds else "")
        if len(finite) < len(values):
            label += f" ({len(values) - len(finite)} nan or inf)"
        magnitudes += [sorted(finite)[len(finite) // 2]] if any(finite) else []
        marker = "o" if len(finite) <= _MARKERS_UP_TO else None
        thickness = 0.7 if len(finite) > 400 else 1.6  # thin noisy curves, so that those with few points stay visible
        style = {"marker": marker, "markersize": 3.5, "color": colours[name]}
        axes.plot(frames, values, label=label, linewidth=thickness, **style)
    if panel.wide and len(magnitudes) > 1 and max(magnitudes) > 50 * min(magnitudes) > 0:
        _logarithmic(axes, math.floor(math.log10(min(magnitudes))), values_of_all)
    axes.set_title(panel.title, y=1)  # without a place matplotlib measures all labels for one, a third of the time
    axes.set_xlabel("environment frames")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize="small", frameon=False)


def _mean_of(name: str, series: Mapping[str, _Points]) -> str | None:
    """The metric over all seeds that a seed's is part of, `loss/critic` for `loss/critic/seed3`; None for others."""
    mean, _, seed = name.rpartition("/seed")
    return mean if seed.isdigit() and mean in series else None


def _logarithmic(axes: Axes, least: int, values: Sequence[float]) -> None:
    """Make the axis of values logarithmic in both directions from 10^least on, with few enough ticks to be read."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("symlog", linthresh=10.0**least)
    finite = [value for value in values if not math.isnan(value)]
    ends = {sign: max((sign * value for value in finite), default=0.0) for sign in (1, -1)}
    decades = {sign: math.ceil(math.log10(end)) - least if end > 10.0**least else 0 for sign, end in ends.items()}
    every = max(1, math.ceil(sum(decades.values()) / 6))
    exponents = {sign: range(least, least + number + 1, every) for sign, number in decades.items() if ends[sign] > 0}
    axes.set_yticks(sorted([0.0, *(sign * 10.0**power for sign, powers in exponents.items() for power in powers)]))
    axes.yaxis.set_minor_locator(NullLocator())
