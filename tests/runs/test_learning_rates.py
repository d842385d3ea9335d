"""Learning rates of parts and their schedules: what is allowed, an optimizer's groups, a run's identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from decouple.off_policy.settings import SACSettings, TD3Settings
from decouple.on_policy.algorithms.trpo import TRPOSettings
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.learning_rates import anneal, rate_groups, rate_of, scheduled
from decouple.runs.performance import Performance
from decouple.studies.actor_size.algorithms import PPOControl, SACControl, control_identity
from decouple.studies.actor_size.workers import cell_of


def test_a_part_has_its_own_rate_and_schedule_or_those_of_all():
    settings = SACSettings(learning_rate=0.2, learning_rates={"value": 0.1}, schedules={"policy": "linear"})
    assert [rate_of(settings, part).at(0.5) for part in ("trunk", "policy", "value", "temperature")] == [
        *(0.2, 0.1, 0.1, 0.2)
    ]
    assert scheduled(settings) and not scheduled(SACSettings(learning_rates={"value": 0.1}))
    all_linear = SACSettings(schedule="linear", schedules=dict.fromkeys(SACSettings.rated_parts(), "constant"))
    assert not scheduled(all_linear)


@pytest.mark.parametrize(
    ("kind", "settings", "names"),
    [
        (
            OnPolicySettings,
            {"learning_rates": {"temperature": 0.1}},
            "learning_rates must be by part, trunk, policy, val",
        ),
        (TD3Settings, {"learning_rates": {"temperature": 0.1}}, "got 'temperature'"),
        (TRPOSettings, {"learning_rates": {"policy": 0.1}}, "learning_rates must be by part, value; got 'policy'"),
        (SACSettings, {"learning_rates": {"critic": 0.1}}, "got 'critic'"),
        (SACSettings, {"learning_rates": {"value": 0.0}}, r"learning_rates\.value must be positive; got 0.0"),
        (SACSettings, {"learning_rates": {"value": float("nan")}}, "learning_rates must be"),
        (OnPolicySettings, {"schedules": {"value": "cosine"}}, r"schedules\.value must be one of constant, linear"),
        (OnPolicySettings, {"schedule": "cosine"}, "schedule must be one of constant, linear; got 'cosine'"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(kind: type, settings: dict[str, Any], names: str):
    with pytest.raises(ValueError, match=names):
        kind(**settings)


def test_without_rates_of_parts_an_optimizer_has_one_group_in_the_order_of_0_1():
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    pairs = [("trunk", a), ("value", b), ("trunk", c)]
    assert rate_groups(OnPolicySettings(), pairs) == [{"params": [a, b, c]}]
    own = rate_groups(OnPolicySettings(learning_rates={"value": 0.1}, schedules={"trunk": "linear"}), pairs)
    assert [(group["part"], group["lr"], group["params"]) for group in own] == [
        ("trunk", 5e-4, [a, c]),
        ("value", 0.1, [b]),
    ]
    optimizer = torch.optim.Adam(own)
    for left in (0.5, 0.25):  # from the first rate, not from the last one
        anneal(optimizer, left)
        assert [group["lr"] for group in optimizer.param_groups] == [5e-4 * left, 0.1]


def test_a_cuda_graph_reads_a_scheduled_rate_from_the_device():
    groups = rate_groups(OnPolicySettings(schedules={"value": "linear"}), [("value", nn.Parameter(torch.zeros(1)))])
    optimizer = torch.optim.Adam(groups)
    how = Performance()
    for name, value in {"device": "meta", "cuda_graphs": True}.items():  # as on a GPU
        object.__setattr__(how, name, value)
    how.prepare_optimizer(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor) and rate.device.type == "meta"
    anneal(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("algorithm", [PPOControl, SACControl])
def test_a_default_enters_no_identity_and_a_schedule_the_frames_too(algorithm: Any):
    names = {"learning_rates", "schedule", "schedules"}
    assert not names & control_identity(algorithm(env="acrobot"), set()).keys()
    own = algorithm(env="acrobot", learning_rates={"value": 0.1}, schedule="linear")
    assert control_identity(own, set())["learning_rates"] == {"value": 0.1}
    assert cell_of(own) != cell_of(algorithm(env="acrobot")) == cell_of(algorithm(env="acrobot", schedule="constant"))
