"""Returns of episodes whose rewards are known, and what evaluating must leave alone."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import ProbabilisticActor

from decouple.analysis.evaluation import episode_returns, evaluate
from decouple.seeding import rng_state


class Countdown(EnvBase):
    """Environment n = 0, 1, ... ends its episode after n + 2 steps, each rewarded n + 1, and action 1 adds `bonus`.

    From the second episode on, rewards are 1000: whoever counts them is found out.
    """

    def __init__(self, num_envs: int, *, bonus: float = 0.0) -> None:
        super().__init__(batch_size=torch.Size([num_envs]))
        column = (num_envs, 1)
        self.observation_spec = Composite(observation=Unbounded(column), shape=self.batch_size)
        self.action_spec = Categorical(2, shape=self.batch_size)
        self.reward_spec = Unbounded(column)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), truncated=end.clone(), shape=self.batch_size)
        self.index = torch.arange(num_envs).unsqueeze(-1)  # (N, 1)
        self.steps, self.episodes = torch.zeros(column), torch.full(column, -1)
        self.bonus = bonus

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = torch.ones_like(self.index, dtype=torch.bool) if tensordict is None else tensordict["_reset"]
        self.steps = self.steps.masked_fill(which, 0)
        self.episodes = self.episodes + which
        return TensorDict({"observation": self.steps.clone()}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.steps = self.steps + 1
        reward = self.index + 1.0 + self.bonus * tensordict["action"].unsqueeze(-1)
        end = self.steps >= self.index + 2
        answer = {"observation": self.steps.clone(), "reward": torch.where(self.episodes > 0, 1000.0, reward)}
        answer |= {"done": end, "terminated": end.clone(), "truncated": torch.zeros_like(end)}
        return TensorDict(answer, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass


class TwoToOne(nn.Module):
    """Logits (log 2, 0) for every observation: action 0 is the mode, with probability 2 / 3."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, observation: Tensor) -> Tensor:
        seen = self.dropout(torch.ones_like(observation))  # all ones, unless dropout is on
        return torch.cat([np.log(2) * seen, 0 * seen], -1)  # (N, 2)


def policy() -> ProbabilisticTensorDictSequential:
    logits = TensorDictModule(TwoToOne(), ["observation"], ["logits"])
    return ProbabilisticActor(logits, in_keys=["logits"], distribution_class=torch.distributions.Categorical)


def test_returns_are_of_the_first_episode_of_each_environment():
    returns = episode_returns(Countdown(4), policy())
    assert returns.tolist() == [1 * 2, 2 * 3, 3 * 4, 4 * 5]
    assert returns.dtype == torch.float64


def test_the_deterministic_policy_takes_the_mode_and_the_stochastic_one_samples():
    deterministic = episode_returns(Countdown(3, bonus=100), policy(), stochastic=False)
    assert deterministic.tolist() == [2, 6, 12]
    torch.manual_seed(0)
    steps = torch.arange(60) + 2.0
    bonuses = episode_returns(Countdown(60, bonus=100), policy()) - (steps - 1) * steps
    share = bonuses.sum() / 100 / steps.sum()  # of steps with action 1
    assert abs(share - 1 / 3) < 4 * (1 / 3 * 2 / 3 / steps.sum()).sqrt()


@pytest.mark.parametrize("layer", [nn.Linear(2, 2), nn.Identity(), nn.Tanh()])
def test_a_module_that_does_not_act_is_refused_by_name(layer: nn.Module):
    with pytest.raises(ValueError, match=f"policy must be .* and writes action; got a {type(layer).__name__}"):
        episode_returns(Countdown(2), layer)


def test_an_episode_that_does_not_end_is_an_error_and_not_cut():
    assert episode_returns(Countdown(3), policy(), max_steps=4).tolist() == [2, 6, 12]
    with pytest.raises(RuntimeError, match="1 of 3 episodes did not end within max_steps=3"):
        episode_returns(Countdown(3), policy(), max_steps=3)


@pytest.mark.parametrize("max_steps", [100, 1])
def test_the_policy_runs_in_evaluation_mode_and_gets_its_modes_back(max_steps: int):
    actor = policy()
    network = actor.module[0].module
    modes = []
    network.register_forward_hook(lambda *_: modes.append((network.training, network.dropout.training)))
    try:
        episode_returns(Countdown(3), actor, max_steps=max_steps)
    except RuntimeError:
        assert max_steps == 1
    assert set(modes) == {(False, False)}
    assert (actor.training, network.dropout.training, network.frozen.training) == (True, True, False)


