"""Steps per second of every environment, one at a time and batched, in one run: the table in the docs.

    python benchmarks/games.py --repeats 9 --threads 1
    python benchmarks/games.py --tasks pong pixelcopter --batch 4096 16384 65536   # find the best batch size

One at a time: the environment of `gymnasium.make`, with its wrappers. Batched: `games_env` or `control_env` with one
seed, stepped by `step_and_maybe_reset`. Both take random actions, drawn before the clock starts, and reset ended
episodes. The two alternate within a repeat, and the table has medians over repeats. A step of Food Collector is one
step of a field, with a decision of each of its five agents; a learner of all five gets five times as many.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium
import torch
from torchrl.envs import EnvBase

import decouple.envs.games.gymnasium_env  # noqa: F401  (registers the games)
from decouple.envs.control import TASKS, control_env
from decouple.envs.games.batched import GAMES, games_env

SINGLE = {
    "pong": "decouple/Pong-v0",
    "pixelcopter": "decouple/Pixelcopter-v0",
    "foodcollector": "decouple/FoodCollector-v0",
}
# Best batch size of each on two cores of a server, as measured with --batch; MuJoCo's games step one after the other.
BATCH = {"pong": 65536, "pixelcopter": 65536, "foodcollector": 4096, "pendulum": 16384, "acrobot": 16384}
NUM_ACTIONS = 64  # number of actions, drawn ahead and used in turn


def single(task: str) -> Callable[[float], float]:
    """A function that plays one game for some seconds and returns its steps per second."""
    if task in SINGLE:
        env = gymnasium.make(SINGLE[task])
    else:
        name, options, _ = TASKS[task]
        env = gymnasium.make(name, **options)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(NUM_ACTIONS)]

    def play(seconds: float) -> float:
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for action in actions:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()
            steps += NUM_ACTIONS
        return steps / (time.perf_counter() - start)

    return play


def batched(task: str, number: int) -> Callable[[float], float]:
    """The same for `number` games at once."""
    agents = GAMES[task].agents_per_game if task in GAMES else 1
    env: EnvBase = games_env(task, [0], number * agents) if task in GAMES else control_env(task, [0], number)
    actions = [env.action_spec.rand() for _ in range(NUM_ACTIONS)]
    state, turn = env.reset(), 0

    def play(seconds: float) -> float:
        nonlocal state, turn
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            _, state = env.step_and_maybe_reset(state.set("action", actions[turn % NUM_ACTIONS]))
            steps, turn = steps + number, turn + 1
        return steps / (time.perf_counter() - start)

    # Games that began together end together at first, so play for a while; this also warms up a GPU and the caches.
    play(1.0)
    return play


def main() -> None:
    tasks = [*GAMES, *TASKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--batch", nargs="+", type=int, help="games at once; default: the best number of each task")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of one measurement")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| task | one at a time, steps/s | batch | batched, steps/s | ratio |\n|---|---|---|---|---|")
    for task in options.tasks:
        sizes = options.batch or [BATCH.get(task, 8)]
        players = [single(task), *(batched(task, size) for size in sizes)]
        rates = [[play(options.seconds) for play in players] for _ in range(options.repeats)]
        one, *many = (statistics.median(column) for column in zip(*rates, strict=True))
        for size, rate in zip(sizes, many, strict=True):
            print(f"| {task} | {one:,.0f} | {size:,} | {rate:,.0f} | {rate / one:.1f} |", flush=True)


if __name__ == "__main__":
    main()
