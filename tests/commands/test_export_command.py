"""experiments/export.py: the real command on real runs, small ones, and what it says of wrong ones."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Script
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from decouple.deploy.card import card_path
from decouple.deploy.compiled_c import c_compiler
from decouple.deploy.plain_actor import PlainActor
from decouple.envs.control.tasks import control_env
from decouple.envs.games.batched import GAMES, games_env
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.runs.files import read_json
from decouple.studies import file_playing
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents
from decouple.studies.distillation import sources
from decouple.studies.distillation.sources import read_source
from decouple.studies.export import Export, export
from decouple.studies.separation.experiment import prepare
from decouple.studies.separation.settings import procgen_experiment

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXPORT = Script("export.py")
NETWORKS = {"actor": [4, 4], "critic": [8, 8], "seeds": 2, "seed": 3}
QUIET = {"final_episodes": 1, "evaluate_episodes": 1, "show_progress": False, "tracker": "local"}
FAST = ("seconds=0", "observations=20", "batch_sizes=[1,3]", "episodes=2")


def trained(folder: Path, algorithm: str, **settings: object) -> Path:
    """The folder of a run that has hardly begun."""
    run_dir = folder / algorithm
    lengths = {
        "ppo": {"total_frames": 200, "rollout_steps": 100, "minibatches": 2, "epochs": 1},
        "sac": {"total_frames": 120, "learning_starts": 100, "batch_size": 8, "buffer_size": 200},
    }
    settings = {**NETWORKS, **QUIET, **lengths[algorithm], **settings, "run_dir": str(run_dir)}
    train_agents(CONTROL_ALGORITHMS[algorithm](**settings))
    return run_dir


def actions(path: Path, observation: torch.Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(["action"], {"observation": observation.numpy()})[0]


def exported(folder: Path, *arguments: str) -> str:
    ran = EXPORT.run(folder, *arguments, *FAST)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_file_is_proven_on_what_agents_are_tested_on_and_its_card_says_so(tmp_path):
    run_dir = trained(tmp_path, "ppo", env="forage", num_levels=3, start_level=5)
    source = read_source(str(run_dir), 4)[2]
    for test, levels in ((False, range(5, 8)), (True, range(8, 2**31 - 1))):
        with contextlib.closing(source.make_env(2, 0, test=test)) as env:
            assert env.levels == levels
    _, report, _ = export(Export(str(run_dir), "pt2", seconds=0, episodes=2, observations=20))
    card = card_path(report.path).read_text()
    assert "| return through this file, on the levels of its tests | " in card and "gymnasium" not in card


def test_a_task_that_its_id_does_not_tell_has_no_script_that_plays_it(tmp_path):
    of_gravity = [{name: {"g": 9.0}} for name in ("train_kwargs", "test_kwargs")]
    for number, changes in enumerate(({"frame_stack": 2}, {"num_levels": 3}, *of_gravity, {})):
        run_dir = trained(tmp_path / str(number), "ppo", env="pendulum", **changes)
        facts = read_source(str(run_dir), 4)[2].facts
        assert ("gymnasium" in facts["layout"]) == (not changes)
        assert ("played_on" in facts) == bool(changes.keys() & {"num_levels", "train_kwargs", "test_kwargs"})
        if changes in ({"frame_stack": 2}, {}):
            _, report, _ = export(Export(str(run_dir), "onnx", seconds=0, episodes=2, observations=20))
            assert ("gymnasium.make" in card_path(report.path).read_text()) == (not changes)


def test_what_a_task_does_with_an_action_is_on_the_card(tmp_path):
    """The normal's mean may lie beyond the bounds, to which the task clips it."""
    run_dir = trained(tmp_path, "ppo", env="pendulum", distribution="normal", frame_stack=2)
    _, report, _ = export(Export(str(run_dir), output=str(tmp_path / "a.c"), seconds=0, episodes=2, observations=20))
    assert report.metadata["action"] == {"kind": "continuous", "size": 1}
    assert report.metadata["task_action"] == {"low": [-2.0], "high": [2.0]} and report.metadata["frame_stack"] == 2
    card = card_path(report.path).read_text()
    assert "| 0 | torque, N m, in [-2, 2] | -2 | 2 |" in card and "the task clips it to them" in card
    assert "the observations of the last 2 steps, the oldest first" in card
    assert (
        '"task_action": {"low": [-2.0], "high": [2.0]}'.replace('"task_action"', "task_action")
        in (tmp_path / "a.h").read_text()
    )


def test_the_format_is_that_of_the_file_and_int8_has_a_proof():
    for ending, name in (("onnx", "onnx"), ("pt2", "pt2"), ("c", "c"), ("html", "page")):
        assert Export("runs", output=f"a.{ending}").format == name == Export("runs", name, output=f"a.{ending}").format
    assert Export("runs").format == "onnx"
    for wrong, ending in ((("c", "a.onnx"), "c"), (("page", "a.onnx"), "html"), ((None, "actor"), "onnx")):
        with pytest.raises(ValueError, match=rf"output must be a file that ends in \.{ending}, .*; got '{wrong[1]}'"):
            Export("runs", wrong[0], output=wrong[1])
    for episodes in (0, 1):
        with pytest.raises(ValueError, match=r"episodes must be at least 2 in int8, .*; got"):
            Export("runs", precision="int8", episodes=episodes)


