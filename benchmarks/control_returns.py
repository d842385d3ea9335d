"""Returns of our agents and of Stable-Baselines3's, and of our agents on one task in four units of its action.

    pip install -c constraints.txt stable-baselines3 scipy
    python benchmarks/control_returns.py --out runs/returns
    python benchmarks/control_returns.py --out runs/returns --cases pendulum-small --algorithms td3 --systems ours

Cases: `pendulum-small` (|64,64|, 8,000 steps, PPO 60,000), `pendulum-docs` and `acrobot` (settings of
`experiments/control.py env=pendulum` and `acrobot`; on the latter ours alone, by PPO), `track` (`track_task.py`, ours
alone, four units). Systems: `ours` (compiled updates where Numba is installed), `torch` (ours with `update=batched`),
`sb3`. All have the same settings: those of Stable-Baselines3 are taken from ours. Each has a process with one thread.
Ours trains all seeds of a cell at once, Stable-Baselines3 one seed after another. Each agent is evaluated without
exploration on 100 episodes, the same ones for all systems. `returns.csv` gets a row per agent; agents with a row are
not trained again; its seconds are those of the processor, training and evaluation of an agent. `table.md` is made
from all rows. Results: docs/control_results.md.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, product
from math import isfinite, nan
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import gymnasium
import numpy as np
import torch
import track_task
import yaml
from scipy.stats import t as student

from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.settings import FINAL_SEED, ControlSettings

ALGORITHMS = ["ppo", "sac", "td3", "ddpg"]
FAILED = -400.0  # return on Pendulum below which an agent has not learned to swing up; others are near -150
TRACK_FAILED = -1.0  # the same on the task in four units, whose agents reach 0
DEPARTURES = Path(__file__).parent.parent / "configs" / "control" / "departures"
SMALL = {"actor": [64, 64], "critic": [64, 64]}
OFF_POLICY = {"learning_rate": 1e-3, "gamma": 0.98, "learning_starts": 100}
QUIET = {"tracker": "local", "show_progress": False}
FIELDS = ["case", "algorithm", "system", "seed", "return", "seconds"]

Row = dict[str, Any]


def is_track(case: str) -> bool:
    return case.startswith("track")


def departures(algorithm: str, env: str = "pendulum") -> dict[str, Any]:
    """The departures of RL Baselines3 Zoo on a task, without the intervals of evaluations and checkpoints."""
    settings = yaml.safe_load((DEPARTURES / f"{env}_{algorithm}.yaml").read_text())
    return {key: value for key, value in settings.items() if key not in ("evaluate_every", "checkpoint_every")}


def cell_settings(case: str, algorithm: str) -> dict[str, Any]:
    """Our settings of a case, as `pendulum-small` or `track-<unit>`, without seeds and folder."""
    if case == "pendulum-docs":
        own = departures(algorithm)
    elif case == "acrobot":
        own = departures(algorithm, "acrobot") | {"env": "acrobot"}
    else:
        pendulum = case == "pendulum-small"
        env = "pendulum" if pendulum else f"Track-{case.removeprefix('track-')}-v0"
        if algorithm == "ppo":
            own = departures("ppo") | SMALL | {"env": env, "total_frames": 60_000 if pendulum else 20_000}
        else:
            own = {**OFF_POLICY, **SMALL, "env": env, "total_frames": 8_000 if pendulum else 1_000}
    often = 1_000 if algorithm == "ppo" else own["total_frames"]  # iterations, or steps: none before the end
    return {**own, "evaluate_every": often, "checkpoint_every": often, "evaluate_episodes": 1}


def make_settings(case: str, algorithm: str, **own: Any) -> ControlSettings:
    return CONTROL_ALGORITHMS[algorithm](**cell_settings(case, algorithm), **own)


def train_ours(case: str, algorithm: str, seeds: list[int], folder: Path, update: str = "auto") -> list[Row]:
    """Train all seeds at once; return their rows."""
    start = time.process_time()
    run_dir = folder / "-".join([case, algorithm, update, f"seeds{seeds[0]}", str(len(seeds))])
    own = {"seed": seeds[0], "seeds": len(seeds), "num_threads": 1, "run_dir": str(run_dir), "update": update}
    report = train_agents(make_settings(case, algorithm, **own, **QUIET))
    seconds = (time.process_time() - start) / len(seeds)
    each = {seed: report.get(f"final/return/seed{seed}", report["final/return"]) for seed in seeds}
    return [
        {"seed": seed, "return": nan if value is None else value, "seconds": seconds} for seed, value in each.items()
    ]


def train_theirs(case: str, algorithm: str, seeds: list[int], folder: Path) -> list[Row]:
    """Train one agent of Stable-Baselines3 with our settings, on Gymnasium's Pendulum; return its row."""
    warnings.filterwarnings("ignore")
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    start = time.process_time()
    (seed,) = seeds
    settings: Any = make_settings(case, algorithm, seed=seed)
    env = make_vec_env("Pendulum-v1", settings.num_envs, seed=seed)
    model = stable_baselines(settings, env)
    model.learn(settings.learning.total_frames)

    def act(observation: np.ndarray) -> np.ndarray:
        return model.predict(observation, deterministic=True)[0]

    value = mean(episode_returns(act, "Pendulum-v1", FINAL_SEED + seed, settings.final_episodes))
    return [{"seed": seed, "return": value, "seconds": time.process_time() - start}]


