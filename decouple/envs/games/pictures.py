"""Pictures of Pong and Pixelcopter, made of rectangles."""

from __future__ import annotations

import numpy as np

__all__ = ["PIXELS", "paint_rectangle"]

PIXELS = 8  # picture pixels per pixel of the game


def paint_rectangle(
    image: np.ndarray, centre: tuple[float, float], size: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    """Paint a rectangle into a picture; parts outside of the picture are left out.

    Args:
        image: uint8 (H, W, 3), changed in place.
        centre: (x, y) in pixels of the game, y downwards.
        size: (width, height) in pixels of the game.
        colour: red, green and blue, in [0, 255].
    """
    (left, right), (top, bottom) = (
        [max(0, round((middle + side * length / 2) * PIXELS)) for side in (-1, 1)]
        for middle, length in zip(centre, size, strict=True)
    )
    image[top:bottom, left:right] = colour
