"""Checks of settings: what is wrong is said by name, with what is allowed and what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["INT32_MAX", "check_integer", "check_seeds", "check_setting", "positive_whole"]

INT32_MAX = 2**31 - 1  # the largest seed, and number of anything


def positive_whole(value: object) -> bool:
    """Whether it is an integer of at least 1, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_setting(name: str, value: object, allowed: Callable[..., bool], says: str) -> None:
    """Refuse a setting by name: ValueError with what is allowed, in words, and what came."""
    try:
        fits = allowed(value)
    except TypeError:  # of a type that cannot be compared
        fits = False
    if not fits:
        raise ValueError(f"{name} must be {says}; got {value!r}")


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """The value as an int; ValueError by name where it is no integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}]; got {value!r}")
    return int(value)


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as a list; ValueError where there are none, or one is no integer in [0, 2**31)."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(f"seeds must be a non-empty sequence of integers; got {seeds!r}")
    return [check_integer(f"seeds[{index}]", seed, 0, INT32_MAX) for index, seed in enumerate(seeds)]
