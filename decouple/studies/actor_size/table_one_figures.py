"""Table I of the actor-size study as pictures: as a table, and as the bars of figure 4.

    rows = table_rows(store.searches(), read_paper())
    save_figure(table_figure(rows), Path("table_1.png"))

After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893), section IV. Its figure 4
shows "the relative network size reductions and rewards presented in Table I", without saying relative to what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decouple.checks import checked
from decouple.studies.actor_size.study import HEADS, TABLE_ROWS, relative_return, relative_sizes, table_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["relative_figure", "table_figure"]

KINDS = {"baseline": "#b0b0b0", "symmetric": "#2f6cab", "asymmetric": "#d98a00"}
MARK = {"marker": "D", "color": "black", "markerfacecolor": "white", "markersize": 6, "linestyle": "none"}
LEAST, MOST = -1.5, 2.5  # range of relative returns; one below is printed as a number at the edge


@checked(rows=TABLE_ROWS)
def table_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Table I: rows of `table_rows`, the paper's in grey and ours beneath in black."""
    texts = table_texts(rows)
    lengths = [max(map(len, column)) for column in zip(HEADS, *texts, strict=True)]
    left = np.concatenate([[0], np.cumsum([length + 2.5 for length in lengths])])
    figure = _figure(0.085 * left[-1], 0.26 * (len(texts) + 2))
    axes = figure.subplots()
    axes.set(xlim=(0, left[-1]), ylim=(len(texts) + 0.6, -1))
    axes.set_axis_off()
    for x, head in zip(left, HEADS, strict=False):
        axes.text(x, -0.4, head, weight="bold", va="center", fontsize=9)
    axes.axhline(0.1, color="black", lw=1)
    for y, (row, cells) in enumerate(zip(rows, texts, strict=True)):
        ours = row["source"] == "here"
        if ours:
            axes.axhspan(y + 0.15, y + 1.1, color="#fdf3dc", lw=0)
        for x, text in zip(left, cells, strict=False):
            axes.text(x, y + 0.62, text, va="center", fontsize=9, color="black" if ours else "#555555")
        if y and cells[0].split(",")[0] != texts[y - 1][0].split(",")[0]:
            axes.axhline(y + 0.1, color="#bbbbbb", lw=0.7)
    figure.supxlabel(
        "paper: Table I of Mysore et al. 2021; here: ours, with the mean's interval, and a ? where the seeds cannot "
        "tell.\nAfter a return: the standard deviation over seeds. Parameters: against the smallest symmetric actor's.",
        fontsize=9,
    )
    return figure


@checked(rows=TABLE_ROWS)
def relative_figure(
    rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Mapping[tuple[int, ...], int]]
) -> Figure:
    """Figure 4: actor sizes as shares of the baseline's, and returns in units of the threshold; bars are ours, and the
    paper's numbers marks on them.

    Args:
        rows: rows of `table_rows`; pairs that only the paper has are left out.
        parameters: task -> hidden layers -> parameters, as `read_paper_parameters` returns them.
    """
    paper = {(row["task"], row["algorithm"]): row for row in rows if row["source"] == "paper"}
    ours = [row for row in rows if row["source"] == "here"]
    figure = _figure(max(7.0, 2.0 + 1.35 * len(ours)), 6.6)
    sizes, returns = figure.subplots(2, 1, sharex=True)
    for group, row in enumerate(ours):
        printed = paper.get((row["task"], row["algorithm"]))
        shares = (1.0, *relative_sizes(row))
        for bar, (kind, color) in enumerate(KINDS.items()):
            x = group + 0.26 * (bar - 1)
            sizes.bar(x, shares[bar], width=0.24, color=color, label=kind if not group else None)
            value, spread = relative_return(row, kind)
            returns.bar(x, value, width=0.24, color=color)
            returns.errorbar(x, value, 0 if math.isnan(spread) else spread, color="#333333", lw=1)
            if printed:
                marks = (1.0, *relative_sizes(printed, parameters.get(row["task"])))
                _mark(sizes, x, marks[bar], math.nan)
                _mark(returns, x, *relative_return(printed, kind))
    sizes.set(yscale="log", ylabel="parameters of the actor,\nshare of the baseline's")
    returns.set(ylabel="return, in units of\nthe threshold T: 1 + (R - T) / |T|")
    returns.axhline(1, color="#333333", ls="--", lw=1)
    for group, row in enumerate(ours):
        bound = 1 + (row["bound"] - row["threshold"]) / abs(row["threshold"] or math.nan)
        returns.hlines(bound, group - 0.45, group + 0.45, color="#333333", ls=":", lw=1)
    _clip(returns)
    returns.set_xticks(range(len(ours)), [f"{row['task']}\n{row['algorithm'].upper()}" for row in ours])
    if any((row["task"], row["algorithm"]) in paper for row in ours):
        sizes.plot([], [], **MARK, label="the paper's number")
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(
        "Dashed: the threshold, of each row its own; dotted: from where on a return is accepted.\n"
        "Lines on bars and marks: standard deviation over seeds.",
        fontsize=9,
    )
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _mark(axes: Axes, x: float, value: float, spread: float) -> None:
    axes.errorbar(x, value, None if math.isnan(spread) else spread, **MARK, lw=1, zorder=3)


def _clip(axes: Axes) -> None:
    """Keep returns that are far off from squeezing the others."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, LEAST), min(top, MOST))
    for bar in axes.patches:
        if bar.get_height() < LEAST:
            x = bar.get_x() + bar.get_width() / 2
            axes.text(x, LEAST, f"{bar.get_height():.1f}", ha="center", va="bottom", fontsize=8)
