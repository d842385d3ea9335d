"""Draw HalfCheetah's curves beside Stable-Baselines3's: `python docs/results/plot_halfcheetah.py`.

Reads docs/results/halfcheetah: our runs' metrics.csv, and the tables of benchmarks/halfcheetah_sb3.py.
"""

import csv
from pathlib import Path

from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "halfcheetah"


def column(path: Path, x: str, y: str) -> tuple[list[float], list[float]]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(y)]
    return [float(row[x]) for row in rows], [float(row[y]) for row in rows]


def main() -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, algorithm in zip(figure.subplots(1, 2, sharey=True), ("td3", "sac"), strict=True):
        for seed, dashes in ((0, "-"), (1, "--")):
            ours = column(FOLDER / f"ours_{algorithm}.csv", "frames", f"eval/return/seed{seed}")
            theirs = column(FOLDER / f"sb3_{algorithm}_seed{seed}.csv", "steps", "return_mean")
            axes.plot(*ours, dashes, color="#2f6cab", label=f"decouple, seed {seed}")
            axes.plot(*theirs, dashes, color="#7f7f7f", label=f"Stable-Baselines3, seed {seed}")
        axes.set(title=f"{algorithm.upper()}, |64,64|", xlabel="steps of one agent")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("HalfCheetah-v4, mean return of 10 episodes")
    figure.savefig(FOLDER / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
