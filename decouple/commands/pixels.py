"""The command of experiments/pixels.py: agents that read pictures, of any environment."""

from __future__ import annotations

from typing import Any

import hydra

from decouple.commands.control import register, trained
from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="pixels")
def command(config: Any) -> float:
    return trained(config)


def main() -> None:
    """`python experiments/pixels.py ...`."""
    register()
    run_command(command)
