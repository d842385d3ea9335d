"""The command of experiments/representation.py: what policy and value networks have learned, block by block."""

from __future__ import annotations

from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.studies.separation.representation import Representation, analyse

__all__ = ["main"]


def register() -> None:
    """Register `Representation` with Hydra: the settings of configs/readers/representation.yaml."""
    ConfigStore.instance().store(name="representation_schema", node=Representation)


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="representation")
def command(config: Any) -> None:
    folder, says = analyse(settings_of(config))
    print(says)
    print(f"\nthe tables and the pictures are in {folder}")


def main() -> None:
    """`python experiments/representation.py ...`."""
    register()
    run_command(command)
