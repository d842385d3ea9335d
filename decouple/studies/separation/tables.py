"""The tables of the separation study's report, each to be read as text, as CSV or as Markdown.

    table = score_table(study, read_published())
    table.csv(), table.markdown(), table.cells()

A cell holds text, a number, nothing, an `Estimate` (as text `value [low, high]`, in CSV three columns) or a `Spread`
(as text `mean ± standard deviation (runs)`, in CSV three columns).
"""

from __future__ import annotations

import math
import os
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from decouple.analysis.statistics import OF_METRICS, Estimate, Profile
from decouple.checks import checked
from decouple.runs.files import csv_lines, csv_rows, markdown_lines
from decouple.studies.separation.recommendation import Comparison
from decouple.studies.separation.results import Study

__all__ = [
    "PUBLISHED",
    "Spread",
    "Table",
    "aggregate_table",
    "comparison_table",
    "cost_table",
    "curve_table",
    "generalisation_table",
    "profile_table",
    "read_published",
    "run_table",
    "score_table",
    "setting_table",
]

SCORES = Path(__file__).with_name("published") / "scores.csv"  # SOURCE.txt beside it says where they are from
# Column of the published scores -> label. (figure): not a printed number, but measured off a figure, to +-0.25.
PUBLISHED = {
    "ppo_test_figure": "PPO (figure)",
    "ppo_test_clop": "PPO (CLOP)",
    "ppo2_test": "PPO (ppo2)",
    "ppg_test_figure": "PPG (figure)",
    "daac_test_figure": "DAAC (figure)",
    "idaac_test": "IDAAC",
    "ucb_drac_test": "UCB-DrAC",
}
# Games on which PPO's line in that figure could not be told from others.
UNCLEAR = {"ppo_test_figure": ("bossfight", "chaser", "climber", "dodgeball", "fruitbot", "leaper")}


class Spread(NamedTuple):
    """Mean over runs, their standard deviation (nan for one run), and how many they are."""

    mean: float
    std: float
    runs: int


@dataclass(frozen=True)
class Table:
    """Rows with the same columns; the table's files are called `name`."""

    name: str
    caption: str
    rows: Sequence[Mapping[str, Any]]

    def cells(self) -> list[list[str]]:
        """The column heads, then the rows, as text."""
        heads = list(self.rows[0]) if self.rows else []
        return [heads, *([_text(row[head]) for head in heads] for row in self.rows)]

    def markdown(self) -> str:
        """A table in Markdown, with its caption above it."""
        return f"{self.caption}\n\n{markdown_lines(self.cells())}\n"

    def csv(self) -> bytes:
        """A CSV file; numbers as `repr` gives them."""
        flat = [_flat(row) for row in self.rows]
        # A cell that is empty in one row may be an estimate in another: the columns are those of all rows.
        heads = list(dict.fromkeys(name for row in flat for name in row))
        return csv_lines([heads, *([row.get(head, "") for head in heads] for row in flat)])


@checked()
def read_published(path: str | os.PathLike[str] = SCORES) -> dict[str, dict[str, float]]:
    """Game -> `min_easy`, `max_easy` and the published scores, under the names of the file's columns: those in
    `PUBLISHED`, and beside them scores on training levels and standard deviations."""
    rows = csv_rows(Path(path), "game", *PUBLISHED)
    return {row.pop("game"): {name: float(value) for name, value in row.items()} for row in rows}


@checked()
def run_table(study: Study) -> Table:
    """The finished seeds of each variant and game, and the numbers of unfinished and of failed runs."""

    def cell(variant: str, game: str) -> str:
        done, runs = study.finished(variant, game), study.runs.get((variant, game), [])
        failed = sum(bool(run.failed) for run in runs)
        others = {"unfinished": len(runs) - len(done) - failed, "failed": failed}
        seeds = f"{len(done)} (seed {_ranges([run.seed for run in done])})" if done else "0"
        return seeds + "".join(f", {count} {what}" for what, count in others.items() if count)

    rows = [{"game": game, **{variant: cell(variant, game) for variant in study.variants}} for game in study.games]
    return Table("runs", "Finished runs per game and degree of separation, and their seeds.", rows)


@checked()
def setting_table(study: Study) -> Table:
    """Settings in which the variants differ, besides the separation."""
    return Table(
        "settings", "Settings in which the variants differ, beside where they separate.", study.differing_settings
    )


@checked(aggregates=OF_METRICS)
def aggregate_table(aggregates: Mapping[str, Mapping[str, Estimate]], name: str, divided_by: str) -> Table:
    """Median, IQM, mean and optimality gap of each variant."""
    heads = {"median": "median", "iqm": "IQM", "mean": "mean", "optimality_gap": "optimality gap"}
    rows = [{"variant": variant} | {heads[key]: of[key] for key in heads} for variant, of in aggregates.items()]
    caption = f"Test scores normalised by {divided_by}, with 95 % stratified-bootstrap intervals."
    return Table(name, caption, rows)


@checked()
def comparison_table(comparisons: Sequence[Comparison], name: str, caption: str) -> Table:
    """Probability of improvement of one variant over another."""
    rows = [
        {
            "variant": comparison.x,
            "against": comparison.y,
            "games": len(comparison.games) if len(comparison.games) > 1 else ", ".join(comparison.games),
            "probability of improvement": comparison.probability,
            "exact p": comparison.p_value,
            "least possible p": comparison.least_p,
            "verdict": comparison.told,
        }
        for comparison in comparisons
    ]
    return Table(name, caption, rows)


