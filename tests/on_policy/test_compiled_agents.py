"""Compiled agents: actions, values and advantages of the torch modules; whole runs; models that kernels do not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from test_compiled_phase import Plain
from test_on_policy_seeds import SEEDS, SIZE, SPECS, Drift, make_model
from torch import Tensor, nn
from torchrl.objectives.value import GAE

from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.agents import StackedAgents
from decouple.on_policy.rollouts import SeededPolicy, normalise_advantages
from decouple.runs.performance import Performance
from decouple.seeding import SeedNoise

pytest.importorskip("numba")

from decouple.on_policy.compiled_agents import CompiledAgents, not_known
from decouple.on_policy.compiled_collector import CompiledCollector


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_actions_and_values_are_those_of_the_torch_modules(kind: str, dtype: torch.dtype):
    model = stack([make_model(seed, kind, 1) for seed in SEEDS]).to(dtype)
    agents, noise = CompiledAgents(model), SeedNoise(SEEDS)
    policy, near = SeededPolicy(model, SeedNoise(SEEDS)), 1e-12 if dtype == torch.float64 else 1e-4
    numbers = SeedNoise([1, 2, 3])
    for _ in range(3):
        observation = 3 * numbers.normal(4, SIZE + 1).to(dtype)  # some actions near their bounds
        expected = policy(TensorDict({"observation": observation}, observation.shape[:2]))
        found = agents.act(observation, noise)
        for own, key in zip(found, policy.out_keys, strict=True):
            torch.testing.assert_close(own, expected[key], rtol=near, atol=near, check_dtype=False)
    observation = numbers.normal(3, 100, SIZE + 1).to(dtype)
    values = model.get_value_operator()(TensorDict({"observation": observation}, observation.shape[:3]))
    torch.testing.assert_close(agents.judge(observation), values["state_value"], rtol=near, atol=near)


def test_an_agent_that_is_not_finite_acts_at_the_lower_bound():
    model = stack([make_model(seed) for seed in SEEDS])
    with torch.no_grad():
        next(iter(model.policy.parameters()))[1] = torch.nan
    action, log_prob, _ = CompiledAgents(model).act(torch.zeros(3, 4, SIZE + 1).double(), SeedNoise(SEEDS))
    assert (action[1] == -2).all() and log_prob[1].isnan().all()
    assert (action[[0, 2]] > -2).all() and log_prob[[0, 2]].isfinite().all()


def returns_of(rewards: Tensor, values: Tensor, following: Tensor, done: Tensor, terminated: Tensor) -> TensorDict:
    """A rollout (S, N, T) of numbers (S, N, T, 1)."""
    shape = rewards.shape[:-1]
    after = {"reward": rewards, "state_value": following, "done": done, "terminated": terminated}
    return TensorDict({"state_value": values, "next": TensorDict(after, shape)}, shape)


def test_advantages_are_those_of_torchrl():
    noise, shape = SeedNoise([1, 2]), (3, 50, 1)
    done = noise.uniform(*shape) < 0.2
    terminated = done & (noise.uniform(*shape) < 0.5)
    rollout = returns_of(*(noise.normal(*shape).double() for _ in range(3)), done, terminated)
    expected = rollout.clone()
    GAE(gamma=0.97, lmbda=0.9, value_network=None, average_gae=False, vectorized=False)(expected)
    normalise_advantages(expected)
    CompiledAgents(stack([make_model(seed) for seed in (1, 2)])).estimate_advantages(rollout, 0.97, 0.9)
    for key in ("advantage", "value_target"):
        torch.testing.assert_close(rollout[key], expected[key], rtol=1e-12, atol=1e-12)


def test_advantages_worked_out_by_hand():
    """One game, no end: A_1 = 2 - 1 + 0.5 * 4 = 3, A_0 = 1 - 1 + 0.5 * 1 + 0.25 A_1; standardised, +-1 / sqrt 2."""
    column = lambda *numbers: torch.tensor(numbers).double().view(1, 1, 2, 1)  # noqa: E731
    never = column(0, 0).bool()
    rollout = returns_of(column(1, 2), column(1, 1), column(1, 4), never, never)
    CompiledAgents(stack([make_model(1)])).estimate_advantages(rollout, 0.5, 0.5)
    torch.testing.assert_close(rollout["value_target"], column(1 + 0.5 + 0.25 * 3, 1 + 3))
    torch.testing.assert_close(rollout["advantage"], column(-1, 1) / 2**0.5)


@pytest.mark.parametrize("kind", SPECS)
def test_rollouts_are_those_of_torchrls_collector(kind: str):
    model = stack([make_model(seed, kind, 1) for seed in SEEDS])
    theirs = StackedAgents(SeedNoise(SEEDS)).collector(Drift(SEEDS, kind), model, 9, Performance())
    own = CompiledCollector(Plain(SEEDS, kind), CompiledAgents(model), SeedNoise(SEEDS), 9)
    for _, expected, found in zip(range(2), theirs, own, strict=False):
        assert found.batch_size == expected.batch_size == (3, 4, 9)
        for key, value in found.items(include_nested=True, leaves_only=True):
            torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-10)
        assert found["next", "done"].any()
        with torch.no_grad():  # the next rollout is acted by the parameters as they are then
            for parameter in model.parameters():
                parameter.mul_(1.1)
    theirs.shutdown()
    own.shutdown()


def _of(*blocks: nn.Module) -> Any:
    network = separate([*mlp_blocks(SIZE + 1, [6]), *blocks], mlp_blocks(SIZE + 1, [6]), at=0, example=torch.zeros(3))
    return stack([actor_value(network, SPECS["discrete"])])


def test_what_kernels_do_not_know_is_named():
    stacked = stack([make_model(1)])
    assert not_known(stacked) is None
    half = stack([make_model(1)]).half()
    frozen = stack([make_model(1)])
    frozen.value.requires_grad_(requires_grad=False)
    scaled = stack([make_model(1)])
    scaled.module["policy_head"][0].module[1].scale_mapping = "softplus"
    cases = {
        "not stacked": make_model(1),
        "torch.float16": half,
        "frozen": frozen,
        "exponential": scaled,
        "the policy holds Softplus": _of(nn.Softplus()),
    }
    for reason, model in cases.items():
        assert reason in str(not_known(model)), reason
        with pytest.raises(ValueError, match="model must be a stack of perceptrons"):
            CompiledAgents(model)


def test_without_numba_the_reason_is_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("decouple.on_policy.compiled_agents.unavailable", lambda: "numba cannot be imported")
    assert not_known(stack([make_model(1)])) == "numba cannot be imported"
