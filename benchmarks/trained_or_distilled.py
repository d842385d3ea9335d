"""Is the smallest actor that can be trained larger than the smallest that can be distilled from a trained one?

    python benchmarks/trained_or_distilled.py pendulum:td3 pendulum:sac toy:ddpg pixelcopter:ppo acrobot:ppo
    python benchmarks/trained_or_distilled.py --report             # table and picture alone, of what is there

For each task and algorithm a row of Table I (`--trained`, from `experiments/smallest_actor.py`) says which actor is the
smallest that could be trained, and by which bound. Its baseline is trained anew where its run is not there; the best of
its seeds teaches students of the small sizes, six each, which are accepted by the same bound over the same episodes.
Everything goes on where it was interrupted. Results: docs/distill.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from decouple.runs.curves import save_figure
from decouple.runs.files import csv_lines, markdown_lines, replace_file
from decouple.studies.actor_size.study import csv_size
from decouple.studies.actor_size.trials import return_text, size_name

ROOT = Path(__file__).resolve().parents[1]
HONEY = ROOT / "docs" / "results" / "honey"
SMALL = {"toy": "[[],[4,4],[8,8]]", "acrobot": "[[1,1],[4,4]]"}  # sizes of students; elsewhere:
USUAL = "[[1,1],[4,4],[8,8],[16,16]]"
HEADS = ("", "bound", "smallest trained", "its return", "smallest distilled", "its return", "the teacher's", "answer")


def command(script: str, *arguments: str) -> None:
    """Run a script of experiments/; SystemExit where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "experiments" / script), *arguments], env=environment, check=True)


def trained_rows(files: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, algorithm) -> our row of Table I."""
    rows = {}
    for path in files:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if row["source"] == "here":
                    rows[row["task"], row["algorithm"]] = row
    return rows


def distil(
    task: str, algorithm: str, row: Mapping[str, str], runs: Path, sizes: str | None, settings: Sequence[str]
) -> None:
    """The baseline, where its run is not there, and the search for the smallest student."""
    name, baseline = f"{task}_{algorithm}", list(csv_size(row["baseline_size"]))
    teacher = runs / "teachers" / name
    own, learning = [text for text in settings if not text.startswith("distill.")], "distill."
    if not (teacher / "result.json").exists():
        networks = [f"{part}=[{','.join(map(str, baseline))}]" for part in ("actor", "critic")]
        given = [f"env={task}", f"algorithm={algorithm}", f"seeds={row['seeds']}", "num_threads=1"]
        command("control.py", *given, *networks, *own, f"run_dir={teacher}")
    search = ["sizes=search", "search.exhaustive=true", f"search.threshold={row['threshold']}", "search.export=none"]
    search.append(f"search.sizes={sizes or SMALL.get(task, USUAL)}")
    students = [text.removeprefix(learning) for text in settings if text.startswith(learning)]
    where = [f"checkpoint={teacher}", f"run_dir={runs / 'students' / name}"]
    command("distill.py", *where, f"seeds={row['seeds']}", *search, *students)


def distilled(runs: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, algorithm) -> the record of the search for the smallest student."""
    records = [json.loads(path.read_text()) for path in sorted(runs.glob("**/search.json"))]
    return {(record["of"]["task"], record["of"]["algorithm"]): record for record in records}


