"""The rule by which a size's seeds are stopped early: curves worked through by hand, and a run's table."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decouple.studies.actor_size.search import lower_bound
from decouple.studies.actor_size.stopping import Stopped, hopeless, stopped_at

DOCS = Path(__file__).parents[3] / "docs"

FRAMES = list(range(10, 101, 10))
RULE: dict[str, Any] = {"needed": 10.0, "most": 20.0, "total": 100, "after": 0.5}
FLAT = [0.0] * 10
STEADY = [float(number) for number in range(10)]  # 9 at the end


def at(*curves: Sequence[float], needed: float = 10.0, **rule: Any) -> int | None:
    """Frames at which the rule holds for a mean of these curves; a seed below them is the one that is granted most."""
    rule = RULE | {"needed": (len(curves) * needed + 20) / (len(curves) + 1)} | rule
    found = hopeless(FRAMES, np.array([*curves, [-1000.0] * 10]), **rule)
    return None if found is None else FRAMES[found]


def test_a_seed_is_granted_its_best_and_the_largest_gain_over_as_long_as_is_left():
    # At 60 frames 40 are left; it is at 5, and has gained 5 in 50 frames. Later it is granted more.
    assert at(STEADY, needed=10.0) is None and at(STEADY, needed=10.1) == 60


@pytest.mark.parametrize(("after", "frames"), [(0.5, 60), (0.6, 60), (0.61, 70), (0.9, 90), (0.95, None)])
def test_nothing_is_stopped_before_its_share_of_the_learning_or_at_the_end(after: float, frames: int | None):
    assert at(FLAT, after=after) == frames


def test_the_learning_begins_where_it_is_said_to():
    assert at(FLAT, begins=50) == 80  # at 75 half of it is done; the window from 50 on is as long as what is left
    assert at([0.0] * 5 + [0, 5, 8, 9, 9], begins=50) is None


def test_a_curve_that_has_begun_to_rise_is_not_stopped():
    assert at([0.0] * 5 + [0, 5, 8, 9, 9]) == 60  # flat for more than half of the time
    assert at([0.0] * 5 + [0, 5, 8, 9, 9], after=0.65) is None


def test_gains_that_were_lost_again_count_and_a_fall_counts_nothing():
    assert at([9.0] + [0.0] * 9) == 60
    assert at([0, 0, 0, 9, 9, 9, 0, 0, 0, 0.0]) is None
    assert at([-1.0 * n for n in range(10)], needed=0.5) == 60


def test_the_mean_over_the_seeds_decides():
    risen = [0.0, 5, 9, 9, 9, 9, 9, 9, 9, 9]  # granted 18
    assert at(FLAT, risen, needed=8.9) is None
    assert at(FLAT, FLAT, risen, needed=8.9) == 60


def test_no_seed_is_granted_more_than_any_has_been_seen_to_reach():
    risen = [0.0, 20, 20, 20, 20, 20, 20, 20, 20, 20]  # 40 without that
    assert at(FLAT, risen, needed=10.0) is None and at(FLAT, risen, needed=10.1) == 60
    assert at(FLAT, [0.0, 30, *[20.0] * 8], needed=15.0, most=20.0) is None  # it has been seen to reach 30, so 30 + 30


def test_one_seed_may_begin_to_learn_late_and_so_a_single_one_is_not_stopped():
    one = np.array([FLAT])
    assert hopeless(FRAMES, one, **RULE) is None and hopeless(FRAMES, one, **RULE | {"most": 9.0}) == 5
    two = np.array([FLAT, [20.0] * 10])
    assert hopeless(FRAMES, two, **RULE | {"needed": 19.9}) is None


def test_a_seed_that_has_failed_settles_it_at_once():
    assert at(STEADY, [0.0, 1.0, *[math.nan] * 8], needed=-1000.0) == 30


def test_what_no_mean_can_reach_is_stopped_once_it_may_be():
    assert at(STEADY, needed=math.inf) == 60 and at(STEADY, needed=-math.inf) is None


def test_a_share_below_a_half_is_refused():
    with pytest.raises(ValueError, match=r"after must be in \[0.5, 1\); got 0.4"):
        at(FLAT, after=0.4)


def table(folder: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    lines = [["frames", "loss/critic", *names], *rows]
    (folder / "metrics.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def test_a_runs_table_is_read_while_it_grows_and_later_rows_change_nothing(tmp_path: Path):
    names = ["eval/return", "eval/return/seed3", "eval/return/seed4"]
    rows = [[frames, 0.1, *([1.5, 1, 2] if frames % 10 == 0 else ["", "", ""])] for frames in range(5, 101, 5)]
    assert stopped_at(tmp_path, [3, 4], **RULE) is None  # there is no table yet
    table(tmp_path, [], [[5, 0.1]])
    assert stopped_at(tmp_path, [3, 4], **RULE) is None  # nor an evaluation
    table(tmp_path, names, rows[:11])
    assert stopped_at(tmp_path, [3, 4], **RULE | {"most": 17.9}) is None
    table(tmp_path, names, rows[:12])
    assert stopped_at(tmp_path, [3, 4], **RULE | {"most": 18.0}) is None  # (18 + 2) / 2 = 10, where seed 3 learns
    for count in (12, 13, 20):
        table(tmp_path, names, rows[:count])
        assert stopped_at(tmp_path, [3, 4], **RULE | {"most": 17.9}) == Stopped(60, (1.0, 2.0))


def test_a_failed_seed_has_an_empty_cell_or_no_column(tmp_path: Path):
    table(
        tmp_path, ["eval/return", "eval/return/seed0", "eval/return/seed1"], [[10, 0.1, 1, 1, 1], [20, 0.1, 1, 1, ""]]
    )
    assert stopped_at(tmp_path, [0, 1], **RULE) == Stopped(20, (1.0, -math.inf))
    table(tmp_path, ["eval/return", "eval/return/seed0"], [[10, 0.1, 1, 1]])
    assert stopped_at(tmp_path, [0, 1], **RULE) == Stopped(10, (1.0, -math.inf))


def test_one_seeds_column_has_no_name_of_a_seed(tmp_path: Path):
    table(tmp_path, ["eval/return"], [[frames, 0.1, 1.5] for frames in FRAMES])
    assert stopped_at(tmp_path, [7], **RULE | {"most": 9.0}) == Stopped(60, (1.5,))


# ----------------------------------------------------------------------------------------- how often the rule is wrong
class Curves:
    """A cell of docs/results/honey/curves.csv: twelve seeds' evaluations in training, and their final returns."""

    def __init__(self, rows: Sequence[dict[str, str]]):
        self.frames = [int(number) for number in rows[0]["frames"].split()]
        self.returns = np.array([[float(number) for number in row["returns"].split()] for row in rows])
        self.final = np.array([float(row["final"]) for row in rows])
        self.begins = int(rows[0]["learning_starts"])
        self.units = sum(map(int, re.findall(r"\d+", f"{rows[0]['actor']},{rows[0]['critic']}")))

    def stops(self, pick: np.ndarray, needed: float, best: float, after: float) -> int | None:
        rule = {"needed": needed, "most": max(best, needed), "total": self.frames[-1], "begins": self.begins}
        return hopeless(self.frames, self.returns[pick], **rule, after=after)


