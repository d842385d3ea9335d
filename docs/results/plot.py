"""Draw the curves of runs side by side: `python docs/results/plot.py docs/results/starpilot`.

The folder holds one metrics table per run, `<separation>_seed<n>.csv`, as copied from the runs, and `random.json` with
the returns of random actions. Writes `curves.png` beside them. Test returns of single evaluations (10 episodes) are
dots; lines are means over the last three of them.
"""

import csv
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = {"shared": "#7f7f7f", "early": "#8e63b5", "late": "#2f6cab", "full": "#d9a400"}


def read(path: Path) -> dict[str, list[tuple[float, float]]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = "train/episode_return", "eval/train_return", "eval/test_return"
    return {name: [(int(row["frames"]), float(row[name])) for row in rows if row[name]] for name in names}


def main(folder: Path) -> None:
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    train, test = figure.subplots(1, 2, sharey=True)
    for path in sorted(folder.glob("*.csv")):
        separation, _, seed = path.stem.partition("_seed")
        curves = read(path)
        label, dashes = f"{separation}, seed {seed}", ("-", "--", "-.")[int(seed) % 3]
        style = {"color": COLOURS[separation], "linestyle": dashes, "label": label}
        train.plot(*zip(*curves["train/episode_return"], strict=True), **style)
        points = curves["eval/test_return"]
        test.plot(*zip(*points, strict=True), ".", color=COLOURS[separation], alpha=0.5)
        means = [
            (x, sum(y for _, y in points[max(0, i - 2) : i + 1]) / min(3, i + 1)) for i, (x, _) in enumerate(points)
        ]
        test.plot(*zip(*means, strict=True), **style)
    random = json.loads((folder / "random.json").read_text())
    for axes, title, level in ((train, "200 training levels", "train"), (test, "full distribution of levels", "test")):
        axes.axhline(random[f"eval/{level}_return"], color="black", linestyle=":", label="random actions")
        axes.set_title(title)
        axes.set_xlabel("environment frames")
        axes.xaxis.set_major_formatter(lambda frames, _: f"{frames / 1000:.0f}k")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left", fontsize="small")
    train.set_ylabel(f"return per episode, {folder.name}")
    train.set_ylim(bottom=0)
    figure.savefig(folder / "curves.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
