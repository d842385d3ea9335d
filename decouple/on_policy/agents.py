"""One agent, or the S agents of a stack: their random numbers, and the layout of their rollouts and batches.

    agents = draw_agents(model, seeds)                   # for one model, or for a stack of S
    for part in agents.minibatches(batch, count=8): ...

                      one agent                         S agents
    rollout           (N, T)                            (S, N, T)
    batch             (B,)                              (S, B)
    minibatch         indices (b,) into the batch       its frames (S, b), or indices
    recurrent models  sequences (B, L) and (b, L)       (S, B, L) and (S, b, L)
    random numbers    torch's generators                each seed's own, `SeedNoise`
    metric            a number                          (S,)

Both classes have the same methods; the other modules call them without asking which class it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives.value import GAE

from decouple.checks import checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import integrated_entropy
from decouple.networks.stacking import clip_grad_norm_per_seed_, seed_count
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.rollouts import SeededPolicy, WatchedPolicy, normalise_advantages
from decouple.runs.finite import FailedSeeds
from decouple.runs.performance import Performance
from decouple.seeding import SeedNoise, seed_metrics

__all__ = [
    "Agents",
    "Metric",
    "OneAgent",
    "StackedAgents",
    "agents_of",
    "check_agent_seeds",
    "check_agents",
    "draw_agents",
    "kind_of_agents",
]

# A metric: a number, or with several agents a tensor (S,) where each agent has its own.
Metric = float | Tensor


class OneAgent:
    """One agent that is not stacked.

    Attributes:
        shuffle: generator that draws the minibatches; actions are drawn from torch's global generator.
        reduction: reduction of the losses, in TorchRL's sense.
    """

    reduction = "mean"
    axes = 0  # axes of a batch before its frames

    def __init__(self, shuffle: torch.Generator):
        self.shuffle = shuffle

    @staticmethod
    def head_for_loss(head: ProbabilisticTensorDictSequential) -> ProbabilisticTensorDictSequential:
        """The policy head for the policy's loss: the head itself."""
        return head

    def state(self) -> Any:
        """The random numbers' state for a checkpoint, without the global generators."""
        return self.shuffle.get_state()

    def load_state(self, state: Any) -> None:
        """Restore a `state`."""
        self.shuffle.set_state(state)

    def collector(self, env: EnvBase, model: ActorValue, steps: int, how: Performance) -> Collector | RolloutCollector:
        """The collector of rollouts (N, T); creating it resets the environment."""
        if how.collector == "preallocated":
            options = {"precision": how.precision, "overlap": how.overlap, "captured": how.cuda_graphs}
            return RolloutCollector(env, model, steps, **options)
        return _torchrl_collector(env, WatchedPolicy(model), steps)

    def estimate_advantages(self, rollout: TensorDictBase, gamma: float, gae_lambda: float) -> None:
        """Write `advantage`, standardised over the rollout, and `value_target`, both (N, T, 1)."""
        GAE(gamma=gamma, lmbda=gae_lambda, value_network=None, average_gae=True)(rollout)

    def each(self, rollout: TensorDictBase) -> list[TensorDictBase]:
        """The rollout (N, T) of each agent."""
        return [rollout]

    def row(self, rows: Sequence[Mapping[str, float]], failed: FailedSeeds) -> dict[str, float]:
        """One row to log, from each agent's metrics."""
        return dict(rows[0])

    def row_of_phase(self, found: Mapping[str, Metric], failed: FailedSeeds) -> dict[str, float]:
        """One row to log, from the metrics that a phase returned."""
        return {name: float(value) for name, value in found.items()}

    def minibatches(self, batch: TensorDictBase, count: int, *, gathered: bool = True) -> Iterator[Tensor]:
        """An epoch's minibatches, `count` of them, each as indices (B / count,) into the batch (B,)."""
        device = batch.device or torch.device("cpu")
        order = torch.randperm(len(batch), generator=self.shuffle, pin_memory=device.type == "cuda")
        order = order.to(device, non_blocking=True)
        yield from order.tensor_split(count)

    def frames(self, batch: TensorDictBase, part: Tensor, rows: slice) -> TensorDictBase:
        """The frames (b,) in these rows of a minibatch."""
        return batch[part[rows]]

    def means(self, outputs: dict[str, Tensor], batch_size: torch.Size) -> dict[str, Tensor]:
        """The losses' outputs, which the losses have averaged over the samples already."""
        return outputs

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradients in place; return the norm before clipping, ()."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)


