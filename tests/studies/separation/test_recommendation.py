"""What the paper's rule says to scores whose answer is plain, and to those without one."""

from __future__ import annotations

import pytest

from decouple.analysis.statistics import Estimate, aggregate_metrics, normalise_by_range, normalise_by_reference
from decouple.studies.separation.recommendation import compare, recommend

pytest.importorskip("rliable")

LOW, MIDDLE, HIGH = ([float(base + seed) for seed in range(5)] for base in (10, 20, 30))
MIXED = [12.0, 35.0, 21.5, 16.0, 28.0]


def study(**variants):
    """The same five runs on each of two games."""
    return {variant: {"maze": list(runs), "plunder": list(runs)} for variant, runs in variants.items()}


def advice(scores):
    normalised, _ = normalise_by_reference(scores, "shared")
    aggregates = {name: aggregate_metrics(runs, repetitions=50) for name, runs in normalised.items()}
    return recommend(scores, aggregates, repetitions=200)


def test_a_default_that_is_plainly_best_is_supported():
    told = advice(study(shared=LOW, late=HIGH, early=MIDDLE))
    assert told.conclusion == (
        "Take late separation, the rule's default. These runs support it against shared and early."
    )
    assert "Highest IQM of scores divided by PPO's: late" in told.findings[0]
    assert "as in the paper" in told.findings[0]
    # 5 against 5 on two games, all above: 2 of the 252 squared ways.
    assert told.against_default[0].p_value == pytest.approx(2 / 252**2)
    assert told.against_default[0].probability == Estimate(1.0, 1.0, 1.0)


def test_a_default_that_is_plainly_worse_is_contradicted():
    told = advice(study(shared=HIGH, late=LOW))
    assert "speak against it: shared scored higher" in told.conclusion
    assert "Take what was measured here over the rule." in told.conclusion
    assert "in the paper late has both" in told.findings[0]


def test_what_the_seeds_cannot_tell_is_said():
    told = advice(study(shared=MIXED, late=[value + 0.1 for value in MIXED]))
    assert "The seeds cannot tell it from shared; there the choice rests on the paper and on cost." in told.conclusion


def test_two_seeds_on_one_game_can_never_tell():
    comparison = compare({"late": {"maze": [3.0, 4.0]}, "shared": {"maze": [1.0, 2.0]}}, "late", "shared")
    assert comparison.probability == Estimate(1.0, 1.0, 1.0)  # an interval that collapsed
    assert comparison.p_value == comparison.least_p == pytest.approx(1 / 3)
    assert comparison.verdict == "the seeds cannot tell"
    assert comparison.sentence() == (
        "late against shared: probability of improvement 1.00 (95 % interval 1.00 to 1.00; exact p = 0.33, which so "
        "few seeds cannot bring below 0.33): the seeds cannot tell."
    )


def test_one_seed_has_no_interval_and_cannot_tell():
    comparison = compare({"late": {"maze": [3.0]}, "shared": {"maze": [1.0]}}, "late", "shared")
    assert comparison.verdict == "the seeds cannot tell"
    assert "no interval, a game has one run only" in comparison.sentence()


@pytest.mark.parametrize(
    ("full", "says"),
    [
        (HIGH, "On plunder the rule says full separation, for its life bar, and these runs support it."),
        (LOW, "for its life bar, but here full scored less than late, by more than chance explains."),
        (MIXED, "for its life bar, but the seeds cannot tell it from late there."),
    ],
)
def test_full_separation_on_the_game_that_the_paper_names(full, says):
    scores = study(shared=LOW, late=MIDDLE)
    scores["full"] = {"maze": MIXED, "plunder": full}
    told = advice(scores)
    assert says in told.conclusion
    assert "On maze" not in told.conclusion
    assert [comparison.games for comparison in told.full_by_game] == [("maze",), ("plunder",)]


def test_full_separation_on_a_game_that_the_paper_does_not_name():
    scores = study(shared=LOW, late=MIDDLE)
    scores["full"] = {"maze": HIGH, "plunder": MIXED}
    assert "On maze, which the paper does not name, full was better than late" in advice(scores).conclusion


def test_without_the_default_there_is_no_rule_to_apply():
    assert recommend(study(shared=LOW, full=HIGH), {}).conclusion == (
        "The rule cannot be applied: there is no finished run of late."
    )
    assert "nothing to set beside late" in recommend(study(late=LOW), {}).conclusion


def test_without_ppo_there_is_no_ranking():
    told = recommend(study(late=MIDDLE, early=LOW), {}, repetitions=50)
    assert "not ranked" in told.findings[0]
    assert "support it against early" in told.conclusion


def test_runs_that_have_hardly_learned_are_said_to_rank_nothing():
    scores = study(shared=LOW, late=HIGH, full=LOW)

    def within(most: float) -> dict:
        ranges = dict.fromkeys(("maze", "plunder"), (0.0, most))
        normalised = normalise_by_range(scores, ranges)
        return {name: aggregate_metrics(runs, repetitions=20) for name, runs in normalised.items()}

    told = recommend(scores, {}, within(1000), repetitions=50).conclusion
    assert told.startswith("These runs have hardly learned: the best mean is 3.2% of the benchmark's range")
    assert "They rank nothing. Take late separation" in told
    assert "hardly" not in recommend(scores, {}, within(100), repetitions=50).conclusion
