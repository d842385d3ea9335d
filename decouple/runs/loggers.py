"""TorchRL's loggers beside a run's own files: CSV, TensorBoard, Weights & Biases, MLflow, any of them at once.

    loggers = Loggers(["csv", "tensorboard"], "runs/one", settings, project="decouple", group="pendulum")
    loggers.log({"eval/return": -150.0}, 10_000)
    loggers.close()

A run that goes on from frame F goes on in each of them: rows after F are dropped from the CSV files, hidden by
TensorBoard, and replaced by W&B and MLflow, which keep to the run of before.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from decouple.checks import check_fields, check_setting, one_of
from decouple.runs.files import read_json, read_yaml, replace_file

__all__ = [
    "FILM",
    "OF_THE_RECORD",
    "TRACKERS",
    "Loggers",
    "Tracking",
    "default_tracker",
    "log_film",
    "require_packages",
    "tracker_names",
]

TRACKERS = ("local", "csv", "tensorboard", "wandb", "mlflow")
FILM = "video/agent"  # name of an agent's film in W&B and TensorBoard
EXTRAS = {"tensorboard": "tensorboard", "wandb": "sweeps", "mlflow": "mlflow"}  # package -> this package's extra


def default_tracker() -> str:
    """The tracker for this process: "wandb" if a W&B sweep agent started it (WANDB_SWEEP_ID is set), else "local"."""
    return "wandb" if os.environ.get("WANDB_SWEEP_ID") else "local"


def tracker_names(tracker: str | Sequence[str]) -> list[str]:
    """The names in `tracker`, one or several; ValueError for others."""
    names = [tracker] if isinstance(tracker, str) else list(tracker) if isinstance(tracker, Sequence) else [tracker]
    known = all(isinstance(name, str) and name in TRACKERS for name in names)
    check_setting("tracker", tracker, lambda _: known and names, f"one or several of {', '.join(TRACKERS)}")
    return list(dict.fromkeys(names))


@dataclass
class Tracking:
    """Settings of a run's record beside its own files."""

    tracker: Any = None  # local, csv, tensorboard, wandb, mlflow, or several; None: wandb under a W&B agent, else local
    mode: str = "offline"  # wandb's mode: offline or online
    project: str = "decouple"  # project of W&B, experiment of MLflow
    entity: str | None = None  # team or user of W&B; None: the account's default
    group: str | None = None  # group of the run in W&B and MLflow; None: named by the task and what is compared on it
    tags: list[str] = field(default_factory=list)  # tags of the run in W&B and MLflow
    notes: str | None = None  # notes on the run, for W&B, MLflow and TensorBoard

    def __post_init__(self) -> None:
        check_fields(self, mode=one_of("offline", "online"))
        if self.tracker is not None:
            tracker_names(self.tracker)
        check_setting("project", self.project, lambda v: v.strip(), "a name")

    def options(self, group: str) -> dict[str, Any]:
        """The arguments of `Tracker`, with the group where none is set."""
        return {**vars(self), "tracker": self.tracker or default_tracker(), "group": self.group or group}


OF_THE_RECORD = tuple(Tracking.__dataclass_fields__)  # names of these settings


