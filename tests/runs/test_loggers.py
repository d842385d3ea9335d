"""TorchRL's loggers beside a run's own files: what they hold, also after a run has gone on, and what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decouple.runs.loggers import FILM, TRACKERS, Tracking, log_film, tracker_names
from decouple.runs.metrics import read_metrics
from decouple.runs.tracking import Tracker


def run_twice(folder: Path, tracker: str | list[str], **about) -> None:
    """Three rows, of which the last two come again from another session."""
    options = {"total_frames": 40, "progress": False, "tracker": tracker, **about}
    for resume, values in ((None, (1.0, 2.0, 3.0)), (10, (5.0, float("nan"), 7.0))):
        with Tracker(folder, {"gamma": 0.9, "actor": [4]}, resume_frames=resume, **options) as record:
            for frames, value in zip((10, 20, 30), values, strict=True):
                if frames > (resume or 0):
                    record.log({"eval/return/seed0": value, f"loss/{frames}": value}, frames)
            record.summarise({"final/return": 8.0, "final/nothing": None})


def test_csv_holds_the_rows_that_stand_also_where_a_run_was_killed_or_begun_anew(tmp_path):
    run_twice(tmp_path, "csv")
    scalars = tmp_path / "csv" / "scalars"
    assert (scalars / "eval/return/seed0.csv").read_text() == "10,1.0\n20,nan\n30,7.0\n"
    assert (scalars / "final/return.csv").read_text() == "30,8.0\n" and not (scalars / "final/nothing.csv").exists()
    assert read_metrics(tmp_path)["eval/return/seed0"][::2] == [1.0, 7.0]  # our own, whatever the tracker
    with (scalars / "eval/return/seed0.csv").open("a") as file:
        file.write("3")  # half a line
    Tracker(tmp_path, {}, total_frames=40, progress=False, tracker=["local", "csv"], resume_frames=20).close()
    assert (scalars / "eval/return/seed0.csv").read_text() == "10,1.0\n20,nan\n"
    Tracker(tmp_path, {}, total_frames=40, progress=False, tracker="csv", resume_frames=0).close()
    assert not list(scalars.rglob("*.csv"))


def test_tensorboard_shows_the_rows_that_stand_with_tags_and_notes(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_twice(tmp_path, ["csv", "tensorboard"], tags=["small"], notes="a try", group="pendulum")
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    rows = [(each.step, each.value) for each in found.Scalars("eval/return/seed0")]
    assert rows[0] == (10, 1.0) and rows[2] == (30, 7.0) and [step for step, _ in rows] == [10, 20, 30]
    text = found.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(
        each in text for each in ("project: decouple", "- small", "notes: a try", "group: pendulum", "gamma: 0.9")
    )
    assert (tmp_path / "csv" / "scalars" / "loss").exists()


def finished_run(folder: Path, tracker: str) -> list[Path]:
    """A run with its loggers closed, and a film of two frames."""
    with Tracker(folder, {"gamma": 0.9}, total_frames=20, progress=False, tracker=tracker) as record:
        record.log({"eval/return": 1.0}, 20)
        record.summarise({"final/return": 2.0})
    first, second = (Image.fromarray(np.full((6, 8, 3), grey, np.uint8)) for grey in (0, 255))
    first.save(folder / "watch.gif", save_all=True, append_images=[second])
    return [folder / "watch.gif"]


def test_a_film_goes_to_tensorboard_as_add_video_writes_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    [film] = finished_run(tmp_path, "tensorboard")
    log_film(tmp_path, Tracking(tracker=["csv", "tensorboard"]), [film], 20)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    [image] = found.Images(FILM)
    assert (image.step, image.width, image.height) == (20, 8, 6) and image.encoded_image_string == film.read_bytes()
    assert [each.value for each in found.Scalars("eval/return")] == [1.0]


def test_a_film_needs_no_logger(tmp_path):
    log_film(tmp_path, Tracking(tracker="csv"), finished_run(tmp_path, "csv"), 20)
    log_film(tmp_path, Tracking(tracker="tensorboard"), [], 20)


MLFLOW = """
import sys
from test_loggers import run_twice
run_twice(sys.argv[1], "mlflow", project="sizes", group="pendulum", tags=["small", "td3"], notes="a try", name="one")
import mlflow
found, = mlflow.search_runs(experiment_names=["sizes"], output_format="list")
metrics = mlflow.tracking.MlflowClient().get_metric_history(found.info.run_id, "loss/30")
print([(each.step, each.value) for each in metrics], found.data.params["actor"], found.info.status)
print(*(found.data.tags[name] for name in ("group", "tags", "mlflow.note.content", "mlflow.runName")), sep="; ")
"""


def test_mlflow_goes_on_with_its_run(tmp_path):
    pytest.importorskip("mlflow")
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{MLFLOW}", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-2:] == [
        "[(30, 3.0), (30, 7.0)] [4] FINISHED",
        "pendulum; small, td3; a try; one",
    ]
    assert json.loads((tmp_path / "record.json").read_text())["mlflow_id"]


@pytest.mark.parametrize(
    ("package", "extra"), [("tensorboard", "tensorboard"), ("wandb", "sweeps"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"tracker={package} needs .*: pip install 'torchrl-decouple\[{extra}\]'"):
        Tracker(tmp_path / "run", {}, total_frames=1, progress=False, tracker=["csv", package])
    assert not (tmp_path / "run").exists()


def test_the_settings_of_the_record(monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert Tracking().options("pendulum") == {
        **{"tracker": "local", "mode": "offline", "project": "decouple", "entity": None, "group": "pendulum"},
        **{"tags": [], "notes": None},
    }
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert Tracking(group="mine").options("pendulum")["tracker"] == "wandb"
    assert Tracking(tracker=["csv"], group="mine").options("pendulum")["group"] == "mine"
    assert tracker_names(("csv", "csv", "wandb")) == ["csv", "wandb"] and tracker_names("local") == ["local"]
    for bad in ([], "", "x", ["csv", "x"], 3, {"csv": 1}):
        with pytest.raises(ValueError, match=f"tracker must be one or several of {', '.join(TRACKERS)}; got "):
            Tracking(tracker=bad)
    with pytest.raises(ValueError, match="project must be a name; got ' '"):
        Tracking(project=" ")
