"""Statistics of results: aggregates over runs and games with their intervals.

    scores = {"late": {"plunder": [5.1, 6.3], "starpilot": [22.0, 25.5]}, "shared": {...}}    # game -> score per run
    scaled = normalise_by_range(scores, {"plunder": (4.5, 30), "starpilot": (2.5, 64)})
    aggregate_metrics(scaled["late"])["iqm"]                       # Estimate(value, low, high)
    probability_of_improvement(scaled["late"], scaled["shared"])
    seeds_needed(difference=-4.0, std=11.3)                        # to tell a mean from a bound with power 0.8

The metrics and the stratified bootstrap are rliable's: Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of
the Statistical Precipice*, https://arxiv.org/abs/2108.13264.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics as stdlib_statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np

from decouple.checks import SEED, SOME, Must, at_least, check_setting, checked

__all__ = [
    "Estimate",
    "Profile",
    "aggregate_metrics",
    "exchange_p_value",
    "normalise_by_range",
    "normalise_by_reference",
    "performance_profile",
    "probability_best",
    "probability_of_improvement",
    "require_rliable",
    "seeds_needed",
]

NEEDS_RLIABLE = "aggregate metrics need the package rliable: pip install 'torchrl-decouple[eval]'"

Runs: TypeAlias = Mapping[str, Sequence[float]]  # game -> the score of each run of it

CONFIDENCE = 0.95
HAS_RUNS = Must(lambda runs: len(runs) and all(map(len, runs.values())), "games, each with at least one score")
METRICS = "median", "iqm", "mean", "optimality_gap"
OF_METRICS = Must(
    lambda variants: all(set(METRICS) <= of.keys() for of in variants.values()), f"a mapping to {', '.join(METRICS)}"
)


class Estimate(NamedTuple):
    """A number and its 95 % interval; both ends are nan where a game has a single run, which cannot be resampled."""

    value: float
    low: float
    high: float


class Profile(NamedTuple):
    """Share of runs whose score is above each threshold, and the 95 % interval of that share; lists of one length."""

    thresholds: list[float]
    share: list[float]
    low: list[float]
    high: list[float]


@checked()
def normalise_by_range(scores: Mapping[str, Runs], ranges: Mapping[str, tuple[float, float]]) -> dict[str, Runs]:
    """`(score - low) / (high - low)` with each game's own range, as Cobbe et al. 2020 normalise Procgen.

    Args:
        scores: variant -> game -> score of each run.
        ranges: game -> (low, high); it may hold further games.

    Raises:
        ValueError: a game without a range, or a range that is empty.

    >>> normalise_by_range({"late": {"maze": [5.0, 7.5]}}, {"maze": (5, 10)})
    {'late': {'maze': [0.0, 0.5]}}
    """
    games = sorted({game for runs in scores.values() for game in runs})
    for game in games:
        if game not in ranges or not ranges[game][0] < ranges[game][1]:
            raise ValueError(f"ranges must have (low, high) with low < high for {game}; got {ranges.get(game)}")

    def scaled(game: str, score: float) -> float:
        low, high = ranges[game]
        return (score - low) / (high - low)

    return {
        name: {game: [scaled(game, score) for score in runs[game]] for game in runs} for name, runs in scores.items()
    }


@checked()
def normalise_by_reference(scores: Mapping[str, Runs], reference: str) -> tuple[dict[str, Runs], list[str]]:
    """Scores divided by the reference's mean score in the same game, as studies of Procgen divide by PPO's.

    The mean is taken as exact: intervals of the normalised scores do not include its variation between runs.

    Args:
        scores: variant -> game -> score of each run.
        reference: the variant to divide by.

    Returns:
        The normalised scores, and the games left out: those where the reference has no run, or where its mean is not
        positive by twice its standard error and a ratio would have no meaning.

    >>> normalise_by_reference({"late": {"maze": [6.0], "heist": [3.0]}, "shared": {"maze": [4.0, 8.0]}}, "shared")
    ({'late': {'maze': [1.0]}, 'shared': {'maze': [0.666..., 1.333...]}}, ['heist'])
    """
    if reference not in scores:
        raise ValueError(f"reference must be one of the variants in scores, {list(scores)}; got {reference!r}")
    positive = {
        game: sum(runs) / len(runs)
        for game, runs in scores[reference].items()
        if len(runs) and np.mean(runs) > 2 * np.std(runs) / math.sqrt(max(1, len(runs) - 1))  # standard errors
    }
    left_out = sorted({game for runs in scores.values() for game in runs} - positive.keys())
    return {
        name: {game: [score / positive[game] for score in runs[game]] for game in runs if game in positive}
        for name, runs in scores.items()
    }, left_out


@checked(runs=HAS_RUNS, repetitions=at_least(1), seed=SEED)
def aggregate_metrics(runs: Runs, *, repetitions: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
    """Median, IQM, mean and optimality gap over all runs of all games, each with a 95 % stratified-bootstrap interval.

    `median` and `mean` are taken over the games' mean scores. `iqm` is the mean of the middle half of all scores.
    `optimality_gap` is the mean shortfall from 1, with scores above 1 counting as 1 (lower is better).

    All games have equal weight, and so have all runs of a game. Where all games have equally many runs, intervals are
    rliable's own. rliable does not take other data; a resample here then draws as many runs of a game as it has.

    Args:
        runs: game -> normalised score of each run.
        repetitions: number of resamples.
        seed: seed of the resamples; NumPy's global generator is left as it was.

    Raises:
        ValueError: no game, a game without a run, or a score that is not finite.
        ImportError: rliable is not installed.
    """
    metrics = _rliable("metrics")
    names = {
        "median": metrics.aggregate_median,
        "iqm": metrics.aggregate_iqm,
        "mean": metrics.aggregate_mean,
        "optimality_gap": metrics.aggregate_optimality_gap,
    }

    def all_of_them(scores: np.ndarray) -> np.ndarray:
        return np.array([metric(scores) for metric in names.values()])  # (4,)

    point, low, high = _bootstrap(all_of_them, [runs], repetitions, seed)
    return {name: Estimate(*map(float, at)) for name, *at in zip(names, point, low, high, strict=True)}


@checked(runs=HAS_RUNS, thresholds=SOME, repetitions=at_least(1), seed=SEED)
def performance_profile(runs: Runs, thresholds: Sequence[float], *, repetitions: int = 2_000, seed: int = 0) -> Profile:
    """The share of runs that score above each threshold, over all games, with pointwise 95 % intervals.

    Arguments, weights and errors are those of `aggregate_metrics`.
    """
    library = _rliable("library")
    levels = np.asarray(thresholds, dtype=np.float64)
    curves = _bootstrap(lambda scores: library.score_distributions(scores, levels), [runs], repetitions, seed)
    return Profile(levels.tolist(), *(curve.tolist() for curve in curves))


@checked(x=HAS_RUNS, y=HAS_RUNS, repetitions=at_least(1), seed=SEED)
def probability_of_improvement(x: Runs, y: Runs, *, repetitions: int = 10_000, seed: int = 0) -> Estimate:
    """Probability that a run of `x` scores more than a run of `y` in a game drawn at random; ties count half.

    `mean over games of P(X > Y) + P(X = Y) / 2`, with a 95 % interval from runs resampled within each game. It does not
    depend on how scores are normalised.

    With few runs the interval is too narrow; it is a single point where all runs of one are above all runs of the
    other. Read it beside `exchange_p_value`.

    Args:
        x, y: game -> score of each run; the same games.
        repetitions, seed: as in `aggregate_metrics`.

    >>> probability_of_improvement({"maze": [7.0, 8.0]}, {"maze": [5.0, 6.0, 6.5]}).value
    1.0
    """
    _check_same_games(x, y)
    same_order = {game: y[game] for game in x}
    point, low, high = _bootstrap(_superiority, [x, same_order], repetitions, seed, of_runs=_superiority_of_runs)
    return Estimate(float(point), float(low), float(high))


@checked(scores=SOME, repetitions=at_least(1), seed=SEED)
def probability_best(scores: Mapping[str, Runs], *, repetitions: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Probability that each variant's mean score is the highest, over resamples of the runs; equals share it.

    Each game's runs are resampled with replacement, each variant's by themselves, and a variant's mean is the mean over
    games of the games' means. With n runs a resample has (n - 1) / n of the variance, so that with few runs the
    probabilities are too sure.

    Args:
        scores: variant -> game -> score of each run; the same games.
        repetitions, seed: as in `aggregate_metrics`.

    Returns:
        Variant -> probability, together 1; all nan where a game has a single run, which cannot be resampled.

    >>> probability_best({"late": {"maze": [7.0, 8.0]}, "shared": {"maze": [5.0, 6.0]}})
    {'late': 1.0, 'shared': 0.0}
    """
    first = next(iter(scores.values()))
    for runs in scores.values():
        _check_same_games(first, runs)
    if any(len(of_game) < 2 for runs in scores.values() for of_game in runs.values()):
        return dict.fromkeys(scores, math.nan)
    generator = np.random.default_rng(seed)

    def means(runs: Runs) -> np.ndarray:  # (repetitions,)
        drawn = [generator.choice(np.asarray(runs[game]), (repetitions, len(runs[game]))).mean(1) for game in first]
        return np.mean(drawn, 0)

    each = np.stack([means(runs) for runs in scores.values()])  # (variants, repetitions)
    best = each == each.max(0)
    return dict(zip(scores, (best / best.sum(0)).mean(1).tolist(), strict=True))


