"""The command of experiments/report.py: the report of the separation study on Procgen."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.studies.separation.report import Report, separation_report

__all__ = ["main"]


def register() -> None:
    """Register `Report` with Hydra: the settings of configs/readers/report.yaml."""
    ConfigStore.instance().store(name="report_schema", node=Report)


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="report")
def command(config: Any) -> None:
    page, study, advice = separation_report(settings_of(config))
    print(*study.notes, sep="\n", file=sys.stderr)
    print(advice.conclusion)
    print(f"the report is {page}")


def main() -> None:
    """`python experiments/report.py ...`."""
    register()
    run_command(command)
