"""Gymnasium's control tasks and Forage, with several games for each agent; some tasks all at once."""

from decouple.envs.control.catalogue import TASKS
from decouple.envs.control.environment import ControlEnv
from decouple.envs.control.tasks import control_env

__all__ = ["TASKS", "ControlEnv", "control_env"]
