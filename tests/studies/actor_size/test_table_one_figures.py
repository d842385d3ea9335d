"""Table I and figure 4 as pictures: every text and every bar, beside the paper's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from decouple.runs.curves import save_figure
from decouple.studies.actor_size.search import smallest_actor
from decouple.studies.actor_size.study import read_paper, read_paper_parameters, search_record, table_rows, table_texts
from decouple.studies.actor_size.table_one_figures import relative_figure, table_figure
from decouple.version import VERSION

HONEY = Path(__file__).parents[3] / "decouple" / "studies" / "actor_size" / "published"
COUNTS = read_paper_parameters(HONEY / "table_a2.csv")
SIZES = [(4, 4), (16, 16), (400, 300)]


def rows(threshold: float = -160.0, small: float = -150.0, algorithm: str = "td3") -> list[dict[str, Any]]:
    """Of a search on Pendulum: |400,300| at -140, |16,16| at -150, |4,4| beside |16,16| at `small`, else -900."""

    def evaluate(actor: tuple, critic: tuple) -> list[float]:
        mean = {SIZES[2]: -140.0, SIZES[1]: -150.0}.get(actor, small if critic > (4, 4) else -900.0)
        return [mean - 8, mean + 8]

    found = smallest_actor(evaluate, baseline=(400, 300), sizes=SIZES, threshold=threshold)
    result = search_record(found, COUNTS["pendulum"])
    search = {"task": "pendulum", "algorithm": algorithm, "settings": {}, "state": "done", "version": VERSION}
    search |= {"options": {"seeds": 2}, "result": result}
    return table_rows([search], read_paper(HONEY / "table_1.csv"))


def heights(figure: Any) -> list[list[float]]:
    """Of the bars of each panel, in the order baseline, symmetric, asymmetric."""
    return [[bar.get_height() for bar in axes.patches] for axes in figure.axes]


def marks(axes: Any) -> list[float]:
    """Where the paper's numbers are."""
    return [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "D" and len(line.get_ydata())]


def test_the_table_has_every_text_of_every_row():
    all_rows = rows()
    figure = table_figure(all_rows)
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert drawn[:3] == ["task", "", "threshold"]
    assert drawn[9:] == [text for texts in table_texts(all_rows) for text in texts] and len(drawn) == 9 * 26
    shaded = [patch.get_y() for patch in figure.axes[0].patches]
    assert shaded == [pytest.approx(2.15)]  # ours, the row under the paper's second


def test_sizes_are_shares_of_the_baselines_and_returns_in_units_of_the_threshold():
    figure = relative_figure(rows(), COUNTS)
    sizes, returns = heights(figure)
    assert sizes == pytest.approx([1, 353 / 122_201, 41 / 122_201])  # Table A.2
    # Threshold -160: 1 + (-140 + 160) / 160 and so on.
    assert returns == pytest.approx([1.125, 1.0625, 1.0625])
    # The paper: |16,16| and |4,4| of |400,300| too; returns -152.71, -152.42, -167.57 for a threshold of -160.
    assert marks(figure.axes[0])[:3] == pytest.approx([1, 353 / 122_201, 41 / 122_201])
    assert marks(figure.axes[1])[:3] == pytest.approx([1 + 7.29 / 160, 1 + 7.58 / 160, 1 - 7.57 / 160])


def test_what_a_search_did_not_find_has_no_bar_and_what_is_far_below_a_number():
    sizes, returns = heights(relative_figure(rows(threshold=-10.0), COUNTS))
    assert sizes[0] == 1 and all(map(math.isnan, sizes[1:])) and returns[0] == pytest.approx(1 - 130 / 10)
    figure = relative_figure(rows(threshold=-10.0), COUNTS)
    assert figure.axes[1].get_ylim()[0] == -1.5
    assert [text.get_text() for text in figure.axes[1].texts] == ["-12.0"]


def test_a_row_that_the_paper_does_not_have_has_no_marks(tmp_path):
    figure = relative_figure(rows(algorithm="trpo"), COUNTS)
    assert marks(figure.axes[0]) == [] and marks(figure.axes[1]) == []
    for name, each in (("table", table_figure(rows())), ("figure_4", figure)):
        save_figure(each, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
