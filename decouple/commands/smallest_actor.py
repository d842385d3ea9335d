"""The command of experiments/smallest_actor.py: the search for the smallest actor that still does the job."""

from __future__ import annotations

import dataclasses
from typing import Any

import hydra
from omegaconf import OmegaConf

from decouple.checks import check_setting
from decouple.commands.interrupts import says_what_goes_on
from decouple.commands.running import run_command
from decouple.commands.settings import CONFIGS, refuse_added, register_algorithms
from decouple.studies.actor_size.cell import CONTROL_ALGORITHMS
from decouple.studies.actor_size.smallest_actor import (
    SearchSettings,
    actor_parameters,
    run_search,
    search_goes_on,
    search_text,
    write_table,
)

__all__ = ["main"]


def register() -> None:
    """Make the algorithms' settings, with those of the search beside them, choices of Hydra's group `algorithm`."""
    beside = ("search", SearchSettings, dataclasses.field(default_factory=SearchSettings))
    register_algorithms(
        {
            name: dataclasses.make_dataclass(kind.__name__, [beside], bases=(kind,))
            for name, kind in CONTROL_ALGORITHMS.items()
        }
    )


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="smallest_actor")
def command(config: Any) -> None:
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    given = plain.pop("search")
    check_setting("search", given, lambda v: isinstance(v, dict), "settings of the search, search.<name>=...")
    check_setting("algorithm", plain["algorithm"], CONTROL_ALGORITHMS.__contains__, f"of {list(CONTROL_ALGORITHMS)}")
    kind = CONTROL_ALGORITHMS[plain["algorithm"]]
    refuse_added(SearchSettings, given, "search.")
    refuse_added(kind, plain)
    options, settings = SearchSettings(**given), kind(**plain)
    if not options.train:
        print(write_table(settings.run_dir))
        return
    counts = actor_parameters(settings, options.sizes)  # before anything is written: refuses what cannot be made
    with says_what_goes_on(lambda: search_goes_on(settings.run_dir)):
        found = run_search(settings, options, counts)
    print(search_text(settings, counts, found, options.measured(settings)))


def main() -> None:
    """`python experiments/smallest_actor.py ...`."""
    register()
    run_command(command)
