"""Processor time of a step of all games of an evaluation: by kernels, and by the policy's modules through TensorDicts.

    python benchmarks/evaluations.py                                        # agents without training
    python benchmarks/evaluations.py --cases pong-ppo --frames 200000      # trained before, this many frames each

An evaluation plays one episode of each game of each agent, in the modes of the policies. The two ways alternate in one
process with one thread, on the same games; medians over rounds. A step is one of the longest episode's. Kernels play
where the environment has rules for them, else they act alone. What compiling takes is left out: the first round is not
counted. Results: docs/control_results.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from decouple.analysis.evaluation import episode_returns
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, algorithm_of, seeded_model
from decouple.studies.actor_size.build import make_env

# (task, algorithm, further settings)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pong-ppo": ("pong", "ppo", {}),
    "pixelcopter-ppo": ("pixelcopter", "ppo", {}),
    "acrobot-ppo": ("acrobot", "ppo", {}),
    "pendulum-ppo": ("pendulum", "ppo", {}),
    "pendulum-td3": ("pendulum", "td3", {}),
    "pendulum-ppo, normalised": ("pendulum", "ppo", {"normalize_observation": True}),
    "CartPole-v1-ppo": ("CartPole-v1", "ppo", {}),
    "CartPole-v1-sac": ("CartPole-v1", "sac", {}),
}
SIZES, EVALUATED = [64, 64], 10_000


class Modules(TensorDictModuleBase):
    """A policy without its kernels, as `episode_returns` sees it."""

    def __init__(self, policy: TensorDictModuleBase):
        super().__init__()
        self.policy, self.in_keys, self.out_keys = policy, policy.in_keys, policy.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.policy(tensordict)


def measure(case: str, agents: int, games: int, frames: int, rounds: int) -> str:
    """A row of the table."""
    task, algorithm, settings = CASES[case]
    training = {"total_frames": frames, "evaluate_every": 10**6} if frames else {}
    shared = {"actor": SIZES, "critic": SIZES, "seeds": agents, "show_progress": False, "run_dir": "/nowhere"}
    config = CONTROL_ALGORITHMS[algorithm](env=task, **shared, **settings, **training)
    env = make_env(config, config.num_envs, config.all_seeds)
    made = algorithm_of(config).make_agents(config, [seeded_model(config, env, seed) for seed in config.all_seeds])
    if frames:
        made.train(env, None, None, seeds=config.all_seeds, log=lambda *_: None)
    seconds: dict[str, list[float]] = {"kernels": [], "modules": []}
    found: dict[str, list[float]] = {}
    steps = 0
    for _ in range(rounds + 1):
        for name, policy in (("kernels", made.policy), ("modules", Modules(made.policy))):
            fresh, told = make_env(config, games, [EVALUATED + s for s in config.all_seeds], env, test=True), []
            begun = time.process_time()
            returns = episode_returns(fresh, policy, stochastic=False, progress=lambda *done, told=told: told.append(1))
            seconds[name].append(time.process_time() - begun)
            fresh.close()
            found[name], steps = returns.tolist(), len(told)  # of the modules: one call a step
    times = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    each = [f"{1000 * times[name] / steps:.3f}" for name in ("modules", "kernels")]
    means = [f"{statistics.fmean(found[name]):.4g}" for name in ("modules", "kernels")]
    ratio = f"{times['modules'] / times['kernels']:.1f}"
    return f"| {case} | {steps} | {' | '.join(each)} | {ratio} | {times['kernels']:.3f} | {' | '.join(means)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--games", type=int, default=20, help="games of each agent")
    parser.add_argument("--frames", type=int, default=0, help="frames of each agent's training before; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| case | steps | modules, ms a step | kernels, ms a step | times | kernels, s in all | return | by kernels |"
    )
    print("|" + "---|" * 8)
    for case in options.cases:
        print(measure(case, options.agents, options.games, options.frames, options.rounds), flush=True)


if __name__ == "__main__":
    main()
