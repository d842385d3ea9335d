"""For tests of what a full disk does: a folder on a file system that is all but full, or where files may not grow."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class SmallDisk:
    """A folder in which `filled()` leaves no room for another file, nor for more than a page in those there are."""

    folder: Path
    filled: Callable[[], contextlib.AbstractContextManager]
    paged: bool  # whether a file may grow to the end of its last page


@contextlib.contextmanager
def small_disk(folder: Path, kind: str, megabytes: int = 4) -> Iterator[SmallDisk]:
    """`tmpfs`: a file system of its own, which only root may mount; `limit`: the largest size of a file, for anyone."""
    folder.mkdir()
    if kind == "limit":
        yield SmallDisk(folder, _no_large_files, paged=False)
        return
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield SmallDisk(folder, lambda: _ballast(folder / "ballast"), paged=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def _no_large_files() -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _ballast(path: Path) -> Iterator[None]:
    """A file that takes all the room there is, but for what is left in pages of others."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        path.unlink()
