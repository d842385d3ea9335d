"""The comparison of k on Procgen at reduced size: what its runs found, as tables and a picture.

    python docs/results/studies_procgen.py runs/reduced    # read the runs below the folder, write docs/results/reduced
    python docs/results/studies_procgen.py                 # draw the picture again

Runs of `experiments/procgen.py protocol=controlled width=0.5 num_levels=50 total_frames=500000 final_episodes=500`.
`agents.csv` has the returns of each agent after training, `curves.csv` what was measured of it while it learned.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from studies_forage import COLOURS as BY_NAME
from studies_forage import NAMES as OF_FORAGE
from studies_forage import SIGNIFICANCE, compared, told
from studies_runs import commits, write_rows
from studies_verdicts import CONFIRMED, NOT_RUN, REFUTED, Verdict, first_of, rows_of

from decouple.networks.separation import separation_index
from decouple.runs.curves import save_figure
from decouple.studies.separation.run_folders import find_runs, read_run
from decouple.studies.separation.settings import shared_depth

HERE = Path(__file__).parent / "reduced"
GAMES = ("plunder", "starpilot", "coinrun")
FRAMES, SEEDS = 500_000, 3  # the protocol's
SETTINGS = {"protocol": "controlled", "algorithm": "ppo", "width": 0.5, "num_levels": 50, "final_episodes": 500}
DEPTH = shared_depth(None, "both")
NAMES = {separation_index(name, DEPTH): name for name in OF_FORAGE.values()}  # k -> the paper's name
COLOURS = {k: BY_NAME[next(at for at, of in OF_FORAGE.items() if of == name)] for k, name in NAMES.items()}
MEASURES = {"train": "eval/train_return", "test": "eval/test_return", "cosine": "cut/joint_cosine"}

Returns = dict[tuple[str, int], list[tuple[float, float]]]  # (game, k) -> train and test return of each seed


def collect(folder: Path) -> None:
    """Write agents.csv and curves.csv from the finished runs below a folder.

    Raises:
        ValueError: a run of other settings than the comparison's.
    """
    agents, curves = [], []
    for run in map(read_run, find_runs(str(folder))):
        if run.unfinished:
            print(f"left out: {run.folder}: {run.unfinished}")
            continue
        for name, value in SETTINGS.items():
            if run.config[name] != value:
                raise ValueError(f"{run.folder}: {name} must be {value!r}; got {run.config[name]!r}")
        own = {"game": run.game, "k": run.k, "seed": run.seed}
        final = {name: round(run.result[f"final/{name}_return"], 4) for name in ("train", "test")}
        agents.append(own | {"frames": run.result["frames"]} | final | {"commit": commits(run.folder)})
        for row, frames in enumerate(run.curves["frames"]):
            if not math.isnan(run.curves["eval/test_return"][row]):
                of = {column: run.curves.get(name) for column, name in MEASURES.items()}  # no cosine without a cut
                values = {column: round(curve[row], 4) if curve else "" for column, curve in of.items()}
                curves.append(own | {"frames": int(frames)} | values)
    for name, rows in (("agents", agents), ("curves", curves)):
        rows.sort(key=lambda row: (GAMES.index(row["game"]), row["k"], row["seed"], row["frames"]))
        write_rows(HERE / f"{name}.csv", rows)
    print(f"{len(agents)} agents")


def returns(seeds: int = SEEDS) -> Returns:
    """The returns of each game and k that has so many seeds at the protocol's frames."""
    found: Returns = defaultdict(list)
    for row in rows_of(HERE / "agents.csv", "k", "train", "test"):
        if int(row["frames"]) >= FRAMES:
            found[row["game"], int(row["k"])].append((float(row["train"]), float(row["test"])))
    return {key: of for key, of in found.items() if len(of) >= seeds}


def s7(on_forage: str = "") -> Verdict:
    """The gap between training and all levels is larger with a shared network than with two, on the games that have
    both: an interval above 1/2, and the exact test.
    """
    found = returns()
    games = [game for game in GAMES if {(game, 0), (game, DEPTH)} <= set(found)]
    text = f"; on Forage, probability that the gap is larger when shared: {on_forage}" if on_forage else ""
    if not games:
        return NOT_RUN, f"needs Procgen, reduced, k = 0 and {DEPTH}{text}"
    probability, p = compared(*({game: gaps(found[game, k]) for game in games} for k in (DEPTH, 0)))
    number = f"probability that the gap is larger when shared: {', '.join(games)} {told(probability, p)}"
    sure = p < SIGNIFICANCE
    outcomes = [(sure and probability.high < 0.5, REFUTED), (sure and probability.low > 0.5, CONFIRMED)]
    return first_of(outcomes, number + text.replace("probability that the gap is larger when shared: ", ""))


def gaps(of: list[tuple[float, float]]) -> list[float]:
    return [train - test for train, test in of]


def reduced_table() -> str:
    """Returns by game and k with their standard deviations over seeds, and the cosine of the last evaluation."""
    found = returns(seeds=1)
    if not found:
        return "Not run yet."
    cosines: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in rows_of(HERE / "curves.csv", "k"):
        if row["cosine"] not in ("", "nan"):
            cosines[row["game"], int(row["k"])][row["seed"]] = float(row["cosine"])
    lines = [
        "| game | k | seeds | training levels | all levels | gap | cosine at the cut |",
        "|---|---|---|---|---|---|---|",
    ]
    for (game, k), of in found.items():
        trains, tests = zip(*of, strict=True)
        cells = [spread(values) for values in (trains, tests, gaps(of))]
        cosine = spread(list(cosines[game, k].values()), 3) if k else ""
        lines.append(f"| {game} | {k}, {NAMES.get(k, '')} | {len(of)} | {' | '.join(cells)} | {cosine} |")
    return "\n".join(lines)


def spread(values: list[float] | tuple[float, ...], digits: int = 2) -> str:
    """Mean ± standard deviation."""
    mean = round(statistics.fmean(values), digits) + 0.0  # what is rounded to -0 is 0
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def figure() -> Figure:
    """Curves of each seed over training by k, a row for each game: training levels and all levels."""
    by: dict[tuple[str, int, str], list[tuple[int, float, float]]] = defaultdict(list)
    for row in rows_of(HERE / "curves.csv", "k", "train", "test"):
        point = int(row["frames"]), float(row["train"]), float(row["test"])
        by[row["game"], int(row["k"]), row["seed"]].append(point)
    games = [game for game in GAMES if any(game == key[0] for key in by)]
    drawn = Figure(figsize=(9, 3 * len(games)), layout="constrained")
    panels = drawn.subplots(len(games), 2, sharex=True, sharey="row", squeeze=False)
    for (game, k, seed), points in by.items():
        frames, *columns = zip(*points, strict=True)
        for axes, values in zip(panels[games.index(game)], columns, strict=True):
            label = f"k = {k}, {NAMES.get(k, '')}" if seed == "0" else None
            axes.plot(frames, values, color=COLOURS.get(k, "#000000"), linewidth=1, label=label)
    for game, row in zip(games, panels, strict=True):
        row[0].set_ylabel(f"return, {game}")
        for axes in row:
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_formatter(lambda at, _: f"{at / 1000:.0f}k")
    for axes, title in zip(panels[0], ("50 training levels", "all levels"), strict=True):
        axes.set_title(title)
    panels[0][0].legend(frameon=False, fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("frames")
    return drawn


def main() -> None:
    if sys.argv[1:]:
        collect(Path(sys.argv[1]))
    save_figure(figure(), HERE / "returns.png", 110)


if __name__ == "__main__":
    main()
