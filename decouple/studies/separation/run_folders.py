"""A run of the separation study, as its folder holds it.

    for folder in find_runs("runs/procgen"):
        run = read_run(folder)
        run.game, run.k, run.seed, run.unfinished, run.final("test_return")

A run is a folder that `experiments/procgen.py` wrote (docs/procgen.md).
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decouple.checks import Must, checked
from decouple.networks.separation import separation_index
from decouple.runs.files import named_places, read_json, read_yaml
from decouple.runs.metrics import read_metrics, read_result
from decouple.studies.separation.settings import shared_depth

__all__ = ["Run", "find_runs", "last_session", "platforms", "read_run"]

FILES = ("config.yaml", "metrics.csv", "record.json", "result.json", "checkpoint.pt")  # files of a run's folder


@dataclass(frozen=True)
class Run:
    """One run, as its folder holds it."""

    folder: Path
    config: Mapping[str, Any]  # its settings
    curves: Mapping[str, Sequence[float]]  # column of metrics.csv -> values, nan where a row has none
    result: Mapping[str, Any]  # content of result.json, None for what failed; empty where there is no file
    session: Mapping[str, Any]  # entry of record.json on the run's last start; empty where there is none
    depth: int = shared_depth(None, "both")  # number of blocks that the two networks can share
    platforms: Sequence[str] = ()  # machines that its sessions ran on; none where they are not recorded

    @property
    def game(self) -> str:
        """The game it was trained on."""
        return str(self.config["env"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def k(self) -> int:
        """How many of the policy's blocks the value network uses."""
        return separation_index(self.config["separation"], self.depth)

    @property
    def facts(self) -> Mapping[str, str]:
        """Facts that the run recorded: backend, parameters, multiply-adds."""
        return self.session.get("facts", {})

    @property
    def frames(self) -> int:
        """Environment frames of training."""
        return int(self.curves["frames"][-1]) if self.curves["frames"] else 0

    @property
    def unfinished(self) -> str | None:
        """Reason why the run counts as unfinished; None where it is finished."""
        wanted = self.config["total_frames"]
        if self.failed:
            return self.failed
        if self.frames < wanted:
            return f"stopped at {self.frames:,} of {wanted:,} frames"
        if not self.result:
            return f"no result.json: its final evaluation is missing, at {self.frames:,} frames"
        if self.result["frames"] < wanted:
            return f"its result.json was written at {int(self.result['frames']):,} of {wanted:,} frames"
        episodes = self.config.get("final_episodes")
        measured = self.result.get("final/episodes")
        if None not in (episodes, measured) and measured != episodes:
            return f"its result.json has {int(measured):,} episodes, where its settings say {episodes:,}"
        # The last iteration may go beyond what was asked for; a run that was longer once is another one.
        iteration = self.config.get("num_envs", 1) * self.config.get("rollout_steps", wanted)
        if max(self.frames, self.result["frames"]) >= wanted + iteration:
            return f"trained for {self.frames:,} frames, where its settings say {wanted:,}"
        return None

    @property
    def failed(self) -> str | None:
        """Reason why the run has no score, where its result.json says that it failed; else None."""
        if None not in (self.result.get(f"final/{name}", 0) for name in ("test_return", "return")):
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


@checked(where=Must(lambda where: isinstance(where, Path) or len(where), "not empty"))
def find_runs(where: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders of runs in a folder or by a glob, at any depth: those that hold a config.yaml and a metrics.csv.

    Remains of a run are found too, so that a report can name them: a folder with another of a run's files, or an
    empty one. Hidden folders are skipped, and so is what a run keeps below its own folder, unless it is a whole run.
    Links are followed; what two of them lead to is found once.

    Raises:
        FileNotFoundError: there are none in one of the places.
    """
    folders: dict[Path, Path] = {}
    for pattern in [where] if isinstance(where, str | os.PathLike) else where:
        own = [folder for root in named_places(str(pattern)) for folder in _folders(root, set())]
        if not own:
            raise FileNotFoundError(f"runs must be a folder or a glob where there are runs; none in {str(pattern)!r}")
        for folder in own:
            folders.setdefault(folder.resolve(), folder)
    return sorted(folders.values())


def _folders(folder: Path, seen: set[Path], below_a_run: bool = False) -> Iterator[Path]:
    """The folders of runs, whole or not, from this one on; `seen` are those that it has been through."""
    if not folder.is_dir() or (real := folder.resolve()) in seen:
        return
    seen.add(real)
    entries = sorted(folder.iterdir())
    has = {entry.name for entry in entries} & set(FILES)
    if {"config.yaml", "metrics.csv"} <= has or (not below_a_run and (has or not entries)):
        yield folder
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _folders(entry, seen, below_a_run or bool(has))


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
    curves = {name: array("d", values) for name, values in read_metrics(folder).items()}  # a quarter of lists' memory
    record = folder / "record.json"
    return Run(folder, config, curves, result, last_session(record), _depth(config), platforms(record))


def _depth(config: Mapping[str, Any]) -> int:
    """Blocks that the two networks can share, by a run's settings, also of an older version."""
    return shared_depth(config.get("recurrent"), config.get("recurrent_in", "both"))


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that no run can have had, before a later step fails on them."""
    for name in ("seed", "total_frames", "num_envs", "rollout_steps", "final_episodes"):
        value = config.get(name)
        if name in config and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{path} must hold a whole number as {name}; got {value!r}")
    try:
        separation_index(config["separation"], _depth(config))
    except ValueError as error:
        raise ValueError(f"{path} must hold a degree of separation; {error}") from error


@checked()
def last_session(path: Path) -> Mapping[str, Any]:
    """The entry of a record.json on the last start; empty where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    sessions = _sessions(path)
    session = sessions[-1] if sessions else {}
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


@checked()
def platforms(path: Path) -> tuple[str, ...]:
    """The machines of a record.json's sessions, each once and with its number of processors; empty where none is told.

    Raises:
        ValueError: the file is damaged.
    """
    told = [(session.get("platform"), session.get("cpu_count")) for session in _sessions(path)]
    names = [f"{where}, {processors} processors" if processors else str(where) for where, processors in told if where]
    return tuple(dict.fromkeys(names))


def _sessions(path: Path) -> list[dict[str, Any]]:
    sessions = read_json(path).get("sessions", [])
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        raise ValueError(f"{path} must hold a list of sessions; got {str(sessions)[:40]}")
    return sessions
