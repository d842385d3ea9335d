"""The command of experiments/control.py: a cell of the actor-size study."""

from __future__ import annotations

import math
from typing import Any

import hydra

from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import run_goes_on, says_what_goes_on
from decouple.commands.learned import train_learned
from decouple.commands.running import run_command
from decouple.commands.settings import control_settings, register_algorithms
from decouple.commands.sweeps import given_settings, run_folder, sweep_result
from decouple.runs.finished import evaluated_over
from decouple.studies.actor_size.cell import done_result, train_agents
from decouple.studies.actor_size.settings import ControlSettings
from decouple.studies.watch import watch_run

__all__ = ["main", "register", "trained"]


def register() -> None:
    """Register each algorithm's settings with Hydra, as a choice of the group `algorithm`."""
    register_algorithms()


def table(config: ControlSettings, report: dict[str, Any]) -> str:
    """The final evaluation, as lines to read."""
    lines = [f"{config.env}, {config.algorithm}, {config.final_episodes} episodes of each agent, without exploration"]
    failed = report.get("failed", {})
    for seed in config.all_seeds:
        value = report.get(f"final/return/seed{seed}", report["final/return"])
        lines.append(
            f"{f'seed {seed}':12}" + (f"failed: {failed[f'seed{seed}']}" if value is None else f"{value:12.2f}")
        )
    if config.seeds > 1:
        over = f"over {config.seeds - len(failed)} of {config.seeds} seeds" if failed else "over seeds"
        lines.append(f"{'mean':12}{report['final/return']:12.2f} +- {report['final/return_std']:.2f} ({over})")
    if config.has_test_levels and report.get("final/generalisation_gap") is not None:
        sides = ", ".join(f"{report[f'final/{name}_return']:.2f} on {name} levels" for name in ("train", "test"))
        lines.append(f"mean returns: {sides}; generalisation gap {report['final/generalisation_gap']:.2f}")
    return "\n".join(lines)


def learned(settings: ControlSettings) -> float:
    """Train with gates at each price and the network of each k that they choose; returns the best of the latter."""

    def train(run: ControlSettings) -> float:
        report = done_result(run) if evaluated_over(run.run_dir, run.final_episodes) else None
        if report is None or report["final/return"] is None:  # all agents have failed: it says so again
            report = train_agents(run)
        print(table(run, report))
        return -math.inf if report.get("failed") else report["final/return"]

    return train_learned(settings, train)


def trained(config: Any) -> float:
    """Train; returns what a sweeper maximises: the mean final return over agents, or -inf where an agent has failed."""
    settings = control_settings(config, given_settings())
    settings.run_dir = run_folder(config)
    if settings.separation == "learned":
        return learned(settings)
    with says_what_goes_on(lambda: run_goes_on(settings.run_dir)):
        report = sweep_result(settings) or train_agents(settings)
    print(table(settings, report))
    print(f"the record is in {settings.run_dir}")
    if settings.video:
        print("\n".join(map(str, watch_run(settings.run_dir, settings.tracked))))
    return -math.inf if report.get("failed") else report["final/return"]


@hydra.main(version_base="1.3", config_path=str(CONFIGS / "control"), config_name="control")
def command(config: Any) -> float:
    return trained(config)


def main() -> None:
    """`python experiments/control.py ...`."""
    register()
    run_command(command)
