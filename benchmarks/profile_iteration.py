"""Where the time of one iteration of Procgen PPO goes, operator by operator, on the CPU or on a GPU.

    python benchmarks/profile_iteration.py --contender shared --precision fp32 --threads 1
    python benchmarks/profile_iteration.py --contender shared --precision bf16 --performance fastest    # on a GPU

Some iterations warm up; torch's profiler watches the next one. On a CPU the table is sorted by self time of the
processor, on a GPU by self time of the device, and a line before it says what share of the iteration the device worked.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from procgen_ppo import make_library

ROWS = 25


class OverError(Exception):
    """The profiled iteration is over."""


def profile(options: argparse.Namespace) -> str:
    """The table of one iteration."""
    import torch
    from torch.profiler import ProfilerActivity

    from decouple import train_on_policy

    if options.threads:
        torch.set_num_threads(options.threads)
    env, model, phases, settings, performance = make_library(options)
    on_gpu = performance.device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler = torch.profiler.profile(activities=activities)
    rows: list[dict[str, float]] = []
    seconds = [0.0]

    def log(row: dict[str, float], _: int) -> None:
        rows.append(row)
        if len(rows) == options.warm_up:
            profiler.start()
            seconds[0] = time.perf_counter()
        elif len(rows) > options.warm_up:
            seconds[0] = time.perf_counter() - seconds[0]
            profiler.stop()
            raise OverError

    try:
        train_on_policy(env, model, phases, settings, log=log, performance=performance)
    except OverError:
        pass
    finally:
        env.close()
    return described(profiler, rows, seconds[0], options.envs * options.steps, on_gpu)


def described(profiler: Any, rows: list[dict[str, float]], seconds: float, frames: int, on_gpu: bool) -> str:
    averages = profiler.key_averages()
    before = rows[-2]["time/collect_seconds"] + rows[-2]["time/learn_seconds"]
    lines = [
        f"{frames:,} frames: {seconds:.2f} s with the profiler, {before:.2f} s in the iteration before without it "
        f"({rows[-2]['time/collect_seconds']:.2f} collecting, {rows[-2]['time/learn_seconds']:.2f} learning)"
    ]
    if on_gpu:
        busy = sum(event.self_device_time_total for event in averages) / 1e6
        lines.append(f"the device worked {busy:.2f} s, {busy / seconds:.0%} of the profiled iteration")
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return "\n".join([*lines, averages.table(sort_by=by, row_limit=ROWS, max_name_column_width=50)])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", default="shared", help="shared, late, early, full, daac, or k")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--performance", default="auto", choices=["auto", "fastest", "reference"])
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--games-threads", type=int)
    parser.add_argument("--warm-up", type=int, default=2, help="iterations before the profiled one")
    return parser


if __name__ == "__main__":
    print(profile(parser().parse_args()))
