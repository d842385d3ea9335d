"""Running mean and variance, one pair per seed; OpenAI Baselines' ``RunningMeanStd`` has one pair for a whole run.

    moments = RunningMoments(num_seeds=6, size=(17,))
    moments.merge(observations)                        # (6, N, 17): one batch of every seed
    scaled = moments.standardize(observations)         # (x - mean) / std, clipped

Seeds never mix: row s of the statistics has the same bits as if seed s were alone. Source:
``RunningMeanStd`` in https://github.com/openai/baselines, file ``baselines/common/running_mean_std.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from decouple.checks import all_of, at_least, checked

__all__ = ["RunningMoments"]

CLIP = 10.0  # largest magnitude of a scaled number, as in Baselines' VecNormalize
EPSILON = 1e-8  # added to the variance, as in VecNormalize


class RunningMoments:
    """Mean and (biased) variance of all samples so far, one pair per seed.

    n samples with mean m and variance v are merged with a batch of k samples with mean m' and variance v' (Chan et
    al., 1979), with d = m' - m::

        m <- m + d k / (n + k)        v <- (v n + v' k + d^2 n k / (n + k)) / (n + k)        n <- n + k

    The start is m = 0, v = 1, n = 1e-4.

    Args:
        num_seeds: S, number of seeds.
        size: shape of one sample: (O,) for observations of O numbers, () for one number.

    Attributes:
        mean, variance: float64 (S, *size). count: samples so far, float64 (S, 1, ..., 1) with as many axes.
    """

    @checked(num_seeds=at_least(1), size=all_of(at_least(1)))
    def __init__(self, num_seeds: int, size: tuple[int, ...]) -> None:
        self.mean = np.zeros((num_seeds, *size))
        self.variance = np.ones((num_seeds, *size))
        self.count = np.full((num_seeds, *(1,) * len(size)), 1e-4)

    def merge(self, samples: np.ndarray, seeds: slice = slice(None)) -> None:
        """Add one batch to the statistics of ``seeds``. ``samples``: (R, K, *size), K samples of R seeds."""
        number = samples.shape[1]
        count = self.count[seeds]
        total = count + number
        # np.mean and np.var call np.add.reduce too, but after checks that take longer than the sums themselves.
        mean = np.add.reduce(samples, axis=1) / number  # (R, *size)
        variance = np.add.reduce((samples - mean[:, None]) ** 2, axis=1) / number
        delta = mean - self.mean[seeds]
        squares = self.variance[seeds] * count + variance * number + delta**2 * count * number / total
        self.mean[seeds] += delta * number / total
        self.variance[seeds] = squares / total
        self.count[seeds] = total

    def standardize(self, samples: np.ndarray) -> np.ndarray:
        """(x - mean) / sqrt(variance + 1e-8), clipped to [-10, 10]. ``samples`` and result: (S, K, *size)."""
        return self.scale(samples - self.mean[:, None])

    def scale(self, samples: np.ndarray) -> np.ndarray:
        """x / sqrt(variance + 1e-8), clipped to [-10, 10]. ``samples`` and result: (S, K, *size)."""
        scaled = samples / np.sqrt(self.variance[:, None] + EPSILON)
        return np.minimum(np.maximum(scaled, -CLIP), CLIP)

    def state_dict(self) -> dict[str, Any]:
        """Mean, variance and count as tensors."""
        return {key: torch.from_numpy(value.copy()) for key, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them in place, also for environments that share them. ValueError if S or size differ."""
        for key, value in vars(self).items():
            if tuple(state[key].shape) != value.shape:
                raise ValueError(f"{key} must have the shape {value.shape}; got {tuple(state[key].shape)}")
        for key, value in vars(self).items():
            value[...] = state[key].cpu().numpy()
