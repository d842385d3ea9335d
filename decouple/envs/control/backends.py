"""Backends that step the games of a control task, with one small interface; for ``decouple.envs.control.tasks`` only.

    games = GymnasiumGames(Task("pendulum", gymnasium.spec("Pendulum-v1"), {}), 6)
    games.seed(range(6))
    observation = games.reset(np.arange(6))                             # (6, 3)
    observation, reward, terminated, truncated = games.step(action)     # (6, 3) and three (6,)

Two classes here have this interface: Gymnasium's games one after another, and all games at once by rules in NumPy. The
caller counts step limits, for all games at once. ``decouple.envs.control.choice`` has three more, envpool's MuJoCo
tasks in threads, Gymnasium's games in processes and TorchRL's, and chooses among them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from decouple.checks import at_least, checked
from decouple.compiled.playing import Playing
from decouple.envs.control import acrobot, pendulum
from decouple.envs.control.compiled_rules import compiled_play, compiled_step, placed
from decouple.envs.control.forage import Forage
from decouple.envs.control.making import Task, gymnasium_games, layers_of
from decouple.envs.control.spaces import as_vector, observed_numbers, read_entries, split_space

__all__ = ["BATCHED", "BatchedGames", "GymnasiumGames", "Outcome", "batched_rules"]

BATCHED: dict[str, Any] = {  # a task's id: its rules for all games at once, or what makes them of its options
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "decouple/Forage-v0": Forage,
}
# Body positions from one substep before the present state, which Gymnasium's MuJoCo tasks read before they step.
# MuJoCo's own state leaves them out, and recomputing them would give the positions of the present state.
POSITIONS_BEFORE = ("xpos", "xipos")

Outcome = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # observation (G, O), reward, terminated, truncated


class GymnasiumGames:
    """Gymnasium's own games, stepped one after another in this process.

    Observations that are no vector are made one by `gymnasium.spaces.flatten`: a Dict's entries in the order of their
    names, an index as one-hot, a picture row by row.

    Attributes:
        observation_space: Gymnasium's space of what one game shows, as a vector, without what is privileged.
        action_space: Gymnasium's space of one game.
        privileged: how many numbers at a row's end the value network alone reads.
        width: numbers of a row, O, with those.
        resumable: True if ``state`` holds the simulators too; else it holds the generators only.
    """

    @checked(number=at_least(1))
    def __init__(
        self,
        task: Task,
        number: int,
        levels: range | None = None,
        privileged: Sequence[str] = (),
        first: Any = None,
    ) -> None:
        self.task, self.simulator, self.levels, self.keys = task, task.simulator, levels, list(privileged)
        self.resumable = self.simulator != "other"
        self.games = gymnasium_games(task, number, first)
        try:
            self._read_observations(privileged)
        except BaseException:
            self.close()
            raise
        self.action_space: Any = self.games[0].action_space
        self.first_seeds: list[int | None] = []  # seed for a game's next reset; None: already used
        self.generators: list[np.random.Generator] = []  # of each game's levels

    def _read_observations(self, privileged: Sequence[str]) -> None:
        public, hidden = split_space(self.games[0].observation_space, privileged)
        self.entries = read_entries(public)
        self.observation_space, self.flatten = as_vector(public)
        self.privileged = 0
        if hidden is not None:
            space, flatten = as_vector(hidden)
            self.privileged = observed_numbers(space)
            self.flatten = functools.partial(_joined, self.flatten, flatten)
        bytes_ = getattr(self.observation_space, "dtype", None) == np.uint8 and not self.privileged
        self.dtype = np.uint8 if bytes_ else np.float64
        self.width = math.prod(self.observation_space.shape or ()) + self.privileged

    def seed(self, seeds: Sequence[int]) -> None:
        """Set the seed of each game's next reset, which must come before its first step; or that of its levels."""
        self.first_seeds = list(seeds)
        self.generators = _generators(seeds) if self.levels else []

    def reset(self, which: np.ndarray) -> np.ndarray:
        """Begin episodes of the games ``which``, ascending indices (K,); return their observations (K, O)."""
        observation = np.empty((len(which), self.width), self.dtype)
        for row, index in enumerate(which):
            shown, _ = self.games[index].reset(seed=self._next_seed(index))
            observation[row] = self.flatten(shown)
            self.first_seeds[index] = None
        return observation

    def _next_seed(self, index: int) -> int | None:
        """The seed of a game's next reset: a level, each as likely as any other; or its own first seed, then none."""
        if self.levels is None:
            return self.first_seeds[index]
        return _level(self.levels, self.generators[index])

    def step(self, action: np.ndarray) -> Outcome:
        """Step every game. ``action``: (G, A), or (G,) if discrete, in the dtype of ``action_space``."""
        number = len(self.games)
        observation, reward = np.empty((number, self.width), self.dtype), np.empty(number)
        terminated, truncated = np.empty(number, dtype=np.bool_), np.empty(number, dtype=np.bool_)
        for index, (game, its_action) in enumerate(zip(self.games, action, strict=True)):
            shown, reward[index], terminated[index], truncated[index], _ = game.step(its_action)
            observation[index] = self.flatten(shown)
        return observation, reward, terminated, truncated

    def pictures(self) -> list[np.ndarray]:
        """The picture of each game, uint8 (H, W, 3); the games must have been made with render_mode="rgb_array".

        Raises:
            ImportError: a package or a library that the task's drawing needs is missing.
            ValueError: a task without pictures.
        """
        try:
            found: list[Any] = [game.render() for game in self.games]
        except (
            ImportError,
            AttributeError,
            RuntimeError,
            OSError,
        ) as error:  # as PyOpenGL, MuJoCo and Gymnasium say it
            needs = "OpenGL without a window: the system's libegl1, or libosmesa6 and MUJOCO_GL=osmesa"
            needs = needs if self.simulator == "mujoco" else "pygame-ce: pip install 'torchrl-decouple[games]'"
            raise ImportError(f"a picture of {self.task.name} needs {needs} ({error})") from error
        if not all(isinstance(one, np.ndarray) and one.ndim == 3 for one in found):
            raise ValueError(f"env must be a task that draws pictures as rgb_array; got {self.task.name}")
        return found

    @property
    def render_fps(self) -> int:
        """Frames a second of the games' own speed; 30 where they do not tell."""
        return max(1, round(self.games[0].metadata.get("render_fps") or 30))

    def state(self) -> list[dict[str, Any]]:
        """The state of each game: its first seed while that is unused, else its generator and its simulator."""
        states = [
            {"first_seed": seed} if seed is not None else self._game_state(game.unwrapped)
            for seed, game in zip(self.first_seeds, self.games, strict=True)
        ]
        return _with_levels(states, self.generators)

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Restore the games; only their generators if not ``resumable``."""
        self.first_seeds = [saved["first_seed"] for saved in states]
        _load_levels(self.generators, states)
        for game, saved in zip(self.games, states, strict=True):
            if saved["first_seed"] is None:
                # Gymnasium refuses to step a game that was never reset. One that is not restored begins anew, and may
                # have a generator of its own, which the reset alone seeds.
                game.reset(seed=0 if self.resumable else _seed_after(saved))
                self._load_game_state(game.unwrapped, saved)

    def close(self) -> None:
        for game in self.games:
            game.close()

    def __getstate__(self) -> dict[str, Any]:
        """Copy or pickle with the games' states: copies of Gymnasium's MuJoCo tasks would silently restart."""
        if self.simulator == "mujoco":
            made = {"task": self.task, "number": len(self.games), "levels": self.levels, "keys": self.keys}
            return made | {"games": self.state()}
        from gymnasium.utils import EzPickle

        if any(isinstance(layer, EzPickle) for game in self.games for layer in layers_of(game)):
            raise TypeError(
                f"games of {self.task.name} cannot be copied or pickled: a copy would restart (EzPickle); "
                "make a new environment"
            )
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "number" in state:
            self.__init__(state["task"], state["number"], state["levels"], state["keys"])
            self.seed([0] * state["number"])
            self.load_state(state["games"])
        else:
            vars(self).update(state)

    def _game_state(self, game: Any) -> dict[str, Any]:
        if self.simulator == "classic_control":
            arrays = {"state": np.asarray(game.state)}
        elif self.simulator == "mujoco":
            mujoco = importlib.import_module("mujoco")
            what = int(mujoco.mjtState.mjSTATE_INTEGRATION)
            state = np.empty(mujoco.mj_stateSize(game.model, what))
            mujoco.mj_getState(game.model, game.data, state, what)
            arrays = {"state": state} | {key: np.asarray(getattr(game.data, key)) for key in POSITIONS_BEFORE}
        else:
            arrays = {}
        return _saved_game(game.np_random, arrays)

    def _load_game_state(self, game: Any, saved: dict[str, Any]) -> None:
        _load_generator(game.np_random, saved)
        arrays = {key: value.numpy().copy() for key, value in saved["simulator"].items()}
        if self.simulator == "classic_control":
            game.state = arrays["state"]
        elif self.simulator == "mujoco":
            mujoco = importlib.import_module("mujoco")
            mujoco.mj_setState(game.model, game.data, arrays["state"], int(mujoco.mjtState.mjSTATE_INTEGRATION))
            for key in POSITIONS_BEFORE:
                getattr(game.data, key)[...] = arrays[key]


def _joined(public: Any, hidden: Any, observation: Any) -> np.ndarray:
    """An observation's vector, with the numbers that are privileged behind the others."""
    return np.concatenate([public(observation), hidden(observation)])


