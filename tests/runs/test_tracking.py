"""Tracking: tables that come back exactly and survive kills, curves, progress, and a real offline run of W&B."""

import hashlib
import importlib.metadata
import io
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from damage import DAMAGES, damage
from disks import small_disk
from warm import the_warm

import decouple.runs.progress
import decouple.runs.tracking
from decouple.runs.curves import plot_curves
from decouple.runs.files import replace_file
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.runs.loggers import FILM, default_tracker
from decouple.runs.metrics import read_metrics, rows_up_to, table_sum
from decouple.runs.tracking import Tracker

CONFIG = {"separation": "late", "optimizer": {"lr": 5e-4, "betas": (0.9, 0.999)}, "game": None}


def quiet(run_dir, **settings):
    return Tracker(run_dir, CONFIG, **{"total_frames": 1000, "progress": False, **settings})


def table(run_dir):
    return (run_dir / "metrics.csv").read_text()


def bits(values):
    return [struct.pack("<d", value) for value in values]


# ----------------------------------------------------------------------------------------------------------- the table


def test_every_number_comes_back_bit_for_bit(tmp_path):
    generator = random.Random(0)
    values = [struct.unpack("<d", generator.randbytes(8))[0] for _ in range(300)]
    values = [value for value in values if not math.isnan(value)] + [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308]
    with quiet(tmp_path) as tracker:
        for frames, value in enumerate(values):
            tracker.log({"loss/policy": value}, frames)
    metrics = read_metrics(tmp_path)
    assert bits(metrics["loss/policy"]) == bits(values)
    assert metrics["frames"] == list(range(len(values)))


def test_numbers_of_numpy_and_torch_and_what_is_not_finite_are_written(tmp_path):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": np.float32(0.1), "b": torch.tensor(0.1), "c": 3, "d": True, "e": torch.tensor([2.0])}, 1)
        tracker.log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.int64(7), "e": 1e22}, 2)
    assert table(tmp_path) == (
        "frames,a,b,c,d,e\n1,0.10000000149011612,0.10000000149011612,3.0,1.0,2.0\n2,nan,inf,-inf,7.0,1e+22\n"
    )


def test_new_columns_join_at_the_end_and_leave_empty_cells(tmp_path):
    with quiet(tmp_path) as tracker:
        tracker.log({"b": 1.0, "a": 2.0}, 10)
        tracker.log({"a": 3.0, "eval/test_return": 4.0, 'odd, "name"': 0.5}, 20)
        tracker.log({"a": 5.0, "b": 6.0}, 30)
        assert table(tmp_path) == (
            'frames,b,a,eval/test_return,"odd, ""name"""\n10,1.0,2.0,,\n20,,3.0,4.0,0.5\n30,6.0,5.0,,\n'
        )
    metrics = read_metrics(tmp_path)
    assert list(metrics) == ["frames", "b", "a", "eval/test_return", 'odd, "name"']
    assert np.array_equal(metrics["eval/test_return"], [math.nan, 4.0, math.nan], equal_nan=True)


def test_a_row_can_be_read_as_soon_as_it_is_logged(tmp_path):
    with quiet(tmp_path) as tracker:
        assert read_metrics(tmp_path) == {"frames": []}
        tracker.log({"a": 1.0}, 10)
        assert read_metrics(tmp_path) == {"frames": [10.0], "a": [1.0]}


def log_iterations(tracker, first, last):
    for iteration in range(first, last + 1):
        metrics = {"train/episode_return": iteration / 3}
        if iteration % 4 == 0:
            metrics["eval/test_return"] = iteration / 7
        tracker.log(metrics, frames=10 * iteration)


@pytest.mark.parametrize("saved", [0, 3, 4, 5])
def test_a_resumed_run_ends_with_the_table_of_an_unbroken_one(tmp_path, saved):
    with quiet(tmp_path / "unbroken") as tracker:
        log_iterations(tracker, 1, 9)
    with quiet(tmp_path / "resumed") as tracker:
        log_iterations(tracker, 1, 6)
    with open(tmp_path / "resumed" / "metrics.csv", "a") as file:
        file.write("70,2.33")  # what a kill in the middle of a write would leave
    with quiet(tmp_path / "resumed", resume_frames=10 * saved) as tracker:
        at_checkpoint = "frames,train/episode_return" + (",eval/test_return" if saved >= 4 else "")
        assert table(tmp_path / "resumed").splitlines()[0] == at_checkpoint.removesuffix(
            "" if saved else ",train/episode_return"
        )
        log_iterations(tracker, saved + 1, 9)
    assert table(tmp_path / "resumed") == table(tmp_path / "unbroken")


