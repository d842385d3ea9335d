"""Cells of the actor-size study, trained and recorded in a store, whatever happens on the way.

    store = CellStore("runs/smallest_actor/cells.sqlite")
    with Processes() as train:                                          # or RayTasks(address="auto")
        returns = train_cells([TD3Control(actor=[4, 4], seeds=6), ...], store, train)       # per config, per seed

Only seeds that the store lacks are trained, those of a cell as one batch. A batch is trained in a process of its own:
one that is killed is started again and goes on from its last checkpoint, one that fails leaves the others alone.
Several callers may work on the same cells; each takes what nobody has, and waits for what others train.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from decouple.checks import Must, all_of, at_least, checked
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.studies.actor_size.algorithms import control_identity
from decouple.studies.actor_size.engines import BEAT_S, CellError, GaveUpError, waited_for
from decouple.studies.actor_size.settings import NOT_IDENTITY, ControlSettings, settings_key, sizes_name
from decouple.studies.actor_size.stopping import stopped_at
from decouple.studies.actor_size.store import Batch, Cell, CellStore
from decouple.studies.actor_size.trials import Returns, Unfinished

__all__ = ["Stopping", "cell_of", "frames_done", "train_cells"]

# Trains a batch; calls the function about once a second, and raises GaveUpError where it returns False.
Train = Callable[[ControlSettings, Callable[[], bool]], dict[str, float]]

OF_THE_CELL = {"env", "algorithm", "actor", "critic", "seed", "seeds"}
OF_A_CELL = Must(
    lambda config: dataclasses.is_dataclass(config) and hasattr(config, "all_seeds"), "that are settings of a cell"
)
RENEWALS = 10  # renewals of a claim within its lease
LOOK_EVERY = 50  # times as long as a look at a run's evaluations takes, the next one waits: tables grow long


class Stopping(NamedTuple):
    """The rule of `decouple.studies.actor_size.stopping`, by which a cell's seeds are stopped early."""

    bound: float  # mean return over the seeds that is to be reached
    most: float  # best return of a seed so far, of any size
    after: float  # share of the learning before which nothing is stopped


@checked()
def cell_of(config: ControlSettings) -> Cell:
    """The cell of these settings: all settings that can change an agent's final return, except its seed."""
    settings = control_identity(config, NOT_IDENTITY - {"total_frames", "final_episodes"} | OF_THE_CELL)
    text = json.dumps(settings, sort_keys=True)
    return Cell(config.env, config.algorithm, text, tuple(config.actor), tuple(config.critic))


@checked(parallel=at_least(1), configs=all_of(OF_A_CELL))
def train_cells(
    configs: Sequence[Any],
    store: CellStore,
    train: Train,
    *,
    parallel: int = 1,
    watch: Callable[[ControlSettings], None] = lambda config: None,
    stopping: Stopping | None = None,
    folder: Callable[[Any], str] | None = None,
    cell: Callable[[Any], Cell] | None = None,
) -> list[Returns]:
    """The final returns of each config's agents, one per seed, those that the store has not yet trained first.

    Args:
        configs: settings of the cells, `ControlSettings` or a study's own, with the seeds that are wanted. Their
            `run_dir` is not used: each batch has a folder below the store's.
        store: store of the results, which takes the new ones.
        train: `Processes` or `RayTasks`.
        parallel: number of batches trained at once.
        watch: function called about once a second with the settings of each batch in training.
        stopping: rule by which a cell's seeds are stopped early: it has no new results in the store then, and its
            returns are `Unfinished`. None: all are trained to their end.
        folder: function that gives the folder of a config's runs, relative to the store's; None: one named by the
            task, the algorithm, a hash of the settings and the sizes.
        cell: function that gives the cell of a config; None: `cell_of`.

    Raises:
        CellError: a cell failed; raised once all others are done. The same call tries the failed ones again.
    """
    cells = [(cell or cell_of)(config) for config in configs]
    folders = {of: folder(config) if folder else _folder(of) for of, config in zip(cells, configs, strict=True)}
    stop, failed, unfinished = threading.Event(), dict[Cell, str](), dict[Cell, Unfinished]()

    def work() -> None:
        while not stop.is_set():
            missing = [
                (cell, config)
                for cell, config in zip(cells, configs, strict=True)
                if cell not in failed
                and cell not in unfinished
                and not set(config.all_seeds) <= store.returns(cell).keys()
            ]
            if not missing:
                return
            for cell, config in missing:
                if batch := store.claim(cell, config.all_seeds, folders[cell]):
                    hopeless = partial(_hopeless, config, batch, store.returns(cell), stopping)
                    came = _train_batch(config, batch, store, train, watch, stop, hopeless)
                    failed.update({cell: came} if isinstance(came, str) else {})
                    unfinished.update({cell: came} if isinstance(came, Unfinished) else {})
                    break
            else:
                for cell, config in missing:  # others train these
                    for batch in store.batches(cell):
                        if batch.state == "running":
                            watch(_of_batch(config, batch))
                stop.wait(BEAT_S)

    with ThreadPoolExecutor(parallel) as pool:
        try:
            for worker in [pool.submit(work) for _ in range(parallel)]:
                worker.result()
        finally:
            stop.set()
    if failed:
        raise CellError("; ".join(f"{folders[cell]}: {error}" for cell, error in failed.items()))

    def found(cell: Cell, config: ControlSettings) -> Returns:
        of_cell = store.returns(cell)
        whole = set(config.all_seeds) <= of_cell.keys()  # also where another caller has trained on what was stopped
        return [of_cell[seed] for seed in config.all_seeds] if whole else unfinished[cell]

    return [found(cell, config) for cell, config in zip(cells, configs, strict=True)]


