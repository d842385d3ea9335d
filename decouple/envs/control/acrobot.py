"""The rules of Gymnasium's Acrobot-v1 for all games at once, in NumPy, equal to Gymnasium's to the last bit.

Two links hang from a fixed joint. A torque of -1, 0 or 1 Nm acts at the joint between them; the task is to swing the
free end one link's length above the fixed joint, which ends the episode. Each step before that has reward -1. A step is
0.2 s of the equations in Sutton and Barto's book, solved by the Runge-Kutta method of fourth order. The observation is
the cosine and sine of both angles (the second relative to the first link), and both angular velocities. Called by
``decouple.envs.control.backends.BatchedGames``::

    state, observation = begin(np.random.default_rng(0))                # (4,) and (6,): one game
    state, observation, reward, terminated = step(states, actions)      # (4, G), (G,): all games

Source: ``gymnasium/envs/classic_control/acrobot.py`` of https://github.com/Farama-Foundation/Gymnasium, whose order of
operations is kept.
"""

from __future__ import annotations

import numpy as np

from decouple.envs.control.pendulum import squared

__all__ = ["NAME", "OBSERVED", "STATE_SIZE", "TERMINATES", "begin", "examples", "facts", "step"]

NAME = "acrobot"
OBSERVED = 6
STATE_SIZE = 4  # both angles, both speeds
TERMINATES = True
TIME_STEP = 0.2
MAX_SPEEDS = 4 * np.pi, 9 * np.pi
TORQUES = np.array([-1.0, 0.0, 1.0])


def begin(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Begin an episode of one game: state float32 (4,), rounded as Gymnasium does, and observation float32 (6,)."""
    state = generator.uniform(low=-0.1, high=0.1, size=(STATE_SIZE,)).astype(np.float32)
    first, second, *speeds = state
    seen = [np.cos(first), np.sin(first), np.cos(second), np.sin(second), *speeds]
    return state, np.array(seen, dtype=np.float32)


def step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of G games.

    Args:
        state: float64 (4, G).
        action: integers (G,) in [0, 3).

    Returns:
        The next state float64 (4, G), its observation float32 (G, 6), the reward float64 (G,), and terminated, bool
        (G,).
    """
    torque = TORQUES[action]
    half = TIME_STEP / 2.0
    slope1 = _slope(state, torque)
    slope2 = _slope(state + half * slope1, torque)
    slope3 = _slope(state + half * slope2, torque)
    slope4 = _slope(state + TIME_STEP * slope3, torque)
    following = state + TIME_STEP / 6.0 * (slope1 + 2 * slope2 + 2 * slope3 + slope4)
    _wrap(following[:2])
    for speed, limit in zip(following[2:], MAX_SPEEDS, strict=True):
        np.minimum(np.maximum(speed, -limit), limit, out=speed)
    first, second = following[:2]
    cosine = np.cos(first)
    observation = np.empty((len(action), 6), dtype=np.float32)
    for column, values in enumerate((cosine, np.sin(first), np.cos(second), np.sin(second), *following[2:])):
        observation[:, column] = values
    terminated = -cosine - np.cos(second + first) > 1.0
    return following, observation, np.where(terminated, 0.0, -1.0), terminated


def facts() -> np.ndarray:
    """The rules' numbers as the kernel reads them, and the exponent of squares, float64 (4,)."""
    return np.array([TIME_STEP, *MAX_SPEEDS, 2.0])


def examples(generator: np.random.Generator, games: int) -> tuple[np.ndarray, np.ndarray]:
    """States and actions, as ``step`` takes them."""
    return generator.uniform(-8.0, 8.0, (STATE_SIZE, games)), generator.integers(0, 3, games)


def _slope(state: np.ndarray, torque: np.ndarray) -> np.ndarray:
    """The state's derivative by time, per second, (4, G). Masses, lengths and moments of inertia are 1, g is 9.8."""
    angle1, angle2, speed1, speed2 = state
    sine, cosine = np.sin(angle2), np.cos(angle2)
    d1 = 0.25 + (1.25 + cosine) + 1.0 + 1.0
    d2 = 0.25 + 0.5 * cosine + 1.0
    phi2 = 0.5 * 9.8 * np.cos(angle1 + angle2 - np.pi / 2.0)
    square1, square2 = squared(state[2:].ravel()).reshape(2, -1)
    phi1 = -0.5 * square2 * sine - speed2 * speed1 * sine + 1.5 * 9.8 * np.cos(angle1 - np.pi / 2) + phi2
    slope = np.empty_like(state)
    slope[:2] = state[2:]
    numerator = torque + d2 / d1 * phi1 - 0.5 * square1 * sine - phi2
    slope[3] = numerator / (1.25 - squared(d2) / d1)
    slope[2] = -(d2 * slope[3] + phi1) / d1
    return slope


def _wrap(angles: np.ndarray) -> None:
    """Bring angles into [-pi, pi], in place, by steps of 2 pi as Gymnasium does."""
    while (beyond := angles > np.pi).any():
        angles[beyond] -= 2 * np.pi
    while (beyond := angles < -np.pi).any():
        angles[beyond] += 2 * np.pi
