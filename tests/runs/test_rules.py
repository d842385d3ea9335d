"""rules.py: what a result rests on; and what decouple 0.1 wrote, which goes on where none of that has changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from decouple.commands import sweeps
from decouple.off_policy.settings import SACSettings
from decouple.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from decouple.runs.metrics import read_metrics
from decouple.runs.rules import RULES, SETTINGS_OF_CONTROL, Rule, identity_of, idle_settings, outdated
from decouple.runs.settings import FlatKeys, changed
from decouple.studies.actor_size.algorithms import (
    CONTROL_ALGORITHMS,
    DDPGControl,
    PPOControl,
    SACControl,
    TD3Control,
    TRPOControl,
    control_identity,
)
from decouple.studies.actor_size.build import unit_actions
from decouple.studies.actor_size.cell import done_result, train_agents
from decouple.studies.actor_size.load import load_agents, trained_actor
from decouple.studies.actor_size.results import read_studies
from decouple.studies.actor_size.settings import NOT_IDENTITY, ControlSettings
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.workers import cell_of, train_cells
from decouple.version import VERSION

OF_0_1 = Path(__file__).parents[1] / "data" / "decouple_0_1"  # written by its generate.py
SMALL: dict[str, Any] = {
    **{"actor": [4], "critic": [4], "show_progress": False, "evaluate_episodes": 1, "final_episodes": 1},
}
OFF: dict[str, Any] = SMALL | {
    **{"total_frames": 200, "learning_starts": 50, "batch_size": 8, "buffer_size": 1000, "log_every": 50},
    **{"evaluate_every": 100, "checkpoint_every": 100},
}
ON: dict[str, Any] = SMALL | {
    "total_frames": 100,
    "rollout_steps": 50,
    "minibatches": 2,
    "epochs": 1,
    "clip_value": 0.2,
}


@pytest.fixture
def of_0_1(tmp_path):
    return Path(shutil.copytree(OF_0_1, tmp_path / "of_0_1"))


def identity(config: ControlSettings) -> dict[str, Any]:
    return control_identity(config, NOT_IDENTITY)


# -------------------------------------------------------------------------------------------------------- the identity


def test_a_rule_that_has_changed_enters_where_it_concerns_the_run():
    assert identity(PPOControl(env="pong"))["rules"] == {"pong_limit": 2}
    assert "rules" not in identity(PPOControl(env="pixelcopter"))
    assert json.loads(cell_of(PPOControl(env="pong")).settings)["rules"] == {"pong_limit": 2}
    assert "rules" not in json.loads(cell_of(PPOControl(env="pixelcopter")).settings)


@pytest.mark.parametrize("algorithm", [SACControl, TD3Control, DDPGControl])
def test_the_actions_unit_has_changed_off_policy_where_bounds_are_not_plus_minus_one(algorithm):
    for env in ("pendulum", "toy"):
        assert identity(algorithm(env=env))["rules"] == {"action_unit": 2}
    for env in ("foodcollector", "MountainCarContinuous-v0"):
        assert "rules" not in identity(algorithm(env=env))
    assert "rules" not in identity(SACControl(env="acrobot"))
    assert "rules" not in identity(PPOControl(env="pendulum"))
    assert "rules" not in identity(TRPOControl(env="pendulum"))


def test_a_shared_trunks_features_have_changed_off_policy_where_the_critic_alone_trains_it():
    for separation in (1, "1", "early", "shared"):
        assert identity(SACControl(env="acrobot", separation=separation))["rules"] == {"shared_features": 2}
    for same in ({"separation": "full"}, {"separation": 0}, {"separation": "0"}, {"policy_gradient": 1.0}):
        assert "rules" not in identity(SACControl(env="acrobot", **{"separation": 1} | same))
    assert "rules" not in identity(SACControl(env="acrobot", separation=1, value_gradient=0.0))
    assert "rules" not in identity(PPOControl(env="acrobot", separation=1, policy_gradient=0.0))


def test_ddcpgs_loss_has_changed():
    assert identity(CONTROL_ALGORITHMS["ddcpg"](env="acrobot"))["rules"] == {"dynamics_loss": 2}
    assert "rules" not in identity(CONTROL_ALGORITHMS["dcpg"](env="acrobot"))


def test_a_rule_can_ask_the_task_for_the_bounds_of_its_actions(monkeypatch):
    rule = Rule(3, "now so", lambda s, unit: s["algorithm"] == "ppo" and not unit())
    monkeypatch.setitem(RULES, "unit", rule)
    assert identity(PPOControl(env="pendulum"))["rules"] == {"unit": 3}
    assert "rules" not in identity(PPOControl(env="foodcollector"))
    assert "rules" not in identity(TRPOControl(env="pendulum"))


@pytest.mark.parametrize(
    ("env", "unit"),
    [
        *(("pendulum", False), ("toy", False), ("acrobot", True), ("pong", True), ("foodcollector", True)),
        *(("unity", True), ("MountainCarContinuous-v0", True), ("Pendulum-v1", False), ("CartPole-v1", True)),
    ],
)
def test_tasks_whose_actions_are_discrete_or_between_minus_one_and_one(env, unit):
    assert unit_actions({"env": env}) is unit


def test_results_that_rest_on_another_version_of_a_rule_are_told_in_words():
    settings = {"env": "pong"}
    assert outdated({"pong_limit": 2}, settings, lambda: True) == []
    assert outdated({}, {"env": "toy"}, lambda: True) == []
    (old,) = outdated({}, settings, lambda: True)
    assert old.startswith(f"rule pong_limit: version 1 there, and 2 in decouple {VERSION} (a game of Pong")
    (newer,) = outdated({"later": 2}, {"env": "toy"}, lambda: True)
    assert newer == f"rule later: version 2 there, and 1 in decouple {VERSION}"


@dataclass
class Experiment:
    """Some settings, of which `gamma` is older than the others."""

    gamma: float = 0.9
    env: str = "a"
    run_dir: str = "x"
    later: float | None = None
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])


def test_a_setting_at_its_default_enters_only_where_it_always_has():
    def of(**settings: Any) -> dict[str, Any]:
        return identity_of(
            Experiment(**settings), {"gamma"}, leave_out={"run_dir"}, unit_actions=lambda: pytest.fail("not asked")
        )

    assert of() == of(run_dir="y") == {"gamma": 0.9}
    assert of(later=1.0, sizes=[1]) == {"gamma": 0.9, "later": 1.0, "sizes": [1]}
    assert of(later=None, sizes=[1, 2], env="b") == {"gamma": 0.9, "env": "b"}


@pytest.mark.parametrize(("algorithm", "run"), [("sac", "sac_pixelcopter"), ("td3", "td3_toy"), ("ppo", "ppo_acrobot")])
def test_what_was_in_an_identity_of_0_1_is_in_it_still(algorithm, run):
    saved = load_checkpoint(OF_0_1 / run / "checkpoint.pt")["settings"]
    keys = CONTROL_ALGORITHMS[algorithm].keys.defaults.keys()
    assert set(saved) == keys & SETTINGS_OF_CONTROL - NOT_IDENTITY


def test_settings_of_gates_are_compared_only_where_gates_learn(tmp_path):
    """A run at k had the prices of the whole in its checkpoint, and goes on without them."""
    gates, file = {"gate_prices": [0.03, 0.3], "gate_rate": 0.5}, tmp_path / "checkpoint.pt"
    for separation in (1, "full", "learned"):
        own: dict[str, Any] = {"env": "acrobot", "separation": separation, "actor": [4], "critic": [4]}
        save_checkpoint(file, {"settings": identity(PPOControl(**own, **gates))})
        if separation != "learned":
            assert load_checkpoint(file, expect=identity(PPOControl(**own)))["settings"]["gate_rate"] == 0.5
            continue
        with pytest.raises(CheckpointError, match=r"gate_prices: checkpoint has \[0\.03, 0\.3\].*\n  gate_rate"):
            load_checkpoint(file, expect=identity(PPOControl(**own)))
    assert idle_settings({"gate_rate": 1.0}) == set()  # somebody's own settings, without a separation


# --------------------------------------------------------------------------------------------- what decouple 0.1 wrote


def test_a_run_of_0_1_goes_on(of_0_1):
    config = SACControl(env="pixelcopter", run_dir=str(of_0_1 / "sac_pixelcopter"), **OFF)
    before = json.loads((of_0_1 / "sac_pixelcopter" / "result.json").read_text())
    assert done_result(config) == before
    assert len(load_agents(config.run_dir)) == 1
    longer = changed(config, total_frames=400, keep_replay=True)
    assert done_result(longer) is None
    rows = read_metrics(config.run_dir)
    train_agents(longer)
    after = read_metrics(config.run_dir)
    assert after["frames"] == [50, 100, 150, 200, 250, 300, 350, 400]
    assert after["loss/critic"][1:4] == rows["loss/critic"][1:4]
    (first, second) = json.loads((Path(config.run_dir) / "record.json").read_text())["sessions"]
    assert (first["packages"]["decouple"], second["packages"]["decouple"]) == ("0.1.0", VERSION)


def test_a_run_of_0_1_on_policy_goes_on(of_0_1):
    config = PPOControl(env="acrobot", run_dir=str(of_0_1 / "ppo_acrobot"), **ON | {"total_frames": 200})
    train_agents(config)
    assert read_metrics(config.run_dir)["frames"] == [50, 100, 150, 200]


def test_a_run_of_0_1_under_a_rule_that_has_changed_is_refused_by_name(of_0_1):
    config = PPOControl(env="pong", frame_skip=4, run_dir=str(of_0_1 / "ppo_pong"), **ON)
    refused = r"checkpoint\.pt, written by decouple 0\.1, .* other rules; .*\n  rule pong_limit: version 1 .* 100,000"
    for refuses in (done_result, train_agents):
        with pytest.raises(CheckpointError, match=refused):
            refuses(config)
    assert json.loads((of_0_1 / "ppo_pong" / "result.json").read_text())["frames"] == 100
    load_agents(config.run_dir)  # it can be looked at


def test_a_run_of_0_1_whose_critics_read_other_units_is_refused_by_name(of_0_1):
    config = TD3Control(env="toy", run_dir=str(of_0_1 / "td3_toy"), **OFF)
    refused = (
        r"checkpoint\.pt, written by decouple 0\.1, .* other rules; .*\n  rule action_unit: version 1 .* \[-1, 1\]"
    )
    for refuses in (done_result, train_agents):
        with pytest.raises(CheckpointError, match=refused):
            refuses(config)
    with pytest.raises(CheckpointError, match=r"td3_toy.*critics of rule action_unit: version 1 there, and 2 in"):
        load_agents(config.run_dir)
    model, _ = trained_actor(
        load_checkpoint(of_0_1 / "td3_toy" / "checkpoint.pt"), agent=0
    )  # its actors are as they were
    assert model.get_policy_operator()(observation=torch.zeros(1, 1)).abs() <= 2


def test_a_run_of_this_version_in_the_unit_goes_on_and_gives_its_agents(tmp_path):
    config = TD3Control(env="toy", run_dir=str(tmp_path / "run"), **OFF | {"keep_replay": True})
    train_agents(config)
    assert done_result(config) is not None and len(load_agents(config.run_dir)) == 1
    train_agents(changed(config, total_frames=300))


def test_a_checkpoint_of_this_version_is_named_by_it(tmp_path):
    config = SACControl(env="pixelcopter", run_dir=str(tmp_path / "run"), **OFF | {"total_frames": 100})
    train_agents(config)
    refused = rf"written by decouple {VERSION}, is from a run with other settings; .*\n  gamma: .*0\.99.*0\.5"
    with pytest.raises(CheckpointError, match=refused):
        done_result(changed(config, gamma=0.5))


def test_a_store_of_0_1_goes_on_and_a_cell_under_a_rule_that_has_changed_is_another_one(of_0_1):
    store = CellStore(of_0_1 / "study" / "cells.sqlite")
    returns = json.loads((of_0_1 / "study" / "returns.json").read_text())
    kept, changed = SACControl(env="pixelcopter", seeds=2, **OFF), PPOControl(env="pong", seeds=2, frame_skip=4, **ON)
    asked = []

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        asked.append((config.env, config.all_seeds))
        return {"final/return": 0.25, **{f"final/return/seed{seed}": 0.25 for seed in config.all_seeds}}

    assert train_cells([kept, changed], store, train) == [returns["pixelcopter"], [0.25, 0.25]]
    assert asked == [("pong", [0, 1])]
    assert [batch.version for config in (kept, changed) for batch in store.batches(cell_of(config))] == [None, VERSION]
    assert train_cells([dataclasses.replace(kept, seeds=3)], store, train) == [[*returns["pixelcopter"], 0.25]]
    assert len(store.cells()) == 4  # the old cell of Pong is there still


def test_a_report_does_not_mix_cells_of_0_1_with_those_of_new_rules(of_0_1):
    store = CellStore(of_0_1 / "study" / "cells.sqlite")
    tasks = [study.task for study in read_studies(store)]
    assert "pixelcopter" in tasks and "pong" not in tasks
    new = PPOControl(env="pong", seeds=1, frame_skip=4, **ON)
    train_cells([new], store, lambda config, go_on: {"final/return": 0.5})
    (pong,) = (study for study in read_studies(store) if study.task == "pong")
    assert [cell.measures["return"] for cell in pong.cells] == [{0: 0.5}]


@pytest.fixture
def with_settings_that_are_new(monkeypatch):
    """SAC with a setting of its own and one of the run that 0.1 did not have."""

    @dataclass
    class Momentum(SACSettings):
        momentum: float = 0.5

    @dataclass
    class Noted(ControlSettings):
        note: str = ""

    keys = FlatKeys("SACControl", Noted, {"learning": Momentum}, {**SACControl.keys.departures, "momentum": 0.7})
    monkeypatch.setitem(CONTROL_ALGORITHMS, "sac", dataclasses.replace(SACControl, keys=keys))
    return CONTROL_ALGORITHMS["sac"]


def test_new_settings_at_their_defaults_refuse_no_checkpoint_and_lose_no_cell(of_0_1, with_settings_that_are_new):
    new = with_settings_that_are_new
    config = new(env="pixelcopter", run_dir=str(of_0_1 / "sac_pixelcopter"), **OFF)
    assert config.learning.momentum == 0.7 and config.note == ""
    assert done_result(config) is not None
    with pytest.raises(CheckpointError, match=r"momentum: checkpoint has no such setting, this run has 0\.1"):
        done_result(changed(config, momentum=0.1))
    with pytest.raises(CheckpointError, match=r"note: checkpoint has no such setting, this run has 'other'"):
        done_result(changed(config, note="other"))
    store = CellStore(of_0_1 / "study" / "cells.sqlite")
    assert len(store.returns(cell_of(new(env="pixelcopter", seeds=2, **OFF)))) == 2
    for other in ({"momentum": 0.1}, {"note": "other"}):
        assert store.returns(cell_of(new(env="pixelcopter", seeds=2, **other, **OFF))) == {}
    train_agents(changed(config, total_frames=400, keep_replay=True))  # the kept checkpoint goes on
    assert read_metrics(config.run_dir)["frames"][-1] == 400


def sweep_result(monkeypatch: pytest.MonkeyPatch, config: ControlSettings) -> dict[str, float] | None:
    """The result of a job in a sweep, of a run in whose config.yaml `run_dir` is where it now lies."""
    monkeypatch.setattr(sweeps, "in_sweep", lambda: True)
    folder = Path(config.run_dir)
    text = (folder / "config.yaml").read_text().replace(f"run_dir: {folder.name}\n", f"run_dir: {folder}\n")
    (folder / "config.yaml").write_text(text)
    os.utime(folder / "result.json", (time.time() + 10,) * 2)  # written last
    return sweeps.sweep_result(config)


def test_a_sweeps_job_of_0_1_that_is_done_is_read_though_there_are_new_settings(
    of_0_1, with_settings_that_are_new, monkeypatch
):
    new, run_dir = with_settings_that_are_new, str(of_0_1 / "sac_pixelcopter")
    config = new(env="pixelcopter", run_dir=run_dir, keep_replay=True, **OFF)
    assert sweep_result(monkeypatch, config) == json.loads((of_0_1 / "sac_pixelcopter" / "result.json").read_text())
    assert sweep_result(monkeypatch, dataclasses.replace(config, restart=True)) is None


def test_a_sweeps_job_of_0_1_under_an_old_rule_is_not_taken_for_one_of_the_new(of_0_1, monkeypatch):
    config = PPOControl(env="pong", frame_skip=4, run_dir=str(of_0_1 / "ppo_pong"), **ON)
    with pytest.raises(CheckpointError, match="rule pong_limit"):
        sweep_result(monkeypatch, config)
