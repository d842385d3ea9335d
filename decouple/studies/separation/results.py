"""The separation study, read from its run folders: its runs, which of them are finished, and their scores.

    study = read_study(find_runs("runs/procgen"), protocol="controlled")
    study.scores("test_return")["late"]["plunder"]      # the score of each finished run, by rising seed
    print(*study.notes, sep="\\n")                       # what was left out, and why

Nothing is averaged here. Runs whose settings differ are refused, with the names of their folders.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics as stdlib_statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from decouple.checks import Must, checked
from decouple.networks.separation import NAMES
from decouple.runs.files import read_yaml
from decouple.runs.loggers import OF_THE_RECORD
from decouple.runs.performance import Performance
from decouple.studies.separation.run_folders import FILES, Run, read_run

__all__ = ["Cost", "Study", "read_study"]

# Settings in which two seeds of one variant on one game may differ: where and how they were computed, not what.
_NOT_COMPARED = {
    *("seed", "run_dir", "evaluate", "num_threads", "performance", "checkpoint_every", "env", "video", *OF_THE_RECORD),
    *({field.name for field in dataclasses.fields(Performance)} - {"precision"}),
}
# Settings in which no two runs of a study may differ: they are the task and how it is measured.
_OF_THE_STUDY = (
    *("total_frames", "num_envs", "rollout_steps", "gamma", "num_levels", "start_level", "distribution_mode"),
    *("evaluate_every", "evaluate_episodes", "final_episodes", "unseen", "precision"),
)


@dataclass(frozen=True)
class Cost:
    """Costs of a variant; None where its runs did not record them."""

    parameters: int | None
    multiply_adds: int | None  # multiply-adds per frame, policy and value network
    acting_multiply_adds: int | None  # multiply-adds per frame of the policy alone, as deployed
    frames_per_second: float | None  # median over runs of each run's median over iterations
    frames_per_second_range: tuple[float, float] | None  # slowest and fastest run
    machines: tuple[str, ...]  # machines that the frames per second were measured on


@dataclass(frozen=True)
class Study:
    """Runs of one protocol that can be compared."""

    protocol: str
    runs: Mapping[tuple[str, str], list[Run]]  # (variant, game) -> its runs, finished or not, by rising seed
    elsewhere: tuple[str, ...]  # notes on folders and runs found that do not belong to this study
    damaged: tuple[str, ...] = ()  # errors of folders that could not be read: the file, and its fault
    measure: str = "test_return"  # metric of the final evaluation that is a run's score

    @cached_property
    def variants(self) -> list[str]:
        """The variants, from the most shared to the least."""
        ks = {variant: runs[0].k for (variant, _), runs in self.runs.items()}
        return sorted(ks, key=lambda variant: (-ks[variant], variant))

    @cached_property
    def games(self) -> list[str]:
        """The games, sorted by name."""
        return sorted({game for _, game in self.runs})

    @checked()
    def finished(self, variant: str, game: str) -> list[Run]:
        """The finished runs of a variant on a game; none where there is none."""
        return [run for run in self.runs.get((variant, game), []) if not run.unfinished]

    @checked()
    def scores(self, metric: str | None = None) -> dict[str, dict[str, list[float]]]:
        """Variant -> game -> the metric's final value of each finished run that has it, by rising seed.

        A variant or a game without any is not in it. The metric is `measure` where none is given.
        """
        metric = metric or self.measure
        table: dict[str, dict[str, list[float]]] = {}
        for variant in self.variants:
            for game in self.games:
                values = [run.final(metric) for run in self.finished(variant, game)]
                if found := [value for value in values if value is not None]:
                    table.setdefault(variant, {})[game] = found
        return table

    @checked()
    def best_run(self, variant: str, game: str) -> Run | None:
        """The finished run of a variant on a game with the highest score; None where there is none."""
        scored = [run for run in self.finished(variant, game) if run.final(self.measure) is not None]
        return max(scored, key=lambda run: run.final(self.measure) or 0.0, default=None)

    def common_games(self) -> list[str]:
        """The games on which every variant has a finished run; variants without any finished run do not count."""
        return sorted(set.intersection(*(set(games) for games in self.scores().values()))) if self.scores() else []

    @checked()
    def has(self, metric: str) -> bool:
        """Whether any run has measured the metric: in training (`eval/...`) or at its end."""
        runs = [run for runs in self.runs.values() for run in runs]
        return any(run.curve(f"eval/{metric}") or run.final(metric) is not None for run in runs)

    @checked()
    def runs_of(self, variant: str) -> list[Run]:
        """All runs of a variant, finished or not, on whatever game."""
        return [run for (name, _), runs in self.runs.items() if name == variant for run in runs]

    @checked()
    def cost(self, variant: str) -> Cost:
        """Costs of a variant, counted and timed in its own runs."""
        runs = self.runs_of(variant)
        counted = {
            name: next((json.loads(run.facts[name]) for run in runs if name in run.facts), {})
            for name in ("parameters", "multiply_adds_per_frame")
        }
        work = counted["multiply_adds_per_frame"]
        rates = [
            stdlib_statistics.median(rate.values()) for run in runs if (rate := run.curve("time/frames_per_second"))
        ]
        return Cost(
            parameters=counted["parameters"].get("total"),
            multiply_adds=work.get("total"),
            acting_multiply_adds=work["trunk"] + work["policy"] if work else None,
            frames_per_second=stdlib_statistics.median(rates) if rates else None,
            frames_per_second_range=(min(rates), max(rates)) if rates else None,
            machines=tuple(sorted({machine for run in runs for machine in _machines(run)})),
        )

    @cached_property
    def notes(self) -> list[str]:
        """Sentences on what is not in the aggregates: unfinished runs, missing games, unequal seeds, damaged runs."""
        notes = [
            f"{'Failed' if run.failed else 'Unfinished'}, in the curves alone (dashed): {variant} on {run.game}, "
            f"seed {run.seed}: {run.unfinished}."
            for (variant, _), runs in sorted(self.runs.items())
            for run in runs
            if run.unfinished
        ]
        if failed := sum(bool(run.failed) for runs in self.runs.values() for run in runs):
            notes.append(f"Failed: {failed} of {sum(map(len, self.runs.values()))} runs. Means are over the others.")
        scores = self.scores()
        for variant in self.variants:
            if variant not in scores:
                notes.append(f"{variant} has no finished run: it is in no aggregate.")
                continue
            if missing := [game for game in self.games if game not in scores[variant]]:
                notes.append(f"{variant} has no finished run on {', '.join(missing)}.")
        if left_out := [game for game in self.games if game not in self.common_games()]:
            notes.append(
                f"Not in the aggregates, since not every variant has a finished run there: {', '.join(left_out)}."
            )
        counts = sorted({len(runs) for games in scores.values() for runs in games.values()})
        if len(counts) > 1:
            notes.append(
                f"The number of finished runs is not the same for every game and variant: {counts[0]} to {counts[-1]}. "
                "Every game has the same weight, and each run the same within its game."
            )
        if counts[:1] == [1]:
            notes.append("Where there is one run only, nothing can be resampled, so what includes it has no interval.")
        if self.damaged:
            folders = {run.folder for runs in self.runs.values() for run in runs}  # of one run, or of a batch of seeds
            found = len(folders) + len(self.damaged)
            notes.append(f"Damaged, and left out: {len(self.damaged)} of {found} runs. The files, and what they hold:")
        return [*notes, *self.damaged, *self.elsewhere]

    @cached_property
    def differing_settings(self) -> list[dict[str, str]]:
        """The settings in which variants differ, a row each: `setting`, and variant -> its value.

        A setting that differs between a variant's games is shown with all its values. Runs that are older than a
        setting differ from none in it.
        """
        rows = []
        for name in sorted({name for runs in self.runs.values() for name in runs[0].config} - _NOT_COMPARED):
            values: dict[str, set[str]] = {variant: set() for variant in self.variants}
            for (variant, _), runs in self.runs.items():
                values[variant] |= {str(run.config[name]) for run in runs if name in run.config}
            told = {variant: " or ".join(sorted(own)) for variant, own in values.items()}
            if name != "separation" and len({*told.values()} - {""}) > 1:
                rows.append({"setting": name, **told})
        return rows


@checked(folders=Must(lambda folders: not isinstance(folders, Sequence) or len(folders), "not empty"))
def read_study(folders: Iterable[str | os.PathLike[str]], protocol: str | None = None) -> Study:
    """The runs of one protocol, grouped by degree of separation, game and seed.

    A separation given by an integer goes by the name of the degree that has the same k and the same settings, where
    there is such a run of the same game, and else by `k=<k>`.

    Args:
        folders: run folders; other experiments' are noted in `elsewhere`, those that cannot be read in `damaged`.
        protocol: the protocol to read; None: the only one there is.

    Raises:
        ValueError: no run that can be read, several protocols and none chosen, two runs of one game, variant and seed,
            or runs that cannot be compared because their settings differ.
    """
    runs, elsewhere, damaged = [], [], []
    for folder in map(Path, folders):
        try:
            if not any((folder / name).exists() for name in FILES):
                raise FileNotFoundError(f"{folder} holds none of a run's files")
            config = read_yaml(folder / "config.yaml")
            if config.get("separation") == "learned" or (folder.parent / "learned.csv").exists():
                elsewhere.append(f"Of a learned separation: {folder}.")
            elif "protocol" in config:
                runs.append(read_run(folder))
            else:
                elsewhere.append(f"Not a run of this study: {folder}.")
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    if damaged and not runs:
        first = "runs must hold a run that can be read; all that were found are damaged:"
        raise ValueError("\n".join([first, *damaged]))
    protocols = sorted({str(run.config["protocol"]) for run in runs})
    if protocol is None and len(protocols) > 1:
        raise ValueError(f"runs of several protocols are not put together; set protocol to one of {protocols}")
    chosen = [run for run in runs if protocol in (None, run.config["protocol"])]
    if not chosen:
        raise ValueError(f"runs (folders) must hold a run of protocol {protocol or 'any'}; got those of {protocols}")
    if len(chosen) < len(runs):
        others = ", ".join(name for name in protocols if name != protocol)
        elsewhere.append(f"{len(runs) - len(chosen)} of the runs found are of other protocols and left out: {others}.")
    _check_same("study", chosen, _OF_THE_STUDY)
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run, variant in zip(chosen, _variants(chosen), strict=True):
        grouped.setdefault((variant, run.game), []).append(run)
    for (variant, game), group in grouped.items():
        names = dict.fromkeys(name for run in group for name in run.config if name not in _NOT_COMPARED)
        _check_same(f"{variant} on {game}", group, names)
        _check_distinct(variant, game, group)
    ordered = {key: sorted(group, key=lambda run: run.seed) for key, group in grouped.items()}
    return Study(str(chosen[0].config["protocol"]), ordered, tuple(elsewhere), tuple(damaged))


def _variants(runs: Sequence[Run]) -> list[str]:
    """The name of each run's degree of separation."""

    named: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.config["separation"] in NAMES:
            named.setdefault((run.game, run.k), []).append(run)

    def name(run: Run) -> str:
        if run.config["separation"] in NAMES:
            return run.config["separation"]
        alike = (other for other in named.get((run.game, run.k), []) if _alike(run.config, other.config))
        return next((other.config["separation"] for other in alike), f"k={run.k}")

    return [name(run) for run in runs]


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two runs have the same in all settings that are compared and that both have."""
    return all(a[name] == b[name] for name in (a.keys() & b.keys()) - _NOT_COMPARED - {"separation"})


def _check_same(what: str, runs: Sequence[Run], settings: Iterable[str]) -> None:
    """Raise ValueError for runs that differ in a setting that they have, or in the package of their games."""

    def refuse_differing(name: str, value_of: Callable[[Run], str | None]) -> None:
        by_value: dict[str, Run] = {}
        for run in runs:
            if (value := value_of(run)) is not None:
                by_value.setdefault(value, run)
        if len(by_value) > 1:
            got = "; ".join(f"{value} in {run.folder}" for value, run in by_value.items())
            raise ValueError(f"runs of different settings are not put together ({what}): {name} is {got}")

    for name in settings:
        if name != "separation":
            refuse_differing(name, lambda run, name=name: repr(run.config[name]) if name in run.config else None)
    refuse_differing("backend", lambda run: run.facts.get("backend", "").split(" ")[0] or None)


def _check_distinct(variant: str, game: str, runs: Sequence[Run]) -> None:
    """Raise ValueError for a seed that occurs twice."""
    seen: dict[int, Run] = {}
    for run in runs:
        if run.seed in seen:
            raise ValueError(
                f"runs must each be there once: {variant} on {game}, seed {run.seed}, is in {seen[run.seed].folder} "
                f"and in {run.folder}; leave one of them out of runs"
            )
        seen[run.seed] = run


def _machines(run: Run) -> list[str]:
    """The machines of a run's sessions with its device and precision, as far as it recorded them."""
    how = [str(run.config[name]) for name in ("device", "precision") if run.config.get(name)]
    return [", ".join([where, *how]) for where in run.platforms or ["machine not recorded"]]
