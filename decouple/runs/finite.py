"""Detection of NaN and infinite numbers: named by task, seed, frame and quantity, and confined to their agent.

    failed = FailedSeeds([0, 1, 2], task="pendulum")
    train_on_policy(env, model, phases, settings, log=log, seeds=[0, 1, 2], failed=failed)
    failed.reasons                                        # {1: "pendulum, seed 1: reward is nan at frame 37"}

The training loops check rewards, observations, losses and parameters once a rollout (off policy: once a row of
metrics). An agent with a number that is not finite has failed. It stays in the batch, where its numbers reach no other
agent, but acts at random or at a bound, and has no metrics from then on, and no return. When all agents have failed,
`NotFiniteError` ends the run; its last checkpoint is from before that.
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
    """The agents of a batch that have failed, each with the reason.

    Args:
        seeds: seeds of the agents; None for one agent whose seed is not known.
        task: name of the task, for messages.

    Attributes:
        reasons: seed of each failed agent -> the reason, as one sentence.
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
        """The agents' rows of metrics, empty for failed agents, so that `seed_metrics` leaves these out."""
        return [{} if seed in self.reasons else row for seed, row in zip(self.seeds, rows, strict=True)]

    @checked(index=at_least(0))
    def fail(self, index: int, what: str) -> None:
        """Mark the agent at `index` as failed, once; `what` is the reason, as `reward is nan at frame 37`."""
        seed = self.seeds[index]
        if seed in self.reasons:
            return
        whose = ", ".join(filter(None, [self.task, "" if seed is None else f"seed {seed}"]))
        self.reasons[seed] = f"{whose}: {what}" if whose else what
        if len(self.reasons) < len(self.seeds):
            warnings.warn(f"{self.reasons[seed]}; it has failed and the others go on", stacklevel=3)

    def stop_if_all(self) -> None:
        """Raise NotFiniteError with every agent's reason, if all agents have failed."""
        if len(self.reasons) == len(self.seeds):
            raise NotFiniteError("; ".join(self.reasons.values()))

    @checked()
    def check(self, values: Mapping[str, Tensor], when: str) -> None:
        """Mark the agents with a loss or parameter that is not finite as failed.

        Args:
            values: name -> values of S agents: (S, ...), or (C * S, ...) for C networks of each, stacked network by
                network; any shape for one agent. With several agents, a single number () for all is not checked.
            when: end of the reason's sentence: `at frame 1,000`.

        Raises:
            NotFiniteError: all agents have failed.
        """
        for name in _suspicious({name: value for name, value in values.items() if value.ndim or self.alone}):
            value = values[name].detach()
            rows = value.reshape(1, 1, -1) if self.alone else value.reshape(-1, len(self.seeds), *value.shape[1:])
            for index in range(len(self.seeds)):  # (C, S, ...)
                self._fail_of(index, name, rows[:, index].reshape(-1), when)
        self.stop_if_all()

    @checked()
    def check_steps(self, values: Mapping[str, Tensor], frames: Sequence[int]) -> None:
        """Mark the agents with a reward or observation that is not finite as failed; the reason names the first step.

        Args:
            values: name -> values (S, T, ...) over T steps; only floating-point tensors are checked.
            frames: T frame counts of one agent, after each step.

        Raises:
            NotFiniteError: all agents have failed.
        """
        found: dict[int, tuple[int, str, Tensor]] = {}  # index -> first bad step, its name and its numbers
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
        """The reasons by seed, the seed as text."""
        return {str(seed): reason for seed, reason in self.reasons.items()}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Restore the reasons: agents that had failed stay failed."""
        self.reasons = {seed: state[str(seed)] for seed in self.seeds if str(seed) in state}

    def _fail_of(self, index: int, name: str, numbers: Tensor, when: str) -> None:
        wrong = numbers[~numbers.isfinite()]
        if len(wrong):
            self.fail(index, f"{name} is {wrong[0].item()} {when}")


def _suspicious(values: Mapping[str, Tensor]) -> list[str]:
    """The names of values whose sum is not finite: one synchronization with the device, no copy of the values."""
    names = [name for name, value in values.items() if value.is_floating_point() and value.numel()]
    sums = [values[name].detach().sum(dtype=torch.float64) for name in names]
    if not sums:
        return []
    wrong = torch.stack([value.to(sums[0].device) for value in sums]).isfinite().logical_not().tolist()
    return [name for name, suspicious in zip(names, wrong, strict=True) if suspicious]