class Loggers:
    """The loggers of one run.

    Args:
        names: any of `TRACKERS`.
        run_dir: the run's folder.
        config: the run's settings, in the types of YAML.
        resume_frames: frames from which the run goes on; None or 0: it begins.
        ids: the runs of W&B and MLflow to go on with, from `ids` of the session before.
        name, project, entity, group, tags, notes, mode: as for `Tracker`.

    Attributes:
        ids: `wandb_id` and `mlflow_id`, where there are such runs.

    Raises:
        ImportError: a package is missing; the message has the command that installs it.
    """

    def __init__(
        self,
        names: Sequence[str],
        run_dir: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        name: str = "run",
        project: str = "decouple",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        mode: str = "offline",
        resume_frames: int | None = None,
        ids: Mapping[str, str | None] | None = None,
    ):
        self.run_dir, self.config, self.resume_frames = Path(run_dir), dict(config), resume_frames or 0
        self.about = {"name": name, "project": project, "entity": entity, "group": group, "tags": list(tags)}
        self.about |= {"notes": notes, "mode": mode}
        self.before, self.ids = dict(ids or {}), {}
        require_packages(names)
        self._made: dict[str, Any] = {}
        make: dict[str, Callable[[], Any]] = {
            "csv": self._csv,
            "tensorboard": self._tensorboard,
            "wandb": self._wandb,
            "mlflow": self._mlflow,
        }
        try:
            for each in names:
                if each in make:
                    self._made[each] = make[each]()
        except BaseException:
            self.close(failed=True)
            raise

    def log(self, row: Mapping[str, float], frames: int) -> None:
        """Write one row of metrics in each logger."""
        for name, logger in self._made.items():
            options = {"override_global_step": True} if name == "wandb" else {}
            logger.log_metrics(dict(row), step=frames, **options)

    def summarise(self, row: Mapping[str, Any], frames: int) -> None:
        """Write the run's results: in W&B's summary, elsewhere as metrics of the last frame."""
        numbers = {name: value for name, value in row.items() if isinstance(value, float | int)}
        for name, logger in self._made.items():
            if name == "wandb":
                logger.experiment.summary.update(dict(row))
            else:
                logger.log_metrics(numbers, step=frames)

    def film(self, files: Sequence[Path], frames: int) -> None:
        """Give the films of an agent to TensorBoard (the GIF), W&B (the MP4, else the GIF) and MLflow (all files).

        The files are taken as they are. `log_video` of TorchRL's loggers would encode the frames a second time, by
        moviepy, of which TensorBoard needs version 1 and W&B takes version 2.
        """
        by_ending = {file.suffix: file for file in files}
        for name, logger in self._made.items():
            if name == "wandb":
                file = by_ending.get(".mp4") or files[0]
                video = importlib.import_module("wandb").Video(str(file), format=file.suffix.removeprefix("."))
                logger.experiment.log({FILM: video}, step=frames)
            elif name == "tensorboard" and ".gif" in by_ending:
                logger.experiment.file_writer.add_summary(_gif_summary(by_ending[".gif"]), frames)
            elif name == "mlflow":
                for file in files:
                    importlib.import_module("mlflow").log_artifact(str(file), "videos")

    def close(self, *, failed: bool = False) -> None:
        """End each logger's run; W&B and MLflow mark it as failed where it has."""
        made, self._made = self._made, {}
        for name, logger in made.items():
            if name == "wandb":
                logger.experiment.finish(exit_code=int(failed))
            elif name == "mlflow":
                importlib.import_module("mlflow").end_run("FAILED" if failed else "FINISHED")
            elif name == "tensorboard":
                logger.experiment.close()
            else:
                for file in logger.experiment.files.values():
                    file.close()

    def _csv(self) -> Any:
        from torchrl.record.loggers.csv import CSVLogger

        folder = self.run_dir / "csv"
        if not self.resume_frames:
            shutil.rmtree(folder, ignore_errors=True)
        for file in (folder / "scalars").rglob("*.csv"):
            kept = [line for line in file.read_text().splitlines(True) if _frames(line) <= self.resume_frames]
            replace_file(file, "".join(kept).encode())
        return CSVLogger("csv", str(self.run_dir))

    def _tensorboard(self) -> Any:
        from torchrl.record.loggers.tensorboard import TensorboardLogger

        logger = TensorboardLogger("tensorboard", str(self.run_dir))
        if len(list((self.run_dir / "tensorboard").glob("events.*"))) > 1:
            # Hides the rows of a session before that come again, as SummaryWriter(purge_step=...) does.
            proto = importlib.import_module("tensorboard.compat.proto.event_pb2")
            start, step = proto.SessionLog(status=proto.SessionLog.START), self.resume_frames + 1
            logger.experiment.file_writer.add_event(proto.Event(step=step, file_version="brain.Event:2"))
            logger.experiment.file_writer.add_event(proto.Event(step=step, session_log=start))
        about = {key: value for key, value in self.about.items() if value and key != "mode"}
        text = yaml.safe_dump({**about, "settings": self.config}, sort_keys=False, allow_unicode=True)
        logger.experiment.add_text("run", f"```\n{text}```", global_step=self.resume_frames)
        return logger

    def _wandb(self) -> Any:
        from torchrl.record.loggers.wandb import WandbLogger

        about, run_id = self.about, self.before.get("wandb_id")
        if default_tracker() == "wandb":  # the agent's variables name the project, the run and the mode
            about, run_id = {**about, "project": None, "entity": None, "mode": None}, None
        logger = WandbLogger(
            exp_name=about["name"],
            save_dir=str(self.run_dir),
            id=run_id,
            project=about["project"],
            log_env_packages=False,  # would log every installed package with its local path; record.json has versions
            mode=about["mode"],  # not `offline=`, which would leave WANDB_MODE set for the rest of the process
            entity=about["entity"],
            group=about["group"],
            tags=about["tags"] or None,
            notes=about["notes"],
            config=self.config,
            allow_val_change=True,
        )
        self.ids["wandb_id"] = logger.experiment.id
        return logger

    def _mlflow(self) -> Any:
        import mlflow
        from torchrl.record.loggers.mlflow import MLFlowLogger

        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self.run_dir / 'mlflow.db').resolve()}"
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (self.run_dir / "mlflow").resolve().as_uri()
        with _variable("MLFLOW_RUN_ID", self.before.get("mlflow_id")):  # the run that `start_run` goes on with
            logger = MLFlowLogger(self.about["project"], where, artifact_location=own)
        self.ids["mlflow_id"] = logger.experiment.info.run_id
        tags = {"mlflow.runName": self.about["name"], "mlflow.note.content": self.about["notes"]}
        tags |= {"group": self.about["group"], "tags": ", ".join(self.about["tags"])}
        mlflow.set_tags({key: value for key, value in tags.items() if value})
        if not self.before.get("mlflow_id"):  # MLflow refuses a parameter that changes
            mlflow.log_params({key: json.dumps(value)[:6000] for key, value in self.config.items()})
        return logger


