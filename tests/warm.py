"""Many real commands at the price of a fork each: a process that has imported everything once, and nothing else.

    with Warm() as warm:
        code, out, errors = warm.run(folder, "control.py", "env=toy", "total_frames=500")

`python experiments/control.py ...` takes some seconds to import PyTorch and TorchRL. Here a server does so once, with
one thread and no game made, and each command is the script run as `__main__` in a child that it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Warm:
    """The server, as a test sees it; a context manager.

    Args:
        variables: of the environment, for all commands; None: one is left out.
    """

    def __init__(self, **variables: str | None) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HYDRA"))}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "MPLBACKEND": "agg"}
        environment = {name: value for name, value in {**kept, **own, **variables}.items() if value is not None}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, cwd="/", **pipes)

    def run(self, folder: Path, script: str, *arguments: str, before: str = "", **variables: str) -> Any:
        """Run the command in the folder: its exit code (negative: a signal), stdout and stderr.

        Args:
            folder, script, arguments: where, a file of experiments/, and what follows it.
            before: Python that the command's process runs first.
            variables: of its environment.
        """
        files = [folder / name for name in (".stdout", ".stderr")]
        asked = {"folder": str(folder), "script": str(ROOT / "experiments" / script), "arguments": arguments}
        asked |= {"files": [str(file) for file in files], "before": before, "variables": variables}
        self._server.stdin.write(json.dumps(asked) + "\n")
        code = int(self._server.stdout.readline())
        texts = [file.read_text(errors="replace") for file in files]
        for file in files:
            file.unlink()
        return code, *texts

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


def serve() -> dict[str, Any]:
    """Fork for each line of stdin, and say how the child ended; returns in the child, with what it was asked for."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Be the command in all that it can see of itself."""
    os.chdir(asked["folder"])
    os.environ.update(asked["variables"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate([nothing, *(os.open(name, os.O_WRONLY | os.O_CREAT) for name in asked["files"])]):
        os.dup2(file, number)
        os.close(file)
    sys.argv[:] = [asked["script"], *asked["arguments"]]
    sys.path[0] = str(Path(asked["script"]).parent)
    exec(asked["before"], {})


if __name__ == "__main__":
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
    for name in ("hydra.main", "omegaconf", "matplotlib.pyplot", "torchrl.collectors", "procgen", "gymnasium", "yaml"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, "")  # where Python puts the script's folder
    become(asked := serve())
    try:
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
