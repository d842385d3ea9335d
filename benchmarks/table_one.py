"""The time that Table I of the actor-size study would take on this machine, estimated from the start of each search.

    python benchmarks/table_one.py --seconds 90
    python benchmarks/table_one.py --seconds 90 --only reacher ant --parallel 2

Each cell's search is started by its command and killed after some seconds. A search begins with the baseline, its
largest pair of networks; six agents train as one batch with one thread. The rate in its last row gives the hours of
that pair, and an upper bound for the search: nine pairs, all as slow as the baseline. `learning_starts` is reduced, so
that the rate includes learning. Results: docs/smallest_actor.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from decouple.runs.metrics import read_metrics
from decouple.studies.actor_size.study import read_paper

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 9  # largest number of pairs in a search: the baseline and four in each stage


def start(task: str, algorithm: str, seconds: float) -> dict[str, Any]:
    """Start the search of a cell, kill it, and read the speed of its baseline's training."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "experiments" / "smallest_actor.py"), f"env={task}"]
        command += [f"algorithm={algorithm}", f"run_dir={folder}", "num_threads=1", "show_progress=false"]
        if algorithm != "ppo":
            command += ["learning_starts=400", "log_every=200", "evaluate_every=1000000", "checkpoint_every=1000000"]
        # In a new session, so that the command is killed together with the process that trains for it.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(Path(folder) / "log", "w") as log:
            search = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            try:
                search.wait(seconds)
                raise RuntimeError(f"{task}, {algorithm} ended: {Path(log.name).read_text()[-2000:]}")
            except subprocess.TimeoutExpired:
                os.killpg(search.pid, signal.SIGKILL)
                search.wait()
        row: dict[str, Any] = {"task": task, "algorithm": algorithm}
        tables = list(Path(folder).rglob("metrics.csv"))
        if not tables:
            return row
        config = yaml.safe_load((tables[0].parent / "config.yaml").read_text())
        metrics = read_metrics(tables[0].parent)
        row |= {"actor": config["actor"], "frames": config["total_frames"]}
        both = zip(metrics.get("time/frames_per_second", []), metrics.get("loss/critic", []), strict=False)
        learned = [rate for rate, loss in both if not math.isnan(loss)]
        if len(learned) > 1:
            row["frames_per_second"] = learned[-1]
            row["hours"] = config["total_frames"] / learned[-1] / 3600
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="seconds until a search is killed")
    parser.add_argument("--only", nargs="+", help="tasks to measure; default: all of Table I")
    parser.add_argument("--parallel", type=int, default=1, help="searches at once")
    parser.add_argument("--record", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    cells = [cell for cell in read_paper() if cell[0] in (options.only or cell)]
    print("| cell | baseline | steps of each agent | steps/s | hours: this pair | hours: search, at most |")
    print("|---|---|---|---|---|---|", flush=True)
    names = ["date", "task", "algorithm", "actor", "frames", "frames_per_second", "hours"]
    record = open(options.record, "w", newline="") if options.record else None  # noqa: SIM115  (closed at the end)
    table = csv.DictWriter(record, names, lineterminator="\n") if record else None
    if table:
        table.writeheader()
    failed = []
    with ThreadPoolExecutor(options.parallel) as pool:
        for future in [pool.submit(start, *cell, options.seconds) for cell in cells]:
            try:
                row = future.result()
            except RuntimeError as error:  # the other cells are still measured
                failed.append(str(error))
                continue
            rate = f"{row['frames_per_second']:.0f}" if "hours" in row else f"none in {options.seconds:.0f} s"
            hours = [f"{row['hours']:.1f}", f"{PAIRS * row['hours']:.0f}"] if "hours" in row else ["", ""]
            name = f"{row['task']}, {row['algorithm'].upper()}"
            size = ",".join(map(str, row.get("actor", [])))
            print("|", " | ".join([name, size, f"{row.get('frames', 0):,}", rate, *hours]), "|", flush=True)
            if table and record:
                table.writerow({"date": time.strftime("%Y-%m-%d")} | row)
                record.flush()
    if record:
        record.close()
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
