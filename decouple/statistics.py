"""What results say together: the choices that are best for what they cost.

front = pareto_front(cost=parameters, value=returns)     # indices, the cheapest first
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["pareto_front"]


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