@checked(x=HAS_RUNS, y=HAS_RUNS)
def exchange_p_value(x: Runs, y: Runs) -> float:
    """The exact two-sided p-value of the hypothesis that `x` and `y` score alike: a stratified Mann-Whitney test.

    The runs of each game are dealt anew to x and y in every possible way. The p-value is the share of the ways in which
    the probability of improvement is at least as far from 1/2 as observed. With two runs against two the smallest
    possible p-value is 1/3 for one game, and 1/18 for two games.

    Args:
        x, y: game -> score of each run; the same games.

    >>> exchange_p_value({"maze": [7.0, 8.0]}, {"maze": [5.0, 6.0]})
    0.333...
    """
    _check_same_games(x, y)
    whole = math.lcm(*(2 * len(x[game]) * len(y[game]) for game in x))
    ways, observed = {0: 1.0}, 0  # distance from 1/2, summed over games, in units of 1/whole -> share of the ways
    for game in x:
        of_game, here = _dealt(x[game], y[game])
        scale = whole // (2 * len(x[game]) * len(y[game]))
        observed += here * scale
        summed: dict[int, float] = {}
        for a, share_a in ways.items():
            for b, share_b in of_game.items():
                summed[a + b * scale] = summed.get(a + b * scale, 0.0) + share_a * share_b
        ways = summed
    return min(1.0, sum(share for distance, share in ways.items() if abs(distance) >= abs(observed)))


