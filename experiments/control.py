"""Actor and critic of different sizes on control tasks: a cell of the actor-size study, all its seeds at once.

    python experiments/control.py algorithm=sac env=pendulum actor=[4,4] critic=[16,16] seeds=6
    python experiments/control.py algorithm=td3 env=halfcheetah actor=[64,64] critic=[64,64] seeds=2 total_frames=100000
    python experiments/control.py algorithm=sac,td3,ddpg actor=[4,4],[16,16] critic=[16,16] -m
    python experiments/control.py +sweep=hyperparameters algorithm=td3 env=pendulum -m   # docs/sweeps.md
    python experiments/control.py algorithm=td3 --help

`separation=1` shares the first hidden layer. The same command started again goes on from its last checkpoint. After
Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

# First: it takes this folder off the path.
from _script import (  # noqa: I001
    register_control,
    run_command,
    run_folder,
    run_goes_on,
    says_what_goes_on,
    settings_of,
    sweep_result,
)

import math
import sys
from typing import Any

import hydra

from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.settings import ControlSettings

register_control()
# A launcher sends `main` to processes where this folder is not on the path: it takes along what comes from no module.
del sys.modules["_script"]


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
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path="../configs/control", config_name="control")
def main(config: Any) -> float:
    """Returns what a sweeper maximises: the final return, the mean over agents; -inf where an agent has failed."""
    settings: ControlSettings = settings_of(config)
    settings.run_dir = run_folder(config)
    with says_what_goes_on(lambda: run_goes_on(settings.run_dir)):
        report = sweep_result(settings) or train_agents(settings)
    print(table(settings, report))
    print(f"the record is in {settings.run_dir}")
    return -math.inf if report.get("failed") else report["final/return"]


if __name__ == "__main__":
    run_command(main)
