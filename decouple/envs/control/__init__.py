"""Gymnasium's control tasks, one copy for each agent and environment, and our own Pendulum and Acrobot."""

from decouple.envs.control.catalogue import TASKS
from decouple.envs.control.tasks import ControlEnv, control_env

__all__ = ["TASKS", "ControlEnv", "control_env"]
