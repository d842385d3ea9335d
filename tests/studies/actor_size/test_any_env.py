"""Cells on environments of TorchRL, with a privileged critic, and with games in processes."""

from __future__ import annotations

import gymnasium
import numpy as np
import odd_spaces
import pytest
import torch
from gymnasium import spaces
from marks import slow_but

from decouple.off_policy import training
from decouple.off_policy.replay import Widths
from decouple.studies.actor_size import build
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, make_model
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import load_agents

SMALL = {"num_envs": 4, "total_frames": 64, "rollout_steps": 16, "minibatches": 2, "epochs": 2, "seeds": 2}
OFF_POLICY = {"num_envs": 2, "total_frames": 40, "learning_starts": 20, "batch_size": 8, "log_every": 20, "seeds": 2}
OFF_POLICY |= {"evaluate_every": 20, "checkpoint_every": 20}
OFTEN = {"evaluate_episodes": 2, "final_episodes": 3, "show_progress": False, "actor": [4], "critic": [4]}
ON_POLICY = ("ppo", "daac", "idaac", "ppg", "dcpg", "dna", "trpo")


class Peek(gymnasium.Env):
    """The secret says which of two actions earns 1, and the policy does not see it; the hint says half of it."""

    observation_space = spaces.Dict(
        {"hint": spaces.Box(-1, 1, (2,), np.float32), "secret": spaces.Discrete(2), "clock": spaces.Box(0, 1, (1,))}
    )
    action_space = spaces.Discrete(2)

    def observe(self):
        self.secret = int(self.np_random.integers(2))
        hint = np.array([self.secret, self.np_random.uniform()], np.float32)
        return {"hint": hint, "secret": self.secret, "clock": np.array([self.t / 5], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        reward = float(action == self.secret)
        self.t += 1
        return self.observe(), reward, False, self.t >= 5, {}


def cell(algorithm, run_dir, **settings):
    small = SMALL if algorithm in ON_POLICY else OFF_POLICY
    if algorithm == "trpo":
        small = {name: value for name, value in small.items() if name not in ("minibatches", "epochs")}
    return CONTROL_ALGORITHMS[algorithm](**(small | OFTEN | {"run_dir": str(run_dir)} | settings))


def weights(run_dir):
    agents = load_agents(run_dir)
    return [value for agent in agents for value in agent.state_dict().values()]


@pytest.mark.parametrize("algorithm", ["ppo", "trpo", "td3"])
def test_agents_learn_on_a_torchrl_environment_what_they_learn_on_gymnasiums(algorithm, tmp_path):
    configs = {name: cell(algorithm, tmp_path / name, env=f"torchrl_tasks:{name}") for name in ("GymSteer", "Steer")}
    results = {name: train_agents(config) for name, config in configs.items()}
    one, other = (weights(tmp_path / name) for name in configs)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(one, other, strict=True))
    assert results["Steer"]["final/return"] == pytest.approx(results["GymSteer"]["final/return"], rel=1e-3)


def test_training_takes_whole_batches_and_an_evaluation_as_many_as_it_needs(tmp_path):
    fixed = {"env": "torchrl_tasks:four_at_once", "final_episodes": 5}
    assert np.isfinite(train_agents(cell("ppo", tmp_path / "a", **fixed))["final/return"])
    with pytest.raises(
        ValueError, match=r"num_envs must be 8 here, or another multiple of the games in an environment .*; got 6"
    ):
        train_agents(cell("ppo", tmp_path / "b", **fixed | {"num_envs": 6}))
    assert not (tmp_path / "b").exists()


def peek(algorithm="ppo", **settings):
    return cell(algorithm, settings.pop("run_dir", "unused"), env="test_any_env:Peek", **settings)


@pytest.mark.parametrize("k", [0, 1, "shared"])
@pytest.mark.parametrize("recurrent", [None, "lstm"])
def test_the_critic_alone_reads_what_is_privileged_at_every_k(k, recurrent):
    sizes = {"actor": [4, 4], "critic": [5 if k == 0 else 4, 4]}
    config = peek(privileged=["secret", "clock"], separation=k, recurrent=recurrent, **sizes)
    env = build.make_small_env(config)
    assert env.observation_spec["observation"].shape[-1] == 2 and env.observation_spec["privileged"].shape[-1] == 3
    model = make_model(config, env)
    assert "privileged" not in model.get_policy_operator().in_keys
    assert "privileged" in model.get_value_operator().in_keys
    assert model.trunk is not None and model.value.keys == ("privileged",)


@pytest.mark.parametrize("algorithm", slow_but(("ppo", "daac"), ON_POLICY))
def test_every_on_policy_algorithm_trains_a_privileged_critic(algorithm, tmp_path):
    k = {} if algorithm == "trpo" else {"separation": 1}
    config = peek(algorithm, privileged=["secret"], run_dir=tmp_path, **k)
    assert np.isfinite(train_agents(config)["final/return"])
    agents = load_agents(tmp_path)
    assert all(agent.value.keys == ("privileged",) for agent in agents)


def test_keys_that_cannot_be_privileged_are_refused_by_name():
    for keys, message in (
        (["goal"], r"privileged must be some of the observation's keys, clock, hint, secret, but not all of them; got"),
        (["hint", "secret", "clock"], "but not all of them"),
    ):
        with pytest.raises(ValueError, match=message):
            build.make_small_env(peek(privileged=keys))
    with pytest.raises(ValueError, match="privileged must be left out for this task, whose observation is no Dict"):
        build.make_small_env(cell("ppo", "x", env="CartPole-v1", privileged=["a"]))
    with pytest.raises(
        ValueError, match="privileged must be left out for sac, whose replay keeps the observation alone"
    ):
        peek("sac", privileged=["secret"])
    with pytest.raises(ValueError, match="privileged must be keys of the observation, each once"):
        peek(privileged=["secret", "secret"])
    with pytest.raises(ValueError, match="privileged must be left out on env=pong"):
        build.make_small_env(cell("ppo", "x", env="pong", privileged=["a"]))


def test_what_is_learned_is_the_same_whether_a_replay_keeps_pictures_as_bytes_or_as_numbers(tmp_path, monkeypatch):
    pictures = {"env": "odd_spaces:Odd/Picture-v0", "seeds": 1, "actor": [], "critic": []}
    odd_spaces.PICTURE.seed(0)
    train_agents(cell("sac", tmp_path / "bytes", **pictures))
    numbers = lambda observation, action, in_bytes: Widths(observation, action, not in_bytes)  # noqa: E731
    monkeypatch.setattr(training, "Widths", numbers)
    odd_spaces.PICTURE.seed(0)
    train_agents(cell("sac", tmp_path / "numbers", **pictures))
    torch.testing.assert_close(weights(tmp_path / "bytes"), weights(tmp_path / "numbers"), rtol=1e-3, atol=1e-4)


@pytest.mark.slow  # starts two processes, each of which imports TorchRL
def test_a_run_has_the_same_numbers_with_games_in_processes_and_goes_on_with_others(tmp_path):
    once = train_agents(cell("ppo", tmp_path / "one", env="CartPole-v1", total_frames=128))
    halves = [
        cell("ppo", tmp_path / "two", env="CartPole-v1", total_frames=n, env_workers=w) for n, w in ((64, 2), (128, 1))
    ]
    train_agents(halves[0])
    twice = train_agents(halves[1])
    assert {k: v for k, v in once.items() if k != "seconds"} == {k: v for k, v in twice.items() if k != "seconds"}
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
