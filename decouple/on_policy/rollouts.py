"""Rollouts of one agent or of several seeds: the policies that act, values and advantages, metrics.

    policy = SeededPolicy(model, SeedNoise(seeds))    # acts for a stacked model in a Collector
    add_next_values(rollout, model.get_value_operator())
    normalise_advantages(rollout)                     # each seed's by its own mean and standard deviation
    row = rollout_metrics(rollout[0])

A rollout has the shape (N, T), N environments of T steps, or (S, N, T) with S independent seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from decouple.checks import checked
from decouple.compiled.modes import ModeKernels
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import SeedSampler
from decouple.seeding import SeedNoise

__all__ = [
    "ModePolicy",
    "SeededPolicy",
    "WatchedPolicy",
    "add_next_values",
    "following_values",
    "normalise_advantages",
    "rollout_metrics",
]


class SeededPolicy(TensorDictModuleBase):
    """A stacked model that acts: observation (S, N, ...) -> `action`, `action_log_prob` and `state_value`.

    It runs the model's modules without gradient and always samples, each seed's actions from its own random numbers.
    What it writes lies where the observation lies, whatever the model's device is.

    Args:
        model: a `stack` of models from `actor_value`.
        noise: the random numbers of its seeds, on its device.

    Attributes:
        kept: memory of a recurrent model that replaces the next input's, once; None for none.
    """

    @checked()
    def __init__(self, model: ActorValue, noise: SeedNoise):
        super().__init__()
        parts = dict(model.module.items())
        *layers, sampled = parts.pop("policy_head").module
        self.layers: Any = nn.ModuleList([*parts.values(), *layers])
        self.sampler = SeedSampler(sampled, noise)
        self.in_keys, self.out_keys = list(model.in_keys), list(model.out_keys)
        self.device = next(model.parameters()).device
        self.kept: TensorDictBase | None = None

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        tensordict, self.kept = _going_on(tensordict, self.kept), None
        # The layers pass tensors in a plain dict: as TensorDictModules they would take half of a step's time.
        found: dict[Any, Any] = {key: tensordict.get(key) for key in self.in_keys}
        origin = found[self.in_keys[0]].device
        if origin != self.device:
            found = {key: value.to(self.device) for key, value in found.items()}
        for layer in self.layers:
            out = layer.module(*(found[key] for key in layer.in_keys))
            found.update(zip(layer.out_keys, out if isinstance(out, tuple) else (out,), strict=True))
        found.update(self.sampler(TensorDict({key: found[key] for key in self.sampler.in_keys})).items())
        for key in self.out_keys:
            tensordict.set(key, found[key].to(origin))
        return tensordict


class WatchedPolicy(TensorDictModuleBase):
    """A model as a policy that keeps its last input, to be examined when collecting fails.

    Attributes:
        shown: the last input.
        kept: memory of a recurrent model that replaces the next input's, once; None for none.
    """

    def __init__(self, model: ActorValue):
        super().__init__()
        self.model, self.in_keys, self.out_keys = model, list(model.in_keys), list(model.out_keys)
        self.shown: TensorDictBase | None = None
        self.kept: TensorDictBase | None = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        tensordict, self.kept = _going_on(tensordict, self.kept), None
        self.shown = tensordict
        return self.model(tensordict)


def _going_on(tensordict: TensorDictBase, kept: TensorDictBase | None) -> TensorDictBase:
    """The first input after a resumed run's reset, with the memory that the run had then in place of an empty one."""
    return tensordict if kept is None else tensordict.update(kept)


