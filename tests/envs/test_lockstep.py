"""What the environments in lockstep share."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded
from torchrl.envs import EnvBase

from decouple.envs.control.tasks import control_env
from decouple.envs.games import games_env
from decouple.envs.lockstep import (
    check_settings,
    check_shape,
    episode_specs,
    following_seeds,
    reset_mask,
    set_specs,
    to_begin,
)
from decouple.envs.toy import goal_tracking_env


class Empty(EnvBase):
    """An environment of the batch (2, 3) that has nothing but specs."""

    def __init__(self) -> None:
        super().__init__(batch_size=torch.Size([2, 3]), device="cpu")
        set_specs(self, height=Bounded(0, 1, torch.Size([2, 3, 4])), **episode_specs(self))

    def _step(self, tensordict: TensorDict) -> TensorDict:
        raise NotImplementedError

    def _reset(self, tensordict: TensorDict) -> TensorDict:
        raise NotImplementedError

    def _set_seed(self, seed: int | None) -> None:
        raise NotImplementedError


def test_specs_lie_over_the_batch_and_on_the_device() -> None:
    env = Empty()
    keys = {"height": (2, 3, 4), "episode_reward": (2, 3, 1), "step_count": (2, 3, 1)}
    assert {key: tuple(env.observation_spec[key].shape) for key in env.observation_spec.keys()} == keys
    assert env.observation_spec["step_count"].dtype == torch.int64
    assert tuple(env.reward_spec.shape) == (2, 3, 1)
    ends = env.full_done_spec
    assert {key: tuple(ends[key].shape) for key in ends.keys()} == dict.fromkeys(
        ("done", "terminated", "truncated"), (2, 3, 1)
    )
    assert ends["done"].dtype == torch.bool
    assert env.observation_spec.device == ends.device == torch.device("cpu")


def test_a_reset_begins_what_its_mask_says_and_else_all() -> None:
    ended = torch.tensor([[True, False, False], [False, False, True]])
    mask = torch.tensor([[[True], [True], [False]], [[False], [False], [False]]])
    partial = TensorDict({"_reset": mask}, [2, 3])
    for loaded in (False, True):
        assert torch.equal(to_begin(partial, ended, just_loaded=loaded), mask[..., 0])
        assert torch.equal(to_begin(partial, ended.flatten(), just_loaded=loaded), mask.flatten())
    for full in (None, TensorDict({}, [2, 3])):
        assert reset_mask(full) is None
        assert to_begin(full, ended, just_loaded=False).all()
        assert torch.equal(to_begin(full, ended, just_loaded=True), ended)


def test_the_seeds_that_follow_end_at_the_largest() -> None:
    assert following_seeds(7, 3) == [7, 8, 9]
    assert following_seeds(2**31 - 2, 2) == [2**31 - 2, 2**31 - 1]
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2147483646\]; got 2147483647"):
        following_seeds(2**31 - 1, 2)
    with pytest.raises(ValueError, match=r"seed must be an integer in .*; got None"):
        following_seeds(None, 1)


def test_other_settings_are_refused_by_name() -> None:
    check_settings({"seeds": [0], "frame_skip": 2}, {"frame_skip": 2, "seeds": [0]}, "games")
    with pytest.raises(ValueError, match=r"saved games .*; got frame_skip 3 there, 2 here, wind None there, 0.5 here"):
        check_settings({"seeds": [0], "frame_skip": 2, "wind": 0.5}, {"seeds": [0], "frame_skip": 3}, "games")
    with pytest.raises(ValueError, match=r"got wind 0.5 there, None here"):
        check_settings({"seeds": [0]}, {"seeds": [0], "wind": 0.5}, "build")


def test_an_action_of_another_shape_is_refused_by_name() -> None:
    check_shape(torch.zeros(2, 3, 1), torch.Size([2, 3, 1]))
    with pytest.raises(ValueError, match=r"action must have the shape \(2, 3, 1\); got \(2, 3\)"):
        check_shape(torch.zeros(2, 3), torch.Size([2, 3, 1]))
    with pytest.raises(ValueError, match=r"action.move must have the shape \(1,\); got \(\)"):
        check_shape(torch.zeros(()), torch.Size([1]), "action.move")


@pytest.mark.parametrize("make", [goal_tracking_env, lambda seeds, number: games_env("pong", seeds, number)])
def test_set_seed_starts_the_seeds_that_follow(make) -> None:
    set_later, made = make([0, 1], 2), make([5, 6], 2)
    set_later.set_seed(5)
    assert set_later.seeds == [5, 6]
    assert torch.equal(set_later.reset()["observation"], made.reset()["observation"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: control_env("pendulum", [0, 1], 2, normalize_observation=True, normalize_reward=True),
        lambda: control_env("acrobot", [0], 2),
        lambda: goal_tracking_env([0, 1], 2, episode_steps=30),
        lambda: games_env("pixelcopter", [0, 1], 2),
        lambda: games_env("foodcollector", [0], 5, max_episode_steps=20),
    ],
    ids=["pendulum", "acrobot", "toy", "pixelcopter", "foodcollector"],
)
def test_a_plain_step_is_torchrls_step(make):
    """Over the ends of episodes, and after a state was loaded in the middle of one."""
    one, other = make(), make()
    step, observation = one.reset(), other.plain_reset()
    assert torch.equal(step["observation"], observation)
    ended = 0
    for number in range(230):
        step["action"] = one.action_spec.rand()
        plain, observation = other.plain_step(step["action"])
        done, step = one.step_and_maybe_reset(step)
        following = done["next"]
        assert plain.keys() == {*one.observation_spec.keys(), "reward", "done", "terminated", "truncated"}
        assert all(torch.equal(value, following[key]) for key, value in plain.items())
        assert torch.equal(step["observation"], observation)
        ended += int(plain["done"].sum())
        if number == 100:
            state, other = other.state_dict(), make()
            other.load_state_dict(state)
            assert torch.equal(other.plain_reset(), observation)
    assert ended or "acrobot" in getattr(one, "name", "")
