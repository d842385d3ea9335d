"""Forage: a small grid with as many levels as one likes, to ask how well an agent does on levels it never saw.

The agent walks on a grid of 5 x 5 or 7 x 7 cells and collects food, +1 each, and should keep off the poison, -1 each. A
level is where agent, food, poison and pillars lie; a reset's seed decides it, so that ``num_levels`` of it can be for
training and all others for the test, as in Procgen. Pillars stand where row and column are both odd, so that every cell
can be reached. An episode ends when all food is eaten.

What does the value depend on? With ``life`` it depends on something that says little about where to go: the agent
starts with the life for 8 steps, eats food for 4 more, and the episode also ends when its life is used up. ``shown``
draws the life into the picture as a bar, ``hidden`` does not. So one can ask whether a trunk that policy and value
share suffers where the picture shows the value's cause, as is supposed of the life bar of Procgen's Plunder (Nafi, Ali
and Hsu 2023, *Analyzing the Sensitivity to Policy-Value Decoupling in Deep Reinforcement Learning Generalization*).

All games at once, as ``decouple.envs.control.backends.BatchedGames`` calls it; the kernel ``forage_play`` of
decouple/compiled/control.py repeats the rules::

    rules = Forage(life="shown")
    state, observation = rules.begin(np.random.default_rng(0))          # (5,) and (91,): one game
    state, observation, reward, terminated = rules.step(states, actions)  # (5, G), (G,): all games
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from decouple.checks import check_setting, one_of

__all__ = ["Forage"]

START, MEAL, MOST = 8, 4, 12  # life in steps: at the start, that food adds, and the most
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left, as row and column


class Grid(NamedTuple):
    """What depends on the size alone; n cells, counted row by row.

    Attributes:
        target: the cell that a move from a cell would lead to, the same cell at the border, int64 (4, n).
        pillar: a cell's number among those where pillars may stand, else -1, int64 (n,).
        free: cells where no pillar may stand, int64. food, poison: how many there are.
    """

    target: np.ndarray
    pillar: np.ndarray
    free: np.ndarray
    food: int
    poison: int


@lru_cache
def grid(size: int) -> Grid:
    rows, columns = np.divmod(np.arange(size * size), size)
    moved = [(np.clip(rows + down, 0, size - 1), np.clip(columns + right, 0, size - 1)) for down, right in MOVES]
    odd = (rows % 2 == 1) & (columns % 2 == 1)
    pillar = np.where(odd, np.cumsum(odd) - 1, -1)
    target = np.array([row * size + column for row, column in moved])
    return Grid(target, pillar, np.flatnonzero(~odd), food=size + 1, poison=size)


@dataclass(frozen=True)
class Forage:
    """The rules, with their settings.

    State of a game, float64 (5,): the agent's cell, its life, and which cells have pillars, food and poison, as bits.

    Observation, float32 (3 n + p + 12,) of n cells and p places for pillars: where the agent is, where food, where
    poison, which pillars there are, and the bar of the life, a 1 for each step left; without ``life=shown`` zeros.

    Args:
        life: none: an episode ends when all food is eaten; shown: also when the life is used up, and a bar shows it;
            hidden: the same without the bar.
        size: rows and columns, 5 or 7.

    Raises:
        ValueError: another life or size.
    """

    life: str = "none"
    size: int = 5

    NAME = "forage"
    STATE_SIZE = 5
    TERMINATES = True
    num_actions = 4

    def __post_init__(self) -> None:
        check_setting("life", self.life, one_of("none", "shown", "hidden"))
        check_setting("size", self.size, lambda size: type(size) is int and size in (5, 7), "5 or 7")

    @property
    def OBSERVED(self) -> int:  # noqa: N802  (a constant of the other rules)
        """O, the observation's numbers."""
        return 3 * self.size**2 + (self.size // 2) ** 2 + MOST

    def facts(self) -> np.ndarray:
        """The rules' numbers as the kernel reads them, float64."""
        where, mortal, shown = grid(self.size), self.life != "none", self.life == "shown"
        numbers = [[self.size, MEAL, MOST, mortal, shown], where.target.ravel(), where.pillar]
        return np.concatenate(numbers, dtype=np.float64)

    def begin(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Begin an episode of one game: state float64 (5,) and observation float32 (O,)."""
        where = grid(self.size)
        pillars = generator.integers(2 ** (self.size // 2) ** 2)
        cells = generator.permutation(where.free)
        food, poison = cells[1 : 1 + where.food], cells[1 + where.food : 1 + where.food + where.poison]
        state = np.array([cells[0], START, pillars, (1 << food).sum(), (1 << poison).sum()], dtype=np.float64)
        seen, area = np.zeros(self.OBSERVED, dtype=np.float32), self.size**2  # as `observe`, of which it is a fifth
        seen[cells[0]] = seen[area + food] = seen[2 * area + poison] = 1
        seen[3 * area : -MOST] = pillars >> np.arange((self.size // 2) ** 2) & 1
        seen[len(seen) - MOST : len(seen) - MOST + START] = self.life == "shown"
        return state, seen

    def step(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of G games.

        Args:
            state: float64 (5, G).
            action: integers (G,) in [0, 4): up, right, down, left. Off the grid and into pillars the agent stays.

        Returns:
            The next state float64 (5, G), its observation float32 (G, O), the reward float64 (G,), and terminated, bool
            (G,).
        """
        where = grid(self.size)
        cell, life, pillars, food, poison = state.astype(np.int64)
        target = where.target[action, cell]
        place = where.pillar[target]
        cell = np.where((place >= 0) & (pillars >> np.maximum(place, 0) & 1 == 1), cell, target)
        ate, poisoned = food >> cell & 1, poison >> cell & 1
        food, poison = food - (ate << cell), poison - (poisoned << cell)
        over = food == 0
        if self.life != "none":
            life = np.minimum(life - 1 + MEAL * ate, MOST)
            over |= life == 0
        following = np.array([cell, life, pillars, food, poison], dtype=np.float64)
        return following, self.observe(following), (ate - poisoned).astype(np.float64), over

    def examples(self, generator: np.random.Generator, games: int) -> tuple[np.ndarray, np.ndarray]:
        """States of new games and actions, as ``step`` takes them."""
        states = np.stack([self.begin(generator)[0] for _ in range(games)], axis=1)
        return states, generator.integers(0, self.num_actions, games)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Observations float32 (G, O) of states float64 (5, G)."""
        cell, life, pillars, food, poison = state.astype(np.int64)[..., None]
        cells, places = np.arange(self.size**2), np.arange((self.size // 2) ** 2)
        bar = (np.arange(MOST) < life) & (self.life == "shown")
        parts = [cell == cells, food >> cells & 1, poison >> cells & 1, pillars >> places & 1, bar]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")
