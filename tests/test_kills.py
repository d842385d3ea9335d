"""Kills at every change of a run's folder in turn, with -m slow: what was killed and started again equals what was not.

A small library (tests/kill_at.c) counts each call that changes a file of the folder, whoever makes it, and kills the
process at the n-th: before it, or in the middle of what it writes. Between two such calls nothing on the disk changes
but the replay's mapped rows; there the process is killed at the n-th step, before its row or with half of it written,
and a run with auxiliary phases at the n-th minibatch of one. So a kill at any moment leaves what one of these kills
leaves. Two at most are taken that are alike, a file's writes one after another; KILLS=all takes every one, and
KILLS=updates those in auxiliary phases alone. The figures are in docs/resuming.md.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, assert_same, checkpoint_of, without_clock
from marks import needs_games
from warm import Warm

from decouple.studies.actor_size.store import CellStore

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(not COMPILER or not os.path.isdir("/proc/self/fd"), reason="needs Linux and a compiler")

PROCGEN = (
    *("env=starpilot", "num_envs=2", "rollout_steps=8", "minibatches=2", "epochs=1", "total_frames=48"),
    *("checkpoint_every=2", "evaluate_every=9", "evaluate_episodes=1", "final_episodes=1", "num_threads=1"),
    *("precision=fp32", "unseen=null"),
)
CONTROL = (
    *("env=pendulum", "actor=[4,4]", "critic=[8,8]", "seeds=2", "evaluate_episodes=1", "final_episodes=1"),
    *("show_progress=false",),
)
ON_POLICY = (*CONTROL, "total_frames=192", "rollout_steps=64", "evaluate_every=9")
# An auxiliary phase on every second rollout of five
AUXILIARY = ("auxiliary_every=2", "auxiliary_epochs=2", "auxiliary_minibatches=2", "keep_rollouts=true")
PHASIC = (
    *(*CONTROL, *AUXILIARY, "num_envs=4", "total_frames=640", "rollout_steps=32", "evaluate_every=9"),
    *("checkpoint_every=1", "minibatches=2"),
)
PHASIC_PROCGEN = (*PROCGEN, *AUXILIARY, "total_frames=80", "checkpoint_every=1", "width=0.25")
OFF_POLICY = (
    *(*CONTROL, "total_frames=240", "learning_starts=40", "batch_size=8", "buffer_size=100", "log_every=40"),
    *("evaluate_every=120", "checkpoint_every=80", "keep_replay=true"),
)
SEARCH = (
    *("env=toy", "algorithm=ddpg", "actor=[4,4]", "critic=[4,4]", "seeds=2", "total_frames=120", "learning_starts=40"),
    *("batch_size=8", "buffer_size=100", "log_every=40", "evaluate_every=120", "checkpoint_every=40"),
    *("evaluate_episodes=1", "final_episodes=1", "search.threshold=-1000", "search.sizes=[[],[4,4]]"),
    "show_progress=false",
)
# The search's cells are trained in its own process, so that both die; a worker's own death: test_workers.py.
IN_ONE_PROCESS = """
from decouple.studies.actor_size import engines
engines.Processes.__call__ = lambda self, config, go_on: engines._trained(config)
"""
SETUPS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "procgen ppo": ("procgen.py", (*PROCGEN, "separation=late", "checkpoint_every=1"), ""),
    "procgen daac": ("procgen.py", (*PROCGEN, "separation=full", "value_every=2", "value_epochs=1"), ""),
    "procgen idaac": (
        *("procgen.py", (*PROCGEN, "separation=full", "protocol=as_released", "value_every=2", "value_epochs=1")),
        "",
    ),
    "control ppo": ("control.py", (*ON_POLICY, "algorithm=ppo", "minibatches=2", "epochs=1", "checkpoint_every=1"), ""),
    "control ppg": ("control.py", (*PHASIC, "algorithm=ppg"), ""),
    "control dcpg": ("control.py", (*PHASIC, "algorithm=dcpg", "separation=1", "critic=[4,8]"), ""),
    "control ddcpg": ("control.py", (*PHASIC, "algorithm=ddcpg", "env=acrobot", "rollouts_in=disk"), ""),
    "procgen ppg": ("procgen.py", (*PHASIC_PROCGEN, "algorithm=ppg", "separation=full"), ""),
    "procgen dcpg": ("procgen.py", (*PHASIC_PROCGEN, "algorithm=dcpg", "separation=late", "rollouts_in=disk"), ""),
    "procgen ddcpg": ("procgen.py", (*PHASIC_PROCGEN, "algorithm=ddcpg", "separation=shared"), ""),
    "control trpo": ("control.py", (*ON_POLICY, "algorithm=trpo", "checkpoint_every=2"), ""),
    "control sac": ("control.py", (*OFF_POLICY, "algorithm=sac"), ""),
    "control td3": ("control.py", (*OFF_POLICY, "algorithm=td3", "held_out_every=7"), ""),
    "toy": ("toy.py", ("algorithms=[ddpg]", "seeds=1", "total_frames=1010"), ""),
    "search": ("smallest_actor.py", SEARCH, IN_ONE_PROCESS),
}


@dataclass(frozen=True)
class Change:
    """A change of the run's folder, by its number in the run."""

    number: int
    name: str  # open, write, rename, ... or step, of the mapped replay
    bytes: int
    file: str


