"""Write the tables of docs/studies: `python docs/results/studies.py`; with `--check`, only say what would change.

Every number is computed from the files in docs/results. A page has marks, `<!-- name -->` and `<!-- end -->`, and what
stands between them is written here. With `--missing`, print the commands that train what Table I and the claims about
its cells lack; what they find may ask for more.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies_cells import BUDGETS, HERE, PAPER, SEEDS, Pair, finished, read_table, state, table_lines
from studies_costs import training_times
from studies_figures import PAPERS_CASE, SHORTER, lacking, pictures
from studies_forage import branches_table, returns_table
from studies_procgen import reduced_table
from studies_sharing import CLAIMS as OF_SHARING
from studies_sharing import figure_1
from studies_sizes import CLAIMS as OF_SIZES
from studies_sizes import further
from studies_verdicts import NOT_RUN, rows_of

from decouple.runs.files import markdown_lines
from decouple.studies.actor_size.search import return_text, size_name

PAGES = Path(__file__).parents[1] / "studies"
MARK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)


# Of another paper, in the protocol's words: Mastikhina et al. 2025.
H16 = "With a small actor, minimum-of-two critics underestimate, and the mean of the two helps"


def claims() -> dict[str, str]:
    """Number of a claim -> its sentence, from the protocol."""
    rows = re.findall(r"^\| ([HS]\d+) \| (.*?) \| ", (PAGES / "protocol.md").read_text(), re.M)
    return {"H16": H16} | {name: sentence.replace(r"\|", "|") for name, sentence in rows}


def verdict_table(verdicts: dict[str, tuple[str, str]]) -> str:
    sentences = claims()
    lines = ["| | claim | verdict | number |", "|---|---|---|---|"]
    for name, (verdict, number) in verdicts.items():
        cells = (name, sentences[name], f"**{verdict}**" if verdict != NOT_RUN else verdict, number)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def in_short(verdicts: dict[str, tuple[str, str]]) -> str:
    counts = Counter(verdict for verdict, _ in verdicts.values())
    return f"Of {len(verdicts)} claims: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "."


def shorter_runs() -> str:
    """Searches on fewer steps than the protocol's, of which no verdict is made."""
    lines = ["| search | baseline | smallest pair | smallest actor | its return |", "|---|---|---|---|---|"]
    for row in rows_of(HERE / "study" / "table_1.csv"):
        if (
            row["source"] == "here"
            and row["task"] != "toy"
            and (row["task"], row["algorithm"]) != ("pixelcopter", "ppo")
        ):
            sizes = [f"\\|{row[name]}\\|" for name in ("baseline_size", "symmetric_size", "actor_size")]
            mean, low, high = (float(row[f"asymmetric_{name}"]) for name in ("reward", "low", "high"))
            name = f"{row['task']}, {row['algorithm'].upper()}, 20,000 steps"
            lines.append(f"| {name} | {' | '.join(sizes)} | {mean:.1f} [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


def blocks(cells: dict) -> dict[str, str]:
    """Name of a mark -> what stands under it, from the table's cells and the other stored results."""
    sizes = {name: claim(cells) for name, claim in OF_SIZES.items()}
    sharing = {name: claim() for name, claim in OF_SHARING.items()}
    states = Counter(state(cells[key]) if key in cells else "not run" for key in PAPER)
    table = "\n".join(escaped(table_lines(cells)))
    counted = ", ".join(f"{count} {name}" for name, count in states.items())
    return {
        "sizes_in_short": in_short(sizes),
        "sizes_verdicts": verdict_table(sizes),
        "sharing_in_short": in_short(sharing),
        "sharing_verdicts": verdict_table(sharing),
        "table_one": f"{table}\n\nOf 23 cells: {counted}.",
        "units": units_table(),
        "bias": bias_table(cells),
        "shorter": shorter_runs(),
        "training_time": training_times(),
        "commits": commits(cells),
        "reduced_returns": reduced_table(),
        "forage_returns": returns_table(),
        "forage_branches": branches_table(),
    }


def escaped(lines: list[str]) -> list[str]:
    """Rows of a table in which the sizes' bars are escaped: the cells are separated by ` | `."""
    return [re.sub(r"\|((?:\d+,)*\d+|linear)\|", r"\\|\1\\|", line) for line in lines]


def commits(cells: dict) -> str:
    """The commit that trained each cell of the table, and the time that it took."""
    lines = ["| cell | pairs | hours of all its agents, beside other jobs | commit |", "|---|---|---|---|"]
    for cell in cells.values():
        hours = sum(kept.seconds for kept in cell.kept.values()) / 3600
        found = sorted({(kept.commit or "unknown")[:9] for kept in cell.kept.values()})
        lines.append(f"| {cell.name} | {len(cell.kept)} | {hours:.2f} | {', '.join(found)} |")
    return "\n".join(lines)


def units_table() -> str:
    """Dormant units and effective rank of the policies in docs/results/honey/units.csv, means over seeds."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows_of(HERE / "units.csv", "dormant", "effective_rank"):
        if row["network"] in ("trunk", "policy", "value") and int(row["seed"]) in SEEDS:  # fresh ones are H15's
            groups.setdefault(
                tuple(row[n] for n in ("task", "algorithm", "actor", "critic", "network", "layer")), []
            ).append(row)
    if not groups:
        return "Not measured yet."
    lines = [
        "| cell | actor | critic | network, layer | dormant | effective rank, of units |",
        "|---|---|---|---|---|---|",
    ]
    for (task, algorithm, actor, critic, network, layer), rows in groups.items():
        if sorted(row["seed"] for row in rows) != sorted(map(str, SEEDS)):
            raise ValueError(f"{HERE / 'units.csv'} must have each of the six seeds once: {task}, {algorithm}, {actor}")
        dormant = sum(float(row["dormant"]) for row in rows) / len(rows)
        rank = sum(float(row["effective_rank"]) for row in rows) / len(rows)
        cells = (f"{task}, {algorithm.upper()}", rf"\|{actor}\|", rf"\|{critic}\|", f"{network} {layer}")
        cells += (f"{100 * dormant:.0f} %", f"{rank:.1f} of {rows[0]['units']}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def bias_table(cells: dict) -> str:
    """What the critics predict of the agents' own play, against the returns that follow; off policy, means of six."""
    names = ("return", "value_predicted", "value_monte_carlo", "value_bias")
    heads = ("cell", "actor", "critic", "return", "predicted", "Monte-Carlo", "bias")
    rows = [
        (cell.name, *map(size_name, pair), *(return_text(cell.mean(pair, name)) for name in names))
        for cell in cells.values()
        for pair, kept in cell.kept.items()
        if set(SEEDS) <= set(kept.measures.get("value_bias", {}))
    ]
    return markdown_lines([heads, *rows])


def missing() -> list[str]:
    """The commands that finish Table I, then those of the pairs that claims and figure 5 ask for; each goes on from
    stored cells.
    """
    cells, commands = read_table(), []

    def train(task: str, algorithm: str, what: str, budgets: Mapping[tuple[str, str], int] = BUDGETS) -> None:
        commands.append(
            f"python experiments/smallest_actor.py env={task} algorithm={algorithm} "
            f"total_frames={budgets[task, algorithm]} {what} search.export=none "
            "search.results=docs/results/honey/cells run_dir=runs/table_one num_threads=1"
        )

    for task, algorithm in PAPER:
        cell = cells.get((task, algorithm))
        if cell is not None and cell.reached is False:
            continue
        for threshold in ("baseline", "paper"):
            outcome = None if cell is None else cell.ours if threshold == "baseline" else cell.papers
            if outcome is None or outcome.found is None:
                train(task, algorithm, f"search.threshold={threshold}")
    for (task, algorithm), cell in finished(cells).items():
        for (actor, critic), seeds in further(cell):
            train(task, algorithm, f"{pairs_text([(actor, critic)])} seed={seeds[0]}")
    if pairs := lacking():
        train(*PAPERS_CASE, pairs_text(pairs), SHORTER)
    return commands


def pairs_text(pairs: Sequence[Pair]) -> str:
    """Pairs of sizes as the argument of a command."""
    return f"search.pairs={[[list(actor), list(critic)] for actor, critic in pairs]}".replace(" ", "")


def written(text: str, found: dict[str, str]) -> str:
    """A page with its marked parts written anew."""
    return MARK.sub(lambda mark: f"{mark[1]}{found[mark[2]]}\n{mark[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page would change")
    what.add_argument("--missing", action="store_true", help="print the commands that train what is missing")
    asked = parser.parse_args()
    if asked.missing:
        print("\n".join(missing()))
        return
    cells, stale = read_table(), []
    found = blocks(cells)
    for name in ("honey.md", "sharing.md", "forage.md"):
        page = PAGES / name
        text = written(page.read_text(), found)
        if text != page.read_text():
            stale.append(name)
            if not asked.check:
                page.write_text(text)
    if not asked.check:
        figure_1()
        pictures(cells)
    print(
        "\n".join(f"{name} {'differs' if asked.check else 'written'}" for name in stale)
        or "the pages are as they should be"
    )
    sys.exit(bool(stale) and asked.check)


if __name__ == "__main__":
    main()
