"""C files of an actor, compiled on this machine: run through ctypes, timed, and measured in bytes.

    with CompiledActor(constants, files, "actor") as compiled:
        compiled.run(observation)                      # (B, O) -> (B, A)
        compiled.microseconds(1.0, observation)        # of a call, without Python around it
        compiled.memory()                              # {"flash_bytes": ..., "stack_bytes": ...}

The compiler is `$CC`, where that is a program without arguments, else cc, gcc or clang; one that makes programs for
another machine cannot check an actor here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decouple.deploy.constants import ActorConstants
from decouple.deploy.plain_c import c_name, c_prototype

__all__ = ["SMALL", "STRICT", "CannotRunHereError", "CompiledActor", "c_compiler", "compiled_here"]

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
OPTIMISED = ("-O2",)
SMALL = ("-fno-asynchronous-unwind-tables",)  # tables for debuggers, which no microcontroller keeps
LEAST_TIMES = 20
CALLS = 50  # calls between two looks at the clock, which takes as long as a small actor
# Around the actor, for this machine alone: many observations in one call, and the time of one.
DRIVER = """\
#define _POSIX_C_SOURCE 199309L
#include <time.h>
#include "{stem}.h"
{extern};

void run(int count, const float *observation, const float *noise, {action} *action)
{{
    int n;

    for (n = 0; n < count; n++)
        {name}_act(observation + (long)n * {inputs}, {noise}action + (long)n * {outputs});
    (void)noise;
}}

double nanoseconds(int calls, int count, const float *observation, const float *noise, {action} *action)
{{
    struct timespec before, after;
    int n;

    clock_gettime(CLOCK_MONOTONIC, &before);
    for (n = 0; n < calls; n++)
        run(1, observation + (long)(n % count) * {inputs}, noise, action);
    clock_gettime(CLOCK_MONOTONIC, &after);
    return ((double)(after.tv_sec - before.tv_sec) * 1e9 + (double)(after.tv_nsec - before.tv_nsec)) / calls;
}}
"""


class CannotRunHereError(RuntimeError):
    """A compiler makes nothing that this machine can load, as a cross compiler for another one."""


def c_compiler() -> str | None:
    """The C compiler's path; None where there is none."""
    return next(iter(_compilers()), None)


def _compilers() -> list[str]:
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return list(dict.fromkeys(found for name in names if (found := shutil.which(name))))


def compiled_here(constants: ActorConstants, files: Mapping[str, str], stem: str) -> CompiledActor:
    """An actor's C files compiled by the first compiler whose programs run on this machine.

    Raises:
        FileNotFoundError: there is no C compiler.
        CannotRunHereError: there are some, all of them for other machines.
        RuntimeError: a compiler refuses the files.
    """
    *others, last = _compilers() or [None]
    for compiler in others:
        with contextlib.suppress(CannotRunHereError):
            return CompiledActor(constants, files, stem, compiler=compiler)
    return CompiledActor(constants, files, stem, compiler=last)