class StackedAgents:
    """The S agents of a model from `stack`; each has random numbers of its own.

    Attributes:
        shuffle: random numbers that draw each seed's minibatches and actions.
        reduction: reduction of the losses, in TorchRL's sense; `means` averages afterwards, agent by agent.
    """

    reduction = "none"
    axes = 1

    def __init__(self, shuffle: SeedNoise):
        self.shuffle = shuffle

    @staticmethod
    def head_for_loss(head: ProbabilisticTensorDictSequential) -> ProbabilisticTensorDictSequential:
        """The policy head for the policy's loss, with an integrated entropy, which draws no random numbers."""
        return integrated_entropy(head)

    def state(self) -> Any:
        """The random numbers' state for a checkpoint, without the global generators."""
        return self.shuffle.state_dict()

    def load_state(self, state: Any) -> None:
        """Restore a `state`."""
        self.shuffle.load_state_dict(state)

    def collector(self, env: EnvBase, model: ActorValue, steps: int, how: Performance) -> Collector:
        """The collector of rollouts (S, N, T); creating it resets the environment.

        ValueError for the preallocated collector.
        """
        if how.collector == "preallocated":
            raise ValueError("performance.collector must be torchrl with several seeds; got preallocated")
        return _torchrl_collector(env, SeededPolicy(model, self.shuffle), steps)

    def estimate_advantages(self, rollout: TensorDictBase, gamma: float, gae_lambda: float) -> None:
        """Write `advantage`, standardised over each agent's frames, and `value_target`, both (S, N, T, 1)."""
        GAE(gamma=gamma, lmbda=gae_lambda, value_network=None, average_gae=False)(rollout)
        normalise_advantages(rollout)

    def each(self, rollout: TensorDictBase) -> list[TensorDictBase]:
        """The rollout (N, T) of each agent."""
        return list(rollout)

    def row(self, rows: Sequence[Mapping[str, float]], failed: FailedSeeds) -> dict[str, float]:
        """One row to log, from each agent's metrics, without agents that have failed."""
        return seed_metrics(failed.kept(rows), failed.seeds)

    def row_of_phase(self, found: Mapping[str, Metric], failed: FailedSeeds) -> dict[str, float]:
        """One row to log, from the metrics that a phase returned.

        A metric (S,) is taken apart. A number is a mean over all agents; it is left out once an agent has failed.
        """
        row: dict[str, float] = {}
        for name, value in found.items():
            if isinstance(value, Tensor):
                row |= self.row([{name: own} for own in value.tolist()], failed)
            elif not failed.reasons:
                row[name] = float(value)
        return row

    def minibatches(
        self, batch: TensorDictBase, count: int, *, gathered: bool = True
    ) -> Iterator[TensorDictBase | Tensor]:
        """An epoch's minibatches, `count` of them, each as frames (S, B / count) of the batch (S, B).

        Not `gathered`, as indices (S, B / count): no copy of the whole batch is made, which may lie on a disk.
        """
        order = self.shuffle.permutations(batch.shape[1]).to(batch.device or "cpu")  # (S, B)
        if not gathered:
            yield from order.tensor_split(count, 1)
            return
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        shuffled: Any = batch[rows, order]  # indexed once: the minibatches are views
        yield from shuffled.split([part.shape[1] for part in order.tensor_split(count, 1)], 1)

    def frames(self, batch: TensorDictBase, part: TensorDictBase | Tensor, rows: slice) -> TensorDictBase:
        """The frames (S, b) in these rows of a minibatch."""
        if isinstance(part, Tensor):
            agents = torch.arange(len(part), device=part.device).unsqueeze(1)
            return batch[agents, part[:, rows]]
        return part[:, rows]

    def means(self, outputs: dict[str, Tensor], batch_size: torch.Size) -> dict[str, Tensor]:
        """The losses' outputs, averaged over each agent's samples (S, B).

        Losses (S, ...) and other outputs per sample, (S, B, 1), become (S,). Numbers stay; all else is left out.

        Raises:
            ValueError: a loss that has averaged over the agents.
        """
        found: dict[str, Tensor] = {}
        seeds = batch_size[0]
        for name, value in outputs.items():
            if name.startswith("loss_"):
                if value.ndim == 0 or len(value) != seeds:
                    allowed = (
                        f"its samples apart with {seeds} seeds, as reduction='none' does: {name} must be ({seeds}, ...)"
                    )
                    raise ValueError(f"loss must keep {allowed}; got {tuple(value.shape)}")
                found[name] = value.reshape(seeds, -1).mean(1)
            elif value.shape == (*batch_size, 1):
                found[name] = value.reshape(seeds, -1).mean(1)
            elif value.ndim == 0:  # not so PPO's effective sample size, which is taken over the first axis, the agents
                found[name] = value
        return found

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Clip each agent's gradient in place; return the norms before clipping, (S,)."""
        return clip_grad_norm_per_seed_(parameters, max_norm, len(self.shuffle.generators))


