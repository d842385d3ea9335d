"""actor_qvalue.py: keys and shapes, what is shared and what is not, counts by hand, and TorchRL's losses on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import DDPGLoss, DiscreteSACLoss, SACLoss, SoftUpdate, TD3Loss, ValueEstimators

from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.blocks import mlp_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.heads import ActionUnit, action_space
from decouple.networks.separation import separate

OBSERVATION, ACTION = 3, 2
LOW, HIGH = torch.tensor([-2.0, 1.0]), torch.tensor([2.0, 5.0])
CONTINUOUS, DISCRETE = Bounded(LOW, HIGH), Categorical(4)
EXAMPLE = {"observation": torch.zeros(OBSERVATION), "action": torch.zeros(ACTION)}


def value_blocks(k: int, further: int) -> list[nn.Module]:
    dropped = mlp_blocks(OBSERVATION, [6] * k) if k else []
    return [*dropped, *mlp_blocks((6 if k else OBSERVATION) + further, [5])]


def make_model(spec: TensorSpec = CONTINUOUS, k: int = 0, *, twin: bool = True, **keywords: Any) -> ActorQValue:
    """Actor |6, 6|, critics |5| after the cut."""
    further = ACTION if isinstance(spec, Bounded) else 0
    network = separate(
        mlp_blocks(OBSERVATION, [6, 6]),
        value_blocks(k, further),
        at=k,
        value_keys=["action"] if further else [],
        example=EXAMPLE,
    )
    return actor_qvalue(network, spec, twin_blocks=value_blocks(k, further) if twin else None, **keywords)


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=torch.randn(*batch, OBSERVATION), batch_size=batch)


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("batch", [(), (5,), (2, 5)], ids=str)
def test_a_stochastic_model_writes_these_keys(k: int, batch: tuple[int, ...]) -> None:
    model = make_model(k=k)
    assert model.in_keys == ["observation"]
    out = model(observations(*batch))
    shapes = {key: tuple(out[key].shape[len(batch) :]) for key in out.keys(True, True)}
    hidden = (6,) if k else (OBSERVATION,)
    assert shapes == {
        "observation": (OBSERVATION,),
        "hidden": hidden,
        ("cut", "policy"): hidden,
        ("cut", "value"): hidden,
        "policy_hidden": (6,),
        "loc": (ACTION,),
        "scale": (ACTION,),
        "action": (ACTION,),
        "action_log_prob": (),
        "unit_action": (ACTION,),
        "value_hidden": (5,),
        "state_action_value": (1,),
        ("twin", "value_hidden"): (5,),
        ("twin", "state_action_value"): (1,),
    }
    assert ((out["action"] >= LOW) & (out["action"] <= HIGH)).all()


def test_a_deterministic_model_acts_by_its_observation_alone() -> None:
    model = make_model(deterministic=True, twin=False)
    out = model(observations(5))
    assert out["action"].shape == (5, ACTION) and out["state_action_value"].shape == (5, 1)
    assert not {"loc", "action_log_prob", "twin"} & set(out.keys())
    expected = torch.tensor([0.0, 3.0]) + 2 * torch.tanh(out["action_logit"])
    torch.testing.assert_close(out["action"], expected)
    assert model.get_policy_operator().out_keys == ["action"]


@pytest.mark.parametrize("spec", [DISCRETE, OneHot(4)], ids=["categorical", "one_hot"])
def test_a_discrete_model_values_each_action(spec: TensorSpec) -> None:
    model = make_model(spec)
    out = model(observations(5))
    assert out["logits"].shape == out["action_value"].shape == out["twin", "action_value"].shape == (5, 4)
    assert out["action"].shape == ((5, 4) if isinstance(spec, OneHot) else (5,))
    assert spec.expand(5, *spec.shape).is_in(out["action"].to(spec.dtype))


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("spec", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_operators_compute_what_the_model_does(spec: TensorSpec, k: int) -> None:
    model = make_model(spec, k)
    policy, critics = model.get_policy_operator(), model.get_qvalue_operators()
    assert policy.in_keys == ["observation"] and policy.out_keys == ["action", "action_log_prob"]
    key = "state_action_value" if spec is CONTINUOUS else "action_value"
    assert [list(critic.out_keys) for critic in critics] == [[key], [key]]
    assert set(critics[0].in_keys) == ({"observation", "action"} if spec is CONTINUOUS else {"observation"})
    data = observations(5)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        out = model(data.clone())
        torch.testing.assert_close(policy(data.clone())["action"], out["action"])
    given = data.clone().update({"action": out["action"]})
    torch.testing.assert_close(critics[0](given.clone())[key], out[key])
    torch.testing.assert_close(critics[1](given.clone())[key], out["twin", key])
    # The same in two steps, as the losses take it: the features, and the branches on them.
    features = model.get_features()(given.clone())
    for branch, critic in zip(model.get_qvalue_branches(), critics, strict=True):
        assert "observation" not in branch.in_keys
        torch.testing.assert_close(branch(features.clone())[key], critic(given.clone())[key])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert model.get_policy_branch().in_keys == [("cut", "policy")]
        torch.testing.assert_close(model.get_policy_branch()(features.clone())["action"], out["action"])


def ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_operators_share_the_trunk_and_nothing_else(k: int) -> None:
    model = make_model(k=k)
    assert model.at == k
    policy, (first, second) = ids(model.get_policy_operator()), map(ids, model.get_qvalue_operators())
    trunk = ids(model.get_features())
    assert len(trunk) == 2 * k
    assert policy & first == policy & second == first & second == trunk
    assert policy | first | second == ids(model)
    branches = [ids(model.get_policy_branch()), *map(ids, model.get_qvalue_branches())]
    assert branches == [policy - trunk, first - trunk, second - trunk]


def test_the_twin_keeps_an_initialisation_of_its_own() -> None:
    network = separate(
        mlp_blocks(OBSERVATION, [6]), value_blocks(0, ACTION), at=0, value_keys=["action"], example=EXAMPLE
    )
    twin = value_blocks(0, ACTION)
    for parameter in nn.ModuleList(twin).parameters():
        nn.init.constant_(parameter, 0.25)
    model = actor_qvalue(network, CONTINUOUS, twin_blocks=twin)
    assert all((p == 0.25).all() for p in model.module["twin"].parameters())
    assert all((p != 0.25).any() for p in model.module["value"].parameters())
    assert {id(p) for p in nn.ModuleList(twin).parameters()} <= ids(model.get_qvalue_branches()[1])


@pytest.mark.parametrize("twin", [False, True])
def test_counts_by_hand(twin: bool) -> None:
    model = make_model(k=1, twin=twin)
    # trunk 3 x 6 + 6; policy 6 x 6 + 6 and its head 6 x 4 + 4 (loc and scale); a critic (6 + 2) x 5 + 5 and 5 + 1
    critics = {"value": 45 + 6} | ({"twin": 45 + 6} if twin else {})
    counts = {"trunk": 24, "policy": 42 + 28, **critics}
    assert parameter_count(model) == counts | {"total": sum(counts.values())}
    products = {"trunk": 18, "policy": 36 + 24} | dict.fromkeys(critics, 40 + 5)
    assert multiply_adds(model) == products | {"total": sum(products.values())}


def test_gains_of_the_heads() -> None:
    model = make_model(policy_gain=0.01, value_gain=1.0)
    weight, bias = model.policy_layer.parameters()
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(4), rtol=1e-4, atol=1e-8)
    assert (bias == 0).all()
    for name in ("value_head", "twin_head"):
        assert model.module[name].module.weight.norm().item() == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------------ behaviour


def test_exploration_type_decides_how_the_policy_acts() -> None:
    model = make_model()
    policy, data = model.get_policy_operator(), observations(1).expand(2000)
    parameters = model.policy_layer(model.module["policy"].module(data["observation"]))
    loc, scale = parameters
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = policy(data.clone())["action"]
    torch.testing.assert_close(mode, torch.tensor([0.0, 3.0]) + 2 * torch.tanh(loc))
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = policy(data.clone())["action"]
    u = torch.atanh((drawn - torch.tensor([0.0, 3.0])) / 2)
    torch.testing.assert_close(u.mean(0), loc[0], rtol=0, atol=5 * scale.max().item() / 2000**0.5)
    assert (policy(data.clone())["action"][0] != policy(data.clone())["action"][0]).any()  # it samples by default
    discrete = make_model(DISCRETE)
    with set_exploration_type(ExplorationType.MODE):
        out = discrete(observations(50))
    assert torch.equal(out["action"], out["logits"].argmax(-1))


def test_the_scale_is_bounded_and_decided_by_the_features() -> None:
    model = make_model()
    layer = model.policy_layer
    weight, bias = layer.parameters()
    nn.init.zeros_(weight)
    for log_scale, expected in ((0.5, 0.5), (9.0, 2.0), (-99.0, -20.0)):
        nn.init.constant_(bias, log_scale)
        loc, scale = layer(torch.randn(3, 6))
        torch.testing.assert_close(loc, torch.full((3, 2), log_scale))
        torch.testing.assert_close(scale, torch.full((3, 2), math.exp(expected)))


def test_a_bare_neuron_is_an_actor() -> None:
    # The smallest actor: no blocks, one linear layer from the observation to the action.
    network = separate(
        [], value_blocks(0, 1), at=0, value_keys=["action"], example=EXAMPLE | {"action": torch.zeros(1)}
    )
    model = actor_qvalue(network, Bounded(-2.0, 2.0, (1,)), deterministic=True)
    assert parameter_count(model)["policy"] == OBSERVATION + 1
    assert parameter_count(model)["trunk"] == 0
    weight, bias = model.policy_layer.parameters()
    data = observations(5)
    out = model(data.clone())
    torch.testing.assert_close(out["action"], 2 * torch.tanh(data["observation"] @ weight.T + bias))


def test_a_cut_stops_the_policys_gradient_into_the_trunk() -> None:
    blocks = mlp_blocks(OBSERVATION, [6, 6]), value_blocks(1, ACTION)
    network = separate(*blocks, at=1, policy_gradient=0.0, value_keys=["action"], example=EXAMPLE)
    model = actor_qvalue(network, CONTINUOUS)
    data = observations(5).update({"action": torch.zeros(5, ACTION)})
    trunk = list(model.get_features().parameters())
    model.get_policy_operator()(data.clone())["action_log_prob"].sum().backward()
    assert all(parameter.grad is None for parameter in trunk)
    model.get_qvalue_operators()[0](data.clone())["state_action_value"].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trunk)


def transitions(discrete: bool) -> TensorDict:
    action = torch.randint(0, 4, (8,)) if discrete else LOW + (HIGH - LOW) * torch.rand(8, ACTION)
    after = TensorDict(
        observation=torch.randn(8, OBSERVATION),
        reward=torch.randn(8, 1),
        done=torch.zeros(8, 1, dtype=torch.bool),
        terminated=torch.zeros(8, 1, dtype=torch.bool),
        batch_size=[8],
    )
    return TensorDict(observation=torch.randn(8, OBSERVATION), action=action, next=after, batch_size=[8])


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_torchrls_losses_take_the_operators(discrete: bool) -> None:
    model = make_model(DISCRETE if discrete else CONTINUOUS)
    policy, critics = model.get_policy_operator(), model.get_qvalue_operators()
    data = transitions(discrete)
    if discrete:
        # It copies one critic and draws the copies' parameters anew: a user's own have to be put back.
        loss: Any = DiscreteSACLoss(policy, critics[0], action_space=DISCRETE, num_actions=4, loss_function="l2")
        values = torch.stack([TensorDict.from_module(critic).data for critic in critics])
        loss.qvalue_network_params.data.copy_(values)
    else:
        loss = SACLoss(policy, critics, loss_function="l2", action_spec=CONTINUOUS)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.0)  # so that the target is the reward
    loss.target_entropy  # noqa: B018  # a lazy buffer of SACLoss
    with pytest.warns(UserWarning, match="target"):  # no updater of the targets: this test makes no step
        out = loss(data.clone())

    def own_value(critic: nn.Module) -> Tensor:
        values = critic(data.clone())["action_value" if discrete else "state_action_value"]
        return values.gather(-1, data["action"][:, None]) if discrete else values

    expected = sum((own_value(critic) - data["next", "reward"]).square().mean() for critic in critics)
    torch.testing.assert_close(out["loss_qvalue"], expected)
    (out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]).backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert all(p.grad is not None and p.grad.any() for p in loss.qvalue_network_params.parameters())


def off_policy_loss(kind: type, critics: Any, model: ActorQValue, **further: Any) -> Any:
    keywords: dict[str, Any] = {
        SACLoss: {"target_entropy": -2.0},
        DiscreteSACLoss: {"action_space": DISCRETE, "num_actions": 4},
        TD3Loss: {"bounds": (-2.0, 2.0)},
        DDPGLoss: {},
    }[kind]
    return kind(model.get_policy_operator(), critics, **keywords, **further)


def model_for(kind: type, k: int) -> ActorQValue:
    return make_model(DISCRETE if kind is DiscreteSACLoss else CONTINUOUS, k, deterministic=kind in (TD3Loss, DDPGLoss))


@pytest.mark.parametrize("kind", [SACLoss, DiscreteSACLoss, TD3Loss])
@pytest.mark.parametrize("k", [1, 2])
def test_one_critic_with_a_shared_trunk_is_refused_by_a_loss_that_would_copy_it(kind: type, k: int) -> None:
    model = model_for(kind, k)
    for critic in model.get_qvalue_operators():
        for given in (critic, TensorDictSequential(critic), copy.deepcopy(critic)):
            with pytest.raises(ValueError, match=r"qvalue_network must be .* list get_qvalue_operators\(\).*got one"):
                off_policy_loss(kind, given, model)


@pytest.mark.parametrize("kind", [SACLoss, DiscreteSACLoss, TD3Loss])
@pytest.mark.parametrize("k", [0, 1])
def test_the_list_of_critics_trains_the_trunk_that_is_shared(kind: type, k: int) -> None:
    model = model_for(kind, k)
    loss = off_policy_loss(kind, model.get_qvalue_operators(), model)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.5)
    targets = SoftUpdate(loss, tau=0.1)
    loss(transitions(discrete=kind is DiscreteSACLoss))["loss_qvalue"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.get_features().parameters())
    targets.step()


def test_what_copies_a_critic_without_drawing_it_anew_is_allowed() -> None:
    model = model_for(DDPGLoss, 1)
    critic = model.get_qvalue_operators()[0]
    loss = off_policy_loss(DDPGLoss, critic, model)
    trunk = list(model.get_features().parameters())
    assert ids(nn.ParameterList(trunk)) <= {id(p) for p in loss.parameters()}
    data = transitions(discrete=False)
    twin = copy.deepcopy(critic)
    torch.testing.assert_close(twin(data.clone())["state_action_value"], critic(data.clone())["state_action_value"])
    assert twin.state_dict().keys() == critic.state_dict().keys() and "shared_trunk" not in critic.state_dict()
    assert critic.double().to("meta") is critic
    for free in (model_for(SACLoss, 0).get_qvalue_operators()[0], *model_for(SACLoss, 1).get_qvalue_branches()):
        off_policy_loss(SACLoss, free, model_for(SACLoss, 0))


# ------------------------------------------------------------------------------------------------- the actions' unit

UNIT = Bounded(-1.0, 1.0, (ACTION,))


@pytest.mark.parametrize("k", [0, 1])
def test_critics_read_actions_in_the_unit(k: int) -> None:
    model = make_model(k=k)
    data = observations(5).update({"action": torch.tensor([[0.5, 4.5]]).expand(5, 2)})  # middle 0 and 3, half 2
    hidden = data["observation"] if k == 0 else model.get_features()(data.clone())["hidden"]
    expected = torch.cat([hidden, torch.tensor([[0.25, 0.75]]).expand(5, 2)], -1)
    for name, operator in zip(("value", "twin"), model.get_qvalue_operators(), strict=True):
        layer, head = model.module[name].module[0].linear, model.module[f"{name}_head"].module
        value = operator(data.clone())["state_action_value"]
        torch.testing.assert_close(value, head(torch.tanh(layer(expected))))
        assert "unit_action" not in operator(data.clone())


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("k", [0, 1])
def test_a_model_in_the_unit_is_the_same_networks(k: int, deterministic: bool) -> None:
    model = make_model(k=k, deterministic=deterministic)
    unit = model.unit()
    assert ids(unit) == ids(model) and unit.at == k and unit.deterministic == deterministic
    assert parameter_count(unit) == parameter_count(model) and unit.example.keys() == model.example.keys()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        out, there = (each.get_policy_operator()(observations(5).zero_()) for each in (model, unit))
    torch.testing.assert_close(out["action"], torch.tensor([0.0, 3.0]) + 2 * there["action"])
    for operator, of_unit in zip(model.get_qvalue_operators(), unit.get_qvalue_operators(), strict=True):
        torch.testing.assert_close(operator(out.clone())["state_action_value"], of_unit(there)["state_action_value"])
    if not deterministic:
        # The density in the task's units is that in the unit, divided by half of each component's range: 2 and 2.
        given = there["action"] * 0.9
        log_prob = unit.get_policy_operator().get_dist(there).log_prob(given)
        in_the_task = torch.tensor([0.0, 3.0]) + 2 * given
        of_task = model.get_policy_operator().get_dist(out).log_prob(in_the_task)
        torch.testing.assert_close(of_task, log_prob - math.log(4))


def test_a_model_of_a_task_in_the_unit_reads_actions_as_they_are() -> None:
    model = make_model(UNIT)
    assert "unit_action" not in model(observations(5))
    discrete = make_model(DISCRETE)
    assert discrete.unit() is discrete


def test_state_dicts_have_no_bounds() -> None:
    model, unit = make_model(), make_model(UNIT)
    assert model.state_dict().keys() == unit.state_dict().keys()
    unit.load_state_dict(model.state_dict())


def test_torchrls_sac_loss_has_the_learners_entropy_in_the_unit() -> None:
    model = make_model()
    unit = model.unit()
    data = transitions(discrete=False)
    entropies = []
    for each, spec in ((model, CONTINUOUS), (unit, UNIT)):
        loss = SACLoss(each.get_policy_operator(), each.get_qvalue_operators(), action_spec=spec)
        loss.make_value_estimator(ValueEstimators.TD0, gamma=0.0)
        assert loss.target_entropy == -ACTION
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="target"):
            entropies.append(loss(data.clone())["entropy"])
    torch.testing.assert_close(entropies[0] - entropies[1], torch.tensor(math.log(4)))


@pytest.mark.parametrize("bounds", [(-0.1, 0.3), (-3.0, 7.1), (0.0, 0.7), (-1e38, 3e38)], ids=str)
def test_an_action_in_the_tasks_units_never_leaves_its_bounds(bounds: tuple[float, float]) -> None:
    space = action_space(Bounded(*bounds, (1,)))
    unit = ActionUnit(space)
    ends = unit.to_task(torch.tensor([[-1.0], [0.0], [1.0]]))
    assert (ends >= unit.low).all() and (ends <= unit.high).all() and ends.isfinite().all()
    torch.testing.assert_close(unit(ends), torch.tensor([[-1.0], [0.0], [1.0]]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="space must be continuous; got 4 discrete"):
        ActionUnit(action_space(DISCRETE))


# -------------------------------------------------------------------------------------------------------- action spaces


def test_action_spaces() -> None:
    space = action_space(CONTINUOUS)
    assert not space.discrete and space.size == 2
    assert space.low.tolist() == [-2, 1] and space.high.tolist() == [2, 5]  # pyright: ignore[reportOptionalMemberAccess]
    batched = action_space(Bounded(LOW.expand(8, 2), HIGH.expand(8, 2)))
    assert batched.low.tolist() == [-2, 1] and batched.size == 2  # pyright: ignore[reportOptionalMemberAccess]
    for spec, one_hot in ((Categorical(4), False), (OneHot(4), True), (OneHot(4, (8, 4)), True)):
        space = action_space(spec)
        assert (space.discrete, space.size, space.one_hot) == (True, 4, one_hot)
    batched_model = make_model(Bounded(LOW.expand(8, 2), HIGH.expand(8, 2)))
    assert batched_model(observations(5))["action"].shape == (5, 2)


def test_the_batch_tells_components_from_games() -> None:
    """One number for each of N games has the same spec as one vector of N components."""
    games = Bounded(-1.0, 1.0, (4,))
    assert action_space(games).size == action_space(games, ()).size == 4
    with pytest.raises(ValueError, match=r"action_spec must have the shape \(4, 4\), .* a batch \(4,\); got \(4,\)"):
        action_space(games, [4])
    assert action_space(Bounded(-1.0, 1.0, (4, 1)), [4]).size == 1
    with pytest.raises(ValueError, match=r"action_spec must have the shape \(3,\), .* a batch \(\); got \(2, 3\)"):
        action_space(Bounded(-1.0, 1.0, (2, 3)), [])
    assert action_space(Categorical(3, (4,)), [4]).size == action_space(OneHot(3, (4, 3)), [4]).size == 3
    with pytest.raises(ValueError, match=r"action_spec must have the shape \(4,\), .*; got \(4, 2\)"):
        action_space(Categorical(3, (4, 2)), [4])  # two choices


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            Bounded(torch.tensor([[-1.0, -1], [-5, -5]]), torch.ones(2, 2)),
            "the same bounds along all axes but the last",
        ),
        (
            Bounded(torch.tensor([-1.0, 2]), torch.tensor([1.0, 2])),
            r"lower bounds below .* \[-1.0, 2.0\] to \[1.0, 2.0",
        ),
        (Bounded(-1.0, 1.0, (0,)), "Categorical, OneHot, MultiCategorical, Binary, or a vector"),
        (Categorical(3, mask=torch.tensor([True, False, True])), "no mask"),
        (OneHot(3, mask=torch.tensor([True, False, True])), "no mask"),
    ],
)
def test_bounds_that_no_policy_keeps_are_refused(spec: TensorSpec, says: str) -> None:
    with pytest.raises(ValueError, match=f"action_spec must .*{says}"):
        action_space(spec)


@pytest.mark.parametrize(
    "spec",
    [
        MultiCategorical([2, 3]),
        Binary(3),
        Unbounded((2,)),
        Bounded(0, 3, (2,), dtype=torch.int64),
        Bounded(-1.0, 1.0, ()),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_other_action_spaces_are_refused(spec: TensorSpec) -> None:
    with pytest.raises(ValueError, match="action_spec must"):
        make_model(spec)


def test_bounds_must_be_finite() -> None:
    with pytest.raises(
        ValueError, match=r"a Bounded vector of floats with finite bounds for SAC, TD3 and DDPG; PPO, .* others"
    ):
        make_model(Bounded(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, math.inf])))


# --------------------------------------------------------------------------------------------------------------- errors


def network(keys: Sequence[str] = ("action",), *, example: Any = EXAMPLE) -> Any:
    further = ACTION if "action" in keys else 0
    blocks = mlp_blocks(OBSERVATION, [6]), mlp_blocks(OBSERVATION + further, [5])
    return separate(*blocks, at=0, value_keys=list(keys), example=example)


def test_a_network_must_read_the_action_where_it_is_continuous_and_only_there() -> None:
    with pytest.raises(
        ValueError, match=r'network must be separated with value_keys=\["action"\]; got value_keys=\[\]'
    ):
        actor_qvalue(network([]), CONTINUOUS)
    with pytest.raises(ValueError, match=r"value_keys=\[\] \(a value of each action\); got value_keys=\['action'\]"):
        actor_qvalue(network(), DISCRETE)


def test_a_network_must_know_its_sizes() -> None:
    blocks = [nn.Sequential(nn.Linear(3, 4))], [nn.Sequential(nn.Linear(3, 4))]
    with pytest.raises(ValueError, match=r"network must know its feature sizes: .*example"):
        actor_qvalue(separate(*blocks, at=0), DISCRETE)


def test_a_deterministic_policy_needs_a_continuous_action() -> None:
    with pytest.raises(ValueError, match="must be continuous for a deterministic policy"):
        actor_qvalue(network([]), DISCRETE, deterministic=True)


def test_a_twin_must_fit_and_be_its_own() -> None:
    own = mlp_blocks(OBSERVATION + ACTION, [5])
    with pytest.raises(ValueError, match="twin_blocks must fit as value_blocks did"):
        actor_qvalue(network(), CONTINUOUS, twin_blocks=mlp_blocks(OBSERVATION, [5]))
    whole = separate(mlp_blocks(OBSERVATION, [6]), own, at=0, value_keys=["action"], example=EXAMPLE)
    with pytest.raises(ValueError, match="twin_blocks must have parameters of their own"):
        actor_qvalue(whole, CONTINUOUS, twin_blocks=own)


def test_a_twin_is_checked_in_the_type_that_the_network_has_by_then() -> None:
    plain = separate(mlp_blocks(OBSERVATION, [6]), value_blocks(0, ACTION), 0, value_keys=["action"], example=EXAMPLE)
    twin = [block.double() for block in value_blocks(0, ACTION)]
    assert actor_qvalue(plain.double(), CONTINUOUS, twin_blocks=twin).module["twin"] is not None


def test_the_parts_of_a_model_are_those_of_the_network():
    network = separate(mlp_blocks(3, [4]), mlp_blocks(3, [4]), at=1)
    model = actor_qvalue(network, DISCRETE, twin_blocks=mlp_blocks(3, [4]))
    for name in ("trunk", "cut", "policy", "value"):
        assert getattr(model, name) is getattr(network, name) is model.module[name].module
    value, twin = model.critic_parts().values()
    assert value == [network.value, model.module["value_head"].module] and twin[0] is model.module["twin"].module
