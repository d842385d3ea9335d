"""Verdicts on H13 and H14 of docs/studies/protocol.md: what small actors save in use and in training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from studies_cells import PAPER, Cells, Size, finished
from studies_verdicts import CONFIRMED, NOT_RUN, REFUTED, ROOT, Verdict, few, first_of, rows_of

from decouple.runs.files import markdown_lines
from decouple.studies.actor_size.latency import read_latency

FRAMES, ROUNDS = 600, 5  # of a training time, at least
PAIRS = {"baseline": "baseline", "symmetric": "smallest pair", "smallest": "smallest actor, its critic"}
KINDS = ("seconds", "wall_seconds")  # by the processor, by the clock
NUMBERS = ("rounds", *(f"{pair}_{kind}" for pair in PAIRS for kind in KINDS))
LEARNERS = {"batched": "PyTorch", "compiled": "compiled"}


def many_actors(sizes: Mapping[str, tuple[Size, Size]]) -> str:
    """What small actors save where a process runs many different ones in turn; of each cell the smallest and the
    baseline's.
    """
    rows = rows_of(ROOT / "honey" / "study" / "many_actors.csv", "actors", "ns")
    if not rows:
        return "many actors in one process not measured"
    most, parts = max(int(row["actors"]) for row in rows), []
    for form in dict.fromkeys(row["form"] for row in rows):
        ns = {row["actor"]: float(row["ns"]) for row in rows if row["form"] == form and int(row["actors"]) == most}
        saved = []
        for name, pair in sizes.items():
            small, large = ("x".join(map(str, size)) for size in pair)
            saved += [f"{name} {100 * (1 - ns[small] / ns[large]):.1f} %"] if {small, large} <= set(ns) else []
        parts.append(f"{form}: {'; '.join(saved)}")
    return f"Of {most} different actors in one process, with Pendulum's inputs, {'. '.join(parts)}"


def h13(cells: Cells) -> Verdict:
    us = {
        (row["task"], row["algorithm"], row["actor"]): row["median_us"]
        for row in read_latency(ROOT / "honey" / "latency.csv")
        if (row["runtime"], row["batch"]) == ("onnx", 1)
    }
    done, saved, sizes = finished(cells), {}, {}
    for key, cell in done.items():
        small, large = sizes[cell.name] = cell.papers.found.asymmetric.actor, PAPER[key]["baseline_size"]
        if {(*key, small), (*key, large)} <= us.keys():
            saved[cell.name] = 1 - us[(*key, small)] / us[(*key, large)]
    if not saved or len(saved) < len(done):
        return few("finished cells have their latencies", len(saved), max(1, len(done)))
    text = "saved by ONNX Runtime, one observation: "
    text += "; ".join(f"{name} {100 * value:.0f} %" for name, value in saved.items())
    half = sum(value >= 0.5 for value in saved.values())
    return first_of(
        [(half < len(saved) / 2, REFUTED), (half > len(saved) / 2, CONFIRMED)], f"{text}. {many_actors(sizes)}"
    )


def timed() -> list[dict[str, str]]:
    """The training times of enough steps and rounds, in the order of the paper's rows, PyTorch's learner first."""
    rows = rows_of(ROOT / "honey" / "training_time.csv", *NUMBERS)
    rows = [row for row in rows if int(row["frames"]) >= FRAMES and int(row["rounds"]) >= ROUNDS]
    order = {key: place for place, key in enumerate(PAPER)}
    return sorted(rows, key=lambda row: (order[row["task"], row["algorithm"]], row["update"]))


def equal_pairs(row: Mapping[str, str]) -> set[str]:
    """Which of the three pairs are one pair of sizes, timed twice or more."""
    paper = PAPER[row["task"], row["algorithm"]]
    sizes = {
        "baseline": (paper["baseline_size"],) * 2,
        "symmetric": (paper["symmetric_size"],) * 2,
        "smallest": (paper["actor_size"], paper["critic_size"]),
    }
    return {pair for pair, of in sizes.items() if list(sizes.values()).count(of) > 1}


def training_times() -> str:
    """The times of the paper's three pairs as a table, in µs of a step that was trained; and how far times of equal
    pairs lie apart.
    """
    noise: list[float] = []
    lines = [["cell", "learner", *PAIRS.values(), "saved beside the pair", "beside the baseline"]]
    for row in timed():
        steps = 0.9 * int(row["frames"])
        us = {pair: [1e6 * float(row[f"{pair}_{kind}"]) / steps for kind in KINDS] for pair in PAIRS}
        equal = equal_pairs(row)
        saved = (
            "equal" if {pair, "smallest"} <= equal else f"{100 * (1 - us['smallest'][0] / us[pair][0]):.0f} %"
            for pair in ("symmetric", "baseline")
        )
        if same := [us[pair][0] for pair in equal]:
            noise.append(max(same) / min(same) - 1)
        name = f"{row['task']}, {row['algorithm'].upper()}"
        lines.append(
            [name, LEARNERS[row["update"]], *(f"{own:,.0f} ({wall:,.0f})" for own, wall in us.values()), *saved]
        )
    told = f"\n\nTimes of equal pairs differ by up to {100 * max(noise):.0f} %, which is noise." if noise else ""
    return markdown_lines(lines) + told


def h14(cells: Cells) -> Verdict:
    rows = timed()
    if not rows:
        return NOT_RUN, "`benchmarks/size_training_time.py` has not run on a machine with nothing beside it"
    wanted = {(*key, update) for key in PAPER for update in ("batched", "compiled")}
    measured = wanted & {(row["task"], row["algorithm"], row["update"]) for row in rows}
    if measured < wanted:
        return few("cells with a learner, PyTorch's or compiled, are timed", len(measured), len(wanted))
    saved = {}
    for row in rows:
        if float(row["symmetric_seconds"]) > 0 and not {"symmetric", "smallest"} <= equal_pairs(row):
            name = f"{row['task']} {row['algorithm'].upper()} ({row['update']})"
            saved[name] = 100 * (1 - float(row["smallest_seconds"]) / float(row["symmetric_seconds"]))
    name, most = max(saved.items(), key=lambda item: item[1])
    text = f"largest saving {most:.0f} %, {name}; median {statistics.median(saved.values()):.0f} % of {len(saved)}"
    return first_of([(most < 25, REFUTED), (most >= 40, CONFIRMED)], text)
