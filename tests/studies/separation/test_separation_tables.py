"""decouple/studies/separation/tables.py: each table of a small study, worked out by hand."""

from __future__ import annotations

import csv
import io
import math

import pytest
from study_folders import write_run, write_study

from decouple.analysis.statistics import Estimate, Profile
from decouple.studies.separation.recommendation import Comparison
from decouple.studies.separation.results import read_study
from decouple.studies.separation.run_folders import find_runs
from decouple.studies.separation.tables import PUBLISHED as METHODS
from decouple.studies.separation.tables import (
    Spread,
    Table,
    aggregate_table,
    comparison_table,
    cost_table,
    curve_table,
    generalisation_table,
    profile_table,
    read_published,
    run_table,
    score_table,
    setting_table,
)

PUBLISHED = read_published()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(find_runs(write_study(tmp_path_factory.mktemp("runs"))))


def rows(table):
    return list(csv.DictReader(io.StringIO(table.csv().decode())))


def test_published_scores_are_of_all_16_games():
    assert len(PUBLISHED) == 16
    assert PUBLISHED["starpilot"] == {
        **{"min_easy": 2.5, "max_easy": 64, "ppo_test_figure": 24.7, "ppo_train_clop": 44.7, "ppo_test_clop": 36.1},
        **{"ppo2_train": 24.14, "ppo2_test": 22.58, "ppg_test_figure": 47.1, "daac_test_figure": 36.0},
        **{"idaac_test": 37.0, "idaac_std": 2.3, "ucb_drac_test": 30.0, "ucb_drac_std": 1.3},
    }
    assert all(row["min_easy"] < row["max_easy"] for row in PUBLISHED.values())


def test_cells_as_text_as_markdown_and_as_csv():
    table = Table(
        "t",
        "Caption",
        [
            {"a": "x|y", "estimate": Estimate(0.5, 0.25, 1.0), "spread": Spread(2.0, 0.5, 3), "n": 1234567, "z": None},
            {
                "a": "z",
                "estimate": Estimate(0.5, math.nan, math.nan),
                "spread": Spread(2.0, math.nan, 1),
                "n": 0.012,
                "z": 0.0,
            },
        ],
    )
    assert table.cells() == [
        ["a", "estimate", "spread", "n", "z"],
        ["x|y", "0.50 [0.25, 1.00]", "2.00 ± 0.50 (3)", "1,234,567", ""],
        ["z", "0.50", "2.00 (1)", "0.012", "0.00"],
    ]
    assert table.markdown().splitlines()[:5] == [
        *("Caption", "", "| a | estimate | spread | n | z |", "|---|---|---|---|---|"),
        r"| x\|y | 0.50 [0.25, 1.00] | 2.00 ± 0.50 (3) | 1,234,567 |  |",
    ]
    first, second = rows(table)
    assert (first["estimate"], first["estimate low"], first["estimate high"]) == ("0.5", "0.25", "1.0")
    assert (first["spread"], first["spread std"], first["spread runs"]) == ("2.0", "0.5", "3")
    assert (second["estimate low"], second["spread std"], second["n"]) == ("", "", "0.012")


def test_the_runs_that_are_there(study):
    assert run_table(study).cells() == [
        ["game", "shared", "late", "full"],
        ["heist", "1 (seed 0)", "1 (seed 0)", "0"],
        ["maze", "2 (seed 0-1)", "3 (seed 0-2)", "2 (seed 0-1), 1 unfinished"],
        ["plunder", "2 (seed 0-1)", "2 (seed 0-1)", "2 (seed 0-1)"],
    ]


