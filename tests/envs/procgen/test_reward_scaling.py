"""RunningRewardScaling against a plain numpy copy of Baselines' arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, RewardSum, TransformedEnv
from torchrl.envs.utils import check_env_specs

from decouple.envs.procgen.reward_scaling import RunningRewardScaling


class NumpyVecNormalize:
    """Return scaling of Baselines' VecNormalize, for (num_envs,) float64 rewards."""

    def __init__(self, num_envs: int, gamma: float, clip: float, epsilon: float) -> None:
        self.gamma, self.clip, self.epsilon = gamma, clip, epsilon
        self.returns = np.zeros(num_envs)
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4

    def step(self, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        self.returns = self.returns * self.gamma + rewards
        batch_mean, batch_var, batch_count = self.returns.mean(), self.returns.var(), len(self.returns)
        delta, total = batch_mean - self.mean, self.count + batch_count
        new_mean = self.mean + delta * batch_count / total
        m_2 = self.var * self.count + batch_var * batch_count
        m_2 += delta**2 * self.count * batch_count / total
        self.mean, self.var, self.count = new_mean, m_2 / total, total
        scaled = np.clip(rewards / np.sqrt(self.var + self.epsilon), -self.clip, self.clip)
        self.returns[dones] = 0.0
        return scaled


class NoisyRewards(EnvBase):
    """Random rewards and ends for (3,) games: just enough of an environment to carry the transform."""

    def __init__(self) -> None:
        super().__init__(batch_size=torch.Size([3]))
        self.observation_spec = Composite(observation=Unbounded((3, 1)), shape=(3,))
        self.action_spec = Bounded(-1, 1, (3, 1))
        self.reward_spec = Unbounded((3, 1))
        self._set_seed(0)

    def _set_seed(self, seed: int | None) -> None:
        self.generator = torch.Generator().manual_seed(seed or 0)

    def _reset(self, tensordict: TensorDict | None = None, **kwargs: object) -> TensorDict:
        return TensorDict({"observation": torch.zeros(3, 1), "done": torch.zeros(3, 1, dtype=torch.bool)}, [3])

    def _step(self, tensordict: TensorDict) -> TensorDict:
        reward = torch.randn(3, 1, generator=self.generator)
        done = torch.rand(3, 1, generator=self.generator) < 0.1
        return TensorDict({"observation": reward, "reward": reward, "done": done, "terminated": done}, [3])


def rewards_and_dones(steps: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rewards = 4 * torch.randn(steps, *shape, generator=generator)  # (T, *batch, 1)
    rewards = rewards * (torch.rand(steps, *shape, generator=generator) < 0.2)
    return rewards, torch.rand(steps, *shape, generator=generator) < 0.02


@pytest.mark.parametrize(("gamma", "clip", "epsilon"), [(0.99, 10.0, 1e-8), (0.9, 0.5, 1e-2), (0.0, 10.0, 1e-8)])
def test_equals_baselines_over_many_episodes(gamma: float, clip: float, epsilon: float) -> None:
    rewards, dones = rewards_and_dones(400, (6, 1))
    transform, reference = RunningRewardScaling(gamma, clip, epsilon), NumpyVecNormalize(6, gamma, clip, epsilon)
    for reward, done in zip(rewards, dones, strict=True):
        scaled = transform.scale(reward, done)
        expected = reference.step(reward[:, 0].double().numpy(), done[:, 0].numpy())
        assert scaled.dtype == torch.float32
        np.testing.assert_allclose(scaled[:, 0].numpy(), expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(transform.discounted_return[:, 0].numpy(), reference.returns, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(transform.variance.item(), reference.var, rtol=1e-12)
    assert dones.any() and rewards.any()


def test_first_step_worked_by_hand() -> None:
    # R = (1, 3): mean 2, variance 1. Merged with mean 0, variance 1, count 1e-4:
    # (1e-4 + 2 + 2^2 * 1e-4 * 2 / 2.0001) / 2.0001 = 1.00019998.
    transform = RunningRewardScaling(gamma=0.5, epsilon=0.0)
    scaled = transform.scale(torch.tensor([[1.0], [3.0]]), torch.tensor([[False], [True]]))
    variance = (1e-4 + 2 + 4 * 1e-4 * 2 / 2.0001) / 2.0001
    torch.testing.assert_close(scaled, torch.tensor([[1.0], [3.0]]) / math.sqrt(variance))
    assert transform.discounted_return.tolist() == [[1.0], [0.0]]


def test_any_leading_batch_counts_every_element() -> None:
    rewards, dones = rewards_and_dones(50, (2, 3, 1))
    grid, flat = RunningRewardScaling(), RunningRewardScaling()
    for reward, done in zip(rewards, dones, strict=True):
        torch.testing.assert_close(
            grid.scale(reward, done), flat.scale(reward.reshape(6, 1), done.reshape(6, 1)).reshape(2, 3, 1)
        )


def test_state_dict_continues_in_a_fresh_transform() -> None:
    rewards, dones = rewards_and_dones(100, (5, 1))
    whole = RunningRewardScaling()
    expected = [whole.scale(reward, done) for reward, done in zip(rewards, dones, strict=True)]
    first, second = RunningRewardScaling(), RunningRewardScaling()
    for t in range(60):
        first.scale(rewards[t], dones[t])
    second.load_state_dict(first.state_dict())
    for t in range(60, 100):
        assert torch.equal(second.scale(rewards[t], dones[t]), expected[t])
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


def test_state_dict_of_an_unused_transform_loads_into_a_used_one() -> None:
    used, fresh = RunningRewardScaling(), RunningRewardScaling()
    used.scale(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.bool))
    used.load_state_dict(fresh.state_dict())
    assert used.count.item() == 1e-4 and used.discounted_return.numel() == 0


def test_in_an_environment_reset_leaves_the_statistics_and_the_raw_sum_stays_raw() -> None:
    env = TransformedEnv(NoisyRewards(), RewardSum())
    env.append_transform(RunningRewardScaling())
    check_env_specs(env)
    env.rollout(30, break_when_any_done=False)
    before = {key: value.clone() for key, value in env.state_dict().items()}
    env.reset()
    after = env.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    steps = env.rollout(40, break_when_any_done=False)
    raw = steps["next", "observation"]
    assert torch.equal(steps["next", "episode_reward"][:, 0], raw[:, 0])
    assert not torch.allclose(steps["next", "reward"], raw)
    assert torch.equal(steps["next", "reward"].sign(), raw.sign())


def test_a_reset_of_some_games_begins_their_discounted_return_and_leaves_the_others() -> None:
    transform = RunningRewardScaling(gamma=0.5)
    transform.scale(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[False], [False], [True]]))
    nothing, some = TensorDict(batch_size=[3]), torch.tensor([[False], [True], [True]])
    transform._reset(nothing, nothing.clone())
    assert transform.discounted_return.flatten().tolist() == [1, 2, 0]
    transform._reset(TensorDict({"_reset": some}, [3]), nothing.clone())
    assert transform.discounted_return.flatten().tolist() == [1, 0, 0]
    RunningRewardScaling()._reset(TensorDict({"_reset": some}, [3]), nothing.clone())  # before the first step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\]; got 1.5"),
        ({"clip": 0}, r"clip must be > 0; got 0"),
        ({"epsilon": -1.0}, r"epsilon must be finite and >= 0; got -1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunningRewardScaling(**arguments)


def test_changed_shapes_are_refused() -> None:
    transform = RunningRewardScaling()
    transform.scale(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"reward must keep the shape \(4, 1\)"):
        transform.scale(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="done must have the reward's shape"):
        transform.scale(torch.ones(4, 1), torch.zeros(4, dtype=torch.bool))
