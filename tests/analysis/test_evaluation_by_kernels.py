"""Evaluations in which kernels act, and play where they can, beside those by the policies' modules."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.envs import ExplorationType, TransformedEnv, set_exploration_type

from decouple.analysis.evaluation import _mode_kernels, episode_returns
from decouple.compiled.kernel import unavailable
from decouple.compiled.modes import ModeKernels
from decouple.envs.control.environment import ControlEnv
from decouple.off_policy.learner_groups import LearnerGroups
from decouple.off_policy.learners import make_learner
from decouple.off_policy.training import GreedyPolicy
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, algorithm_of, seeded_model
from decouple.studies.actor_size.build import make_env

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="kernels need the extra fast")
pytest.importorskip("gymnasium")

SEEDS = 3


class Agents:
    """The same agents twice, with kernels and without, whose actions depend on what they see."""

    def __init__(self, env: str, algorithm: str, games: int = 3, spread: float = 3.0, **own: Any) -> None:
        settings = {"actor": [8, 6], "critic": [5], "seeds": SEEDS, "show_progress": False, "run_dir": "/nowhere"} | own
        self.games = games
        self.config = CONTROL_ALGORITHMS[algorithm](env=env, **settings)
        self.like = make_env(self.config, 2, self.config.all_seeds)
        self.models = [seeded_model(self.config, self.like, seed) for seed in self.config.all_seeds]
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in (each for model in self.models for each in model.parameters() if each.ndim == 2):
                parameter.normal_(generator=generator).mul_(spread / math.sqrt(parameter.shape[1]))
            if not self.config.actor and env == "pong":
                for agent, model in enumerate(self.models):
                    follow_the_ball(model, brake=agent)
        self.compiled, self.modules = (self.policy(update) for update in ("compiled", "batched"))

    def policy(self, update: str) -> Any:
        config = type(self.config)(**{**vars(self.config), "update": update})
        return algorithm_of(config).make_agents(config, copy.deepcopy(self.models)).policy

    def env(self) -> Any:
        return make_env(self.config, self.games, [100 + seed for seed in self.config.all_seeds], self.like, test=True)

    def returns(self, policy: Any, **how: Any) -> torch.Tensor:
        return episode_returns(self.env(), policy, stochastic=False, **how).view(-1, self.games)


def follow_the_ball(model: Any, brake: float) -> None:
    """Logits of a policy without hidden layers: up, down and nothing, from Pong's heights and the paddle's speed."""
    (weight,) = (each for each in model.parameters() if each.shape == (3, 7))
    weight.zero_()
    weight[0, [0, 1, 4]] = torch.tensor([1.0, brake, -1.0])
    weight[1] = -weight[0]


def by_modules(policy: Any, observation: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return policy(TensorDict({"observation": observation}, observation.shape[:2]))["action"]


ACTORS = [
    ("pendulum", "ppo", {}),
    ("pendulum", "ppo", {"separation": 1, "policy_gradient": 0.5}),
    ("acrobot", "ppo", {"separation": 2, "critic": [8, 6]}),
    ("pendulum", "daac", {"critic": [8, 6], "actor_activation": "silu"}),
    ("acrobot", "idaac", {"critic": [8, 6]}),
    ("pendulum", "sac", {}),
    ("pendulum", "td3", {"separation": 1, "actor_activation": "tanh"}),
    ("acrobot", "sac", {"separation": 1}),
]


@pytest.mark.parametrize(("env", "algorithm", "own"), ACTORS)
def test_kernels_act_as_the_modules(env: str, algorithm: str, own: dict[str, Any]) -> None:
    agents = Agents(env, algorithm, **own)
    kernels, observed = agents.compiled.mode_kernels(), agents.like.observation_spec["observation"].shape[-1]
    assert agents.modules.mode_kernels() is None
    observation = 2 * torch.randn(SEEDS, 50, observed, generator=torch.Generator().manual_seed(2))
    action, expected = kernels.act(observation), by_modules(agents.modules, observation)
    assert action.dtype == expected.dtype and action.shape == expected.shape
    torch.testing.assert_close(action, expected, rtol=0, atol=1e-5)
    assert len(expected.unique()) > 1 + (env == "pendulum") * 50  # they tell observations apart


@pytest.mark.parametrize(("env", "algorithm"), [("pendulum", "ppo"), ("pendulum", "sac"), ("pixelcopter", "ppo")])
def test_an_agent_that_has_failed_acts_as_by_modules_and_changes_no_other(env: str, algorithm: str) -> None:
    whole, failed = (Agents(env, algorithm, spread=1.0) for _ in range(2))
    expected = whole.returns(whole.compiled)
    with torch.no_grad():
        for parameter in failed.models[1].parameters():
            parameter.fill_(math.nan)
    compiled, modules = failed.policy("compiled"), failed.policy("batched")
    observed = failed.like.observation_spec["observation"].shape[-1]
    observation = torch.randn(SEEDS, 4, observed, generator=torch.Generator().manual_seed(3))
    action = compiled.mode_kernels().act(observation)
    torch.testing.assert_close(action, by_modules(modules, observation), rtol=0, atol=1e-5)
    found = failed.returns(compiled)
    assert found[[0, 2]].tolist() == expected[[0, 2]].tolist()
    torch.testing.assert_close(found, failed.returns(modules), rtol=1e-3, atol=0)
    assert found.isfinite().all()


PLAYED = [
    ("pong", "ppo", {"frame_skip": 2, "actor": [], "games": 2}),
    ("pixelcopter", "ppo", {"games": 20}),
    ("forage", "ppo", {"games": 6}),
    ("acrobot", "ppo", {}),
    ("acrobot", "sac", {}),
    ("pendulum", "ppo", {"spread": 1.0}),
    ("pendulum", "td3", {"spread": 1.0}),
]


@pytest.mark.parametrize(("env", "algorithm", "own"), PLAYED)
def test_returns_are_those_of_the_modules(env: str, algorithm: str, own: dict[str, Any], monkeypatch: Any) -> None:
    agents = Agents(env, algorithm, **own)
    expected = agents.returns(agents.modules)
    monkeypatch.setattr(type(agents.like), "plain_step", None)  # nothing but the kernel plays
    told: list[tuple[int, int]] = []
    found = agents.returns(agents.compiled, progress=lambda done, of: told.append((done, of)))
    if env == "pendulum":
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    else:
        assert found.tolist() == expected.tolist()
    assert len(expected.unique()) > 1, "returns that could tell kernels from modules"
    number = agents.games * SEEDS
    assert told[-1] == (number, number) and len(told) < 10


def test_many_steps_are_made_in_parts_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents("pixelcopter", "ppo", games=20)
    expected = agents.returns(agents.compiled)
    monkeypatch.setattr(ModeKernels, "most", lambda *_: 2)
    told: list[int] = []
    assert agents.returns(agents.compiled, progress=lambda done, _: told.append(done)).tolist() == expected.tolist()
    assert len(told) > 2 and told == sorted(told) and told[0] == 0 and told[-1] == 60


@pytest.mark.parametrize("settings", [{"normalize_observation": True}, {"backend": "gymnasium"}])
def test_kernels_act_where_python_plays(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents("pendulum", "ppo", spread=1.0, **settings)
    agents.like.rollout(20)
    expected = agents.returns(agents.modules)
    monkeypatch.setattr(ControlEnv, "step_and_maybe_reset", None)
    torch.testing.assert_close(agents.returns(agents.compiled), expected, rtol=1e-4, atol=0)
    assert agents.returns(agents.compiled, max_steps=200).shape == (SEEDS, 3)
    with pytest.raises(RuntimeError, match="9 of 9 episodes did not end within max_steps=199"):
        agents.returns(agents.compiled, max_steps=199)


def test_an_episode_that_is_too_long_is_an_error_and_games_go_on() -> None:
    agents = Agents("pixelcopter", "ppo", games=20)
    env, lengths = agents.env(), []
    with pytest.raises(RuntimeError, match=r"of 60 episodes did not end within max_steps=10"):
        episode_returns(env, agents.compiled, stochastic=False, max_steps=10, progress=lambda *n: lengths.append(n))
    with pytest.raises(RuntimeError, match=rf"^{60 - lengths[-1][0]} of 60 episodes") as compiled:
        agents.returns(agents.compiled, max_steps=10)
    with pytest.raises(RuntimeError) as modules:
        agents.returns(agents.modules, max_steps=10)
    assert str(compiled.value) == str(modules.value)
    again = episode_returns(env, agents.compiled, stochastic=False)
    assert again.shape == (60,) and not env.plain_step(torch.zeros(env.batch_size, dtype=torch.int64))[0]["done"].all()


def test_agents_of_several_sizes_are_those_of_each_size() -> None:
    agents = Agents("pixelcopter", "sac", games=20)
    other = CONTROL_ALGORITHMS["sac"](env="pixelcopter", actor=[4], critic=[5], show_progress=False, run_dir="/nowhere")
    models = [*agents.models[:1], seeded_model(other, agents.like, 7), *agents.models[1:2]]
    settings = agents.compiled.learner.settings
    learner, by_torch = (make_learner(copy.deepcopy(models), settings, how) for how in ("compiled", "batched"))
    assert isinstance(learner, LearnerGroups) and GreedyPolicy(by_torch).mode_kernels() is None
    found, expected = agents.returns(GreedyPolicy(learner)), agents.returns(GreedyPolicy(by_torch))
    assert found.tolist() == expected.tolist() and len(expected.unique()) > 1
    mixed = LearnerGroups([learner.groups[0], *by_torch.groups[1:]])
    assert GreedyPolicy(mixed).mode_kernels() is None
    assert agents.returns(GreedyPolicy(mixed)).tolist() == expected.tolist()


def test_returns_are_of_the_present_parameters_and_the_same_on_two_threads() -> None:
    agents = Agents("pixelcopter", "ppo", games=20)
    first = agents.returns(agents.compiled)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert agents.returns(agents.policy("compiled")).tolist() == first.tolist()
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        for policy in (agents.compiled, agents.modules):
            for parameter in policy.policy.parameters():
                parameter.neg_()
    found = agents.returns(agents.compiled)
    assert found.tolist() == agents.returns(agents.modules).tolist() != first.tolist()


def test_modules_act_where_there_is_no_kernel() -> None:
    agents = Agents("pixelcopter", "ppo", games=20)
    env, policy = agents.env(), agents.compiled
    assert isinstance(_mode_kernels(policy, env), ModeKernels)
    wrapped = TensorDictModule(policy, in_keys=policy.in_keys, out_keys=policy.out_keys)
    assert _mode_kernels(wrapped, env) is None and _mode_kernels(policy, TransformedEnv(env)) is None
    assert _mode_kernels(policy, Agents("acrobot", "ppo").like) is None  # another observation
    assert _mode_kernels(policy, Agents("pixelcopter", "ppo", seeds=2).like) is None  # fewer agents
    assert _mode_kernels(policy, Agents("pong", "ppo").like) is None  # three actions in place of two
    assert _mode_kernels(Agents("pixelcopter", "ppo", update="batched").modules, env) is None
    for own in ({"separation": "learned", "critic": [8, 6]}, {"recurrent": "gru"}):
        config = type(agents.config)(**{**vars(agents.config), **own})
        models = [seeded_model(config, agents.like, seed) for seed in config.all_seeds]
        assert algorithm_of(config).make_agents(config, models).policy.mode_kernels() is None
    returns = agents.returns(agents.compiled)
    sampled = episode_returns(env, policy, stochastic=True).view(SEEDS, -1)
    assert sampled.tolist() != returns.tolist()
