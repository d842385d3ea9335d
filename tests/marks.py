"""Marks of more than one file of tests."""

import importlib.util
from typing import Any

import pytest
import torch

needs_games = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")),
    reason="neither procgen nor envpool is installed",
)

SKIPPED_WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ON_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, SKIPPED_WITHOUT_GPU])  # the GPU, among devices that a test is for


def needs_gpu(test: Any) -> Any:
    """Mark a test `gpu`, and skip it where torch sees none."""
    return pytest.mark.gpu(SKIPPED_WITHOUT_GPU(test))
