"""Which levels repeat: real games, and pictures compared by hand."""

from __future__ import annotations

import importlib.util
from itertools import islice

import pytest
import torch

from decouple.envs.procgen.games import ProcgenGamesEnv
from decouple.envs.procgen.levels import LOOKS, first_frames, training_fingerprints, unseen_episodes

pytestmark = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("procgen", "envpool")), reason="no backend is installed"
)


@pytest.mark.parametrize("told_by", LOOKS)
def test_a_fingerprint_depends_on_the_level_and_on_nothing_else(told_by: str):
    levels = {"num_levels": 6, "start_level": 30, "num_threads": 1, "told_by": told_by}
    found: dict[int, set[bytes]] = {}
    for seed, games in ((0, 3), (1, 8)):
        for level, fingerprint in islice(first_frames("coinrun", games, seed=seed, **levels), 40):
            found.setdefault(level, set()).add(fingerprint)
    assert sorted(found) == list(range(30, 36))
    assert all(len(fingerprints) == 1 for fingerprints in found.values())
    assert training_fingerprints("coinrun", 6, 30, num_threads=1, told_by=told_by) == set().union(*found.values())


def test_frames_that_are_equal_have_equal_fingerprints_and_no_others():
    # In maze some of the first 200 levels show one picture.
    pictures, fingerprints = {}, {}
    for level in range(200):
        env = ProcgenGamesEnv("maze", 1, num_levels=1, start_level=level, num_threads=1, center_agent=False)
        pictures[level] = env.reset()["observation"].numpy().tobytes()
        env.close()
    starts = first_frames("maze", 64, num_levels=200, num_threads=1, told_by="frame")
    while len(fingerprints) < 200:
        level, fingerprint = next(starts)
        fingerprints[level] = fingerprint
    starts.close()
    assert len(set(pictures.values())) == len(set(fingerprints.values())) < 200
    assert len({(pictures[level], fingerprints[level]) for level in range(200)}) == len(set(pictures.values()))


def test_the_levels_are_those_that_the_episodes_play():
    levels = [level for level, _ in islice(first_frames("ninja", 7, seed=11, num_threads=1), 7)]
    env = ProcgenGamesEnv("ninja", 7, seed=11, num_threads=1)
    assert env.reset()["level_seed"][:, 0].tolist() == levels
    env.close()


def test_an_episode_is_unseen_where_no_level_seen_has_its_start():
    options = {"num_threads": 1, "told_by": "frame"}
    own = [fingerprint for _, fingerprint in islice(first_frames("starpilot", 5, seed=4, **options), 5)]
    assert len(set(own)) == 5
    found = unseen_episodes("starpilot", 5, seed=4, seen={own[0], own[3]}, **options)
    assert found.dtype == torch.bool and found.tolist() == [False, True, True, False, True]
    assert not unseen_episodes("starpilot", 5, seed=4, seen=own, **options).any()


def test_a_layout_repeats_at_least_where_the_frame_does_and_in_coinrun_often():
    repeats = {}
    for told_by in LOOKS:
        seen = training_fingerprints("coinrun", 100, num_threads=1, told_by=told_by)
        repeats[told_by] = ~unseen_episodes("coinrun", 200, seed=0, seen=seen, num_threads=1, told_by=told_by)
    assert not (repeats["frame"] & ~repeats["layout"]).any()
    assert 0.05 < repeats["layout"].double().mean() < 0.4


@pytest.mark.parametrize("game", ["caveflyer", "coinrun", "maze", "ninja", "plunder"])
def test_plain_looks_leave_the_game_as_it_is(game: str):
    played = []
    for looks in LOOKS.values():
        env = ProcgenGamesEnv(game, 8, seed=3, num_threads=1, center_agent=False, **looks)
        generator, state, steps = torch.Generator().manual_seed(0), env.reset(), []
        for _ in range(150):
            action = torch.randint(15, (8,), generator=generator)
            transition, state = env.step_and_maybe_reset(state.set("action", action))
            steps.append(torch.cat([transition["next", key].float() for key in ("reward", "done", "level_seed")], 1))
        played.append(torch.stack(steps))
        env.close()
    assert torch.equal(*played)


def test_progress_and_errors():
    calls = []
    training_fingerprints("maze", 3, num_threads=1, progress=lambda *call: calls.append(call))
    assert calls[0] == (1, 3) and calls[-1] == (3, 3)
    with pytest.raises(ValueError, match=r"num_levels must be .*; got 0"):
        training_fingerprints("maze", 0)
    with pytest.raises(ValueError, match="told_by must be frame or layout; got 'seed'"):
        next(first_frames("maze", 2, told_by="seed"))
    with pytest.raises(ValueError, match="game must be one of"):
        training_fingerprints("pong", 3)
