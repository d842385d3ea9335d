"""The runs of a task's study, read back as the separation study reads its own: one run for each seed of each k.

study = read_points(configs, store)
study.scores()["k=1"]["CartPole-v1"]        # the final return of each finished seed, on test levels where there are any
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from decouple.checks import SOME, checked
from decouple.runs.metrics import read_metrics, read_result
from decouple.runs.settings import flat
from decouple.studies.actor_size.results import seed_column
from decouple.studies.actor_size.settings import ControlSettings
from decouple.studies.actor_size.store import Batch, CellStore
from decouple.studies.actor_size.workers import cell_of
from decouple.studies.any_task.study import depth_of
from decouple.studies.separation.results import Study
from decouple.studies.separation.run_folders import Run, last_session, platforms

__all__ = ["read_points"]

RETURNS = ("return", "train_return", "test_return", "generalisation_gap")  # what evaluations measure, of each seed
OF_BRANCHES = ("branches/*", "cut/*_cosine")  # what is measured of the two branches, of each seed


@checked(configs=SOME)
def read_points(configs: Sequence[ControlSettings], store: CellStore) -> Study:
    """The runs of these points that have begun, each seed as a run of its own, from the folders of their batches.

    Seeds of a point that have not are named in `elsewhere`.

    Raises:
        ValueError: none has begun, or all are damaged.
    """
    runs: dict[tuple[str, str], list[Run]] = {}
    depth = depth_of(configs[0])
    damaged: list[str] = []
    missing: list[str] = []
    for config in configs:
        found: dict[int, Run] = {}
        for batch in store.batches(cell_of(config)):
            if not Path(batch.run_dir, "metrics.csv").exists() and batch.state != "done":
                continue
            try:
                found |= {run.seed: run for run in _runs(config, batch, depth) if run.seed in config.all_seeds}
            except (ValueError, OSError) as error:
                damaged.append(str(error))
        if without := [str(seed) for seed in config.all_seeds if seed not in found]:
            seeds = f"seed{'s'[: len(without) > 1]} {', '.join(without)}"
            missing.append(f"No run that can be read: k={config.separation}, {seeds}.")
        if found:
            runs[f"k={config.separation}", config.env] = [found[seed] for seed in sorted(found)]
    if not runs:
        raise ValueError("\n".join([f"run_dir must hold runs of {configs[0].env}; none can be read", *damaged]))
    tested = any(run.final("test_return") is not None for of in runs.values() for run in of)
    return Study(configs[0].algorithm, runs, tuple(missing), tuple(damaged), "test_return" if tested else "return")


def _runs(config: ControlSettings, batch: Batch, depth: int) -> list[Run]:
    folder, seeds = Path(batch.run_dir), tuple(batch.seeds)
    table, result = read_metrics(folder), read_result(folder / "result.json")
    session = dict(last_session(folder / "record.json"))
    facts = dict(session.get("facts", {}))
    if "multiply_adds" in facts:  # Procgen's runs count them for a frame
        session["facts"] = facts | {"multiply_adds_per_frame": facts["multiply_adds"]}
    own = {"frames", "time/frames_per_second"}
    means = [name.partition("/seed")[0] for name in table]
    of_branches = [name for name in means if any(fnmatch.fnmatchcase(name, pattern) for pattern in OF_BRANCHES)]
    names = [*(f"eval/{name}" for name in RETURNS), *dict.fromkeys(of_branches)]
    runs = []
    for seed in seeds:
        columns = {name: seed_column(name, seed, seeds) for name in names}
        curves = {name: table[column] for name, column in columns.items() if column in table}
        final = {f"final/{name}": seed_column(f"final/{name}", seed, seeds) for name in RETURNS}
        ended = {name: result[column] for name, column in final.items() if column in result}
        ended |= {name: result[name] for name in ("frames", "failed") if name in result}
        if len(seeds) > 1 and isinstance(failed := result.get("failed"), dict):
            ended["failed"] = {name: why for name, why in failed.items() if name == f"seed{seed}"}
        settings = flat(config) | {"seed": seed}
        curves |= {name: table[name] for name in own if name in table}
        runs.append(Run(folder, settings, curves, ended, session, depth, platforms(folder / "record.json")))
    return runs
