"""The rules of Gymnasium's Pendulum-v1 for all games at once, in NumPy, equal to Gymnasium's to the last bit.

With th the angle from upright, w its speed and u the torque, clipped to [-2, 2], a step of 0.05 s at g = 10 is

    w <- clip(w + (15 sin th + 3 u) 0.05, -8, 8)        th <- th + 0.05 w        r = -(th^2 + 0.1 w^2 + 0.001 u^2)

The reward uses th, brought into [-pi, pi), and w from before the step. The observation is cos th, sin th and w. Called
by ``decouple.envs.control.backends.BatchedGames``::

    state, observation = begin(np.random.default_rng(0))                # (2,) and (3,): one game
    state, observation, reward, terminated = step(states, actions)      # (2, G), (G, 1): all games

Source: ``gymnasium/envs/classic_control/pendulum.py`` of https://github.com/Farama-Foundation/Gymnasium, whose order of
operations is kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["NAME", "OBSERVED", "STATE_SIZE", "TERMINATES", "begin", "examples", "facts", "step"]

NAME = "pendulum"
STATE_SIZE = 2  # th and w
OBSERVED = 3
TERMINATES = False  # episodes end by their step limit alone
MAX_TORQUE, MAX_SPEED, TIME_STEP = 2.0, 8.0, 0.05
LEAST_TORQUE, LARGEST_TORQUE = np.array([[-MAX_TORQUE], [MAX_TORQUE]], dtype=np.float32)  # NumPy reads arrays faster
LARGEST_START = np.array([np.pi, 1.0])  # largest magnitudes of th and w at the start of an episode
# Type of a float32 number times a Python number: float64 in NumPy 1, float32 in NumPy 2. Gymnasium's torque is such a
# product; a float32 array stays float32 in both.
TORQUE = type(1.0 * np.float32(1.0))


def begin(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Begin an episode of one game: state float64 (2,) and observation float32 (3,)."""
    state = generator.uniform(low=-LARGEST_START, high=LARGEST_START)
    return state, np.array([np.cos(state[0]), np.sin(state[0]), state[1]], dtype=np.float32)


def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of G games.

    Args:
        state: float64 (2, G).
        action: float32 (G, 1), finite.

    Returns:
        The next state float64 (2, G), its observation float32 (G, 3), the reward float64 (G,), and terminated, bool
        (G,), which is always False.
    """
    angle, speed = state
    its_torque = clipped(action)
    torque = its_torque.astype(TORQUE)
    cost = squared((angle + np.pi) % (2 * np.pi) - np.pi) + 0.1 * squared(speed) + 0.001 * squared_torque(its_torque)
    following, observation = np.empty_like(state), np.empty((len(action), 3), dtype=np.float32)
    speed = speed + (15.0 * np.sin(angle) + 3.0 * torque) * TIME_STEP
    following[1] = np.minimum(np.maximum(speed, -MAX_SPEED), MAX_SPEED)
    following[0] = angle + following[1] * TIME_STEP
    observation[:, 0], observation[:, 1], observation[:, 2] = np.cos(following[0]), np.sin(following[0]), following[1]
    return following, observation, -cost, np.zeros(len(action), dtype=np.bool_)


def facts() -> np.ndarray:
    """The rules' numbers as the kernel reads them, and the exponent of squares, float64 (4,)."""
    return np.array([MAX_TORQUE, MAX_SPEED, TIME_STEP, 2.0])


def examples(generator: np.random.Generator, games: int) -> tuple[np.ndarray, np.ndarray]:
    """States and actions, some of them out of range, as ``step`` takes them."""
    states = generator.uniform(-8.0, 8.0, (STATE_SIZE, games))
    return states, generator.uniform(-2.5, 2.5, (games, 1)).astype(np.float32)


def clipped(action: np.ndarray) -> np.ndarray:
    """The torques of actions float32 (G, 1), float32 (G,)."""
    return np.minimum(np.maximum(action[:, 0], LEAST_TORQUE), LARGEST_TORQUE)


def squared(numbers: np.ndarray) -> np.ndarray:
    """The squares of a float64 array (G,), computed by C's pow, as NumPy squares a single number.

    NumPy squares an array by a product, which differs from pow in the last bit about once in a thousand numbers.
    """
    return np.array([number**2 for number in numbers.tolist()])


def squared_torque(torque: np.ndarray) -> np.ndarray:
    """The squares of a float32 array (G,). NumPy 1 has no pow for float32 numbers, and uses that of float64 arrays."""
    if TORQUE is np.float64:  # the exponents are an array, because with a number NumPy would use a product again
        return np.power(torque.astype(np.float64), _exponents(len(torque)))
    return np.array([number**2 for number in torque])


@lru_cache
def _exponents(number: int) -> np.ndarray:
    return np.full(number, 2.0)
