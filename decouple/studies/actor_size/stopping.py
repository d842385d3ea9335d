"""When the seeds of a size may be stopped, because they will not reach the bound any more: a rule, and its reading.

    rule = {"needed": -165, "most": -145, "total": 20_000, "begins": 10_000, "after": 0.6}
    index = hopeless(frames, returns, **rule)               # of curves
    stopped = stopped_at(run_dir, seeds, **rule)            # of a run's table
    stopped.frames, stopped.returns

The rule is a guess from learning curves. How often it is wrong is in docs/smallest_actor.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from decouple.checks import SEED, Must, at_least, checked, distinct
from decouple.runs.metrics import column_numbers, read_table

__all__ = ["AFTER", "Stopped", "hopeless", "stopped_at"]

# A share of the learning. Before half of it, no gain over as long as is left has been seen.
AFTER = Must(lambda share: 0.5 <= share < 1, "in [0.5, 1)")
NOT_NAN = Must(lambda mean: not math.isnan(mean), "a number, or infinite", any_number=True)
RULES = {"needed": NOT_NAN, "total": at_least(1), "begins": at_least(0), "after": AFTER}


class Stopped(NamedTuple):
    """Where seeds were stopped: the frames, and their returns in the evaluation at these frames."""

    frames: int
    returns: tuple[float, ...]  # one per seed; -inf: that agent failed


@checked(**RULES)
def hopeless(
    frames: Sequence[int],
    returns: np.ndarray,
    *,
    needed: float,
    most: float,
    total: int,
    begins: int = 0,
    after: float,
) -> int | None:
    """The first evaluation at which the mean over the seeds is not expected to reach `needed` by the end.

    With the share `after` of the learning done, each seed is granted its best evaluation so far, and on top its largest
    gain over at least as many frames as are left, but no more than the best that any seed has been seen to reach:

    `U_s(t) = min(most, max_{i <= t} e_s(i) + max(0, max_{i + total - t <= j <= t} e_s(j) - e_s(i)))`

    The seed that comes to the least is granted `most`: a seed may begin to learn late. The rule holds where the mean of
    U_s is below `needed`. A seed that has failed has no return, and with it no mean reaches anything; there the rule
    holds at once.

    Args:
        frames: frames at each evaluation, ascending.
        returns: each seed's mean return, (S, evaluations); NaN once the seed has failed.
        needed: mean return over the seeds that is to be reached.
        most: best return of a seed of other sizes; the best of these evaluations, where that is larger.
        total: frames at the end.
        begins: frames at which learning begins; gains before that do not count.
        after: share of the learning, in [1/2, 1), before which nothing is stopped.

    Returns:
        Index of the evaluation; None where there is none.
    """
    if returns.ndim != 2 or not len(returns) or returns.shape[1] != len(frames):
        raise ValueError(f"returns must be (S, {len(frames)}), one for each of the frames; got {returns.shape}")
    learns = [index for index, at in enumerate(frames) if at >= begins]
    for now in range(len(frames)):
        if np.isnan(returns[:, now]).any():
            return now
        left = total - frames[now]
        if left <= 0 or frames[now] < begins + after * (total - begins):
            continue
        pairs = [(i, j) for i in learns for j in learns if j <= now and frames[j] - frames[i] >= left]
        if not pairs:
            continue
        gain = np.max([returns[:, j] - returns[:, i] for i, j in pairs], 0)
        best = returns[:, : now + 1].max(1)
        highest = max(most, best.max())
        granted = np.minimum(highest, best + np.maximum(0, gain))
        granted[granted.argmin()] = highest
        if granted.mean() < needed:
            return now
    return None


@checked(seeds=distinct(SEED), **RULES)
def stopped_at(
    run_dir: str | os.PathLike[str],
    seeds: Sequence[int],
    *,
    needed: float,
    most: float,
    total: int,
    begins: int = 0,
    after: float,
) -> Stopped | None:
    """Where the rule of `hopeless` holds for the first time in a run's metrics.csv, which may be in training.

    The answer depends on the rows up to there alone, and not on when it is asked for.

    Args:
        run_dir: the run's folder.
        seeds: its seeds.
        needed, most, total, begins, after: as for `hopeless`.

    Raises:
        ValueError: the table is damaged before its last line.
    """
    path = Path(run_dir) / "metrics.csv"
    if not path.exists():
        return None
    columns, rows = read_table(path)
    names = [f"eval/return/seed{seed}" for seed in seeds] if len(seeds) > 1 else ["eval/return"]
    cells = {name: [row[columns.index(name)] if name in columns else "" for row in rows] for name in names}
    if not set(names) & set(columns):
        return None
    evaluated = [index for index in range(len(rows)) if any(of[index] for of in cells.values())]
    frames = [int(rows[index][0]) for index in evaluated]
    returns = np.array([column_numbers(path, name, [of[index] for index in evaluated]) for name, of in cells.items()])
    at = hopeless(frames, returns, needed=needed, most=most, total=total, begins=begins, after=after)
    if at is None:
        return None
    return Stopped(frames[at], tuple(-math.inf if math.isnan(value) else value for value in returns[:, at].tolist()))
