"""Ctrl-C, and SIGTERM as Slurm sends it: a command ends with one line instead of a stack.

    with plain_interrupts():                                            # around the whole command
        with says_what_goes_on(lambda: run_goes_on(settings.run_dir)):  # around the training
            train_agents(settings)

The first signal closes what is open, and the line says where the run stands; a second one ends the command at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from decouple.runs.checkpoint import CheckpointError
from decouple.runs.finished import frames_of, run_checkpoint
from decouple.studies.actor_size.workers import frames_done

__all__ = ["interrupted", "plain_interrupts", "run_goes_on", "says_what_goes_on"]

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}  # signals that end a command -> their names
RECEIVED: list[int] = []  # signals that this process has received


def end_at_once(number: int, _: object) -> None:
    """Handle a signal: print one line and exit without cleaning up. A run on the disk is whole at every moment."""
    says = f"stopped by {SIGNALS[signal.Signals(number)]}; the same command goes on from what is on the disk\n"
    os.write(2, says.encode())
    os._exit(128 + number)


def on_signals(handler: Callable[[int, object], None], *before: Callable[[int, object], None]) -> None:
    """Install `handler` for `SIGNALS`, over Python's handlers and `before`; others stay, as does nohup's SIG_IGN."""
    for number in SIGNALS:
        current = signal.getsignal(number)
        early = getattr(current, "__name__", None) == end_at_once.__name__  # the handler of start.py
        if early or current in (signal.SIG_DFL, signal.default_int_handler, *before):
            signal.signal(number, handler)


@contextlib.contextmanager
def plain_interrupts() -> Iterator[None]:
    """Around a whole command: a signal of `SIGNALS` ends it with one line and exit code 130 (Ctrl-C) or 143 (SIGTERM).

    The first signal raises KeyboardInterrupt, which closes games, workers and records. Inside `says_what_goes_on`, its
    argument is the text to print. A second signal ends the command at once.
    """

    def stop(number: int, _: object) -> None:
        RECEIVED.append(number)
        on_signals(end_at_once, stop)
        raise KeyboardInterrupt

    def lost(what: Any) -> None:  # raised in a destructor or a callback, whose exceptions Python drops
        if RECEIVED and issubclass(what.exc_type, KeyboardInterrupt):
            end_at_once(RECEIVED[0], None)
        sys.__unraisablehook__(what)

    on_signals(stop)
    sys.unraisablehook = lost
    try:
        yield
    except BaseException as error:
        if not interrupted(error):
            raise
        number = RECEIVED[0] if RECEIVED else signal.SIGINT  # none: a launcher's worker alone was interrupted
        swept = {"-m", "--multirun"} & set(sys.argv)
        default = "the same command " + ("goes on with the jobs that are not done" if swept else "starts over")
        says = error.args[0] if isinstance(error, KeyboardInterrupt) and error.args else default
        print(f"stopped by {SIGNALS[signal.Signals(number)]}; {says}", file=sys.stderr, flush=True)
        sys.exit(128 + number)


def interrupted(error: BaseException) -> bool:
    """Whether a signal caused the error; after a signal, any error counts, as an interrupted import raises others."""
    return isinstance(error, KeyboardInterrupt) or bool(RECEIVED)


@contextlib.contextmanager
def says_what_goes_on(says: Callable[[], str]) -> Iterator[None]:
    """Around the training: if a signal interrupts it, `plain_interrupts` prints the text that `says()` returns."""
    try:
        yield
    except BaseException as error:
        if not interrupted(error):
            raise
        raise KeyboardInterrupt(says()) from None


def run_goes_on(run_dir: str) -> str:
    """How far an interrupted run has come, and what the same command does when it is started again."""
    try:
        _, state = run_checkpoint(run_dir)
    except FileNotFoundError:
        return f"there is no checkpoint in {run_dir} yet: the same command begins the run anew"
    except (CheckpointError, OSError) as error:
        return str(error)
    seen, kept = frames_done(run_dir), frames_of(state)
    return f"at {max(seen, kept):,} frames: the same command goes on from the checkpoint at {kept:,} in {run_dir}"
