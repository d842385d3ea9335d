"""The command of experiments/compare.py: curves of any runs side by side."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.runs.comparison import Compare, compare_runs

__all__ = ["main"]


def register() -> None:
    """Register `Compare` with Hydra: the settings of configs/readers/compare.yaml."""
    ConfigStore.instance().store(name="compare_schema", node=Compare)


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="compare")
def command(config: Any) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        path, rows = compare_runs(settings_of(config))
    for warning in told:
        print(warning.message, file=sys.stderr)
    for metric, label, seeds, mean, spread in rows:
        over = f" +- {spread:.4g} over {seeds} seeds" if seeds > 1 else ""
        print(f"{metric}, last: {mean:.4g}{over}   {label}")
    print(f"curves: {path}")


def main() -> None:
    """`python experiments/compare.py ...`."""
    register()
    run_command(command)
