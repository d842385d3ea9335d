"""Table I: what searches found, beside the paper's numbers."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from decouple.studies.actor_size.search import smallest_actor
from decouple.studies.actor_size.settings import settings_key
from decouple.studies.actor_size.study import (
    csv_cell,
    csv_table,
    markdown_table,
    old_rules,
    old_searches,
    read_paper,
    read_paper_parameters,
    reduction_percent,
    relative_return,
    relative_sizes,
    search_record,
    spread_text,
    table_rows,
    table_texts,
)
from decouple.version import VERSION

HONEY = Path(__file__).parents[3] / "decouple" / "studies" / "actor_size" / "published"
PAPER = read_paper(HONEY / "table_1.csv")
PARAMETERS = {(4, 4): 41, (16, 16): 353, (400, 300): 122_201}  # Table A.2, Pendulum


def record(**returns: float) -> dict[str, Any]:
    """A search in which |4,4| beside |16,16| comes to `small`, and all else to -150 but |4,4| with itself."""
    small = returns.get("small", -160.0)

    def evaluate(actor: tuple, critic: tuple) -> list[float]:
        mean = -150.0 if actor > (4, 4) else small if critic > (4, 4) else -900.0
        return [mean - 2, mean + 2]

    found = smallest_actor(evaluate, baseline=(400, 300), sizes=list(PARAMETERS))
    return json.loads(json.dumps(search_record(found, PARAMETERS, 60.0)))  # as the store gives it back


def search(state: str = "done", **settings: Any) -> dict[str, Any]:
    own = {"task": "pendulum", "algorithm": "td3", "state": state, "options": {"seeds": 2}}
    own |= {"settings": {}, "version": VERSION}
    return {**own, "result": record() if state == "done" else {"error": "no"}, **settings}


def test_the_papers_rows_are_read_as_printed():
    assert len(PAPER) == 24
    row = PAPER["pendulum", "td3"]
    assert (row["threshold"], row["baseline_size"], row["actor_size"]) == (-160, (400, 300), (4, 4))
    assert (row["reduction_percent"], row["asymmetric_reward"], row["asymmetric_spread"]) == (88.38, -167.57, 14.53)
    assert PAPER["ant", "ddpg"]["baseline_reward"] == 225.23 and PAPER["ant", "ddpg"]["actor_size"] is None


def test_several_searches_of_a_task_are_told_apart_by_their_frames_or_else_their_settings():
    trial, whole = search(settings={"total_frames": 2_000}), search(settings={"total_frames": 60_000})
    other = search(settings={"total_frames": 60_000, "gamma": 0.9})

    def named(*searches: dict[str, Any]) -> list[str]:
        rows = [row for row in table_rows(searches, PAPER) if row["source"] == "here"]
        return [texts[1] for texts in table_texts(rows)]

    assert named(whole) == ["here"] == named(whole)
    assert named(trial, whole) == ["here, 2,000 frames", "here, 60,000 frames"]
    keys = [settings_key(json.dumps(one["settings"], sort_keys=True)) for one in (whole, other)]
    assert named(whole, other) == [f"here, 60,000 frames, {key}" for key in keys] and keys[0] != keys[1]
    csv_row = csv_table(table_rows([trial], PAPER)).decode().splitlines()[3]
    assert csv_row.split(",")[-2] == "2000" and re.fullmatch(r"[0-9a-f]{8}", csv_row.split(",")[-1])


def test_a_reduction_is_of_parameters():
    assert reduction_percent(41, 353) == pytest.approx(88.385, abs=5e-4)
    assert reduction_percent(353, 353) == 0 and reduction_percent(706, 353) == -100


def test_our_row_stands_under_the_papers_and_other_tasks_follow():
    rows = table_rows([search(), search("failed"), search(task="toy", algorithm="sac")], PAPER)
    assert len(rows) == 24 + 2 and [row["source"] for row in rows].count("here") == 2
    at = [(row["task"], row["algorithm"], row["source"]) for row in rows]
    assert at[1:4] == [("pendulum", "td3", "paper"), ("pendulum", "td3", "here"), ("pendulum", "sac", "paper")]
    assert at[-1] == ("toy", "sac", "here")
    ours = rows[2]
    assert (ours["threshold"], ours["bound"], ours["seeds"], ours["seconds"]) == (-150, -165, 2, 60)
    assert (ours["baseline_size"], ours["symmetric_size"]) == ((400, 300), (16, 16))
    assert (ours["actor_size"], ours["critic_size"], ours["asymmetric_reward"]) == ((4, 4), (16, 16), -160)
    assert ours["reduction_percent"] == pytest.approx(100 * (1 - 41 / 353))
    assert ours["baseline_reduction_percent"] == pytest.approx(100 * (1 - 41 / 122_201))
    assert ours["decided"] is False and ours["asymmetric_low"] == pytest.approx(-160 - 12.706 * 2, abs=1e-2)


def test_the_table_in_markdown_and_as_a_file():
    rows = table_rows([search()], {("pendulum", "td3"): PAPER["pendulum", "td3"]})
    lines = markdown_table(rows).splitlines()
    assert lines[2] == (
        r"| pendulum, TD3 | paper | -160 | \|400,300\| -152.7 ± 9.5 | \|16,16\| -152.4 ± 6.7 | \|4,4\| | -88.4 % "
        r"| \|16,16\| | -167.6 ± 15 |"
    )
    assert lines[3] == (
        r"| pendulum, TD3 | here | -150 | \|400,300\| -150 ± 2.8 | \|16,16\| -150 ± 2.8 | \|4,4\| | -88.4 % "
        r"| \|16,16\| | -160 ± 2.8 [-185.4, -134.6] ? |"
    )
    assert {line.replace(r"\|", "").count("|") for line in lines} == {10}
    paper, ours = csv.DictReader(io.StringIO(csv_table(rows).decode()))
    assert (paper["source"], paper["actor_size"], paper["decided"]) == ("paper", "4,4", "")
    assert (ours["source"], ours["asymmetric_reward"], ours["decided"]) == ("here", "-160.0", "False")


def test_sac_on_food_collector_is_measured_by_the_maximum_in_training_and_says_so():
    """Table I's footnote d; no other row of the paper is, and a search of 0.1 was of final returns."""
    at_best = search(task="foodcollector", algorithm="sac")
    at_best["result"] |= {"measure": "maximum"}
    old = search(task="foodcollector", algorithm="sac")
    del old["result"]["measure"]
    rows = table_rows([at_best, old, search(task="foodcollector", algorithm="ppo")], PAPER)
    measured = [(row["task"], row["algorithm"], row["source"]) for row in rows if row["measure"] == "maximum"]
    assert measured == [("foodcollector", "sac", source) for source in ("paper", "here")]
    texts = [text[1] for text in table_texts(rows) if text[0].startswith("foodcollector, SAC")]
    assert texts == ["paper, maximum in training", "here, maximum in training", "here"]


