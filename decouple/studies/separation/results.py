"""The separation study as its run folders hold it: which runs there are, which are whole, and what they scored.

    study = read_study(find_runs("runs/procgen"), protocol="controlled")
    study.scores("test_return")["late"]["plunder"]      # the score of each finished run, by rising seed
    print(*study.notes, sep="\\n")                       # what was left out, and why

A run is a folder that `experiments/procgen.py` wrote (docs/procgen.md). Nothing is averaged here, and no run is put
beside one of other settings: what does not fit is refused, by the names of the folders.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import os
import statistics as stdlib_statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from decouple.checks import Must, checked
from decouple.networks.separation import separation_index
from decouple.runs.files import read_json, read_yaml
from decouple.runs.metrics import read_metrics, read_result
from decouple.runs.performance import Performance

__all__ = ["Cost", "Run", "Study", "find_runs", "read_run", "read_study"]

DEPTH = 4  # of the IMPALA-CNN's list of blocks
FILES = ("config.yaml", "metrics.csv", "record.json", "result.json", "checkpoint.pt")  # of a run's folder
NAMES = ("shared", "late", "early", "full")

# Settings in which two seeds of one variant on one game may differ: where and how they were computed, not what.
_NOT_COMPARED = {
    *("seed", "run_dir", "tracker", "mode", "evaluate", "num_threads", "performance", "checkpoint_every", "env"),
    *({field.name for field in dataclasses.fields(Performance)} - {"precision"}),
}
# Settings in which no two runs of a study may differ: they are the task and how it is measured.
_OF_THE_STUDY = (
    *("total_frames", "num_envs", "rollout_steps", "gamma", "num_levels", "start_level", "distribution_mode"),
    *("evaluate_every", "evaluate_episodes", "final_episodes", "unseen", "precision"),
)


@dataclass(frozen=True)
class Run:
    """One run, as its folder holds it."""

    folder: Path
    config: Mapping[str, Any]  # its settings
    curves: Mapping[str, list[float]]  # of metrics.csv: column -> values, nan where a row has none
    result: Mapping[str, Any]  # of result.json, None for what failed; empty where there is none
    session: Mapping[str, Any]  # of record.json: the last start of the run; empty where there is none

    @property
    def game(self) -> str:
        """The game it was trained on."""
        return str(self.config["env"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def k(self) -> int:
        """How many of the policy's blocks the value network uses."""
        return separation_index(self.config["separation"], DEPTH)

    @property
    def facts(self) -> Mapping[str, str]:
        """What the run said of itself: backend, parameters, multiply-adds."""
        return self.session.get("facts", {})

    @property
    def frames(self) -> int:
        """How far it came, in environment frames."""
        return int(self.curves["frames"][-1]) if self.curves["frames"] else 0

    @property
    def unfinished(self) -> str | None:
        """Why it counts as not finished; None for one that is."""
        wanted = self.config["total_frames"]
        if self.failed:
            return self.failed
        if self.frames < wanted:
            return f"stopped at {self.frames:,} of {wanted:,} frames"
        if not self.result:
            return f"no result.json: its final evaluation is missing, at {self.frames:,} frames"
        if self.result["frames"] < wanted:
            return f"its result.json is of {int(self.result['frames']):,} of {wanted:,} frames"
        episodes = self.config.get("final_episodes")
        measured = self.result.get("final/episodes")
        if None not in (episodes, measured) and measured != episodes:
            return f"its result.json is of {int(measured):,} episodes, its settings of {episodes:,}"
        # The last iteration may go beyond what was asked for; a run that was longer once is another one.
        iteration = self.config.get("num_envs", 1) * self.config.get("rollout_steps", wanted)
        if max(self.frames, self.result["frames"]) >= wanted + iteration:
            return f"trained for {self.frames:,} frames, where its settings say {wanted:,}"
        return None

    @property
    def failed(self) -> str | None:
        """Why it has no score, where its result.json says that it failed; None for any other."""
        if self.result.get("final/test_return", 0) is not None:
            return None
        reasons = self.result.get("failed")
        why = "; ".join(map(str, reasons.values())) if isinstance(reasons, dict) else ""
        return f"failed after {self.frames:,} frames: {why or 'the return in its result.json is null or not finite'}"

    @checked()
    def final(self, metric: str) -> float | None:
        """A metric of the final evaluation, as `test_return`; None where it was not measured."""
        return self.result.get(f"final/{metric}", self.result.get(f"eval/{metric}"))

    @checked()
    def curve(self, metric: str) -> dict[int, float]:
        """frames -> a metric of `metrics.csv`, where it was measured."""
        values = self.curves.get(metric, [])
        frames = map(int, self.curves["frames"])
        return {at: value for at, value in zip(frames, values, strict=False) if not math.isnan(value)}


