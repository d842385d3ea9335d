"""Actions from a policy's outputs: the mode, samples with each seed's own random numbers, or uniform actions.

Actions for the environment are in the task's units; noise is added in [-1, 1], the unit in which critics read actions.

acting = Acting(model.action_space, exploration_noise=0.1, device="cpu")
acting.choose(policy(features), noise)      # (S, N, parameters) -> (S, N, A)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from decouple.networks.distributions import draw_categories, squashed_normal
from decouple.networks.heads import ActionSpace, ActionUnit
from decouple.seeding import SeedNoise

__all__ = ["Acting"]


class Acting:
    """Chooses the actions of an off-policy algorithm's agents.

    Args:
        space: the policy's action space.
        exploration_noise: standard deviation of the noise on a deterministic policy's actions in [-1, 1], so in units
            of half the action's range; None for a stochastic policy, which is sampled.
        device: device of policy and noise.

    Attributes:
        unit: conversion between the task's units and [-1, 1]; None for discrete actions.
    """

    def __init__(self, space: ActionSpace, exploration_noise: float | None, device: torch.device):
        self.space, self.exploration_noise = space, exploration_noise
        self.unit = None if space.discrete else ActionUnit(space).to(device)

    def to_task(self, action: Tensor) -> Tensor:
        """Actions for the environment: [-1, 1] -> the task's units, (*B, A); indices as they are.

        Nan becomes the middle of the bounds, so that an agent that has failed plays on beside the others.
        """
        return action if self.unit is None else self.unit.to_task(action.nan_to_num(0.0))

    def choose(self, parameters: Any, noise: SeedNoise | None) -> Tensor:
        """Actions (S, N, A) in the task's units, or indices (S, N, 1); the policy's mode where `noise` is None.

        Args:
            parameters: logits (S, N, n), or loc and scale, or an action before its tanh, each (S, N, A).
            noise: the random numbers of the S seeds.
        """
        if self.space.discrete:
            if noise is None:
                return parameters.argmax(-1, keepdim=True)
            return draw_categories(parameters.softmax(-1), noise).unsqueeze(-1)
        if self.exploration_noise is None:
            loc, scale = parameters
            drawn = loc if noise is None else torch.addcmul(loc, scale, noise.normal(*loc.shape[1:]))
            return self.to_task(torch.tanh(drawn))
        action = torch.tanh(parameters)
        if noise is not None:
            action = torch.clamp(action + self.exploration_noise * noise.normal(*action.shape[1:]), -1, 1)
        return self.to_task(action)

    def draw(self, parameters: Any, noise: SeedNoise) -> tuple[Tensor, Tensor]:
        """Actions without exploration, in the critics' unit, and their log-probability.

        Args:
            parameters: as for `choose`.
            noise: the random numbers of the S seeds; not used for a deterministic policy.

        Returns:
            (S, N, A) in [-1, 1] or indices (S, N, 1), and (S, N, 1), which is 0 for a deterministic policy.
        """
        if self.space.discrete:
            action = self.choose(parameters, noise)
            return action, functional.log_softmax(parameters, -1).gather(-1, action)
        if self.exploration_noise is None:
            return squashed_normal(*parameters, noise.normal(*parameters[0].shape[1:]))
        action = torch.tanh(parameters)
        return action, torch.zeros_like(action[..., :1])

    def uniform(self, count: int, noise: SeedNoise) -> Tensor:
        """Uniform actions (S, count, A) in the task's units, or indices (S, count, 1)."""
        if self.space.discrete:
            return noise.integers(self.space.size, count, 1)
        return self.to_task(2 * noise.uniform(count, self.space.size) - 1)
