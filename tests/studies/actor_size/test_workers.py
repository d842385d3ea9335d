"""Cells trained into a store: only what is missing, in processes that may die; on Ray with -m slow."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from odd_tasks import register

import decouple.studies.actor_size.engines
import decouple.studies.actor_size.store
import decouple.studies.actor_size.workers
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.studies.actor_size.algorithms import DDPGControl, PPOControl
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.engines import CellError, GaveUpError, Processes, RayTasks, _trained
from decouple.studies.actor_size.search import Unfinished, smallest_actor
from decouple.studies.actor_size.settings import ControlSettings
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.workers import Stopping, cell_of, frames_done, train_cells

QUICK: dict[str, Any] = {
    **{"env": "toy", "actor": [4, 4], "critic": [8, 8], "show_progress": False, "final_episodes": 1},
    **{"total_frames": 400, "learning_starts": 100, "batch_size": 8, "buffer_size": 500, "evaluate_episodes": 1},
    **{"log_every": 100, "evaluate_every": 400, "checkpoint_every": 400},
}


def quick(**settings: Any) -> DDPGControl:
    return DDPGControl(**QUICK | settings)


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path / "cells.sqlite")


class Told:
    """Stands for training: returns that can be told from the settings, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[int]]] = []

    def __call__(self, config: ControlSettings, go_on: Any) -> dict[str, float]:
        self.asked.append((config.actor, config.all_seeds))
        assert go_on()
        each = {f"final/return/seed{seed}": 10.0 * sum(config.actor) + seed for seed in config.all_seeds}
        return {"final/return": sum(each.values()) / len(each), **(each if config.seeds > 1 else {})}


def test_a_cell_is_all_that_can_change_a_return_but_the_seed():
    of_quick = cell_of(quick())
    assert (of_quick.task, of_quick.algorithm, of_quick.actor, of_quick.critic) == ("toy", "ddpg", (4, 4), (8, 8))
    for same in ({"seed": 3, "seeds": 2}, {"run_dir": "x"}, {"evaluate_every": 200}, {"num_threads": 2}):
        assert cell_of(quick(**same)) == of_quick
    for other in (
        *({"gamma": 0.9}, {"total_frames": 800}, {"final_episodes": 2}, {"actor": []}, {"critic_activation": "tanh"}),
        *({"env": "pendulum"}, {"separation": 1}, {"tau": 0.01}),
    ):
        assert cell_of(quick(**other)) != of_quick
    assert cell_of(PPOControl(env="toy")).algorithm == "ppo"


def test_only_seeds_and_sizes_that_are_new_are_trained(store):
    train = Told()
    configs = [quick(seeds=3), quick(actor=[], seeds=3)]
    assert train_cells(configs, store, train) == [[80.0, 81.0, 82.0], [0.0, 1.0, 2.0]]
    assert train_cells(configs, store, train) == [[80.0, 81.0, 82.0], [0.0, 1.0, 2.0]]
    assert train.asked == [([4, 4], [0, 1, 2]), ([], [0, 1, 2])]
    assert train_cells([quick(seeds=4), quick(actor=[1], seeds=1)], store, train) == [[80, 81, 82, 83], [10]]
    assert train.asked[2:] == [([4, 4], [3]), ([1], [0])]
    assert train_cells([quick(seeds=2, seed=2)], store, train) == [[82, 83]] and len(train.asked) == 4


def test_runs_have_folders_below_the_store_apart_for_sizes_settings_and_seeds(store):
    folders = []

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        folders.append(str(Path(config.run_dir).relative_to(store.path.parent)))
        return Told()(config, go_on)

    train_cells([quick(actor=size, run_dir="unused") for size in ([], [1], [4, 4])], store, train)
    train_cells([quick(gamma=0.9), quick(seeds=2)], store, train)
    settings = folders[0].split("/")[2]
    assert folders[:3] == [f"toy/ddpg/{settings}/{name}-8x8/seeds0_1" for name in ("linear", "1", "4x4")]
    assert folders[3].endswith("/4x4-8x8/seeds0_1") and folders[3] not in folders[:3]
    assert folders[4] == f"toy/ddpg/{settings}/4x4-8x8/seeds1_1"


