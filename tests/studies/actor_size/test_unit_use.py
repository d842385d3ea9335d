"""Dormant units and effective rank of a run's networks, on states of their own play."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from size_studies import cell, train

from decouple.analysis.representation import centred_gram, dormant_share, effective_rank
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.studies.actor_size.algorithms import PPOControl, TD3Control
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.latency import _first_whole
from decouple.studies.actor_size.load import agents_in, trained_actor
from decouple.studies.actor_size.results import read_studies
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.unit_use import hidden_layers, study_units, unit_use

SMALL = {"env": "toy", "seeds": 2, "update": "batched", "evaluate_episodes": 1, "final_episodes": 1}
OFF = {"total_frames": 300, "learning_starts": 200, "batch_size": 8, "buffer_size": 500, "log_every": 100}
OFF |= {"evaluate_every": 300, "checkpoint_every": 300}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("td3")
    train_agents(TD3Control(**SMALL, **OFF, actor=[3, 4], critic=[5, 6], show_progress=False, run_dir=str(folder)))
    return folder


def test_each_hidden_layer_of_each_network_has_a_row_for_each_seed(trained):
    rows = unit_use(trained, steps=10, states=50)
    networks = {"policy": [3, 4], "value": [5, 6], "twin": [5, 6]}
    expected = [
        (seed, network, layer, units)
        for seed in (0, 1)
        for network, sizes in networks.items()
        for layer, units in enumerate(sizes, start=1)
    ]
    assert [(row["seed"], row["network"], row["layer"], row["units"]) for row in rows] == expected
    assert all(0 <= row["dormant"] <= 1 and 0 <= row["effective_rank"] <= row["units"] for row in rows)
    assert rows == unit_use(trained, steps=10, states=50)


def test_layers_are_those_of_the_agents_own_forward_pass(trained):
    model = agents_in(load_checkpoint(trained / "checkpoint.pt"))[1]
    states = torch.linspace(-1, 1, 20)[:, None]
    found = {(network, layer): features for network, layer, features in hidden_layers(model, states)}
    assert torch.equal(found["policy", 1], model.policy[0](states).detach())
    assert torch.equal(found["policy", 2], model.policy(states).detach())
    with torch.no_grad():  # a layer whose units are dead
        model.policy[0].linear.weight.zero_()
        model.policy[0].linear.bias.fill_(-1.0)
    dead = next(
        features for network, layer, features in hidden_layers(model, states) if (network, layer) == ("policy", 1)
    )
    assert dormant_share(dead) == 1.0 and math.isnan(effective_rank(centred_gram(dead)))


def test_shared_layers_are_counted_once(tmp_path):
    few = {"total_frames": 80, "num_envs": 4, "rollout_steps": 10, "minibatches": 1, "evaluate_every": 2}
    sizes = {"actor": [4, 4], "critic": [4, 6], "separation": 1}
    config = PPOControl(**SMALL, **few, **sizes, show_progress=False, run_dir=str(tmp_path))
    train_agents(config)
    rows = unit_use(tmp_path, steps=5, states=20)
    assert [(row["network"], row["layer"], row["units"]) for row in rows[: len(rows) // 2]] == [
        ("trunk", 1, 4),
        ("policy", 2, 4),
        ("value", 2, 6),
    ]


def test_more_states_than_there_are_are_refused(trained):
    with pytest.raises(ValueError, match="states must be at most 10 times steps, 20; got 21"):
        unit_use(trained, steps=2, states=21)
    with pytest.raises(FileNotFoundError):
        unit_use(trained / "nothing")


def test_a_studys_cells_are_measured_once_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    store = CellStore(tmp_path / "cells.sqlite")
    folders = [Path(train(store, cell((4, 4), critic), [-1.0, -2.0])) for critic in ((4, 4), (16, 16))]
    for folder in folders:
        (folder / "checkpoint.pt").write_bytes(b"damaged")
    path, told, asked, seeds = tmp_path / "units.csv", [], [], [0, 1]

    def measured(folder: Path) -> list[dict]:
        asked.append(folder)
        row = {"network": "policy", "layer": 1, "units": 4, "dormant": 0.25, "effective_rank": 2.5}
        return [{"seed": seed, **row} for seed in seeds] if folder != folders[1] else unit_use(folder)

    monkeypatch.setattr("decouple.studies.actor_size.unit_use.unit_use", measured)
    rows = study_units(read_studies(store), path, left_out=told.append)
    assert [(row["actor"], row["critic"], row["dormant"]) for row in rows] == 2 * [("4,4", "4,4", "0.25")]
    assert len(told) == 1 and "checkpoint.pt" in told[0]
    assert study_units(read_studies(store), path) == rows and asked.count(folders[0]) == 1
    seeds[:] = [0, 1, 2, 3]
    (
        Path(train(store, cell((4, 4), (4, 4)), [-3.0, None])) / "checkpoint.pt"
    ).touch()  # of the new seeds one has failed
    seeds.pop()
    more = study_units(read_studies(store), path)
    assert more[:2] == rows and {row["seed"] for row in more} == {"0", "1", "2"}
    before = len(asked)
    assert study_units(read_studies(store), path) == more and set(asked[before:]) == {folders[1]}
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"units\.csv"):
        study_units(read_studies(store), path)


def test_a_failed_agent_is_in_no_row_and_its_run_is_timed_by_another(trained, tmp_path):
    state = load_checkpoint(trained / "checkpoint.pt")
    failed = {**state, "failed": {"0": "seed 0: the reward is nan"}}
    save_checkpoint(tmp_path / "checkpoint.pt", failed)
    assert {row["seed"] for row in unit_use(tmp_path)} == {1}
    found = _first_whole([tmp_path], pytest.fail)
    assert found is not None
    expected = trained_actor(state, 1)[0]
    for own, other in zip(found[0].parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    save_checkpoint(tmp_path / "checkpoint.pt", {**state, "failed": {"0": "", "1": ""}})
    assert _first_whole([tmp_path], pytest.fail) is None
