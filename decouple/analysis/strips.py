"""A row of frames for each of several agents: what they do, in one picture.

    save_figure(strip_figure({"late": film, "full": other}, frames=8), Path("strips.png"))

Each row is one episode, from its first frame to its last, at equal distances in time. One that was cut off says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from decouple.analysis.film import Film
from decouple.checks import at_least, check_setting, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["strip_figure"]


@checked(frames=at_least(2))
def strip_figure(films: Mapping[str, Film], *, frames: int = 8) -> Figure:
    """Rows of frames, of the first episode of each film.

    Args:
        films: name of an agent -> its film, from `play`.
        frames: most frames of a row; a shorter episode has fewer.

    Raises:
        ValueError: no film, or one without frames.
    """
    from matplotlib.figure import Figure

    check_setting("films", len(films), lambda count: count and all(of.frames for of in films.values()), "with frames")
    tall = max(film.picture(0, 0).shape[0] / film.picture(0, 0).shape[1] for film in films.values())
    figure = Figure(figsize=(1.25 * frames + 0.9, (1.25 * tall + 0.25) * len(films)), layout="constrained")
    for row, (name, film) in zip(figure.subplots(len(films), frames, squeeze=False), films.items(), strict=True):
        returns = film.curves["return"][:, 0]
        played = int(np.isfinite(returns).sum())  # its steps; later frames belong to other episodes
        steps = np.unique(np.linspace(0, played - 1, frames).round().astype(int))
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        for axes, step in zip(row, steps, strict=False):
            axes.imshow(film.picture(int(step), 0), interpolation="nearest" if _small(film) else "antialiased")
            axes.set_title(_end(film, played) if step == played - 1 else f"step {step}", fontsize=7)
        row[0].set_ylabel(name, fontsize=9)
    return figure


def _end(film: Film, played: int) -> str:
    """What its last frame is called: an episode that was cut off has no return yet."""
    so_far = f"{film.curves['return'][played - 1, 0]:.4g}"
    return f"end: return {so_far}" if film.ended[0] else f"cut at step {played}: {so_far} so far"


def _small(film: Film) -> bool:
    """Whether its pictures have so few pixels that they should stay sharp."""
    return max(film.picture(0, 0).shape[:2]) < 100