@checked()
def seeds_needed(difference: float, std: float, *, confidence: float = 0.95, power: float = 0.8) -> int:
    """Approximate number of seeds that tells a mean from a bound: Student's interval then excludes the bound.

    `((z_c + z_p) s / d)^2 + z_c^2 / 2`, rounded up, at least 2, with z_c = Phi^-1((1 + confidence) / 2) and
    z_p = Phi^-1(power): the normal approximation, and Guenther's term for the wider tails of t (Guenther 1981, *The
    American Statistician* 35, 243). Within one seed of the noncentral t distribution, compared for d / s of 0.1 to 3.

    Args:
        difference: assumed difference d between mean and bound; not 0.
        std: standard deviation s over seeds.
        confidence: confidence level of the interval, in (0, 1).
        power: probability that so many seeds tell the two apart, in [1/2, 1).

    Raises:
        ValueError: an argument out of range.

    >>> seeds_needed(1.0, 1.0), seeds_needed(1.0, 1.0, power=0.5)
    (10, 6)
    """
    check_setting("std", std, lambda v: 0 <= v < math.inf, "at least 0 and finite")
    far = "a finite number other than 0, and more than a millionth of std"
    check_setting("difference", difference, lambda v: math.inf > abs(v) > 1e-6 * std, far)
    check_setting("confidence", confidence, lambda v: 0 < v < 1, "between 0 and 1")
    check_setting("power", power, lambda v: 0.5 <= v < 1, "in [0.5, 1)")
    normal = stdlib_statistics.NormalDist()
    z, z_power = normal.inv_cdf((1 + confidence) / 2), normal.inv_cdf(power)
    return max(2, math.ceil(((z + z_power) * std / difference) ** 2 + z**2 / 2))


# ------------------------------------------------------------------------------------------------------- the bootstrap


def require_rliable() -> None:
    """Raise ImportError, with the command that installs it, where rliable is missing; before hours of training."""
    if importlib.util.find_spec("rliable") is None:
        raise ImportError(NEEDS_RLIABLE)


