"""Checkpoints: whole after any kill, refused when damaged or when another run's, and random numbers that go on."""

import os
import random
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from disks import small_disk
from torch import nn
from warm import the_warm

import decouple.runs.checkpoint
from decouple.runs.checkpoint import (
    CheckpointError,
    checkpoint_exists,
    frames_to_resume,
    load_checkpoint,
    save_checkpoint,
)
from decouple.runs.metrics import rows_up_to, table_sum

SETTINGS = {"separation": "late", "env": {"game": "coinrun", "levels": 200}, "channels": [16, 32, 32]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"settings": SETTINGS, "frames": 640, "weight": torch.arange(1000.0)})
    return path


def leftovers(folder):
    return [entry.name for entry in folder.iterdir() if entry.name != "checkpoint.pt"]


# ------------------------------------------------------------------------------------------------------- save and load


def test_a_training_state_comes_back_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, eps=1e-5)
    model(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    plain = {"frames": 25_000_000, "lr": 0.1 + 0.2, "best": None, "pair": (1, "two"), "done": [True, {"k": -0.0}]}
    path = tmp_path / "new" / "folder" / "checkpoint.pt"
    save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "plain": plain})
    state = load_checkpoint(path)
    assert state["plain"] == plain
    assert isinstance(state["plain"]["pair"], tuple)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=1.0)
    twin.load_state_dict(state["model"])
    twin_optimizer.load_state_dict(state["optimizer"])
    inputs = torch.randn(8, 3)
    for each, its_optimizer in ((model, optimizer), (twin, twin_optimizer)):
        its_optimizer.zero_grad()
        each(inputs).square().mean().backward()
        its_optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.bool])
def test_tensors_of_every_type_come_back(tmp_path, dtype):
    tensor = torch.arange(7).to(dtype)
    save_checkpoint(tmp_path / "checkpoint.pt", {"t": tensor, "empty": torch.empty(0, 3, dtype=dtype)})
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["t"].dtype == dtype
    assert torch.equal(state["t"], tensor)
    assert state["empty"].shape == (0, 3)


def test_what_it_says_of_the_files_beside_it_is_no_part_of_the_state(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"frames": 1}, record={"table": "sum"})
    assert load_checkpoint(tmp_path / "checkpoint.pt") == {"frames": 1}


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("one.pt", "two.pt"):
        save_checkpoint(tmp_path / name, {"a": torch.arange(5), "b": OrderedDict(c=1)})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_a_relative_path_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("checkpoint.pt", {"frames": 1})
    assert load_checkpoint("checkpoint.pt") == {"frames": 1}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "state must be a dict; got list"),
        ({"a": [0, {"b": {1, 2}}]}, r"state\['a'\]\[1\]\['b'\] must be a tensor, .*; got builtins.set"),
        ({"a": np.float64(1.0)}, r"state\['a'\] must be .*; got numpy.float64"),
        ({"model": nn.Linear(1, 1)}, r"state\['model'\] must be .*; got torch.nn.modules.linear.Linear"),
        ({(1, 2): 3}, r"state must have strings or numbers as keys; got \(1, 2\)"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(saved, state, message):
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=message):
        save_checkpoint(saved, state)
    assert saved.read_bytes() == before


# ---------------------------------------------------------------------------------------------------- kills and errors

