"""The smallest actor that still does the job: a two-stage search over sizes, as pure functions.

    found = smallest_actor(evaluate, baseline=(400, 300))      # evaluate(actor, critic) -> returns, one per seed
    found.asymmetric.actor, found.asymmetric.critic, found.bound
    print("\\n".join(found.notes))

First the baseline is evaluated, actor and critic of the published size, and a threshold is set; then a bisection over
the sizes finds the smallest symmetric pair that reaches it within a tolerance; then the critic keeps that size, and a
second bisection finds the smallest actor beside it. A size is accepted if its mean return over the seeds is at least
`lower_bound(threshold)`; every decision has a confidence interval, and `notes` names those that the seeds leave
open. A bisection assumes that returns are monotone in size. Where they are not it may miss a smaller size; `notes` says
so where the returns show it. `exhaustive=True` scans every size.

After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893), section IV.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from decouple.analysis.statistics import seeds_needed
from decouple.checks import ANY_NUMBER, all_of, at_least, check_setting, checked, inside, positive_whole

__all__ = [
    "SIZES",
    "SmallestActor",
    "Step",
    "Trial",
    "Unfinished",
    "lower_bound",
    "return_text",
    "rounded_threshold",
    "search_steps",
    "size_name",
    "smallest_actor",
    "t_interval",
]

Size = tuple[int, ...]  # hidden layers of a network
Pair = tuple[Size, Size]  # sizes of an actor and of a critic

# The paper's nine sizes, from its section IV.
SIZES: tuple[Size, ...] = (
    *((1, 1), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (256, 256)),
    (400, 300),
)


@dataclass(frozen=True)
class Trial:
    """A pair of actor and critic sizes, its returns, and the decision on it."""

    actor: Size
    critic: Size
    returns: tuple[float, ...]  # one per seed; not finite: that agent diverged, and the size is rejected
    mean: float
    std: float  # standard deviation over seeds
    low: float  # lower end of the mean's confidence interval
    high: float  # its upper end
    accepted: bool  # mean >= bound
    decided: bool  # the bound lies outside the interval; else the seeds cannot tell
    # Approximate number of seeds that would tell, at this mean, spread and the search's power; None where these do, or
    # where no number could.
    seeds_needed: int | None
    stopped: int | None = None  # frames at which its seeds were stopped; the returns are those of that moment


class Unfinished(NamedTuple):
    """The returns of seeds that were stopped early, since their mean will not reach the bound: the size is rejected."""

    returns: tuple[float, ...]  # one per seed, of the last evaluation; final returns of seeds that were done before
    frames: int  # frames at which they were stopped


Returns = Sequence[float] | Unfinished  # what a search is sent for a pair


@dataclass(frozen=True)
class Step:
    """The pairs whose returns the search needs next."""

    stage: str  # baseline, symmetric or actor
    pairs: tuple[Pair, ...]  # pairs to evaluate; independent, so that all may run at once
    more: int  # pairs that may follow these, at most
    bound: float | None = None  # least mean return that is accepted; None: not known before these pairs are evaluated
    best: float | None = None  # largest return of a seed so far; None: there is none


@dataclass(frozen=True)
class SmallestActor:
    """The result of a search. Trials are in the order of the sizes."""

    threshold: float
    bound: float  # least mean return that is accepted: `lower_bound` of the threshold
    confidence: float
    exhaustive: bool
    sizes: tuple[Size, ...]
    baseline: Trial
    symmetric_trials: tuple[Trial, ...]
    actor_trials: tuple[Trial, ...]  # with the critic locked; the symmetric pair is one of them
    symmetric: Trial | None  # the smallest pair accepted; None: no size is
    asymmetric: Trial | None  # the smallest actor accepted beside its critic; the same pair where none is smaller
    power: float = 0.8  # probability that `seeds_needed` seeds of a trial would tell

    @property
    def notes(self) -> list[str]:
        """Sentences on the result's limits: sizes not tried, returns not monotone, decisions left open."""
        notes = []
        if not self.baseline.accepted:
            notes.append(f"The baseline, {_pair_name(self.baseline)}, does not reach {return_text(self.bound)} itself.")
        if self.symmetric is None:
            notes.append(f"No symmetric size that was tried reaches {return_text(self.bound)}: there is no result.")
        stages = [("symmetric sizes", self.symmetric, self.symmetric_trials)]
        if self.symmetric is not None:
            stages.append(("actors", self.asymmetric, self.actor_trials))
        for stage, best, trials in stages:
            smaller = self.sizes if best is None else self.sizes[: self.sizes.index(best.actor)]
            untried = [size_name(size) for size in smaller if size not in {trial.actor for trial in trials}]
            finished = [trial for trial in trials if trial.stopped is None]
            notes += [self._dip(*pair, untried) for pair in pairwise(finished) if pair[1].mean < pair[0].mean]
            if untried:
                notes.append(f"Not tried, and taken to fail as a larger one did: {stage} {', '.join(untried)}.")
        for trial in dict.fromkeys((self.baseline, *self.symmetric_trials, *self.actor_trials)):
            if trial.stopped is not None:
                notes.append(self._stopped(trial))
            elif not trial.decided:
                notes.append(self._undecided(trial))
        return notes

    def _dip(self, small: Trial, large: Trial, untried: Sequence[str]) -> str:
        how = "their intervals do not overlap" if large.high < small.low else "their intervals overlap"
        text = (
            f"Returns are not monotone in size: {_pair_name(large)} has a mean of {return_text(large.mean)}, "
            f"the smaller {_pair_name(small)} one of {return_text(small.mean)} ({how})."
        )
        if small.accepted and not large.accepted:
            text += " The smaller is accepted and the larger is not."
        return text + " The bisection may have missed a smaller size: exhaustive scans all." * bool(untried)

    def _stopped(self, trial: Trial) -> str:
        return (
            f"{_pair_name(trial)} was stopped after {trial.stopped:,} frames and counts as rejected: at a mean of "
            f"{return_text(trial.mean)}, it was not expected to reach {return_text(self.bound)}."
        )

    def _undecided(self, trial: Trial) -> str:
        verdict = "is accepted" if trial.accepted else "is rejected"
        power = f"{100 * self.power:g} % of the time"
        needed = f"; about {trial.seeds_needed} seeds would, {power}" if trial.seeds_needed else ""
        return (
            f"{_pair_name(trial)} {verdict}, but {len(trial.returns)} seed{'s' * (len(trial.returns) != 1)} cannot "
            f"tell: mean {return_text(trial.mean)}, {100 * self.confidence:g} % interval [{return_text(trial.low)}, "
            f"{return_text(trial.high)}], bound {return_text(self.bound)}{needed}."
        )