def test_a_cell_that_fails_does_not_lose_the_others_and_is_tried_again_by_the_next_call(store):
    broken, told = [True], Told()

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        if broken[0] and config.actor == [4, 4]:
            raise CellError("out of memory")
        return told(config, go_on)

    configs = [quick(actor=size, seeds=2) for size in ([4, 4], [], [1])]
    with pytest.raises(CellError, match=r"^toy/ddpg/[0-9a-f]{8}/4x4-8x8: out of memory$"):
        train_cells(configs, store, train)
    assert [actor for actor, _ in told.asked] == [[], [1]]
    assert [(b.state, b.error) for b in store.batches(cell_of(configs[0]))] == [("failed", "out of memory")]
    broken[0] = False
    assert train_cells(configs, store, train) == [[80, 81], [0, 1], [10, 11]]
    assert [actor for actor, _ in told.asked] == [[], [1], [4, 4]]


def test_an_interruption_gives_its_batch_back(store):
    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cells([quick()], store, train)
    assert store.batches(cell_of(quick()))[0].state == "released"


def test_a_claim_that_was_lost_is_given_up_and_its_result_waited_for(tmp_path, monkeypatch):
    store, other = (CellStore(tmp_path / "cells.sqlite", lease=0.05) for _ in range(2))
    seen = []

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        monkeypatch.undo()  # the others are on another machine than this one, which is silent for too long
        assert other.claim(cell_of(config), config.all_seeds, "x") is None
        time.sleep(0.1)
        taken = other.claim(cell_of(config), config.all_seeds, "x")
        assert not go_on()
        other.finish(taken, {0: -1.0})
        seen.append(taken.starts)
        raise GaveUpError

    monkeypatch.setattr(decouple.studies.actor_size.store, "_processes_of", lambda: "elsewhere boot pid:[1]")
    assert train_cells([quick()], store, train) == [[-1.0]] and seen == [2]


def test_a_restart_puts_a_batchs_folder_aside_once(store):
    seen = []

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        assert config.restart is False  # its process may die, and then go on
        seen.append(sorted(entry.name for entry in Path(config.run_dir).parent.iterdir()))
        return Told()(config, go_on)

    broken = store.claim(cell_of(quick()), [0], "x")
    Path(broken.run_dir).mkdir(parents=True)
    (Path(broken.run_dir) / "metrics.csv").write_text("broken")
    store.release(broken)
    train_cells([quick(restart=True)], store, train)
    assert seen == [["seeds0_1", "seeds0_1.1"]]
    assert cell_of(quick(restart=True)) == cell_of(quick())


def test_a_process_that_has_not_yet_left_a_batchs_folder_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(decouple.studies.actor_size.engines, "BEAT_S", 0.05)
    lock = lock_folder(tmp_path)
    threading.Timer(0.3, lock.release).start()
    assert "final/return" in decouple.studies.actor_size.engines._trained(quick(run_dir=str(tmp_path)))
    monkeypatch.setattr(decouple.studies.actor_size.engines, "PATIENCE_S", 0.2)
    with lock_folder(tmp_path), pytest.raises(FolderInUseError):
        decouple.studies.actor_size.engines._trained(quick(run_dir=str(tmp_path), total_frames=800))


def test_several_at_once_and_two_callers_share_the_work(store):
    told, at_once, most = Told(), [0], [0]
    lock = threading.Lock()

    def train(config: ControlSettings, go_on: Any) -> dict[str, float]:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.1)
        with lock:
            at_once[0] -= 1
        return told(config, go_on)

    configs, found, watched = [quick(actor=[n]) for n in range(1, 7)], [], []
    other = threading.Thread(target=lambda: found.append(train_cells(configs, CellStore(store.path), train)))
    other.start()
    found.append(train_cells(configs, store, train, parallel=2, watch=watched.append))
    other.join()
    assert found[0] == found[1] == [[10.0 * n] for n in range(1, 7)]
    assert len(told.asked) == 6 and 2 <= most[0] <= 3 and watched


class Slow:
    """Stands for training whose process writes a row of an evaluation whenever its caller looks, up to 1,000 frames."""

    def __init__(self, *curve: float) -> None:
        self.curve, self.rows = curve, 0

    def __call__(self, config: ControlSettings, go_on: Any) -> dict[str, float]:
        names = [f"eval/return/seed{seed}" for seed in config.all_seeds] if config.seeds > 1 else ["eval/return"]
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        for row in range(1, len(self.curve) + 1):
            lines = [["frames", *names], *([100 * n, *[self.curve[n - 1]] * len(names)] for n in range(1, row + 1))]
            (Path(config.run_dir) / "metrics.csv").write_text("".join(",".join(map(str, x)) + "\n" for x in lines))
            self.rows += 1
            if not go_on():
                raise GaveUpError
        return {"final/return": self.curve[-1]} | {f"final/{name[5:]}": self.curve[-1] for name in names}


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decouple.studies.actor_size.workers, "LOOK_EVERY", 0)


