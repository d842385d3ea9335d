"""decouple/statistics.py: the Pareto front against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decouple.statistics import pareto_front


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
