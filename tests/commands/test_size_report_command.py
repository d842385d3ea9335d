"""experiments/size_report.py: the real command on what a search, a tiny one, has left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from commands import Script

from decouple.studies.actor_size.algorithms import TD3Control
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.report import SizeReport, size_report
from decouple.studies.actor_size.search import SmallestActor, smallest_actor
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.study import search_record
from decouple.studies.actor_size.workers import cell_of, train_cells

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

REPORT = Script("size_report.py")
# What is trained learns next to nothing, and any return will do.
TINY: dict[str, Any] = {
    **{"env": "toy", "seeds": 2, "total_frames": 600, "learning_starts": 300, "batch_size": 8, "buffer_size": 500},
    **{"log_every": 50, "evaluate_every": 600, "checkpoint_every": 300, "evaluate_episodes": 1, "final_episodes": 1},
    **{"held_out_every": 5, "show_progress": False},
}


def search(study: Path) -> SmallestActor:
    """A search over two sizes into a store, trained in this process."""
    store = CellStore(study / "cells.sqlite")

    def evaluate(actor: tuple, critic: tuple) -> list[float]:
        config = TD3Control(**TINY, actor=list(actor), critic=list(critic))
        (returns,) = train_cells([config], store, lambda config, go_on: train_agents(config))
        return returns

    found = smallest_actor(evaluate, baseline=(4, 4), sizes=[(), (4, 4)], threshold=-100_000)
    settings = cell_of(TD3Control(**TINY)).settings
    record = search_record(found, {(): 2, (4, 4): 33}, 1.0)
    store.record_search("toy", "td3", settings, {"seeds": 2}, "done", record)
    return found


def test_the_report_of_a_real_search(tmp_path):
    study = tmp_path / "study"
    found = search(study)
    reported = REPORT.run(tmp_path, f"run_dir={study}", "seconds=0")
    assert reported.returncode == 0, reported.stderr
    folder = study / "report"
    assert reported.stdout == f"the report is {folder / 'report.md'}, with its tables and pictures beside it\n"
    pictures = ["training_toy_td3", "sizes_toy_td3", "pareto_toy_td3", "diagnosis_toy_td3", "table_1", "figure_4"]
    files = {f"{name}.png" for name in pictures} | {
        "report.md",
        "table_1.md",
        "table_1.csv",
        "cells.csv",
        "latency.csv",
    }
    assert {file.name for file in folder.iterdir()} == files
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures)
    text = (folder / "report.md").read_text()
    assert all(f"({name}.png)" in text for name in pictures)
    assert "The smallest actor: `|linear|` beside a critic `|linear|`" in text
    for name in ("baseline |4,4|", "smallest actor |linear|"):
        assert f"- {name} is not drawn: env must be of a task that has pictures: toy and unity have none" in text

    with open(folder / "cells.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [(row["actor"], row["critic"], row["parameters"]) for row in cells] == [
        ("linear", "linear", "2"), ("4,4", "4,4", "33")
    ]  # fmt: skip
    assert float(cells[1]["return"]) == pytest.approx(found.baseline.mean)
    measured = ("value_loss", "value_loss_held_out", "overfit", "value_predicted", "value_monte_carlo", "value_bias")
    assert all(row[name] for row in cells for name in measured)

    with open(folder / "latency.csv", newline="") as file:
        timed = list(csv.DictReader(file))
    assert len(timed) == 2 * 3 * 2 and {row["runtime"] for row in timed} == {"eager", "exported", "onnx"}


def test_what_cannot_be_reported_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no search has run in nowhere"):
        size_report(SizeReport(run_dir="nowhere"))
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="latency must be missing, again or none; got 'maybe'"):
        SizeReport(latency="maybe")
