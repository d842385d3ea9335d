"""Whether `reference_ppo.py` is as fast as the program that it stands for: CleanRL's ppo_procgen.py, beside it.

    pip install --target peer --no-deps --ignore-requires-python cleanrl==1.2.0 gym==0.23.1 gym-notices
    python benchmarks/check_reference.py peer/cleanrl --path peer --steps 128 --epochs 1 --rounds 9

The file is CleanRL's own (https://github.com/vwxyzjn/cleanrl), with the Gym that it needs; neither is part of this
package. It is run as it is, but for four lines: it writes nothing for TensorBoard, plays on 200 levels, gives its games
so many threads, and at the head of its loop waits for its turn. Each loop has a process; they run one iteration each in
turn, with the same network, games, frames, minibatches of 2048 frames and epochs. Printed is the processor time of an
iteration of each, as medians over the rounds after a warm-up, and the median of the rounds' ratios with its range.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

MINIBATCH = 2048
NO_WRITER = """class SummaryWriter:
    def __init__(self, *_): pass
    add_text = add_scalar = close = lambda *_: None
"""
SETTINGS = ("file", "path", "envs", "steps", "epochs", "threads", "games_threads")


def tell(seconds: float) -> None:
    print(json.dumps({"seconds": seconds}), file=sys.__stdout__, flush=True)


def wait_for_turn() -> None:
    if not sys.stdin.readline():
        sys.exit()


class Turns:
    """Called at the head of a loop: tells what the iteration before took, and waits for the next turn."""

    def __init__(self) -> None:
        self.began: float | None = None

    def __call__(self) -> None:
        tell(0.0 if self.began is None else time.process_time() - self.began)
        wait_for_turn()
        self.began = time.process_time()


def run_cleanrl(options: argparse.Namespace) -> None:
    sys.path[:0] = options.path
    sys.stdout = sys.stderr  # it prints
    frames = options.envs * options.steps
    given = {"num-envs": options.envs, "num-steps": options.steps, "update-epochs": options.epochs, "cuda": False}
    given |= {"num-minibatches": max(1, frames // MINIBATCH)}
    sys.argv = [options.file, *(f"--{name}={value}" for name, value in given.items())]
    text = Path(options.file).read_text()
    for pattern, replacement in (
        (r"^from torch\.utils\.tensorboard import SummaryWriter\n", NO_WRITER),
        (r"^(    for (?:update|iteration) in range\(.*\):\n)", r"\1        _TURNS()\n"),
        (r"num_levels=0,", f"num_levels=200, num_threads={options.games_threads},"),
    ):
        text, times = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if times != 1:
            sys.exit(f"{options.file} must be CleanRL's ppo_procgen.py, with {pattern!r} once; it has it {times} times")
    exec(compile(text, options.file, "exec"), {"__name__": "__main__", "__file__": options.file, "_TURNS": Turns()})


def run_reference(options: argparse.Namespace) -> None:
    from reference_ppo import ReferencePPO

    loop = ReferencePPO("starpilot", options.envs, options.steps, options.games_threads, epochs=options.epochs)
    turns = Turns()
    while True:
        turns()
        loop.collect()
        loop.learn()


class Process:
    """One of the two loops; its answers are seconds."""

    def __init__(self, name: str, options: argparse.Namespace):
        settings = {key: getattr(options, key) for key in SETTINGS}
        command = [sys.executable, "-W", "ignore", __file__, options.file, "--be", name, "--as", json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.seconds = name, []

    def answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with status {self.process.wait()}")
        return json.loads(line)["seconds"]

    def take_turn(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(self.answer())


def compare(options: argparse.Namespace) -> None:
    ours, theirs = Process("reference", options), Process("cleanrl", options)
    for process in (ours, theirs):
        process.answer()  # ready
    for number in range(options.rounds + 1):
        for process in (ours, theirs) if number % 2 else (theirs, ours):
            process.take_turn()
        print(f"round {number}: {ours.seconds[-1]:.2f} s, CleanRL's {theirs.seconds[-1]:.2f} s", file=sys.stderr)
    pairs = list(zip(ours.seconds[1:], theirs.seconds[1:], strict=True))
    ratios = sorted(own / other for own, other in pairs)
    medians = [statistics.median(pair[index] for pair in pairs) for index in (0, 1)]
    frames = options.envs * options.steps
    print(
        f"{frames:,} frames an iteration, {options.epochs} epochs, {options.rounds} rounds, processor time:\n"
        f"reference {medians[0]:.2f} s, CleanRL {medians[1]:.2f} s; "
        f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )
    for process in (ours, theirs):
        process.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="CleanRL's ppo_procgen.py, or the folder that it is in")
    parser.add_argument("--path", nargs="*", default=[], help="folders of packages that it alone imports")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--games-threads", type=int, default=1)
    parser.add_argument("--be", choices=["reference", "cleanrl"], help=argparse.SUPPRESS)
    parser.add_argument("--as", dest="given", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if Path(options.file).is_dir():
        options.file = str(Path(options.file, "ppo_procgen.py"))
    if not options.be:
        compare(options)
        return
    import torch

    options = argparse.Namespace(be=options.be, **json.loads(options.given))
    torch.set_num_threads(options.threads)
    {"reference": run_reference, "cleanrl": run_cleanrl}[options.be](options)


if __name__ == "__main__":
    main()