def batched_rules(task: Task) -> Any:
    """A task's rules for all games at once, with its options; None where there are none.

    Raises:
        ValueError: an option outside its range.
    """
    rules = BATCHED.get(task.id) if task.simulator == "classic_control" else None
    if isinstance(rules, type):
        known = {field.name for field in dataclasses.fields(rules)}
        return rules(**task.options) if task.options.keys() <= known else None
    return None if task.options else rules


class BatchedGames:
    """All games of a task as one NumPy array, by rules that give Gymnasium's numbers to the last bit.

    Seeds, states and spaces are those of ``GymnasiumGames``: each class loads and continues the states of the other.
    """

    resumable = True

    @checked(number=at_least(1))
    def __init__(self, task: Task, number: int, levels: range | None = None) -> None:
        self.task, self.rules, self.levels = task, batched_rules(task), levels
        (example,) = gymnasium_games(task, 1)
        self.observation_space: Any = example.observation_space
        self.action_space: Any = example.action_space
        example.close()
        self.games = np.zeros((self.rules.STATE_SIZE, number))  # float64 (K, G)
        self.neither = np.zeros(number, dtype=np.bool_)
        self.first_seeds: list[int | None] = []
        self.generators: list[np.random.Generator] = []
        self.of_levels: list[np.random.Generator] = []

    def seed(self, seeds: Sequence[int]) -> None:
        self.first_seeds = list(seeds)
        self.generators = _generators(seeds)  # as in Gymnasium
        self.of_levels = _generators(seeds) if self.levels else []

    def reset(self, which: np.ndarray) -> np.ndarray:
        observation = np.empty((len(which), *self.observation_space.shape))
        for row, index in enumerate(which):
            if self.levels is not None:
                (self.generators[index],) = _generators([_level(self.levels, self.of_levels[index])])
            self.games[:, index], observation[row] = self.rules.begin(self.generators[index])
            self.first_seeds[index] = None
        return observation

    def step(self, action: np.ndarray) -> Outcome:
        self.games, observation, reward, terminated = compiled_step(self.rules)(self.games, action)
        return observation, reward, terminated, self.neither

    def begin_steps(
        self, limit: int, observation: np.ndarray, total: np.ndarray, steps: np.ndarray, left: int
    ) -> Playing | None:
        """The games for kernels, which write into ``games``; None where rules are not compiled.

        Args:
            limit: steps of an episode.
            observation, total, steps: what the running episodes show, (S, N, ...) each, which is copied.
            left: steps left in the oldest episode.
        """
        play = compiled_play(self.rules)
        if play is None:
            return None
        places, held = placed(self.rules, self.games)
        return Playing(
            play, places, held, limit, 1.0, observation.copy(), total.flatten(), steps.flatten(),
            np.zeros(steps.size, dtype=np.bool_), 1 if self.rules.TERMINATES else left,
        )  # fmt: skip

    def state(self) -> list[dict[str, Any]]:
        each = zip(self.first_seeds, self.generators, self.games.T, strict=True)
        states = [
            {"first_seed": seed} if seed is not None else _saved_game(generator, {"state": game})
            for seed, generator, game in each
        ]
        return _with_levels(states, self.of_levels)

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self.seed([saved["first_seed"] or 0 for saved in states])
        self.first_seeds = [saved["first_seed"] for saved in states]
        _load_levels(self.of_levels, states)
        for index, saved in enumerate(states):
            if saved["first_seed"] is None:
                _load_generator(self.generators[index], saved)
                self.games[:, index] = saved["simulator"]["state"].numpy()

    def close(self) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"rules": None}  # a module cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.rules = batched_rules(self.task)


