"""Processes that step Gymnasium's games side by side, for tasks whose steps are slow.

    workers = GameWorkers(2)
    games = WorkerGames(workers, Task("ant", ...), 16)      # the interface of decouple.envs.control.backends
    observation, reward, terminated, truncated = games.step(action)
    workers.close()

Each process steps its share of the games one after another. A game's numbers are its own, so that they are the same on
any number of processes, to the bit; so are saved states. A process ignores Ctrl-C, which is the first process's to
answer, and ends when that one closes it or is gone, however it ended. It is forked off one that has imported
this module, and so PyTorch, once for all (forkserver): that takes seconds, and memory of which they share a part. That
one imports what this one would, stays until this one ends, and each process has this one's environment variables and
its own state of NumPy's global generator.
Gymnasium's AsyncVectorEnv and TorchRL's ParallelEnv have a process for each game, and neither saves games.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from decouple.checks import at_least, checked
from decouple.envs.control.backends import GymnasiumGames, Outcome
from decouple.envs.control.catalogue import find_task
from decouple.envs.control.making import Task
from decouple.runs.starting import elsewhere

__all__ = ["GameWorkers", "WorkerGames"]

END_S = 5.0  # seconds that a process has to end after its pipe is closed


class GameWorkers:
    """Processes that hold games; several tasks may have theirs in the same processes.

    Args:
        number: number of processes.

    Attributes:
        number: the same. processes: the processes.
        busy: True while answers are waited for, and for ever after a wait was cut off.

    Raises:
        RuntimeError: a process cannot be started.
    """

    @checked(number=at_least(1))
    def __init__(self, number: int) -> None:
        self.number, self.made, self.busy = number, 0, False
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.close = weakref.finalize(self, _end, self.pipes, self.processes)
        try:
            context = _context()
            for _ in range(number):
                here, there = context.Pipe()
                self.pipes.append(here)
                process = context.Process(target=_serve, args=(there, dict(os.environ)), daemon=True)
                process.start()
                self.processes.append(process)
                there.close()  # else the process would not see that this one is gone
        except (EOFError, OSError) as error:
            says = "sockets lie in TMPDIR, whose path must be short"
            raise RuntimeError(f"env_workers: a process cannot be started: {error} ({says})") from error

    def ask(self, messages: Sequence[Any]) -> list[Any]:
        """Send each process a message, and wait for all answers; None: nothing is sent, and the answer is None.

        Raises:
            RuntimeError: a process has ended.
            Exception: what a process raised.
        """
        self.busy, each = True, list(zip(self.pipes, messages, strict=True))
        try:
            for pipe, message in each:
                if message is not None:
                    pipe.send(message)
            answers = [None if message is None else pipe.recv() for pipe, message in each]
            self.busy = False
        except (EOFError, OSError) as error:
            raise RuntimeError("a process of env_workers has ended; the same command goes on") from error
        failed = next((answer for answer in answers if isinstance(answer, _Raised)), None)
        if failed is not None:
            failed.error.__cause__ = RuntimeError(f"in a process of env_workers:\n{failed.trace}")
            raise failed.error
        return answers


class WorkerGames:
    """Gymnasium's games in processes: the interface and the numbers of ``GymnasiumGames``.

    Args:
        workers: the processes.
        task, number, levels, privileged: as for ``GymnasiumGames``; each process makes its share of the games.
    """

    @checked(number=at_least(1))
    def __init__(
        self, workers: GameWorkers, task: Task, number: int, levels: range | None = None, privileged: Sequence[str] = ()
    ) -> None:
        self.workers, self.task, self.number, self.simulator = workers, task, number, task.simulator
        self.resumable = self.simulator != "other"
        ends = np.linspace(0, number, workers.number + 1).round().astype(int)  # processes without games stay idle
        self.shares = [slice(*map(int, pair)) for pair in itertools.pairwise(ends)]
        self.index, workers.made = workers.made, workers.made + 1
        # A process finds the task again, by its name: the module that registers an id is imported there too.
        by_name = task.name, task.options, {"wrappers": task.wrappers, "frame_stack": task.frame_stack}
        made = [(*by_name, share.stop - share.start, levels, list(privileged)) for share in self.shares]
        found = next(each for each in self._ask("make", made) if each is not None)
        self.observation_space, self.action_space, self.entries, self.dtype, self.privileged, self.width = found

    def seed(self, seeds: Sequence[int]) -> None:
        self._ask("seed", [(list(seeds[share]),) for share in self.shares])

    def reset(self, which: np.ndarray) -> np.ndarray:
        parts = [which[(which >= share.start) & (which < share.stop)] - share.start for share in self.shares]
        shown = self._ask("reset", [(part,) if len(part) else None for part in parts])
        return np.concatenate([each for each in shown if each is not None] or [np.empty((0, self.width), self.dtype)])

    def step(self, action: np.ndarray) -> Outcome:
        outcomes = [each for each in self._ask("step", [(action[share],) for share in self.shares]) if each is not None]
        observation, reward, terminated, truncated = map(np.concatenate, zip(*outcomes, strict=True))
        return observation, reward, terminated, truncated

    def state(self) -> list[dict[str, Any]]:
        return [game for share in self._ask("state", [()] * len(self.shares)) if share is not None for game in share]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self._ask("load_state", [(states[share],) for share in self.shares])

    def close(self) -> None:
        if self.workers.close.alive and not self.workers.busy:
            self._ask("close", [()] * len(self.shares))

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """Call a method of each process's games; None: it is left out, as is a process without games."""
        given = zip(self.shares, arguments, strict=True)
        asked = [None if args is None or share.stop == share.start else args for share, args in given]
        return self.workers.ask([None if args is None else (self.index, method, args) for args in asked])

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"games of {self.task.name} in processes of env_workers cannot be copied or pickled")


class _Raised:
    """An error in a process, and its trace."""

    def __init__(self, error: Exception, trace: str) -> None:
        self.error, self.trace = error, trace


def _context() -> Any:
    """How processes are started: off one that has imported this module; where the system has no fork, each anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["decouple.runs.quiet", __name__])
    # It would begin with the current folder, and not know what this process has put on its own path.
    with elsewhere(PYTHONPATH=os.pathsep.join(os.path.abspath(entry) for entry in sys.path)):
        forkserver.ensure_running()
    return context


def _serve(pipe: Connection, variables: dict[str, str]) -> None:
    """Answer messages until the pipe is closed; `variables` are the environment's of the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(variables)
    np.random.seed()  # the process that it was forked off has one state for all
    games: dict[int, GymnasiumGames] = {}
    try:
        while True:
            index, method, arguments = pipe.recv()
            try:
                answer = _answered(games, index, method, arguments)
            except Exception as error:
                answer = _Raised(_sendable(error), traceback.format_exc())
            pipe.send(answer)
    except (EOFError, OSError):  # the first process is gone, or has closed
        pass
    finally:
        for each in games.values():
            each.close()


def _sendable(error: Exception) -> Exception:
    """The error, or its text in a RuntimeError where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _answered(games: dict[int, GymnasiumGames], index: int, method: str, arguments: tuple[Any, ...]) -> Any:
    if method == "make":
        name, options, around, *rest = arguments
        games[index] = own = GymnasiumGames(find_task(name, options)._replace(**around), *rest)
        return own.observation_space, own.action_space, own.entries, own.dtype, own.privileged, own.width
    if method == "close":
        games.pop(index).close()
        return None
    return getattr(games[index], method)(*arguments)


def _end(pipes: list[Connection], processes: list[Any]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(END_S)
        if process.is_alive():
            process.kill()
            process.join()