def log_film(run_dir: str | os.PathLike[str], tracked: Tracking, files: Sequence[Path], frames: int) -> None:
    """Give the films of a finished run's agent to its loggers; those of W&B and MLflow go on with the run's own.

    Args:
        run_dir: the run's folder.
        tracked: the run's loggers.
        files: GIF, MP4 or both.
        frames: the run's frames.
    """
    folder = Path(run_dir)
    about = tracked.options(group="")
    names = [name for name in tracker_names(about.pop("tracker")) if name in ("tensorboard", "wandb", "mlflow")]
    if not names or not files:
        return
    record = read_json(folder / "record.json")
    ids = {name: record.get(name) for name in ("wandb_id", "mlflow_id")}
    about |= {"name": folder.resolve().name, "group": about["group"] or None}
    loggers = Loggers(names, folder, read_yaml(folder / "config.yaml"), resume_frames=frames, ids=ids, **about)
    try:
        loggers.film(list(files), frames)
    finally:
        loggers.close()


def _gif_summary(path: Path) -> Any:
    """TensorBoard's summary of a GIF, as `SummaryWriter.add_video` makes it."""
    proto = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 2], "little") for at in (6, 8))
    image = proto.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return proto.Summary(value=[proto.Summary.Value(tag=FILM, image=image)])


def require_packages(names: Sequence[str]) -> None:
    """Raise ImportError, with the command that installs it, for a package that these trackers need and that is not
    there."""
    for name, extra in EXTRAS.items():
        if name in names:
            try:
                importlib.import_module(name)
            except ImportError as error:
                says = f"tracker={name} needs the package {name}: pip install 'torchrl-decouple[{extra}]'"
                raise ImportError(says) from error


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable set to `value` for a while, or left as it is where that is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _frames(line: str) -> float:
    """The frames of a CSV line, `1000,0.5`; infinity where a killed run wrote half of it."""
    frames, _, value = line.partition(",")
    whole = frames.isdigit() and value.endswith("\n")
    return int(frames) if whole else math.inf
