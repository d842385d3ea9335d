"""build.py: the tasks of a cell, and its networks."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from tensordict import TensorDict
from test_cell import cell, model
from torch import nn

from decouple.networks.counting import parameter_count
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, make_model
from decouple.studies.actor_size.build import make_env, make_small_env, sharable_blocks
from decouple.studies.actor_size.cell import train_agents


def test_actor_and_critic_have_the_sizes_asked_for():
    counts = parameter_count(model("td3", env="pendulum", actor=[4, 4], critic=[16, 16]))
    assert counts["policy"] == 3 * 4 + 4 + 4 * 4 + 4 + 4 * 1 + 1 == 41  # Table A.2, Pendulum |4,4|
    one_critic = (3 + 1) * 16 + 16 + 16 * 16 + 16 + 16 + 1
    assert counts["value"] == counts["twin"] == one_critic
    assert counts["total"] == 41 + 2 * one_critic
    assert "twin" not in parameter_count(model("ddpg", env="pendulum"))


def test_a_single_neuron_is_a_bare_linear_layer_for_actor_and_critic():
    neuron = model("ddpg", actor=[], critic=[])
    assert parameter_count(neuron) == {"trunk": 0, "policy": 2, "value": 3, "total": 5}
    assert parameter_count(model("ppo", actor=[], critic=[]))["value"] == 2
    weight, bias = neuron.policy_layer.weight.item(), neuron.policy_layer.bias.item()
    observation = torch.tensor([[0.7]])
    action = neuron.get_policy_operator()(TensorDict({"observation": observation}, [1]))["action"]
    assert action.item() == pytest.approx(2 * torch.tanh(torch.tensor(weight * 0.7 + bias)).item(), abs=1e-6)
    (critic,) = neuron.get_qvalue_operators()
    value = critic(TensorDict({"observation": observation, "action": torch.tensor([[0.3]])}, [1]))["state_action_value"]
    layer = neuron.module["value_head"].module  # which reads the action, of bounds +-2, in [-1, 1]
    assert value.item() == pytest.approx((layer.weight[0] @ torch.tensor([0.7, 0.15]) + layer.bias[0]).item(), abs=1e-6)


def test_activations_and_initialisations_are_settings_of_each_network():
    made = model("sac", actor_activation="tanh", critic_activation="elu", critic_gain=3.0, critic_head_gain=0.0)
    kinds = {name: {type(m) for m in made.module[name].modules()} for name in ("policy", "value", "twin")}
    assert nn.Tanh in kinds["policy"] and nn.ELU in kinds["value"] and nn.ELU in kinds["twin"]
    weight = made.module["twin"].module[0].linear.weight  # (8, 2), orthogonal with gain 3
    torch.testing.assert_close(weight.T @ weight, 9 * torch.eye(2), atol=1e-5, rtol=0)
    assert not made.module["value_head"].module.weight.any()


def test_a_shared_trunk_is_the_actors_first_layers():
    shared = model("td3", actor=[4, 6], critic=[9, 16], separation=1)
    assert shared.at == 1 and parameter_count(shared)["trunk"] == 1 * 4 + 4
    assert parameter_count(shared)["value"] == (4 + 1) * 16 + 16 + 16 + 1
    assert model("ppo", actor=[4, 6], critic=[9, 16], separation="shared").at == 2
    linear = model("sac", actor=[4, 6], critic=[9, 16], separation="shared")  # on the shared features and the action
    assert parameter_count(linear)["value"] == 6 + 1 + 1


def test_discrete_actions_get_a_value_each():
    made = model("sac", env="acrobot", actor=[16, 16], critic=[32, 32])
    assert parameter_count(made)["policy"] == 435  # Table A.2, Acrobot |16,16|
    assert made.module["value_head"].module.out_features == 3
    with pytest.raises(ValueError, match="action_spec must be continuous for a deterministic policy"):
        model("td3", env="acrobot")


@pytest.mark.parametrize("algorithm", sorted(CONTROL_ALGORITHMS))
def test_gains_may_be_left_to_pytorch(algorithm):
    """As the toy problem's configs of PPO and TRPO leave them."""
    none = dict.fromkeys(["actor_gain", "critic_gain", "actor_head_gain", "critic_head_gain"])
    assert parameter_count(model(algorithm, **none))["total"] == parameter_count(model(algorithm))["total"]


def test_rewards_of_evaluation_are_raw_and_its_observations_scaled_as_in_training():
    config = cell("ppo", env="pendulum", normalize_observation=True, normalize_reward=True, gamma=0.0)
    train_env = make_env(config, 1, [0, 1])
    train_env.rollout(30)
    fresh = make_env(config, 3, [5, 6], like=train_env)
    assert fresh.observation_statistics is train_env.observation_statistics
    assert fresh.rollout(100)["next", "reward"].min() < -10  # scaled ones are clipped there
    raw = make_env(cell("ppo", env="pendulum"), 3, [5, 6]).reset()["observation"]  # (2, 3, 3)
    statistics = train_env.observation_statistics
    expected = ((raw - statistics.mean[:, None]) / (statistics.variance[:, None] + 1e-8) ** 0.5).clamp(-10, 10)
    scaled = make_env(config, 3, [5, 6], like=train_env).reset()["observation"]
    torch.testing.assert_close(scaled, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("env", ["toy", "pong"])
@pytest.mark.parametrize("normalize", ["normalize_observation", "normalize_reward"])
def test_the_toy_problem_and_the_games_are_not_normalised(env, normalize):
    with pytest.raises(ValueError, match=f"normalize_observation and normalize_reward must be false on env={env}"):
        train_agents(cell("ppo", env=env, **{normalize: True}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"env": "pendulum", "frame_skip": 4}, "frame_skip must be 1 on env=pendulum: only pong, pixelcopter"),
        ({"env": "toy", "frame_skip": 2}, "frame_skip must be 1 on env=toy"),
        ({"env": "pong", "backend": "batched"}, "backend must be auto on env=pong, which is no task of Gymnasium"),
        ({"env": "reacher", "backend": "batched"}, "backend must be auto or gymnasium for reacher"),
        ({"env": "unity"}, "file_name must be given with env=unity and with no other; got None"),
        ({"env": "pong", "file_name": "a.x86_64"}, "file_name must be given with env=unity and with no other; got 'a"),
        ({"env": "foodcollector", "num_envs": 4}, "num_envs must be a multiple of 5"),
    ],
)
def test_settings_that_the_task_does_not_have_are_refused(tmp_path, settings, says):
    config = cell("ppo", tmp_path / "run", **settings)
    with pytest.raises(ValueError, match=says):
        train_agents(config)
    assert not (tmp_path / "run").exists()


