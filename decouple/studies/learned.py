"""A learned separation as a command runs it: gates at several prices, and the network of each k that they choose.

    found = learn_separation("runs/one", [0.03, 0.1, 0.3], train)       # train(folder, price or k) -> the run's result
    found.rows                                                          # for each price the gates and the k

`run_dir` then holds a folder for each price and each chosen k, `learned.csv`, and `learned.png` with the gates over
training. All numbers are read from the runs' own files, so that a command that was stopped, or is given more prices,
goes on where it was.
"""

from __future__ import annotations

import collections
import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from decouple.checks import all_of, at_least, checked
from decouple.networks.gating import chosen_separation
from decouple.runs.curves import save_figure
from decouple.runs.files import read_json
from decouple.runs.metrics import column_numbers, read_table
from decouple.runs.settings import changed, defaults_of

GATE = re.compile(r"gate/\d+(/seed\d+)?")  # the column of a gate; a second phase's has another name

__all__ = ["LearnedSeparation", "gate_curves", "learn_separation", "learned_run", "price_folder"]

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class LearnedSeparation:
    """What a learned separation found.

    Attributes:
        rows: for each price `price`, `k`, the `gates` at the end, each a mean over agents, `multiply_adds` of a frame
            with gates and `multiply_adds_at_k` of the network trained anew, and the `seconds` that both learned.
        results: the result of the training anew, by k.
        table: rows as text.
    """

    rows: list[dict[str, Any]]
    results: dict[int, Any]

    @property
    def table(self) -> str:
        lines = ["price      k   gates at the end        multiply-adds: gated, at k      seconds: gated, at k"]
        for row in self.rows:
            gates = " ".join(f"{gate:.2f}" for gate in row["gates"])
            cost = f"{row['multiply_adds']:,} {row['multiply_adds_at_k']:,}"
            time = f"{row['seconds']:.0f} {row['seconds_at_k']:.0f}"
            lines.append(f"{row['price']:<10g} {row['k']:<3} {gates:23} {cost:31} {time}")
        return "\n".join(lines)


@checked(prices=all_of(at_least(0), least=1))
def learn_separation(
    run_dir: str | Path, prices: Sequence[float], train: Callable[[str, float | None, int | None], Any]
) -> LearnedSeparation:
    """Train with gates at each price, and the network of each k that they choose anew.

    Args:
        run_dir: folder of the runs and of the report.
        prices: prices of the value's own blocks, in units of the loss.
        train: function that trains in a folder, with gates at a price or separated at k, and returns the result.
    """
    folder, rows, results = Path(run_dir), [], {}
    curves: dict[float, dict[str, list[tuple[int, float]]]] = {}
    for price in prices:
        own = price_folder(folder, price)
        train(str(own), price, None)
        curves[price] = gate_curves(own)
        rows.append({"price": price, **_ended(own, curves[price])})
    for row in rows:
        k = row["k"]
        at_k = folder / f"k{k}"
        if k not in results:
            results[k] = train(str(at_k), None, k)
        row |= {"multiply_adds_at_k": _multiply_adds(at_k), "seconds_at_k": _seconds(at_k)}
    with open(folder / "learned.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            gates = " ".join(f"{gate:.4f}" for gate in row["gates"])
            writer.writerow(row | {"price": f"{row['price']:g}", "gates": gates})
    _draw(curves, rows, folder / "learned.png")
    return LearnedSeparation(rows, results)


@checked(price=at_least(0))
def price_folder(run_dir: str | Path, price: float) -> Path:
    """The folder of the run with gates at this price."""
    return Path(run_dir) / f"price{price:g}"


@checked(price=at_least(0), k=at_least(0))
def learned_run(settings: Settings, folder: str, price: float | None, k: int | None) -> Settings:
    """The settings of one run of a learned separation, as the `train` of `learn_separation` needs them.

    Args:
        settings: settings of the whole, with all prices.
        folder: the run's folder.
        price: the gates' price; None for a run at k, whose settings of gates are idle, and so at their defaults.
        k: the chosen k; None for a run with gates.
    """
    if price is not None:
        return changed(settings, run_dir=folder, gate_prices=[price])
    defaults = defaults_of(settings)
    idle = {name: defaults[name] for name in ("gate_prices", "gate_rate")}
    return changed(settings, run_dir=folder, separation=k, **idle)


def gate_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The gates over training, from a run's `metrics.csv`: column -> (frames, value); `gate/1`, and of each seed."""
    return {name: points for name, points in _columns(folder).items() if GATE.fullmatch(name)}


def _columns(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each metric of a run, (frames, value), where it was logged."""
    path = folder / "metrics.csv"
    names, rows = read_table(path)
    numbers = {name: column_numbers(path, name, [row[i] for row in rows]) for i, name in enumerate(names)}
    frames = [int(number) for number in numbers["frames"]]
    return {
        name: [(at, value) for at, value in zip(frames, values, strict=True) if not math.isnan(value)]
        for name, values in numbers.items()
    }


def _ended(folder: Path, curves: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    """The k that a run's gates chose, most agents' where there are several, the larger of equals; and its costs."""
    last = {name: points[-1][1] for name, points in curves.items()}
    seeds = sorted({name.split("/")[2] for name in last if name.count("/") == 2}) or [""]
    depth = sum(name.count("/") == 1 for name in last)
    of_agents = [[last["/".join(filter(None, ["gate", str(i), seed]))] for i in range(1, depth + 1)] for seed in seeds]
    votes = collections.Counter(map(chosen_separation, of_agents))
    k = max(votes, key=lambda each: (votes[each], each))
    gates = [last[f"gate/{number}"] for number in range(1, depth + 1)]
    return {"k": k, "gates": gates, "multiply_adds": _multiply_adds(folder), "seconds": _seconds(folder)}


def _multiply_adds(folder: Path) -> int:
    facts = read_json(folder / "record.json")["sessions"][-1]["facts"]
    counted = facts["multiply_adds"] if "multiply_adds" in facts else facts["multiply_adds_per_frame"]
    return json.loads(counted)["total"]


def _seconds(folder: Path) -> float:
    """Seconds that a run learned for, without its rollouts and evaluations."""
    return sum(value for _, value in _columns(folder)["time/learn_seconds"])


def _draw(curves: dict[float, dict[str, list[tuple[int, float]]]], rows: Sequence[dict], path: Path) -> None:
    """Draw the gates over training, a panel for each price."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(curves), 2.8), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (price, own), row in zip(panels, curves.items(), rows, strict=True):
        for name, points in own.items():
            _, number, *seed = name.split("/")
            label = None if seed else f"gate {number}"
            frames, gates = zip(*points, strict=True)
            axes.plot(frames, gates, color=f"C{int(number) - 1}", lw=0.5 if seed else 1.8, label=label)
        axes.axhline(0.5, color="0.7", lw=0.8, ls=":")
        axes.set(title=f"price {price:g}: k = {row['k']}", xlabel="frames", ylabel="gate", ylim=(-0.02, 1.02))
        axes.legend(fontsize="x-small")
    save_figure(figure, path)
