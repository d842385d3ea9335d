"""Every point of separation on a task, with an algorithm: each k trained with all seeds, recorded, and kept.

    settings = PPOControl(env="CartPole-v1", actor=[64, 64], critic=[64, 64], seeds=6, run_dir="runs/separation")
    configs = train_points(settings, TaskStudy())       # one for each k, from 0 to 2
    page, answer = task_report(configs, TaskStudy())    # decouple.studies.any_task.report

Each k is a run as `experiments/control.py` makes it, all its seeds as one batch; results go to `cells.sqlite` in
`run_dir`, which any number of these studies, and of processes, may share. Started again, after a kill or with more
seeds, it trains what is missing. As a command: experiments/separation.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from decouple.checks import at_least, check_fields, check_setting, checked, distinct
from decouple.studies.actor_size.algorithms import algorithm_of, control_identity, make_model
from decouple.studies.actor_size.build import make_small_env, sharable_blocks
from decouple.studies.actor_size.engines import WorkerSettings
from decouple.studies.actor_size.settings import NOT_IDENTITY, ControlSettings, sizes_name
from decouple.studies.actor_size.smallest_actor import SearchProgress, is_trained
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.workers import train_cells

__all__ = ["TaskStudy", "depth_of", "points_of", "report_folder", "store_of", "train_points"]


@dataclass
class TaskStudy(WorkerSettings):
    """Settings of the study: its points of separation, its page, and its workers.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    points: list[int] | None = None  # k of the points to train; None: all, from 0 to the smaller network's blocks
    train: bool = True  # false: only write the page, of what is trained
    out: str | None = None  # folder of the page; None: report, beside the runs
    repetitions: int = 5_000  # resamples of the seeds for each interval
    window: int = 3  # evaluations averaged in a point of a learning curve: its own and those before
    strip_frames: int = 8  # frames of an episode that the page shows of each point; 0: none

    def __post_init__(self) -> None:
        check_fields(
            self,
            "study.",
            points=distinct(at_least(0)),
            repetitions=at_least(1),
            window=at_least(1),
            strip_frames=at_least(0),
        )
        self.check_workers("study.")


@checked()
def depth_of(settings: ControlSettings) -> int:
    """The largest k: blocks that read pictures, where there are any, and the hidden layers of the smaller network."""
    if not settings.may_have_pictures:
        return min(len(settings.actor), len(settings.critic))
    with contextlib.closing(make_small_env(settings)) as env:
        return sharable_blocks(settings, env)


@checked()
def points_of(settings: ControlSettings, options: TaskStudy) -> list[ControlSettings]:
    """The settings of each point of separation, by rising k.

    Raises:
        ValueError: a separation of its own, which the study varies; or a point beyond the smaller network, or one
            that the algorithm does not have.
    """
    depth = depth_of(settings)
    chooses = "left out: every k is trained, and study.points=[0,2] chooses some"
    check_setting("separation", settings.separation, lambda k: k == "full", chooses)
    says = f"whole numbers in [0, {depth}], the blocks of the smaller network"
    check_setting("study.points", options.points, lambda ks: all(k <= depth for k in ks or ()), says)
    points = range(depth + 1) if options.points is None else sorted(options.points)
    at_0 = settings.algorithm != "trpo" or [*points] == [0]
    check_setting("study.points", options.points, lambda _: at_0, "[0] for trpo, whose networks share nothing")
    return [dataclasses.replace(settings, separation=k) for k in points]


@checked()
def store_of(settings: ControlSettings, options: TaskStudy) -> CellStore:
    """The store of the study's results, made where it is missing and something is to be trained.

    Raises:
        FileNotFoundError: it is missing, and nothing is to be trained.
    """
    path = Path(settings.run_dir) / "cells.sqlite"
    if not options.train and not path.exists():
        raise FileNotFoundError(f"{path} is not there: no study has run in {settings.run_dir}")
    return CellStore(path, lease=options.lease)


@checked()
def report_folder(settings: ControlSettings, options: TaskStudy) -> Path:
    """The folder of the page."""
    return Path(options.out or Path(settings.run_dir) / _folder(settings) / "report")


@checked()
def train_points(settings: ControlSettings, options: TaskStudy) -> list[ControlSettings]:
    """Train every point's seeds that the store lacks; returns the settings of each point.

    Raises:
        ValueError: settings that the task or the algorithm does not allow, before anything is written.
        CellError: a point could not be trained; raised once all others are done.
    """
    configs = points_of(settings, options)
    with contextlib.closing(make_small_env(settings)) as env:
        for config in configs:
            algorithm_of(config).make_agents(dataclasses.replace(config, seeds=1), [make_model(config, env)])
    store = store_of(settings, options)
    progress = SearchProgress(settings, options.parallel, lambda config: f"k = {config.separation}")
    progress.begin(sum(not is_trained(store, config) for config in configs))
    watch = progress.watch if settings.show_progress else lambda config: None
    with options.start() as train, contextlib.closing(progress):
        train_cells(configs, store, train, parallel=options.parallel, watch=watch, folder=_point_folder)
    return configs


def _folder(settings: ControlSettings) -> str:
    """Folder of the study, relative to the store's: readable, and different for other settings."""
    apart = {"separation", "seed", "seeds"}
    whole = dataclasses.replace(settings, separation="full")  # some rules hold for shared networks alone
    identity = control_identity(whole, NOT_IDENTITY - {"total_frames", "final_episodes"} | apart)
    hashed = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    sizes = f"{sizes_name(settings.actor)}-{sizes_name(settings.critic)}"
    return f"{settings.env.replace('/', '_')}/{settings.algorithm}/{sizes}_{hashed}"


def _point_folder(config: ControlSettings) -> str:
    return f"{_folder(config)}/k{config.separation}"