SAVE_LOOP = """
import sys, torch
from decouple.runs.checkpoint import save_checkpoint
count = int(sys.argv[2])
while True:
    count += 1
    save_checkpoint(sys.argv[1], {"count": count, "weight": torch.full((200_000,), float(count))})
    print(count, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    count, generator = 0, random.Random(0)
    for _ in range(4):
        process = the_warm().start(tmp_path, "", str(path), str(count), before=SAVE_LOOP)
        process.lines(2)
        time.sleep(generator.uniform(0.0, 0.05))
        announced = max(map(int, process.kill().split()))
        state = load_checkpoint(path)
        assert state["count"] in (announced, announced + 1)  # renamed, and killed before it could say so
        assert torch.equal(state["weight"], torch.full((200_000,), float(state["count"])))
        count = state["count"]
    save_checkpoint(path, {"count": 0})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_an_error_while_saving_leaves_the_old_file_and_no_other(saved, monkeypatch, moment):
    def full_disk(*arguments, **settings):
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(decouple.runs.checkpoint, moment.split(".")[0], _Proxy(moment, full_disk))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, {"frames": 1})
    assert saved.read_bytes() == before
    assert leftovers(saved.parent) == []


class _Proxy:
    """A module with one function replaced, for decouple.runs.checkpoint alone."""

    def __init__(self, name, function):
        self._module = {"torch": torch, "os": os}[name.split(".")[0]]
        setattr(self, name.split(".")[1], function)

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.fixture(params=["tmpfs", "limit"])
def disk(tmp_path, request):
    with small_disk(tmp_path / "disk", request.param) as disk:
        yield disk


@pytest.mark.parametrize("numbers", [1, 1000, 300_000])
def test_a_full_disk_is_an_oserror_that_names_the_file_and_leaves_the_old_one(disk, numbers):
    path = disk.folder / "checkpoint.pt"
    save_checkpoint(path, {"frames": 1})
    before = path.read_bytes()
    with disk.filled(), pytest.raises(OSError, match=r"(No space left on device|File too large): '.*checkpoint\.pt'"):
        save_checkpoint(path, {"frames": 2, "weight": torch.zeros(numbers), "other": torch.ones(numbers)})
    assert path.read_bytes() == before and leftovers(disk.folder) == []
    save_checkpoint(path, {"frames": 2, "weight": torch.zeros(numbers)})
    assert load_checkpoint(path)["frames"] == 2


def test_what_a_killed_save_left_is_removed_by_the_next(saved):
    (saved.parent / ".checkpoint.pt.123-abcdef00.tmp").write_bytes(b"half a checkpoint")
    others = [".checkpoint.pt.old.123-abcdef00.tmp", ".other.pt.123-abcdef00.tmp"]
    for name in others:
        (saved.parent / name).write_bytes(b"another file's")
    save_checkpoint(saved, {"frames": 2})
    assert sorted(leftovers(saved.parent)) == others


# -------------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("kept", [0, 10, 125, 200, -1])
def test_a_truncated_file_is_refused(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is truncated.*older copy"):
        load_checkpoint(saved)


def test_an_appended_byte_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="appended to"):
        load_checkpoint(saved)


def test_a_flipped_bit_is_refused_wherever_it_is(saved):
    whole = saved.read_bytes()
    for position in [*range(0, 125, 9), *range(125, len(whole), 331), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt is"):
            load_checkpoint(saved)


def test_a_zeroed_tail_as_after_a_power_cut_is_refused(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_checkpoint(saved)


def test_a_file_of_torch_save_is_no_checkpoint(saved):
    torch.save({"frames": 1}, saved)
    with pytest.raises(CheckpointError, match="is no checkpoint of decouple"):
        load_checkpoint(saved)


def test_another_format_is_named(saved):
    saved.write_bytes(saved.read_bytes().replace(b"checkpoint 0001", b"checkpoint 0002", 1))
    with pytest.raises(CheckpointError, match="is in format 2, and this version of decouple reads format 1"):
        load_checkpoint(saved)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    monkeypatch.setattr(decouple.runs.checkpoint, "_check_plain", lambda value, where: None)
    save_checkpoint(tmp_path / "checkpoint.pt", {"a": Runs()})
    with pytest.raises(CheckpointError, match="cannot read it"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "expect",
    [SETTINGS, {"separation": "late", "env.game": "coinrun", "env.levels": 200, "channels": (16, 32, 32)}],
    ids=["nested", "flat, with a tuple"],
)
def test_equal_settings_are_accepted(saved, expect):
    assert load_checkpoint(saved, expect=expect)["frames"] == 640


def test_every_setting_that_differs_is_listed_with_both_values(saved):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, expect={"separation": "shared", "env": {"game": "coinrun", "levels": 500}, "seed": 1})
    assert str(caught.value).splitlines()[1:] == [
        "  channels: checkpoint has [16, 32, 32], this run has no such setting",
        "  env.levels: checkpoint has 200, this run has 500",
        "  seed: checkpoint has no such setting, this run has 1",
        "  separation: checkpoint has 'late', this run has 'shared'",
    ]


def test_of_another_algorithm_the_settings_that_it_has_alone_are_counted(tmp_path):
    ppo = {"algorithm": "ppo", "clip_epsilon": 0.2, "gamma": 0.9, "seed": 0, "rules": {"dynamics_loss": 2}}
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": ppo})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "checkpoint.pt", expect={"algorithm": "sac", "tau": 0.01, "gamma": 0.99, "seed": 0})
    assert str(caught.value).splitlines()[1:] == [
        "  algorithm: checkpoint has 'ppo', this run has 'sac'",
        "  gamma: checkpoint has 0.9, this run has 0.99",
        "  and 3 settings that only one of the two has",
    ]


def test_a_checkpoint_without_settings_is_refused_where_some_are_expected(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"frames": 1})
    with pytest.raises(CheckpointError, match="holds no settings"):
        load_checkpoint(tmp_path / "checkpoint.pt", expect={"seed": 1})


@pytest.mark.parametrize("state", [{"frames": 300}, {"iteration": 3}], ids=str)
def test_a_run_goes_on_from_the_frames_of_its_checkpoint_and_with_no_fewer_than_it_has(tmp_path, state):
    def resume(total_frames: int) -> int | None:
        return frames_to_resume(tmp_path, {"seed": 1}, total_frames=total_frames, frames_per_iteration=100)

    assert resume(500) is None
    (tmp_path / "metrics.csv").touch()
    assert resume(500) == 0
    (tmp_path / "metrics.csv").write_text("frames\n100\n200\n300\n")
    save_checkpoint(tmp_path / "checkpoint.pt", state | {"settings": {"seed": 1}})
    assert [resume(total) for total in (500, 300, 201)] == [300, 300, 300]  # 201 frames are three iterations
    with pytest.raises(ValueError, match=r"total_frames must be at least 300, as far as the run in .* got 200"):
        resume(200)
    with pytest.raises(CheckpointError, match="seed"):
        frames_to_resume(tmp_path, {"seed": 2}, total_frames=500, frames_per_iteration=100)


@pytest.fixture
def run(tmp_path):
    """A run of 300 frames, whose checkpoint at 200 holds its table's sum."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("frames,a\n100,1.5\n200,2.5\n")
    table = table_sum(*rows_up_to(folder / "metrics.csv", 200))
    save_checkpoint(folder / "checkpoint.pt", {"settings": {}, "frames": 200}, record={"table": table})
    (folder / "metrics.csv").write_text("frames,a,b\n100,1.5,\n200,2.5,\n300,3.5,0.5\n")
    return folder


