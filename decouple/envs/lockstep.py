"""Common parts of environments in lockstep: specs, checks of a step, partial resets, seeds and saved settings.

N games for each of S seeds are stepped together, batch size (S, N). Each environment keeps its games and running
episodes in its own way: as tensors, as NumPy arrays or outside of Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from decouple.checks import INT32_MAX, check_integer
from decouple.compiled.playing import Playing

__all__ = [
    "ENDED",
    "LockstepEnv",
    "check_settings",
    "check_shape",
    "episode_specs",
    "following_seeds",
    "reset_mask",
    "set_specs",
    "to_begin",
]

ENDED = "an episode that has ended, or not begun, must be reset before the next step"  # text of a RuntimeError


class LockstepEnv(EnvBase):
    """An environment (S, N) whose steps are dictionaries of tensors: by TorchRL's interface, or without TensorDicts.

    A TensorDict and its checks take some 400 microseconds a step, as long as a small network's update. ``plain_reset``
    and ``plain_step`` give the tensors that ``reset`` and ``step_and_maybe_reset`` give.
    """

    def _advance(self, actions: Any) -> dict[str, Tensor]:
        """One step of all games; ``actions.get("action")`` is the action."""
        raise NotImplementedError

    def _restart(self, asked: Any) -> dict[str, Tensor]:
        """Begin the episodes that ``to_begin`` names for this input of a reset, a mapping or None."""
        raise NotImplementedError

    def plain_reset(self) -> Tensor:
        """Reset as ``reset`` does; the observation (S, N, O)."""
        return self._restart(None)["observation"]

    def plain_step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Step all games, and begin the episodes of those that are done.

        Args:
            action: as under ``action`` of a TensorDict: (S, N, A), or (S, N) if discrete.

        Returns:
            What ``step`` writes under ``next``, and the observation to act on next (S, N, O): the same tensor where
            no episode has ended.
        """
        return self._went_on(self._advance({"action": action}))

    def _went_on(self, stepped: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """What ``plain_step`` returns, after the episodes that have ended began anew."""
        if not self._any_ended(stepped):
            return stepped, stepped["observation"]
        return stepped, self._restart({"_reset": stepped["done"]})["observation"]

    def begin_steps(self) -> Playing | None:
        """The games for kernels to play, as ``compiled.playing.PlayedByKernels``; None where Python has to."""
        return None

    def end_steps(self, playing: Playing) -> tuple[dict[str, Tensor], Tensor]:
        """Take over the games that kernels have played, as ``compiled.playing.PlayedByKernels``."""
        raise NotImplementedError

    def _any_ended(self, stepped: dict[str, Tensor]) -> bool:
        """Whether an episode ended with this step."""
        return bool(stepped["done"].any())

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        return TensorDict(self._advance(tensordict), self.batch_size, device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        return TensorDict(self._restart(tensordict), self.batch_size, device=self.device)


def set_specs(env: EnvBase, **observed: TensorSpec) -> None:
    """Set an environment's specs of observations, reward and done flags, for its batch size and device.

    Args:
        env: the environment, with batch size (...), as (S, N).
        observed: spec of each observation key, with the batch size. Those of ``reward`` float32 and ``done``,
            ``terminated``, ``truncated`` bool, (..., 1) each, are added here.
    """
    batch, device = env.batch_size, env.device
    column = torch.Size([*batch, 1])
    env.observation_spec = Composite(observed, shape=batch, device=device)
    env.reward_spec = Unbounded(column, dtype=torch.float32, device=device)
    end = Binary(shape=column, dtype=torch.bool, device=device)
    ends = {"done": end, "terminated": end.clone(), "truncated": end.clone()}
    env.done_spec = Composite(ends, shape=batch, device=device)


def episode_specs(env: EnvBase) -> dict[str, TensorSpec]:
    """Specs of a running episode's statistics: ``episode_reward`` float32, ``step_count`` int64, (..., 1) each."""
    column = torch.Size([*env.batch_size, 1])
    return {
        "episode_reward": Unbounded(column, dtype=torch.float32, device=env.device),
        "step_count": Unbounded(column, dtype=torch.int64, device=env.device),
    }


def check_shape(action: Tensor, shape: torch.Size, name: str = "action") -> None:
    """Refuse an action of another shape; ValueError."""
    if action.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}; got {tuple(action.shape)}")


def reset_mask(tensordict: Any) -> Tensor | None:
    """The mask of a partial reset, bool (..., 1); None for a full reset."""
    return None if tensordict is None else tensordict.get("_reset", None)


def to_begin(tensordict: Any, ended: Tensor, *, just_loaded: bool) -> Tensor:
    """The environments in which a reset begins an episode: those of the mask, or all without a mask.

    The first full reset after a state has been loaded begins only the episodes that have ended; the others go on.

    Args:
        tensordict: input of the reset, a mapping or None.
        ended: True where an episode has ended, or not begun: bool, any shape.
        just_loaded: True if a state has been loaded and no step or reset has followed.

    Returns:
        Bool, in the shape of ``ended``.
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
    """Refuse a state that was saved under other settings; the ValueError names the settings that differ.

    Args:
        here: settings of the environment. there: settings in the state.
        what: name of the saved thing, for the message: ``games``.
    """
    keys = [key for key in {**here, **there} if there.get(key) != here.get(key)]
    differ = [f"{key} {there.get(key)!r} there, {here.get(key)!r} here" for key in keys]
    if differ:
        raise ValueError(f"the saved {what} must have this environment's settings; got {', '.join(differ)}")
