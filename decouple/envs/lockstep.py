"""What environments in lockstep have in common: specs, checks of a step, partial resets, seeds and saved settings.

N games for each of S seeds are stepped together, batch size (S, N). How the games and the running episodes are kept,
as tensors, as NumPy arrays or outside of Python, is each environment's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from decouple.checks import INT32_MAX, check_integer

__all__ = [
    "ENDED",
    "check_settings",
    "check_shape",
    "episode_specs",
    "following_seeds",
    "reset_mask",
    "set_specs",
    "to_begin",
]

ENDED = "an episode that has ended, or not begun, must be reset before the next step"  # said by a RuntimeError


def set_specs(env: EnvBase, **observed: TensorSpec) -> None:
    """Give an environment its specs of observations, reward and ends, over its batch and on its device.

    Args:
        env: its batch size is (...), as (S, N).
        observed: spec of each key of an observation, over the batch. ``reward`` float32 and ``done``, ``terminated``,
            ``truncated`` bool, (..., 1) each, come from here.
    """
    batch, device = env.batch_size, env.device
    column = torch.Size([*batch, 1])
    env.observation_spec = Composite(observed, shape=batch, device=device)
    env.reward_spec = Unbounded(column, dtype=torch.float32, device=device)
    end = Binary(shape=column, dtype=torch.bool, device=device)
    ends = {"done": end, "terminated": end.clone(), "truncated": end.clone()}
    env.done_spec = Composite(ends, shape=batch, device=device)


def episode_specs(env: EnvBase) -> dict[str, TensorSpec]:
    """Specs of what is known of a running episode: ``episode_reward`` float32, ``step_count`` int64, (..., 1) each."""
    column = torch.Size([*env.batch_size, 1])
    return {
        "episode_reward": Unbounded(column, dtype=torch.float32, device=env.device),
        "step_count": Unbounded(column, dtype=torch.int64, device=env.device),
    }


def check_shape(action: Tensor, shape: torch.Size, name: str = "action") -> None:
    """Refuse an action of another shape; ValueError."""
    if action.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}; got {tuple(action.shape)}")


def reset_mask(tensordict: TensorDictBase | None) -> Tensor | None:
    """The mask of a partial reset, bool (..., 1); None: all are asked for."""
    return None if tensordict is None else tensordict.get("_reset", None)


def to_begin(tensordict: TensorDictBase | None, ended: Tensor, *, just_loaded: bool) -> Tensor:
    """Where a reset begins an episode: as the mask says, and everywhere without one.

    The first full reset after a state has been loaded begins what has ended only: the others go on.

    Args:
        tensordict: of the reset.
        ended: where an episode has ended, or not begun: bool, of any shape.
        just_loaded: whether a state has been loaded since the last step and reset.

    Returns:
        bool, of the shape of ``ended``.
    """
    mask = reset_mask(tensordict)
    if mask is not None:
        return mask.reshape(ended.shape)
    return ended if just_loaded else torch.ones_like(ended)


def following_seeds(seed: int | None, number: int) -> list[int]:
    """The seeds ``seed``, ``seed`` + 1, ...: ``number`` of them. ValueError where one lies outside [0, 2^31 - 1]."""
    first = check_integer("seed", seed, 0, INT32_MAX - number + 1)
    return list(range(first, first + number))


def check_settings(here: Mapping[str, Any], there: Mapping[str, Any], what: str) -> None:
    """Refuse a state that was saved under other settings; ValueError, naming what differs.

    Args:
        here: the environment's settings. there: those of the state.
        what: was saved, for the message: ``games``.
    """
    keys = [key for key in {**here, **there} if there.get(key) != here.get(key)]
    differ = [f"{key} {there.get(key)!r} there, {here.get(key)!r} here" for key in keys]
    if differ:
        raise ValueError(f"the saved {what} must have this environment's settings; got {', '.join(differ)}")