@checked(tolerance=at_least(0))
def lower_bound(threshold: float, tolerance: float = 0.1) -> float:
    """The least mean return that counts as reaching `threshold`: `threshold - tolerance * |threshold|`.

    The tolerance goes down whatever the sign: -160 becomes -176 and 8000 becomes 7200. It is a share of the threshold,
    and means nothing where returns lie around zero: set a threshold by hand there.
    """
    return threshold - tolerance * abs(threshold)


@checked(baseline=ANY_NUMBER)
def rounded_threshold(baseline: float) -> float:
    """The baseline's mean return rounded down to one significant digit: 8861.92 becomes 8000, -4.26 becomes -5.

    The paper does not say how it derived thresholds from baselines. Of the 23 that it prints, 14 follow this rule.
    """
    if baseline == 0 or not math.isfinite(baseline):
        return baseline
    exponent = math.floor(math.log10(abs(baseline)))
    return float(f"{math.floor(baseline / 10.0**exponent)}e{exponent}")


@checked(values=all_of(ANY_NUMBER, least=1), confidence=inside(0, 1))
def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean: `mean -+ t s / sqrt(n)`, t the quantile of n - 1 degrees of freedom.

    At six seeds of a normal distribution it holds the mean in 95 % of cases, a percentile bootstrap in 87 % (20,000 and
    4,000 draws); Colas et al. 2018 (https://arxiv.org/abs/1806.08295) weigh the two for deep RL. Neither knows of
    failures that none of the seeds had: where one agent in six fails, six seeds see none in a third of all cases.

    Returns:
        (low, high); infinite for one value, and (-inf, -inf) where a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        return -math.inf, -math.inf
    if len(values) < 2:
        return -math.inf, math.inf
    mean = statistics.fmean(values)
    half = _t_quantile(confidence, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@checked()
def smallest_actor(
    evaluate: Callable[[Size, Size], Returns], *, baseline: Sequence[int], **options: Any
) -> SmallestActor:
    """Search with a function that evaluates one pair at a time; no pair is evaluated twice.

    Args:
        evaluate: function of the hidden layers of actor and critic; it gives the returns of such agents, one per seed.
        baseline, options: arguments of `search_steps`.
    """
    steps = search_steps(baseline=baseline, **options)
    step = next(steps)
    while True:
        try:
            step = steps.send({pair: evaluate(*pair) for pair in step.pairs})
        except StopIteration as end:
            return end.value


@checked(tolerance=at_least(0), confidence=inside(0, 1))
def search_steps(
    *,
    baseline: Sequence[int],
    sizes: Sequence[Sequence[int]] = SIZES,
    threshold: float | Callable[[float], float] | None = None,
    tolerance: float = 0.1,
    confidence: float = 0.95,
    exhaustive: bool = False,
    power: float = 0.8,
) -> Generator[Step, Mapping[Pair, Returns], SmallestActor]:
    """The search as a generator: it yields a `Step`, and is sent each pair's returns.

    A stage over n sizes evaluates at most ceil(log2(n + 1)) of them. Known trials narrow it: the baseline in the first
    stage, the symmetric pair in the second. With `exhaustive` it evaluates all sizes, as one step.

    Args:
        baseline: hidden layers of actor and critic as published; need not be one of `sizes`.
        sizes: hidden layers to choose from, from the smallest to the largest.
        threshold: the return to reach, or a function of the baseline's mean return that gives it; None: that mean.
        tolerance: share of the threshold by which a mean return may lie below it.
        confidence: confidence level of the intervals.
        exhaustive: True to evaluate every size in both stages instead of bisecting.
        power: probability that `seeds_needed` seeds would tell, in [1/2, 1).

    Raises:
        ValueError: an argument that is not as above.
    """
    ordered = tuple(tuple(size) for size in sizes)
    distinct = bool(ordered) and len(set(ordered)) == len(ordered)
    check_setting("sizes", sizes, lambda _: distinct, "at least one list of hidden layers, none twice")
    for size in (*ordered, tuple(baseline)):
        check_setting("sizes and baseline", size, lambda v: all(map(positive_whole, v)), "lists of positive sizes")
    check_setting("tolerance", tolerance, lambda v: 0 <= v < math.inf, "at least 0 and finite")
    check_setting("confidence", confidence, lambda v: 0 < v < 1, "between 0 and 1")
    check_setting("power", power, lambda v: 0.5 <= v < 1, "in [0.5, 1)")

    first: Pair = (tuple(baseline), tuple(baseline))
    stage_most = len(ordered) if exhaustive else len(ordered).bit_length()
    returns = (yield Step("baseline", (first,), 2 * stage_most))[first]
    check_setting("evaluate(actor, critic)", returns, lambda v: not isinstance(v, Unfinished), "whole for the baseline")
    mean = _mean(returns)
    target = mean if threshold is None else threshold(mean) if callable(threshold) else float(threshold)
    check_setting("threshold", target, math.isfinite, "finite, and so the baseline's returns if it is set by them")
    bound = lower_bound(target, tolerance)

    trials = {first: _trial(first, returns, bound, confidence, power)}
    symmetric_pairs = [(size, size) for size in ordered]
    rules = bound, confidence, power
    symmetric = yield from _stage("symmetric", symmetric_pairs, trials, *rules, exhaustive, stage_most)
    asymmetric, actor_pairs = None, []
    if symmetric is not None:
        actor_pairs = [(size, symmetric.critic) for size in ordered]
        asymmetric = yield from _stage("actor", actor_pairs, trials, *rules, exhaustive, 0)
    return SmallestActor(
        threshold=target,
        bound=bound,
        confidence=confidence,
        exhaustive=exhaustive,
        sizes=ordered,
        baseline=trials[first],
        symmetric_trials=tuple(trials[pair] for pair in symmetric_pairs if pair in trials),
        actor_trials=tuple(trials[pair] for pair in actor_pairs if pair in trials),
        symmetric=symmetric,
        asymmetric=asymmetric,
        power=power,
    )


@checked(size=all_of(at_least(1)))
def size_name(size: Sequence[int]) -> str:
    """Hidden layers as the paper writes them: `|16,16|`; `|linear|` where there are none."""
    return f"|{','.join(map(str, size)) or 'linear'}|"


@checked(value=ANY_NUMBER)
def return_text(value: float) -> str:
    """A return with four digits, and no exponent where it is large."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _stage(
    name: str,
    pairs: Sequence[Pair],
    trials: dict[Pair, Trial],
    bound: float,
    confidence: float,
    power: float,
    exhaustive: bool,
    later: int,
) -> Generator[Step, Mapping[Pair, Returns], Trial | None]:
    """The first accepted of `pairs`, sorted from the smallest to the largest; adds new trials to `trials`."""

    def ask(wanted: tuple[Pair, ...], more: int) -> Generator[Step, Mapping[Pair, Returns], None]:
        finished = [value for trial in trials.values() if trial.stopped is None for value in trial.returns]
        returns = yield Step(name, wanted, more + later, bound, max(filter(math.isfinite, finished), default=None))
        trials.update({pair: _trial(pair, returns[pair], bound, confidence, power) for pair in wanted})

    if exhaustive:
        if unknown := tuple(pair for pair in pairs if pair not in trials):
            yield from ask(unknown, 0)
        return next((trials[pair] for pair in pairs if trials[pair].accepted), None)
    low, high = 0, len(pairs)  # the first accepted lies in [low, high]; at len(pairs): there is none
    for index, pair in enumerate(pairs):
        if pair in trials and trials[pair].accepted:
            high = min(high, index)
        elif pair in trials:
            low = max(low, index + 1)
    while low < high:
        middle = (low + high) // 2
        yield from ask((pairs[middle],), (high - low).bit_length() - 1)
        low, high = (low, middle) if trials[pairs[middle]].accepted else (middle + 1, high)
    return trials[pairs[high]] if high < len(pairs) else None


def _trial(pair: Pair, returns: Returns, bound: float, confidence: float, power: float) -> Trial:
    stopped = None
    if isinstance(returns, Unfinished):
        returns, stopped = returns
    values = tuple(float(value) for value in returns)
    mean, (low, high) = _mean(values), t_interval(values, confidence)
    std = statistics.stdev(values) if len(values) > 1 and math.isfinite(mean) else math.nan
    decided = high < bound or low >= bound
    needed = None
    if not decided and abs(mean - bound) > 1e-6 * std and len(values) > 1:
        needed = max(len(values) + 1, seeds_needed(mean - bound, std, confidence=confidence, power=power))
    accepted = mean >= bound and stopped is None
    return Trial(*pair, values, mean, std, low, high, accepted, decided, needed, stopped)


def _mean(returns: Sequence[float]) -> float:
    """Mean over seeds; -inf where an agent diverged."""
    values = [float(value) for value in returns]
    check_setting("evaluate(actor, critic)", values, len, "at least one return")
    return statistics.fmean(values) if all(map(math.isfinite, values)) else -math.inf


def _t_quantile(confidence: float, degrees: int) -> float:
    """t such that Student's distribution has `confidence` between -t and t; found by bisection over its angle."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _t_probability(middle, degrees) > confidence else (middle, high)
    return math.sqrt(degrees) * math.tan(low)


def _t_probability(angle: float, degrees: int) -> float:
    """Probability of |T| < sqrt(degrees) tan(angle), in closed form: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _pair_name(trial: Trial) -> str:
    if trial.actor == trial.critic:
        return size_name(trial.actor)
    return f"actor {size_name(trial.actor)} beside critic {size_name(trial.critic)}"
