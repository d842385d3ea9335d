"""Which degree of separation: the paper's model-selection rule, compared with the measurements.

    advice = recommend(scores, aggregates)     # variant -> game -> score of each run, all variants on the same games
    print(*advice.findings, advice.conclusion, sep="\\n")

Nafi, Ali and Hsu, *Analyzing the Sensitivity to Policy-Value Decoupling in Deep Reinforcement Learning Generalization*
(AAMAS 2023) give the rule in words, without a formula or a threshold: late separation as the default, full separation
where there is an explicit source of value, and they judge by IQM and optimality gap. It is applied as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from decouple.analysis.statistics import OF_METRICS, Estimate, exchange_p_value, probability_of_improvement
from decouple.checks import at_least, check_setting, checked

__all__ = ["DEFAULT", "EXPLICIT_VALUE_SOURCE", "RULE", "Advice", "Comparison", "compare", "recommend"]

Scores: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]  # variant -> game -> score of each run

RULE = (
    'The paper suggests "partial late separation as a default", and finds that "two fully separate networks are '
    'crucial in the presence of an explicit source of value representation", such as the life bar of plunder, the one '
    "game that it names. It judges by IQM and optimality gap of test scores divided by PPO's, and by computational "
    "overhead. It gives no formula and no threshold, and a source of value is not something that scores can show. So "
    "it is applied as it stands: late everywhere, full on the game that it names."
)
DEFAULT, WITH_VALUE_SOURCE = "late", "full"  # the degrees of separation that the rule recommends
EXPLICIT_VALUE_SOURCE = {"plunder": "its life bar"}  # game that the paper names -> its source of value
SIGNIFICANCE = 0.05
LITTLE = 0.05  # share of the benchmark's range; below it, runs have not learned enough to be ranked


@dataclass(frozen=True)
class Comparison:
    """One variant against another, over the same games."""

    x: str
    y: str
    games: tuple[str, ...]
    probability: Estimate  # probability that a run of x scores more than a run of y
    p_value: float  # exact, two-sided
    least_p: float  # least p that so many runs can give: all of one above all of the other on every game

    @property
    def verdict(self) -> str:
        """`better`, `worse` (x against y), or `the seeds cannot tell`.

        The seeds tell two apart if the 95 % interval leaves out 1/2 and the exact test gives p below 0.05. With few
        seeds the interval alone does not suffice: it is one point where all runs of one are above all of the other.
        """
        _, low, high = self.probability
        if self.p_value >= SIGNIFICANCE or not (low > 0.5 or high < 0.5):
            return "the seeds cannot tell"
        return "better" if low > 0.5 else "worse"

    @property
    def told(self) -> str:
        """The verdict with the variant's name."""
        return f"{self.x} is {self.verdict}" if self.verdict in ("better", "worse") else self.verdict

    def sentence(self) -> str:
        """The comparison in words."""
        value, low, high = self.probability
        interval = (
            "no interval, a game has one run only" if math.isnan(low) else f"95 % interval {low:.2f} to {high:.2f}"
        )
        few = f", which so few seeds cannot bring below {self.least_p:.2g}" if self.least_p >= SIGNIFICANCE else ""
        return (
            f"{self.x} against {self.y}: probability of improvement {value:.2f} ({interval}; exact p = "
            f"{self.p_value:.2g}{few}): {self.told}."
        )


@dataclass(frozen=True)
class Advice:
    """The rule's advice, the measurements for and against it, and the conclusion."""

    findings: tuple[str, ...]
    conclusion: str
    against_default: tuple[Comparison, ...]  # the default against each other variant
    full_by_game: tuple[Comparison, ...]  # full against the default, game by game


@checked(repetitions=at_least(1))
def compare(
    scores: Scores, x: str, y: str, games: Sequence[str] | None = None, *, repetitions: int = 10_000
) -> Comparison:
    """Compare two variants: probability of improvement with its interval, and an exact test.

    Args:
        scores: variant -> game -> score of each run.
        x, y: variants.
        games: games to compare over; None: those that both have.
        repetitions: number of resamples for the interval.

    Raises:
        ValueError: a variant that is not in `scores`, or a game that not both have.
    """
    for name, variant in (("x", x), ("y", y)):
        check_setting(name, variant, scores.__contains__, f"one of the variants in scores, {list(scores)}")
    both = sorted(scores[x].keys() & scores[y].keys())
    games = both if games is None else list(games)
    check_setting("games", games, lambda names: names and set(names) <= set(both), f"of those that both have, {both}")
    of_x, of_y = ({game: scores[name][game] for game in games} for name in (x, y))
    estimate = probability_of_improvement(of_x, of_y, repetitions=repetitions)
    ways = math.prod(math.comb(len(of_x[game]) + len(of_y[game]), len(of_x[game])) for game in games)
    return Comparison(x, y, tuple(games), estimate, exchange_p_value(of_x, of_y), min(1.0, 2 / ways))


