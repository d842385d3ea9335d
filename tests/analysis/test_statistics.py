"""analysis/statistics.py: metrics that can be worked out by hand, intervals, the Pareto front by its definition."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decouple.analysis import statistics
from decouple.analysis.pareto import pareto_front
from decouple.analysis.statistics import (
    aggregate_metrics,
    exchange_p_value,
    normalise_by_range,
    normalise_by_reference,
    performance_profile,
    probability_best,
    probability_of_improvement,
    seeds_needed,
)

pytest.importorskip("rliable")

# 4 runs of 2 games; the games' means are 0.25 and 1.0.
BY_HAND = {"maze": [0.0, 0.1, 0.3, 0.6], "heist": [0.4, 0.8, 0.9, 1.9]}


def values(metrics):
    return {name: estimate.value for name, estimate in metrics.items()}


def test_aggregates_worked_out_by_hand():
    # The middle half of 0 .1 .3 .4 .6 .8 .9 1.9 is .3 .4 .6 .8; 1.9 counts as 1 in the gap: 1 - (1 + 3.1) / 8.
    expected = {"median": 0.625, "iqm": 2.1 / 4, "mean": 0.625, "optimality_gap": 1 - (1.0 + 3.1) / 8}
    assert values(aggregate_metrics(BY_HAND, repetitions=10)) == pytest.approx(expected)


def test_the_median_is_of_the_games_means():
    runs = {"a": [0.0, 0.2], "b": [0.4, 0.6], "c": [3.0, 5.0]}
    metrics = values(aggregate_metrics(runs, repetitions=10))
    assert metrics["median"] == pytest.approx(0.5)
    assert metrics["mean"] == pytest.approx((0.1 + 0.5 + 4.0) / 3)


def test_with_unequal_numbers_of_runs_every_game_weighs_the_same():
    # Games with means 1/2 and 2/3 of 2 and 3 runs: as 6 runs each, 0 0 0 1 1 1 and 0 0 1 1 1 1. The middle 6 of the
    # 12 are 0 0 1 1 1 1.
    metrics = values(aggregate_metrics({"a": [0.0, 1.0], "b": [0.0, 1.0, 1.0]}, repetitions=10))
    gap = 1 - (1 / 2 + 2 / 3) / 2
    assert metrics == pytest.approx({"median": 7 / 12, "mean": 7 / 12, "iqm": 4 / 6, "optimality_gap": gap})


def test_an_interval_encloses_what_resampling_can_give():
    # The mean of one game with runs 0 and 1, each drawn twice: 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    mean = aggregate_metrics({"a": [0.0, 1.0]}, repetitions=400)["mean"]
    assert mean == (0.5, 0.0, 1.0)


def test_intervals_of_unequal_numbers_of_runs_are_as_wide_as_rliables():
    rng = np.random.default_rng(0)
    equal = {game: rng.normal(size=8).tolist() for game in "abcd"}
    ragged = {**equal, "d": equal["d"][:7]}  # nearly the same, by our own resampling in place of rliable's
    widths = [
        [estimate.high - estimate.low for estimate in aggregate_metrics(runs, repetitions=3000).values()]
        for runs in (equal, ragged)
    ]
    np.testing.assert_allclose(*widths, rtol=0.25)


def test_an_interval_of_runs_that_agree_is_a_point():
    for estimate in aggregate_metrics({"a": [0.5, 0.5], "b": [0.5, 0.5]}, repetitions=10).values():
        assert estimate.low == estimate.value == estimate.high == 0.5


@pytest.mark.parametrize("runs", [{"a": [0.5]}, {"a": [0.5, 0.6], "b": [0.7]}])
def test_a_game_with_one_run_has_no_interval(runs):
    for estimate in aggregate_metrics(runs).values():
        assert np.isfinite(estimate.value)
        assert np.isnan([estimate.low, estimate.high]).all()


def test_intervals_repeat_and_leave_the_global_generator_alone():
    np.random.seed(7)
    state = np.random.get_state()[1].copy()
    one = aggregate_metrics(BY_HAND, repetitions=50, seed=1)
    assert np.array_equal(np.random.get_state()[1], state)
    assert aggregate_metrics(BY_HAND, repetitions=50, seed=1) == one
    assert aggregate_metrics(BY_HAND, repetitions=50, seed=2) != one


def test_a_profile_worked_out_by_hand():
    profile = performance_profile({"a": [0.1, 0.2], "b": [0.2, 0.9]}, [0.0, 0.2, 0.5, 1.0], repetitions=50)
    assert profile.thresholds == [0.0, 0.2, 0.5, 1.0]
    assert profile.share == [1.0, 0.25, 0.25, 0.0]  # above, not at
    assert all(low <= share <= high for share, low, high in zip(*profile[1:], strict=True))
    assert (profile.low[2], profile.high[2]) == (0.0, 0.5)  # none, one or two of the two runs of b


@pytest.mark.parametrize(
    ("x", "y", "probability"),
    [
        ({"a": [3.0, 4.0]}, {"a": [1.0, 2.0]}, 1.0),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 0.5),
        ({"a": [1.0, 1.0]}, {"a": [1.0]}, 0.5),
        ({"a": [2.0, 4.0], "b": [0.0]}, {"a": [1.0, 3.0, 5.0], "b": [1.0]}, 0.25),  # 3 of 6, and none of 1
    ],
)
def test_probability_of_improvement_by_hand(x, y, probability):
    from rliable.metrics import probability_of_improvement as rliables

    assert probability_of_improvement(x, y, repetitions=10).value == probability
    if len({len(runs) for runs in x.values()}) == len({len(runs) for runs in y.values()}) == 1:
        assert rliables(*(np.array(list(runs.values())).T for runs in (x, y))) == probability


def test_probability_of_improvement_goes_by_the_names_of_the_games():
    x, y = {"a": [1.0, 2.0], "b": [11.0, 12.0]}, {"b": [9.0, 10.0], "a": [-1.0, 0.0]}
    estimate = probability_of_improvement(x, y, repetitions=20)
    assert estimate == (1.0, 1.0, 1.0)


def enumerated(x, y):
    """The exchange test by its definition."""

    def distance(deal):
        wins = [np.mean([(a > b) + (a == b) / 2 for a in one for b in other]) for one, other in deal]
        return abs(np.mean(wins) - 0.5)

    deals = []
    for game in x:
        both = [*x[game], *y[game]]
        picks = itertools.combinations(range(len(both)), len(x[game]))
        deals.append([([both[i] for i in p], [both[i] for i in range(len(both)) if i not in p]) for p in picks])
    here = distance([(x[game], y[game]) for game in x])
    return np.mean([distance(deal) >= here - 1e-12 for deal in itertools.product(*deals)])


SCORES = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=3)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=2))
def test_the_exchange_test_counts_every_way_to_deal_the_runs(pairs):
    x = {str(index): pair[0] for index, pair in enumerate(pairs)}
    y = {str(index): pair[1] for index, pair in enumerate(pairs)}
    assert exchange_p_value(x, y) == pytest.approx(enumerated(x, y))


def test_few_runs_cannot_tell():
    better, worse = {"a": [3.0, 4.0], "b": [3.0, 4.0]}, {"a": [1.0, 2.0], "b": [1.0, 2.0]}
    assert exchange_p_value(better, worse) == pytest.approx(1 / 18)
    five = {"a": [6.0, 7.0, 8.0, 9.0, 10.0]}, {"a": [1.0, 2.0, 3.0, 4.0, 5.0]}
    assert exchange_p_value(*five) == pytest.approx(2 / 252)


def test_normalisation_by_the_benchmarks_range():
    scaled = normalise_by_range(
        {"late": {"fruitbot": [-1.5, 32.4, 15.45]}}, {"fruitbot": (-1.5, 32.4), "maze": (5, 10)}
    )
    assert scaled["late"]["fruitbot"] == pytest.approx([0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="low < high for maze; got None"):
        normalise_by_range({"late": {"maze": [1.0]}}, {})


def test_normalisation_by_a_reference_leaves_out_what_it_cannot_divide_by():
    scores = {"shared": {"a": [2.0, 4.0], "b": [-1.0, 0.5]}, "late": {"a": [6.0], "b": [1.0], "c": [1.0]}}
    scaled, left_out = normalise_by_reference(scores, "shared")
    assert scaled == {"shared": {"a": [2 / 3, 4 / 3]}, "late": {"a": [2.0]}}
    assert left_out == ["b", "c"]
    with pytest.raises(ValueError, match=r"reference must be .*'late'.*; got 'shared'"):
        normalise_by_reference({"late": {}}, "shared")


def test_normalisation_leaves_out_a_reference_that_cannot_be_told_from_nothing():
    scores = {"shared": {"fruitbot": [-0.9, 0.5, 0.55], "maze": [4.0, 5.0]}, "late": {"fruitbot": [2.0], "maze": [9.0]}}
    assert normalise_by_reference(scores, "shared")[1] == ["fruitbot"]  # .05, with a standard error of .48
    assert normalise_by_reference({"shared": {"maze": [4.0]}}, "shared")[1] == []  # of one run there is none


def test_improvement_of_unequal_numbers_of_runs_is_that_of_their_repetitions():
    x = {"a": [1.0, 4.0, 2.0], "b": [3.0, 1.0]}
    y = {"a": [2.0, 3.0], "b": [2.0, 0.0, 1.0, 1.0]}
    tiled = [{game: list(scores) * (12 // len(scores)) for game, scores in runs.items()} for runs in (x, y)]
    assert probability_of_improvement(x, y, repetitions=10).value == probability_of_improvement(*tiled).value
    calls = []
    many = {game: [float(n) for n in range(count)] for game, count in zip("abcd", (7, 8, 9, 10), strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_superiority", lambda a, b: calls.append(len(a) * len(b)) or np.float64(0))
        probability_of_improvement(many, many, repetitions=2)
    assert max(calls) == 100  # and not 2,520 squared


def test_scores_that_are_refused():
    for runs in ({}, {"a": []}, {"a": [float("nan")]}):
        with pytest.raises(ValueError, match="must"):
            aggregate_metrics(runs)
    with pytest.raises(ValueError, match=r"the same games; got \['a'\] and \['b'\]"):
        probability_of_improvement({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(ValueError, match="repetitions must be"):
        aggregate_metrics(BY_HAND, repetitions=0)


def test_without_rliable_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable.library", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-decouple\[eval\]'"):
        aggregate_metrics(BY_HAND)


def test_a_front_worked_out_by_hand():
    cost = [4, 1, 2, 2, 3, 5]
    value = [9, 5, 6, 7, 7, 8]  # index 2 loses to 3 at the same cost, 4 costs more than 3 for as much, 5 loses to 0
    assert pareto_front(cost, value) == [1, 3, 0]


def test_equals_are_all_in_it_and_nothing_gives_nothing():
    assert pareto_front([2, 1, 1], [3, 3, 3]) == [1, 2]
    assert pareto_front([], []) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3))))
def test_it_holds_what_no_other_choice_beats(choices):
    def beaten(choice):
        cost, value = choice
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in choices)

    front = pareto_front([cost for cost, _ in choices], [value for _, value in choices])
    assert sorted(front) == [index for index, choice in enumerate(choices) if not beaten(choice)]
    assert [choices[index] for index in front] == sorted(choices[index] for index in front)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="of one length; got 1 and 2"):
        pareto_front([1], [1, 2])
    with pytest.raises(ValueError, match="must be numbers"):
        pareto_front([1], [float("nan")])


@pytest.mark.parametrize(("confidence", "power"), [(0.9, 0.5), (0.95, 0.5), (0.95, 0.8), (0.95, 0.9), (0.99, 0.8)])
def test_seeds_needed_are_those_of_the_noncentral_t_distribution(confidence, power):
    """A seed's return is N(d, 1); of n, sqrt(n) mean / s is noncentral t, n - 1 degrees, about d sqrt(n)."""
    stats = pytest.importorskip("scipy.stats")

    def told(n: int, difference: float) -> float:
        quantile = stats.t.ppf((1 + confidence) / 2, n - 1)
        return stats.nct.sf(quantile, n - 1, difference * math.sqrt(n))

    for difference in (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0):
        exact = next(n for n in range(2, 10_000) if told(n, difference) >= power)
        assert abs(seeds_needed(difference, 1.0, confidence=confidence, power=power) - exact) <= 1
        assert seeds_needed(-10 * difference, 10.0, confidence=confidence, power=power) == seeds_needed(
            difference, 1.0, confidence=confidence, power=power
        )


