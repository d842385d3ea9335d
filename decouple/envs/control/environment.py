"""The environment of Gymnasium's control tasks: N games for each of S seeds, stepped together.

``control_env`` (``decouple.envs.control.tasks``) makes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrl.data import Unbounded

from decouple.checks import INT32_MAX
from decouple.compiled.playing import Playing
from decouple.envs import lockstep
from decouple.envs.control.backends import BatchedGames, GymnasiumGames
from decouple.envs.control.catalogue import find_task
from decouple.envs.control.choice import make_games
from decouple.envs.control.compiled_rules import count_of_steps
from decouple.envs.control.game_workers import GameWorkers
from decouple.envs.control.running_episodes import RunningEpisodes
from decouple.envs.control.running_normalization import RunningMoments
from decouple.envs.control.spaces import observed_numbers, read_actions

__all__ = ["ControlEnv"]


class ControlEnv(lockstep.LockstepEnv):
    """N games for each of S seeds, in lockstep; batch size (S, N). Made by ``control_env``.

    Keys: ``observation`` float32 (S, N, O); with keys that are privileged ``privileged`` float32 (S, N, P), their
    numbers; ``action`` float32 (S, N, A), or int64 (S, N) where Gymnasium's actions
    are discrete, (S, N, K) where they are K discrete ones at once; ``reward`` float32 (S, N, 1); ``episode_reward``
    float32 (S, N, 1), the sum of the episode's raw rewards so far; ``step_count`` int64 (S, N, 1), its steps so far;
    ``done``, ``terminated``, ``truncated`` bool (S, N, 1). The observation of a last step is the true last one. An
    action beyond its bounds is clipped to them.

    Game n of seed s is seeded by NumPy's ``SeedSequence([s, n])`` at its first reset only, and each seed has its own
    normalisation statistics: an agent sees the same numbers, bit for bit, alone and beside others.

    Normalisation follows Baselines' ``VecNormalize``. Every observation, last ones too, is added to the mean and
    variance of its seed, over the seed's N games, and then standardised with them. Rewards are divided by the standard
    deviation of the discounted return. Both are clipped to [-10, 10].

    For Gymnasium's classic control and MuJoCo tasks ``state_dict`` carries everything: an environment that loads it
    continues bit for bit. The first full ``reset`` after loading returns the restored observations, and begins only
    the episodes that were due. For tasks of another simulator (``resumable`` is False) it carries the generators and
    the statistics, and that reset begins all episodes, from seeds drawn by them. The backends gymnasium and
    batched save the same state, and each continues that of the other.

    Raises:
        ValueError: an action that is not finite, outside the discrete range, or of another shape; a state that was
            saved under other settings.
        RuntimeError: a step beyond the end of an episode.

    Attributes:
        name: the task's name as given. seeds: S integers. max_episode_steps: step limit of an episode; None: no limit.
        backend: name of the backend that steps the games: gymnasium, batched, envpool or torchrl.
        workers: processes that step the games; None: this one does.
        entries: parts of the observation, where pictures are asked for; else empty.
        levels: seeds of which each reset takes one; None: only a game's first reset has a seed.
        resumable: True if ``state_dict`` can restore the games.
        observation_statistics: statistics that normalise the observations; None without normalisation.
        action_changes: what a game's own action differs in from `action`, see `ActionReader.changes`.
        observation_parts: parts of a game's own observation, in the order of the vector.
    """

    def __init__(
        self,
        name: str,
        seeds: list[int],
        num_envs: int,
        gamma: float,
        *,
        normalize_observation: bool,
        normalize_reward: bool,
        statistics: RunningMoments | None,
        backend: str,
        options: Mapping[str, Any],
        levels: range | None,
        wrappers: Sequence[str],
        frame_stack: int,
        pictures: bool,
        privileged: Sequence[str],
        env_workers: int | GameWorkers,
        device: str,
    ) -> None:
        task = find_task(name, options)._replace(wrappers=tuple(wrappers), frame_stack=frame_stack)
        own = GameWorkers(env_workers) if isinstance(env_workers, int) and env_workers > 1 else None
        workers = own if isinstance(env_workers, int) else env_workers
        apart: dict[str, Any] = {"privileged": privileged, "workers": workers, "device": device}
        try:
            chosen = make_games(task, len(seeds), num_envs, backend, levels, **apart)
        except BaseException:
            if own is not None:
                own.close()
            raise
        super().__init__(batch_size=torch.Size([len(seeds), chosen.each]))
        self._games, self.backend = chosen.games, chosen.backend
        self.workers, self._own_workers = workers, own
        self._privileged = getattr(self._games, "privileged", 0)  # P, at the end of each row
        self.observation_parts = getattr(self._games, "entries", [])
        self.entries = self.observation_parts if pictures else []
        self._bytes = self._keeps_bytes(normalize_observation)
        self.name, self.seeds, self.gamma = name, seeds, gamma
        self.max_episode_steps, self.resumable = task.max_episode_steps, self._games.resumable
        self._last_step = math.inf if self.max_episode_steps is None else self.max_episode_steps
        self._options, self.levels = dict(options), levels
        self._around = {"wrappers": list(wrappers)} if wrappers else {}
        self._around |= {"frame_stack": frame_stack} if frame_stack > 1 else {}
        self._around |= {"privileged": list(privileged)} if privileged else {}
        self._normalize = {"normalize_observation": normalize_observation, "normalize_reward": normalize_reward}
        try:
            self._make_specs()
            size = (len(seeds), self.observation_spec["observation"].shape[-1] + self._privileged)
            if statistics is not None and statistics.mean.shape != size:
                raise ValueError(f"statistics must have the shape {size} (S, O); got {statistics.mean.shape}")
        except BaseException:
            self._close_games()
            raise
        owns_statistics = normalize_observation and statistics is None
        self._own_statistics = RunningMoments(size[0], size[1:]) if owns_statistics else None
        self.observation_statistics = self._own_statistics or statistics
        self._return_statistics = RunningMoments(size[0], ()) if normalize_reward else None
        as_it_is = not normalize_observation and statistics is None and not normalize_reward
        self._may_count = as_it_is and self.backend == "batched"  # what the kernel of `_counted` needs
        self._start()
        self.is_closed = False  # TorchRL's default is True

    def _keeps_bytes(self, normalize_observation: bool) -> bool:
        """Whether observations are pictures of bytes alone, which then stay bytes.

        Raises:
            ValueError: observations with pictures are to be normalised.
        """
        seen = [entry for entry in self.entries if entry.picture]
        if seen and normalize_observation:
            self._close_games()
            raise ValueError(
                "normalize_observation must be false where observations have pictures: networks scale them"
            )
        return bool(seen) and getattr(self._games.observation_space, "dtype", None) == np.uint8

    def _make_specs(self) -> None:
        seen = observed_numbers(self._games.observation_space)
        self._actions_of_game = read_actions(self._games.action_space)
        self.action_spec = self._actions_of_game.spec(self.batch_size)
        self.action_changes = self._actions_of_game.changes()
        self._action_shape = self.action_spec.shape  # kept, since TorchRL's look-up of a spec is slow
        self._seen = seen
        # In a row beside numbers that are privileged, the bytes of a picture are floats until they are shown.
        self._dtype: Any = np.uint8 if self._bytes and not self._privileged else np.float32
        dtype = torch.uint8 if self._bytes else torch.float32
        shown = {"observation": Unbounded(torch.Size([*self.batch_size, seen]), dtype=dtype)}
        if self._privileged:
            shown["privileged"] = Unbounded(torch.Size([*self.batch_size, self._privileged]), dtype=torch.float32)
        lockstep.set_specs(self, **shown, **lockstep.episode_specs(self))

    def _start(self) -> None:
        """Seed all games; all are due for their first reset."""
        S, N = self.batch_size
        seeds = (np.random.SeedSequence([seed, index]) for seed in self.seeds for index in range(N))
        self._games.seed([int(seed.generate_state(1)[0]) for seed in seeds])
        column = (S, N, 1)
        observation = np.zeros((S, N, self._seen + self._privileged), dtype=self._dtype)
        self._set_episodes(
            {
                "observation": observation,
                "episode_reward": np.zeros(column),
                "discounted_return": np.zeros(column),
                "step_count": np.zeros(column, dtype=np.int64),
                "terminated": np.ones(column, dtype=np.bool_),
                "truncated": np.zeros(column, dtype=np.bool_),
            }
        )

    def _set_episodes(self, arrays: dict[str, np.ndarray], just_loaded: bool = False) -> None:
        done = arrays["terminated"] | arrays["truncated"]
        self._episodes = RunningEpisodes(**arrays, done=done, due=bool(done.any()), just_loaded=just_loaded)

    def _shown(self) -> dict[str, Tensor]:
        now = self._episodes
        shown = torch.from_numpy(now.observation)  # (S, N, O + P)
        parts = {"observation": shown}
        if self._privileged:
            public = shown[..., : self._seen]
            public = public.to(torch.uint8) if self._bytes else public.contiguous()
            parts = {"observation": public, "privileged": shown[..., self._seen :].contiguous()}
        return {
            **parts,
            "episode_reward": torch.from_numpy(now.episode_reward.astype(np.float32)),  # (S, N, 1), as all others
            "step_count": torch.from_numpy(now.step_count),
            "done": torch.from_numpy(now.done),
            "terminated": torch.from_numpy(now.terminated),
            "truncated": torch.from_numpy(now.truncated),
        }

    def pictures(self) -> list[np.ndarray]:
        """The picture of each game, agent by agent, uint8 (H, W, 3).

        The environment must be of ``backend="gymnasium"``, with ``env_kwargs={"render_mode": "rgb_array"}``.

        Raises:
            ValueError: another backend, or a task without pictures.
            ImportError: what the drawing needs is missing.
        """
        return self._drawn().pictures()

    @property
    def render_fps(self) -> int:
        """Frames a second of the games' own speed, where they can be drawn; 30 where they do not tell."""
        return self._drawn().render_fps

    def _drawn(self) -> GymnasiumGames:
        if not isinstance(self._games, GymnasiumGames):
            raise ValueError(f"backend must be gymnasium for pictures; got {self.backend!r}")
        return self._games

    def _actions(self, action: Tensor) -> np.ndarray:
        """Checked actions as the games take them, one row per game."""
        lockstep.check_shape(action, self._action_shape)
        values = action.numpy(force=True)
        return self._actions_of_game.to_games(values.reshape(-1, *values.shape[2:]))

    def _advance(self, actions: Any) -> dict[str, Tensor]:
        now = self._episodes
        chosen = self._actions(actions.get("action"))
        if now.due:
            raise RuntimeError(lockstep.ENDED)
        observation, reward, terminated, truncated = self._games.step(chosen)
        count = count_of_steps() if self._may_count else None
        if count is not None:
            return self._counted(count, observation, reward, terminated)
        column = now.step_count.shape
        reward = reward.reshape(column)
        now.step_count = now.step_count + 1
        now.episode_reward = now.episode_reward + reward
        now.terminated = terminated.reshape(column)
        now.truncated = truncated.reshape(column) | (now.step_count >= self._last_step)
        now.done = now.terminated | now.truncated
        now.due = True in now.done.ravel().tolist()
        observation = observation.reshape(now.observation.shape)
        # Numbers that are not finite, or too large for float32, stay with their seed; the training loop reports them.
        with np.errstate(over="ignore", invalid="ignore"):
            if self._own_statistics is not None:
                self._own_statistics.merge(observation.astype(np.float64, copy=False))
            now.observation = self._normalized(observation).astype(self._dtype, copy=False)
            if self._return_statistics is not None:
                now.discounted_return = self.gamma * now.discounted_return + reward
                self._return_statistics.merge(now.discounted_return[..., 0])
                reward = self._return_statistics.scale(reward[..., 0])[..., None]
            shown = self._shown()
            shown["reward"] = torch.from_numpy(reward.astype(np.float32))
        now.just_loaded = False
        return shown

    def _any_ended(self, stepped: dict[str, Tensor]) -> bool:
        return self._episodes.due

    def begin_steps(self) -> Playing | None:
        now, games = self._episodes, self._games
        if not self._may_count or now.due or not isinstance(games, BatchedGames):
            return None
        limit = INT32_MAX if self.max_episode_steps is None else self.max_episode_steps
        left = limit - int(now.step_count.max())
        return games.begin_steps(limit, now.observation, now.episode_reward, now.step_count, left)

    def end_steps(self, playing: Playing) -> tuple[dict[str, Tensor], Tensor]:
        now = self._episodes
        now.take_over(playing, self._last_step)
        if now.due:
            return self._went_on(self._shown())
        observation = torch.from_numpy(now.observation)
        return {"observation": observation}, observation

    def _counted(
        self, count: Any, observation: np.ndarray, reward: np.ndarray, terminated: np.ndarray
    ) -> dict[str, Tensor]:
        """The rest of a step by a kernel: of batched games, float32 observations that are not normalised."""
        now, games = self._episodes, len(reward)
        column = now.step_count.shape
        total, steps = np.empty(games), np.empty(games, dtype=np.int64)
        (truncated, done), shown = np.empty((2, games), dtype=np.bool_), np.empty((2, games), dtype=np.float32)
        limit = INT32_MAX if self.max_episode_steps is None else self.max_episode_steps
        before = now.episode_reward.reshape(-1), now.step_count.reshape(-1)
        now.due = count(reward, terminated, 1.0, limit, *before, total, steps, truncated, shown, done)
        now.observation = observation.reshape(now.observation.shape)
        now.episode_reward, now.step_count = total.reshape(column), steps.reshape(column)
        now.terminated, now.truncated = terminated.reshape(column), truncated.reshape(column)
        now.done = done.reshape(column)
        rewards, totals = shown.reshape(2, *column)
        now.just_loaded = False
        return {
            "observation": torch.from_numpy(now.observation),
            "episode_reward": torch.from_numpy(totals),
            "step_count": torch.from_numpy(now.step_count),
            "done": torch.from_numpy(now.done),
            "terminated": torch.from_numpy(now.terminated),
            "truncated": torch.from_numpy(now.truncated),
            "reward": torch.from_numpy(rewards),
        }

    def _normalized(self, observation: np.ndarray) -> np.ndarray:
        statistics = self.observation_statistics
        return observation if statistics is None else statistics.standardize(observation)

    def _restart(self, asked: Any) -> dict[str, Tensor]:
        ended = torch.from_numpy(self._episodes.done[..., 0])  # (S, N)
        self._begin(lockstep.to_begin(asked, ended, just_loaded=self._episodes.just_loaded).cpu().numpy())
        return self._shown()

    def _begin(self, which: np.ndarray) -> None:
        """Begin episodes where ``which`` is True, bool (S, N)."""
        arrays = {key: getattr(self._episodes, key).copy() for key in RunningEpisodes.KEYS}
        observation = arrays["observation"].astype(np.uint8 if self._dtype == np.uint8 else np.float64)  # (S, N, O + P)
        indices = np.flatnonzero(which)
        if len(indices):
            observation.reshape(which.size, -1)[indices] = self._games.reset(indices)
        with np.errstate(over="ignore", invalid="ignore"):  # as in a step
            if self._own_statistics is not None:
                for seed in np.flatnonzero(which.any(axis=1)):
                    self._own_statistics.merge(observation[seed, which[seed]][None], slice(seed, seed + 1))
            arrays["observation"][which] = self._normalized(observation)[which]
        for key in RunningEpisodes.KEYS[1:]:
            arrays[key][which] = 0
        self._set_episodes(arrays)

    def _set_seed(self, seed: int | None) -> None:
        """Restart the games with the seeds ``seed``, ``seed`` + 1, ..., ``seed`` + S - 1."""
        self.seeds = lockstep.following_seeds(seed, len(self.seeds))
        self._start()

    def _settings(self) -> dict[str, Any]:
        settings = {"name": self.name, "seeds": list(self.seeds), "num_envs": self.batch_size[1], "gamma": self.gamma}
        settings |= {"options": self._options} if self._options else {}
        settings |= {"levels": [self.levels.start, len(self.levels)]} if self.levels is not None else {}
        settings |= self._around
        settings |= self._normalize | {"own_statistics": self._own_statistics is not None}
        # The backends gymnasium and batched are interchangeable, and enter no settings.
        return settings | ({"backend": self.backend} if self.backend in ("envpool", "torchrl") else {})

    def get_extra_state(self) -> dict[str, Any]:
        """The games, the running episodes, the statistics, and the environment's settings.

        Statistics given as ``statistics=`` are left out: they belong to the environment that updates them.
        """
        moments = {"observation": self._own_statistics, "return": self._return_statistics}
        running = {key: getattr(self._episodes, key) for key in RunningEpisodes.KEYS}
        running = {key: value if key == "observation" else value[..., 0] for key, value in running.items()}  # (S, N)
        return {
            "settings": self._settings(),
            "games": self._games.state(),
            "running": {key: torch.from_numpy(value.copy()) for key, value in running.items()},
            "statistics": {key: value.state_dict() for key, value in moments.items() if value is not None},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state; ValueError, naming the settings that differ, if saved under others."""
        lockstep.check_settings(self._settings(), state["settings"], "games")
        self._games.load_state(state["games"])
        arrays = {key: state["running"][key].cpu().numpy().copy() for key in RunningEpisodes.KEYS}
        arrays = {key: value if key == "observation" else value[..., None] for key, value in arrays.items()}
        if not self.resumable:
            arrays["terminated"][...] = True
        self._set_episodes(arrays, just_loaded=True)
        for key, moments in (("observation", self._own_statistics), ("return", self._return_statistics)):
            if moments is not None:
                moments.load_state_dict(state["statistics"][key])

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the games, and the processes that were started for them."""
        if not self.is_closed:
            self._close_games()
        super().close(raise_if_closed=raise_if_closed)

    def _close_games(self) -> None:
        self._games.close()
        if self._own_workers is not None:
            self._own_workers.close()
