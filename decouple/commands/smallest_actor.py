"""The command of experiments/smallest_actor.py: the search for the smallest actor that still does the job."""

from __future__ import annotations

import sys
from typing import Any

import hydra

from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import says_what_goes_on
from decouple.commands.running import run_command
from decouple.commands.settings import register_algorithms, settings_beside
from decouple.commands.sweeps import given_settings
from decouple.studies.actor_size.smallest_actor import (
    SearchSettings,
    actor_parameters,
    run_search,
    search_goes_on,
    search_text,
    train_pairs,
    untrained_model,
    write_table,
)
from decouple.studies.winner import check_kind, export_plan, winner_text, write_winner

__all__ = ["main"]


def register() -> None:
    """Register each algorithm's settings with Hydra, and beside them the search's as the group `search`."""
    register_algorithms([("search", SearchSettings)])


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="smallest_actor")
def command(config: Any) -> None:
    options, settings = settings_beside("search", SearchSettings, config, given_settings())
    if not options.train:
        print(write_table(settings.run_dir))
        return
    if options.pairs:
        with says_what_goes_on(lambda: search_goes_on(settings.run_dir)):
            print(train_pairs(settings, options))
        return
    suffix, says = export_plan(options, settings.env)
    if says:
        print(says, file=sys.stderr)
    check_kind(suffix, untrained_model(settings))
    counts = actor_parameters(settings, options.sizes)  # before anything is written: it refuses impossible sizes
    with says_what_goes_on(lambda: search_goes_on(settings.run_dir)):
        found = run_search(settings, options, counts)
    print(search_text(settings, counts, found, options.measured(settings)))
    if suffix:
        print(winner_text(write_winner(settings, found, suffix)))


def main() -> None:
    """`python experiments/smallest_actor.py ...`."""
    register()
    run_command(command)