def _rliable(module: str) -> ModuleType:
    """`rliable.library` or `rliable.metrics`, imported only when used, since the import takes seconds."""
    try:
        import rliable.library
        import rliable.metrics
    except ImportError as error:
        raise ImportError(NEEDS_RLIABLE) from error
    return {"library": rliable.library, "metrics": rliable.metrics}[module]


def _bootstrap(
    statistic: Callable[..., np.ndarray],
    tables: Sequence[Runs],
    repetitions: int,
    seed: int,
    of_runs: Callable[..., np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of matrices (runs, games), one per table, or of runs by game, and the two ends of its interval."""
    library = _rliable("library")
    matrices = [_matrix(runs) for runs in tables]
    of_runs = of_runs or (lambda *drawn: statistic(*map(_matrix, drawn)))
    point = np.asarray(of_runs(*tables))
    counts = [[len(scores) for scores in runs.values()] for runs in tables]
    if min(map(min, counts)) < 2:
        return point, np.full_like(point, math.nan), np.full_like(point, math.nan)
    with _numpy_seed(seed):  # rliable draws from the global generator, whatever random_state it is given
        if all(len(set(count)) == 1 for count in counts):
            scores = matrices[0] if len(matrices) == 1 else matrices
            _, interval = library.get_interval_estimates(
                {"": scores}, statistic, reps=repetitions, confidence_interval_size=CONFIDENCE
            )
            low, high = interval[""]
        else:
            drawn = [of_runs(*map(_resampled, tables)) for _ in range(repetitions)]
            low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
    return point, np.reshape(low, point.shape), np.reshape(high, point.shape)


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator inside the context, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _matrix(runs: Runs) -> np.ndarray:
    """Scores (R, games), each game's runs repeated to R, the least common multiple of the games' numbers of runs."""
    if not runs or not all(len(scores) for scores in runs.values()):
        raise ValueError(f"runs must have games, each with at least one score; got {dict(runs)}")
    if not all(math.isfinite(score) for scores in runs.values() for score in scores):
        raise ValueError(f"scores must be finite; got {dict(runs)}")
    rows = math.lcm(*map(len, runs.values()))
    return np.stack([np.tile(np.asarray(scores, dtype=np.float64), rows // len(scores)) for scores in runs.values()], 1)


def _resampled(runs: Runs) -> dict[str, np.ndarray]:
    """Each game's runs, resampled with replacement."""
    return {game: np.random.choice(np.asarray(scores), len(scores)) for game, scores in runs.items()}


def _superiority(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """rliable's `probability_of_improvement` of (runs, games), 100 times faster, since it computes no p-values."""
    above, equal = x[:, None] > y[None], x[:, None] == y[None]  # (runs of x, runs of y, games)
    return np.mean(above + 0.5 * equal)


def _superiority_of_runs(x: Runs, y: Runs) -> np.ndarray:
    """The same of runs by game, whose numbers may differ."""
    return np.array([_superiority(np.asarray(x[game])[:, None], np.asarray(y[game])[:, None]) for game in x]).mean(0)


def _check_same_games(x: Runs, y: Runs) -> None:
    for runs in (x, y):
        _matrix(runs)
    if x.keys() != y.keys():
        raise ValueError(f"x and y must have the same games; got {sorted(x)} and {sorted(y)}")


def _dealt(x: Sequence[float], y: Sequence[float]) -> tuple[dict[int, float], int]:
    """The distribution of one game's probability of improvement over all ways to deal its runs to x (n) and y (m).

    Returns:
        Distance from 1/2, times 2 n m -> share of the ways; and the observed distance, times 2 n m.
    """
    n, m = len(x), len(y)
    values = sorted([*x, *y])
    # Twice the mean rank, the sum of a value's first and last place: whole numbers also with ties.
    rank = {value: 2 * values.index(value) + 1 + values.count(value) for value in values}
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(n))]  # per number of runs in x: sum of ranks -> ways
    for value in values:
        for taken in range(n, 0, -1):
            for total, count in ways[taken - 1].items():
                ways[taken][total + rank[value]] = ways[taken].get(total + rank[value], 0) + count
    of_all, half = math.comb(n + m, n), n * (n + 1) + n * m  # half: twice the sum of ranks at 1/2
    return {total - half: count / of_all for total, count in ways[n].items()}, sum(rank[v] for v in x) - half
