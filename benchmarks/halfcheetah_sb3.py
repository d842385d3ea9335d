"""HalfCheetah-v4 with Stable-Baselines3, |64,64|: the results beside ours in `docs/control_results.md`.

    pip install -c constraints.txt stable-baselines3
    python benchmarks/halfcheetah_sb3.py --algorithm td3 --seed 0 --steps 100000 --out sb3_td3_seed0.csv

The settings are those of `experiments/control.py env=halfcheetah actor=[64,64] critic=[64,64]`. Every 10,000 steps the
table gets the mean return of 10 episodes without exploration.
"""

from __future__ import annotations

import argparse
import csv
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise


class Evaluate(BaseCallback):
    """Writes a row of the table every 10,000 steps."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = open(path, "w")  # noqa: SIM115  (open while the run lasts)
        self.table, self.start = csv.writer(self.file), time.time()
        self.table.writerow(["steps", "return_mean", "return_std", "seconds"])
        self.env = Monitor(gymnasium.make("HalfCheetah-v4"))

    def _on_step(self) -> bool:
        if self.num_timesteps % 10_000 == 0:
            mean, deviation = evaluate_policy(self.model, self.env, n_eval_episodes=10, deterministic=True)
            self.table.writerow([self.num_timesteps, mean, deviation, time.time() - self.start])
            self.file.flush()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=["sac", "td3"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"policy_kwargs": {"net_arch": [64, 64]}, "learning_starts": 10_000, "batch_size": 256, "device": "cpu"}
    env = gymnasium.make("HalfCheetah-v4")
    if options.algorithm == "sac":
        model = SAC("MlpPolicy", env, learning_rate=3e-4, seed=options.seed, **settings)
    else:
        noise = NormalActionNoise(np.zeros(6), 0.1 * np.ones(6))
        model = TD3("MlpPolicy", env, learning_rate=1e-3, action_noise=noise, seed=options.seed, **settings)
    model.learn(options.steps, callback=Evaluate(options.out))


if __name__ == "__main__":
    main()
