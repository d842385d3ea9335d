"""The section of a study's page on what the branches learn: gradients at the cut, similarity and rank of features.

    sections = branch_section(study, configs[0], out, window=3)     # empty where no run has measured its branches

The numbers are those of runs with `measure_branches=true` (`decouple.studies.actor_size.branches`), and the cosines at
the cut that every run logs where policy and value both send a gradient over it.
"""

from __future__ import annotations

import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from typing import Any

from decouple.checks import at_least, checked
from decouple.studies.actor_size.branches import CKA, RANKS, SHARES, STATES
from decouple.studies.actor_size.results import last_tenth
from decouple.studies.actor_size.settings import ControlSettings
from decouple.studies.separation.figures import curve_figure
from decouple.studies.separation.page import Section
from decouple.studies.separation.report import Output
from decouple.studies.separation.results import Study
from decouple.studies.separation.tables import Spread, Table

__all__ = ["branch_section"]

# Metric -> its column in tables, its axis, and what its picture shows.
SHOWN = {
    CKA: ("CKA", "linear CKA", "Similarity of the last hidden features of the two branches (linear CKA)."),
    RANKS[0]: ("policy rank", "effective rank (directions)", "Effective rank of the policy's last hidden features."),
    RANKS[1]: ("value rank", "effective rank (directions)", "Effective rank of the value's last hidden features."),
}
IN_TABLES = {name: head for name, (head, _, _) in SHOWN.items()} | {
    SHARES[0]: "policy rank / width",
    SHARES[1]: "value rank / width",
}


@checked(window=at_least(1))
def branch_section(study: Study, config: ControlSettings, out: Output, window: int) -> list[Section]:
    """The section, in a list; an empty one where no run has measured its branches.

    Args:
        study: the runs of the points of separation.
        config: settings of one of them.
        out: the page's folder, which gets the pictures, the last values as `branches.csv` and all as
            `branch_curves.csv`.
        window: evaluations averaged in a point of a curve.
    """
    logged = {name for runs in study.runs.values() for run in runs for name in run.curves if run.curve(name)}
    if not logged & IN_TABLES.keys():
        return []
    cosines = _cosines(logged)
    rollouts = window * getattr(config.learning, "evaluate_every", 1)  # a cosine is logged at each of them
    pictures = []
    for name, head in cosines.items():
        figure = curve_figure(study, name, window=rollouts, label="cosine")
        pictures.append(out.picture(_file(name), figure, f"{head.capitalize()}, the mean of {rollouts} rollouts."))
    for name, (_, axis, caption) in SHOWN.items():
        pictures.append(out.picture(_file(name), curve_figure(study, name, window=window, label=axis), caption))
    columns = cosines | IN_TABLES
    out.data(_curves(study, columns))
    text = (
        "The cosine is that of the two gradients that policy and value send over the cut, in the first minibatch of a "
        "rollout: below 0 they pull the trunk in opposite directions. At k = 0 there is no trunk, and none. CKA and "
        f"ranks are of the last hidden features, on {STATES} states of each agent's last rollout at each evaluation: "
        "CKA is 1 for the same features up to rotation and scale, and near 0 for unrelated ones; the effective rank is "
        "how many directions the features use. At the largest k, where the two networks are as deep, both branches "
        "read the trunk alone, so that CKA is 1 and the ranks are equal. Lines are means over the finished seeds, "
        "bands their standard deviation."
    )
    return [Section("What the branches learn", [text], [out.table(_last(study, columns))], pictures)]


def _cosines(logged: set[str]) -> dict[str, str]:
    """The columns of cosines at the cut, each with its head in tables."""
    names = sorted(name for name in logged if name.startswith("cut/"))
    phases = [name.removeprefix("cut/").removesuffix("_cosine") for name in names]
    alone = len(names) == 1
    return {
        name: "cosine at the cut" if alone else f"cosine at the cut, {phase} phase"
        for name, phase in zip(names, phases, strict=True)
    }


def _file(name: str) -> str:
    """The name of a metric's picture."""
    return name.replace("/", "_")


def _last(study: Study, columns: Mapping[str, str]) -> Table:
    """The measures' means over the last tenth of training, by point."""
    (game,) = study.games
    rows: list[dict[str, Any]] = []
    for point in study.variants:
        ends = {name: [_end(run.curve(name)) for run in study.finished(point, game)] for name in columns}
        found = {name: [value for value in values if value is not None] for name, values in ends.items()}
        rows.append({"point": point} | {head: _spread(found[name]) for name, head in columns.items()})
    caption = (
        "The same in the last tenth of training: mean ± standard deviation over seeds (number of seeds); rank / width "
        "is the share of the features' number."
    )
    return Table("branches", caption, rows)


def _curves(study: Study, columns: Mapping[str, str]) -> Table:
    """Every value of every seed."""
    rows = []
    for (point, _), runs in study.runs.items():
        for run in runs:
            curves = {head: run.curve(name) for name, head in columns.items()}
            head = {"point": point, "seed": run.seed, "finished": str(not run.unfinished).lower()}
            for frames in sorted(set().union(*curves.values())):
                rows.append(head | {"frames": frames} | {name: of.get(frames) for name, of in curves.items()})
    return Table("branch_curves", "What was measured of the branches during training.", rows)


def _end(curve: Mapping[int, float]) -> float | None:
    return last_tenth(list(curve), list(curve.values()))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    deviation = stdlib_statistics.stdev(values) if len(values) > 1 else float("nan")
    return Spread(stdlib_statistics.fmean(values), deviation, len(values))
