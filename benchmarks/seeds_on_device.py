"""Several seeds as one batch on a device: grouped convolutions, and updates of small networks' agents.

    python benchmarks/seeds_on_device.py convolutions --seeds 1 4 16 --frames 512
    python benchmarks/seeds_on_device.py agents --agents 1 64

`convolutions` trains S separate IMPALA-CNNs on F frames each, one after another, and the same S as one network of
grouped convolutions (S groups), and prints frames per second of forward, backward and Adam, over all seeds. Procgen
trains one seed in a process (`experiments/procgen.py` refuses `seeds=`); where `grouped` is the faster one, several
seeds as one batch would pay.

`agents` runs the batched update of TD3 with small networks, |4,4| and |16,16|, for S agents at once, and prints
updates per second, summed over the agents. The environment and acting are not in it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (16, 32, 32)


class GroupedImpala(nn.Module):
    """S IMPALA-CNNs with one value each as one network: (B, S * 3, 64, 64) -> (S, B)."""

    def __init__(self, seeds: int):
        super().__init__()
        self.seeds = seeds

        def convolution(before: int, after: int) -> nn.Conv2d:
            return nn.Conv2d(seeds * before, seeds * after, 3, padding=1, groups=seeds)

        self.stages = nn.ModuleList()
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            self.stages.append(
                nn.ModuleList([convolution(before, after), *(convolution(after, after) for _ in "1234")])
            )
        self.hidden = nn.Parameter(torch.randn(seeds, 2048, 256) / 2048**0.5)
        self.value = nn.Parameter(torch.randn(seeds, 256, 1) / 16)

    def forward(self, x: Tensor) -> Tensor:
        for first, *others in self.stages:
            x = functional.max_pool2d(first(x), 3, 2, 1)
            for one, two in (others[:2], others[2:]):
                x = x + two(functional.relu(one(functional.relu(x))))
        rows = functional.relu(x).unflatten(1, (self.seeds, -1)).flatten(2).transpose(0, 1)  # (S, B, 2048)
        return (functional.relu(rows @ self.hidden) @ self.value).squeeze(-1)


def rate(step: Callable[[], object], work: int, device: str, seconds: float) -> float:
    """`work` per second of a step, after three of warm-up: the median over steps that take `seconds` together.

    On a CPU seconds are of processor time, which other processes change little.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(3):
        step()
    synchronise(device)
    began, found = clock(), []
    while len(found) < 3 or clock() - began < seconds:
        start = clock()
        step()
        synchronise(device)
        found.append(clock() - start)
    return work / statistics.median(found)


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def convolutions(options: argparse.Namespace, device: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    print("| seeds | frames of each | separate, frames/s | grouped, frames/s | grouped : separate |")
    print("|---|---|---|---|---|")
    for seeds in options.seeds:
        found = []
        for groups, networks in ((1, seeds), (seeds, 1)):
            made = [GroupedImpala(groups).to(device, memory_format=torch.channels_last) for _ in range(networks)]
            optimizers = [torch.optim.Adam(network.parameters(), fused=device != "cpu") for network in made]
            shape = (options.frames, 3 * groups, 64, 64)
            frames = torch.rand(shape, device=device).to(memory_format=torch.channels_last)

            def step(made: Any = made, optimizers: Any = optimizers, frames: Tensor = frames) -> None:
                for network, optimizer in zip(made, optimizers, strict=True):
                    with torch.autocast(device.partition(":")[0], dtype, enabled=dtype == torch.bfloat16):
                        value = network(frames)
                    value.float().square().mean(1).sum().backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            found.append(rate(step, seeds * options.frames, device, options.seconds))
        separate, grouped = found
        ratio = f"{grouped / separate:.2f}"
        print(f"| {seeds} | {options.frames} | {separate:,.0f} | {grouped:,.0f} | {ratio} |", flush=True)


def agents(options: argparse.Namespace, device: str) -> None:
    from decouple.off_policy.learner import Learner
    from decouple.off_policy.replay import Transition
    from decouple.seeding import SeedNoise
    from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, seeded_model
    from decouple.studies.actor_size.build import make_env

    print("| agents | updates/s, summed |\n|---|---|")
    for number in options.agents:
        own = {"env": "pendulum", "actor": [4, 4], "critic": [16, 16], "seeds": number}
        config = CONTROL_ALGORITHMS["td3"](**own, show_progress=False, run_dir="/nowhere")
        env = make_env(config, 1, config.all_seeds)
        models = [seeded_model(config, env, seed).to(device) for seed in config.all_seeds]
        learner, noise = Learner(models, config.learning), SeedNoise(config.all_seeds, torch.device(device))
        widths = (3, 1, 1, 1, 3)
        shape = (number, config.learning.batch_size)
        batch = Transition(*(torch.rand(*shape, width, device=device) for width in widths))
        found = rate(
            lambda learner=learner, batch=batch, noise=noise: learner.update(batch, noise),
            number,
            device,
            options.seconds,
        )
        print(f"| {number} | {found:,.0f} |", flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["convolutions", "agents"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--frames", type=int, default=512, help="frames of each seed in a minibatch")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement")
    parser.add_argument("--device", help="cpu, cuda or cuda:<n>; default: a GPU where there is one")
    return parser


def main() -> None:
    options = parser().parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    {"convolutions": convolutions, "agents": agents}[options.what](options, device)


if __name__ == "__main__":
    main()
