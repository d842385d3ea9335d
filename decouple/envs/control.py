"""Gymnasium's control tasks (https://gymnasium.farama.org) as an environment that trains several seeds at once.

``control_env("halfcheetah", seeds=[0, 1, 2])`` has the batch size (S, N): S seeds with N games each, stepped one after
the other in this process. The five names of ``TASKS`` are the tasks of "Honey, I Shrunk The Actor" (Mysore et al. 2021)
with the dimensions it prints; any other task that Gymnasium knows goes by its id, as in "Hopper-v5".
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from decouple.checks import INT32_MAX, check_integer, check_seeds
from decouple.envs.running_normalization import RunningMoments

if TYPE_CHECKING:
    import gymnasium

__all__ = ["TASKS", "ControlEnv", "control_env"]

TASKS: dict[str, tuple[str, dict[str, Any], str]] = {  # Gymnasium's id, its options, the extra that installs it
    "pendulum": ("Pendulum-v1", {}, "games"),
    "acrobot": ("Acrobot-v1", {}, "games"),
    "reacher": ("Reacher-v4", {}, "mujoco"),
    "halfcheetah": ("HalfCheetah-v4", {}, "mujoco"),
    # With the contact forces it has the paper's 111 numbers; v4 leaves them out (27) unless asked.
    "ant": ("Ant-v4", {"use_contact_forces": True}, "mujoco"),
}
# What Gymnasium's MuJoCo tasks read before they step: where bodies were one substep before the state that they are in.
# MuJoCo's own state leaves these out, and to compute them anew would give the places of the present state.
POSITIONS_BEFORE = ("xpos", "xipos")


@contextmanager
def _without_deprecations(mujoco: Any) -> Iterator[None]:
    """Silence that v4 of a task is not the newest, and that its model files use an attribute that MuJoCo deprecates.

    MuJoCo writes its warnings to stderr and to a file in the current folder, for every game.
    """

    def pass_on(message: str) -> None:
        if "settotalmass" not in message:
            print(f"WARNING: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        outdated = r".*The environment \S+ is out of date"
        warnings.filterwarnings("ignore", message=outdated, category=DeprecationWarning)
        if mujoco is None:
            yield
            return
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(before or pass_on)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)


def _make_games(name: str, number: int) -> tuple[list[gymnasium.Env], int | None, str]:
    """The games, their limit of steps, and which simulator they stand on: classic_control, mujoco or other."""
    is_id = isinstance(name, str) and "-v" in name
    if not is_id and name not in TASKS:
        raise ValueError(f"name must be one of {', '.join(TASKS)}, or an id of Gymnasium like Hopper-v5; got {name!r}")
    task, options, extra = (name, {}, "games") if is_id else TASKS[name]
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(f"{name} needs Gymnasium: pip install 'decouple[{extra}]'") from error
    try:
        spec = gymnasium.spec(task)
    except gymnasium.error.Error as error:
        raise ValueError(f"name must be one of {', '.join(TASKS)}, or an id of Gymnasium; got {name!r}") from error
    module = spec.entry_point if isinstance(spec.entry_point, str) else ""
    known = () if spec.additional_wrappers else ("classic_control", "mujoco")  # a wrapper may have state of its own
    simulator = next((kind for kind in known if f"gymnasium.envs.{kind}." in module), "other")
    try:
        # A name that is put together at run time, so that this file can be checked where MuJoCo is not installed.
        mujoco = importlib.import_module("mujoco") if simulator == "mujoco" else None
        with _without_deprecations(mujoco):
            make = {"max_episode_steps": -1, "disable_env_checker": True}  # steps are counted here, for all at once
            games = [gymnasium.make(task, **make, **options) for _ in range(number)]
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        install = "pip install 'decouple[mujoco]'" if simulator == "mujoco" else "see Gymnasium's own words above"
        raise ImportError(f"{name} needs its simulator: {install}") from error
    return games, spec.max_episode_steps, simulator


class ControlEnv(EnvBase):
    """N games for each of S seeds, in lockstep; batch size (S, N). Made by ``control_env``.

    Keys: ``observation`` float32 (S, N, O); ``action`` float32 (S, N, A), or int64 (S, N) where Gymnasium's actions
    are discrete; ``reward`` float32 (S, N, 1); ``episode_reward`` float32 (S, N, 1), the sum of the episode's raw
    rewards so far; ``step_count`` int64 (S, N, 1), its steps so far; ``done``, ``terminated``, ``truncated`` bool
    (S, N, 1). The observation next to an end is the true last one. An action beyond its bounds goes to the game as it
    is; what the game makes of it is Gymnasium's.

    Game n of seed s is seeded by NumPy's ``SeedSequence([s, n])`` at its first reset and goes on from there, and the
    statistics of the normalisation are kept seed by seed: an agent sees the same numbers, bit for bit, alone and
    beside others.

    Normalisation is that of Baselines' ``VecNormalize``: every observation that is handed out, last ones too, is taken
    into the mean and variance of its seed, over the seed's N games, and then standardised with them; rewards are
    divided by the standard deviation of the discounted return. Both are clipped to [-10, 10].

    ``state_dict`` carries everything for Gymnasium's classic control and MuJoCo tasks: an environment that loads it
    continues bit for bit, and the first full ``reset`` after loading returns the restored observations and begins no
    episodes but those that were due. For tasks of another simulator (``resumable`` is False) it carries the generators
    and the statistics, and that reset begins every episode anew.

    Raises:
        ValueError: an action that is not finite, outside the discrete range, or of another shape; a state that was
            saved under other settings.
        RuntimeError: a step beyond the end of an episode.

    Attributes:
        name: as given. seeds: S integers. max_episode_steps: of an episode; None: no limit.
        resumable: whether ``state_dict`` can restore the games.
        observation_statistics: what observations are normalised with; None without normalisation.
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
    ) -> None:
        super().__init__(batch_size=torch.Size([len(seeds), num_envs]))
        self._games, self.max_episode_steps, self._simulator = _make_games(name, len(seeds) * num_envs)
        self.name, self.seeds, self.gamma = name, seeds, gamma
        self.resumable = self._simulator != "other"
        self._normalize = {"normalize_observation": normalize_observation, "normalize_reward": normalize_reward}
        self._make_specs()
        size = (len(seeds), self.observation_spec["observation"].shape[-1])
        if statistics is not None and statistics.mean.shape != size:
            raise ValueError(f"statistics must be of {size} seeds and numbers; got {statistics.mean.shape}")
        owns_statistics = normalize_observation and statistics is None
        self._own_statistics = RunningMoments(size[0], size[1:]) if owns_statistics else None
        self.observation_statistics = self._own_statistics or statistics
        self._return_statistics = RunningMoments(size[0], ()) if normalize_reward else None
        self._start()

    def _make_specs(self) -> None:
        from gymnasium.spaces import Box, Discrete

        batch = self.batch_size
        seen, acts = self._games[0].observation_space, self._games[0].action_space
        if not isinstance(seen, Box) or len(seen.shape) != 1 or not np.issubdtype(seen.dtype, np.floating):
            raise ValueError(f"name must be of a task whose observations are a Box of (O,) floats; got {seen}")
        if isinstance(acts, Discrete) and acts.start == 0:
            self._num_actions, self._action_dtype = int(acts.n), np.dtype(np.int64)
            self.action_spec = Categorical(self._num_actions, shape=batch, dtype=torch.int64)
        elif isinstance(acts, Box) and len(acts.shape) == 1 and acts.is_bounded():
            self._num_actions, self._action_dtype = None, acts.dtype
            shape = torch.Size([*batch, *acts.shape])
            low, high = (torch.from_numpy(bound.astype(np.float32)).expand(shape) for bound in (acts.low, acts.high))
            self.action_spec = Bounded(low, high, shape, dtype=torch.float32)
        else:
            raise ValueError(f"name must be of a task whose actions are a bounded Box (A,) or Discrete; got {acts}")
        self._action_shape = self.action_spec.shape  # TorchRL looks it up anew each time, which is slow
        column = torch.Size([*batch, 1])
        self.observation_spec = Composite(
            observation=Unbounded(torch.Size([*batch, *seen.shape]), dtype=torch.float32),
            episode_reward=Unbounded(column, dtype=torch.float32),
            step_count=Unbounded(column, dtype=torch.int64),
            shape=batch,
        )
        self.reward_spec = Unbounded(column, dtype=torch.float32)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), truncated=end.clone(), shape=batch)

    def _start(self) -> None:
        """Every game is due for its first, seeded, reset."""
        S, N = self.batch_size
        seeds = (np.random.SeedSequence([seed, index]) for seed in self.seeds for index in range(N))
        self._first_seeds: list[int | None] = [int(seed.generate_state(1)[0]) for seed in seeds]  # None: in use
        self._running = {
            "observation": np.zeros(self.observation_spec["observation"].shape, dtype=np.float32),  # as handed out
            "episode_reward": np.zeros((S, N)),
            "step_count": np.zeros((S, N), dtype=np.int64),
            "discounted_return": np.zeros((S, N)),
            "terminated": np.ones((S, N), dtype=np.bool_),
            "truncated": np.zeros((S, N), dtype=np.bool_),
        }
        self._just_loaded = False

    def _shown(self) -> dict[str, Tensor]:
        """Copies: what is handed out must not change with the next step."""
        running = self._running
        terminated = torch.from_numpy(running["terminated"][..., None].copy())
        truncated = torch.from_numpy(running["truncated"][..., None].copy())
        return {
            "observation": torch.from_numpy(running["observation"].copy()),  # (S, N, O)
            "episode_reward": torch.from_numpy(running["episode_reward"][..., None].astype(np.float32)),
            "step_count": torch.from_numpy(running["step_count"][..., None].copy()),
            "done": terminated | truncated,
            "terminated": terminated,
            "truncated": truncated,
        }

    def _actions(self, action: Tensor) -> np.ndarray:
        """One row per game, checked: (S N, A), or (S N,) where they are discrete."""
        if action.shape != self._action_shape:
            raise ValueError(f"action must have the shape {tuple(self._action_shape)}; got {tuple(action.shape)}")
        values = action.detach().cpu().numpy()
        if self._num_actions is None:
            if not np.isfinite(values).all():
                raise ValueError(f"action must be finite; got {values.tolist()}")
        elif values.min() < 0 or values.max() >= self._num_actions or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"action must be integers in [0, {self._num_actions}); got {values.tolist()}")
        return values.reshape(len(self._games), *values.shape[2:]).astype(self._action_dtype)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        running, batch = self._running, tuple(self.batch_size)
        actions = self._actions(tensordict.get("action"))
        if (running["terminated"] | running["truncated"]).any():
            raise RuntimeError("an episode that has ended, or not begun, must be reset before the next step")
        number = len(self._games)
        observation, reward = np.empty((number, running["observation"].shape[-1])), np.empty(number)
        terminated, truncated = np.empty(number, dtype=np.bool_), np.empty(number, dtype=np.bool_)
        for index, (game, action) in enumerate(zip(self._games, actions, strict=True)):
            observation[index], reward[index], terminated[index], truncated[index], _ = game.step(action)
        observation, reward = observation.reshape(*batch, -1), reward.reshape(batch)
        running["step_count"] += 1
        running["episode_reward"] += reward
        running["terminated"], running["truncated"] = terminated.reshape(batch), truncated.reshape(batch)
        if self.max_episode_steps is not None:
            running["truncated"] |= running["step_count"] >= self.max_episode_steps
        if self._own_statistics is not None:
            self._own_statistics.merge(observation)
        running["observation"][...] = self._normalized(observation)
        if self._return_statistics is not None:
            running["discounted_return"] = self.gamma * running["discounted_return"] + reward
            self._return_statistics.merge(running["discounted_return"])
            reward = self._return_statistics.scale(reward)
        self._just_loaded = False
        shown = self._shown() | {"reward": torch.from_numpy(reward[..., None].astype(np.float32))}
        return TensorDict(shown, self.batch_size)

    def _normalized(self, observation: np.ndarray) -> np.ndarray:
        statistics = self.observation_statistics
        return observation if statistics is None else statistics.standardize(observation)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            self._begin(mask.reshape(self.batch_size).cpu().numpy())
        elif self._just_loaded:
            self._begin(self._running["terminated"] | self._running["truncated"])
        else:
            self._begin(np.ones(tuple(self.batch_size), dtype=np.bool_))
        self._just_loaded = False
        return TensorDict(self._shown(), self.batch_size)

    def _begin(self, which: np.ndarray) -> None:
        """New episodes where ``which``, bool (S, N)."""
        running = self._running
        observation = running["observation"].astype(np.float64)  # (S, N, O)
        rows = observation.reshape(len(self._games), -1)
        for index in np.flatnonzero(which):
            rows[index], _ = self._games[index].reset(seed=self._first_seeds[index])
            self._first_seeds[index] = None
        if self._own_statistics is not None:
            for seed in np.flatnonzero(which.any(axis=1)):
                self._own_statistics.merge(observation[seed, which[seed]][None], slice(seed, seed + 1))
        running["observation"][which] = self._normalized(observation)[which]
        for key in ("episode_reward", "step_count", "discounted_return", "terminated", "truncated"):
            running[key][which] = 0

    def _set_seed(self, seed: int | None) -> None:
        """Start the games anew with the seeds ``seed``, ``seed`` + 1, ..., ``seed`` + S - 1."""
        first = check_integer("seed", seed, 0, INT32_MAX - len(self.seeds) + 1)
        self.seeds = list(range(first, first + len(self.seeds)))
        self._start()

    def _settings(self) -> dict[str, Any]:
        settings = {"name": self.name, "seeds": list(self.seeds), "num_envs": self.batch_size[1], "gamma": self.gamma}
        return settings | self._normalize | {"own_statistics": self._own_statistics is not None}

    def _game_state(self, index: int) -> dict[str, Any]:
        """One game: its generator and its simulator."""
        if self._first_seeds[index] is not None:
            return {"first_seed": self._first_seeds[index]}
        game = self._games[index].unwrapped
        generator = game.np_random.bit_generator.state
        return {
            "first_seed": None,
            "generator": {
                "state": {key: str(value) for key, value in generator["state"].items()},  # integers of 128 bits
                "has_uint32": int(generator["has_uint32"]),
                "uinteger": int(generator["uinteger"]),
            },
            "simulator": {key: torch.from_numpy(value.copy()) for key, value in self._simulator_state(game).items()},
        }

    def _simulator_state(self, game: Any) -> dict[str, np.ndarray]:
        if self._simulator == "classic_control":
            return {"state": np.asarray(game.state)}
        if self._simulator == "other":
            return {}
        mujoco = importlib.import_module("mujoco")
        what = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        state = np.empty(mujoco.mj_stateSize(game.model, what))
        mujoco.mj_getState(game.model, game.data, state, what)
        return {"state": state} | {key: np.asarray(getattr(game.data, key)) for key in POSITIONS_BEFORE}

    def _load_game_state(self, index: int, saved: dict[str, Any]) -> None:
        self._first_seeds[index] = saved["first_seed"]
        if saved["first_seed"] is not None:
            return
        self._games[index].reset(seed=0)  # Gymnasium refuses to step a game that was never reset
        game: Any = self._games[index].unwrapped
        generator = saved["generator"]
        numbers = {key: int(value) for key, value in generator["state"].items()}
        game.np_random.bit_generator.state = generator | {"bit_generator": "PCG64", "state": numbers}
        arrays = {key: value.numpy().copy() for key, value in saved["simulator"].items()}
        if self._simulator == "classic_control":
            game.state = arrays["state"]
        elif self._simulator == "mujoco":
            mujoco = importlib.import_module("mujoco")
            mujoco.mj_setState(game.model, game.data, arrays["state"], int(mujoco.mjtState.mjSTATE_INTEGRATION))
            for key in POSITIONS_BEFORE:
                getattr(game.data, key)[...] = arrays[key]

    def get_extra_state(self) -> dict[str, Any]:
        """The games, the running episodes and the statistics, and the settings that they belong to.

        Statistics that were given (``statistics=``) are left out: they belong to the environment that updates them.
        """
        moments = {"observation": self._own_statistics, "return": self._return_statistics}
        return {
            "settings": self._settings(),
            "games": [self._game_state(index) for index in range(len(self._games))],
            "running": {key: torch.from_numpy(value.copy()) for key, value in self._running.items()},
            "statistics": {key: value.state_dict() for key, value in moments.items() if value is not None},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore all of it. Raises ValueError, naming what differs, if it was saved under other settings."""
        here, there = self._settings(), state["settings"]
        differ = [f"{key} {there.get(key)!r} there, {here[key]!r} here" for key in here if there.get(key) != here[key]]
        if differ:
            raise ValueError("the saved games must have this environment's settings; got " + ", ".join(differ))
        for index, saved in enumerate(state["games"]):
            self._load_game_state(index, saved)
        self._running = {key: state["running"][key].cpu().numpy().copy() for key in self._running}
        if not self.resumable:
            self._running["terminated"][...] = True
        for key, moments in (("observation", self._own_statistics), ("return", self._return_statistics)):
            if moments is not None:
                moments.load_state_dict(state["statistics"][key])
        self._just_loaded = True

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the games."""
        if not self.is_closed:
            for game in self._games:
                game.close()
        super().close(raise_if_closed=raise_if_closed)


def control_env(
    name: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    *,
    normalize_observation: bool = False,
    normalize_reward: bool = False,
    gamma: float = 0.99,
    statistics: RunningMoments | None = None,
) -> ControlEnv:
    """S agents' games of one control task at once; see ``ControlEnv`` for keys and shapes.

    To evaluate with the observations that the agents were trained on, hand over the training environment's statistics::

        train = control_env("ant", seeds, normalize_observation=True, normalize_reward=True)
        test = control_env("ant", seeds, 10, normalize_observation=True, statistics=train.observation_statistics)

    They are shared, not copied: ``test`` always uses the newest and changes nothing. Seed s of ``test`` uses row s.

    Args:
        name: pendulum (3 observed numbers, 1 action), acrobot (6, one of 3 actions), reacher (11, 2), halfcheetah
            (17, 6), ant (111, 8), or an id of Gymnasium whose observations are a Box of (O,) floats and whose actions
            are a bounded Box of (A,) or Discrete.
        seeds: S integers in [0, 2^31 - 1], one per agent.
        num_envs: N >= 1, games per seed.
        normalize_observation: standardise them by the running mean and variance of their seed.
        normalize_reward: divide them by the running standard deviation of their seed's discounted return.
        gamma: discount of that return, in [0, 1]; Baselines' 0.99 whatever the algorithm's own discount is.
        statistics: another environment's ``observation_statistics``, to use and never update; only with
            ``normalize_observation``.

    Raises:
        ValueError: an argument outside its range.
        ImportError: Gymnasium, or the task's simulator, is not installed.

    >>> env = control_env("pendulum", seeds=[0, 1], num_envs=3)
    >>> env.rollout(5)["next", "observation"].shape
    torch.Size([2, 3, 5, 3])
    """
    for key, value in (("normalize_observation", normalize_observation), ("normalize_reward", normalize_reward)):
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False; got {value!r}")
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma <= 1 or math.isnan(gamma):
        raise ValueError(f"gamma must lie in [0, 1]; got {gamma!r}")
    if statistics is not None and not (normalize_observation and isinstance(statistics, RunningMoments)):
        raise ValueError(f"statistics must be RunningMoments, with normalize_observation; got {statistics!r}")
    return ControlEnv(
        name,
        check_seeds(seeds),
        check_integer("num_envs", num_envs, 1, INT32_MAX),
        float(gamma),
        normalize_observation=normalize_observation,
        normalize_reward=normalize_reward,
        statistics=statistics,
    )
