"""Rounding errors of bf16 in a trained agent's values and in the gradients of its losses.

    python benchmarks/bf16_rounding.py runs/starpilot/shared/seed0

Collects the next rollout of a run of `experiments/procgen.py`. In fp32 and in bf16, with the same weights, it computes
the values of all frames, and each loss's gradient on every minibatch.

Columns, as shares of a minibatch's size in fp32 (root mean squares): `rounding` is the difference of bf16 and fp32,
`sampling` the difference of a minibatch and the mean of all. `rounding of the mean` is the difference of the means over
all minibatches, as a share of the mean in fp32: random rounding errors average out there, by the root of their number.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives.value import GAE

from decouple.networks.actor_value import ActorValue
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.phases import Phase, run_phase
from decouple.runs.files import markdown_lines
from decouple.runs.finished import run_checkpoint
from decouple.runs.performance import MICRO_BATCH, autocast, choose_performance
from decouple.seeding import set_rng_state
from decouple.studies.separation.experiment import load_agent, make_env


def centred_values(model: ActorValue, minibatches: Sequence[TensorDictBase], precision: str) -> Tensor:
    """The value of every frame, less the mean over all frames: (minibatches, frames)."""
    operator, found = model.get_value_operator(), []
    with torch.no_grad(), autocast(torch.device("cpu"), precision):
        for minibatch in minibatches:
            parts = minibatch.select(*model.in_keys).split(MICRO_BATCH[precision])
            found.append(torch.cat([operator(part)["state_value"].squeeze(-1) for part in parts]))
    return torch.stack(found) - torch.stack(found).mean()


def gradients(phase: Phase, minibatches: Sequence[TensorDictBase], precision: str) -> Tensor:
    """The gradient of every minibatch, without optimizer steps in between: (minibatches, parameters)."""
    found = []
    for minibatch in minibatches:
        run_phase(phase, minibatch, torch.Generator(), micro_batch=MICRO_BATCH[precision], precision=precision)
        found.append(torch.cat([p.grad.flatten() for p in phase.parameters() if p.grad is not None]))
    return torch.stack(found)


def size(vectors: Tensor) -> Tensor:
    """The root mean square of the vectors' norms."""
    return vectors.square().sum(-1).mean().sqrt()


def shares(exact: Tensor, rounded: Tensor) -> list[str]:
    """The table's three shares for vectors (minibatches, n) in fp32 and in bf16."""
    mean, off = exact.mean(0), rounded - exact
    found = [size(off) / size(exact), size(exact - mean) / size(exact), off.mean(0).norm() / mean.norm()]
    return [f"{share:.2%}" for share in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run, or its checkpoint")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()

    _, state = run_checkpoint(options.run)
    config, model, _ = load_agent(state)
    precision = state["settings"]["precision"]
    choose_performance("auto", device="cpu", torch_threads=options.threads).prepare(model)
    phases = ALGORITHMS[config.learning.algorithm](model, config.learning)
    for phase, saved in zip(phases, state["phases"], strict=True):
        phase.load_state_dict(saved)
    with contextlib.closing(make_env(config, config.num_envs, config.seed, test=False, training=True)) as env:
        env.load_state_dict(state["env"])
        set_rng_state(state["rng"])
        rollout = next(RolloutCollector(env, model, config.learning.rollout_steps, precision=precision))
    GAE(gamma=config.learning.gamma, lmbda=config.learning.gae_lambda, value_network=None, average_gae=True)(rollout)
    batch = rollout.exclude("next").reshape(-1)
    for phase in phases:
        if phase.prepare:
            phase.prepare(batch)
    minibatches = [batch[rows] for rows in torch.randperm(batch.numel()).tensor_split(config.learning.minibatches)]

    exact, rounded = (centred_values(model, minibatches, precision) for precision in ("fp32", "bf16"))
    table = [["", "rounding", "sampling", "rounding of the mean"]]
    table.append(["values", f"{size(rounded - exact) / size(exact):.2%}", "", ""])
    for phase in phases:
        for loss in phase.losses:
            still = torch.optim.SGD(phase.parameters(), lr=0.0)
            changes = {"epochs": 1, "minibatches": 1, "max_grad_norm": None, "prepare": None, "adversary": None}
            alone = replace(phase, loss=loss, optimizer=still, **changes)
            found = shares(*(gradients(alone, minibatches, precision) for precision in ("fp32", "bf16")))
            table.append([f"gradient of {type(loss).__name__.strip('_')}, {phase.name} phase", *found])
    print(markdown_lines(table))


if __name__ == "__main__":
    main()
