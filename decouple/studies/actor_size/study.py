"""Table I of the actor-size study: what our searches found, beside the paper's numbers.

    rows = table_rows(store.searches(), read_paper())
    print(markdown_table(rows))

A search's result is stored in the form of `search_record`. After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893), Table I.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decouple.checks import Must, all_of, at_least, check_setting, checked, has, one_of
from decouple.runs.files import csv_lines, csv_rows, markdown_lines
from decouple.runs.rules import outdated
from decouple.studies.actor_size.build import unit_actions
from decouple.studies.actor_size.search import SmallestActor
from decouple.studies.actor_size.settings import settings_key
from decouple.studies.actor_size.trials import return_text, size_name
from decouple.version import VERSION, written_by

__all__ = [
    "AT_ITS_BEST",
    "HEADS",
    "csv_cell",
    "csv_size",
    "csv_table",
    "markdown_table",
    "old_rules",
    "old_searches",
    "read_paper",
    "read_paper_parameters",
    "reduction_percent",
    "relative_return",
    "relative_sizes",
    "search_record",
    "spread_text",
    "table_rows",
    "table_texts",
]

# The paper's numbers; SOURCE.txt beside them says where they are from.
TABLE_1 = Path(__file__).with_name("published") / "table_1.csv"
TABLE_A2 = TABLE_1.with_name("table_a2.csv")

# Columns of a row, after task, algorithm and source; the paper's file has those that the paper prints.
COLUMNS = (
    *("threshold", "bound", "baseline_size", "baseline_reward", "baseline_spread"),
    *("symmetric_size", "symmetric_reward", "symmetric_spread"),
    *("actor_size", "reduction_percent", "baseline_reduction_percent", "critic_size"),
    *("asymmetric_reward", "asymmetric_spread", "asymmetric_low", "asymmetric_high"),
    *("decided", "exhaustive", "seeds", "seconds", "measure", "frames", "settings"),
)

# Cells of Table I whose value is not the return after training but "the average maximum reward achieved during
# training" (its footnote d: "due to the instability of ML-agent's implementation of SAC's training on Food Collector").
AT_ITS_BEST = frozenset({("foodcollector", "sac")})

TABLE_ROWS = all_of(has("task", "algorithm", "source", *COLUMNS))

HEADS = "task", "", "threshold", "baseline", "symmetric", "actor", "parameters", "beside critic", "return"


@checked(seconds=at_least(0))
def search_record(
    found: SmallestActor,
    parameters: Mapping[tuple[int, ...], int],
    seconds: float | None = None,
    measure: str = "final",
) -> dict[str, Any]:
    """A search's result as plain data, for `CellStore.record_search`.

    Args:
        found: result of the search.
        parameters: size -> parameters of its actor, with the baseline's, counted on the model that was trained.
        seconds: training time of its cells, summed, in seconds.
        measure: return that was compared: `final`, after training, or `maximum`, the largest reached in training.
    """
    record = dataclasses.asdict(found)
    counts = [{"actor": list(size), "parameters": count} for size, count in parameters.items()]
    return record | {"notes": found.notes, "parameters": counts, "seconds": seconds, "measure": measure}


@checked()
def old_rules(task: str, algorithm: str, settings: Mapping[str, Any], version: str | None) -> list[str]:
    """Sentences on the old rules that results of a store rest on; empty where the results count.

    Args:
        task, algorithm, settings: those of the cell or the search.
        version: version of decouple that wrote it; None: 0.1.
    """
    if version == VERSION:
        return []
    run = {**settings, "env": task, "algorithm": algorithm}
    try:
        return outdated(settings.get("rules", {}), run, lambda: unit_actions(run))
    except (ImportError, ValueError) as error:
        return [f"the rules of {task} cannot be told: {error}"]


@checked()
def old_searches(searches: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each search that is done and does not count, because it was made under an old rule.

    Args:
        searches: result of `CellStore.searches`.
    """
    done = (search for search in searches if search["state"] == "done")
    return [
        f"{search['task']}, {search['algorithm']}, by {written_by(search['version'])}, is left out: {'; '.join(old)}"
        for search in done
        if (old := _old_rules(search))
    ]


def _old_rules(search: Mapping[str, Any]) -> list[str]:
    return old_rules(search["task"], search["algorithm"], search["settings"], search["version"])


@checked(small=at_least(1), large=at_least(1))
def reduction_percent(small: int, large: int) -> float:
    """Reduction from `large` to `small` parameters, in percent: `100 (1 - small / large)`."""
    return 100 * (1 - small / large)


