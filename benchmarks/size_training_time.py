"""Training time of the paper's sizes: one agent, one thread, by the clock and by the processor, both learners.

    python benchmarks/size_training_time.py --record docs/results/honey/training_time.csv   # nothing else running
    python benchmarks/size_training_time.py --only pendulum --algorithms sac --frames 2000 --rounds 1

For each cell of Table I the paper's three pairs are trained: the baseline, the smallest pair, the smallest actor beside
its critic; with PyTorch's updates and with compiled ones. All run in one process, where kernels are loaded once; the
three pairs alternate, and the shortest of the rounds counts: what else a machine does only adds. From each time that
of a tenth of the steps is taken, so that making games, networks and files does not count. "Up to 50 % reduction in
training time" is claim H14 of docs/studies/protocol.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from decouple.commands.control import register
from decouple.commands.folders import CONFIGS
from decouple.commands.settings import control_settings
from decouple.runs.files import csv_lines, csv_rows, replace_file
from decouple.runs.finished import frames_of, run_checkpoint
from decouple.runs.performance import processor_kind
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.study import read_paper

PAIRS = {
    "baseline": ("baseline_size",) * 2,
    "symmetric": ("symmetric_size",) * 2,
    "smallest": ("actor_size", "critic_size"),
}
LEAST, MOST = 2.0, 50  # seconds that a measured training takes at least, and the longest multiple of its steps
# Tasks with an update each step, off policy; in the others eight games share one.
ONE_GAME = ("pendulum", "reacher", "halfcheetah", "ant", "acrobot")
# A quarter of the published rollout and of its minibatches, so that a step has the same share of the updates. In the
# other tasks a rollout is of many games at once, and short.
QUARTERS = dict.fromkeys(("reacher", "halfcheetah", "ant"), ("rollout_steps=512", "minibatches=8"))
QUARTERS |= {"pendulum": ("rollout_steps=256", "minibatches=16"), "acrobot": ("rollout_steps=64", "minibatches=16")}
COLUMNS = ("date", "machine", "task", "algorithm", "update", "frames", "rounds")
TIMES = tuple(f"{pair}_{kind}" for pair in PAIRS for kind in ("seconds", "wall_seconds"))


def steps_of(task: str, algorithm: str) -> int:
    """Steps of a measured training: seconds of it; off policy some hundred updates, with PPO a few rollouts."""
    if algorithm == "ppo":
        return 2_000 if task in ONE_GAME else 10_000
    return 600 if task in ONE_GAME else 6_000


def overrides(task: str, algorithm: str, pair: tuple[Any, Any], update: str, frames: int, folder: str) -> list[str]:
    """The settings under which experiments/control.py trains a pair, once for `frames` steps."""
    actor, critic = (f"[{','.join(map(str, size))}]" for size in pair)
    words = [f"env={task}", f"algorithm={algorithm}", f"actor={actor}", f"critic={critic}", "seeds=1", "num_threads=1"]
    words += [f"update={update}", f"total_frames={frames}", f"run_dir={folder}", "final_episodes=1"]
    words += ["show_progress=false", "evaluate_every=1000000", "evaluate_episodes=1", "checkpoint_every=1000000"]
    # Episodes of a thousand steps would make the evaluation longer than the training.
    words += ["env_kwargs={max_episode_steps: 100}"] if task in ("halfcheetah", "ant") else []
    if algorithm == "ppo":
        return [*words, *QUARTERS.get(task, ())]
    return [*words, "learning_starts=50", "log_every=1000"]


def seconds(words: list[str]) -> tuple[float, float, int]:
    """Processor and wall seconds of a training, and its steps: PPO's are whole rollouts."""
    with initialize_config_dir(str(CONFIGS / "control"), version_base="1.3"):
        settings = control_settings(compose("control", words))
    gc.collect()
    gc.freeze()  # as in a command, where nothing is left of trainings before
    spent, since = time.process_time(), time.monotonic()
    train_agents(settings)
    took = time.process_time() - spent, time.monotonic() - since
    return *took, frames_of(run_checkpoint(settings.run_dir)[1])


def training(task: str, algorithm: str, pair: tuple[Any, Any], update: str, frames: int) -> tuple[float, float, int]:
    """Processor and wall seconds of a pair's training, and its steps, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(overrides(task, algorithm, pair, update, frames, f"{folder}/run"))


def measure(task: str, algorithm: str, update: str, frames: int, rounds: int) -> dict[str, Any]:
    """The three pairs' times of nine tenths of `frames` steps, from the shortest training of the rounds: that of a
    tenth, which holds the start, is taken off. A pair that is done in less than `LEAST` seconds is trained as often
    longer; times are those of a step that was trained, so many times.
    """
    row = read_paper()[task, algorithm]
    pairs = {name: tuple(row[size] for size in sizes) for name, sizes in PAIRS.items()}
    parts = {}  # name of a pair -> steps of its short and of its long training
    for name, pair in pairs.items():
        training(task, algorithm, pair, update, frames // 10)  # compiles or loads what the next ones use
        tenth, whole = (training(task, algorithm, pair, update, part)[0] for part in (frames // 10, frames))
        times = min(MOST, max(1, math.ceil(LEAST / max(whole - tenth, LEAST / MOST))))
        parts[name] = frames // 10, frames // 10 + times * (frames - frames // 10)
    taken: dict[str, list[list[tuple[float, float, int]]]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, pair in pairs.items():
            taken[name].append([training(task, algorithm, pair, update, part) for part in parts[name]])
    found = {}
    for name, trainings in taken.items():
        steps = trainings[0][1][2] - trainings[0][0][2]
        for at, kind in enumerate(("seconds", "wall_seconds")):
            short, long = (min(each[part][at] for each in trainings) for part in (0, 1))
            found[f"{name}_{kind}"] = round((long - short) / steps * (frames - frames // 10), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="tasks; default: all of Table I")
    parser.add_argument("--algorithms", nargs="+", help="algorithms; default: all of Table I")
    parser.add_argument("--updates", nargs="+", default=["batched", "compiled"], help="learners: batched is PyTorch")
    parser.add_argument("--frames", type=int, help="steps of each training; default: those of steps_of")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="add the rows to this CSV; those it has are not measured again")
    options = parser.parse_args()
    register()
    rows = csv_rows(options.record, *COLUMNS) if options.record and options.record.exists() else []
    for (task, algorithm), paper in read_paper().items():
        wanted = task in (options.only or [task]) and algorithm in (options.algorithms or [algorithm])
        for update in options.updates if wanted and paper["threshold"] is not None else ():
            frames = options.frames or steps_of(task, algorithm)
            row = {"task": task, "algorithm": algorithm, "update": update, "frames": frames, "rounds": options.rounds}
            if any(all(old[name] == str(value) for name, value in row.items()) for old in rows):
                continue  # an interrupted benchmark goes on
            row |= {"date": time.strftime("%Y-%m-%d"), "machine": processor_kind()}
            rows.append(
                {name: str(v) for name, v in (row | measure(task, algorithm, update, frames, options.rounds)).items()}
            )
            print(json.dumps(rows[-1]), flush=True)
            if options.record:
                columns = [*COLUMNS, *TIMES]
                replace_file(options.record, csv_lines([columns, *([row[name] for name in columns] for row in rows)]))


if __name__ == "__main__":
    main()
