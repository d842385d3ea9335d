"""Gymnasium's control tasks, with several games for each agent; Pendulum and Acrobot also all at once."""

from decouple.envs.control.catalogue import TASKS
from decouple.envs.control.environment import ControlEnv
from decouple.envs.control.tasks import control_env

__all__ = ["TASKS", "ControlEnv", "control_env"]
