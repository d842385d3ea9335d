"""Every pair of values instead of every combination, which is left to -m slow.

    @grid(algorithm=["td3", "sac"], k=[0, 1, 2], policy_gradient=[0.0, 0.5, 1.0])
    def test_...(algorithm, k, policy_gradient): ...

Right where the axes are independent of each other, so that what goes wrong for three values goes wrong for two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import pytest


def cover(sizes: list[int]) -> list[tuple[int, ...]]:
    """Indices of combinations that hold every pair of values of two axes; greedy, so nearly as few as can be."""

    def pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    of = {row: pairs(row) for row in itertools.product(*map(range, sizes))}
    missing = set().union(*of.values())
    chosen = []
    while missing:
        chosen.append(max(of, key=lambda row: len(of[row] & missing)))  # the first of equals
        missing -= of[chosen[-1]]
    return chosen


def grid(**axes: Collection[Any]) -> pytest.MarkDecorator:
    """All combinations of the axes as a test's parameters; those that are in no need for a pair are slow."""
    values = [list(of) for of in axes.values()]
    quick = set(cover([len(of) for of in values]))
    rows = [
        pytest.param(*map(list.__getitem__, values, row), marks=[] if row in quick else [pytest.mark.slow])
        for row in itertools.product(*(range(len(of)) for of in values))
    ]
    return pytest.mark.parametrize(tuple(axes), rows)
