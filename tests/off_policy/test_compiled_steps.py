"""Several steps in one call of a kernel are, to the bit, the steps of Python's loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_same
from torchrl.envs import TransformedEnv

from decouple.compiled.kernel import unavailable
from decouple.off_policy import compiled_steps, training
from decouple.off_policy.learners import make_learner
from decouple.off_policy.settings import OffPolicySettings
from decouple.off_policy.training import train_off_policy
from decouple.runs.checkpoint import load_checkpoint
from decouple.seeding import SeedNoise
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, algorithm_of, seeded_model
from decouple.studies.actor_size.build import make_env

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="kernels need the extra fast")
pytest.importorskip("gymnasium")

SMALL: dict[str, Any] = {
    **{"total_frames": 660, "learning_starts": 40, "batch_size": 16, "train_every": 1},
    **{"log_every": 60, "evaluate_every": 120, "checkpoint_every": 180, "critic": [8, 8]},
    **{"show_progress": False, "run_dir": "/nowhere"},
}


def made(env: str, algorithm: str, seeds: Sequence[int], num_envs: int, sizes: Sequence[int], **own: Any) -> Any:
    """An environment and the learner of agents of these sizes, one size for each seed."""
    configs = [
        CONTROL_ALGORITHMS[algorithm](env=env, num_envs=num_envs, seeds=len(seeds), actor=[size], **SMALL | own)
        for size in sizes
    ]
    games = make_env(configs[0], num_envs, list(seeds))
    models = [seeded_model(config, games, seed) for config, seed in zip(configs, seeds, strict=True)]
    settings: OffPolicySettings = algorithm_of(configs[0]).make_agents(configs[0], models[:1]).learner.settings
    return games, make_learner(models, settings, "compiled")


def trained(folder: Path, made: Any, seeds: Sequence[int], monkeypatch: Any, by_kernels: bool = True) -> Any:
    """Rows, evaluations, the last checkpoint, and the number of Python's own steps."""
    env, learner = made
    rows, evaluated, steps = [], [], []
    step = training._Run.step
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "step", lambda run: (steps.append(run.frames), step(run)))
        if not by_kernels:
            patch.setattr(training, "compiled_steps", lambda *_: None)
        train_off_policy(
            env,
            learner,
            seeds=list(seeds),
            log=lambda row, frames: rows.append((frames, {k: v for k, v in row.items() if "time/" not in k})),
            evaluate=lambda frames: evaluated.append(frames) or {},
            checkpoint=folder / "checkpoint.pt",
        )
    return rows, evaluated, load_checkpoint(folder / "checkpoint.pt"), len(steps)


CASES = [
    ("pendulum", "td3", [1], 1, [8]),
    ("pendulum", "sac", [1], 1, [8]),
    ("pendulum", "sac", [1, 2, 3], 2, [8, 8, 8]),
    ("pendulum", "ddpg", [4, 5, 6], 3, [8, 8, 4]),  # two learners
    ("acrobot", "sac", [4], 1, [8]),
    ("acrobot", "sac", [4, 5], 1, [8, 4]),
]


@pytest.mark.parametrize(("env", "algorithm", "seeds", "num_envs", "sizes"), CASES)
def test_a_run_is_that_of_single_steps(
    env: str, algorithm: str, seeds: list[int], num_envs: int, sizes: list[int], tmp_path: Path, monkeypatch: Any
) -> None:
    games = (env, algorithm, seeds, num_envs, sizes)
    *found, single = trained(tmp_path / "a", made(*games), seeds, monkeypatch)
    *expected, all_steps = trained(tmp_path / "b", made(*games), seeds, monkeypatch, by_kernels=False)
    assert_same(found, expected)
    assert single == -(-40 // num_envs) and all_steps == 660 // num_envs
    assert sum(row["train/episodes"] for _, row in found[0]) > 0  # some ended within a call


def test_threads_and_train_every_change_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    games, own = ("pendulum", "sac", [1, 2], 2, [8, 8]), {"train_every": 2, "updates": 2, "policy_delay": 3}
    *expected, _ = trained(tmp_path / "a", made(*games, **own), [1, 2], monkeypatch, by_kernels=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        *found, single = trained(tmp_path / "b", made(*games, **own), [1, 2], monkeypatch)
    finally:
        torch.set_num_threads(threads)
    assert_same(found, expected)
    assert single == 20


@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("env", ["pendulum", "acrobot"])
def test_a_run_goes_on_from_the_middle(env: str, first: bool, then: bool, tmp_path: Path, monkeypatch: Any) -> None:
    games = (env, "sac", [7], 1, [8])
    *expected, _ = trained(tmp_path / "a", made(*games), [7], monkeypatch)
    trained(tmp_path / "b", made(*games, total_frames=360), [7], monkeypatch, by_kernels=first)
    rows, _, state, _ = trained(tmp_path / "b", made(*games), [7], monkeypatch, by_kernels=then)
    assert_same([rows, state], [expected[0][6:], expected[2]])


def test_what_python_has_to_step(tmp_path: Path, monkeypatch: Any) -> None:
    """Transitions that are held out, rates that change, updates after some steps alone, other environments."""
    seeds = [1]
    env, learner = made("pendulum", "sac", seeds, 1, [8])

    def steps(env: Any, learner: Any) -> Any:
        replay = training.replay_for(env, learner)
        return compiled_steps.compiled_steps(env, learner, replay, SeedNoise(seeds))

    assert steps(env, learner) is not None
    assert steps(TransformedEnv(env), learner) is None
    assert steps(env, make_learner(learner.models(), learner.settings, "batched")) is None
    for own in ({"held_out_every": 5}, {"schedule": "linear"}, {"train_every": 2}):
        assert steps(*made("pendulum", "sac", seeds, 1, [8], **own)) is None
    own = {"normalize_observation": True}
    *_, single = trained(tmp_path, made("pendulum", "sac", seeds, 1, [8], **own), seeds, monkeypatch)
    assert single == 660