def test_starting_over_drops_the_row_of_frame_0_too(tmp_path):
    for resume_frames in (None, 0):
        with quiet(tmp_path, resume_frames=resume_frames) as tracker:
            tracker.log({"eval/test_return": 0.0}, 0)
    assert table(tmp_path) == "frames,eval/test_return\n0,0.0\n"


def test_a_write_that_the_system_cuts_short_is_finished(tmp_path):
    class Short(io.FileIO):
        def write(self, data):
            return super().write(bytes(data[:3]))

    with quiet(tmp_path / "short") as tracker:
        tracker._table._file.close()
        tracker._table._file = Short(tmp_path / "short" / "metrics.csv", "ab")
        tracker.log({}, 10)
        tracker.log({}, 123456)
    assert table(tmp_path / "short") == "frames\n10\n123456\n"


@pytest.fixture(params=["tmpfs", "limit"])
def disk(tmp_path, request):
    with small_disk(tmp_path / "disk", request.param) as disk:
        yield disk


FULL = r"(No space left on device|File too large): '.*{}'"


def test_a_row_that_a_full_disk_cuts_off_is_taken_back_and_the_table_goes_on(disk):
    run = disk.folder / "run"
    with quiet(run) as tracker:
        tracker.log({"a": 0.5}, 10)
        tracker.log(dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1.0), 20)  # beyond the limit of a file's size
        before, marks = table(run), tracker.marks()
        with disk.filled():
            for row in ({"a": 1 / 3, "z": 1e-300}, {"new": 1.0}):
                for _ in range(200 if disk.paged else 1):  # until a page is full
                    try:
                        tracker.log(row, 30)
                    except OSError as error:
                        assert re.search(FULL.format(r"metrics\.csv"), str(error))
                        break
                else:
                    pytest.fail("the disk was not full")
        if not disk.paged:
            assert table(run) == before and tracker.marks() == marks
        tracker.log({"a": 7.0}, 40)
        text = table(run)
        assert text.startswith(before) and text.splitlines()[-1].startswith("40,7.0,") and text.endswith("\n")
        assert (
            tracker.marks()["table"] == hashlib.sha256(text.encode()).hexdigest()
        )  # there are no columns of the clock
    assert read_metrics(run)["frames"][-1] == 40


@pytest.mark.parametrize("name", ["result.json", "curves.png", "metrics.csv"])
def test_a_full_disk_names_each_file_of_the_record_and_leaves_the_old_one(disk, name):
    run = disk.folder / "run"
    with quiet(run) as tracker:
        tracker.log({"a": 0.5}, 10)
        tracker.summarise({"a": 0.5})
    before = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    tracker = quiet(run, resume_frames=10)
    with disk.filled(), pytest.raises(OSError, match=FULL.format(name.replace(".", r"\."))):
        if name == "result.json":
            tracker.summarise({chr(97 + n) * 9: n for n in range(20)})
        elif name == "curves.png":
            plot_curves(run)
        else:
            tracker._table.append(20, {"b" * 99: 1.0})
    tracker.close()
    after = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    assert {**after, "record.json": 0, ".lock": 0} == {**before, "record.json": 0, ".lock": 0}


def test_a_full_disk_begins_no_run(disk):
    with disk.filled(), pytest.raises(OSError, match=FULL.format(r".*")):
        quiet(disk.folder / "run")
    quiet(disk.folder / "run", resume_frames=None if not (disk.folder / "run" / "metrics.csv").exists() else 0).close()


def test_the_marks_of_a_table_are_those_of_its_rows_up_to_there(tmp_path):
    marks = []
    with quiet(tmp_path) as tracker:
        for iteration in range(1, 10):
            log_iterations(tracker, iteration, iteration)
            marks.append(tracker.marks()["table"])
    for iteration in (1, 3, 4, 9):
        assert table_sum(*rows_up_to(tmp_path / "metrics.csv", 10 * iteration)) == marks[iteration - 1]
        with quiet(tmp_path / "copy", resume_frames=None) as tracker:
            log_iterations(tracker, 1, iteration)
        shutil.copy(tmp_path / "metrics.csv", tmp_path / "copy" / "metrics.csv")
        with quiet(tmp_path / "copy", resume_frames=10 * iteration) as tracker:
            assert tracker.marks()["table"] == marks[iteration - 1]
        shutil.rmtree(tmp_path / "copy")


