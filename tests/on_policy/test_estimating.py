"""An estimate of the time that is left: what it counts, and when it comes."""

from types import SimpleNamespace

import pytest

from decouple.on_policy import estimating
from decouple.on_policy.estimating import COLLECTING, TimeLeft

POLICY = SimpleNamespace(name="policy", every=1, minibatches=4, epochs=2)
VALUE = SimpleNamespace(name="value", every=2, minibatches=4, epochs=4)


class Clock:
    """The clock, and the seconds of it that went into compiling."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.compiled = 0.0
        monkeypatch.setattr(estimating.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(estimating, "compiling_seconds", lambda: self.compiled)

    def compile(self, seconds: float) -> None:
        self.now, self.compiled = self.now + seconds, self.compiled + seconds


def iteration(clock: Clock, watch: TimeLeft, parts: dict[str, float]) -> None:
    """An iteration whose parts take these seconds; each phase has four minibatches."""
    for what, seconds in parts.items():
        for done in (0, 4) if what == COLLECTING else range(1, 5):
            clock.now += seconds / 4 if what != COLLECTING else done * seconds / 4
            watch(what, done, 4)
    watch.iterated()


def test_the_first_iteration_and_compiling_are_not_counted(monkeypatch):
    clock, told = Clock(monkeypatch), []
    watch = TimeLeft([POLICY], 100, 0, told.append)
    clock.compile(90.0)
    iteration(clock, watch, {COLLECTING: 1.0, "policy phase, minibatches": 1.0})
    clock.compile(20.0)  # of a kernel that is met later
    for _ in range(6):
        assert not told
        iteration(clock, watch, {COLLECTING: 0.05, "policy phase, minibatches": 0.125})
    assert told == [pytest.approx(0.175 * 93)]
    iteration(clock, watch, {COLLECTING: 50.0, "policy phase, minibatches": 50.0})
    assert len(told) == 1


def test_a_long_iteration_is_estimated_from_its_first_minibatches(monkeypatch):
    """Its other phase runs every second time, and has twice as many epochs."""
    clock, told, seen = Clock(monkeypatch), [], []
    watch = TimeLeft([POLICY, VALUE], 10, 0, told.append, lambda *what: seen.append(what))
    watch(COLLECTING, 0, 64)
    clock.now += 3.0
    watch(COLLECTING, 64, 64)
    clock.compile(30.0)
    for done in (1, 2):
        assert not told
        clock.now += 0.5
        watch("policy phase, minibatches", done, 8)
    assert told == [pytest.approx(10 * (3.0 + 4.0 + 8.0 / 2))]
    assert seen == [(COLLECTING, 0, 64), (COLLECTING, 64, 64), *(("policy phase, minibatches", d, 8) for d in (1, 2))]


def test_a_phase_that_does_not_run_on_each_rollout_counts_for_its_share(monkeypatch):
    clock, told = Clock(monkeypatch), []
    watch = TimeLeft([POLICY, VALUE], 100, 10, told.append)
    iteration(clock, watch, {COLLECTING: 1.0, "policy phase, minibatches": 1.0, "value phase, minibatches": 1.0})
    iteration(clock, watch, {COLLECTING: 0.5, "policy phase, minibatches": 0.5})
    assert told == [pytest.approx(88 * (0.5 + 0.5 + 1.0 / 2))]


def test_on_a_gpu_only_whole_parts_are_timed(monkeypatch):
    clock, told = Clock(monkeypatch), []
    watch = TimeLeft([POLICY], 10, 0, told.append, within=False)
    clock.now = 100.0
    watch("policy phase, minibatches", 1, 8)
    assert not told
    watch("policy phase, minibatches", 8, 8)
    watch.iterated()
    assert told == [pytest.approx(9 * 100.0)]


def test_what_takes_seconds_is_measured_once(monkeypatch):
    """An estimate within ten seconds by the clock, also where other processes take the processor."""
    clock, took = Clock(monkeypatch), iter([2.0, 1.5, 1.0, 1.25, 5.0, 4.0])

    def call() -> None:
        clock.now += next(took)

    assert estimating._seconds(call, until=4.0) == 1.0  # not measured a fourth time: 4.5 s are gone
    assert estimating._seconds(call, until=4.0) == 1.25
    assert list(took) == [5.0, 4.0]
