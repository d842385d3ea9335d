"""An actor as `train_agents` left it: its networks, and what its environment did to observations.

model, scaling = trained_actor(load_checkpoint("runs/one/checkpoint.pt"), agent=2)
export_actor(model, "actor.onnx", observation_scaling=scaling)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from decouple.deploy.plain_actor import ObservationScaling
from decouple.envs.control.running_normalization import CLIP, EPSILON
from decouple.envs.games.batched import GAMES
from decouple.studies.actor_size.cell import agents_in

__all__ = ["trained_actor"]


def trained_actor(state: Mapping[str, Any], agent: int) -> tuple[Any, ObservationScaling | None]:
    """One agent's model, from `actor_qvalue` or `actor_value`, and the scaling of the observations that it reads.

    Args:
        state: what `load_checkpoint` gives of a run of `train_agents`.
        agent: its place among the run's seeds.
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
