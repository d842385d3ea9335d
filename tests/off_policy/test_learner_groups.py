"""Agents of different sizes and learning rates in one call: each learns what it learns alone; a stopped run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_same
from test_off_policy_training import TINY, model

from decouple.envs.toy import goal_tracking_env
from decouple.off_policy.learner import Learner
from decouple.off_policy.learner_groups import LearnerGroups
from decouple.off_policy.learners import make_learner
from decouple.off_policy.settings import DDPGSettings, SACSettings, TD3Settings
from decouple.off_policy.training import train_off_policy
from decouple.off_policy.value_bias import value_bias
from decouple.seeding import SeedNoise

HIDDEN, SEEDS, RATES = [6, 6, 10, 6], [3, 7, 8, 9], [1e-3, 1e-3, 1e-3, 3e-3]  # three groups


def make(which: list[int], kind: Any, update: str, **changes: Any) -> Any:
    env = goal_tracking_env([SEEDS[index] for index in which], 2, episode_steps=30)
    settings = [kind(**TINY | changes, learning_rate=RATES[index], max_grad_norm=0.5) for index in which]
    models = [model(SEEDS[index], env, own, hidden=HIDDEN[index]) for index, own in zip(which, settings, strict=True)]
    return env, make_learner(models, settings, update)


def train(which: list[int], kind: Any, update: str, checkpoint: Path | None = None, **changes: Any) -> Any:
    env, learner = make(which, kind, update, **changes)
    rows: list[dict[str, float]] = []
    train_off_policy(
        env,
        learner,
        seeds=[SEEDS[index] for index in which],
        log=lambda row, frames: rows.append(dict(row)),
        checkpoint=checkpoint,
    )
    return learner, rows


@pytest.mark.parametrize(("kind", "update"), [(SACSettings, "batched"), (TD3Settings, "auto"), (SACSettings, "auto")])
def test_agents_of_different_sizes_learn_together_what_they_learn_alone(kind: Any, update: str):
    together, rows = train([0, 1, 2, 3], kind, update)
    assert isinstance(together, LearnerGroups) and [each.seeds for each in together.groups] == [2, 1, 1]
    exact = not isinstance(together.groups[0], Learner) or type(together.groups[0]) is not Learner  # kernels
    for index, trained in enumerate(together.models()):
        alone, own = train([index], kind, update)
        for name, value in alone.models()[0].state_dict().items():
            near = 0 if exact else 1e-5
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=near, atol=near)
        last = rows[-1][f"loss/critic/seed{SEEDS[index]}"]
        assert last == (own[-1]["loss/critic"] if exact else pytest.approx(own[-1]["loss/critic"], rel=1e-3))
    assert {f"loss/actor/seed{seed}" for seed in SEEDS} < rows[-1].keys()


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path):
    whole, _ = train([0, 2, 3], TD3Settings, "auto")
    train([0, 2, 3], TD3Settings, "auto", tmp_path / "checkpoint.pt", total_frames=80)
    resumed, _ = train([0, 2, 3], TD3Settings, "auto", tmp_path / "checkpoint.pt")
    assert_same(resumed.state_dict(), whole.state_dict())


def test_groups_are_judged_and_learn_from_batches_like_one_learner():
    env, learner = make([0, 2], SACSettings, "batched")
    bias = value_bias(env, learner, SeedNoise([0, 1]))
    assert {name: value.shape for name, value in bias.items()} == dict.fromkeys(
        ("value/predicted", "value/monte_carlo", "value/bias"), (2,)
    )
    with torch.no_grad():
        next(iter(learner.groups[1].online.parameters()))[:] = torch.nan
    spoiled = [name for name, value in learner.weights().items() if value.isnan().any()]
    assert len(spoiled) == 1 and learner.weights()[spoiled[0]].isnan().tolist() == [False, True]


def test_what_does_not_belong_together_is_refused():
    env = goal_tracking_env([0, 1], 1)
    models = [model(0, env, TD3Settings(**TINY)), model(1, env, TD3Settings(**TINY))]
    with pytest.raises(ValueError, match="settings must be one for each of 2 models; got 1"):
        make_learner(models, [TD3Settings(**TINY)])
    with pytest.raises(ValueError, match=r"settings must .* in learning_rate and learning_rates alone; .*'gamma'"):
        make_learner(models, [TD3Settings(**TINY), TD3Settings(**TINY, gamma=0.9)])
    with pytest.raises(ValueError, match="settings must be of one algorithm"):
        make_learner([models[0], model(1, env, DDPGSettings(**TINY))], [TD3Settings(**TINY), DDPGSettings(**TINY)])
    with pytest.raises(ValueError, match="models must hold at least one model"):
        make_learner([], TD3Settings(**TINY))


def test_agents_of_other_gradients_at_the_cut_are_groups_of_their_own():
    env, settings = goal_tracking_env([0, 1], 1), TD3Settings(**TINY)
    models = [model(seed, env, settings, at=1) for seed in (0, 1)]
    assert isinstance(make_learner(models, settings, "batched"), Learner)
    models[1].cut.value_gradient = 0.5
    groups = make_learner(models, settings, "batched")
    assert isinstance(groups, LearnerGroups)
    assert [each.cut.value_gradient for each in groups.groups] == [1.0, 0.5]
