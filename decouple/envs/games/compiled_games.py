"""Pong and Pixelcopter by kernels: on a processor where Numba is installed, with torch's numbers to the bit.

    kernels = compiled_games(games, batch, scale, ...)       # None where there are no kernels
    running, shown = kernels.step(action, running)           # a step of all games, and of their episodes
    kernels.reset(which)
    observation = kernels.observe()                          # scaled, float32 (S, N, O)

As torch operations, a step of a few games takes some hundred microseconds: dozens of operations on tiny tensors. A
kernel takes a few microseconds for all. The state remains that of ``games``, in the same tensors.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decouple.compiled.kernel import compiling, unavailable
from decouple.compiled.playing import Playing, addresses, first_class
from decouple.envs.games import pixelcopter, pong
from decouple.envs.games.pixelcopter import PixelcopterGames
from decouple.envs.games.pong import PongGames
from decouple.envs.games.streams import Streams

__all__ = ["CompiledGames", "compiled_games"]


class CompiledGames:
    """Steps, resets and observations of B = S N games by kernels.

    Args:
        games: the games, on a processor. The kernels write into their tensors, which ``games`` may step too.
        batch: S and N.
        scale: factor of each observed number, float64 (O,).
        reward_scale: factor of the rewards that are shown.
        max_episode_steps: step limit of an episode.
        frame_skip: frames of a step: the action is repeated and the rewards are summed, until a game is over.
    """

    def __init__(
        self,
        games: PongGames | PixelcopterGames,
        batch: tuple[int, int],
        scale: np.ndarray,
        *,
        reward_scale: float,
        max_episode_steps: int,
        frame_skip: int,
    ) -> None:
        from decouple.compiled import games as kernels

        self.games, self.scale = games, scale
        self.settings = {"reward_scale": reward_scale, "max_episode_steps": max_episode_steps, "frame_skip": frame_skip}
        self.batch, self.column, self.seen = batch, (*batch, 1), (*batch, len(scale))
        self._may_step, self._count = kernels.may_step, kernels.count_step
        state = {key: value.numpy() for key, value in games.state.items()}  # views of the tensors
        streams = games.streams.state.numpy().view(np.uint64)
        if isinstance(games, PongGames):
            facts, pushes = _facts(pong, kernels.PONG_FACTS), np.array(pong.PUSHES)
            numbers = state["numbers"].T  # (9, B)
            self._step = kernels.pong_step, (frame_skip, facts, pushes, numbers, streams)
            self._reset = kernels.pong_reset, (facts, numbers, streams)
            self._observe = kernels.pong_observe, (numbers, scale)
            play, sizes, arrays = kernels.pong_play, (), (facts, pushes, numbers, streams, scale)
        else:
            facts, pushes = _facts(pixelcopter, kernels.PIXELCOPTER_FACTS), np.array(pixelcopter.PUSHES)
            timetable, leaves, new_x = (each.numpy() for each in games.tables())
            y, momentum, frame, block_x, block_y, passed_x, passed_y, column_y = state.values()
            copter, block, passed = (y, momentum, frame), (block_x, block_y), (passed_x, passed_y)
            tables = (frame_skip, facts, pushes, timetable, leaves, new_x)
            self._step = kernels.pixelcopter_step, (*tables, *copter, *block, *passed, column_y, streams)
            self._reset = kernels.pixelcopter_reset, (facts, new_x, *copter, *block, passed_x, column_y, streams)
            self._observe = kernels.pixelcopter_observe, (facts, timetable, *copter, *block, column_y, scale)
            play, sizes = kernels.pixelcopter_play, (timetable.shape[1], column_y.shape[1], new_x.shape[1])
            arrays = (facts, pushes, timetable, leaves, new_x, *copter, *block, *passed, column_y, streams, scale)
        self._play = play, np.array([len(streams), frame_skip, *sizes, *addresses(*arrays)]), arrays

    def __reduce__(self) -> Any:
        """A copy has views of its own games' tensors."""
        make = functools.partial(type(self), **self.settings)
        return make, (self.games, self.batch, self.scale)

    def may_step(self, action: np.ndarray, running: dict[str, Tensor]) -> bool:
        """Whether all actions, int64 (B,), are those of the game, and none of the running episodes has ended."""
        ended = running["terminated"].numpy(), running["truncated"].numpy()
        return self._may_step(action, self.games.num_actions, *ended)

    def step(self, action: np.ndarray, running: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Play ``frame_skip`` frames of every game. An action that there is not counts as the last one.

        Args:
            action: int64 (B,).
            running: ``episode_reward`` float64, ``step_count`` int64, ``terminated`` and ``truncated`` bool, (B,) each:
                the episodes before the step. They are kept.

        Returns:
            The same after the step, in new tensors; and what the environment shows of it, (S, N, ...).
        """
        games = len(action)
        rewards, total, steps = np.empty(games), np.empty(games), np.empty(games, dtype=np.int64)
        terminated, truncated, done = np.empty((3, games), dtype=np.bool_)
        kernel, arguments = self._step
        kernel(action, *arguments, rewards, terminated)
        shown = np.empty((2, *self.column), dtype=np.float32)
        self._count(
            rewards, terminated, self.settings["reward_scale"], self.settings["max_episode_steps"],
            running["episode_reward"].numpy(), running["step_count"].numpy(),
            total, steps, truncated, shown.reshape(2, games), done,
        )  # fmt: skip
        tensor, column = torch.from_numpy, self.column
        return {
            "episode_reward": tensor(total),
            "step_count": tensor(steps),
            "terminated": tensor(terminated),
            "truncated": tensor(truncated),
        }, {
            "observation": self.observe(),
            "episode_reward": tensor(shown[1]),
            "step_count": tensor(steps.reshape(column)),
            "done": tensor(done.reshape(column)),
            "terminated": tensor(terminated.reshape(column)),
            "truncated": tensor(truncated.reshape(column)),
            "reward": tensor(shown[0]),
        }

    def begin_steps(self, observation: Tensor, running: dict[str, Tensor]) -> Playing:
        """The games for kernels, which write into their state; ``running`` as for ``step``, which is copied."""
        kernel, places, arrays = self._play
        return Playing(
            _first_class(kernel),
            places,
            arrays,
            self.settings["max_episode_steps"],
            self.settings["reward_scale"],
            observation.numpy().copy(),
            running["episode_reward"].numpy().copy(),
            running["step_count"].numpy().copy(),
            running["terminated"].numpy().copy(),
            certain=1,
        )

    def reset(self, which: Tensor) -> None:
        """Begin new games where ``which`` is True, bool (B,)."""
        kernel, arguments = self._reset
        kernel(which.numpy(), *arguments)

    def observe(self) -> Tensor:
        """The scaled observations, float32 (S, N, O), in new memory."""
        kernel, arguments = self._observe
        shown = np.empty(self.seen, dtype=np.float32)
        kernel(*arguments, shown.reshape(-1, self.seen[2]))
        return torch.from_numpy(shown)


def compiled_games(games: Any, batch: tuple[int, int], scale: Tensor, **settings: Any) -> CompiledGames | None:
    """The games' kernels, compiled; None where there are none: on a GPU, without Numba, and for other games.

    Args:
        games, batch, settings: as for ``CompiledGames``.
        scale: factor of each observed number, float64 (O,).
    """
    if not isinstance(games, PongGames | PixelcopterGames) or not games.streams.state.is_cpu or unavailable():
        return None
    _compile(type(games))
    return CompiledGames(games, batch, scale.numpy(), **settings)


@functools.cache
def _first_class(kernel: Any) -> Any:
    """A game's ``play`` for other kernels, whose types are the same for all games."""
    seen, reward, ended = np.zeros((1, 1), dtype=np.float32), np.zeros(1), np.zeros(1, dtype=np.bool_)
    with compiling(kernel.__name__):
        places, action = np.zeros(1, dtype=np.int64), np.zeros((1, 1), dtype=np.int64)
        return first_class(kernel, places, 0, 1, action, seen, reward, ended)


@functools.cache
def _compile(kind: type[PongGames] | type[PixelcopterGames]) -> None:
    """Compile a game's kernels once in a process, by playing one."""
    games, scale = kind(Streams(torch.zeros(1, dtype=torch.int64))), np.array(kind.observation_scale)
    running = {"episode_reward": torch.zeros(1, dtype=torch.float64), "step_count": torch.zeros(1, dtype=torch.int64)}
    running |= {key: torch.zeros(1, dtype=torch.bool) for key in ("terminated", "truncated")}
    with compiling(kind.__name__):
        kernels = CompiledGames(games, (1, 1), scale, reward_scale=1.0, max_episode_steps=1, frame_skip=1)
        kernels.reset(torch.ones(1, dtype=torch.bool))
        action = np.zeros(1, dtype=np.int64)
        if kernels.may_step(action, running):
            kernels.step(action, running)


def _facts(rules: Any, names: tuple[str, ...]) -> np.ndarray:
    """The numbers of a file of rules, in the order of a kernel; NAME_LOW and NAME_HIGH are a pair's two numbers."""
    values = dict(vars(rules))
    for name, value in vars(rules).items():
        if isinstance(value, tuple) and len(value) == 2:
            values[f"{name}_LOW"], values[f"{name}_HIGH"] = value
    return np.array([values[name] for name in names], dtype=np.float64)
