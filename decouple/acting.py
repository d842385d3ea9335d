"""Actions from what a policy's layers put out: bounded, sampled with each seed's own numbers, explored, or uniform.

acting = Acting(model.action_space, exploration_noise=0.1, device="cpu")
acting.choose(policy(features), noise)      # (S, N, parameters) -> (S, N, A)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decouple.distributions import draw_categories
from decouple.heads import ActionSpace
from decouple.seeds import SeedNoise

__all__ = ["Acting"]


class Acting:
    """How the agents of an off-policy algorithm act, and the bounds that they act between.

    Attributes:
        low, high: the action's bounds, (A,); not there for a discrete action, nor are the others.
        middle, half: their mean, and half of their range, (A,).

    Args:
        space: what the policy chooses from.
        exploration_noise: of a deterministic policy, the standard deviation of the noise on its actions, in units of
            half the action's range; None for a stochastic policy, which is sampled.
        device: of policy and noise.
    """

    def __init__(self, space: ActionSpace, exploration_noise: float | None, device: torch.device):
        self.space, self.exploration_noise = space, exploration_noise
        if space.low is not None and space.high is not None:
            self.low, self.high = space.low.to(device), space.high.to(device)
            self.middle, self.half = (self.high + self.low) / 2, (self.high - self.low) / 2

    def bounded(self, x: Tensor) -> Tensor:
        """tanh(x), between the action's bounds, (*B, A)."""
        return torch.addcmul(self.middle, self.half, torch.tanh(x))

    def choose(self, parameters: Any, noise: SeedNoise | None) -> Tensor:
        """Actions (S, N, A), or indices (S, N, 1) of discrete ones; the policy's mode where `noise` is None.

        Args:
            parameters: logits (S, N, n), or loc and scale, or an action before its tanh, each (S, N, A).
            noise: of the S seeds.
        """
        if self.space.discrete:
            if noise is None:
                return parameters.argmax(-1, keepdim=True)
            return draw_categories(parameters.softmax(-1), noise).unsqueeze(-1)
        if self.exploration_noise is None:
            loc, scale = parameters
            return self.valid(
                self.bounded(loc if noise is None else torch.addcmul(loc, scale, noise.normal(*loc.shape[1:])))
            )
        action = self.valid(self.bounded(parameters))
        if noise is None:
            return action
        explored = action + self.exploration_noise * self.half * noise.normal(*action.shape[1:])
        return torch.clamp(explored, self.low, self.high)

    def valid(self, action: Tensor) -> Tensor:
        """The actions (S, N, A), the middle of the bounds in place of nan: an agent that has failed plays on in the
        others' lockstep."""
        return action if self.space.discrete else torch.where(action.isnan(), self.middle, action)

    def uniform(self, count: int, noise: SeedNoise) -> Tensor:
        """Uniform actions (S, count, A), or indices (S, count, 1)."""
        if self.space.discrete:
            return noise.integers(self.space.size, count, 1)
        return self.low + (self.high - self.low) * noise.uniform(count, self.space.size)