Agents = OneAgent | StackedAgents


@checked()
def kind_of_agents(model: nn.Module) -> type[Agents]:
    """The class of a model's agents: StackedAgents for a stack, else OneAgent."""
    return OneAgent if seed_count(model) is None else StackedAgents


def agents_of(shuffle: torch.Generator | SeedNoise) -> Agents:
    """The agents that draw from these random numbers."""
    return StackedAgents(shuffle) if isinstance(shuffle, SeedNoise) else OneAgent(shuffle)


def draw_agents(model: nn.Module, seeds: Sequence[int] | None) -> Agents:
    """A model's agents with fresh random numbers, seeded by `seeds`, or by torch's own seed where that is None."""
    if seeds is None:
        return OneAgent(torch.Generator().manual_seed(torch.initial_seed() % 2**63))
    return StackedAgents(SeedNoise(seeds, next(model.parameters()).device))


def check_agents(env: EnvBase, model: ActorValue, seeds: Sequence[int] | None) -> None:
    """Check that environment, model and seeds have equally many agents; ValueError otherwise."""
    batch_size, stacked = tuple(env.batch_size), seed_count(model)
    if seeds is None:
        if len(batch_size) != 1:
            raise ValueError(f"env must have one batch axis (N,); got batch_size {batch_size}, and no seeds")
        check_agent_seeds(model, seeds)
        return
    check_agent_seeds(model, seeds)
    if len(batch_size) != 2 or batch_size[0] != stacked:
        raise ValueError(f"env must have the batch axes (S, N) with S = {stacked} seeds; got batch_size {batch_size}")


def check_agent_seeds(model: nn.Module, seeds: Sequence[int] | None) -> None:
    """Check that there is a seed for each model of a stack, and none without a stack; ValueError otherwise."""
    stacked = seed_count(model)
    if seeds is None:
        if stacked is not None:
            raise ValueError(f"seeds must be {stacked} integers, one for each model of the stack; got None")
    elif len(seeds) != stacked or len(set(seeds)) != len(seeds):
        allowed = (
            f"{stacked} different integers, one for each model of the stack" if stacked else "None without a stack"
        )
        raise ValueError(f"seeds must be {allowed}; got {list(seeds)}")


def _torchrl_collector(env: EnvBase, policy: TensorDictModuleBase, steps: int) -> Collector:
    return Collector(
        env,
        policy,
        frames_per_batch=env.batch_size.numel() * steps,
        total_frames=-1,
        exploration_type=ExplorationType.RANDOM,
        use_buffers=False,  # the frames of a rollout are stacked once, not kept in a second buffer
        return_same_td=True,
        track_traj_ids=False,
        trust_policy=True,
        auto_register_policy_transforms=False,  # no transforms are added to the environment
    )
