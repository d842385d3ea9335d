"""What one process has started outside of Python's memory and must end: games in threads of their own, a Unity build.

    owned = Owned(games, type(games).close, "Procgen's games")
    owned.use.step(action)          # RuntimeError after close(), and in a process that was forked off
    owned.close()

Python's collector of garbage must not come upon such a thing (that of Procgen has buffers that it can crash on). So
nobody keeps it after ``close``; where nobody calls that, it is closed when its owner is dropped, or at Python's exit.
A copy of the owner would be a second owner, so that there is none.

    check_threads(made_at)          # made_at: what `forks()` gave when the environment was made

Games that are tensors outlive a fork, but PyTorch's threads do not, and to compute with more than one waits for them.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Owned", "check_threads", "forks"]

_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """How often this process, counted from the first that imported this file, was forked off another one."""
    return _forks


def check_threads(made_at: int) -> None:
    """Refuse to compute in a fork where PyTorch would wait for threads that only the process before had.

    Args:
        made_at: what ``forks`` gave when the environment was made.

    Raises:
        RuntimeError: it was made before a fork, and PyTorch has more than one thread here.
    """
    if made_at != _forks and torch.get_num_threads() > 1:
        raise RuntimeError(
            "an environment that was made before a fork needs torch.set_num_threads(1) in the new process, which has "
            f"none of PyTorch's threads; got {torch.get_num_threads()} threads (or start that one by spawn)"
        )


class Owned:
    """A thing of one process.

    Args:
        thing: it must not know who owns it.
        end: called with the thing, once.
        name: of the thing, in the plural, for messages.
    """

    def __init__(self, thing: Any, end: Callable[[Any], object], name: str) -> None:
        self._thing, self._name, self._process = thing, name, os.getpid()
        # This reference is not of the garbage that the owner may lie in, so that the collector leaves the thing alone.
        self._end = weakref.finalize(self, _end, thing, end, self._process)

    @property
    def use(self) -> Any:
        """The thing.

        Raises:
            RuntimeError: it is closed, or this process is a fork of the one that started it, whose threads it lacks.
        """
        if self._thing is None:
            raise RuntimeError(f"{self._name} are closed; make a new environment to go on")
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self._name} must be used in the process that started them, {self._process}; got {os.getpid()}, a "
                "fork of it, which has none of their threads: make the environment there, or start that one by spawn"
            )
        return self._thing

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(f"{self._name} cannot be copied or pickled: they are of one process; make another environment")

    def close(self) -> None:
        """End the thing, where that has not been done, and let go of it. A fork lets go of it only."""
        self._end()
        self._thing = None


def _end(thing: Any, end: Callable[[Any], object], process: int) -> None:
    if os.getpid() == process:
        end(thing)
    else:  # its destructor would wait for threads that are not in this process: one reference more, and it never runs
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
