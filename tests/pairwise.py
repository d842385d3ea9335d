"""Every pair of values instead of every combination, which is left to -m slow.

    @grid(algorithm=["td3", "sac"], k=[0, 1, 2], policy_gradient=[0.0, 0.5, 1.0])
    def test_...(algorithm, k, policy_gradient): ...

Right where the axes are independent of each other, so that what goes wrong for three values goes wrong for two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest


def cover(rows: Sequence[tuple]) -> list[tuple]:
    """Rows that hold every pair of values that some row holds, of two axes; greedy, so nearly as few as can be."""

    def pairs(row: tuple) -> set[tuple[tuple[int, Any], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    of = {row: pairs(row) for row in rows}
    missing = set().union(*of.values())
    chosen = []
    while missing:
        chosen.append(max(of, key=lambda row: len(of[row] & missing)))  # the first of equals
        missing -= of[chosen[-1]]
    return chosen


def grid(valid: Callable[..., bool] = lambda *_: True, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations of the axes that are valid as a test's parameters; those that no pair needs are slow."""
    rows = [
        row
        for row in itertools.product(*(range(len(of)) for of in axes.values()))
        if valid(*(of[index] for of, index in zip(axes.values(), row, strict=True)))
    ]
    quick = set(cover(rows))
    parameters = [
        pytest.param(
            *(of[index] for of, index in zip(axes.values(), row, strict=True)),
            marks=[] if row in quick else [pytest.mark.slow],
        )
        for row in rows
    ]
    return pytest.mark.parametrize(tuple(axes), parameters)
