"""What of an environment belongs to one process: closed in every case, used by no fork, in no copy."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from commands import environment
from warm import the_warm

from decouple.envs import processes
from decouple.envs.processes import Owned, check_threads, forks


class Games:
    """Games that somebody must end."""

    ended = 0

    def end(self) -> None:
        self.ended += 1


class Owner:
    """Lies in a cycle, as environments do, where it is asked to."""

    def __init__(self, games: Games, *, cycle: bool) -> None:
        self.owned = Owned(games, Games.end, "the games")
        self.itself = self if cycle else None


def test_a_thing_is_used_and_ended_once() -> None:
    games = Games()
    owned = Owned(games, Games.end, "the games")
    assert owned.use is games and games.ended == 0
    owned.close()
    owned.close()
    assert games.ended == 1
    with pytest.raises(RuntimeError, match="the games are closed; make a new environment"):
        owned.use  # noqa: B018


@pytest.mark.parametrize("cycle", [False, True])
def test_what_is_dropped_is_ended_and_is_none_of_the_collectors_garbage(cycle: bool) -> None:
    games = Games()
    owner = Owner(games, cycle=cycle)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what the collector would free is kept in gc.garbage instead
    try:
        del owner
        gc.collect()
        garbage = [type(thing) for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert games.ended == 1
    assert (Owned in garbage) == cycle and Games not in garbage


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_there_is_no_copy(copied: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match="the games cannot be copied or pickled"):
        copied(Owned(Games(), Games.end, "the games"))


def run(program: str) -> list[str]:
    """What a program prints, line by line; it must end by itself, with the exit code 0."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


IN_FORKS = """
import os, sys
from decouple.envs.processes import Owned
owned = Owned([], lambda games: print("ended", flush=True), "the games")
for closes in (False, True):
    child = os.fork()
    if child == 0:
        try:
            owned.use
        except RuntimeError as error:
            print(error, flush=True)
        if closes:
            owned.close()
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print("exits", flush=True)
"""


@pytest.mark.skipif(not hasattr(processes.os, "fork"), reason="no fork")
def test_a_fork_neither_uses_nor_ends_what_is_its_parents_and_what_is_left_is_ended_at_exit() -> None:
    refused, code, refused_too, code_too, *rest = run(IN_FORKS)
    for message in (refused, refused_too):
        assert "the games must be used in the process that started them" in message
    assert code == code_too == "0" and rest == ["exits", "ended"]


def test_threads_are_asked_for_in_a_fork_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made_at = forks()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    check_threads(made_at)
    monkeypatch.setattr(processes, "_forks", made_at + 1)
    with pytest.raises(RuntimeError, match=r"torch.set_num_threads\(1\) .* got 2 threads"):
        check_threads(made_at)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    check_threads(made_at)


TENSORS_IN_FORKS = """
import os, torch
from decouple.envs.games.batched import games_env
from decouple.envs.toy import goal_tracking_env
torch.set_num_threads(2)
envs = games_env("pixelcopter", [0], 20_000), goal_tracking_env([0], 100_000)
for env in envs:
    env.rollout(2)
for threads in (2, 1):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(threads)
        for env in envs:
            try:
                env.rollout(2)
                print("played", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(processes.os, "fork"), reason="no fork")
def test_games_that_are_tensors_do_not_hang_in_a_fork(tmp_path) -> None:
    pytest.importorskip("opensimplex")
    code, told, errors = the_warm().run(tmp_path, "", before=TENSORS_IN_FORKS)
    assert code == 0, errors
    *refused, played, played_too = told.splitlines()
    assert len(refused) == 2
    assert all("needs torch.set_num_threads(1) in the new process" in message for message in refused)
    assert played == played_too == "played"