def kept_curves() -> dict[tuple[str, str], list[Curves]]:
    """Task and algorithm -> cells."""
    cells: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with open(DOCS / "results" / "honey" / "curves.csv", newline="") as file:
        for row in csv.DictReader(file):
            cells.setdefault((row["task"], row["algorithm"], row["actor"], row["critic"]), []).append(row)
    found: dict[tuple[str, str], list[Curves]] = {}
    for (task, algorithm, *_), rows in cells.items():
        found.setdefault((task, algorithm), []).append(Curves(rows))
    return found


def errors(after: float, draws: int = 10) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], float]:
    """Of sixes of seeds drawn from each kept cell: (stopped, all) of those that reach the search's bound, of those that
    reach a bound 5, 10 or 30 % below their own mean, and of those that do not reach the search's; and the share of the
    training of the last that is saved."""
    chance = np.random.default_rng(0)
    picks = [chance.choice(12, 6, replace=False) for _ in range(draws)]
    accepted, near, rejected, saved = [0, 0], [0, 0], [0, 0], 0.0
    for (task, _), cells in kept_curves().items():
        best = max(cell.final.max() for cell in cells)
        bound = -11.0 if task == "toy" else lower_bound(max(cells, key=lambda cell: cell.units).final.mean())
        for cell in cells:
            for pick in picks:
                mean = float(cell.final[pick].mean())
                at = cell.stops(pick, bound, best, after)
                of = accepted if mean >= bound else rejected
                of[0] += at is not None
                of[1] += 1
                saved += 0 if at is None or of is accepted else 1 - cell.frames[at] / cell.frames[-1]
                for share in (0.05, 0.1, 0.3):
                    near[0] += cell.stops(pick, mean - share * abs(mean), best, after) is not None
                    near[1] += 1
    return tuple(accepted), tuple(near), tuple(rejected), saved / rejected[1]


@pytest.mark.parametrize("after", [0.5, 0.6, 0.75])
def test_the_page_says_how_often_the_rule_was_wrong_on_the_kept_curves(after: float):
    *counts, saved = errors(after)
    shown = " | ".join([f"{stopped} of {every}" for stopped, every in counts] + [f"{100 * saved:.0f} %"])
    row = re.search(rf"^\| {after} \| (.*) \|$", (DOCS / "smallest_actor.md").read_text(), re.MULTILINE)
    assert row and row[1] == shown
