"""Verdicts on the claims H1 to H16 of docs/studies/protocol.md, each computed from the files in docs/results."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studies_cells import PAPER, SEEDS, SIZES, MissingPairError, Pair, TableCell, larger, reduction, smaller

from decouple.analysis.statistics import probability_of_improvement
from decouple.studies.actor_size.cell_files import read_cell_file
from decouple.studies.actor_size.search import return_text, size_name

CONFIRMED, REFUTED, OPEN, NOT_RUN = "confirmed", "refuted", "not decided", "not run"
Verdict = tuple[str, str]  # one of the four, and its number in words
Cells = Mapping[tuple[str, str], TableCell]
ROOT = Path(__file__).parent
TOY_PAIRS = {"h1": "a |1|, c |1|", "h2": "a |4,4,1|, c |4,4,1|", "h3": "a |1|, c |16,16,1|"}
FRESH = range(6, 12)  # seeds that the search has not seen
OFF_POLICY = ("ddpg", "td3", "sac")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def first_of(outcomes: list[tuple[bool, str]], text: str) -> Verdict:
    """The first verdict whose condition holds; not decided where none does."""
    return next((verdict for holds, verdict in outcomes if holds), OPEN), text


def few(what: str, has: int, needs: int) -> Verdict:
    return NOT_RUN, f"{has} of at least {needs} {what}"


# ----------------------------------------------------------------------------------------------------- the toy problem
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


# -------------------------------------------------------------------------------------------------------------- table I
def finished(cells: Cells) -> dict[tuple[str, str], TableCell]:
    """The cells that have an actor at the paper's threshold, with a baseline that reaches it."""
    return {key: c for key, c in cells.items() if c.reached and c.papers.found and c.papers.found.asymmetric}


def h5(cells: Cells) -> Verdict:
    done, tasks = finished(cells), defaultdict(list)
    for key in PAPER:
        tasks[key[0]].append(done.get(key))
    whole = {task: of for task, of in tasks.items() if all(of)}
    shrunk, supported = [], True
    for task, of in whole.items():
        found = [cell.papers.found for cell in of]
        if any(f.asymmetric.actor != f.symmetric.actor for f in found):
            shrunk.append(task)
        supported &= all(f.asymmetric.decided for f in found)
    none = sorted(set(whole) - set(shrunk))
    text = f"tasks with all their cells: {len(whole)} of 8; with a smaller actor: {', '.join(shrunk) or 'none'}"
    if none and supported:
        return REFUTED, f"{text}; with none: {', '.join(none)}"
    if len(whole) < len(tasks):
        return NOT_RUN, text
    return (CONFIRMED if not none and supported else OPEN), text


def h6(cells: Cells) -> Verdict:
    saved = {key: reduction(cell, cell.papers) for key, cell in finished(cells).items()}
    values = [value for value in saved.values() if value is not None]
    if not values:
        return few("cells", 0, 15)
    low, high = bootstrap(values)
    text = f"mean {sum(values) / len(values):.0f} % [{low:.0f}, {high:.0f}], largest {max(values):.0f} %"
    text += f", over {len(values)} cells"
    if len(values) < 15:
        return NOT_RUN, f"{text}; at least 15 cells are needed"
    return first_of([(not low <= 77 <= high, REFUTED), (high - low <= 30, CONFIRMED)], text)


def bootstrap(values: list[float], repetitions: int = 10_000) -> tuple[float, float]:
    """Percentile interval (95 %) of the mean."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(repetitions))
    return means[int(0.025 * repetitions)], means[int(0.975 * repetitions)]


def lacks(cell: TableCell, pair: Pair, seeds: Sequence[int] = SEEDS) -> bool:
    """Whether returns of a pair's seeds are not stored."""
    try:
        cell.returns(pair, seeds)
    except MissingPairError:
        return True
    return False


def verdicts_of(cell: TableCell, pairs: Sequence[Pair]) -> list[tuple[bool, bool]]:
    """What `TableCell.accepts` says of those of the pairs that are stored."""
    return [cell.accepts(pair) for pair in pairs if not lacks(cell, pair)]


def smaller_critic(cell: TableCell) -> Pair | None:
    """The smallest symmetric pair's actor beside the next smaller critic; None where there is none."""
    size = cell.papers.found.symmetric.actor
    below = smaller(size)
    return None if below is None else (size, below)


