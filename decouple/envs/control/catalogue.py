"""Control tasks: five by name, from "Honey, I Shrunk The Actor" (Mysore et al. 2021), and all of Gymnasium's by id."""

from __future__ import annotations

import importlib
from typing import Any

from decouple.envs.control.backends import Task

__all__ = ["TASKS", "find_task"]

TASKS: dict[str, tuple[str, dict[str, Any], str]] = {  # Gymnasium's id, its options, the extra that installs it
    "pendulum": ("Pendulum-v1", {}, "games"),
    "acrobot": ("Acrobot-v1", {}, "games"),
    "reacher": ("Reacher-v4", {}, "mujoco"),
    "halfcheetah": ("HalfCheetah-v4", {}, "mujoco"),
    # With contact forces the observation has the paper's 111 numbers; v4 leaves them out by default (27 numbers).
    "ant": ("Ant-v4", {"use_contact_forces": True}, "mujoco"),
}


def find_task(name: str) -> Task:
    """Find a task by name or id; a module before a colon is imported, as ``gymnasium.make`` does.

    Raises:
        ValueError: an unknown task or module.
        ImportError: Gymnasium is not installed.
    """
    is_id = isinstance(name, str) and ("-v" in name or ":" in name)
    says = f"name must be one of {', '.join(TASKS)}, or an id of Gymnasium like Hopper-v5 or my_package:Env-v0"
    if not is_id and (not isinstance(name, str) or name not in TASKS):
        raise ValueError(f"{says}; got {name!r}")
    task, options, extra = (name, {}, "games") if is_id else TASKS[name]
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(f"{name} needs Gymnasium: pip install 'decouple[{extra}]'") from error
    module, colon, task = task.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, but imports a missing one
            raise ValueError(f"name must have a module before its colon that can be imported; got {name!r}") from error
        except (TypeError, ValueError) as error:  # not a valid module name
            raise ValueError(f"{says}; got {name!r}") from error
    try:
        return Task(name, gymnasium.spec(task), options)
    except gymnasium.error.Error as error:
        raise ValueError(f"{says}; got {name!r}: {error}") from error  # Gymnasium's message names the nearest id
