"""The pictures of the actor-size study: what they draw, on cells made by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from decouple.runs.curves import save_figure
from decouple.studies.actor_size.figures import diagnosis_figure, pareto_figure, sizes_figure, training_figure
from decouple.studies.actor_size.results import MEASURES, SizeCell, SizeStudy

LINEAR, SMALL, LARGE = (), (4, 4), (16, 16)
SEARCH = {"bound": -165.0, "sizes": [[], [4, 4], [8, 8], [16, 16]], "symmetric": {"critic": [16, 16]}}


def cell(
    actor: tuple, critic: tuple, parameters: int, returns: Sequence[float], **measured: Sequence[float]
) -> SizeCell:
    each = {"return": returns, **measured}
    measures = {name: dict(enumerate(each.get(name, ()))) for name in MEASURES}
    metrics: dict[str, list[float]] = {"frames": [100.0, 200.0]}
    for seed, value in enumerate(returns):
        metrics |= {f"train/episode_return/seed{seed}": [math.nan, value], f"loss/critic/seed{seed}": [4.0, seed + 1.0]}
    runs = ((tuple(range(len(returns))), metrics),)
    return SizeCell(actor, critic, parameters, parameters - 1, measures, runs, ())


def study(*cells: SizeCell, **departures: Any) -> SizeStudy:
    kept = {"task": "pendulum", "algorithm": "td3", "settings": "{}", "in_training": (), "search": SEARCH}
    return SizeStudy(cells=cells, **{**kept, **departures})


def whole() -> SizeStudy:
    return study(
        cell(LINEAR, LARGE, 4, [-900.0, -902.0], value_loss=[5.0, 7.0], value_bias=[-30.0, -40.0], overfit=[1.5, 2.5]),
        cell(SMALL, SMALL, 41, [-170.0, -170.0], value_loss=[8.0, 8.0], value_bias=[-20.0, -20.0], overfit=[1.0, 1.0]),
        cell(SMALL, LARGE, 41, [-159.0, -161.0], value_loss=[2.0, 4.0], value_bias=[-9.0, -11.0], overfit=[1.2, 1.4]),
        cell(LARGE, LARGE, 353, [-150.0, -152.0], value_loss=[1.0, 3.0], value_bias=[-1.0, 3.0], overfit=[0.9, 1.1]),
    )


def latency(**median: float) -> list[dict[str, Any]]:
    rows = []
    for actor, time in (((), 10.0), (SMALL, median.get("small", 20.0)), (LARGE, 40.0)):
        own = {"task": "pendulum", "algorithm": "td3", "settings": study().key, "actor": actor}
        for runtime in ("eager", "exported", "onnx"):
            rows += [
                {**own, "runtime": runtime, "batch": b, "median_us": time * b, "p99_us": 3 * time * b} for b in (1, 64)
            ]
    return rows


def lines(axes: Axes, style: str) -> list[list[tuple[float, float]]]:
    """The points of each line of more than a point that is drawn in this style."""
    found = [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_linestyle() == style]
    return [[(float(x), float(y)) for x, y in points] for points in found if len(points) > 1]


def test_training_curves_are_medians_of_each_size_in_both_ways():
    figure = training_figure(whole())
    (loss_i, loss_ii), (return_i, return_ii) = np.array(figure.axes).reshape(2, 2)
    assert [line.get_label() for line in loss_i.lines] == ["|4,4|", "|16,16|"]  # pairs of one size
    assert [line.get_label() for line in loss_ii.lines] == ["|linear|", "|4,4|", "|16,16|"]  # beside |16,16|
    assert loss_ii.lines[1].get_data()[0].tolist() == [100, 200]
    assert loss_ii.lines[1].get_data()[1].tolist() == [4.0, 1.5]  # the median of 1 and 2
    assert return_ii.lines[1].get_data()[1].tolist() == [-160.0] and len(return_i.lines) == 2
    assert loss_ii.get_title() == "[ii] actors beside the critic |16,16|"
    assert loss_i.lines[1].get_color() == loss_ii.lines[2].get_color()  # of one size


def test_losses_and_returns_stand_at_their_sizes_and_a_size_that_was_not_trained_has_its_place():
    figure = sizes_figure(whole())
    (loss_i, loss_ii), (return_i, return_ii) = np.array(figure.axes).reshape(2, 2)
    assert [label.get_text() for label in return_i.get_xticklabels()] == ["|linear|", "|4,4|", "|8,8|", "|16,16|"]
    assert lines(loss_i, "--") == [[(1, 8), (3, 2)]] and lines(loss_ii, "--") == [[(0, 6), (1, 3), (3, 2)]]
    assert lines(return_ii, "--") == [[(0, -901), (1, -160), (3, -151)]]
    assert [line for line in lines(return_i, ":") if line == [(0, -165), (1, -165)]]
    assert return_i.get_ylim()[0] == pytest.approx(-165 - 3 * 14)  # the best is 14 above the bound
    text = figure._supxlabel.get_text()
    assert "accepted from -165 on" in text and text.endswith("Below the axis: a |linear|, c |16,16| -901")


def test_an_agent_that_diverged_leaves_its_cell_without_a_mean():
    failed = cell(SMALL, SMALL, 41, [-160.0, -math.inf], value_loss=[1.0, math.inf])
    figure = sizes_figure(study(failed, cell(LARGE, LARGE, 353, [-150.0, -152.0], value_loss=[1.0, 3.0])))
    assert lines(figure.axes[2], "--") == [] and "|4,4| -inf" in figure._supxlabel.get_text()
    dots = [line.get_ydata() for line in figure.axes[2].lines if line.get_marker() == "."]
    assert list(map(list, dots)) == [[-160.0], [-150.0, -152.0]]


def test_the_front_is_of_cells_that_no_other_beats():
    figure = pareto_figure(whole(), latency())
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_xlabel() for axes in grid[:, 0]] == ["parameters of the actor", "multiply-adds of the actor"]
    # |4,4| with a critic of its own size costs what it costs beside |16,16|, and returns less.
    assert lines(grid[0, 0], "-") == [[(4, -901), (41, -160), (353, -151)]]
    assert lines(grid[1, 0], "-") == [[(3, -901), (40, -160), (352, -151)]]
    assert grid[1, 3].get_xlabel() == "microseconds a call: ONNX Runtime, batch 64"
    assert lines(grid[1, 3], "-") == [[(640, -901), (1280, -160), (2560, -151)]]
    assert lines(grid[1, 3], "--") == [[(1920, -901), (3840, -160), (7680, -151)]]  # 99th percentiles
    slow = np.array(pareto_figure(whole(), latency(small=50.0)).axes).reshape(2, 4)
    assert lines(slow[0, 1], "-") == [[(10, -901), (40, -151)]]  # a small actor that is slower than the large one


def test_latencies_of_other_studies_are_not_this_ones():
    others = [{**row, "settings": "00000000"} for row in latency()]
    figure = pareto_figure(whole(), others)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "not measured" not in texts and len(figure.axes) == 2  # what was not measured has no panel


def test_labels_cover_no_other_and_stay_in_their_panel():
    """Four actors whose costs and returns differ by little."""
    cells = [cell((n, n), (n, n), 40 + n, [n / 50 - 150.0, n / 50 - 150.1]) for n in (4, 5, 6, 8)]
    figure = pareto_figure(study(*cells), [])
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 4
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        panel = axes.get_window_extent()
        assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 for box in boxes)


def test_diagnoses_against_the_actors_size():
    figure = diagnosis_figure(whole())
    assert figure is not None
    bias, overfit = figure.axes
    symmetric, beside = (line for line in lines(bias, "--") if len(line) in (2, 3) and line[0][0] not in (0, 1))
    assert [y for _, y in symmetric] == [-20, 1] and [round(x) for x, _ in symmetric] == [1, 3]
    assert [y for _, y in beside] == [-35, -10, 1] and [round(x) for x, _ in beside] == [0, 1, 3]
    assert [[y for _, y in line] for line in lines(overfit, "--")][1] == pytest.approx([2.0, 1.3, 1.0])


def test_without_diagnoses_there_is_no_picture_and_without_one_of_them_it_is_said():
    assert diagnosis_figure(study(cell(SMALL, SMALL, 41, [-1.0, -2.0]))) is None
    figure = diagnosis_figure(study(cell(SMALL, SMALL, 41, [-1.0, -2.0], value_bias=[1.0, 2.0])))
    assert figure is not None
    assert [text.get_text() for text in figure.axes[1].texts] == ["not measured: no held_out_every"]


def test_one_cell_of_a_study_that_has_just_begun_can_be_drawn(tmp_path):
    begun = study(cell(LARGE, LARGE, 353, [-150.0]), search=None)
    for name, draw in (("a", training_figure), ("b", sizes_figure), ("c", lambda s: pareto_figure(s, latency()))):
        save_figure(draw(begun), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert np.array(training_figure(begun).axes)[1].texts[0].get_text() == "no such cells"


def test_cells_of_which_neither_column_shows_one_can_be_drawn(tmp_path):
    """A store that has only pairs which claims asked for: none of one size, and no critic that was kept."""
    pairs = [((4, 4), (16, 16)), ((16, 16), (4, 4))]
    begun = study(*(cell(*pair, 41, [-150.0, -160.0], value_loss=[1.0, 3.0]) for pair in pairs), search=None)
    for draw in (training_figure, sizes_figure):
        figure = draw(begun)
        save_figure(figure, tmp_path / "drawn.png", 40)
        assert not any(len(line.get_ydata()) for line in figure.axes[0].lines)
        assert figure.axes[0].get_yscale() == "linear"
