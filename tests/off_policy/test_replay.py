"""replay.py against a list of rows in numpy; and its file: reopened, killed, of another size, without room."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disks import small_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import decouple.off_policy.replay
from decouple.networks.heads import ActionSpace
from decouple.off_policy.replay import Replay, Transition, Widths
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint

WIDTHS = Widths(observation=2, action=1)
WIDTH = 2 + 1 + 1 + 1 + 2
UNIT = ActionSpace(1, -torch.ones(1), torch.ones(1))  # actions are kept as they come


def rows(start: int, count: int, seeds: int) -> np.ndarray:
    """(S, N, 7): numbers that say which seed, step and column they are of."""
    s, n, c = np.ix_(range(seeds), range(start, start + count), range(WIDTH))
    return (s * 100_000 + n * 10 + c).astype(np.float32)


def transition(values: np.ndarray) -> Transition:
    parts = torch.from_numpy(values).split([2, 1, 1, 1, 2], -1)
    return Transition(*parts)


@pytest.mark.parametrize("size", [8, 10])
def test_pictures_are_kept_as_bytes_in_a_quarter_of_the_room_and_come_back_to_the_bit(size: int, tmp_path: Path):
    draw = np.random.default_rng(0)
    seen = torch.from_numpy(draw.integers(0, 256, (2, 23, size), dtype=np.uint8))  # some read as nan, as numbers
    others = torch.from_numpy(draw.normal(size=(2, 22, 3)).astype(np.float32)).split(1, -1)
    replays = [
        Replay(9, Widths(size, 1, in_bytes=True), UNIT, seeds=2, path=path, slack=3) for path in (None, tmp_path / "r")
    ]
    plain = Replay(9, Widths(size, 1), UNIT, seeds=2, slack=3)
    assert replays[0].rows[0].nbytes == 2 * 4 * (3 + 2 * -(-size // 4))
    for first, last in ((0, 1), (1, 5), (5, 20), (20, 22)):
        parts = [part[:, first:last] for part in others]
        step = Transition(seen[:, first:last], *parts, seen[:, first + 1 : last + 1])
        plain.add(step)
        for replay in replays:
            replay.add(step)
    again = Replay(9, Widths(size, 1, in_bytes=True), UNIT, seeds=2, path=tmp_path / "r", slack=3)
    again.load_state_dict(replays[1].state_dict())
    indices = torch.randint(9, (2, 50))
    for replay in (*replays, again):
        for found, expected in ((replay.sample(indices), plain.sample(indices)), (replay.since(14), plain.since(14))):
            assert found.observation.dtype == found.next_observation.dtype == torch.uint8
            assert all(torch.equal(a.to(b.dtype), b) for a, b in zip(found, expected, strict=True))


def every_row(replay: Replay) -> np.ndarray:
    """All that may be sampled, oldest first, (S, len, 7)."""
    indices = torch.arange(len(replay)).expand(replay.seeds, -1)
    return torch.cat(replay.sample(indices), -1).numpy()


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 7),
    slack=st.integers(0, 4),
    seeds=st.integers(1, 3),
    counts=st.lists(st.integers(1, 15), min_size=1, max_size=8),
    data=st.data(),
)
def test_a_replay_is_the_last_rows_of_a_list(
    capacity: int, slack: int, seeds: int, counts: list[int], data: st.DataObject
) -> None:
    replay = Replay(capacity, WIDTHS, UNIT, seeds=seeds, slack=slack)
    model = rows(0, 0, seeds)
    for count in counts:
        new = rows(model.shape[1], count, seeds)
        replay.add(transition(new))
        model = np.concatenate([model, new], 1)
        last = model[:, -capacity:]
        assert len(replay) == last.shape[1] == min(model.shape[1], capacity)
        np.testing.assert_array_equal(every_row(replay), last)
    drawn = data.draw(st.lists(st.integers(0, len(replay) - 1), min_size=seeds * 4, max_size=seeds * 4))
    indices = np.array(drawn).reshape(seeds, 4)
    sample = replay.sample(torch.from_numpy(indices))
    expected = np.take_along_axis(model[:, -capacity:], indices[:, :, None], 1)
    np.testing.assert_array_equal(torch.cat(sample, -1).numpy(), expected)
    assert [part.shape for part in sample] == [(seeds, 4, width) for width in (2, 1, 1, 1, 2)]


def test_what_has_been_added_since_is_there_oldest_first_as_far_as_it_is_kept() -> None:
    replay = Replay(3, WIDTHS, UNIT, seeds=2, slack=2)
    all_ = rows(0, 9, 2)
    for first, last in ((0, 4), (4, 7), (7, 9)):
        replay.add(transition(all_[:, first:last]))
        assert np.array_equal(torch.cat(replay.since(first), -1), all_[:, first:last])
    assert np.array_equal(torch.cat(replay.since(0), -1), all_[:, 4:])  # the ring is five rows long
    assert replay.since(9).reward.shape == (2, 0, 1)


def test_each_seed_is_sampled_with_indices_of_its_own() -> None:
    replay = Replay(4, WIDTHS, UNIT, seeds=2)
    replay.add(transition(rows(0, 4, 2)))
    sample = replay.sample(torch.tensor([[0, 3], [2, 2]]))
    assert sample.observation[:, :, 0].tolist() == [[0, 30], [100_020, 100_020]]


def test_sampling_leaves_the_indices_as_they_were_and_gives_a_copy() -> None:
    replay = Replay(3, WIDTHS, UNIT, seeds=1)
    replay.add(transition(rows(0, 5, 1)))
    indices = torch.tensor([[0, 1, 2]])
    sample = replay.sample(indices)
    assert indices.tolist() == [[0, 1, 2]]
    sample.observation.zero_()
    np.testing.assert_array_equal(every_row(replay), rows(2, 3, 1))


def test_other_types_become_float() -> None:
    replay = Replay(2, WIDTHS, UNIT, seeds=1)
    action, terminated = torch.tensor([[[3]]]), torch.tensor([[[True]]])
    replay.add(Transition(torch.ones(1, 1, 2), action, torch.zeros(1, 1, 1), terminated, torch.ones(1, 1, 2)))
    sample = replay.sample(torch.tensor([[0]]))
    assert sample.action.item() == 3.0 and sample.terminated.item() == 1.0
    assert {part.dtype for part in sample} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 0}, "capacity must be .*at least 1; got 0"),
        ({"seeds": 0}, "seeds must be .*at least 1; got 0"),
        ({"widths": Widths(0, 1)}, "observation must be at least 1; got 0"),
        ({"widths": Widths(1, 0)}, "action must be at least 1; got 0"),
        ({"widths": Widths(1, 2)}, r"widths\.action must be 1, the width of the space's actions; got 2"),
        ({"space": 3}, "space must be .*ActionSpace; got 3"),
        ({"slack": -1}, "slack must be .*at least 0; got -1"),
    ],
)
def test_sizes_are_checked(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"capacity": 2, "widths": WIDTHS, "space": UNIT, "seeds": 1} | change
    with pytest.raises(ValueError, match=message):
        Replay(arguments.pop("capacity"), **arguments)


def test_actions_are_kept_in_the_unit_component_by_component() -> None:
    space = ActionSpace(4, torch.tensor([-0.1, -2.0, 1.0, 3.0]), torch.tensor([0.3, 2.0, 101.0, 3.0]))
    replay = Replay(3, Widths(1, 4), space, seeds=1)
    given = torch.tensor([[[-0.1, -2.0, 1.0, 3.0], [0.1, 0.5, 26.0, 3.0], [0.3, 2.0, 101.0, 3.0]]])  # (S, N, A)
    one, ends = torch.zeros(1, 3, 1), torch.zeros(1, 3, 1)
    replay.add(Transition(one, given, one, ends, one))
    # Middle and half: 0.1 and 0.2, 0 and 2, 51 and 50; the last component has one value only.
    kept = replay.sample(torch.arange(3)[None]).action
    expected = torch.tensor([[[-1.0, -1.0, -1.0, 0.0], [0.0, 0.25, -0.5, 0.0], [1.0, 1.0, 1.0, 0.0]]])
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-6)
    assert given[0, 2, 2] == 101.0  # what was given is left alone


def test_indices_are_kept_as_they_are() -> None:
    replay = Replay(2, WIDTHS, ActionSpace(5, None, None), seeds=1)
    replay.add(transition(rows(0, 1, 1))._replace(action=torch.tensor([[[4]]])))
    assert replay.sample(torch.zeros(1, 1, dtype=torch.int64)).action.item() == 4


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("before", [2, 5, 9])
@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_a_replay_goes_on_from_its_state(before: int, file: bool, tmp_path: Path) -> None:
    def make() -> Replay:
        return Replay(5, WIDTHS, UNIT, seeds=2, path=tmp_path / "runs" / "replay.bin" if file else None, slack=3)

    replay = make()
    replay.add(transition(rows(0, before, 2)))
    save_checkpoint(tmp_path / "state.pt", replay.state_dict())
    del replay
    fresh = make()
    assert len(fresh) == 0  # until the state says what the file holds
    fresh.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    np.testing.assert_array_equal(every_row(fresh), rows(0, before, 2)[:, -5:])
    fresh.add(transition(rows(before, 4, 2)))
    np.testing.assert_array_equal(every_row(fresh), rows(0, before + 4, 2)[:, -5:])


def test_a_state_in_memory_is_a_copy() -> None:
    replay = Replay(3, WIDTHS, UNIT, seeds=1)
    replay.add(transition(rows(0, 3, 1)))
    state = replay.state_dict()
    replay.add(transition(rows(3, 3, 1)))
    replay.load_state_dict(state)
    np.testing.assert_array_equal(every_row(replay), rows(0, 3, 1))


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 6), slack=st.integers(0, 5), before=st.integers(0, 20), data=st.data())
def test_rows_after_a_checkpoint_leave_what_it_samples(
    capacity: int, slack: int, before: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("replay") / "replay.bin"
    replay = Replay(capacity, WIDTHS, UNIT, seeds=1, path=path, slack=slack)
    if before:
        replay.add(transition(rows(0, before, 1)))
    state, expected = replay.state_dict(), every_row(replay)
    added = 0
    while added < slack:  # a run that is killed after at most `slack` rows more
        count = data.draw(st.integers(1, slack - added))
        replay.add(transition(rows(1000 + added, count, 1)))
        added += count
    del replay
    resumed = Replay(capacity, WIDTHS, UNIT, seeds=1, path=path, slack=slack)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(every_row(resumed), expected)


def test_without_slack_they_would_not() -> None:
    # What the test above would miss if rows lay elsewhere: one row more than the slack overwrites the oldest.
    replay = Replay(3, WIDTHS, UNIT, seeds=1, slack=1)
    replay.add(transition(rows(0, 4, 1)))
    expected, added = every_row(replay), replay.added
    replay.add(transition(rows(1000, 2, 1)))
    replay.added = added
    np.testing.assert_array_equal(every_row(replay)[:, 1:], expected[:, 1:])
    assert (every_row(replay)[:, 0] != expected[:, 0]).all()


def test_a_file_has_its_full_size_at_once(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    Replay(5, WIDTHS, UNIT, seeds=2, path=path, slack=3)
    assert path.stat().st_size == (5 + 3) * 2 * WIDTH * 4
    if hasattr(os, "posix_fallocate"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_a_longer_run_goes_on_with_what_a_shorter_one_has_not_overwritten(file: bool, tmp_path: Path) -> None:
    def make(capacity: int) -> Replay:
        return Replay(capacity, WIDTHS, UNIT, seeds=2, path=tmp_path / "replay.bin" if file else None, slack=1)

    replay = make(4)
    replay.add(transition(rows(0, 5, 2)))  # the ring of 5 is full, and nothing lost
    state = replay.state_dict()
    longer = make(9)
    longer.load_state_dict(state)
    longer.add(transition(rows(5, 3, 2)))
    np.testing.assert_array_equal(every_row(longer), rows(0, 8, 2))
    if file:
        assert (tmp_path / "replay.bin").stat().st_size == 10 * 2 * WIDTH * 4


@pytest.mark.parametrize("capacity", [3, 9])
def test_a_ring_of_another_length_is_refused_once_rows_are_overwritten(capacity: int) -> None:
    replay = Replay(4, WIDTHS, UNIT, seeds=1, slack=1)
    replay.add(transition(rows(0, 6, 1)))
    fresh = Replay(capacity, WIDTHS, UNIT, seeds=1, slack=1)
    with pytest.raises(ValueError, match=rf"capacity and slack must come to 5, .*got {capacity + 1}"):
        fresh.load_state_dict(replay.state_dict())
    assert len(fresh) == 0


def test_a_disk_without_room_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        assert (offset, size) == (0, 5 * WIDTH * 4)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"no room for the replay file .*replay\.bin: 140 bytes; .*No space left"):
        Replay(5, WIDTHS, UNIT, seeds=1, path=tmp_path / "replay.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_file_system_without_room_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path / "disk", kind) as disk, disk.filled():
        with pytest.raises(OSError, match=r"no room for the replay file .*replay\.bin: 140,000 bytes; "):
            Replay(5000, WIDTHS, UNIT, seeds=1, path=disk.folder / "replay.bin")
        assert not (disk.folder / "replay.bin").exists()


def test_a_system_that_cannot_reserve_room_still_makes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    Replay(5, WIDTHS, UNIT, seeds=1, path=tmp_path / "replay.bin")
    assert (tmp_path / "replay.bin").stat().st_size == 140


def test_a_state_without_its_rows_is_refused(tmp_path: Path) -> None:
    replay = Replay(5, WIDTHS, UNIT, seeds=1, path=tmp_path / "replay.bin")
    replay.add(transition(rows(0, 4, 1)))
    state = replay.state_dict()
    (tmp_path / "replay.bin").unlink()
    for path in (tmp_path / "replay.bin", None):
        with pytest.raises(ValueError, match="path must be the file that the state's 4 rows lie in"):
            Replay(5, WIDTHS, UNIT, seeds=1, path=path).load_state_dict(state)


# -------------------------------------------------------------------------------------------- what lies in the file


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checksum for three rows, so that few rows are many blocks."""
    monkeypatch.setattr(decouple.off_policy.replay, "BLOCK", 3)