@checked()
def score_table(study: Study, published: Mapping[str, Mapping[str, float]]) -> Table:
    """Final test scores of each game beside the published ones.

    A column with `(figure)` was measured off a figure; `?` marks a line that could not be told from others there.
    """
    scores = study.scores("test_return")
    rows = []
    for game in study.games:
        row: dict[str, Any] = {"game": game}
        row |= {variant: _spread(scores.get(variant, {}).get(game)) for variant in study.variants}
        for column, label in PUBLISHED.items():
            value = published.get(game, {}).get(column)
            unclear = value is not None and game in UNCLEAR.get(column, ())
            row[f"published {label}"] = f"{_number(value)} ?" if unclear else value
        rows.append(row)
    caption = (
        "Final test return: mean ± standard deviation over runs (number of runs). (figure): measured off a figure, "
        "±0.25, no printed number; ?: its line could not be told from others there."
    )
    return Table("scores", caption, rows)


@checked()
def generalisation_table(study: Study) -> Table:
    """Final returns on training and on test levels, their gap, and what was measured on levels unlike training."""
    metrics = {"train": "train_return", "test": "test_return", "gap (train - test)": "generalisation_gap"}
    if study.has("unseen_return"):
        metrics |= {"test levels that repeat": "repeated_levels", "test, the others": "unseen_return"}
    scores = {label: study.scores(metric) for label, metric in metrics.items()}
    rows = [
        {"game": game, "variant": variant}
        | {label: _spread(of.get(variant, {}).get(game)) for label, of in scores.items()}
        for game in study.games
        for variant in study.variants
        if study.finished(variant, game)
    ]
    return Table("generalisation", "Final returns: mean ± standard deviation over runs (number of runs).", rows)


@checked()
def cost_table(study: Study) -> Table:
    """Parameters, multiply-adds and measured frames/s of each variant."""
    rows = []
    for variant in study.variants:
        runs, cost = study.runs_of(variant), study.cost(variant)
        rate, (low, high) = cost.frames_per_second, cost.frames_per_second_range or (math.nan, math.nan)
        rows.append(
            {
                "variant": variant,
                "k": runs[0].k,
                "algorithm": ", ".join(sorted({run.config.get("algorithm", "?") for run in runs})),
                "parameters": cost.parameters,
                "multiply-adds per frame": cost.multiply_adds,
                "of these to act": cost.acting_multiply_adds,
                "training frames/s": None if rate is None else Estimate(rate, low, high),
            }
        )
    return Table(
        "cost", "What each degree of separation costs; frames/s: median over runs [slowest, fastest run].", rows
    )


@checked()
def profile_table(profiles: Mapping[str, Profile]) -> Table:
    """Performance profiles, a row for each variant and threshold."""
    rows = [
        {"variant": variant, "threshold": at, "share": Estimate(share, low, high)}
        for variant, profile in profiles.items()
        for at, share, low, high in zip(*profile, strict=True)
    ]
    return Table("profiles", "Share of runs that score above a threshold, with 95 % intervals.", rows)


@checked()
def curve_table(study: Study) -> Table:
    """Every evaluation of every run, finished or not, as it was measured."""
    metrics = {
        "train": "eval/train_return",
        "test": "eval/test_return",
        "gap": "eval/generalisation_gap",
        "unseen": "eval/unseen_return",
    }
    rows = []
    for (variant, game), runs in study.runs.items():
        for run in runs:
            curves = {label: run.curve(metric) for label, metric in metrics.items()}
            head = {"game": game, "variant": variant, "seed": run.seed, "finished": str(not run.unfinished).lower()}
            for frames in sorted(set().union(*curves.values())):
                rows.append({**head, "frames": frames} | {label: of.get(frames) for label, of in curves.items()})
    return Table("curves", "Returns of the evaluations during training.", rows)


def _spread(values: Sequence[float] | None) -> Spread | None:
    if not values:
        return None
    std = stdlib_statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(sum(values) / len(values), std, len(values))


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Spread):
        return (
            f"{_number(cell.mean)} ± {_number(cell.std)} ({cell.runs})"
            if cell.runs > 1
            else f"{_number(cell.mean)} (1)"
        )
    if isinstance(cell, Estimate):
        interval = "" if math.isnan(cell.low) else f" [{_number(cell.low)}, {_number(cell.high)}]"
        return _number(cell.value) + interval
    return _number(cell) if isinstance(cell, int | float) else str(cell)


def _number(value: float) -> str:
    """Whole numbers in full; others with two places, or as many as show three figures of a small one."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.095 or abs(value) < 1e-4 else f"{value:.2g}"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for CSV, with the parts of a cell in columns of their own."""
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        if isinstance(cell, Estimate | Spread):
            parts = cell._asdict().items()
            flat |= {name if part == cell._fields[0] else f"{name} {part}": _plain(value) for part, value in parts}
        else:
            flat[name] = "" if cell is None else cell
    return flat


def _plain(value: float) -> float | str:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _ranges(seeds: Sequence[int]) -> str:
    """`0-2, 5` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
