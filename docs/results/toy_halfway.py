"""When value losses and returns of the toy problem's agents are half-way: claim H4 of docs/studies/protocol.md.

    python experiments/toy.py run_dir=runs/toy
    python docs/results/toy_halfway.py runs/toy docs/results/toy/halfway.csv

Writes a row for each agent that learned: its algorithm, pair and seed, and the frames at which its value loss and its
return have made half their way, as the protocol defines it.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from decouple.runs.metrics import read_metrics
from decouple.studies.actor_size.toy import PAIRS

WINDOW = 5  # rows, the last ones up to a row
Values = Sequence[float]


def smoothed(values: Values, by: Callable[[list[float]], float]) -> list[float]:
    """`by` of each row's window; NaN where the window has no finite value."""
    windows = [values[max(0, i - WINDOW + 1) : i + 1] for i in range(len(values))]
    kept = [[value for value in window if math.isfinite(value)] for window in windows]
    return [by(window) if window else math.nan for window in kept]


def last_tenth(values: Values) -> float:
    finite = [value for value in values[-max(1, len(values) // 10) :] if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def return_half_way(frames: Values, returns: Values) -> float | None:
    """Frames of the first row whose mean return is half-way from the first row's to the last tenth's; None: none is."""
    smooth, first = smoothed(returns, statistics.fmean), next(filter(math.isfinite, returns), math.nan)
    half = (first + last_tenth(returns)) / 2
    return next((at for at, value in zip(frames, smooth, strict=True) if value >= half), None)


def loss_half_way(frames: Values, losses: Values) -> float | None:
    """Frames of the first row, from the loss's maximum on, at which its logarithm has made half its fall."""
    smooth = smoothed(losses, statistics.median)
    most = max(range(len(smooth)), key=lambda i: smooth[i] if math.isfinite(smooth[i]) else -math.inf, default=0)
    end = last_tenth(losses)
    if not smooth or not (smooth[most] > end > 0):
        return None
    half = math.sqrt(smooth[most] * end)
    return next((frames[i] for i in range(most, len(smooth)) if smooth[i] <= half), None)


def half_ways(run_dir: Path) -> list[dict[str, object]]:
    """A row for each agent of the study that learned and whose curves have a half-way point each."""
    with (run_dir / "agents.csv").open(newline="") as file:
        learned = {(r["algorithm"], r["pair"], int(r["seed"])) for r in csv.DictReader(file) if r["learned"] == "true"}
    rows = []
    for path in sorted(run_dir.rglob("metrics.csv")):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        sizes = tuple(config["actor"]), tuple(config["critic"])
        pair = next((name for name, of in PAIRS.items() if tuple(map(tuple, of)) == sizes), None)
        metrics = read_metrics(path.parent)
        for seed in range(config["seed"], config["seed"] + config["seeds"]):
            if (config["algorithm"], pair, seed) not in learned:
                continue
            suffix = f"/seed{seed}" if config["seeds"] > 1 else ""
            at = loss_half_way(metrics["frames"], metrics[f"loss/critic{suffix}"])
            then = return_half_way(metrics["frames"], metrics[f"train/episode_return{suffix}"])
            if at is not None and then is not None:
                rows.append(
                    {"algorithm": config["algorithm"], "pair": pair, "seed": seed, "value_loss": at, "return": then}
                )
    return rows


def main() -> None:
    rows = half_ways(Path(sys.argv[1]))
    with open(sys.argv[2], "w", newline="") as file:
        table = csv.DictWriter(file, ["algorithm", "pair", "seed", "value_loss", "return"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"{len(rows)} agents")


if __name__ == "__main__":
    main()