def h7(cells: Cells) -> Verdict:
    verdicts: dict[str, tuple[bool, bool]] = {}
    for cell in finished(cells).values():
        pair = smaller_critic(cell)
        if pair is not None and not lacks(cell, pair):
            verdicts[cell.name] = cell.accepts(pair)
    larger_found = [name for name, verdict in verdicts.items() if verdict == (True, True)]
    rejected = [name for name, verdict in verdicts.items() if verdict == (False, True)]
    text = f"accepted beside a smaller critic, supported: {', '.join(larger_found) or 'none'} of {len(verdicts)} cells"
    if larger_found:
        return REFUTED, text
    return (CONFIRMED, text) if len(rejected) == len(verdicts) >= 8 else (NOT_RUN if len(verdicts) < 8 else OPEN, text)


def actor_index(cell: TableCell) -> int:
    return SIZES.index(cell.papers.found.asymmetric.actor)


def h8(cells: Cells) -> Verdict:
    done, apart = finished(cells), {}
    for task in ("pendulum", "reacher", "halfcheetah", "ant"):
        others = [actor_index(done[task, a]) for a in OFF_POLICY if (task, a) in done]
        if (task, "ppo") in done and len(others) == sum((task, a) in PAPER for a in OFF_POLICY):
            of_ppo = abs(actor_index(done[task, "ppo"]) - sum(others) / len(others))
            apart[task] = of_ppo > max(others) - min(others)
    text = f"PPO is further off on {', '.join(t for t, far in apart.items() if far) or 'none'} of {len(apart)} tasks"
    if len(apart) < 4:
        return NOT_RUN, f"{text}; 4 are needed"
    return first_of([(sum(apart.values()) <= 2, REFUTED), (sum(apart.values()) >= 3, CONFIRMED)], text)


def h9(cells: Cells) -> Verdict:
    done = finished(cells)
    parts, undecided = [], False
    for task, others, sign in (("pendulum", OFF_POLICY, 1), ("acrobot", ("sac",), -1)):
        if not all((task, a) in done for a in ("ppo", *others)):
            return NOT_RUN, f"lacks cells of {task}"
        index = {a: SIZES.index(done[task, a].papers.found.symmetric.actor) for a in ("ppo", *others)}
        undecided |= any(not done[task, a].papers.found.symmetric.decided for a in index)
        parts.append((all(sign * (index["ppo"] - index[a]) > 0 for a in others), task, index))
    text = "; ".join(
        f"{t}: " + ", ".join(f"{a.upper()} {size_name(SIZES[i])}" for a, i in x.items()) for _, t, x in parts
    )
    holds = all(part[0] for part in parts)
    return (OPEN if undecided else CONFIRMED if holds else REFUTED), text


def larger_critics(cell: TableCell) -> list[Pair]:
    """The actor one size below the smallest that was found, beside every larger critic."""
    best = cell.papers.found.asymmetric
    below = smaller(best.actor)
    return [] if below is None else [(below, critic) for critic in larger(best.critic)]


def h10(cells: Cells) -> Verdict:
    helped: dict[str, bool] = {}
    for cell in finished(cells).values():
        wanted = larger_critics(cell)
        known = verdicts_of(cell, wanted)
        if (True, True) in known or (wanted and len(known) == len(wanted)):
            helped[cell.name] = (True, True) in known
    text = f"a larger critic lets a smaller actor pass in {sum(helped.values())} of {len(helped)} cells"
    if len(helped) < 4:
        return NOT_RUN, f"{text}; at least 4 cells are needed"
    return first_of([(not any(helped.values()), REFUTED), (sum(helped.values()) >= len(helped) / 2, CONFIRMED)], text)


def recipe(cell: TableCell) -> int:
    """Index of the smallest actor beside the critic at the point of diminishing returns (section V)."""
    start = cell.papers.found.symmetric.actor
    mean, critic = sum(cell.returns((start, start))) / len(SEEDS), start
    for following in larger(start):
        grown = sum(cell.returns((start, following))) / len(SEEDS)
        if grown - mean < 0.05 * abs(cell.threshold):
            break
        mean, critic = grown, following
    low, high = 0, SIZES.index(start)
    while low < high:
        middle = (low + high) // 2
        passes, _ = cell.accepts((SIZES[middle], critic))
        low, high = (low, middle) if passes else (middle + 1, high)
    return low


def h11(cells: Cells) -> Verdict:
    by = {}
    for cell in finished(cells).values():
        try:
            by[cell.name] = recipe(cell) - actor_index(cell)
        except MissingPairError:
            continue
    less, more = sum(v < 0 for v in by.values()), sum(v > 0 for v in by.values())
    text = f"the recipe's actor is smaller in {less}, larger in {more} of {len(by)} cells"
    if len(by) < 4:
        return NOT_RUN, f"{text}; at least 4 are needed"
    return first_of([(more > less, REFUTED), (less > more, CONFIRMED)], text)


