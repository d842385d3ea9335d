"""The agents of a study at play, a row of frames for each variant, as a section of its page.

section = strip_section({"late": lambda: procgen_film("runs/demo", steps=500)}, out.picture, frames=8)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import ExplorationType, set_exploration_type

from decouple.analysis.at_play import agent_at_play
from decouple.analysis.film import Film, play
from decouple.analysis.strips import strip_figure
from decouple.checks import at_least, check_setting, checked
from decouple.networks.recurrence import with_memory
from decouple.runs.finished import run_checkpoint
from decouple.studies.separation.experiment import load_agent, make_env
from decouple.studies.separation.page import Picture, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STEPS", "procgen_film", "strip_section"]

STEPS = 500  # most steps of an episode in a strip


@checked(steps=at_least(1))
def procgen_film(run_dir: str | os.PathLike[str], steps: int) -> Film:
    """One episode of a Procgen run's agent on all levels, as it sees the game; the same level for every run.

    Raises:
        ValueError: a run of another experiment.
    """
    _, state = run_checkpoint(run_dir, "run_dir")
    check_setting("run_dir", run_dir, lambda _: "protocol" in state.get("settings", {}), "of experiments/procgen.py")
    run, model, _ = load_agent(state)
    act, mode = agent_at_play(model), ExplorationType.RANDOM  # as its evaluations act
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(make_env(run, 1, 0, test=True, training=False)))
        stack.enter_context(set_exploration_type(mode))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        return play(with_memory(env, model), act, _frames, steps=steps)


def _frames(step: TensorDictBase) -> list[np.ndarray]:
    return list(step["observation"].permute(0, 2, 3, 1).cpu().numpy())


@checked(frames=at_least(0))
def strip_section(
    agents: Mapping[str, Callable[[], Film]], picture: Callable[[str, Figure, str], Picture], frames: int
) -> Section | None:
    """The section "At play"; None where no frames are asked for.

    Args:
        agents: name of a variant -> function that plays an episode of its agent.
        picture: function of a name, a figure and a caption, which writes it.
        frames: frames of a row; 0 for no section.
    """
    if not frames:
        return None
    films, missing = {}, []
    for name, film in agents.items():
        try:
            films[name] = film()
        except (ValueError, OSError, ImportError) as error:
            missing.append(f"- {name} is not drawn: {error}")
    if not films:
        return Section("At play", ["No agent could be drawn.", *missing])
    caption = (
        f"An episode of the best run of each, from its first frame to its last or to step {STEPS}, with its return; "
        "all begin alike. One episode shows what an agent does, and not how well it does it in the mean."
    )
    return Section(
        "At play", missing, pictures=[picture("strips", strip_figure(films, frames=max(2, frames)), caption)]
    )
