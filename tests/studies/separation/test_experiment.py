"""The Procgen experiment's own functions: its networks and levels, runs that go on, and evaluations of checkpoints."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_same, checkpoint_of
from marks import needs_games
from procgen_runs import TINY, compose, needs_procgen, train

from decouple.commands.procgen import table
from decouple.envs.procgen.levels import first_frames, training_fingerprints
from decouple.networks.actor_value import ActorValue
from decouple.networks.blocks import SqueezeExcitation
from decouple.networks.recurrence import RecurrentBlock
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.finished import run_checkpoint
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed
from decouple.studies.separation import experiment
from decouple.studies.separation.run_folders import read_run
from decouple.studies.separation.settings import procgen_experiment


@needs_games
@pytest.mark.parametrize("k", range(5))
def test_attention_stands_in_the_separated_stages_but_never_before_three_channels(k):
    config = compose(f"separation='{k}'", "attention=true", "num_threads=1", "num_envs=1")
    env = experiment.make_env(config, 1, 0, test=False, training=True)
    model = experiment.make_model(config, env)
    env.close()

    def stages_with_attention(part: str) -> int:
        blocks = model.module[part].module
        return sum(any(isinstance(m, SqueezeExcitation) for m in block.modules()) for block in blocks)

    assert isinstance(model, ActorValue) and model.at == k
    assert stages_with_attention("trunk") == 0
    assert stages_with_attention("policy") == stages_with_attention("value") == min(2, max(0, 3 - k))


MEMORY = ("recurrent=gru", "width=0.25", "sequence_length=8", "minibatches=4", "epochs=1")


@needs_procgen
@pytest.mark.parametrize(
    "options",
    [
        ("algorithm=ppo", "separation='5'", "precision=fp32"),
        pytest.param(
            ("algorithm=daac", "separation=full", "recurrent=lstm", "recurrent_in=actor", "value_epochs=1"),
            marks=pytest.mark.slow,  # as on control tasks, where it is quicker: test_recurrent_cell
        ),
    ],
)
def test_a_recurrent_agent_goes_on_with_its_memory_and_its_checkpoint_is_evaluated(options, tmp_path):
    whole = compose(*TINY, *MEMORY, *options, f"run_dir={tmp_path / 'whole'}")
    report = train(whole)
    for frames in (64, 128):
        train(changed(whole, total_frames=frames, run_dir=str(tmp_path / "broken")))
    assert_same(*(checkpoint_of(tmp_path / name) for name in ("whole", "broken")))
    _, model, frames = experiment.load_agent(run_checkpoint(str(tmp_path / "whole"))[1])
    recurrent = [block for block in model.modules() if isinstance(block, RecurrentBlock)]
    assert len(recurrent) == 1 and recurrent[0].hidden_size == 64 and frames == 128
    assert model.at == (5 if "separation='5'" in options else 0)
    assert read_run(tmp_path / "whole").k == model.at
    _, again = experiment.evaluate_checkpoint(changed(whole, evaluate=str(tmp_path / "whole")), {"evaluate"})
    assert again == report


def test_a_memory_that_an_algorithm_or_a_setting_does_not_take_is_refused_by_name():
    for options, says in (
        (("algorithm=ppg",), "recurrent must be null for ppg: ppo and daac have it"),
        (("algorithm=idaac",), "recurrent must be null for idaac"),
        (("separation=learned",), "separation must be a point"),
        (("recurrent_in=trunk",), "recurrent_in must be one of"),
        (("recurrent=rnn",), "recurrent must be gru, lstm or null"),
        (("separation='5'", "recurrent_in=critic"), r"separation must be a name or a whole number in \[0, 4\]; got 5"),
        (("separation='5'", "recurrent=null"), r"separation must be a name or a whole number in \[0, 4\]; got 5"),
        (("overlap=true",), "overlap must be false with gru"),
        (
            ("separation=learned", "recurrent=null", "device=cuda", "cuda_graphs=true"),
            "cuda_graphs must be false with separation=learned",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            compose("recurrent=gru", *options)
    assert procgen_experiment(recurrent="gru", num_envs=4, separation=5, precision="fp32").depth == 5


def test_performance_chooses_nothing_that_the_other_settings_refuse():
    fastest = {"performance": "fastest", "device": "cuda", "precision": "fp32"}
    chosen = procgen_experiment(**fastest).computed
    assert chosen.overlap and chosen.compile and chosen.cuda_graphs
    learned = procgen_experiment(**fastest, separation="learned").computed
    assert learned.overlap and learned.compile and not learned.cuda_graphs
    for memory in ({"recurrent": "gru"}, {"evaluate": "runs/x"}):  # which may be of a run with either
        held = procgen_experiment(**fastest, **memory)
        assert not (held.computed.overlap or held.computed.compile or held.computed.cuda_graphs)
    changed(held, separation="learned")
    changed(held, recurrent="gru")


@needs_games
def test_training_levels_test_levels_and_reward_scaling_are_where_they_belong():
    config = compose("num_levels=3", "start_level=50", "num_threads=1", "env=fruitbot")
    found = {}
    for test, training in ((False, True), (False, False), (True, False)):
        env = experiment.make_env(config, 16, 5, test=test, training=training)
        found[test, training] = set(env.reset()["level_seed"].flatten().tolist()), len(env.transform)
        env.close()
    assert found[False, True][0] == found[False, False][0] <= {50, 51, 52}
    assert max(found[True, False][0]) > 1000  # of all levels
    assert found[False, True][1] == found[False, False][1] + 1  # the scaling


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, float]]:
    """The settings and the final evaluation of a finished run of the tiny experiment."""
    config = compose(*TINY, "final_episodes=2", "checkpoint_every=1")
    config.run_dir = str(tmp_path_factory.mktemp("finished") / "run")
    return config, train(config)


@needs_procgen
def test_a_finished_run_started_again_evaluates_again_and_trains_no_further(finished):
    config, report = finished
    folder = Path(config.run_dir)
    before = (folder / "metrics.csv").read_bytes(), (folder / "checkpoint.pt").read_bytes()
    assert train(config) == report
    assert ((folder / "metrics.csv").read_bytes(), (folder / "checkpoint.pt").read_bytes()) == before


@needs_procgen
@pytest.mark.slow  # as on control tasks, where it is quicker: test_cell
def test_more_total_frames_go_on_and_equal_a_run_of_that_length(finished, tmp_path):
    config, _ = finished
    longer = changed(config, total_frames=192, run_dir=str(tmp_path / "longer"))
    train(longer)
    extended = changed(longer, run_dir=str(tmp_path / "extended"))
    Path(extended.run_dir).mkdir()
    for name in ("checkpoint.pt", "metrics.csv", "record.json"):
        (Path(extended.run_dir) / name).write_bytes((Path(config.run_dir) / name).read_bytes())
    train(extended)
    kept = [checkpoint_of(Path(c.run_dir)) for c in (longer, extended)]
    assert kept[0]["iteration"] == 3
    assert_same(*kept)


@needs_procgen
def test_evaluating_leaves_training_as_it_was(finished, tmp_path):
    config, _ = finished
    changes = {"evaluate_every": 1, "evaluate_episodes": 3, "unseen": "frame", "run_dir": str(tmp_path / "more")}
    more = changed(config, **changes)
    report = train(more)
    assert_same(*(checkpoint_of(Path(c.run_dir)) for c in (config, more)))
    metrics = read_metrics(more.run_dir)
    assert metrics["eval/repeated_levels"] == [0, 0]  # starpilot's frames
    assert metrics["eval/unseen_return"] == metrics["eval/test_return"]
    assert report["final/unseen_return"] == report["final/test_return"]


@needs_procgen
def test_a_run_with_another_setting_is_refused_and_the_setting_named(finished):
    config, _ = finished
    for name, value, says in (
        ("separation", "early", "separation: checkpoint has 'late', this run has 'early'"),
        ("seed", 1, "seed: checkpoint has 0, this run has 1"),
        ("learning_rate", 1e-3, "learning_rate: checkpoint has 0.0005, this run has 0.001"),
    ):
        before = (Path(config.run_dir) / "metrics.csv").read_bytes()
        with pytest.raises(CheckpointError, match=says):
            train(changed(config, **{name: value}))
        assert (Path(config.run_dir) / "metrics.csv").read_bytes() == before


@needs_procgen
def test_a_truncated_checkpoint_is_refused(finished, tmp_path):
    config, _ = finished
    whole = (Path(config.run_dir) / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="is truncated"):
        train(changed(config, run_dir=str(tmp_path)))


@needs_procgen
def test_a_folder_in_use_or_without_its_checkpoint_is_refused_and_a_restart_keeps_it(finished, tmp_path):
    config, _ = finished
    run = tmp_path / "run"
    shutil.copytree(config.run_dir, run)
    again = changed(config, run_dir=str(run))
    with lock_folder(run):
        for each in (again, changed(again, restart=True)):
            with pytest.raises(FolderInUseError, match=rf"run is held by process {os.getpid()} on "):
                train(each)
    table = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(table[: len(table) // 2])
    with pytest.raises(CheckpointError, match=r"metrics\.csv was cut: .*restart=true"):
        train(again)
    (run / "metrics.csv").write_bytes(table)
    (run / "checkpoint.pt").unlink()
    for other in (again, changed(again, separation="early")):
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt is gone, .*restart=true"):
            train(other)
    assert (run / "metrics.csv").read_bytes() == table
    lock_folder(run).release()  # an error lets it go
    train(changed(again, restart=True))
    assert (tmp_path / "run.1" / "metrics.csv").read_bytes() == table
    assert_same(*(checkpoint_of(Path(folder)) for folder in (run, config.run_dir)))


@needs_games
def test_unseen_episodes_are_those_on_levels_like_none_trained_on():
    config = compose("env=coinrun", "num_levels=40", "start_level=7", "num_threads=1")
    calls = []
    unseen = experiment.make_unseen(config, config, lambda *call: calls.append(call))
    assert not calls  # nothing is looked at before it is asked for
    found = unseen(50, experiment.FINAL_SEED)
    told = {"told_by": "layout", "num_threads": 1}
    seen = training_fingerprints("coinrun", 40, 7, **told)
    levels = itertools.islice(first_frames("coinrun", 50, seed=experiment.FINAL_SEED, **told), 50)
    assert found.tolist() == [fingerprint not in seen for _, fingerprint in levels]
    assert 0 < found.sum() < 50
    assert calls[0] == ("looking at training levels", 1, 40) and calls[-1] == ("looking at training levels", 40, 40)
    calls.clear()
    assert torch.equal(unseen(50, experiment.FINAL_SEED), found) and not calls  # looked at once
    for other in ({"unseen": None}, {"env": "maze"}, {"distribution_mode": "hard"}):
        assert experiment.make_unseen(changed(config, **other), config, print) is None
    assert experiment.make_unseen(config, changed(config, num_levels=0), print) is None


@needs_games
def test_a_checkpoint_evaluated_repeats_the_final_evaluation_and_takes_other_levels(finished):
    config, report = finished
    checkpoint = f"evaluate={Path(config.run_dir) / 'checkpoint.pt'}"
    settings = compose(checkpoint, "final_episodes=2", "num_threads=1", "unseen=null")
    used, again = experiment.evaluate_checkpoint(settings, {"evaluate", "final_episodes", "num_threads", "unseen"})
    assert again == report
    assert (used.num_envs, used.learning.rollout_steps) == (4, 16)  # the checkpoint's own

    seen, trained_on = [], []
    make_env, make_unseen = experiment.make_env, experiment.make_unseen
    experiment.make_unseen = lambda config, trained, progress: trained_on.append((config, trained))
    experiment.make_env = lambda config, *args, **options: (
        seen.append((config, options)) or make_env(config, *args, **options)
    )
    try:
        others = compose(checkpoint, "final_episodes=1", "num_threads=1", "num_levels=5", "start_level=1000")
        overrides = {"evaluate", "final_episodes", "num_threads", "num_levels", "start_level"}
        used, other = experiment.evaluate_checkpoint(others, overrides)
    finally:
        experiment.make_env, experiment.make_unseen = make_env, make_unseen
    assert {(config.num_levels, config.start_level) for config, _ in seen} == {(5, 1000)}
    assert [(c.num_levels, c.start_level) for c in trained_on[0]] == [(5, 1000), (200, 0)]  # those of the checkpoint
    assert other["final/train_return_std"] == 0  # of one episode
    assert "train return, levels 1000 to 1004" in table(used, other)


def test_beside_evaluate_only_what_an_evaluation_has_can_be_set():
    with pytest.raises(ValueError, match=r"with evaluate, only these can be set: backend, .*; got gamma, separation"):
        experiment.evaluate_checkpoint(compose("evaluate=x", "separation=early"), {"evaluate", "separation", "gamma"})