class ModePolicy(TensorDictModuleBase):
    """A stacked model for evaluation: observation -> `action`, a sample or the mode by TorchRL's exploration type.

    Where an agent has failed and its action is nan, the action is its lower bound, or 0 without one, so that the other
    agents' games go on.

    Args:
        model: a `stack` of models from `actor_value`.
        kernels: function that gives kernels which act as the model does by its present parameters, as
            `CompiledAgents.mode_kernels`; None: there are none.
    """

    def __init__(self, model: ActorValue, kernels: Callable[[], ModeKernels | None] | None = None):
        super().__init__()
        self.policy: Any = model.get_policy_operator()
        self.kernels = kernels
        self.device = next(model.parameters()).device
        self.in_keys = list(self.policy.in_keys)
        self.out_keys = ["action", *(key for key in self.policy.out_keys if key[0] == "next")]
        low = model.action_space.low  # None where actions are discrete
        self.instead = None if low is None else torch.where(low.isfinite(), low, 0)

    def mode_kernels(self) -> ModeKernels | None:
        """Kernels that act as this policy does without exploration; None where there are none."""
        return self.kernels() if self.kernels else None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        read = tensordict.select(*self.in_keys)
        here = read if read.get(self.in_keys[0]).device == self.device else read.to(self.device)
        made = self.policy(here).select(*self.out_keys)
        tensordict = tensordict.update(made if here is read else made.to(read.get(self.in_keys[0]).device))
        if self.instead is None:  # discrete: the largest of nan logits is still a valid index
            return tensordict
        action = tensordict["action"]
        return tensordict.set("action", torch.where(action.isnan(), self.instead.to(action), action))


@torch.no_grad()
def add_next_values(rollout: TensorDictBase, value_operator: TensorDictModuleBase) -> None:
    """Write (`next`, `state_value`) (*B, T, 1) into a rollout (*B, T) that holds `state_value` from acting.

    The next frame's value is that of the frame acted on next. Only the rollout's last frames, and the frames at which
    a time-out cut an episode off, still need a pass through the network.
    """
    values: Tensor = rollout["state_value"]
    following: TensorDictBase = rollout["next"]
    keys, device = value_operator.in_keys, next(value_operator.parameters()).device

    def judged(frames: TensorDictBase) -> Tensor:
        """Values of frames, where the rollout lies."""
        frames = frames.select(*keys)
        if values.device == device:
            return value_operator(frames)["state_value"]
        return value_operator(frames.to(device))["state_value"].to(values.device)

    last = judged(following[..., -1])  # (*B, 1)
    next_values = following_values(values, last)
    cut_off = (following["done"] & ~following["terminated"]).squeeze(-1)  # (*B, T)
    cut_off[..., -1] = False
    if cut_off.any():
        # A stacked model takes equally many frames per agent: each agent gets all frames at which any agent is cut off.
        games, steps = cut_off.reshape(-1, *cut_off.shape[-2:]).any(0).nonzero(as_tuple=True)  # (K,)
        unseen = judged(following.select(*keys)[..., games, steps])  # (*, K, 1)
        own, missing = next_values[..., games, steps, :], cut_off[..., games, steps].unsqueeze(-1)
        next_values[..., games, steps, :] = torch.where(missing, unseen, own)
    following["state_value"] = next_values


def following_values(values: Tensor, last: Tensor) -> Tensor:
    """The next frames' values, (*B, T, 1): `values` (*B, T, 1) shifted by one step, and `last` (*B, 1) at the end."""
    return torch.cat([values[..., 1:, :], last.unsqueeze(-2)], -2)


def normalise_advantages(rollout: TensorDictBase) -> None:
    """Standardise each seed's `advantage` (S, N, T, 1) over its own frames, as TorchRL's GAE does for one agent."""
    advantage: Tensor = rollout["advantage"]
    own = tuple(range(1, advantage.ndim))
    deviation = advantage.std(own, keepdim=True).clamp_min(1e-4)
    rollout["advantage"] = (advantage - advantage.mean(own, keepdim=True)) / deviation


def rollout_metrics(rollout: TensorDictBase) -> dict[str, float]:
    """Metrics of a rollout (N, T): returns and lengths of its ended episodes, and the values' explained variance."""
    residual = rollout["value_target"] - rollout["state_value"]  # (N, T, 1)
    variance = rollout["value_target"].var()
    metrics = {"value/explained_variance": (1 - residual.var() / variance).item()}
    done = rollout["next", "done"]
    metrics["train/episodes"] = float(done.sum())
    names = {"episode_reward": "train/episode_return", "step_count": "train/episode_length"}
    for key, name in names.items():
        ended = rollout["next"].get(key, None)
        if ended is not None and done.any():
            metrics[name] = ended[done].float().mean().item()
    return metrics
