"""Modules that have moved since version 0.1: an import of the old path raises an error that names the new one."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED = {  # old path -> new path, both below `decouple`; two new paths where a module was split
    "blocks": "networks.blocks",
    "separation": "networks.separation",
    "fitting": "networks.fitting",
    "counting": "networks.counting",
    "heads": "networks.heads",
    "distributions": "networks.distributions",
    "actor_critic": "networks.actor_value",
    "actor_qvalue": "networks.actor_qvalue",
    "seeds": "networks.stacking and seeding",
    "checkpoint": "runs.checkpoint and seeding",
    "tracking": "runs.tracking",
    "metrics": "runs.metrics and runs.files",
    "curves": "runs.curves",
    "progress": "runs.progress",
    "performance": "runs.performance and on_policy.cuda_graph",
    "locks": "runs.locks",
    "rules": "runs.rules",
    "finite": "runs.finite",
    "phases": "on_policy.phases",
    "losses": "on_policy.losses",
    "rollouts": "on_policy.rollouts and networks.stacking",
    "collector": "on_policy.collector",
    "trpo": "on_policy.algorithms.trpo",
    "off_policy_settings": "off_policy.settings",
    "learner": "off_policy.learner",
    "torchrl_learner": "off_policy.torchrl_learner",
    "acting": "off_policy.acting",
    "replay": "off_policy.replay",
    "fused": "off_policy.stacked_mlp",
    "flat": "off_policy.flat_adam",
    "diagnosis": "off_policy.value_bias",
    "evaluation": "analysis.evaluation",
    "recording": "analysis.recording",
    "representation": "analysis.representation",
    "statistics": "analysis.statistics",
    "plain_actor": "deploy.plain_actor",
    "export": "deploy.export",
    "reports.separation_study": "studies.separation.results and studies.separation.run_folders",
    "reports.separation_tables": "studies.separation.tables",
    "reports.separation_figures": "studies.separation.figures",
    "reports.representation_pictures": "studies.separation.representation_pictures",
    "reports.recommendation": "studies.separation.recommendation",
    "reports.page": "studies.separation.page",
    "control": " and ".join(
        f"studies.actor_size.{file}" for file in ("settings", "algorithms", "build", "cell", "load")
    ),
    "search": "studies.actor_size.search",
    "cells": "studies.actor_size.workers",
    "cell_store": "studies.actor_size.store",
    "trained_actor": "studies.actor_size.load",
    "reports.size_study": "studies.actor_size.study",
    "reports.size_cells": "studies.actor_size.results",
    "reports.size_figures": "studies.actor_size.figures",
    "reports.size_table_figures": "studies.actor_size.table_one_figures",
    "reports.size_latency": "studies.actor_size.latency",
    "envs.procgen_backends": "envs.procgen.backends",
    "envs.procgen_levels": "envs.procgen.levels",
    "envs.reward_scaling": "envs.procgen.reward_scaling",
    "envs.control_backends": "envs.control.backends",
    "envs.pendulum": "envs.control.pendulum",
    "envs.acrobot": "envs.control.acrobot",
    "envs.running_normalization": "envs.control.running_normalization",
    "envs.gymnasium_games": "envs.games.gymnasium_env",
    "envs.pong": "envs.games.pong",
    "envs.pixelcopter": "envs.games.pixelcopter",
    "envs.food_collector": "envs.games.food_collector",
    "envs.food_collector_games": "envs.games.food_collector_games",
    "envs.streams": "envs.games.streams",
    "envs.unity_conversion": "envs.unity.conversion",
}


class OldPaths(importlib.abc.MetaPathFinder):
    """A finder that Python asks last, for modules that no other finder has found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        old = fullname.removeprefix("decouple.")
        moved = {name: new for name, new in MOVED.items() if name == old or name.startswith(f"{old}.")}
        if old != fullname and moved:  # the error has no `name`: `from decouple import old` would swallow it
            found = ", ".join(f"decouple.{name} is {_whole(new)}" for name, new in moved.items())
            raise ModuleNotFoundError(f"{found} since version 0.2; the names in `decouple` itself are as they were")
        return None


def _whole(new: str) -> str:
    return " and ".join(f"decouple.{module}" for module in new.split(" and "))


def refuse_old_paths() -> None:
    """Make an import of an old path raise ModuleNotFoundError with the new path."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
