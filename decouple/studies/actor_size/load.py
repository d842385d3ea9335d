"""Load a run's agents from its checkpoint.

agents = load_agents("runs/one")                                # one model for each seed
model, scaling = trained_actor(load_checkpoint("runs/one/checkpoint.pt"), agent=2)
export_actor(model, "actor.onnx", observation_scaling=scaling)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from decouple.checks import checked
from decouple.deploy.plain_actor import ObservationScaling
from decouple.envs.control.running_normalization import CLIP, EPSILON
from decouple.envs.games.batched import GAMES
from decouple.runs.checkpoint import CheckpointError, reading_checkpoint
from decouple.runs.finished import run_checkpoint
from decouple.runs.rules import rule_text, rules_of
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, algorithm_of, make_model
from decouple.studies.actor_size.build import make_small_env, unit_actions
from decouple.studies.actor_size.settings import ControlSettings

__all__ = ["agents_in", "load_agents", "stored_settings", "trained_actor"]


@checked()
def load_agents(run_dir: str | Path) -> list[Any]:
    """The agents of a run, as they were at its last checkpoint: one model each, from `actor_qvalue` or `actor_value`.

    Raises:
        FileNotFoundError: no checkpoint in `run_dir`, which may be the checkpoint's own path.
        CheckpointError: it is damaged, or of another experiment; or its critics read actions in another unit (a run of
            0.1 with bounds other than +-1), whose actors `trained_actor` loads.
        ValueError: a run with `normalize_observation`, whose agents need their environment's statistics.
    """
    path, state = run_checkpoint(run_dir, "run_dir")
    with reading_checkpoint(path, "agents of train_agents"):
        settings = state["settings"]
        scaled, agents = settings["normalize_observation"], agents_in(state)
        here = rules_of(settings, lambda: unit_actions(settings))
    there, unit = settings.get("rules", {}).get("action_unit"), here.get("action_unit")
    if there != unit:
        rule = rule_text("action_unit", there, unit)
        raise CheckpointError(f"{path} holds critics of {rule}; trained_actor() gives its actors alone")
    if scaled:
        raise ValueError("run_dir must be of a run without normalize_observation: its agents read scaled observations")
    return agents


@checked()
def stored_settings(stored: Mapping[str, Any]) -> ControlSettings:
    """The settings of a run, from those that its checkpoint keeps."""
    settings = {name: value for name, value in stored.items() if name != "rules"}
    if "log_every" in settings:
        settings["evaluate_every"] = settings["log_every"]  # it is not stored, and must be a multiple of log_every
    return CONTROL_ALGORITHMS[settings["algorithm"]](**settings)


def agents_in(state: Mapping[str, Any]) -> list[Any]:
    """The agents of a checkpoint read by `load_checkpoint`; with `normalize_observation` they read scaled numbers."""
    config = stored_settings(state["settings"])
    with contextlib.closing(make_small_env(config)) as env:
        models = [make_model(config, env) for _ in config.all_seeds]
    agents = algorithm_of(config).make_agents(config, models)
    agents.load(state)
    return agents.models()


def trained_actor(state: Mapping[str, Any], agent: int) -> tuple[Any, ObservationScaling | None]:
    """One agent's model, from `actor_qvalue` or `actor_value`, and the scaling of the observations that it reads.

    Args:
        state: checkpoint of a run of `train_agents`, as `load_checkpoint` reads it.
        agent: index of the agent among the run's seeds.
    """
    return agents_in(state)[agent], _scaling(state, agent)


def _scaling(state: Mapping[str, Any], agent: int) -> ObservationScaling | None:
    settings = state["settings"]
    if settings["env"] in GAMES:
        return ObservationScaling(std=1 / torch.as_tensor(GAMES[settings["env"]].observation_scale))
    if not settings["normalize_observation"]:
        return None
    moments = state["env"]["_extra_state"]["statistics"]["observation"]
    return ObservationScaling(moments["mean"][agent], (moments["variance"][agent] + EPSILON).sqrt(), CLIP)
