"""For tests of the real commands: run a script, kill it, and compare what two runs left behind."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from warm import Command, the_warm

from decouple.commands.folders import CONFIGS
from decouple.commands.procgen import experiment_of
from decouple.commands.settings import control_settings
from decouple.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
# Before a command: to draw its curves takes longer than a small run. tests/runs/test_tracking.py has them drawn.
WITHOUT_CURVES = """
import pathlib, decouple.runs.tracking
def touched(run_dir):
    (path := pathlib.Path(run_dir, "curves.png")).touch()
    return path
decouple.runs.tracking.plot_curves = touched
"""
# Before a command: what it would train in processes of their own, which import all anew, it trains itself.
IN_ONE_PROCESS = """
import pickle
from decouple.studies.actor_size import engines
def here(self, config, go_on):
    trains, config = pickle.loads(pickle.dumps((self.trains, config)))
    return trains(config)
engines.Processes.__call__ = here
"""


class Script:
    """A script of experiments/, as a user runs it: in a fork of a warm process, or `alone` in a process of its own.

    In the fork it draws no curves.
    """

    def __init__(self, name: str):
        self.path = ROOT / "experiments" / name

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error::FutureWarning", str(self.path), *arguments]

    def run(self, folder: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
        code, out, errors = self.start(folder, *arguments, before=before).wait()
        return subprocess.CompletedProcess(self.command(*arguments), code, out, errors)

    def start(self, folder: Path, *arguments: str, before: str = "") -> Command:
        return the_warm().start(folder, self.path.name, *arguments, before=WITHOUT_CURVES + before)

    def alone(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
        )

    def kill_after(self, run_dir: Path, count: int, folder: Path, *arguments: str, before: str = "") -> None:
        """Start the command and kill it, with no chance to clean up, as soon as the table has `count` rows."""
        process, deadline = self.start(folder, *arguments, before=before), time.monotonic() + 300
        while rows(run_dir) < count and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        code, _, errors = process.wait()
        assert code == -signal.SIGKILL, errors


def page_of(name: str) -> tuple[Path, str]:
    """The folder and the name of the page that a command composes."""
    text = inspect.getsource(importlib.import_module(f"decouple.commands.{name}"))
    [(folder, page)] = re.findall(r'config_path=str\(CONFIGS(?: / "(\w+)")?\), config_name="(\w+)"', text)
    return CONFIGS / folder, page


@contextlib.contextmanager
def composing(name: str) -> Iterator[Callable[..., Any]]:
    """A function from arguments of a command to its configuration; what it registers with Hydra is there that long."""
    folder, page = page_of(name)
    if name not in REGISTERED:  # before the search path is made, of which a command's plugins are a part
        with initialize_config_dir(str(folder), version_base="1.3"):  # where Hydra's own plugins register, once
            repo = ConfigStore.instance().repo
            ConfigStore.instance().repo = {k: dict(v) if isinstance(v, dict) else v for k, v in repo.items()}
            importlib.import_module(f"decouple.commands.{name}").register()
            REGISTERED[name], ConfigStore.instance().repo = Shared(ConfigStore.instance().repo), repo
    with initialize_config_dir(str(folder), version_base="1.3"):
        repo, ConfigStore.instance().repo = ConfigStore.instance().repo, REGISTERED[name]
        try:
            yield lambda *arguments: compose(page, overrides=list(arguments))
        finally:
            ConfigStore.instance().repo = repo


class Shared(dict[str, Any]):
    """Hydra's store, which it would copy whole whenever it composes: half of the time. What it takes it copies."""

    def __deepcopy__(self, memo: Any) -> Shared:
        return self


REGISTERED: dict[str, Shared] = {}  # Hydra's store after a command's `register`, which takes as long as to compose


def composed(name: str, *arguments: str) -> Any:
    """The settings that arguments of a command give."""
    with composing(name) as configuration:
        config = configuration(*arguments)
        made = {"control": control_settings, "procgen": experiment_of}.get(name, OmegaConf.to_object)
        return made(config)


def interrupt(command: list[str], folder: Path, number: int, ready: Callable[[], bool]) -> tuple[int, list[str], float]:
    """Start the command, and once it is `ready` send the signal to all its processes of one terminal, as Ctrl-C does.

    Returns the exit code, the lines of stderr, and how many seconds it took to end. None of its processes is left.
    """
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True, **pipes) as process:
        try:
            deadline = time.monotonic() + 300
            while not ready() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, process.stderr.read()
            children, sent = descendants(process.pid), time.monotonic()
            os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=60)
            seconds = time.monotonic() - sent
        finally:
            process.kill()
    deadline = time.monotonic() + 5
    while left := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.01)
    return process.returncode, errors.splitlines(), seconds


def descendants(process: int) -> list[int]:
    """Processes that it started, and those that they did; Linux."""
    found = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found


def environment() -> dict[str, str]:
    """One thread each, so that runs that are compared sum in one order, and this repository's decouple."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HYDRA"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def rows(run_dir: Path) -> int:
    """Rows of a run's table so far."""
    table = run_dir / "metrics.csv"
    return max(0, table.read_bytes().count(b"\n") - 1) if table.exists() else 0


def without_clock(run_dir: Path) -> list[list[str]]:
    """metrics.csv as text, cell by cell, but for the columns of the clock."""
    lines = [line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines()]
    kept = [index for index, name in enumerate(lines[0]) if not name.startswith("time/")]
    return [[line[index] for index in kept] for line in lines]


def checkpoint_of(run_dir: Path) -> dict[str, Any]:
    """What a run's checkpoint holds, but for the sum of its table, which may log more."""
    return {key: value for key, value in load_checkpoint(run_dir / "checkpoint.pt").items() if key != "record"}


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Equal to the bit, whatever is nested in them."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (item, other) in enumerate(zip(a, b, strict=True)):
            assert_same(item, other, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where
