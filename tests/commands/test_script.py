"""experiments/_script.py and decouple/commands/interrupts.py: how a command ends that is interrupted, or wrong.

With -m slow: five moments of three scripts, each then started again, and sweeps.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Script, assert_same, checkpoint_of, interrupt, rows, without_clock
from marks import needs_games
from warm import the_warm

from decouple.runs.checkpoint import load_checkpoint
from decouple.studies.actor_size.store import CellStore

CODES = {signal.SIGINT: (130, "stopped by Ctrl-C; "), signal.SIGTERM: (143, "stopped by SIGTERM; ")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[int, list[str]]]:
    """Runs a few lines as the body of a command: the exit code, and the lines of stderr."""
    folder = tmp_path_factory.mktemp("signals")

    def ran(body: str) -> tuple[int, list[str]]:
        code = f"""
import signal, sys, time
import _script
from decouple.commands.interrupts import plain_interrupts, says_what_goes_on
with plain_interrupts():
{body}
print("went on", file=sys.stderr)
sys.exit(0)
"""
        code, _, errors = the_warm().run(folder, "control.py", before=code)
        return code, errors.splitlines()

    return ran


@pytest.mark.parametrize("number", CODES)
def test_a_signal_is_one_line_and_its_own_exit_code(plain, number):
    code, says = CODES[number]
    assert plain(f"    signal.raise_signal({number:d})") == (code, [says + "the same command starts over"])
    told = f"    with says_what_goes_on(lambda: 'at 3 frames'):\n        signal.raise_signal({number:d})"
    assert plain(told) == (code, [says + "at 3 frames"])


def test_what_fails_because_of_the_signal_does_not_hide_it(plain):
    failing = """
    with says_what_goes_on(lambda: "at 3 frames"):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise AttributeError("of a module that was half imported")
"""
    assert plain(failing) == (130, ["stopped by Ctrl-C; at 3 frames"])


def test_an_interrupt_that_a_destructor_swallows_ends_the_command_all_the_same(plain):
    swallowed = """
    class Dropped:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
    one = Dropped()
    del one
    time.sleep(0.1)
