"""The two packages with the Procgen games, called without their Gym wrappers, behind one small interface.

`begin` starts a step of the games with their actions, on the games' own threads; `frames` waits for the resulting
`Frames`, with ended games already restarted. Used by `decouple.envs.procgen.games` only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from decouple.envs.processes import Owned

NO_OP, FORCE_RESET = 4, -1


class Frames(NamedTuple):
    """The present outputs of the games. The next step may overwrite the arrays."""

    observation: np.ndarray  # (N, 3, 64, 64) uint8
    reward: np.ndarray  # (N,) float32
    first: np.ndarray  # (N,) bool, True if the last step ended an episode
    level_seed: np.ndarray  # (N,) int32
    level_complete: np.ndarray  # (N,) True if the previous level was completed


class ProcgenGames:
    """Games of the procgen package's C library, called without its Gym wrappers."""

    def __init__(self, package: ModuleType, game: str, num_envs: int, seed: int, threads: int, options: dict) -> None:
        games = package.ProcgenGym3Env(num_envs, game, rand_seed=seed, num_threads=threads, **options)
        games._reuse_arrays = True  # observe() then returns its buffers; the environment makes the only copy
        # The destructor calls this function, and its first look-up takes cffi's lock. If the garbage collector ran the
        # destructor while other games are built under that lock, it would be a deadlock. So look it up now.
        self.closing = games._c_lib.libenv_close
        self.owned = Owned(games, type(games).close, "Procgen's games")

    @property
    def games(self) -> Any:
        """gym3's games; RuntimeError if they are closed or belong to another process."""
        return self.owned.use

    def frames(self) -> Frames:
        games = self.games
        reward, observation, first = games.observe()
        info = games._info  # filled by observe(); get_info() would loop over the games in Python
        pixels = observation["rgb"].transpose(0, 3, 1, 2)
        return Frames(pixels, reward, first, info["level_seed"], info["prev_level_complete"])

    def begin(self, action: np.ndarray) -> None:
        self.games.act(action)

    def restart(self, games: np.ndarray) -> Frames:
        # The library steps all games together; action -1 ends an episode. So the other games are restored afterwards.
        states = self.games.get_state()
        self.games.act(np.where(games, FORCE_RESET, NO_OP))
        self.games.observe()
        for index in np.flatnonzero(~games):
            self.games.call_c_func("set_state", int(index), states[index], len(states[index]))
        return self.frames()

    def state(self) -> list[bytes]:
        self.games.observe()  # waits for a step that has begun
        return self.games.get_state()

    def load_state(self, states: list[bytes]) -> Frames:
        self.games.set_state(states)
        return self.frames()

    def close(self) -> None:
        self.owned.close()


class EnvpoolGames:
    """envpool's games. envpool shows the last frame and restarts a game one step later; here it restarts at once."""

    def __init__(
        self, package: ModuleType, game: str, num_envs: int, seed: int, threads: int, options: dict, first: int = 0
    ) -> None:
        """`first`: index of the first of these games among all groups' games."""
        options = dict(options)
        task = f"{game.capitalize()}{options.pop('distribution_mode').capitalize()}-v0"
        # procgen seeds game n with output n of a Mersenne Twister seeded with `seed`; envpool takes a seed per game.
        seeds = np.random.RandomState(seed).randint(0, 2**32, size=first + num_envs, dtype=np.uint32)[first:]
        seeds = seeds.astype(np.int32)
        games = package.make_gymnasium(task, num_envs=num_envs, seed=seeds.tolist(), num_threads=threads, **options)
        self.owned = Owned(games, type(games).close, "envpool's games")
        observation, info = games.reset()
        nothing = np.zeros(num_envs)
        self.now = Frames(observation, nothing.astype("f4"), nothing == 0, info["level_seed"], nothing == 1)
        self.under_way = False

    @property
    def games(self) -> Any:
        """envpool's games; RuntimeError if they are closed or belong to another process."""
        return self.owned.use

    def begin(self, action: np.ndarray) -> None:
        self.games.send(action)
        self.under_way = True

    def frames(self) -> Frames:
        games = self.games
        if not self.under_way:
            return self.now
        self.under_way = False
        observation, reward, terminated, truncated, info = games.recv()
        ended = terminated | truncated
        self.now = Frames(observation, reward, ended, info["level_seed"], info["prev_level_complete"])
        return self.restart(ended) if ended.any() else self.now

    def restart(self, games: np.ndarray) -> Frames:
        indices = np.flatnonzero(games).astype(np.int32)
        observation, info = self.games.reset(indices)
        self.now.observation[info["env_id"]] = observation  # envpool returns new arrays, which we may write to
        self.now.level_seed[info["env_id"]] = info["level_seed"]
        return self.now

    def close(self) -> None:
        self.owned.close()


def start_games(
    backend: str, package: ModuleType, game: str, sizes: list[int], seed: int, threads: int, options: dict
) -> list[ProcgenGames | EnvpoolGames]:
    """Start groups of games of these sizes, which share the threads; each game starts as it would in one group."""
    own_threads = max(1, threads // len(sizes))
    groups: list[Any] = []
    try:
        for size, first in zip(sizes, np.cumsum([0, *sizes]), strict=False):
            if backend == "envpool":
                groups.append(EnvpoolGames(package, game, size, seed, own_threads, options, int(first)))
            else:
                groups.append(ProcgenGames(package, game, size, seed, own_threads, options))
        if backend == "procgen" and len(sizes) > 1:
            # A game's levels depend on its index, which starts at 0 in each group; so copy the states of one group.
            together = ProcgenGames(package, game, sum(sizes), seed, 1, options)
            groups.append(together)
            states = together.state()
            for group, size in zip(groups, sizes, strict=False):
                group.load_state(states[:size])
                del states[:size]
            groups.pop().close()
    except BaseException:
        for group in groups:
            group.close()
        raise
    return groups


def import_backend(backend: str | None) -> tuple[str, str, ModuleType]:
    """Name, version and module of the given backend, or of the first installed one.

    Raises:
        ValueError: an unknown backend.
        ImportError: the given backend is not installed, or none is.
    """
    if backend not in (None, "procgen", "envpool"):
        raise ValueError(f"backend must be one of procgen, envpool; got {backend!r}")
    for name in ("procgen", "envpool") if backend is None else (backend,):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        if name == "procgen" and not hasattr(module, "ProcgenGym3Env"):
            # `python some/procgen.py` puts some/ first on sys.path, and `import procgen` then finds that script.
            found = getattr(module, "__file__", None)
            raise ImportError(f"`import procgen` must find the games; got {found}: take its folder off sys.path")
        for distribution in (name, f"{name}-mirror"):
            try:
                return name, f"{distribution} {importlib.metadata.version(distribution)}", module
            except importlib.metadata.PackageNotFoundError:
                continue
        return name, name, module
    extras = ("procgen", "envpool") if backend is None else (backend,)
    raise ImportError(
        "no Procgen games found: " + " or ".join(f"pip install 'torchrl-decouple[{extra}]'" for extra in extras)
    )
