"""Resources outside of Python's memory, which belong to one process and must be closed: game threads, a Unity build.

    owned = Owned(games, type(games).close, "Procgen's games")
    owned.use.step(action)          # RuntimeError after close(), and in a forked process
    owned.close()

Python's garbage collector must not free such a resource (it can crash on Procgen's buffers). So ``close`` drops the
only reference to it. Without a call of ``close``, the resource is closed when its owner is deleted, or at Python's
exit. An owner cannot be copied, since a copy would be a second owner.

    check_threads(made_at)          # made_at: result of `forks()` when the environment was made

Games that are tensors survive a fork, but PyTorch's threads do not: computing with more than one would wait for ever.
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
    """The number of forks between this process and the first one that imported this file."""
    return _forks


def check_threads(made_at: int) -> None:
    """Refuse to compute in a forked process where PyTorch would wait for threads that only the parent process has.

    Args:
        made_at: result of ``forks`` when the environment was made.

    Raises:
        RuntimeError: the environment was made before a fork, and PyTorch uses more than one thread here.
    """
    if made_at != _forks and torch.get_num_threads() > 1:
        raise RuntimeError(
            "an environment that was made before a fork needs torch.set_num_threads(1) in the new process, which has "
            f"none of PyTorch's threads; got {torch.get_num_threads()} threads (or start that one by spawn)"
        )


class Owned:
    """The owner of a resource that belongs to one process.

    Args:
        thing: the resource; it must hold no reference to its owner.
        end: function that closes the resource; called with it once.
        name: name of the resource, in the plural, for messages.
    """

    def __init__(self, thing: Any, end: Callable[[Any], object], name: str) -> None:
        self._thing, self._name, self._process = thing, name, os.getpid()
        # weakref.finalize holds a reference to the thing, so that the garbage collector does not free it with its owner
        self._end = weakref.finalize(self, _end, thing, end, self._process)

    @property
    def use(self) -> Any:
        """The resource.

        Raises:
            RuntimeError: it is closed, or this process is a fork of the one that started it, and lacks its threads.
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
        raise TypeError(f"{self._name} cannot be copied or pickled: they belong to one process; make a new environment")

    def close(self) -> None:
        """Close the resource, once, and drop the reference to it. A forked process only drops the reference."""
        self._end()
        self._thing = None


def _end(thing: Any, end: Callable[[Any], object], process: int) -> None:
    if os.getpid() == process:
        end(thing)
    else:  # the destructor would wait for threads that this process lacks; an extra reference keeps it from running
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
