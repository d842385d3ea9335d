"""The running episodes of an environment of control tasks, as NumPy arrays.

episodes = RunningEpisodes(**arrays, done=done, due=bool(done.any()))
episodes.take_over(playing, last_step=200)          # after kernels have played some steps
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decouple.compiled.playing import Playing

__all__ = ["RunningEpisodes"]


@dataclass
class RunningEpisodes:
    """The running episodes, in a class of their own because setting an attribute of a torch module takes longer.

    A step makes new arrays and never writes to old ones, which have been handed out.
    """

    observation: np.ndarray  # (S, N, O + P) float32, or bytes
    episode_reward: np.ndarray  # (S, N, 1) float64, as is discounted_return
    discounted_return: np.ndarray
    step_count: np.ndarray  # (S, N, 1) int64
    terminated: np.ndarray  # (S, N, 1) bool, as are truncated and done
    truncated: np.ndarray
    done: np.ndarray
    due: bool  # True if any episode is done, and so due for a reset
    just_loaded: bool = False

    KEYS = ("observation", "episode_reward", "discounted_return", "step_count", "terminated", "truncated")

    def take_over(self, playing: Playing, last_step: float) -> None:
        """Take over what kernels have played; ``last_step``: steps of an episode."""
        column = self.step_count.shape
        self.observation = playing.observation
        self.episode_reward, self.step_count = playing.total.reshape(column), playing.steps.reshape(column)
        self.terminated, self.truncated = playing.terminated.reshape(column), self.step_count >= last_step
        self.done = self.terminated | self.truncated
        self.due, self.just_loaded = True in self.done.ravel().tolist(), False
