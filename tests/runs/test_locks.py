"""locks.py: one process at a time in a run's folder, and none for longer than it lives."""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commands import ROOT

from decouple.runs import locks
from decouple.runs.locks import FileLock, FolderInUseError, lock_folder, turn

# Holds the lock of a folder until its standard input ends.
HOLDER = """
import pathlib, sys, types
sys.modules["decouple"] = types.ModuleType("decouple")
sys.modules["decouple"].__path__ = [sys.argv[1]]
from decouple.runs.locks import lock_folder
lock = lock_folder(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLDER, str(ROOT / "decouple"), str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_held_by_one_process_and_freed_by_its_death(tmp_path, holder):
    run = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(FolderInUseError) as caught:
            lock_folder(run)
    text = str(caught.value)
    assert str(run) in text and f"process {holder.pid} on {platform.node()} since 2" in text
    assert isinstance(caught.value, OSError)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock_folder(run):
        assert (run / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_two_locks_of_one_process_exclude_each_other_too(tmp_path):
    with lock_folder(tmp_path), pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
        lock_folder(tmp_path)
    lock_folder(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_does_not_hold_it(tmp_path):
    lock = lock_folder(tmp_path)
    asked, answers = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads
        child = os.fork()
    if child == 0:
        os.write(answers[1], b"x")
        os.read(asked[0], 1)  # outlives the lock
        os._exit(0)
    try:
        os.read(answers[0], 1)  # it has begun
        lock.release()
        lock_folder(tmp_path).release()
    finally:
        os.write(asked[1], b"x")
        os.waitpid(child, 0)
        for end in (*asked, *answers):
            os.close(end)


def test_a_file_that_its_holder_deletes_is_no_lock_any_more(tmp_path):
    first = FileLock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        FileLock(tmp_path / "lock")
    first.release(delete=True)
    first.release()
    assert not (tmp_path / "lock").exists()
    with FileLock(tmp_path / "lock") as second:
        (tmp_path / "lock").unlink()  # by hand, for a process that is no more
        with FileLock(tmp_path / "lock") as third:
            assert second.exclusive and third.exclusive


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"\.lock: this file system has no locks"):
        lock = lock_folder(tmp_path)
    assert not lock.exclusive
    lock.release()


@pytest.mark.parametrize("name", ["run", "deep/run"])
def test_a_restart_puts_what_is_there_aside_under_the_next_free_number(tmp_path, name):
    run = tmp_path / name
    lock_folder(run, restart=True).release()  # nothing is there yet
    assert [entry.name for entry in run.iterdir()] == [".lock"]
    for number in (1, 2):
        (run / "metrics.csv").write_text(f"of start {number}")
        with lock_folder(run, restart=True) as lock:
            assert lock.aside == run.with_name(f"run.{number}")
            assert [entry.name for entry in run.iterdir()] == [".lock"]
            with pytest.raises(FolderInUseError):
                lock_folder(run)
        assert (run.with_name(f"run.{number}") / "metrics.csv").read_text() == f"of start {number}"


def test_a_restart_moves_no_folder_that_is_in_use(tmp_path, holder):
    (tmp_path / "run" / "metrics.csv").write_text("its own")
    with pytest.raises(FolderInUseError, match=str(holder.pid)):
        lock_folder(tmp_path / "run", restart=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_turn_is_waited_for_and_leaves_no_file(tmp_path, monkeypatch):
    held, waited = FileLock(tmp_path / ".lock"), []

    def other_ends(seconds: float) -> None:
        waited.append(seconds)
        held.release(delete=True)

    monkeypatch.setattr(locks.time, "sleep", other_ends)
    with turn(tmp_path / ".lock"), pytest.raises(BlockingIOError):
        FileLock(tmp_path / ".lock")
    assert len(waited) == 1 and list(tmp_path.iterdir()) == []


def test_a_turn_that_does_not_come_is_taken_with_a_warning(tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.warns(UserWarning, match=r"\.lock: another process has held this lock for 0 s"):  # noqa: SIM117
            with turn(tmp_path / ".lock", seconds=0):
                pass
        assert (tmp_path / ".lock").exists()  # it is the other's


def test_a_turn_without_locks_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda descriptor, path: False)
    with turn(tmp_path / ".lock"), turn(tmp_path / ".lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_can_be_restarted(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    Path("metrics.csv").write_text("frames\n")
    lock = lock_folder("../run", restart=True)
    lock.release()
    assert (tmp_path / "run.1" / "metrics.csv").exists()


def test_a_restart_of_a_folder_without_a_name_is_refused_before_anything_is_moved(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "below").mkdir(parents=True)
    (run / "metrics.csv").write_text("frames\n")
    for here, named in ((run, "."), (run / "below", "..")):
        monkeypatch.chdir(here)
        with pytest.raises(ValueError, match=rf"run_dir must be .* with restart=true, .*; got {re.escape(named)}$"):
            lock_folder(named, restart=True)
        assert (run / "metrics.csv").exists() and [entry.name for entry in tmp_path.iterdir()] == ["run"]
    lock_folder(run).release()  # nobody holds it


def test_a_folder_that_cannot_be_made_is_refused_by_the_settings_name(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, kind in ((tmp_path / "file", FileExistsError), (tmp_path / "file" / "run", NotADirectoryError)):
        with pytest.raises(kind, match=rf"run_dir must be a folder that can be made .*: '{re.escape(str(folder))}'$"):
            lock_folder(folder)
