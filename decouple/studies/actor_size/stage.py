"""The task of a control run with pictures, and its agents at play there.

film = agent_film("runs/control/pendulum/td3/actor4x4_critic16x16_kfull/seeds0_6", seed=2, steps=500)
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from torchrl.envs import ExplorationType, set_exploration_type

from decouple.analysis.at_play import agent_at_play
from decouple.analysis.film import Film, play
from decouple.checks import SEED, at_least, check_setting, checked
from decouple.envs.games.batched import GAMES
from decouple.networks.recurrence import with_memory
from decouple.runs.finished import run_checkpoint
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.build import OF_TASK, make_env
from decouple.studies.actor_size.load import trained_actor

__all__ = ["UNDRAWN", "agent_film", "pictured_env"]

IDS = {"pong": "Pong", "pixelcopter": "Pixelcopter", "foodcollector": "FoodCollector"}  # of Gymnasium's ids
UNDRAWN = "of a task that has pictures: toy and unity have none"


@checked(games=at_least(1), seed=SEED)
def pictured_env(settings: Mapping[str, Any], games: int, seed: int, *, test: bool = True) -> Any:
    """The task of a run's settings with raw observations, whose `pictures` draws its games.

    Args:
        settings: those of the run's checkpoint.
        games: number of games.
        seed: seed of their episodes.
        test: what agents are tested on, where that is another task than they are trained on.

    Raises:
        ValueError: a task without pictures.
    """
    check_setting("env", name := settings["env"], lambda v: v not in ("toy", "unity"), UNDRAWN)
    if name in GAMES:
        id_of_game = f"decouple.envs.games.gymnasium_env:decouple/{IDS[name]}-v0"
        task: dict[str, Any] = {"env": id_of_game, "env_kwargs": {"frame_skip": settings["frame_skip"]}}
    else:
        task = {key: settings[key] for key in (*OF_TASK, *["test_kwargs"] * test) if key in settings}
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo would ask for a window
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # and pygame, with a line of an error
    task |= {"env_kwargs": (task.get("env_kwargs") or {}) | {"render_mode": "rgb_array"}, "backend": "gymnasium"}
    return make_env(CONTROL_ALGORITHMS[settings["algorithm"]](**task), games, [seed], test=test)


@checked(seed=SEED, steps=at_least(1))
def agent_film(run_dir: str | os.PathLike[str], seed: int, steps: int) -> Film:
    """One episode of a run's agent of this seed, up to `steps` steps, without exploration.

    Raises:
        ValueError: a task without pictures, or a seed that the run has not.
        ImportError: a package that pictures need is missing.
    """
    _, state = run_checkpoint(run_dir, "run_dir")
    settings = state["settings"]
    seeds = range(settings["seed"], settings["seed"] + settings["seeds"])
    check_setting("seed", seed, seeds.__contains__, f"one of the run's, {list(seeds)}")
    model, scaling = trained_actor(state, seeds.index(seed))
    act, mode = agent_at_play(model, scaling and scaling.apply), ExplorationType.DETERMINISTIC
    with contextlib.closing(pictured_env(settings, 1, 0)) as env, set_exploration_type(mode):
        return play(with_memory(env, model), act, lambda _: env.pictures(), steps=steps)
