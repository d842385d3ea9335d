"""Training time of the paper's sizes: one agent, one thread, by the clock and by the processor, both learners.

    python benchmarks/size_training_time.py --record docs/results/honey/training_time.csv   # nothing else running
    python benchmarks/size_training_time.py --only pendulum --algorithms sac --frames 2000 --rounds 1

For each cell of Table I the paper's three pairs are trained: the baseline, the smallest pair, the smallest actor beside
its critic; with PyTorch's updates and with compiled ones. Each measurement is a process of its own; the three pairs
alternate, and the median of the rounds counts. From each time that of a tenth of the steps is taken, so that the start
of Python and the loading of kernels do not count. "Up to 50 % reduction in training time" is claim H14 of
docs/studies/protocol.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from decouple.studies.actor_size.study import read_paper

ROOT = Path(__file__).resolve().parents[1]
PAIRS = {
    "baseline": ("baseline_size",) * 2,
    "symmetric": ("symmetric_size",) * 2,
    "smallest": ("actor_size", "critic_size"),
}
FRAMES = {"ppo": 40_000}  # of others: 4,000, which are as many updates
COLUMNS = ("date", "machine", "task", "algorithm", "update", "frames", "rounds")
TIMES = tuple(f"{pair}_{kind}" for pair in PAIRS for kind in ("seconds", "wall_seconds"))


def command(task: str, algorithm: str, pair: tuple[Any, Any], update: str, frames: int, folder: str) -> list[str]:
    """The command that trains a pair, once for `frames` steps."""
    actor, critic = (f"[{','.join(map(str, size))}]" for size in pair)
    words = [sys.executable, str(ROOT / "experiments" / "control.py"), f"env={task}", f"algorithm={algorithm}"]
    words += [f"actor={actor}", f"critic={critic}", "seeds=1", "num_threads=1", f"update={update}"]
    words += [f"total_frames={frames}", f"run_dir={folder}", "final_episodes=1", "show_progress=false"]
    if algorithm != "ppo":
        words += ["learning_starts=100", "log_every=1000", "evaluate_every=1000000", "checkpoint_every=1000000"]
    return words


def seconds(words: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of a command."""
    before, since = os.times(), time.monotonic()
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, time.monotonic() - since


def measure(task: str, algorithm: str, update: str, frames: int, rounds: int) -> dict[str, Any]:
    """The medians of the three pairs' times: of `frames` steps, less those of a tenth of them, which hold the start."""
    row = read_paper()[task, algorithm]
    taken: dict[str, list[float]] = {name: [] for name in TIMES}
    for sizes in PAIRS.values():  # compiles what is not compiled yet
        with tempfile.TemporaryDirectory() as folder:
            pair = tuple(row[size] for size in sizes)
            seconds(command(task, algorithm, pair, update, frames // 10, f"{folder}/run"))
    for _ in range(rounds):
        for name, sizes in PAIRS.items():
            pair = tuple(row[size] for size in sizes)
            found = []
            for part in (frames // 10, frames):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(seconds(command(task, algorithm, pair, update, part, f"{folder}/run")))
            for kind, at in (("seconds", 0), ("wall_seconds", 1)):
                taken[f"{name}_{kind}"].append(found[1][at] - found[0][at])
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="tasks; default: all of Table I")
    parser.add_argument("--algorithms", nargs="+", help="algorithms; default: all of Table I")
    parser.add_argument("--updates", nargs="+", default=["batched", "compiled"], help="learners: batched is PyTorch")
    parser.add_argument("--frames", type=int, help="steps of each training; default: 40,000 of PPO, else 4,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    rows = []
    for (task, algorithm), paper in read_paper().items():
        wanted = task in (options.only or [task]) and algorithm in (options.algorithms or [algorithm])
        for update in options.updates if wanted and paper["threshold"] is not None else ():
            frames = options.frames or FRAMES.get(algorithm, 4_000)
            head = {
                "date": time.strftime("%Y-%m-%d"),
                "machine": platform.machine(),
                "task": task,
                "rounds": options.rounds,
            }
            row = head | {"algorithm": algorithm, "update": update, "frames": frames}
            rows.append(row | measure(task, algorithm, update, frames, options.rounds))
            print(json.dumps(rows[-1]), flush=True)
            if options.record:
                with options.record.open("w", newline="") as file:
                    table = csv.DictWriter(file, [*COLUMNS, *TIMES], lineterminator="\n")
                    table.writeheader()
                    table.writerows(rows)


if __name__ == "__main__":
    main()
