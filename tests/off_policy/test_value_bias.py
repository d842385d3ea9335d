"""diagnosis.py: returns by hand, a critic whose bias is known, and what entropy adds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from decouple.off_policy.learner import Learner
from decouple.off_policy.value_bias import discounted_returns, value_bias
from decouple.seeding import SeedNoise
from decouple.studies.actor_size.algorithms import SACControl, TD3Control, make_model
from decouple.studies.actor_size.build import make_env


def test_discounted_returns_by_hand():
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 99.0]])  # (T, B): the second episode has two steps
    bonus = torch.tensor([[99.0, 99.0], [0.5, 0.5], [0.25, 99.0]])
    last = torch.tensor([0.0, 8.0])  # the first terminated, the second was cut off
    returns = discounted_returns(reward, bonus, last, torch.tensor([3, 2]), gamma=0.5)
    # 4; 2 + .5 (.25 + 4) = 4.125; 1 + .5 (.5 + 4.125) = 3.3125. Second: 2 + .5 * 8 = 6; 1 + .5 (.5 + 6) = 4.25
    assert returns[:, 0].tolist() == [3.3125, 4.125, 4.0]
    assert returns[:2, 1].tolist() == [4.25, 6.0]


def constant_critic(model: nn.Module, value: float) -> nn.Module:
    """The model, with critics that say `value` of everything."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "value_head" in name or "twin_head" in name:
                parameter.fill_(value if name.endswith("bias") else 0.0)
    return model


def learner(kind, constants: list[float], **departures) -> tuple[Learner, object]:
    config = kind(env="toy", actor=[], critic=[4], seeds=len(constants), total_frames=20_000, **departures)
    env = make_env(config, 3, config.all_seeds)
    torch.manual_seed(0)
    models = [constant_critic(make_model(config, env), constant) for constant in constants]
    return Learner(models, config.learning), env


@pytest.mark.parametrize("aggregation", ["min", "mean", 0.75])
def test_the_bias_of_a_constant_critic_is_its_constant_less_the_return(aggregation):
    # gamma 0.5: what lies 20 steps on counts for nothing, and returns are those of the next few steps
    agents, env = learner(TD3Control, [0.0, 10.0], gamma=0.5, target_aggregation=aggregation)
    bias = value_bias(env, agents, SeedNoise([0, 1]), tail=1e-6)
    assert bias["value/predicted"].tolist() == pytest.approx([0.0, 10.0])
    assert (bias["value/monte_carlo"] < 0).all()  # every reward of the toy problem is a distance, negated
    torch.testing.assert_close(bias["value/bias"], bias["value/predicted"] - bias["value/monte_carlo"])


def test_returns_are_those_of_the_episodes_themselves():
    agents, env = learner(TD3Control, [0.0], gamma=0.5)
    seen = value_bias(env, agents, SeedNoise([0]), tail=1e-6)["value/monte_carlo"]
    _, again = learner(TD3Control, [0.0], gamma=0.5)
    step, rewards = again.reset(), []
    for _ in range(200):
        step["action"] = agents.act(step["observation"])
        step, following = again.step_and_maybe_reset(step)
        rewards.append(step["next", "reward"])
        step = following
    rewards = torch.cat(rewards, -1)[0].double()  # (N, 200)
    weights = 0.5 ** torch.arange(200.0, dtype=torch.float64)
    # gamma^(steps left) <= 1e-6 leaves the steps with at least 20 to go
    expected = torch.stack([(rewards[:, t:] * weights[: 200 - t]).sum(1) for t in range(181)]).mean()
    assert seen.item() == pytest.approx(expected.item(), abs=1e-5)


def test_entropy_counts_for_sac():
    agents, env = learner(SACControl, [0.0], gamma=0.5, alpha=1.0)
    with_entropy = value_bias(env, agents, SeedNoise([0]), tail=1e-6)["value/monte_carlo"]
    agents.log_alpha.data.fill_(-math.inf)
    _, env = learner(SACControl, [0.0], gamma=0.5, alpha=1.0)
    without = value_bias(env, agents, SeedNoise([0]), tail=1e-6)["value/monte_carlo"]
    assert with_entropy.item() != pytest.approx(without.item(), abs=1e-3)


def test_steps_too_near_the_cut_are_left_out():
    agents, env = learner(TD3Control, [0.0], gamma=0.9999)  # 200 steps: at least 0.98 lies beyond the cut
    assert value_bias(env, agents, SeedNoise([0]))["value/bias"].isnan().all()


@pytest.mark.parametrize("tail", [0.0, 1.0, -0.5])
def test_a_tail_outside_its_range_is_refused(tail):
    agents, env = learner(TD3Control, [0.0])
    with pytest.raises(ValueError, match=rf"tail must .*; got {tail}"):
        value_bias(env, agents, SeedNoise([0]), tail=tail)


def test_an_environment_of_other_agents_is_refused():
    agents, _ = learner(TD3Control, [0.0])
    _, env = learner(TD3Control, [0.0, 0.0])
    with pytest.raises(ValueError, match=r"env must be \(S, N\) with S = 1; got \(2, 3\)"):
        value_bias(env, agents, SeedNoise([0]))
