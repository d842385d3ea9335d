"""Curves of any runs side by side: those that differ in their seed alone as one curve with its mean.

    path, rows = compare_runs(Compare(runs=["runs/control/pendulum/*/*/*"]))

A run is a folder with `metrics.csv` and `config.yaml`, of either study.
"""

from __future__ import annotations

import fnmatch
import glob
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decouple.checks import at_least, check_fields, check_setting
from decouple.runs.curves import save_figure
from decouple.runs.files import read_yaml
from decouple.runs.loggers import OF_THE_RECORD
from decouple.runs.metrics import read_metrics

__all__ = ["Compare", "compare_runs"]

# Settings that tell no two curves apart.
NOT_COMPARED = {
    "seed",
    "seeds",
    "run_dir",
    "restart",
    "show_progress",
    "keep_replay",
    "num_threads",
    "video",
    *OF_THE_RECORD,
}
Curve = tuple[np.ndarray, np.ndarray]  # frames and values, (T,) each


@dataclass
class Compare:
    """Settings of a comparison: the runs, the metrics and the picture."""

    runs: list[str] = field(default_factory=list)  # run folders, or folders above them; patterns with * too; required
    metrics: list[str] = field(default_factory=lambda: ["*return"])  # metrics to draw; patterns with * too
    smooth: int = 1  # rows over which a curve is averaged
    output: str = "runs/compare.png"  # path of the picture

    def __post_init__(self) -> None:
        check_fields(self, smooth=at_least(1))
        for name, what in (("runs", "run folders, runs=[a,b]"), ("metrics", "metrics, metrics=[eval/return]")):
            given = getattr(self, name)
            known = bool(given) and all(isinstance(each, str) and each for each in given)
            check_setting(name, given, lambda _, known=known: known, f"one or several {what}")
        check_setting("output", self.output, lambda v: v.endswith(".png"), "a path that ends with .png")


def compare_runs(config: Compare) -> tuple[Path, list[tuple[str, str, int, float, float]]]:
    """Draw the curves.

    Returns:
        The picture's path; and for each metric and curve the two names, the number of seeds, and mean and standard
        deviation over them of the last value.

    Raises:
        ValueError: no run is found, a run's files are damaged, one seed would count twice in a curve, or no run has
            such a metric.
    """
    folders = _folders(config.runs)
    check_setting("runs", config.runs, lambda _: bool(folders), "folders with a metrics.csv, or folders above such")
    settings = [read_yaml(folder / "config.yaml") for folder in folders]
    labels = _labels(folders, settings)
    _check_distinct(folders, settings, labels)
    found: dict[str, dict[str, list[Curve]]] = {}  # metric -> label -> a curve for each seed
    for folder, label in zip(folders, labels, strict=True):
        table = read_metrics(folder)
        names = [name for name in table if any(fnmatch.fnmatchcase(name, each) for each in config.metrics)]
        for name in names:
            # Of an old run `loss/critic/seed0_auxiliary` is of another phase, not of this metric.
            seeds = [column for column in table if re.fullmatch(rf"{re.escape(name)}/seed\d+", column)] or [name]
            curves = [_curve(table, column, config.smooth) for column in seeds]
            found.setdefault(name, {}).setdefault(label, []).extend(c for c in curves if len(c[0]))
    check_setting("metrics", config.metrics, lambda _: bool(found), f"metrics of the runs in {folders[0]} and others")
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(_figure(found, list(dict.fromkeys(labels))), path)
    rows = []
    for metric, curves in found.items():
        for label, own in curves.items():
            last = np.array([values[-1] for _, values in own])
            spread = float(last.std(ddof=1)) if len(last) > 1 else math.nan
            rows.append((metric, label, len(own), float(last.mean()) if len(last) else math.nan, spread))
    return path, rows


def _folders(given: Sequence[str]) -> list[Path]:
    """The run folders that are given, or lie below what is given, each once and in order."""
    found: dict[Path, None] = {}
    for text in given:
        for place in sorted(map(Path, glob.glob(text))) or [Path(text)]:
            own = [place] if (place / "metrics.csv").exists() else [f.parent for f in place.rglob("metrics.csv")]
            found |= dict.fromkeys(sorted(own))
    return list(found)


def _labels(folders: Sequence[Path], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run, by the settings in which runs differ; the folder's where that is nothing."""
    keys = dict.fromkeys(key for one in settings for key in one if key not in NOT_COMPARED)
    differ = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    if not differ:
        return [folders[0].name if len(folders) == 1 else "all runs"] * len(folders)
    return [", ".join(f"{key}={one[key]}" for key in differ if key in one) for one in settings]


def _check_distinct(folders: Sequence[Path], settings: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """Raise ValueError for a seed that is in a curve twice, as of a run that `restart=true` put aside."""
    seen: dict[tuple[str, int], Path] = {}
    for folder, own, label in zip(folders, settings, labels, strict=True):
        first, count = own.get("seed"), own.get("seeds", 1)
        for seed in range(first, first + count) if isinstance(first, int) and isinstance(count, int) else ():
            if (label, seed) in seen:
                raise ValueError(
                    f"runs must each be there once: {label}, seed {seed}, is in {seen[label, seed]} and in {folder}; "
                    "leave one of them out of runs"
                )
            seen[label, seed] = folder


def _curve(table: Mapping[str, Sequence[float]], column: str, smooth: int) -> Curve:
    """A column's finite values, each the mean of the last `smooth` ones."""
    frames, values = np.array(table["frames"], float), np.array(table[column], float)
    there = np.isfinite(values)
    frames, values = frames[there], values[there]
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - smooth)
    return frames, (sums[ends] - sums[begins]) / (ends - begins)


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds wherever all have values before and after, between which they are interpolated."""
    low, high = max(frames[0] for frames, _ in curves), min(frames[-1] for frames, _ in curves)
    grid = np.unique(np.concatenate([frames for frames, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    return grid, np.mean([np.interp(grid, *curve) for curve in curves], axis=0)


def _figure(found: Mapping[str, Mapping[str, Sequence[Curve]]], labels: Sequence[str]) -> Any:
    """A panel for each metric; a thick line is a mean over seeds, a thin one a seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 0.3 * len(labels) + 0.3), layout="constrained")
    lines = {}
    for axes, (metric, curves) in zip(figure.subplots(rows, columns, squeeze=False).flat, found.items(), strict=False):
        for label, own in curves.items():
            colour = f"C{labels.index(label) % 10}"
            for frames, values in own if len(own) > 1 else ():
                axes.plot(frames, values, color=colour, linewidth=0.6, alpha=0.45, zorder=1)
            marker = "o" if own and len(own[0][0]) == 1 else None
            lines[label] = axes.plot(*_mean(own), color=colour, marker=marker)[0] if own else None
        axes.set(title=metric, xlabel="frames of each agent")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(found) :]:
        axes.set_axis_off()
    drawn = {label: line for label, line in lines.items() if line is not None}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", frameon=False, fontsize="small")
    return figure