def test_the_clock_is_no_part_of_a_tables_mark(tmp_path):
    marks = []
    for seconds in (1.0, 2.0):
        with quiet(tmp_path / str(seconds)) as tracker:
            tracker.log({"a": 1.0, "time/frames_per_second": seconds}, 10)
            tracker.log({"a": 2.0, "b": 1.0, "time/frames_per_second": seconds}, 20)
            marks.append(tracker.marks())
        assert marks[-1]["table"] == table_sum(*rows_up_to(tmp_path / str(seconds) / "metrics.csv", 20))
    assert marks[0]["table"] == marks[1]["table"] == hashlib.sha256(b"frames,a,b\n10,1.0,\n20,2.0,1.0\n").hexdigest()


def test_an_open_tracker_holds_its_folder_and_a_closed_one_does_not(tmp_path):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 1.0}, 10)
        for resume_frames in (0, 10):
            with pytest.raises(FolderInUseError, match=rf"held by process {os.getpid()} on"):
                quiet(tmp_path, resume_frames=resume_frames)
        assert read_metrics(tmp_path)["a"] == [1.0]  # who reads needs no lock
    whole = table(tmp_path)
    (tmp_path / "metrics.csv").write_text("broken\n")
    for _ in range(2):  # an error lets it go too
        with pytest.raises(ValueError, match="must begin with"):
            quiet(tmp_path, resume_frames=10)
    (tmp_path / "metrics.csv").write_text(whole)
    with lock_folder(tmp_path) as lock:
        quiet(tmp_path, resume_frames=0, lock=lock).close()
        with pytest.raises(FolderInUseError):
            lock_folder(tmp_path)  # the caller's is not the tracker's to let go of


@pytest.mark.parametrize("half", ["30,3.", "30", "30,3.0,9.0", '30,"', "\0\0\0\0"])
def test_a_half_written_last_line_is_left_out(tmp_path, half):
    with quiet(tmp_path) as tracker:
        log_iterations(tracker, 1, 2)
    whole = table(tmp_path)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(half)
    assert read_metrics(tmp_path) == {"frames": [10.0, 20.0], "train/episode_return": [1 / 3, 2 / 3]}
    with quiet(tmp_path, resume_frames=20):
        assert table(tmp_path) == whole


def test_damage_before_the_last_line_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("frames,a\n1,1.0\n2\n3,1.0\n")
    with pytest.raises(ValueError, match=r"metrics\.csv, line 3: must have 2 cells; got 1"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match="must begin with a line of column names"):
        read_metrics(tmp_path)


