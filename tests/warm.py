"""Many real commands at the price of a fork each: a process that has imported everything once, and nothing else.

    code, out, errors = the_warm().run(folder, "control.py", "env=toy", "total_frames=500")

`python experiments/control.py ...` takes some seconds to import PyTorch and TorchRL. Here a server does so once, with
one thread and no game made, and each command is the script run as `__main__` in a child that it forks.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 300  # that a command may take


@functools.cache
def the_warm() -> Warm:
    """The one that all tests of a process use; tests/conftest.py ends it."""
    return Warm()


class Warm:
    """The server, as a test sees it; a context manager.

    Args:
        variables: of the environment, for all commands; None: one is left out.
    """

    def __init__(self, **variables: str | None) -> None:
        # FAULTS_TEST: each command has its own (tests/faults/faults.py).
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HYDRA", "FAULTS_T"))
        }
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "MPLBACKEND": "agg"}
        environment = {name: value for name, value in {**kept, **own, **variables}.items() if value is not None}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        command = [sys.executable, "-W", "error::FutureWarning", __file__]
        self._server = subprocess.Popen(command, env=environment, cwd="/", **pipes)
        self._outputs = tempfile.TemporaryDirectory()
        self._commands = itertools.count()

    def run(self, folder: Path, script: str, *arguments: str, before: str = "", **variables: str) -> Any:
        """Run the command in the folder: its exit code (negative: a signal), stdout and stderr.

        Args:
            folder, script, arguments: where, a file of experiments/ ("": none), and what follows it.
            before: Python that the command's process runs first.
            variables: of its environment.
        """
        return self.start(folder, script, *arguments, before=before, **variables).wait()

    def start(self, folder: Path, script: str, *arguments: str, before: str = "", **variables: str) -> Command:
        """Start the command, as `run` does, and do not wait for it."""
        number = next(self._commands)
        files = [Path(self._outputs.name, f"{number}.{name}") for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        path = str(ROOT / "experiments" / script) if script else ""
        asked: dict[str, Any] = {"folder": str(folder), "script": path}
        asked |= {"arguments": arguments, "files": [str(file) for file in files], "before": before}
        counted = {"FAULTS_TEST": os.environ.get("FAULTS_TEST", "")}
        return Command(self, self.ask(asked | {"variables": variables | counted}), files)

    def ask(self, what: dict[str, Any]) -> Any:
        self._server.stdin.write(json.dumps(what) + "\n")
        return json.loads(self._server.stdout.readline())

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()
        self._outputs.cleanup()


class Command:
    """A command under way: its process, which can be signalled, and what it ends with."""

    def __init__(self, warm: Warm, pid: int, files: list[Path]) -> None:
        self.warm, self.pid, self.files, self.code = warm, pid, files, None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Its exit code (negative: a signal), or None where it goes on."""
        if self.code is None:
            self.code = self.warm.ask({"wait": self.pid, "options": options})
        return self.code

    def lines(self, count: int) -> list[str]:
        """What it has printed, as soon as that is so many lines."""
        while (text := self.files[0].read_text()).count("\n") < count:
            assert self.poll() is None, self.files[1].read_text()
            time.sleep(0.002)
        return text.splitlines()

    def kill(self) -> str:
        """Kill it, with no chance to clean up: what it had printed."""
        os.kill(self.pid, signal.SIGKILL)
        code, out, errors = self.wait()
        assert code == -signal.SIGKILL, errors
        return out

    def wait(self) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr."""
        limit = threading.Timer(SECONDS, os.kill, (self.pid, signal.SIGKILL))
        limit.start()
        code = self.poll(0)
        limit.cancel()
        out, errors = (file.read_text(errors="replace") for file in self.files)
        return code, out, errors


def serve() -> dict[str, Any]:
    """Fork for each command of stdin, or tell how one ended; returns in the child, with what it was asked for."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            ended, status = os.waitpid(asked["wait"], asked["options"])
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif not (answer := os.fork()):
            return asked
        print(json.dumps(answer), flush=True)
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Be the command in all that it can see of itself."""
    os.chdir(asked["folder"])
    os.environ.update(asked["variables"])
    if test := os.environ["FAULTS_TEST"]:
        import coverage

        coverage.Coverage.current().switch_context(test)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate([nothing, *(os.open(name, os.O_WRONLY | os.O_CREAT) for name in asked["files"])]):
        os.dup2(file, number)
        os.close(file)
    sys.argv[:] = [asked["script"], *asked["arguments"]]
    sys.path[0] = str(Path(asked["script"]).parent)
    exec(asked["before"], {})


if __name__ == "__main__":
    import gc
    import importlib
    import multiprocessing.util
    import pkgutil

    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    with contextlib.suppress(ImportError):
        from gym_notices import notices

        notices.notices.clear()
    import decouple

    for module in pkgutil.walk_packages(decouple.__path__, "decouple."):
        importlib.import_module(module.name)
    for name in (
        "hydra.main",
        "omegaconf",
        "matplotlib.pyplot",
        "torchrl.collectors",
        "procgen",
        "gymnasium",
        "opensimplex",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):  # what Numba collects at the first kernel of a process
        from numba.core.registry import cpu_target

        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, "")  # where Python puts the script's folder
    with contextlib.suppress(ImportError):  # Hydra looks for its plugins in all that is installed
        from hydra.core.plugins import Plugins

        Plugins.instance()
    gc.collect()
    gc.freeze()  # a child's collections neither look through what it was forked with nor copy its memory
    asked = serve()
    try:
        become(asked)
        if asked["script"]:
            runpy.run_path(asked["script"], run_name="__main__")
        code: Any = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    multiprocessing.util._exit_function()  # as Python does at its end: semaphores go, unlike what was imported
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(code, str) else code or 0)  # to take down what was imported takes as long as a command
