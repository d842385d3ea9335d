"""Verdicts on the claims H1 to H16 of docs/studies/protocol.md, each computed from the files in docs/results."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain

from studies_cells import (
    PAPER,
    SEEDS,
    SIZES,
    Cells,
    MissingPairError,
    Pair,
    TableCell,
    decisions,
    finished,
    larger,
    reduction,
    smaller,
)
from studies_costs import h13, h14
from studies_toy import h1, h2, h3, h4
from studies_verdicts import CONFIRMED, NOT_RUN, OPEN, REFUTED, ROOT, Verdict, few, first_of, sign_test

from decouple.analysis.statistics import probability_of_improvement
from decouple.studies.actor_size.cell_files import read_cell_file
from decouple.studies.actor_size.search import return_text, size_name

FRESH = range(6, 12)  # seeds that the search has not seen
OFF_POLICY = ("ddpg", "td3", "sac")


def supported(cell: TableCell, pairs: Sequence[Pair]) -> bool:
    """Whether the six seeds support the verdict on each pair."""
    return all(cell.accepts(pair)[1] for pair in pairs)


def h5(cells: Cells) -> Verdict:
    done, tasks = finished(cells), defaultdict(list)
    for key in PAPER:
        tasks[key[0]].append(done.get(key))
    whole = {task: of for task, of in tasks.items() if all(of)}
    shrunk: dict[str, bool] = {}  # task with a smaller actor -> whether seeds support one of them
    none: dict[str, bool] = {}  # task without -> whether they support that of all its cells
    for task, of in whole.items():
        small = [cell for cell in of if cell.papers.found.asymmetric.actor != cell.papers.found.symmetric.actor]
        if small:
            verdicts = [(cell, *decisions(cell.papers.found)) for cell in small]
            shrunk[task] = any(supported(cell, [*pairs[1:], actors[0]]) for cell, pairs, actors in verdicts)
        else:
            none[task] = all(supported(cell, [*chain(*decisions(cell.papers.found))]) for cell in of)
    text = f"tasks with all their cells: {len(whole)} of 8; with a smaller actor: {', '.join(shrunk) or 'none'}"
    refuting = [task for task, holds in none.items() if holds]
    if refuting:
        return REFUTED, f"{text}; with none: {', '.join(refuting)}"
    if len(whole) < len(tasks):
        return NOT_RUN, text
    return (CONFIRMED if not none and all(shrunk.values()) else OPEN), text


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
    return first_of([(sum(apart.values()) <= 1, REFUTED), (sum(apart.values()) >= 3, CONFIRMED)], text)


def h9(cells: Cells) -> Verdict:
    done = finished(cells)
    parts, told = [], []  # whether each part holds, and whether seeds support it
    for task, others, sign in (("pendulum", OFF_POLICY, 1), ("acrobot", ("sac",), -1)):
        if not all((task, a) in done for a in ("ppo", *others)):
            return NOT_RUN, f"lacks cells of {task}"
        index = {a: SIZES.index(done[task, a].papers.found.symmetric.actor) for a in ("ppo", *others)}
        known = all(supported(done[task, a], decisions(done[task, a].papers.found)[0]) for a in index)
        parts.append((all(sign * (index["ppo"] - index[a]) > 0 for a in others), known))
        told.append(f"{task}: " + ", ".join(f"{a.upper()} {size_name(SIZES[i])}" for a, i in index.items()))
    refuted, confirmed = (False, True) in parts, set(parts) == {(True, True)}
    return first_of([(refuted, REFUTED), (confirmed, CONFIRMED)], "; ".join(told))


def larger_critics(cell: TableCell) -> list[Pair]:
    """The actor one size below the smallest that was found, beside every larger critic."""
    best = cell.papers.found.asymmetric
    below = smaller(best.actor)
    return [] if below is None else [(below, critic) for critic in larger(best.critic)]


def h10(cells: Cells) -> Verdict:
    helped: dict[str, bool | None] = {}  # None: the seeds do not tell
    for cell in finished(cells).values():
        wanted = larger_critics(cell)
        known = verdicts_of(cell, wanted)
        if (True, True) in known:
            helped[cell.name] = True
        elif wanted and len(known) == len(wanted):
            helped[cell.name] = False if set(known) == {(False, True)} else None
    yes, no = (sum(value is of for value in helped.values()) for of in (True, False))
    text = f"a larger critic lets a smaller actor pass in {yes} of {len(helped)} cells, none does in {no}, supported"
    if len(helped) < 4:
        return NOT_RUN, f"{text}; at least 4 cells are needed"
    return first_of([(not yes and no >= 4, REFUTED), (yes >= len(helped) / 2, CONFIRMED)], text)


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
    p = sign_test(less, more)
    return first_of(
        [(p < 0.05 and more > less, REFUTED), (p < 0.05 and less > more, CONFIRMED)], f"{text}; p = {p:.2g}"
    )


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
