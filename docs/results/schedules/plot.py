"""Tables and pictures of each schedule's returns: python docs/results/schedules/plot.py acrobot|starpilot RUNS.

RUNS has a folder per algorithm: of Acrobot one run with all its seeds, of starpilot a folder per seed. An algorithm
that has no finished run there keeps its numbers in the table.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ORDER = ["ppo", "daac", "ppg", "dcpg", "ddcpg", "dna"]
ROLLOUTS = 4  # from one auxiliary phase on starpilot to the next; a point is the mean of so many

Point = tuple[str, int, float]  # seed, frames, return


def evaluated(folder: Path) -> list[Point]:
    """The mean return of ten episodes at each evaluation of a run with all its seeds."""
    if not (folder / "result.json").exists():
        return []
    rows = _rows(folder)
    names = [name for name in rows[0] if name.startswith("eval/return/seed")]
    given = [(row, name) for row in rows for name in names if row[name]]
    return [(name.rpartition("/")[2], int(row["frames"]), float(row[name])) for row, name in given]


def in_training(folder: Path) -> list[Point]:
    """The mean return of the episodes that ended in every ROLLOUTS rollouts, of each finished run in a folder."""
    found = []
    for run in sorted(path.parent for path in folder.glob("seed*/result.json")):
        rows = _rows(run)
        for at in range(0, len(rows), ROLLOUTS):
            part = [row for row in rows[at : at + ROLLOUTS] if row["train/episode_return"]]
            ended = sum(float(row["train/episodes"]) for row in part)
            total = sum(float(row["train/episodes"]) * float(row["train/episode_return"]) for row in part)
            last = int(rows[min(at + ROLLOUTS, len(rows)) - 1]["frames"])
            found.append((run.name, last, total / ended if ended else math.nan))
    return found


TASKS: dict[str, tuple[Callable[[Path], list[Point]], str]] = {
    "acrobot": (evaluated, "return of ten episodes"),
    "starpilot": (in_training, "return in training"),
}


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def stored(task: str) -> dict[str, list[Point]]:
    """The points in the table, by algorithm."""
    found: dict[str, list[Point]] = {}
    with open(HERE / f"{task}.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["algorithm"], []).append((row["seed"], int(row["frames"]), float(row["return"])))
    return found


def main(task: str, runs: Path) -> None:
    read, label = TASKS[task]
    before = stored(task)
    found = {name: points for name in ORDER if (points := read(runs / name) or before.get(name))}
    figure = Figure(figsize=(2.4 * len(found), 2.6), layout="constrained")
    with open(HERE / f"{task}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["algorithm", "seed", "frames", "return"])
        for axes, name in zip(figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found, strict=True):
            writer.writerows([name, *row] for row in found[name])
            for seed in sorted({row[0] for row in found[name]}):
                own = [row for row in found[name] if row[0] == seed]
                axes.plot([row[1] / 1000 for row in own], [row[2] for row in own], marker=".", label=seed)
            axes.set(title=name, xlabel="thousand frames")
            axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.supylabel(label, fontsize="medium")
    figure.savefig(HERE / f"{task}.png", dpi=90)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