@checked(aggregates=OF_METRICS, by_range=OF_METRICS, repetitions=at_least(1))
def recommend(
    scores: Scores,
    aggregates: Mapping[str, Mapping[str, Estimate]],
    by_range: Mapping[str, Mapping[str, Estimate]] | None = None,
    *,
    repetitions: int = 10_000,
) -> Advice:
    """Apply the rule, and say which of its parts the runs support, contradict, or cannot tell.

    Args:
        scores: test scores: variant -> game -> score of each run; all variants on the same games.
        aggregates: variant -> `aggregate_metrics` of its scores divided by PPO's, as in the paper; empty where there
            are none.
        by_range: the same, of scores as shares of the benchmark's ranges; if all are near 0, the conclusion says so.
        repetitions: number of resamples for each interval.
    """
    if DEFAULT not in scores or len(scores) < 2:
        missing = f"no finished run of {DEFAULT}" if DEFAULT not in scores else f"nothing to set beside {DEFAULT}"
        return Advice((), f"The rule cannot be applied: there is {missing}.", (), ())
    against = tuple(compare(scores, DEFAULT, other, repetitions=repetitions) for other in scores if other != DEFAULT)
    by_game: tuple[Comparison, ...] = ()
    if WITH_VALUE_SOURCE in scores:
        games = sorted(scores[WITH_VALUE_SOURCE].keys() & scores[DEFAULT].keys())
        by_game = tuple(compare(scores, WITH_VALUE_SOURCE, DEFAULT, [game], repetitions=repetitions) for game in games)
    findings = [_ranking(aggregates), *(comparison.sentence() for comparison in against)]
    named = [comparison for comparison in by_game if comparison.games[0] in EXPLICIT_VALUE_SOURCE]
    findings += [f"On {comparison.games[0]} alone, {comparison.sentence()}" for comparison in named]
    parts = (_little_learned(by_range or {}), _default_advice(against), _full_advice(by_game))
    return Advice(tuple(findings), " ".join(part for part in parts if part), against, by_game)


def _little_learned(by_range: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A caution where no variant scores far above a policy that sees nothing; else empty."""
    best = max((each["mean"].value for each in by_range.values()), default=math.nan)
    if not best < LITTLE:
        return ""
    return (
        f"These runs have hardly learned: the best mean is {best:.1%} of the benchmark's range, where 0 is what a "
        "policy that sees nothing earns. They rank nothing."
    )


def _ranking(aggregates: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The first variant by each of the paper's two metrics, as a sentence."""
    if not aggregates:
        return "No game can be divided by PPO's score, so IQM and optimality gap are not ranked."
    iqm = max(aggregates, key=lambda name: aggregates[name]["iqm"].value)
    gap = min(aggregates, key=lambda name: aggregates[name]["optimality_gap"].value)
    paper = "as in the paper" if iqm == gap == DEFAULT else "in the paper late has both"
    return (
        f"Highest IQM of scores divided by PPO's: {iqm} ({aggregates[iqm]['iqm'].value:.3f}); lowest optimality gap: "
        f"{gap} ({aggregates[gap]['optimality_gap'].value:.3f}); {paper}. Whether that is more than chance, the "
        "comparisons say."
    )


def _default_advice(against: Sequence[Comparison]) -> str:
    beaten_by = [comparison.y for comparison in against if comparison.verdict == "worse"]
    ahead_of = [comparison.y for comparison in against if comparison.verdict == "better"]
    open_to = [comparison.y for comparison in against if comparison.y not in (*beaten_by, *ahead_of)]
    if beaten_by:
        return (
            f"The rule says {DEFAULT}, and these runs speak against it: {_and(beaten_by)} scored higher, by more than "
            "chance explains. Take what was measured here over the rule."
        )
    advice = f"Take {DEFAULT} separation, the rule's default."
    if ahead_of:
        advice += f" These runs support it against {_and(ahead_of)}."
    if open_to:
        advice += f" The seeds cannot tell it from {_and(open_to)}; there the choice rests on the paper and on cost."
    return advice


def _full_advice(by_game: Sequence[Comparison]) -> str:
    sentences = []
    for comparison in by_game:
        game, verdict = comparison.games[0], comparison.verdict
        source = EXPLICIT_VALUE_SOURCE.get(game)
        if source:
            held = {
                "better": "and these runs support it",
                "worse": f"but here full scored less than {DEFAULT}, by more than chance explains",
            }.get(verdict, f"but the seeds cannot tell it from {DEFAULT} there")
            sentences.append(f"On {game} the rule says full separation, for {source}, {held}.")
        elif verdict == "better":
            sentences.append(
                f"On {game}, which the paper does not name, full was better than {DEFAULT} too, by a p that is not "
                f"corrected for {len(by_game)} games looked at: a game to look at again, with fresh seeds."
            )
    return " ".join(sentences)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
