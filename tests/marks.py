"""Marks of more than one file of tests."""

import importlib.util
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch

from decouple.runs.performance import fast_bf16

needs_games = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")),
    reason="neither procgen nor envpool is installed",
)

# bfloat16 is emulated by other processors, which takes ten times as long.
slow_bf16 = [] if fast_bf16("cpu") else [pytest.mark.slow]

SKIPPED_WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ON_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, SKIPPED_WITHOUT_GPU])  # the GPU, among devices that a test is for


def slow_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values as parameters of a test, slow but for the quick ones; a tuple is a value of several names."""
    rows = ((value, value if isinstance(value, tuple) else (value,)) for value in values)
    return [pytest.param(*row, marks=[] if value in quick else [pytest.mark.slow]) for value, row in rows]


def needs_gpu(test: Any) -> Any:
    """Mark a test `gpu`, and skip it where torch sees none."""
    return pytest.mark.gpu(SKIPPED_WITHOUT_GPU(test))
