"""The store of results: claims, leases and kills, by threads and processes; no PyTorch needed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from disks import small_disk

import decouple.studies.actor_size.store
from decouple.studies.actor_size.store import Cell, CellStore

FILE = importlib.util.find_spec("decouple.studies.actor_size.store").origin
CELL = Cell("pendulum", "td3", '{"gamma": 0.98}', (4, 4), (16, 16))
LINEAR = Cell("pendulum", "td3", '{"gamma": 0.98}', (), (16, 16))

# What a worker does, in a process that loads this file of the package alone, which takes no second: it trains all seeds
# of 20 cells, says what it has recorded, and, killed at any moment, was in the middle of something.
WORKER = """
import pathlib, random, sys, time, types
sys.modules["decouple"] = types.ModuleType("decouple")
sys.modules["decouple"].__path__ = [str(pathlib.Path(sys.argv[1]).parents[2])]
from decouple.studies.actor_size import store as cell_store
store = cell_store.CellStore(sys.argv[2])
for size in range(1, 21):
    cell = cell_store.Cell("toy", "sac", "{}", (size,), (size,))
    while len(store.returns(cell)) < 6:
        if batch := store.claim(cell, range(6), f"cells/{size}"):
            print("claimed", size, *batch.seeds, flush=True)
            time.sleep(random.random() * 0.05)
            if store.finish(batch, {seed: 100.0 * size + seed for seed in batch.seeds}):
                print("done", size, *batch.seeds, flush=True)
        else:
            time.sleep(0.005)
