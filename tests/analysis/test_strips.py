"""strips.py: rows of frames of several agents, each from the first frame of an episode to its last."""

from __future__ import annotations

import numpy as np
import pytest
from test_film import played

from decouple.analysis.film import Film
from decouple.analysis.strips import strip_figure


def test_each_row_goes_from_the_first_frame_of_an_episode_to_its_last():
    films = {"late": played(10), "full": played(10)}
    figure = strip_figure(films, frames=4)
    late = [axes for axes in figure.axes[:4] if axes.images]
    # The first game of `played` has two steps: its later frames are those of a film that other games go on with.
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in late] == [0, 1]
    assert [axes.get_title() for axes in late] == ["step 0", "end: return 3"]
    assert [figure.axes[row].get_ylabel() for row in (0, 4)] == ["late", "full"]


def test_a_long_episode_is_shown_at_equal_distances_and_as_far_as_it_was_played():
    film = played(10)
    film.curves["return"] = film.curves["return"][:, 2:]  # the game of seven steps
    film.frames = [row[2:] for row in film.frames]
    shown = strip_figure({"a": film}, frames=4).axes
    assert [axes.get_title() for axes in shown] == ["step 0", "step 2", "step 4", "end: return 28"]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in shown] == [0, 2, 4, 6]
    np.testing.assert_array_equal(film.picture(6, 0), shown[3].images[0].get_array())


def test_an_episode_that_was_cut_off_has_no_end():
    film = played(5)
    film.curves["return"] = film.curves["return"][:, 2:]  # the game of seven steps
    film.frames, film.ended = [row[2:] for row in film.frames], film.ended[2:]
    assert film.ended == [False] and played(7).ended == [True] * 3
    assert strip_figure({"a": film}, frames=3).axes[2].get_title() == "cut at step 5: 15 so far"


def test_films_without_frames_are_refused():
    for films in ({}, {"a": Film()}):
        with pytest.raises(ValueError, match="films must be with frames"):
            strip_figure(films)
    with pytest.raises(ValueError, match="frames must be at least 2"):
        strip_figure({"a": played(3)}, frames=1)
