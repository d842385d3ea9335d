"""The command of experiments/distill.py: a trained actor teaches smaller ones."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from decouple.checks import check_setting
from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import run_goes_on, says_what_goes_on
from decouple.commands.running import run_command
from decouple.commands.settings import refuse_added, schema
from decouple.studies.actor_size.smallest_actor import SearchSettings
from decouple.studies.actor_size.trials import return_text
from decouple.studies.distillation.search import (
    run_student_search,
    student_parameters,
    student_search_goes_on,
    student_search_text,
    untrained_student,
)
from decouple.studies.distillation.settings import DISTILLATION_KEYS, distillation
from decouple.studies.distillation.training import Lesson, distill, done_students, read_lesson
from decouple.studies.winner import check_kind, export_plan, winner_text, write_smallest_student

__all__ = ["main"]


def register() -> None:
    """Register with Hydra the settings of configs/distill.yaml, and beside them the search's as the group `search`."""
    own = DISTILLATION_KEYS.structured()
    groups = [("search", SearchSettings, dataclasses.field(default_factory=SearchSettings))]
    kind = dataclasses.make_dataclass(own.__name__, groups, bases=(own,))
    ConfigStore.instance().store(name="distill_schema", node=schema(kind))


def result_text(lesson: Lesson, result: Mapping[str, Any]) -> str:
    """The students' return beside the teacher's, and what to do next, as lines to read."""
    settings = lesson.settings
    returns = [value for name, value in result.items() if name.startswith("final/return/seed")]
    each = f" ({', '.join('failed' if value is None else return_text(value) for value in returns)})" if returns else ""
    lines = [f"return {return_text(result['final/return'])}{each}"]
    if "final/teacher_return" in result:
        lines[0] += f"; the teacher's is {return_text(result['final/teacher_return'])} over the same episodes"
    return "\n".join([*lines, f"as a file: python experiments/export.py checkpoint={settings.run_dir}"])


def _refuse_search(options: SearchSettings) -> None:
    """Raise ValueError for settings of a search that is not made."""
    unset = vars(SearchSettings())
    for name, value in vars(options).items():
        says = "left out with sizes=fixed, which trains one size"
        check_setting(f"search.{name}", value, lambda v, left=unset[name]: v == left, says)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="distill")
def command(config: Any) -> None:
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    search = plain.pop("search")
    check_setting("search", search, lambda v: isinstance(v, dict), "settings of the search, search.<name>=...")
    refuse_added(SearchSettings, search, "search.")
    options, settings = SearchSettings(**search), distillation(**plain)
    lesson = read_lesson(settings)
    run_dir = lesson.settings.run_dir
    if settings.sizes == "fixed":
        _refuse_search(options)
        with says_what_goes_on(lambda: run_goes_on(run_dir)):
            result = (None if settings.restart else done_students(lesson)) or distill(lesson)
        print(result_text(lesson, result))
        return
    suffix, says = export_plan(options, lesson.teacher.facts["task"])
    if says:
        print(says, file=sys.stderr)
    counts = student_parameters(lesson, options.sizes)  # before anything is written: it refuses impossible sizes
    check_kind(suffix, untrained_student(lesson, options.sizes[0]))
    with says_what_goes_on(lambda: student_search_goes_on(run_dir)):
        found = run_student_search(lesson, options, counts)
    print(student_search_text(lesson, counts, found))
    if suffix:
        print(winner_text(write_smallest_student(lesson, found, suffix)))


def main() -> None:
    """`python experiments/distill.py ...`."""
    register()
    run_command(command)
