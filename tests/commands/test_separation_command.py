"""experiments/separation.py: the real command, started twice."""

from __future__ import annotations

import pytest
from commands import IN_ONE_PROCESS, Script, composing
from omegaconf import OmegaConf

from decouple.commands.settings import control_settings, settings_beside
from decouple.studies.any_task.study import TaskStudy

pytest.importorskip("rliable")

SEPARATION = Script("separation.py")
TINY = (
    *(
        "env=toy",
        "algorithm=ddpg",
        "seeds=2",
        "total_frames=400",
        "learning_starts=200",
        "batch_size=8",
        "log_every=100",
    ),
    *("buffer_size=500", "evaluate_every=200", "checkpoint_every=200", "evaluate_episodes=1", "final_episodes=1"),
    *("actor=[4]", "critic=[4]", "study.repetitions=20", "run_dir=study"),
)


def test_the_study_has_settings_of_its_own_beside_those_of_any_algorithm():
    with composing("separation") as configuration:
        plain = OmegaConf.to_container(configuration("env=acrobot", "study.points=[0,2]"), resolve=True)
        other = OmegaConf.to_container(configuration("algorithm=sac", "env_kwargs.g=9.8"), resolve=True)
    study = TaskStudy(**plain.pop("study"))
    assert study.points == [0, 2]
    settings = control_settings(plain)
    assert (settings.env, settings.algorithm, settings.seeds) == ("acrobot", "ppo", 6)
    other.pop("study")
    assert (control_settings(other).env, control_settings(other).env_kwargs) == ("pendulum", {"g": 9.8})


def test_a_published_learning_starts_gives_way_to_a_short_study_as_to_a_short_run():
    with composing("separation") as configuration:
        config = configuration("env=pendulum", "algorithm=td3", "total_frames=2000", "study.points=[0]")
        study, settings = settings_beside("study", TaskStudy, config, {"env", "algorithm", "total_frames"})
        assert study.points == [0] and settings.learning.learning_starts == 200
        with pytest.raises(ValueError, match="learning_starts"):
            settings_beside("study", TaskStudy, config, {"learning_starts"})


def test_the_command_trains_every_k_and_a_second_start_only_writes_the_page(tmp_path):
    first = SEPARATION.run(tmp_path, *TINY, before=IN_ONE_PROCESS)
    assert first.returncode == 0, first.stderr
    says, page = first.stdout.splitlines()
    assert says.startswith("k=") and "has the highest mean return" in says
    page = tmp_path / page.removeprefix("the page is ")
    assert {folder.name for folder in page.parents[1].iterdir()} == {"k0", "k1", "report"}
    trained = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    assert len(trained) == 2
    page.unlink()
    again = SEPARATION.run(tmp_path, *TINY, "study.train=false")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout and page.exists()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")} == trained


def test_a_missing_rliable_is_named_before_anything_is_trained(tmp_path):
    ran = SEPARATION.run(tmp_path, *TINY, before="import sys; sys.modules['rliable'] = None")
    assert ran.returncode == 1 and "pip install 'torchrl-decouple[eval]'" in ran.stderr
    assert not (tmp_path / "study").exists()
