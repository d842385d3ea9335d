"""The report of the separation study on Procgen: from run folders to figures, tables and a recommendation.

    page, study, advice = separation_report(Report(runs="runs/procgen", out="reports/controlled"))

Runs are folders of experiments/procgen.py. Written to `out`: `report.html`, one page with its pictures in it, and
beside it each table as CSV and Markdown and each picture as PNG. As a command: experiments/report.py. See
docs/report.md. After Nafi, Ali and Hsu, *Analyzing the Sensitivity to Policy-Value Decoupling in Deep Reinforcement
Learning Generalization* (AAMAS 2023).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decouple.analysis.statistics import (
    Estimate,
    Profile,
    aggregate_metrics,
    normalise_by_range,
    normalise_by_reference,
    performance_profile,
)
from decouple.checks import POSITIVE_WHOLE, at_least, check_fields, check_setting
from decouple.runs.curves import save_figure
from decouple.runs.files import replace_file
from decouple.studies.separation.figures import aggregate_figure, comparison_figure, curve_figure, profile_figure
from decouple.studies.separation.page import HTMLTable, Picture, Section, write_page
from decouple.studies.separation.recommendation import DEFAULT, RULE, Advice, Comparison, compare, recommend
from decouple.studies.separation.results import Study, read_study
from decouple.studies.separation.run_folders import find_runs
from decouple.studies.separation.strips import STEPS, procgen_film, strip_section
from decouple.studies.separation.tables import (
    Table,
    aggregate_table,
    comparison_table,
    cost_table,
    curve_table,
    generalisation_table,
    profile_table,
    read_published,
    run_table,
    score_table,
    setting_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "separation_report"]

# Files that not every report has.
OPTIONAL = (
    *("settings.csv", "settings.md", "aggregates_by_ppo.csv", "aggregates_by_ppo.md", "figure_2_by_ppo.png"),
    *("improvement.csv", "improvement.md", "improvement.png", "full_against_late.csv", "full_against_late.md"),
    *("unseen_return.png", "strips.png"),
)
PPO = "shared"  # variant whose score the paper divides by: PPO on the shared network


@dataclass
class Report:
    """Settings of the report: its runs and its folder."""

    runs: Any = None  # a folder, a glob or a list of them, with runs at any depth; must be given
    out: str = "runs/report"  # the folder to write to; what it holds under the same names is replaced
    protocol: str | None = None  # protocol whose runs are reported; None: the only one there is
    repetitions: int = 5_000  # number of resamples for each interval
    window: int = 3  # number of evaluations averaged in a point of a curve: its own and those before
    strip_frames: int = 8  # frames of an episode shown for each degree, on the first game; 0: none

    def __post_init__(self) -> None:
        check_fields(self, strip_frames=at_least(0))
        texts = self.runs if isinstance(self.runs, list) else [self.runs]
        strings = bool(texts) and all(isinstance(text, str) and text for text in texts)
        check_setting("runs", self.runs, lambda _: strings, "a folder, a glob or a list of them")
        for name in ("repetitions", "window"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)


@dataclass
class Analysis:
    """Statistics of the runs' final test scores, over the games that all variants have."""

    games: list[str]
    by_ppo: dict[str, dict[str, Estimate]]  # variant -> metric, of scores divided by PPO's; empty: none can be
    not_by_ppo: list[str]  # games whose scores cannot be divided by PPO's
    by_range: dict[str, dict[str, Estimate]]
    profiles: dict[str, Profile]
    comparisons: list[Comparison]  # one for every pair of variants
    advice: Advice


