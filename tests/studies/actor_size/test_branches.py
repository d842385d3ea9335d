"""branches.py: the measures against those of products of frames; and that measuring changes nothing of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from decouple.analysis.representation import centred_gram, effective_rank, linear_cka
from decouple.networks.stacking import stack
from decouple.runs.checkpoint import load_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.metrics import read_metrics
from decouple.runs.settings import changed
from decouple.studies.actor_size.algorithms import (
    CONTROL_ALGORITHMS,
    DAACControl,
    PPOControl,
    SACControl,
    initial_agents,
)
from decouple.studies.actor_size.branches import CKA, RANKS, SHARES, BranchMeasure
from decouple.studies.actor_size.cell import done_result, train_agents
from decouple.studies.actor_size.workers import cell_of

SMALL: dict[str, Any] = {
    **{"env": "pixelcopter", "actor": [8, 6], "critic": [8, 4], "separation": 1, "seeds": 2, "show_progress": False},
    **{"total_frames": 96, "num_envs": 2, "rollout_steps": 16, "minibatches": 2, "epochs": 1, "update": "batched"},
    **{"evaluate_every": 2, "evaluate_episodes": 1, "final_episodes": 1},
}


def test_the_measures_are_those_of_products_of_frames():
    config = PPOControl(**SMALL | {"seeds": 3})
    models = initial_agents(config)
    failed = FailedSeeds(config.all_seeds)
    observation = torch.randn(3, 40, 7, generator=torch.Generator().manual_seed(5))
    frames = TensorDict({"observation": observation, "reward": torch.zeros(3, 40, 1)}, [3, 40])
    with pytest.warns(UserWarning, match="seed 2: it does"):
        failed.fail(2, "it does")
    found = BranchMeasure(stack(models), config.all_seeds, failed)(frames)
    for seed, model, own in zip((0, 1), models, observation, strict=False):
        features = model.get_features()(TensorDict({"observation": own}, [40]))
        grams = [centred_gram(features[key].detach()) for key in ("policy_hidden", "value_hidden")]
        assert found[f"{CKA}/seed{seed}"] == pytest.approx(linear_cka(*grams), rel=1e-4)
        for name, share, gram, width in zip(RANKS, SHARES, grams, (6, 4), strict=True):
            assert found[f"{name}/seed{seed}"] == pytest.approx(effective_rank(gram), rel=1e-4)
            assert found[f"{share}/seed{seed}"] == pytest.approx(effective_rank(gram) / width, rel=1e-4)
    assert not any(name.endswith("seed2") for name in found)
    assert found[CKA] == pytest.approx((found[f"{CKA}/seed0"] + found[f"{CKA}/seed1"]) / 2)


def test_of_a_rollout_of_more_frames_some_are_measured_always_the_same(monkeypatch):
    monkeypatch.setattr("decouple.studies.actor_size.branches.STATES", 10)
    config = PPOControl(**SMALL | {"seeds": 1, "separation": 2, "critic": [8, 6]})
    measure = BranchMeasure(stack(initial_agents(config)), [0], FailedSeeds([0]))
    observation = torch.randn(1, 40, 7, generator=torch.Generator().manual_seed(5))
    first = measure(TensorDict({"observation": observation}, [1, 40]))
    assert first == measure(TensorDict({"observation": observation}, [1, 40]))
    assert first[CKA] == pytest.approx(1) and first[RANKS[0]] == first[RANKS[1]]  # all is shared
    others = observation.clone()
    others[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))[10:]] = 7.0
    assert first == measure(TensorDict({"observation": others}, [1, 40]))


def test_features_that_are_constant_have_no_similarity_and_no_rank():
    config = PPOControl(**SMALL | {"seeds": 1})
    model = stack(initial_agents(config))
    for weights in model.parameters():
        weights.data.fill_(0 if weights.ndim == 3 and weights.shape[1] > 1 else 0.3)  # biases are (S, 1, units)
    observation = torch.randn(1, 40, 7, generator=torch.Generator().manual_seed(5))
    found = BranchMeasure(model, [0], FailedSeeds([0]))(TensorDict({"observation": observation}, [1, 40]))
    assert np.isnan(found[CKA]) and [found[name] for name in (*RANKS, *SHARES)] == [0, 0, 0, 0]


@pytest.mark.parametrize("algorithm", ["ppo", "daac"])
def test_a_run_learns_the_same_to_the_bit_with_and_without(tmp_path, algorithm):
    settings = SMALL | {"run_dir": str(tmp_path / "without")}
    kept = CONTROL_ALGORITHMS[algorithm].keys.defaults.keys()
    config = CONTROL_ALGORITHMS[algorithm](**{name: value for name, value in settings.items() if name in kept})
    measured = changed(config, measure_branches=True, run_dir=str(tmp_path / "with"))
    reports = [train_agents(each) for each in (config, measured)]
    assert reports[0] == reports[1]
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("without", "with")]
    assert states[0]["settings"] == states[1]["settings"]
    for drawn in (lambda state: state["model"], lambda state: state["shuffle"]["generators"]):
        torch.testing.assert_close(*map(drawn, states), rtol=0, atol=0)
    assert torch.equal(*(state["rng"]["torch"] for state in states))
    without, with_them = (read_metrics(tmp_path / name) for name in ("without", "with"))
    for name in without:
        if not name.startswith("time/"):
            np.testing.assert_array_equal(without[name], with_them[name], name)
    new = {name for name in with_them if name not in without}
    assert new == {f"{name}{seed}" for name in (CKA, *RANKS, *SHARES) for seed in ("", "/seed0", "/seed1")}
    evaluated = np.isfinite(with_them["eval/return"])
    np.testing.assert_array_equal(np.isfinite(with_them[RANKS[0]]), evaluated)
    assert done_result(changed(config, measure_branches=True)) is not None  # the same run
    assert cell_of(config) == cell_of(measured)


@pytest.mark.parametrize(
    ("make", "settings", "why"),
    [
        (SACControl, {}, "for sac, whose critic reads the action too"),
        (PPOControl, {"separation": "learned"}, "with separation=learned"),
        (DAACControl, {"recurrent": "gru"}, "with recurrent layers"),
        (PPOControl, {"actor": []}, "where actor or critic has no hidden layer"),
        (PPOControl, {"critic": []}, "where actor or critic has no hidden layer"),
    ],
)
def test_where_it_has_no_meaning_it_is_refused_by_name(make, settings, why):
    with pytest.raises(ValueError, match=f"measure_branches must be false {why}.*; got True"):
        make(env="acrobot", measure_branches=True, **settings)
    make(env="acrobot", **settings)