@dataclass(frozen=True)
class Cost:
    """What a variant costs. What its runs did not record is None."""

    parameters: int | None
    multiply_adds: int | None  # of policy and value, for one frame
    acting_multiply_adds: int | None  # of the policy alone, as it is shipped
    frames_per_second: float | None  # median over runs of each run's median over iterations
    frames_per_second_range: tuple[float, float] | None  # over runs
    machines: tuple[str, ...]  # where these were measured


@dataclass(frozen=True)
class Study:
    """Runs of one protocol that can be set beside each other."""

    protocol: str
    runs: Mapping[tuple[str, str], list[Run]]  # (variant, game) -> its runs, finished or not, by rising seed
    elsewhere: tuple[str, ...]  # what else was found where runs were looked for, and is no run of this study
    damaged: tuple[str, ...] = ()  # of each folder that could not be read: the file, and what is wrong with it

    @cached_property
    def variants(self) -> list[str]:
        """From the most shared to the least."""
        ks = {variant: runs[0].k for (variant, _), runs in self.runs.items()}
        return sorted(ks, key=lambda variant: (-ks[variant], variant))

    @cached_property
    def games(self) -> list[str]:
        """By name."""
        return sorted({game for _, game in self.runs})

    @checked()
    def finished(self, variant: str, game: str) -> list[Run]:
        """The finished runs of a variant on a game; none where there is none."""
        return [run for run in self.runs.get((variant, game), []) if not run.unfinished]

    @checked()
    def scores(self, metric: str = "test_return") -> dict[str, dict[str, list[float]]]:
        """Variant -> game -> the metric's final value of each finished run that has it, by rising seed.

        A variant or a game without any is not in it.
        """
        table: dict[str, dict[str, list[float]]] = {}
        for variant in self.variants:
            for game in self.games:
                values = [run.final(metric) for run in self.finished(variant, game)]
                if found := [value for value in values if value is not None]:
                    table.setdefault(variant, {})[game] = found
        return table

    def common_games(self) -> list[str]:
        """The games that every variant with a finished run has one of."""
        return sorted(set.intersection(*(set(games) for games in self.scores().values()))) if self.scores() else []

    @checked()
    def has(self, metric: str) -> bool:
        """Whether any run has measured it: in training (`eval/...`) or at its end."""
        runs = [run for runs in self.runs.values() for run in runs]
        return any(run.curve(f"eval/{metric}") or run.final(metric) is not None for run in runs)

    @checked()
    def runs_of(self, variant: str) -> list[Run]:
        """All runs of a variant, finished or not, on whatever game."""
        return [run for (name, _), runs in self.runs.items() if name == variant for run in runs]

    @checked()
    def cost(self, variant: str) -> Cost:
        """What a variant costs, counted and timed in its own runs."""
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
            machines=tuple(sorted({_machine(run) for run in runs})),
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
            found = sum(map(len, self.runs.values())) + len(self.damaged)
            notes.append(f"Damaged, and left out: {len(self.damaged)} of {found} runs. The files, and what they hold:")
        return [*notes, *self.damaged, *self.elsewhere]

    @cached_property
    def differing_settings(self) -> list[dict[str, str]]:
        """The settings in which variants differ, a row each: `setting`, and variant -> its value.

        A setting that a variant has differently from game to game is shown by all its values.
        """
        rows = []
        for name in sorted({name for runs in self.runs.values() for name in runs[0].config} - _NOT_COMPARED):
            values = {
                variant: sorted({str(runs[0].config.get(name)) for (of, _), runs in self.runs.items() if of == variant})
                for variant in self.variants
            }
            if name != "separation" and len({tuple(value) for value in values.values()}) > 1:
                rows.append({"setting": name, **{variant: " or ".join(value) for variant, value in values.items()}})
        return rows


