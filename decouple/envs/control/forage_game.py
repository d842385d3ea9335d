"""Forage (decouple/envs/control/forage.py) as an environment of Gymnasium, one game at a time, with pictures.

    import gymnasium
    import decouple.envs.control.forage_game   # registers it

    env = gymnasium.make("decouple/Forage-v0", life="shown", render_mode="rgb_array")
    observation, info = env.reset(seed=3)      # level 3

As a task of this library it is ``env=forage``, by ``control_env`` all games at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decouple.checks import check_setting, checked
from decouple.envs.control.forage import MOST, Forage

try:
    import gymnasium
    from gymnasium.spaces import Box, Discrete
except ImportError as failure:  # Gymnasium is optional; no other file imports this one at the top
    raise ImportError(
        "decouple.envs.control.forage_game needs Gymnasium: pip install 'torchrl-decouple[games]'"
    ) from failure

__all__ = ["ForageGame"]

PIXELS = 32  # of a cell
FLOOR, PILLAR, FOOD = (24, 28, 36), (120, 124, 132), (96, 192, 96)
POISON, AGENT, BAR = (200, 72, 72), (255, 255, 255), (240, 200, 72)


class ForageGame(gymnasium.Env):
    """One game. ``gymnasium.make`` adds the step limit, 50, as truncation.

    The observation is a Box of zeros and ones, float32 (O,), as ``Forage`` describes it. The action is Discrete(4): up,
    right, down, left.

    Args:
        life, size: as for ``Forage``.
        render_mode: rgb_array: ``render()`` returns the picture, uint8 (H, W, 3): food green, poison red, pillars grey,
            the agent white; below, where it is shown, the life.

    Raises:
        ValueError: an argument outside its range; an action that is not in ``action_space``.
        RuntimeError: a step before the first reset or beyond the end of the game.

    Attributes:
        rules: the game's rules. state: the game, float64 (5,).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012  (as Gymnasium declares it)

    @checked()
    def __init__(self, *, life: str = "none", size: int = 5, render_mode: str | None = None) -> None:
        self.rules = Forage(life, size)
        modes = (None, *self.metadata["render_modes"])
        check_setting("render_mode", render_mode, modes.__contains__, "rgb_array or None")
        self.render_mode = render_mode
        self.observation_space = Box(0, 1, (self.rules.OBSERVED,), dtype=np.float32)
        self.action_space = Discrete(self.rules.num_actions)
        self.state: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin a level: the one of the seed, or the next that the game's generator gives."""
        super().reset(seed=seed)
        self.state, observation = self.rules.begin(self.np_random)
        self._over = False
        return observation, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take one step."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must lie in {self.action_space}; got {action!r}")
        if self.state is None or self._over:
            raise RuntimeError("a game that is over, or not begun, must be reset before the next step")
        state, observation, reward, over = self.rules.step(self.state[:, None], np.array([action]))
        self.state, self._over = state[:, 0], bool(over[0])
        return observation[0], float(reward[0]), self._over, False, {}

    def render(self) -> np.ndarray | None:
        """The picture, or None without a ``render_mode``."""
        if self.render_mode is None or self.state is None:
            return None
        size, area = self.rules.size, self.rules.size**2
        seen = self.rules.observe(self.state[:, None])[0] > 0
        colours = np.full((area, 3), FLOOR, dtype=np.uint8)
        places = np.flatnonzero([row % 2 and column % 2 for row, column in np.ndindex(size, size)])
        colours[places[seen[3 * area : -MOST]]] = PILLAR
        for cells, colour in ((seen[area : 2 * area], FOOD), (seen[2 * area : 3 * area], POISON), (seen[:area], AGENT)):
            colours[cells] = colour
        picture = np.kron(colours.reshape(size, size, 3), np.ones((PIXELS, PIXELS, 1), dtype=np.uint8))
        picture[::PIXELS], picture[:, ::PIXELS] = 0, 0  # the lines between cells
        bar = np.zeros((PIXELS // 2, size * PIXELS, 3), dtype=np.uint8)
        bar[:, : seen[-MOST:].sum() * size * PIXELS // MOST] = BAR
        return np.concatenate([picture, bar])


gymnasium.register(
    "decouple/Forage-v0", entry_point="decouple.envs.control.forage_game:ForageGame", max_episode_steps=50
)
