"""Games as kernels play them, and kernels as arguments of other kernels.

    playing = env.begin_steps()                  # None: Python has to make the next step
    ...                                           # a kernel of `spans` plays some steps, and writes into its arrays
    stepped, observation = env.end_steps(playing)    # what `plain_step` returns for the last of them

What an environment gives is a compiled function of its rules and where its numbers lie. So the kernels that act, keep
and learn know no game, and a game's rules know no algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

__all__ = ["PlayedByKernels", "Playing", "StepsAhead", "addresses", "entry_point", "first_class", "may_be_played"]


class Playing(NamedTuple):
    """S N games between two steps; kernels write into the arrays, which nothing else has.

    Attributes:
        play: compiled function that makes one step of the games from `first` to `last`, counted agent by agent:
            `play(places, first, last, action, observation, reward, terminated)`. It reads actions float32 (G, A), or
            int64 (G, 1), that are valid, and writes observations float32 (G, O), rewards float64 (G,) and bool (G,).
        places: int64, what `play` finds the games' own numbers by: addresses and sizes. held: the numbers' owners.
        limit: steps of an episode. scale: factor of the rewards that agents see.
        observation: float32 (S, N, O). total: float64 (S N,), the episodes' rewards so far. steps: int64 (S N,), their
            steps so far. terminated: bool (S N,).
        certain: steps of which only the last may end an episode.
    """

    play: Any
    places: np.ndarray
    held: Any
    limit: int
    scale: float
    observation: np.ndarray
    total: np.ndarray
    steps: np.ndarray
    terminated: np.ndarray
    certain: int

    def of(self, agents: slice) -> tuple[Any, ...]:
        """The games of some agents, as kernels of `spans` take them."""
        each = self.observation.shape[1]
        games = slice(agents.start * each, agents.stop * each)
        numbers = (of_games[games] for of_games in (self.total, self.steps, self.terminated))
        return self.places, self.play, self.limit, self.scale, self.observation[agents], *numbers


class PlayedByKernels(Protocol):
    """An environment (S, N) whose games kernels can play."""

    def begin_steps(self) -> Playing | None:
        """The games, for one or more steps; None where kernels cannot make the next step."""
        ...

    def end_steps(self, playing: Playing) -> tuple[dict[str, Tensor], Tensor]:
        """Take over the games after one or more steps, and begin those anew whose episodes have ended.

        A game has not been played beyond the end of its episode.

        Returns:
            What `plain_step` returns for the last step, without the reward; where no episode has ended, the observation
            alone.
        """
        ...


def may_be_played(env: Any) -> bool:
    """Whether an environment is a `PlayedByKernels`; a transformed one, which passes on its base's methods, is not."""
    return hasattr(type(env), "begin_steps")


class StepsAhead:
    """For how many steps to draw random numbers where an episode may end sooner, and have the rest given back.

    What is given back has to lie in the pool that it was drawn from, and takes time: so at most about twice as many as
    were used the last time.

    Args:
        first: a guess for the first time.
    """

    def __init__(self, first: int):
        self.expected = first

    def of(self, most: int, certain: int, ready: Callable[[], int]) -> int:
        """The number of steps, at most `most`.

        Args:
            most: steps that are wanted.
            certain: of them, how many will be made whatever happens.
            ready: for how many steps random numbers lie in the pool.
        """
        return most if most <= certain else max(certain, min(most, ready(), self.expected))

    def made(self, steps: int) -> None:
        """Say how many steps were made."""
        self.expected = 2 * steps + 1


def addresses(*arrays: np.ndarray) -> list[int]:
    """Where the numbers of contiguous arrays lie, for `Playing.places`.

    Raises:
        ValueError: an array that is not contiguous.
    """
    for each in arrays:
        if not each.flags.c_contiguous:
            raise ValueError(f"arrays must be contiguous; got strides {each.strides} for the shape {each.shape}")
    return [each.__array_interface__["data"][0] for each in arrays]


def first_class(kernel: Any, *arguments: Any) -> Any:
    """A kernel as an argument of other kernels, compiled for these arguments' types.

    They call it by its address: it is not compiled once more as a part of each of them. It must not raise.
    """
    from numba.core.types.function_type import CompileResultWAP

    return CompileResultWAP(_compiled(kernel, arguments))


def entry_point(kernel: Any, *arguments: Any) -> Any:
    """A kernel compiled for these arguments' types, to be called with arguments of these very types alone.

    A call does not find out the types, which for tuples takes longer than some steps of games.
    """
    return _compiled(kernel, arguments).entry_point


def _compiled(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    from numba import typeof

    types = tuple(typeof(each) for each in arguments)
    kernel.compile(types)
    return kernel.overloads[types]
