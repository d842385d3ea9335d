"""Choices between cost and value: those that no other one dominates.

front = pareto_front(cost=parameters, value=returns)           # indices, the cheapest first
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from decouple.checks import ANY_NUMBER, checked

__all__ = ["pareto_front"]


@checked(cost=ANY_NUMBER, value=ANY_NUMBER)
def pareto_front(cost: Sequence[float], value: Sequence[float]) -> list[int]:
    """The choices that no other one dominates, with at most the cost and at least the value, and one of them better.

    Args:
        cost: cost of each choice; lower is better.
        value: value of each choice; higher is better.

    Returns:
        Their indices, by rising cost, and so by rising value. Choices equal in both are all kept, in the order given.

    Raises:
        ValueError: cost and value of different lengths, or with a NaN.

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
