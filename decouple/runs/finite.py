"""Numbers that are not finite: found where they enter, told by task, seed, frame and name, and kept to their agent.

    failed = FailedSeeds([0, 1, 2], task="pendulum")
    train_on_policy(env, model, phases, settings, log=log, seeds=[0, 1, 2], failed=failed)
    failed.reasons                                        # {1: "pendulum, seed 1: reward is nan at frame 37"}

The loops look at rewards and observations once a rollout (off policy: once a row of metrics), and at losses and
parameters as often. An agent in which something is not finite has failed: it stays in the batch, where its numbers
reach nobody else's, but it acts at random or at a bound, has no metrics from then on, and no return. Where all have
failed, `NotFiniteError` ends the run; the last checkpoint is then of the time before.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from decouple.checks import ANY_NUMBER, at_least, checked, distinct

__all__ = ["FailedSeeds", "NotFiniteError"]

T = TypeVar("T")


class NotFiniteError(FloatingPointError):
    """A reward, an observation, a loss, a parameter or a return is NaN or infinite; the message says where and when."""


class FailedSeeds:
    """Which of the agents that train together have failed, and of what.

    Args:
        seeds: of the agents; None for one agent whose seed is not known.
        task: name for messages.

    Attributes:
        reasons: what is said of each seed that has failed, as one sentence.
    """

    @checked(seeds=distinct(ANY_NUMBER))
    def __init__(self, seeds: Sequence[int] | None = None, task: str = ""):
        self.seeds: list[int | None] = [None] if seeds is None else list(seeds)
        self.task = task
        self.reasons: dict[int | None, str] = {}

    @property
    def alone(self) -> bool:
        """Whether there is one agent."""
        return len(self.seeds) == 1

    def kept(self, rows: Sequence[Mapping[str, T]]) -> list[Mapping[str, T]]:
        """The seeds' rows of metrics, those of failed ones empty, as `seed_metrics` leaves them out."""
        return [{} if seed in self.reasons else row for seed, row in zip(self.seeds, rows, strict=True)]

    @checked(index=at_least(0))
    def fail(self, index: int, what: str) -> None:
        """Take the agent at `index` out, where it is not already; `what` goes on after its name: `reward is nan`."""
        seed = self.seeds[index]
        if seed in self.reasons:
            return
        whose = ", ".join(filter(None, [self.task, "" if seed is None else f"seed {seed}"]))
        self.reasons[seed] = f"{whose}: {what}" if whose else what
        if len(self.reasons) < len(self.seeds):
            warnings.warn(f"{self.reasons[seed]}; it has failed and the others go on", stacklevel=3)

    def stop_if_all(self) -> None:
        """NotFiniteError with what each has failed of, where all have."""
        if len(self.reasons) == len(self.seeds):
            raise NotFiniteError("; ".join(self.reasons.values()))

    @checked()
    def check(self, values: Mapping[str, Tensor], when: str) -> None:
        """Fail the agents of which a loss or a parameter is not finite.

        Args:
            values: by name, each of S agents: (S, ...), or (C * S, ...) where C networks of each were stacked network
                by network; of one agent any shape. What is over all agents, a number (), passes where there are more.
            when: the end of the sentence: `at frame 1,000`.

        Raises:
            NotFiniteError: all have failed.
        """
        for name in _suspicious({name: value for name, value in values.items() if value.ndim or self.alone}):
            value = values[name].detach()
            rows = value.reshape(1, 1, -1) if self.alone else value.reshape(-1, len(self.seeds), *value.shape[1:])
            for index in range(len(self.seeds)):  # (C, S, ...)
                self._fail_of(index, name, rows[:, index].reshape(-1), when)
        self.stop_if_all()

    @checked()
    def check_steps(self, values: Mapping[str, Tensor], frames: Sequence[int]) -> None:
        """Fail the agents of which a reward or an observation is not finite, with the step at which it first was not.

        Args:
            values: by name, each (S, T, ...), over T steps; what is no floating-point number passes.
            frames: of an agent after each step, T.

        Raises:
            NotFiniteError: all have failed.
        """
        found: dict[int, tuple[int, str, Tensor]] = {}  # index -> step, name and numbers of what came first
        for name in _suspicious(values):
            value = values[name].detach()
            bad = ~value.reshape(*value.shape[:2], -1).isfinite().all(-1)  # (S, T)
            for index in bad.any(1).nonzero().flatten().tolist():
                step = int(bad[index].nonzero()[0])
                if index not in found or step < found[index][0]:
                    found[index] = step, name, value[index, step].reshape(-1)
        for index, (step, name, numbers) in found.items():
            self._fail_of(index, name, numbers, f"at frame {frames[step]:,}")
        self.stop_if_all()

    def state_dict(self) -> dict[str, str]:
        """The reasons, by the seed's number as text."""
        return {str(seed): reason for seed, reason in self.reasons.items()}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Go on from a `state_dict`: who has failed stays so."""
        self.reasons = {seed: state[str(seed)] for seed in self.seeds if str(seed) in state}

    def _fail_of(self, index: int, name: str, numbers: Tensor, when: str) -> None:
        wrong = numbers[~numbers.isfinite()]
        if len(wrong):
            self.fail(index, f"{name} is {wrong[0].item()} {when}")


def _suspicious(values: Mapping[str, Tensor]) -> list[str]:
    """The names whose sum is not finite; one look at the device for all of them, and no copy of theirs."""
    names = [name for name, value in values.items() if value.is_floating_point() and value.numel()]
    sums = [values[name].detach().sum(dtype=torch.float64) for name in names]
    if not sums:
        return []
    wrong = torch.stack([value.to(sums[0].device) for value in sums]).isfinite().logical_not().tolist()
    return [name for name, suspicious in zip(names, wrong, strict=True) if suspicious]
