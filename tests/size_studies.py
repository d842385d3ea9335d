"""For tests of the actor-size study's reports: stores and run folders as a search leaves them, written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from decouple.studies.actor_size.search import smallest_actor
from decouple.studies.actor_size.store import Cell, CellStore
from decouple.studies.actor_size.study import search_record

SETTINGS = json.dumps({"gamma": 0.98, "total_frames": 1000})
SIZES = [(), (4, 4), (16, 16)]
PARAMETERS = {(): 4, (4, 4): 41, (16, 16): 353}


def write_run(
    run_dir: str,
    seeds: Sequence[int],
    columns: Mapping[str, Sequence[Sequence[float]]],
    result: Mapping[str, Sequence[float]],
    actor: int = 41,
) -> None:
    """A folder as `train_agents` leaves it; columns are (seeds, rows), results (seeds,)."""
    folder = Path(run_dir)
    folder.mkdir(parents=True)

    def name(metric: str, seed: int) -> str:
        return f"{metric}/seed{seed}" if len(seeds) > 1 else metric

    series = {name(m, seed): values for m, each in columns.items() for seed, values in zip(seeds, each, strict=True)}
    frames = range(100, 1001, 100)
    rows = [["frames", *series], *([at, *(values[i] for values in series.values())] for i, at in enumerate(frames))]
    cells = [["" if cell != cell else str(cell) for cell in row] for row in rows]
    (folder / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in cells))
    found = {name(f"final/{m}", seed): v for m, each in result.items() for seed, v in zip(seeds, each, strict=True)}
    (folder / "result.json").write_text(json.dumps({"frames": 1000, **found}))
    facts = {"parameters": {"trunk": 0, "policy": actor, "value": 999}, "multiply_adds": {"trunk": 0, "policy": 32}}
    record = {"sessions": [{"facts": {}}, {"facts": {key: json.dumps(value) for key, value in facts.items()}}]}
    (folder / "record.json").write_text(json.dumps(record))


def train(store: CellStore, cell: Cell, returns: Sequence[float | None], **measured: Sequence[float]) -> str:
    """Seeds of a cell as one batch, from the first that it lacks on: its loss goes from 9 to `loss` in the last row."""
    first = len(store.returns(cell))
    seeds = range(first, first + len(returns))
    folder = f"{cell.task}/{cell.algorithm}/{len(cell.actor)}{sum(cell.actor)}-{sum(cell.critic)}"
    batch = store.claim(cell, seeds, folder)
    assert batch is not None
    columns = {"train/episode_return": [[math.nan, *[math.nan if value is None else value] * 9] for value in returns]}
    for metric, name in (("loss/critic", "loss"), ("loss/critic_held_out", "held_out")):
        if name in measured:
            columns[metric] = [[9.0] * 9 + [value] for value in measured[name]]
    bias = {"value_bias": measured["bias"]} if "bias" in measured else {}
    write_run(batch.run_dir, list(seeds), columns, bias, PARAMETERS.get(cell.actor, 41))
    store.finish(batch, dict(zip(seeds, returns, strict=True)))
    return batch.run_dir


def cell(actor: tuple[int, ...], critic: tuple[int, ...], algorithm: str = "td3") -> Cell:
    return Cell("pendulum", algorithm, SETTINGS, actor, critic)


def search_of(store: CellStore, returns: Mapping[tuple, Sequence[float]], algorithm: str = "td3", **options) -> None:
    """Record a search over `SIZES` in which only these pairs can be evaluated."""
    found = smallest_actor(lambda a, c: returns[a, c], baseline=(16, 16), sizes=SIZES, **options)
    store.record_search("pendulum", algorithm, SETTINGS, options, "done", search_record(found, PARAMETERS, 60.0))


RETURNS = {
    ((16, 16), (16, 16)): [-148.0, -152.0],
    ((4, 4), (4, 4)): [-900.0, -700.0],
    ((), ()): [-1200.0, -1300.0],
    ((4, 4), (16, 16)): [-150.0, -154.0],
    ((), (16, 16)): [-500.0, -600.0],
}
