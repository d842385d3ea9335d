"""Latencies of a study: of each size once, kept in a file, and measured again only where they are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decouple.runs.checkpoint import load_checkpoint, save_checkpoint
from decouple.studies.actor_size.algorithms import DDPGControl, PPOControl
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.latency import available_runtimes, read_latency, study_latency
from decouple.studies.actor_size.load import trained_actor
from decouple.studies.actor_size.results import MEASURES, SizeCell, SizeStudy

FAST = {"runtimes": ("eager",), "seconds": 0.0}
QUIET = {"final_episodes": 1, "evaluate_episodes": 1, "show_progress": False, "tracker": "local"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that has hardly begun."""
    run_dir = tmp_path_factory.mktemp("run")
    lengths = {"total_frames": 120, "learning_starts": 100, "batch_size": 8, "buffer_size": 200}
    train_agents(DDPGControl(env="toy", actor=[4], critic=[4], run_dir=str(run_dir), **lengths, **QUIET))
    return run_dir


def cell(actor: tuple, critic: tuple, *folders: Path) -> SizeCell:
    return SizeCell(actor, critic, 1, 1, {name: {} for name in MEASURES}, (), folders)


def study(*cells: SizeCell) -> SizeStudy:
    return SizeStudy("toy", "ddpg", "{}", cells, (), None)


def test_each_size_is_measured_once_and_kept(folder, tmp_path):
    path = tmp_path / "report" / "latency.csv"
    cells = study(cell((4,), (4,), folder), cell((4,), (8,), folder), cell((), (4,)))  # the last has no checkpoint
    first = study_latency([cells], path, **FAST)
    assert [(row["actor"], row["runtime"], row["batch"]) for row in first] == [((4,), "eager", 1), ((4,), "eager", 64)]
    assert all(0 < row["median_us"] <= row["p99_us"] and row["calls"] >= 20 for row in first)
    assert read_latency(path) == first
    assert study_latency([cells], path, **FAST) == first  # not measured anew

    more = study_latency([cells], path, runtimes=("eager", "exported"), seconds=0.0)
    assert more[:2] == first and [row["runtime"] for row in more] == ["eager", "eager", "exported", "exported"]
    again = study_latency([cells], path, **FAST, again=True)
    assert [row["runtime"] for row in again] == ["exported", "exported", "eager", "eager"]
    assert again[:2] == more[2:] and again[2]["median_us"] != first[0]["median_us"]


def test_a_bare_linear_layer_and_other_settings_are_told_apart(folder, tmp_path):
    path = tmp_path / "latency.csv"
    study_latency([study(cell((), (4,), folder))], path, **FAST, batch_sizes=(1,))
    other = SizeStudy("toy", "ddpg", '{"gamma": 0.9}', (cell((1,), (4,), folder),), (), None)
    rows = study_latency([other], path, **FAST, batch_sizes=(1,))
    assert [row["actor"] for row in read_latency(path)] == [(), (1,)]
    assert rows[0]["settings"] != rows[1]["settings"] == other.key
    assert read_latency(tmp_path / "none.csv") == []


def test_onnx_is_asked_for_only_where_it_is_installed(monkeypatch):
    assert available_runtimes()[:2] == ["eager", "exported"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert available_runtimes() == ["eager", "exported"]


def test_a_trained_actor_comes_with_what_was_done_to_its_observations(folder, tmp_path):
    model, scaling = trained_actor(load_checkpoint(folder / "checkpoint.pt"), 0)
    assert scaling is None and sum(p.numel() for p in model.module["policy_head"].parameters()) == 5  # 4 -> 1
    lengths = {"total_frames": 200, "rollout_steps": 100, "minibatches": 2, "epochs": 1}
    sizes = {"actor": [4], "critic": [4], "seeds": 2, "normalize_observation": True}
    train_agents(PPOControl(env="pendulum", run_dir=str(tmp_path), **sizes, **lengths, **QUIET))
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    _, scaling = trained_actor(state, 1)
    moments = state["env"]["_extra_state"]["statistics"]["observation"]
    assert scaling is not None and scaling.clip == 10
    assert torch.equal(scaling.mean, moments["mean"][1])
    torch.testing.assert_close(scaling.std, (moments["variance"][1] + 1e-8).sqrt())


def test_a_checkpoint_that_is_none_is_named_and_another_run_of_the_size_taken(folder, tmp_path):
    broken, other = tmp_path / "broken", tmp_path / "other"
    for run, content in ((broken, b"no checkpoint"), (other, None)):
        run.mkdir()
        if content is None:
            save_checkpoint(run / "checkpoint.pt", {"settings": {"algorithm": "ddpg"}})  # whole, but of nothing
        else:
            (run / "checkpoint.pt").write_bytes(content)
    left_out: list[str] = []
    cells = study(cell((4,), (4,), broken, other), cell((4,), (8,), folder), cell((), (4,), broken))
    rows = study_latency([cells], tmp_path / "latency.csv", **FAST, batch_sizes=(1,), left_out=left_out.append)
    assert [row["actor"] for row in rows] == [(4,)]
    assert [str(broken) in text for text in left_out] == [True, False, True] and str(other) in left_out[1]


@pytest.mark.parametrize("content", [b"task,actor\ntoy,4\n", b"\xff\xfe", b"task,settings,actor,batch\n1,2\n"])
def test_a_damaged_table_of_latencies_is_named(tmp_path, content):
    (tmp_path / "latency.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"latency.csv must be a table of latencies; delete it to measure anew"):
        read_latency(tmp_path / "latency.csv")