TRAIN = {"ours": train_ours, "torch": partial(train_ours, update="batched"), "sb3": train_theirs}


def stable_baselines(settings: Any, env: Any) -> Any:
    """Stable-Baselines3's algorithm of the same name; for settings not given here, its default equals ours."""
    from stable_baselines3 import DDPG, PPO, SAC, TD3
    from stable_baselines3.common.noise import NormalActionNoise

    learning = settings.learning
    common = {"learning_rate": learning.learning_rate, "gamma": learning.gamma, "seed": settings.seed, "device": "cpu"}
    if settings.algorithm == "ppo":  # as ours: tanh, orthogonal with gains sqrt 2, .01 and 1, Adam's epsilon 1e-5
        return PPO(
            "MlpPolicy",
            env,
            n_steps=learning.rollout_steps,
            batch_size=settings.num_envs * learning.rollout_steps // learning.minibatches,
            n_epochs=learning.epochs,
            gae_lambda=learning.gae_lambda,
            clip_range=learning.clip_epsilon,
            ent_coef=learning.entropy_coeff,
            vf_coef=learning.value_coeff,
            max_grad_norm=learning.max_grad_norm,
            policy_kwargs={"net_arch": {"pi": settings.actor, "vf": settings.critic}},
            **common,
        )
    common |= {
        "policy_kwargs": {"net_arch": {"pi": settings.actor, "qf": settings.critic}},
        "learning_starts": learning.learning_starts,
        "batch_size": learning.batch_size,
        "buffer_size": min(learning.buffer_size, learning.total_frames),
        "tau": learning.tau,
        "train_freq": learning.train_every,
        "gradient_steps": learning.updates,
    }
    if settings.algorithm == "sac":
        return SAC("MlpPolicy", env, **common)
    actions = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(actions), learning.exploration_noise * np.ones(actions))  # in [-1, 1], as ours
    if settings.algorithm == "ddpg":
        return DDPG("MlpPolicy", env, action_noise=noise, **common)
    return TD3(
        "MlpPolicy",
        env,
        action_noise=noise,
        policy_delay=learning.policy_delay,
        target_policy_noise=learning.target_noise,
        target_noise_clip=learning.target_noise_clip,
        **common,
    )


def episode_returns(act: Callable[[np.ndarray], np.ndarray], env_id: str, seed: int, episodes: int) -> list[float]:
    """The returns of the episodes on which `train_agents` evaluates the agent of a seed, seeded as in `ControlEnv`."""
    env, returns = gymnasium.make(env_id), []
    for index in range(episodes):
        observation, _ = env.reset(seed=int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open() as file:
        rows: list[Row] = list(csv.DictReader(file))
    return [row | {"seed": int(row["seed"]), "return": float(row["return"])} for row in rows]


def add_rows(path: Path, rows: list[Row]) -> None:
    new = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**row, "return": f"{row['return']:.4f}", "seconds": f"{row['seconds']:.0f}"} for row in rows)


