"""`env=` for tasks that have no YAML page: any id of Gymnasium, and any module's own task.

    register_task_names()       # before Hydra composes: env=CartPole-v1 and env=my_package.module:make are choices

Hydra reads a group's choices from its sources. One more source, after the folder configs/, has a page for every such
name; all other names are looked for in the folder, and Hydra lists those that there are.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from decouple.envs.control.catalogue import is_outside_name

__all__ = ["SCHEME", "register_task_names"]

SCHEME, GROUP = "tasks", "env/"


class TaskNames(ConfigSource):
    """The choices of the group `env` that name themselves."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"{config_path} is no name of a task")
        page: Any = OmegaConf.create({"env": config_path.removeprefix(GROUP)})
        return ConfigResult(self.provider, self.full_path(), page, {"package": "_global_"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith(GROUP) and is_outside_name(config_path)

    def list(self, config_path: str, results_filter: Any) -> list[str]:
        return []


class TaskNamesPath(SearchPathPlugin):
    """Puts the source behind the others."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("decouple", f"{SCHEME}://")


def register_task_names() -> None:
    """Make every name of a task outside of configs/ a choice of the group `env`."""
    for plugin in (TaskNames, TaskNamesPath):
        Plugins.instance().register(plugin)
