"""The games of a control task, by the backend that is chosen for it.

games = make_games(task, agents=2, each=3)              # 6 games, agent by agent
games, games.backend                                     # and the name of what steps them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torchrl.envs import EnvBase

from decouple.checks import at_least, check_setting, checked
from decouple.envs.control.backends import BATCHED, BatchedGames, GymnasiumGames, batched_rules
from decouple.envs.control.envpool_games import EnvpoolGames
from decouple.envs.control.game_workers import GameWorkers, WorkerGames
from decouple.envs.control.making import Task
from decouple.envs.control.torchrl_games import TorchRLGames, make_first

__all__ = ["BACKENDS", "Games", "make_games"]

BACKENDS = ("auto", "gymnasium", "batched", "envpool")

Games = GymnasiumGames | BatchedGames | EnvpoolGames | WorkerGames | TorchRLGames


class Chosen(NamedTuple):
    """Games, the name of what steps them, gymnasium, batched, envpool or torchrl, and how many each agent has."""

    games: Games
    backend: str
    each: int


@checked(agents=at_least(1), each=at_least(1))
def make_games(
    task: Task,
    agents: int,
    each: int,
    backend: str = "auto",
    levels: range | None = None,
    *,
    privileged: Sequence[str] = (),
    workers: GameWorkers | None = None,
    device: str = "cpu",
) -> Chosen:
    """Make the games of a task.

    Args:
        task: a task of Gymnasium, or a function that makes environments of Gymnasium or TorchRL.
        agents: agents with games of their own, at least 1.
        each: games of an agent, at least 1. Environments of TorchRL with a fixed batch are taken whole.
        backend: one of ``BACKENDS``. auto: batched if there are NumPy rules for the task, else gymnasium.
        levels: seeds of which each reset takes one; None: only a game's first reset has a seed. Games of envpool and
            TorchRL have no levels.
        privileged: keys of the observation that the value network alone reads.
        workers: processes that step Gymnasium's games; None: this one does.
        device: device for a function that takes one.

    Raises:
        ValueError: an unknown backend, or one without the task; settings that the task does not have.
        ImportError: the task's simulator, or envpool, is not installed.
    """
    check_setting("backend", backend, BACKENDS.__contains__, f"one of {', '.join(BACKENDS)}")
    for name in (name for name, given in {"env_workers": workers, "privileged": privileged}.items() if given):
        check_setting("backend", backend, ("auto", "gymnasium").__contains__, f"auto or gymnasium with {name}")
    if levels is not None:
        check_setting("backend", backend, lambda name: name != "envpool", "auto, gymnasium or batched with num_levels")
    has_rules = batched_rules(task) is not None
    if backend == "batched" and not has_rules:
        *others, last = BATCHED
        tasks = f"only {', '.join(others)} and {last} are batched, without wrappers; Gymnasium's also without options"
        tasks += " of their own (env_kwargs), Forage with none but life and size"
        raise ValueError(f"backend must be auto or gymnasium for {task.name}: {tasks}; got 'batched'")
    if backend == "envpool":
        if task.simulator != "mujoco":
            raise ValueError(f"backend must be auto or gymnasium for {task.name}, no MuJoCo task; got 'envpool'")
        return Chosen(EnvpoolGames(task, agents * each), "envpool", each)
    first = None
    if task.make is not None:
        first = make_first(task, each, device)
        if isinstance(first, EnvBase):
            _check_torchrl(task, backend, levels, workers)
            games = TorchRLGames(task, first, agents, each, privileged=privileged, device=device)
            return Chosen(games, "torchrl", games.number // agents)
    if workers is not None:
        if first is not None:
            _close(first)
        return Chosen(WorkerGames(workers, task, agents * each, levels, privileged), "gymnasium", each)
    if has_rules and backend != "gymnasium" and not privileged:
        return Chosen(BatchedGames(task, agents * each, levels), "batched", each)
    return Chosen(GymnasiumGames(task, agents * each, levels, privileged, first), "gymnasium", each)


def _check_torchrl(task: Task, backend: str, levels: range | None, workers: GameWorkers | None) -> None:
    """Refuse, by ValueError, what environments of TorchRL do not have."""
    alone = f"for {task.name}, which makes TorchRL environments"
    transforms = f"left out {alone}: its transforms stand in the function"
    check_setting("backend", backend, lambda name: name == "auto", f"auto {alone}")
    check_setting("num_levels", levels, lambda v: v is None, f"0 {alone}, whose resets take no seed")
    check_setting("env_workers", workers, lambda v: v is None, f"1 {alone}; TorchRL's ParallelEnv has processes")
    check_setting("wrappers", list(task.wrappers), lambda v: not v, transforms)
    check_setting("frame_stack", task.frame_stack, lambda v: v == 1, transforms)


def _close(first: Any) -> None:
    if hasattr(first, "close"):
        first.close()
