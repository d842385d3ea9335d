"""experiments/representation.py: the real command on a small real run, and what it says of wrong settings."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from commands import Script
from tensordict import TensorDict

from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import CheckpointError, save_checkpoint
from decouple.studies.separation import representation
from decouple.studies.separation.experiment import prepare
from decouple.studies.separation.representation import Representation
from decouple.studies.separation.settings import procgen_experiment

pytestmark = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")), reason="no backend is installed"
)
REPRESENTATION = Script("representation.py")
FEW = {"frames": 48, "episodes": 12, "levels": 2, "saliency_frames": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has hardly begun, of a game with short episodes."""
    folder = tmp_path_factory.mktemp("run")
    tiny = {"num_envs": 2, "rollout_steps": 16, "total_frames": 32, "minibatches": 1, "epochs": 1, "num_threads": 1}
    settings = procgen_experiment(**tiny, env="bossfight", num_levels=9, run_dir=str(folder), tracker="local")
    ready = prepare(settings)
    with contextlib.closing(ready.env), ready.tracker as tracker:
        names = {"log": tracker.log, "checkpoint": ready.checkpoint, "identity": ready.identity}
        train_on_policy(ready.env, ready.model, ready.phases, ready.config.learning, **names)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_its_folder(run: Path, tmp_path: Path):
    arguments = [f"{name}={value}" for name, value in FEW.items()]
    ran = REPRESENTATION.run(tmp_path, f"checkpoint={run}", f"other={run / 'checkpoint.pt'}", "output=out", *arguments)
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.splitlines()
    assert printed[0] == "bossfight, separation late (k = 2 of 4), protocol as_written, seed 0, 32 frames of training"
    says = r"(\w+): (\d+) frames of the agent's own play on 2 levels of (\d+ to \d+)"
    train, test = (re.fullmatch(says, line).groups() for line in printed[1:3])
    assert (train[0], train[2]) == ("train", "0 to 1") and (test[0], test[2]) == ("test", "9 to 10")
    assert all(24 < int(found[1]) <= 48 for found in (train, test))  # fewer where an episode has less than four
    assert printed[-1] == "the tables and the pictures are in out"
    out = tmp_path / "out"
    pictures = {"blocks.png", "cka.png", "cka_other.png", "saliency.png"}
    assert {path.name for path in out.iterdir()} == pictures | {"measures.csv", "cka.csv", "representation.md"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    page = (out / "representation.md").read_text()
    assert all(f"]({name})" in page for name in pictures)

    blocks = ["frame", "trunk 1", "trunk 2", "policy 3", "policy 4", "value 3", "value 4"]
    rows = table(out / "measures.csv")
    assert [(row["frames"], row["block"]) for row in rows] == [(s, b) for s in ("train", "test") for b in blocks]
    sizes = [3 * 64 * 64, 16 * 32 * 32, 32 * 16 * 16, 32 * 8 * 8, 256, 32 * 8 * 8, 256]
    assert [int(row["features"]) for row in rows] == 2 * sizes
    for row in rows:
        assert 1 <= float(row["effective_rank"]) < 48 and 0 <= float(row["level_accuracy"]) <= 1
        assert 0 <= float(row["mi_level"]) <= 0.8  # log 2 = 0.69, and what few frames add
        assert float(row["mi_next"]) >= 0 and float(row["mi_action"]) >= 0
        assert (row["dormant"] == "") == (row["block"] == "frame")
        assert float(row["value_r2"]) <= 1
        assert not float(row["return_r2"]) > 1  # nan where no episode tested on scored

    pairs = {(row["frames"], row["block"], row["of"], row["with"]): float(row["cka"]) for row in table(out / "cka.csv")}
    assert len(pairs) == 2 * 2 * 7 * 7
    for frames in ("train", "test"):
        for a in blocks:
            assert pairs[frames, a, "checkpoint", a] == pytest.approx(1, abs=1e-6)
            for b in blocks:
                assert pairs[frames, a, "checkpoint", b] == pytest.approx(pairs[frames, b, "checkpoint", a], abs=1e-6)
                assert pairs[frames, a, "other", b] == pytest.approx(pairs[frames, a, "checkpoint", b], abs=1e-4)


def test_what_is_recorded_is_the_agents_own_play(run: Path):
    agent = representation.load("checkpoint", str(run))
    config = Representation(checkpoint=str(run), **FEW)
    sets = representation.levels_of(agent, levels=2)
    assert sets == {"train": (0, 2), "test": (9, 2)}
    assert representation.levels_of(agent, levels=50) == {"train": (0, 9), "test": (9, 9)}
    calls = []
    found = representation.record(config, agent, *sets["test"], lambda *call: calls.append(call))
    assert set(found["level_seed"].tolist()) == {9, 10} and calls[-1] == (12, 12)
    values = agent.model.get_value_operator()(TensorDict(observation=found["observation"], batch_size=len(found)))
    torch.testing.assert_close(found["value"], values["state_value"][:, 0].double())


def test_what_is_wrong_is_said_by_name(run: Path, tmp_path: Path):
    given = str(run)
    save_checkpoint(tmp_path / "other.pt", {"settings": {"game": "chess"}})
    for settings, says in (
        ({}, "checkpoint must be a run's folder, or its checkpoint; got None"),
        ({"checkpoint": given, "frames": 0}, "frames must be a whole number, at least 1; got 0"),
        ({"checkpoint": given, "frames": 9, "episodes": 10}, "frames must be at least episodes, 10; got 9"),
        ({"checkpoint": given, "tau": -1}, "tau must be at least 0; got -1"),
        ({"checkpoint": str(tmp_path / "other.pt")}, "checkpoint must be a run of experiments/procgen.py; got"),
        ({"checkpoint": given, "other": str(tmp_path / "other.pt")}, "other must be a run of experiments/procgen.py"),
        ({"checkpoint": given, "episodes": 2, "frames": 8}, "episode must be such that some level has at least 4"),
    ):
        with pytest.raises(ValueError, match=says):
            representation.analyse(Representation(**settings))


def test_another_run_that_is_damaged_is_named_and_left_out(run: Path, tmp_path: Path):
    whole = (run / "checkpoint.pt").read_bytes()
    few = {"frames": 48, "episodes": 12, "levels": 2, "saliency_frames": 1}
    for name, content in (("cut", whole[: len(whole) // 2]), ("none", b"no checkpoint"), ("empty", None)):
        other = tmp_path / name
        other.mkdir()
        if content is not None:
            (other / "checkpoint.pt").write_bytes(content)
        agent, says = representation.load_other(str(other))
        assert agent is None and str(other) in says
        with pytest.raises((CheckpointError, FileNotFoundError), match=str(other)):
            representation.load("checkpoint", str(other))
    folder, printed = representation.analyse(
        Representation(checkpoint=str(run), other=str(tmp_path / "cut"), output=str(tmp_path / "out"), **few)
    )
    for text in (printed, (folder / "representation.md").read_text()):
        assert "the one given is damaged, and left out" in text and str(tmp_path / "cut") in text
    assert not (folder / "cka_other.png").exists()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        representation.load_other(str(tmp_path / "nowhere"))


def test_a_checkpoint_that_holds_no_agent_is_named(tmp_path: Path):
    for settings in ({"protocol": "controlled"}, {"protocol": "controlled", "env": "chess"}):
        save_checkpoint(tmp_path / "other.pt", {"settings": settings})
        with pytest.raises(CheckpointError, match=r"other.pt must hold an agent of experiments/procgen.py"):
            representation.load("checkpoint", str(tmp_path / "other.pt"))


def test_the_command_says_it_in_a_line(tmp_path: Path):
    ran = REPRESENTATION.run(tmp_path, "checkpoint=gone")
    assert ran.returncode == 1 and "\nFileNotFoundError: " in ran.stderr and "Traceback" not in ran.stderr
