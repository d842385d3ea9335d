"""Speed of whole training loops on Pendulum with small networks: this package and Stable-Baselines3, in one run.

    pip install -c constraints.txt stable-baselines3
    python benchmarks/small_networks.py --repeats 3 --threads 1 2

In every step both act, step Gymnasium's Pendulum-v1, store the transition and update, with the same settings (batch
256, ReLU, a replay buffer in memory; no evaluation, no files). Each system has its own process, because `keep_memory`
(as in `train_agents`) holds for a whole process. A rate is the steps per second of one agent times the agents trained
at once. The systems alternate within a repeat, and medians over repeats are compared. Results: docs/control_results.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from decouple.off_policy.learner import Learner
from decouple.off_policy.training import train_off_policy
from decouple.runs.performance import keep_memory
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, make_model
from decouple.studies.actor_size.build import make_env

WARM_UP = 200  # steps before the clock starts; the first 100 have random actions and no updates

# (algorithm, actor, critic, agents at once)
CASES = [
    ("sac", [64, 64], [64, 64], 1),
    ("td3", [64, 64], [64, 64], 1),
    ("sac", [256, 256], [256, 256], 1),
    ("td3", [256, 256], [256, 256], 1),
    ("sac", [8, 8], [64, 64], 6),
    ("td3", [8, 8], [64, 64], 6),
]


def ours(threads: int, algorithm: str, actor: list[int], critic: list[int], agents: int, steps: int) -> float:
    """Steps per second of our loop, summed over agents."""
    torch.set_num_threads(threads)
    keep_memory()
    config = CONTROL_ALGORITHMS[algorithm](
        env="pendulum",
        actor=actor,
        critic=critic,
        seeds=agents,
        total_frames=WARM_UP + steps,
        learning_starts=100,
        log_every=100,
        evaluate_every=100,
        checkpoint_every=100,
    )
    env = make_env(config, 1, config.all_seeds)
    models = []
    for seed in config.all_seeds:
        torch.manual_seed(seed)
        models.append(make_model(config, env))
    times: dict[int, float] = {}
    train_off_policy(
        env,
        Learner(models, config.learning),
        seeds=config.all_seeds,
        log=lambda _, frames: times.__setitem__(frames, time.perf_counter()),
    )
    return agents * steps / (times[WARM_UP + steps] - times[WARM_UP])


def stable_baselines(threads: int, algorithm: str, actor: list[int], critic: list[int], steps: int) -> float:
    """Steps per second of Stable-Baselines3's loop, which trains one agent."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    import gymnasium
    import numpy as np
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    class Clock(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.times: dict[int, float] = {}

        def _on_step(self) -> bool:
            if self.num_timesteps in (WARM_UP, WARM_UP + steps):
                self.times[self.num_timesteps] = time.perf_counter()
            return True

    settings = {
        "policy_kwargs": {"net_arch": {"pi": actor, "qf": critic}},
        "learning_starts": 100,
        "batch_size": 256,
        "buffer_size": WARM_UP + steps,
        "seed": 0,
        "device": "cpu",
    }
    env = gymnasium.make("Pendulum-v1")
    if algorithm == "sac":
        model = SAC("MlpPolicy", env, learning_rate=3e-4, **settings)
    else:
        model = TD3("MlpPolicy", env, action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)), **settings)
    clock = Clock()
    model.learn(WARM_UP + steps, callback=clock)
    return steps / (clock.times[WARM_UP + steps] - clock.times[WARM_UP])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measurement; medians are shown")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="PyTorch's threads, for both")
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of a measurement of Stable-Baselines3")
    options = parser.parse_args()
    print("| algorithm | actor | critic | threads | SB3, steps/s | agents | ours, seed-steps/s | ratio | range |")
    print("|---|---|---|---|---|---|---|---|---|")
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as here, ProcessPoolExecutor(1, spawn) as there:
        for algorithm, actor, critic, agents in CASES:
            for threads in options.threads:
                case = threads, algorithm, actor, critic
                rate = there.submit(stable_baselines, *case, 100).result()
                steps = max(300, -(-round(options.seconds * rate) // 100) * 100)
                theirs, mine = [], []
                for _ in range(options.repeats):
                    theirs.append(there.submit(stable_baselines, *case, steps).result())
                    mine.append(here.submit(ours, *case, agents, steps).result())
                ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
                sizes = (",".join(map(str, actor)), ",".join(map(str, critic)))
                print(
                    f"| {algorithm} | {sizes[0]} | {sizes[1]} | {threads} | {statistics.median(theirs):.0f} | {agents} "
                    f"| {statistics.median(mine):.0f} | {statistics.median(ratios):.1f} "
                    f"| {min(ratios):.1f} to {max(ratios):.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
