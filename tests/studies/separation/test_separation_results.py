"""Run folders as they come, with what is missing, unfinished, there twice or mixed."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import yaml
from damage import DAMAGES, damage
from study_folders import write_run, write_study

from decouple.studies.separation.results import read_study
from decouple.studies.separation.run_folders import find_runs, read_run
from decouple.studies.separation.tables import run_table


@pytest.fixture
def study(tmp_path):
    return read_study(find_runs(write_study(tmp_path)))


def test_runs_are_grouped_by_degree_game_and_seed(study):
    assert study.variants == ["shared", "late", "full"]  # from the most shared
    assert study.games == ["heist", "maze", "plunder"]
    assert [run.seed for run in study.runs["late", "maze"]] == [0, 1, 2]
    assert study.runs["late", "maze"][0].k == 2
    assert study.protocol == "controlled"


def test_scores_are_those_of_finished_runs_and_none_is_averaged(study):
    assert study.scores() == {
        "shared": {"heist": [3.0], "maze": [5.0, 6.0], "plunder": [4.0, 5.0]},
        "late": {"heist": [4.0], "maze": [7.0, 8.0, 9.0], "plunder": [6.0, 7.0]},
        "full": {"maze": [5.5, 6.5], "plunder": [9.0, 10.0]},
    }
    assert study.common_games() == ["maze", "plunder"]


def test_what_is_left_out_is_said(study):
    assert study.notes == [
        "Unfinished, in the curves alone (dashed): full on maze, seed 2: stopped at 200 of 300 frames.",
        "full has no finished run on heist.",
        "Not in the aggregates, since not every variant has a finished run there: heist.",
        "The number of finished runs is not the same for every game and variant: 1 to 3. Every game has the same "
        "weight, and each run the same within its game.",
        "Where there is one run only, nothing can be resampled, so what includes it has no interval.",
    ]


def test_a_whole_study_has_nothing_to_say(tmp_path):
    for separation in ("shared", "late"):
        for seed in (0, 1):
            write_run(tmp_path, separation=separation, seed=seed)
    assert read_study(find_runs(tmp_path)).notes == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"frames": (100, 200), "finished": False}, "stopped at 200 of 300 frames"),
        ({"frames": (100, 200)}, "stopped at 200 of 300 frames"),  # a result.json of a run that was then made longer
        ({"finished": False}, "no result.json: its final evaluation is missing, at 300 frames"),
        ({"frames": ()}, "stopped at 0 of 300 frames"),
        ({"frames": (200, 400)}, "trained for 400 frames, where its settings say 300"),  # it was longer once
        ({"frames": (100, 399)}, None),  # an iteration is 100 frames, and the last one goes beyond
        ({}, None),
    ],
)
def test_what_counts_as_unfinished(tmp_path, changes, why):
    if changes.get("frames") == ():
        changes = {**changes, "finished": False}
    assert read_run(write_run(tmp_path, **changes)).unfinished == why


def test_a_result_of_an_earlier_end_does_not_count(tmp_path):
    folder = write_run(tmp_path)
    (folder / "result.json").write_text(json.dumps({"frames": 100, "final/test_return": 9.0}))
    assert read_run(folder).unfinished == "its result.json was written at 100 of 300 frames"


def test_a_result_of_another_number_of_episodes_does_not_count(tmp_path):
    folder = write_run(tmp_path, final_episodes=500)
    result = json.loads((folder / "result.json").read_text())
    for episodes, why in ((500, None), (100, "its result.json has 100 episodes, where its settings say 500")):
        (folder / "result.json").write_text(json.dumps({**result, "final/episodes": episodes}))
        assert read_run(folder).unfinished == why


def test_curves_hold_what_was_measured(tmp_path):
    run = read_run(write_run(tmp_path, score=6.0))
    assert run.curve("eval/test_return") == {100: 2.0, 200: 4.0, 300: 6.0}
    assert run.curve("eval/unseen_return") == {}
    assert run.final("unseen_return") is None


def test_evaluation_on_unseen_levels_is_read_where_it_is_there(tmp_path):
    write_run(tmp_path, score=6.0, unseen=True)
    study = read_study(find_runs(tmp_path))
    assert study.has("unseen_return")
    assert study.scores("unseen_return") == {"late": {"maze": [5.0]}}
    assert study.runs["late", "maze"][0].curve("eval/unseen_return") == {100: 1.0, 200: 3.0, 300: 5.0}


def test_a_seed_that_is_there_twice_is_refused(tmp_path):
    folder = write_run(tmp_path)
    shutil.copytree(folder, folder.parent / "seed0_again")
    with pytest.raises(ValueError, match=r"once: late on maze, seed 0, is in .*seed0 and in .*seed0_again; leave one"):
        read_study(find_runs(tmp_path))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 1, "epochs": 1}, r"\(late on maze\): epochs is 3 in .*seed0; 1 in .*seed1"),
        ({"separation": "shared", "total_frames": 200, "frames": (100, 200)}, r"\(study\): total_frames is"),
        ({"separation": "shared", "env": "heist", "num_levels": 500}, r"\(study\): num_levels is 500 in .*; 200 in"),
        ({"seed": 1, "precision": "bf16"}, r"\(study\): precision is 'fp32' in .*; 'bf16' in"),
    ],
)
def test_runs_of_different_settings_are_refused(tmp_path, other, says):
    write_run(tmp_path)
    write_run(tmp_path, **other)
    with pytest.raises(ValueError, match="runs of different settings are not put together " + says):
        read_study(find_runs(tmp_path))


def test_a_run_that_lacks_a_setting_does_not_hide_that_others_differ_in_it(tmp_path):
    write_run(tmp_path, epochs=1)
    write_run(tmp_path, epochs=9, seed=1)
    config = write_run(tmp_path, seed=2) / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "epochs" not in line))
    with pytest.raises(ValueError, match=r"different settings .*: epochs is 1 in .*seed0; 9 in .*seed1"):
        read_study(find_runs(tmp_path))


def test_runs_on_different_packages_of_the_games_are_refused(tmp_path):
    write_run(tmp_path)
    other = write_run(tmp_path, seed=1)
    record = (other / "record.json").read_text().replace("procgen-mirror 0.10.7", "envpool 1.2.5")
    (other / "record.json").write_text(record)
    with pytest.raises(ValueError, match=r"backend is procgen-mirror in .*; envpool in"):
        read_study(find_runs(tmp_path))


def test_where_and_how_a_run_was_computed_may_differ(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, seed=1, device="cuda", tracker="wandb")
    study = read_study(find_runs(tmp_path))
    assert study.cost("late").machines == (
        "Linux-test, 2 processors, cpu, fp32",
        "Linux-test, 2 processors, cuda, fp32",
    )


def test_protocols_are_kept_apart(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, protocol="as_written")
    with pytest.raises(ValueError, match=r"set protocol to one of \['as_written', 'controlled'\]"):
        read_study(find_runs(tmp_path))
    study = read_study(find_runs(tmp_path), "controlled")
    assert study.notes[0].startswith("Where there is one run only")
    assert study.elsewhere == ("1 of the runs found are of other protocols and left out: as_written.",)
    with pytest.raises(ValueError, match="must hold a run of protocol as_released"):
        read_study(find_runs(tmp_path), "as_released")


def test_an_integer_goes_by_the_name_of_the_same_settings(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, separation="2")  # late, by its number
    write_run(tmp_path, seed=0, separation="3")
    write_run(tmp_path, seed=0, separation="full", algorithm="daac")
    write_run(tmp_path, seed=0, separation="0")  # PPO on two networks: not what the protocol makes of full
    study = read_study(find_runs(tmp_path))
    assert study.variants == ["k=3", "late", "full", "k=0"]
    assert [run.seed for run in study.runs["late", "maze"]] == [0, 1]


def test_settings_that_differ_between_degrees_are_listed(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, separation="full", algorithm="daac", epochs=1)
    write_run(tmp_path, separation="full", algorithm="daac", epochs=2, env="heist")  # tuned for a game
    assert read_study(find_runs(tmp_path)).differing_settings == [
        {"setting": "algorithm", "late": "ppo", "full": "daac"},
        {"setting": "epochs", "late": "3", "full": "1 or 2"},
    ]


def test_runs_older_than_a_setting_differ_from_none_in_it(tmp_path):
    write_run(tmp_path, separation="shared")
    write_run(tmp_path, width=1.0)
    write_run(tmp_path, separation=2, seed=1)  # late, from before there were widths
    study = read_study(find_runs(tmp_path))
    assert study.variants == ["shared", "late"] and not study.differing_settings
    assert [run.seed for run in study.runs["late", "maze"]] == [0, 1]


def test_all_machines_of_a_run_that_went_on_elsewhere_are_named(tmp_path):
    folder = write_run(tmp_path)
    record = json.loads((folder / "record.json").read_text())
    record["sessions"] = [
        {"platform": "Old", "cpu_count": 64},
        {"platform": "Old", "cpu_count": 64},
        *record["sessions"],
    ]
    (folder / "record.json").write_text(json.dumps(record))
    machines = read_study([folder]).cost("late").machines
    assert machines == ("Linux-test, 2 processors, cpu, fp32", "Old, 64 processors, cpu, fp32")


def test_what_a_degree_costs(study):
    cost = study.cost("late")
    assert (cost.parameters, cost.multiply_adds, cost.acting_multiply_adds) == (1_197_040, 35, 30)
    # Every run made 200, 300 and 400 frames/s.
    assert (cost.frames_per_second, cost.frames_per_second_range) == (300.0, (300.0, 300.0))


def test_a_run_without_a_record_has_no_cost(tmp_path):
    folder = write_run(tmp_path, frames=(), finished=False)
    (folder / "record.json").unlink()
    cost = read_study([folder]).cost("late")
    assert (cost.parameters, cost.multiply_adds, cost.frames_per_second) == (None, None, None)
    assert cost.machines == ("machine not recorded, cpu, fp32",)


def test_runs_are_found_in_folders_and_by_globs(tmp_path):
    folders = [write_run(tmp_path, env=game) for game in ("heist", "maze")]
    assert find_runs(tmp_path) == folders
    assert find_runs([f"{tmp_path}/*/maze", folders[1]]) == folders[1:]  # found twice, there once
    with pytest.raises(FileNotFoundError, match=r"none in .*nowhere"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none in .*nowhere"):
        find_runs([tmp_path, tmp_path / "nowhere"])


def test_links_are_followed_once_and_brackets_in_a_name_are_no_pattern(tmp_path):
    folder = write_run(tmp_path / "disk [2]")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "seed0").symlink_to(folder)
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    assert [found.resolve() for found in find_runs(tmp_path / "runs")] == [folder]
    assert find_runs([tmp_path / "disk [2]", tmp_path / "runs"]) == [folder]


def test_folders_of_other_experiments_are_noted(tmp_path):
    folder = write_run(tmp_path)
    other = tmp_path / "control"
    shutil.copytree(folder, other)
    (other / "config.yaml").write_text("env: pendulum\n")
    assert read_study([folder, other]).elsewhere == (f"Not a run of this study: {other}.",)
    with pytest.raises(ValueError, match="must be a run of experiments/procgen"):
        read_run(other)


def test_a_result_without_a_score_is_refused(tmp_path):
    folder = write_run(tmp_path)
    (folder / "result.json").write_text(json.dumps({"frames": 300, "final/train_return": math.pi}))
    with pytest.raises(ValueError, match="must hold final/test_return; got frames, final/train_return"):
        read_run(folder)


# ------------------------------------------------------------------------------------------------- damaged and failed


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_run_is_named_and_left_out(tmp_path, what):
    for separation in ("shared", "late"):
        for seed in (0, 1):
            folder = write_run(tmp_path, separation=separation, seed=seed)
    file = damage(folder, what)  # late, seed 1
    study = read_study(find_runs(tmp_path))
    assert study.scores() == {"shared": {"maze": [5.0, 5.0]}, "late": {"maze": [5.0]}}
    (text,) = study.damaged
    assert str(file) in text
    at = study.notes.index("Damaged, and left out: 1 of 4 runs. The files, and what they hold:")
    assert study.notes[at + 1] == text


@pytest.mark.parametrize("gone", [["metrics.csv"], ["config.yaml"], ["config.yaml", "metrics.csv"], None])
def test_a_run_of_which_files_are_missing_is_missed_by_name(tmp_path, gone):
    write_run(tmp_path, seed=0)
    folder = write_run(tmp_path, seed=1)
    for file in [folder / name for name in gone] if gone else list(folder.iterdir()):  # None: an empty folder
        file.unlink()
    (text,) = read_study(find_runs(tmp_path)).damaged
    assert str(folder) in text


def test_what_a_run_keeps_below_its_folder_is_no_run(tmp_path):
    folder = write_run(tmp_path)
    (folder / "wandb" / "files").mkdir(parents=True)
    (folder / "wandb" / "files" / "config.yaml").write_text("wandb_version: 1\n")
    (folder / "pictures").mkdir()
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("env: maze\n")
    assert find_runs(tmp_path) == [folder]


def test_only_damaged_runs_are_an_error_that_names_the_files(tmp_path):
    files = [damage(write_run(tmp_path, seed=seed), what) for seed, what in enumerate(["bad cell", "truncated result"])]
    with pytest.raises(ValueError, match="all that were found are damaged") as error:
        read_study(find_runs(tmp_path))
    assert all(str(file) in str(error.value) for file in files)


@pytest.mark.parametrize("value", ["null", "NaN", "-Infinity"])
def test_a_run_that_failed_is_named_counted_and_in_no_score(tmp_path, value):
    write_run(tmp_path, 6.0)
    folder = write_run(tmp_path, seed=1, frames=(100, 200))
    (folder / "result.json").write_text(f'{{"frames": 200, "final/test_return": {value}}}')
    study = read_study(find_runs(tmp_path))
    assert study.scores() == {"late": {"maze": [6.0]}}
    assert study.notes[:2] == [
        "Failed, in the curves alone (dashed): late on maze, seed 1: failed after 200 frames: the return in its "
        "result.json is null or not finite.",
        "Failed: 1 of 2 runs. Means are over the others.",
    ]
    assert run_table(study).rows == [{"game": "maze", "late": "1 (seed 0), 1 failed"}]
    reason = {"failed": {"seed1": "a reward is nan at step 7"}}
    (folder / "result.json").write_text(json.dumps({"frames": 200, "final/test_return": None, **reason}))
    assert read_run(folder).unfinished == "failed after 200 frames: a reward is nan at step 7"


@pytest.mark.parametrize(
    ("setting", "value"), [("seed", None), ("total_frames", "many"), ("separation", "nowhere"), ("num_envs", [4])]
)
def test_settings_that_no_run_can_have_are_damage(tmp_path, setting, value):
    write_run(tmp_path)
    config = write_run(tmp_path, seed=1) / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {setting: value}))
    (text,) = read_study(find_runs(tmp_path)).damaged
    assert text.startswith(f"{config} must hold") and repr(value) in text
