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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["compiling", "compiling_seconds", "exact_kernel", "kernel", "one_blas_thread", "unavailable"]

# Sums in another order, fused multiply-adds: what vector code needs. Not "numbers are finite", which agents that
# diverge need not be.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
WAIT_S = 300.0  # seconds after which another process that compiles is no longer waited for: it may be stopped
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

    of_room = Path(function.__code__.co_filename).parent == Path(__file__).parent
    with _kept_in(folder()):
        made = numba.njit(nogil=True, cache=not of_room, fastmath=fast_math, error_model="numpy")(function)
    if of_room:  # else its file, as a test's, is not among those that give the folder its name
        made._cache = _content_cache()(function)
    made.get_call_template = _of_types(made.get_call_template)
    return made


def _of_types(template: Callable[..., Any]) -> Callable[..., Any]:
    """How a kernel called by another is found, by the types of its arguments alone, as it is when Python calls it.

    Numba takes each constant for a type of its own, and would compile a kernel anew for each that it is given.
    """
    from numba.core.types import unliteral

    return lambda args, kws: template(list(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()})


@functools.cache
def _content_cache() -> Any:
    """Numba's cache of a function's code, in `folder` whatever the place and the age of its source.

    Numba's own has a folder for each place of the source, and is out of date where the file is younger: each clone and
    each installation of one version would compile everything again.
    """
    from numba.core import caching

    class Locator(caching._CacheLocator):
        def __init__(self, line: int) -> None:
            self.line = line

        def get_cache_path(self) -> str:
            return str(folder())

        def get_source_stamp(self) -> str:
            return folder().name

        def get_disambiguator(self) -> str:
            return str(self.line)

        @classmethod
        def from_function(cls, py_func: Any, py_file: str) -> Any:
            return cls(py_func.__code__.co_firstlineno)

    class Impl(caching.FunctionCache._impl_class):
        _locator_classes = [Locator]  # noqa: RUF012

    class ContentCache(caching.FunctionCache):
        _impl_class = Impl

    return ContentCache


@functools.cache
def folder() -> Path:
    """The folder of compiled code: one for each processor, each state of this room's files and each version of Python
    and the packages.

    Numba compares a kernel's own file with its compiled code, and not the files of the kernels that it calls. It tells
    processors apart itself, but what lies beside its files, as what is compiled already, has no processor's name.
    """
    import numba

    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    versions = [numba.__version__, *map(importlib.metadata.version, ("numpy", "scipy")), sys.version]
    content.update(" ".join([*versions, *_processor()]).encode())
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


def _processor() -> tuple[str, ...]:
    """Kind, name and features of the processor that Numba compiles for: this one's, or what NUMBA_CPU_NAME says."""
    from numba.core.registry import cpu_target

    return cpu_target.target_context.codegen().magic_tuple()


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


class _Compiling:
    """What this process knows of its compiling: the seconds so far, and whether it is under way."""

    seconds = 0.0
    depth = 0


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Around a kernel's first call in a process; it says so on stderr where nothing is kept yet, which takes long.

    One process compiles at a time: others wait, and read what it has kept. Two that keep parts of one kernel at once
    would do the work twice, and may lose each other's.

    Args:
        what: name of the kernel and of the types, a file name: `sac-float32`.
    """
    began, done = time.perf_counter(), folder() / f"{what}.done"
    new, outermost = not done.exists(), _Compiling.depth == 0
    if new:
        print(f"compiling {what} for this processor, once; it is kept in {folder()}", file=sys.stderr, flush=True)
    _Compiling.depth += 1
    try:
        with _no_other_process() if new and outermost else contextlib.nullcontext():
            yield
            with contextlib.suppress(OSError):
                done.touch()
    finally:
        _Compiling.depth -= 1
        seconds = time.perf_counter() - began
        _Compiling.seconds += seconds * outermost
    if new:
        print(f"compiled {what} in {seconds:.0f} s", file=sys.stderr, flush=True)


def compiling_seconds() -> float:
    """Seconds that this process has spent so far on compiling kernels, or on reading them from the disk."""
    return _Compiling.seconds


@contextlib.contextmanager
def _no_other_process() -> Iterator[None]:
    """A lock on `folder`, waited for as long as compiling may take; none where the system has no such lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file, until = stack.enter_context((folder() / "lock").open("w")), time.monotonic() + WAIT_S
            while time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    stack.callback(fcntl.flock, file, fcntl.LOCK_UN)  # also of processes forked within
                    break
                time.sleep(0.05)
        yield


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