LOG_LOOP = """
import sys
from decouple.runs.metrics import read_metrics
from decouple.runs.tracking import Tracker
resume = int(sys.argv[2])
tracker = Tracker(sys.argv[1], {}, total_frames=10**9, progress=False, resume_frames=None if resume < 0 else resume)
frames = max(resume, 0)
while True:
    frames += 1
    new = {f"column/{frames // 20}": 1.0} if frames % 20 == 0 else {}
    tracker.log({"a": frames / 3} | new, frames)
    print(frames, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_readable_table(tmp_path):
    resume = -1
    for kill in range(3):
        process = the_warm().start(tmp_path, "", str(tmp_path), str(resume), before=LOG_LOOP)
        process.lines(25 + 7 * kill)
        announced = max(map(int, process.kill().split()))
        metrics = read_metrics(tmp_path)
        assert len(metrics["frames"]) in (announced, announced + 1)
        assert metrics["a"] == [frames / 3 for frames in range(1, len(metrics["a"]) + 1)]
        resume = announced


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tracker": "tensorbord"}, ValueError, "tracker must be one or several of local, csv, .*; got 'tensorbord'"),
        ({"tracker": ["csv", 3]}, ValueError, r"tracker must be one or several of .*; got \['csv', 3\]"),
        ({"tags": "a"}, ValueError, "tags must be a list of strings; got 'a'"),
        ({"mode": "shared"}, ValueError, r"mode must be one of \['offline', 'online'\]; got 'shared'"),
        ({"total_frames": 0}, ValueError, "total_frames must be at least 1; got 0"),
        ({"total_frames": 1e6}, TypeError, r"total_frames must be a whole number of frames; got 1000000\.0"),
        ({"resume_frames": -1}, ValueError, "resume_frames must be at least 0; got -1"),
        ({"resume_frames": 5}, FileNotFoundError, r"resume_frames=5 needs a run to go on with, .*metrics\.csv"),
        ({"facts": {"backend": 3}}, TypeError, "facts must map strings to strings; got {'backend': 3}"),
    ],
)
def test_a_wrong_argument_is_named_and_no_folder_is_made(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        quiet(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_setting_that_yaml_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"config\['a'\]\['b'\]\[1\] must be a number, text, .*; got Tensor"):
        Tracker(tmp_path, {"a": {"b": [1, torch.ones(1)]}}, total_frames=1)


def test_a_new_run_refuses_the_folder_of_another(tmp_path):
    quiet(tmp_path).close()
    with pytest.raises(FileExistsError, match=r"run_dir must not hold a run already, .*resume_frames"):
        quiet(tmp_path)


@pytest.mark.parametrize(
    ("metrics", "frames", "error", "message"),
    [
        ({"a": "1.0"}, 20, TypeError, "metric 'a' must be one number; got '1.0'"),
        ({"a": None}, 20, TypeError, "metric 'a' must be one number; got None"),
        ({"a": torch.ones(2)}, 20, TypeError, "metric 'a' must be one number"),
        ({"frames": 1.0}, 20, ValueError, "a metric's name must be printable text other than 'frames'"),
        ({"a\nb": 1.0}, 20, ValueError, "a metric's name must be"),
        ({"a": 1.0}, 9, ValueError, "frames must be at least 10; got 9"),
        ({"a": 1.0}, 20.0, TypeError, r"frames must be a whole number of frames; got 20\.0"),
    ],
)
def test_a_bad_row_is_refused_and_nothing_of_it_written(tmp_path, metrics, frames, error, message):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 0.0}, 10)
        with pytest.raises(error, match=message):
            tracker.log({"new": 1.0} | metrics, frames)
    assert table(tmp_path) == "frames,a\n10,0.0\n"


def test_a_closed_tracker_says_so(tmp_path):
    tracker = quiet(tmp_path)
    tracker.close()
    tracker.close()
    with pytest.raises(RuntimeError, match="is closed"):
        tracker.log({}, 10)


# ---------------------------------------------------------------------------------------------- settings and the record


def test_the_result_says_what_the_run_came_to(tmp_path):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 1.0}, frames=10)
        tracker.summarise({"final/test_return": 1 / 3})
    assert json.loads((tmp_path / "result.json").read_text()) == {"frames": 10, "final/test_return": 1 / 3}


def test_a_result_that_is_no_number_is_null_with_its_reason(tmp_path):
    """JSON has no nan."""
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 1.0}, frames=10)
        report = {"final/return": None, "final/return/seed0": math.nan, "final/return/seed1": -math.inf, "b": 2}
        tracker.summarise(report, failed={"seed0": "reward is nan at frame 7"})
    expected = {"frames": 10, **dict.fromkeys(report), "b": 2.0, "failed": {"seed0": "reward is nan at frame 7"}}
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail) == expected


def test_settings_and_record_say_what_ran(tmp_path):
    quiet(tmp_path, facts={"backend": "envpool 1.2.5"}).close()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "separation": "late",
        "optimizer": {"lr": 5e-4, "betas": [0.9, 0.999]},
        "game": None,
    }
    record = json.loads((tmp_path / "record.json").read_text())
    (session,) = record["sessions"]
    assert record["wandb_id"] is None
    assert session["packages"]["torchrl"] == importlib.metadata.version("torchrl")
    assert session["packages"]["decouple"] == decouple.__version__
    assert session["facts"] == {"backend": "envpool 1.2.5"}
    assert session["cpu_count"] == os.cpu_count()
    assert session["started_utc"].endswith("+00:00")
    assert {"command", "python", "platform", "git"} <= session.keys()


def test_a_resumed_run_adds_a_session_and_keeps_settings_that_differ(tmp_path):
    with quiet(tmp_path) as tracker:
        tracker.log({}, 10)
    quiet(tmp_path, resume_frames=10).close()
    Tracker(tmp_path, {"separation": "full"}, total_frames=20, progress=False, resume_frames=10).close()
    record = json.loads((tmp_path / "record.json").read_text())
    assert [session["resume_frames"] for session in record["sessions"]] == [None, 10, 10]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"separation": "full"}
    assert yaml.safe_load((tmp_path / "config.2.yaml").read_text())["separation"] == "late"
    assert not (tmp_path / "config.1.yaml").exists()


def test_a_run_cut_off_while_its_settings_change_keeps_those_of_before(tmp_path, monkeypatch):
    tracker = quiet(tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()

    def cut_off(path, content):
        if path.name == "config.yaml":
            raise KeyboardInterrupt
        replace_file(path, content)

    with tracker, monkeypatch.context() as patch:
        patch.setattr(decouple.runs.tracking, "replace_file", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tracker._write_record({"separation": "full"}, 0, {})
    assert (tmp_path / "config.yaml").read_bytes() == (tmp_path / "config.1.yaml").read_bytes() == before


def test_the_commit_is_asked_of_the_folder_that_holds_the_package(monkeypatch):
    asked = []
    monkeypatch.setattr(decouple.runs.tracking, "_git", asked.append)
    decouple.runs.tracking._session()
    assert asked == [Path(decouple.__file__).resolve().parents[1]]


def test_the_commit_is_that_of_the_checkout_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "inside").mkdir()
    (tmp_path / "file.py").write_text("a = 1\n")
    assert decouple.runs.tracking._git(tmp_path) is None
    git("init")
    git("add", ".")
    git("commit", "--message", "one")
    assert decouple.runs.tracking._git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file.py").write_text("a = 2\n")
    assert decouple.runs.tracking._git(tmp_path)["dirty"] is True
    assert decouple.runs.tracking._git(tmp_path / "inside") is None  # an installed package in another project's folder


# ----------------------------------------------------------------------------------------------------- Weights & Biases


@pytest.mark.parametrize(("sweep", "expected"), [(None, "local"), ("", "local"), ("abc123", "wandb")])
def test_wandb_is_on_by_itself_under_a_sweep_agent_only(monkeypatch, sweep, expected):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    if sweep is not None:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    assert default_tracker() == expected


def test_a_missing_wandb_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-decouple\[sweeps\]'"):
        quiet(tmp_path / "run", tracker="wandb")
    assert not (tmp_path / "run").exists()


WANDB_RUN = """
import os, sys, time
from decouple.runs import tracking
from decouple.runs.tracking import Tracker
tracking.plot_curves = lambda folder: None  # which takes longer than the runs
config = {"separation": "late", "optimizer": {"lr": 0.0005}}
for resume in (None, 20):
    with Tracker(sys.argv[1], config, total_frames=30, tracker="wandb", resume_frames=resume) as tracker:
        for frames in (10, 20, 30):
            if frames > (resume or 0):
                tracker.log({"loss/policy": frames / 3}, frames)
    if resume is None:
        time.sleep(1.1)  # wandb names an offline run's folder by the second
