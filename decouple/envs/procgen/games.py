"""The 16 Procgen games (Cobbe et al., 2020, https://arxiv.org/abs/1912.01588) as a batched TorchRL environment.

``procgen_env("coinrun", 64, num_levels=200)`` is the environment for training, ``ProcgenGamesEnv`` the bare games. Two
packages have the games: ``procgen`` (from OpenAI, or the re-upload procgen-mirror), and ``envpool`` >= 1.2.5. For the
same seed and actions both have the same rewards, ends and levels; frames differ by a pixel or two, so that a run keeps
to one package.

Procgen starts the next episode by itself: the observation that comes with ``done`` is the next episode's first frame,
and the true last frame is never shown. So every end is ``terminated``, time-outs too, and no value target bootstraps
from an unseen frame (as in Baselines, CleanRL and DAAC). ``truncated`` additionally marks the time-outs.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Unbounded
from torchrl.envs import Compose, EnvBase, RewardSum, StepCounter, Transform, TransformedEnv

from decouple.checks import INT32_MAX, PROBABILITY, check_integer, check_setting, check_switches, checked
from decouple.envs import lockstep
from decouple.envs.procgen.backends import Frames, ProcgenGames, import_backend, start_games
from decouple.envs.procgen.options import TIME_LIMIT, level_options
from decouple.envs.procgen.reward_scaling import RunningRewardScaling

__all__ = ["EpisodesInState", "ProcgenGamesEnv", "procgen_env"]

NUM_ACTIONS = 15
INTEGERS = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def _check_actions(action: Tensor, number: int) -> None:
    if action.dtype not in INTEGERS:
        raise ValueError(f"action must be integers in [0, {NUM_ACTIONS}); got {action.dtype}")
    lockstep.check_shape(action, torch.Size([number]))


def _group_rows(num_envs: int, groups: int) -> list[slice]:
    """The rows of each group of games; all groups have the same size."""
    check_integer("groups", groups, 1, 2)
    if num_envs % groups:
        raise ValueError(f"num_envs must be even with groups=2; got {num_envs}")
    size = num_envs // groups
    return [slice(first, first + size) for first in range(0, num_envs, size)]


class ProcgenGamesEnv(EnvBase):
    """``num_envs`` copies of one Procgen game in lockstep; batch size (N,) with N = num_envs.

    Keys: ``action`` int64 (N,) in [0, 15); ``observation`` uint8 (N, 3, 64, 64), never overwritten by a later step;
    ``level_seed`` int64 (N, 1), the level of that frame; ``prev_level_complete`` bool (N, 1), True with ``done`` if the
    ended episode was won; ``reward`` float32 (N, 1), raw; ``done``, ``terminated``, ``truncated`` bool (N, 1).

    ``terminated`` is ``done``: see the module's docstring. ``truncated`` marks ends at the game's step limit
    (``TIME_LIMIT[game]``); an episode that is won or lost on exactly that step counts as truncated too.

    ``reset`` does not step a game that shows a first frame (all games at the start, and each game after its ``done``),
    and returns that frame. A game in the middle of an episode abandons it and starts the next one; the others are
    unchanged. One exception: the first full ``reset`` after ``load_state_dict`` returns the restored frames.

    ``state_dict`` carries the games: a fresh environment that loads it continues bit for bit. envpool cannot save its
    games (``resumable`` is False): there loading restores nothing, and a fresh environment begins new episodes.

    Args:
        game: one of ``GAMES``.
        num_envs: N >= 1, number of games.
        num_levels: number of levels: they are drawn from [start_level, start_level + num_levels). 0: all 2^31 - 1.
        start_level: first level; must be 0 with num_levels 0, where the games would ignore it.
        distribution_mode: easy or hard; for some games extreme, memory or exploration (``distribution_modes(game)``).
            Exploration is one hard level of the authors' choice, so it takes no num_levels and no start_level.
        seed: seed of the order of levels, in [0, 2^31 - 1]. ``set_seed`` restarts the games.
        num_threads: threads that step the games, >= 1; default: the number of cores, at most 4 for each group.
        groups: 1, or 2 for two halves that can step independently (``begin``, ``wait``); N must then be even. Each game
            plays the same levels either way.
        backend: "procgen", "envpool", or None for the first of the two that is installed.
        device: device of the tensors; the games run on the CPU.
        use_backgrounds, center_agent, restrict_themes, use_monochrome_assets, paint_vel_info: the games' own options,
            https://github.com/openai/procgen.
        use_sequential_levels: continue a won level, without a done, with the level 997 seeds further, outside of
            num_levels; needs the procgen backend.

    Raises:
        ValueError: an argument outside its range, or an action that is not an integer in [0, 15) or has another shape.
        RuntimeError: use after ``close``, or in a forked process.
        ImportError: the backend is not installed, or another module is called ``procgen``.

    Attributes:
        groups: slices, the rows of each group.
        backend: "procgen" or "envpool". backend_version: e.g. "procgen-mirror 0.10.7".
        resumable: True if ``state_dict`` can restore the games.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        num_levels: int = 0,
        start_level: int = 0,
        distribution_mode: str = "easy",
        seed: int = 0,
        num_threads: int | None = None,
        groups: int = 1,
        backend: str | None = None,
        device: torch.device | str | None = None,
        use_backgrounds: bool = True,
        center_agent: bool = True,
        use_sequential_levels: bool = False,
        restrict_themes: bool = False,
        use_monochrome_assets: bool = False,
        paint_vel_info: bool = False,
    ) -> None:
        levels = level_options(game, distribution_mode, num_levels, start_level)
        switches = {
            "use_backgrounds": use_backgrounds,
            "center_agent": center_agent,
            "use_sequential_levels": use_sequential_levels,
            "restrict_themes": restrict_themes,
            "use_monochrome_assets": use_monochrome_assets,
            "paint_vel_info": paint_vel_info,
        }
        check_switches(**switches)
        check_setting("device", device, lambda d: d is None or torch.device(d), "None or a device that torch knows")
        self._seed = check_integer("seed", seed, 0, INT32_MAX)
        num_envs = check_integer("num_envs", num_envs, 1, INT32_MAX)
        self.groups = _group_rows(num_envs, groups)
        threads = min(os.cpu_count() or 1, 4 * groups) if num_threads is None else num_threads
        self._num_threads = check_integer("num_threads", threads, 1, 1024)
        self.backend, self.backend_version, self._package = import_backend(backend)
        if self.backend == "envpool" and use_sequential_levels:
            raise ValueError("use_sequential_levels must be False with backend envpool; got True")
        self.game, self.resumable = game, self.backend == "procgen"
        self._options: dict[str, Any] = levels | switches
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self._make_specs()
        self._start()
        self.is_closed = False  # TorchRL's default is True

    def _make_specs(self) -> None:
        batch, device = self.batch_size, self.device
        column = torch.Size([*batch, 1])
        lockstep.set_specs(
            self,
            observation=Bounded(0, 255, torch.Size([*batch, 3, 64, 64]), dtype=torch.uint8, device=device),
            level_seed=Unbounded(column, dtype=torch.int64, device=device),
            prev_level_complete=Binary(shape=column, dtype=torch.bool, device=device),
        )
        self.action_spec = Categorical(NUM_ACTIONS, shape=batch, dtype=torch.int64, device=device)

    def _start(self) -> None:
        """Build the games, which show the first frames of their first episodes."""
        games = self.batch_size[0]
        self._games = self._new_games()
        self._elapsed = np.zeros(games, dtype=np.int64)  # steps of the episode so far; 0: the game shows a first frame
        self._just_loaded = False
        self._coming: Frames | None = None  # frames of a step for which some groups have been waited for
        self._now = self._gather()

    def _new_games(self) -> list[Any]:
        sizes = [rows.stop - rows.start for rows in self.groups]
        return start_games(self.backend, self._package, self.game, sizes, self._seed, self._num_threads, self._options)

    def _gather(self) -> Frames:
        """Wait for all games; return their frames in arrays that are never written to again."""
        for group in range(len(self.groups)):
            self._take(group, self._games[group].frames())
        frames, self._coming = self._coming, None
        assert frames is not None
        return frames

    def _take(self, group: int, part: Frames) -> None:
        """Copy a group's frames, by NumPy, because torch's threads would compete with those of the games."""
        if self._coming is None:  # empty_like keeps the memory layout, so that pixels are copied in order
            games = self.batch_size[0]
            self._coming = Frames(*(np.empty_like(array, shape=(games, *array.shape[1:])) for array in part))
        for whole, array in zip(self._coming, part, strict=True):
            whole[self.groups[group]] = array

    def _tensor(self, array: np.ndarray, dtype: type[np.generic], *, copy: bool = True) -> Tensor:
        tensor = torch.from_numpy(array.astype(dtype, copy=copy))
        return tensor if self.device is None else tensor.to(self.device)

    def _column(self, array: np.ndarray, dtype: type[np.generic]) -> Tensor:
        return self._tensor(array, dtype).unsqueeze(-1)  # (N, 1)

    def _shown(self, frames: Frames, level_complete: np.ndarray, *, copy: bool) -> dict[str, Tensor]:
        return {
            "observation": self._tensor(frames.observation, np.uint8, copy=copy),  # (N, 3, 64, 64)
            "level_seed": self._column(frames.level_seed, np.int64),
            "prev_level_complete": self._column(level_complete, np.bool_),
        }

    def begin(self, group: int, action: Tensor) -> None:
        """Start a step of a group with its actions, (N / groups,); ValueError unless integers in [0, 15)."""
        rows = self.groups[group]
        _check_actions(action, rows.stop - rows.start)
        chosen = action.cpu().numpy()
        if chosen.min() < 0 or chosen.max() >= NUM_ACTIONS:
            raise ValueError(f"action must lie in [0, {NUM_ACTIONS}); got {chosen.min()} to {chosen.max()}")
        self._games[group].begin(chosen.astype(np.int32))

    def wait(self, group: int) -> Tensor:
        """Wait for the step that a group has begun; return its frames (N / groups, 3, 64, 64).

        After all groups have been waited for, the next ``step`` of the environment returns these frames and steps no
        game. So a group can begin its next step before the environment has processed this one.
        """
        self._take(group, self._games[group].frames())
        assert self._coming is not None
        return torch.from_numpy(self._coming.observation[self.groups[group]])

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        if self._coming is None:
            action = tensordict.get("action")
            _check_actions(action, self.groups[-1].stop)
            for group, rows in enumerate(self.groups):
                self.begin(group, action[rows])
            frames = self._gather()
        else:
            frames, self._coming = self._coming, None
        self._now = frames
        done, complete = frames.first, frames.level_complete.astype(bool)
        self._elapsed += 1
        timed_out = done & (self._elapsed >= TIME_LIMIT[self.game])
        self._elapsed[done | complete] = 0  # with sequential levels, a won level restarts the count without a done
        self._just_loaded = False
        shown = self._shown(frames, complete, copy=False)
        shown["reward"] = self._column(frames.reward, np.float32)
        ends = {"done": done, "terminated": done, "truncated": timed_out}
        shown |= {key: self._column(value, np.bool_) for key, value in ends.items()}
        return TensorDict(shown, self.batch_size, device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        self._games[0].games  # noqa: B018  (RuntimeError if they are closed, or belong to another process)
        mask = lockstep.reset_mask(tensordict)
        abandoned = self._elapsed > 0
        if mask is not None:
            abandoned &= mask.reshape(-1).cpu().numpy()
        elif self._just_loaded:
            abandoned = np.zeros_like(abandoned)
        self._just_loaded = False
        if abandoned.any():
            for rows, games in zip(self.groups, self._games, strict=True):
                if abandoned[rows].any():
                    games.restart(abandoned[rows])
            self._elapsed[abandoned] = 0
            self._now = self._gather()
        shown = self._shown(self._now, np.zeros_like(abandoned), copy=True)
        ends = {key: torch.zeros_like(shown["prev_level_complete"]) for key in ("done", "terminated", "truncated")}
        return TensorDict(shown | ends, self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Restart the games with this seed."""
        self._seed = check_integer("seed", seed, 0, INT32_MAX)
        self._close_games()
        self._start()

    def _close_games(self) -> None:
        for games in self._games:
            games.close()

    def _settings(self) -> dict[str, Any]:
        identity = {"game": self.game, "num_envs": self.batch_size[0], "backend": self.backend_version}
        return identity | self._options

    def get_extra_state(self) -> dict[str, Any]:
        """The games as uint8 tensors (None with envpool), their step counts, and the environment's settings."""
        games = None
        if self.resumable:
            states = [state for group in self._games if isinstance(group, ProcgenGames) for state in group.state()]
            games = [torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states]
        return {"settings": self._settings(), "games": games, "elapsed": torch.from_numpy(self._elapsed.copy())}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the games; ValueError, naming the settings that differ, if saved under others."""
        lockstep.check_settings(self._settings(), state["settings"], "games")
        if self.resumable:
            states = [game.numpy().tobytes() for game in state["games"]]
            for rows, group in zip(self.groups, self._games, strict=True):
                if isinstance(group, ProcgenGames):
                    group.load_state(states[rows])
            self._now = self._gather()
            self._elapsed = state["elapsed"].numpy().copy()
            self._just_loaded = True

    def __getstate__(self) -> dict[str, Any]:
        """Copy or pickle with the games' states in place of the games; only the procgen backend has states."""
        state = super().__getstate__()  # a copy
        del state["_package"]
        if self.resumable:  # else the games raise an error
            state["_games"] = [group.state() for group in self._games]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _, _, self._package = import_backend(self.backend)
        self._games = self._new_games()
        for group, saved in zip(self._games, state["_games"], strict=True):
            group.load_state(saved)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Free the games and their threads."""
        if not self.is_closed:
            self._close_games()
        super().close(raise_if_closed=raise_if_closed)


ProcgenEnv = ProcgenGamesEnv  # name in decouple 0.1; TorchRL has a class of that name too


class EpisodesInState(Transform):
    """Puts the games, and the return and length of unfinished episodes, into the environment's ``state_dict``.

    TorchRL's ``TransformedEnv.state_dict`` holds its transforms only, so one of them has to carry the games.
    The first full ``reset`` after loading returns ``episode_reward`` and ``step_count`` with the restored frames, so
    that an episode interrupted by a checkpoint reports its whole return. A reset of some games leaves both unchanged in
    the others.
    """

    RUNNING = ("episode_reward", "step_count")

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, Tensor] = {}
        self._just_loaded = False

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        done = next_tensordict.get("done")
        self._running = {key: next_tensordict.get(key).masked_fill(done, 0) for key in self.RUNNING}
        self._just_loaded = False
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        begun = tensordict.get("_reset", None)  # None: full reset
        shown = {key: tensordict_reset.get(key) for key in self.RUNNING}
        if begun is not None:  # RewardSum and StepCounter may return 0 for the other games, which TorchRL ignores
            goes_on, before = ~begun.reshape(-1, 1), self._running or shown
            self._running = {key: torch.where(goes_on, before[key], value) for key, value in shown.items()}
        elif not self._just_loaded:
            self._running = shown
        self._just_loaded = False
        return tensordict_reset.update(self._running)

    def get_extra_state(self) -> dict[str, Any]:
        """The games' state (``ProcgenGamesEnv.get_extra_state``), and the running return and length, (N, 1) each."""
        running = {key: value.clone() for key, value in self._running.items()}
        return {"games": self._game_env().get_extra_state(), "running": running}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore all of it; ValueError if the games were saved under other settings."""
        env = self._game_env()
        env.set_extra_state(state["games"])
        if env.resumable:
            self._running = {key: value.to(env.device or "cpu") for key, value in state["running"].items()}
            self._just_loaded = bool(self._running)  # empty before the first step

    def _game_env(self) -> ProcgenGamesEnv:
        container = self.container
        env = container.base_env if isinstance(container, TransformedEnv) else None
        if not isinstance(env, ProcgenGamesEnv):
            raise RuntimeError(
                f"EpisodesInState needs a TransformedEnv around ProcgenGamesEnv; got {type(env).__name__}"
            )
        return env


@checked(gamma=PROBABILITY)
def procgen_env(
    game: str, num_envs: int, *, scale_rewards: bool = True, gamma: float = 0.99, **options: Any
) -> TransformedEnv:
    """Make the games as Procgen studies train on them: with raw episode statistics and scaled rewards.

    Adds two keys to those of ``ProcgenGamesEnv``: ``episode_reward`` float32 (N, 1), the raw return so far, and
    ``step_count`` int64 (N, 1). With a done both belong to the episode that ended. ``state_dict`` carries the games,
    these two, and the scaling's statistics. To resume: build, ``load_state_dict``, and only then pass it to a
    collector, which resets it.

    Args:
        game: one of ``GAMES``.
        num_envs: N >= 1, number of games.
        scale_rewards: put ``RunningRewardScaling`` last; False for evaluation.
        gamma: discount of the scaling's return, in [0, 1].
        **options: other arguments of ``ProcgenGamesEnv``.

    >>> env = procgen_env("coinrun", 2, num_levels=200)
    >>> env.rollout(3)["next", "episode_reward"].shape
    torch.Size([2, 3, 1])
    """
    # Made before the games, because it may refuse gamma.
    scaling = [RunningRewardScaling(gamma=gamma)] if scale_rewards else []
    transforms = Compose(RewardSum(), StepCounter(), EpisodesInState(), *scaling)
    return TransformedEnv(ProcgenGamesEnv(game, num_envs, **options), transforms)
