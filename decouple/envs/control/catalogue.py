"""Control tasks: five by name, from "Honey, I Shrunk The Actor" (Mysore et al. 2021), and Forage, ours; all of
Gymnasium's by id; and environments that a function of yours makes."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Collection, Mapping
from typing import Any

from decouple.checks import checked
from decouple.envs.control.making import Task

__all__ = ["TASKS", "did_you_mean", "find_task", "is_outside_name"]

TASKS: dict[str, tuple[str, dict[str, Any], str]] = {  # Gymnasium's id, its options, the extra that installs it
    "pendulum": ("Pendulum-v1", {}, "games"),
    "acrobot": ("Acrobot-v1", {}, "games"),
    "reacher": ("Reacher-v4", {}, "mujoco"),
    "halfcheetah": ("HalfCheetah-v4", {}, "mujoco"),
    # With contact forces the observation has the paper's 111 numbers; v4 leaves them out by default (27 numbers).
    "ant": ("Ant-v4", {"use_contact_forces": True}, "mujoco"),
    "forage": ("decouple.envs.control.forage_game:decouple/Forage-v0", {}, "games"),
}
# Packages that register their tasks when they are imported, by how their ids begin; the extra has the same name here.
REGISTERED_BY = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}
SAYS = (
    f"name must be one of {', '.join(TASKS)}, an id of Gymnasium like Hopper-v5 or my_package:Env-v0, or a function "
    "that makes an environment, like my_package.module:make"
)


@checked()
def is_outside_name(name: str) -> bool:
    """Whether a name has the form of one of Gymnasium's ids, or of a module with a task of its own."""
    return ":" in name or re.search(r"-v\d", name) is not None


@checked()
def find_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Find a task by its name, its id, or its module and function.

    A module before a colon is imported, as ``gymnasium.make`` does, so that it can register the id after the colon. If
    the module has a function or a class of that name, the task is what it returns, a Gymnasium environment.

    Args:
        name: the task's name.
        options: keyword arguments of the environment; None: those of the task here, or none.

    Raises:
        ValueError: an unknown task or module.
        ImportError: Gymnasium, or the package that registers the task, is not installed.
    """
    if not isinstance(name, str) or (name not in TASKS and not is_outside_name(name)):
        raise ValueError(f"{SAYS}; got {name!r}{did_you_mean(name)}")
    task, own, extra = TASKS.get(name, (name, {}, "games"))
    chosen = own | dict(options or {})
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(f"{name} needs Gymnasium: pip install 'torchrl-decouple[{extra}]'") from error
    module, _, task = task.rpartition(":")
    if module:
        make = getattr(_import_module(module, name), task, None)
        if callable(make):
            return Task(name, None, chosen, make)
    else:
        _register(task, name)
    try:
        return Task(name, gymnasium.spec(task), chosen)
    except gymnasium.error.Error as error:
        raise ValueError(f"{SAYS}; got {name!r}: {error}") from error  # Gymnasium's message names the nearest id


def did_you_mean(name: object, known: Collection[str] = TASKS, *, ids: bool = True) -> str:
    """A hint for an error about a name that is close to a known one, as " (did you mean CartPole-v1?)"; else empty.

    Args:
        name: the name that came.
        known: names that there are.
        ids: True where Gymnasium's ids are names too, with any case and without their version.
    """
    spellings = {task.lower(): task for task in known}
    if ids and importlib.util.find_spec("gymnasium"):
        import gymnasium

        plain = (spec.id for spec in gymnasium.registry.values() if not spec.namespace)
        spellings = {task.partition("-v")[0].lower(): task for task in plain} | spellings  # the newest version is last
    near = difflib.get_close_matches(name.lower(), spellings, n=1) if isinstance(name, str) else []
    return f" (did you mean {spellings[near[0]]}?)" if near else ""


def _import_module(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but imports a missing one
        raise ValueError(f"name must have a module before its colon that can be imported; got {name!r}") from error
    except (TypeError, ValueError) as error:  # not a valid module name
        raise ValueError(f"{SAYS}; got {name!r}") from error


def _register(task: str, name: str) -> None:
    """Import the package that registers an id, where it is a known one."""
    for begins, (module, extra) in REGISTERED_BY.items():
        if task.startswith(begins):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
                raise ImportError(f"{name} needs {module}: pip install 'torchrl-decouple[{extra}]'") from error
