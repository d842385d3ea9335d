"""Rewards divided by the running standard deviation of the discounted return, as in OpenAI Baselines.

Use: ``TransformedEnv(env, RunningRewardScaling())``; put ``RewardSum`` before it to keep the raw episode return.
Source: ``VecNormalize`` and ``RunningMeanStd`` in https://github.com/openai/baselines, files
``baselines/common/vec_env/vec_normalize.py`` and ``baselines/common/running_mean_std.py``. The published Procgen
results were trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform

from decouple.checks import ANY_NUMBER, checked

__all__ = ["RunningRewardScaling"]


class RunningRewardScaling(Transform):
    """Scale the reward by the running standard deviation of the discounted return.

    With r the rewards of one step, one per game, and R each game's discounted return, every step does, in float64::

        R    <- gamma R + r
        m, v <- mean and variance of all R seen so far (start: mean 0, variance 1, count 1e-4)
        r    <- clip(r / sqrt(v + epsilon), -clip, clip)
        R    <- 0 where done

    The mean and the variance are merged batch by batch (Chan et al., 1979), over all axes of the reward. The return
    runs forward in time, as in Baselines: it is the decayed sum of past rewards. A full ``reset`` changes nothing, so
    that a collector's reset at its start leaves a restored run unchanged. A reset of some games sets their R to 0, also
    where their episodes had not ended. All state is in buffers, and so in ``state_dict``; a fresh transform takes the
    shape of R from the state that it loads.

    Args:
        gamma: discount of the return, in [0, 1]; Baselines' 0.99, independent of the algorithm's discount.
        clip: largest magnitude of a scaled reward, > 0.
        epsilon: number added to the variance, >= 0.

    Raises:
        ValueError: an argument outside its range.

    Reads ``reward`` (*batch, 1) and ``done`` (*batch, 1); writes ``reward``, same shape and dtype.
    """

    discounted_return: Tensor  # (*batch, 1), float64; empty before the first step
    mean: Tensor  # (), float64
    variance: Tensor  # (), float64
    count: Tensor  # (), float64

    @checked(clip=ANY_NUMBER)
    def __init__(self, gamma: float = 0.99, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1]; got {gamma}")
        if not clip > 0:
            raise ValueError(f"clip must be > 0; got {clip}")
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be finite and >= 0; got {epsilon}")
        super().__init__(in_keys=["reward"], out_keys=["reward"])
        self.gamma, self.clip, self.epsilon = float(gamma), float(clip), float(epsilon)
        self.register_buffer("discounted_return", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("mean", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("variance", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        reward, done = next_tensordict.get("reward"), next_tensordict.get("done")
        next_tensordict.set("reward", self.scale(reward, done))
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        begun = tensordict.get("_reset", None)  # None: full reset
        if begun is not None and self.discounted_return.numel():
            begun = begun.reshape(self.discounted_return.shape)
            self.discounted_return = self.discounted_return.masked_fill(begun, 0.0)
        return tensordict_reset

    @torch.no_grad()
    def scale(self, reward: Tensor, done: Tensor) -> Tensor:
        """Add one step's raw rewards to the statistics and return them scaled.

        Args:
            reward: raw rewards of one step, (*batch, 1).
            done: True where the episode ended with this reward, bool (*batch, 1).

        Returns:
            Scaled rewards, (*batch, 1), dtype of ``reward``.

        Raises:
            ValueError: ``done`` has another shape than ``reward``, or ``reward`` another shape than before.
        """
        if done.shape != reward.shape:
            raise ValueError(f"done must have the reward's shape {tuple(reward.shape)}; got {tuple(done.shape)}")
        if self.discounted_return.numel() == 0:
            self.discounted_return = torch.zeros_like(reward, dtype=torch.float64)
        if self.discounted_return.shape != reward.shape:
            expected = tuple(self.discounted_return.shape)
            raise ValueError(f"reward must keep the shape {expected} of the running return; got {tuple(reward.shape)}")
        raw = reward.double()
        running = self.gamma * self.discounted_return + raw  # (*batch, 1)
        self._merge(running)
        self.discounted_return = running.masked_fill(done, 0.0)
        scaled = raw / (self.variance + self.epsilon).sqrt()
        return scaled.clamp(-self.clip, self.clip).to(reward.dtype)

    def _merge(self, sample: Tensor) -> None:
        """Merge a batch's count, mean and (biased) variance into the running ones (Chan et al., 1979)."""
        number = sample.numel()
        total = self.count + number
        delta = sample.mean() - self.mean
        squares = self.variance * self.count + sample.var(correction=0) * number
        squares = squares + delta**2 * self.count * number / total
        self.mean, self.variance, self.count = self.mean + delta * number / total, squares / total, total

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        loaded = state_dict.get(f"{prefix}discounted_return")
        if isinstance(loaded, Tensor) and loaded.shape != self.discounted_return.shape:
            self.discounted_return = self.discounted_return.new_zeros(loaded.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


RewardScaling = RunningRewardScaling  # name in decouple 0.1; TorchRL has a class of that name too