def resumed(folder):
    return frames_to_resume(folder, {}, total_frames=1000, frames_per_iteration=100)


def test_rows_and_columns_after_the_checkpoint_are_no_damage(run):
    assert resumed(run) == 200
    with open(run / "metrics.csv", "a") as file:
        file.write("400,")
    assert resumed(run) == 200


@pytest.mark.parametrize("link", [False, True], ids=["gone", "link"])
def test_a_checkpoint_that_is_gone_beside_a_table_with_rows_is_refused(run, link):
    (run / "checkpoint.pt").unlink()
    if link:
        (run / "checkpoint.pt").symlink_to(run / "moved.pt")
    message = r"is a link to .*moved\.pt, which is gone" if link else r"is gone, and .* rows up to 300 .* restart=true"
    with pytest.raises(CheckpointError, match=r"run.checkpoint\.pt " + message):
        resumed(run)
    assert checkpoint_exists(run / "none.pt") is False


def test_a_link_to_a_checkpoint_is_one(run):
    (run / "checkpoint.pt").rename(run.parent / "moved.pt")
    (run / "checkpoint.pt").symlink_to(run.parent / "moved.pt")
    assert resumed(run) == 200


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("frames,a\n100,1.5\n", "was cut: it has rows up to 100 frames, and none of the checkpoint's 200;"),
        ("frames,a\n100,1.5\n20", "was cut: it has rows up to 100 frames, and none of the checkpoint's 200;"),
        ("frames\n", "was cut: it has no rows, and none of the checkpoint's 200;"),
        ("", "was cut: it has no rows, and none of the checkpoint's 200;"),
        ("frames,a\n200,2.5\n", r"is not what it was at the checkpoint's 200 frames \(SHA-256 differs\);"),
        ("frames,a\n100,1.5\n200,2.6\n", r"is not what it was at the checkpoint's 200 frames \(SHA-256 differs\);"),
        ("frames,c\n100,1.5\n200,2.5\n", r"is not what it was at the checkpoint's 200 frames \(SHA-256 differs\);"),
    ],
)
def test_a_table_that_was_cut_or_altered_is_refused(run, table, message):
    (run / "metrics.csv").write_text(table)
    with pytest.raises(
        CheckpointError, match=rf"metrics\.csv {message} put a whole copy of it back, or .*restart=true"
    ):
        resumed(run)


def test_a_table_beside_a_checkpoint_of_0_1_must_have_the_checkpoints_row(run):
    save_checkpoint(run / "checkpoint.pt", {"settings": {}, "frames": 200})
    (run / "metrics.csv").write_text("frames,a\n100,9.5\n200,2.5\n")
    assert resumed(run) == 200
    (run / "metrics.csv").write_text("frames,a\n100,9.5\n")
    with pytest.raises(CheckpointError, match="was cut"):
        resumed(run)


def test_nan_and_empty_settings_equal_themselves(tmp_path):
    settings = {"limit": float("nan"), "wrappers": {}, "names": []}
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": settings})
    load_checkpoint(tmp_path / "checkpoint.pt", expect={"limit": float("nan"), "wrappers": {}, "names": ()})
