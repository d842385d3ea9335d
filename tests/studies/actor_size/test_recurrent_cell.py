"""Cells with recurrent networks: where the layer stands, a run that is interrupted, its agents, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_cell import cell, model

from decouple.networks.recurrence import RecurrentBlock, recurrent_blocks
from decouple.runs.checkpoint import load_checkpoint
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, control_identity
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents

SIZES: dict[str, Any] = {"env": "acrobot", "actor": [7, 5], "critic": [6, 5]}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"recurrent": "gru"}, {"policy": [1], "value": [1]}),
        ({"recurrent": "lstm", "recurrent_layer": 0}, {"policy": [0], "value": [0]}),
        ({"recurrent": "gru", "recurrent_in": "actor"}, {"policy": [1]}),
        ({"recurrent": "gru", "recurrent_in": "critic", "recurrent_layer": -2}, {"value": [0]}),
        ({"recurrent": "gru", "separation": 1}, {"policy": [0], "value": [0]}),
        ({"recurrent": "gru", "separation": "shared"}, {"trunk": [1]}),
        ({"recurrent": "gru", "separation": 1, "recurrent_layer": 0, "recurrent_in": "actor"}, {"trunk": [0]}),
        ({}, {}),
    ],
)
def test_the_layer_that_is_recurrent(settings: dict[str, Any], where: dict[str, list[int]]):
    made = model("ppo", **SIZES | settings)
    found = {name: list(recurrent_blocks(getattr(made, name))) for name in ("trunk", "policy", "value")}
    assert {name: own for name, own in found.items() if own} == where
    kinds = {each.kind for each in made.modules() if isinstance(each, RecurrentBlock)}
    assert kinds == ({settings["recurrent"]} if settings else set())
    assert made.policy_size == 5


def test_without_a_memory_networks_start_as_before_and_its_settings_enter_no_identity():
    torch.manual_seed(0)
    first = model("ppo", **SIZES)
    torch.manual_seed(0)
    assert all(map(torch.equal, first.parameters(), model("ppo", **SIZES).parameters()))
    names = {"recurrent", "recurrent_in", "recurrent_layer", "sequence_length"}
    assert not names & control_identity(CONTROL_ALGORITHMS["ppo"](**SIZES), set()).keys()
    own = control_identity(CONTROL_ALGORITHMS["ppo"](**SIZES, recurrent="gru", sequence_length=16), set())
    assert own["recurrent"] == "gru" and own["sequence_length"] == 16


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        *(
            (name, {"recurrent": "gru"}, f"recurrent must be null for {name}")
            for name in ("sac", "idaac", "ppg", "dcpg", "ddcpg", "dna")
        ),
        ("td3", {"recurrent": "gru", "env": "pendulum"}, "recurrent must be null for td3"),
        ("ppo", {"recurrent": "rnn"}, "recurrent must be gru, lstm or null; got 'rnn'"),
        ("ppo", {"recurrent": "gru", "recurrent_in": "policy"}, "recurrent_in must be one of both, actor, critic"),
        ("ppo", {"recurrent": "gru", "recurrent_layer": 2}, "recurrent_layer must be an index of the actor's 2 hidden"),
        ("ppo", {"recurrent": "gru", "critic": []}, "recurrent_layer must be an index of the critic's 0 hidden layers"),
        (
            "ppo",
            {"recurrent": "gru", "recurrent_in": "critic", "separation": "shared"},
            "recurrent_in must be actor or both where the recurrent layer is one of the trunk's; got 'critic'",
        ),
    ],
)
def test_a_memory_that_cannot_be_is_refused_by_name(algorithm: str, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        model(algorithm, **SIZES | settings)


@pytest.mark.parametrize(("algorithm", "kind", "k"), [("ppo", "gru", 2), ("daac", "lstm", 1), ("trpo", "gru", 0)])
def test_an_interrupted_run_goes_on_with_its_memory_and_is_evaluated_with_it(tmp_path: Path, algorithm, kind, k):
    own = {"env": "CartPole-v1", "actor": [4, 4], "critic": [4, 4], "recurrent": kind, "separation": k, "num_envs": 2}
    own |= {"rollout_steps": 16, "sequence_length": 8, "minibatches": 1, "update": "auto", "final_episodes": 3}

    def run(name: str, *lengths: int) -> dict[str, Any]:
        report: dict[str, Any] = {}
        for frames in lengths:
            report = train_agents(cell(algorithm, tmp_path / name, **own | {"total_frames": frames}))
        return report

    unbroken, broken = run("a", 96), run("b", 64, 96)
    assert unbroken["final/return"] == broken["final/return"]
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in "ab"]
    assert states[0]["memory"].keys() == states[1]["memory"].keys() > {"is_init"}
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    for agent in load_agents(tmp_path / "a"):
        assert agent.recurrent