"""


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path / "study" / "cells.sqlite")


def results(batch, offset: float = 0.0) -> dict[int, float]:
    return {seed: offset + seed for seed in batch.seeds}


def test_cells_are_listed_in_the_order_of_their_first_claim_done_or_not(store):
    assert store.cells() == []
    for cell in (LINEAR, CELL, LINEAR):
        store.claim(cell, [0], "folder")
    assert store.cells() == [LINEAR, CELL]


def test_what_is_claimed_is_finished_and_read_back_to_the_bit(store):
    batch = store.claim(CELL, range(3), "pendulum/td3")
    assert list(batch.seeds) == [0, 1, 2] and batch.starts == 1 and batch.state == "running"
    assert Path(batch.run_dir) == store.path.parent / "pendulum/td3/seeds0_3"
    returns = {0: -150.1, 1: 1 / 3, 2: -math.pi * 1e-9}
    assert store.returns(CELL) == {} and store.finish(batch, returns)
    assert CellStore(store.path).returns(CELL) == returns
    assert store.claim(CELL, range(3), "pendulum/td3") is None
    (done,) = store.batches(CELL)
    assert done.state == "done" and done.error is None
    assert store.returns(LINEAR) == {} and store.batches(LINEAR) == []


@pytest.mark.parametrize("failed", [(math.nan, -math.inf), (None, math.inf)])
def test_an_agent_that_failed_has_a_result_all_the_same(store, failed):
    batch = store.claim(CELL, [0, 1], "x")
    store.finish(batch, dict(zip(batch.seeds, failed, strict=True)))
    assert store.returns(CELL) == {0: -math.inf, 1: -math.inf}


def test_cells_that_differ_in_anything_are_apart(store):
    others = [
        Cell("toy", "td3", '{"gamma": 0.98}', (4, 4), (16, 16)),
        Cell("pendulum", "sac", '{"gamma": 0.98}', (4, 4), (16, 16)),
        Cell("pendulum", "td3", '{"gamma": 0.99}', (4, 4), (16, 16)),
        Cell("pendulum", "td3", '{"gamma": 0.98}', (1,), (16, 16)),
        LINEAR,
        Cell("pendulum", "td3", '{"gamma": 0.98}', (16, 16), (4, 4)),
    ]
    for number, cell in enumerate((CELL, *others)):
        store.finish(store.claim(cell, [0], "x"), {0: float(number)})
    assert [store.returns(cell)[0] for cell in (CELL, *others)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_cell_of_lists_is_the_same_cell(store):
    same = Cell("pendulum", "td3", '{"gamma": 0.98}', [4, 4], [16, 16])
    assert same == CELL and {same, CELL} == {CELL}
    store.finish(store.claim(CELL, [0], "x"), {0: 1.5})
    assert store.returns(same) == {0: 1.5}


def test_seeds_are_claimed_once_each(store):
    for seeds in ([0, 0], [], [-1], iter([1, 1])):
        with pytest.raises(ValueError, match="seeds"):
            store.claim(CELL, seeds, "x")
    assert store.cells() == []


def test_added_seeds_are_a_batch_of_their_own_and_what_is_done_or_claimed_is_not_taken_again(store):
    store.finish(store.claim(CELL, range(2, 4), "x"), {2: 0.0, 3: 0.0})
    claims = [store.claim(CELL, range(8), "x") for _ in range(3)]
    assert [list(claim.seeds) if claim else None for claim in claims] == [[0, 1], [4, 5, 6, 7], None]
    assert [Path(claim.run_dir).name for claim in claims[:2]] == ["seeds0_2", "seeds4_4"]
    assert list(store.claim(CELL, range(6, 10), "x").seeds) == [8, 9]


def test_a_batch_that_failed_or_was_interrupted_goes_to_the_next_who_asks_as_it_was(store):
    first = store.claim(CELL, range(6), "x")
    store.release(first, "ValueError: no")
    assert [(batch.state, batch.error) for batch in store.batches(CELL)] == [("failed", "ValueError: no")]
    second = store.claim(CELL, range(10), "elsewhere")  # more seeds are wanted by now
    assert (second.seeds, second.run_dir, second.starts) == (range(6), first.run_dir, 2)
    store.release(second)
    assert store.batches(CELL)[0].state == "released"
    third = store.claim(CELL, range(6), "x")
    assert not store.renew(first) and not store.finish(second, results(second)) and store.renew(third)
    assert store.finish(third, results(third)) and store.batches(CELL)[0].error is None


@pytest.fixture
def clocks(monkeypatch):
    """Seconds of the two clocks, to be moved by hand."""
    at = {"monotonic": 50.0, "time": 1000.0}
    for name in at:
        monkeypatch.setattr(time, name, lambda name=name: at[name])
    return at


@pytest.fixture
def from_elsewhere(monkeypatch):
    """A context in which what is claimed is claimed by another machine."""

    @contextlib.contextmanager
    def elsewhere():
        with monkeypatch.context() as patched:
            patched.setattr(decouple.studies.actor_size.store, "_processes_of", lambda: "elsewhere boot pid:[1]")
            yield

    return elsewhere


def test_a_worker_of_another_machine_that_is_not_heard_of_for_a_lease_loses_its_batch(tmp_path, clocks, from_elsewhere):
    slow, other = (CellStore(tmp_path / "cells.sqlite", lease=300) for _ in range(2))
    with from_elsewhere():
        batch = slow.claim(CELL, range(6), "x")
    for _ in range(4):  # renewed for longer than a lease
        clocks["monotonic"] += 100
        clocks["time"] += 100
        assert slow.renew(batch) and other.claim(CELL, range(6), "x") is None
    clocks["monotonic"] += 299
    assert other.claim(CELL, range(6), "x") is None
    clocks["monotonic"] += 2
    taken = other.claim(CELL, range(6), "x")
    assert taken.seeds == batch.seeds and taken.starts == 2
    assert not slow.renew(batch) and not slow.finish(batch, results(batch, 1.0))
    slow.release(batch, "too late")
    clocks["monotonic"] += 50
    assert store_state(other) == "running" and other.finish(taken, results(taken, 2.0))
    assert other.returns(CELL)[5] == 7.0
    assert other.batches(CELL)[0].seconds == 450  # 400 by its renewals, then 50; the silence is nobody's


@pytest.mark.parametrize("jump", [1e6, -1e6])
def test_a_clock_that_jumps_takes_no_claim_and_counts_no_time(jump, tmp_path, clocks, from_elsewhere):
    store, other = (CellStore(tmp_path / "cells.sqlite", lease=300) for _ in range(2))
    here = store.claim(CELL, range(6), "x")
    with from_elsewhere():
        there = store.claim(LINEAR, range(6), "x")
    clocks["time"] += jump
    clocks["monotonic"] += 20
    assert other.claim(CELL, range(6), "x") is None and other.claim(LINEAR, range(6), "x") is None
    for batch in (here, there):
        assert store.finish(batch, results(batch))
    assert [store.batches(cell)[0].seconds for cell in (CELL, LINEAR)] == [20, 20]


def test_a_living_process_of_this_machine_keeps_its_batch_however_long_it_is_silent(tmp_path, clocks):
    store, other = (CellStore(tmp_path / "cells.sqlite", lease=300) for _ in range(2))
    batch = store.claim(CELL, range(6), "x")
    for _ in range(3):
        clocks["monotonic"] += 10_000
        assert other.claim(CELL, range(6), "x") is None
    store.release(batch)
    assert other.claim(CELL, range(6), "x").starts == 2


def test_the_file_of_a_claim_goes_with_it(store):
    def files():
        return [entry.name for entry in store.path.parent.iterdir() if entry.name.endswith(".claim")]

    batch = store.claim(CELL, range(6), "x")
    assert len(files()) == 1
    store.finish(batch, results(batch))
    assert files() == []


def store_state(store: CellStore) -> str:
    return store.batches(CELL)[0].state


def test_a_dead_process_of_this_machine_loses_its_batch_at_once(store):
    code = WORKER.split("for size")[0] + "store.claim(cell_store.Cell(*eval(sys.argv[3])), range(6), 'x')"
    key = repr((CELL.task, CELL.algorithm, CELL.settings, CELL.actor, CELL.critic))
    subprocess.run([sys.executable, "-c", code, FILE, store.path, key], check=True)
    assert store_state(store) == "running"
    assert store.claim(CELL, range(6), "x").starts == 2


def test_a_claim_of_0_1_whose_process_is_dead_is_taken_at_once(store):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    batch = store.claim(CELL, range(6), "x")
    for worker, free in ((f"{os.getpid()} token", False), (f"{dead.pid} token", True)):  # without a lock
        with contextlib.closing(sqlite3.connect(store.path)) as db, db:
            worker = f"{decouple.studies.actor_size.store._processes_of()} {worker}"
            db.execute("UPDATE batches SET worker = ? WHERE id = ?", [worker, batch.id])
        assert (store.claim(CELL, range(6), "x") is not None) is free


def test_several_may_make_the_file_at_once(tmp_path):
    made, path = [], tmp_path / "new" / "cells.sqlite"
    threads = [threading.Thread(target=lambda: made.append(CellStore(path).returns(CELL))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [{}] * 16


def test_threads_share_a_store(store):
    claims = []
    threads = [threading.Thread(target=lambda: claims.append(store.claim(CELL, range(4), "x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


def start_worker(store: CellStore, output: Path) -> subprocess.Popen:
    with open(output, "ab") as file:
        return subprocess.Popen([sys.executable, "-c", WORKER, FILE, store.path], stdout=file)


def test_workers_side_by_side_do_nothing_twice_and_lose_nothing(store, tmp_path):
    outputs = [tmp_path / f"{n}.txt" for n in range(4)]
    workers = [start_worker(store, output) for output in outputs]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    lines = [line for output in outputs for line in output.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{what} {n} 0 1 2 3 4 5" for what in ("claimed", "done") for n in range(1, 21))
    for n in range(1, 21):
        cell = Cell("toy", "sac", "{}", (n,), (n,))
        assert store.returns(cell) == {seed: 100.0 * n + seed for seed in range(6)}


@pytest.mark.slow  # eleven processes; test_workers and test_smallest_actor_command kill theirs
def test_workers_killed_at_any_moment_lose_nothing_that_they_had_recorded(store, tmp_path):
    output, chance = tmp_path / "out.txt", random.Random(7)
    output.touch()
    for round in range(10):
        worker, deadline = start_worker(store, output), time.monotonic() + 60
        while output.read_text().count("claimed") < 2 * round + 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.02 * chance.random())
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        for line in output.read_text().splitlines():
            if line.startswith("done"):
                n = int(line.split()[1])
                cell = Cell("toy", "sac", "{}", (n,), (n,))
                assert store.returns(cell) == {seed: 100.0 * n + seed for seed in range(6)}
    assert start_worker(store, output).wait(timeout=120) == 0
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*), count(DISTINCT cell) FROM results").fetchone() == (120, 20)
        starts = db.execute("SELECT sum(starts), count(*) FROM batches").fetchone()
    assert starts[1] == 20 and starts[0] > 20  # some were killed in the middle, and started again as they were


def test_a_study_can_be_moved(store, tmp_path):
    store.claim(CELL, range(6), "pendulum")
    moved = tmp_path / "moved"
    os.rename(store.path.parent, moved)
    (batch,) = CellStore(moved / "cells.sqlite").batches(CELL)
    assert Path(batch.run_dir) == moved / "pendulum" / "seeds0_6"


def test_searches_are_kept_under_what_was_asked(store):
    options = {"sizes": [[], [4, 4]], "threshold": -10, "seeds": 6}
    store.record_search("toy", "sac", '{"gamma": 0.99}', options, "failed", {"error": "no"})
    store.record_search("toy", "sac", '{"gamma": 0.99}', dict(reversed(options.items())), "done", {"low": -math.inf})
    store.record_search("toy", "sac", '{"gamma": 0.99}', options | {"seeds": 7}, "done", {})
    first, second = CellStore(store.path).searches()
    assert (first["task"], first["algorithm"], first["settings"]) == ("toy", "sac", {"gamma": 0.99})
    assert first["options"] == json.loads(json.dumps(options)) and second["options"]["seeds"] == 7
    assert (first["state"], first["result"]) == ("done", {"low": -math.inf}) and time.time() - first["updated"] < 60


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_full_disk_names_the_store_and_loses_nothing_that_was_recorded(tmp_path, kind):
    with small_disk(tmp_path / "disk", kind) as disk:
        store = CellStore(disk.folder / "cells.sqlite")
        store.finish(store.claim(CELL, [0], "x"), {0: 1.5})
        waiting = store.claim(CELL, [1], "x")
        with (
            disk.filled(),
            pytest.raises(sqlite3.OperationalError, match=r"cells\.sqlite: .*(full|disk I/O error); the"),
        ):
            for number in range(500):  # until a page is full
                store.claim(LINEAR, [number], "x" * 500)
        assert store.returns(CELL) == {0: 1.5} and store.finish(waiting, {1: 2.5})
        assert CellStore(store.path).returns(CELL) == {0: 1.5, 1: 2.5}


def test_a_damaged_store_is_named_with_the_way_out(store):
    store.finish(store.claim(CELL, range(6), "x"), dict.fromkeys(range(6), 0.5))
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    for use in (store.cells, lambda: store.claim(CELL, range(8), "x"), lambda: CellStore(store.path).returns(CELL)):
        with pytest.raises(sqlite3.DatabaseError, match=r"cells\.sqlite: .*malformed; .*put a whole copy back"):
            use()


def test_what_is_no_store_is_refused(tmp_path, store):
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.sqlite")) as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(ValueError, match="format 3, and this version of decouple reads format 2"):
        CellStore(tmp_path / "newer.sqlite")
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be seen as none " * 20)
    with pytest.raises(sqlite3.DatabaseError, match=r"text\.sqlite: file is not a database; .*run_dir"):
        CellStore(tmp_path / "text.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError, match=r"folder\.sqlite: unable to open .*must be a file"):
        CellStore(tmp_path / "folder.sqlite")
    with pytest.raises(ValueError, match="lease must be positive"):
        CellStore(tmp_path / "cells.sqlite", lease=0)
    batch = store.claim(CELL, range(2), "x")
    with pytest.raises(ValueError, match=r"returns must be of the seeds \[0, 1\]; got \[0\]"):
        store.finish(batch, {0: 1.0})
    assert store.renew(batch)
