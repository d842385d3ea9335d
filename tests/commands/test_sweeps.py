"""Sweeps: what W&B's sweep files and Hydra's pages say, and jobs that are killed, started again, and never mixed."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT, Script, composed, composing, environment, rows
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from procgen_runs import TINY

from decouple.commands.sweeps import run_folder, sweep_result
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed, flat
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.separation.experiment import prepare, train

CONTROL = Script("control.py")
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def choices(parameter: dict[str, Any]) -> list[Any]:
    """The values that a sweep file has a parameter take, or the ends of its range."""
    for name in ("values", "value"):
        if name in parameter:
            assert parameter.keys() == {name}
            return parameter[name] if name == "values" else [parameter[name]]
    assert parameter.keys() == {"distribution", "min", "max"}
    assert parameter["distribution"] in ("uniform", "log_uniform_values") and parameter["min"] < parameter["max"]
    return [parameter["min"], parameter["max"]]


def check_sweep(page: dict[str, Any]) -> int:
    """Compose every key with every value, as the agent would write them; how many they were."""
    assert page["command"] == ["${env}", "python", "${program}", "${args_no_hyphens}"]
    assert page["method"] in ("grid", "bayes") and page["metric"]["goal"] == "maximize"
    assert page.keys() - {"run_cap"} == {"program", "method", "metric", "parameters", "command"}
    fixed = [f"{key}={each['value']}" for key, each in page["parameters"].items() if "value" in each]
    asked = 0
    for key, parameter in page["parameters"].items():
        for value in choices(parameter):
            assert flat(composed(Path(page["program"]).stem, *fixed, f"{key}={value}"))[key] == value
            asked += 1
    return asked


NUMBER_OF_VALUES = {
    "procgen": 4 + 16 + 5 + 1 + 1,
    "sizes": 8 + 7 + 2 + 1 + 1,
    "hyperparameters": 2 + 2 + 2 + 3 + 1 + 1 + 1,
}


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda file: file.stem)
def test_every_key_and_value_of_a_sweep_composes(sweep):
    assert check_sweep(yaml.safe_load(sweep.read_text())) == NUMBER_OF_VALUES[sweep.stem]


def planted(name: str, change: Any) -> dict[str, Any]:
    page = copy.deepcopy(yaml.safe_load((ROOT / "configs" / "sweeps" / f"{name}.yaml").read_text()))
    change(page["parameters"])
    return page


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("procgen", lambda p: p.update(separaton=p.pop("separation")), "separaton"),
        ("procgen", lambda p: p["env"]["values"].append("pong"), "env/pong"),
        ("sizes", lambda p: p.update(crtic=p.pop("critic")), "crtic"),
        ("sizes", lambda p: p["critic"]["values"].append([0]), "critic must be a list of positive sizes"),
        ("hyperparameters", lambda p: p.update(gama=p.pop("gamma")), "gama"),
        ("hyperparameters", lambda p: p["tau"].update(max=5), r"tau must be in \[0, 1\]; got 5"),
        ("hyperparameters", lambda p: p["algorithm"].update(value="ppo"), "tau"),  # which PPO does not have
    ],
)
def test_a_misspelt_key_and_a_wrong_value_in_a_copy_are_seen(name, change, message):
    with pytest.raises((ConfigCompositionException, MissingConfigException, ValueError), match=message):
        check_sweep(planted(name, change))


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda file: file.stem)
def test_the_metric_of_a_sweep_is_one_that_its_runs_log(sweep, tmp_path):
    page = yaml.safe_load(sweep.read_text())
    program, run_dir = Path(page["program"]).stem, f"run_dir={tmp_path / 'run'}"
    fixed = [f"{key}={choices(parameter)[0]}" for key, parameter in page["parameters"].items()]
    if program == "control":
        config = composed(program, *fixed, *SHORT, run_dir, "total_frames=200")
        train_agents(dataclasses.replace(config, show_progress=False))
    else:
        pytest.importorskip("procgen")
        tiny = ("num_envs=2", "rollout_steps=16", "total_frames=32", "num_threads=1", "minibatches=2")
        train(prepare(composed(program, *fixed, *tiny, "evaluate_episodes=1", "final_episodes=1", run_dir)))
    assert page["metric"]["name"] in read_metrics(tmp_path / "run")


def test_optuna_has_the_ranges_of_the_sweep_by_bayes():
    wandb = yaml.safe_load((ROOT / "configs" / "sweeps" / "hyperparameters.yaml").read_text())
    page = yaml.safe_load((ROOT / "configs" / "control" / "sweep" / "hyperparameters.yaml").read_text())

    def as_optuna_writes(parameter: dict[str, Any]) -> str:
        if "values" in parameter:
            return f"choice({', '.join(map(str, parameter['values']))})"
        interval = f"interval({parameter['min']}, {parameter['max']})"
        return f"tag(log, {interval})" if parameter["distribution"] == "log_uniform_values" else interval

    ranges = {key: as_optuna_writes(each) for key, each in wandb["parameters"].items() if "value" not in each}
    assert page["hydra"]["sweeper"]["params"] == ranges
    assert page["hydra"]["sweeper"]["n_trials"] == wandb["run_cap"]
    assert page["hydra"]["sweeper"]["direction"] == wandb["metric"]["goal"]


# ---------------------------------------------------------------------------------------------------- the real commands

SHORT = (
    *("env=toy", "algorithm=td3", "actor=[4,4]", "critic=[8,8]", "seeds=2", "total_frames=600", "learning_starts=100"),
    *("buffer_size=300", "log_every=50", "evaluate_every=200", "checkpoint_every=100"),
    *("evaluate_episodes=1", "final_episodes=1"),
)


def results(folder: Path) -> dict[str, Any]:
    """What each run of a sweep came to, by its folder."""
    files = sorted(folder.glob("runs/control/**/result.json"))
    return {str(file.parent.relative_to(folder)): json.loads(file.read_text()) for file in files}


def sessions(folder: Path) -> list[int]:
    files = sorted(folder.glob("runs/control/**/record.json"))
    return [len(json.loads(file.read_text())["sessions"]) for file in files]


def folder_in_grid(actor: str, gamma: float) -> str:
    """Of a job whose command is SHORT and these two: what the path says, and then what it does not."""
    rest = "buffer_size=300,checkpoint_every=100,evaluate_episodes=1,evaluate_every=200,final_episodes=1"
    rest = f"{rest},gamma={gamma},learning_starts=100,log_every=50,total_frames=600"
    name = rest[:150] + "_" + hashlib.sha256(rest.encode()).hexdigest()[:8] if len(rest) > 150 else rest
    return f"runs/control/toy/td3/actor{actor}_critic8x8_kfull/seeds0_2/{name}"


@pytest.mark.slow  # three processes that import TorchRL
def test_a_grid_by_joblib_and_a_job_that_cannot_run(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = ("-m", *SHORT, "gamma=9,0.9,0.99", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    swept = CONTROL.alone(tmp_path, *grid)  # Joblib's workers do not end with a fork
    assert swept.returncode == 1 and "gamma must be in [0, 1]; got 9" in swept.stderr
    found = results(tmp_path)  # of the others
    assert list(found) == [folder_in_grid("4x4", gamma) for gamma in (0.9, 0.99)]
    assert len({result["final/return"] for result in found.values()}) == 2
    assert all(rows(tmp_path / folder) == 12 for folder in found)


@pytest.mark.slow
def test_a_grid_that_is_killed_goes_on_by_joblib_and_does_nothing_twice(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    for folder in (unbroken, broken):
        folder.mkdir()
    grid = ("-m", *SHORT, "actor=[4,4],[8,8]", "gamma=0.9,0.99")
    alone = CONTROL.run(unbroken, *grid)
    assert alone.returncode == 0, alone.stderr
    found = results(unbroken)
    jobs = [folder_in_grid(actor, gamma) for actor in ("4x4", "8x8") for gamma in (0.9, 0.99)]
    assert list(found) == jobs
    assert len({result["final/return"] for result in found.values()}) == 4

    CONTROL.kill_after(broken / jobs[1], 5, broken, *grid)
    assert sessions(broken) == [1, 1]  # the first is done, the second was under way
    again = CONTROL.alone(broken, *grid, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert again.returncode == 0, again.stderr
    assert results(broken) == found
    assert sessions(broken) == [1, 2, 1, 1]
    done = CONTROL.run(broken, *grid)  # neither trained nor evaluated
    assert done.returncode == 0 and sessions(broken) == [1, 2, 1, 1] and results(broken) == found
    assert done.stdout.count("seed 1") == 4

    other = CONTROL.run(broken, *grid, "final_episodes=2", "gamma=0.9")  # other settings, other folders
    assert other.returncode == 0 and found.items() < results(broken).items() and len(results(broken)) == 6
    assert all(rows(broken / job) == 12 for job in jobs)


def test_jobs_of_different_lengths_have_a_result_each(tmp_path):
    swept = CONTROL.run(tmp_path, "-m", *(text for text in SHORT if "total" not in text), "total_frames=400,300")
    assert swept.returncode == 0, swept.stderr
    assert [result["frames"] for result in results(tmp_path).values()] == [300, 400]


def test_what_counts_as_done(tmp_path):
    with composing("control") as configuration:
        config = OmegaConf.to_object(configuration("env=toy", "total_frames=30000", f"run_dir={tmp_path}"))

        def done(mode: str = "MULTIRUN", **changes: Any) -> Any:
            HydraConfig.instance().set_config(
                compose("control", overrides=[f"hydra.mode={mode}"], return_hydra_config=True)
            )
            try:
                return sweep_result(changed(config, **changes))
            finally:
                HydraConfig.instance().cfg = None

        assert done() is None
        result = {"frames": 30_000, "final/return": -1.0}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(flat(config)))
        (tmp_path / "result.json").write_text(json.dumps(result))
        assert done() == result
        assert done("RUN") is None  # a run by itself evaluates again
        assert done(final_episodes=7) is None and done(gamma=0.9) is None
        (tmp_path / "result.json").write_text(json.dumps({**result, "final/return": None}))  # all agents have failed
        assert done() is None
        (tmp_path / "result.json").write_text(json.dumps({**result, "frames": 20_000}))
        assert done() is None
        (tmp_path / "result.json").write_text(json.dumps(result))
        os.utime(tmp_path / "result.json", (0, 0))  # older than the settings: a later session has not come to its end
        assert done() is None


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["hydra.mode=MULTIRUN", "gamma=0.9"], "seeds0_1/gamma=0.9"),
        (["hydra.mode=MULTIRUN", "tau=0.1", "gamma=0.9"], "seeds0_1/gamma=0.9,tau=0.1"),
        (["gamma=0.9"], "seeds0_1"),  # a run by itself: its folder is as ever
        (
            ["hydra.mode=MULTIRUN", "actor=[4,4]", "show_progress=false"],
            "seeds0_1",
        ),  # nothing that the path does not say
        (["hydra.mode=MULTIRUN", "total_frames=30000"], "seeds0_1/total_frames=30000"),  # two jobs may differ in it
        (["hydra.mode=MULTIRUN", "gamma=0.9", "run_dir=mine/${gamma}"], "mine/0.9"),
    ],
)
def test_the_folder_of_a_job(overrides, name, monkeypatch):
    assert folder_of(overrides).endswith(name)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert folder_of(["gamma=0.9"]).endswith("seeds0_1/gamma=0.9")


def test_the_folder_of_a_job_with_many_settings_has_a_name_that_a_disk_can_hold():
    many = ["hydra.mode=MULTIRUN", "gamma=0.9", *(f"{name}_gain=0.1234567890123456789" for name in GAINS)]
    one, other = (Path(folder_of([*many, f"tau={tau}"])).name for tau in (0.1, 0.2))
    assert one != other and one[:100] == other[:100] and len(one) == len(other) == 150 + 9


GAINS = ("actor", "critic", "actor_head", "critic_head")


def folder_of(overrides: list[str]) -> str:
    with composing("control"):
        config = compose("control", overrides=overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        try:
            return run_folder(config)
        finally:
            HydraConfig.instance().cfg = None


@pytest.mark.slow
def test_optuna_finds_its_trials_again(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = ("-m", "+sweep=hyperparameters", *SHORT)

    def best() -> dict[str, Any]:
        return yaml.safe_load((tmp_path / "runs" / "optuna" / "toy_td3" / "optimization_results.yaml").read_text())

    two = CONTROL.run(tmp_path, *sweep, "hydra.sweeper.n_trials=2")
    assert two.returncode == 0, two.stderr
    first = results(tmp_path)
    assert len(first) == 2 and best()["best_value"] == max(result["final/return"] for result in first.values())
    three = CONTROL.alone(tmp_path, *sweep, "hydra.sweeper.n_trials=3", "hydra/launcher=joblib")
    assert three.returncode == 0, three.stderr
    second = results(tmp_path)
    assert len(second) == 3 and first.items() < second.items() and sessions(tmp_path) == [1, 1, 1]
    assert best()["best_value"] == max(result["final/return"] for result in second.values())
    assert best()["best_params"].keys() == {"learning_rate", "gamma", "tau", "batch_size"}


def agent_command(page: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The command line that W&B's agent makes of a sweep file and the values that the server has chosen."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    arguments = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    parts = {"${env}": ["/usr/bin/env"], "${program}": [str(ROOT / page["program"])]}
    parts["${args_no_hyphens}"] = arguments["args_no_hyphens"]
    return [word for part in page["command"] for word in parts.get(part, [part])]


def test_the_command_of_a_wandb_agent_runs_offline(tmp_path):
    page = yaml.safe_load((ROOT / "configs" / "sweeps" / "hyperparameters.yaml").read_text())
    chosen = {key: choices(parameter)[0] for key, parameter in page["parameters"].items()}
    short = dict(text.split("=") for text in SHORT if not text.startswith(("algorithm", "seeds", "actor", "critic")))
    command = agent_command(page, {**chosen, **short, "actor": [4, 4], "critic": [8, 8]})
    assert command[:3] == ["/usr/bin/env", "python", str(ROOT / "experiments/control.py")]
    assert {"learning_rate=0.0001", "algorithm=td3", "actor=[4, 4]"} <= set(command[3:])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    agent = {**environment(), "PATH": path, "WANDB_SWEEP_ID": "abc12345", "WANDB_RUN_ID": "def67890"}
    ran = subprocess.run(command, cwd=tmp_path, env=agent, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    (folder,) = results(tmp_path)
    assert "seeds0_3/batch_size=64," in folder and "learning_rate=0.0001" in folder
    assert list((tmp_path / folder).glob("wandb/offline-run-*/run-def67890.wandb"))
    assert math.isfinite(results(tmp_path)[folder]["final/return"])


# ------------------------------------------------------------------------------------------- the studies at full size
def swept_values(command: str, sweep: str) -> dict[str, list[str]]:
    """Each key of a sweep's page, and its values as the command line has them; all are composed."""
    folder = ROOT / "configs" / ("control" if command == "smallest_actor" else "")
    params = yaml.safe_load((folder / "sweep" / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]["params"]
    games = sorted(page.stem for page in (ROOT / "configs" / "env").iterdir())
    known = {"glob(*)": games, "range(5)": [str(seed) for seed in range(5)]}
    values = {key: known.get(text) or text.split(",") for key, text in params.items()}
    with composing(command) as configuration:
        for key, each in values.items():
            for value in each:
                assert str(configuration(f"+sweep={sweep}", f"{key}={value}")[key]) == value
    return values


def test_the_sharing_study_at_full_size_is_one_sweep_of_320_runs():
    values = swept_values("procgen", "study")
    assert math.prod(len(each) for each in values.values()) == 16 * 4 * 5
    settings = composed("procgen", "+sweep=study")
    assert settings.learning.total_frames == 25_000_000 and settings.protocol == "as_written"


def test_the_searches_on_mujoco_are_one_sweep_with_the_papers_steps():
    assert swept_values("smallest_actor", "mujoco") == {
        "env": ["reacher", "halfcheetah", "ant"],
        "algorithm": ["td3", "sac"],
    }
    with composing("smallest_actor") as configuration:
        config = configuration("+sweep=mujoco", "env=ant", "algorithm=td3")
    assert (config.total_frames, config.seeds, config.search.export) == (1_000_000, 6, "none")


@pytest.mark.slow
def test_the_sharing_study_rehearsed_at_tiny_size_does_only_what_is_missing(tmp_path):
    pytest.importorskip("procgen")
    few = ("-m", "+sweep=study", *TINY, "total_frames=64", "env=starpilot,plunder", "separation=late")
    first = Script("procgen.py").run(tmp_path, *few, "seed=0")
    assert first.returncode == 0, first.stderr
    again = Script("procgen.py").run(tmp_path, *few, "seed=0,1")
    assert again.returncode == 0, again.stderr
    records = sorted(tmp_path.glob("runs/procgen/**/record.json"))
    assert len(records) == 4 and len(list(tmp_path.glob("runs/procgen/**/result.json"))) == 4
    assert {len(json.loads(record.read_text())["sessions"]) for record in records} == {1}


@pytest.mark.slow
def test_the_searches_on_mujoco_rehearsed_at_tiny_size_go_on_from_their_text_files(tmp_path):
    pytest.importorskip("mujoco")
    few = ("seeds=2", "total_frames=120", "learning_starts=60", "batch_size=8", "buffer_size=200", "log_every=60")
    few += ("evaluate_every=120", "checkpoint_every=120", "evaluate_episodes=1", "final_episodes=1", "actor=[4,4]")
    few += ("critic=[4,4]", "search.sizes=[[],[4,4]]", "search.threshold=-100000", "search.results=kept")
    command = ("-m", "+sweep=mujoco", *few, "env=reacher", "algorithm=td3,sac")
    first = Script("smallest_actor.py").run(tmp_path, *command, "run_dir=one")
    assert first.returncode == 0 and first.stdout.count("the smallest actor: |linear|") == 2, first.stderr
    kept = {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()}
    assert len(kept) == 2
    again = Script("smallest_actor.py").run(tmp_path, *command, "run_dir=two")  # no run's folder
    assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
    assert not list((tmp_path / "two").rglob("metrics.csv"))
    assert {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()} == kept
