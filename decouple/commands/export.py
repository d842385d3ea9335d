"""The command of experiments/export.py: one agent of a run as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from decouple.commands.folders import CONFIGS
from decouple.commands.running import run_command
from decouple.commands.settings import settings_of
from decouple.deploy.card import card_path
from decouple.deploy.export import ExportReport
from decouple.studies.actor_size.settings import sizes_name
from decouple.studies.distillation.sources import Source
from decouple.studies.export import Export, export

__all__ = ["main"]


def register() -> None:
    """Register `Export` with Hydra: the settings of configs/readers/export.yaml."""
    ConfigStore.instance().store(name="export_schema", node=Export)


def table(source: Source, report: ExportReport, rows: Sequence[dict[str, Any]]) -> str:
    """The exported file, its largest difference from the model and its latency, as lines to read."""
    facts = report.metadata
    sizes = f"actor |{sizes_name(facts['actor'])}|" if "actor" in facts else f"separation {facts['separation']}"
    allowed = "any in int8" if report.tolerance == math.inf else f"{report.tolerance:.0e}"
    checked = "recorded" if facts["precision"] == "int8" else "random and recorded"
    lines = [
        f"{facts['task']}, {facts['algorithm']}, {sizes}, seed {facts['seed']}, {facts['frames']:,} frames",
        f"{report.path}: {report.bytes:,} bytes; "
        f"{facts['parameters']:,} parameters, {facts['multiply_adds']:,} multiply-adds an action",
        f"from the model's own actions at most {report.difference:.1e} over {report.observations} observations, "
        f"{checked} (allowed: {allowed})",
        *played_lines(facts),
        f"{'one thread, microseconds a call':32}{'median':>12}{'99%':>12}",
    ]
    for row in rows:
        case = f"{row['runtime']:12}batch {row['batch']}"
        lines.append(f"{case:32}{row['median_us']:12,.1f}{row['p99_us']:12,.1f}")
    return "\n".join(lines)


def played_lines(facts: Mapping[str, Any]) -> list[str]:
    """The return through the file, beside the PyTorch actor's, where the file has played."""
    if "return" not in facts:
        return []
    played, own = facts["return"], facts["return_of_model"]
    interval = "" if played["low"] is None else f" [{played['low']:.6g}, {played['high']:.6g}]"
    through = f"return {played['mean']:.6g}{interval} through it"
    return [f"{through}, {own['mean']:.6g} by the model: {played['episodes']} episodes"]


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "readers"), config_name="export")
def command(config: Any) -> None:
    source, report, rows = export(settings_of(config))
    print(table(source, report, rows))
    print(f"what it reads and gives, and how to run it: {card_path(report.path)}")


def main() -> None:
    """`python experiments/export.py ...`."""
    register()
    run_command(command)
