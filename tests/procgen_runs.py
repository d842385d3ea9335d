"""Small runs of the Procgen experiment, for the tests of its command and of its functions."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from commands import composed

from decouple.studies.separation import experiment

TINY = (
    *("num_envs=4", "rollout_steps=16", "total_frames=128", "num_threads=1", "evaluate_every=100"),
    *("evaluate_episodes=1", "final_episodes=1", "unseen=null", "width=0.25"),
)
needs_procgen = pytest.mark.skipif(not importlib.util.find_spec("procgen"), reason="only procgen can save its games")


def compose(*overrides: str) -> Any:
    """Overrides of the command line -> the settings, as the command gets them."""
    return composed("procgen", *overrides)


def train(config: Any) -> dict[str, float]:
    return experiment.train(experiment.prepare(config))
