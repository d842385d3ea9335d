"""An agent at play as a film: episodes side by side, with value and entropy drawn beneath the frames.

    film = play(env, act, pictures, steps=500)          # (value, entropy) of each state, and its picture
    write_film("agent.gif", film, title="halfcheetah, td3", width=160, fps=20)
    write_film("agent.mp4", film, title="halfcheetah, td3", width=160, fps=20)

GIF files need Pillow, which Matplotlib brings. MP4 files need the package av: `pip install 'torchrl-decouple[video]'`.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import at_least, checked
from decouple.runs.files import replace_file

__all__ = ["Film", "Played", "play", "require_video", "write_film"]

GIF_FPS = 15  # most frames a second in a GIF, for its size
CAPTION, PANEL, GAP = 18, 44, 6  # heights in pixels of a line of text and of a panel, and the gap between columns
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (225, 225, 225)
COLOURS = {"value": (31, 119, 180), "entropy": (214, 90, 20)}


class Played(NamedTuple):
    """What an agent does in N states: the tensors to step the environment with, and what is drawn of them."""

    step: TensorDictBase  # with `action`
    value: Tensor | None  # (N,), as is entropy; None: not drawn
    entropy: Tensor | None


@dataclass
class Film:
    """Episodes frame by frame.

    Attributes:
        frames: for each step, the picture of each episode, packed; an ended episode keeps its last.
        curves: `return`, and where they are known `value` and `entropy` of each step, each (T, N); nan after the end.
        ended: whether each episode came to its end; the others were cut off at the last step.
    """

    frames: list[list[tuple[tuple[int, ...], bytes]]] = field(default_factory=list)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    ended: list[bool] = field(default_factory=list)

    @property
    def returns(self) -> list[float]:
        """The return of each episode, as far as it was played."""
        return [float(of[np.isfinite(of)][-1]) for of in self.curves["return"].T]

    def picture(self, step: int, episode: int) -> np.ndarray:
        """A picture, uint8 (H, W, 3)."""
        shape, packed = self.frames[step][episode]
        return np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(shape)


@torch.no_grad()
def play(
    env: EnvBase,
    act: Callable[[TensorDictBase], Played],
    pictures: Callable[[TensorDictBase], Sequence[np.ndarray]],
    *,
    steps: int,
) -> Film:
    """Play one episode in each of the environment's N games, up to `steps` steps.

    Args:
        env: environment with N games; its batch may have two axes.
        act: function from the present states to what the agent does.
        pictures: function from them to N pictures, uint8 (H, W, 3).
        steps: most steps; a longer episode is cut off.
    """
    film, rows = Film(), {"return": [], "value": [], "entropy": []}
    games = env.batch_size.numel()
    running, total = np.ones(games, dtype=bool), np.zeros(games)
    step = env.reset()
    for _ in range(steps):
        packed = [(one.shape, zlib.compress(np.ascontiguousarray(one).tobytes(), 1)) for one in pictures(step)]
        before = film.frames[-1] if film.frames else packed
        film.frames.append([new if on else old for on, new, old in zip(running, packed, before, strict=True)])
        played = act(step)
        for name in ("value", "entropy"):
            found = getattr(played, name)
            if found is not None:
                rows[name].append(np.where(running, found.reshape(-1).double().cpu().numpy(), np.nan))
        step, following = env.step_and_maybe_reset(played.step)
        reward, done = (step["next", key].reshape(-1).double().cpu().numpy() for key in ("reward", "done"))
        total = total + np.where(running, reward, 0)
        rows["return"].append(np.where(running, total, np.nan))
        running &= done == 0
        if not running.any():
            break
        step = following
    film.ended = (~running).tolist()
    film.curves = {name: np.array(values) for name, values in rows.items() if values}
    return film


def require_video() -> Any:
    """The package av, which writes MP4 files; ImportError, with the command that installs it, where it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError("an MP4 file needs the package av: pip install 'torchrl-decouple[video]'") from error
    return av


