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
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from decouple.checks import ANY_NUMBER, at_least, check_setting, checked, inside, positive_whole
from decouple.studies.actor_size.trials import (  # noqa: F401  (all that 0.1 had here)
    Pair,
    Returns,
    Rules,
    Size,
    Step,
    Trial,
    Unfinished,
    check_rules,
    lower_bound,
    make_trial,
    mean_return,
    open_notes,
    pair_name,
    return_text,
    size_name,
    stage_notes,
    stage_steps,
    t_interval,
)

__all__ = ["SIZES", "SmallestActor", "rounded_threshold", "search_steps", "smallest_actor"]

# The paper's nine sizes, from its section IV.
SIZES: tuple[Size, ...] = (
    *((1, 1), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (256, 256)),
    (400, 300),
)


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
            notes.append(f"The baseline, {pair_name(self.baseline)}, does not reach {return_text(self.bound)} itself.")
        if self.symmetric is None:
            notes.append(f"No symmetric size that was tried reaches {return_text(self.bound)}: there is no result.")
        stages = [("symmetric sizes", self.symmetric, self.symmetric_trials)]
        if self.symmetric is not None:
            stages.append(("actors", self.asymmetric, self.actor_trials))
        for stage, best, trials in stages:
            notes += stage_notes(stage, best, trials, self.sizes)
        rules = Rules(self.bound, self.confidence, self.power)
        return notes + open_notes((self.baseline, *self.symmetric_trials, *self.actor_trials), rules)


@checked(baseline=ANY_NUMBER)
def rounded_threshold(baseline: float) -> float:
    """The baseline's mean return rounded down to one significant digit: 8861.92 becomes 8000, -4.26 becomes -5.

    The paper does not say how it derived thresholds from baselines. Of the 23 that it prints, 14 follow this rule.
    """
    if baseline == 0 or not math.isfinite(baseline):
        return baseline
    digits = Decimal(repr(float(baseline)))  # as it is written: 0.3 / 0.1 is less than 3
    return float(digits.quantize(Decimal(1).scaleb(digits.adjusted()), ROUND_FLOOR))


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
    ordered = check_rules(sizes, tolerance, confidence, power)
    says = "lists of positive sizes"
    check_setting("sizes and baseline", baseline, lambda sizes: all(map(positive_whole, sizes)), says)
    first: Pair = (tuple(baseline), tuple(baseline))
    stage_most = len(ordered) if exhaustive else len(ordered).bit_length()
    returns = (yield Step("baseline", (first,), 2 * stage_most))[first]
    check_setting("evaluate(actor, critic)", returns, lambda v: not isinstance(v, Unfinished), "whole for the baseline")
    mean = mean_return(returns)
    target = mean if threshold is None else threshold(mean) if callable(threshold) else float(threshold)
    check_setting("threshold", target, math.isfinite, "finite, and so the baseline's returns if it is set by them")
    bound = lower_bound(target, tolerance)

    rules = Rules(bound, confidence, power)
    trials = {first: make_trial(first, returns, *rules)}
    symmetric_pairs = [(size, size) for size in ordered]
    how: Any = {"exhaustive": exhaustive}
    symmetric = yield from stage_steps("symmetric", symmetric_pairs, trials, rules, later=stage_most, **how)
    asymmetric, actor_pairs = None, []
    if symmetric is not None:
        actor_pairs = [(size, symmetric.critic) for size in ordered]
        asymmetric = yield from stage_steps("actor", actor_pairs, trials, rules, **how)
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
