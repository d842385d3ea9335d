"""Steps a second of a control task, in one process and in several (env_workers): medians of alternating repeats.

python benchmarks/env_workers.py --env ant --games 16 --workers 1 2 --steps 100 --repeats 5
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

import torch

from decouple.envs.control.tasks import control_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="ant")
    parser.add_argument("--games", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        envs = {}
        for workers in options.workers:
            env = control_env(options.env, [0], options.games, backend="gymnasium", env_workers=workers)
            envs[workers] = stack.enter_context(contextlib.closing(env))
            env.plain_reset()
        found: dict[int, list[float]] = {workers: [] for workers in envs}
        for _ in range(options.repeats):
            for workers, env in envs.items():
                action = env.action_spec.rand()
                start = time.perf_counter()
                for _ in range(options.steps):
                    env.plain_step(action)
                found[workers].append(options.games * options.steps / (time.perf_counter() - start))
    for workers, each in found.items():
        print(f"{options.env}, {workers} processes: {statistics.median(each):,.0f} steps/s (best {max(each):,.0f})")


if __name__ == "__main__":
    main()
