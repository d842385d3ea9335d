"""The decorator of a compiled kernel, where its machine code is kept, and why kernels cannot run here.

    why_not = unavailable()                    # None: Numba and SciPy are installed
    @kernel
    def scale(x, by): ...                      # compiled at its first call, without Python's lock

Kernels are compiled by Numba (https://numba.pydata.org) for the types of their arguments, and kept on the disk for
later processes. Only the files of this room that hold kernels import Numba; where it is missing, nothing else changes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["compiling", "exact_kernel", "kernel", "one_blas_thread", "unavailable"]

# Sums in another order, fused multiply-adds: what vector code needs. Not "numbers are finite", which agents that
# diverge need not be.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
NEEDED = ("numba", "scipy", "threadpoolctl")


@functools.cache
def unavailable() -> str | None:
    """Why kernels cannot run in this process: the packages that are missing; None where they can."""
    missing = [name for name in NEEDED if not _installed(name)]
    return f"{' and '.join(missing)} cannot be imported: pip install 'torchrl-decouple[fast]'" if missing else None


def _installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call for the types of its arguments; it then runs without Python's lock."""
    return _compiled(function, FAST_MATH)


def exact_kernel(function: Callable[..., Any]) -> Any:
    """As ``kernel``, with every sum and product in the order written and rounded by itself, as NumPy's and torch's."""
    return _compiled(function, False)


def _compiled(function: Callable[..., Any], fast_math: set[str] | bool) -> Any:
    import numba

    with _kept_in(folder()):
        return numba.njit(nogil=True, cache=True, fastmath=fast_math, error_model="numpy")(function)


@functools.cache
def folder() -> Path:
    """The folder of compiled code: one for each state of this room's files and each version of Numba and NumPy.

    Numba compares a kernel's own file with its compiled code, and not the files of the kernels that it calls.
    """
    import numba

    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    versions = [numba.__version__, *map(importlib.metadata.version, ("numpy", "scipy")), sys.version]
    content.update(" ".join(versions).encode())
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(root) / "decouple" / content.hexdigest()[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
        usable = os.access(place, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        place = Path(tempfile.gettempdir()) / f"decouple-{os.getuid() if hasattr(os, 'getuid') else ''}" / place.name
        place.mkdir(parents=True, exist_ok=True)
    return place


@contextlib.contextmanager
def _kept_in(place: Path) -> Iterator[None]:
    """Have Numba keep the code of kernels that are made within in this folder."""
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(place)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Around a kernel's first call in a process; it says so on stderr where nothing is kept yet, which takes long.

    Args:
        what: name of the kernel and of the types, a file name: `sac-float32`.
    """
    done = folder() / f"{what}.done"
    if not done.exists():
        print(f"compiling {what} for this processor, once; it is kept in {folder()}", file=sys.stderr, flush=True)
    yield
    with contextlib.suppress(OSError):
        done.touch()


@functools.cache
def one_blas_thread() -> None:
    """Have SciPy's BLAS, which multiplies the kernels' matrices, use one thread: agents are spread over threads.

    Threads of BLAS slow down small products. Torch has a BLAS of its own.
    """
    import scipy.linalg.cython_blas  # noqa: F401  (loads the library that is looked for)
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if "scipy" in (library.filepath or ""):
            library.set_num_threads(1)
