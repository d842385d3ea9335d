"""The page that answers where policy and value should separate on a task, from the runs of its study.

    page, answer = task_report(train_points(settings, options), options)
    print(answer.sentence)

Written to the study's folder: `report.html`, one page with its pictures in it, and beside it each table as CSV and
Markdown and each picture as PNG; see docs/separation.md.
"""

from __future__ import annotations

import itertools
import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from decouple.analysis.statistics import Estimate, aggregate_metrics, probability_best
from decouple.checks import SOME, at_least, checked
from decouple.runs.settings import flat
from decouple.studies.actor_size.settings import ControlSettings, sizes_name
from decouple.studies.actor_size.stage import agent_film
from decouple.studies.any_task.branches import branch_section
from decouple.studies.any_task.results import read_points
from decouple.studies.any_task.study import TaskStudy, report_folder, store_of
from decouple.studies.separation.figures import aggregate_figure, comparison_figure, curve_figure
from decouple.studies.separation.page import Picture, Section, write_page
from decouple.studies.separation.recommendation import Comparison, compare
from decouple.studies.separation.report import Output
from decouple.studies.separation.results import Study
from decouple.studies.separation.run_folders import Run
from decouple.studies.separation.strips import STEPS, strip_section
from decouple.studies.separation.tables import Spread, Table, comparison_table, cost_table, curve_table, run_table

__all__ = ["Answer", "answer_of", "task_report"]

SURE = 0.95  # probability of the highest mean from which on a point is called best
# What is measured where there are training and test levels, and how tables call it.
SIDES = {"test_return": "test return", "train_return": "training return", "generalisation_gap": "gap (train - test)"}
# Files that not every page has.
OPTIONAL = (
    *("levels.csv", "levels.md", "branches.csv", "branches.md", "branch_curves.csv", "strips.png", "improvement.png"),
    *(f"{metric}.png" for metric in ("return", *SIDES)),
    *(f"improvement{of}.{kind}" for of in ("", *(f"_{metric}" for metric in SIDES)) for kind in ("csv", "md")),
)
SETTINGS = ("actor", "critic", "seeds", "total_frames", "num_envs", "policy_gradient", "value_gradient")


@dataclass(frozen=True)
class Answer:
    """Which point of separation, and with what confidence."""

    best: str  # the point with the highest mean return
    probability: Mapping[str, float]  # point -> probability that its mean is the highest; nan for single seeds
    metrics: Mapping[str, Mapping[str, Estimate]]  # point -> metric of `aggregate_metrics`, of its returns
    comparisons: tuple[Comparison, ...]  # the best against each other point, the next best first
    cheaper: str | None  # the point with the fewest multiply-adds that the seeds cannot tell from the best
    sentence: str
    notes: tuple[str, ...] = ()  # what is missing or uneven in the runs that it rests on


@checked(repetitions=at_least(1))
def answer_of(study: Study, *, repetitions: int = 10_000) -> Answer:
    """The answer that the finished runs of a study on one task give.

    The best point is the one with the highest mean return. It is called so where its mean is the highest in 95 % of
    the resamples of the seeds, and else the sentence says that the seeds leave it open.

    Args:
        study: the runs; a point without a finished run takes no part.
        repetitions: number of resamples.

    Raises:
        ValueError: no finished run.
    """
    scores = study.scores()
    if not scores:
        raise ValueError("\n".join(["runs must be finished, one at least; got", *study.notes]))
    metrics = {point: aggregate_metrics(runs, repetitions=repetitions) for point, runs in scores.items()}
    works = {point: study.cost(point).multiply_adds or math.inf for point in scores}
    ranked = sorted(scores, key=lambda point: (-metrics[point]["mean"].value, works[point]))  # of equals the cheapest
    best, probability = ranked[0], probability_best(scores, repetitions=repetitions)
    comparisons = tuple(compare(scores, best, other, repetitions=repetitions) for other in ranked[1:])
    open_to = [comparison.y for comparison in comparisons if comparison.verdict != "better"]
    cheapest = min([best, *open_to], key=lambda point: works[point])
    cheaper = cheapest if works[cheapest] < works[best] < math.inf else None
    equal = [point for point in ranked[1:] if metrics[point]["mean"].value == metrics[best]["mean"].value]
    told = _sentence(best, probability[best], metrics[best]["mean"], comparisons, equal)
    if cheaper:
        unnamed = bool(equal) or math.isnan(probability[best])  # the sentence does not say which cannot be told from it
        of = "Of those that the seeds cannot tell from it" if unnamed else "Of these"
        told += f" {of}, {cheaper} is the cheapest: {_ratio(works[cheaper], works[best])}."
    for point in study.variants:
        if failed := sum(bool(run.failed) for run in study.runs_of(point)):
            told += f" Of {point} {failed} of {len(study.runs_of(point))} seeds failed, which are in no mean."
    return Answer(best, probability, metrics, comparisons, cheaper, told, tuple(study.notes))