def test_what_is_compared_is_spread_over_all_steps_of_a_play(tmp_path, monkeypatch):
    source = read_source(str(trained(tmp_path, "ppo", env="pendulum", recurrent="gru", sequence_length=20)), 4)[2]
    actor, met = PlainActor(source.model, sample=True), list[tuple[torch.Tensor, ...]]()

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        met.append(tuple(each.clone() for each in inputs))
        return actor(*inputs)

    monkeypatch.setattr(file_playing, "MOST_KEPT", 150)
    played = file_playing.play_file(source.make_env, actor, run, 2, 0)  # 200 steps of two games
    assert len(met) == 200 and len(played.inputs) == len(met[0]) == 3
    for number, kept in enumerate(played.inputs):
        assert torch.equal(kept, torch.cat([step[number] for step in met[::4]]))
    monkeypatch.setattr(file_playing, "MOST_BYTES", 150 * 12)  # an observation of three numbers
    assert len(file_playing.play_file(source.make_env, actor, actor, 2, 0).observations) == 100


def test_no_path_of_the_machine_is_stored(tmp_path, monkeypatch):
    run_dir = trained(tmp_path, "ppo", env="pendulum")
    for here, run in ((tmp_path, "ppo"), (run_dir, "."), (Path("/"), str(run_dir.relative_to("/")))):
        monkeypatch.chdir(here)
        assert read_source(str(run_dir), 4)[2].facts["run"] == run
    monkeypatch.chdir(tmp_path.parent.parent)
    assert not read_source(str(run_dir), 4)[2].facts["run"].startswith("/")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_source(str(run_dir), 4)[2].facts["run"] == "ppo"
    assert read_source("../ppo", 4)[2].facts["run"] == "ppo"
    (elsewhere / "robot.xml").touch()
    given = {"xml_file": "/home/me/robot.xml", "own": "./robot.xml", "id": "ALE/Pong", "up": "../ppo", "size": 3}
    told = {"xml_file": "robot.xml", "own": "robot.xml", "id": "ALE/Pong", "up": "ppo", "size": 3}
    assert sources._arguments(given) == told


def test_a_training_with_changes_that_were_not_committed_is_told(tmp_path):
    run_dir = trained(tmp_path, "ppo", env="pendulum")
    record = read_json(run_dir / "record.json")
    for dirty in (True, False):
        record["sessions"][-1]["git"] = {"commit": "abc", "dirty": dirty}
        (run_dir / "record.json").write_text(json.dumps(record))
        facts = read_source(str(run_dir), 4)[2].facts
        assert (facts["commit"], facts["uncommitted_changes"]) == ("abc", dirty)


def test_an_agent_of_a_normalised_run_acts_on_observations_as_they_are(tmp_path):
    run_dir = trained(tmp_path, "ppo", env="pendulum", normalize_observation=True, normalize_reward=True)
    printed = exported(tmp_path, "checkpoint=ppo", "seed=4").splitlines()
    assert printed[0] == "pendulum, ppo, actor |4x4|, seed 4, 200 frames"
    # 3 -> 4 -> 4 -> 1: 16 + 20 + 5 parameters, 12 + 16 + 4 multiply-adds
    size = (run_dir / "actor_seed4.onnx").stat().st_size
    file = "ppo/actor_seed4.onnx"
    assert printed[1] == f"{file}: {size:,} bytes; 41 parameters, 32 multiply-adds an action"
    assert "over 276 observations, random and recorded (allowed: 1e-04)" in printed[2]
    assert re.fullmatch(r"return -\d.* \[-.*\] through it, -\d.* by the model: 2 episodes", printed[3])
    assert printed[-1] == "what it reads and gives, and how to run it: ppo/actor_seed4.onnx.md"
    assert [line.split()[:3] for line in printed[5:-1]] == [
        [runtime, "batch", size] for runtime in ("eager", "exported", "onnx") for size in ("1", "3")
    ]

    # By hand, from the numbers in the checkpoint: agent 1 of 2.
    state = load_checkpoint(run_dir / "checkpoint.pt")
    moments = state["env"]["_extra_state"]["statistics"]["observation"]
    raw = control_env("pendulum", [4]).rollout(50)["observation"][0, 0]
    x = (raw.double() - moments["mean"][1]) / (moments["variance"][1] + 1e-8).sqrt()
    x = x.clamp(-10, 10).float()
    weights = {name: value[1] for name, value in state["model"].items() if "value" not in name}
    for name in ("module.policy.module.0.linear", "module.policy.module.1.linear"):
        x = torch.tanh(x @ weights[f"{name}.weight"] + weights[f"{name}.bias"])
    head = "module.policy_head.module.0.module.0"
    expected = 2 * torch.tanh(x @ weights[f"{head}.weight"] + weights[f"{head}.bias"])
    np.testing.assert_allclose(actions(run_dir / "actor_seed4.onnx", raw), expected.numpy(), rtol=0, atol=1e-5)