@checked(where=Must(lambda where: isinstance(where, Path) or len(where), "not empty"))
def find_runs(where: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders of runs in a folder or by a glob, at any depth: those that hold a config.yaml and a metrics.csv.

    What may be left of a run is found too, so that it is missed by name: a folder with another of a run's files, and
    an empty one. Hidden folders, and what a run keeps below its own folder, are not.

    Raises:
        FileNotFoundError: there are none.
    """
    patterns = [where] if isinstance(where, str | os.PathLike) else list(where)
    roots = [Path(found) for pattern in patterns for found in glob.glob(str(pattern), recursive=True)]
    folders = {folder.resolve(): folder for root in roots for folder in _folders(root)}
    if not folders:
        raise FileNotFoundError(f"runs must be a folder or a glob with runs in it; none in {list(map(str, patterns))}")
    return sorted(folders.values())


def _folders(folder: Path, below_a_run: bool = False) -> Iterator[Path]:
    """The folders of runs, whole or not, from this one on."""
    if not folder.is_dir():
        return
    entries = sorted(folder.iterdir())
    has = {entry.name for entry in entries} & set(FILES)
    if {"config.yaml", "metrics.csv"} <= has or (not below_a_run and (has or not entries)):
        yield folder
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _folders(entry, below_a_run or bool(has))


@checked()
def read_run(folder: str | os.PathLike[str]) -> Run:
    """A run's folder, finished or not.

    Raises:
        FileNotFoundError: no config.yaml or no metrics.csv in it.
        ValueError: not written by `experiments/procgen.py`, or damaged; the message names the file.
    """
    folder = Path(folder)
    config = read_yaml(folder / "config.yaml")
    needed = "env", "separation", "protocol", "seed", "total_frames"
    if any(name not in config for name in needed):
        raise ValueError(f"{folder} must be a run of experiments/procgen.py, with the settings {', '.join(needed)}")
    _check_config(folder / "config.yaml", config)
    result = read_result(folder / "result.json")
    if result and "final/test_return" not in result:
        raise ValueError(f"{folder / 'result.json'} must hold final/test_return; got {', '.join(result)}")
    return Run(folder, config, read_metrics(folder), result, _last_session(folder / "record.json"))


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings that no run can have had, so that nothing stumbles over them later."""
    for name in ("seed", "total_frames", "num_envs", "rollout_steps", "final_episodes"):
        value = config.get(name)
        if name in config and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{path} must hold a whole number as {name}; got {value!r}")
    try:
        separation_index(config["separation"], DEPTH)
    except ValueError as error:
        raise ValueError(f"{path} must hold a degree of separation; {error}") from error


def _last_session(path: Path) -> Mapping[str, Any]:
    """What record.json says of the last start; empty where there is none."""
    sessions = read_json(path).get("sessions", [])
    session = sessions[-1] if isinstance(sessions, list) and sessions else {}
    if not isinstance(sessions, list) or not isinstance(session, dict):
        raise ValueError(f"{path} must hold a list of sessions; got {str(sessions)[:40]}")
    facts = session.get("facts", {})
    if not isinstance(facts, dict) or not all(isinstance(text, str) for text in facts.values()):
        raise ValueError(f"{path} must hold facts as texts; got {str(facts)[:40]}")
    for name, parts in (("parameters", ["total"]), ("multiply_adds_per_frame", ["trunk", "policy", "total"])):
        try:
            counts = json.loads(facts.get(name, "{}"))
            whole = name not in facts or all(isinstance(counts[part], int) for part in parts)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(f"{path} must hold {name} with counts of {', '.join(parts)}; got {facts[name]!r}")
    return session


@checked(folders=Must(lambda folders: not isinstance(folders, Sequence) or len(folders), "not empty"))
def read_study(folders: Iterable[str | os.PathLike[str]], protocol: str | None = None) -> Study:
    """The runs of one protocol, grouped by degree of separation, game and seed.

    A separation given by an integer goes by the name of the degree that has the same k and the same settings, where
    there is such a run of the same game, and else by `k=<k>`.

    Args:
        folders: of runs; those of other experiments are noted in `elsewhere`, those that cannot be read in `damaged`.
        protocol: which, where there are several.

    Raises:
        ValueError: no run that can be read, several protocols and none chosen, two runs of one game, variant and seed,
            or runs that cannot be compared because their settings differ.
    """
    runs, elsewhere, damaged = [], [], []
    for folder in map(Path, folders):
        try:
            if not any((folder / name).exists() for name in FILES):
                raise FileNotFoundError(f"{folder} holds none of a run's files")
            if "protocol" in read_yaml(folder / "config.yaml"):
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
        raise ValueError(f"runs must hold a run of protocol {protocol or 'any'}; got those of {protocols}")
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

    def settings(run: Run) -> str:
        compared = {name: value for name, value in run.config.items() if name not in _NOT_COMPARED}
        return json.dumps([run.game, run.k, {**compared, "separation": None}], sort_keys=True)

    named = {settings(run): run.config["separation"] for run in runs if run.config["separation"] in NAMES}
    return [named.get(settings(run), f"k={run.k}") for run in runs]


def _check_same(what: str, runs: Sequence[Run], settings: Iterable[str]) -> None:
    """Refuse runs that differ in a setting, where they have it, or in the package of their games."""

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
    """Refuse a seed that is there twice."""
    seen: dict[int, Run] = {}
    for run in runs:
        if run.seed in seen:
            raise ValueError(
                f"a run must be there once: {variant} on {game}, seed {run.seed}, is in {seen[run.seed].folder} and in "
                f"{run.folder}; leave one of them out of runs"
            )
        seen[run.seed] = run


def _machine(run: Run) -> str:
    """Where and how a run was computed, as far as it says."""
    where = run.session.get("platform", "machine not recorded")
    processors = run.session.get("cpu_count")
    how = [run.config.get(name) for name in ("device", "precision")]
    parts = [where, f"{processors} processors" if processors else None, *how]
    return ", ".join(str(part) for part in parts if part)
