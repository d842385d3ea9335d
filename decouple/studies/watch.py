"""An agent of a run of either study at play: GIF and MP4 of several episodes side by side.

    returns, files = watch(Watch(checkpoint="runs/control/halfcheetah/td3/actor64x64_critic64x64_kfull/seeds0_2"))

Drawn are Gymnasium's tasks, MuJoCo's among them, the games of this package, and Procgen as its agent sees it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import ExplorationType, set_exploration_type

from decouple.analysis.at_play import agent_at_play
from decouple.analysis.film import play, require_video, write_film
from decouple.checks import SEED, at_least, check_fields, check_setting, one_of
from decouple.networks.recurrence import with_memory
from decouple.runs.loggers import Tracking, log_film
from decouple.studies.actor_size.stage import UNDRAWN, pictured_env
from decouple.studies.distillation.sources import Source, read_source, task_settings
from decouple.studies.distillation.tasks import ProcgenTask
from decouple.studies.separation.experiment import make_env as make_procgen_env

__all__ = ["Watch", "watch", "watch_run"]

PROCGEN_FPS = 15  # the games' own speed


@dataclass
class Watch:
    """Settings of a film: the agent, its episodes and the files."""

    checkpoint: str | None = None  # a run's folder, or its checkpoint.pt; must be given
    seed: int | None = None  # seed of the agent, in a run with several; None: the best
    episodes: int = 4  # episodes side by side
    steps: int = 500  # most steps of an episode; a longer one is cut off
    first_seed: int = 0  # seed of the episodes: the same seed, the same episodes
    sample: bool | None = None  # sample actions; None: on Procgen, as its evaluations do; else the distribution's mode
    levels: str = "test"  # where there are levels: test for those of the tests, train for those of the run
    formats: list[str] | None = None  # gif, mp4, or both; None: gif, and mp4 where the package av is installed
    width: int = 160  # pixels of each episode's picture
    fps: int | None = None  # steps a second; None: the task's own
    output: str | None = None  # file without its ending; None: watch_seed<seed> in the run's folder

    def __post_init__(self) -> None:
        positive = {"episodes": at_least(1), "steps": at_least(1), "fps": at_least(1), "width": at_least(16)}
        check_fields(self, seed=at_least(0), first_seed=SEED, levels=one_of("test", "train"), **positive)
        check_setting("checkpoint", self.checkpoint, bool, "a run's folder, or its checkpoint")
        allowed = "gif, mp4, or both, in a list"
        if self.formats is not None:
            known = bool(self.formats) and all(each in ("gif", "mp4") for each in self.formats)
            check_setting("formats", self.formats, lambda _: known, allowed)

    def endings(self) -> list[str]:
        """The files' endings; ImportError where mp4 is asked for without the package av."""
        if self.formats is None:
            return ["gif", "mp4"] if importlib.util.find_spec("av") else ["gif"]
        if "mp4" in self.formats:
            require_video()
        return list(dict.fromkeys(self.formats))


def watch(config: Watch) -> tuple[list[float], list[Path]]:
    """Play the episodes and write the files; returns each episode's return, as far as it was played, and the paths.

    Raises:
        ValueError: a run of neither study, a seed that it has not, or a task without pictures.
        ImportError: a package or a library that pictures or files need is missing.
    """
    returns, files, _ = _drawn(config)
    return returns, files


def _drawn(config: Watch) -> tuple[list[float], list[Path], int]:
    """As `watch`; with the frames that the agent was trained for."""
    endings = config.endings()
    path, state, source = read_source(str(config.checkpoint), config.seed)
    with contextlib.closing(_Stage(config, state, source)) as stage:
        sample = config.sample if config.sample is not None else stage.samples
        mode = ExplorationType.RANDOM if sample else ExplorationType.DETERMINISTIC
        with torch.random.fork_rng(devices=[]), set_exploration_type(mode):
            torch.manual_seed(config.first_seed)
            film = play(
                with_memory(stage.env, source.model),
                agent_at_play(source.model, source.scaling and source.scaling.apply),
                stage.pictures,
                steps=config.steps,
            )
    facts = source.facts
    title = f"{facts['task']}, {facts['algorithm']}, seed {facts['seed']}, {facts['frames']:,} frames of training"
    output = Path(config.output) if config.output else path.with_name(f"watch_seed{facts['seed']}")
    output.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"title": title, "width": config.width, "fps": config.fps or stage.fps}
    files = [write_film(output.with_name(f"{output.name}.{ending}"), film, **options) for ending in endings]
    return film.returns, files, facts["frames"]


def watch_run(run_dir: str, tracked: Tracking) -> list[Path]:
    """Draw the agent of a finished run with the defaults, and give the films to the run's loggers; returns their
    paths."""
    _, files, frames = _drawn(Watch(checkpoint=run_dir))
    log_film(run_dir, tracked, files, frames)
    return files


class _Stage:
    """A run's task with pictures: environment, speed, and whether its evaluations sample actions."""

    def __init__(self, config: Watch, state: dict[str, Any], source: Source):
        settings = task_settings(state)
        self.procgen, self.samples, self.fps = "protocol" in settings, "protocol" in settings, PROCGEN_FPS
        test = config.levels == "test"
        if self.procgen:
            run = ProcgenTask(settings).config
            self.env: Any = make_procgen_env(run, config.episodes, config.first_seed, test=test, training=False)
            return
        check_setting("checkpoint", config.checkpoint, lambda _: settings["env"] not in ("toy", "unity"), UNDRAWN)
        self.env = pictured_env(settings, config.episodes, config.first_seed, test=test)
        self.fps = min(60, self.env.render_fps)

    def pictures(self, step: TensorDictBase) -> Sequence[np.ndarray]:
        """The picture of each game, uint8 (H, W, 3)."""
        if self.procgen:
            return list(step["observation"].permute(0, 2, 3, 1).cpu().numpy())
        return self.env.pictures()

    def close(self) -> None:
        self.env.close()
