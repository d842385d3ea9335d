"""Agents spread over threads, by a kernel in Python that writes down what it is called with."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from decouple.compiled.memory import AgentShape, Layer, Tables
from decouple.compiled.threads import SCRATCH, AgentThreads


def threads_of(agents: int, count: int) -> AgentThreads:
    shape = AgentShape(trunk=[], policy=[Layer(2, 1)], critics=[[Layer(3, 1)]])
    return AgentThreads(Tables([shape] * agents), np.float32, count)


def calls(threads: AgentThreads, batch: int) -> list[tuple[int, int, int, Any]]:
    """(first, last, scratch's place, thread) of each call, by agents."""
    found = []

    def kernel(before: str, scratch: np.ndarray, behind: str, first: int, last: int) -> None:
        assert (before, behind, scratch.dtype) == ("before", "behind", np.float32)
        assert len(scratch) >= threads.tables.scratch(batch)
        found.append((first, last, scratch.ctypes.data, threading.current_thread()))

    threads.run(kernel, batch, "before", SCRATCH, "behind")
    return sorted(found, key=lambda call: call[0])


@pytest.mark.parametrize(
    ("agents", "count", "ranges"),
    [(3, 1, [(0, 3)]), (3, 2, [(0, 1), (1, 3)]), (3, 8, [(0, 1), (1, 2), (2, 3)]), (7, 3, [(0, 2), (2, 4), (4, 7)])],
)
def test_each_agent_is_in_one_threads_range(agents: int, count: int, ranges: list[tuple[int, int]]):
    threads = threads_of(agents, count)
    found = calls(threads, batch=4)
    assert [(first, last) for first, last, *_ in found] == ranges and threads.count == len(ranges)
    places = {place for *_, place, _ in found}
    assert len(places) == threads.count  # scratch is no two threads'
    assert found[0][3] is threading.current_thread()
    assert {place for *_, place, _ in calls(threads, batch=3)} == places  # kept
    assert not {place for *_, place, _ in calls(threads, batch=5)} & places  # too small: taken anew


def test_a_kernel_is_loaded_by_a_call_for_no_agent():
    found = []
    threads_of(3, 2).load(lambda scratch, *numbers: found.append((len(scratch), *numbers)), 4, SCRATCH, "other")
    assert [numbers for _, *numbers in found] == [["other", 0, 0]]


def test_an_error_in_any_thread_is_raised():
    def kernel(first: int, last: int) -> None:
        if last == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads_of(2, 2).run(kernel, 1)
