"""The comparison of k on Procgen at reduced size: its files, table and verdict are what its runs say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import study_folders

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "results"))
import studies_forage  # noqa: E402
import studies_procgen as reduced  # noqa: E402
from studies_verdicts import rows_of  # noqa: E402

SETTINGS = {**reduced.SETTINGS, "env": "starpilot", "total_frames": reduced.FRAMES}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduced, "HERE", tmp_path / "out")
    monkeypatch.setattr(studies_forage, "REPETITIONS", 200)


def write_run(folder: Path, score: float, *, frames: int = reduced.FRAMES, **settings) -> Path:
    """A run with two evaluations, and a row between them that has none."""
    settings = {**SETTINGS, **settings}
    run = study_folders.write_run(folder, score, frames=(100, frames), **settings)
    head, first, *rest = (run / "metrics.csv").read_text().splitlines()
    if settings.get("separation") == 0:  # no cut, and no cosine there
        lines = [head, first, "200,100.0,,,", *rest]
    else:
        lines = [f"{head},cut/joint_cosine", f"{first},0.25", "200,100.0,,,,", *(f"{row},0.5" for row in rest)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    record = json.loads((run / "record.json").read_text())
    record["sessions"] = [{**record["sessions"][0], "git": {"commit": commit}} for commit in ("a" * 40, "b" * 40)]
    (run / "record.json").write_text(json.dumps(record))
    return run


def test_agents_and_curves_are_read_from_finished_runs(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / "runs", 5.0 + seed, separation=4, seed=seed)
        frames = reduced.FRAMES if seed else 5_000
        write_run(tmp_path / "runs", 3.0, separation=0, seed=seed, frames=frames, total_frames=frames)
    write_run(tmp_path / "runs", 9.0, separation=2, finished=False)
    reduced.collect(tmp_path / "runs")
    said = capsys.readouterr().out
    assert "6 agents" in said and said.startswith("left out: ") and "controlled/starpilot/2/seed0: " in said
    agents = rows_of(reduced.HERE / "agents.csv")
    assert [(row["k"], row["seed"]) for row in agents] == [(k, seed) for k in "04" for seed in "012"]
    assert agents[3] == {
        **{"game": "starpilot", "k": "4", "seed": "0", "frames": "500000"},
        **{"train": "7.0", "test": "5.0", "commit": f"{'a' * 9} {'b' * 9}"},
    }
    curves = [row for row in rows_of(reduced.HERE / "curves.csv") if (row["k"], row["seed"]) == ("4", "1")]
    assert [(row["frames"], row["cosine"]) for row in curves] == [("100", "0.25"), ("500000", "0.5")]
    assert {row["cosine"] for row in rows_of(reduced.HERE / "curves.csv") if row["k"] == "0"} == {""}
    # of k = 0 one run is shorter than the protocol's, so that S7 has no verdict
    assert reduced.returns() == {("starpilot", 4): [(7.0, 5.0), (8.0, 6.0), (9.0, 7.0)]}
    table = reduced.reduced_table().splitlines()
    assert table[2:] == [
        "| starpilot | 0, full | 2 | 5.00 ± 0.00 | 3.00 ± 0.00 | 2.00 ± 0.00 |  |",
        "| starpilot | 4, shared | 3 | 8.00 ± 1.00 | 6.00 ± 1.00 | 2.00 ± 0.00 | 0.500 ± 0.000 |",
    ]
    assert reduced.s7() == ("not run", "needs Procgen, reduced, k = 0 and 4")
    drawn = reduced.figure()
    assert [axes.get_title() for axes in drawn.axes] == ["50 training levels", "all levels"]
    assert len(drawn.axes[0].lines) == 6


def test_no_run_is_no_table():
    assert reduced.reduced_table() == "Not run yet."


@pytest.mark.parametrize(
    ("setting", "value"), [("width", 1.0), ("num_levels", 200), ("protocol", "as_written"), ("final_episodes", 100)]
)
def test_a_run_of_other_settings_is_refused(tmp_path, setting, value):
    write_run(tmp_path / "runs", 5.0, **{setting: value})
    with pytest.raises(ValueError, match=f"{setting} must be .*; got {value!r}"):
        reduced.collect(tmp_path / "runs")


def found(games: int, **gaps: float) -> reduced.Returns:
    """Returns of three seeds each whose gaps are about these, by names as `k4`, on so many games."""
    spread = np.linspace(-0.2, 0.2, reduced.SEEDS)
    return {
        (game, int(name[1:])): [(5.0 + gap + at, 5.0) for at in spread]
        for game in reduced.GAMES[:games]
        for name, gap in gaps.items()
    }


@pytest.mark.parametrize(
    ("games", "gaps", "verdict"),
    [
        (2, {"k0": 1.0, "k4": 3.0}, "confirmed"),
        (2, {"k0": 3.0, "k4": 1.0}, "refuted"),
        (2, {"k0": 1.0, "k4": 1.0}, "not decided"),
        (1, {"k0": 1.0, "k4": 3.0}, "not decided"),  # three seeds against three have p >= .1
        (2, {"k0": 1.0, "k2": 3.0}, "not run"),
    ],
)
def test_the_verdict_on_the_gap_follows_its_rule(monkeypatch, games, gaps, verdict):
    monkeypatch.setattr(reduced, "returns", lambda: found(games, **gaps))
    assert reduced.s7()[0] == verdict
    assert reduced.s7("0.50")[1].endswith("on Forage, probability that the gap is larger when shared: 0.50") == (
        verdict == "not run"
    )
