"""Speed of whole training loops on Pendulum with small networks: this package beside the field's own programs.

    pip install -e ".[fast,mujoco]"                                                      # this package
    python -m venv sb3 && sb3/bin/pip install stable-baselines3                          # each peer by itself
    python -m venv sbx && sbx/bin/pip install sbx-rl
    python -m venv rlt && rlt/bin/pip install rltools mkl mkl-include pybind11 gymnasium # and a C++ compiler
    python benchmarks/small_networks.py --rounds 3 \
        --python sb3=sb3/bin/python sbx=sbx/bin/python rltools=rlt/bin/python

In every step a system acts, steps Pendulum, stores the transition and updates, with the same settings (off policy: batch
256, an update a step, ReLU; PPO: 4 environments x 1024 steps, 64 minibatches of 64, 10 epochs; no evaluation, no
files). Stable-Baselines3, SBX and RLtools step Gymnasium's Pendulum-v1, and this package its own Pendulum with the same
numbers. A measurement is a process of its own: some steps of warm-up, which also compile, then `--seconds` of training.
Rates are steps per second of wall time and, in brackets, of processor time, summed over the agents trained at once.
Systems alternate within a round; medians over rounds are shown. Results: docs/control_results.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

# (algorithm, actor, critic, agents of this package at once)
CASES = [
    ("sac", [8, 8], [8, 8], 1),
    ("td3", [8, 8], [8, 8], 1),
    ("sac", [64, 64], [64, 64], 1),
    ("td3", [64, 64], [64, 64], 1),
    ("sac", [256, 256], [256, 256], 1),
    ("td3", [256, 256], [256, 256], 1),
    ("sac", [64, 64], [64, 64], 6),
    ("td3", [64, 64], [64, 64], 6),
    ("ppo", [64, 64], [64, 64], 1),
]
WARM_UP = 300  # steps before the clock starts; the first 100 have random actions and no updates
ROLLOUT, ENVS = 1024, 4


class Clock:
    """Counts steps from the end of the warm-up until the time is over."""

    def __init__(self, seconds: float, warm_up: int):
        self.seconds, self.warm_up, self.begun, self.last = seconds, warm_up, None, None

    def over(self, steps: int) -> bool:
        """Note the steps so far; True when the time is over."""
        now = steps, time.perf_counter(), time.process_time()
        if self.begun is None:
            self.begun = now if steps >= self.warm_up else None
            return False
        self.last = now
        return now[1] - self.begun[1] >= self.seconds

    def rates(self, agents: int = 1) -> dict[str, float]:
        steps, wall, cpu = (after - before for before, after in zip(self.begun, self.last, strict=True))
        return {"wall": agents * steps / wall, "cpu": agents * steps / cpu}


class OverError(Exception):
    """The time is over."""


def ours(algorithm: str, actor: list[int], critic: list[int], agents: int, clock: Clock, update: str) -> None:
    import torch

    from decouple.runs.performance import keep_memory
    from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, algorithm_of, seeded_model
    from decouple.studies.actor_size.build import make_env

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_memory()
    shared = {"env": "pendulum", "actor": actor, "critic": critic, "seeds": agents, "update": update}
    if algorithm == "ppo":
        own = {"num_envs": ENVS, "rollout_steps": ROLLOUT, "minibatches": 64, "epochs": 10, "evaluate_every": 10**6}
        own |= {"total_frames": 10**9, "checkpoint_every": 10**6}
    else:
        own = {"total_frames": 10**7, "learning_starts": 100, "buffer_size": 10**5, "learning_rate": 3e-4}
        own |= {"log_every": 100, "evaluate_every": 10**6, "checkpoint_every": 10**6}
    config = CONTROL_ALGORITHMS[algorithm](**shared, **own, show_progress=False, run_dir="/nowhere")
    env = make_env(config, config.num_envs, config.all_seeds)
    trained = algorithm_of(config).make_agents(config, [seeded_model(config, env, seed) for seed in config.all_seeds])

    def log(metrics: object, frames: int) -> None:
        if clock.over(frames):
            raise OverError

    if algorithm == "ppo":
        trained.train(env, None, None, seeds=config.all_seeds, log=log)
    else:
        from decouple.off_policy.training import train_off_policy

        train_off_policy(env, trained.learner, seeds=config.all_seeds, log=log)


def baselines(package: str, algorithm: str, actor: list[int], critic: list[int], clock: Clock) -> None:
    import warnings

    warnings.filterwarnings("ignore")
    import importlib

    import gymnasium
    import numpy as np
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    library = importlib.import_module(package)

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return algorithm == "ppo" or not clock.over(self.num_timesteps)

        def _on_rollout_start(self) -> None:
            if algorithm == "ppo" and clock.over(self.num_timesteps):
                raise OverError

    net = {"net_arch": {"pi": actor, "qf" if algorithm != "ppo" else "vf": critic}}
    if algorithm == "ppo":
        from stable_baselines3.common.env_util import make_vec_env

        own = {"n_steps": ROLLOUT, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4}
        model = library.PPO("MlpPolicy", make_vec_env("Pendulum-v1", ENVS), policy_kwargs=net, device="cpu", **own)
    else:
        own = {"learning_starts": 100, "batch_size": 256, "buffer_size": 10**5, "learning_rate": 3e-4}
        if algorithm == "td3":
            own["action_noise"] = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
        env = gymnasium.make("Pendulum-v1")
        model = getattr(library, algorithm.upper())("MlpPolicy", env, policy_kwargs=net, device="cpu", seed=0, **own)
    model.learn(10**7, callback=Stop())


def rltools(algorithm: str, actor: list[int], critic: list[int], clock: Clock) -> None:
    import gymnasium
    import rltools as library
    from gymnasium.wrappers import RescaleAction

    def make() -> gymnasium.Env:
        env = RescaleAction(gymnasium.make("Pendulum-v1"), -1, 1)
        env.reset(seed=0)
        return env

    # Its "layers" count the output layer.
    sizes = {"ACTOR_HIDDEN_DIM": actor[0], "ACTOR_NUM_LAYERS": len(actor) + 1}
    sizes |= {"CRITIC_HIDDEN_DIM": critic[0], "CRITIC_NUM_LAYERS": len(critic) + 1}
    name = f"{algorithm}_{actor[0]}_{critic[0]}"
    shared = {"enable_evaluation": False, "interface_name": name, "OPTIMIZER_ALPHA": 3e-4, **sizes}
    if algorithm == "ppo":
        own = {"N_ENVIRONMENTS": ENVS, "ON_POLICY_RUNNER_STEPS_PER_ENV": ROLLOUT, "BATCH_SIZE": 64, "N_EPOCHS": 10}
        own |= {"TOTAL_STEP_LIMIT": 10**8, "EPISODE_STEP_LIMIT": 200, "ACTOR_ACTIVATION_FUNCTION": "TANH"}
        made, frames = library.PPO(make, **shared, **own, CRITIC_ACTIVATION_FUNCTION="TANH"), ENVS * ROLLOUT
    else:
        own = {"ACTOR_BATCH_SIZE": 256, "CRITIC_BATCH_SIZE": 256, "STEP_LIMIT": 10**7, "REPLAY_BUFFER_CAP": 10**5}
        kind = {"sac": library.SAC, "td3": library.TD3}[algorithm]
        made, frames = kind(make, **shared, **own), 1
    state, steps = made.State(0), 0
    while not clock.over(steps):
        for _ in range(1 if algorithm == "ppo" else 20):
            state.step()
            steps += frames


def measure(system: str, algorithm: str, actor: list[int], critic: list[int], agents: int, seconds: float) -> None:
    """Measure in this process, and print the rates as JSON."""
    warm_up = ENVS * ROLLOUT if algorithm == "ppo" else WARM_UP
    clock = Clock(seconds, warm_up)
    runs: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(algorithm, actor, critic, agents, clock, "auto"),
        "torch": lambda: ours(algorithm, actor, critic, agents, clock, "batched"),
        "sb3": lambda: baselines("stable_baselines3", algorithm, actor, critic, clock),
        "sbx": lambda: baselines("sbx", algorithm, actor, critic, clock),
        "rltools": lambda: rltools(algorithm, actor, critic, clock),
    }
    with contextlib.suppress(OverError):
        runs[system]()
    print(json.dumps(clock.rates(agents if system in ("ours", "torch") else 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians over them are shown")
    parser.add_argument("--threads", type=int, default=1, help="threads of each system")
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of a measurement")
    parser.add_argument("--python", nargs="*", default=[], metavar="SYSTEM=PATH", help="sb3, sbx and rltools")
    parser.add_argument("--systems", nargs="*", default=["ours", "torch"], help="of this package: ours (auto), torch")
    parser.add_argument("--cases", nargs="*", type=int, default=range(len(CASES)), help="numbers of cases, from 0")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*json.loads(options.measure), options.seconds)
        return
    pythons = dict.fromkeys(options.systems, sys.executable) | dict(each.split("=", 1) for each in options.python)
    names = list(pythons)
    print(f"| algorithm | actor | critic | agents | {' | '.join(names)} |")
    print("|" + "---|" * (4 + len(names)))
    threads = {f"{name}_NUM_THREADS": str(options.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    environment = (
        os.environ | threads | {"XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(options.threads > 1).lower()}"}
    )
    for number in options.cases:
        algorithm, actor, critic, agents = CASES[number]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                case = json.dumps([name, algorithm, actor, critic, agents])
                command = [
                    pythons[name],
                    "-W",
                    "ignore",
                    __file__,
                    "--seconds",
                    str(options.seconds),
                    "--measure",
                    case,
                ]
                ran = subprocess.run(command, env=environment, capture_output=True, text=True)
                if ran.returncode == 0:
                    found[name].append(json.loads(ran.stdout.strip().splitlines()[-1]))
                else:
                    print(f"{name}, {algorithm}: {ran.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        shown = [
            f"{statistics.median(r['wall'] for r in rates):,.0f} ({statistics.median(r['cpu'] for r in rates):,.0f})"
            if rates
            else "-"
            for rates in found.values()
        ]
        sizes = " | ".join(",".join(map(str, layers)) for layers in (actor, critic))
        print(f"| {algorithm} | {sizes} | {agents} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
