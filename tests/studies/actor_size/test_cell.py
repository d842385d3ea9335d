"""A cell of the actor-size study: its networks, its settings, its run folder, and its agents taken back from it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import DAMAGES, damage
from marks import slow_but

from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed
from decouple.studies.actor_size.agents import OnPolicyAgents
from decouple.studies.actor_size.algorithms import (
    CONTROL_ALGORITHMS,
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
ON_QUICK = {"rollout_steps": 50, "num_envs": 2, "minibatches": 2, "auxiliary_every": 1, "auxiliary_minibatches": 1}


def cell(algorithm: str, folder: Path | None = None, **settings: Any) -> ControlSettings:
    quick = QUICK | (OFF_QUICK | {"total_frames": 200} if algorithm in OFF else ON_QUICK | {"total_frames": 200})
    run_dir = {} if folder is None else {"run_dir": str(folder)}
    sizes = {"env": "toy", "actor": [4], "critic": [8]}
    return CONTROL_ALGORITHMS[algorithm](**quick | sizes | run_dir | settings)


def model(algorithm: str, **settings: Any) -> ActorValue | ActorQValue:
    config = cell(algorithm, **settings)
    return make_model(config, make_env(config, 1, [0]))


@pytest.mark.parametrize("algorithm", sorted(CONTROL_ALGORITHMS.keys() - {"ddcpg"}))  # whose actions are discrete
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


def test_what_a_run_keeps_of_its_rollouts_is_told_at_its_start(tmp_path, capsys, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OnPolicyAgents, "train", stop)
    for algorithm, told in (("ppg", "; keeps 2 rollouts, 0.0 MB"), ("trpo", "")):
        own = {"auxiliary_past": 2} if told else {}
        config = cell(algorithm, tmp_path / algorithm, update="batched", show_progress=True, **own)
        with pytest.raises(KeyboardInterrupt):
            train_agents(config)
        first, *_ = capsys.readouterr().err.splitlines()
        assert first.endswith(f"the record goes to {tmp_path / algorithm}{told}")


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


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run that can go on, of which each test damages a copy."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train_agents(cell("ddpg", folder, total_frames=100, keep_replay=True))
    return folder


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
def test_a_run_with_a_damaged_file_does_not_go_on_and_says_which(begun, tmp_path, what):
    shutil.copytree(begun, tmp_path / "run")
    config = cell("ddpg", tmp_path / "run", total_frames=100, keep_replay=True)
    file = damage(tmp_path / "run", what)
    with pytest.raises((ValueError, CheckpointError), match=r"restart=true|older copy") as error:
        train_agents(changed(config, total_frames=150))
    assert str(file) in str(error.value)


@pytest.mark.filterwarnings("ignore:clip_value clips most")
def test_a_run_begun_with_the_clip_goes_on_with_it_alone(tmp_path):
    """What an earlier version began by default."""
    train_agents(cell("ppo", tmp_path / "run", clip_value=0.2))
    with pytest.raises(CheckpointError, match=r"clip_value: checkpoint has 0\.2, this run has None"):
        train_agents(cell("ppo", tmp_path / "run", total_frames=400))
    train_agents(cell("ppo", tmp_path / "run", total_frames=400, clip_value=0.2))
    assert read_metrics(tmp_path / "run")["frames"] == [100, 200, 300, 400]


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


# The others' actors are one of these four's.
each_actor = pytest.mark.parametrize("algorithm", slow_but(("ppo", "trpo", "sac", "td3"), CONTROL_ALGORITHMS))


@each_actor
@pytest.mark.parametrize("name", odd_spaces.PLAYED_SPACES)
def test_every_component_of_an_action_arrives_in_its_place(tmp_path, name, algorithm):
    space, played = odd_spaces.PLAYED_SPACES[name], odd_spaces.PLAYED[name]
    played.clear()
    discrete = isinstance(space, gymnasium.spaces.Discrete)
    if discrete and algorithm in ("td3", "ddpg"):
        with pytest.raises(ValueError, match="action_spec must be continuous for a deterministic policy"):
            train_agents(odd_cell(algorithm, name, tmp_path))
        return
    if algorithm == "ddcpg" and isinstance(space, gymnasium.spaces.Box):
        with pytest.raises(ValueError, match="model must have discrete actions for DDCPG"):
            train_agents(odd_cell(algorithm, name, tmp_path))
        return
    train_agents(odd_cell(algorithm, name, tmp_path))  # the task asserts that each action is in its space
    assert len(played) >= 60 + 10 * 3
    assert all(action.dtype == space.dtype and action.shape == space.shape for action in played)
    if algorithm in OFF:  # the first are uniform: the ends of each component are reached, or each choice made
        uniform = np.stack(played[:40])
        if discrete:
            assert set(uniform.tolist()) == set(range(space.start, space.start + space.n))
        else:
            margin = 0.2 * (space.high.astype(float) - space.low)
            assert (uniform.min(0) < space.low + margin).all() and (uniform.max(0) > space.high - margin).all()


@each_actor
@pytest.mark.parametrize("name", odd_spaces.ON_POLICY_SPACES)
def test_several_indices_and_actions_without_bounds_are_for_on_policy_algorithms(tmp_path, name, algorithm):
    space, played = odd_spaces.ON_POLICY_SPACES[name], odd_spaces.PLAYED[name]
    played.clear()
    if algorithm in OFF:
        with pytest.raises(
            ValueError, match=r"action_spec must be .* for SAC, TD3 and DDPG; PPO, DAAC, IDAAC and TRPO"
        ):
            train_agents(odd_cell(algorithm, name, tmp_path))
        return
    if algorithm == "ddcpg" and isinstance(space, gymnasium.spaces.Box):
        with pytest.raises(ValueError, match="model must have discrete actions for DDCPG"):
            train_agents(odd_cell(algorithm, name, tmp_path))
        return
    train_agents(odd_cell(algorithm, name, tmp_path))  # the task asserts that each action is in its space
    assert len(played) >= 60 + 10 * 3
    assert all(action.dtype == space.dtype and action.shape == space.shape for action in played)
    if space.dtype != np.float32:
        chosen = np.stack(played[:60])
        assert len(np.unique(chosen.reshape(60, -1), axis=0)) == {"MultiBinary": 8}.get(name, 6)  # every combination


@pytest.mark.parametrize("name", ["MultiDiscrete", "Unbounded"])
def test_agents_of_several_seeds_act_as_each_alone(tmp_path, name):
    together = train_agents(changed(odd_cell("ppo", name, tmp_path / "both"), seeds=2))
    alone = train_agents(changed(odd_cell("ppo", name, tmp_path / "one"), seed=1))
    assert together["final/return/seed1"] == alone["final/return"]


def test_a_normal_on_a_bounded_task_is_clipped_to_its_bounds(tmp_path):
    played = odd_spaces.PLAYED["Unequal"]
    played.clear()
    train_agents(changed(odd_cell("ppo", "Unequal", tmp_path / "run"), distribution="normal"))
    low = odd_spaces.PLAYED_SPACES["Unequal"].low
    assert (np.stack(played) == low).any(0).tolist() == [True, True, False]  # of a standard normal around 0
    with pytest.raises(ValueError, match="distribution must be auto for td3; got 'normal'"):
        changed(odd_cell("td3", "Unequal", tmp_path / "run"), distribution="normal")


@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
@pytest.mark.parametrize("name", odd_spaces.REFUSED_ACTIONS)
def test_actions_that_no_algorithm_takes_are_refused_by_their_space(tmp_path, name, algorithm):
    _, shown = odd_spaces.REFUSED_ACTIONS[name]
    says = f"actions are Discrete, MultiDiscrete, MultiBinary, or a Box of .* got {re.escape(shown)}"
    with pytest.raises(ValueError, match=says):
        train_agents(odd_cell(algorithm, name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", odd_spaces.REFUSED_OBSERVATIONS)
def test_observations_that_no_network_reads_are_refused_by_their_space(tmp_path, name):
    says = rf"observations are numbers .*; got {re.escape(odd_spaces.REFUSED_OBSERVATIONS[name][1])}"
    with pytest.raises(ValueError, match=says):
        train_agents(odd_cell("ppo", name, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
