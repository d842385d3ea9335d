"""Rollouts of compiled agents in an environment that steps without TensorDicts.

    rollouts = CompiledCollector(env, CompiledAgents(model), SeedNoise(seeds), steps=1024)
    rollout = next(rollouts)                          # (S, N, T)

TorchRL's `Collector` takes some hundred microseconds a step for its TensorDicts, longer than a small network's action
and its share of the learning. The random numbers are the same and drawn in the same order: rollouts differ from those
of `SeededPolicy` in a `Collector` by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from decouple.checks import at_least, checked
from decouple.compiled.playing import Playing, may_be_played
from decouple.on_policy.compiled_agents import CompiledAgents
from decouple.seeding import SeedNoise

__all__ = ["CompiledCollector", "PlainEnv"]

STEPS_TOGETHER = 32  # steps of a rollout that are kept one by one


class PlainEnv(Protocol):
    """An environment (S, N) that can be stepped without TensorDicts, as this package's own environments can.

    It does not change the tensors that it has given.
    """

    batch_size: torch.Size

    def plain_reset(self) -> Tensor:
        """Reset; the observation (S, N, O)."""
        ...

    def plain_step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Step all games: what `step` writes under `next`, and the observation to act on next, (S, N, O)."""
        ...

    def close(self) -> None: ...


class CompiledCollector:
    """Collects rollouts (S, N, T) of agents whose actions are computed by kernels.

    A rollout has the observation, `action`, `action_log_prob` and `state_value`, `step_count` where the environment
    counts steps, and under `next` all that a step of the environment gives.

    Args:
        env: the environment; it is reset here.
        agents: the agents; their model's parameters are read at the beginning of each rollout.
        noise: random numbers of the seeds.
        steps: environment steps in a rollout, T.

    Attributes:
        shown: the last observation that was acted on, under its key.
        policy: the collector itself, of which TorchRL's collectors would ask `shown`.
    """

    @checked(steps=at_least(1))
    def __init__(self, env: Any, agents: CompiledAgents, noise: SeedNoise, steps: int):
        self.env: PlainEnv = env
        self.agents, self.noise, self.steps, self.policy = agents, noise, steps, self
        self.observation = self.env.plain_reset()
        self.shown: dict[Any, Tensor] = {agents.key: self.observation}

    def __iter__(self) -> CompiledCollector:
        return self

    @torch.no_grad()
    def __next__(self) -> TensorDictBase:
        """The next rollout."""
        agents, key = self.agents, self.agents.key
        agents.read()
        by_kernels = self._by_kernels()
        if by_kernels is not None:
            return self._rollout(*by_kernels)
        acted, stepped = _Memory(), _Memory()
        for _ in range(self.steps):
            observation = self.observation
            self.shown = {key: observation}
            action, log_prob, value = agents.act(observation, self.noise)
            step, self.observation = self.env.plain_step(action)
            acted.write({key: observation, "action": action, "action_log_prob": log_prob, "state_value": value})
            stepped.write(step)
        return self._rollout(acted.tensors(), stepped.tensors())

    def _rollout(self, acted: dict[Any, Any], stepped: dict[Any, Any]) -> TensorDict:
        batch = torch.Size([*self.env.batch_size, self.steps])
        if "step_count" in stepped:  # a step counts itself
            acted["step_count"] = stepped["step_count"] - 1
        return TensorDict(acted | {"next": TensorDict(stepped, batch)}, batch)

    def _by_kernels(self) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
        """What is acted on and what steps give, by kernels that make several steps in one call; None where Python has
        to step the games."""
        agents, env = self.agents, self.env
        playing: Playing | None = env.begin_steps() if agents.may_collect and may_be_played(env) else None
        if playing is None:
            return None
        (seeds, games), steps, (observed, acts) = env.batch_size, self.steps, agents.widths
        size = seeds, games, steps
        seen, following = np.empty((2, *size, observed), dtype=np.float32)
        action = np.empty((*size, acts), dtype=np.int64 if agents.discrete else np.float32)
        log_prob, value, reward, total = np.empty((4, *size), dtype=np.float32)
        count, ends, at = np.empty(size, dtype=np.int64), np.empty((3, *size), dtype=np.bool_), 0
        while True:
            self.shown = {agents.key: self.observation}
            at += agents.collect(
                playing, self.noise, at, steps - at, (seen, action, log_prob, value), (following, reward, total, count),
                ends,
            )  # fmt: skip
            _, self.observation = env.end_steps(playing)
            if at == steps:
                break
            again = env.begin_steps()
            assert again is not None  # kernels that have played some steps can play the next ones
            playing = again
        tensor = torch.from_numpy
        columns = {"reward": reward, "episode_reward": total, "step_count": count}
        columns |= dict(zip(("done", "terminated", "truncated"), ends, strict=True))
        acted = {agents.key: tensor(seen), "action": tensor(action[..., 0] if agents.discrete else action)}
        acted |= {"action_log_prob": tensor(log_prob), "state_value": tensor(value[..., None])}
        stepped = {"observation": tensor(following)}
        return acted, stepped | {name: tensor(each[..., None]) for name, each in columns.items()}

    @checked()
    def shutdown(self, *, close_env: bool = True) -> None:
        """Close the environment, unless `close_env` is False."""
        if close_env:
            self.env.close()


class _Memory:
    """A rollout's tensors (S, N, T, ...), given step by step.

    Kept one by one until the end, the steps would be some ten thousand objects, which make Python look through all its
    objects every few rollouts, for a third of a second. So a few steps at a time are put together.
    """

    def __init__(self):
        self.steps: list[Mapping[Any, Tensor]] = []
        self.blocks: list[dict[Any, Tensor]] = []

    def write(self, values: Mapping[Any, Tensor]) -> None:
        """Append a step's values, (S, N, ...) each, which are not changed later."""
        self.steps.append(values)
        if len(self.steps) == STEPS_TOGETHER:
            self._put_together()

    def _put_together(self) -> None:
        self.blocks.append({key: torch.stack([step[key] for step in self.steps], 2) for key in self.steps[0]})
        self.steps = []

    def tensors(self) -> dict[Any, Any]:
        if self.steps:
            self._put_together()
        return {key: torch.cat([block[key] for block in self.blocks], 2) for key in self.blocks[0]}
