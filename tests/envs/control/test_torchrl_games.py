"""Environments of TorchRL as control tasks: the numbers of Gymnasium's, batches, generators, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decouple.envs.control.tasks import control_env

pytest.importorskip("gymnasium")

import torchrl_tasks


def played(env, steps=25):
    """What an environment shows and pays for fixed actions, over ends of episodes."""
    generator = torch.Generator().manual_seed(0)
    now, found = env.plain_reset(), []
    for _ in range(steps):
        actions = 2 * torch.rand(env.action_spec.shape[-2:], generator=generator) - 1  # the same for each agent
        stepped, now = env.plain_step(actions.expand(env.action_spec.shape).contiguous())
        found.append(torch.cat([stepped["observation"], stepped["reward"], stepped["done"].float(), now], -1))
    return torch.stack(found)


@pytest.mark.parametrize("options", [{}, {"normalize_observation": True, "normalize_reward": True}])
def test_a_batched_environment_has_the_numbers_of_the_same_task_by_gymnasium(options):
    by_gymnasium = control_env("torchrl_tasks:GymSteer", [0, 1], 4, **options)
    batched = control_env("torchrl_tasks:Steer", [0, 1], 4, **options)
    assert batched.backend == "torchrl" and [env.batch_size for env in batched._games.envs] == [(4,), (4,)]
    one_by_one = control_env("torchrl_tasks:Steer", [0, 1], 4, env_kwargs={"batch_size": []}, **options)
    assert len(one_by_one._games.envs) == 8
    expected = played(by_gymnasium)
    for env in (batched, one_by_one):
        torch.testing.assert_close(played(env), expected, rtol=1e-5, atol=1e-5)


def test_games_that_end_at_different_times_begin_anew_by_themselves():
    env = control_env("torchrl_tasks:Steer", [0], 3)
    env.plain_reset()
    for _ in range(4):
        env.plain_step(torch.zeros(1, 3, 1))
    mask = torch.tensor([False, True, False]).view(1, 3, 1)
    shown = env._restart({"_reset": mask})["observation"][0]
    assert shown[:, 1].tolist() == pytest.approx([0.4, 0.0, 0.4])
    assert shown[1, 0] == pytest.approx(2 * 0.618034 - 1) and shown[0, 0] == -1  # its second episode; still the first


def test_a_batch_of_a_fixed_size_is_taken_whole():
    env = control_env("torchrl_tasks:four_at_once", [0, 1], 6)
    assert tuple(env.batch_size) == (2, 8)
    torch.testing.assert_close(played(env)[:, :, :4], played(control_env("torchrl_tasks:Steer", [0, 1], 8))[:, :, :4])


def test_a_gymnasium_function_keeps_its_own_batch_size_and_device():
    env = control_env("torchrl_tasks:OwnArguments", [0, 1], 2, device="cpu")
    assert env.backend == "gymnasium" and {game.own for game in env._games.games} == {(3, "red")}
    env = control_env("torchrl_tasks:needs_device", [0], 2, env_kwargs={"device": "blue"})
    assert {game.own for game in env._games.games} == {(3, "blue")}
    with pytest.raises(
        ValueError, match=r"env_kwargs must be with device, which torchrl_tasks:needs_device needs and .*; got {}"
    ):
        control_env("torchrl_tasks:needs_device", [0], 2)


def test_a_torchrl_function_gets_both_also_where_it_has_defaults_for_them():
    torchrl_tasks.CALLS.clear()
    state = torch.get_rng_state()
    env = control_env("torchrl_tasks:with_defaults", [0, 1], 4)
    assert torchrl_tasks.CALLS == [((), "cpu"), ([4], "cpu"), ([4], "cpu")]
    assert [each.batch_size for each in env._games.envs] == [(4,), (4,)] and torch.equal(state, torch.get_rng_state())


def test_what_an_environment_draws_from_torch_does_not_depend_on_others():
    alone = played(control_env("torchrl_tasks:Noisy", [7], 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    beside = played(control_env("torchrl_tasks:Noisy", [4, 7], 3))
    assert torch.equal(alone[:, 0], beside[:, 1]) and not torch.equal(beside[:, 0], beside[:, 1])
    assert torch.equal(torch.get_rng_state(), before)


def test_actions_and_observations_of_torchrls_own_environments():
    cart = control_env("torchrl_tasks:cart_pole", [0], 2)
    assert cart.action_spec.shape == (1, 2) and cart.observation_spec["observation"].shape == (1, 2, 4)
    assert cart.rollout(12)["next", "episode_reward"][0, :, 0, 0].tolist() == [1, 1]
    pendulum = control_env("torchrl_tasks:pendulum", [0], 2)
    assert pendulum.rollout(20)["next", "truncated"][0, :, -1].all()
    assert torch.equal(pendulum.action_spec.space.high[0, 0], torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("binary", [1, 0, 1, 0]),
        ("one_lamp", [1]),
        ("several", [0, 0, 1, 0, 1]),
        ("several_of_one", [0, 0, 1]),
        ("index", [0, 1, 0]),
    ],
)
def test_discrete_observations_of_every_kind_are_numbers(kind, numbers):
    env = control_env("torchrl_tasks:Lamps", [0, 1], 2, env_kwargs={"kind": kind})
    assert env.observation_spec["observation"].shape == (2, 2, len(numbers))
    shown = env.rollout(3)["observation"]
    assert torch.equal(shown, torch.tensor(numbers, dtype=torch.float32).expand_as(shown))


def test_privileged_keys_of_a_torchrl_environment_stand_apart():
    env = control_env("torchrl_tasks:Tail", [0], 2, privileged=["position"])
    shown = env.rollout(3)
    assert shown["privileged"].shape == (1, 2, 3, 1) and shown["observation"].shape == (1, 2, 3, 2)
    assert torch.equal(shown["privileged"].sign(), shown["observation"][..., :1])
    assert control_env("torchrl_tasks:Tail", [0], 2).observation_spec["observation"].shape[-1] == 2


def test_a_state_that_is_loaded_begins_new_episodes_from_new_seeds():
    env = control_env("torchrl_tasks:Noisy", [0], 2)
    first = env.plain_reset()
    other = control_env("torchrl_tasks:Noisy", [0], 2)
    other.load_state_dict(env.state_dict())
    assert not torch.equal(other.plain_reset(), first)
    with pytest.raises(TypeError, match="cannot be copied"):
        env._games.__getstate__()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "torchrl_tasks:two_axes"}, r"one batch axis at most; torchrl_tasks:two_axes made one of \(2, 2\)"),
    ({"name": "torchrl_tasks:the_same", "num_envs": 2}, "a new environment each time"),
    ({"wrappers": ["gymnasium.wrappers:TimeLimit"]}, "wrappers must be left out for torchrl_tasks:Steer"),
    ({"frame_stack": 2}, "frame_stack must be left out for"),
    ({"levels": range(3)}, "num_levels must be 0 for"),
    ({"env_workers": 2, "num_envs": 2}, "env_workers must be 1 for .*ParallelEnv"),
    ({"backend": "gymnasium"}, "backend must be auto for"),
    ({"privileged": ["position"]}, "privileged must be some of the observation's keys, .*observation"),
    ({"privileged": ["observation"]}, "privileged must be .*but not all of them|left out"),
    ({"env_kwargs": {"size": 3}}, "env_kwargs must be arguments of torchrl_tasks:Steer"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_these_environments_do_not_have_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        control_env(**{"name": "torchrl_tasks:Steer", "seeds": [0], **arguments})
    torchrl_tasks.KEPT.clear()