# Of a linear layer from 4 features: to 3 and to 2 logits, and to 4 means, with a scale each.
@pytest.mark.parametrize(
    ("env", "observed", "head"), [("pong", 7, 15), ("pixelcopter", 7, 10), ("foodcollector", 53, 24)]
)
def test_the_games_go_by_name(env, observed, head):
    config = cell("ppo", env=env, actor=[4], critic=[8], separation=0)
    made = make_env(config, 5, [3, 4])
    assert made.batch_size == (2, 5) and made.seeds == [3, 4]
    assert parameter_count(make_model(config, made))["policy"] == observed * 4 + 4 + head
    whole = 5 if env == "foodcollector" else 1  # an evaluation of one episode plays a whole game
    assert make_env(config, 1, [3, 4], made, test=True).batch_size == (2, whole)


def shown(backbone: str = "auto", name: str = "PictureAndVector", **settings):
    """Settings of an agent that reads a picture."""
    settings = {"actor": [8], "critic": [8, 4], "show_progress": False, "backbone": backbone} | settings
    return CONTROL_ALGORITHMS[settings.pop("algorithm", "ppo")](env=f"odd_spaces:Odd/{name}-v0", **settings)


@pytest.mark.parametrize(
    ("name", "dtype", "front"), [("PictureAndVector", torch.float32, 1), ("Picture", torch.uint8, 4)]
)
def test_pictures_are_read_by_blocks_before_the_hidden_layers(name, dtype, front):
    config = shown(name=name)
    with contextlib.closing(make_small_env(config)) as env:
        assert env.observation_spec["observation"].dtype == dtype
        assert sharable_blocks(config, env) == front + 1
        total = {}
        for k in range(front + 2):
            model = make_model(dataclasses.replace(config, separation=k), env)
            assert len(model.trunk) == k
            total[k] = parameter_count(model)["total"]
            state = env.rollout(3, model.get_policy_operator())
            assert model.get_value_operator()(state)["state_value"].shape == (1, 1, 3, 1)
        assert sorted(total.values(), reverse=True) == list(total.values())  # the more is shared, the fewer
        with pytest.raises(ValueError, match=rf"at must lie in \[0, {front + 1}\].*got {front + 2}"):
            make_model(dataclasses.replace(config, separation=front + 2), env)


def test_both_parts_of_an_observation_reach_the_network():
    config = shown(separation="shared")
    with contextlib.closing(make_small_env(config)) as env:
        model, state = make_model(config, env), env.reset()
        before = model.get_value_operator()(state.clone())["state_value"]
        for index in (0, 256):  # the first pixel, and the vector behind the picture: Gymnasium sorts a Dict's names
            other = state.clone()
            other["observation"][..., index] += 1
            assert not torch.equal(model.get_value_operator()(other)["state_value"], before)


def test_a_backbone_is_named_or_a_function_of_a_module():
    with contextlib.closing(make_small_env(shown(name="Picture"))) as env:
        model = make_model(shown("test_build:flat_blocks", name="Picture", separation=1), env)
        assert isinstance(model.trunk[0][1], nn.Flatten)
        for wrong, says in {
            "test_build:nothing": "backbone must be of a module that can be imported",
            "no_such_module:blocks": "backbone must be of a module that can be imported",
            "test_build:too_flat": r"backbone must be a function that makes blocks .* got \(1, 1, 16, 16\)",
            "nature": "observation_shape must be at least 36",
        }.items():
            with pytest.raises(ValueError, match=says):
                make_model(shown(wrong, name="Picture"), env)
    with pytest.raises(ValueError, match="backbone must be auto, none, impala, nature or my_package"):
        shown("vgg")
    none = shown("none", name="Picture")
    with contextlib.closing(make_small_env(none)) as env:
        assert env.observation_spec["observation"].dtype == torch.float32
        assert sharable_blocks(none, env) == 1
    with pytest.raises(ValueError, match=r"separation must be .* \[0, 1\]"):
        shown("none", separation=2)
    vectors = shown("impala", name="Discrete")
    with contextlib.closing(make_small_env(vectors)) as env, pytest.raises(ValueError, match="have no picture"):
        make_model(vectors, env)
    scaled = shown(name="Picture", normalize_observation=True)
    with pytest.raises(ValueError, match="normalize_observation must be false where observations have pictures"):
        make_small_env(scaled)


def flat_blocks(shape):
    return [nn.Flatten(-3)]


def too_flat(shape):
    return [nn.Identity()]
