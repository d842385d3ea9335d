"""experiments/smallest_actor.py and its configs: what composes, what is refused, and the real command, killed.

With -m slow: killed ten times over, two workers side by side, and the launchers and Ray where they are installed.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import IN_ONE_PROCESS, ROOT, Script, composing
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from decouple.deploy.compiled_c import c_compiler
from decouple.studies.actor_size import smallest_actor as searching
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, DDPGControl
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.search import SIZES, SmallestActor, Unfinished, smallest_actor
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.study import TABLE_A2, read_paper
from decouple.studies.actor_size.workers import Stopping, frames_done

SEARCH = Script("smallest_actor.py")
CONFIGS = ROOT / "configs" / "control"
TASKS = sorted(file.stem for file in (CONFIGS / "env").glob("*.yaml"))
# Three sizes; what is trained learns next to nothing.
TINY: dict[str, Any] = {
    **{"env": "toy", "seeds": 2, "total_frames": 600, "learning_starts": 300, "batch_size": 8, "buffer_size": 500},
    **{"log_every": 100, "evaluate_every": 600, "checkpoint_every": 300, "evaluate_episodes": 1, "final_episodes": 1},
}
SIZES_3, THRESHOLD = [[], [2, 2], [4, 4]], -175
COMMAND = (
    *(f"{name}={value}" for name, value in TINY.items()),
    *(
        "algorithm=ddpg",
        "actor=[4,4]",
        "critic=[4,4]",
        f"search.threshold={THRESHOLD}",
        "search.sizes=[[],[2,2],[4,4]]",
        "search.export=none",
    ),
)


def composed(*overrides: str) -> tuple[Any, Any]:
    """The settings of what is trained, and those of the search."""
    with composing("smallest_actor") as configuration:
        plain: Any = OmegaConf.to_container(configuration(*overrides), resolve=True)
    search = searching.SearchSettings(**plain.pop("search"))
    return CONTROL_ALGORITHMS[plain["algorithm"]](**plain), search


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> dict[str, Any]:
    """The search, by `train_agents` alone: no store, no other process."""
    folder = tmp_path_factory.mktemp("direct")

    def evaluate(actor: tuple, critic: tuple) -> list[float]:
        config = DDPGControl(**TINY, actor=list(actor), critic=list(critic), run_dir=f"{folder}/{actor}{critic}")
        config.show_progress = False
        report = train_agents(config)
        return [report[f"final/return/seed{seed}"] for seed in config.all_seeds]

    return plain(smallest_actor(evaluate, baseline=[4, 4], sizes=SIZES_3, threshold=THRESHOLD))


def plain(found: SmallestActor | dict[str, Any]) -> dict[str, Any]:
    """The trials of a search, of an object or of what the store has: sizes, returns and verdicts."""
    record = found if isinstance(found, dict) else {**vars(found), "notes": found.notes}
    trials = {}
    for name in ("baseline", "symmetric_trials", "actor_trials"):
        each = record[name] if isinstance(record[name], list | tuple) else [record[name]]
        trials[name] = [trial if isinstance(trial, dict) else vars(trial) for trial in each]
    return json.loads(json.dumps({**trials, "notes": record["notes"], "bound": record["bound"]}))


def stored(run_dir: Path) -> dict[str, Any]:
    (search,) = CellStore(run_dir / "cells.sqlite").searches()
    assert search["state"] == "done"
    return plain(search["result"])


# ---------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
def test_every_task_composes_with_every_algorithm_at_its_published_size(algorithm):
    for task in TASKS:
        settings, search = composed(f"env={task}", f"algorithm={algorithm}")
        assert isinstance(settings.learning, CONTROL_ALGORITHMS[algorithm].keys.parts["learning"])
        assert settings.env == task and settings.seeds == 6
        if task != "toy":
            published = {"sac": [256, 256], "td3": [400, 300], "ddpg": [400, 300]}
            ml_agents = task == "foodcollector" and algorithm not in ("td3", "ddpg", "trpo")  # Table I's |128,128|
            assert (
                settings.actor == settings.critic == ([128, 128] if ml_agents else published.get(algorithm, [64, 64]))
            )
            assert [tuple(size) for size in search.sizes] == list(SIZES) and search.threshold == "baseline"


@pytest.mark.parametrize(("task", "algorithm"), read_paper())
def test_every_cell_of_table_one_can_be_made_and_its_sizes_rise(task, algorithm):
    settings, search = composed(f"env={task}", f"algorithm={algorithm}")
    counts = searching.actor_parameters(settings, search.sizes)  # raises where not
    assert set(counts) == {*map(tuple, search.sizes), tuple(settings.actor)}


def test_the_toy_problem_has_the_papers_sizes_and_a_threshold_of_its_own():
    settings, search = composed("env=toy", "algorithm=td3", "search.tolerance=0")
    assert settings.actor == settings.critic == [16, 16] and settings.learning.total_frames == 20_000
    assert search.sizes == [[], [4, 4], [8, 8], [16, 16]] and search.threshold == -10 and search.tolerance == 0
    assert composed("env=toy", "search.threshold=-20")[1].threshold == -20


def test_what_is_compared_is_as_in_table_one():
    for task, algorithm, measure in (
        ("foodcollector", "sac", "maximum"),
        ("foodcollector", "ppo", "final"),
        ("pendulum", "sac", "final"),
    ):
        settings, search = composed(f"env={task}", f"algorithm={algorithm}")
        assert search.measured(settings) == measure
        assert dataclasses.replace(search, measure="maximum").measured(settings) == "maximum"
    with pytest.raises(ValueError, match=r"search.measure must be auto, final or maximum; got 'best'"):
        searching.SearchSettings(measure="best")


def test_a_search_by_the_maximum_in_training_compares_and_records_it(tmp_path, monkeypatch):
    """Of |4,4| the maxima are -5 and -7 in training, whatever the returns after it."""
    settings, search = composed(
        "env=toy", "algorithm=sac", "seeds=2", f"run_dir={tmp_path}", "actor=[4,4]", "critic=[4,4]",
        "search.sizes=[[4,4]]", "search.threshold=-6", "search.measure=maximum",
    )  # fmt: skip
    settings.show_progress = False
    monkeypatch.setattr(searching, "train_cells", lambda configs, *_, **__: [[-50.0, -60.0]] * len(configs))
    monkeypatch.setattr(
        searching, "training_maxima", lambda store, cell, seeds, _: dict(zip(seeds, (-5.0, -7.0), strict=True))
    )
    found = searching.run_search(settings, search, {(4, 4): 33})
    assert found.baseline.returns == (-5.0, -7.0) and found.baseline.accepted
    (recorded,) = CellStore(tmp_path / "cells.sqlite").searches()
    assert recorded["result"]["measure"] == recorded["options"]["measure"] == "maximum"
    assert "the largest returns in training" in searching.search_text(settings, {(4, 4): 33}, found, "maximum")


def tiny_search(tmp_path: Path, *overrides: str) -> tuple[Any, Any]:
    settings, search = composed(
        "env=toy", "algorithm=ddpg", "seeds=2", f"run_dir={tmp_path}", "actor=[4,4]", "critic=[4,4]",
        "search.sizes=[[2,2],[3,3],[4,4]]", "search.threshold=-10", *overrides,
    )  # fmt: skip
    settings.show_progress = False
    return settings, search


@pytest.mark.parametrize("baseline", [[-8.0, -9.0], [-50.0, -60.0]])
def test_sizes_are_stopped_by_the_searchs_bound_and_its_best_seed_and_the_baseline_is_not(
    tmp_path, monkeypatch, baseline
):
    """Where no seed of the baseline reaches the bound of -11, nothing is known of what can be reached."""
    asked = []

    def train_cells(configs: list[Any], *_: Any, stopping: Any, **__: Any) -> list[Any]:
        asked.append(stopping)
        small = Unfinished((-90.0, -80.0), 1200) if stopping else [-90.0, -80.0]
        return [baseline if config.actor == [4, 4] else small for config in configs]

    monkeypatch.setattr(searching, "train_cells", train_cells)
    settings, search = tiny_search(tmp_path, "search.stop_after=0.6", "search.exhaustive=true")
    counts = {(2, 2): 13, (3, 3): 22, (4, 4): 33}
    found = searching.run_search(settings, search, counts)
    rule = Stopping(-11.0, -8.0, 0.6) if baseline[0] == -8.0 else None
    assert asked[0] is None and len(asked) > 1 and all(stopping == rule for stopping in asked[1:])
    (recorded,) = CellStore(tmp_path / "cells.sqlite").searches()
    assert recorded["options"]["stop_after"] == 0.6
    if rule:
        first = recorded["result"]["symmetric_trials"][1]
        assert first["stopped"] == 1200 and not first["accepted"] and found.symmetric is found.baseline
        text = searching.search_text(settings, counts, found)
        assert re.search(r"symmetric actor \|3,3\|.* -85 .*rejected\??, stopped after 1,200 frames\n", text)
        assert "|3,3| was stopped after 1,200 frames and counts as rejected" in text


def test_nothing_is_stopped_by_default_and_the_searchs_name_in_the_store_is_as_before(tmp_path, monkeypatch):
    asked = []

    def train_cells(configs: list[Any], *_: Any, stopping: Any, **__: Any) -> list[Any]:
        asked.append(stopping)
        return [[-8.0, -9.0]] * len(configs)

    monkeypatch.setattr(searching, "train_cells", train_cells)
    searching.run_search(*tiny_search(tmp_path), {(2, 2): 13, (3, 3): 22, (4, 4): 33})
    (recorded,) = CellStore(tmp_path / "cells.sqlite").searches()
    assert set(asked) == {None} and "stop_after" not in recorded["options"]


@pytest.mark.slow
def test_a_search_that_stops_sizes_ends_sooner_and_one_that_does_not_goes_on_from_there(tmp_path):
    study = tmp_path / "study"
    longer = ("total_frames=12000", "log_every=200", "evaluate_every=400", "checkpoint_every=2000")
    command = (*(text for text in COMMAND if "_every" not in text and "total_frames" not in text), *longer)
    command = (*command, f"run_dir={study}", "search.threshold=-100", "update=batched")  # a linear pair is at -170
    stopping = SEARCH.run(tmp_path, *command, "search.stop_after=0.5")
    assert stopping.returncode == 0, stopping.stderr
    if "stopped after" in stopping.stdout:  # a machine that trains all within a second stops nothing
        unfinished = [cell for cell in CellStore(study / "cells.sqlite").cells() if not cell.actor]
        assert unfinished and not CellStore(study / "cells.sqlite").returns(unfinished[0])
        again = SEARCH.run(tmp_path, *command, "search.stop_after=0.5")
        assert again.stdout == stopping.stdout
    whole = SEARCH.run(tmp_path, *command)
    assert whole.returncode == 0 and "stopped after" not in whole.stdout
    assert len(CellStore(study / "cells.sqlite").searches()) == 2


def test_thresholds_by_name():
    returns = {((400, 300), (400, 300)): [-152.71]}
    for name, bound in (("baseline", -167.981), ("rounded", -220), ("paper", -176), ("-150", -165)):
        settings, search = composed(
            "env=pendulum", "algorithm=td3", f"search.threshold={name}", "search.sizes=[[400,300]]"
        )
        steps = search.steps(settings)
        next(steps)
        with pytest.raises(StopIteration) as end:
            steps.send(returns)
        assert end.value.value.bound == pytest.approx(bound)


def test_what_cannot_be_searched_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(ValueError, match=match):
            settings, search = composed("env=toy", "algorithm=td3", *overrides)
            searching.run_search(settings, search, searching.actor_parameters(settings, search.sizes))

    refused("search.threshold must be a finite number, baseline, rounded or paper; got 'best'", "search.threshold=best")
    refused("a number, baseline or rounded for toy, td3, which Table I has no", "search.threshold=paper")
    refused("actor and critic must be of one size", "actor=[4,4]")
    refused(r"smallest to the largest; got \[4, 4\] before \[2, 2\]", "search.sizes=[[4,4],[2,2]]")
    refused(r"search.power must be in \[0.5, 1\); got 0.3", "search.power=0.3")
    refused("search.export must be auto, onnx, c, page or none; got 'pt2'", "search.export=pt2")
    refused("search.engine must be local or ray", "search.engine=slurm")
    refused("search.parallel must be a whole number", "search.parallel=0")
    refused("search.lease must be positive", "search.lease=0")
    refused(r"search.stop_after must be None, or in \[0.5, 1\); got 0.4", "search.stop_after=0.4")
    refused(
        "search.stop_after must be None with search.measure=maximum; got 0.6",
        *("search.stop_after=0.6", "search.measure=maximum"),
    )
    refused("normalize_observation .* must be false on env=toy", "normalize_observation=true")
    gates = composed("env=toy", "algorithm=ppo", "separation=learned", "search.pairs=[[[4],[4]]]")
    for search in (searching.train_pairs, lambda settings, options: options.steps(settings), actor_counts):
        with pytest.raises(ValueError, match=r"separation must be a number or full in a search, .*; got 'learned'"):
            search(*gates)
    with pytest.raises(ConfigCompositionException):
        composed("search.treshold=-160")
    with pytest.raises(FileNotFoundError, match="no search has run in nowhere"):
        searching.write_table("nowhere")
    assert not list(tmp_path.iterdir())


def actor_counts(settings: Any, options: Any) -> Any:
    return searching.actor_parameters(settings, options.sizes)


def test_reductions_are_of_the_parameters_of_the_model_that_is_trained():
    settings, search = composed("env=pendulum", "algorithm=td3")
    counts = searching.actor_parameters(settings, search.sizes)
    with open(TABLE_A2, newline="") as file:
        paper = {tuple(map(int, row["hidden"].split(","))): int(row["Pendulum"]) for row in csv.DictReader(file)}
    assert counts == paper
    gaussian = searching.actor_parameters(*(lambda s, o: (s, o.sizes))(*composed("env=pendulum", "algorithm=sac")))
    assert gaussian[4, 4] == paper[4, 4] + 5  # a standard deviation beside the mean


# ----------------------------------------------------------------------------------------------------- the real command
def frames(run_dir: Path) -> int:
    """Of all cells of a study together."""
    return sum(frames_done(table.parent) for table in run_dir.glob("*/*/*/*/*/metrics.csv"))


def children_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, of, state in rows if int(of) == parent and not state.startswith("Z")]


def runs(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def test_a_search_that_is_killed_finds_what_one_left_alone_does_and_trains_nothing_twice(tmp_path, direct):
    study = tmp_path / "study"
    command = (*COMMAND, f"run_dir={study}")
    process, deadline = SEARCH.start(tmp_path, *command), time.monotonic() + 300
    while frames(study) < 1000 and process.poll() is None and time.monotonic() < deadline:  # within the second cell
        time.sleep(0.01)
    trains = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    code, _, errors = process.wait()
    assert code == -signal.SIGKILL, errors
    assert len(trains) == 1
    while runs(trains[0]) and time.monotonic() < deadline:  # it ends with its caller
        time.sleep(0.01)
    done = {file: file.stat().st_mtime_ns for file in study.rglob("result.json")}

    finished = SEARCH.run(tmp_path, *command)
    assert finished.returncode == 0, finished.stderr
    assert stored(study) == direct
    assert done and {file: file.stat().st_mtime_ns for file in done} == done
    sessions = [len(json.loads(file.read_text())["sessions"]) for file in sorted(study.rglob("record.json"))]
    assert sum(sessions) in (len(sessions), len(sessions) + 1)  # killed in mid-cell, or just between two
    lines = finished.stdout.splitlines()
    assert lines[0] == "toy, ddpg: threshold -175, accepted from -192.5 on; 2 seeds"
    assert lines[1].startswith("baseline  actor |4,4|       (     33)  critic |4,4| ")
    assert "toy, ddpg, cell 2 of at most 5, " in finished.stderr and " left; frames: " in finished.stderr

    table = searching.write_table(str(study))
    assert (study / "table.md").read_text() == table + "\n"
    ours = [line for line in table.splitlines() if "| here |" in line]
    assert len(ours) == 1 and ours[0].startswith(r"| toy, DDPG | here | -175 | \|4,4\| -")
    with open(study / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == ["paper"] * 24 + ["here"]
    assert rows[1]["task"] == "pendulum" and rows[1]["algorithm"] == "td3" and rows[1]["actor_size"] == "4,4"


@pytest.mark.skipif(c_compiler() is None, reason="no C compiler is installed")
def test_a_search_ends_with_a_file(tmp_path):
    one_size = [argument for argument in COMMAND if not argument.startswith(("search.sizes", "search.export"))]
    ends = ("search.sizes=[[4,4]]", "search.export=c", "run_dir=study")
    finished = SEARCH.run(tmp_path, *one_size, *ends, before=IN_ONE_PROCESS)
    assert finished.returncode == 0, finished.stderr
    file, _, what = finished.stdout.splitlines()[-3:]
    assert file.startswith("the file: study/actors/toy_ddpg_actor4x4.c, ") and what.endswith("toy_ddpg_actor4x4.c.md")
    assert (tmp_path / "study/actors/toy_ddpg_actor4x4.h").exists()


@pytest.mark.slow  # ten starts of the command
def test_a_search_killed_ten_times_over_gives_the_same_table_as_one_left_alone(tmp_path, direct):
    study, chance = tmp_path / "study", random.Random(0)
    command = (*COMMAND, f"run_dir={study}")
    kills, deadline = 0, time.monotonic() + 1500
    while kills < 10 and time.monotonic() < deadline:
        process, before = SEARCH.start(tmp_path, *command), frames(study)
        wait = chance.random() * 500  # frames, of the 2,400 or so that there are; and then some time
        while frames(study) < before + wait and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.3)
        if process.poll() is None:
            both = chance.random() < 0.3
            for pid in children_of(process.pid) if both else []:
                os.kill(pid, signal.SIGKILL)
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait()[0] == 0:  # done before it was killed: again, from the beginning
            assert stored(study) == direct
            study = tmp_path / f"study{kills}"
            command = (*COMMAND, f"run_dir={study}")
    finished = SEARCH.run(tmp_path, *command)
    assert finished.returncode == 0, finished.stderr
    assert kills == 10 and stored(study) == direct
    table = SEARCH.run(tmp_path, "search.train=false", f"run_dir={study}")
    assert table.returncode == 0 and table.stdout == (study / "table.md").read_text()


@pytest.mark.slow
def test_two_workers_on_one_store_do_no_work_twice(tmp_path):
    study = tmp_path / "study"
    command = (*COMMAND, "search.exhaustive=true", f"run_dir={study}")
    ended = [worker.wait() for worker in [SEARCH.start(tmp_path, *command) for _ in range(2)]]
    assert [code for code, *_ in ended] == [0, 0], ended
    records = [json.loads(file.read_text()) for file in study.rglob("record.json")]
    assert (
        len(records) == 3 + 2
    )  # three symmetric pairs, two more actors beside the critic; the baseline is one of them
    assert all(len(record["sessions"]) == 1 for record in records)
    assert stored(study)["symmetric_trials"]


@pytest.mark.slow
def test_added_seeds_and_sizes_train_only_what_is_new(tmp_path):
    study = tmp_path / "study"
    assert SEARCH.run(tmp_path, *COMMAND, f"run_dir={study}").returncode == 0
    before = {file: file.stat().st_mtime_ns for file in study.rglob("metrics.csv")}
    more = SEARCH.run(tmp_path, *COMMAND, f"run_dir={study}", "seeds=3", "search.sizes=[[],[2,2],[3,3],[4,4]]")
    assert more.returncode == 0, more.stderr
    after = {file: file.stat().st_mtime_ns for file in study.rglob("metrics.csv")}
    assert before.items() <= after.items()
    added = {file.parent.name for file in after.keys() - before.keys()}
    assert "seeds2_1" in added and added <= {"seeds2_1", "seeds0_3"}
    assert len(CellStore(study / "cells.sqlite").searches()) == 2


def assert_sweep(tmp_path: Path, direct: dict[str, Any], *arguments: str) -> None:
    """Two searches by a launcher, one of which cannot be trained: the other is found as it is alone."""
    study = tmp_path / "study"
    (study / "toy").mkdir(parents=True)
    (study / "toy" / "td3").write_text("")  # where the folders of its runs would be
    both = [text for text in COMMAND if not text.startswith("algorithm=")]
    swept = SEARCH.alone(tmp_path, *both, "algorithm=td3,ddpg", f"run_dir={study}", *arguments, "-m")
    assert swept.returncode == 1 and "CellError: toy/td3/" in swept.stderr, swept.stderr
    done, failed = CellStore(study / "cells.sqlite").searches()
    assert (done["algorithm"], done["state"]) == ("ddpg", "done") and plain(done["result"]) == direct
    assert (failed["algorithm"], failed["state"]) == ("td3", "failed")
    assert "NotADirectoryError" in failed["result"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_by_hydras_launchers_and_one_cell_that_fails(tmp_path, direct, launcher):
    pytest.importorskip(
        {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher"}.get(
            launcher, "hydra_plugins.hydra_submitit_launcher"
        )
    )
    assert_sweep(tmp_path, direct, f"hydra/launcher={launcher}")


@pytest.mark.slow
def test_the_command_with_ray_from_the_folder_of_the_scripts(tmp_path, direct):
    pytest.importorskip("ray")
    study = tmp_path / "study"
    found = SEARCH.alone(SEARCH.path.parent, *COMMAND, f"run_dir={study}", "search.engine=ray", "search.parallel=2")
    assert found.returncode == 0, found.stderr
    assert stored(study) == direct
