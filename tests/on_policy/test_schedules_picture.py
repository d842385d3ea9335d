"""docs/pictures/schedules.py: the time lines are those of the phases."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("schedules_picture", ROOT / "docs" / "pictures" / "schedules.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_schedule_is_what_its_row_of_the_table_says(script: Any):
    def first(algorithm: str, rollouts: int = 1) -> list[tuple[Any, ...]]:
        return [tuple(bar)[1:] for bar in script.bars(algorithm, rollouts)]

    assert first("ppo") == [("joint", 3, ("objective",), ("critic",))]
    assert first("daac") == [("policy", 1, ("objective", "advantage"), ()), ("value", 9, (), ("critic",))]
    assert first("idaac")[0][2] == ("objective", "advantage", "order")
    assert first("dna") == [
        ("policy", 2, ("objective",), ()),
        ("value", 1, (), ("critic",)),
        ("distillation", 2, ("auxiliary_value", "clone"), ()),
    ]
    every = {"ppg": "critic", "dcpg": "clone", "ddcpg": "clone"}
    further = {"ppg": ("auxiliary_value", "clone"), "dcpg": ("clone",), "ddcpg": ("dynamics", "clone")}
    for algorithm, value in every.items():
        found = first(algorithm, 5)
        assert [bar[0] for bar in found] == ["policy"] * 4 + ["auxiliary", "policy"]
        assert found[0] == ("policy", 1, ("objective",), (value,))
        assert found[4] == ("auxiliary", 6 * 4, further[algorithm], ("critic",))


def test_the_picture_is_drawn(script: Any, tmp_path: Path):
    script.draw(tmp_path / "schedules.svg")
    drawn = (tmp_path / "schedules.svg").read_text()
    assert drawn.count("<path") > 50 and (ROOT / "docs" / "pictures" / "schedules.svg").exists()
