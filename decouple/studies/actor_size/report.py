"""The report of the actor-size study: what experiments/smallest_actor.py has found so far, as tables and pictures.

    path = size_report(SizeReport(run_dir="runs/smallest_actor", latency="again"))  # on a machine that is idle

Reads the store and the runs' folders, and writes to `<run_dir>/report`: report.md, which shows and explains the rest;
Table I and figure 4 beside the paper's numbers; and for each task and algorithm figure 5, returns against costs, and
the diagnoses. Latencies are measured once. A study in progress is reported as far as it has come. As a command:
experiments/size_report.py. After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893), section IV; see docs/smallest_actor.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decouple.checks import all_of, at_least, check_fields, check_setting
from decouple.deploy.export import A_WHILE
from decouple.runs.curves import save_figure
from decouple.runs.files import replace_file
from decouple.studies.actor_size.figures import diagnosis_figure, pareto_figure, sizes_figure, training_figure
from decouple.studies.actor_size.latency import available_runtimes, read_latency, study_latency
from decouple.studies.actor_size.play_strips import study_strips
from decouple.studies.actor_size.results import SizeStudy, cells_csv, cells_markdown, read_studies
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.study import (
    csv_table,
    markdown_table,
    old_searches,
    read_paper,
    read_paper_parameters,
    table_rows,
)
from decouple.studies.actor_size.table_one_figures import relative_figure, table_figure
from decouple.studies.actor_size.trials import return_text, size_name
from decouple.studies.actor_size.unit_use import study_units

__all__ = ["SizeReport", "size_report"]

DPI = 110
PICTURES = {  # picture of a study -> function that draws it, and title
    "training": (training_figure, "Figure 5: value loss and return over training"),
    "sizes": (sizes_figure, "The same against the size of the critic, then of the actor"),
    "pareto": (pareto_figure, "What a return costs"),
    "diagnosis": (diagnosis_figure, "Bias of the critics, and their overfit"),
}
AT_PLAY = (
    "An episode of the best seed of each, from its first frame to its last, with its return; both begin alike. One "
    "episode shows what an agent does, and not how well it does it in the mean."
)


@dataclass
class SizeReport:
    """Settings of the report: its study, and the latencies to measure."""

    run_dir: str = "runs/smallest_actor"  # the study's folder, which holds cells.sqlite
    output: str | None = None  # the report's folder; None: report in run_dir
    latency: str = "missing"  # latencies to measure: missing (those that latency.csv lacks), again (all) or none
    batch_sizes: list[int] = field(default_factory=lambda: [1, 64])  # batch sizes at which latency is measured
    seconds: float = 1.0  # seconds of calls that each latency is measured over
    strip_frames: int = 8  # frames of an episode shown of the baseline and of the smallest actor; 0: none
    units: bool = False  # true: measure dormant units and effective rank of each cell's networks too, in units.csv

    def __post_init__(self) -> None:
        check_fields(self, batch_sizes=all_of(at_least(1), least=1), seconds=A_WHILE, strip_frames=at_least(0))
        allowed = ("missing", "again", "none")
        check_setting("latency", self.latency, allowed.__contains__, "missing, again or none")


def size_report(config: SizeReport) -> Path:
    """Write the report; returns the path of report.md.

    Raises:
        FileNotFoundError: no store in `run_dir`.
    """
    store_path = Path(config.run_dir) / "cells.sqlite"
    if not store_path.exists():
        raise FileNotFoundError(f"{store_path} is not there: no search has run in {config.run_dir}")
    store, folder = CellStore(store_path), Path(config.output or f"{config.run_dir}/report")
    folder.mkdir(parents=True, exist_ok=True)
    rows, studies = table_rows(store.searches(), read_paper()), read_studies(store)
    left_out: list[str] = []
    latency = latencies(config, studies, folder / "latency.csv", left_out)
    if config.units:
        study_units(studies, folder / "units.csv", left_out=left_out.append)

    replace_file(folder / "table_1.md", f"{markdown_table(rows)}\n".encode())
    replace_file(folder / "table_1.csv", csv_table(rows))
    replace_file(folder / "cells.csv", cells_csv(studies))
    save_figure(table_figure(rows), folder / "table_1.png", DPI)
    found = any(row["source"] == "here" for row in rows)
    if found:
        save_figure(relative_figure(rows, read_paper_parameters()), folder / "figure_4.png", DPI)
    sections = ["\n".join(f"- {text}" for text in old)] if (old := old_searches(store.searches())) else []
    for name, study in names_of(studies).items():
        sections.append(study_section(study, name, latency, folder, config.strip_frames))
    path = folder / "report.md"
    replace_file(path, "\n\n".join([head_section(found, left_out), *sections, ""]).encode())
    return path


def latencies(
    config: SizeReport, studies: Sequence[SizeStudy], path: Path, left_out: list[str]
) -> list[dict[str, Any]]:
    """All latencies, after measuring those that are asked for; adds errors of damaged checkpoints to `left_out`."""
    if config.latency == "none":
        return read_latency(path)
    options: dict[str, Any] = {"batch_sizes": config.batch_sizes, "seconds": config.seconds}
    options["left_out"] = left_out.append
    return study_latency(studies, path, runtimes=available_runtimes(), again=config.latency == "again", **options)


def names_of(studies: Sequence[SizeStudy]) -> dict[str, SizeStudy]:
    """Name for a study's files -> study: pendulum_td3, with the settings' key where several have that name."""
    plain = [f"{study.task.replace('/', '_')}_{study.algorithm}" for study in studies]
    several = {name for name, count in Counter(plain).items() if count > 1}
    return {f"{n}_{s.key}" if n in several else n: s for n, s in zip(plain, studies, strict=True)}


def head_section(found: bool, left_out: Sequence[str]) -> str:
    """The section with Table I and figure 4, and the checkpoints that could not be read."""
    lines = ["# Actor sizes", "## Table I, ours beside the paper's", "![Table I](table_1.png)"]
    lines.append("As text: [table_1.md](table_1.md), [table_1.csv](table_1.csv). Every cell: [cells.csv](cells.csv).")
    if left_out:
        lines.append("Damaged checkpoints, of which no latency or use of units could be taken:")
        lines.append("\n".join(f"- {text}" for text in left_out))
    if not found:
        return "\n\n".join(
            [*lines, "No search is done yet: Table I has the paper's rows alone, and there is no figure 4."]
        )
    return "\n\n".join([*lines, "## Figure 4: sizes and returns, ours and the paper's", "![Figure 4](figure_4.png)"])


def study_section(
    study: SizeStudy, name: str, latency: Sequence[dict[str, Any]], folder: Path, strip_frames: int = 0
) -> str:
    """The pictures of a task and an algorithm, written to the folder, and the text around them."""
    lines = [f"## {study.task}, {study.algorithm.upper()}"]
    if study.search is not None:
        lines.append(outcome(study))
    for kind, (draw, text) in PICTURES.items():
        figure, path = draw(study, latency) if kind == "pareto" else draw(study), folder / f"{kind}_{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        save_figure(figure, path, DPI)
        lines.append(f"### {text}\n\n![{text}]({path.name})")
    lines += strips_section(study, folder / f"strips_{name}.png", strip_frames)
    lines.append(f"### Its cells\n\n{cells_markdown(study)}")
    notes = [*(study.search["notes"] if study.search else ()), *study.missing()]
    key = study.task, study.algorithm, study.key
    own = (row for row in latency if (row["task"], row["algorithm"], row["settings"]) == key)
    if len(machines := sorted({row["platform"] for row in own})) > 1:
        notes.append(f"Latencies are of several machines, between which they do not compare: {'; '.join(machines)}.")
    return "\n\n".join([*lines, "### What to know of it, and what is not there", "\n".join(f"- {n}" for n in notes)])


def strips_section(study: SizeStudy, path: Path, frames: int) -> list[str]:
    """The part with an episode of the baseline and of the smallest actor; empty without a search, or without frames."""
    strips = study_strips(study, frames) if frames and study.search else None
    if strips is None or strips.figure is None:
        path.unlink(missing_ok=True)
    if strips is None or not (strips.figure or strips.not_drawn):
        return []
    lines = ["### At play"]
    if strips.figure is not None:
        save_figure(strips.figure, path, DPI)
        lines += [f"![At play]({path.name})", AT_PLAY]
    return [*lines, *(f"- {text}" for text in strips.not_drawn)]


def outcome(study: SizeStudy) -> str:
    """What the search found, in a sentence or two."""
    search = study.search or {}
    text = f"Threshold {return_text(search['threshold'])}, accepted from {return_text(search['bound'])} on. "
    if search.get("measure") == "maximum":
        text += (
            "What was compared is the largest return that each seed reached in training, as in Table I's footnote d; "
            "the pictures and the table of cells have returns after training. "
        )
    best = search["asymmetric"]
    if best is None:
        return text + "No size that was tried is accepted."
    actor, critic = size_name(best["actor"]), size_name(best["critic"])
    return (
        text
        + f"The smallest actor: `{actor}` beside a critic `{critic}`, with a return of {return_text(best['mean'])}."
    )
