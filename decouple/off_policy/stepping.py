"""The games of a training loop, step by step, with or without TensorDicts.

games = games_of(env)                       # env (S, N)
games.begin()
stepped = games.step(action)                # (S, N, A), or (S, N) if discrete
games.observation                           # (S, N, O), to act on next
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import checked

__all__ = ["Games", "games_of"]


class Games(Protocol):
    """Games of S agents that a training loop steps.

    Attributes:
        observation: what to act on next, (S, N, O).
    """

    observation: Tensor

    def begin(self) -> None:
        """Reset; after a state has been loaded, its observations are restored."""
        ...

    def step(self, action: Tensor) -> dict[str, Tensor]:
        """Step all games and begin those that are done; returns what the environment writes under `next`."""
        ...


class PlainGames:
    """Games of an environment with `plain_reset` and `plain_step`, as this package's own have them."""

    def __init__(self, env: EnvBase):
        self.env = env

    def begin(self) -> None:
        self.observation: Tensor = self.env.plain_reset()

    def step(self, action: Tensor) -> dict[str, Tensor]:
        stepped, self.observation = self.env.plain_step(action)
        return stepped


class TensorDictGames:
    """Games of any environment of TorchRL's."""

    def __init__(self, env: EnvBase):
        self.env = env

    def begin(self) -> None:
        self.now = self.env.reset()
        self.observation: Tensor = self.now["observation"]

    def step(self, action: Tensor) -> dict[str, Tensor]:
        self.now["action"] = action
        step, self.now = self.env.step_and_maybe_reset(self.now)
        self.observation = self.now["observation"]
        return step["next"]


@checked()
def games_of(env: EnvBase) -> Games:
    """The environment's games, without TensorDicts where it can step so."""
    plain = hasattr(type(env), "plain_step")  # not a transformed environment's, which passes on its base's
    return PlainGames(env) if plain else TensorDictGames(env)
