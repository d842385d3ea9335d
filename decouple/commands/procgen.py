"""The command of experiments/procgen.py: separation points on Procgen."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import run_goes_on, says_what_goes_on
from decouple.commands.learned import train_learned
from decouple.commands.running import run_command
from decouple.commands.settings import refuse_added, schema
from decouple.commands.sweeps import given_settings, run_folder, sweep_result
from decouple.runs.files import read_yaml
from decouple.runs.metrics import check_run_files
from decouple.studies.separation.experiment import evaluate_checkpoint, prepare, train
from decouple.studies.separation.settings import PROCGEN_KEYS, ProcgenExperiment, procgen_experiment
from decouple.studies.watch import watch_run

__all__ = ["main"]


def register() -> None:
    """Register the experiment's flat keys with Hydra: the settings of configs/procgen.yaml."""
    ConfigStore.instance().store(name="procgen_schema", node=schema(PROCGEN_KEYS.structured()))


def experiment_of(config: Any) -> ProcgenExperiment:
    """The experiment's settings, from the configuration that Hydra composed."""
    refuse_added(OmegaConf.get_type(config), config)
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return procgen_experiment(**plain)


def table(config: ProcgenExperiment, report: dict[str, float]) -> str:
    """The final evaluation, as lines to read."""
    last_level = config.start_level + config.num_levels - 1
    levels = {"train": f"{config.start_level} to {last_level}" if config.num_levels else "all", "test": "all"}
    lines = [f"{f'{config.env}, {config.final_episodes} episodes each':36}    mean  median     std"]
    for name, which in levels.items():
        numbers = (report[f"final/{name}_return{suffix}"] for suffix in ("", "_median", "_std"))
        lines.append(f"{f'{name} return, levels {which}':36}" + "".join(f"{number:8.2f}" for number in numbers))
    if "final/unseen_return" in report:
        numbers = (report[f"final/unseen_return{suffix}"] for suffix in ("", "_median", "_std"))
        what = f"of these, {1 - report['final/repeated_levels']:.0%}: unlike training"
        lines.append(f"{what:36}" + "".join(f"{number:8.2f}" for number in numbers))
    lines.append(f"{'generalisation gap':36}{report['final/generalisation_gap']:8.2f}")
    return "\n".join(lines)


def as_begun(config: Any, run_dir: str) -> ProcgenExperiment:
    """The settings of a run in `run_dir`; where the command names no precision, the one that the run was begun in.

    Another machine or version may choose another precision, which would be another run. A restart chooses anew. A
    learned separation was begun in the folder of a price, which may not be among those that are asked for now.
    """
    folders = [Path(run_dir)]
    if config.separation == "learned":
        folders = sorted(Path(run_dir).glob("price*"))
    begun = next((folder for folder in folders if (folder / "config.yaml").exists()), None)
    if config.precision is None and not config.restart and begun:
        check_run_files(begun)
        config.precision = read_yaml(begun / "config.yaml").get("precision")
    experiment = experiment_of(config)  # at last, since the size of a micro-batch follows from the precision
    experiment.run_dir = run_dir
    return experiment


def learned(experiment: ProcgenExperiment) -> float:
    """Train with gates at each price and the network of each k that they choose; returns the best of the latter."""

    def run(config: ProcgenExperiment) -> float:
        report = train(prepare(config))
        print(table(config, report))
        return report["final/test_return"]

    return train_learned(experiment, run)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="procgen")
def command(config: Any) -> float:
    """Train or evaluate; returns what a sweeper maximises: the final mean return on test levels."""
    if config.evaluate:
        experiment, report = evaluate_checkpoint(experiment_of(config), set(given_settings()))
        print(table(experiment, report))
        return report["final/test_return"]
    experiment = as_begun(config, run_folder(config))
    if experiment.separation == "learned":
        return learned(experiment)
    report = sweep_result(experiment)
    if report is None:
        run = prepare(experiment)
        with says_what_goes_on(lambda: run_goes_on(experiment.run_dir)):
            report = train(run)
    print(table(experiment, report))
    print(f"the record is in {experiment.run_dir}")
    if experiment.video:
        print("\n".join(map(str, watch_run(experiment.run_dir, experiment.tracked))))
    return report["final/test_return"]


def main() -> None:
    """`python experiments/procgen.py ...`."""
    if any(re.match(r"\+*seeds=", argument) for argument in sys.argv[1:]):
        sys.exit(
            "seeds must be left out on Procgen, where a run trains one agent: networks of convolutions gain nothing as "
            "one batch (docs/performance.md); `-m seed=0,1,2` trains one after another"
        )
    register()
    # Hydra reads a bare integer as a number, but names groups by strings: separation=3 becomes separation='3'.
    sys.argv[1:] = [
        re.sub(r"(?<=[=,(])\d+(?=[,)]|$)", r"'\g<0>'", argument) if argument.startswith("separation=") else argument
        for argument in sys.argv[1:]
    ]
    run_command(command)