"""
    assert plain(swallowed) == (143, ["stopped by SIGTERM; the same command goes on from what is on the disk"])


def test_a_second_signal_waits_for_nothing(plain):
    twice = """
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)
"""
    assert plain(twice) == (130, ["stopped by Ctrl-C; the same command goes on from what is on the disk"])


def test_a_signal_that_somebody_else_handles_or_ignores_is_left_to_them(plain):
    for handler in ("signal.SIG_IGN", "lambda *_: None"):
        code = f"    pass\nsignal.signal(signal.SIGTERM, {handler})\n"
        assert plain(code + "with plain_interrupts():\n    signal.raise_signal(signal.SIGTERM)") == (
            0,
            ["went on"],
        )


def test_an_error_that_comes_of_no_signal_keeps_its_trace_and_its_exit_code(plain):
    code, lines = plain("    raise AttributeError('a bug')")
    assert code == 1 and lines[0].startswith("Traceback") and lines[-1] == "AttributeError: a bug"
    assert plain("    sys.exit('ValueError: gamma')") == (1, ["ValueError: gamma"])


# -------------------------------------------------------------------------------------------------- the real commands

CONTROL, PROCGEN, SEARCH = Script("control.py"), Script("procgen.py"), Script("smallest_actor.py")
SAC = (
    *("env=pendulum", "algorithm=sac", "actor=[4,4]", "critic=[8,8]", "seeds=2", "total_frames=2000"),
    *("learning_starts=100", "batch_size=16", "buffer_size=500", "log_every=50", "evaluate_every=500"),
    *("checkpoint_every=200", "evaluate_episodes=1", "final_episodes=1"),
)
PPO = (
    *("separation=late", "env=starpilot", "num_envs=4", "rollout_steps=16", "minibatches=4", "total_frames=640"),
    *("checkpoint_every=2", "evaluate_every=5", "evaluate_episodes=1", "final_episodes=1", "num_threads=1"),
    *("precision=fp32", "unseen=null"),
)
FEW = (
    *("env=toy", "algorithm=ddpg", "actor=[4,4]", "critic=[4,4]", "seeds=2", "total_frames=3000"),
    *("learning_starts=100", "batch_size=16", "buffer_size=500", "log_every=100", "evaluate_every=1000"),
    *("checkpoint_every=200", "evaluate_episodes=1", "final_episodes=1", "search.threshold=-175"),
    "search.sizes=[[],[2,2],[4,4]]",
)


def check_one_line(number: int, ended: tuple[int, list[str], float]) -> str:
    """The line; it is the last, and there is no other of an error."""
    code, lines, seconds = ended
    assert code == CODES[signal.Signals(number)][0] and seconds < 20, lines
    assert lines[-1].startswith(CODES[signal.Signals(number)][1]), lines
    assert sum(line.startswith("stopped by") for line in lines) == 1, lines
    assert not any("Traceback" in line or "Error" in line or "Exception" in line for line in lines), lines
    return lines[-1]


def after(seconds: float) -> Callable[[], bool]:
    """True so long after it is made."""
    begin = time.monotonic()
    return lambda: time.monotonic() - begin > seconds


def test_a_run_that_is_interrupted_says_where_it_stopped_and_goes_on(tmp_path):
    folder = tmp_path / "run"
    command = CONTROL.command(*SAC, f"run_dir={folder}")
    line = check_one_line(signal.SIGINT, interrupt(command, tmp_path, signal.SIGINT, lambda: rows(folder) >= 5))
    kept, seen = load_checkpoint(folder / "checkpoint.pt")["frames"], 50 * rows(folder)
    goes_on = f"the same command goes on from the checkpoint at {kept:,} in {folder}"
    assert kept >= 200 and line == f"stopped by Ctrl-C; at {seen:,} frames: {goes_on}"
    line = check_one_line(signal.SIGTERM, interrupt(command, tmp_path, signal.SIGTERM, after(1)))  # it imports
    assert line.endswith("the same command goes on from what is on the disk")
    assert load_checkpoint(folder / "checkpoint.pt")["frames"] == kept


FIVE = (0.0, 0.15, 0.4, 0.6, 0.85)  # shares of the rows that the whole run has


@pytest.mark.slow
@needs_games
@pytest.mark.parametrize(("script", "arguments", "of_all"), [(CONTROL, SAC, 40), (PROCGEN, PPO, 10)])
def test_a_run_interrupted_at_five_moments_equals_an_unbroken_one(tmp_path, script, arguments, of_all):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    finished = script.run(tmp_path, *arguments, f"run_dir={unbroken}")
    assert finished.returncode == 0, finished.stderr
    command = script.command(*arguments, f"run_dir={broken}")
    for index, share in enumerate(FIVE):
        number = (signal.SIGINT, signal.SIGTERM)[index % 2]
        ready = (lambda wanted=share * of_all: rows(broken) >= wanted) if share else after(2)
        check_one_line(number, interrupt(command, tmp_path, number, ready))
    resumed = script.run(tmp_path, *arguments, f"run_dir={broken}")
    assert resumed.returncode == 0, resumed.stderr
    assert without_clock(broken) == without_clock(unbroken)
    assert (broken / "result.json").read_text() == (unbroken / "result.json").read_text()
    assert_same(checkpoint_of(broken), checkpoint_of(unbroken))


def results(study: Path) -> dict[object, dict[int, float]]:
    store = CellStore(study / "cells.sqlite")
    return {cell: store.returns(cell) for cell in store.cells()}


@pytest.mark.slow
def test_a_search_interrupted_at_five_moments_equals_an_unbroken_one_and_leaves_no_worker(tmp_path):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    finished = SEARCH.run(tmp_path, *FEW, f"run_dir={unbroken}")
    assert finished.returncode == 0, finished.stderr
    command = SEARCH.command(*FEW, f"run_dir={broken}")

    def trained(study: Path) -> int:
        return sum(rows(table.parent) for table in study.rglob("metrics.csv"))

    every = trained(unbroken)
    for index, share in enumerate(FIVE):
        number = (signal.SIGINT, signal.SIGTERM)[index % 2]
        ready = (lambda wanted=share * every: trained(broken) >= wanted) if share else after(2)
        line = check_one_line(number, interrupt(command, tmp_path, number, ready))
        assert not share or "cells have results in" in line
    resumed = SEARCH.run(tmp_path, *FEW, f"run_dir={broken}")
    assert resumed.returncode == 0, resumed.stderr
    assert results(broken) == results(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.parametrize("number", CODES)
def test_a_sweep_that_is_interrupted_ends_with_its_workers(tmp_path, launcher, number):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = CONTROL.command(*SAC, "total_frames=1000000", f"hydra/launcher={launcher}", "actor=[4,4],[]", "-m")
    line = check_one_line(number, interrupt(command, tmp_path, number, lambda: any(tmp_path.rglob("metrics.csv"))))
    assert "the same command" in line
