"""benchmarks/gpu.sh, rehearsed on the processor: what it runs, in which order, within which time."""

from __future__ import annotations

import csv
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, composed
from marks import needs_games

pytestmark = pytest.mark.skipif(shutil.which("bash") is None or shutil.which("timeout") is None, reason="needs bash")
PARTS = {
    1: ["tests", "speed_auto", "speed_fastest", "profile", "seeds"],
    2: ["starpilot", "evaluation", "pendulum", "agents"],
}


def run(part: int, out: Path, **variables: str) -> str:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(part), str(out)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("size", ["whole", "tiny"])
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_its_steps_in_order_with_settings_that_are_accepted(part, size, tmp_path, monkeypatch):
    """The commands are printed in place of being run; each is then read as its script reads it."""
    said = run(part, tmp_path, PYTHON="echo", SIZE=size)
    steps = re.findall(r"^== (\w+), at most (\d+) s: echo (.*)$", said, re.MULTILINE)
    assert [name for name, _, _ in steps] == PARTS[part]
    if size == "whole":  # of training, what is left
        assert part == 2 or sum(int(limit) for _, limit, _ in steps) <= 325  # each has its own; BUDGET ends them all
        assert all(int(limit) <= 265 for _, limit, _ in steps)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for _, _, command in steps:
        script, *given = shlex.split(command)
        path = Path(script)
        if path.parent.name == "experiments":
            composed(path.stem, *given)
        elif script != "-m":
            importlib.import_module(path.stem).parser().parse_args(given)
    assert (tmp_path / "steps.txt").read_text().count("status 0") == len(steps)


def test_when_the_time_is_over_no_step_begins(tmp_path):
    said = run(1, tmp_path, PYTHON="echo", BUDGET="3")
    assert said.count("no time left") == 2 * len(PARTS[1])  # as it goes, and at the end
    assert "==" not in said


@needs_games
@pytest.mark.slow
def test_the_whole_of_it_at_tiny_sizes(tmp_path):
    for part in PARTS:
        run(part, tmp_path, PYTHON=sys.executable, SIZE="tiny")
    said = (tmp_path / "steps.txt").read_text()
    assert re.findall(r"^(\w+): status 0 ", said, re.MULTILINE) == [*PARTS[1], *PARTS[2]]
    with open(tmp_path / "speed.csv") as file:
        rows = [(row["contender"], row["performance"]) for row in csv.DictReader(file)]
    assert rows == [(who, how) for how in ("auto", "fastest") for who in ("shared", "late", "full", "daac")]
    expected = {"profile": "convolution", "seeds": "grouped", "evaluation": "generalisation gap", "pendulum": "return"}
    for name, text in expected.items():
        assert text in (tmp_path / f"{name}.txt").read_text()
    assert (tmp_path / "starpilot.csv").read_text().startswith("frames,")