def seeds_after(states: list[dict[str, Any]]) -> list[int]:
    """Seeds drawn from saved ones, for games that cannot be saved: a resumed run does not repeat its first episodes."""
    drawn = (np.random.SeedSequence(saved["first_seed"]).generate_state(1) for saved in states)
    return [int(seed) for (seed,) in drawn]


def _seed_after(saved: dict[str, Any]) -> int:
    """A seed drawn from a game's saved generator, as `seeds_after`."""
    generator = np.random.Generator(np.random.PCG64())
    _load_generator(generator, saved)
    return int(generator.integers(2**31))


def _generators(seeds: Sequence[int]) -> list[np.random.Generator]:
    return [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]


def _level(levels: range, generator: np.random.Generator) -> int:
    """The seed of a reset, each as likely as any other."""
    return levels[int(generator.integers(len(levels)))]


def _with_levels(states: list[dict[str, Any]], generators: list[np.random.Generator]) -> list[dict[str, Any]]:
    """States of games, with those of the generators of their levels, where there are some."""
    levels = [{"levels": _saved_generator(generator)} for generator in generators] or [{}] * len(states)
    return [state | of_levels for state, of_levels in zip(states, levels, strict=True)]


def _load_levels(generators: list[np.random.Generator], states: list[dict[str, Any]]) -> None:
    for generator, saved in zip(generators, states, strict=bool(generators)):
        _load_generator(generator, saved | {"generator": saved["levels"]})


def _saved_game(generator: np.random.Generator, simulator: dict[str, np.ndarray]) -> dict[str, Any]:
    """The state of one running game, in tensors and plain numbers."""
    return {
        "first_seed": None,
        "generator": _saved_generator(generator),
        "simulator": {key: torch.from_numpy(value.copy()) for key, value in simulator.items()},
    }


def _saved_generator(generator: np.random.Generator) -> dict[str, Any]:
    state: Any = generator.bit_generator.state
    return {
        "state": {key: str(value) for key, value in state["state"].items()},  # integers of 128 bits
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _load_generator(generator: np.random.Generator, saved: dict[str, Any]) -> None:
    numbers = {key: int(value) for key, value in saved["generator"]["state"].items()}
    generator.bit_generator.state = saved["generator"] | {"bit_generator": "PCG64", "state": numbers}