def test_progress_counts_the_episodes_finished():
    calls = []
    episode_returns(Countdown(3), policy(), progress=lambda *call: calls.append(call))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_report_by_hand():
    made = []

    def make(name: str, bonus: float):
        def make_env(num_envs: int, seed: int) -> EnvBase:
            made.append((name, num_envs, seed))
            return Countdown(num_envs + (name == "test"), bonus=bonus)

        return make_env

    report = evaluate(policy(), {"train": make("train", 0), "test": make("test", 0)}, episodes=3, seed=5)
    assert made == [("train", 3, 5), ("test", 3, 5)]
    assert report == pytest.approx(
        {
            "eval/train_return": (2 + 6 + 12) / 3,
            "eval/train_return_median": 6,
            "eval/train_return_std": statistics.stdev([2, 6, 12]),
            "eval/test_return": (2 + 6 + 12 + 20) / 4,
            "eval/test_return_median": 9,
            "eval/test_return_std": statistics.stdev([2, 6, 12, 20]),
            "eval/generalisation_gap": 20 / 3 - 10,
        }
    )


def test_one_set_has_no_gap_and_one_episode_no_spread():
    report = evaluate(policy(), {"train": lambda num_envs, _: Countdown(num_envs)}, episodes=1, seed=0)
    assert report == {"eval/train_return": 2, "eval/train_return_median": 2, "eval/train_return_std": 0}


def test_the_same_seed_gives_the_same_report_and_another_seed_another():
    def report(seed: int) -> dict[str, float]:
        torch.rand(3)  # the random state before does not matter
        return evaluate(policy(), {"train": lambda n, _: Countdown(n, bonus=1)}, episodes=9, seed=seed)

    assert report(1) == report(1)
    assert report(1) != report(2)


def flat(state: dict) -> list:
    return [value.tolist() if isinstance(value, Tensor) else value for value in state.values()]


@pytest.mark.parametrize("fails", [False, True])
def test_every_random_state_is_left_as_it_was_and_the_environment_closed(fails: bool):
    envs = []

    def make_env(num_envs: int, seed: int) -> EnvBase:
        random.random(), np.random.rand()
        envs.append(Countdown(num_envs))
        if fails:
            envs[0]._step = lambda tensordict: 1 / 0
        return envs[0]

    before = rng_state()
    try:
        evaluate(policy(), {"train": make_env}, episodes=2, seed=0)
    except ZeroDivisionError:
        assert fails
    after = rng_state()
    numpy_before, numpy_after = before.pop("numpy"), after.pop("numpy")
    assert flat(before) == flat(after)
    assert flat(numpy_before) == flat(numpy_after)
    assert envs[0].is_closed


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="episodes must be at least 1; got 0"):
        evaluate(policy(), {}, episodes=0, seed=0)


def test_unseen_levels_are_reported_apart_and_change_no_other_number():
    asked = []

    def unseen(episodes: int, seed: int) -> Tensor:
        asked.append((episodes, seed))
        torch.rand(3), np.random.rand()  # whatever it draws
        return torch.tensor([False, True, False, True])

    sets = {name: lambda num_envs, _: Countdown(num_envs, bonus=1) for name in ("test", "train")}
    plain = evaluate(policy(), sets, episodes=4, seed=3)
    report = evaluate(policy(), sets, episodes=4, seed=3, unseen=unseen)
    assert asked == [(4, 3)]
    assert report.items() >= plain.items()
    deterministic = {"episodes": 4, "seed": 3, "stochastic": False}
    found = evaluate(policy(), sets, unseen=unseen, **deterministic)
    assert found.keys() - evaluate(policy(), sets, **deterministic).keys() == {
        *("eval/unseen_return", "eval/unseen_return_median", "eval/unseen_return_std", "eval/repeated_levels")
    }
    # Episodes 1 and 3 of 2, 6, 12, 20.
    assert found["eval/repeated_levels"] == 0.5
    assert found["eval/unseen_return"] == found["eval/unseen_return_median"] == 13
    assert found["eval/unseen_return_std"] == pytest.approx(statistics.stdev([6, 20]))


def test_where_all_levels_repeat_there_is_no_return_on_unseen_ones():
    sets = {"test": lambda num_envs, _: Countdown(num_envs)}
    report = evaluate(policy(), sets, episodes=2, seed=0, unseen=lambda *_: torch.zeros(2, dtype=torch.bool))
    assert report["eval/repeated_levels"] == 1
    assert not any(name.startswith("eval/unseen") for name in report)
    # Without a test set nobody is asked.
    evaluate(policy(), {"train": sets["test"]}, episodes=2, seed=0, unseen=lambda *_: 1 / 0)
