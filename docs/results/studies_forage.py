"""The study of where to separate on Forage: what its runs found, as tables and pictures.

    python docs/results/studies_forage.py runs/forage      # read the runs below the folder, write docs/results/forage
    python docs/results/studies_forage.py                  # draw the pictures again

`agents.csv` has the returns of each agent after training, `curves.csv` what was measured of it while it learned. The
tables of docs/studies/forage.md are written from them by `python docs/results/studies.py`.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from studies_runs import commits, write_rows
from studies_verdicts import CONFIRMED, NOT_RUN, OPEN, REFUTED, Verdict, rows_of

from decouple.analysis.statistics import Estimate, exchange_p_value, probability_of_improvement
from decouple.runs.curves import save_figure
from decouple.runs.metrics import read_metrics

HERE = Path(__file__).parent / "forage"
LIVES = ("none", "shown", "hidden")
FRAMES, SEEDS = 1_000_000, 10  # the protocol's
REPETITIONS = 10_000  # resamples of an interval
SIGNIFICANCE = 0.05  # as in decouple.studies.separation.recommendation
NAMES = {0: "full", 1: "early", 2: "late", 3: "shared"}  # k -> the paper's name, with three hidden layers
COLOURS = {0: "#d9a400", 1: "#8e63b5", 2: "#2f6cab", 3: "#7f7f7f"}
MEASURES = {  # column of curves.csv -> metric of a run
    "train": "eval/train_return",
    "test": "eval/test_return",
    "cosine": "cut/joint_cosine",
    "cka": "branches/cka",
    "policy_rank": "branches/policy_rank",
    "value_rank": "branches/value_rank",
}
AXES = {"cosine": "cosine at the cut", "cka": "CKA of the branches", "policy_rank": "effective rank, policy"}
AXES |= {"value_rank": "effective rank, value"}

Returns = dict[tuple[str, int], dict[str, list[float]]]  # (life, k) -> train and test: a return of each seed


def collect(folder: Path) -> None:
    """Write agents.csv and curves.csv from the finished runs below a folder."""
    agents, curves = [], []
    for path in sorted(folder.rglob("result.json")):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        result, metrics = json.loads(path.read_text()), read_metrics(path.parent)
        for seed in range(config["seed"], config["seed"] + config["seeds"]):
            own = {"life": config["env_kwargs"].get("life", "none"), "k": config["separation"], "seed": seed}
            final = {name: result[f"final/{name}_return/seed{seed}"] for name in ("train", "test")}
            agents.append(own | {"frames": result["frames"]} | final | {"commit": commits(path.parent)})
            of_seed = {column: metrics.get(f"{name}/seed{seed}") for column, name in MEASURES.items()}
            for row, frames in enumerate(metrics["frames"]):
                if not math.isnan(metrics[f"eval/test_return/seed{seed}"][row]):
                    values = {name: round(of[row], 4) if of else "" for name, of in of_seed.items()}
                    curves.append(own | {"frames": int(frames)} | values)
    for name, rows in (("agents", agents), ("curves", curves)):
        rows.sort(key=lambda row: (LIVES.index(row["life"]), row["k"], row["seed"], row["frames"]))
        write_rows(HERE / f"{name}.csv", rows)
    print(f"{len(agents)} agents")


def returns() -> Returns:
    """The returns of each life and k that has all seeds at the protocol's frames."""
    found: Returns = defaultdict(lambda: {"train": [], "test": []})
    for row in rows_of(HERE / "agents.csv", "k", "train", "test"):
        if int(row["frames"]) >= FRAMES:
            for name in ("train", "test"):
                found[row["life"], int(row["k"])][name].append(float(row[name]))
    return {key: of for key, of in found.items() if len(of["test"]) >= SEEDS}


def improvement(found: Returns, life: str, x: int, y: int) -> tuple[Estimate, float]:
    """Probability that an agent at k = x earns more on test levels than one at k = y, and the exact test's p."""
    runs = [{life: found[life, k]["test"]} for k in (x, y)]
    return compared(*runs)


def compared(x: Mapping[str, list[float]], y: Mapping[str, list[float]]) -> tuple[Estimate, float]:
    return probability_of_improvement(x, y, repetitions=REPETITIONS), exchange_p_value(x, y)


def larger_gap(found: Returns) -> str:
    """Probability that the gap between training and test levels is larger with a shared trunk than with none."""
    texts = []
    for life in LIVES:
        if (life, 0) in found and (life, 3) in found:
            gaps = [
                {life: [a - b for a, b in zip(found[life, k]["train"], found[life, k]["test"], strict=True)]}
                for k in (3, 0)
            ]
            texts.append(f"life {life} {told(*compared(*gaps))}")
    return "; ".join(texts)


def interval(values: Sequence[float], repetitions: int = 10_000) -> str:
    """Interquartile mean, as of `aggregate_metrics`, and its 95 % percentile interval over resampled seeds."""
    drawn = np.random.default_rng(0).choice(values, (repetitions, len(values)))
    cut = len(values) // 4
    low, high = np.percentile(np.sort(drawn)[:, cut : len(values) - cut].mean(axis=1), [2.5, 97.5])
    return f"{np.sort(values)[cut : len(values) - cut].mean():.2f} [{low:.2f}, {high:.2f}]"


