"""The off-policy loop: seeds as an axis, what is remembered at a time-out, resuming, and that it learns."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import assert_same
from pairwise import each, grid
from torch import nn
from torchrl.envs import RewardScaling, TransformedEnv

from decouple.analysis.evaluation import episode_returns
from decouple.envs.control.tasks import control_env
from decouple.envs.toy import goal_tracking_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.off_policy import training
from decouple.off_policy.compiled_learner import CompiledLearner
from decouple.off_policy.learner import Learner
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings, TD3Settings
from decouple.off_policy.stepping import games_of
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.off_policy.training import GreedyPolicy, replay_for, train_off_policy
from decouple.runs.checkpoint import load_checkpoint

TINY: dict[str, Any] = {
    **{"total_frames": 120, "learning_starts": 20, "batch_size": 8},
    **{"log_every": 20, "evaluate_every": 20, "checkpoint_every": 40},
}


def model(seed: int, env, settings: OffPolicySettings, *, hidden: int = 8, at: int = 0) -> ActorQValue:
    torch.manual_seed(seed)
    observations, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]

    def critic() -> list[nn.Module]:
        shared = mlp_blocks(observations, [hidden] * at, nn.ReLU) if at else []
        first = hidden if at else observations
        return [*shared, *mlp_blocks(first + actions, [hidden] * (2 - at), nn.ReLU)]

    network = separate(
        mlp_blocks(observations, [hidden, hidden], nn.ReLU),
        critic(),
        at=at,
        policy_gradient=0.0,
        value_keys=["action"],
        example={"observation": torch.zeros(observations), "action": torch.zeros(actions)},
    )
    one_critic = isinstance(settings, DDPGSettings) and not isinstance(settings, TD3Settings)
    twin = None if one_critic else critic()
    return actor_qvalue(network, env.action_spec, twin_blocks=twin, deterministic=isinstance(settings, DDPGSettings))


def train(seeds: list[int], settings: OffPolicySettings, *, num_envs: int = 1, at: int = 0, env=None, **options):
    env = env or goal_tracking_env(seeds, num_envs, episode_steps=30)
    learner = Learner([model(seed, env, settings, at=at) for seed in seeds], settings)
    table: dict[int, dict[str, float]] = {}
    train_off_policy(env, learner, seeds=seeds, log=lambda row, frames: table.__setitem__(frames, dict(row)), **options)
    return learner, table


@grid(kind=[SACSettings, TD3Settings, DDPGSettings], at=[0, 1], num_envs=[1, 2])
def test_agents_trained_together_are_those_trained_alone(kind, at, num_envs):
    settings = kind(**TINY, max_grad_norm=0.5)
    together, table = train([3, 7, 8], settings, at=at, num_envs=num_envs)
    for row, seed in enumerate([3, 7, 8]):
        alone, own = train([seed], settings, at=at, num_envs=num_envs)
        for name, value in alone.models()[0].state_dict().items():
            torch.testing.assert_close(together.models()[row].state_dict()[name], value, rtol=1e-4, atol=1e-5)
        for frames in own:
            for name in ("train/episode_return", "loss/critic"):
                if name in own[frames]:
                    assert table[frames][f"{name}/seed{seed}"] == pytest.approx(own[frames][name], rel=1e-3)
    assert any("train/episode_return/seed3" in row for row in table.values())


def test_a_row_holds_the_mean_over_seeds_and_each_seeds_own():
    _, table = train([0, 1], SACSettings(**TINY))
    row = table[60]
    for name in ("loss/critic", "loss/actor", "policy/alpha", "policy/entropy", "value/mean", "train/episode_return"):
        assert row[name] == pytest.approx((row[f"{name}/seed0"] + row[f"{name}/seed1"]) / 2)
    assert row["train/episode_length"] == 30 and row["train/episodes"] == 1
    assert sorted(table) == [20, 40, 60, 80, 100, 120]
    assert "loss/critic" not in table[20]  # no update before learning_starts


class Track(gymnasium.Env):
    """Reward -(x + a / half)^2: one task in any unit of its action, whose bounds are +-half."""

    def __init__(self, half: float):
        self.half = half
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-half, half, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is outside of +-{self.half}"
        reward = -float((self.x[0] + action[0] / self.half) ** 2)
        self.t, self.x = self.t + 1, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, reward, False, self.t >= 20, {}


def track_env(half: float, seeds: list[int]):
    name = f"decouple-tests/Track{str(half).replace('.', 'p')}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, Track, kwargs={"half": half})
    return control_env(name, seeds, 1)


@each(kind=[SACSettings, TD3Settings, DDPGSettings], at=[0, 1])
def test_what_is_learned_does_not_depend_on_the_actions_unit(kind, at):
    settings = kind(**TINY, held_out_every=5)
    parameters, tables = {}, {}
    for half in (1.0, 0.125, 64.0, 0.1):
        learner, table = train([3, 7], settings, at=at, env=track_env(half, [3, 7]))
        parameters[half] = torch.cat([p.detach().flatten() for model in learner.models() for p in model.parameters()])
        tables[half] = {n: {k: v for k, v in row.items() if not k.startswith("time/")} for n, row in table.items()}
    for half in (0.125, 64.0):  # powers of two: nothing is rounded, and all is the same to the bit
        assert torch.equal(parameters[half], parameters[1.0]) and tables[half] == tables[1.0]
    torch.testing.assert_close(parameters[0.1], parameters[1.0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("half", [1.0, 0.1])
def test_the_entropy_target_can_be_reached_in_any_unit(half):
    # In the task's units a policy between +-0.1 has at most the entropy log 0.2 = -1.6: less than the target, -1.
    settings = SACSettings(total_frames=700, learning_starts=100, learning_rate=1e-2, batch_size=64, log_every=100)
    settings.evaluate_every = settings.checkpoint_every = 700
    learner, table = train([0, 1], settings, env=track_env(half, [0, 1]))
    assert (learner.log_alpha.exp() < 0.5).all()  # it starts at 1, and used to rise without end
    assert table[700]["policy/entropy"] == pytest.approx(-1, abs=0.5)
    returns = episode_returns(track_env(half, [5, 6]), GreedyPolicy(learner), stochastic=False)
    assert (returns > -1).all()  # of 20 steps; random actions: about -13


def test_updates_begin_after_learning_starts_and_keep_their_ratio():
    settings = SACSettings(**TINY | {"train_every": 10, "updates": 3, "learning_starts": 25})
    learner, _ = train([0], settings)
    assert learner.updates == 3 * 10  # at 30, 40, ..., 120
    learner, _ = train([0], settings, num_envs=4)
    assert learner.updates == 3 * 10


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_linear_schedule_falls_with_the_frames_that_are_left(num_envs: int):
    seen, settings = [], SACSettings(**TINY, learning_rate=0.01, schedules={"value": "linear"})
    env = goal_tracking_env([0], num_envs, episode_steps=30)
    learner = Learner([model(0, env, settings)], settings)
    learn = learner.learn

    def watched(*args: Any) -> dict[str, Any]:
        seen.append(learner.critic_optimizer.learning_rates[0])
        return learn(*args)

    learner.learn = watched
    train_off_policy(env, learner, seeds=[0], log=lambda *_: None)
    before = range(120 - num_envs * len(range(0, len(seen), num_envs)), 120, num_envs)
    expected = [0.01 * (120 - frames) / 120 for frames in before for _ in range(num_envs)]
    assert seen == pytest.approx(expected) and before[0] in (20, 24 - num_envs)
    assert learner.policy_optimizer.learning_rates == [0.01]


def test_at_a_time_out_the_true_last_observation_is_remembered_and_bootstrapped_from():
    settings = SACSettings(**TINY)
    env = goal_tracking_env([5], 1, episode_steps=30)
    learner = Learner([model(5, env, settings)], settings)
    replay = replay_for(env, learner)
    train_off_policy(env, learner, seeds=[5], log=lambda *_: None, replay=replay)
    rows = replay.sample(torch.arange(len(replay))[None])
    assert len(replay) == 120 and not rows.terminated.any()
    following, next_observation = rows.observation[0, 1:], rows.next_observation[0, :-1]
    same = (following == next_observation).all(-1)
    assert (~same).nonzero().flatten().tolist() == [29, 59, 89]  # a new episode begins after each thirtieth step


def test_a_true_end_is_not_bootstrapped_from():
    """Acrobot under the best of 400 random steps does not end; CartPole, which falls at once, does."""
    env = control_env("CartPole-v1", [0], 1)
    settings = SACSettings(**TINY)
    network = separate(mlp_blocks(4, [8]), mlp_blocks(4, [8]), at=0)
    learner = Learner([actor_qvalue(network, env.action_spec, twin_blocks=mlp_blocks(4, [8]))], settings)
    replay = replay_for(env, learner)
    table: list[dict] = []
    train_off_policy(env, learner, seeds=[0], log=lambda row, _: table.append(dict(row)), replay=replay)
    rows = replay.sample(torch.arange(len(replay))[None])
    ends = rows.terminated[0, :, 0]
    assert ends.sum() == sum(row["train/episodes"] for row in table) > 0
    assert set(rows.action.unique().tolist()) == {0.0, 1.0} and rows.action.shape == (1, 120, 1)


@pytest.mark.parametrize("in_a_file", [True, False])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path, in_a_file: bool):
    changes = {"buffer_size": 50, "held_out_every": 5, "schedule": "linear"}  # smaller than the run: rows go over rows
    settings = TD3Settings(**TINY | changes)

    def start(folder: Path, stop_at: int | None = None) -> dict[int, dict[str, float]]:
        env = goal_tracking_env([1, 2], 1, episode_steps=30)
        learner = Learner([model(seed, env, settings) for seed in (1, 2)], settings)
        replay = replay_for(env, learner, folder / "replay.bin" if in_a_file else None)
        table: dict[int, dict[str, float]] = {}

        def log(row: dict[str, float], frames: int) -> None:
            if frames == stop_at:
                raise KeyboardInterrupt
            table[frames] = {name: value for name, value in row.items() if not name.startswith("time/")}

        kept = {"replay": replay, "checkpoint": folder / "checkpoint.pt", "identity": {"a": 1}}
        with contextlib.suppress(KeyboardInterrupt):
            train_off_policy(env, learner, seeds=[1, 2], log=log, **kept)
        return table

    unbroken = start(tmp_path / "a")
    first = start(tmp_path / "b", stop_at=100)  # the last checkpoint is that of 80
    second = start(tmp_path / "b")
    assert sorted(first) == [20, 40, 60, 80] and sorted(second) == [100, 120]
    assert first | second == unbroken
    assert_same(*(load_checkpoint(tmp_path / name / "checkpoint.pt") for name in "ab"))


@pytest.mark.parametrize("kind", [SACSettings, TD3Settings])
def test_held_out_transitions_are_never_trained_on(kind):
    settings = kind(**TINY, held_out_every=4)
    env = goal_tracking_env([3, 7], 2, episode_steps=30)
    learner = Learner([model(seed, env, settings) for seed in (3, 7)], settings)
    replay, rows = replay_for(env, learner), []
    train_off_policy(env, learner, seeds=[3, 7], log=lambda row, _: rows.append(dict(row)), replay=replay)
    assert len(replay) == 120 - 2 * (60 // 4)  # two games: 60 steps, of which every fourth is kept apart
    assert all(row["loss/critic_held_out"] > 0 for row in rows[1:])
    assert rows[-1]["loss/critic_held_out/seed3"] != rows[-1]["loss/critic_held_out/seed7"]
    # What is held out is of the same episodes: each row that was left out lies between two that follow each other.
    seen = replay.rows[: len(replay), 0].view(-1, 2, replay.rows.shape[-1])  # (steps kept, N, width)
    after, before = seen[:-1, :, -1], seen[1:, :, 0]  # next observation of one, observation of the following
    breaks = (after != before).all(1).nonzero().view(-1) + 1
    assert set(breaks.tolist()) >= set(range(3, len(seen), 3))


def test_a_learner_of_torchrls_losses_trains_in_the_same_loop():
    env = goal_tracking_env([0], 1, episode_steps=30)
    settings = SACSettings(**TINY)
    learner = TorchRLLearner(model(0, env, settings), settings)
    rows: list[dict] = []
    train_off_policy(env, learner, seeds=[0], log=lambda row, _: rows.append(dict(row)))
    assert learner.updates == 100 and rows[-1]["loss/critic"] > 0


def test_sac_learns_the_toy_problem_and_seeds_learn_at_once():
    settings = SACSettings(total_frames=2500, learning_starts=500, learning_rate=3e-3, batch_size=64)
    env = goal_tracking_env([0, 1], 1)
    learner = Learner([model(seed, env, settings, hidden=16) for seed in (0, 1)], settings)
    train_off_policy(env, learner, seeds=[0, 1], log=lambda *_: None)
    fresh = goal_tracking_env([100, 101], 5)
    returns = episode_returns(fresh, GreedyPolicy(learner), stochastic=False).view(2, 5).mean(1)
    assert (returns > -25).all()  # random actions: about -190


def test_bad_input_is_refused_by_name():
    settings = SACSettings(**TINY)
    env = goal_tracking_env([0, 1], 1)
    learner = Learner([model(0, env, settings)], settings)
    with pytest.raises(ValueError, match=r"env must have the batch size \(1, N\); got \(2, 1\)"):
        train_off_policy(env, learner, seeds=[0], log=print)
    with pytest.raises(ValueError, match=r"seeds must be one per agent, 1; got \[0, 1\]"):
        train_off_policy(goal_tracking_env([0]), learner, seeds=[0, 1], log=print)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"tau": 2.0}, r"tau must be in \[0, 1\]; got 2.0"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1; got 0"),
        ({"learning_starts": -1}, r"learning_starts must be a whole number in \[0, 1000000\), .*; got -1"),
        ({"learning_starts": 0.5}, "learning_starts must be a whole number"),
        (
            {"total_frames": 10_000},
            r"learning_starts must be a whole number in \[0, 10000\), below total_frames, .*; got 10000",
        ),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive, or None for no clipping; got 0.0"),
        ({"checkpoint_every": 1500}, "checkpoint_every must be a multiple of log_every, 1000"),
        ({"train_every": 3}, "log_every must be a multiple of train_every, 3; got 1000"),
        (
            {"target_aggregation": "least"},
            r"target_aggregation must be min, mean, or a quantile in \[0, 1\]; got 'least'",
        ),
        ({"target_aggregation": 1.5}, "target_aggregation must be .* got 1.5"),
        ({"held_out_every": 1}, "held_out_every must be a whole number, at least 2, or None; got 1"),
        ({"alpha": -1.0}, "alpha must be positive and finite; got -1.0"),
    ],
)
def test_settings_are_checked(setting, says):
    with pytest.raises(ValueError, match=says):
        SACSettings(**setting)


def test_defaults_are_those_of_their_sources():
    """Spinning Up's and Stable-Baselines3's documentation, and the zoo's MuJoCo entries, as of November 2026."""
    sac, td3, ddpg = SACSettings(), TD3Settings(), DDPGSettings()
    assert (sac.learning_rate, td3.learning_rate, ddpg.learning_rate) == (3e-4, 1e-3, 1e-3)
    assert (td3.policy_delay, td3.target_noise, td3.target_noise_clip, td3.exploration_noise) == (2, 0.2, 0.5, 0.1)
    assert (sac.policy_delay, ddpg.policy_delay, ddpg.target_noise) == (1, 1, 0.0)
    assert {(s.gamma, s.tau, s.batch_size, s.learning_starts) for s in (sac, td3, ddpg)} == {(0.99, 0.005, 256, 10_000)}


