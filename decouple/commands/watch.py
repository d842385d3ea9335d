"""The command of experiments/watch.py: an agent of a run at play."""

from __future__ import annotations

from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.studies.watch import Watch, watch

__all__ = ["main"]


def register() -> None:
    """Register `Watch` with Hydra: the settings of configs/readers/watch.yaml."""
    ConfigStore.instance().store(name="watch_schema", node=Watch)


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="watch")
def command(config: Any) -> None:
    returns, files = watch(settings_of(config))
    print("returns, as far as played: " + ", ".join(f"{each:.4g}" for each in returns))
    print("\n".join(f"{file}: {file.stat().st_size / 1000:,.0f} kB" for file in files))


def main() -> None:
    """`python experiments/watch.py ...`."""
    register()
    run_command(command)