def analyse(study: Study, published: Mapping[str, Mapping[str, float]], repetitions: int) -> Analysis:
    """Normalise the scores, aggregate them, and compare the variants."""
    modes = {str(run.config.get("distribution_mode")) for runs in study.runs.values() for run in runs}
    easy = "easy, whose ranges and published scores are known here"
    check_setting("distribution_mode of the runs", modes, lambda found: found <= {"easy", "None"}, easy)
    games = study.common_games()
    if not games:
        raise ValueError(
            "runs must have a game that every variant has a finished run of; got\n" + "\n".join(study.notes)
        )
    scores = {variant: {game: of[game] for game in games} for variant, of in study.scores().items()}
    ranges = {game: (row["min_easy"], row["max_easy"]) for game, row in published.items()}
    by_range = normalise_by_range(scores, ranges)
    by_ppo, not_by_ppo = normalise_by_reference(scores, PPO) if PPO in scores else ({}, games)
    aggregates = [
        {variant: aggregate_metrics(runs, repetitions=repetitions) for variant, runs in normalised.items() if runs}
        for normalised in (by_ppo, by_range)
    ]
    every = [score for of in by_range.values() for runs in of.values() for score in runs]
    low, high = min(0.0, *every), max(every)
    thresholds = np.linspace(low, high + 0.03 * (high - low), 101).tolist()
    return Analysis(
        games=games,
        by_ppo=aggregates[0],
        not_by_ppo=not_by_ppo,
        by_range=aggregates[1],
        profiles={
            name: performance_profile(runs, thresholds, repetitions=min(2_000, repetitions))
            for name, runs in by_range.items()
        },
        comparisons=[compare(scores, x, y, repetitions=repetitions) for x, y in itertools.combinations(scores, 2)],
        advice=recommend(scores, *aggregates, repetitions=repetitions),
    )


