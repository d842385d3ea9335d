"""experiments/control.py, toy.py and their configs: every page composes, and the real commands."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import yaml
from commands import ROOT, Script, assert_same, checkpoint_of, composing, rows, without_clock
from damage import damage
from hydra.errors import ConfigCompositionException

from decouple.commands import control as control_command
from decouple.commands import learned as learned_command
from decouple.commands.control import learned, table
from decouple.commands.settings import control_settings
from decouple.commands.toy import run_cells
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.locks import FolderInUseError, lock_folder
from decouple.runs.settings import changed
from decouple.studies import learned as learned_study
from decouple.studies.actor_size import toy
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents

CONTROL, TOY = Script("control.py"), Script("toy.py")
CONFIGS = ROOT / "configs" / "control"
TASKS = sorted(file.stem for file in (CONFIGS / "env").glob("*.yaml"))


def composed(*overrides: str) -> Any:
    return commands.composed("control", *overrides)


@pytest.mark.parametrize("algorithm", CONTROL_ALGORITHMS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes_with_every_algorithm(task, algorithm):
    settings = composed(f"env={task}", f"algorithm={algorithm}", "actor=[4,4]", "critic=[16,16]", "seeds=6")
    assert (
        type(settings.learning) is CONTROL_ALGORITHMS[algorithm].keys.parts["learning"]
        and settings.env == task
        and settings.algorithm == algorithm
    )
    assert settings.run_dir == f"runs/control/{task}/{algorithm}/actor4x4_critic16x16_kfull/seeds0_6"


@pytest.mark.parametrize(
    "task", ["CartPole-v1", "ALE/Pong-v5", "my_package:Task-v0", "my_package.module:make", "Case/Track-0p1-v0"]
)
def test_a_task_without_a_page_composes_by_its_name(task):
    settings = composed(f"env={task}", "algorithm=td3", "env_kwargs={size: 3, goal: {x: 1.5}}", "env_kwargs.fast=true")
    assert settings.env == task and settings.env_kwargs == {"size": 3, "goal": {"x": 1.5}, "fast": True}
    assert settings.run_dir == f"runs/control/{task}/td3/actor400x300_critic400x300_kfull/seeds0_1"


@pytest.mark.parametrize("name", ["actor", "critic"])
@pytest.mark.parametrize("sizes", ["[0]", "[[1]]", "[x]"])
def test_sizes_that_are_none_are_refused_by_the_settings_name_and_not_the_folders(name, sizes):
    with pytest.raises(Exception, match=rf"\b{name}\b"):
        composed(f"{name}={sizes}")


def test_departures_are_of_tasks_and_algorithms_that_exist():
    departures = {file.stem for file in (CONFIGS / "departures").glob("*.yaml")}
    assert departures <= {f"{task}_{algorithm}" for task in TASKS for algorithm in CONTROL_ALGORITHMS}
    toy = {name for name, algorithm in CONTROL_ALGORITHMS.items() if not algorithm.published_as}
    assert {f"toy_{algorithm}" for algorithm in toy} <= departures


@pytest.mark.parametrize("algorithm", ["daac", "idaac", "ppg", "dcpg", "ddcpg", "dna"])
def test_algorithms_without_published_settings_of_a_task_take_ppos(algorithm):
    ppo, own = (composed("env=acrobot", f"algorithm={name}") for name in ("ppo", algorithm))
    assert own.learning.gae_lambda == ppo.learning.gae_lambda == 0.94 and own.num_envs == ppo.num_envs == 16
    assert composed("env=toy", f"algorithm={algorithm}").learning.rollout_steps == 1000


def test_a_page_of_an_algorithms_own_comes_before_the_one_it_would_take():
    assert composed("env=pendulum", "algorithm=ppg").learning.auxiliary_every == 4


@pytest.mark.parametrize("task", TASKS)
def test_ppo_clips_values_on_the_tasks_whose_rewards_it_normalises(task):
    normalised = task in {"acrobot", "ant", "halfcheetah", "reacher"}
    assert composed(f"env={task}", "algorithm=ppo").learning.clip_value == (0.2 if normalised else None)
    assert composed(f"env={task}", "algorithm=ppo", "clip_value=null").learning.clip_value is None
    assert composed(f"env={task}", "algorithm=ppo", "clip_value=1.5").learning.clip_value == 1.5


def test_a_learned_separation_trains_gates_at_each_price_and_the_chosen_k_anew(tmp_path):
    small = ("env=acrobot", "algorithm=ppg", "separation=learned", "seeds=2", "actor=[4,4]", "critic=[4,4]")
    small += ("gate_prices=[0,9]", "gate_rate=0.5", "num_envs=2", "rollout_steps=16", "total_frames=192")
    small += ("minibatches=2", "auxiliary_every=2", "auxiliary_minibatches=2", "evaluate_every=9")
    small += ("evaluate_episodes=1", "final_episodes=1", "show_progress=false", f"run_dir={tmp_path}/run")
    done = CONTROL.run(tmp_path, *small)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "learned.csv", newline="") as file:
        free, dear = csv.DictReader(file)
    assert (free["price"], dear["price"]) == ("0", "9") and dear["k"] == "2"  # at such a price all is shared
    assert int(dear["multiply_adds"]) == 2 * (6 * 4 + 4 * 4) + 4 * 3 + 4
    assert min(map(float, dear["gates"].split())) > 0.9
    assert int(dear["multiply_adds_at_k"]) == (6 * 4 + 4 * 4) + 4 * 3 + 4
    folders = {folder.name for folder in (tmp_path / "run").iterdir() if folder.is_dir()}
    assert folders == {"price0", "price9", f"k{free['k']}", "k2"} and (tmp_path / "run" / "learned.png").exists()
    assert json.loads((tmp_path / "run" / "k2" / "result.json").read_text())["frames"] == 192
    assert "the report is in" in done.stdout and "price" in done.stdout


def small_learned(tmp_path: Path, *overrides: str) -> Any:
    small = ("env=pixelcopter", "algorithm=ppo", "separation=learned", "actor=[4]", "critic=[4]", "num_envs=2")
    small += ("rollout_steps=16", "total_frames=32", "minibatches=2", "evaluate_every=9", "evaluate_episodes=1")
    small += ("final_episodes=1", "update=batched", "show_progress=false", f"run_dir={tmp_path}")
    return composed(*small, *overrides)


def test_a_learned_separation_goes_on_with_more_prices_and_evaluates_again(tmp_path, monkeypatch, capsys):
    trained: list[str] = []

    def train(run: Any) -> Any:
        trained.append(Path(run.run_dir).name)
        return train_agents(run)

    monkeypatch.setattr(control_command, "train_agents", train)
    monkeypatch.setattr(learned_study, "_draw", lambda *_: None)
    folder = tmp_path / "run"
    settings = small_learned(folder, "gate_prices=[90]")
    learned(settings)
    assert trained == ["price90", "k0"]  # one rollout does not open a gate
    assert yaml.safe_load((folder / "k0" / "config.yaml").read_text())["gate_prices"] == [0.1]  # idle there
    trained.clear()
    learned(changed(settings, gate_prices=[90.0, 80.0]))
    assert trained == ["price80"]
    trained.clear()
    learned(changed(settings, final_episodes=2))
    assert trained == ["price90", "k0"]
    trained.clear()
    result = folder / "price90" / "result.json"
    failed = json.loads(result.read_text()) | {"final/return": None}  # all agents have: training says so again
    result.write_text(json.dumps(failed))
    os.utime(result, ns=(time.time_ns(), time.time_ns()))
    learned(changed(settings, final_episodes=2))
    assert trained == ["price90"]
    trained.clear()
    with lock_folder(folder / "price90"), pytest.raises(FolderInUseError, match="price90 is held by"):
        learned(changed(settings, restart=True))
    assert not trained and {path.name for path in tmp_path.iterdir()} == {"run"}
    learned(changed(settings, restart=True))
    assert f"the runs that were in {folder} are kept in {tmp_path / 'run.1'}" in capsys.readouterr().err
    assert trained == ["price90", "k0"]
    # The whole is put aside, since price0.1 would be another price's folder.
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.1"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"price90", "k0"}
    assert (tmp_path / "run.1" / "price80" / "result.json").exists()


def test_the_film_of_a_learned_separation_is_of_the_agents_at_the_chosen_k(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learned_study, "_draw", lambda *_: None)
    monkeypatch.setattr(learned_command, "watch_run", lambda folder, tracked: [Path(folder, "film.gif")])
    learned(small_learned(tmp_path, "gate_prices=[90]", "video=true"))
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "k0" / "film.gif")


def test_a_learned_separation_that_is_interrupted_names_the_run_that_goes_on(tmp_path, monkeypatch):
    def interrupted(run: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(control_command, "train_agents", interrupted)
    with pytest.raises(KeyboardInterrupt, match=re.escape(f"no checkpoint in {tmp_path / 'price9'} yet")):
        learned(small_learned(tmp_path, "gate_prices=[9]"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (("algorithm=sac",), "separation must be a number or full for sac"),
        (("algorithm=trpo",), "separation must be a number or full for trpo"),
        (("algorithm=ppo", "recurrent=gru"), "recurrent must be null with separation=learned"),
        (("algorithm=ppo", "critic=[8,8]"), "critic must be like actor"),
        (("algorithm=ppo", "policy_gradient=0.5"), "policy_gradient must be 1 with separation=learned"),
        (("algorithm=ppo", "gate_prices=[]"), "gate_prices must be different numbers"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_name(setting, says):
    with pytest.raises(ValueError, match=says):
        composed("separation=learned", "env=acrobot", *setting)


def test_what_the_command_line_says_wins_over_a_departure():
    assert composed("env=pendulum", "algorithm=td3").learning.gamma == 0.98
    assert composed("env=pendulum", "algorithm=td3", "gamma=0.9").learning.gamma == 0.9


def test_baselines_are_those_of_the_paper():
    sizes = {name: (settings().actor, settings().critic) for name, settings in CONTROL_ALGORITHMS.items()}
    assert sizes["ddpg"] == sizes["td3"] == ([400, 300], [400, 300])
    assert sizes["sac"] == ([256, 256], [256, 256]) and sizes["ppo"] == ([64, 64], [64, 64])


def test_a_misspelt_setting_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigCompositionException):
        composed("learnign_rate=1")
    refused = CONTROL.run(tmp_path, "env=toy", "tau=3")
    assert refused.returncode == 1 and "tau must be in [0, 1]; got 3" in refused.stderr
    assert "Traceback" not in refused.stderr and not list(tmp_path.iterdir())


def test_a_run_imports_no_package_that_it_does_not_use_and_leaves_imports_uncollected(tmp_path):
    """Numba is for compiled updates. TorchRL imports gymnasium's relatives by itself."""
    small = ("env=pendulum", "algorithm=td3", "actor=[4]", "critic=[4]", "total_frames=40", "learning_starts=20")
    small += ("log_every=20", "evaluate_every=40", "checkpoint_every=40", "evaluate_episodes=1", "final_episodes=1")
    code = f"import atexit, gc, runpy, sys; sys.argv[:] = {[str(CONTROL.path), *small, 'update=batched']}"
    code += "; sys.path[0] = sys.argv[0].rpartition('/')[0]"
    code += "; atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count(), *sys.modules))"
    code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, env=commands.environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    enabled, frozen, *modules = ran.stdout.splitlines()[-1].split()
    unused = {
        "numba",
        "llvmlite",
        "scipy",
        "threadpoolctl",
        "pandas",
        "wandb",
        "onnx",
        "pygame",
        "rliable",
        "sqlalchemy",
    }
    assert not unused & {name.partition(".")[0] for name in modules} and "torchrl" in modules
    assert enabled == "True" and int(frozen) > 100_000


