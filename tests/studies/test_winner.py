"""studies/winner.py: the file at a search's end, of real runs, and what is said where there is none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from decouple.commands.refusals import what_is_wrong
from decouple.deploy.checking import RefusedFileError
from decouple.deploy.compiled_c import c_compiler
from decouple.studies import export, winner
from decouple.studies.actor_size import engines
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, DDPGControl
from decouple.studies.actor_size.search import SmallestActor, smallest_actor
from decouple.studies.actor_size.smallest_actor import SearchSettings, untrained_model
from decouple.studies.actor_size.store import CellStore
from decouple.studies.actor_size.workers import cell_of, train_cells
from decouple.studies.file_playing import play_file

SETTINGS: dict[str, Any] = {
    **{"env": "pendulum", "seeds": 3, "total_frames": 400, "learning_starts": 200, "batch_size": 8, "buffer_size": 400},
    **{"log_every": 200, "evaluate_every": 400, "checkpoint_every": 400, "evaluate_episodes": 1, "final_episodes": 3},
    **{"actor": [4], "critic": [4], "show_progress": False, "tracker": "local"},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[DDPGControl, SmallestActor]:
    """A search with one size, accepted, and its store."""
    config = DDPGControl(**SETTINGS, run_dir=str(tmp_path_factory.mktemp("study")))
    store = CellStore(Path(config.run_dir) / "cells.sqlite")
    (returns,) = train_cells([config], store, lambda config, go_on: engines._trained(config))
    found = smallest_actor(lambda *_: returns, baseline=[4], sizes=[[4]], threshold=-3000)
    assert found.asymmetric is not None
    return config, found


@pytest.mark.skipif(c_compiler() is None, reason="no C compiler is installed")
def test_the_best_seed_on_its_own_episodes_is_written_and_proven(searched):
    config, found = searched
    written = winner.write_winner(config, found, "c")
    assert written is not None and written.validation.keys() == {0, 1, 2}
    assert written.validation[written.seed] == max(written.validation.values())
    folder = Path(config.run_dir) / "actors"
    names = {f"pendulum_ddpg_actor4.{ending}" for ending in ("c", "c.json", "h", "c.md")}
    assert {file.name for file in folder.iterdir()} == names
    facts = json.loads((folder / "pendulum_ddpg_actor4.c.json").read_text())
    assert facts["bound"] == found.bound and facts["seed"] == written.seed and facts["return"]["episodes"] == 3
    assert facts["return"]["mean"] == pytest.approx(facts["return_of_model"]["mean"], abs=0.1)
    assert str(written.validation[written.seed]) not in str(facts["return"])  # fresh episodes
    lines = winner.winner_text(written).splitlines()
    assert lines[0].startswith(f"the file: {folder}/pendulum_ddpg_actor4.c, ") and "the best of 3" in lines[0]
    assert "over 3 fresh episodes through the file" in lines[1] and "the search's bound is -3300" in lines[1]
    assert lines[2].endswith("pendulum_ddpg_actor4.c.md")
    assert "which these episodes do not reach" in winner.winner_text(written._replace(bound=0.0))


def test_the_seed_is_chosen_by_episodes_that_nothing_else_has_played(searched, monkeypatch):
    config, found = searched
    seeds = []

    def played(make_env: Any, actor: Any, run: Any, episodes: int, seed: int) -> Any:
        seeds.append(seed)
        return play_file(make_env, actor, run, episodes, seed)

    monkeypatch.setattr(winner, "play_file", played)
    monkeypatch.setattr(export, "play_file", played)
    written = winner.write_winner(config, found, "c")
    assert written is not None
    assert seeds == [1_200_000] * 3 + [1_400_000 + written.seed] * 2


def test_a_file_that_acts_otherwise_is_not_there_and_the_command_fails(searched, monkeypatch):
    config, found = searched
    winner.write_winner(config, found, "c")  # an earlier one, which goes

    def crooked(make_env: Any, actor: Any, run: Any, episodes: int, seed: int) -> Any:
        played = play_file(make_env, actor, run, episodes, seed)
        return played._replace(inputs=(torch.full_like(played.observations, torch.nan),))

    monkeypatch.setattr(export, "play_file", crooked)
    with pytest.raises(RefusedFileError, match="must act as the model in the task") as refused:
        winner.write_winner(config, found, "c")
    assert not list((Path(config.run_dir) / "actors").iterdir())
    assert what_is_wrong(refused.value, lambda: None) == f"RefusedFileError: {refused.value}"  # and exit code 1


def test_int8_is_refused_where_the_task_says_no(monkeypatch):
    export._check_int8([-100.0, -101.0, -99.0], [-100.0, -100.0, -100.0], 0.05)
    with pytest.raises(RefusedFileError, match=r"must lose at most 5% of the return .* -120 beside -100 in float32"):
        export._check_int8([-120.0, -121.0, -119.0], [-100.0, -100.0, -100.0], 0.05)


def test_without_an_accepted_size_there_is_no_file(searched):
    config, found = searched
    assert winner.write_winner(config, dataclasses.replace(found, asymmetric=None), "c") is None
    assert winner.winner_text(None) == "no file: no size was accepted"


def test_what_will_be_written_is_said_before_the_search(monkeypatch):
    config = DDPGControl(**SETTINGS)

    def plan(wanted: str) -> tuple[str | None, str]:
        return winner.export_plan(SearchSettings(export=wanted), config.env)

    assert [plan(wanted)[0] for wanted in ("auto", "onnx", "c", "none")] == ["onnx", "onnx", "c", None]
    assert winner.export_plan(SearchSettings(export="page"), "pong") == ("html", "")
    with pytest.raises(ValueError, match=r"search.export=page: the task must be of pong, pixelcopter; got 'pendulum'"):
        plan("page")
    monkeypatch.setattr(winner, "NEEDED", ("no_such_module",))
    suffix, says = plan("auto")
    assert suffix is None and "no file will be written" in says and "torchrl-decouple[export]" in says
    with pytest.raises(ValueError, match=r"search.export must be c or none here.*; got 'onnx'"):
        plan("onnx")
    assert plan("c") == ("c", "") and cell_of(config).task == "pendulum"


@pytest.mark.parametrize(("algorithm", "settings"), [("ppo", {"recurrent": "gru"}), ("ddpg", {})])
def test_actors_that_c_cannot_hold_are_refused_before_the_search(algorithm, settings):
    model = untrained_model(CONTROL_ALGORITHMS[algorithm](env="pendulum", actor=[4], critic=[4], **settings))
    for suffix in ("c", "html", "onnx", None):
        if settings and suffix in ("c", "html"):
            wanted = "page" if suffix == "html" else "c"
            with pytest.raises(
                ValueError, match=f"search.export must be auto, onnx or none for these .*; got '{wanted}'"
            ):
                winner.check_kind(suffix, model)
        else:
            winner.check_kind(suffix, model)
