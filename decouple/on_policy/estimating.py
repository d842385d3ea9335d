"""How long on-policy training will take, how much of the processor it uses, and what would be faster.

A convolutional network's iterations take minutes: they are measured on one micro-batch, before the first rollout.
Others are watched: the estimate comes from the first iterations, or where these are long from the first minibatches.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from torch.utils.flop_counter import FlopCounterMode

from decouple.compiled.kernel import compiling_seconds
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.phases import Phase, RolloutPhase
from decouple.runs.performance import Performance, autocast, fast_bf16

__all__ = ["TimeLeft", "faster_settings", "seconds_per_iteration", "share_of_peak"]

LONG_S = 30.0  # seconds of a run from which on it is worth measuring what share it has of the peak, and what is faster
WORTH = 1.15  # times as fast that a setting must be to be named
PEAK_ROWS = 768  # of the square matrices whose product is the processor's peak
PATIENCE_S = 3.0  # seconds of measuring after which nothing is measured again, and no further setting is tried
COLLECTING = "collecting, frames"  # what `progress` calls the part of an iteration that is no phase


class TimeLeft:
    """Watches the first iterations of a run, for one estimate of the seconds that are left; called as `progress`.

    Of the first iteration, in which memory is touched and kernels are read, only what later ones lack is counted: a
    phase that does not run on each rollout. Where it is long, the estimate comes from its first minibatches, and a
    phase that has not run yet counts as much for an epoch as one that has. The compiling of kernels counts nowhere.

    Args:
        phases: the phases of an iteration.
        iterations: iterations of the whole run.
        iteration: iterations done before.
        expect: called once, with the seconds.
        progress: called with what comes here; None: nobody asks.
        within: whether an estimate may come from a part of an iteration; a GPU's work is known at its end only.
    """

    ITERATIONS_S = 1.0  # seconds of iterations after the first that suffice
    UNTIL_S = 4.0  # seconds after which what is known has to suffice

    def __init__(
        self,
        phases: Sequence[RolloutPhase],
        iterations: int,
        iteration: int,
        expect: Callable[[float], object],
        progress: Callable[[str, int, int], object] | None = None,
        *,
        within: bool = True,
    ) -> None:
        self.phases = {f"{phase.name} phase, minibatches": phase for phase in phases}
        self.iterations, self.iteration, self.expect, self.progress = iterations, iteration, expect, progress
        self.within, self.told = within, False
        self.first: dict[str, float] = {}  # part of an iteration -> its seconds in the first one
        self.later: dict[str, list[float]] = {}  # and in each after it
        self.began = self.since = self._now()  # the run, and the part under way
        self.warm: float | None = None  # end of the first iteration

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)
        if self.told:
            return
        now = self._now()
        if done < total and what != COLLECTING and self.within and now - self.began >= self.UNTIL_S:
            self._tell({**self._known(), what: (now - self.since) / done * total})
        elif done == total:
            if self.warm is None:
                self.first[what] = now - self.since
            else:
                self.later.setdefault(what, []).append(now - self.since)
            self.since = now

    def iterated(self) -> None:
        """An iteration has ended, and what follows it, as an evaluation."""
        self.iteration += 1
        if self.told:
            return
        self.since = now = self._now()
        if self.warm is None:
            self.warm, enough = now, sum(self.first.values()) >= self.UNTIL_S
        else:
            enough = now - self.warm >= self.ITERATIONS_S or now - self.began >= self.UNTIL_S
        if enough and self.iteration < self.iterations:
            self._tell(self._known())

    @staticmethod
    def _now() -> float:
        """Seconds on a clock that stands still while kernels are compiled."""
        return time.perf_counter() - compiling_seconds()

    def _known(self) -> dict[str, float]:
        return self.first | {what: sum(each) / len(each) for what, each in self.later.items()}

    def _tell(self, known: dict[str, float]) -> None:
        """Tell the seconds that are left, by those of the known parts of an iteration."""
        self.told, seconds, epochs = True, known.get(COLLECTING, 0.0), 0.0
        of_phases = {what: phase for what, phase in self.phases.items() if what in known}
        for what, phase in of_phases.items():
            seconds += known[what] / phase.every
            epochs += _epochs(phase)
        each = sum(known[what] for what in of_phases) / max(epochs, 1)  # of an epoch
        others = (phase for what, phase in self.phases.items() if what not in known)
        seconds += each * sum(_epochs(phase) / phase.every for phase in others)
        self.expect(seconds * (self.iterations - self.iteration))


def _epochs(phase: RolloutPhase) -> float:
    """Epochs of a phase on one rollout, as far as it says."""
    own = getattr(phase, "phase", phase)  # of a compiled phase
    epochs, past = getattr(own, "epochs", 1), getattr(own, "past", 1)
    return past * min(epochs, (getattr(own, "updates", None) or math.inf) / own.minibatches)


def seconds_per_iteration(
    collector: RolloutCollector, phases: Sequence[RolloutPhase], how: Performance
) -> float | None:
    """Seconds of an iteration, by the time that acting once and one micro-batch of each phase take; None if not known.

    Each is measured several times, but once only where that takes seconds. Not counted are the games' steps, the heads,
    the losses, the optimizer and evaluations, which take little beside a convolutional network. Neither parameters,
    gradients nor random numbers change. Not known on a GPU and for compiled networks, whose first iteration is soon
    over, and for phases that are no `Phase` with features.
    """
    parts, until = _parts(collector, phases, how), time.perf_counter() + PATIENCE_S
    return sum(times * _seconds(call, until) for times, call in parts) if parts else None


def share_of_peak(
    seconds: float, collector: RolloutCollector, phases: Sequence[RolloutPhase], how: Performance
) -> float | None:
    """Share of what the processor's matrix products reach, at the precision and the threads in use; None if not known.

    Its numerator are the floating-point operations of the convolutions and products that `seconds_per_iteration` runs,
    counted by torch, over `seconds`; its denominator are those of a product of two square matrices, measured now.

    Args:
        seconds: what `seconds_per_iteration` gave for `how`.
        collector, phases, how: as for it.
    """
    parts = _parts(collector, phases, how)
    return sum(times * _operations(call) for times, call in parts) / seconds / _peak(how) if parts else None


def _parts(
    collector: RolloutCollector, phases: Sequence[RolloutPhase], how: Performance
) -> list[tuple[float, Callable[[], object]]]:
    """An iteration as (how often, call): acting once, and a micro-batch of each phase. Empty if not known."""
    known = [phase for phase in phases if isinstance(phase, Phase) and phase.features is not None]
    if len(known) < len(phases) or collector.device.type != "cpu" or how.compile:
        return []
    games = collector.carrier.batch_size[0]
    shown = {key: collector.carrier.get(key) for key in collector.read}

    def act() -> None:
        with torch.no_grad(), autocast(collector.device, how.precision):
            collector.model.get_features()(TensorDict(dict(shown), [games]))

    parts: list[tuple[float, Callable[[], object]]] = [(collector.steps, act)]
    for phase in known:
        learned = phase.past * games * collector.steps  # frames of an epoch
        passes = min(phase.epochs, (phase.updates or math.inf) / phase.minibatches)
        rows = torch.arange(min(how.micro_batch, learned // phase.minibatches)) % games
        frames = {key: value[rows] for key, value in shown.items()}
        assert phase.features is not None
        others = {key[0] for key in phase.features.in_keys if isinstance(key, tuple)}  # as IDAAC's partners
        micro = TensorDict(frames | {name: TensorDict(dict(frames), [len(rows)]) for name in others}, [len(rows)])
        parts.append((passes / phase.every * learned / len(rows), partial(_forward_and_back, phase, micro, how)))
    return parts


def faster_settings(
    seconds: float,
    collector: RolloutCollector,
    phases: Sequence[RolloutPhase],
    how: Performance,
    *,
    other_precision: bool = True,
) -> dict[str, float]:
    """Settings that would be faster on this machine, as `torch_threads=2`, and how many times, each alone.

    They are measured as `seconds_per_iteration` does, with whatever else the machine is doing. Tried are bf16 on a
    processor that has instructions for it, fp32 in place of bf16, and a thread for each processor. Only settings that
    are at least WORTH times as fast are named.

    Args:
        seconds: what `seconds_per_iteration` gave for `how`.
        collector, phases, how: as for it.
        other_precision: whether the other precision is tried; a run that goes on keeps its own.
    """
    tried = {"bf16": "fp32", "fp32": "bf16" if fast_bf16("cpu") else None}[how.precision]
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = [("precision", tried)] if tried and other_precision else []
    others += [("torch_threads", processors)] if processors > torch.get_num_threads() else []
    found, began = {}, time.perf_counter()
    for name, value in others:
        if time.perf_counter() - began > PATIENCE_S:
            break
        other = replace(how, **{name: value})
        with _threads(other.torch_threads):
            needed = seconds_per_iteration(collector, phases, other)
        if needed and seconds / needed >= WORTH:
            found[f"{name}={value}"] = seconds / needed
    return found


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Torch's threads set to this number for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward_and_back(phase: Phase, micro: TensorDictBase, how: Performance) -> None:
    """A phase's features of some frames, with their gradients where the phase has them."""
    assert phase.features is not None
    with torch.set_grad_enabled(phase.train_features), autocast(micro.device or torch.device("cpu"), how.precision):
        found = phase.features(micro.copy())
        outputs = [found.get(key) for key in phase.features.out_keys]
        total = torch.stack([value.float().sum() for value in outputs if value.is_floating_point()]).sum()
    if total.requires_grad:
        total.backward()
        phase.optimizer.zero_grad(set_to_none=True)
        for parameter in phase.features.parameters():
            parameter.grad = None


def _operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call's convolutions and products. Random numbers are as before."""
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _peak(how: Performance) -> float:
    """Floating-point operations per second of a product of two square matrices, in the training's precision."""
    dtype = torch.bfloat16 if how.precision == "bf16" else torch.float32
    square = torch.ones(PEAK_ROWS, PEAK_ROWS, dtype=dtype)
    return 2 * PEAK_ROWS**3 / _seconds(lambda: square @ square)


def _seconds(call: Callable[[], object], until: float = math.inf) -> float:
    """Seconds that a call takes: the least of three after a first one, as far as the clock has not come to `until`.

    Where it has come there with the first call, its seconds count. Random numbers are as before.
    """
    found: list[float] = []
    with torch.random.fork_rng(devices=[]):
        while len(found) < 4 and (not found or time.perf_counter() < until):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return min(found[1:] or found)