class Killer:
    """Runs commands that die at a change; what `run` returns is that of `Warm.run`."""

    def __init__(self, library: Path, warm: Warm) -> None:
        self.library, self.warm = library, warm

    def run(self, setup: str, folder: Path, at: int = 0, step: int = 0, update: int = 0, **further: Any) -> Any:
        """Run the setup with its record in `folder`.

        Args:
            at: the change to die at, 0: none.
            step: the step to die at, before its row is written to the mapped replay.
            update: the minibatch of the auxiliary phases, counted over the run, to die at, before its step.
            **further: `half`, to die in the middle of what is written; `names`, a file for a line of each change.
        """
        half, names = further.get("half", False), further.get("names", "")
        script, arguments, before = SETUPS[setup]
        armed = f"""
import ctypes, functools
library = ctypes.CDLL({str(self.library)!r})
name = ctypes.c_char_p({names!r}.encode() or None)
library.kill_at({str(folder)!r}.encode(), ctypes.c_long({at}), {int(half)}, name)
from decouple.off_policy.replay import Replay
add, steps = Replay.add, 0
def counted(self, transition):
    global steps
    if self.file is not None:
        steps += 1
        if steps == {step}:
            if {half}:
                parts = [part.to(self.rows.dtype) for part in transition]
                new = __import__("torch").cat(parts, -1).transpose(0, 1)
                self.rows[self.added % len(self.rows), :, : new.shape[-1] // 2] = new[0, :, : new.shape[-1] // 2]
            library.kill_now()
    add(self, transition)
Replay.add = counted
from decouple.on_policy import phases
step_of, updates = phases._step, 0
def updated(phase, *arguments, **options):
    global updates
    if phase.name == "auxiliary":
        updates += 1
        if updates == {update}:
            library.kill_now()
    return step_of(phase, *arguments, **options)
phases._step = updated
"""
        code = f"globals().update(__name__='before')\n{before}\n{armed}"
        return self.warm.run(folder.parent, script, *arguments, f"run_dir={folder}", before=code)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("library") / "kill_at.so"
    source = ROOT / "tests" / "kill_at.c"
    subprocess.run([str(COMPILER), "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


# A file written in place, one as decouple's are, and a store, which SQLite rolls back where it was cut off.
WRITES = """
import ctypes, os, sqlite3, sys
library, folder, at, half = ctypes.CDLL(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
library.kill_at(folder.encode(), ctypes.c_long(at), half, f"{folder}.names".encode())
with open(f"{folder}/in_place", "r+") as file:
    file.write("new" * 3)
with open(f"{folder}/.replaced.tmp", "w") as file:
    file.write("new" * 3)
os.replace(f"{folder}/.replaced.tmp", f"{folder}/replaced")
with sqlite3.connect(f"{folder}/store") as db:
    db.execute("UPDATE one SET text = 'newnewnew'")
db.close()
"""


def test_the_library_sees_every_change_and_its_kill_what_is_written_in_place(library, tmp_path):
    def run(at: int, half: bool) -> tuple[int, tuple[str, str, str]]:
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in ("in_place", "replaced"):
            (folder / name).write_text("old" * 3)
        with sqlite3.connect(folder / "store") as db:
            db.execute("CREATE TABLE one (text)")
            db.execute("INSERT INTO one VALUES ('oldoldold')")
        db.close()
        command = [sys.executable, "-I", "-S", "-c", WRITES, library, folder, str(at), str(int(half))]
        variables = {**os.environ, "LD_PRELOAD": str(library)}
        code = subprocess.run(command, env=variables, check=False).returncode
        db = sqlite3.connect(folder / "store")
        ((text,),) = db.execute("SELECT text FROM one").fetchall()
        db.close()
        texts = (folder / "in_place").read_text(), (folder / "replaced").read_text(), text
        shutil.rmtree(folder)
        return code, texts

    old, new = "old" * 3, "new" * 3
    assert run(0, False) == (0, (new, new, new))
    names = [line.split("\t")[0] for line in (tmp_path / "folder.names").read_text().splitlines()]
    assert names[0] == "write" and names.count("rename") == 1 and names.index("open") == 1  # a new file beside the old
    assert names[-1] == "unlink"  # SQLite's journal: that is its commit
    found = {half: [run(at, half)[1] for at in range(1, len(names) + 1)] for half in (False, True)}
    assert found[False][0] == (old, old, old) and found[True][0] == (new[:4] + old[4:], old, old)
    assert {one for half in found for _, *rest in found[half] for one in rest} == {old, new}  # whole at every moment
    assert [texts[1] == new for texts in found[False]].index(True) == names.index("rename") + 1


@pytest.fixture(scope="module")
def killer(library: Path) -> Iterator[Killer]:
    with Warm(LD_PRELOAD=str(library)) as warm:
        yield Killer(library, warm)


def changes(killer: Killer, setup: str, folder: Path) -> list[Change]:
    """What an unbroken run in `folder` changes there, in order."""
    names = folder.with_suffix(".changes")
    code, _, errors = killer.run(setup, folder, names=str(names))
    assert code == 0, errors
    lines = [line.split("\t") for line in names.read_text().splitlines()]
    return [Change(number, name, int(size), file) for number, (name, size, file) in enumerate(lines, 1)]


def to_die_at(found: list[Change], most: int) -> list[dict[str, Any]]:
    """Kills: before each change, and in the middle of each write; of writes to one file in a row the first and the
    last, and of the rest so many as `most` allows, drawn with a fixed seed."""
    alike = [list(group) for _, group in groupby(found, key=lambda change: (change.name, change.file))]
    chosen = [change for group in alike for change in dict.fromkeys((group[0], group[-1]))]
    if os.environ.get("KILLS") == "all":
        chosen, most = found, 10**9
    kills = [
        {"at": change.number, "half": half} for change in chosen for half in (False, True)[: 1 + (change.bytes > 1)]
    ]
    return sorted(random.Random(0).sample(kills, min(most, len(kills))), key=lambda kill: kill["at"])


def left(folder: Path) -> dict[str, Any]:
    """All that a run or a study leaves and that two must share, by file: the columns of the clock aside."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.name == "metrics.csv":
            found[name] = without_clock(file.parent)
        elif file.name == "checkpoint.pt":
            found[name] = checkpoint_of(file.parent)
        elif file.name == "cells.sqlite":
            store = CellStore(file)
            found[name] = {str(cell): store.returns(cell) for cell in store.cells()}
        elif file.name in ("result.json", "table.md", "table.csv"):
            found[name] = file.read_text()
    return found


MOST = {"procgen": 24, "control": 60, "toy": 10, "search": 40}
FEWER = 12  # of a run with auxiliary phases, whose changes are those of the others and its kept rollouts'


@pytest.mark.slow
@needs_games
@pytest.mark.parametrize("setup", SETUPS)
def test_killed_at_any_change_of_its_folder_and_started_again_a_run_equals_an_unbroken_one(killer, tmp_path, setup):
    began = time.monotonic()
    unbroken = tmp_path / "unbroken"
    found = changes(killer, setup, unbroken)
    expected, failed = left(unbroken), []
    phasic, alone = setup.endswith("pg"), os.environ.get("KILLS") == "updates"
    most = FEWER if phasic else MOST[setup.split()[0]]
    kills: list[dict[str, Any]] = [] if phasic and alone else to_die_at(found, most)
    if "sac" in setup or "td3" in setup:
        last = 240 - 240 // 7 if "td3" in setup else 240  # steps held out are not in the replay
        some = (1, 2, 79, 80, 81, 100, 101, 119, 161, last - 1, last)
        steps = range(1, last + 1) if os.environ.get("KILLS") == "all" else some
        kills += [{"step": step, "half": half} for step in steps for half in (False, True)]
    if phasic:  # two phases of two epochs of four minibatches each
        kills += [{"update": update} for update in (3, 9, 14)]
    for kill in kills:
        folder = tmp_path / "run"
        code, _, errors = killer.run(setup, folder, **kill)
        if code != -9:
            failed.append((kill, f"was to be killed, and ended with {code}: {errors[-300:]}"))
        code, _, errors = killer.run(setup, folder)
        if code:
            failed.append((kill, f"does not go on: {errors[-300:]}"))
        else:
            try:
                assert_same(left(folder), expected)
            except AssertionError as error:
                failed.append((kill, f"differs: {str(error)[:300]}"))
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"{setup}: {len(found)} changes, {len(kills)} kills, {seconds:.0f} s")
    told = {change.number: change for change in found}
    assert not failed, "\n".join(f"{kill} {told.get(kill.get('at'))}: {what}" for kill, what in failed)
