"""Tracking of a run: metrics go into files in its folder, to other loggers if asked for, and to a progress bar.

    with Tracker("runs/one", settings, total_frames=25_000_000) as tracker:
        tracker.log({"train/episode_return": 3.5, "loss/policy": 0.01}, frames=16_384)
        tracker.plot()

The folder holds `config.yaml` (the resolved settings), `record.json` (versions, commit, command line: one entry in
"sessions" for each start of the run), `metrics.csv` (a row per `log`, flushed at once), `curves.png` (drawn from the
table alone) and `result.json` (the results given to `summarise`). Local and offline runs need no account and never
ask for one.

While a tracker is open no other process can work in the folder (`decouple.runs.locks`). An interrupted run resumes with
`resume_frames`, the frames of its last checkpoint: later rows are dropped and logged again. The finished table equals
that of an unbroken run, bit for bit, but for the time columns.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import yaml

from decouple.checks import INT32_MAX, TEXTS_BY_NAME, check_setting, check_switches, shown
from decouple.runs.curves import plot_curves
from decouple.runs.files import json_bytes, read_json, replace_file
from decouple.runs.locks import FileLock, lock_folder
from decouple.runs.loggers import Loggers, require_packages, tracker_names
from decouple.runs.metrics import MetricsTable, check_run_files
from decouple.runs.progress import RunProgress
from decouple.version import VERSION

__all__ = ["Tracker"]

_PACKAGES = ("torch", "torchrl", "tensordict", "numpy")


class Tracker:
    """Writes a run's metrics to the disk as they come; a context manager, or call `close` at the end.

    Args:
        run_dir: the run's own folder, made where it is missing.
        config: the resolved settings: numbers, strings, booleans, None and lists and mappings of them.
        total_frames: environment frames of the whole run.
        tracker: "local" for files alone; beside them "csv", "tensorboard", "wandb" or "mlflow" for TorchRL's loggers
            (`decouple.runs.loggers`), or several names in a list.
        mode: W&B's mode: "offline" writes under `run_dir` (`wandb sync` uploads it later), "online" needs an account.
            Under a sweep agent W&B's environment variables replace mode, project and run.
        project, entity, group, tags, notes, name: the run's place and name in W&B; in MLflow the project is the
            experiment, and there is no entity. Default name: that of the folder.
        progress: show progress on stderr: a bar in a terminal, else a line at most every 10 s.
        quick_frames: frames at the run's start that say nothing of the others' speed, for the time left; 0 if none.
        resume_frames: None for a new run; else the frames of the checkpoint from which the run resumes. Rows with more
            frames are dropped. 0 starts over in the same folder. Log before you save a checkpoint, so that the row of
            its frames is there.
        facts: further entries in the record of this session, such as the environment package and its version.
        lock: lock of `run_dir` that the caller holds (`lock_folder`); None: the tracker holds one until it is closed.

    Raises:
        ValueError, TypeError: an argument is not as above, or metrics.csv, record.json or config.yaml of a run to
            resume is damaged; the message names the file, and nothing is written.
        FileExistsError: a new run in a folder that holds one.
        FileNotFoundError: a run to resume in a folder that holds none.
        FolderInUseError: another process works in the folder.
        ImportError: a logger without its package; the message has the command that installs it.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        total_frames: int,
        tracker: str | Sequence[str] = "local",
        mode: Literal["offline", "online"] = "offline",
        project: str = "decouple",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        name: str | None = None,
        progress: bool = True,
        quick_frames: int = 0,
        resume_frames: int | None = None,
        facts: Mapping[str, str] | None = None,
        lock: FileLock | None = None,
    ) -> None:
        names = tracker_names(tracker)
        _check_choice("mode", mode, ("offline", "online"))
        _check_count("total_frames", total_frames, at_least=1)
        _check_count("quick_frames", quick_frames, at_least=0)
        _check_mappings(config, facts)
        about: dict[str, Any] = {"project": project, "entity": entity, "group": group, "notes": notes, "name": name}
        _check_about(about, tags)
        check_switches(progress=progress)
        check_setting("run_dir", run_dir, lambda v: isinstance(v, str | os.PathLike), "a path")
        check_setting("lock", lock, lambda v: v is None or isinstance(v, FileLock), "from lock_folder, or None")
        if resume_frames is not None:
            _check_count("resume_frames", resume_frames, at_least=0)
        plain_config = _plain(config, "config")
        self.run_dir = Path(run_dir)
        self._frames = int(resume_frames or 0)
        self._closed = False
        self._plot_again = time.monotonic() + 10  # time of the next plot, on the monotonic clock
        _check_resume(resume_frames, self.run_dir)
        if resume_frames is not None:
            check_run_files(self.run_dir)
        require_packages(names)
        about |= {"tags": tags, "mode": mode, "name": name or self.run_dir.resolve().name}
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.run_dir) if lock is None else None  # the tracker frees only its own lock
        try:
            self._begin(plain_config, resume_frames, dict(facts or {}), names, about)
        except BaseException:
            self._let_go()
            raise
        self._progress = RunProgress(total_frames, self._frames, quick_frames) if progress else None

    def _begin(
        self, config: Any, resume_frames: int | None, facts: dict[str, str], names: list[str], about: dict[str, Any]
    ) -> None:
        """Open the table, write the record, and begin or resume the other loggers' runs."""
        _check_resume(resume_frames, self.run_dir)  # again, now that no other process works in the folder
        self._table = MetricsTable(self.run_dir / "metrics.csv", resume_frames)
        try:
            record = self._write_record(config, resume_frames, facts)
            ids = {name: record.get(name) for name in ("wandb_id", "mlflow_id")}
            self._loggers = Loggers(names, self.run_dir, config, resume_frames=resume_frames, ids=ids, **about)
            if self._loggers.ids:
                record |= self._loggers.ids
                replace_file(self.run_dir / "record.json", json_bytes(record))
        except BaseException:
            self._table.close()
            raise

    def log(self, metrics: Mapping[str, float], frames: int) -> None:
        """Write one row: the metrics at `frames` environment frames since the run began.

        Args:
            metrics: name -> number (Python, NumPy, or a tensor of one element). Rows may have different names, and a
                new name may come at any time. Numbers that are not finite are written as nan, inf or -inf.
            frames: environment frames so far, at least those of the row before.

        Raises:
            ValueError, TypeError: a name or a value that a table cannot hold; nothing is written.
            RuntimeError: the tracker is closed.
        """
        if self._closed:
            raise RuntimeError(f"the tracker of {self.run_dir} is closed; open it again with resume_frames")
        _check_count("frames", frames, at_least=self._frames)
        check_setting("metrics", metrics, lambda v: isinstance(v, Mapping), "a mapping of names to numbers")
        row = {_metric_name(key): _metric_value(key, value) for key, value in metrics.items()}
        self._table.append(int(frames), row)
        self._frames = int(frames)
        self._loggers.log(row, self._frames)
        if self._progress is not None:
            self._progress.update(self._frames, row)

    def expect(self, seconds: float) -> None:
        """Show an estimate of the seconds that the frames left will take, where progress is shown."""
        if self._progress is not None:
            self._progress.expect(seconds)

    def peak_share(self, share: float) -> None:
        """Show the share of what the processor's matrix products reach, where progress is shown."""
        if self._progress is not None:
            self._progress.peak_share(share)

    def faster(self, settings: Mapping[str, float]) -> None:
        """Show settings that would be faster on this machine, and how many times, where progress is shown."""
        if self._progress is not None:
            self._progress.faster(settings)

    def marks(self) -> dict[str, str]:
        """Checksums of the run's files for a checkpoint, by which `frames_to_resume` checks them."""
        return {"table": self._table.sum()}

    def plot(self) -> Path:
        """Redraw `curves.png`, but skip this when plotting would take more than 1/50 of the time; `close` never skips.

        A plot takes from some tenths of a second to some seconds, depending on the numbers of metrics and seeds. There
        is none in a run's first ten seconds.
        """
        path, start = self.run_dir / "curves.png", time.monotonic()
        if start > self._plot_again:
            path = plot_curves(self.run_dir)
            self._plot_again = time.monotonic() + 50 * (time.monotonic() - start)
        return path

    def summarise(self, result: Mapping[str, float | None], *, failed: Mapping[str, str] | None = None) -> None:
        """Write the run's final results: `result.json`, with the frames so far, and in the other loggers.

        Args:
            result: name -> number; None and numbers that are not finite are written as null.
            failed: name of each failed agent, as `seed1`, -> the reason; written under `failed`.
        """
        if failed is not None:
            check_setting("failed", failed, TEXTS_BY_NAME)
        check_setting("result", result, lambda v: isinstance(v, Mapping), "a mapping of names to numbers")
        row: dict[str, Any] = {}
        for key, value in result.items():
            number = math.nan if value is None else _metric_value(key, value)
            row[_metric_name(key)] = number if math.isfinite(number) else None  # JSON has no nan
        if failed:
            row["failed"] = dict(failed)
        replace_file(self.run_dir / "result.json", json_bytes({"frames": self._frames, **row}))
        self._loggers.summarise(row, self._frames)

    def close(self, *, failed: bool = False, draw: bool = True) -> None:
        """Draw the curves a last time and end the bar and the loggers' runs; a second call does nothing.

        Args:
            failed: mark the run of W&B and MLflow as failed.
            draw: draw the curves. An interrupted `with` does not, so as to end soon; the resumed run will.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._table.close()
            if self._progress is not None:
                self._progress.close()
            if draw:
                plot_curves(self.run_dir)
        finally:
            self._let_go()
            self._loggers.close(failed=failed)

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None, draw=kind is None or issubclass(kind, Exception))

    def _write_record(self, config: Any, resume_frames: int | None, facts: dict[str, str]) -> dict[str, Any]:
        """Write config.yaml and record.json; different settings of an earlier session are kept as config.<n>.yaml."""
        record_file, config_file = self.run_dir / "record.json", self.run_dir / "config.yaml"
        record = {"wandb_id": None, "sessions": []}
        if resume_frames is not None:
            record |= read_json(record_file)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
        before = config_file.read_bytes() if config_file.exists() else text
        if before != text:
            replace_file(self.run_dir / f"config.{len(record['sessions'])}.yaml", before)
        replace_file(config_file, text)
        record["sessions"].append({**_session(), "resume_frames": resume_frames, "facts": facts})
        replace_file(record_file, json_bytes(record))
        return record


# -------------------------------------------------------------------------------------------------------- input checks


def _check_about(about: Mapping[str, Any], tags: Any) -> None:
    """Check what a run says about itself to other loggers; ValueError naming the argument."""
    for label, text in about.items():
        check_setting(label, text, lambda v: v is None or isinstance(v, str), "a string or None")
    check_setting("project", about["project"], lambda v: isinstance(v, str), "a string")
    strings = isinstance(tags, list | tuple) and all(isinstance(tag, str) for tag in tags)
    check_setting("tags", tags, lambda _: strings, "a list of strings")


def _check_choice(argument: str, value: str, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{argument} must be one of {list(allowed)}; got {value!r}")


def _check_count(argument: str, value: int, *, at_least: int) -> None:
    array = hasattr(value, "__len__")  # NumPy's integers have none
    if isinstance(value, bool | type) or not isinstance(value, SupportsIndex) or array:
        raise TypeError(f"{argument} must be a whole number of frames; got {value!r}")
    if not at_least <= value <= INT32_MAX:
        bound = f"at least {at_least}" if value < at_least else f"at most {INT32_MAX:,}"
        raise ValueError(f"{argument} must be {bound}; got {value}")


def _check_mappings(config: Any, facts: Any) -> None:
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(f"config must be a mapping of settings by name; got {shown(config)}")
    if facts is not None and not TEXTS_BY_NAME.allowed(facts):
        raise TypeError(f"facts must map strings to strings; got {facts!r}")


def _check_resume(resume_frames: int | None, run_dir: Path) -> None:
    table = run_dir / "metrics.csv"
    if resume_frames is None and table.exists():
        advice = "choose another folder, or pass resume_frames to go on with it (0: to start it over)"
        raise FileExistsError(f"run_dir must not hold a run already, and {table} exists; {advice}")
    if resume_frames and not table.exists():
        raise FileNotFoundError(f"resume_frames={resume_frames} needs a run to go on with, and there is no {table}")


def _metric_name(name: str) -> str:
    if not isinstance(name, str) or not name or not name.isprintable() or name == "frames":
        raise ValueError(f"a metric's name must be printable text other than 'frames'; got {name!r}")
    return name


def _metric_value(name: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError("text is no number")
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"metric {name!r} must be one number; got {value!r}") from error


def _plain(value: Any, where: str) -> Any:
    """`value` in the types of YAML and JSON: dicts with text as keys, lists, numbers, text and None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) not in (bool, int, float, str, type(None)):
        allowed = "a number, text, a boolean, None, or a list or mapping of those"
        raise TypeError(f"{where} must be {allowed}; got {type(value).__name__}")
    return value


# ----------------------------------------------------------------------------------------------------------- the record


def _session() -> dict[str, Any]:
    """The facts about this process: versions, machine, commit and command line."""
    return {
        "started_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {"decouple": VERSION, **{name: _version(name) for name in _PACKAGES}},
        "git": _git(Path(__file__).resolve().parents[2]),
    }


def _version(package: str) -> str | None:
    """The installed version; None where the package runs from a folder that was never installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(checkout: Path) -> dict[str, Any] | None:
    """The commit of `checkout`, and whether files differ from it; None if it is not a repository's top folder."""

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if Path(ask("rev-parse", "--show-toplevel")).resolve() != checkout:  # installed into another project's folder
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
