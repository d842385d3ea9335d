"""What grows with the length of a run and the number of runs: 25M frames' record, and a report over 320 such runs.

    python benchmarks/long_runs.py --frames 25000000 --runs 20 80 320

Nothing is trained. One run's record is written as training writes it, by `Tracker` and `save_checkpoint`: a row of
metrics an iteration (16,384 frames), evaluations and checkpoints every ten, of a `late` network with its Adam. A table
compares the first tenth of the iterations with the last: processor time of a row and of a checkpoint, bytes on the
disk, memory of the process. What it costs to read the record when such a run is continued comes next. Then the record
is copied for runs of four separations on 16 games, and the study's report over them is timed, in a process of its own
for each number of runs: its processor time and its peak memory should be proportional to the number of runs, or less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PER_ITERATION, EVERY = 16_384, 10
SEPARATIONS = ("shared", "late", "early", "full")
GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
METRICS = (
    *("train/episode_return", "train/episode_length", "train/episodes", "train/won", "time/collect_seconds"),
    *("time/learn_seconds", "time/frames_per_second", "loss/objective", "loss/critic", "loss/entropy"),
    *("policy/entropy", "policy/kl_approx", "policy/clip_fraction", "policy/ess", "value/clip_fraction"),
    *("value/explained_variance", "grad_norm/joint", "cut/joint_policy_norm", "cut/joint_value_norm"),
    *("cut/joint_cosine", "advantage/mean", "advantage/std", "value/mean", "value/std", "reward/mean"),
)
EVALUATED = tuple(f"eval/{name}_return{suffix}" for name in ("train", "test", "unseen") for suffix in ("", "_std"))


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    start = time.process_time()
    yield
    into.append(time.process_time() - start)


def write_record(folder: Path, frames: int) -> dict[str, list[float]]:
    """One run's record in a folder; seconds of each row and each checkpoint, and the memory after it (KiB)."""
    import torch

    from decouple import actor_value, impala_blocks, separate
    from decouple.runs.checkpoint import save_checkpoint
    from decouple.runs.tracking import Tracker

    found: dict[str, list[float]] = {"row": [], "checkpoint": [], "memory": []}
    network = separate(impala_blocks(), impala_blocks(), at="late")
    model = actor_value(network, action_spec())
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    draw = random.Random(0)
    config = {"env": "starpilot", "separation": "late", "protocol": "controlled", "seed": 0, "total_frames": frames}
    config |= {"num_envs": 64, "rollout_steps": 256, "final_episodes": 100}
    with Tracker(folder, config, total_frames=frames, progress=False) as tracker:
        for iteration in range(1, -(-frames // PER_ITERATION) + 1):
            row = {name: draw.random() for name in METRICS}
            if iteration % EVERY == 1:
                row |= {name: draw.random() for name in EVALUATED}
            with timed(found["row"]):
                tracker.log(row, iteration * PER_ITERATION)
            if iteration % EVERY == 0:
                with timed(found["checkpoint"]):
                    state = {"settings": config, "model": model.state_dict(), "phases": [optimizer.state_dict()]}
                    save_checkpoint(folder / "checkpoint.pt", state | {"iteration": iteration}, record=tracker.marks())
                found["memory"].append(resident())
        tracker.summarise({"final/episodes": 100, "final/train_return": 7.0, "final/test_return": 5.0})
    return found


def action_spec() -> Any:
    from torchrl.data import Categorical

    return Categorical(15)


def resident() -> int:
    """Memory of this process now, in KiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def tenths(values: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last tenth."""
    size = max(1, len(values) // 10)
    return statistics.median(values[:size]), statistics.median(values[-size:])


def one_run(folder: Path, frames: int) -> list[str]:
    from decouple.runs.tracking import Tracker

    found = write_record(folder, frames)
    lines = [f"| one run of {frames:,} frames | first tenth | last tenth |", "|---|---|---|"]
    for name, unit, scale in (("row", "ms", 1e3), ("checkpoint", "ms", 1e3), ("memory", "MiB", 1 / 1024)):
        lines.append(f"| {name}, {unit} | " + " | ".join(f"{scale * v:.2f}" for v in tenths(found[name])) + " |")
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    lines.append("\n" + ", ".join(f"{name} {size / 1024:,.0f} KiB" for name, size in sorted(sizes.items())))
    copied = shutil.copytree(folder, folder.with_name("continued"))
    reading: list[float] = []
    with timed(reading):
        tracker = Tracker(copied, {}, total_frames=frames, progress=False, resume_frames=frames)
    tracker.close(draw=False)
    return [*lines, f"to read it back when the run goes on: {reading[0]:.2f} s"]


def copy_runs(record: Path, where: Path, number: int) -> None:
    """So many runs with this record, of each separation on each game, with as many seeds as it takes."""
    import yaml

    config, result = (
        yaml.safe_load((record / "config.yaml").read_text()),
        json.loads((record / "result.json").read_text()),
    )
    draw = random.Random(1)
    for index in range(number):
        separation, game = SEPARATIONS[index % 4], GAMES[index // 4 % 16]
        folder = where / f"run{index}"
        folder.mkdir(parents=True)
        for name in ("metrics.csv", "record.json"):
            shutil.copy(record / name, folder / name)
        own = {**config, "separation": separation, "env": game, "seed": index // 64, "run_dir": str(folder)}
        (folder / "config.yaml").write_text(yaml.safe_dump(own))
        score = 5 + draw.random()
        own = result | {"final/test_return": score, "final/train_return": score + 1, "final/generalisation_gap": 1.0}
        (folder / "result.json").write_text(json.dumps(own))


def report_on(where: Path, out: Path) -> None:
    """Write the report over the runs, in this process; print its processor time and peak memory."""
    from decouple.studies.separation.report import Report, separation_report

    start = time.process_time()
    separation_report(Report(runs=str(where), out=str(out)))
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def reports(record: Path, folder: Path, numbers: list[int]) -> list[str]:
    lines = ["| runs | report, s | s a run | peak memory, MiB |", "|---|---|---|---|"]
    for number in numbers:
        copy_runs(record, folder / f"runs{number}", number)
        arguments = [str(folder / f"runs{number}"), str(folder / f"report{number}")]
        command = [sys.executable, "-W", "ignore", __file__, "--report", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took = json.loads(done.stdout.splitlines()[-1])
        each = took["seconds"] / number
        lines.append(f"| {number} | {took['seconds']:.1f} | {each:.3f} | {took['peak']} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=25_000_000)
    parser.add_argument("--runs", type=int, nargs="*", default=[20, 80, 320])
    parser.add_argument("--report", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report:
        report_on(*options.report)
        return
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        print("\n".join(one_run(record, options.frames)), flush=True)
        if options.runs:
            print("\n" + "\n".join(reports(record, Path(folder), options.runs)))


if __name__ == "__main__":
    main()