class CompiledActor:
    """An actor's C files as a shared library in a folder of its own, which leaving the context removes.

    Args:
        constants: the actor.
        files: the two files' texts by name, from `c_files`.
        stem: their name without its ending.
        compiler: the compiler's path; None: `c_compiler`.
        flags: options beside those of `STRICT`.

    Raises:
        FileNotFoundError: there is no C compiler.
        CannotRunHereError: the compiler is another machine's, or cannot link.
        RuntimeError: the compiler refuses the files; the message is its own.
    """

    def __init__(
        self,
        constants: ActorConstants,
        files: Mapping[str, str],
        stem: str,
        *,
        compiler: str | None = None,
        flags: Sequence[str] = OPTIMISED,
    ) -> None:
        self.constants, self.stem, self.flags = constants, stem, list(flags)
        found = compiler or c_compiler()
        if found is None:
            raise FileNotFoundError("a C compiler (cc, gcc or clang, or the one that CC names) must be on the path")
        self.compiler = found
        told = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        self.version = told.splitlines()[0] if told else found
        self._is_gcc = "Free Software Foundation" in told
        self._temporary = tempfile.TemporaryDirectory(prefix="decouple_c_")
        self.folder = Path(self._temporary.name)
        try:
            self._build(files)
        except BaseException:
            self._temporary.cleanup()
            raise

    def __enter__(self) -> CompiledActor:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def run(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """The actions, (B, A), or (B,) for an index, in float32 or int64."""
        count = len(observation)
        kind: Any = np.int32 if self.constants.discrete else np.float32
        action = np.zeros((count, self.constants.action_size), kind)
        self._library.run(count, *_pointers(observation, noise, action))
        if not self.constants.discrete:
            return action
        return action.astype(np.int64)[:, 0] if self.constants.kind == "index" else action.astype(np.int64)

    def microseconds(self, seconds: float, observation: np.ndarray, noise: np.ndarray | None = None) -> list[float]:
        """Microseconds of a call, each a mean over 50 calls without Python around them, for as long as told."""
        count = len(observation)
        action = np.zeros((1, self.constants.action_size), np.int32 if self.constants.discrete else np.float32)
        pointers = _pointers(observation, noise, action)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < LEAST_TIMES or time.perf_counter() < end:
            times.append(self._library.nanoseconds(CALLS, count, *pointers) / 1e3)
        return times

    def memory(self) -> dict[str, int]:
        """Bytes of code and constants (`flash_bytes`) and of the stack (`stack_bytes`), without libm's, compiled with
        -Os, where the machine's tools can tell: `size`, and gcc's -fstack-usage."""
        usage = ["-fstack-usage"] if self._is_gcc else []
        self._call(*STRICT, "-Os", *SMALL, *usage, "-c", f"./{self.stem}.c", "-o", "small.o")
        found = {}
        if shutil.which("size"):
            told = subprocess.run(["size", "small.o"], cwd=self.folder, capture_output=True, text=True)
            if told.returncode == 0:
                text, data, *_ = told.stdout.splitlines()[1].split()
                found["flash_bytes"] = int(text) + int(data)
        if usage:
            lines = (self.folder / "small.su").read_text().splitlines()
            found["stack_bytes"] = sum(int(line.split("\t")[1]) for line in lines)
        return found

    def _build(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        constants, name = self.constants, c_name(self.stem)
        driver = DRIVER.format(
            stem=self.stem,
            name=name,
            extern=c_prototype(constants, name),
            action="int32_t" if constants.discrete else "float",
            noise=f"noise + (long)n * {constants.size}, " if constants.sample else "",
            inputs=constants.inputs,
            outputs=constants.action_size,
        )
        (self.folder / f"around_{self.stem}.c").write_text(driver)
        options = [*STRICT, *self.flags, "-fPIC"]
        self._call(*options, "-c", f"./{self.stem}.c")
        try:
            self._call(*options, "-c", f"around_{self.stem}.c")
            self._call("-shared", "-o", "actor.so", f"./{self.stem}.o", f"around_{self.stem}.o", "-lm")
            self._library = ctypes.CDLL(str(self.folder / "actor.so"))
        except (RuntimeError, OSError) as error:
            raise CannotRunHereError(f"what {self.compiler} makes does not run here: {error}") from error
        self._library.nanoseconds.restype = ctypes.c_double

    def _call(self, *arguments: str) -> None:
        ran = subprocess.run([self.compiler, *arguments], cwd=self.folder, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{self.compiler} refuses the actor's files: {ran.stderr.strip()}")


def _pointers(observation: np.ndarray, noise: np.ndarray | None, action: np.ndarray) -> list[ctypes.c_void_p]:
    """Addresses of the arrays; the caller keeps them."""
    arrays = [np.ascontiguousarray(observation, np.float32), noise, action]
    if arrays[0] is not observation:
        raise ValueError("observation must be contiguous and in float32")
    if noise is not None and (noise.dtype != np.float32 or not noise.flags.c_contiguous):
        raise ValueError("noise must be contiguous and in float32")
    return [ctypes.c_void_p(None if array is None else array.ctypes.data) for array in arrays]