def test_a_transformed_environment_is_stepped_with_its_transforms():
    """TorchRL passes unknown attributes on to the environment below the transforms, `plain_step` too."""
    env = TransformedEnv(control_env("pendulum", [0]), RewardScaling(loc=5.0, scale=1.0))
    assert hasattr(env, "plain_step")
    games = games_of(env)
    games.begin()
    plain = games_of(control_env("pendulum", [0]))
    plain.begin()
    action = torch.full((1, 1, 1), 0.5)
    torch.testing.assert_close(games.step(action)["reward"], plain.step(action)["reward"] + 5)
    assert torch.equal(games.observation, plain.observation)


@pytest.mark.parametrize("make", [Learner, CompiledLearner])
@pytest.mark.parametrize("kind", [SACSettings, TD3Settings, DDPGSettings])
@pytest.mark.parametrize("begins", [20, 100])
def test_an_estimate_of_the_time_changes_nothing(make, kind, begins, monkeypatch):
    """Also where it needs updates on a learner that is put back as it was, since the first are far off."""
    monkeypatch.setattr(training._Watch, "UPDATES_S", 0.0)
    monkeypatch.setattr(training._Watch, "UNTIL_S", 0.0 if begins == 100 else 100.0)
    settings, seeds = kind(**TINY | {"learning_starts": begins}), [3, 7]
    found, told = [], []
    for expect in (None, told.append):
        env = goal_tracking_env(seeds, 1, episode_steps=30)
        learner = make([model(seed, env, settings) for seed in seeds], settings)
        options = {"expect": expect, "log": lambda *_: None}
        train_off_policy(env, learner, seeds=seeds, **options)
        found.append(learner.state_dict())
    assert_same(*found)
    assert len(told) == 1 and 0 < told[0] < 60


