"""Write acrobot.csv and acrobot.png: python docs/results/schedules/plot.py RUNS, which has a folder per algorithm."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ORDER = ["ppo", "daac", "ppg", "dcpg", "ddcpg", "dna"]


def returns(folder: Path) -> list[tuple[str, int, float]]:
    """(seed, frames, mean return of ten episodes) of each evaluation."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("eval/return/seed")]
    given = [(row, name) for row in rows for name in names if row[name]]
    return [(name.rpartition("/")[2], int(row["frames"]), float(row[name])) for row, name in given]


def main(runs: Path) -> None:
    done = [name for name in ORDER if (runs / name / "result.json").exists()]
    figure = Figure(figsize=(2.4 * len(done), 2.6), layout="constrained")
    with open(HERE / "acrobot.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["algorithm", "seed", "frames", "return"])
        for axes, name in zip(figure.subplots(1, len(done), sharey=True, squeeze=False)[0], done, strict=True):
            found = returns(runs / name)
            writer.writerows([name, *row] for row in found)
            for seed in sorted({row[0] for row in found}):
                own = [row for row in found if row[0] == seed]
                axes.plot([row[1] / 1000 for row in own], [row[2] for row in own], marker=".", label=seed)
            axes.set(title=name, xlabel="thousand frames")
            axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.supylabel("return of ten episodes", fontsize="medium")
    figure.savefig(HERE / "acrobot.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
