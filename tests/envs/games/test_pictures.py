"""Rectangles in the games' pictures."""

from __future__ import annotations

import numpy as np

from decouple.envs.games.pictures import PIXELS, paint_rectangle
from decouple.envs.games.pixelcopter import Pixelcopter, PixelcopterGames
from decouple.envs.games.pong import Pong, PongGames


def test_a_rectangle_covers_its_pixels_and_no_others() -> None:
    image = np.zeros((4 * PIXELS, 6 * PIXELS, 3), dtype=np.uint8)
    paint_rectangle(image, (3, 1), (2, 1), (1, 2, 3))  # x from 2 to 4, y from 0.5 to 1.5
    expected = np.zeros_like(image)
    expected[PIXELS // 2 : 3 * PIXELS // 2, 2 * PIXELS : 4 * PIXELS] = (1, 2, 3)
    assert np.array_equal(image, expected)


def test_what_lies_outside_of_the_picture_is_left_out() -> None:
    image = np.zeros((2 * PIXELS, 2 * PIXELS, 3), dtype=np.uint8)
    paint_rectangle(image, (-3, 1), (2, 1), (9, 9, 9))
    assert not image.any()
    paint_rectangle(image, (0, 2), (2, 2), (9, 9, 9))  # the corner below on the left
    assert image[PIXELS:, :PIXELS].all()
    assert not image[:PIXELS].any()
    assert not image[:, PIXELS:].any()


def test_one_game_and_many_have_the_same_facts() -> None:
    for single, many in ((Pong, PongGames), (Pixelcopter, PixelcopterGames)):
        for fact in ("num_actions", "observation_scale", "max_episode_steps", "reward_scale"):
            assert getattr(single, fact) is getattr(many, fact)
        assert many.observation_size == len(single.observation_scale)
    assert (Pong.num_actions, Pong.max_episode_steps, Pong.reward_scale) == (3, 100_000, 1 / 16)
    assert (Pixelcopter.num_actions, Pixelcopter.max_episode_steps, Pixelcopter.reward_scale) == (2, 1000, 1.0)