@checked(configs=SOME)
def task_report(configs: Sequence[ControlSettings], options: TaskStudy) -> tuple[Path, Answer]:
    """Read the runs of these points and write the page; returns its path and the answer.

    Raises:
        ValueError: no finished run of any point.
    """
    study = read_points(configs, store_of(configs[0], options))
    answer = answer_of(study, repetitions=options.repetitions)
    out = Output(str(report_folder(configs[0], options)))
    sections = [
        Section("Answer", lead=answer.sentence, paragraphs=[_how_sure(study)]),
        _returns(study, answer, options.repetitions, out),
        _curves(study, out, options.window),
        _improvement(study, options.repetitions, out),
        *branch_section(study, configs[0], out, options.window),
        *_at_play(study, out, options.strip_frames),
        _costs(study, configs[0], out),
        _trained(study, configs[0], out),
    ]
    title = f"Where policy and value separate: {configs[0].env}, {configs[0].algorithm.upper()}"
    introduction = (
        "Separation at k: the value network uses the policy's first k hidden layers in place of its own. k = 0 is two "
        f"separate networks, k = {configs[0].separation if len(configs) == 1 else max(c.separation for c in configs)} "
        "the most shared one here."
    )
    out.remove_others(*OPTIONAL)
    return write_page(out.folder / "report.html", title, sections, introduction), answer


def _sentence(
    best: str, probability: float, mean: Estimate, comparisons: Sequence[Comparison], equal: Sequence[str]
) -> str:
    """The answer, in a sentence or three."""
    interval = "" if math.isnan(mean.low) else f" [{_number(mean.low)}, {_number(mean.high)}]"
    text = f"{best} has the highest mean return, {_number(mean.value)}{interval}"
    if not comparisons:
        return f"{text}; there is no other point to compare it with."
    if equal and not math.isnan(probability):
        return f"{text}, and so has {', '.join(equal)}. Take {best}, which costs least of them."
    if math.isnan(probability):
        return f"{text}; a single seed of a point says nothing of chance: train more seeds."
    text += f", and in {probability:.0%} of the resamples of the seeds it has the highest."
    following = comparisons[0]
    value, low, high = following.probability
    text += (
        f" A run of it scores more than one of {following.y}, the next, with probability {value:.2f} "
        f"[{low:.2f}, {high:.2f}] (exact p = {following.p_value:.2g})."
    )
    open_to = [comparison.y for comparison in comparisons if comparison.verdict != "better"]
    if probability >= SURE and not open_to:
        return f"{text} Take {best}: the seeds tell it from every other point."
    others = f"from {', '.join(open_to)}" if open_to else "surely from all others together"
    return f"{text} Take {best} for its mean, but the seeds cannot tell it {others}."