@checked()
def read_paper(path: str | os.PathLike[str] = TABLE_1) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, algorithm), both in lower case -> the row of Table I: sizes as tuples, numbers, None where it has none."""
    rows = csv_rows(Path(path), "environment", "algorithm")
    return {(row["environment"].lower(), row["algorithm"].lower()): _numbers(row) for row in rows}


@checked()
def read_paper_parameters(path: str | os.PathLike[str] = TABLE_A2) -> dict[str, dict[tuple[int, ...], int]]:
    """Task, in lower case -> hidden layers -> the parameters of an actor, from Table A.2; sizes that it has none of are
    left out."""
    counts: dict[str, dict[tuple[int, ...], int]] = {}
    for row in csv_rows(Path(path), "hidden"):
        size = csv_size(row.pop("hidden"))
        for task, count in row.items():
            counts.setdefault(task.lower(), {}).update({size: int(count)} if count else {})
    return counts


@checked(row=has("source", *COLUMNS))
def relative_sizes(
    row: Mapping[str, Any], parameters: Mapping[tuple[int, ...], int] | None = None
) -> tuple[float, float]:
    """Parameters of the symmetric and of the asymmetric actor, each as a share of the baseline's; NaN where unknown.

    Args:
        row: row of `table_rows`.
        parameters: size -> parameters of its actor, for a row of the paper; a row of ours has its reductions.
    """
    if row["actor_size"] is None:
        return math.nan, math.nan
    if row["source"] == "paper":
        names = "symmetric_size", "actor_size", "baseline_size"
        sizes = [row[name] for name in names]
        of_sizes = f"with tuples of sizes or None in {', '.join(names)}"
        check_setting("row", sizes, lambda found: all(v is None or isinstance(v, tuple) for v in found), of_sizes)
        symmetric, actor, baseline = ((parameters or {}).get(size, math.nan) for size in sizes)
        return symmetric / baseline, actor / baseline
    reductions = row["baseline_reduction_percent"], row["reduction_percent"]
    says = "with numbers in baseline_reduction_percent and reduction_percent"
    check_setting("row", reductions, lambda found: all(isinstance(v, int | float) for v in found), says)
    share = 1 - row["baseline_reduction_percent"] / 100
    return share / (1 - row["reduction_percent"] / 100), share


@checked(which=one_of("baseline", "symmetric", "asymmetric"))
def relative_return(row: Mapping[str, Any], which: str) -> tuple[float, float]:
    """A mean return and its spread in units of the row's threshold: `1 + (R - T) / |T|` and `s / |T|`.

    So 1 is the threshold and 1 - tolerance the least that is accepted, whatever the sign. NaN where there is none.

    Args:
        row: row of `table_rows`.
        which: columns to read: baseline, symmetric or asymmetric.
    """
    names = f"{which}_reward", f"{which}_spread", "threshold"
    numbers = all(name in row and isinstance(row[name], int | float | type(None)) for name in names)
    check_setting("row", row, lambda _: numbers, f"with numbers or None in {', '.join(names)}")
    mean, spread, threshold = row[f"{which}_reward"], row[f"{which}_spread"], row["threshold"]
    if mean is None or not threshold:
        return math.nan, math.nan
    return 1 + (mean - threshold) / abs(threshold), math.nan if spread is None else spread / abs(threshold)


@checked()
def table_rows(
    searches: Iterable[Mapping[str, Any]], paper: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows with task, algorithm, source (here or paper) and `COLUMNS`: ours under each of the paper's, then the others.

    Args:
        searches: result of `CellStore.searches`; unfinished searches have no row, nor have those under an old rule,
            which `old_searches` names.
        paper: result of `read_paper`.
    """
    ours: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for search in searches:
        if search["state"] == "done" and not _old_rules(search):
            key = search["task"], search["algorithm"]
            frames = search["settings"].get("total_frames")
            hashed = settings_key(json.dumps(search["settings"], sort_keys=True))
            row = _our_row(search["result"], search["options"]) | {"frames": frames, "settings": hashed}
            ours.setdefault(key, []).append(row)
    rows = []
    for task, algorithm in dict.fromkeys([*paper, *ours]):
        of_paper = {"measure": "maximum" if (task, algorithm) in AT_ITS_BEST else "final"}
        of_cell = [("paper", {**paper[task, algorithm], **of_paper})] if (task, algorithm) in paper else []
        of_cell += [("here", row) for row in ours.get((task, algorithm), [])]
        head = {"task": task, "algorithm": algorithm}
        rows += [{**head, "source": source, **{name: row.get(name) for name in COLUMNS}} for source, row in of_cell]
    return rows


