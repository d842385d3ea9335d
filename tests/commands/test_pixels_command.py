"""experiments/pixels.py: pictures of a task by command, trained on levels and tested on others, and started again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import Script, composing

from decouple.commands.control import learned
from decouple.commands.settings import control_settings
from decouple.runs.metrics import read_metrics

pytest.importorskip("gymnasium")

PIXELS = Script("pixels.py")
# Tasks of tests/odd_spaces.py; what is trained learns nothing.
HERE = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"
TINY = (
    *(
        "env=odd_spaces:Odd/Picture-v0",
        "num_envs=2",
        "rollout_steps=16",
        "minibatches=2",
        "epochs=1",
        "evaluate_every=1",
    ),
    *("evaluate_episodes=1", "final_episodes=2", "num_threads=1"),
)


@pytest.mark.parametrize("algorithm", ["ppo", "daac", "idaac", "trpo"])
def test_the_page_composes_with_every_on_policy_algorithm(algorithm):
    with composing("pixels") as configuration:
        settings = control_settings(configuration("env=acrobot", f"algorithm={algorithm}"))
    assert (settings.actor, settings.critic, settings.backbone) == ([], [], "auto")
    assert settings.num_envs == (1 if algorithm == "trpo" else 16)


@pytest.mark.parametrize("algorithm", ["ppo", "daac", "ppg", "trpo", "sac"])
def test_the_preset_of_atari_has_its_wrappers_and_ppos_settings_and_what_is_given_wins(algorithm):
    own = 'wrappers=["gymnasium.wrappers:AtariPreprocessing(screen_size=42, frame_skip=8)"]'
    with composing("pixels") as configuration:
        asked = ("env=ALE/Pong-v5", f"algorithm={algorithm}", "preset=atari")
        settings = control_settings(configuration(*asked), given=["learning_starts"])
        other = control_settings(configuration(*asked, own, "num_envs=2"))
        plain = control_settings(configuration("env=ALE/Pong-v5", f"algorithm={algorithm}"))
    assert settings.wrappers == ["gymnasium.wrappers:AtariPreprocessing(screen_size=84)"]
    assert (settings.backbone, settings.frame_stack, settings.env_kwargs["frameskip"]) == ("nature", 4, 1)
    assert other.wrappers[0].endswith("(screen_size=42, frame_skip=8)") and other.num_envs == 2
    assert not plain.wrappers and plain.backbone == "auto"
    if algorithm in ("ppo", "daac", "ppg"):
        learning = settings.learning
        assert (settings.num_envs, learning.rollout_steps, learning.clip_epsilon) == (8, 128, 0.1)
        assert learning.schedule == "linear" and settings.separation == "shared" and settings.policy_gradient == 1


def test_an_agent_reads_pictures_of_training_levels_and_is_tested_on_others(tmp_path):
    command = (*TINY, "run_dir=run", "num_levels=3", "separation=late", "seeds=2", "frame_stack=2")
    ran = PIXELS.run(tmp_path, *command, "total_frames=64", before=HERE)
    assert ran.returncode == 0, ran.stderr
    assert "on train levels" in ran.stdout and "generalisation gap" in ran.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for seed in (0, 1):
        train, test, gap = (
            result[f"final/{m}/seed{seed}"] for m in ("train_return", "test_return", "generalisation_gap")
        )
        assert gap == train - test and result[f"final/return/seed{seed}"] == test
    assert "eval/generalisation_gap/seed1" in read_metrics(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "record.json").read_text())["sessions"][0]["facts"]
    assert json.loads(facts["multiply_adds"])["trunk"] > 0  # late: two stages are shared

    longer = PIXELS.run(tmp_path, *command, "total_frames=128", before=HERE)
    assert longer.returncode == 0, longer.stderr
    assert "going on from 64 frames" in longer.stderr


def test_a_learned_separation_of_blocks_that_read_pictures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with composing("pixels") as configuration:
        asked = (*TINY, "total_frames=128", "minibatches=4", "separation=learned", "gate_prices=[9]", "gate_rate=1")
        settings = control_settings(configuration(*asked, "algorithm=daac", "value_epochs=2", f"run_dir={tmp_path}"))
    best = learned(settings)
    with open(tmp_path / "learned.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["k"] == "4" and len(row["gates"].split()) == 4  # of the IMPALA-CNN
    assert int(row["multiply_adds_at_k"]) < int(row["multiply_adds"])
    assert best == json.loads((tmp_path / "k4" / "result.json").read_text())["final/return"]


def test_a_task_without_a_picture_refuses_a_backbone(tmp_path):
    ran = PIXELS.run(tmp_path, "env=CartPole-v1", "backbone=impala", "run_dir=run")
    assert ran.returncode == 1 and "ValueError: backbone must be auto or none on CartPole-v1" in ran.stderr
    ran = PIXELS.run(tmp_path, *TINY, "run_dir=run", "wrappers=[gymnasium:Env]", before=HERE)
    assert ran.returncode == 1 and "ValueError: wrappers must be of Gymnasium wrappers" in ran.stderr
    assert not (tmp_path / "run").exists()


def test_an_agent_of_pictures_is_exported_and_its_task_has_its_wrappers(tmp_path):
    around = ("wrappers=[gymnasium.wrappers:FlattenObservation]", "backbone=none", "total_frames=32")
    ran = PIXELS.run(tmp_path, *TINY, "run_dir=run", *around, "actor=[4]", "critic=[4]", before=HERE)
    assert ran.returncode == 0, ran.stderr
    check_exported(tmp_path, "run")
    ran = PIXELS.run(tmp_path, *TINY, "total_frames=32", "frame_stack=2", "run_dir=other", before=HERE)
    assert ran.returncode == 0, ran.stderr
    check_exported(tmp_path, "other")


def check_exported(folder: Path, run: str) -> None:
    options = ("format=pt2", "seconds=0", "batch_sizes=[1]", "observations=4", "episodes=2")
    ran = Script("export.py").run(folder, f"checkpoint={run}", *options, before=HERE)
    assert ran.returncode == 0, ran.stderr
    assert (folder / run / "actor_seed0.pt2").exists()
