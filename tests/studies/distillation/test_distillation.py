"""studies/distillation: students of real runs, small ones; their file; their search. Procgen's with -m slow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from decouple.deploy.card import card_path
from decouple.deploy.compiled_c import c_compiler
from decouple.runs.checkpoint import CheckpointError, load_checkpoint
from decouple.runs.finite import NotFiniteError
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.smallest_actor import SearchSettings
from decouple.studies.distillation import search as searching
from decouple.studies.distillation.buffer import LabelledBuffer
from decouple.studies.distillation.search import (
    run_student_search,
    smallest_student,
    student_parameters,
    student_search_text,
)
from decouple.studies.distillation.settings import distillation
from decouple.studies.distillation.sources import read_source
from decouple.studies.distillation.training import distill, done_students, read_lesson, teacher_returns
from decouple.studies.export import Export, export
from decouple.studies.winner import winner_text, write_smallest_student

QUIET: dict[str, Any] = {"show_progress": False, "tracker": "local"}
NETWORKS: dict[str, Any] = {
    "actor": [8],
    "critic": [8],
    "seeds": 2,
    "seed": 3,
    "final_episodes": 1,
    "update": "batched",
    **QUIET,
}
OFF_POLICY = {"total_frames": 150, "learning_starts": 50, "batch_size": 8, "buffer_size": 150, "evaluate_episodes": 1}
ON_POLICY = {"total_frames": 200, "rollout_steps": 100, "minibatches": 2, "epochs": 1, "evaluate_episodes": 1}
TINY: dict[str, Any] = {
    **{"seeds": 2, "total_frames": 256, "num_envs": 8, "steps": 4, "updates": 2, "batch_size": 16},
    **{"buffer_frames": 128, "evaluate_every": 128, "checkpoint_every": 64},
    **{"evaluate_episodes": 2, "final_episodes": 2, **QUIET},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> Any:
    """A function from an algorithm, and settings, to the folder of a run that has hardly begun."""
    made: dict[str, str] = {}

    def run(algorithm: str, **settings: Any) -> str:
        name = f"{algorithm}_{settings}"
        if name not in made:
            made[name] = str(tmp_path_factory.mktemp("teacher"))
            lengths = OFF_POLICY if algorithm in ("sac", "td3", "ddpg") else ON_POLICY
            train_agents(CONTROL_ALGORITHMS[algorithm](**NETWORKS | lengths | settings, run_dir=made[name]))
        return made[name]

    return run


def lesson(checkpoint: str, folder: Path, **settings: Any) -> Any:
    sized = {} if {"sizes", "width", "actor"} & settings.keys() else {"actor": [4]}
    return read_lesson(distillation(checkpoint=checkpoint, run_dir=str(folder), **TINY | sized | settings))


KINDS = {
    "deterministic": ("td3", {"env": "pendulum"}),
    "squashed normal": ("sac", {"env": "pendulum", "normalize_observation": True}),
    "squashed normal of ppo": ("ppo", {"env": "toy"}),
    "categorical": ("ppo", {"env": "pixelcopter"}),
    "discrete sac": ("sac", {"env": "acrobot"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_students_of_each_kind_of_policy_learn_it_and_are_agents_like_any_other(kind, teachers, tmp_path):
    algorithm, settings = KINDS[kind]
    taught = lesson(teachers(algorithm, **settings), tmp_path, total_frames=1280, updates=20, learning_rate=1e-2)
    result = distill(taught)
    metrics = read_metrics(tmp_path)
    losses = metrics["loss/divergence"]
    assert losses[-1] < 0.5 * losses[0] and metrics["frames"][-1] == 1280
    own = [result[f"final/return/seed{seed}"] for seed in (0, 1)]
    assert result["final/return"] == pytest.approx(sum(own) / 2) and math.isfinite(result["final/teacher_return"])
    assert done_students(taught) == json.loads((tmp_path / "result.json").read_text())

    _, state, source = read_source(str(tmp_path), None)
    best = own.index(max(own))
    assert source.facts["seed"] == best and source.facts["actor"] == [4] and "critic" not in source.facts
    assert source.facts["teacher"]["algorithm"] == algorithm and source.facts["teacher"]["actor"] == [8]
    _, report, _ = export(Export(str(tmp_path), "c" if c_compiler() else "pt2", seconds=0, episodes=2, observations=20))
    assert report.difference <= report.tolerance and report.metadata["teacher"]["algorithm"] == algorithm
    assert "by a teacher" in card_path(report.path).read_text()
    assert state["student"]["scaling"] is None or len(state["student"]["scaling"]) == 3


def test_a_student_in_a_batch_learns_what_it_learns_alone(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    distill(lesson(run, tmp_path / "two"))
    distill(lesson(run, tmp_path / "one", seeds=1, seed=1))
    pair, alone = (load_checkpoint(tmp_path / name / "checkpoint.pt")["model"] for name in ("two", "one"))
    stacked = [name for name in alone if len(pair[name]) == 2]  # the action's bounds are both students'
    assert pair.keys() == alone.keys() and len(stacked) >= 4
    for name in stacked:
        torch.testing.assert_close(pair[name][1], alone[name][0])
    assert any((pair[name][0] - pair[name][1]).abs().max() > 1e-3 for name in stacked)


def test_the_teacher_labels_the_best_of_its_run_unless_told_which(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    returns = {seed: json.loads((Path(run) / "result.json").read_text())[f"final/return/seed{seed}"] for seed in (3, 4)}
    best, other = sorted(returns, key=returns.__getitem__, reverse=True)
    chosen = lesson(run, tmp_path)
    assert chosen.teacher.facts["seed"] == best
    named = lesson(run, tmp_path, teacher_seed=other)
    assert named.teacher.facts["seed"] == other and named.identity != chosen.identity
    assert lesson(run, tmp_path, teacher_seed=best).identity == chosen.identity
    assert len(teacher_returns(chosen)) == 2 and teacher_returns(chosen) == teacher_returns(chosen)


def test_a_student_teaches_too(teachers, tmp_path):
    distill(lesson(teachers("ppo", env="pixelcopter"), tmp_path / "first", seeds=1, total_frames=64))
    result = distill(lesson(str(tmp_path / "first"), tmp_path / "second", actor=[2], seeds=1, total_frames=64))
    assert math.isfinite(result["final/return"])
    assert read_source(str(tmp_path / "second"), None)[2].facts["actor"] == [2]


def test_settings_at_their_default_enter_no_identity_and_others_do(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    plain = read_lesson(distillation(checkpoint=run, actor=[4], run_dir=str(tmp_path)))
    assert plain.identity.keys() == {"actor", "seed", "seeds", "buffer_frames", "teacher", "of_seed"}
    assert plain.identity["seeds"] == 6 and plain.identity["buffer_frames"] == 20_000
    assert lesson(run, tmp_path, steps=3).identity["steps"] == 3
    folder = read_lesson(distillation(checkpoint=run, actor=[4, 2])).settings.run_dir
    assert folder.startswith("runs/distill/pendulum/td3_seed") and folder.endswith("/actor4x2/seeds0_6")


def test_a_folder_with_students_of_other_settings_is_refused(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    distill(lesson(run, tmp_path, total_frames=64))
    with pytest.raises(CheckpointError, match="actor"):
        distill(lesson(run, tmp_path, total_frames=64, actor=[2]))
    with pytest.raises(CheckpointError, match="teacher"):
        done_students(lesson(teachers("sac", env="pendulum", normalize_observation=True), tmp_path, total_frames=64))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"checkpoint": None}, "checkpoint.*a run's folder"),
        ({"actor": None}, "actor must be given on .*, width in its place .*; got actor=None and width=None"),
        ({"width": 0.5}, "actor must be given on .*; got actor=.* and width=0.5"),
        ({"actor": [0]}, "actor.*positive sizes"),
        ({"actor_activation": "sine"}, "actor_activation.*relu"),
        ({"sizes": "all"}, "sizes.*fixed, search"),
        ({"sizes": "search"}, "actor.*left out with sizes=search"),
        ({"seeds": 0}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"schedule": "cosine"}, "schedule.*constant, linear"),
        ({"buffer_frames": 0}, "buffer_frames"),
        ({"updates": 1.5}, "updates"),
        ({"sample": 1}, "sample"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        distillation(**{"checkpoint": "x", "actor": [4]} | settings)


def test_teachers_and_students_that_cannot_be_are_refused_by_name(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    with pytest.raises(ValueError, match=r"width must be left out on pendulum.*0\.5"):
        lesson(run, tmp_path, actor=None, width=0.5)
    with pytest.raises(ValueError, match="seed must be one of the run's"):
        lesson(run, tmp_path, teacher_seed=9)
    with pytest.raises(FileNotFoundError):
        lesson(str(tmp_path / "none"), tmp_path)
    with pytest.raises(ValueError, match="without memory"):
        lesson(teachers("ppo", env="toy", recurrent="gru", sequence_length=50), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_student_that_diverges_has_failed_and_the_run_says_so(teachers, tmp_path):
    taught = lesson(teachers("sac", env="pendulum", normalize_observation=True), tmp_path, learning_rate=1e30)
    with pytest.warns(UserWarning, match="has failed"), pytest.raises(NotFiniteError, match="pendulum, seed 0"):
        distill(taught)
    assert json.loads((tmp_path / "result.json").read_text())["final/return"] is None


def test_what_counts_as_done(teachers, tmp_path):
    own: Any = {"total_frames": 64}
    taught = lesson(teachers("td3", env="pendulum"), tmp_path, **own)
    assert done_students(taught) is None
    distill(taught)
    result = json.loads((tmp_path / "result.json").read_text())
    assert done_students(taught) == result
    assert done_students(lesson(teachers("td3", env="pendulum"), tmp_path, final_episodes=3, **own)) is None
    (tmp_path / "result.json").write_text(json.dumps(result | {"frames": 32}))
    assert done_students(taught) is None


def test_students_that_have_all_failed_fail_again_with_the_reason(teachers, tmp_path):
    run = teachers("td3", env="pendulum")
    taught = lesson(run, tmp_path, total_frames=64, learning_rate=1e30, seeds=1)
    with pytest.raises(NotFiniteError) as first:
        distill(taught)
    result = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(result | {"frames": 64}))  # as of a failure at the end
    assert done_students(taught) is None
    with pytest.raises(NotFiniteError, match="pendulum, seed 0: ") as again:
        distill(taught)
    assert str(again.value) == str(first.value)


def test_a_buffer_keeps_the_latest_and_comes_back_whole():
    buffer = LabelledBuffer(seeds=2, frames=5)
    for step in range(4):
        row = torch.full((2, 2, 1), float(step))
        row[1] += 10
        buffer.add(row, -row)
    assert len(buffer) == 5 and buffer.added == 8
    every = torch.arange(5).expand(2, 5)
    observation, labels = buffer.sample(every)
    assert sorted(observation[0, :, 0].tolist()) == [1, 2, 2, 3, 3]  # the oldest three are gone
    assert torch.equal(labels, -observation) and torch.equal(observation[1], observation[0] + 10)
    other = LabelledBuffer(seeds=2, frames=5)
    other.load_state_dict(buffer.state_dict())
    for each in (buffer, other):
        each.add(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))
    assert all(map(torch.equal, buffer.sample(every), other.sample(every)))


def test_the_search_finds_the_smallest_size_by_the_searchs_own_bound():
    returns = {(1,): -20.0, (2,): -10.5, (4,): -10.0, (8,): -9.0}
    asked: list[tuple[int, ...]] = []

    def evaluate(size: tuple[int, ...]) -> list[float]:
        asked.append(size)
        return [returns[size] - 0.01, returns[size] + 0.01]

    found = smallest_student(evaluate, [-10.0, -10.0], [16], sizes=[[1], [2], [4], [8]])
    assert found.smallest is not None and found.smallest.actor == (2,) and found.bound == -11.0
    assert asked == [(4,), (2,), (1,)]
    assert found.teacher.accepted and found.teacher.actor == (16,) and found.notes == []
    above = smallest_student(evaluate, [-10.0], [16], sizes=[[1], [2]], threshold=0.0)
    assert above.smallest is None and any("does not reach" in note for note in above.notes)
    whole = smallest_student(evaluate, [-10.0], [16], sizes=[[1], [2], [4], [8]], exhaustive=True)
    assert len(whole.trials) == 4


def test_a_search_trains_what_its_store_lacks_and_ends_with_a_file(teachers, tmp_path, monkeypatch):
    taught = lesson(teachers("ppo", env="pixelcopter"), tmp_path, sizes="search", total_frames=64)
    options = SearchSettings(sizes=[[], [2], [4]], threshold=-8, exhaustive=True)
    counts = student_parameters(taught, options.sizes)
    assert counts == {(): 16, (2,): 22, (4,): 42, (8,): 82}  # 7 inputs, 2 actions
    monkeypatch.setattr(SearchSettings, "start", lambda self, trains: _Here(trains))
    found = run_student_search(taught, options, counts)
    assert [trial.actor for trial in found.trials] == [(), (2,), (4,)] and found.bound == pytest.approx(-8.8)
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["of"]["algorithm"] == "ppo" and len(record["trials"]) == 3 and record["seeds"] == 2
    monkeypatch.setattr(searching, "distill", lambda _: pytest.fail("trained again"))
    again = run_student_search(taught, options, counts)
    assert dataclasses.asdict(again) == dataclasses.asdict(found)
    text = student_search_text(taught, counts, found)
    assert text.startswith("pixelcopter, students of ppo, seed ") and "|linear|" in text
    assert found.smallest is not None  # every return lies above -8.8
    if c_compiler():
        written = write_smallest_student(taught, found, "c")
        assert written is not None and written.report.path.name == "pixelcopter_distilled_ppo_actorlinear.c"
        assert "the search's bound is -8.8" in winner_text(written)


class _Here:
    """An engine that trains in this process."""

    def __init__(self, trains: Any):
        self.trains = trains

    def __enter__(self) -> Any:
        return lambda config, go_on: self.trains(config)

    def __exit__(self, *_: object) -> None: ...


def test_a_search_refuses_what_students_have_not(teachers, tmp_path):
    taught = lesson(teachers("ppo", env="pixelcopter"), tmp_path, sizes="search")
    with pytest.raises(ValueError, match="measure must be auto or final for students"):
        run_student_search(taught, SearchSettings(measure="maximum"), {})
    for idle, named in (
        ({"train": False}, "train must be true for students; got False"),
        ({"pairs": [[[4], [4]]]}, r"pairs must be left out for students; got \[\[\[4\], \[4\]\]\]"),
        ({"results": "kept"}, "results must be None for students; got 'kept'"),
    ):
        with pytest.raises(ValueError, match=rf"search\.{named}"):
            run_student_search(taught, SearchSettings(**idle), {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"sizes must go from the smallest to the largest; got \[4\] before \[2\]"):
        student_parameters(taught, [[4], [2]])


@pytest.mark.slow
def test_an_impala_teaches_a_quarter_of_its_width(tmp_path):
    from decouple.studies.separation.experiment import prepare, train
    from decouple.studies.separation.settings import procgen_experiment

    small = {"num_envs": 4, "rollout_steps": 16, "minibatches": 2, "epochs": 1, "total_frames": 64}
    few = {"evaluate_episodes": 1, "final_episodes": 2, "num_levels": 2, "unseen": None, "tracker": "local"}
    train(prepare(procgen_experiment(env="fruitbot", run_dir=str(tmp_path / "teacher"), device="cpu", **small, **few)))
    own = {"width": 0.25, "seeds": None, "num_envs": 4, "total_frames": 64, "evaluate_every": 64}
    taught = lesson(str(tmp_path / "teacher"), tmp_path / "student", **own)
    assert taught.settings.seeds == 1
    result = distill(taught)
    assert math.isfinite(result["final/test_return"]) and math.isfinite(result["final/train_return"])
    _, _, source = read_source(str(tmp_path / "student"), None)
    assert source.facts["width"] == 0.25
    _, report, _ = export(Export(str(tmp_path / "student"), "pt2", seconds=0, observations=8))
    teacher = read_source(str(tmp_path / "teacher"), None)[2].model
    wide = sum(p.numel() for part in (*teacher.parts()["trunk"], *teacher.parts()["policy"]) for p in part.parameters())
    assert report.difference <= report.tolerance and report.metadata["parameters"] < wide / 10
    alone = {"seeds": 1}
    for wrong, named in (
        ({"actor": [4], **alone}, "width"),
        ({"sizes": "search"}, "sizes"),
        ({**own, "seeds": 2}, "seeds"),
    ):
        with pytest.raises(ValueError, match=named):
            lesson(str(tmp_path / "teacher"), tmp_path / "other", **wrong)
    assert changed(taught.settings, width=0.5).width == 0.5
