"""A lock on a run's folder, held by a process and freed when that process ends, however it ends.

    with lock_folder("runs/one"):
        ...     # another process that locks the same folder gets FolderInUseError, with this process and machine
    with turn("results/.lock"):
        ...     # another process waits here

The lock is the operating system's: `flock` on the file `.lock` in the folder (`msvcrt.locking` on Windows). It depends
on no clock, and a file left behind by a kill does not count as a lock. Reading needs no lock. Between machines it holds
where the file system's locks do. NFS has locks from Linux 2.6.12 on; after a machine is lost, the server frees its
locks after a lease of about 90 s (NFSv4) or when the machine is back (NFSv3). Lustre has locks with the mount option
`flock`. A file system without locks causes a warning. If a lock outlives its process, delete `.lock`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import time
import warnings
import weakref
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from decouple.checks import A_FILE, at_least, checked

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

__all__ = ["BEGIN_ANEW", "FileLock", "FolderInUseError", "lock_folder", "turn"]

# The way out where a file of a run is damaged, which may be read by another command than the run's.
BEGIN_ANEW = "begin the run anew with restart=true of the command that trains it, which keeps the old folder aside"

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # errors of a file system without locks
_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FolderInUseError(OSError):
    """Another process works in the run's folder; the message names the folder, the process and its machine."""


class FileLock:
    """A lock on a file, held from here until `release` or the end of this process; a context manager.

    The file is made where it is missing; its text names the holder. A forked process does not hold the lock.

    Args:
        path: the file.

    Raises:
        BlockingIOError: another process, or another FileLock of this process, holds the lock.
        OSError: the file cannot be made.
    """

    _descriptor: int | None = None
    exclusive = True  # False where the file system has no locks
    aside: Path | None = None  # folder to which `lock_folder` moved the old content

    @checked()
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self.exclusive = _lock(descriptor, self.path)
                # The last holder may have deleted the file before its release: this lock is then on a deleted file.
                if _same_file(descriptor, self.path):
                    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                    with contextlib.suppress(OSError):  # on a full disk the lock still holds
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {now}\n".encode())
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        _HELD.add(self)

    def release(self, *, delete: bool = False) -> None:
        """Free the lock, and delete the file if `delete`; a second call does nothing."""
        if self._descriptor is None:
            return
        if delete:
            with contextlib.suppress(OSError):
                self.path.unlink()
        descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


@checked(path=A_FILE, seconds=at_least(0))
@contextlib.contextmanager
def turn(path: str | os.PathLike[str], *, seconds: float = 300.0) -> Iterator[None]:
    """A context in which one process is at a time; others wait for it. Its lock's file is deleted at the end.

    Args:
        path: the lock's file.
        seconds: how long it is waited for; after that, the process that holds the lock may be stopped for good.

    Raises:
        OSError: the file cannot be made.

    Warns:
        UserWarning: it was waited for in vain, and what is done in the context is done at the same time.
    """
    until, lock = time.monotonic() + seconds, None
    while lock is None:
        try:
            lock = FileLock(path)
        except BlockingIOError:
            if time.monotonic() >= until:
                warnings.warn(f"{path}: another process has held this lock for {seconds:,.0f} s", stacklevel=3)
                break
            time.sleep(0.02)
    try:
        yield
    finally:
        if lock is not None:
            lock.release(delete=True)


@checked()
def lock_folder(folder: str | os.PathLike[str], *, restart: bool = False) -> FileLock:
    """Lock a run's folder by the file `.lock` in it; the folder is made where it is missing.

    Args:
        folder: the run's folder.
        restart: rename a folder with content first, to its name with the next free number (`runs/one.1`), and lock a
            new one. Nothing is deleted; the lock's attribute `aside` is the new path of the old content.

    Raises:
        FolderInUseError: another process works in the folder.
        OSError: the folder, or a file in it, cannot be made.
        ValueError: a restart of `.` or `..`, which after the renaming would mean the old folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
    except BlockingIOError:
        try:
            holder = (folder / ".lock").read_text(errors="replace").strip()
        except OSError:
            holder = ""
        raise FolderInUseError(
            f"run_dir must be a folder that no other process works in; {folder} is held by "
            f"{holder or 'another process'}: wait for it, end it, or choose another run_dir"
        ) from None
    except OSError as error:
        says = f"run_dir must be a folder that can be made and written in ({error.strerror})"
        raise OSError(error.errno, says, str(folder)) from error
    if not restart or not any(entry.name != ".lock" for entry in folder.iterdir()):
        return lock
    if folder.name in ("", ".."):
        lock.release()
        raise ValueError(
            f"run_dir must be a folder's name with restart=true, since . and .. move with the folder; got {folder}"
        )
    whole = Path(os.path.abspath(folder))
    aside = next(path for n in itertools.count(1) if not os.path.lexists(path := whole.with_name(f"{whole.name}.{n}")))
    with lock:
        if fcntl is None:  # Windows cannot rename a folder with an open file
            lock.release()
        whole.rename(aside)
        again = lock_folder(whole)
    again.aside = aside
    return again


def _lock(descriptor: int, path: Path) -> bool:
    """Lock the file or raise BlockingIOError; warn and return False where the file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte beyond the text, so that others may read the text
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
            os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", str(path)) from None
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path}: this file system has no locks, so that nothing keeps a second process out", stacklevel=4
        )
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _let_go_in_child() -> None:
    """Free the locks in a forked process: its copies of the descriptors would hold them beyond its parent's end."""
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