def _how_sure(study: Study) -> str:
    scores = study.scores()
    least = min(len(runs) for of in scores.values() for runs in of.values())
    narrow = 100 * (1 - ((least - 1) / least) ** 0.5)
    few = (
        f" Resampling n seeds gives (n - 1) / n of their variance, so intervals and probabilities are too sure, the "
        f"intervals by about {narrow:.0f} % with {least} seeds."
        if 1 < least < 10
        else ""
    )
    return (
        "How sure that is: intervals hold 95 % of the means of resampled seeds; seeds of different points are "
        "resampled apart, since the same seed shares little more than its number between two networks. The exact test "
        f"deals the returns of two points out in all possible ways.{few} Each pair is looked at by itself, not "
        "corrected for their number."
    )


def _returns(study: Study, answer: Answer, repetitions: int, out: Output) -> Section:
    """The section on final returns, and on the gap where there are test levels."""
    scores = study.scores()
    gaps = study.scores("generalisation_gap")
    rows = []
    for point, of_task in scores.items():
        (values,) = of_task.values()
        row = {"point": point, "return": _spread(values)}
        row |= {"mean": answer.metrics[point]["mean"], "IQM": answer.metrics[point]["iqm"]}
        row["probability that it has the highest mean"] = _none_for_nan(answer.probability[point])
        if gaps:
            row["gap (train - test)"] = _spread(next(iter(gaps[point].values()))) if point in gaps else None
        rows.append(row)
    caption = (
        "Final returns: mean ± standard deviation over seeds (number of seeds), and the mean and the interquartile "
        "mean with 95 % intervals."
    )
    figure = aggregate_figure(answer.metrics, "return after training", metrics=("mean", "iqm"))
    picture = out.picture("returns", figure, "Mean and interquartile mean of the seeds' returns, bars 95 % intervals.")
    tables = [Table("returns", caption, rows), *([_sides(study, repetitions)] if gaps else [])]
    return Section("Returns", [], [out.table(table) for table in tables], [picture])


def _sides(study: Study, repetitions: int) -> Table:
    """Return on test levels, on training levels, and the gap, each with its intervals."""
    rows = []
    for metric, name in SIDES.items():
        for point, runs in study.scores(metric).items():
            found = aggregate_metrics(runs, repetitions=repetitions)
            (values,) = runs.values()
            rows.append({"point": point, "measure": name, "final": _spread(values)})
            rows[-1] |= {"mean": found["mean"], "IQM": found["iqm"]}
    caption = (
        "Final returns on training and on test levels, and the gap: mean ± standard deviation over seeds (number of "
        "seeds), mean and interquartile mean with 95 % intervals."
    )
    return Table("levels", caption, rows)


def _curves(study: Study, out: Output, window: int) -> Section:
    """The section with learning curves."""
    out.data(curve_table(study))
    points = "" if window == 1 else f" Each point is the mean of {window} evaluations, it and those before."
    text = (
        "Lines are means over the finished seeds, bands their standard deviation; dashed lines are single seeds that "
        f"did not finish.{points}"
    )
    shown = {study.measure: "Return of the evaluations in training, against frames."}
    if study.has("generalisation_gap"):
        shown |= {
            "train_return": "Return on the training levels.",
            "generalisation_gap": "Generalisation gap, train minus test; the less the better.",
        }
    pictures = [_curve(study, name, caption, out, window) for name, caption in shown.items() if _drawn(study, name)]
    return Section("Learning curves", [text] if pictures else ["No evaluation in training."], pictures=pictures)


def _curve(study: Study, metric: str, caption: str, out: Output, window: int) -> Picture:
    return out.picture(metric, curve_figure(study, metric, window=window), caption)


def _drawn(study: Study, metric: str) -> bool:
    return any(run.curve(f"eval/{metric}") for runs in study.runs.values() for run in runs)


def _improvement(study: Study, repetitions: int, out: Output) -> Section:
    """The section on every pair of points."""
    scores = study.scores()
    if len(scores) < 2:
        return Section("Probability of improvement", ["There is one point only."])
    pairs = [compare(scores, x, y, repetitions=repetitions) for x, y in itertools.combinations(scores, 2)]
    text = (
        "How probable it is that a run of the one scores more than a run of the other; 0.5 is no difference. Told "
        "apart are two whose interval leaves out 0.5 and whose exact p is below 0.05; the least possible p is what so "
        "many seeds give at best."
    )
    caption = "Probability of improvement, with 95 % intervals."
    picture = out.picture("improvement", comparison_figure(pairs), "Probability of improvement, by pair.")
    tables = [comparison_table(pairs, "improvement", caption), *_side_comparisons(study, repetitions)]
    return Section("Probability of improvement", [text], [out.table(table) for table in tables], [picture])


