"""A cell of the actor-size study: its networks, its settings, its run folder, and its agents taken back from it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import DAMAGES, damage
from tensordict import TensorDict
from torch import nn

from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.counting import parameter_count
from decouple.runs.checkpoint import CheckpointError, save_checkpoint
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed
from decouple.studies.actor_size.algorithms import (
    CONTROL_ALGORITHMS,
    PPOControl,
    SACControl,
    initial_agents,
    make_model,
)
from decouple.studies.actor_size.build import make_env, make_small_env
from decouple.studies.actor_size.cell import done_result, final_returns, train_agents
from decouple.studies.actor_size.load import load_agents
from decouple.studies.actor_size.settings import ControlSettings

gymnasium = pytest.importorskip("gymnasium")
import odd_spaces  # noqa: E402  (needs Gymnasium)

OFF = ("sac", "td3", "ddpg")
QUICK: dict[str, Any] = {"show_progress": False, "evaluate_episodes": 1, "final_episodes": 2}
OFF_QUICK = {"learning_starts": 20, "batch_size": 8, "log_every": 50, "evaluate_every": 100, "checkpoint_every": 50}
ON_QUICK = {"rollout_steps": 50, "num_envs": 2, "minibatches": 2}


def cell(algorithm: str, folder: Path | None = None, **settings: Any) -> ControlSettings:
    quick = QUICK | (OFF_QUICK | {"total_frames": 200} if algorithm in OFF else ON_QUICK | {"total_frames": 200})
    run_dir = {} if folder is None else {"run_dir": str(folder)}
    sizes = {"env": "toy", "actor": [4], "critic": [8]}
    return CONTROL_ALGORITHMS[algorithm](**quick | sizes | run_dir | settings)


def model(algorithm: str, **settings: Any) -> ActorValue | ActorQValue:
    config = cell(algorithm, **settings)
    return make_model(config, make_env(config, 1, [0]))


def test_actor_and_critic_have_the_sizes_asked_for():
    counts = parameter_count(model("td3", env="pendulum", actor=[4, 4], critic=[16, 16]))
    assert counts["policy"] == 3 * 4 + 4 + 4 * 4 + 4 + 4 * 1 + 1 == 41  # Table A.2, Pendulum |4,4|
    one_critic = (3 + 1) * 16 + 16 + 16 * 16 + 16 + 16 + 1
    assert counts["value"] == counts["twin"] == one_critic
    assert counts["total"] == 41 + 2 * one_critic
    assert "twin" not in parameter_count(model("ddpg", env="pendulum"))


def test_a_single_neuron_is_a_bare_linear_layer_for_actor_and_critic():
    neuron = model("ddpg", actor=[], critic=[])
    assert parameter_count(neuron) == {"trunk": 0, "policy": 2, "value": 3, "total": 5}
    assert parameter_count(model("ppo", actor=[], critic=[]))["value"] == 2
    weight, bias = neuron.policy_layer.weight.item(), neuron.policy_layer.bias.item()
    observation = torch.tensor([[0.7]])
    action = neuron.get_policy_operator()(TensorDict({"observation": observation}, [1]))["action"]
    assert action.item() == pytest.approx(2 * torch.tanh(torch.tensor(weight * 0.7 + bias)).item(), abs=1e-6)
    (critic,) = neuron.get_qvalue_operators()
    value = critic(TensorDict({"observation": observation, "action": torch.tensor([[0.3]])}, [1]))["state_action_value"]
    layer = neuron.module["value_head"].module  # which reads the action, of bounds +-2, in [-1, 1]
    assert value.item() == pytest.approx((layer.weight[0] @ torch.tensor([0.7, 0.15]) + layer.bias[0]).item(), abs=1e-6)


def test_activations_and_initialisations_are_settings_of_each_network():
    made = model("sac", actor_activation="tanh", critic_activation="elu", critic_gain=3.0, critic_head_gain=0.0)
    kinds = {name: {type(m) for m in made.module[name].modules()} for name in ("policy", "value", "twin")}
    assert nn.Tanh in kinds["policy"] and nn.ELU in kinds["value"] and nn.ELU in kinds["twin"]
    weight = made.module["twin"].module[0].linear.weight  # (8, 2), orthogonal with gain 3
    torch.testing.assert_close(weight.T @ weight, 9 * torch.eye(2), atol=1e-5, rtol=0)
    assert not made.module["value_head"].module.weight.any()


def test_a_shared_trunk_is_the_actors_first_layers():
    shared = model("td3", actor=[4, 6], critic=[9, 16], separation=1)
    assert shared.at == 1 and parameter_count(shared)["trunk"] == 1 * 4 + 4
    assert parameter_count(shared)["value"] == (4 + 1) * 16 + 16 + 16 + 1
    assert model("ppo", actor=[4, 6], critic=[9, 16], separation="shared").at == 2
    linear = model("sac", actor=[4, 6], critic=[9, 16], separation="shared")  # on the shared features and the action
    assert parameter_count(linear)["value"] == 6 + 1 + 1


def test_discrete_actions_get_a_value_each():
    made = model("sac", env="acrobot", actor=[16, 16], critic=[32, 32])
    assert parameter_count(made)["policy"] == 435  # Table A.2, Acrobot |16,16|
    assert made.module["value_head"].module.out_features == 3
    with pytest.raises(ValueError, match="action_spec must be continuous for a deterministic policy"):
        model("td3", env="acrobot")


@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
def test_every_algorithm_trains_records_and_gives_its_agents_back(tmp_path, algorithm):
    config = cell(algorithm, tmp_path / "run", seeds=2)
    report = train_agents(config)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved == {"frames": 200, **report}
    each = [report["final/return/seed0"], report["final/return/seed1"]]
    assert report["final/return"] == pytest.approx(sum(each) / 2)
    assert report["final/return_std"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    metrics = read_metrics(tmp_path / "run")
    assert metrics["frames"][-1] == 200 and "loss/critic/seed1" in metrics and "eval/return/seed0" in metrics
    assert (tmp_path / "run" / "curves.png").exists() and not (tmp_path / "run" / "replay.bin").exists()

    agents = load_agents(tmp_path / "run")
    fresh = [make_model(config, make_env(config, 1, [0]))]
    assert len(agents) == 2 and type(agents[0]) is type(fresh[0])
    assert not torch.equal(next(agents[0].parameters()), next(agents[1].parameters()))
    assert train_agents(config) == report  # done already: evaluated again, and the same
    assert ("final/value_bias/seed1" in report) == (algorithm in OFF)  # by the critics of actions


def test_what_critics_foretell_is_told_beside_what_comes(tmp_path):
    report = train_agents(cell("td3", tmp_path / "run"))
    difference = report["final/value_predicted"] - report["final/value_monte_carlo"]
    assert report["final/value_bias"] == pytest.approx(difference)
    assert report["final/value_monte_carlo"] < 0  # rewards of the toy problem are
    # 200 steps tell nothing of a return that reaches 10,000 steps ahead, and a scaled reward not what it was
    assert "final/value_bias" not in train_agents(cell("td3", tmp_path / "far", gamma=0.9999))
    scaled = cell("td3", tmp_path / "scaled", env="pendulum", normalize_reward=True)
    assert "final/value_bias" not in train_agents(scaled)


def test_a_finished_run_goes_on_to_more_frames_where_its_replay_was_kept(tmp_path):
    train_agents(cell("td3", tmp_path / "kept", keep_replay=True))
    longer = train_agents(cell("td3", tmp_path / "kept", keep_replay=True, total_frames=300))
    assert json.loads((tmp_path / "kept" / "result.json").read_text())["frames"] == 300
    assert longer == train_agents(cell("td3", tmp_path / "whole", total_frames=300))
    with pytest.raises(ValueError, match=r"total_frames must be at least 300, as far as the run in .* has come"):
        train_agents(cell("td3", tmp_path / "kept", keep_replay=True, total_frames=299))

    train_agents(cell("td3", tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="cannot go on without it"):
        train_agents(cell("td3", tmp_path / "gone", total_frames=300))


def test_torchrls_own_losses_are_a_setting(tmp_path):
    report = train_agents(cell("td3", tmp_path / "run", update="torchrl"))
    assert set(report) == {
        "final/return",
        "final/return_std",
        *(f"final/value_{what}" for what in ("predicted", "monte_carlo", "bias")),
    }
    assert len(load_agents(tmp_path / "run")) == 1


def test_rewards_of_evaluation_are_raw_and_its_observations_scaled_as_in_training():
    config = cell("ppo", env="pendulum", normalize_observation=True, normalize_reward=True, gamma=0.0)
    train_env = make_env(config, 1, [0, 1])
    train_env.rollout(30)
    fresh = make_env(config, 3, [5, 6], like=train_env)
    assert fresh.observation_statistics is train_env.observation_statistics
    assert fresh.rollout(100)["next", "reward"].min() < -10  # scaled ones are clipped there
    raw = make_env(cell("ppo", env="pendulum"), 3, [5, 6]).reset()["observation"]  # (2, 3, 3)
    statistics = train_env.observation_statistics
    expected = ((raw - statistics.mean[:, None]) / (statistics.variance[:, None] + 1e-8) ** 0.5).clamp(-10, 10)
    scaled = make_env(config, 3, [5, 6], like=train_env).reset()["observation"]
    torch.testing.assert_close(scaled, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_a_finished_run_that_was_normalised_is_evaluated_again_to_the_same(tmp_path, algorithm):
    config = cell(algorithm, tmp_path / "run", env="pendulum", normalize_observation=True, seeds=2)
    assert train_agents(config) == train_agents(config)
    with pytest.raises(ValueError, match="run_dir must be of a run without normalize_observation"):
        load_agents(tmp_path / "run")


def test_a_result_is_done_where_it_has_its_frames_and_its_settings(tmp_path):
    config = cell("ddpg", tmp_path / "run")
    assert done_result(config) is None
    report = train_agents(config)
    assert done_result(config) == {"frames": 200, **report}
    for total_frames in (199, 300):  # too many is not what was asked for either
        assert done_result(cell("ddpg", tmp_path / "run", total_frames=total_frames)) is None
    with pytest.raises(CheckpointError, match="learning_rate"):
        done_result(cell("ddpg", tmp_path / "run", learning_rate=0.5))


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.mark.parametrize("algorithm", ["td3", "ppo"])
def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path, algorithm):
    run = tmp_path / "run"
    train_agents(cell(algorithm, run))
    with lock_folder(run):
        before = contents(run)
        for settings in ({}, {"total_frames": 400}, {"restart": True}):
            with pytest.raises(FolderInUseError, match=rf"run is held by process {os.getpid()} on "):
                train_agents(cell(algorithm, run, **settings))
        assert done_result(cell(algorithm, run)) is not None and len(load_agents(run)) == 1  # who reads needs no lock
        assert contents(run) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("algorithm", "other"), [("td3", "ddpg"), ("ppo", "trpo")])
def test_a_run_whose_checkpoint_is_gone_is_not_begun_anew_in_silence(tmp_path, algorithm, other):
    run = tmp_path / "run"
    train_agents(cell(algorithm, run, keep_replay=algorithm == "td3"))
    (run / "checkpoint.pt").unlink()
    before = contents(run)
    for refused in (algorithm, other):
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt is gone, and .*rows up to 200 .*restart=true"):
            train_agents(cell(refused, run))
    (run / "checkpoint.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is a link to .*elsewhere\.pt, which is gone"):
        train_agents(cell(algorithm, run))
    (run / "checkpoint.pt").unlink()
    assert contents(run) == before | {".lock": contents(run)[".lock"]}


def test_a_restart_begins_anew_and_keeps_what_was_there(tmp_path):
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    train_agents(cell("td3", run, keep_replay=True))
    before = contents(run)
    (run / "config.yaml").write_bytes(b"\xff")  # whatever is damaged
    train_agents(cell("ddpg", run, restart=True))
    after = contents(tmp_path / "run.1")
    assert {**after, ".lock": b""} == {**before, ".lock": b"", "config.yaml": b"\xff"}
    train_agents(cell("ddpg", fresh))
    tables = [{k: v for k, v in read_metrics(folder).items() if "time/" not in k} for folder in (run, fresh)]
    assert str(tables[0]) == str(tables[1])
    assert contents(run)["result.json"] == contents(fresh)["result.json"]
    assert done_result(cell("ddpg", run)) is not None  # a restart is no part of what it is


@pytest.mark.parametrize("size", [0, 1000])
def test_a_replay_that_was_cut_is_refused_and_left_as_it_is(tmp_path, size):
    run = tmp_path / "run"
    train_agents(cell("td3", run, keep_replay=True))
    os.truncate(run / "replay.bin", size)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"replay\.bin was cut: it has {size:,} bytes of .*restart=true"):
            train_agents(cell("td3", run, total_frames=400))
        assert (run / "replay.bin").stat().st_size == size


@pytest.mark.parametrize("algorithm", ["td3", "ppo"])
def test_a_table_that_was_cut_in_half_is_refused(tmp_path, algorithm):
    train_agents(cell(algorithm, tmp_path, keep_replay=algorithm == "td3"))
    table = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(table[: len(table) // 2])
    with pytest.raises(CheckpointError, match=r"metrics\.csv was cut: it has .*restart=true"):
        train_agents(cell(algorithm, tmp_path, total_frames=400))
    assert (tmp_path / "metrics.csv").read_bytes() == table[: len(table) // 2]


@pytest.mark.parametrize("algorithm", ["ddpg", "sac", "ppo"])
def test_agents_are_evaluated_as_at_the_end_of_their_run(tmp_path, algorithm):
    config = cell(algorithm, tmp_path / "run", seeds=2, final_episodes=3)
    report = train_agents(config)
    expected = [report[f"final/return/seed{seed}"] for seed in config.all_seeds]
    assert final_returns(config, load_agents(tmp_path / "run")) == pytest.approx(expected, rel=1e-4)
    before = torch.get_rng_state()
    starts = initial_agents(config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(config.seed + 1)  # as the second agent alone
    alone = make_model(config, make_small_env(config))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), starts[1].parameters(), strict=True))
    assert final_returns(config, starts) != pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="normalize_observation must be false"):
        final_returns(cell(algorithm, env="pendulum", normalize_observation=True), starts)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff", b'{"frames": null}'])
def test_a_damaged_result_is_refused_by_file_with_the_way_out(tmp_path, content):
    config = cell("ddpg", tmp_path / "run")
    report, file = train_agents(config), tmp_path / "run" / "result.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"result.json must .*; delete it, and the same command evaluates") as error:
        done_result(config)
    assert str(error.value).startswith(str(file))
    file.unlink()
    assert done_result(config) is None and train_agents(config) == report


@pytest.mark.parametrize("what", [what for what in DAMAGES if "result" not in what])
def test_a_run_with_a_damaged_file_does_not_go_on_and_says_which(tmp_path, what):
    config = cell("ddpg", tmp_path / "run", total_frames=100, keep_replay=True)
    train_agents(config)
    file = damage(tmp_path / "run", what)
    with pytest.raises((ValueError, CheckpointError), match=r"restart=true|older copy") as error:
        train_agents(changed(config, total_frames=150))
    assert str(file) in str(error.value)


def test_a_checkpoint_of_something_else_holds_no_agents(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": {"algorithm": "sac"}, "frames": 10})
    with pytest.raises(CheckpointError, match=r"checkpoint.pt must hold agents of train_agents"):
        load_agents(tmp_path)


def test_agents_come_back_whatever_their_intervals_were(tmp_path):
    train_agents(cell("td3", tmp_path / "run", log_every=30, evaluate_every=60, checkpoint_every=60))
    assert len(load_agents(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("algorithm", "setting", "says"),
    [
        ("sac", {"seeds": 0}, "seeds must be a whole number, at least 1; got 0"),
        ("sac", {"actor": [4, 0]}, r"actor must be a list of positive sizes; got \[4, 0\]"),
        ("sac", {"critic_activation": "swish"}, r"critic_activation must be one of \['elu'.*got 'swish'"),
        ("sac", {"update": "torchrl", "seeds": 2}, "update must be batched for more than one seed and for sac"),
        ("ppo", {"update": "torchrl"}, "update must be batched for more than one seed and for ppo"),
        ("sac", {"seed": 2**31}, r"seed must be .*; got 2147483648"),
        ("td3", {"gamma": 2.0}, r"gamma must be in \[0, 1\]; got 2.0"),
    ],
)
def test_bad_settings_are_refused_by_name(algorithm, setting, says):
    with pytest.raises(ValueError, match=says):
        cell(algorithm, **setting)


def test_ppo_clips_values_where_rewards_are_normalised_unless_told_otherwise():
    assert cell("ppo").learning.clip_value is None
    assert cell("ppo", normalize_reward=True).learning.clip_value == 0.2
    assert cell("ppo", clip_value=0.3).learning.clip_value == 0.3
    assert cell("ppo", normalize_reward=True, clip_value=None).learning.clip_value is None
    assert cell("trpo").learning.clip_value == 0.2  # plays no part there, and is what its checkpoints have
    with pytest.raises(ValueError, match="clip_value must be positive and finite, or None; got 'on'"):
        cell("ppo", clip_value="on")


@pytest.mark.filterwarnings("ignore:clip_value clips most")
def test_a_run_begun_with_the_clip_goes_on_with_it_alone(tmp_path):
    """What an earlier version began by default."""
    train_agents(cell("ppo", tmp_path / "run", clip_value=0.2))
    with pytest.raises(CheckpointError, match=r"clip_value: checkpoint has 0\.2, this run has None"):
        train_agents(cell("ppo", tmp_path / "run", total_frames=400))
    train_agents(cell("ppo", tmp_path / "run", total_frames=400, clip_value=0.2))
    assert read_metrics(tmp_path / "run")["frames"] == [100, 200, 300, 400]


def test_an_algorithms_settings_have_its_name():
    with pytest.raises(ValueError, match=r"algorithm must be \['sac'\] for SACControl; got 'td3'"):
        SACControl(algorithm="td3")
    with pytest.raises(ValueError, match=r"algorithm must be \['ppo'\] for PPOControl; got 'daac'"):
        PPOControl(algorithm="daac")


@pytest.mark.parametrize("env", ["toy", "pong"])
@pytest.mark.parametrize("normalize", ["normalize_observation", "normalize_reward"])
def test_the_toy_problem_and_the_games_are_not_normalised(env, normalize):
    with pytest.raises(ValueError, match=f"normalize_observation and normalize_reward must be false on env={env}"):
        train_agents(cell("ppo", env=env, **{normalize: True}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"env": "pendulum", "frame_skip": 4}, "frame_skip must be 1 on env=pendulum: only pong, pixelcopter"),
        ({"env": "toy", "frame_skip": 2}, "frame_skip must be 1 on env=toy"),
        ({"env": "pong", "backend": "batched"}, "backend must be auto on env=pong, which is no task of Gymnasium"),
        ({"env": "reacher", "backend": "batched"}, "backend must be auto or gymnasium for reacher"),
        ({"env": "unity"}, "file_name must be given with env=unity and with no other; got None"),
        ({"env": "pong", "file_name": "a.x86_64"}, "file_name must be given with env=unity and with no other; got 'a"),
        ({"env": "foodcollector", "num_envs": 4}, "num_envs must be a multiple of 5"),
    ],
)
def test_settings_that_the_task_does_not_have_are_refused(tmp_path, settings, says):
    config = cell("ppo", tmp_path / "run", **settings)
    with pytest.raises(ValueError, match=says):
        train_agents(config)
    assert not (tmp_path / "run").exists()


# Of a linear layer from 4 features: to 3 and to 2 logits, and to 4 means, with a scale each.
@pytest.mark.parametrize(
    ("env", "observed", "head"), [("pong", 7, 15), ("pixelcopter", 7, 10), ("foodcollector", 53, 24)]
)
def test_the_games_go_by_name(env, observed, head):
    config = cell("ppo", env=env, actor=[4], critic=[8], separation=0)
    made = make_env(config, 5, [3, 4])
    assert made.batch_size == (2, 5) and made.seeds == [3, 4]
    assert parameter_count(make_model(config, made))["policy"] == observed * 4 + 4 + head


@pytest.mark.parametrize(
    ("sizes", "seeds", "num_threads", "expected"),
    [([64, 64], 1, None, 1), ([64, 64], 6, None, 2), ([256, 256], 1, None, 2), ([], 6, None, 1), ([256, 256], 6, 1, 1)],
)
def test_threads_are_for_many_weights(monkeypatch, sizes, seeds, num_threads, expected):
    """64 * 64 * 6 = 24,576 weights between hidden layers are many, 4,096 are not."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    monkeypatch.setattr("decouple.studies.actor_size.cell._train", lambda *_: seen.append(torch.get_num_threads()))
    train_agents(cell("sac", actor=[4], critic=sizes, seeds=seeds, num_threads=num_threads))
    assert seen == [expected] and torch.get_num_threads() == 2
    torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------- odd spaces