@checked(width=at_least(16), fps=at_least(1))
def write_film(path: str | Path, film: Film, *, title: str, width: int = 160, fps: int = 30) -> Path:
    """Write a film as GIF or MP4, by the path's ending; the file is replaced as a whole.

    Args:
        path: the file; its folder must exist.
        film: the film, from `play`.
        title: text above the episodes.
        width: pixels of each episode's picture.
        fps: steps a second. A GIF leaves frames out where there are more than 15.

    Raises:
        ValueError: another ending.
        ImportError: an MP4 file without the package av.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path must end with .gif or .mp4; got {path}")
    write = _gif if path.suffix == ".gif" else _mp4
    replace_file(path, write(film, title, width, fps))
    return path


def _gif(film: Film, title: str, width: int, fps: int) -> bytes:
    from PIL import Image

    every = math.ceil(fps / GIF_FPS)
    pages = [
        Image.fromarray(page).quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for page in _pages(film, title, width, every)
    ]
    content = io.BytesIO()
    milliseconds = 10 * round(100 * every / fps)  # the format counts hundredths of a second
    pages[0].save(content, "GIF", save_all=True, append_images=pages[1:], duration=milliseconds, loop=0, optimize=True)
    return content.getvalue()


def _mp4(film: Film, title: str, width: int, fps: int) -> bytes:
    av, content, stream = require_video(), io.BytesIO(), None
    with av.open(content, "w", format="mp4") as file:
        for page in _pages(film, title, width, 1):
            even = page[: len(page) // 2 * 2, : page.shape[1] // 2 * 2]  # as the format asks
            if stream is None:
                stream = file.add_stream("libx264", rate=fps, options={"crf": "20"})
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        if stream is not None:
            file.mux(stream.encode())
    return content.getvalue()


def _pages(film: Film, title: str, width: int, every: int) -> Iterator[np.ndarray]:
    """The film's pages, uint8 (H, W, 3): title, pictures with their returns, and a panel for each curve."""
    from PIL import Image, ImageDraw, ImageFont

    font, episodes = ImageFont.load_default(11), len(film.frames[0])
    tall, wide = max((film.picture(0, episode).shape[:2] for episode in range(episodes)), key=lambda s: s[0] / s[1])
    height = round(width * tall / wide)
    panels = [name for name in ("value", "entropy") if name in film.curves]
    size = (GAP + episodes * (width + GAP), 2 * CAPTION + height + len(panels) * (PANEL + GAP) + GAP)
    size = tuple(length + length % 2 for length in size)
    ranges = {name: _range(film.curves[name]) for name in panels}
    kept = [*range(0, len(film.frames), every)]
    for step in kept if kept[-1] == len(film.frames) - 1 else [*kept, len(film.frames) - 1]:
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        draw.text((GAP, 3), title, INK, font)
        for episode in range(episodes):
            left = GAP + episode * (width + GAP)
            picture = film.picture(step, episode)
            pixels = picture.shape[1] < width  # games of few pixels stay sharp
            shown = Image.fromarray(picture).resize(
                (width, height), Image.Resampling.NEAREST if pixels else Image.Resampling.LANCZOS
            )
            page.paste(shown, (left, CAPTION))
            returns = film.curves["return"][: step + 1, episode]
            over = step == len(film.frames) - 1 and film.ended[episode]
            ended = ", ended" if over or not np.isfinite(returns[-1]) else ""
            last = returns[np.isfinite(returns)][-1]
            draw.text((left, CAPTION + height + 2), f"return {last:.4g}{ended}", INK, font)
            for number, name in enumerate(panels):
                top = 2 * CAPTION + height + number * (PANEL + GAP)
                values = film.curves[name][: step + 1, episode]
                _panel(draw, (left, top, width), name, values, ranges[name], len(film.frames), font)
        yield np.asarray(page)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest finite number; apart from each other."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _panel(
    draw: Any,
    place: tuple[int, int, int],
    name: str,
    values: np.ndarray,
    bounds: tuple[float, float],
    steps: int,
    font: Any,
) -> None:
    """A curve so far, over the width of the whole film, with its last number."""
    (left, top, width), (low, high) = place, bounds
    draw.rectangle((left, top, left + width, top + PANEL), outline=FAINT)
    across = left + np.arange(len(values)) * width / max(steps - 1, 1)
    down = top + PANEL - 3 - (values - low) / (high - low) * (PANEL - CAPTION - 3)
    points = [(x, y) for x, y in zip(across, down, strict=True) if np.isfinite(y)]
    if points:
        if len(points) > 1:
            draw.line(points, COLOURS[name], 1)
        x, y = points[-1]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), COLOURS[name])
        draw.text((left + 3, top + 1), f"{name} {values[np.isfinite(values)][-1]:.3g}", COLOURS[name], font)