def test_a_search_without_a_result_has_a_row_without_one():
    def evaluate(actor: tuple, critic: tuple) -> list[float]:
        return [-900.0, -901.0]

    found = smallest_actor(evaluate, baseline=(400, 300), sizes=list(PARAMETERS), threshold=-160)
    (ours,) = table_rows([search(result=search_record(found, PARAMETERS))], {})
    assert ours["baseline_reward"] == -900.5 and ours["actor_size"] is None
    assert markdown_table([ours]).endswith(r"| -160 | \|400,300\| -900.5 ± 0.71 |  |  |  |  |  |")


def test_a_search_under_an_old_rule_has_no_row_and_is_named():
    old, new = search(task="pong", version=None), search(task="pong", settings={"rules": {"pong_limit": 2}})
    elsewhere = search(version=None, task="acrobot")  # no rule of it has changed
    assert [(row["task"], row["source"]) for row in table_rows([old, elsewhere], {})] == [("acrobot", "here")]
    assert [row["task"] for row in table_rows([old, new], {})] == ["pong"]
    (text,) = old_searches([old, new, elsewhere, search("failed", task="pong", version=None)])
    assert text.startswith("pong, td3, by decouple 0.1, is left out: rule pong_limit: version 1 there, and 2 in")
    assert old_rules("pong", "sac", {"rules": {"pong_limit": 2}}, "0.2.1") == []


def test_sizes_and_spreads_as_text():
    assert [csv_cell(value) for value in (None, (), (1,), (400, 300), -1.5)] == ["", "linear", "1", "400,300", "-1.5"]
    assert [spread_text(value) for value in (None, float("nan"), 0.123, 15.4, 99.4, 99.6, 1156.3)] == [
        "", "", " ± 0.12", " ± 15", " ± 99", " ± 100", " ± 1156"
    ]  # fmt: skip


def test_table_a2_is_read_as_printed():
    counts = read_paper_parameters(HONEY / "table_a2.csv")
    assert counts["pendulum"][4, 4] == 41 and counts["foodcollector"][128, 128] == 23940
    assert (1, 1) in counts["acrobot"] and (1, 1) not in counts["pong"]


def test_shares_of_the_baseline_are_the_same_by_our_reductions_and_by_the_papers_counts():
    paper, ours = table_rows([search()], {("pendulum", "td3"): PAPER["pendulum", "td3"]})
    shares = pytest.approx((353 / 122_201, 41 / 122_201))
    assert relative_sizes(ours) == shares and relative_sizes(paper, PARAMETERS) == shares
    assert all(number != number for number in relative_sizes({**ours, "actor_size": None}))
    assert relative_sizes(paper, {(4, 4): 41})[0] != relative_sizes(paper, {(4, 4): 41})[0]  # counts that are not known


def test_a_return_in_units_of_its_threshold_is_one_at_it_whatever_the_sign():
    row = {"threshold": -160.0, "baseline_reward": -176.0, "baseline_spread": 8.0}
    assert relative_return(row, "baseline") == pytest.approx((0.9, 0.05))
    assert relative_return({**row, "threshold": 200.0, "baseline_reward": 180.0}, "baseline")[0] == pytest.approx(0.9)
    for without in ({"threshold": None}, {"threshold": 0.0}, {"baseline_reward": None}):
        assert relative_return({**row, **without}, "baseline")[0] != relative_return({**row, **without}, "baseline")[0]
    assert relative_return({**row, "baseline_spread": None}, "baseline")[0] == pytest.approx(0.9)