def h12(cells: Cells) -> Verdict:
    ratios: dict[str, tuple[float, float]] = {}
    for cell in finished(cells).values():
        best = cell.papers.found.symmetric
        if cell.algorithm not in OFF_POLICY:
            continue
        pairs = [p for p in cell.kept if p[0] == p[1] and SIZES.index(p[0]) >= SIZES.index(best.actor)]
        actors = [p for p in cell.kept if p[1] == best.critic and cell.accepts(p)[0]]
        try:
            losses = [[cell.mean(pair, "value_loss") for pair in group] for group in (pairs, actors)]
        except MissingPairError:
            continue
        if min(map(len, losses)) >= 2:
            ratios[cell.name] = (max(losses[0]) / min(losses[0]), max(losses[1]) / min(losses[1]))
    critics = sum(a > b for a, b in ratios.values())
    each = "; ".join(f"{name}: critics {a:.1f}, actors {b:.1f}" for name, (a, b) in ratios.items())
    text = f"largest over smallest value loss, by the size of {each}" if each else "no cell has two sizes of each"
    if len(ratios) < 4:
        return NOT_RUN, f"{text} ({len(ratios)} of at least 4 cells)"
    return first_of([(critics < len(ratios) / 2, REFUTED), (critics > len(ratios) / 2, CONFIRMED)], text)


# -------------------------------------------------------------------------------------------------------------- costs
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


def h15(cells: Cells) -> Verdict:
    fresh = {}
    for cell in finished(cells).values():
        best = cell.papers.found.asymmetric
        if not lacks(cell, (best.actor, best.critic), FRESH):
            fresh[cell.name] = cell.accepts((best.actor, best.critic), FRESH)[0]
    lost = [name for name, passes in fresh.items() if not passes]
    text = f"below the bound with six fresh seeds: {', '.join(lost) or 'none'} of {len(fresh)} cells"
    if len(lost) > len(fresh) / 4 and len(fresh) >= 10:
        return REFUTED, text
    if len(fresh) < 10:
        return NOT_RUN, f"{text}; at least 10 are needed"
    return (CONFIRMED if len(lost) <= len(fresh) / 10 else OPEN), text


def further(cell: TableCell) -> list[tuple[Pair, Sequence[int]]]:
    """Pairs and seeds that H7, H10, H11 and H15 still ask of a finished cell; more may follow from their returns."""
    best, below, larger_ones = cell.papers.found.asymmetric, smaller_critic(cell), larger_critics(cell)
    asked: list[tuple[Pair, Sequence[int]]] = [((best.actor, best.critic), FRESH)]
    asked += [(below, SEEDS)] if below else []
    if (True, True) not in verdicts_of(cell, larger_ones):
        asked += [(pair, SEEDS) for pair in larger_ones]
    try:
        recipe(cell)
    except MissingPairError as missing:
        asked.append((missing.pair, SEEDS))
    return [each for each in dict.fromkeys(asked) if lacks(cell, *each)]


def h16(cells: Cells) -> Verdict:
    better, algorithms = {}, set()
    for path in sorted((ROOT / "honey" / "cells").glob("pendulum_*.json")):
        record = json.loads(path.read_text())
        cell = cells.get(("pendulum", record["algorithm"]))
        if record["settings"].get("target_aggregation") != "mean" or cell is None:
            continue
        for kept in read_cell_file(path):
            pair: Pair = (kept.cell.actor, kept.cell.critic)
            mean = [kept.measures["return"].get(seed) for seed in SEEDS]
            if pair in cell.kept and None not in mean and not cell.accepts(pair)[0]:
                algorithms.add(cell.algorithm)
                x, y = {"pendulum": mean}, {"pendulum": cell.returns(pair)}
                better[f"{cell.name}, {size_name(pair[0])}"] = probability_of_improvement(x, y), mean, y["pendulum"]
    if not better:
        return NOT_RUN, "no failing size with `target_aggregation=mean`"
    text = "; ".join(
        f"{name}: {return_text(sum(a) / 6)} with the mean, {return_text(sum(b) / 6)} with the minimum, "
        f"probability of improvement {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
        for name, (e, a, b) in better.items()
    )
    if algorithms < {"sac", "td3"}:
        return NOT_RUN, f"{text}; TD3 and SAC are needed"
    lows, highs = [e.low for e, _, _ in better.values()], [e.high for e, _, _ in better.values()]
    return first_of([(max(highs) < 0.5, REFUTED), (min(lows) > 0.5, CONFIRMED)], text)


CLAIMS: dict[str, Callable[[Cells], Verdict]] = {
    f"H{number}": claim
    for number, claim in enumerate((h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15, h16), start=1)
}
