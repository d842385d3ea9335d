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
    shrunk: dict[str, bool] = {}  # task with a smaller actor -> whether seeds support one of them
    none: dict[str, bool] = {}  # task with all its cells and none -> whether they support that of all
    for task, of in tasks.items():
        there = [cell for cell in of if cell is not None]
        small = [cell for cell in there if cell.papers.found.asymmetric.actor != cell.papers.found.symmetric.actor]
        if small:  # one is enough, whatever the task's other cells would say
            verdicts = [(cell, *decisions(cell.papers.found)) for cell in small]
            shrunk[task] = any(supported(cell, [*pairs[1:], actors[0]]) for cell, pairs, actors in verdicts)
        elif len(there) == len(of):
            none[task] = all(supported(cell, [*chain(*decisions(cell.papers.found))]) for cell in there)
    text = f"of {len(tasks)} tasks with a smaller actor: {', '.join(shrunk) or 'none'}; "
    text += f"all cells run, and none: {', '.join(none) or 'none'}"
    if any(none.values()):
        return REFUTED, f"{text}; supported: {', '.join(task for task, holds in none.items() if holds)}"
    if len(shrunk) + len(none) < len(tasks):
        return NOT_RUN, f"{text}; the others lack cells"
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
    holds, told, against = [], [], []  # of each part with all its cells; what was found; what speaks against a part
    for task, others, sign in (("pendulum", OFF_POLICY, 1), ("acrobot", ("sac",), -1)):
        of = {a: done[task, a] for a in ("ppo", *others) if (task, a) in done}
        for other in of.keys() - {"ppo"} if "ppo" in of else ():
            less, more = ("ppo", other) if sign > 0 else (other, "ppo")
            if sizes := no_larger(of[less], of[more]):
                against.append(f"{task}: {less.upper()} learns with {sizes[0]}, {more.upper()} not with {sizes[1]}")
        index = {a: SIZES.index(cell.papers.found.symmetric.actor) for a, cell in of.items()}
        if lacking := [a.upper() for a in ("ppo", *others) if a not in of]:
            told.append(f"{task} lacks {', '.join(lacking)}")
            continue
        decided = all(supported(cell, decisions(cell.papers.found)[0]) for cell in of.values())
        holds.append(decided and all(sign * (index["ppo"] - index[a]) > 0 for a in others))
        told.append(f"{task}: " + ", ".join(f"{a.upper()} {size_name(SIZES[i])}" for a, i in index.items()))
    if against:
        return REFUTED, f"{'; '.join(sorted(against))}, supported ({'; '.join(told)})"
    return (NOT_RUN if len(holds) < 2 else CONFIRMED if all(holds) else OPEN), "; ".join(told)


def no_larger(one: TableCell, other: TableCell) -> tuple[str, str] | None:
    """Two sizes that show, supported, that the first cell needs no larger pair of one size than the second: the
    smallest that is enough in the first, and the largest that is not in the second, at most a step smaller.
    """
    symmetric = [(size, size) for size in SIZES]
    enough = [i for i, pair in enumerate(symmetric) if not lacks(one, pair) and one.accepts(pair) == (True, True)]
    failing = [i for i, pair in enumerate(symmetric) if not lacks(other, pair) and other.accepts(pair) == (False, True)]
    if not enough or not failing or enough[0] > failing[-1] + 1:
        return None
    return size_name(SIZES[enough[0]]), size_name(SIZES[failing[-1]])


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
    text = f"of {len(helped)} cells a larger critic lets a smaller actor pass in {yes}, and none does in {no}; "
    text += f"seeds do not tell in {len(helped) - yes - no}"
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
    each = "; ".join(f"{name}: {a:.1f} and {b:.1f}" for name, (a, b) in ratios.items())
    text = (
        "largest over smallest value loss, over pairs of one size, from the smallest that passes up, and over actors "
    )
    text += f"beside that pair's critic: {each}" if each else "no cell has two sizes of each"
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
    better, told, algorithms = [], [], set()
    for path in sorted((ROOT / "honey" / "cells").glob("pendulum_*.json")):
        record = json.loads(path.read_text())
        cell = cells.get(("pendulum", record["algorithm"]))
        if record["settings"].get("target_aggregation") != "mean" or cell is None:
            continue
        for kept in read_cell_file(path):
            pair: Pair = (kept.cell.actor, kept.cell.critic)
            mean, bias = ([kept.measures[name].get(seed) for seed in SEEDS] for name in ("return", "value_bias"))
            if pair in cell.kept and None not in mean and not cell.accepts(pair)[0]:
                algorithms.add(cell.algorithm)
                better.append(probability_of_improvement({"pendulum": mean}, {"pendulum": cell.returns(pair)}))
                of_mean, of_minimum = (
                    f"{return_text(sum(returns) / len(SEEDS))} with a bias of {sum(biases) / len(SEEDS):+.0f}"
                    for returns, biases in ((mean, bias), (cell.returns(pair), cell.measured(pair, "value_bias")))
                )
                told.append(
                    f"{cell.name}, {size_name(pair[0])}: {of_mean} by the mean, {of_minimum} by the minimum, "
                    f"probability of improvement {better[-1].value:.2f} [{better[-1].low:.2f}, {better[-1].high:.2f}]"
                )
    if not better:
        return NOT_RUN, "no failing size with `target_aggregation=mean`"
    text = "; ".join(told)
    if algorithms < {"sac", "td3"}:
        return NOT_RUN, f"{text}; TD3 and SAC are needed"
    lows, highs = [e.low for e in better], [e.high for e in better]
    return first_of([(max(highs) < 0.5, REFUTED), (min(lows) > 0.5, CONFIRMED)], text)


CLAIMS: dict[str, Callable[[Cells], Verdict]] = {
    f"H{number}": claim
    for number, claim in enumerate((h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15, h16), start=1)
}
