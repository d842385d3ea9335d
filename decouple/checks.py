"""Checks of settings: what is wrong is said by name, with what is allowed and what came."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["check_setting", "positive_whole"]


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
