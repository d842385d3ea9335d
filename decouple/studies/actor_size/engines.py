"""Engines of the cells' workers: where a batch of seeds is trained, and what becomes of one that dies.

    with Processes() as train:                  # or RayTasks(address="auto")
        report = train(config, go_on)           # CellError: it cannot be trained

A batch is trained in a process of its own: one that is killed is started again and goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from decouple.checks import POSITIVE_WHOLE, above, at_least, check_setting, checked
from decouple.runs.finite import NotFiniteError
from decouple.runs.locks import FolderInUseError
from decouple.runs.starting import elsewhere
from decouple.studies.actor_size.cell import done_result, train_agents
from decouple.studies.actor_size.settings import ControlSettings

__all__ = [
    "BEAT_S",
    "CellError",
    "GaveUpError",
    "Processes",
    "RayTasks",
    "WorkerSettings",
    "outcome",
    "serve",
    "waited_for",
]

BEAT_S = 1.0  # seconds between looks at what is being trained, and at what others do
PATIENCE_S = 60.0  # seconds to wait for another process in a batch's folder to end

T = TypeVar("T")


class CellError(RuntimeError):
    """A cell could not be trained; the message says which and why. The other cells are done."""


class GaveUpError(RuntimeError):
    """Training was stopped by its caller: its result is not wanted any more, or another worker has the batch."""


@dataclass
class WorkerSettings:
    """Settings of the workers that train a study's cells; a study's own settings add to them.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    engine: str = "local"  # workers: local (processes of this machine) or ray
    parallel: int = 1  # batches trained at once, where the next ones do not depend on their results
    address: str | None = None  # address of a Ray cluster, auto: this machine's cluster; None: Ray is started here
    cpus: float = 1.0  # processors that Ray reserves for a batch
    lease: float = 300.0  # seconds without a renewal after which a worker of another machine counts as dead

    def check_workers(self, group: str) -> None:
        """Check the settings; `group` is the prefix of their names on the command line."""
        for name in ("cpus", "lease"):
            check_setting(f"{group}{name}", getattr(self, name), above(0))
        check_setting(f"{group}engine", self.engine, ("local", "ray").__contains__, "local or ray")
        check_setting(f"{group}parallel", self.parallel, POSITIVE_WHOLE)

    def start(self, trains: Callable[[Any], dict[str, Any]] | None = None) -> Processes | RayTasks:
        """The engine, a context manager; `trains` is as for `Processes`."""
        if self.engine == "local":
            return Processes(trains=trains)
        return RayTasks(self.address, self.cpus, trains=trains)


class Processes:
    """Trains in processes of this machine, which end with their caller however it ends; a context manager.

    Args:
        starts: largest number of starts of a batch whose process dies.
        trains: function of a module, from a batch's settings to its final evaluation; None: a cell's agents are
            trained.
    """

    @checked(starts=at_least(1))
    def __init__(self, starts: int = 3, trains: Callable[[Any], dict[str, Any]] | None = None) -> None:
        self.starts, self.trains = starts, trains or _trained
        self._idle: list[_Process] = []

    def __call__(self, config: Any, go_on: Callable[[], bool]) -> dict[str, float]:
        codes = []
        for _ in range(self.starts):
            process = self._at_hand()
            try:
                kind, answer = process.train(self.trains, config, go_on)
            except BaseException:
                process.end()
                raise
            if kind == "died":
                codes.append(answer)
                continue
            self._idle.append(process)
            if kind == "error":
                raise CellError(f"{answer} (the record is in {config.run_dir})")
            return answer
        died = ", ".join(signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes)
        raise CellError(f"its process died {self.starts} times ({died}; the record is in {config.run_dir})")

    def _at_hand(self) -> _Process:
        """An idle process, or a new one where there is none."""
        with contextlib.suppress(IndexError):  # not asked first: another thread may take the last one in between
            return self._idle.pop()
        return _Process()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().end()