def test_a_published_start_of_learning_gives_way_to_a_short_run_and_a_given_one_is_refused(tmp_path, capsys):
    with composing("control") as configuration:
        short = configuration("env=toy", "algorithm=ddpg", "total_frames=1000")  # the page has 1,000
        for _ in range(2):  # cells of a study say it once
            settings = control_settings(short, given={"env", "algorithm", "total_frames"})
            assert settings.learning.learning_starts == 100
        says = "learning_starts is 100 here: the default 1,000 would leave nothing to learn from of total_frames=1,000"
        assert capsys.readouterr().err == says + "\n"
        long = configuration("env=toy", "algorithm=ddpg", "total_frames=1001")
        assert control_settings(long, given={"total_frames"}).learning.learning_starts == 1000
    refused = CONTROL.run(tmp_path, "env=toy", "algorithm=ddpg", "total_frames=1000", "learning_starts=1000")
    assert refused.returncode == 1 and "learning_starts must be a whole number in [0, 1000)" in refused.stderr
    few = ("log_every=50", "evaluate_every=50", "checkpoint_every=50", "evaluate_episodes=1", "final_episodes=1")
    ran = CONTROL.run(tmp_path, "env=toy", "algorithm=ddpg", "total_frames=50", *few)
    assert ran.returncode == 0 and "learning_starts is 5 here" in ran.stderr


