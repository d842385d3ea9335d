"""A collector that stores each frame once, in memory that is reused: an alternative to TorchRL's for memory and GPUs.

    rollouts = RolloutCollector(env, model, steps=256)
    rollout = next(rollouts)                          # (N, T), with the values of the frames that follow

TorchRL's `Collector` holds a rollout's frames three times while it stacks them: step by step, as observations and as
next observations; `compact_obs` leaves two. One copy for 64 Procgen games and 256 steps is 201 MB. It also waits for
all games before it acts; with `overlap` this collector acts on one half of them while the other half steps.

Its rollouts equal those of TorchRL's collector bit for bit, without the frames of `next`; a recurrent model's states of
`next` are there. With `overlap` actions are drawn half by half, so they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from decouple.checks import at_least, check_setting, checked, one_of
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.cuda_graph import Captured
from decouple.on_policy.rollouts import following_values
from decouple.runs.performance import autocast

__all__ = ["RolloutCollector"]


class RolloutCollector:
    """Collects rollouts (N, T) of one agent; each overwrites the one before.

    A rollout has the keys of the environment and of the policy. Frames lie on the model's device with the memory layout
    in which they came, all else on the environment's device. Under `next` the model's inputs are missing, and
    `state_value` (N, T, 1) is the value of the frame acted on next, or of the frame at which a time-out cut off.

    Args:
        env: batched environment (N,) on the CPU; it is reset here.
        model: a model from `actor_value`; actions are sampled.
        steps: environment steps in a rollout, T.
        precision: precision of trunk and branches, `fp32` or `bf16`.
        overlap: act on one half of the games while the other half steps. The environment under `env`'s transforms must
            have two groups to begin and to wait for, as `ProcgenGamesEnv` has with `groups=2`.
        captured: act by a CUDA graph, on a GPU.

    Attributes:
        kept: memory of a recurrent model that replaces the next input's, once; None for none.

    Raises:
        ValueError: with `overlap`, an environment without two groups, or a recurrent model.
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
        check_setting("overlap", overlap, lambda on: not (on and model.recurrent), "False for a recurrent model")
        if overlap and len(self.rows) != 2:
            raise ValueError(f"overlap must be False without an env of two groups; got {type(self.games).__name__}")
        self.overlap = overlap
        self.device = next(model.parameters()).device
        self.read, self.made = list(model.in_keys), ["action", "action_log_prob", "state_value"]
        self.states = [key for key in model.out_keys if key[0] == "next"]  # of a recurrent model, after a step
        self.kept: TensorDictBase | None = None
        self.value = model.get_value_operator()
        self.act = Captured(self._forward, self.device if captured else None)
        self.memory = TensorDict(batch_size=[*env.batch_size, steps])  # (N, T)
        self.staged: dict[Any, Tensor] = {}
        self.unseen: list[tuple[int, Tensor, TensorDictBase]] = []  # step, games, and frames at which time-outs cut off
        self.carrier = env.reset()

    def __iter__(self) -> RolloutCollector:
        return self

    @torch.no_grad()
    def __next__(self) -> TensorDictBase:
        """The next rollout. Its tensors are those of the rollout before, overwritten."""
        self.unseen.clear()
        if self.kept is not None:
            self.carrier, self.kept = self.carrier.update(self.kept), None
        with set_exploration_type(ExplorationType.RANDOM):
            answered = self._collect_overlapping() if self.overlap else self._collect()
            rollout = self.memory.copy()
            for key in (*self.made, *self.states):
                rollout[key] = self.memory[key].to(self.carrier.device or "cpu")
            self._add_next_values(rollout, answered["next"].select(*self.read))
        return rollout

    @checked()
    def shutdown(self, *, close_env: bool = True) -> None:
        """Release the rollout's memory and, unless `close_env` is False, close the environment, as TorchRL does."""
        self.memory = TensorDict(batch_size=self.memory.batch_size)
        if close_env:
            self.env.close()

    def _collect(self) -> TensorDictBase:
        """Act in all games, then step them all, T times; return the last step."""
        answered = self.carrier
        for t in range(self.steps):
            shown = [self.carrier.get(key) for key in self.read]
            action = self._act(slice(None), t, shown)
            answered, self.carrier = self.env.step_and_maybe_reset(self.carrier.set("action", action))
            self._write(t, answered)
        return answered

    def _collect_overlapping(self) -> TensorDictBase:
        """Act in half of the games while the others step; a step's transforms run while the next step is under way."""
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
        """Store the observations shown, run the model on them, store its outputs; return the games' actions."""
        inputs = []
        for key, value in zip(self.read, shown, strict=True):
            # Through pinned memory in one piece, which a GPU fetches by itself; a slice of a larger tensor it does not.
            frames = self._pinned(key, value).to(self.device, non_blocking=True)
            self._memory(key, value, self.device)[rows, t] = frames
            inputs.append(frames)
        made = self.act(*inputs)
        for key, value in zip((*self.made, *self.states), made, strict=True):
            self._memory(key, value, self.device)[rows, t] = value
        for key, value in zip(self.states, made[len(self.made) :], strict=True):
            self.carrier.set(key, value.to(self.carrier.device or "cpu"))
        return made[0].to(self.carrier.device or "cpu")

    def _forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = TensorDict(dict(zip(self.read, inputs, strict=True)), batch_size=[len(inputs[0])])
        # No other autocast may enclose this one: it would cache weight copies that are gone when a graph is replayed.
        with autocast(self.device, self.precision):
            found = self.model(found)
        return tuple(found.get(key) for key in (*self.made, *self.states))

    def _memory(self, key: Any, like: Tensor, device: torch.device | None = None) -> Tensor:
        """The rollout's memory for a key, (N, T, ...), made at its first value with the memory layout of `like`."""
        if self.memory.get(key, None) is None:
            order = sorted(range(1, like.ndim), key=lambda axis: -like.stride(axis))
            shape = [*self.memory.batch_size, *(like.shape[axis] for axis in order)]
            places = [1 + axis for axis in order]  # the axes' places in the rollout
            back = [0, 1, *(2 + places.index(axis) for axis in range(2, 1 + like.ndim))]
            self.memory[key] = torch.empty(shape, dtype=like.dtype, device=device or like.device).permute(back)
        return self.memory[key]

    def _pinned(self, key: Any, value: Tensor) -> Tensor:
        """The value copied to pinned memory, which a GPU can fetch by itself; without a GPU the value itself."""
        if self.device.type != "cuda":
            return value
        size = (len(value), key)
        if size not in self.staged:
            self.staged[size] = torch.empty_like(value, pin_memory=True)
        return self.staged[size].copy_(value)  # safe: fetching the last actions waited until this memory was read

    def _write(self, t: int, answered: TensorDictBase) -> None:
        """Store one environment step (N,), and the frames at which a time-out cut an episode off."""
        following: TensorDictBase = answered["next"]
        kept = answered.exclude(*self.read, *self.made, *(("next", key) for key in self.read))
        for key, value in kept.items(include_nested=True, leaves_only=True):
            self._memory(key, value)[:, t] = value
        cut_off = (following["done"] & ~following["terminated"]).squeeze(-1)  # (N,)
        if t + 1 < self.steps and cut_off.any():
            self.unseen.append((t, cut_off.nonzero().squeeze(-1), following.select(*self.read)[cut_off]))

    def _add_next_values(self, rollout: TensorDictBase, last: TensorDictBase) -> None:
        """Write (`next`, `state_value`), as `add_next_values` does for rollouts that hold the next frames."""
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
