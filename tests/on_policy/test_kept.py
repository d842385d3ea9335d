"""Rollouts of the past: what a killed run leaves of them, the room they take, and that none is copied as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import test_on_policy_seeds as of_seeds
import torch
from tensordict import MemoryMappedTensor, TensorDict
from test_on_policy_training import T, corridor, train, watching
from test_phasic import StoppedError, drift, phasic

from decouple.on_policy import kept as keeping
from decouple.on_policy.agents import StackedAgents
from decouple.on_policy.kept import KeptRollouts, check_room, idle_text, kept_bytes
from decouple.on_policy.phases import Phase
from decouple.seeding import SeedNoise

LEFT_OVER = ("0000007.pt", ".0000002.pt.12-abcdef01.tmp", ".memory-abc/0")


def leave(folder: Path, *names: str) -> None:
    """Files in the folder of kept rollouts, as of a killed run or of the user."""
    for name in names:
        (folder / "rollouts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "rollouts" / name).write_bytes(b"left over")


def files(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder / "rollouts")) for entry in (folder / "rollouts").iterdir())


def test_what_a_killed_run_has_left_is_deleted_and_nothing_else(tmp_path: Path):
    leave(tmp_path, *LEFT_OVER, "0000003.pt", "mine.pt")
    KeptRollouts([watching()], tmp_path, on_disk=False).tidy(None)  # no phase keeps rollouts: the folder is not its
    assert len(files(tmp_path)) == 5
    kept = KeptRollouts([watching(past=2, keeps=["observation"])], tmp_path, on_disk=True)
    kept.tidy({"kept": {"dropped": False, "files": {"3": "its checksum"}}})
    assert files(tmp_path) == ["0000003.pt", "mine.pt"]
    kept.tidy(None)
    assert files(tmp_path) == ["mine.pt"]


def test_a_run_deletes_what_is_left_over_when_it_begins_goes_on_and_is_over(tmp_path: Path):
    leave(tmp_path, *LEFT_OVER)
    with pytest.raises(StoppedError):
        drift("ppg", [], tmp_path, stop=1, auxiliary_every=3, rollouts_in="disk")
    assert files(tmp_path) == ["0000000.pt"]
    leave(tmp_path, *LEFT_OVER)
    drift("ppg", [], tmp_path, auxiliary_every=3, rollouts_in="disk")
    assert files(tmp_path) == []
    leave(tmp_path, *LEFT_OVER)
    drift("ppg", [], tmp_path, auxiliary_every=3, rollouts_in="disk")
    assert files(tmp_path) == []


def test_a_run_that_goes_on_reserves_its_files_once_those_of_the_killed_one_are_gone(tmp_path, monkeypatch):
    """Both together may not fit, and its own are left alone."""
    with pytest.raises(StoppedError):
        drift("ppg", [], tmp_path, stop=1, auxiliary_every=3, rollouts_in="disk")
    leave(tmp_path, *LEFT_OVER)
    reserve, reserved = keeping.reserve_file, set[Path]()

    def alone(file: Path, size: int) -> None:
        assert not (tmp_path / "rollouts" / ".memory-abc").exists()
        reserved.add(file)
        reserve(file, size)

    class Rows(list[Any]):
        def append(self, row: Any) -> None:
            super().append(all(file.exists() for file in reserved))

    rows = Rows()
    monkeypatch.setattr(keeping, "reserve_file", alone)
    drift("ppg", rows, tmp_path, auxiliary_every=3, rollouts_in="disk")
    assert reserved and len(rows) >= 3 and all(rows)


def test_a_run_that_is_done_asks_for_no_room(tmp_path, monkeypatch):
    drift("ppg", [], tmp_path, auxiliary_every=3)
    for free in ("_free_memory", "_free_disk"):
        monkeypatch.setattr(keeping, free, lambda *_: 0)
    drift("ppg", [], tmp_path, auxiliary_every=3)
    with pytest.raises(ValueError, match="rollouts_in must be disk"):
        drift("ppg", [], tmp_path / "new", auxiliary_every=3)


# -------------------------------------------------------------------------------------------------- room, in bytes


def test_the_mapped_files_have_their_room_at_once(tmp_path: Path):
    kept = KeptRollouts([watching(past=3, keeps=["observation"])], tmp_path, on_disk=True)
    kept.add(TensorDict(observation=torch.arange(4096.0).view(8, 512), batch_size=[8]), 0)
    (file,) = (tmp_path / "rollouts").glob(".memory-*/*")
    assert file.stat().st_size == 3 * 4096 * 4
    if hasattr(os, "posix_fallocate"):
        assert file.stat().st_blocks * 512 >= file.stat().st_size
    frames: Any = kept.frames()["observation"]
    assert isinstance(frames, MemoryMappedTensor) and frames.flatten().tolist() == list(range(4096))
    kept.close()


def test_a_disk_without_room_for_them_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, offset: int, size: int) -> None:
        assert (offset, size) == (0, 2 * 4 * 5 * 4)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    kept = KeptRollouts([watching(past=2, keeps=["observation"])], tmp_path, on_disk=True)
    with pytest.raises(OSError, match=r"no room for the rollouts in .*rollouts.*: 160 bytes; .*No space left"):
        kept.add(TensorDict(observation=torch.zeros(4, 5), batch_size=[4]), 0)
    assert files(tmp_path) == []


def test_most_files_at_once_are_those_of_two_checkpoints():
    """A phase on rollouts 2, 5, 8, ... with 3 of them: after 2 rollouts it needs 0 and 1, after 4 only 3."""
    phases = [watching(), watching(past=3, every=3, start=2, keeps=["observation"])]
    assert keeping._most_files(phases, range(0, 9, 1)) == 2
    assert keeping._most_files(phases, range(0, 9, 2)) == 3
    assert keeping._most_files(phases, range(0, 9, 3)) == 0
    assert keeping._most_files(phases, []) == 0


def test_room_is_asked_for_in_memory_and_on_the_disk_for_all_that_is_stored(tmp_path, monkeypatch):
    _, phases, _ = phasic()  # two rollouts, of which one has a file
    one = kept_bytes(phases, corridor(), T) // 2
    memory, disk = [2 * one], [0]
    monkeypatch.setattr(keeping, "_free_memory", lambda: memory[0])
    monkeypatch.setattr(keeping, "_free_disk", lambda folder: disk[0])

    def check(on_disk: bool, folder: Path | None = tmp_path) -> None:
        check_room(phases, corridor(), T, folder, on_disk=on_disk, checkpoints=range(5))

    check(False, None)
    with pytest.raises(ValueError, match=r"rollouts_in must be of fewer rollouts.*beside the checkpoint.*got memory"):
        check(False)
    disk[0] = one
    check(False)
    memory[0] = 2 * one - 1
    with pytest.raises(ValueError, match=r"rollouts_in must be disk.*got memory"):
        check(False)
    disk[0] = 3 * one - 1
    check(True, None)
    with pytest.raises(ValueError, match=r"rollouts_in must be of fewer rollouts.*beside the checkpoint.*got disk"):
        check(True)
    leave(tmp_path, "0000000.pt")  # of a run that goes on
    check(True)


def test_a_run_counts_the_files_beside_its_checkpoints(tmp_path, monkeypatch):
    model, phases, settings = phasic()
    one = kept_bytes(phases, corridor(), T) // 2
    monkeypatch.setattr(keeping, "_free_disk", lambda folder: one - 1)
    with pytest.raises(ValueError, match="beside the checkpoint"):
        train(model, phases, settings, checkpoint=tmp_path / "checkpoint.pt")
    model, phases, settings = phasic(checkpoint_every=2)  # when no rollout is needed any more
    assert len(train(model, phases, settings, checkpoint=tmp_path / "checkpoint.pt")) == 5


# ---------------------------------------------------------------------------------------------------- minibatches


@pytest.mark.parametrize("count", [1, 3])
def test_indices_of_a_minibatch_give_the_frames_that_are_gathered(count: int):
    batch = TensorDict({"frame": torch.randn(2, 11, 3), "before": TensorDict(logit=torch.randn(2, 11, 1))}, [2, 11])
    whole, indices = (StackedAgents(SeedNoise([4, 5])) for _ in range(2))
    for _ in range(2):  # epochs
        parts = zip(whole.minibatches(batch, count), indices.minibatches(batch, count, gathered=False), strict=True)
        for gathered, part in parts:
            assert isinstance(part, torch.Tensor) and part.shape == gathered.shape
            for rows in (slice(0, 2), slice(2, 11)):
                found = indices.frames(batch, part, rows)
                assert (found == whole.frames(batch, gathered, rows)).all()
                assert found.batch_size == (2, len(range(part.shape[1])[rows]))


def test_a_stack_learns_from_kept_rollouts_by_micro_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the same parameters as where each epoch's frames are gathered at once."""
    by_indices = drift("ppg", [], tmp_path / "one", rollouts_in="disk")
    kinds: set[tuple[str, bool]] = set()
    minibatches, run_of = StackedAgents.minibatches, Phase.run
    running: list[str] = []

    def gathered(self: StackedAgents, batch: Any, count: int, *, gathered: bool) -> Any:
        kinds.add((running[-1], gathered))
        return minibatches(self, batch, count)

    def run(self: Phase, *args: Any, **options: Any) -> Any:
        running.append(self.name)
        return run_of(self, *args, **options)

    monkeypatch.setattr(StackedAgents, "minibatches", gathered)
    monkeypatch.setattr(Phase, "run", run)
    at_once = drift("ppg", [], tmp_path / "two", rollouts_in="disk")
    assert kinds == {("policy", True), ("auxiliary", False)}
    assert all(map(torch.equal, by_indices, at_once)) and len(at_once[0]) == len(of_seeds.SEEDS)


def test_phases_that_a_run_is_too_short_for_are_told():
    phases = phasic(auxiliary_past=4)[1]
    told = "; its auxiliary phase never runs: it comes after 4 rollouts, and the run has 3"
    assert idle_text(phases, 300, 100) == told and idle_text(phases, 201, 100) == told
    assert idle_text(phases, 301, 100) == ""
