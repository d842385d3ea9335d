"""pairwise.py: every pair, or value, is there in few combinations; what is left out is slow rather than gone."""

from __future__ import annotations

import itertools

from pairwise import cover, each, grid


def test_every_pair_of_values_is_in_some_combination_and_few_combinations_do():
    sizes = [4, 3, 3, 2]
    every = list(itertools.product(*map(range, sizes)))
    rows = cover(every)
    for (i, of_i), (j, of_j) in itertools.combinations(enumerate(sizes), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(range(of_i), range(of_j)))
    assert 4 * 3 <= len(rows) <= 15  # of 72
    assert cover(every) == rows


def test_two_axes_need_every_combination():
    every = list(itertools.product("ab", range(3)))
    assert sorted(cover(every)) == every


def test_what_no_pair_needs_is_slow_and_nothing_is_left_out():
    mark = grid(a="xy", b=[0, 1], c=[True, False]).mark
    names, rows = mark.args
    assert names == ("a", "b", "c")
    assert [row.values for row in rows] == list(itertools.product("xy", [0, 1], [True, False]))
    quick = [row.values for row in rows if not row.marks]
    assert len(quick) == 4 and all(mark.name == "slow" for row in rows for mark in row.marks)


def test_each_value_of_each_axis_is_in_as_few_combinations_as_the_longest_axis_has_values():
    rows = each(a="xyz", b=[0, 1], c=[True, False]).mark.args[1]
    assert [row.values for row in rows] == list(itertools.product("xyz", [0, 1], [True, False]))
    quick = [row.values for row in rows if not row.marks]
    assert len(quick) == 3 and [set(of) for of in zip(*quick, strict=True)] == [set("xyz"), {0, 1}, {True, False}]


def test_a_pair_that_is_never_valid_is_not_asked_for():
    mark = grid(lambda a, b, c: (a, b) != ("x", 1), a="xy", b=[0, 1], c=[True, False]).mark
    assert [row.values[:2] for row in mark.args[1]].count(("x", 1)) == 0 and len(mark.args[1]) == 6
