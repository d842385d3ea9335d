"""The command of experiments/toy.py: the toy problem, one neuron beside larger critics."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from decouple.checks import check_setting
from decouple.commands.folders import CONFIGS
from decouple.commands.interrupts import run_goes_on, says_what_goes_on
from decouple.commands.running import run_command
from decouple.commands.settings import control_settings, register_algorithms, settings_of
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.finite import NotFiniteError
from decouple.studies.actor_size.cell import done_result, train_agents
from decouple.studies.actor_size.settings import ControlSettings, sizes_name
from decouple.studies.actor_size.toy import PAIRS, TITLES, VIABLE, ToyStudy, read_cells, toy_report

__all__ = ["main"]


def register() -> None:
    """Register with Hydra the study's settings, those of configs/toy.yaml, and the algorithms' for its cells."""
    ConfigStore.instance().store(name="toy_schema", node=ToyStudy)
    register_algorithms()


def cell(study: ToyStudy, algorithm: str, pair: str) -> ControlSettings:
    """The settings of one cell, as `experiments/control.py` would compose them."""
    actor, critic = PAIRS[pair]
    folder = f"{algorithm}/{sizes_name(actor)}-{sizes_name(critic)}/seeds{study.seeds}"
    overrides = ["env=toy", f"algorithm={algorithm}", f"actor={actor}", f"critic={critic}", f"seeds={study.seeds}"]
    overrides.append(f"run_dir={study.run_dir}/{folder}")
    overrides.append(f"restart={study.restart}")
    if study.total_frames is not None:
        overrides.append(f"total_frames={study.total_frames}")
    with initialize_config_dir(str(CONFIGS / "control"), version_base="1.3"):
        given = [text.partition("=")[0] for text in overrides]
        return control_settings(compose("control", [text.replace(" ", "") for text in overrides]), given)


def run_cells(cells: dict[tuple[str, str], ControlSettings]) -> None:
    """Train the cells that are not done yet, and print how long each took."""
    for (algorithm, pair), settings in cells.items():
        # A restart begins a cell anew also where it cannot go on: damaged, or trained under old rules.
        refused = (CheckpointError, ValueError) if settings.restart else ()
        with contextlib.suppress(*refused):
            if done_result(settings) is not None:
                continue
        start = time.perf_counter()
        with says_what_goes_on(lambda settings=settings: run_goes_on(settings.run_dir)):
            try:
                mean = f"{train_agents(settings)['final/return']:.2f}"
            except NotFiniteError as error:  # all its agents failed: the other cells go on
                mean = f"failed, {error}"
        print(f"{TITLES[algorithm]}, {pair}: {mean} in {time.perf_counter() - start:.0f} s")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="toy")
def command(config: Any) -> None:
    study: ToyStudy = settings_of(config)
    GlobalHydra.instance().clear()  # the study's settings are composed; next, those of each cell
    cells = {(a, pair): cell(study, a, pair) for a in study.algorithms for pair in PAIRS}
    if study.train:
        run_cells(cells)
    folder, (runs, left_out) = study.run_dir, read_cells(cells)
    check_setting("train", study.train, lambda _: bool(runs), f"true where {folder} has no cells of the study")
    print(toy_report(folder, study.algorithms, runs, left_out))
    print(
        f"in brackets: agents that learned, a return of at least {VIABLE:.0f}, of those whose start had less; then how "
        f"many starts had as much\nfigures, table and returns of each agent are in {folder}"
    )


def main() -> None:
    """`python experiments/toy.py ...`."""
    register()
    run_command(command)