@checked(rows=TABLE_ROWS)
def csv_table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as a CSV file."""
    names = ["task", "algorithm", "source", *COLUMNS]
    return csv_lines([names, *([csv_cell(row[name]) for name in names] for row in rows)])


@checked()
def csv_cell(value: Any) -> str:
    """A value in a CSV file: empty for None, hidden layers as `16,16`, and `linear` where there are none."""
    if value is None:
        return ""
    return (",".join(map(str, value)) or "linear") if isinstance(value, tuple) else str(value)


@checked()
def csv_size(text: str) -> tuple[int, ...]:
    """Hidden layers from the text that `csv_cell` made of them."""
    if text != "linear" and not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"text must be linear, or sizes like 16,16; got {text!r}")
    return () if text == "linear" else tuple(map(int, text.split(",")))


@checked(rows=TABLE_ROWS)
def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table in Markdown. A return of ours has its interval, and a ? where the seeds cannot tell."""
    return markdown_lines([HEADS, *table_texts(rows)])


@checked(rows=TABLE_ROWS)
def table_texts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows as texts to read, under `HEADS`; several searches of a task are told apart by frames, or settings."""
    ours: dict[tuple[str, str], set[tuple[int | None, str]]] = {}  # frames and settings of our searches
    for row in rows:
        if row["source"] == "here":
            ours.setdefault((row["task"], row["algorithm"]), set()).add((row["frames"], row["settings"]))
    texts = []
    for row in rows:
        low, high = row["asymmetric_low"], row["asymmetric_high"]
        interval = "" if low is None else f" [{return_text(low)}, {return_text(high)}]"
        others = ours.get((row["task"], row["algorithm"]), set()) if row["source"] == "here" else set()
        frames = f", {row['frames']:,} frames" if len(others) > 1 and row["frames"] is not None else ""
        hashed = f", {row['settings']}" if len(others) > len({of for of, _ in others}) else ""
        cells = (
            f"{row['task']}, {row['algorithm'].upper()}",
            row["source"] + frames + hashed + (", maximum in training" if row["measure"] == "maximum" else ""),
            "" if row["threshold"] is None else return_text(row["threshold"]),
            f"{_size(row['baseline_size'])} {_return(row, 'baseline')}",
            f"{_size(row['symmetric_size'])} {_return(row, 'symmetric')}".strip(),
            _size(row["actor_size"]),
            "" if row["reduction_percent"] is None else f"{-row['reduction_percent'] + 0:.1f} %",
            _size(row["critic_size"]),
            _return(row, "asymmetric") + interval + (" ?" if row["decided"] is False else ""),
        )
        texts.append(cells)
    return texts


@checked(spread=Must(lambda spread: not spread < 0, "at least 0, or NaN", any_number=True))
def spread_text(spread: float | None) -> str:
    """` ± ` and a standard deviation with two digits or more, and no exponent; empty where there is none."""
    if spread is None or math.isnan(spread):
        return ""
    return f" ± {spread:.2g}" if spread < 99.5 else f" ± {spread:.0f}"


def _our_row(result: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    counts = {tuple(item["actor"]): item["parameters"] for item in result["parameters"]}
    baseline, symmetric, best = result["baseline"], result["symmetric"], result["asymmetric"]
    row = {name: result[name] for name in ("threshold", "bound", "exhaustive", "seconds")}
    row |= {"measure": result.get("measure", "final")}  # 0.1 knew no other
    row |= {"seeds": options["seeds"], "baseline_size": tuple(baseline["actor"])}
    row |= {"baseline_reward": baseline["mean"], "baseline_spread": baseline["std"]}
    if best is None:
        return row
    actor = tuple(best["actor"])
    return row | {
        "symmetric_size": tuple(symmetric["actor"]),
        "symmetric_reward": symmetric["mean"],
        "symmetric_spread": symmetric["std"],
        "actor_size": actor,
        "critic_size": tuple(best["critic"]),
        "reduction_percent": reduction_percent(counts[actor], counts[tuple(symmetric["actor"])]),
        "baseline_reduction_percent": reduction_percent(counts[actor], counts[tuple(baseline["actor"])]),
        "asymmetric_reward": best["mean"],
        "asymmetric_spread": best["std"],
        "asymmetric_low": best["low"],
        "asymmetric_high": best["high"],
        "decided": best["decided"],
    }


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    def value(name: str, text: str) -> Any:
        if name.endswith("_size"):
            return csv_size(text) if text else None
        return float(text) if text else None

    return {name: value(name, text) for name, text in row.items() if name in COLUMNS}


def _size(size: Sequence[int] | None) -> str:
    return "" if size is None else size_name(size)


def _return(row: Mapping[str, Any], which: str) -> str:
    mean, spread = row[f"{which}_reward"], row[f"{which}_spread"]
    if mean is None:
        return ""
    return return_text(mean) + spread_text(spread)
