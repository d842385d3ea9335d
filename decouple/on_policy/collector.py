"""A collector that writes each frame once, into memory that stays: in place of TorchRL's where memory or a GPU matter.

    rollouts = RolloutCollector(env, model, steps=256)
    rollout = next(rollouts)                          # (N, T), with the values of the frames that follow

TorchRL's `Collector` keeps a rollout's frames three times while it stacks them: step by step, as what was acted on and
as what came next; `compact_obs` leaves two. Of 64 Procgen games and 256 steps, once is 201 MB. And it waits for all
games before it acts; `overlap` acts on one half of them while the other half steps.

What it collects equals what TorchRL's collector does, bit for bit (`overlap` aside, which draws the actions half by
half), but that frames of `next` are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from decouple.checks import at_least, checked, one_of
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.cuda_graph import Captured
from decouple.on_policy.rollouts import following_values
from decouple.runs.performance import autocast

__all__ = ["RolloutCollector"]


class RolloutCollector:
    """Rollouts (N, T) of one agent, each where the last one was.

    A rollout has the keys of the environment and of the policy, the frames in the order of bytes in which they came and
    on the model's device, the rest on the environment's. Under `next` it lacks what the model reads, and has
    `state_value` (N, T, 1): the value of the frame acted on next, or of the one that a time-out cut off.

    Args:
        env: batched (N,), on the CPU; reset here.
        model: from `actor_value`; actions are sampled.
        steps: T, of each environment.
        precision: of trunk and branches, `fp32` or `bf16`.
        overlap: act on one half of the games while the other half steps. The environment under `env`'s transforms must
            have two groups to begin and to wait for, as `ProcgenGamesEnv` has with `groups=2`.
        captured: on a GPU, act by a CUDA graph.

    Raises:
        ValueError: with `overlap`, an environment without two groups.
    """

    @checked(steps=at_least(1), precision=one_of("fp32", "bf16"))
    def __init__(
        self,
        env: EnvBase,
        model: ActorValue,
        steps: int,
        *,
        precision: str = "fp32",
        overlap: bool = False,
        captured: bool = False,
    ):
        self.env, self.model, self.steps, self.precision = env, model, steps, precision
        self.games: Any = getattr(env, "base_env", env)
        self.rows = list(getattr(self.games, "groups", [])) if overlap else [slice(None)]
        if overlap and len(self.rows) != 2:
            raise ValueError(f"overlap must go with an environment of two groups; got {type(self.games).__name__}")
        self.overlap = overlap
        self.device = next(model.parameters()).device
        self.read, self.made = list(model.in_keys), ["action", "action_log_prob", "state_value"]
        self.value = model.get_value_operator()
        self.act = Captured(self._forward, self.device if captured else None)
        self.memory = TensorDict(batch_size=[*env.batch_size, steps])  # (N, T)
        self.staged: dict[Any, Tensor] = {}
        self.unseen: list[tuple[int, Tensor, TensorDictBase]] = []  # step, games, and frames before a time-out
        self.carrier = env.reset()

    def __iter__(self) -> RolloutCollector:
        return self

    @torch.no_grad()
    def __next__(self) -> TensorDictBase:
        """The next rollout. Its tensors are those of the one before, written anew."""
        self.unseen.clear()
        with set_exploration_type(ExplorationType.RANDOM):
            answered = self._collect_overlapping() if self.overlap else self._collect()
            rollout = self.memory.copy()
            for key in self.made:
                rollout[key] = self.memory[key].to(self.carrier.device or "cpu")
            self._add_next_values(rollout, answered["next"].select(*self.read))
        return rollout

    @checked()
    def shutdown(self, *, close_env: bool = True) -> None:
        """As TorchRL's: close the environment, where asked. The rollout's memory is free once nobody else holds it."""
        self.memory = TensorDict(batch_size=self.memory.batch_size)
        if close_env:
            self.env.close()

    def _collect(self) -> TensorDictBase:
        """All games act, and then all step; returns the last step."""
        answered = self.carrier
        for t in range(self.steps):
            shown = [self.carrier.get(key) for key in self.read]
            action = self._act(slice(None), t, shown)
            answered, self.carrier = self.env.step_and_maybe_reset(self.carrier.set("action", action))
            self._write(t, answered)
        return answered

    def _collect_overlapping(self) -> TensorDictBase:
        """Half of the games act while the others step; what a step leaves to do (`env`) is done while the next runs."""
        answered = self.carrier
        for t in range(self.steps + 1):
            actions = []
            for group, rows in enumerate(self.rows):
                shown = [self.carrier.get(key)[rows] for key in self.read] if t == 0 else [self.games.wait(group)]
                if t < self.steps:
                    actions.append(self._act(rows, t, shown))
                    self.games.begin(group, actions[-1])
            if t > 0:
                answered, self.carrier = self.env.step_and_maybe_reset(self.carrier)  # takes what has come already
                self._write(t - 1, answered)
            if t < self.steps:
                self.carrier.set("action", torch.cat(actions))
        return answered

    def _act(self, rows: slice, t: int, shown: Sequence[Tensor]) -> Tensor:
        """Write what the games show, act on it, write what came of it; returns the actions, for the games."""
        inputs = []
        for key, value in zip(self.read, shown, strict=True):
            # In one piece, whose bytes a GPU fetches by itself; those of a part of memory it does not.
            frames = self._pinned(key, value).to(self.device, non_blocking=True)
            self._memory(key, value, self.device)[rows, t] = frames
            inputs.append(frames)
        made = self.act(*inputs)
        for key, value in zip(self.made, made, strict=True):
            self._memory(key, value, self.device)[rows, t] = value
        return made[0].to(self.carrier.device or "cpu")

    def _forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = TensorDict(dict(zip(self.read, inputs, strict=True)), batch_size=[len(inputs[0])])
        # The only one around: copies of weights that autocast keeps for an outer one are gone when a graph is replayed.
        with autocast(self.device, self.precision):
            found = self.model(found)
        return tuple(found.get(key) for key in self.made)

    def _memory(self, key: Any, like: Tensor, device: torch.device | None = None) -> Tensor:
        """The rollout's memory of a key, made when the first value comes: (N, T, ...), bytes ordered as in `like`."""
        if self.memory.get(key, None) is None:
            order = sorted(range(1, like.ndim), key=lambda axis: -like.stride(axis))
            shape = [*self.memory.batch_size, *(like.shape[axis] for axis in order)]
            places = [1 + axis for axis in order]  # of the axes, in the rollout
            back = [0, 1, *(2 + places.index(axis) for axis in range(2, 1 + like.ndim))]
            self.memory[key] = torch.empty(shape, dtype=like.dtype, device=device or like.device).permute(back)
        return self.memory[key]

    def _pinned(self, key: Any, value: Tensor) -> Tensor:
        """The value in memory that a GPU can fetch by itself; elsewhere the value."""
        if self.device.type != "cuda":
            return value
        size = (len(value), key)
        if size not in self.staged:
            self.staged[size] = torch.empty_like(value, pin_memory=True)
        return self.staged[size].copy_(value)  # free again: fetching the actions has waited for what read it last

    def _write(self, t: int, answered: TensorDictBase) -> None:
        """Keep one step (N,) of the environment, and the frames at which a time-out cut an episode off."""
        following: TensorDictBase = answered["next"]
        kept = answered.exclude(*self.read, *self.made, *(("next", key) for key in self.read))
        for key, value in kept.items(include_nested=True, leaves_only=True):
            self._memory(key, value)[:, t] = value
        cut_off = (following["done"] & ~following["terminated"]).squeeze(-1)  # (N,)
        if t + 1 < self.steps and cut_off.any():
            self.unseen.append((t, cut_off.nonzero().squeeze(-1), following.select(*self.read)[cut_off]))

    def _add_next_values(self, rollout: TensorDictBase, last: TensorDictBase) -> None:
        """Write (`next`, `state_value`), as `add_next_values` does where the next frames are there."""
        values: Tensor = rollout["state_value"]  # (N, T, 1)
        next_values = following_values(values, self._values(last).to(values.device))
        if self.unseen:
            games = torch.cat([rows for _, rows, _ in self.unseen])
            steps = torch.cat([torch.full_like(rows, t) for t, rows, _ in self.unseen])
            frames: Any = torch.cat([frames for _, _, frames in self.unseen])
            order = (games * self.steps + steps).argsort()
            next_values[games[order], steps[order]] = self._values(frames[order]).to(values.device)
        rollout["next", "state_value"] = next_values

    def _values(self, frames: TensorDictBase) -> Tensor:
        with autocast(self.device, self.precision):
            return self.value(frames.to(self.device))["state_value"]
