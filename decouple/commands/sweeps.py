"""Sweeps, Hydra's `-m` and W&B's agents: a folder for each job, and the results of jobs that are done."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from decouple.runs.files import read_yaml
from decouple.runs.finished import last_session_ended
from decouple.runs.loggers import OF_THE_RECORD
from decouple.runs.metrics import read_result
from decouple.runs.settings import defaults_of, flat
from decouple.studies.actor_size.algorithms import algorithm_of
from decouple.studies.actor_size.cell import run_result
from decouple.studies.actor_size.settings import ControlSettings

__all__ = ["given_settings", "in_sweep", "run_folder", "sweep_result"]

# Settings that no sweep varies: they enter no folder's name.
NOT_VARIED = (*OF_THE_RECORD, "video", "show_progress", "keep_replay", "restart")


def given_settings() -> dict[str, str]:
    """The command's settings as the user has set them, on the command line or through a sweep: name -> text."""
    overrides = [text.lstrip("+~").partition("=") for text in HydraConfig.get().overrides.task]
    return {name: text for name, _, text in overrides}


def in_sweep() -> bool:
    """Whether this is a job of a sweep, Hydra's `-m`."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_folder(config: Any) -> str:
    """`config.run_dir`; in a sweep, a folder in it, named by the command's settings that the path does not name.

    `seeds0_6/gamma=0.9,learning_rate=0.001`: no two jobs share a folder, and the same sweep started again finds each
    job's own. A W&B agent's commands are jobs too. A `run_dir` given on the command line stays as it is, and so does
    one that names every setting.
    """
    given = given_settings()
    if "run_dir" in given or not (in_sweep() or os.environ.get("WANDB_SWEEP_ID")):
        return config.run_dir
    template: Any = OmegaConf.to_container(config, resolve=False)
    said = {*re.findall(r"\$\{(\w+)\}", template["run_dir"]), *NOT_VARIED}
    name = ",".join(f"{key}={value}" for key, value in sorted(given.items()) if key not in said)
    plain = re.sub(r"[^\w.,=+-]", "_", name)[:150]
    if plain != name:  # a path as a value, or too many settings for a folder's name
        plain += "_" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{config.run_dir}/{plain}" if name else config.run_dir


def sweep_result(settings: Any) -> dict[str, float] | None:
    """The result of a sweep's job that was done with the very same settings; None where the job has to run.

    Raises CheckpointError where it was done under other rules.
    """
    if not in_sweep() or settings.restart or not last_session_ended(settings.run_dir):
        return None
    config, result = (Path(settings.run_dir) / name for name in ("config.yaml", "result.json"))
    control = isinstance(settings, ControlSettings)
    defaults = algorithm_of(settings).keys.defaults if control else defaults_of(settings)
    before = defaults | read_yaml(config) | {"restart": False}  # an older version did not store it
    if control:
        run_result(settings)
        if "torchrl" not in (before["update"], settings.update):
            before["update"] = settings.update  # how an update is computed changes no result
    if before != flat(settings):
        return None
    report = read_result(result)
    failed = report.get("final/return", 0.0) is None  # all agents have: the job says so again
    return None if failed or report["frames"] < flat(settings)["total_frames"] else report