class Output:
    """The folder that the report is written to: tables and pictures become files beside the page."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written: set[Path] = set()

    def table(self, table: Table) -> HTMLTable:
        """Write a table as CSV and Markdown; returns it for the page."""
        self.data(table)
        self._replace(f"{table.name}.md", table.markdown().encode())
        return HTMLTable(table.caption, table.cells())

    def data(self, table: Table) -> None:
        """Write a table that is too long to be read, as CSV alone."""
        self._replace(f"{table.name}.csv", table.csv())

    def picture(self, name: str, figure: Figure, caption: str) -> Picture:
        """Write a picture as PNG; returns it for the page."""
        path = self.folder / f"{name}.png"
        save_figure(figure, path, dpi=110)
        self.written.add(path)
        return Picture(path, caption)

    def remove_others(self, *names: str) -> None:
        """Remove those of the named files that an earlier report wrote and this one did not."""
        for name in names:
            if (path := self.folder / name) not in self.written:
                path.unlink(missing_ok=True)

    def _replace(self, name: str, content: bytes) -> None:
        replace_file(self.folder / name, content)
        self.written.add(self.folder / name)


def what_was_read(study: Study, out: Output) -> Section:
    """The section on the runs that were read, and on those left out."""
    config = next(iter(study.runs.values()))[0].config
    levels = f"{config.get('num_levels')} {config.get('distribution_mode')} levels from {config.get('start_level')}"
    paragraphs = [
        f"Protocol {study.protocol}: {config['total_frames']:,} frames a run, trained on {levels}, tested on the full "
        f"distribution. A run's score is its mean raw return over {config.get('final_episodes')} test episodes after "
        "training, actions sampled.",
        "What is missing or uneven:"
        if study.notes
        else "Nothing is missing: all degrees have as many runs of each game.",
        *(f"- {note}" for note in study.notes),
    ]
    tables = [run_table(study)]
    if study.differing_settings:
        tables.append(setting_table(study))
        paragraphs.append(
            "The variants differ in more than where they separate, so a difference between them is not one of the "
            "separation alone; see the second table."
        )
    return Section("What was read", paragraphs, [out.table(table) for table in tables])


def aggregates(study: Study, analysis: Analysis, out: Output) -> Section:
    """The section with figure 2: aggregates over games."""
    paragraphs = [
        f"Games: {', '.join(analysis.games)}. Median and mean are of the games' mean scores; IQM is the mean "
        "of the middle half of all runs' scores; the optimality gap is how far scores fall short of 1 on average, "
        "those above 1 counting as 1. Black lines are the values, bars their 95 % intervals from runs resampled within "
        "each game: what other seeds would give on the same games, not what other games would.",
    ]
    scores = study.scores()
    least = min(len(of[game]) for of in scores.values() for game in analysis.games)
    if 1 < least < 10:
        narrow = 100 * (1 - ((least - 1) / least) ** 0.5)
        paragraphs.append(
            f"Resampling n runs gives (n - 1) / n of their variance, so these intervals are too narrow: by about "
            f"{narrow:.0f} % where there are {least} runs of a game, the fewest here."
        )
    pictures, tables = [], []
    if analysis.by_ppo:
        pictures.append(
            out.picture(
                "figure_2_by_ppo",
                aggregate_figure(analysis.by_ppo, "test return / PPO's"),
                "Figure 2 of the paper: test scores divided by PPO's (= shared) mean of the same game, so shared is 1 "
                "on average. PPO's mean is taken as given: its own variation is not in the others' intervals.",
            )
        )
        tables.append(aggregate_table(analysis.by_ppo, "aggregates_by_ppo", "PPO's mean (= shared)"))
    if analysis.not_by_ppo:
        paragraphs.append(
            f"Not divided by PPO's score, since {PPO} has no finished run there or its mean is not positive by twice "
            f"its standard error: {', '.join(analysis.not_by_ppo)}."
        )
    pictures.append(
        out.picture(
            "figure_2_by_range",
            aggregate_figure(analysis.by_range, "(return - min) / (max - min)"),
            "The same by min-max: 0 is what a policy that sees nothing earns on the game's easy levels, 1 the highest "
            "score possible.",
        )
    )
    tables.append(aggregate_table(analysis.by_range, "aggregates_by_range", "the benchmark's easy ranges"))
    return Section("Aggregates (figure 2)", paragraphs, [out.table(table) for table in tables], pictures)


def profiles(analysis: Analysis, out: Output) -> Section:
    """The section with the performance profiles."""
    out.data(profile_table(analysis.profiles))
    caption = (
        "The share of runs, over all games, whose min-max normalised test score is above a threshold; bands are 95 % "
        "intervals, point by point. A curve that is above another everywhere is better throughout."
    )
    figure = profile_figure(analysis.profiles, "min-max normalised test score")
    return Section("Performance profiles", pictures=[out.picture("profiles", figure, caption)])


def improvement(analysis: Analysis, out: Output) -> Section:
    """The section on the probability of improvement, for every pair of variants."""
    text = (
        "How probable it is that a run of the one scores more than a run of the other, on a game drawn at random; 0.5 "
        "is no difference. With few seeds the interval is too narrow, and a single point where all runs of one are "
        "above all of the other; so an exact test stands beside it: p is how often dealing the same scores out by "
        "chance would set the two as far apart, and the least possible p is what so many seeds give at best. Told "
        "apart are two whose interval leaves out 0.5 and whose p is below 0.05; p is of each pair by itself, not "
        "corrected for their number."
    )
    if not analysis.comparisons:
        return Section("Probability of improvement", ["There is one variant only."])
    table = comparison_table(analysis.comparisons, "improvement", "Probability of improvement, with 95 % intervals.")
    picture = out.picture(
        "improvement", comparison_figure(analysis.comparisons), "Probability of improvement, by pair."
    )
    return Section("Probability of improvement", [text], [out.table(table)], [picture])


def curves(study: Study, out: Output, window: int) -> list[Section]:
    """The sections with figure 3, and with training curves and generalisation gap."""
    out.data(curve_table(study))
    points = "" if window == 1 else f" Each point is the mean of {window} evaluations of a run, it and those before."
    how = (
        "Lines are means over the finished runs, bands their standard deviation (none for one run); dashed lines are "
        f"single runs that did not finish, and are in no mean.{points}"
    )

    def picture(name: str, metric: str, caption: str) -> Picture:
        return out.picture(name, curve_figure(study, metric, window=window), caption)

    test = picture("figure_3_test_return", "test_return", "Figure 3 of the paper: test return against frames.")
    beside = [
        picture("train_return", "train_return", "Return on the training levels, evaluated in the same way."),
        picture(
            "generalisation_gap", "generalisation_gap", "Generalisation gap: train minus test; the less the better."
        ),
    ]
    if study.has("unseen_return"):
        unseen = "Return on those test levels alone that repeat none of the training levels (docs/procgen.md)."
        beside.append(picture("unseen_return", "unseen_return", unseen))
    return [
        Section("Test return against frames (figure 3)", [how], pictures=[test]),
        Section("Training curves and generalisation gap", pictures=beside),
    ]


def final_scores(study: Study, published: Mapping[str, Mapping[str, float]], out: Output) -> Section:
    """The section with final scores per game, beside the published ones."""
    frames = next(iter(study.runs.values()))[0].config["total_frames"]
    text = (
        "Published are mean test returns after 25,000,000 frames on 200 easy levels, with settings of their own and, "
        "for DAAC and IDAAC, tuned by game. Columns with (figure) were measured off a figure, to ±0.25, no printed "
        "numbers; the others are as printed, or constants of public code; SOURCE.txt in "
        "decouple/studies/separation/published says which. "
        "The three PPO baselines disagree (starpilot: 24.7, 36.1, 22.6), so none is a number to be reached. "
        f"These runs had {frames:,} frames"
        + (
            ", so what is published is where longer training led, not a target for them."
            if frames < 25_000_000
            else "."
        )
    )
    texts = [text]
    if study.has("unseen_return"):
        texts.append(
            "Some test levels repeat a training level, so test returns flatter; the last two columns of the second "
            "table tell how many do, and the return on the others alone (docs/procgen.md)."
        )
    tables = [score_table(study, published), generalisation_table(study)]
    return Section("Final scores beside published ones", texts, [out.table(table) for table in tables])


def at_play(study: Study, game: str, out: Output, frames: int) -> list[Section]:
    """The section with a strip of frames of each variant's best run of a game, where frames are asked for."""
    best = {variant: study.best_run(variant, game) for variant in study.variants}
    films = {name: partial(procgen_film, run.folder, STEPS) for name, run in best.items() if run is not None}
    section = strip_section(films, out.picture, frames)
    return [] if section is None else [section]


