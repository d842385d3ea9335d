"""One task in four units of its action: `import track_task` registers `Track-1-v0`, `-0p1`, `-0p01` and `-100`.

An episode has twenty steps. The observation x is drawn uniformly from [-1, 1] at every step; the reward of an action a
in [-half, half] is -(x + a / half)^2. So the best return is 0 in every unit, and the mean return of action 0 is -20/3.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

HALVES = {"1": 1.0, "0p1": 0.1, "0p01": 0.01, "100": 100.0}


class Track(gymnasium.Env):
    """A task whose best action cancels the observation; `half`: largest action."""

    def __init__(self, half: float) -> None:
        self.half = half
        self.observation_space = Box(-1, 1, (1,), np.float32)
        self.action_space = Box(-half, half, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.x = 0, self._observe()
        return self.x, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -float((self.x[0] + action[0] / self.half) ** 2)
        self.steps, self.x = self.steps + 1, self._observe()
        return self.x, reward, False, self.steps == 20, {}

    def _observe(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)


for _name, _half in HALVES.items():
    gymnasium.register(f"Track-{_name}-v0", lambda half=_half: Track(half))
