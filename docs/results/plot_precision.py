"""Draw the learning curves of fp32 and bf16, and say how far they are apart: `python docs/results/plot_precision.py`.

Reads docs/results/precision: `<precision>_seed<n>.csv`, the metrics of runs that differ in precision and seed alone,
and `<precision>_seed<n>.json`, their results. Writes `curves.png` beside them and prints a table; differences have
95 % intervals of Welch's t. SciPy comes with the extra `eval`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, variance

from matplotlib.figure import Figure
from scipy.stats import t as students_t

from decouple.runs.files import markdown_lines
from decouple.runs.metrics import read_table

FOLDER = Path(__file__).parent / "precision"
COLOURS = {"fp32": "#7f7f7f", "bf16": "#2f6cab"}
LAST = 5  # iterations
PANELS = {
    "train/episode_return": "return per episode, training levels",
    "policy/entropy": "entropy of the policy (nats)",
    "value/explained_variance": "explained variance of the value",
}


def read(path: Path) -> dict[str, dict[int, float]]:
    """Of a run, what each panel shows, by frame."""
    columns, rows = read_table(path)
    return {name: {int(row[0]): float(row[at]) for row in rows if row[at := columns.index(name)]} for name in PANELS}


def difference(bf16: list[float], fp32: list[float]) -> str:
    """bf16 minus fp32, and its 95 % interval."""
    parts = [variance(runs) / len(runs) for runs in (bf16, fp32)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(runs) - 1) for part, runs in zip(parts, (bf16, fp32), strict=True))
    half, middle = students_t.ppf(0.975, freedom) * math.sqrt(sum(parts)), mean(bf16) - mean(fp32)
    return f"{middle:+.2f} [{middle - half:+.2f}, {middle + half:+.2f}]"


def main() -> None:
    paths = {precision: sorted(FOLDER.glob(f"{precision}_seed*.csv")) for precision in COLOURS}
    runs = {precision: [read(path) for path in found] for precision, found in paths.items()}
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for precision, found in runs.items():
            curves = [run[name] for run in found]
            frames = sorted(set.intersection(*(set(curve) for curve in curves)))
            for curve in curves:
                axes.plot(list(curve), list(curve.values()), color=COLOURS[precision], alpha=0.45, linewidth=1)
            means = [mean(curve[frame] for curve in curves) for frame in frames]
            axes.plot(frames, means, color=COLOURS[precision], linewidth=2.4, label=f"{precision}, {len(curves)} seeds")
        axes.set(xlabel="environment frames", ylabel=label)
        axes.xaxis.set_major_formatter(lambda frames, _: f"{frames / 1000:.0f}k")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.savefig(FOLDER / "curves.png", dpi=110)

    measured: dict[str, dict[str, list[float]]] = {}
    for precision, found in runs.items():
        returns, entropy, explained = ([list(run[name].values()) for run in found] for name in PANELS)
        results = [json.loads(path.with_suffix(".json").read_text()) for path in paths[precision]]
        measured[precision] = {
            "training return, mean of the run": [mean(run) for run in returns],
            f"training return, last {LAST} iterations": [mean(run[-LAST:]) for run in returns],
            f"entropy, last {LAST} iterations": [mean(run[-LAST:]) for run in entropy],
            f"explained variance, last {LAST} iterations": [mean(run[-LAST:]) for run in explained],
            "final return, training levels": [result["final/train_return"] for result in results],
            "final return, all levels": [result["final/test_return"] for result in results],
        }
    table = [["", "fp32", "bf16", "bf16 - fp32"]]
    for name in measured["fp32"]:
        fp32, bf16 = (measured[precision][name] for precision in ("fp32", "bf16"))
        seeds = [", ".join(f"{value:.2f}" for value in values) for values in (fp32, bf16)]
        table.append([name, *seeds, difference(bf16, fp32)])
    print(markdown_lines(table))


if __name__ == "__main__":
    main()
