"""The checkpoint of a stored run, the frames that it was trained for, and whether its result is the one asked for.

    path, state = run_checkpoint("runs/procgen/as_written/starpilot/late/seed0")
    frames_of(state)
    last_session_ended("runs/procgen/as_written/starpilot/late/seed0")
    evaluated_over("runs/procgen/as_written/starpilot/late/seed0", 100)

A run is given by its folder, or by the path of its checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decouple.checks import at_least, checked
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint
from decouple.runs.files import read_yaml

__all__ = ["evaluated_over", "frames_of", "last_session_ended", "run_checkpoint"]


@checked()
def run_checkpoint(given: str | os.PathLike[str], setting: str = "checkpoint") -> tuple[Path, dict[str, Any]]:
    """Path and state of a run's checkpoint, given the run's folder or the checkpoint's own path.

    Args:
        given: the folder, or the path.
        setting: name of the setting that it was given as, for the error.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    path = Path(given)
    path = path / "checkpoint.pt" if path.is_dir() else path
    if not checkpoint_exists(path):
        there = f"a folder without {path.name}" if path.parent == Path(given) else "which is not there"
        raise FileNotFoundError(f"{setting} must be a run's folder, or its checkpoint; got {str(given)!r}, {there}")
    return path, load_checkpoint(path)


def frames_of(state: Mapping[str, Any]) -> int:
    """The environment frames at which a checkpoint was written; with several agents, the frames of each."""
    if "frames" in state:
        return state["frames"]
    return state["iteration"] * state["settings"]["rollout_steps"] * state["settings"]["num_envs"]


@checked()
def last_session_ended(run_dir: str | os.PathLike[str]) -> bool:
    """Whether a run's result.json is of its last session.

    A session writes its config.yaml first and its result last: a result that is older is of a session before it.
    """
    config, result = (Path(run_dir) / name for name in ("config.yaml", "result.json"))
    return config.exists() and result.exists() and result.stat().st_mtime_ns >= config.stat().st_mtime_ns


@checked(episodes=at_least(1))
def evaluated_over(run_dir: str | os.PathLike[str], episodes: int) -> bool:
    """Whether a run's result.json is of its last session, and that was told so many `final_episodes`.

    Raises:
        ValueError: a config.yaml that is damaged; the message names it.
    """
    return last_session_ended(run_dir) and read_yaml(Path(run_dir) / "config.yaml").get("final_episodes") == episodes