def test_a_run_that_diverges_ends_with_one_line_and_no_return(tmp_path):
    small = ["actor=[4]", "critic=[4]", "total_frames=200", "learning_starts=20", "log_every=50", "checkpoint_every=50"]
    small += ["evaluate_every=50", "evaluate_episodes=1", "learning_rate=1e37", "run_dir=run", "show_progress=false"]
    ended = CONTROL.run(tmp_path, "env=toy", "algorithm=td3", *small)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and not ended.stdout
    says, how = ended.stderr.splitlines()[-2:]
    assert re.fullmatch(r"NotFiniteError: toy, seed 0: (loss/\w+|parameter [\w.]+) is (nan|inf) by frame 50", says)
    assert "HYDRA_FULL_ERROR" in how
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["final/return"] is None and result["failed"]["seed0"] in says


def test_the_table_says_which_agents_failed_and_over_how_many_the_mean_is():
    settings = composed("env=toy", "algorithm=td3", "seeds=3")
    report = {"final/return": -2.0, "final/return_std": 1.0, "final/seeds": 2.0, "failed": {"seed1": "reward is nan"}}
    report |= {"final/return/seed0": -1.0, "final/return/seed1": None, "final/return/seed2": -3.0}
    lines = table(settings, report).splitlines()[1:]
    assert [" ".join(line.split()) for line in lines] == [
        *("seed 0 -1.00", "seed 1 failed: reward is nan", "seed 2 -3.00", "mean -2.00 +- 1.00 (over 2 of 3 seeds)")
    ]