def slow(**settings: Any) -> DDPGControl:
    return quick(**{"total_frames": 1000, "seeds": 2} | settings)


def test_seeds_that_will_not_reach_the_bound_are_stopped_and_have_no_result(store, always_looks):
    train, config, rule = Slow(*[1.0] * 10), slow(), Stopping(bound=2.0, most=2.5, after=0.5)
    # Learning begins at 100 frames; from 550 on half of it is done.
    assert train_cells([config], store, train, stopping=rule) == [Unfinished((1.0, 1.0), 600)] and train.rows == 6
    assert store.returns(cell_of(config)) == {} and store.batches(cell_of(config))[0].state == "released"
    # The same search again knows it from the run's table; one that stops nothing, or asks for less, trains on.
    assert train_cells([config], store, train, stopping=rule) == [Unfinished((1.0, 1.0), 600)] and train.rows == 6
    assert train_cells([config], store, train, stopping=Stopping(0.5, 2.5, 0.5)) == [[1.0, 1.0]] and train.rows == 16
    assert train_cells([config], store, train, stopping=rule) == [[1.0, 1.0]] and train.rows == 16


def test_the_bound_is_of_the_mean_over_all_seeds_those_that_are_done_with_them(store, always_looks):
    train_cells([slow(seeds=1)], store, Slow(*[5.0] * 10))
    rest = Slow(*[1.0] * 10)
    assert train_cells([slow(seeds=2)], store, rest, stopping=Stopping(3.1, 1.1, 0.5)) == [Unfinished((5.0, 1.0), 600)]
    assert train_cells([slow(seeds=2)], store, rest, stopping=Stopping(3.0, 1.1, 0.5)) == [[5.0, 1.0]]


def test_cells_beside_one_that_is_stopped_go_on(store, always_looks):
    train = Slow(*[1.0] * 10)
    configs = [slow(actor=size) for size in ([1], [2], [3])]
    train_cells(configs[1:2], store, train)
    found = train_cells(configs, store, train, stopping=Stopping(2.0, 2.5, 0.6))
    assert found == [Unfinished((1.0, 1.0), 700), [1.0, 1.0], Unfinished((1.0, 1.0), 700)]


def test_the_frames_of_a_run_are_read_off_its_table_while_it_is_written(tmp_path):
    assert frames_done(tmp_path / "nowhere") == 0
    table = tmp_path / "metrics.csv"
    table.write_text("frames,loss/critic\n")
    assert frames_done(tmp_path) == 0
    table.write_text("frames,loss/critic\n1000,0.5\n2000,0.25\n30")
    assert frames_done(tmp_path) == 2000
    table.write_text("frames,x\n" + "".join(f"{n},{'1' * 70}\n" for n in range(1, 2000)))
    assert frames_done(tmp_path) == 1999


# ----------------------------------------------------------------------------------------------------- for real
def children() -> list[int]:
    """Processes of this one that train."""
    return [pid for pid, parent, command in processes() if parent == os.getpid() and "actor_size.engines" in command]