class _Process:
    """One process that trains what it is sent, one after another."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        # Not multiprocessing's own: that would run the caller's script in the new process. The current folder, which
        # Python puts first on the path, is taken off it: its files may shadow modules.
        quiet = "from decouple.runs.notices import drop_gym_notice; drop_gym_notice()"
        imports = f"import gc, sys; gc.disable(); sys.path.pop(0); {quiet}; from {__name__} import serve"
        # As run_command in decouple/commands/running.py: no garbage collection looks through what was imported.
        code = f"{imports}; gc.freeze(); gc.enable(); serve(int(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(theirs.fileno())]
        # A session of its own: a terminal's Ctrl-C reaches only the caller, who ends this process.
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **options)
        theirs.close()  # so that its end is seen here

    def train(self, trains: Callable[..., Any], config: Any, go_on: Callable[[], bool]) -> tuple[str, Any]:
        """The outcome (done, error or died), with the report, the error or the exit code."""
        with contextlib.suppress(OSError):  # it died since it last trained; seen below
            self._connection.send((trains, config))
        while not self._connection.poll(BEAT_S):
            if not go_on():
                raise GaveUpError
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return "died", self.end()

    def end(self) -> int:
        """End the process, killed if it still runs; returns its exit code."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=1)  # it ends where its connection does
        self._process.kill()
        return self._process.wait()


def serve(descriptor: int) -> None:
    """Train each config from the connection; exit at once when the other end is gone, whatever is under way."""
    connection, requests = Connection(descriptor), queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                requests.put(connection.recv())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        trains, config = requests.get()
        try:
            answer = "done", trains(config)
        except Exception as error:
            traceback.print_exc()
            answer = "error", f"{type(error).__name__}: {error}"
        connection.send(answer)


class RayTasks:
    """Trains as tasks of Ray (https://docs.ray.io), started here or a cluster's; run folders must be seen by all nodes.

    Args:
        address: address of a cluster, "auto" for this machine's cluster; None: Ray is started here.
        cpus: processors reserved for a batch.
        starts: largest number of starts of a batch whose worker dies.
        trains: as for `Processes`.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1.0,
        starts: int = 3,
        trains: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("engine=ray needs Ray: pip install 'torchrl-decouple[cluster]'") from error
        self._ray = ray
        if not ray.is_initialized():
            with elsewhere():
                ray.init(address=address or "local", log_to_driver=False, logging_level="warning")
        self._task = ray.remote(num_cpus=cpus, max_retries=starts - 1)(trains or _trained)

    def __call__(self, config: Any, go_on: Callable[[], bool]) -> dict[str, float]:
        errors = self._ray.exceptions
        task = self._task.remote(dataclasses.replace(config, run_dir=str(Path(config.run_dir).absolute())))
        try:
            while not self._ray.wait([task], timeout=BEAT_S)[0]:
                if not go_on():
                    raise GaveUpError
            return self._ray.get(task)
        except errors.RayTaskError as error:
            raise CellError(
                f"{type(error.cause).__name__}: {error.cause} (the record is in {config.run_dir})"
            ) from None
        except errors.RayError as error:
            raise CellError(f"{type(error).__name__} (the record is in {config.run_dir}): {error}") from None
        except BaseException:
            self._ray.cancel(task, force=True)
            raise

    def __enter__(self) -> RayTasks:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()


def _trained(config: ControlSettings) -> dict[str, Any]:
    """Train a batch of a cell's agents; returns its final evaluation."""
    return outcome(config.run_dir, lambda: done_result(config) or train_agents(config))


def outcome(run_dir: str, asks: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `asks` returns: the final evaluation of a batch, trained or read from its folder where it is already done.

    Where all agents have failed, the return is None, which is a result too. A process whose caller was killed may be in
    the folder for a moment; it is waited for.
    """
    try:
        return waited_for(asks)
    except NotFiniteError as error:
        print(f"{run_dir}: {error}", file=sys.stderr)
        return {"final/return": None}


def waited_for(asks: Callable[[], T]) -> T:
    """Result of `asks`, once no other process is in the folder: one that a killed caller left soon ends."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return asks()
        except FolderInUseError:
            if time.monotonic() > until:
                raise
            time.sleep(BEAT_S)