def interval(values: list[float]) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % interval, by Student's t, over finite returns; for one return nan as ends."""
    values = [value for value in values if isfinite(value)]
    if len(values) < 2:
        return (*values, nan, nan, nan)[:3]
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values), mean(values) - half, mean(values) + half


def make_table(rows: list[Row]) -> str:
    """A table with a row per cell (returns, mean, interval, failures), and the comparison of the cells' means."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["algorithm"], row["system"]), []).append(row)
    lines = [
        "| case | algorithm | system | return of each seed | mean | 95 % interval | failed | seconds an agent |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (case, algorithm, system), own in sorted(cells.items()):
        own.sort(key=lambda row: row["seed"])
        values = [row["return"] for row in own]
        center, low, high = interval(values)
        digits, least = (3, TRACK_FAILED) if is_track(case) else (0, FAILED)
        each = ", ".join(f"{value:.{digits}f}" for value in values)
        failed = sum(not value >= least for value in values)  # counts nan, an agent without a return, too
        lines.append(
            f"| {case} | {algorithm} | {system} | {each} | {center:.{digits}f} | {low:.{digits}f} to "
            f"{high:.{digits}f} | {failed} of {len(values)} | {mean(float(row['seconds']) for row in own):.0f} |"
        )
    return "\n".join([*lines, "", *compared(cells)])


def compared(cells: dict[tuple[str, str, str], list[Row]]) -> list[str]:
    """A line per comparison: both systems on a case, or one algorithm in all units of the task."""
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (case, algorithm, system), own in cells.items():
        values = [row["return"] for row in own]
        group, name = ("track", case) if is_track(case) else (case, system)
        groups.setdefault((group, algorithm), {})[name] = values
    lines = []
    for (case, algorithm), systems in sorted(groups.items()):
        outside = [
            f"{one}'s mean outside {other}'s interval"
            for one, own in systems.items()
            for other, values in systems.items()
            if one != other and not interval(values)[1] <= interval(own)[0] <= interval(values)[2]
        ]
        if len(systems) > 1:
            lines.append(f"- {case}, {algorithm}: " + (", ".join(outside) or "means within each other's intervals"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["pendulum-small", "pendulum-docs", "acrobot", "track"]
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows, the table and our runs")
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--systems", nargs="+", choices=list(TRAIN), default=["ours", "sb3"])
    parser.add_argument("--seeds", type=int, default=8, help="seeds of a cell on Pendulum")
    parser.add_argument("--track-seeds", type=int, default=6, help="seeds of a cell on the task in four units")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "returns.csv"
    units = [f"track-{unit}" for unit in track_task.HALVES]
    cases = chain.from_iterable(units if case == "track" else [case] for case in options.cases)
    cells = [
        (case, algorithm, system)
        for case, algorithm, system in product(cases, options.algorithms, options.systems)
        if (system != "sb3" or case.startswith("pendulum")) and (case != "acrobot" or algorithm == "ppo")
    ]
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as here, ProcessPoolExecutor(1, spawn) as there:
        for case, algorithm, system in cells:
            key = {"case": case, "algorithm": algorithm, "system": system}
            done = {row["seed"] for row in read_rows(table) if key.items() <= row.items()}
            count = options.track_seeds if is_track(case) else options.seeds
            left = [seed for seed in range(count) if seed not in done]
            for seeds in [[seed] for seed in left] if system == "sb3" else [left] if left else []:
                process = there if system == "sb3" else here
                rows = process.submit(TRAIN[system], case, algorithm, seeds, options.out).result()
                add_rows(table, [key | row for row in rows])
                print(f"{case}, {algorithm}, {system}:", *(f"{row['return']:.2f}" for row in rows), flush=True)
    text = make_table(read_rows(table))
    (options.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
