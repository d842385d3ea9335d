"""The pictures of the separation study's report: aggregates, curves, profiles, probability of improvement.

    figure = curve_figure(study, "test_return")
    figure.savefig("test_return.png", dpi=110)

After figures 2 and 3 of Nafi, Ali and Hsu (AAMAS 2023), and those of Agarwal et al. 2021.
"""

from __future__ import annotations

import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decouple.analysis.statistics import OF_METRICS, Estimate, Profile
from decouple.checks import SOME, at_least, checked, distinct, one_of
from decouple.studies.separation.recommendation import Comparison
from decouple.studies.separation.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["aggregate_figure", "comparison_figure", "curve_figure", "mean_over_seeds", "profile_figure"]

# The paper's colours, where it has any: shared gray, early purple, late blue, full yellow.
_COLOURS = {"shared": "#6b6b6b", "late": "#2f6cab", "early": "#8e63b5", "full": "#d9a400"}
_MORE = ("#2a9d6f", "#c4524f", "#8c6d46", "#3aa6b9", "#b04f8a")
_METRICS = {"median": "Median", "iqm": "IQM", "mean": "Mean", "optimality_gap": "Optimality gap"}
_AXIS = {
    "test_return": "test return",
    "train_return": "return on training levels",
    "generalisation_gap": "train - test return",
    "unseen_return": "return on unseen test levels",
}


