"""Marks of more than one file of tests."""

import importlib.util

import pytest

needs_games = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")),
    reason="neither procgen nor envpool is installed",
)
