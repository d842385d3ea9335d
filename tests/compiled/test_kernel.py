"""Compiling is told, timed, and done by one process at a time."""

import contextlib
import fcntl

import pytest

from decouple.compiled import kernel


def is_locked(path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_kernel_that_is_new_is_told_of_and_locked_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel, "folder", lambda: tmp_path)
    lock, clock, before = tmp_path / "sum-float32.lock", iter([10.0, 52.4, 60.0, 61.0]), kernel.compiling_seconds()
    monkeypatch.setattr(kernel.time, "perf_counter", lambda: next(clock))
    with kernel.compiling("sum-float32"):
        assert is_locked(lock)
    assert not is_locked(lock) and (tmp_path / "sum-float32.done").exists()
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first.startswith("compiling sum-float32 for this processor, once") and second == "compiled sum-float32 in 42 s"
    )
    with kernel.compiling("sum-float32"):  # reads it from the disk
        assert not is_locked(lock)
    assert capsys.readouterr().err == ""
    assert kernel.compiling_seconds() - before == pytest.approx(42.4 + 1.0)


def test_a_kernel_that_fails_to_compile_leaves_the_lock_free_and_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "folder", lambda: tmp_path)
    with contextlib.suppress(RuntimeError), kernel.compiling("sum-float32"):
        raise RuntimeError
    assert not is_locked(tmp_path / "sum-float32.lock") and not (tmp_path / "sum-float32.done").exists()
