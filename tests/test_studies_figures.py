"""docs/results/studies_figures.py: figures show what is stored, and what is stored is what was run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from size_studies import cell, train

from decouple.studies.actor_size.cell_files import KeptCell
from decouple.studies.actor_size.store import CellStore

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "results"))
import studies_cells as table  # noqa: E402
import studies_figures as figures  # noqa: E402

PAIRS = {((4, 4), (4, 4)), ((4, 4), (16, 16))}
WANTED = {("pendulum", "td3"): PAIRS, ("pendulum", "sac"): {((16, 16), (16, 16))}}


def test_a_series_is_kept_as_the_means_of_its_parts():
    assert figures.thinned([1.0, 3.0] * figures.POINTS).split() == ["2"] * figures.POINTS
    assert figures.thinned([math.nan, 2.0, math.inf, math.nan] + [0.5] * (4 * figures.POINTS - 4)).split()[0] == "2"
    assert figures.thinned([1.0, math.nan, 1_048_576.0]) == "1 nan 1048576"


@pytest.fixture
def store(tmp_path, monkeypatch) -> CellStore:
    """Pairs with curves, of the length that the table asks for; one is not wanted, and one of another length."""
    monkeypatch.setitem(figures.LENGTHS, ("pendulum", "td3"), 1000)
    found = CellStore(tmp_path / "cells.sqlite")
    for pair in sorted(PAIRS | {((8, 8), (16, 16))}):
        train(found, cell(*pair), [-150.0 - seed for seed in range(6)], loss=[1.0 + seed for seed in range(6)])
    train(found, cell((16, 16), (16, 16), "sac"), [-150.0] * 2, loss=[1.0] * 2)  # of another length than the table's
    return found


def test_the_trainings_of_a_folder_are_stored_and_read_again(store, tmp_path):
    path = tmp_path / "training.csv"
    figures.write_trainings(tmp_path, WANTED, path)
    found = figures.read_trainings(path)
    assert list(found) == [("pendulum", "td3")]
    runs = found["pendulum", "td3"]
    assert set(runs) == PAIRS and set(runs[(4, 4), (4, 4)]) == set(range(6))
    agent = runs[(4, 4), (16, 16)][3]
    assert agent["frames"] == list(range(100, 1001, 100)) and agent["loss/critic"] == [9.0] * 9 + [4.0]
    assert math.isnan(agent["train/episode_return"][0]) and agent["train/episode_return"][1:] == [-153.0] * 9


def test_stored_trainings_of_other_agents_stay(store, tmp_path):
    path = tmp_path / "training.csv"
    figures.write_trainings(tmp_path, WANTED, path)
    before = path.read_text().splitlines()
    other = before[1].replace("pendulum,td3", "acrobot,sac")
    path.write_text("\n".join([before[0], other, ""]))
    figures.write_trainings(tmp_path, WANTED, path)
    assert path.read_text().splitlines() == [before[0], other, *before[1:]]


def test_a_folder_without_a_search_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cells\.sqlite is not there: no search has run in"):
        figures.write_trainings(tmp_path, WANTED, tmp_path / "training.csv")


def test_figures_show_the_searched_cells_and_the_pages_show_the_figures(tmp_path):
    cells = table.read_table()
    drawn = figures.pictures(cells, tmp_path)
    page = (ROOT / "docs" / "studies" / "honey.md").read_text()
    assert len(drawn) > 3 and all(f"honey/figures/{path.name}" in page for path in drawn)
    assert {path.name for path in drawn} == {path.name for path in figures.PICTURES.iterdir()}


def test_every_pair_of_a_figure_5_is_a_line_of_its_own():
    cells, runs = table.read_table(), figures.read_trainings()
    found = cells["pixelcopter", "sac"]
    study = figures.study_of(found, runs["pixelcopter", "sac"])
    figure = figures.training_figure(study)
    by_size, beside = figure.axes[0], figure.axes[1]
    assert len(by_size.lines) == sum(actor == critic for actor, critic in found.kept)
    locked = found.papers.found.symmetric.critic
    assert len(beside.lines) == sum(critic == locked for _, critic in found.kept)


@pytest.mark.parametrize(("pairs", "seeds", "left"), [(0, 6, 0), (3, 6, 3), (11, 5, 0), (11, 6, 11)])
def test_the_papers_case_of_figure_5_is_asked_for_until_it_is_whole(pairs, seeds, left, monkeypatch):
    of_seeds = {"return": dict.fromkeys(range(seeds), -4.0)}
    kept = {pair: KeptCell(cell(*pair), of_seeds) for pair in figures.PAIRS[:pairs]}
    stored = {("reacher", "sac"): table._cell("reacher", "sac", kept)} if kept else {}
    monkeypatch.setattr(figures, "read_table", lambda budgets: stored)
    assert figures.lacking() == figures.PAIRS[left:]


def test_figure_4_has_the_paper_and_our_searches_at_its_thresholds():
    cells = table.read_table()
    rows = figures.table_rows([figures.search_of(cell) for cell in figures.searched(cells)], figures.read_paper())
    ours = {(row["task"], row["algorithm"]): row for row in rows if row["source"] == "here"}
    assert set(ours) == {(one.task, one.algorithm) for one in figures.searched(cells)}
    for key, row in ours.items():
        assert row["threshold"] == table.PAPER[key]["threshold"]
        assert row["reduction_percent"] == table.reduction(cells[key], cells[key].papers)


def test_the_stored_trainings_are_those_of_the_stored_cells():
    cells = table.read_table() | table.read_table(budgets=figures.SHORTER)
    for key, runs in figures.read_trainings().items():
        for pair, agents in runs.items():
            stored = cells[key].kept[pair].measures
            assert set(agents) <= set(stored["return"])
            for seed, metrics in agents.items():
                assert math.isclose(metrics["frames"][-1], figures.LENGTHS[key], rel_tol=0.05), (key, pair, seed)


def test_settings_that_other_claims_vary_are_told_apart():
    path = next((ROOT / "docs" / "results" / "honey" / "cells").glob("pixelcopter_sac_*.json"))
    settings = json.loads(path.read_text())["settings"]
    assert not table.varied(settings)
    assert table.varied(settings | {"target_aggregation": "mean"}) and table.varied(settings | {"held_out_every": 20})
