"""Agents spread over threads: a kernel's call for all of them, and each thread's scratch memory.

    threads = AgentThreads(tables, np.float32, count=2)
    threads.run(update, 256, *arguments, SCRATCH, metrics)     # update(*arguments, scratch, metrics, first, last)

A kernel computes the agents of a range one after another, without Python's lock. So an agent's numbers do not depend
on those beside it, or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from decouple.checks import at_least, checked
from decouple.compiled.memory import Tables

__all__ = ["SCRATCH", "AgentThreads"]

SCRATCH = object()  # among the arguments of `run`: the thread's memory


class AgentThreads:
    """The threads that agents are spread over, of which the caller's is the first.

    Args:
        tables: the agents.
        dtype: NumPy's type of their numbers.
        count: number of threads.

    Attributes:
        count: number of threads, at most that of agents.
        beside: further networks that a kernel runs in the same scratch memory; set before the first call.
    """

    @checked(count=at_least(1))
    def __init__(self, tables: Tables, dtype: Any, count: int):
        self.tables, self.dtype = tables, dtype
        self.agents = len(tables.shapes)
        self.count = max(1, min(count, self.agents))
        self.beside: list[Tables] = []
        self._scratch: list[np.ndarray] = []
        self._rows = -1  # rows that the scratch memory is large enough for

    def run(self, kernel: Callable[..., Any], batch: int, *arguments: Any) -> None:
        """Call a kernel for all agents.

        Args:
            kernel: kernel whose last two arguments are the range of agents.
            batch: rows that go through the networks at once.
            arguments: its other arguments; SCRATCH stands for the thread's memory.
        """
        self._reserve(batch)
        if self.count == 1:
            self._call(kernel, arguments, 0)
            return
        others = [self._pool.submit(self._call, kernel, arguments, thread) for thread in range(1, self.count)]
        self._call(kernel, arguments, 0)
        for other in others:
            other.result()

    def load(self, kernel: Callable[..., Any], batch: int, *arguments: Any) -> None:
        """Call a kernel for none of the agents: it is compiled for these arguments' types, or read from the disk."""
        self._reserve(batch)
        kernel(*self._own(arguments, 0), 0, 0)

    def scratch(self, batch: int) -> np.ndarray:
        """The caller's own scratch memory, enough for this many rows."""
        self._reserve(batch)
        return self._scratch[0]

    def _call(self, kernel: Callable[..., Any], arguments: tuple[Any, ...], thread: int) -> None:
        first, last = self.agents * thread // self.count, self.agents * (thread + 1) // self.count
        kernel(*self._own(arguments, thread), first, last)

    def _own(self, arguments: tuple[Any, ...], thread: int) -> list[Any]:
        return [self._scratch[thread] if each is SCRATCH else each for each in arguments]

    def _reserve(self, batch: int) -> None:
        if batch > self._rows:
            size = sum(tables.scratch(batch) for tables in (self.tables, *self.beside))
            self._scratch, self._rows = [np.empty(size, dtype=self.dtype) for _ in range(self.count)], batch

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.count - 1, thread_name_prefix="agents")
