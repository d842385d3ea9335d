"""A search's agents at play, as a picture of its report: the baseline's, and that of the smallest actor.

strips = study_strips(study, frames=8)
save_figure(strips.figure, Path("strips.png"), 110)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from decouple.analysis.film import Film
from decouple.analysis.strips import strip_figure
from decouple.checks import at_least, checked
from decouple.runs.files import read_yaml
from decouple.studies.actor_size.results import SizeCell, SizeStudy
from decouple.studies.actor_size.stage import agent_film
from decouple.studies.actor_size.trials import size_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Strips", "study_strips"]

STEPS = 500  # most steps of an episode in a strip


class Strips(NamedTuple):
    """A row of frames of each agent that can be drawn, and a sentence on each that cannot."""

    figure: Figure | None
    not_drawn: list[str]


@checked(frames=at_least(1))
def study_strips(study: SizeStudy, frames: int) -> Strips:
    """An episode of the baseline, and one of the smallest actor that a search has accepted; the best seed of each.

    Both meet the same episode, without exploration.

    Args:
        study: a study; nothing is drawn of one without a search that is done.
        frames: most frames of a row.
    """
    films, not_drawn = {}, []
    for name, cell in _shown(study).items():
        try:
            films[name] = _film(cell)
        except (ValueError, OSError, ImportError) as error:
            not_drawn.append(f"{name.replace(chr(10), ' ')} is not drawn: {error}")
    return Strips(strip_figure(films, frames=max(2, frames)) if films else None, not_drawn)


def _shown(study: SizeStudy) -> dict[str, SizeCell]:
    """Name of an agent -> its cell; the smallest actor's is left out if it is the baseline's, or none is accepted."""
    search = study.search or {}
    cells = {(cell.actor, cell.critic): cell for cell in study.cells}
    found = {}
    for name, key in (("baseline", "baseline"), ("smallest actor", "asymmetric")):
        trial = search.get(key)
        cell = trial and cells.get((tuple(trial["actor"]), tuple(trial["critic"])))
        if cell and cell not in found.values():
            found[f"{name}\n{size_name(cell.actor)}"] = cell
    return found


def _film(cell: SizeCell) -> Film:
    """An episode of the seed of a cell with the highest return, of those whose checkpoints are here."""
    returns = cell.measures["return"]
    places: dict[int, Path] = {}
    for folder in cell.folders:
        config = read_yaml(folder / "config.yaml")
        places |= {seed: folder for seed in range(config["seed"], config["seed"] + config["seeds"]) if seed in returns}
    if not places:
        raise FileNotFoundError("no checkpoint of it is here")
    seed = max(places, key=lambda seed: returns[seed])
    return agent_film(places[seed], seed, STEPS)
