"""Learning rates: one for each part of a model, constant or falling linearly over training.

    settings = OnPolicySettings(learning_rate=3e-4, learning_rates={"value": 1e-3}, schedules={"policy": "linear"})
    rate_of(settings, "value").start                            # 1e-3
    rate_of(settings, "policy").at(0.5)                         # 1.5e-4, in the middle of training
    optimizer = torch.optim.Adam(rate_groups(settings, [("policy", weight), ("value", other)]), settings.learning_rate)
    anneal(optimizer, 0.5)                                      # half of the training is left

Parts are trunk, policy, value and, for SAC, temperature. A linear schedule goes from the rate at the first frame to 0
at `total_frames`, as in OpenAI Baselines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from decouple.checks import PROBABILITY, above, at_least, check_setting, checked, one_of

__all__ = [
    "SCHEDULES",
    "Rate",
    "RatedSettings",
    "anneal",
    "check_rates",
    "rate_groups",
    "rate_metrics",
    "rate_of",
    "scheduled",
]

SCHEDULES = ("constant", "linear")


class RatedSettings(Protocol):
    """Settings of an algorithm with learning rates.

    Attributes:
        learning_rate, schedule: rate and schedule of the parts that have none of their own.
        learning_rates, schedules: rates and schedules by part.
    """

    learning_rate: float
    learning_rates: dict[str, float]
    schedule: str
    schedules: dict[str, str]

    @staticmethod
    def rated_parts() -> Sequence[str]:
        """The parts that the algorithm has a learning rate for."""
        ...


class Rate(NamedTuple):
    """A part's learning rate at the first frame, and its schedule."""

    start: float
    schedule: str

    def at(self, left: float) -> float:
        """The rate where a share `left` of the training is still to come."""
        return self.start * left if self.schedule == "linear" else self.start


def check_rates(settings: RatedSettings) -> None:
    """Check the settings of learning rates and schedules; ValueError naming the setting and the part."""
    parts = settings.rated_parts()
    rules = {"learning_rates": above(0), "schedules": one_of(*SCHEDULES)}
    check_setting("schedule", settings.schedule, rules["schedules"])
    for name, rule in rules.items():
        for part, value in getattr(settings, name).items():
            check_setting(name, part, parts.__contains__, f"by part, {', '.join(parts)}")
            check_setting(f"{name}.{part}", value, rule)


def rate_of(settings: RatedSettings, part: str) -> Rate:
    """The learning rate of a part, with its schedule."""
    start = settings.learning_rates.get(part, settings.learning_rate)
    return Rate(start, settings.schedules.get(part, settings.schedule))


def scheduled(settings: RatedSettings) -> bool:
    """Whether a learning rate falls over training, so that results depend on `total_frames` from the first frame on."""
    return any(rate_of(settings, part).schedule != "constant" for part in settings.rated_parts())


@checked(left=PROBABILITY, at=at_least(0))
def rate_metrics(settings: RatedSettings, left: float, at: int) -> dict[str, float]:
    """The scheduled learning rates as metrics, `learning_rate/<part>`; empty where all are constant.

    Args:
        settings: the algorithm's settings.
        left: share of the training that is still to come.
        at: the separation point; at 0 there is no trunk.
    """
    parts = [part for part in settings.rated_parts() if part != "trunk" or at]
    rates = {part: rate_of(settings, part) for part in parts}
    return {f"learning_rate/{part}": rate.at(left) for part, rate in rates.items() if rate.schedule != "constant"}


def rate_groups(settings: RatedSettings, parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer, from (part, parameter) pairs: one group for each part.

    Without rates and schedules of parts there is one group, with all parameters in order, as in checkpoints of 0.1.
    """
    parameters = list(parameters)
    if not (settings.learning_rates or settings.schedules or settings.schedule != "constant"):
        return [{"params": [parameter for _, parameter in parameters]}]
    groups = []
    for part in dict.fromkeys(part for part, _ in parameters):
        rate = rate_of(settings, part)
        own = [parameter for name, parameter in parameters if name == part]
        groups.append({"params": own, "lr": rate.start, "part": part, **rate._asdict()})
    return groups


def anneal(optimizer: torch.optim.Optimizer, left: float) -> None:
    """Set the rates of an optimizer made with `rate_groups` for a share `left` of the training still to come."""
    for group in optimizer.param_groups:
        if group.get("schedule") == "linear":
            now = Rate(group["start"], group["schedule"]).at(left)
            if isinstance(group["lr"], Tensor):  # a CUDA graph reads it
                group["lr"].fill_(now)
            else:
                group["lr"] = now
