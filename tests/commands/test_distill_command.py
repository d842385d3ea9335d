"""experiments/distill.py: the real command, killed and started again, and what it says of wrong settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import IN_ONE_PROCESS, Script, assert_same, checkpoint_of, rows, without_clock

from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents

DISTILL = Script("distill.py")
SHORT = (
    *("actor=[4]", "seeds=2", "total_frames=640", "num_envs=4", "steps=4", "updates=2", "batch_size=8"),
    *("buffer_frames=100", "evaluate_every=320", "checkpoint_every=64", "evaluate_episodes=1", "final_episodes=1"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A run that has hardly begun."""
    folder = tmp_path_factory.mktemp("teacher")
    lengths = {"total_frames": 120, "learning_starts": 100, "batch_size": 8, "buffer_size": 200, "update": "batched"}
    quiet = {"final_episodes": 1, "evaluate_episodes": 1, "show_progress": False, "tracker": "local"}
    settings = {"env": "pendulum", "actor": [8], "critic": [8], "seeds": 2, "run_dir": str(folder)}
    train_agents(CONTROL_ALGORITHMS["td3"](**settings, **lengths, **quiet))
    return folder


def test_a_distillation_killed_at_any_moment_and_started_again_equals_an_unbroken_one(teacher, tmp_path):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    short = (f"checkpoint={teacher}", *SHORT)
    finished = DISTILL.run(tmp_path, *short, f"run_dir={unbroken}")
    assert finished.returncode == 0, finished.stderr
    again = (*short, f"run_dir={broken}")
    DISTILL.kill_after(broken, 2, tmp_path, *again)
    DISTILL.kill_after(broken, 15, tmp_path, *again)
    resumed = DISTILL.run(tmp_path, *again)
    assert resumed.returncode == 0, resumed.stderr
    sessions = json.loads((broken / "record.json").read_text())["sessions"]
    assert len(sessions) == 3 and 0 < sessions[2]["resume_frames"] < 640
    assert rows(unbroken) == 40 and without_clock(broken) == without_clock(unbroken)
    assert (broken / "result.json").read_text() == (unbroken / "result.json").read_text()
    assert_same(checkpoint_of(broken), checkpoint_of(unbroken))

    told = re.compile(r"pendulum, actor \|4\| \(21 parameters\) from td3, seed \d; 2 students; the record goes to .*/a")
    assert any(told.match(line) for line in finished.stderr.splitlines())
    first, last = finished.stdout.splitlines()
    assert re.fullmatch(r"return -\d+ \(-\d+, -\d+\); the teacher's is -\d+ over the same episodes", first)
    assert last == f"as a file: python experiments/export.py checkpoint={unbroken}"
    done = DISTILL.run(tmp_path, *again)  # what is done is told at once
    assert done.stdout.splitlines()[0] == first and "frames" not in done.stderr


def test_a_search_ends_with_the_smallest_student_as_a_file(teacher, tmp_path):
    short = [text for text in SHORT if not text.startswith("actor")]
    search = ("sizes=search", "search.sizes=[[],[2]]", "search.threshold=-3000", "search.export=c", "total_frames=64")
    quiet = ("run_dir=run", "show_progress=false")
    ran = DISTILL.run(tmp_path, f"checkpoint={teacher}", *short, *search, *quiet, before=IN_ONE_PROCESS)
    assert ran.returncode == 0, ran.stderr
    assert "the smallest student: |linear|; 4 parameters" in ran.stdout
    assert (tmp_path / "run" / "actors" / "pendulum_distilled_td3_actorlinear.c").exists()
    assert json.loads((tmp_path / "run" / "search.json").read_text())["smallest"]["actor"] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "checkpoint must be a run's folder"),
        (("checkpoint=NONE", "actor=[4]"), "NONE"),
        (
            ("checkpoint=TEACHER",),
            "actor must be given on control tasks and games, width in its place on Procgen; got actor=None and",
        ),
        (("checkpoint=TEACHER", "actor=[0]"), "actor must be a list of positive sizes"),
        (("checkpoint=TEACHER", "width=0.5"), "width must be left out on pendulum"),
        (("checkpoint=TEACHER", "sizes=search", "search.sizes=[[4],[2]]"), "search.sizes must go from the smallest"),
        (("checkpoint=TEACHER", "sizes=search", "search.export=page"), "search.export=page"),
        (("checkpoint=TEACHER", "actor=[4]", "search.export=c"), "search.export must be left out with sizes=fixed"),
        (("checkpoint=TEACHER", "actor=[4]", "search.threshold=-160"), "search.threshold must be left out with sizes"),
        (("checkpoint=TEACHER", "actor=[4]", "search.stop_after=0.6"), "search.stop_after must be left out with sizes"),
        (("checkpoint=TEACHER", "actor=[4]", "+search.nonsense=1"), "search.nonsense must not be added"),
        (("checkpoint=TEACHER", "actor=[4]", "+nonsense=1"), "nonsense must not be added"),
        (("checkpoint=TEACHER", "actor=[4]", "updates=0"), "updates must be"),
    ],
)
def test_wrong_settings_are_refused_in_a_line_before_anything_is_written(arguments, named, teacher, tmp_path):
    ran = DISTILL.run(tmp_path, *(text.replace("TEACHER", str(teacher)) for text in arguments))
    assert ran.returncode == 1 and named in ran.stderr and "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