def filled(path: Path, before: int, capacity: int = 20, slack: int = 6) -> Replay:
    replay = Replay(capacity, WIDTHS, UNIT, seeds=2, path=path, slack=slack)
    if before:
        replay.add(transition(rows(0, before, 2)))
    return replay


@pytest.mark.parametrize("added", [1, 2, 3, 11, 20, 21, 25, 26, 40])
def test_every_row_that_a_checkpoint_samples_is_checked_and_no_other(
    added: int, small_blocks: None, tmp_path: Path
) -> None:
    path = tmp_path / "replay.bin"
    state = filled(path, added).state_dict()
    whole, row = path.read_bytes(), 2 * WIDTH * 4  # bytes of a row of both seeds
    sampled = {position % 26 for position in range(max(0, added - 20), added)}
    for position in range(26):
        damaged = bytearray(whole)
        damaged[position * row + 5] ^= 1
        path.write_bytes(damaged)
        resumed = filled(path, 0)
        if position in sampled:
            with pytest.raises(ValueError, match=r"replay\.bin is corrupt: .*restart=true"):
                resumed.load_state_dict(state)
        else:
            resumed.load_state_dict(state)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=12), capacity=st.integers(1, 15), data=st.data())
def test_checksums_go_on_over_checkpoints_kills_and_resumes(
    counts: list[int],
    capacity: int,
    data: st.DataObject,
    small_blocks: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("replay") / "replay.bin"
    replay, model, state = filled(path, 0, capacity), rows(0, 0, 2), None
    for count in counts:  # between checkpoints up to six rows, the slack
        if state and data.draw(st.booleans()):  # killed after some rows that no checkpoint has
            replay.add(transition(rows(5000, data.draw(st.integers(1, 6)), 2)))
            replay = filled(path, 0, capacity)
            replay.load_state_dict(state)
            np.testing.assert_array_equal(every_row(replay), model[:, -capacity:])
        new = rows(model.shape[1], count, 2)
        replay.add(transition(new))
        model = np.concatenate([model, new], 1)
        state = replay.state_dict()
        fresh = filled(path, 0, capacity)
        fresh.load_state_dict(state)
        assert torch.equal(fresh.state_dict()["sums"], state["sums"])


@pytest.mark.parametrize("kept", [0, 100, -4])
def test_a_file_that_was_cut_is_refused_and_stays_as_it_was(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    state = filled(path, 9).state_dict()
    of_0_1 = {name: state[name] for name in ("added", "ring")}  # it had no checksums
    path.write_bytes(path.read_bytes()[:kept])
    size = path.stat().st_size
    for each in (state, of_0_1, of_0_1):
        with pytest.raises(ValueError, match=rf"replay\.bin was cut: it has {size:,} bytes of 1,456; .*restart=true"):
            filled(path, 0).load_state_dict(each)
        assert path.stat().st_size == size


def test_a_state_of_0_1_is_gone_on_with_and_has_checksums_from_then_on(small_blocks: None, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    state = filled(path, 24).state_dict()
    resumed = filled(path, 0)
    resumed.load_state_dict({name: state[name] for name in ("added", "ring")})
    assert torch.equal(resumed.state_dict()["sums"], state["sums"])
