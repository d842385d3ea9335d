"""Verdicts on H1 to H4 of docs/studies/protocol.md, on the toy problem, from docs/results/toy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from studies_cells import Cells
from studies_verdicts import CONFIRMED, REFUTED, ROOT, Verdict, few, first_of, rows_of

TOY_PAIRS = {"h1": "a |1|, c |1|", "h2": "a |4,4,1|, c |4,4,1|", "h3": "a |1|, c |16,16,1|"}


def toy_counts(pair: str) -> dict[str, tuple[int, int]]:
    """Algorithm -> agents that learned, and agents that were not viable at their start."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows_of(ROOT / "toy" / "agents.csv"):
        if row["pair"] == pair:
            learned, could = counts.get(row["algorithm"], (0, 0))
            counts[row["algorithm"]] = (learned + (row["learned"] == "true"), could + (float(row["start"]) < -10))
    return counts


def toy_text(counts: Mapping[str, tuple[int, int]]) -> str:
    return "learned: " + ", ".join(f"{name.upper()} {a} of {b}" for name, (a, b) in counts.items())


def h1(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h1"])
    learned = [a for a, _ in counts.values()]
    return first_of([(any(a >= 2 for a in learned), REFUTED), (not any(learned), CONFIRMED)], toy_text(counts))


def h2(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h2"])
    fails = [a < b for a, b in counts.values()]
    return first_of([(not any(fails), REFUTED), (all(fails), CONFIRMED)], toy_text(counts))


def h3(cells: Cells) -> Verdict:
    counts = toy_counts(TOY_PAIRS["h3"])
    lost = [b - a for a, b in counts.values()]
    return first_of([(any(n >= 2 for n in lost), REFUTED), (not any(lost), CONFIRMED)], toy_text(counts))


def h4(cells: Cells) -> Verdict:
    rows = rows_of(ROOT / "toy" / "halfway.csv")
    algorithms = {row["algorithm"] for row in rows}
    if len(algorithms) < 5:
        return few("algorithms have curves", len(algorithms), 5)
    loss = sum(float(row["value_loss"]) < float(row["return"]) for row in rows)
    later = sum(float(row["value_loss"]) > float(row["return"]) for row in rows)
    p = sign_test(loss, later)
    text = (
        f"of {len(rows)} agents that learned, the loss is half-way first in {loss}, the return in {later}; p = {p:.2g}"
    )
    return first_of([(p < 0.05 and later > loss, REFUTED), (p < 0.05 and loss > later, CONFIRMED)], text)


def sign_test(a: int, b: int) -> float:
    """Two-sided probability of counts as uneven as these, where either is as likely."""
    n, most = a + b, max(a, b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n) if n else 1.0
