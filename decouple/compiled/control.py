"""The rules of Pendulum, Acrobot and Forage as kernels, a step of all games at once, with NumPy's numbers to the bit.

They repeat ``decouple.envs.control.pendulum``, ``acrobot`` and ``forage``, whose files say why a rule is as it is, in
their order of operations; the caller gives the rules' numbers, so that each has one place. Squares are C's pow, as
there: the exponent is an argument, since a constant one would become a product. Those of torques are NumPy's, which
differ.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray

from decouple.compiled.kernel import exact_kernel
from decouple.compiled.places import pointer

__all__: list[str] = []  # kernels are called by environments and by each other

TORQUE = type(1.0 * np.float32(1.0))  # as ``pendulum.TORQUE``


@exact_kernel
def pendulum_play(places, first, last, action, observation, reward, terminated):
    """One step of the games from ``first`` to ``last``, as ``compiled.playing.Playing.play``.

    ``places``: the number of all games; where their state lies, float64 (2, G); and the facts of ``pendulum_step``,
    with the exponent 2.0 behind them, float64 (4,).
    """
    state = carray(pointer(places[1]), (2, places[0]), np.float64)[:, first:last]
    facts = carray(pointer(places[2]), 4, np.float64)
    squares = np.empty(last - first, dtype=TORQUE)
    most, two = np.float32(facts[0]), squares.dtype.type(facts[3])
    for game in range(last - first):
        squares[game] = math.pow(squares.dtype.type(min(max(action[game, 0], -most), most)), two)
    numbers = (facts[0], facts[1], facts[2])
    pendulum_step(state, action, numbers, facts[3], squares, state, observation, reward, terminated)


@exact_kernel
def acrobot_play(places, first, last, action, observation, reward, terminated):
    """As ``pendulum_play``, with a state float64 (4, G) and the facts of ``acrobot_step``."""
    state = carray(pointer(places[1]), (4, places[0]), np.float64)[:, first:last]
    facts = carray(pointer(places[2]), 4, np.float64)
    numbers = (facts[0], facts[1], facts[2])
    acrobot_step(state, action[:, 0], numbers, facts[3], state, observation, reward, terminated)


@exact_kernel
def forage_play(places, first, last, action, observation, reward, terminated):
    """As ``pendulum_play``, with a state float64 (5, G) and what ``Forage.facts`` returns."""
    state = carray(pointer(places[1]), (5, places[0]), np.float64)[:, first:last]
    facts = carray(pointer(places[2]), 5, np.float64)
    cells, most = int(facts[0]) ** 2, int(facts[2])
    pillars_at, bar_at = 3 * cells, observation.shape[1] - most
    tables = carray(pointer(places[2]), 5 + 5 * cells, np.float64)[5:]
    for game in range(last - first):
        cell, life, pillars = int(state[0, game]), state[1, game], int(state[2, game])
        food, poison = int(state[3, game]), int(state[4, game])
        target = int(tables[action[game, 0] * cells + cell])
        place = int(tables[4 * cells + target])
        if place < 0 or pillars >> place & 1 == 0:
            cell = target
        ate, poisoned = food >> cell & 1, poison >> cell & 1
        food, poison = food - (ate << cell), poison - (poisoned << cell)
        if facts[3]:
            life = min(life - 1 + facts[1] * ate, facts[2])
        state[0, game], state[1, game], state[3, game], state[4, game] = cell, life, food, poison
        reward[game], terminated[game] = ate - poisoned, food == 0 or life == 0
        seen = observation[game]
        for at in range(cells):
            seen[at] = at == cell
            seen[cells + at] = food >> at & 1
            seen[2 * cells + at] = poison >> at & 1
        for at in range(bar_at - pillars_at):
            seen[pillars_at + at] = pillars >> at & 1
        for at in range(most):
            seen[bar_at + at] = at < life and facts[4] != 0


@exact_kernel
def pendulum_step(state, action, facts, two, squares, following, observation, reward, terminated):
    """One step of G games of Pendulum.

    Args:
        state, action: as for ``pendulum.step``: float64 (2, G), float32 (G, 1).
        facts: the largest torque, the largest speed, and a step's duration, float64 each.
        two: the exponent of squares, 2.0. squares: those of the torques, (G,), in the type of a torque.
        following, observation, reward, terminated: set, as ``pendulum.step`` returns them.
    """
    max_torque, max_speed, duration = facts
    real, most = squares.dtype.type, np.float32(max_torque)
    for game in range(action.shape[0]):
        angle, speed = state[0, game], state[1, game]
        torque = real(min(max(action[game, 0], -most), most))
        within = (angle + np.pi) % (2 * np.pi) - np.pi
        cost = math.pow(within, two) + 0.1 * math.pow(speed, two) + real(0.001) * squares[game]
        reward[game] = -cost
        speed = speed + (15.0 * math.sin(angle) + real(3.0) * torque) * duration
        speed = min(max(speed, -max_speed), max_speed)
        angle = angle + speed * duration
        following[0, game], following[1, game] = angle, speed
        observation[game, 0], observation[game, 1], observation[game, 2] = math.cos(angle), math.sin(angle), speed
        terminated[game] = False


@exact_kernel
def acrobot_step(state, action, facts, two, following, observation, reward, terminated):
    """One step of G games of Acrobot; arguments as for ``pendulum_step``.

    Args:
        state, action: float64 (4, G), integers (G,).
        facts: a step's duration, and the largest speed of each link.
    """
    duration, max_first, max_second = facts
    half, sixth = duration / 2.0, duration / 6.0
    for game in range(action.shape[0]):
        torque = float(action[game] - 1)
        a, b, c, d = state[0, game], state[1, game], state[2, game], state[3, game]
        a1, b1, c1, d1 = acrobot_slope(a, b, c, d, torque, two)
        a2, b2, c2, d2 = acrobot_slope(a + half * a1, b + half * b1, c + half * c1, d + half * d1, torque, two)
        a3, b3, c3, d3 = acrobot_slope(a + half * a2, b + half * b2, c + half * c2, d + half * d2, torque, two)
        a4, b4, c4, d4 = acrobot_slope(
            a + duration * a3, b + duration * b3, c + duration * c3, d + duration * d3, torque, two
        )
        a = wrapped(a + sixth * (a1 + 2 * a2 + 2 * a3 + a4))
        b = wrapped(b + sixth * (b1 + 2 * b2 + 2 * b3 + b4))
        c = min(max(c + sixth * (c1 + 2 * c2 + 2 * c3 + c4), -max_first), max_first)
        d = min(max(d + sixth * (d1 + 2 * d2 + 2 * d3 + d4), -max_second), max_second)
        following[0, game], following[1, game], following[2, game], following[3, game] = a, b, c, d
        cosine, seen = math.cos(a), observation[game]
        seen[0], seen[1], seen[2], seen[3], seen[4], seen[5] = cosine, math.sin(a), math.cos(b), math.sin(b), c, d
        terminated[game] = -cosine - math.cos(b + a) > 1.0
        reward[game] = 0.0 if terminated[game] else -1.0


@exact_kernel
def acrobot_slope(angle1, angle2, speed1, speed2, torque, two):
    """The derivative by time of a game's angles and speeds."""
    sine, cosine = math.sin(angle2), math.cos(angle2)
    d1 = 0.25 + (1.25 + cosine) + 1.0 + 1.0
    d2 = 0.25 + 0.5 * cosine + 1.0
    phi2 = 0.5 * 9.8 * math.cos(angle1 + angle2 - np.pi / 2.0)
    square1, square2 = math.pow(speed1, two), math.pow(speed2, two)
    phi1 = -0.5 * square2 * sine - speed2 * speed1 * sine + 1.5 * 9.8 * math.cos(angle1 - np.pi / 2) + phi2
    numerator = torque + d2 / d1 * phi1 - 0.5 * square1 * sine - phi2
    of_second = numerator / (1.25 - math.pow(d2, two) / d1)
    return speed1, speed2, -(d2 * of_second + phi1) / d1, of_second


@exact_kernel
def wrapped(angle):
    """An angle brought into [-pi, pi] by steps of 2 pi."""
    while angle > np.pi:
        angle -= 2 * np.pi
    while angle < -np.pi:
        angle += 2 * np.pi
    return angle