@pytest.mark.parametrize("kind", [SACSettings, TD3Settings])
def test_an_estimate_changes_no_random_numbers_of_torchrls_losses(kind, monkeypatch):
    """They draw from torch's global generator."""
    monkeypatch.setattr(training._Watch, "UNTIL_S", 0.0)
    settings, found, told = kind(**TINY | {"learning_starts": 100}), [], []
    for expect in (None, told.append):
        env = goal_tracking_env([3], 1, episode_steps=30)
        learner = TorchRLLearner(model(3, env, settings), settings)
        torch.manual_seed(5)
        train_off_policy(env, learner, seeds=[3], expect=expect, log=lambda *_: None)
        found.append({"learner": learner.state_dict(), "next": torch.rand(3)})
    assert_same(*found)
    assert len(told) == 1


def test_an_estimate_leaves_out_the_first_step_whose_kernels_are_compiled(monkeypatch):
    settings = TD3Settings(**TINY | {"learning_starts": 100, "total_frames": 120})
    run = SimpleNamespace(frames=0, per_step=1, learner=SimpleNamespace(settings=settings))
    clock = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(training._Watch, "_seconds_per_update", lambda self: 0.5)
    watch, told = training._Watch(run), []
    for seconds in (90.0, 2.0, 2.0):
        run.frames, clock[0] = run.frames + 1, clock[0] + seconds
        told.append(watch.seconds_left())
    updates = (120 - 100) // settings.train_every * settings.updates
    assert told == [None, None, 2.0 * (120 - 3) + 0.5 * updates]