def test_so_many_seeds_tell_as_often_as_they_should():
    """20,000 searches, the mean 4 below the bound, a spread of 11.3: 65 seeds tell in 80 % of them, 33 in half."""
    generator = np.random.default_rng(0)
    for power, seeds, t in ((0.8, 65, 1.9977), (0.5, 33, 2.0369)):  # Student's 97.5 % point of 64 and 32 degrees
        assert seeds_needed(-4.0, 11.3, power=power) == seeds
        returns = generator.normal(-4, 11.3, (20_000, seeds))
        half = t * returns.std(1, ddof=1) / math.sqrt(seeds)
        assert (returns.mean(1) + half < 0).mean() == pytest.approx(power, abs=0.015)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"difference": 0.0}, "difference must be a finite number other than 0.*got 0.0"),
        ({"difference": math.nan}, "difference must be a finite number; got nan"),
        ({"std": -1.0}, "std must be at least 0 and finite; got -1.0"),
        ({"confidence": 95}, "confidence must be between 0 and 1; got 95"),
        ({"power": 0.2}, r"power must be in \[0.5, 1\); got 0.2"),
        ({"power": 1.0}, r"power must be in \[0.5, 1\); got 1.0"),
    ],
)
def test_arguments_of_seeds_needed_are_refused_by_name(arguments, says):
    with pytest.raises(ValueError, match=says):
        seeds_needed(**({"difference": 1.0, "std": 1.0} | arguments))


