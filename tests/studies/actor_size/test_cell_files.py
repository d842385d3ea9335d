"""Cells as text files: nothing is lost on the way, and a search goes on from the files alone."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from size_studies import cell, train

from decouple.runs import locks
from decouple.runs.locks import FileLock
from decouple.studies.actor_size import smallest_actor as searching
from decouple.studies.actor_size.algorithms import DDPGControl
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.cell_files import KeptCell, load_cells, read_cell_file, save_cells
from decouple.studies.actor_size.search import SmallestActor
from decouple.studies.actor_size.store import CellStore


def store(folder: Path) -> CellStore:
    return CellStore(folder / "cells.sqlite")


@pytest.fixture
def trained(tmp_path) -> CellStore:
    """Two cells, one of which has a seed that failed and a second batch."""
    here = store(tmp_path / "here")
    train(here, cell((4, 4), (16, 16)), [-150.25, None], loss=[2.0, 3.0])
    train(here, cell((4, 4), (16, 16)), [-149.0], loss=[1.0])
    train(here, cell((16, 16), (16, 16)), [-140.0, -141.0], bias=[-20.0, -10.0])
    return here


def test_a_file_has_every_measure_and_another_store_its_returns(trained, tmp_path):
    (path,) = save_cells(trained, tmp_path / "kept")
    small, large = read_cell_file(path)
    assert small.cell == cell((4, 4), (16, 16)) and large.cell == cell((16, 16), (16, 16))
    assert small.measures["return"] == {0: -150.25, 1: -math.inf, 2: -149.0}
    assert small.measures["value_loss"] == {0: 2.0, 2: 1.0}  # none of an agent that failed
    assert large.measures["value_bias"] == {0: -20.0, 1: -10.0} and large.measures["maximum"] == {0: -140.0, 1: -141.0}
    assert small.parameters == 41 and large.parameters == 353 and small.version is not None

    there = store(tmp_path / "there")
    assert load_cells(there, tmp_path / "kept") == [small, large]
    for kept in (small, large):
        assert there.returns(kept.cell) == trained.returns(kept.cell)
        assert {batch.version for batch in there.batches(kept.cell)} == {kept.version}
    before = {kept.cell: there.batches(kept.cell) for kept in (small, large)}
    load_cells(there, tmp_path / "kept")
    assert before == {kept.cell: there.batches(kept.cell) for kept in (small, large)}  # a second time adds nothing


def test_a_seed_that_failed_has_no_maximum(tmp_path):
    here = store(tmp_path / "here")
    folder = Path(train(here, cell((4, 4), (4, 4)), [-150.0, None]))
    head = "frames,train/episode_return/seed0,train/episode_return/seed1"
    (folder / "metrics.csv").write_text(f"{head}\n100,-160,-120\n200,-150,\n")
    (path,) = save_cells(here, tmp_path / "kept")
    assert read_cell_file(path)[0].measures["maximum"] == {0: -150.0}


def test_two_searches_save_to_one_folder_and_lose_none_of_each_others_cells(trained, tmp_path, monkeypatch):
    """The other one writes its cell while this one waits for its turn."""
    other = store(tmp_path / "other")
    train(other, cell((64, 64), (16, 16)), [-139.0])
    kept = tmp_path / "kept"
    kept.mkdir()
    lock = FileLock(kept / ".lock")

    def other_saves(seconds: float) -> None:
        lock.release(delete=True)
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: pytest.fail("nobody has the lock"))
        save_cells(other, kept)

    monkeypatch.setattr(locks.time, "sleep", other_saves)
    (path,) = save_cells(trained, kept)
    assert [of.cell.actor for of in read_cell_file(path)] == [(4, 4), (16, 16), (64, 64)]
    assert list(kept.iterdir()) == [path]


def test_what_a_file_has_stays_where_the_runs_are_gone(trained, tmp_path):
    kept = tmp_path / "kept"
    (path,) = save_cells(trained, kept)
    text = path.read_bytes()
    there = store(tmp_path / "there")
    load_cells(there, kept)
    assert save_cells(there, kept) == [path]
    assert [file.measures for file in read_cell_file(path)] == [row.measures for row in _rows(text, tmp_path)]
    train(there, cell((16, 16), (16, 16)), [-142.0], loss=[5.0])  # seed 2
    save_cells(there, kept)
    _, large = read_cell_file(path)
    assert large.measures["return"] == {0: -140.0, 1: -141.0, 2: -142.0}
    assert large.measures["value_bias"] == {0: -20.0, 1: -10.0} and large.measures["value_loss"] == {2: 5.0}


def _rows(text: bytes, folder: Path) -> list[KeptCell]:
    (folder / "before.json").write_bytes(text)
    return read_cell_file(folder / "before.json")


def test_a_seed_that_somebody_trains_is_left_to_him(trained, tmp_path):
    save_cells(trained, tmp_path / "kept")
    there, pair = store(tmp_path / "there"), cell((16, 16), (16, 16))
    batch = there.claim(pair, [0], "a")
    load_cells(there, tmp_path / "kept")
    assert there.returns(pair) == {1: -141.0}
    assert there.finish(batch, {0: -1.0}) and there.returns(pair) == {0: -1.0, 1: -141.0}


@pytest.mark.parametrize("damage", ["{}", "[", '{"task": "a", "algorithm": "b", "settings": {}, "cells": [{}]}'])
def test_a_damaged_file_is_named(damage, tmp_path):
    (tmp_path / "pendulum.json").write_text(damage)
    with pytest.raises(ValueError, match=r"pendulum\.json"):
        load_cells(store(tmp_path / "there"), tmp_path)


def test_measures_need_returns():
    with pytest.raises(ValueError, match="measures must be with return"):
        KeptCell(cell((4, 4), (4, 4)), {"value_loss": {0: 1.0}})


SMALL = {"total_frames": 220, "learning_starts": 200, "batch_size": 8, "buffer_size": 500, "log_every": 20}
SMALL |= {"evaluate_every": 220, "checkpoint_every": 220, "evaluate_episodes": 1, "final_episodes": 1}
SMALL |= {"update": "batched"}


@pytest.mark.parametrize("measure", ["final", "maximum"])
def test_a_search_goes_on_from_files_without_the_folders_of_its_runs(measure, tmp_path, monkeypatch):
    options = searching.SearchSettings(
        threshold=-175, sizes=[[], [4, 4]], measure=measure, results=str(tmp_path / "kept"), export="none"
    )
    config = DDPGControl(env="toy", seeds=2, actor=[4, 4], critic=[4, 4], **SMALL, show_progress=False)
    monkeypatch.setattr(searching.SearchSettings, "start", lambda self: _Context(lambda run, go_on: train_agents(run)))
    config = dataclasses.replace(config, run_dir=str(tmp_path / "here"))
    counts = searching.actor_parameters(config, options.sizes)
    found = searching.run_search(config, options, counts)
    shutil.rmtree(tmp_path / "here")

    def refuse(*_: object) -> dict[str, float]:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(searching.SearchSettings, "start", lambda self: _Context(refuse))
    again = searching.run_search(dataclasses.replace(config, run_dir=str(tmp_path / "there")), options, counts)
    assert _trials(again) == _trials(found)
    assert json.loads(next((tmp_path / "kept").glob("toy_ddpg_*.json")).read_text())["settings"]["total_frames"] == 220


class _Context:
    def __init__(self, train) -> None:
        self.train = train

    def __enter__(self):
        return self.train

    def __exit__(self, *_: object) -> None:
        pass


def _trials(found: SmallestActor) -> list[tuple]:
    return [(t.actor, t.critic, t.returns) for t in (found.baseline, *found.symmetric_trials, *found.actor_trials)]


def test_pairs_are_trained_in_place_of_a_search(tmp_path, monkeypatch):
    trained = []

    def train_one(config, go_on):
        trained.append((tuple(config.actor), tuple(config.critic), list(config.all_seeds)))
        return {f"final/return/seed{seed}": -100.0 - seed for seed in config.all_seeds} | {"final/return": -100.0}

    monkeypatch.setattr(searching.SearchSettings, "start", lambda self: _Context(train_one))
    options = searching.SearchSettings(pairs=[[[4, 4], [16, 16]], [[], [4]]])
    config = DDPGControl(env="toy", seed=6, seeds=2, **SMALL, show_progress=False, run_dir=str(tmp_path))
    text = searching.train_pairs(config, options)
    assert trained == [((4, 4), (16, 16), [6, 7]), ((), (4,), [6, 7])]
    assert "2 seeds from 6 on" in text and text.count("-106.5 [") == 2
    searching.train_pairs(config, options)
    assert len(trained) == 2
    for wrong in ([[4, 4]], [[[4, 4], [0]]], [[[4], [4], [4]]]):
        with pytest.raises(ValueError, match=r"search\.pairs must be pairs"):
            searching.SearchSettings(pairs=wrong)
