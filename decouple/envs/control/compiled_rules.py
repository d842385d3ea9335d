"""Pendulum and Acrobot by kernels, with the NumPy rules' numbers to the bit, in a process that has imported Numba.

    step = compiled_step(pendulum)                                      # pendulum.step itself where there is no kernel
    state, observation, reward, terminated = step(states, actions)

In NumPy, a step of a few games takes tens of microseconds for its dozens of operations on tiny arrays. A process that
has no compiled updates does not import Numba for the games alone, which takes longer than it saves in a short run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from decouple.compiled.kernel import compiling, unavailable
from decouple.compiled.playing import addresses, first_class
from decouple.envs.control import acrobot, pendulum

__all__ = ["compiled_play", "compiled_step", "count_of_steps", "placed"]

TRIED = 4000  # states from which kernel and rules are compared

Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def compiled_step(rules: ModuleType) -> Step:
    """The rules' ``step`` as a kernel; ``step`` itself without Numba, and where NumPy's sines are not C's."""
    return rules.step if _no_numba() else _step_of(rules)


def compiled_play(rules: ModuleType) -> Any:
    """The rules for the kernels that act and learn, as ``Playing.play``; None where ``compiled_step`` has no kernel."""
    return None if _no_numba() else _play_of(rules)


def placed(rules: ModuleType, state: np.ndarray) -> tuple[np.ndarray, Any]:
    """What ``Playing.play`` of rules finds games by, whose state it writes into; and the owners of what lies there."""
    facts = _facts(rules)
    return np.array([state.shape[1], *addresses(state, facts)]), (state, facts)


def count_of_steps() -> Any:
    """The kernel that counts a step into the running episodes, ``decouple.compiled.games.count_step``, or None."""
    return None if _no_numba() else _count()


def _no_numba() -> bool:
    return "numba" not in sys.modules or unavailable() is not None


@functools.cache
def _step_of(rules: ModuleType) -> Step:
    from decouple.compiled import control as kernels

    *numbers, two = _facts(rules)
    facts = np.array(numbers)
    size, kernel = (3, kernels.pendulum_step) if rules is pendulum else (6, kernels.acrobot_step)

    def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        games = len(action)
        following, observation = np.empty_like(state), np.empty((games, size), dtype=np.float32)
        reward, terminated = np.empty(games), np.empty(games, dtype=np.bool_)
        more = (pendulum.squared_torque(pendulum.clipped(action)),) if rules is pendulum else ()
        kernel(state, action, facts, two, *more, following, observation, reward, terminated)
        return following, observation, reward, terminated

    with compiling(rules.__name__.rpartition(".")[2]):
        return step if _equal(step, rules) else rules.step


@functools.cache
def _facts(rules: ModuleType) -> np.ndarray:
    """The rules' numbers as the kernels read them, and the exponent of squares, float64 (4,)."""
    if rules is pendulum:
        return np.array([pendulum.MAX_TORQUE, pendulum.MAX_SPEED, pendulum.TIME_STEP, 2.0])
    return np.array([acrobot.TIME_STEP, *acrobot.MAX_SPEEDS, 2.0])


@functools.cache
def _play_of(rules: ModuleType) -> Any:
    from decouple.compiled import control as kernels

    kernel, size = (kernels.pendulum_play, 3) if rules is pendulum else (kernels.acrobot_play, 6)

    def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        state, games = state.copy(), len(action)
        made = np.empty((games, size), dtype=np.float32), np.empty(games), np.empty(games, dtype=np.bool_)
        kernel(placed(rules, state)[0], 0, games, action.reshape(games, 1), *made)
        return state, *made

    with compiling(f"{rules.__name__.rpartition('.')[2]}-play"):
        if not _equal(step, rules):
            return None
    action = np.zeros((1, 1), dtype=np.float32 if rules is pendulum else np.int64)
    seen, reward, ended = np.zeros((1, size), dtype=np.float32), np.zeros(1), np.zeros(1, dtype=np.bool_)
    return first_class(kernel, np.zeros(3, dtype=np.int64), 0, 1, action, seen, reward, ended)


@functools.cache
def _count() -> Any:
    from decouple.compiled.games import count_step

    with compiling("count-step"):
        number, whole, flags = np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_)
        count_step(number, flags, 1.0, 1, number, whole, number, whole, flags, np.zeros((2, 1), np.float32), flags)
    return count_step


def _equal(step: Step, rules: ModuleType) -> bool:
    """Whether two steps give the same bits from random states."""
    generator = np.random.default_rng(0)
    states = generator.uniform(-8.0, 8.0, (rules.STATE_SIZE, TRIED))
    actions: Any = generator.integers(0, 3, TRIED)
    if rules is pendulum:
        actions = generator.uniform(-2.5, 2.5, (TRIED, 1)).astype(np.float32)
    both = zip(step(states, actions), rules.step(states, actions), strict=True)
    return all(one.dtype == other.dtype and one.tobytes() == other.tobytes() for one, other in both)
