"""What results say together: aggregates over runs and games with their intervals, and the choices that cost least.

    scores = {"late": {"plunder": [5.1, 6.3], "starpilot": [22.0, 25.5]}, "shared": {...}}    # game -> score per run
    scaled = normalise_by_range(scores, {"plunder": (4.5, 30), "starpilot": (2.5, 64)})
    aggregate_metrics(scaled["late"])["iqm"]                       # Estimate(value, low, high)
    probability_of_improvement(scaled["late"], scaled["shared"])
    front = pareto_front(cost=parameters, value=returns)           # indices, the cheapest first
    seeds_needed(difference=-4.0, std=11.3)                        # to tell a mean from a bound, four times in five

The metrics and the stratified bootstrap are rliable's: Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of
the Statistical Precipice*, https://arxiv.org/abs/2108.13264.
"""

from __future__ import annotations

import contextlib
import math
import statistics as stdlib_statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np

from decouple.checks import ANY_NUMBER, SEED, SOME, Must, at_least, check_setting, checked

__all__ = [
    "Estimate",
    "Profile",
    "aggregate_metrics",
    "exchange_p_value",
    "normalise_by_range",
    "normalise_by_reference",
    "pareto_front",
    "performance_profile",
    "probability_of_improvement",
    "seeds_needed",
]

Runs: TypeAlias = Mapping[str, Sequence[float]]  # game -> the score of each run of it

CONFIDENCE = 0.95
HAS_RUNS = Must(lambda runs: len(runs) and all(map(len, runs.values())), "not empty: games, each with a score at least")
METRICS = "median", "iqm", "mean", "optimality_gap"
OF_METRICS = Must(
    lambda variants: all(set(METRICS) <= of.keys() for of in variants.values()), f"a mapping to {', '.join(METRICS)}"
)


class Estimate(NamedTuple):
    """A number and its 95 % interval; both ends are nan where a game has one run only, which cannot be resampled."""

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
        ranges: game -> (low, high); others than these are of no harm.

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
    """Scores divided by the reference's mean score of the same game, as studies of Procgen divide by PPO's.

    The mean is taken as given: what it varies by from run to run is not in the intervals of what comes out.

    Args:
        scores: variant -> game -> score of each run.
        reference: the variant to divide by.

    Returns:
        The scores, and the games that are not in them: the reference has no run there, or its mean is not positive, so
        that a ratio would mean nothing.

    >>> normalise_by_reference({"late": {"maze": [6.0], "heist": [3.0]}, "shared": {"maze": [4.0, 8.0]}}, "shared")
    ({'late': {'maze': [1.0]}, 'shared': {'maze': [0.666..., 1.333...]}}, ['heist'])
    """
    if reference not in scores:
        raise ValueError(f"reference must be one of the variants in scores, {list(scores)}; got {reference!r}")
    means = {game: sum(runs) / len(runs) for game, runs in scores[reference].items() if len(runs)}
    positive = {game: mean for game, mean in means.items() if mean > 0}
    left_out = sorted({game for runs in scores.values() for game in runs} - positive.keys())
    return {
        name: {game: [score / positive[game] for score in runs[game]] for game in runs if game in positive}
        for name, runs in scores.items()
    }, left_out


@checked(runs=HAS_RUNS, repetitions=at_least(1), seed=SEED)
def aggregate_metrics(runs: Runs, *, repetitions: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
    """Median, IQM, mean and optimality gap over all runs of all games, each with a 95 % stratified-bootstrap interval.

    `median` and `mean` are of the games' mean scores, `iqm` is the mean of the middle half of all scores, and
    `optimality_gap` how far scores fall short of 1 on average, those above 1 counting as 1 (the less the better).

    Every game has the same weight, and each run the same within its game, whatever the number of runs. Where all games
    have as many, intervals are rliable's own; it takes no other, and then each resample draws as many runs of a game as
    there are.

    Args:
        runs: game -> normalised score of each run.
        repetitions: resamples.
        seed: of the resamples; NumPy's global generator is left as it was.

    Raises:
        ValueError: no game, a game without a run, or a score that is not finite.
        ImportError: without rliable.
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
    """How probable it is that a run of `x` scores more than a run of `y` on a game drawn at random; ties count half.

    `mean over games of P(X > Y) + P(X = Y) / 2`, with a 95 % interval from runs resampled within each game. It does not
    depend on how scores are normalised.

    With few runs the interval is too narrow, and a single point where all of one are above all of the other: read it
    beside `exchange_p_value`.

    Args:
        x, y: game -> score of each run; the same games.
        repetitions, seed: as in `aggregate_metrics`.

    >>> probability_of_improvement({"maze": [7.0, 8.0]}, {"maze": [5.0, 6.0, 6.5]}).value
    1.0
    """
    _check_same_games(x, y)
    same_order = {game: y[game] for game in x}
    point, low, high = _bootstrap(_superiority, [x, same_order], repetitions, seed)
    return Estimate(float(point), float(low), float(high))


@checked(x=HAS_RUNS, y=HAS_RUNS)
def exchange_p_value(x: Runs, y: Runs) -> float:
    """How often chance alone would tell `x` and `y` as far apart, or further, were they the same: exact, two-sided.

    The runs of each game are dealt out anew to x and y in every possible way (a stratified Mann-Whitney test); the
    result is the share of the ways in which the probability of improvement is as far from 1/2 as it is, or further. Two
    runs against two of one game cannot come below 1/3, two games of that not below 1/18.

    Args:
        x, y: game -> score of each run; the same games.

    >>> exchange_p_value({"maze": [7.0, 8.0]}, {"maze": [5.0, 6.0]})
    0.333...
    """
    _check_same_games(x, y)
    whole = math.lcm(*(2 * len(x[game]) * len(y[game]) for game in x))
    ways, observed = {0: 1.0}, 0  # distance from 1/2, all games together, in parts of `whole` -> share of the ways
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


@checked(cost=ANY_NUMBER, value=ANY_NUMBER)
def pareto_front(cost: Sequence[float], value: Sequence[float]) -> list[int]:
    """The choices that no other beats: none has at most the cost and at least the value, one of the two being better.

    Args:
        cost: of each choice, the less the better.
        value: of each choice, the more the better.

    Returns:
        Their indices, by rising cost, and so by rising value. Equals in both are all in it, in the order given.

    Raises:
        ValueError: of different lengths, or a number that is none (NaN).

    >>> pareto_front(cost=[10, 20, 30, 15], value=[1.0, 3.0, 2.0, 0.5])
    [0, 1]
    """
    if len(cost) != len(value):
        raise ValueError(f"cost and value must be of one length; got {len(cost)} and {len(value)}")
    if any(map(math.isnan, [*cost, *value])):
        raise ValueError(f"cost and value must be numbers; got {list(cost)} and {list(value)}")
    front: list[int] = []
    for index in sorted(range(len(cost)), key=lambda i: (cost[i], -value[i])):
        last = front[-1] if front else None
        equals = last is not None and (cost[last], value[last]) == (cost[index], value[index])
        if last is None or equals or value[index] > value[last]:
            front.append(index)
    return front


@checked()
def seeds_needed(difference: float, std: float, *, confidence: float = 0.95, power: float = 0.8) -> int:
    """About how many seeds tell a mean from a bound: Student's interval of their mean then leaves the bound out.

    `((z_c + z_p) s / d)^2 + z_c^2 / 2`, rounded up, at least 2, with z_c = Phi^-1((1 + confidence) / 2) and
    z_p = Phi^-1(power): the normal approximation, and Guenther's term for the wider tails of t (Guenther 1981, *The
    American Statistician* 35, 243). Within one seed of the noncentral t distribution, compared for d / s of 0.1 to 3.

    Args:
        difference: d, of the mean from the bound, as it is believed to be; not 0.
        std: s, over seeds.
        confidence: of the interval.
        power: how often so many seeds do tell, in [1/2, 1). At 1/2 they would do so half of the time.

    Raises:
        ValueError: an argument that is not as above.

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