def odd_cell(algorithm: str, name: str, folder: Path) -> ControlSettings:
    settings = {"env": f"Odd/{name}-v0", "total_frames": 60}
    return cell(algorithm, folder, **settings, **({"learning_starts": 40} if algorithm in OFF else {}))


@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
@pytest.mark.parametrize("name", odd_spaces.PLAYED_SPACES)
def test_every_component_of_an_action_arrives_in_its_place(tmp_path, name, algorithm):
    space, played = odd_spaces.PLAYED_SPACES[name], odd_spaces.PLAYED[name]
    played.clear()
    discrete = isinstance(space, gymnasium.spaces.Discrete)
    if discrete and algorithm in ("td3", "ddpg"):
        with pytest.raises(ValueError, match="action_spec must be continuous for a deterministic policy"):
            train_agents(odd_cell(algorithm, name, tmp_path))
        return
    train_agents(odd_cell(algorithm, name, tmp_path))  # the task asserts that each action is in its space
    assert len(played) >= 60 + 10 * 3
    assert all(action.dtype == space.dtype and action.shape == space.shape for action in played)
    if algorithm in OFF:  # the first are uniform: the ends of each component are reached, or each choice made
        uniform = np.stack(played[:40])
        if discrete:
            assert set(uniform.tolist()) == set(range(space.n))
        else:
            margin = 0.2 * (space.high.astype(float) - space.low)
            assert (uniform.min(0) < space.low + margin).all() and (uniform.max(0) > space.high - margin).all()


@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
@pytest.mark.parametrize("name", odd_spaces.REFUSED_ACTIONS)
def test_actions_that_no_algorithm_takes_are_refused_by_their_space(tmp_path, name, algorithm):
    says = f"actions are Discrete from 0, or a Box of .* got {re.escape(odd_spaces.REFUSED_ACTIONS[name][1])}"
    with pytest.raises(ValueError, match=says):
        train_agents(odd_cell(algorithm, name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", odd_spaces.REFUSED_OBSERVATIONS)
def test_observations_that_no_network_reads_are_refused_by_their_space(tmp_path, name):
    says = rf"observations are a Box of \(O,\) floats; got {re.escape(odd_spaces.REFUSED_OBSERVATIONS[name][1])}"
    with pytest.raises(ValueError, match=says):
        train_agents(odd_cell("ppo", name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", sorted(CONTROL_ALGORITHMS))
def test_gains_may_be_left_to_pytorch(algorithm):
    """As the toy problem's configs of PPO and TRPO leave them."""
    none = dict.fromkeys(["actor_gain", "critic_gain", "actor_head_gain", "critic_head_gain"])
    assert parameter_count(model(algorithm, **none))["total"] == parameter_count(model(algorithm))["total"]