@checked(aggregates=OF_METRICS, metrics=distinct(one_of(*_METRICS), least=1))
def aggregate_figure(
    aggregates: Mapping[str, Mapping[str, Estimate]], unit: str, metrics: Sequence[str] = tuple(_METRICS)
) -> Figure:
    """Metrics of `aggregate_metrics`, a row for each variant: a mark at the value, a bar over its interval.

    Args:
        aggregates: variant -> metric -> estimate.
        unit: unit of the scores, for the axes.
        metrics: metrics to draw, a panel for each.
    """
    from matplotlib.figure import Figure

    variants = list(aggregates)
    figure = Figure(figsize=(11, 1.1 + 0.42 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for row, variant in enumerate(variants):
            _interval(axes, row, aggregates[variant][metric], _colour(variant, variants))
        better = "less is better" if metric == "optimality_gap" else "more is better"
        axes.set_title(f"{_METRICS[metric]}\n({better})", fontsize="medium")
        axes.set_yticks(range(len(variants)), variants)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_xlabel(unit, fontsize="small")
        axes.locator_params(axis="x", nbins=5)
        axes.use_sticky_edges = False  # a bar would end at the frame
        axes.margins(x=0.08)
        axes.grid(axis="x", alpha=0.3)
    return figure


@checked(comparisons=SOME)
def comparison_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Probability of improvement with its interval, a row for each pair; 1/2 is no difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1 + 0.36 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    for row, comparison in enumerate(comparisons):
        told = comparison.verdict != "the seeds cannot tell"
        _interval(axes, row, comparison.probability, "#2f6cab" if told else "#8a8a8a")
    axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(comparisons)), [f"{comparison.x} over {comparison.y}" for comparison in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("probability of improvement (blue: told apart; gray: the seeds cannot tell)")
    axes.grid(axis="x", alpha=0.3)
    return figure


@checked(profiles=SOME)
def profile_figure(profiles: Mapping[str, Profile], unit: str) -> Figure:
    """The share of runs above each threshold, with the 95 % interval as a band."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for variant, profile in profiles.items():
        colour = _colour(variant, list(profiles))
        axes.step(profile.thresholds, profile.share, where="post", color=colour, label=variant, linewidth=1.8)
        if not any(map(math.isnan, profile.low)):
            axes.fill_between(
                profile.thresholds, profile.low, profile.high, step="post", color=colour, alpha=0.15, linewidth=0
            )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"threshold ({unit})")
    axes.set_ylabel("runs that score above it")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


@checked(window=at_least(1))
def curve_figure(study: Study, metric: str, *, window: int = 3, label: str | None = None) -> Figure:
    """A metric against frames, a panel for each game: mean over the finished runs, the standard deviation as a band.

    Unfinished runs are drawn as dashed lines and enter no mean.

    Args:
        study: the runs.
        metric: metric of evaluations in training: `test_return`, `train_return`, `generalisation_gap`, `unseen_return`;
            or a whole column of metrics.csv, as `cut/joint_cosine`.
        window: number of values averaged in a point: its own and those before it in the run.
        label: text of the axis; None: the metric's own.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    games, column = study.games, metric if "/" in metric else f"eval/{metric}"
    columns = len(games) if len(games) < 4 else min(4, math.ceil(len(games) / 2))
    rows = math.ceil(len(games) / columns)
    width, height = (3.1 if columns > 2 else 4.6), 2.7
    figure = Figure(figsize=(max(6.5, columns * width), rows * height + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    drawn: dict[str, object] = {}
    for axes, game in zip(panels, games, strict=False):
        for variant in study.variants:
            drawn |= _draw_runs(axes, study, variant, game, column, window)
        if metric == "generalisation_gap" or metric.endswith("_cosine"):
            axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(game)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    for axes in panels[len(games) :]:
        axes.set_visible(False)
    figure.supxlabel("environment frames", fontsize="medium")
    figure.supylabel(label or _AXIS.get(metric, metric), fontsize="medium")
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn), frameon=False)
    return figure


@checked(window=at_least(1))
def mean_over_seeds(
    curves: Sequence[Mapping[int, float]], window: int = 1
) -> tuple[list[int], list[float], list[float]]:
    """Mean and standard deviation over runs, at the frames where every run has a value.

    Args:
        curves: one mapping frames -> value for each run.
        window: number of values averaged in a point first: its own and those before it in the run.

    Returns:
        Frames, means, and standard deviations (n - 1; nan for one run).

    >>> mean_over_seeds([{10: 1.0, 20: 2.0}, {10: 3.0, 20: 6.0, 30: 9.0}])
    ([10, 20], [2.0, 4.0], [1.414..., 2.828...])
    """
    smooth = [_smooth(curve, window) for curve in curves]
    frames = sorted(set.intersection(*(set(curve) for curve in smooth))) if smooth else []
    columns = [[curve[at] for curve in smooth] for at in frames]
    means = [sum(values) / len(values) for values in columns]
    return frames, means, [stdlib_statistics.stdev(values) if len(values) > 1 else math.nan for values in columns]


def _draw_runs(axes: Axes, study: Study, variant: str, game: str, metric: str, window: int) -> dict[str, object]:
    """Draw one variant's runs on one game; returns label -> line, for the legend."""
    colour = _colour(variant, study.variants)
    lines: dict[str, object] = {}
    frames, means, stds = mean_over_seeds([run.curve(metric) for run in study.finished(variant, game)], window)
    if frames:
        (lines[variant],) = axes.plot(
            frames, means, color=colour, linewidth=1.6, marker="o" if len(frames) < 3 else None
        )
        if not math.isnan(stds[0]):
            low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
            axes.fill_between(frames, low, high, color=colour, alpha=0.15, linewidth=0)
    for run in study.runs.get((variant, game), []):
        if run.unfinished and (points := _smooth(run.curve(metric), window)):
            (line,) = axes.plot(list(points), list(points.values()), color=colour, linewidth=1.0, linestyle="--")
            lines[f"{variant}, unfinished run"] = line
    return lines


def _smooth(curve: Mapping[int, float], window: int) -> dict[int, float]:
    values = [curve[at] for at in sorted(curve)]
    means = (values[max(0, index + 1 - window) : index + 1] for index in range(len(values)))
    return {at: sum(some) / len(some) for at, some in zip(sorted(curve), means, strict=True)}


def _interval(axes: Axes, row: int, estimate: Estimate, colour: str) -> None:
    """A bar over an interval, and a mark at the value; a mark alone where there is no interval."""
    if not math.isnan(estimate.low):
        axes.barh(row, estimate.high - estimate.low, left=estimate.low, height=0.6, color=colour, alpha=0.45)
    axes.plot([estimate.value] * 2, [row - 0.3, row + 0.3], color="black", linewidth=2)


def _colour(variant: str, variants: Sequence[str]) -> str:
    others = [name for name in variants if name not in _COLOURS]
    return _COLOURS.get(variant) or _MORE[others.index(variant) % len(_MORE)]