def test_an_agent_of_a_game_that_samples(tmp_path):
    """Games multiply observations by their scale; the file takes them as they are, and noise."""
    run_dir = trained(tmp_path, "sac", env="pong")
    output = tmp_path / "elsewhere" / "pong.pt2"
    settings = {"checkpoint": str(run_dir / "checkpoint.pt"), "format": "pt2", "sample": True, "output": str(output)}
    _, _, rows = export(Export(**settings, seconds=0.0, episodes=0))
    assert {row["runtime"] for row in rows} == {"eager", "exported"}  # .pt2 asks for no ONNX Runtime
    facts = json.loads(output.with_name("pong.pt2.json").read_text())
    expected = {"task": "pong", "algorithm": "sac", "seed": 3, "frames": 120, "run": "sac", "sample": True}
    assert facts.items() >= expected.items()
    raw = games_env("pong", [3], scale_observations=False).rollout(5)["observation"][0, 0]
    noise = torch.zeros(5, 3)  # the most likely action
    model, scale = load_agents(run_dir)[0], torch.as_tensor(GAMES["pong"].observation_scale)
    with torch.no_grad():
        scores = model.policy_layer(model.module["policy"].module((raw * scale).float()))
    assert torch.equal(torch.export.load(output).module()(raw, noise), scores.argmax(-1))


@pytest.mark.skipif(c_compiler() is None, reason="no C compiler is installed")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_agent_in_plain_c(precision, tmp_path):
    run_dir = trained(tmp_path, "ppo", env="pendulum", normalize_observation=True)
    printed = exported(tmp_path, "checkpoint=ppo", "format=c", "seed=3", f"precision={precision}", "int8_loss=2")
    assert re.search(r"^c +batch 3 " if precision == "float32" else r"^c int8 +batch 1 ", printed, flags=re.MULTILINE)
    facts = json.loads((run_dir / "actor_seed3.c.json").read_text())
    assert facts["precision"] == precision and "compiled by" in facts["checked"]
    header = (run_dir / "actor_seed3.h").read_text()
    assert "#define ACTOR_SEED3_OBSERVATIONS 3" in header and ' * task: "pendulum"' in header


def test_what_is_wrong_is_said_by_name(tmp_path):
    run_dir = str(trained(tmp_path, "sac", env="toy"))
    save_checkpoint(tmp_path / "other.pt", {"settings": {"game": "chess"}})
    for settings, says in (
        ({}, "checkpoint must be a run's folder, or its checkpoint; got None"),
        ({"checkpoint": run_dir, "format": "h5"}, "format must be onnx, pt2, c or page; got 'h5'"),
        ({"checkpoint": run_dir, "precision": "int8", "format": "pt2"}, "precision must be .*float32; got 'int8'"),
        ({"checkpoint": run_dir, "seed": 5}, r"seed must be one of the run's, \[3, 4\]; got 5"),
        (
            {"checkpoint": str(tmp_path / "other.pt")},
            "checkpoint must be of a run of experiments/control",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            export(Export(**settings))
    result = Path(run_dir) / "result.json"
    returns = read_json(result)
    for best in (4, 3):  # without seed= the better one, of those that have a return
        told = {f"final/return/seed{seed}": -1.0 if seed == best else None for seed in (3, 4)}
        result.write_text(json.dumps(returns | told))
        _, report, rows = export(Export(checkpoint=run_dir, format="pt2", seconds=0.0, episodes=2))
        assert report.path.name == f"actor_seed{best}.pt2" and len(rows) == 4
    result.unlink()
    source, _, _ = export(Export(checkpoint=run_dir, format="pt2", seconds=0.0, episodes=0))
    assert source.facts["seed"] == 3  # the first


def test_the_command_says_it_in_a_line(tmp_path):
    ran = EXPORT.run(tmp_path, "checkpoint=gone")
    assert ran.returncode == 1 and "\nFileNotFoundError: " in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")), reason="no backend is installed"
)
def test_an_agent_of_procgen(tmp_path):
    tiny = {"num_envs": 2, "rollout_steps": 16, "total_frames": 32, "minibatches": 1, "epochs": 1}
    run = prepare(procgen_experiment(**tiny, run_dir=str(tmp_path / "run"), tracker="local"))
    with contextlib.closing(run.env), run.tracker as tracker:  # the command's training, without its evaluations
        train_on_policy(
            run.env,
            run.model,
            run.phases,
            run.config.learning,
            log=tracker.log,
            checkpoint=run.checkpoint,
            identity=run.identity,
        )
    printed = exported(tmp_path, "checkpoint=run")
    assert printed.startswith("procgen starpilot, easy, ppo, separation late, seed 0, 32 frames\nrun/actor_seed0.onnx")
    frames = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    policy = run.model.get_policy_operator()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = policy(TensorDict(observation=frames, batch_size=3))["action"]
    assert (actions(tmp_path / "run" / "actor_seed0.onnx", frames) == expected.numpy()).all()
