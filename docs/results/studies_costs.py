"""Verdicts on H13 and H14 of docs/studies/protocol.md: what small actors save in use and in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from studies_cells import PAPER, Cells
from studies_verdicts import CONFIRMED, NOT_RUN, REFUTED, ROOT, Verdict, few, first_of, rows_of


def many_actors(found: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """What small actors save where a process runs many different ones in turn, of the searches' rows."""
    rows = rows_of(ROOT / "honey" / "study" / "many_actors.csv")
    if not rows:
        return "many actors in one process not measured"
    most, parts = max(int(row["actors"]) for row in rows), []
    for form in dict.fromkeys(row["form"] for row in rows):
        ns = {row["actor"]: float(row["ns"]) for row in rows if row["form"] == form and int(row["actors"]) == most}
        saved = [
            f"{task} {algorithm.upper()} {100 * (1 - ns[small] / ns[large]):.0f} %"
            for (task, algorithm), row in found.items()
            if {small := row["actor_size"].replace(",", "x"), large := row["baseline_size"].replace(",", "x")}
            <= set(ns)
        ]
        parts.append(f"{form} {', '.join(saved)}")
    return f"of {most} different actors in one process: {'; '.join(parts)}"


def h13(cells: Cells) -> Verdict:
    rows = [row for row in rows_of(ROOT / "honey" / "study" / "latency.csv") if row["batch"] == "1"]
    by: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["runtime"] == "onnx":
            by[row["task"], row["algorithm"]][row["actor"]] = float(row["median_us"])
    found = {
        (r["task"], r["algorithm"]): r
        for r in rows_of(ROOT / "honey" / "study" / "table_1.csv")
        if r["source"] == "here"
    }
    saved = {
        key: 1 - by[key][row["actor_size"]] / by[key][row["baseline_size"]]
        for key, row in found.items()
        if key[0] != "toy" and {row["actor_size"], row["baseline_size"]} <= set(by[key])
    }
    text = "saved by ONNX Runtime, one observation: " + ", ".join(
        f"{task} {algorithm.upper()} {100 * value:.0f} %" for (task, algorithm), value in saved.items()
    )
    text += f" (actors of shorter searches: a latency depends on the size alone); {many_actors(found)}"
    half = sum(value >= 0.5 for value in saved.values())
    return first_of([(half < len(saved) / 2, REFUTED), (half > len(saved) / 2, CONFIRMED)], text)


def h14(cells: Cells) -> Verdict:
    rows = rows_of(ROOT / "honey" / "training_time.csv")
    if not rows:
        return NOT_RUN, "`benchmarks/size_training_time.py` has not run on a machine with nothing beside it"
    wanted = {(*key, update) for key in PAPER for update in ("batched", "compiled")}
    measured = wanted & {(row["task"], row["algorithm"], row["update"]) for row in rows}
    if measured < wanted:
        return few("cells with a learner, PyTorch's or compiled, are timed", len(measured), len(wanted))
    saved = {}
    for row in rows:
        if float(row["symmetric_seconds"]) > 0:
            name = f"{row['task']} {row['algorithm'].upper()} ({row['update']})"
            saved[name] = 100 * (1 - float(row["smallest_seconds"]) / float(row["symmetric_seconds"]))
    name, most = max(saved.items(), key=lambda item: item[1])
    return first_of([(most < 25, REFUTED), (most >= 40, CONFIRMED)], f"largest saving {most:.0f} %, {name}")