SHORT = (
    *("env=pendulum", "algorithm=sac", "actor=[4,4]", "critic=[8,8]", "seeds=2", "total_frames=600"),
    *("learning_starts=100", "batch_size=16", "buffer_size=300", "log_every=50", "evaluate_every=200"),
    *("checkpoint_every=100", "evaluate_episodes=1", "final_episodes=1"),
)


def test_a_run_killed_at_any_moment_and_started_again_equals_an_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    finished = CONTROL.run(tmp_path, *SHORT, f"run_dir={unbroken}")  # from a folder other than the repository's
    assert finished.returncode == 0, finished.stderr
    again = (*SHORT, f"run_dir={broken}")
    CONTROL.kill_after(broken, 1, tmp_path, *again)
    # Killed again after the replay's rows have begun to be written over.
    CONTROL.kill_after(broken, 9, tmp_path, *again)
    resumed = CONTROL.run(tmp_path, *again)
    assert resumed.returncode == 0, resumed.stderr

    sessions = json.loads((broken / "record.json").read_text())["sessions"]
    assert len(sessions) == 3 and 0 < sessions[2]["resume_frames"] < 600
    assert rows(unbroken) == 12
    assert without_clock(broken) == without_clock(unbroken)
    assert (broken / "result.json").read_text() == (unbroken / "result.json").read_text()
    assert_same(checkpoint_of(broken), checkpoint_of(unbroken))

    told = next(line for line in finished.stderr.splitlines() if not line.startswith(("compiling ", "compiled ")))
    agents = "pendulum, sac, actor |4x4| (46 parameters), critic |8x8|, 2 agents"
    assert told.startswith((f"{agents}, compiled updates; the record", f"{agents}, batched updates, since numba"))
    assert "seed 1" in finished.stdout and finished.stdout.splitlines()[-1] == f"the record is in {unbroken}"


