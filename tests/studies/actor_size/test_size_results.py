"""What a store and its runs' folders say of each cell, on a store made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from damage import DAMAGES, damage
from size_studies import RETURNS, SIZES, cell, search_of, train

from decouple.studies.actor_size.report import study_section
from decouple.studies.actor_size.results import (
    SizeStudy,
    cells_csv,
    cells_markdown,
    last_tenth,
    read_studies,
    size_order,
    training_maxima,
)
from decouple.studies.actor_size.store import Cell, CellStore


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    """A bisection: |16,16| at -150, |4,4| beside its critic at -152, all else far below; |linear| by itself untried."""
    store = CellStore(tmp_path / "cells.sqlite")
    measured = {"loss": [2.0, 4.0], "held_out": [3.0, 8.0], "bias": [-10.0, -30.0]}
    for pair, returns in RETURNS.items():
        if pair != ((), ()):
            train(store, cell(*pair), returns, **measured)
    search_of(store, RETURNS)
    return store


def only(store: CellStore) -> SizeStudy:
    (study,) = read_studies(store)
    return study


def test_sizes_go_from_a_bare_linear_layer_up():
    sizes = [(), (1,), (1, 1), (4, 4), (8,), (16, 16), (256, 256), (400, 300)]
    assert [size_order(size) for size in sizes[:4]] == [1, 2, 3, 24]  # 1; 1 + 1; 1 + 1 + 1; 4 + 16 + 4
    assert sorted(sizes, key=size_order) == [(), (1,), (1, 1), (8,), (4, 4), (16, 16), (256, 256), (400, 300)]


def test_the_last_tenth_is_of_the_frames_and_skips_rows_that_have_no_value():
    frames = [100, 910, 950, 1000]
    assert last_tenth(frames, [7.0, 1.0, math.nan, 3.0]) == 2.0  # from 901 on
    assert last_tenth(frames, [7.0, math.nan, math.nan, math.nan]) is None
    assert last_tenth([], []) is None


def test_a_cell_has_what_its_runs_left(store):
    study = only(store)
    assert [(c.actor, c.critic) for c in study.cells] == [
        ((), (16, 16)), ((4, 4), (4, 4)), ((4, 4), (16, 16)), ((16, 16), (16, 16))
    ]  # fmt: skip
    small = study.cells[2]
    assert (small.parameters, small.multiply_adds, small.name) == (41, 32, "a |4,4|, c |16,16|")
    assert small.values("return") == [-150.0, -154.0] and small.mean_return == -152.0
    assert small.values("value_loss") == [2.0, 4.0] and small.values("value_loss_held_out") == [3.0, 8.0]
    assert small.values("overfit") == [1.5, 2.0] and small.mean("overfit") == 1.75
    assert small.values("value_bias") == [-10.0, -30.0] and small.mean("value_predicted") is None
    frames, values = small.curve("train/episode_return")
    assert frames.tolist() == list(range(100, 1001, 100)) and values.shape == (2, 10)
    assert np.isnan(values[:, 0]).all() and values[1, 1:].tolist() == [-154.0] * 9
    assert small.curve("no/such_metric")[1].shape == (0, 0)


def test_what_the_search_kept_and_what_it_did_not_try(store):
    study = only(store)
    assert study.sizes == SIZES and study.locked_critic == (16, 16)
    assert [c.actor for c in study.symmetric] == [(4, 4), (16, 16)]
    assert [c.actor for c in study.beside((16, 16))] == [(), (4, 4), (16, 16)]
    assert study.missing() == ["Not trained, of the pairs of one size: |linear|."]
    store.claim(cell((), ()), range(2), "begun")
    assert "In training, interrupted or stopped early: |linear|." in only(store).missing()


def test_added_seeds_are_a_run_of_their_own_and_one_seed_has_no_suffix(store):
    train(store, cell((4, 4), (16, 16)), [-158.0], loss=[6.0], held_out=[6.0], bias=[0.0])
    small = only(store).cells[2]
    assert small.values("return") == [-150, -154, -158] and small.values("value_loss") == [2, 4, 6]
    assert small.values("overfit") == [1.5, 2.0, 1.0] and small.values("value_bias") == [-10, -30, 0]
    assert small.curve("loss/critic")[1].shape == (3, 10)


def test_other_settings_are_another_study_and_a_search_without_a_result_hides_none_with_one(store):
    other = Cell("pendulum", "td3", '{"gamma": 0.9}', (4, 4), (4, 4))
    train(store, other, [-1.0])
    first, second = read_studies(store)
    assert (len(first.cells), len(second.cells)) == (4, 1) and first.key != second.key
    assert second.search is None and second.missing()[0].startswith("No search of it is done yet")
    assert second.locked_critic is None  # no critic has two actors
    search_of(store, {pair: [-900.0, -901.0] for pair in RETURNS}, threshold=-10.0)
    assert read_studies(store)[0].locked_critic == (16, 16)


def test_what_was_not_measured_is_said(tmp_path):
    store = CellStore(tmp_path / "cells.sqlite")
    train(store, cell((4, 4), (4, 4)), [-900.0, -math.inf], loss=[1.0, math.nan], bias=[1.0, 2.0])
    gone = train(store, cell((4, 4), (16, 16)), [-150.0, -154.0])
    for file in Path(gone).iterdir():
        file.unlink()
    Path(gone).rmdir()
    train(store, cell((4, 4), (4, 4), "ppo"), [-500.0, -600.0], loss=[1.0, 1.0])
    td3, ppo = read_studies(store)
    assert td3.cells[0].mean_return == -math.inf and td3.cells[0].values("value_loss") == [1.0]
    assert td3.cells[1].parameters is None and td3.cells[1].folders == ()
    assert td3.missing()[2:] == [
        "Failed, so that the size has no mean return and is rejected: |4,4|, 1 of 2 seeds (1). Other means are over "
        "the others.",
        "No record of a run: a |4,4|, c |16,16|.",
        "No value loss: a |4,4|, c |16,16|.",
        "No held-out loss (held_out_every was not set): all cells.",
        "No bias of the critics: a |4,4|, c |16,16|.",
    ]
    assert ppo.missing()[-1].startswith("PPO is on policy: no action values")
    assert cells_markdown(td3).splitlines()[2:] == [
        r"| \|4,4\| | \|4,4\| | 41 | 32 | 2 | -inf | 1 | – | – | – | – | 1 |",  # a failed agent's bias is in no mean
        r"| \|4,4\| | \|16,16\| | – | – | 2 | -152 ± 2.8 | – | – | – | – | – | – |",
    ]


def test_measures_of_fewer_seeds_than_the_return_are_named(tmp_path):
    store = CellStore(tmp_path / "cells.sqlite")
    gone = train(store, cell((4, 4), (4, 4)), [-1.0, -2.0], loss=[1.0, 1.0], bias=[1.0, 1.0])
    train(store, cell((4, 4), (4, 4)), [-3.0, -4.0], loss=[3.0, 3.0], bias=[1.0, 1.0])
    shutil.rmtree(gone)
    (study,) = read_studies(store)
    assert len(study.cells[0].values("return")) == 4 and study.cells[0].values("value_loss") == [3.0, 3.0]
    assert "Of fewer seeds than the return, value loss: |4,4| 2 of 4." in study.missing()
    assert "Of fewer seeds than the return, bias of the critics: |4,4| 2 of 4." in study.missing()


def test_latencies_of_several_machines_are_said_to_be_so(store, tmp_path):
    (study,) = read_studies(store)
    head = {"task": study.task, "algorithm": study.algorithm, "settings": study.key, "runtime": "eager", "batch": 1}
    rows = [
        head | {"actor": actor, "median_us": 9.0, "p99_us": 10.0, "calls": 20, "platform": platform}
        for actor, platform in (((4, 4), "Linux, a laptop"), ((16, 16), "Linux, a server"))
    ]
    text = "Latencies are of several machines, between which they do not compare: Linux, a laptop; Linux, a server."
    assert text in study_section(study, "a", rows, tmp_path)
    assert "several machines" not in study_section(study, "a", rows[:1], tmp_path)


def test_the_cells_as_a_file(store):
    rows = list(csv.DictReader(io.StringIO(cells_csv(read_studies(store)).decode())))
    assert [row["actor"] for row in rows] == ["linear", "4,4", "4,4", "16,16"] and len(rows[0]) == 18
    small = rows[2]
    assert (small["task"], small["algorithm"], small["critic"], small["seeds"]) == ("pendulum", "td3", "16,16", "2")
    assert float(small["return"]) == -152 and float(small["return_std"]) == pytest.approx(8**0.5)
    assert float(small["return_low"]) == pytest.approx(-152 - 12.706 * 2, abs=1e-2)
    assert (small["overfit"], small["value_bias"], small["value_predicted"]) == ("1.75", "-20.0", "")


@pytest.mark.parametrize(
    "what", [what for what in DAMAGES if what.split()[-1] not in ("settings", "UTF-16") and "settings" not in what]
)
def test_a_damaged_run_is_named_and_its_cell_keeps_the_stores_returns(store, what):
    folder = train(store, cell((4, 4), (16, 16)), [-158.0], loss=[6.0], held_out=[6.0], bias=[0.0])
    result = json.loads((Path(folder) / "result.json").read_text())
    (Path(folder) / "result.json").write_text(json.dumps(result | {"final/test_return": 1.0}))
    file = damage(Path(folder), what)
    study = only(store)
    small = study.cells[2]
    assert small.values("return") == [-150, -154, -158] and small.values("value_loss") == [2, 4]
    (text,) = small.damaged
    assert str(file) in text
    assert f"Damaged, and left out but for the returns in the store: {text}." in study.missing()


def test_a_seed_whose_results_are_null_has_no_measures(store):
    folder = train(store, cell((4, 4), (16, 16)), [-158.0, None], loss=[6.0, math.inf], bias=[0.0, 1.0])
    file = Path(folder) / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"final/value_bias/seed3": None}))
    small = only(store).cells[2]
    assert small.failed == [3] and small.mean_return == -math.inf
    assert small.values("value_bias") == [-10, -30, 0] and small.values("value_loss") == [2, 4, 6]


def test_the_largest_return_in_training_of_each_seed_from_its_own_run(tmp_path):
    """Rows rise to 7 and fall to 2; the second batch's only seed has no suffix; a seed that failed has none."""
    store = CellStore(tmp_path / "cells.sqlite")
    folder = train(store, cell((4, 4), (4, 4)), [2.0, None])
    rows = [
        f"{at},{value},{value + 1}"
        for at, value in ((100, "nan"), (200, 3.0), (300, 7.0), (400, 2.0))
        if value != "nan"
    ]
    head = "frames,train/episode_return/seed0,train/episode_return/seed1"
    (Path(folder) / "metrics.csv").write_text("\n".join([head, "100,,", *rows, ""]))
    alone = train(store, cell((4, 4), (4, 4)), [1.0])
    (Path(alone) / "metrics.csv").write_text("frames,train/episode_return\n100,5.0\n200,4.0\n")
    of_cell = cell((4, 4), (4, 4))
    assert training_maxima(store, of_cell, range(3)) == {0: 7.0, 1: -math.inf, 2: 5.0}
    assert training_maxima(store, of_cell, [2]) == {2: 5.0}
    file = {0: 8.0, 1: 9.0}  # of a file, whose seed 1 failed here
    assert training_maxima(store, of_cell, range(2), file) == {0: 8.0, 1: -math.inf}
    with pytest.raises(ValueError, match=r"seeds must be seeds of finished runs in the store; got \[3\]"):
        training_maxima(store, of_cell, range(4))
    (Path(alone) / "metrics.csv").write_text("frames,loss/critic\n100,5.0\n")
    with pytest.raises(ValueError, match=r"metrics.csv must have returns in train/episode_return; got none"):
        training_maxima(store, of_cell, [2])
    failed = train(store, cell((4, 4), (4, 4)), [None])  # seed 3, before its first episode ended
    (Path(failed) / "metrics.csv").write_text("frames,loss/critic\n100,5.0\n")
    assert training_maxima(store, of_cell, [3]) == {3: -math.inf}
    (Path(alone) / "metrics.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics.csv"):
        training_maxima(store, of_cell, [2])