def test_final_scores_beside_published_ones(study):
    head, heist, maze, _ = score_table(study, PUBLISHED).cells()
    assert head == [
        "game",
        "shared",
        "late",
        "full",
        *(f"published {name}" for name in ("PPO (figure)", "PPO (CLOP)", "PPO (ppo2)", "PPG (figure)")),
        *(f"published {name}" for name in ("DAAC (figure)", "IDAAC", "UCB-DrAC")),
    ]
    assert heist == ["heist", "3.00 (1)", "4.00 (1)", "", "2.50", "2.70", "2.78", "2.85", "3.30", "3.50", "3.50"]
    assert maze[:4] == ["maze", "5.50 ± 0.71 (2)", "8.00 ± 1.00 (3)", "6.00 ± 0.71 (2)"]


def test_published_scores_say_where_they_were_measured_off_a_figure_and_where_that_is_unclear(tmp_path):
    for game in ("fruitbot", "starpilot"):
        write_run(tmp_path, env=game)
    table = score_table(read_study(find_runs(tmp_path)), PUBLISHED)
    fruitbot, starpilot = rows(table)
    assert (fruitbot["published PPO (figure)"], starpilot["published PPO (figure)"]) == ("26.10 ?", "24.7")
    assert [float(starpilot[f"published PPO ({source})"]) for source in ("figure", "CLOP", "ppo2")] == [
        24.7,
        36.1,
        22.58,
    ]
    assert "(figure): measured off a figure, ±0.25, no printed number; ?: its line could not be told" in table.caption
    columns = set(PUBLISHED["starpilot"])
    assert {column for column in columns if column.endswith("_figure")} == {
        column for column, label in METHODS.items() if label.endswith("(figure)")
    }
    # A game that is not there has no cell that says so.
    assert score_table(read_study(find_runs(tmp_path)), {}).rows[0]["published PPO (figure)"] is None


def test_train_test_and_gap(study):
    table = generalisation_table(study)
    assert table.cells()[0] == ["game", "variant", "train", "test", "gap (train - test)"]
    assert table.cells()[2] == ["heist", "late", "6.00 (1)", "4.00 (1)", "2.00 (1)"]
    assert len(table.rows) == 8  # full has none on heist


def test_unseen_levels_have_columns_where_they_were_measured(tmp_path):
    study = read_study(find_runs(write_study(tmp_path, unseen=True)))
    table = generalisation_table(study)
    assert table.cells()[0][-2:] == ["test levels that repeat", "test, the others"]
    assert table.cells()[2][-2:] == ["0.25 (1)", "3.00 (1)"]


def test_costs(study):
    assert cost_table(study).cells()[2] == ["late", "2", "ppo", "1,197,040", "35", "30", "300 [300, 300]"]


def test_curves_hold_every_evaluation_of_every_run(study):
    table = rows(curve_table(study))
    assert len(table) == 15 * 3 + 2  # 15 finished runs with three evaluations, and two of the unfinished one
    unfinished = [row for row in table if row["finished"] == "false"]
    assert [(row["variant"], row["seed"], row["frames"], row["test"]) for row in unfinished] == [
        *(("full", "2", "100", "3.0"), ("full", "2", "200", "6.0"))
    ]


def test_settings_aggregates_comparisons_and_profiles(study):
    assert setting_table(study).cells() == [[]]
    aggregates = {"late": dict.fromkeys(("median", "iqm", "mean", "optimality_gap"), Estimate(1.0, 0.5, 1.5))}
    assert aggregate_table(aggregates, "a", "PPO").cells()[0] == ["variant", "median", "IQM", "mean", "optimality gap"]
    comparison = Comparison("late", "full", ("maze",), Estimate(0.75, 0.6, 0.9), 0.01, 0.001)
    assert comparison_table([comparison], "c", "").cells()[1] == [
        *("late", "full", "maze", "0.75 [0.60, 0.90]", "0.01", "0.001", "late is better")
    ]
    (row,) = rows(profile_table({"late": Profile([0.5], [0.25], [0.0], [0.5])}))
    assert row == {"variant": "late", "threshold": "0.5", "share": "0.25", "share low": "0.0", "share high": "0.5"}
