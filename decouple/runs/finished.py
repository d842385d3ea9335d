"""A run that is there: its checkpoint, given by the run's folder, and how far it was trained.

    path, state = run_checkpoint("runs/procgen/as_written/starpilot/late/seed0")
    frames_of(state)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decouple.checks import checked
from decouple.runs.checkpoint import load_checkpoint

__all__ = ["frames_of", "run_checkpoint"]


@checked()
def run_checkpoint(given: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a run, given by its folder or by its file: where it lies, and what it holds.

    Raises:
        FileNotFoundError: no checkpoint is there.
        CheckpointError: it is damaged.
    """
    path = Path(given)
    path = path / "checkpoint.pt" if path.is_dir() else path
    return path, load_checkpoint(path)


def frames_of(state: Mapping[str, Any]) -> int:
    """The frames that a run's checkpoint was written at; of several agents the frames of each."""
    if "frames" in state:
        return state["frames"]
    return state["iteration"] * state["settings"]["rollout_steps"] * state["settings"]["num_envs"]