def recommendation(study: Study, analysis: Analysis, out: Output) -> Section:
    """The section with the paper's rule, applied to these runs."""
    machines = sorted({machine for variant in study.variants for machine in study.cost(variant).machines})
    measured = "Frames/s were measured while training, evaluation not counted, on: " + "; ".join(machines) + "."
    if len(machines) > 1:
        measured += " These are not one machine, or not computed alike: frames/s of different variants may not compare."
    paragraphs = [f"The rule. {RULE}", "What was measured:"]
    paragraphs += [f"- {finding}" for finding in analysis.advice.findings]
    paragraphs.append(
        f"What it costs. Multiply-adds and parameters are counted on the networks that were trained. {measured}"
    )
    tables = [cost_table(study)]
    if analysis.advice.full_by_game:
        caption = "Full against late separation, game by game."
        tables.append(comparison_table(analysis.advice.full_by_game, "full_against_late", caption))
    tables = [out.table(table) for table in tables]
    return Section(
        "Recommendation", paragraphs, tables, lead=f"{analysis.advice.conclusion} {relative_cost(study)}".strip()
    )


def relative_cost(study: Study) -> str:
    """Costs of the rule's default relative to the shared network, as a sentence; empty where either is missing."""
    if not {DEFAULT, PPO} <= set(study.variants):
        return ""
    default, ppo = study.cost(DEFAULT), study.cost(PPO)
    of = {
        "parameters": (default.parameters, ppo.parameters),
        "multiply-adds": (default.multiply_adds, ppo.multiply_adds),
        "training frames/s": (default.frames_per_second, ppo.frames_per_second),
    }
    ratios = [f"{a / b:.2f} times the {name}" for name, (a, b) in of.items() if a is not None and b]
    return f"Beside {PPO}, {DEFAULT} has {', '.join(ratios)}." if ratios else ""


def separation_report(config: Report) -> tuple[Path, Study, Advice]:
    """Read the runs and write the report; returns the page's path, the study and the advice."""
    published = read_published()
    study = read_study(find_runs(config.runs if isinstance(config.runs, str) else list(config.runs)), config.protocol)
    print(f"{sum(map(len, study.runs.values()))} runs read; resampling them for the intervals", file=sys.stderr)
    analysis = analyse(study, published, config.repetitions)
    out = Output(config.out)
    sections: Sequence[Section] = [
        what_was_read(study, out),
        aggregates(study, analysis, out),
        profiles(analysis, out),
        improvement(analysis, out),
        *curves(study, out, config.window),
        final_scores(study, published, out),
        *at_play(study, analysis.games[0], out, config.strip_frames),
        recommendation(study, analysis, out),
    ]
    introduction = (
        "How much of its network should a policy share with the value function? Degrees of separation, from most to "
        f"least shared: {', '.join(study.variants)}. In short: {analysis.advice.conclusion}"
    )
    out.remove_others(*OPTIONAL)
    page = write_page(
        out.folder / "report.html", f"Separation study on Procgen, protocol {study.protocol}", sections, introduction
    )
    return page, study, analysis.advice
