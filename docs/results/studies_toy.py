"""Verdicts on H1 to H4 of docs/studies/protocol.md, on the toy problem, from docs/results/toy."""

from __future__ import annotations

from collections.abc import Mapping

from studies_cells import SEEDS, Cells
from studies_verdicts import CONFIRMED, REFUTED, ROOT, Verdict, few, first_of, rows_of, sign_test

TOY_PAIRS = {"h1": "a |1|, c |1|", "h2": "a |4,4,1|, c |4,4,1|", "h3": "a |1|, c |16,16,1|"}
ALGORITHMS = ("trpo", "ppo", "ddpg", "sac", "td3")
LEARNED = {"true": True, "false": False}
Counts = Mapping[str, tuple[int, int]]


def toy_counts(pair: str) -> Counts:
    """Algorithm -> agents that learned, and those not viable at their start, where all six seeds are there."""
    path, counts = ROOT / "toy" / "agents.csv", {}
    rows = [row for row in rows_of(path, "start") if row["pair"] == pair]
    if strange := {row["learned"] for row in rows} - LEARNED.keys():
        raise ValueError(f"{path}: learned must be true or false; got {strange}")
    for algorithm in ALGORITHMS:
        own = [row for row in rows if row["algorithm"] == algorithm]
        if {int(row["seed"]) for row in own} == set(SEEDS):
            learned = sum(LEARNED[row["learned"]] for row in own)
            counts[algorithm] = learned, sum(float(row["start"]) < -10 for row in own)
    return counts


def of_toy(counts: Counts, refuted: bool, confirmed: bool) -> Verdict:
    """The verdict on a pair's agents, where all five algorithms have six."""
    if len(counts) < len(ALGORITHMS):
        return few("algorithms have six agents", len(counts), len(ALGORITHMS))
    return first_of([(refuted, REFUTED), (confirmed, CONFIRMED)], toy_text(counts))


def toy_text(counts: Counts) -> str:
    return "learned: " + ", ".join(f"{name.upper()} {a} of {b}" for name, (a, b) in counts.items())


def h1(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h1"])
    learned = [a for a, _ in counts.values()]
    return of_toy(counts, refuted=any(a >= 2 for a in learned), confirmed=not any(learned))


def h2(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h2"])
    fails = [a < b for a, b in counts.values()]
    return of_toy(counts, refuted=not any(fails), confirmed=all(fails))


def h3(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h3"])
    lost = [b - a for a, b in counts.values()]
    return of_toy(counts, refuted=any(n >= 2 for n in lost), confirmed=not any(lost))


def h4(cells: Cells) -> Verdict:
    rows = rows_of(ROOT / "toy" / "halfway.csv", "value_loss", "return")
    algorithms = {row["algorithm"] for row in rows} & set(ALGORITHMS)
    if len(algorithms) < len(ALGORITHMS):
        return few("algorithms have curves", len(algorithms), len(ALGORITHMS))
    loss = sum(float(row["value_loss"]) < float(row["return"]) for row in rows)
    later = sum(float(row["value_loss"]) > float(row["return"]) for row in rows)
    p = sign_test(loss, later)
    text = (
        f"of {len(rows)} agents that learned, the loss is half-way first in {loss}, the return in {later}; p = {p:.2g}"
    )
    return first_of([(p < 0.05 and later > loss, REFUTED), (p < 0.05 and loss > later, CONFIRMED)], text)
