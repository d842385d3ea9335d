"""The command of experiments/separation.py: where policy and value should separate on a task."""

from __future__ import annotations

from typing import Any

import hydra

from decouple.analysis.statistics import require_rliable
from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import says_what_goes_on
from decouple.commands.running import run_command
from decouple.commands.settings import register_algorithms, settings_beside
from decouple.commands.sweeps import given_settings
from decouple.studies.actor_size.smallest_actor import search_goes_on
from decouple.studies.any_task.report import task_report
from decouple.studies.any_task.study import TaskStudy, points_of, train_points

__all__ = ["main"]


def register() -> None:
    """Register each algorithm's settings with Hydra, and beside them the study's as the group `study`."""
    register_algorithms([("study", TaskStudy)])


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="separation")
def command(config: Any) -> None:
    options, settings = settings_beside("study", TaskStudy, config, given_settings())
    require_rliable()  # by the page, which comes after the training
    if options.train:
        with says_what_goes_on(lambda: search_goes_on(settings.run_dir)):
            train_points(settings, options)
    page, answer = task_report(points_of(settings, options), options)
    print(answer.sentence)
    for note in answer.notes:
        print(f"- {note}")
    print(f"the page is {page}")


def main() -> None:
    """`python experiments/separation.py ...`."""
    register()
    run_command(command)