def _train_batch(
    config: ControlSettings,
    batch: Batch,
    store: CellStore,
    train: Train,
    watch: Callable[[ControlSettings], None],
    stop: threading.Event,
    hopeless: Callable[[], Unfinished | None],
) -> str | Unfinished | None:
    """Train a batch and record the outcome; returns the error where it failed, and the returns where it was stopped."""
    restart = config.restart
    config = _of_batch(config, batch)
    renewed = look_again = time.monotonic()
    unfinished = None if restart else hopeless()  # a search before this one stopped it

    def go_on() -> bool:
        nonlocal renewed, look_again, unfinished
        watch(config)
        if stop.is_set():
            return False
        if (now := time.monotonic()) >= look_again:
            unfinished = hopeless()
            look_again = now + LOOK_EVERY * (time.monotonic() - now)
        if unfinished:
            return False
        if time.monotonic() - renewed < store.lease / RENEWALS:
            return True
        renewed = time.monotonic()
        return store.renew(batch)

    try:
        if unfinished:
            raise GaveUpError
        if restart:  # once, not at every start of its process
            waited_for(lambda: lock_folder(config.run_dir, restart=True)).release()
        report = train(config, go_on)
    except GaveUpError:
        store.release(batch)  # without effect where another worker has it
        return unfinished
    except (CellError, FolderInUseError) as error:
        store.release(batch, str(error))
        return str(error)
    except BaseException:
        store.release(batch)
        raise
    else:
        mean = report["final/return"]  # one agent's own return
        store.finish(batch, {seed: report.get(f"final/return/seed{seed}", mean) for seed in config.all_seeds})
    return None


def _hopeless(
    config: ControlSettings, batch: Batch, known: dict[int, float], stopping: Stopping | None
) -> Unfinished | None:
    """The cell's returns, if the batch in training has all its seeds that lack a return, and may be stopped."""
    lacking = [seed for seed in config.all_seeds if seed not in known]
    if stopping is None or lacking != list(batch.seeds):
        return None
    others = [known[seed] for seed in config.all_seeds if seed in known]
    needed = (config.seeds * stopping.bound - sum(others)) / len(lacking)
    learning, begins = config.learning, getattr(config.learning, "learning_starts", 0)
    rule = {"needed": needed, "most": stopping.most, "after": stopping.after, "begins": begins}
    at = None
    with contextlib.suppress(ValueError):  # of a table that is damaged: training refuses it
        at = stopped_at(batch.run_dir, lacking, total=learning.total_frames, **rule)
    if at is None:
        return None
    now = known | dict(zip(lacking, at.returns, strict=True))
    return Unfinished(tuple(now[seed] for seed in config.all_seeds), at.frames)


@checked()
def frames_done(run_dir: str | os.PathLike[str]) -> int:
    """The frames of the last row of a run's table, which another process may be writing; 0 where there is none."""
    try:
        with open(Path(run_dir) / "metrics.csv", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
            lines = file.read().splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    whole = [line for line in lines if line.endswith(b"\n")]
    first = whole[-1].partition(b",")[0] if whole else b""
    return int(first) if first.isdigit() else 0


def _of_batch(config: ControlSettings, batch: Batch) -> ControlSettings:
    own = {"seed": batch.first, "seeds": batch.count, "run_dir": batch.run_dir}
    return dataclasses.replace(config, **own, show_progress=False, restart=False)


def _folder(cell: Cell) -> str:
    """Folder of a cell's runs, relative to the store's: readable, and different for other settings."""
    names = [sizes_name(size) for size in (cell.actor, cell.critic)]
    return f"{cell.task.replace('/', '_')}/{cell.algorithm}/{settings_key(cell.settings)}/{names[0]}-{names[1]}"