def test_the_probability_of_the_highest_mean_by_hand():
    # The mean of two drawn from (0, 2) is 0, 1 or 2 in 1, 2 and 1 of 4 ways; the other's is always 1: 1/4 + 1/2 * 1/2.
    found = probability_best({"x": {"a": [0.0, 2.0]}, "y": {"a": [1.0, 1.0]}}, repetitions=20_000)
    assert found == pytest.approx({"x": 0.5, "y": 0.5}, abs=0.01)
    # 0, 1.5 or 3 against 1: 3/4.
    assert probability_best({"x": {"a": [0.0, 3.0]}, "y": {"a": [1.0, 1.0]}}, repetitions=20_000)["x"] == pytest.approx(
        0.75, abs=0.01
    )
    # Two games have equal weight: 5 - 1 in the one outweighs 0 - 1 in the other.
    two = {"x": {"a": [5.0, 5.0], "b": [0.0, 0.0]}, "y": {"a": [1.0, 1.0], "b": [1.0, 1.0, 1.0]}}
    assert probability_best(two, repetitions=10) == {"x": 1.0, "y": 0.0}
    assert all(map(math.isnan, probability_best({"x": {"a": [5.0]}, "y": {"a": [1.0, 2.0]}}).values()))
    with pytest.raises(ValueError, match="same games"):
        probability_best({"x": {"a": [1.0, 2.0]}, "y": {"b": [1.0, 2.0]}})