def _rliable(module: str) -> ModuleType:
    """`rliable.library` or `rliable.metrics`, imported where they are used: it takes seconds."""
    try:
        import rliable.library
        import rliable.metrics
    except ImportError as error:
        raise ImportError("aggregate metrics need the package rliable: pip install 'decouple[eval]'") from error
    return {"library": rliable.library, "metrics": rliable.metrics}[module]


def _bootstrap(
    statistic: Callable[..., np.ndarray], tables: Sequence[Runs], repetitions: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of (runs, games) matrices, one for each table, and the ends of its interval."""
    library = _rliable("library")
    matrices = [_matrix(runs) for runs in tables]
    point = np.asarray(statistic(*matrices))
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
            drawn = [statistic(*(_matrix(_resampled(runs)) for runs in tables)) for _ in range(repetitions)]
            low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
    return point, np.reshape(low, point.shape), np.reshape(high, point.shape)


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """NumPy's global generator from a seed, and then as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _matrix(runs: Runs) -> np.ndarray:
    """Scores (R, games), each game's runs repeated to R, the least number that all games' numbers of runs divide."""
    if not runs or not all(len(scores) for scores in runs.values()):
        raise ValueError(f"runs must have games, each with a score at least; got {dict(runs)}")
    if not all(math.isfinite(score) for scores in runs.values() for score in scores):
        raise ValueError(f"scores must be finite; got {dict(runs)}")
    rows = math.lcm(*map(len, runs.values()))
    return np.stack([np.tile(np.asarray(scores, dtype=np.float64), rows // len(scores)) for scores in runs.values()], 1)


def _resampled(runs: Runs) -> dict[str, np.ndarray]:
    """As many runs of each game as there are, drawn with replacement."""
    return {game: np.random.choice(np.asarray(scores), len(scores)) for game, scores in runs.items()}


def _superiority(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """rliable's `probability_of_improvement` of (runs, games), in a hundredth of its time: it computes p-values."""
    above, equal = x[:, None] > y[None], x[:, None] == y[None]  # (runs of x, runs of y, games)
    return np.mean(above + 0.5 * equal)


def _check_same_games(x: Runs, y: Runs) -> None:
    for runs in (x, y):
        _matrix(runs)
    if x.keys() != y.keys():
        raise ValueError(f"x and y must have the same games; got {sorted(x)} and {sorted(y)}")


def _dealt(x: Sequence[float], y: Sequence[float]) -> tuple[dict[int, float], int]:
    """Of one game's runs: distance of the probability of improvement from 1/2, times 2 n m -> share of all ways to deal
    them to x (n) and y (m); and the distance of the way they came.
    """
    n, m = len(x), len(y)
    values = sorted([*x, *y])
    # Twice the middle rank, so that ties keep whole numbers: the first and the last place of each value, added.
    rank = {value: 2 * values.index(value) + 1 + values.count(value) for value in values}
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(n))]  # by how many went to x: sum of ranks -> ways
    for value in values:
        for taken in range(n, 0, -1):
            for total, count in ways[taken - 1].items():
                ways[taken][total + rank[value]] = ways[taken].get(total + rank[value], 0) + count
    of_all, half = math.comb(n + m, n), n * (n + 1) + n * m  # the latter is the sum of ranks at 1/2, twice
    return {total - half: count / of_all for total, count in ways[n].items()}, sum(rank[v] for v in x) - half
