"""pairwise.py: every pair is there, in few combinations, and what is left out is slow rather than gone."""

from __future__ import annotations

import itertools

from pairwise import cover, grid


def test_every_pair_of_values_is_in_some_combination_and_few_combinations_do():
    sizes = [4, 3, 3, 2]
    rows = cover(sizes)
    for (i, of_i), (j, of_j) in itertools.combinations(enumerate(sizes), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(range(of_i), range(of_j)))
    assert 4 * 3 <= len(rows) <= 15  # of 72
    assert cover(sizes) == rows


def test_two_axes_need_every_combination():
    assert sorted(cover([2, 3])) == list(itertools.product(range(2), range(3)))


def test_what_no_pair_needs_is_slow_and_nothing_is_left_out():
    mark = grid(a="xy", b=[0, 1], c=[True, False]).mark
    names, rows = mark.args
    assert names == ("a", "b", "c")
    assert [row.values for row in rows] == list(itertools.product("xy", [0, 1], [True, False]))
    quick = [row.values for row in rows if not row.marks]
    assert len(quick) == 4 and all(mark.name == "slow" for row in rows for mark in row.marks)