assert "WANDB_MODE" not in os.environ, "the mode of one run must not become that of the process"

import wandb
from decouple.runs.loggers import default_tracker
wandb.teardown()  # it reads its variables once
os.environ |= {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agent1", "WANDB_PROJECT": "swept", "WANDB_MODE": "offline"}
with Tracker(sys.argv[2], config, total_frames=30, tracker=default_tracker(), mode="online", progress=False) as tracker:
    tracker.log({"loss/policy": 0.5}, 10)
"""


def offline_records(run):
    """The records of a W&B file of one block: 7 bytes of header, then for each its checksum, length, type and data."""
    from wandb.proto import wandb_internal_pb2

    data = run.read_bytes()
    assert data[:4] == b":W&B"
    assert len(data) < 32768, "a file of several blocks may split records over them"
    position = 7
    while position < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, position)
        assert kind == 1, "a whole record"
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[position + 7 : position + 7 + length])
        yield record
        position += 7 + length


@pytest.mark.filterwarnings("default")  # wandb's own, of reading its file
def test_an_offline_run_of_wandb_holds_metrics_and_settings(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "HOME": str(tmp_path)}  # no account to be found
    command = [sys.executable, "-c", WANDB_RUN, str(tmp_path / "run"), str(tmp_path / "agent")]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, result.stderr
    run_id = json.loads((tmp_path / "run" / "record.json").read_text())["wandb_id"]
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    histories = []
    for file in files:
        records = list(offline_records(file))
        (run,) = [record.run for record in records if record.HasField("run")]
        settings = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert settings["separation"] == "late"
        assert settings["optimizer"] == {"lr": 0.0005}
        assert (run.run_id, run.project, run.display_name) == (run_id, "decouple", "run")
        for record in (record for record in records if record.HasField("history")):
            row = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            histories.append((row["_step"], row["loss/policy"]))
    assert histories == [(10, 10 / 3), (20, 20 / 3), (30, 10.0), (30, 10.0)]  # a step logged again stays one step
    (file,) = (tmp_path / "agent" / "wandb").glob("offline-run-*/run-*.wandb")
    (run,) = [record.run for record in offline_records(file) if record.HasField("run")]
    assert (run.run_id, run.sweep_id, run.project) == ("agent1", "sweep1", "swept")  # the agent's, and its mode
    assert read_metrics(tmp_path / "run") == {"frames": [10.0, 20.0, 30.0], "loss/policy": [10 / 3, 20 / 3, 10.0]}


WANDB_FILM = """
import sys, time
from pathlib import Path
from PIL import Image
from decouple.runs.loggers import Tracking, log_film
from decouple.runs.tracking import Tracker
folder = Path(sys.argv[1])
with Tracker(folder, {"gamma": 0.9}, total_frames=20, tracker="wandb", progress=False) as tracker:
    tracker.log({"eval/return": 1.0}, 20)
Image.new("RGB", (8, 6)).save(folder / "watch.gif", save_all=True, append_images=[Image.new("RGB", (8, 6), "white")])
time.sleep(1.1)
log_film(folder, Tracking(tracker="wandb"), [folder / "watch.gif"], 20)
"""


@pytest.mark.slow  # two runs of W&B
@pytest.mark.filterwarnings("default")
def test_a_film_of_the_agent_goes_on_in_its_offline_run_of_wandb(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", WANDB_FILM, str(tmp_path / "run")]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, result.stderr
    run_id = json.loads((tmp_path / "run" / "record.json").read_text())["wandb_id"]
    first, second = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert first.name == second.name == f"run-{run_id}.wandb"  # by which `wandb sync` makes them one run
    (row,) = [record.history for record in offline_records(second) if record.HasField("history")]
    found = {tuple(item.nested_key): json.loads(item.value_json) for item in row.item}
    film = (tmp_path / "run" / "watch.gif").read_bytes()
    assert found["_step",] == 20
    assert (found[FILM, "_type"], found[FILM, "size"]) == ("video-file", len(film))
    assert (second.parent / "files" / found[FILM, "path"]).read_bytes() == film


# ---------------------------------------------------------------------------------------------------------- the curves


def drawn_panels(run_dir, monkeypatch):
    """The titles of the panels and the legends in them, while the picture is really drawn."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    path = plot_curves(run_dir)
    assert path == run_dir / "curves.png"
    picture = matplotlib.image.imread(path)
    assert picture.std() > 0
    (figure,) = figures
    return {axes.get_title(): axes for axes in figure.axes}, picture


ROLLOUT = {
    "train/episode_return": 3.0, "loss/policy": 0.01, "loss/value": 0.5, "train/entropy": 2.7,
    "train/clip_fraction": 0.1, "train/explained_variance": 0.5, "grad_norm/trunk": 0.4, "cut/policy_norm": 0.01,
    "cut/cosine": -0.2, "time/frames_per_second": 2000.0, "other/metric": 1.0,
}  # fmt: skip


def test_curves_have_a_panel_for_each_kind_of_metric_and_none_for_others(tmp_path, monkeypatch):
    with quiet(tmp_path) as tracker:
        for frames in (10, 20):
            tracker.log(ROLLOUT | ({"eval/test_return": 2.0, "eval/train_return": 4.0} if frames == 20 else {}), frames)
    panels, _ = drawn_panels(tmp_path, monkeypatch)
    assert list(panels) == [
        "Episode return", "Losses", "Entropy of the policy", "Clip fraction", "Explained variance of the value",
        "Gradient norms", "Gradients at the cut: direction", "Gradients at the cut", "Speed",
    ]  # fmt: skip
    legend = [text.get_text() for text in panels["Episode return"].get_legend().get_texts()]
    assert legend == ["train, while collecting", "test, evaluated", "train, evaluated"]
    assert panels["Episode return"].get_xlabel() == "environment frames"


def test_curves_without_evaluation(tmp_path, monkeypatch):
    with quiet(tmp_path) as tracker:
        tracker.log({"loss/q": 1.0}, 10)
        tracker.log({"loss/q": 1.0}, 20)
    panels, _ = drawn_panels(tmp_path, monkeypatch)
    assert list(panels) == ["Losses"]


def test_seeds_are_thin_lines_of_their_means_colour_and_only_the_mean_is_in_the_legend(tmp_path, monkeypatch):
    names = ("loss/critic", "loss/actor")
    with quiet(tmp_path) as tracker:
        for frames in (10, 20):
            tracker.log({f"{n}{seed}": 1.0 for n in names for seed in ("", "/seed0", "/seed1")}, frames)
    panels, _ = drawn_panels(tmp_path, monkeypatch)
    axes = panels["Losses"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["loss/critic, mean and each seed", "loss/actor, mean and each seed"]
    thick = [line for line in axes.lines if line.get_linewidth() > 1]
    assert [line.get_color() for line in thick] == ["C0", "C1"]
    assert sorted(line.get_color() for line in axes.lines if line.get_linewidth() < 1) == ["C0", "C0", "C1", "C1"]


@pytest.mark.parametrize("values", [(1e-9, 1e6), (-1e-9, 1e6), (-1e6, 1e-7), (-1e5, 1e5), (-1e-3, -1e2)])
def test_a_logarithmic_axis_has_few_ticks_and_returns_a_linear_one(tmp_path, monkeypatch, values):
    with quiet(tmp_path) as tracker:
        for frames in (10, 20):
            row = {f"{kind}{index}": value for kind in ("loss/l", "train/return") for index, value in enumerate(values)}
            tracker.log({name.replace("return0", "a_return").replace("return1", "return"): v for name, v in row.items()}
                        | {"loss/small": 1e-9}, frames)  # fmt: skip
    panels, _ = drawn_panels(tmp_path, monkeypatch)
    ticks = panels["Losses"].get_yticks()
    assert panels["Losses"].get_yscale() == "symlog" and 3 <= len(ticks) <= 10 and 0 in ticks
    assert [(ticks < 0).any(), (ticks > 0).any()] == [values[0] < 0, True]  # each side that has values
    assert not len(panels["Losses"].yaxis.get_minorticklocs())
    assert panels["Episode return"].get_yscale() == "linear"


def test_a_single_point_can_be_seen(tmp_path, monkeypatch):
    with quiet(tmp_path) as tracker:
        tracker.log({"loss/q": 1.0}, 10)
    panels, picture = drawn_panels(tmp_path, monkeypatch)
    axes = panels["Losses"]
    column, from_below = axes.transData.transform((10, 1.0)).astype(int)
    red, _, blue = picture[picture.shape[0] - 1 - from_below, column, :3]
    assert blue > red  # the first colour of the cycle


def test_evaluation_is_one_line_across_rows_without_it_and_what_is_not_finite_is_counted(tmp_path, monkeypatch):
    with quiet(tmp_path) as tracker:
        for frames in range(1, 31):
            evaluation = {"eval/test_return": float(frames)} if frames % 10 == 0 else {}
            tracker.log({"loss/value": math.nan if frames > 28 else 1.0} | evaluation, frames)
    panels, _ = drawn_panels(tmp_path, monkeypatch)
    assert panels["Episode return"].lines[0].get_xydata().tolist() == [[10, 10], [20, 20], [30, 30]]
    assert panels["Losses"].get_legend().get_texts()[0].get_text() == "loss/value (2 nan or inf)"


@pytest.mark.parametrize(
    "metrics", [{}, {"loss/a": 0.0, "loss/b": -1e-9, "loss/c": 1e9}, {"loss/a": math.inf}, {"loss/a": 1e308}]
)
def test_any_table_can_be_drawn(tmp_path, metrics, with_curves):
    with quiet(tmp_path) as tracker:
        assert plot_curves(tmp_path).stat().st_size > 1000
        tracker.log(metrics, 0)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_drawing_takes_no_more_than_a_fiftieth_of_the_time(tmp_path, monkeypatch):
    clock, drawn = [100.0], []

    def draw(run_dir):  # takes two seconds
        clock[0] += 2.0
        drawn.append(clock[0])
        (run_dir / "curves.png").touch()
        return run_dir / "curves.png"

    monkeypatch.setattr("decouple.runs.tracking.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("decouple.runs.tracking.plot_curves", draw)
    with quiet(tmp_path) as tracker:
        for moment in (100.0, 109.0, 111.0, 201.0, 214.0, 250.0):
            clock[0] = moment
            assert tracker.plot() == tmp_path / "curves.png"
        assert drawn == [113.0, 216.0]  # none in the first ten seconds; the next one is due after 113 + 50 * 2
    assert len(drawn) == 3  # and at the end in any case


# -------------------------------------------------------------------------------------------------------- the progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(decouple.runs.progress.time, "monotonic", lambda: self.now)


def test_progress_in_a_log_file_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with quiet(tmp_path, total_frames=25_000_000, progress=True) as tracker:
        for second in (4, 8, 15, 20):
            clock.now = 100.0 + second
            tracker.log({"train/episode_return": second / 4} | ({"eval/test_return": 0.5} if second == 8 else {}),
                        frames=1000 * second)  # fmt: skip
        clock.now = 25_100.0
        tracker.log({}, frames=25_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "4,000 / 25,000,000 frames (0.0 %), 1,000 frames/s, 6:56:36 left, train 1",
        "15,000 / 25,000,000 frames (0.1 %), 1,000 frames/s, 6:56:25 left, train 3.75, test 0.5",
        "25,000,000 / 25,000,000 frames (100.0 %), 1,000 frames/s, 00:00 left, train 5, test 0.5",
    ]


def test_speed_of_a_resumed_run_counts_its_own_frames(tmp_path, capsys, monkeypatch):
    with quiet(tmp_path, total_frames=1000) as tracker:
        tracker.log({}, 500)
    clock = Clock(monkeypatch)
    with quiet(tmp_path, total_frames=1000, progress=True, resume_frames=500) as tracker:
        clock.now += 10.0
        tracker.log({}, 600)
    assert capsys.readouterr().err == "600 / 1,000 frames (60.0 %), 10 frames/s, 00:40 left\n"


def test_time_left_is_as_expected_until_frames_at_the_final_speed_are_done(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with quiet(tmp_path, total_frames=20_000, progress=True, quick_frames=1000) as tracker:
        clock.now += 2.0
        tracker.log({}, 500)  # before the first update, 250 frames/s
        tracker.expect(3900.0)
        for frames, seconds in ((1000, 12.0), (1200, 22.0)):
            clock.now = 100.0 + seconds
            tracker.log({}, frames)
    assert capsys.readouterr().err.splitlines() == [
        "500 / 20,000 frames (2.5 %)",
        "about 1:05:00 for 19,500 frames, 5 frames/s, without evaluations",
        "1,000 / 20,000 frames (5.0 %), 1:03:20 left",
        "1,200 / 20,000 frames (6.0 %), 20 frames/s, 15:40 left",
    ]


def test_what_comes_once_counts_in_no_speed(tmp_path, capsys, monkeypatch):
    """As the compiling of kernels: 30 s of the first 40."""
    clock, once = Clock(monkeypatch), [7.0]
    with quiet(tmp_path, total_frames=1000, progress=True, not_counted=lambda: once[0]) as tracker:
        clock.now, once[0] = 140.0, 37.0
        tracker.log({}, 100)
    assert capsys.readouterr().err == "100 / 1,000 frames (10.0 %), 10 frames/s, 01:30 left\n"
    with pytest.raises(ValueError, match="not_counted must be a function, or None; got 3"):
        quiet(tmp_path / "other", not_counted=3)


def test_progress_in_a_terminal_is_a_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    once = [0.0]
    with quiet(tmp_path, progress=True, not_counted=lambda: once[0]) as tracker:
        began, once[0] = tracker._progress._bar.start_t, 1000.0
        tracker.expect(90.0)
        tracker.peak_share(0.4136)
        tracker.faster({"torch_threads=2": 1.66, "precision=bf16": 1.21})
        tracker.faster({})
        tracker.log({"train/episode_return": 3.25, "eval/test_return": 2.0}, 500)
        assert tracker._progress._bar.start_t == began + 1000.0
        tracker.log({"train/episode_return": 3.5}, 1008)  # the last rollout may pass the total
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert "100%" in last
    assert "train=3.5" in last
    assert "test=2" in last
    assert "about 01:30 for 1,000 frames, 11 frames/s, without evaluations\n" in terminal.getvalue()
    assert "that is 41 % of what this machine's matrix products reach, measured now\n" in terminal.getvalue()
    assert "faster on this machine: torch_threads=2 (1.7 times), precision=bf16 (1.2 times)\n" in terminal.getvalue()


def test_no_progress_is_silent(tmp_path, capsys):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 1.0}, 1000)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------------- imports


def test_importing_tracking_brings_no_tracker_and_no_plotting():
    program = "import sys, decouple.runs.tracking; print(*(sys.modules.keys() & {'wandb', 'hydra', 'matplotlib'}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
    assert Path(decouple.runs.tracking.__file__).is_file()


# ---------------------------------------------------------------------------------------------- a run that is damaged


@pytest.mark.parametrize("what", [what for what in DAMAGES if "result" not in what])
def test_a_damaged_run_is_refused_by_file_before_anything_is_written(tmp_path, what):
    with quiet(tmp_path) as tracker:
        tracker.log({"a": 1.0, "b": 2.0}, 10)
        tracker.log({"a": 3.0, "b": 4.0}, 20)
    file = damage(tmp_path, what)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match="cannot go on: put back a whole copy of that file, or begin the run anew with restart=true"
    ) as error:
        quiet(tmp_path, resume_frames=20)
    assert str(error.value).startswith(str(file))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
