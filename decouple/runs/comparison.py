"""Curves of any runs side by side: those that differ in their seed alone as one curve with its mean.

    path, rows = compare_runs(Compare(runs=["runs/control/pendulum/*/*/*"]))

A run is a folder with `metrics.csv` and `config.yaml`, of either study.
"""

from __future__ import annotations

import fnmatch
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decouple.checks import at_least, check_fields, check_setting
from decouple.runs.curves import save_figure
from decouple.runs.files import folders_below, named_places, read_yaml
from decouple.runs.loggers import OF_THE_RECORD
from decouple.runs.metrics import read_metrics, read_result

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
# Settings that a curve's name begins with. Of two tasks or algorithms it leaves out what follows from them.
NAMED_FIRST = ("env", "algorithm", "protocol", "separation", "actor", "critic")
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
        deviation over them of the last value. Where seeds have come to different frames it is that of the last frame
        that all have, and a warning says so; seeds that have failed are left out, with a warning too.

    Raises:
        ValueError: one of `runs` has no run, a run's files are damaged, one seed would count twice in a curve, or no
            run has such a metric.
    """
    folders = _folders(config.runs)
    settings = [read_yaml(folder / "config.yaml") for folder in folders]
    labels = _labels(folders, settings)
    _check_distinct(folders, settings, labels)
    found: dict[str, dict[str, list[Curve]]] = {}  # metric -> label -> a curve for each seed
    for folder, label in zip(folders, labels, strict=True):
        table, failed = read_metrics(folder), _failed(folder)
        names = [name for name in table if any(fnmatch.fnmatchcase(name, each) for each in config.metrics)]
        for name in names:
            # Of an old run `loss/critic/seed0_auxiliary` is of another phase, not of this metric.
            seeds = [column for column in table if re.fullmatch(rf"{re.escape(name)}/seed\d+", column)] or [name]
            left = [column for column in seeds if column.partition("/seed")[2] not in failed]
            curves = [_curve(table, column, config.smooth) for column in left]
            found.setdefault(name, {}).setdefault(label, []).extend(c for c in curves if len(c[0]))
        if failed:
            named = ", ".join(f"seed {seed}" for seed in sorted(failed) if seed) or "it"
            warnings.warn(f"{folder}: {named} has failed, and is left out", stacklevel=2)
    found = {name: own for name, curves in found.items() if (own := {label: c for label, c in curves.items() if c})}
    check_setting("metrics", config.metrics, lambda _: bool(found), f"metrics of the runs in {folders[0]} and others")
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(_figure(found, list(dict.fromkeys(labels))), path)
    rows = []
    for metric, curves in found.items():
        for label, own in curves.items():
            ends = [frames[-1] for frames, _ in own]
            last = np.array([np.interp(min(ends), *curve) for curve in own])
            spread = float(last.std(ddof=1)) if len(last) > 1 else math.nan
            rows.append((metric, label, len(own), float(last.mean()), spread))
            if min(ends) < max(ends):
                far = f"the seeds end between {min(ends):,.0f} and {max(ends):,.0f} frames"
                warnings.warn(f"{metric}, {label}: {far}; the last value is at the first of them", stacklevel=2)
    return path, rows


def _failed(folder: Path) -> set[str]:
    """The seeds of a run that have failed, as digits; the empty text where it is the run's only one."""
    result = read_result(folder / "result.json")
    finals = [name.partition("/seed") for name in result if name.startswith(("final/return", "final/test_return"))]
    single = not any(seed for _, _, seed in finals)  # beside seeds' own numbers the one without is their mean
    return {seed for name, at, seed in finals if result[name + at + seed] is None and (seed or single)}


def _folders(given: Sequence[str]) -> list[Path]:
    """The run folders that are given, or lie below what is given, each once and in order."""
    found: dict[Path, Path] = {}
    for text in given:
        own: list[Path] = []
        for place in named_places(text):
            at_once = [place] if (place / "metrics.csv").exists() else folders_below(place)
            own += sorted(folder for folder in at_once if (folder / "metrics.csv").exists())
        says = "folders with a metrics.csv, or folders above such"
        check_setting("runs", text, lambda _, own=own: bool(own), says)
        for folder in own:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _labels(folders: Sequence[Path], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run, by the settings in which those that have them differ; the folder's where that is nothing."""
    keys = dict.fromkeys([*NAMED_FIRST, *(key for one in settings for key in one if key not in NOT_COMPARED)])
    differ = [key for key in keys if _differs(key, settings)]
    if not differ:
        return [folders[0].name if len(folders) == 1 else "all runs"] * len(folders)
    alike: dict[str, list[Mapping[str, Any]]] = {}  # runs of one task and algorithm
    for one in settings:
        alike.setdefault(repr([one.get(key) for key in ("env", "algorithm")]), []).append(one)
    named = [key for key in differ if key in NAMED_FIRST or any(_differs(key, own) for own in alike.values())]
    labels = [", ".join(f"{key}={one[key]}" for key in named if key in one) for one in settings]
    return [label or folder.name for label, folder in zip(labels, folders, strict=True)]


def _differs(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    return len({repr(one[key]) for one in settings if key in one}) > 1


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
    told = {label: textwrap.fill(label, 62 * columns) for label in labels}
    height = sum(0.16 + 0.14 * (text.count("\n") + 1) for text in told.values())
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows + height + 0.3), layout="constrained")
    lines = {}
    for axes, (metric, curves) in zip(figure.subplots(rows, columns, squeeze=False).flat, found.items(), strict=False):
        for label, own in curves.items():
            colour = f"C{labels.index(label) % 10}"
            for frames, values in own if len(own) > 1 else ():
                axes.plot(frames, values, color=colour, linewidth=0.6, alpha=0.45, zorder=1)
            marker = "o" if len(own[0][0]) == 1 else None
            lines[label] = axes.plot(*_mean(own), color=colour, marker=marker)[0]
        axes.set(title=metric, xlabel="frames of each agent")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(found) :]:
        axes.set_axis_off()
    figure.legend(
        lines.values(), [told[label] for label in lines], loc="outside lower center", frameon=False, fontsize="small"
    )
    return figure
