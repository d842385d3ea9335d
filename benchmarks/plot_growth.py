"""Cost and memory against separation, games, frames of an iteration and width, as a picture beside the counted work.

    python benchmarks/procgen_ppo.py --cpu-clock --threads 1 --grow k --record growth.csv      # and envs, frames, width
    python benchmarks/plot_growth.py growth.csv docs/results/performance/growth.png

The upper row has seconds per frame, the lower one the peak memory. Seconds are relative to the first point of a line.
The dashed line is the counted work, forward and backward, likewise: points below it cost less than the work that was
added, points above it more. Only rows of processor time are drawn, each panel from those of the last day that has two
of its values; of rows with the same settings the last counts.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from procgen_ppo import counted_flops, make_settings

AXES = {"k": "k, blocks shared", "envs": "games, at equal frames", "steps": "steps of 64 games", "width": "width"}


def lines(rows: list[dict[str, str]]) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Axis -> precision -> its rows of one day, by rising value; an axis without two values has no lines."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for day in sorted({row["date"] for row in rows}):
        found |= _of_a_day([row for row in rows if row["date"] == day])
    return found


def _of_a_day(rows: list[dict[str, str]]) -> dict[str, dict[str, list[dict[str, str]]]]:
    """The axes of which these rows have two values or more."""
    last = {
        tuple(row[key] for key in ("contender", "precision", "envs", "steps", "width")): row
        for row in rows
        if row["clock"] == "cpu"
    }
    plain = [row for row in last.values() if row["contender"] == "late"]
    alone = [row for row in plain if row["width"] == "1"]
    per_iteration = lambda row: int(row["envs"]) * int(row["steps"])  # noqa: E731
    of_games = {per_iteration(row) for row in alone if row["envs"] != "64"}
    wide = {row["steps"] for row in plain if row["width"] != "1"}
    chosen = {
        "k": [{**row, "k": row["contender"]} for row in last.values() if row["contender"].isdecimal()],
        "envs": [row for row in alone if per_iteration(row) in of_games],
        "steps": [row for row in alone if row["envs"] == "64" and row["steps"] not in wide],
        "width": [row for row in plain if row["steps"] in wide and row["envs"] == "64"],
    }
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for axis, own in chosen.items():
        for row in sorted(own, key=lambda row, axis=axis: int(row[axis])):
            found.setdefault(axis, {}).setdefault(row["precision"], []).append(row)
    return {axis: own for axis, own in found.items() if any(len(line) > 1 for line in own.values())}


def work(row: dict[str, str]) -> float:
    """Counted operations per environment step of a row's contender."""
    from torchrl.data import Categorical

    from decouple import actor_value, impala_blocks, separate
    from decouple.on_policy.algorithms import ALGORITHMS

    width = int(row["width"])
    wide: dict[str, Any] = {"channels": [width * each for each in (16, 32, 32)], "hidden_size": 256 * width}
    at = int(row["contender"]) if row["contender"].isdecimal() else row["contender"]
    model = actor_value(separate(impala_blocks(**wide), impala_blocks(**wide), at=at), Categorical(15))
    settings = make_settings(row["contender"], int(row["envs"]), int(row["steps"]))
    return counted_flops(model, ALGORITHMS[settings.algorithm](model, settings))


def draw(rows: list[dict[str, str]], path: Path) -> None:
    import matplotlib.pyplot as plt

    found = lines(rows)
    figure, panels = plt.subplots(2, len(found), figsize=(3.2 * len(found), 5.5), squeeze=False, layout="constrained")
    for (axis, of_axis), upper, lower in zip(found.items(), *panels, strict=True):
        for precision, line in of_axis.items():
            at, seconds = [int(row[axis]) for row in line], [1 / float(row["env_steps_per_s"]) for row in line]
            upper.plot(at, [each / seconds[0] for each in seconds], "o-", label=f"{precision}, measured")
            lower.plot(at, [float(row["peak_mb"]) for row in line], "o-", label=precision)
        longest = max(of_axis.values(), key=len)
        counted = [work(row) for row in longest]
        at = [int(row[axis]) for row in longest]
        upper.plot(at, [each / counted[0] for each in counted], "k--", label="counted work")
        upper.set_title(AXES[axis])
        for panel in (upper, lower):
            if axis != "k":
                panel.set_xscale("log", base=2)
            panel.set_xticks(at, list(map(str, at)))
            panel.minorticks_off()
            panel.set_ylim(bottom=0)
    panels[0, 0].set_ylabel("seconds per frame, first = 1")
    panels[1, 0].set_ylabel("peak memory, MiB")
    panels[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    with open(sys.argv[1], newline="") as file:
        draw(list(csv.DictReader(file)), Path(sys.argv[2]))
