"""The command of experiments/size_report.py: the report of the actor-size study."""

from __future__ import annotations

from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.studies.actor_size.report import SizeReport, size_report

__all__ = ["main"]


def register() -> None:
    """Register `SizeReport` with Hydra: the settings of configs/readers/size_report.yaml."""
    ConfigStore.instance().store(name="size_report_schema", node=SizeReport)


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="size_report")
def command(config: Any) -> None:
    path = size_report(settings_of(config))
    print(f"the report is {path}, with its tables and pictures beside it")


def main() -> None:
    """`python experiments/size_report.py ...`."""
    register()
    run_command(command)