def table(rows: Mapping[Any, Mapping[str, str]], found: Mapping[Any, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows as texts, under `HEADS`."""
    texts = [HEADS]
    for key, record in found.items():
        row, best = rows[key], record["smallest"]
        size = csv_size(row["actor_size"])
        counts = {tuple(each["actor"]): each["parameters"] for each in record["parameters"]}
        low, high, mean = (float(row[f"asymmetric_{name}"]) for name in ("low", "high", "reward"))
        doubt = "" if row["decided"] == "True" else " ?"
        teacher = record["of"]
        texts.append(
            (
                f"{key[0]}, {key[1].upper()}",
                return_text(record["bound"]),
                f"{size_name(size)}, {counts.get(size, '')} parameters",
                f"{return_text(mean)} [{return_text(low)}, {return_text(high)}]{doubt}",
                "none tried"
                if best is None
                else f"{size_name(best['actor'])}, {counts[tuple(best['actor'])]} parameters",
                "" if best is None else _return(best),
                f"{size_name(teacher['actor'])}, {return_text(record['teacher']['mean'])}",
                answer(size, best, counts),
            )
        )
    return texts


def answer(size: tuple[int, ...], best: Mapping[str, Any] | None, counts: Mapping[tuple[int, ...], int]) -> str:
    """Whether the smallest trained actor is larger than the smallest distilled one."""
    if best is None:
        return "distilled none"
    smallest = tuple(best["actor"])
    if smallest == size:
        return "equal"
    own, trained = counts[smallest], counts.get(size)
    return "trained is larger" if trained is None or own < trained else "distilled is larger"


def _return(trial: Mapping[str, Any]) -> str:
    doubt = "" if trial["decided"] else " ?"
    return f"{return_text(trial['mean'])} [{return_text(trial['low'])}, {return_text(trial['high'])}]{doubt}"


def draw(
    cells: Sequence[Mapping[str, str]],
    rows: Mapping[Any, Mapping[str, str]],
    found: Mapping[Any, Mapping[str, Any]],
    path: Path,
) -> None:
    """Return against the actor's parameters, trained beside the search's critic, and distilled."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found), 3.2), squeeze=False)
    for axis, (key, record) in zip(axes[0], found.items(), strict=True):
        critic = rows[key]["critic_size"]
        beside = [cell for cell in cells if (cell["task"], cell["algorithm"]) == key and cell["critic"] == critic]
        trained = [
            (float(cell["parameters"]), *(float(cell[f"return{name}"]) for name in ("", "_low", "_high")))
            for cell in beside
        ]
        counts = {tuple(each["actor"]): each["parameters"] for each in record["parameters"]}
        taught = [
            (counts[tuple(trial["actor"])], *(trial[name] for name in ("mean", "low", "high")))
            for trial in record["trials"]
        ]
        for points, label, mark in ((trained, "trained", "o-"), (taught, "distilled", "s-")):
            aside = 1.08 if label == "distilled" else 1
            x, mean, low, high = zip(*sorted(points), strict=True) if points else ((), (), (), ())
            spread = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
            axis.errorbar(
                [aside * each for each in x], mean, spread, fmt=mark, label=label, capsize=2, markersize=4, linewidth=1
            )
        axis.axhline(record["bound"], color="0.5", linestyle="--", linewidth=1, label="bound")
        best = max([record["teacher"]["mean"], *(point[1] for point in (*trained, *taught))])
        floor = min(record["bound"] - 3 * abs(best - record["bound"]), record["bound"] - 0.02 * abs(record["bound"]))
        axis.set_ylim(floor, best + 0.3 * abs(best - record["bound"]))
        axis.set_xscale("log")
        axis.set_title(f"{key[0]}, {key[1].upper()}", fontsize=10)
        sizes = {counts[tuple(trial["actor"])]: size_name(trial["actor"]) for trial in record["trials"]}
        sizes |= {int(cell["parameters"]): size_name(csv_size(cell["actor"])) for cell in beside}
        axis.set_xticks(list(sizes), [f"{name}\n{count}" for count, name in sizes.items()], fontsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("actor, parameters")
    axes[0, 0].set_ylabel("return, six seeds")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path, dpi=110)
    plt.close(figure)


def report(rows: Mapping[Any, Mapping[str, str]], cells: Sequence[Path], runs: Path, out: Path) -> str:
    """Write table.md, students.csv and picture.png; returns the table."""
    found = {key: record for key, record in distilled(runs).items() if key in rows}
    if not found:
        raise FileNotFoundError(f"no search for the smallest student is done in {runs}")
    all_cells: list[dict[str, str]] = []
    for path in cells:
        with open(path, newline="") as file:
            all_cells += csv.DictReader(file)
    out.mkdir(parents=True, exist_ok=True)
    names = ("task", "algorithm", "teacher", "bound", "actor", "parameters", "mean", "std", "low", "high", "accepted")
    lines = [[*names, "frames", "seeds"]]
    for (task, algorithm), record in found.items():
        counts = {tuple(each["actor"]): each["parameters"] for each in record["parameters"]}
        for trial in record["trials"]:
            size = ",".join(map(str, trial["actor"])) or "linear"
            own = [trial[name] for name in ("mean", "std", "low", "high", "accepted")]
            head = [task, algorithm, ",".join(map(str, record["of"]["actor"])), record["bound"], size]
            lines.append([*head, counts[tuple(trial["actor"])], *own, record["frames"], record["seeds"]])
    replace_file(out / "students.csv", csv_lines([list(map(str, line)) for line in lines]))
    draw(all_cells, rows, found, out / "picture.png")
    text = markdown_lines(table(rows, found))
    replace_file(out / "table.md", text.encode() + b"\n")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help="task:algorithm")
    parser.add_argument("--runs", type=Path, default=Path("runs/trained_or_distilled"), help="folder of the runs")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "results" / "distilled", help="folder of the report"
    )
    folders = [HONEY / "study", HONEY / "acrobot"]
    parser.add_argument("--trained", type=Path, nargs="+", default=[folder / "table_1.csv" for folder in folders])
    parser.add_argument("--curves", type=Path, nargs="+", default=[folder / "cells.csv" for folder in folders])
    parser.add_argument("--sizes", help="students' sizes, as [[4,4],[8,8]]")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the baselines; distill.<name>=: of students")
    parser.add_argument("--report", action="store_true", help="table and picture alone")
    given = parser.parse_args(arguments)
    rows = trained_rows(given.trained)
    for cell in [] if given.report else given.cells:
        task, _, algorithm = cell.partition(":")
        if (task, algorithm) not in rows:
            parser.error(f"no search of {cell} in {', '.join(map(str, given.trained))}")
        distil(task, algorithm, rows[task, algorithm], given.runs, given.sizes, given.set)
    print(report(rows, given.curves, given.runs, given.out))


if __name__ == "__main__":
    main()
