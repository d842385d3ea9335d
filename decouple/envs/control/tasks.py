"""Gymnasium's control tasks (https://gymnasium.farama.org) as an environment that trains several seeds at once.

``control_env("halfcheetah", seeds=[0, 1, 2])`` has the batch size (S, N): S seeds with N games each, stepped in this
process. Five names of ``TASKS`` (``decouple.envs.control.catalogue``) are tasks of "Honey, I Shrunk The Actor" (Mysore
et al. 2021), with the dimensions given there; ``forage`` is a grid with levels (``decouple.envs.control.forage``). Any
other task of Gymnasium is named by its id, as "Hopper-v5".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from decouple.checks import DEVICE, INT32_MAX, check_integer, check_seeds, check_setting, check_switches
from decouple.envs.control.environment import ControlEnv
from decouple.envs.control.game_workers import GameWorkers
from decouple.envs.control.running_normalization import RunningMoments

__all__ = ["control_env"]


def control_env(
    name: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    *,
    normalize_observation: bool = False,
    normalize_reward: bool = False,
    gamma: float = 0.99,
    statistics: RunningMoments | None = None,
    backend: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    levels: range | None = None,
    wrappers: Sequence[str] = (),
    frame_stack: int = 1,
    pictures: bool = False,
    privileged: Sequence[str] = (),
    env_workers: int | GameWorkers = 1,
    device: str = "cpu",
) -> ControlEnv:
    """Make one control task for S agents at once; see ``ControlEnv`` for keys and shapes.

    For an evaluation with the same normalised observations as in training, pass the training environment's statistics::

        train = control_env("ant", seeds, normalize_observation=True, normalize_reward=True)
        test = control_env("ant", seeds, 10, normalize_observation=True, statistics=train.observation_statistics)

    They are shared, not copied: ``test`` reads the newest and never updates them. Seed s of ``test`` reads row s.

    Backends. ``batched`` has Pendulum, Acrobot and Forage for all games at once, in NumPy or by kernels where Numba is
    installed, with the single games' numbers to the last bit. ``envpool`` has the MuJoCo tasks, stepped by threads,
    which pays with several games. ``auto`` never chooses it: envpool cannot save its games, so that an interrupted run
    does not resume to the same bits. Its steps equal Gymnasium's up to rounding, but its episodes start elsewhere.

    Args:
        name: pendulum (3 observed numbers, 1 action), acrobot (6, one of 3 actions), reacher (11, 2), halfcheetah
            (17, 6), ant (111, 8), forage (91, one of 4); or the id of a task of Gymnasium, as CartPole-v1. A module
            before a colon, as in my_package:Env-v0, is imported first, so that it can register the id;
            my_package.module:make names a function or class that makes an environment of Gymnasium's or TorchRL's.
            Newer versions of three tasks, by id, are Reacher-v5 (10, 2), HalfCheetah-v5 (17, 6) and Ant-v5 (105, 8).
            Observations become vectors, by `gymnasium.spaces.flatten`; actions must be Discrete, MultiDiscrete,
            MultiBinary, or a Box of floats.
        seeds: S integers in [0, 2^31 - 1], one per agent.
        num_envs: N >= 1, games per seed.
        normalize_observation: standardise observations by the running mean and variance of their seed.
        normalize_reward: divide rewards by the running standard deviation of their seed's discounted return.
        gamma: discount of that return, in [0, 1]; Baselines' 0.99, independent of the algorithm's discount.
        statistics: another environment's ``observation_statistics``, read and never updated; only with
            ``normalize_observation``.
        backend: name of the backend: gymnasium, one game after another; batched; envpool; or auto: batched where there
            is one, else gymnasium.
        env_kwargs: keyword arguments of the environment, as `gymnasium.make` takes them; None for none.
        levels: seeds in [0, 2^31 - 1) of which each reset takes one, drawn by a generator of its game: as many levels
            of a task that makes them from its seed. None: only a game's first reset has a seed.
        wrappers: Gymnasium's wrappers, or others, around each game, as gymnasium.wrappers:GrayscaleObservation or, with
            arguments, gymnasium.wrappers:AtariPreprocessing(screen_size=42).
        frame_stack: observations of so many steps together, by Gymnasium's wrapper, around those.
        pictures: keep bytes where observations are pictures of bytes alone, and tell their parts in `entries`.
        privileged: keys of the task's observation, a Dict, that the value network alone reads: their numbers are
            under `privileged`.
        env_workers: processes that step the games, of Gymnasium's backend alone, and at most one for each game: where a
            step is slow. Numbers are the same. Or those of another environment, its `workers`, which it closes.
        device: device for a function that makes environments and has an argument of this name.

    Raises:
        ValueError: an argument outside its range, or a backend without the task.
        ImportError: Gymnasium, the task's simulator, or the backend is not installed.

    >>> env = control_env("pendulum", seeds=[0, 1], num_envs=3)
    >>> env.rollout(5)["next", "observation"].shape
    torch.Size([2, 3, 5, 3])
    """
    check_switches(normalize_observation=normalize_observation, normalize_reward=normalize_reward)
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma <= 1 or math.isnan(gamma):
        raise ValueError(f"gamma must lie in [0, 1]; got {gamma!r}")
    if env_kwargs is not None and not (isinstance(env_kwargs, Mapping) and all(isinstance(k, str) for k in env_kwargs)):
        raise ValueError(f"env_kwargs must be a dict of the environment's arguments, or None; got {env_kwargs!r}")
    check_setting("levels", levels, lambda v: v is None or (isinstance(v, range) and _are_seeds(v)), LEVELS)
    check_switches(pictures=pictures)
    names = not isinstance(wrappers, str) and all(isinstance(name, str) for name in wrappers)
    check_setting("wrappers", wrappers, lambda _: names, "a list of names, each as my_package.module:Wrapper")
    seeds, num_envs = check_seeds(seeds), check_integer("num_envs", num_envs, 1, INT32_MAX)
    if not isinstance(env_workers, GameWorkers):
        env_workers = check_integer("env_workers", env_workers, 1, len(seeds) * num_envs)
    check_setting("device", device, DEVICE)
    check_setting("privileged", privileged, _are_names, "a list of the observation's keys")
    if statistics is not None and not (normalize_observation and isinstance(statistics, RunningMoments)):
        raise ValueError(f"statistics must be RunningMoments, with normalize_observation; got {statistics!r}")
    return ControlEnv(
        name,
        seeds,
        num_envs,
        float(gamma),
        normalize_observation=normalize_observation,
        normalize_reward=normalize_reward,
        statistics=statistics,
        backend=backend,
        options=dict(env_kwargs or {}),
        levels=levels,
        wrappers=wrappers,
        frame_stack=check_integer("frame_stack", frame_stack, 1, INT32_MAX),
        pictures=pictures,
        privileged=list(privileged),
        env_workers=env_workers,
        device=device,
    )


LEVELS = "None, or a range of seeds in [0, 2^31 - 1), one at least"


def _are_names(names: Any) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)


def _are_seeds(levels: range) -> bool:
    return len(levels) > 0 and min(levels[0], levels[-1]) >= 0 and max(levels[0], levels[-1]) < INT32_MAX