def _side_comparisons(study: Study, repetitions: int) -> list[Table]:
    """The pairs by return on training levels and by the gap, of which less is better; none without test levels."""
    tables = []
    for metric, better in (("train_return", "more"), ("generalisation_gap", "less")):
        sign = 1 if better == "more" else -1
        scores = {
            point: {task: [sign * value for value in values] for task, values in of_task.items()}
            for point, of_task in study.scores(metric).items()
        }
        pairs = [compare(scores, x, y, repetitions=repetitions) for x, y in itertools.combinations(scores, 2)]
        caption = f"The same by {SIDES[metric]}, of which {better} is better."
        tables += [comparison_table(pairs, f"improvement_{metric}", caption)] if pairs else []
    return tables


def _at_play(study: Study, out: Output, frames: int) -> list[Section]:
    """The section with a strip of frames of each point's best agent, where frames are asked for."""
    (game,) = study.games
    best = {point: study.best_run(point, game) for point in study.variants}
    films = {name: partial(agent_film, run.folder, run.seed, STEPS) for name, run in best.items() if run is not None}
    section = strip_section(films, out.picture, frames)
    return [] if section is None else [section]


def _costs(study: Study, config: ControlSettings, out: Output) -> Section:
    """The section with parameters, multiply-adds and frames per second."""
    machines = sorted({machine for point in study.variants for machine in study.cost(point).machines})
    sizes = sorted({len(of) for point in study.variants for of in _batches(study, point)})
    seeds = f"frames/s are those of each of {_to(sizes)} agents, trained as one batch" if sizes[-1] > 1 else ""
    text = (
        "Parameters and multiply-adds are counted on the networks that were trained, policy and value together, and "
        f"frames/s measured in training, on: {'; '.join(machines)}."
    )
    return Section("Cost", [text, *([f"The {seeds}."] if seeds else [])], [out.table(cost_table(study))])


def _batches(study: Study, point: str) -> list[list[Run]]:
    """The runs of a point by their folder."""
    batches: dict[Path, list[Run]] = {}
    for run in study.runs_of(point):
        batches.setdefault(run.folder, []).append(run)
    return list(batches.values())


def _to(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers[0] < numbers[-1] else str(numbers[0])


def _trained(study: Study, config: ControlSettings, out: Output) -> Section:
    """The section on what was trained, and on what is missing."""
    settings = flat(config)
    told = {name: settings[name] for name in SETTINGS if name in settings}
    told |= {name: sizes_name(settings[name]) for name in ("actor", "critic")}
    told |= {"env_kwargs": settings["env_kwargs"]} if settings["env_kwargs"] else {}
    texts = [
        f"{config.env}, {config.algorithm}: {', '.join(f'{name}={value}' for name, value in told.items())}. All "
        "settings are in each run's config.yaml; the points differ in the separation alone. A run's return is that of "
        f"{config.final_episodes} episodes after training, without exploration.",
        *(["What is missing or uneven:"] if study.notes else ["Nothing is missing: all points have as many seeds."]),
        *(f"- {note}" for note in study.notes),
        "The runs' folders:",
        *(f"- {folder}" for folder in dict.fromkeys(str(r.folder) for p in study.variants for r in study.runs_of(p))),
    ]
    return Section("What was trained", texts, [out.table(run_table(study))])


def _spread(values: Sequence[float]) -> Spread:
    std = stdlib_statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(stdlib_statistics.fmean(values), std, len(values))


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ratio(cost: float, other: float) -> str:
    return f"{cost:,} multiply-adds for one observation, {cost / other:.2f} times the {other:,} of the best"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