def processes() -> list[tuple[int, int, str]]:
    """Each process of this machine: its number, its parent's, and its command."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [(int(row[0]), int(row[1]), row[2]) for row in rows if len(row) == 3]


def test_a_killed_process_is_started_again_and_comes_to_what_an_unbroken_one_does(store, tmp_path, monkeypatch, capfd):
    for room in ("workers", "engines"):
        monkeypatch.setattr(f"decouple.studies.actor_size.{room}.BEAT_S", 0.02)
    unbroken = train_agents(quick(seeds=2, total_frames=1200, run_dir=str(tmp_path / "unbroken")))
    killed = []

    def watch(config: ControlSettings) -> None:
        if config.actor == [4, 4] and not killed and frames_done(config.run_dir) >= 500:
            killed.extend(children())
            os.kill(killed[0], signal.SIGKILL)

    refused = quick(actor=[1], normalize_observation=True)  # not on the toy problem
    configs = [quick(seeds=2, total_frames=1200), refused, quick(actor=[])]
    with Processes() as train:
        with pytest.raises(CellError, match=r"1-8x8: ValueError: normalize_observation .* must be false"):
            train_cells(configs, store, train, watch=watch)
        assert len(children()) == 1  # one process for all cells
    assert len(killed) == 1 and children() == []
    assert store.returns(cell_of(configs[0])) == {seed: unbroken[f"final/return/seed{seed}"] for seed in (0, 1)}
    assert len(store.returns(cell_of(configs[2]))) == 1
    assert store.batches(cell_of(configs[0]))[0].starts == 1  # the claim stood
    assert "Gym has been unmaintained" not in capfd.readouterr().err


def test_a_process_that_dies_every_time_fails_its_cell_and_ends_with_its_caller(store, monkeypatch):
    for room in ("workers", "engines"):
        monkeypatch.setattr(f"decouple.studies.actor_size.{room}.BEAT_S", 0.02)

    def watch(config: ControlSettings) -> None:
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    with (
        Processes(starts=2) as train,
        pytest.raises(CellError, match=r"its process died 2 times \(SIGKILL, SIGKILL; the"),
    ):
        train_cells([quick()], store, train, watch=watch)
    assert store.batches(cell_of(quick()))[0].state == "failed"


def test_an_error_of_the_caller_is_its_own_and_no_death_of_the_process(store, monkeypatch):
    for room in ("workers", "engines"):
        monkeypatch.setattr(f"decouple.studies.actor_size.{room}.BEAT_S", 0.02)

    def watch(config: ControlSettings) -> None:
        raise OSError("disk full")

    with Processes() as train, pytest.raises(OSError, match="disk full"):
        train_cells([quick()], store, train, watch=watch)
    assert store.batches(cell_of(quick()))[0].state == "released" and children() == []


@pytest.mark.slow  # a Ray cluster of one machine
def test_a_cell_on_a_local_ray_and_one_whose_worker_is_killed(store, tmp_path):
    pytest.importorskip("ray")
    unbroken = train_agents(quick(seeds=2, total_frames=1200, run_dir=str(tmp_path / "unbroken")))
    killed = []

    def watch(config: ControlSettings) -> None:
        if not killed and frames_done(config.run_dir) >= 500:
            killed.extend(pid for pid, _, command in processes() if "ray::_trained" in command)
            os.kill(killed[0], signal.SIGKILL)

    configs = [quick(seeds=2, total_frames=1200), quick(actor=[1], normalize_observation=True)]
    with RayTasks() as train:
        with pytest.raises(CellError, match=r"1-8x8: ValueError: normalize_observation .* must be false"):
            train_cells(configs, store, train, watch=watch)
        more = [dataclasses.replace(configs[0], seeds=3), quick(actor=[])]
        found = train_cells(more, store, train, parallel=2)
    assert len(killed) == 1
    assert found[0][:2] == [unbroken["final/return/seed0"], unbroken["final/return/seed1"]]
    assert [len(returns) for returns in found] == [3, 1]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-decouple\[cluster\]'"):
        RayTasks()


# ----------------------------------------------------------------------------------------------------- agents that fail


@pytest.mark.filterwarnings("ignore:.*it has failed and the others go on")
def test_a_seed_that_fails_counts_as_minus_infinity_and_the_batch_goes_on(store):
    """In this process: `Processes` and Ray call the same function. A search rejects the size, and asks for no more."""
    register()
    train = lambda config, go_on: _trained(config)  # noqa: E731
    small = {
        "total_frames": 100,
        "learning_starts": 50,
        "log_every": 50,
        "evaluate_every": 100,
        "checkpoint_every": 100,
    }
    some, all_ = (quick(env=f"Odd/Nan-reward-box-{end}", seeds=3, **small) for end in ("seed1-v0", "v0"))
    (returns, of_all) = train_cells([some, all_], store, train)
    assert math.isfinite(returns[0]) and math.isfinite(returns[2]) and [returns[1], *of_all] == [-math.inf] * 4
    never = lambda config, go_on: pytest.fail("was asked again")  # noqa: E731
    assert train_cells([some, all_], store, never) == [returns, of_all]

    asked = {(4, 4): [1.0, 1.0, 1.0], (1,): returns}
    found = smallest_actor(lambda actor, critic: asked[actor], baseline=[4, 4], sizes=[(1,), (4, 4)], threshold=0.5)
    assert found.symmetric and found.symmetric.actor == (4, 4)
    assert [trial.accepted for trial in found.symmetric_trials] == [False, True]