def returns_table() -> str:
    """Returns by life and k, with the gap, and how likely late separation is better than each other k."""
    found = returns()
    if not found:
        return "Not run yet."
    lines = [
        "| life | k | test levels, IQM | training levels, IQM | gap | late better, p |",
        "|---|---|---|---|---|---|",
    ]
    for (life, k), of in found.items():
        gaps = [train - test for train, test in zip(of["train"], of["test"], strict=True)]
        late = "" if k == 2 or (life, 2) not in found else told(*improvement(found, life, 2, k))
        cells = (life, f"{k}, {NAMES[k]}", interval(of["test"]), interval(of["train"]), interval(gaps), late)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(probability: Estimate, p: float) -> str:
    return f"{probability.value:.2f} [{probability.low:.2f}, {probability.high:.2f}], p = {p:.2g}"


def last(column: str) -> Mapping[tuple[str, int], list[float]]:
    """A measure of each life and k at each seed's last evaluation."""
    latest: dict[tuple[str, int, str], str] = {}
    for row in rows_of(HERE / "curves.csv", "k"):
        latest[row["life"], int(row["k"]), row["seed"]] = row[column]
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (life, k, _), value in latest.items():
        if value and not math.isnan(float(value)):
            found[life, k].append(float(value))
    return found


def branches_table() -> str:
    """What the branches are like in the end, means over the seeds and standard deviations."""
    found = {column: last(column) for column in AXES}
    if not found["cka"]:
        return "Not run yet."
    lines = ["| life | k | " + " | ".join(AXES.values()) + " |", "|---|---|" + "---|" * len(AXES)]
    for life, k in found["cka"]:
        values = [found[column].get((life, k), []) for column in AXES]
        # + 0.0: what is rounded to -0 is 0.
        cells = [f"{round(statistics.fmean(v), 2) + 0.0:.2f} ± {statistics.stdev(v):.2f}" if v else "" for v in values]
        lines.append(f"| {life} | {k}, {NAMES[k]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def s6() -> Verdict:
    """Full beats late where the picture shows the value's cause, and not where it is hidden.

    Two k are told apart as on the reports' pages: by the interval and by the exact test, since the end of an interval
    from resamples may fall to either side of 1/2.
    """
    found = returns()
    needed = [(life, k) for life in ("shown", "hidden") for k in (0, 2)]
    if any(key not in found for key in needed):
        return NOT_RUN, "needs the cheap generator"
    (shown, p_shown), (hidden, p_hidden) = (improvement(found, life, 0, 2) for life in ("shown", "hidden"))
    text = f"probability that full is better than late: shown {told(shown, p_shown)}; hidden {told(hidden, p_hidden)}"
    if shown.high < 0.5 and p_shown < SIGNIFICANCE:
        return REFUTED, text
    better_shown, better_hidden = (
        shown.low > 0.5 and p_shown < SIGNIFICANCE,
        hidden.low > 0.5 and p_hidden < SIGNIFICANCE,
    )
    return (CONFIRMED if better_shown and not better_hidden else OPEN), text


def figure(columns: Mapping[str, str]) -> Figure:
    """Curves over training by k, a row for each measure and a column for each life; bands are standard deviations."""
    by: dict[tuple[str, int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(HERE / "curves.csv", "k"):
        for column in columns:
            if row[column] and not math.isnan(float(row[column])):
                by[row["life"], int(row["k"]), int(row["frames"])][column].append(float(row[column]))
    drawn = Figure(figsize=(10, 2.6 * len(columns)), layout="constrained")
    panels = drawn.subplots(len(columns), len(LIVES), sharex=True, sharey="row", squeeze=False)
    for row, (column, label) in enumerate(columns.items()):
        for axes, life in zip(panels[row], LIVES, strict=True):
            for k, colour in COLOURS.items():
                points = [(at, of[column]) for (its, its_k, at), of in by.items() if (its, its_k) == (life, k)]
                points = [(at, values) for at, values in points if values]
                frames, means = [at for at, _ in points], [statistics.fmean(values) for _, values in points]
                spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
                axes.plot(frames, means, color=colour, label=f"k = {k}, {NAMES[k]}")
                low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(frames, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_formatter(lambda frames, _: f"{frames / 1000:.0f}k")
            if row == 0:
                axes.set_title(f"life {life}" if life != "none" else "no life")
        panels[row][0].set_ylabel(label)
    panels[0][0].legend(frameon=False, fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("frames of each agent")
    return drawn


def main() -> None:
    if sys.argv[1:]:
        collect(Path(sys.argv[1]))
    save_figure(figure({"test": "test levels", "train": "training levels"}), HERE / "returns.png", 110)
    save_figure(figure(AXES), HERE / "branches.png", 110)


if __name__ == "__main__":
    main()
