"""Every pair of values, or each value once, instead of every combination, which is left to -m slow.

    @grid(algorithm=["td3", "sac"], k=[0, 1, 2], policy_gradient=[0.0, 0.5, 1.0])
    def test_...(algorithm, k, policy_gradient): ...

    @each(algorithm=["td3", "sac"], space=["Box", "Discrete"])
    def test_...(algorithm, space): ...

`grid` is right where the axes are independent of each other, so that what goes wrong for three values goes wrong for
two of them; `each` where what goes wrong does so for one value of one axis, whatever the other is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest


def cover(rows: Sequence[tuple], together: int = 2) -> list[tuple]:
    """Rows that hold all values of `together` axes that some row holds; greedy, so nearly as few as can be."""

    def parts(row: tuple) -> set[tuple[tuple[int, Any], ...]]:
        return set(itertools.combinations(enumerate(row), together))

    of = {row: parts(row) for row in rows}
    missing = set().union(*of.values())
    chosen = []
    while missing:
        chosen.append(max(of, key=lambda row: len(of[row] & missing)))  # the first of equals
        missing -= of[chosen[-1]]
    return chosen


def grid(valid: Callable[..., bool] = lambda *_: True, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations of the axes that are valid as a test's parameters; those that no pair needs are slow."""
    return _parameters(axes, valid, 2)


def each(valid: Callable[..., bool] = lambda *_: True, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """As `grid`; slow are those that no single value needs."""
    return _parameters(axes, valid, 1)


def _parameters(axes: dict[str, Sequence[Any]], valid: Callable[..., bool], together: int) -> pytest.MarkDecorator:
    rows = [
        row
        for row in itertools.product(*(range(len(of)) for of in axes.values()))
        if valid(*(of[index] for of, index in zip(axes.values(), row, strict=True)))
    ]
    quick = set(cover(rows, together))
    parameters = [
        pytest.param(
            *(of[index] for of, index in zip(axes.values(), row, strict=True)),
            marks=[] if row in quick else [pytest.mark.slow],
        )
        for row in rows
    ]
    return pytest.mark.parametrize(tuple(axes), parameters)
