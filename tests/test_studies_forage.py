"""The study on Forage: its tables and its verdict are what the agents' returns say."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "results"))
import studies_forage as forage  # noqa: E402
from studies_verdicts import rows_of  # noqa: E402


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forage, "REPETITIONS", 200)


def found(**tests: float) -> forage.Returns:
    """Returns of ten seeds each about a mean, by names as `shown0`; all with the same return on training levels."""
    spread = np.linspace(-0.2, 0.2, forage.SEEDS)
    return {
        (name[:-1], int(name[-1])): {"train": [5.0] * forage.SEEDS, "test": (mean + spread).tolist()}
        for name, mean in tests.items()
    }


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ({"shown0": 3.0, "shown2": 2.0, "hidden0": 2.0, "hidden2": 2.0}, "confirmed"),
        ({"shown0": 3.0, "shown2": 2.0, "hidden0": 3.0, "hidden2": 2.0}, "not decided"),
        ({"shown0": 2.0, "shown2": 2.0, "hidden0": 2.0, "hidden2": 2.0}, "not decided"),
        ({"shown0": 2.0, "shown2": 3.0, "hidden0": 2.0, "hidden2": 2.0}, "refuted"),
        ({"shown0": 2.0, "shown2": 3.0, "hidden0": 2.0}, "not run"),
    ],
)
def test_the_verdict_on_the_life_bar_follows_its_rule(monkeypatch, tests, verdict):
    monkeypatch.setattr(forage, "returns", lambda: found(**tests))
    assert forage.s6()[0] == verdict


def test_a_gap_is_larger_where_tests_are_worse():
    text = forage.larger_gap(found(shown0=3.0, shown3=2.0, hidden0=2.0, hidden3=3.0))
    assert text.startswith("life shown 1.00 [1.00, 1.00]") and "; life hidden 0.00 [0.00, 0.00]" in text


def test_an_interquartile_mean_by_hand():
    assert forage.interval([0.0, 1.0, 2.0, 9.0]).startswith("1.50 [")
    assert forage.interval([2.0] * 10) == "2.00 [2.00, 2.00]"


def test_agents_and_curves_are_read_from_runs_and_short_ones_count_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(forage, "HERE", tmp_path / "out")
    for k, frames in ((0, 1_000_000), (2, 5_000)):
        run = tmp_path / f"k{k}"
        run.mkdir()
        settings = {"seed": 0, "seeds": 10, "separation": k, "env_kwargs": {"life": "shown"}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        (run / "record.json").write_text(json.dumps({"sessions": [{"git": {"commit": "abc"}}]}))
        final = {f"final/{name}_return/seed{seed}": seed + k for name in ("train", "test") for seed in range(10)}
        (run / "result.json").write_text(json.dumps({"frames": frames, **final}))
        with (run / "metrics.csv").open("w", newline="") as file:
            names = [f"{name}/seed{seed}" for name in ("eval/train_return", "eval/test_return") for seed in range(10)]
            table = csv.writer(file)
            table.writerow(["frames", *names])
            table.writerow([64, *[""] * 20])  # a row without an evaluation
            table.writerow([128, *[1.5] * 20])
    forage.collect(tmp_path)
    assert forage.returns() == {("shown", 0): {name: [*map(float, range(10))] for name in ("train", "test")}}
    curves = rows_of(tmp_path / "out" / "curves.csv")
    assert len(curves) == 20 and {row["frames"] for row in curves} == {"128"} and {row["cka"] for row in curves} == {""}
    assert "| shown | 0, full | 4.50 [" in forage.returns_table() and forage.branches_table() == "Not run yet."


def test_what_is_stored_is_the_protocols():
    kept = forage.returns()
    assert {k for _, k in kept} == {0, 1, 2, 3} and {life for life, _ in kept} == set(forage.LIVES)
    assert all(len(of["test"]) == forage.SEEDS for of in kept.values())
