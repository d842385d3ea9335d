"""What `separation=learned` does in a command: gates at several prices, and the network of each k that they choose."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decouple.commands.interrupts import run_goes_on, says_what_goes_on
from decouple.runs.locks import lock_folder
from decouple.runs.settings import changed
from decouple.studies.learned import learn_separation, learned_run
from decouple.studies.watch import watch_run

__all__ = ["train_learned"]


def train_learned(settings: Any, train: Callable[[Any], float]) -> float:
    """Train at each price and at each k that is chosen; prints the report and returns the best result at a k.

    Args:
        settings: settings of the whole, with all prices. A restart puts the whole folder aside, once; `video` is of
            the agents at each k that is chosen.
        train: function that trains one run, from its settings, and returns its result.

    Raises:
        FolderInUseError: a restart while another process trains one of the runs.
    """
    if settings.restart:
        for lock in Path(settings.run_dir).glob("*/.lock"):
            lock_folder(lock.parent).release()  # refused where a run is under way
        with lock_folder(settings.run_dir, restart=True) as lock:
            if lock.aside:
                print(f"the runs that were in {settings.run_dir} are kept in {lock.aside}", file=sys.stderr)
        settings = changed(settings, restart=False)
    under_way = settings.run_dir

    def one(folder: str, price: float | None, k: int | None) -> float:
        nonlocal under_way
        under_way = folder
        return train(learned_run(settings, folder, price, k))

    with says_what_goes_on(lambda: run_goes_on(under_way)):
        found = learn_separation(settings.run_dir, settings.learning.gate_prices, one)
    print(f"{found.table}\nthe report is in {settings.run_dir}: learned.csv, learned.png")
    for k in found.results if settings.video else ():
        print("\n".join(map(str, watch_run(f"{settings.run_dir}/k{k}", settings.tracked))))
    return max(found.results.values())
