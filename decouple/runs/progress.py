"""Progress on stderr: of a whole run, and of the present step within an iteration.

A terminal shows a bar and a line below it; a log file gets a plain line now and then.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from decouple.checks import at_least, checked

__all__ = ["RunProgress", "StepProgress"]

LINE_EVERY_S = 10.0  # seconds between lines where stderr is not a terminal


class RunProgress:
    """Frames done, frames per second and time left: a bar in a terminal, lines in a log file."""

    @checked(total=at_least(1), initial=at_least(0), quick=at_least(0))
    def __init__(self, total: int, initial: int, quick: int = 0) -> None:
        """Progress of a run.

        Args:
            total: frames of the whole run.
            initial: frames done before, from which the run goes on.
            quick: frames at the run's start that say nothing of the others' speed, as those before the first update.
        """
        self._stream, self._total, self._initial, self._done, self._quick = sys.stderr, total, initial, initial, quick
        self._started, self._last_line, self._returns = time.monotonic(), -math.inf, {}
        self._seconds_each: float | None = None  # seconds of a frame, as `expect` was told
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=initial, unit=" frames", unit_scale=True, dynamic_ncols=True, file=self._stream
            )

    def update(self, frames: int, row: Mapping[str, float]) -> None:
        """Show that `frames` are done, with the last known training and evaluation returns."""
        for label, name in (
            ("train", "train/episode_return"),
            ("test", "eval/test_return"),
            ("evaluated", "eval/return"),
        ):
            if name in row:
                self._returns[label] = f"{row[name]:.4g}"
        now = time.monotonic()
        if self._bar is not None:
            self._bar.total = max(self._total, frames)
            self._bar.set_postfix(self._returns, refresh=False)
            self._bar.update(frames - self._done)
        self._done = frames
        if self._initial < frames <= self._quick:  # the rate is of the frames from here on
            self._initial, self._started = frames, now
        if self._bar is None and (now - self._last_line >= LINE_EVERY_S or frames >= self._total):
            self._last_line = now
            print(self._line(now), file=self._stream, flush=True)

    def expect(self, seconds: float) -> None:
        """Show an estimate of the seconds that the frames left will take; it stands until their rate is known."""
        left = self._total - self._done
        self._seconds_each = seconds / max(left, 1)
        rate = f"{left / seconds:,.0f} frames/s" if seconds > 0 else "at once"
        self._say(f"about {tqdm.format_interval(seconds)} for {left:,} frames, {rate}, without evaluations")

    def peak_share(self, share: float) -> None:
        """Show the share of what the processor's matrix products reach that training uses."""
        self._say(f"that is {100 * share:.0f} % of what this machine's matrix products reach, measured now")

    def faster(self, settings: Mapping[str, float]) -> None:
        """Show settings that would be faster on this machine, and how many times; nothing where there are none."""
        if settings:
            each = ", ".join(f"{setting} ({times:.1f} times)" for setting, times in settings.items())
            self._say(f"faster on this machine: {each}")

    def _say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Close the bar at its present count."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, now: float) -> str:
        """`163,840 / 25,000,000 frames (0.7 %), 1,234 frames/s, 5:35:28 left, train 3.2, test 2.1`."""
        rate = (self._done - self._initial) / max(now - self._started, 1e-9)
        each = 1 / rate if rate > 0 else self._seconds_each
        parts = [f"{self._done:,} / {self._total:,} frames ({100 * self._done / self._total:.1f} %)"]
        parts += [f"{rate:,.0f} frames/s"] if rate > 0 else []
        parts += [f"{tqdm.format_interval(max(self._total - self._done, 0) * each)} left"] if each is not None else []
        return ", ".join([*parts, *(f"{label} {value}" for label, value in self._returns.items())])


class StepProgress:
    """Progress within an iteration: a line below the bar in a terminal, else a line at most every 10 s."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else LINE_EVERY_S  # seconds
        self.last = -self.every
        self.line: tqdm | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        text = f"{what}: {done:,} / {total:,}"
        if self.terminal:
            if self.line is None:
                self.line = tqdm(bar_format="{desc}", leave=False)
            self.line.set_description_str(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.line is not None:
            self.line.close()