def test_a_second_start_in_a_folder_is_refused_while_the_first_goes_on_to_its_end(tmp_path):
    run = tmp_path / "run"
    command = (*SHORT, f"run_dir={run}", "total_frames=1000")
    first = CONTROL.start(tmp_path, *command)
    while rows(run) < 1 and first.poll() is None:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot end before the second begins
    second = CONTROL.run(tmp_path, *command, "restart=true")
    os.kill(first.pid, signal.SIGCONT)
    code, _, errors = first.wait()
    assert code == 0, errors
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert f"{run} is held by process {first.pid} on {platform.node()}" in second.stderr
    assert rows(run) == 20 and [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["run"]


def test_a_sweep_over_sizes(tmp_path):
    swept = CONTROL.run(tmp_path, *SHORT, "total_frames=150", "actor=[4,4],[]", "-m")
    assert swept.returncode == 0, swept.stderr
    folders = sorted(folder.name for folder in (tmp_path / "runs" / "control" / "pendulum" / "sac").iterdir())
    assert folders == ["actor4x4_critic8x8_kfull", "actorlinear_critic8x8_kfull"]


SMALL_CELLS = """
from decouple.commands import toy
from decouple.runs.settings import changed
cell, small = toy.cell, {"evaluate_episodes": 1, "final_episodes": 2, "evaluate_every": 1000, "total_frames": 300}
own = {"ddpg": {"learning_starts": 100}, "trpo": {"rollout_steps": 75}}
toy.cell = lambda study, algorithm, pair: changed(cell(study, algorithm, pair), **small, **own[algorithm])
"""


def test_the_toy_study_trains_its_cells_once_and_draws_its_figures(tmp_path):
    small = ("algorithms=[ddpg,trpo]", "seeds=2", f"run_dir={tmp_path / 'toy'}")
    finished = TOY.run(tmp_path, *small, before=SMALL_CELLS)
    assert finished.returncode == 0, finished.stderr
    for name in ("figure1.png", "figure2_ddpg.png", "figure2_trpo.png", "table.md"):
        assert (tmp_path / "toy" / name).stat().st_size > 200
    table = (tmp_path / "toy" / "table.md").read_text().splitlines()
    assert len(table) == 4 and table[2].startswith("| DDPG | -") and table[3].startswith("| TRPO | -")
    assert len(list((tmp_path / "toy").glob("*/*/seeds2/result.json"))) == 2 * 5
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "toy").glob("*/*/*/metrics.csv")}
    rows = read_csv(tmp_path / "toy" / "agents.csv")
    assert len(rows) == 2 * 5 * 2
    for row in rows:
        viable = [float(row[when]) >= -10 for when in ("start", "return")]
        assert row["learned"] == str(viable == [False, True]).lower()
    again = TOY.run(tmp_path, *small, before=SMALL_CELLS + "toy.toy_report = lambda *_: ''")  # what it draws is above
    assert again.returncode == 0 and {file: file.stat().st_mtime_ns for file in before} == before
    assert "algorithms must be one or more of" in TOY.run(tmp_path, "algorithms=[a2c]").stderr

    few = ("algorithms=[ddpg]", *small[1:])
    folders = sorted(file.parent for file in (tmp_path / "toy" / "ddpg").glob("*/*/metrics.csv"))
    damages = ("truncated result", "result with a byte-order mark", "bad cell", "no UTF-8 in the table")
    damaged = [damage(folder, what) for folder, what in zip(folders, damages, strict=False)]
    reported = TOY.run(tmp_path, *few, "train=false", before=SMALL_CELLS)
    assert reported.returncode == 0, reported.stderr
    text = (tmp_path / "toy" / "table.md").read_text()
    assert text.count("left out") == 4 and "Left out, or failed:" in text and all(str(file) in text for file in damaged)
    assert len(read_csv(tmp_path / "toy" / "agents.csv")) == 2  # of the one cell that is left
    stopped = TOY.run(tmp_path, *few, before=SMALL_CELLS)  # which would go on with them
    assert stopped.returncode == 1 and any(str(file) in stopped.stderr for file in damaged)
    assert "Traceback" not in stopped.stderr
    for folder in folders:
        (folder / "checkpoint.pt").write_bytes(b"no checkpoint")
    none = TOY.run(tmp_path, *few, "train=false", before=SMALL_CELLS)
    assert none.returncode == 1 and "ValueError: run_dir must hold a cell that can be used" in none.stderr
    assert all(str(folder) in none.stderr for folder in folders) and "Traceback" not in none.stderr


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_toy_report_of_nothing_says_so_in_a_line(tmp_path):
    ran = TOY.run(tmp_path, "train=false", "algorithms=[ddpg]", f"run_dir={tmp_path / 'new'}")
    assert ran.returncode == 1 and "ValueError: train must be true where" in ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "new").exists()


