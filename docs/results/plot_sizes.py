"""Draw what a return costs, again, from the stored tables: `python docs/results/plot_sizes.py`.

Reads docs/results/honey/study: cells.csv (mean, standard deviation and number of seeds of each size), table_1.csv (the
thresholds and what each search found) and latency.csv. Writes `pareto_<task>_<algorithm>.png` beside them, as
`experiments/size_report.py` draws it from a study's store. The picture shows means and intervals alone, which are
those of any seeds with this mean and this deviation. A latency is that of a network of these sizes, whatever the
settings that it was trained with.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from decouple.runs.curves import save_figure
from decouple.studies.actor_size.figures import pareto_figure
from decouple.studies.actor_size.latency import read_latency
from decouple.studies.actor_size.results import MEASURES, SizeCell, SizeStudy, size_order

FOLDER = Path(__file__).parent / "honey" / "study"


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def size(text: str) -> tuple[int, ...]:
    return () if text == "linear" else tuple(map(int, text.split(",")))


def seeds_like(mean: float, deviation: float, count: int) -> dict[int, float]:
    """Values with this mean and this standard deviation: half of them above, half below."""
    apart = deviation * math.sqrt((count - 1) / count)
    return {seed: mean + (apart if seed % 2 else -apart) for seed in range(count)}


def study(task: str, algorithm: str, cells: list[dict[str, str]], found: dict[str, str]) -> SizeStudy:
    measures = [seeds_like(float(c["return"]), float(c["return_std"]), int(c["seeds"])) for c in cells]
    of = [
        SizeCell(
            size(cell["actor"]),
            size(cell["critic"]),
            int(cell["parameters"]),
            int(cell["multiply_adds"]),
            {name: {} for name in MEASURES} | {"return": returns},
            (),
            (),
        )
        for cell, returns in zip(cells, measures, strict=True)
    ]
    of.sort(key=lambda cell: (size_order(cell.actor), size_order(cell.critic)))
    search = {"sizes": sorted({cell.actor for cell in of}), "symmetric": {"critic": size(found["symmetric_size"])}}
    search |= {"threshold": float(found["threshold"]), "bound": float(found["bound"])}
    return SizeStudy(task, algorithm, "", tuple(of), (), search)


def main() -> None:
    cells, searches, latency = rows("cells.csv"), rows("table_1.csv"), read_latency(FOLDER / "latency.csv")
    for task, algorithm in dict.fromkeys((cell["task"], cell["algorithm"]) for cell in cells):
        [found] = [r for r in searches if (r["task"], r["algorithm"].lower(), r["source"]) == (task, algorithm, "here")]
        own = [cell for cell in cells if (cell["task"], cell["algorithm"]) == (task, algorithm)]
        made = study(task, algorithm, own, found)
        timed = [
            row | {"settings": made.key} for row in latency if (row["task"], row["algorithm"]) == (task, algorithm)
        ]
        save_figure(pareto_figure(made, timed), FOLDER / f"pareto_{task}_{algorithm}.png", 110)


if __name__ == "__main__":
    main()
