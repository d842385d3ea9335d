"""The answer for any task: which k, from scores written by hand; and a study that is trained, broken off and read."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from decouple.studies.actor_size.algorithms import DDPGControl, PPOControl, TRPOControl
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.engines import CellError
from decouple.studies.any_task import study as studying
from decouple.studies.any_task.report import answer_of, task_report
from decouple.studies.any_task.results import read_points
from decouple.studies.any_task.study import TaskStudy, depth_of, points_of, report_folder, store_of, train_points
from decouple.studies.separation.results import Study
from decouple.studies.separation.run_folders import Run

pytest.importorskip("rliable")

FRAMES = 100
TINY: dict[str, Any] = {
    **{"env": "toy", "seeds": 2, "total_frames": 400, "learning_starts": 200, "batch_size": 8, "buffer_size": 500},
    **{"log_every": 100, "evaluate_every": 200, "checkpoint_every": 200, "evaluate_episodes": 1, "final_episodes": 1},
    **{"actor": [4, 4], "critic": [4, 4], "show_progress": False},
}


def written(points: dict[int, list[float | None]], costs: dict[int, int] | None = None, **final: float) -> Study:
    """A study whose seeds have these returns."""
    runs = {}
    for k, returns in points.items():
        counts = {"total": (costs or {}).get(k, 10), "trunk": 1, "policy": 2}
        session = {"facts": {"multiply_adds_per_frame": json.dumps(counts), "parameters": json.dumps(counts)}}
        config = {"env": "task", "separation": k, "total_frames": FRAMES}
        runs[f"k={k}", "task"] = [
            Run(
                Path(f"k{k}"),
                config | {"seed": seed},
                {"frames": [FRAMES]},
                {"frames": FRAMES, "final/return": value, **final},
                session,
                depth=max(points),
            )
            for seed, value in enumerate(returns)
        ]
    return Study("ppo", runs, (), measure="return")


def test_a_point_above_all_others_is_taken_with_certainty():
    answer = answer_of(written({0: [1, 2, 3, 2], 1: [5, 6, 7, 6], 2: [2, 1, 1, 3]}), repetitions=200)
    assert answer.best == "k=1" and answer.probability == {"k=2": 0.0, "k=1": 1.0, "k=0": 0.0}
    assert answer.metrics["k=1"]["mean"].value == 6
    assert [comparison.y for comparison in answer.comparisons] == ["k=0", "k=2"]  # the next best first: 2 and 1.75
    # 2 of the 70 ways to deal four and four set the two as far apart.
    assert answer.comparisons[0].p_value == pytest.approx(2 / 70)
    assert answer.sentence.endswith("Take k=1: the seeds tell it from every other point.")
    assert answer.cheaper is None


def test_points_that_seeds_cannot_tell_apart_are_named_and_the_cheapest_of_them():
    answer = answer_of(written({0: [1, 9, 4, 6], 1: [2, 8, 5, 6]}, {0: 20, 1: 15}), repetitions=200)
    assert answer.best == "k=1" and answer.cheaper is None  # the best is the cheapest
    assert 0.4 < answer.probability["k=1"] < 0.7
    assert "Take k=1 for its mean, but the seeds cannot tell it from k=0." in answer.sentence
    other = answer_of(written({0: [1, 9, 4, 6], 1: [2, 8, 5, 6]}, {0: 10, 1: 15}), repetitions=200)
    assert other.cheaper == "k=0"
    cost = "10 multiply-adds for one observation, 0.67 times the 15 of the best."
    assert other.sentence.endswith(f"k=0 is the cheapest: {cost}")


def test_of_points_with_one_mean_the_cheapest_is_taken():
    answer = answer_of(written({0: [5, 5], 1: [4, 6], 2: [1, 2]}, {0: 20, 1: 15, 2: 10}), repetitions=20)
    assert answer.best == "k=1"
    assert "k=1 has the highest mean return, 5" in answer.sentence
    assert "and so has k=0. Take k=1, which costs least of them." in answer.sentence


def test_the_cheapest_of_those_that_no_sentence_has_named_is_told_apart():
    """Two have one mean and a third costs less; single seeds tell nothing."""
    costs, told = {0: 20, 1: 15, 2: 10}, "Of those that the seeds cannot tell from it, k=2 is the cheapest: 10 "
    equal = answer_of(written({0: [5, 5], 1: [4, 6], 2: [4, 5]}, costs), repetitions=20)
    assert f"Take k=1, which costs least of them. {told}" in equal.sentence
    single = answer_of(written({0: [5], 1: [4], 2: [1]}, costs), repetitions=20)
    assert f"train more seeds. {told}" in single.sentence and "Of these" not in single.sentence


def test_single_seeds_say_nothing_of_chance():
    answer = answer_of(written({0: [1], 1: [5]}), repetitions=20)
    assert answer.best == "k=1" and all(map(math.isnan, answer.probability.values()))
    assert answer.sentence.endswith("a single seed of a point says nothing of chance: train more seeds.")
    assert "no other point" in answer_of(written({1: [5, 6]}), repetitions=20).sentence


def test_a_failed_seed_is_left_out_and_named():
    study = written({0: [1, 2, None], 1: [5, 6, 7]})
    assert study.scores() == {"k=1": {"task": [5, 6, 7]}, "k=0": {"task": [1, 2]}}
    assert any("Failed" in note and "k=0 on task, seed 2" in note for note in study.notes)
    answer = answer_of(study, repetitions=20)
    assert answer.sentence.endswith("Of k=0 1 of 3 seeds failed, which are in no mean.")
    assert answer.notes == tuple(study.notes)
    with pytest.raises(ValueError, match="runs must be finished"):
        answer_of(written({0: [None]}))


def test_the_points_of_a_study():
    settings = PPOControl(env="toy", actor=[8, 8, 8], critic=[4, 4])
    assert depth_of(settings) == 2
    assert [config.separation for config in points_of(settings, TaskStudy())] == [0, 1, 2]
    assert [config.separation for config in points_of(settings, TaskStudy(points=[2, 0]))] == [0, 2]
    with pytest.raises(ValueError, match=r"study\.points must be .* \[0, 2\].*got \[3\]"):
        points_of(settings, TaskStudy(points=[3]))
    for points in (None, [0, 1]):
        with pytest.raises(ValueError, match=r"study\.points must be \[0\] for trpo, .*; got (None|\[0, 1\])"):
            points_of(TRPOControl(env="toy"), TaskStudy(points=points))
    assert [config.separation for config in points_of(TRPOControl(env="toy"), TaskStudy(points=[0]))] == [0]
    with pytest.raises(ValueError, match=r"separation must be left out: .*got 1"):
        points_of(PPOControl(env="toy", separation=1), TaskStudy())


def in_this_process(monkeypatch: pytest.MonkeyPatch, train: Any) -> None:
    class Here:
        def __enter__(self) -> Any:
            return lambda config, go_on: train(config)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(TaskStudy, "start", lambda self: Here())


def test_a_study_broken_off_goes_on_and_its_page_has_every_point(tmp_path, monkeypatch):
    settings = DDPGControl(**TINY, run_dir=str(tmp_path / "study"))
    options, begun = TaskStudy(repetitions=20), []

    def train(config: Any) -> Any:
        begun.append(config.separation)
        if begun == [0, 1]:
            raise CellError("broken off")
        return train_agents(config)

    in_this_process(monkeypatch, train)
    with pytest.raises(CellError, match="k1: broken off"):
        train_points(settings, options)
    assert begun == [0, 1, 2]
    configs = train_points(settings, options)
    assert begun == [0, 1, 2, 1]  # the others were kept

    study = read_points(configs, store_of(settings, options))
    assert study.variants == ["k=2", "k=1", "k=0"] and not study.notes
    for config in configs:
        alone = DDPGControl(**TINY, separation=config.separation, run_dir=str(tmp_path / f"alone{config.separation}"))
        report = train_agents(alone)
        expected = [report[f"final/return/seed{seed}"] for seed in (0, 1)]
        assert study.scores()[f"k={config.separation}"]["toy"] == expected
    assert [study.cost(point).parameters for point in study.variants] == sorted(
        study.cost(point).parameters for point in study.variants
    )  # the more is shared, the fewer

    more = [dataclasses.replace(config, seeds=3) for config in configs[:2]]
    asked = [*more, dataclasses.replace(configs[2], seed=5)]
    missing = (
        "No run that can be read: k=0, seed 2.",
        "No run that can be read: k=1, seed 2.",
        "No run that can be read: k=2, seeds 5, 6.",
    )
    assert read_points(asked, store_of(settings, options)).elsewhere == missing

    page, answer = task_report(configs, options)
    folder = report_folder(settings, options)
    assert page == folder / "report.html" and answer.sentence in page.read_text().replace("&#x27;", "'")
    assert {file.stem for file in folder.glob("*.png")} == {"returns", "return", "improvement"}
    assert "What the branches learn" not in page.read_text()
    rows = table(folder / "returns.csv")
    assert [row["point"] for row in rows] == ["k=2", "k=1", "k=0"]
    runs = sorted(str(path.parent.relative_to(folder.parent)) for path in folder.parent.rglob("result.json"))
    assert runs == ["k0/seeds0_2", "k1/seeds0_2", "k2/seeds0_2"]


def test_what_no_point_can_train_is_refused_before_anything_is_written(tmp_path):
    settings = DDPGControl(env="acrobot", actor=[4], critic=[4], run_dir=str(tmp_path / "study"))
    with pytest.raises(ValueError, match=r"ddpg|deterministic|action"):
        train_points(settings, TaskStudy())
    assert not (tmp_path / "study").exists()
    with pytest.raises(FileNotFoundError, match="no study has run"):
        store_of(settings, TaskStudy(train=False))


def test_other_settings_have_another_folder():
    settings = PPOControl(env="pkg/Task-v0", actor=[8], critic=[4])
    folder = studying._folder(settings)
    assert folder.startswith("pkg_Task-v0/ppo/8-4_")
    assert studying._folder(PPOControl(env="pkg/Task-v0", actor=[8], critic=[4], seeds=3, separation=1)) == folder
    assert studying._folder(PPOControl(env="pkg/Task-v0", actor=[8], critic=[4], gamma=0.5)) != folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_with_test_levels_and_measured_branches_the_page_has_the_gap_and_what_they_learn(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    settings = PPOControl(
        **{"env": "odd_spaces:Odd/Discrete-v0", "num_levels": 2, "actor": [4], "critic": [4], "seeds": 2},
        **{"total_frames": 32, "rollout_steps": 16, "minibatches": 1, "epochs": 1, "evaluate_every": 1},
        **{"evaluate_episodes": 1, "final_episodes": 3, "show_progress": False, "run_dir": str(tmp_path)},
        measure_branches=True,
    )
    options = TaskStudy(repetitions=20)
    in_this_process(monkeypatch, train_agents)
    configs = train_points(settings, options)
    study = read_points(configs, store_of(settings, options))
    assert study.measure == "test_return" and study.variants == ["k=1", "k=0"] and not study.notes
    for point, of in study.scores("generalisation_gap").items():
        (gaps,), (train,), (test,) = (
            each.values() for each in (of, *(study.scores(f"{n}_return")[point] for n in SIDES))
        )
        assert gaps == pytest.approx([a - b for a, b in zip(train, test, strict=True)])
    page, _ = task_report(configs, options)
    pictures = {"returns", "test_return", "train_return", "generalisation_gap", "improvement", "cut_joint_cosine"}
    pictures |= {f"branches_{name}" for name in ("cka", "policy_rank", "value_rank")}
    assert {file.stem for file in page.parent.glob("*.png")} == pictures
    assert "gap (train - test)" in (page.parent / "returns.md").read_text()

    for row in table(page.parent / "levels.csv"):
        (metric,) = (name for name, told in SIDES_TOLD.items() if told == row["measure"])
        (values,) = study.scores(metric)[row["point"]].values()
        assert float(row["mean"]) == pytest.approx(sum(values) / 2) and row["IQM low"]
    assert len(table(page.parent / "levels.csv")) == 6
    gaps = {point: next(iter(of.values())) for point, of in study.scores("generalisation_gap").items()}
    wins = [(x < y) + 0.5 * (x == y) for x in gaps["k=1"] for y in gaps["k=0"]]  # the smaller gap is the better
    (pair,) = table(page.parent / "improvement_generalisation_gap.csv")
    assert (pair["variant"], pair["against"]) == ("k=1", "k=0")
    assert float(pair["probability of improvement"]) == pytest.approx(sum(wins) / 4)
    assert len(table(page.parent / "improvement_train_return.csv")) == 1

    assert "What the branches learn" in page.read_text()
    shared, full = table(page.parent / "branches.csv")
    assert shared["point"] == "k=1" and float(shared["CKA"]) == pytest.approx(1)
    assert shared["policy rank"] == shared["value rank"] and float(full["policy rank"]) > 1
    assert full["cosine at the cut"] == "" and -1 <= float(shared["cosine at the cut"]) <= 1
    ends = [run.curve("branches/cka")[32] for run in study.finished("k=0", study.games[0])]
    assert float(full["CKA"]) == pytest.approx(sum(ends) / 2)
    assert len(table(page.parent / "branch_curves.csv")) == 8  # two seeds of two points at two evaluations


SIDES = ("train", "test")
SIDES_TOLD = {
    "test_return": "test return",
    "train_return": "training return",
    "generalisation_gap": "gap (train - test)",
}
