"""The rules of control tasks by kernels, with NumPy's numbers to the bit, in a process that has imported Numba.

    step = compiled_step(pendulum)                                      # pendulum.step itself where there is no kernel
    state, observation, reward, terminated = step(states, actions)

In NumPy, a step of a few games takes tens of microseconds for its dozens of operations on tiny arrays. A process that
has no compiled updates does not import Numba for the games alone, which takes longer than it saves in a short run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from decouple.compiled.kernel import compiling, unavailable
from decouple.compiled.playing import addresses, first_class

__all__ = ["compiled_play", "compiled_step", "count_of_steps", "placed"]

TRIED = 4000  # states from which kernel and rules are compared

Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def compiled_step(rules: Any) -> Step:
    """The rules' ``step`` as a kernel; ``step`` itself without Numba, and where NumPy's sines are not C's."""
    return rules.step if _no_numba() else _step_of(rules)


def compiled_play(rules: Any) -> Any:
    """The rules for the kernels that act and learn, as ``Playing.play``; None where ``compiled_step`` has no kernel."""
    return None if _no_numba() else _play_of(rules)


def placed(rules: Any, state: np.ndarray) -> tuple[np.ndarray, Any]:
    """What ``Playing.play`` of rules finds games by, whose state it writes into; and the owners of what lies there."""
    facts = _facts(rules)
    return np.array([state.shape[1], *addresses(state, facts)]), (state, facts)


def count_of_steps() -> Any:
    """The kernel that counts a step into the running episodes, ``decouple.compiled.games.count_step``, or None."""
    return None if _no_numba() else _count()


def _no_numba() -> bool:
    return "numba" not in sys.modules or unavailable() is not None


@functools.cache
def _step_of(rules: Any) -> Step:
    step = _by_kernel(rules)
    with compiling(rules.NAME):
        return step if _equal(step, rules) else rules.step


@functools.cache
def _play_of(rules: Any) -> Any:
    return None if _step_of(rules) is rules.step else _first_class(rules.NAME, rules.examples(_generator(), 1)[1].dtype)


@functools.cache
def _first_class(name: str, of_actions: np.dtype) -> Any:
    """A task's ``play`` for other kernels, the same for all its options."""
    action = np.zeros((1, 1), dtype=of_actions)
    made = np.zeros((1, 1), dtype=np.float32), np.zeros(1), np.zeros(1, dtype=np.bool_)
    with compiling(f"{name}-play"):
        return first_class(_kernel(name), np.zeros(3, dtype=np.int64), 0, 1, action, *made)


def _kernel(name: str) -> Any:
    from decouple.compiled import control as kernels

    return getattr(kernels, f"{name}_play")


def _by_kernel(rules: Any) -> Step:
    """``step`` of rules by their kernel."""
    kernel = _kernel(rules.NAME)

    def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        state, games = state.copy(), len(action)
        made = np.empty((games, rules.OBSERVED), dtype=np.float32), np.empty(games), np.empty(games, dtype=np.bool_)
        kernel(placed(rules, state)[0], 0, games, action.reshape(games, -1), *made)
        return state, *made

    return step


@functools.cache
def _facts(rules: Any) -> np.ndarray:
    return rules.facts()


@functools.cache
def _count() -> Any:
    from decouple.compiled.games import count_step

    with compiling("count-step"):
        number, whole, flags = np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_)
        count_step(number, flags, 1.0, 1, number, whole, number, whole, flags, np.zeros((2, 1), np.float32), flags)
    return count_step


def _equal(step: Step, rules: Any) -> bool:
    """Whether two steps give the same bits from random states."""
    examples = rules.examples(_generator(), TRIED)
    both = zip(step(*examples), rules.step(*examples), strict=True)
    return all(one.dtype == other.dtype and one.tobytes() == other.tobytes() for one, other in both)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)
