"""Compiled code is kept by content; compiling is told, timed, and done by one process at a time."""

import contextlib
import fcntl
import importlib.util
import os
from pathlib import Path

import pytest

from decouple.compiled import kernel


def is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Clock:
    """Each look at the clock comes a second after the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(kernel.time, "perf_counter", self.look)

    def look(self) -> float:
        self.now += 1.0
        return self.now


def test_a_kernel_that_is_new_is_told_of_and_compiled_by_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel, "folder", lambda: tmp_path)
    clock, before = Clock(monkeypatch), kernel.compiling_seconds()
    with kernel.compiling("sum-float32"):
        clock.now += 40.0
        with kernel.compiling("part-float32"):  # within it, and counted once
            assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock") and (tmp_path / "sum-float32.done").exists()
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert first.startswith("compiling sum-float32 for this processor, once")
    assert second.startswith("compiling part-float32") and third == "compiled part-float32 in 1 s"
    assert last == "compiled sum-float32 in 43 s"
    assert kernel.compiling_seconds() - before == 43.0
    with kernel.compiling("sum-float32"):  # reads it from the disk
        assert not is_locked(tmp_path / "lock")
    assert capsys.readouterr().err == "" and kernel.compiling_seconds() - before == 44.0


def test_a_kernel_that_fails_to_compile_leaves_the_lock_free_and_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "folder", lambda: tmp_path)
    with contextlib.suppress(RuntimeError), kernel.compiling("sum-float32"):
        raise RuntimeError
    assert not is_locked(tmp_path / "lock") and not (tmp_path / "sum-float32.done").exists()
    assert kernel._Compiling.depth == 0


def test_a_process_that_keeps_the_lock_is_waited_for_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "folder", lambda: tmp_path)
    monkeypatch.setattr(kernel, "WAIT_S", 0.2)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with kernel.compiling("sum-float32"):
            pass
    assert (tmp_path / "sum-float32.done").exists()


def test_each_kind_of_processor_has_a_folder(tmp_path, monkeypatch):
    """With one home, what one node has compiled is not taken for done on another."""
    numba = pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    here = kernel.folder.__wrapped__()
    assert here == kernel.folder.__wrapped__()
    monkeypatch.setattr(numba.config, "CPU_NAME", "another")
    named = kernel.folder.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kind, name, features = kernel._processor()
    monkeypatch.setattr(kernel, "_processor", lambda: (kind, name, f"{features},+more"))
    assert len({here, named, kernel.folder.__wrapped__()}) == 3


def test_code_is_read_from_the_disk_wherever_the_package_lies_and_however_young_it_is(tmp_path, monkeypatch):
    """As another clone, or the same version installed again."""
    pytest.importorskip("numba")
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(kernel, "folder", lambda: kept)
    found = []
    for age, place in ((1_000_000_000, "here"), (1_100_000_000, "elsewhere")):
        file = tmp_path / place / "sums.py"
        file.parent.mkdir()
        file.write_text("def double(x):\n    return x + x\n")
        os.utime(file, (age, age))
        monkeypatch.setattr(kernel, "__file__", str(file.with_name("kernel.py")))
        spec = importlib.util.spec_from_file_location("sums", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        double = kernel.kernel(module.double)
        assert double(2.0) == 4.0
        found.append(sum(double.stats.cache_hits.values()))
    assert found == [0, 1] and {path.suffix for path in kept.iterdir()} == {".nbi", ".nbc"}


def test_a_kernel_that_others_call_with_constants_is_compiled_once_for_all_of_them():
    pytest.importorskip("numba")

    @kernel.kernel
    def part(x, by, turned):
        return (1.0 - x if turned else x) * by

    @kernel.kernel
    def whole(x, by):
        return part(x, 2, True) + part(x, 3, False) + part(x, by, x > 0.0)

    assert whole(0.25, 4) == 1.5 + 0.75 + 3.0
    assert len(part.signatures) == 1
