"""decouple/studies/separation/figures.py: what the pictures draw, read back from their axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from study_folders import write_study

from decouple.analysis.statistics import Estimate, Profile
from decouple.studies.separation.figures import (
    aggregate_figure,
    comparison_figure,
    curve_figure,
    mean_over_seeds,
    profile_figure,
)
from decouple.studies.separation.recommendation import Comparison
from decouple.studies.separation.results import read_study
from decouple.studies.separation.run_folders import find_runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(find_runs(write_study(tmp_path_factory.mktemp("runs"))))


def test_mean_and_deviation_at_the_frames_that_all_have():
    frames, means, stds = mean_over_seeds([{1: 1.0, 2: 3.0, 3: 5.0}, {1: 3.0, 2: 7.0}])
    assert (frames, means) == ([1, 2], [2.0, 5.0])
    assert stds == pytest.approx([math.sqrt(2), math.sqrt(8)])


def test_a_window_averages_within_a_run_first():
    frames, means, stds = mean_over_seeds([{1: 1.0, 2: 3.0, 3: 8.0}], window=2)
    assert (frames, means) == ([1, 2, 3], [1.0, 2.0, 5.5])
    assert all(map(math.isnan, stds))
    assert mean_over_seeds([]) == ([], [], [])


def test_curves_have_a_panel_for_each_game_and_dash_what_is_unfinished(study):
    figure = curve_figure(study, "test_return", window=1)
    heist, maze, plunder = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["heist", "maze", "plunder"]
    lines = {line.get_linestyle(): [] for line in maze.lines}
    for line in maze.lines:
        lines[line.get_linestyle()].append(
            line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else line.get_ydata()
        )
    np.testing.assert_allclose(lines["-"], [[5.5 / 3, 11 / 3, 5.5], [8 / 3, 16 / 3, 8.0], [2.0, 4.0, 6.0]])
    np.testing.assert_allclose(lines["--"], [[3.0, 6.0]])  # 9.0 at 300 frames, had it come so far
    assert (len(heist.lines), len(heist.collections)) == (2, 0)  # one run each: no band
    assert (len(plunder.lines), len(plunder.collections)) == (3, 3)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["shared", "late", "full", "full, unfinished run"]


def test_a_metric_that_nobody_measured_leaves_empty_panels(study):
    figure = curve_figure(study, "unseen_return")
    assert all(not axes.lines for axes in figure.axes)


def test_aggregates_have_a_bar_from_end_to_end_and_a_mark_at_the_value():
    names = "median", "iqm", "mean", "optimality_gap"
    with_interval = dict.fromkeys(names, Estimate(1.0, 0.5, 1.25))
    without = dict.fromkeys(names, Estimate(2.0, math.nan, math.nan))
    figure = aggregate_figure({"late": with_interval, "k=3": without}, "score")
    for axes in figure.axes:
        (bar,) = axes.patches
        assert (bar.get_x(), bar.get_width()) == (0.5, 0.75)
        assert [line.get_xdata()[0] for line in axes.lines] == [1.0, 2.0]
        low, high = axes.get_xlim()
        assert low < 0.5 and high > 2.0
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["late", "k=3"]


def test_comparisons_are_coloured_by_their_verdict():
    told = Comparison("late", "shared", ("maze",), Estimate(0.9, 0.8, 1.0), 0.01, 0.001)
    untold = Comparison("late", "full", ("maze",), Estimate(0.6, 0.4, 0.8), 0.4, 0.1)
    (axes,) = comparison_figure([told, untold]).axes
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["late over shared", "late over full"]


def test_profiles_have_a_band_where_there_is_an_interval():
    nan = [math.nan, math.nan]
    profiles = {
        "late": Profile([0.0, 1.0], [1.0, 0.5], [0.9, 0.2], [1.0, 0.7]),
        "full": Profile([0.0, 1.0], [0.8, 0.1], nan, nan),
    }
    (axes,) = profile_figure(profiles, "score").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1.0, 0.5], [0.8, 0.1]]
    assert len(axes.collections) == 1