def test_an_agent_has_learned_only_where_its_start_was_not_viable():
    """A return from -10 on is viable: of six starts one is; of the others three end as viable, and one failed."""
    starts = np.array([-9.8, -200.0, -10.1, -150.0, -160.0, -170.0])
    returns = np.array([-1.0, -10.0, -2.0, -3.0, -90.0, math.nan])
    assert toy.learned(starts, returns).tolist() == [False, True, True, True, False, False]
    assert toy.cell_text(starts, returns) == "-21.2 ± 38.6 (3 of 5; 1 at the start; 1 failed)"
    assert toy.cell_text(starts[:2], np.array([math.nan, math.nan])) == "no return (0 of 1; 1 at the start; 2 failed)"
    lost = toy.cell_text(np.array([-5.0, -200.0]), np.array([-50.0, -150.0]))  # viable at its start, and not in the end
    assert lost == "-100.0 ± 70.7 (0 of 1; 1 at the start)"


def test_a_part_of_the_toy_study_does_not_stand_for_the_whole(tmp_path):
    small = ("algorithms=[ddpg]", "total_frames=1010", f"run_dir={tmp_path / 'toy'}", "seeds=1")
    assert TOY.run(tmp_path, *small).returncode == 0
    folders = {folder.name for folder in (tmp_path / "toy" / "ddpg").glob("*/*")}
    assert folders == {"seeds1"}  # six seeds would be trained anew, beside it
    agents = load_agents(tmp_path / "toy" / "ddpg" / "linear-16x16" / "seeds1")
    assert len(agents) == 1 and sum(p.numel() for p in agents[0].module["policy_head"].parameters()) == 2


def test_a_cell_of_the_toy_study_that_cannot_go_on_is_begun_anew_where_asked(tmp_path):
    quick = {"total_frames": 200, "learning_starts": 20, "log_every": 50}
    quick |= {"evaluate_every": 200, "checkpoint_every": 200}
    quick |= {"evaluate_episodes": 1, "final_episodes": 1, "show_progress": False, "run_dir": str(tmp_path / "run")}
    old = CONTROL_ALGORITHMS["ddpg"](env="toy", actor=[], critic=[], **quick)
    new, pair = changed(old, gamma=0.5), ("ddpg", "a |1|, c |1|")
    run_cells({pair: old})
    for refuses in (run_cells, toy.read_cells):
        with pytest.raises((CheckpointError, ValueError), match="gamma"):
            refuses({pair: new})
    run_cells({pair: dataclasses.replace(old, restart=True)})  # it is done
    assert not (tmp_path / "run.1").exists()
    run_cells({pair: dataclasses.replace(new, restart=True)})
    assert (tmp_path / "run.1" / "result.json").exists()
    assert toy.read_cells({pair: new})[0][pair].settings == new
