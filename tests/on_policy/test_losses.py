"""losses.py against numbers worked by hand and plain torch, values and gradients; and the losses' properties."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.objectives import ClipPPOLoss

from decouple.networks.heads import ActionSpace
from decouple.on_policy import losses
from decouple.on_policy.losses import (
    AdvantageHead,
    AdvantageLoss,
    OrderClassifier,
    OrderClassifierLoss,
    OrderLoss,
    ValueLoss,
    same_level_partners,
)

FEATURES = 5
ACTIONS = 3
PAIR = ["policy_hidden", ("partner", "policy_hidden")]


def advantage_network(hidden_size: int = FEATURES, num_actions: int = ACTIONS) -> TensorDictModule:
    return TensorDictModule(AdvantageHead(hidden_size, num_actions), ["policy_hidden", "action"], ["action_advantage"])


def value_network(hidden_size: int = FEATURES) -> TensorDictModule:
    return TensorDictModule(nn.Linear(hidden_size, 1), ["value_hidden"], ["state_value"])


def classifier_network(hidden_size: int = FEATURES, width: int | None = None) -> TensorDictModule:
    return TensorDictModule(OrderClassifier(hidden_size, width), PAIR, ["order_logits"])


def minibatch(*batch: int, seed: int = 0) -> TensorDict:
    """Everything that the losses read, with features that are leaves."""
    generator = torch.Generator().manual_seed(seed)

    def normal(size: int) -> Tensor:
        return torch.randn(*batch, size, generator=generator)

    def steps() -> Tensor:
        return torch.randint(0, 4, (*batch, 1), generator=generator)  # few values, so that ties occur

    partner = TensorDict(policy_hidden=normal(FEATURES).requires_grad_(), step_count=steps(), batch_size=batch)
    return TensorDict(
        policy_hidden=normal(FEATURES).requires_grad_(),
        value_hidden=normal(FEATURES).requires_grad_(),
        action=torch.randint(0, ACTIONS, batch, generator=generator),
        advantage=normal(1),
        value_target=normal(1),
        state_value=normal(1),
        step_count=steps(),
        partner=partner,
        batch_size=batch,
    )


LOSSES = {
    "advantage": lambda: AdvantageLoss(advantage_network()),
    "value": lambda: ValueLoss(value_network()),
    "order_classifier": lambda: OrderClassifierLoss(classifier_network(width=4)),
    "order": lambda: OrderLoss(classifier_network(width=4)),
}
each_loss = pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES.keys())
HEAD = {"AdvantageLoss": "advantage_network", "ValueLoss": "value_network"}


def network_of(loss: Any) -> TensorDictModule:
    return getattr(loss, HEAD.get(type(loss).__name__, "classifier_network"))


def total(output: TensorDict) -> Tensor:
    """The only entry that is a loss."""
    (value,) = [value for key, value in output.items() if key.startswith("loss_")]
    assert value.shape == ()
    return value


def set_parameters(network: nn.Module, *values: list[Any]) -> None:
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.data.copy_(torch.tensor(value))


def gradients(loss: Tensor, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(tensors))


def assert_all_close(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-7)


# --- the networks


def test_all_is_every_public_name_and_nothing_else():
    own = {n for n, v in vars(losses).items() if getattr(v, "__module__", "") == losses.__name__ and n[0] != "_"}
    assert own == set(losses.__all__)


def test_parameter_counts_are_the_papers():
    assert sum(p.numel() for p in AdvantageHead(256, 15).parameters()) == 256 + 15 + 1 == 272
    assert sum(p.numel() for p in OrderClassifier(256).parameters()) == 2 * 512 + 2
    assert sum(p.numel() for p in OrderClassifier(256, 4).parameters()) == 4 * 512 + 4 + 2 * 4 + 2


def test_networks_start_orthogonal_with_biases_at_zero():
    head = AdvantageHead(256, 15)
    torch.testing.assert_close(head.linear.weight.norm(), torch.tensor(1.0))
    first, _, last = OrderClassifier(8, 4).layers
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(4))
    torch.testing.assert_close(last.weight @ last.weight.T, torch.eye(2))
    (linear,) = OrderClassifier(8).layers
    torch.testing.assert_close(linear.weight @ linear.weight.T, torch.eye(2))
    assert all((layer.bias == 0).all() for layer in (head.linear, first, last, linear))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (3, 3)])
def test_advantage_head_takes_an_index_and_its_one_hot_alike(batch: tuple[int, ...]):
    head, hidden = AdvantageHead(FEATURES, 3), torch.randn(*batch, FEATURES)
    index = torch.randint(0, 3, batch)
    one_hot = nn.functional.one_hot(index, 3)
    expected = head.linear(torch.cat([hidden, one_hot.float()], -1))
    for action in (index, index.int(), one_hot, one_hot.bool(), one_hot.float()):
        assert torch.equal(head(hidden, action), expected)
    assert expected.shape == (*batch, 1)


def test_advantage_head_of_a_continuous_action_concatenates_it_and_passes_its_gradient():
    head = AdvantageHead(2, 2, discrete=False)
    set_parameters(head, [[1.0, 2.0, 3.0, -1.0]], [0.5])
    action = torch.tensor([[0.5, 2.0]], requires_grad=True)
    advantage = head(torch.tensor([[1.0, 1.0]]), action)
    assert advantage.tolist() == [[1 + 2 + 1.5 - 2 + 0.5]]
    assert gradients(advantage.sum(), [action])[0].tolist() == [[3.0, -1.0]]


def test_advantage_head_reads_a_continuous_action_in_the_unit():
    space = ActionSpace(2, torch.tensor([0.0, -8.0]), torch.tensor([1.0, 8.0]))  # middle 0.5 and 0, half 0.5 and 8
    head = AdvantageHead(2, 2, discrete=False, space=space)
    set_parameters(head, [[1.0, 2.0, 3.0, -1.0]], [0.5])
    advantage = head(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.75, 4.0]]))  # 0.5 and 0.5 in the unit
    assert advantage.tolist() == [[1 + 2 + 1.5 - 0.5 + 0.5]]
    assert list(head.state_dict()) == ["linear.weight", "linear.bias"]
    with pytest.raises(ValueError, match="space must be discrete, of 2; got ActionSpace"):
        AdvantageHead(2, 2, space=space)
    with pytest.raises(ValueError, match="space must be continuous, of 3; got ActionSpace"):
        AdvantageHead(2, 3, discrete=False, space=space)


@pytest.mark.parametrize(
    ("discrete", "hidden", "action", "message"),
    [
        (True, torch.zeros(4, 6), torch.zeros(4, dtype=torch.long), r"policy_hidden must be \(\*B, 5\); got \(4, 6\)"),
        (True, torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), r"\(4, 3\) or, as an index, \(4,\); got \(3,\)"),
        (True, torch.zeros(4, 5), torch.zeros(4, 1, dtype=torch.long), r"got \(4, 1\)"),
        (True, torch.zeros(4, 5), torch.zeros(4), "action must be of an integer type; got torch.float32"),
        (False, torch.zeros(4, 5), torch.zeros(4, 2), r"action must have shape \(4, 3\); got \(4, 2\)"),
        (False, torch.zeros(4, 5), torch.zeros(4, dtype=torch.long), r"action must have shape \(4, 3\); got \(4,\)"),
    ],
)
def test_advantage_head_refuses_shapes_and_types(discrete: bool, hidden: Tensor, action: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        AdvantageHead(5, 3, discrete=discrete)(hidden, action)


def test_advantage_head_refuses_an_index_out_of_range():
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        AdvantageHead(5, 3)(torch.zeros(1, 5), torch.tensor([3]))


def test_order_classifier_refuses_features_that_differ():
    with pytest.raises(ValueError, match=r"\(\*B, 5\); got \(4, 5\) and \(3, 5\)"):
        OrderClassifier(5)(torch.zeros(4, 5), torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdvantageHead(0, 3), "hidden_size must be an integer .*; got 0"),
        (lambda: AdvantageHead(5, 2.0), "num_actions must be an integer .*; got 2.0"),  # type: ignore[arg-type]
        (lambda: OrderClassifier(True), "hidden_size must be an integer .*; got True"),
        (lambda: OrderClassifier(5, 0), "width must be an integer .*; got 0"),
        (lambda: AdvantageLoss(advantage_network(), coeff=-0.1), "coeff must be a finite number >= 0; got -0.1"),
        (lambda: ValueLoss(value_network(), coeff=math.inf), "coeff must be a finite number >= 0; got inf"),
        (lambda: OrderLoss(classifier_network(), coeff=math.nan), "coeff must be a finite number >= 0; got nan"),
        (lambda: ValueLoss(value_network(), clip_value=-1), "clip_value must be a finite number >= 0; got -1"),
        (lambda: ValueLoss(value_network(), clip_value=0), "clip_value must be > 0, or None"),
        (lambda: ValueLoss(value_network(), clip_value=True), "clip_value must be a finite number >= 0; got True"),
    ],
)
def test_settings_are_checked_at_construction(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("loss", [AdvantageLoss, ValueLoss, OrderClassifierLoss, OrderLoss])
def test_a_plain_module_is_refused(loss: Any):
    with pytest.raises(TypeError, match="_network must be a TensorDictModule; got Linear"):
        loss(nn.Linear(2, 1))


# --- values and gradients


def test_advantage_loss_by_hand():
    network = advantage_network(2, 2)
    set_parameters(network, [[1.0, 2.0, 3.0, -1.0]], [0.5])
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    # A_theta = 1 + 3 + 0.5 = 4.5 and 2 - 1 + 0.5 = 1.5: errors 0.5 and -0.5, d loss / d A_theta = 0.25 * 2 * error / 2.
    data = TensorDict(policy_hidden=hidden, action=torch.tensor([0, 1]), advantage=torch.tensor([[4.0], [2.0]]))
    loss = AdvantageLoss(network)(data)["loss_advantage"]
    assert loss.item() == 0.25 * 0.25
    weight, bias, features = gradients(loss, [*network.parameters(), hidden])
    assert weight.tolist() == [[0.125, -0.125, 0.125, -0.125]]
    assert bias.tolist() == [0.0]
    assert features.tolist() == [[0.125, 0.25], [-0.125, -0.25]]


def test_value_loss_by_hand():
    network = value_network(1)
    set_parameters(network, [[1.0]], [0.0])
    hidden = torch.tensor([[1.0], [1.0], [0.6]], requires_grad=True)
    data = TensorDict(
        value_hidden=hidden, state_value=torch.full((3, 1), 0.5), value_target=torch.tensor([[0.0], [2.0], [1.0]])
    )
    # Clipped values 0.7, 0.7, 0.6. Errors squared: max(1, 0.49), max(1, 1.69), max(0.16, 0.16); the second is flat.
    output = ValueLoss(network)(data)
    loss = output["loss_critic"]
    torch.testing.assert_close(loss, torch.tensor(0.5 * (1 + 1.69 + 0.16) / 3))
    torch.testing.assert_close(output["value_clip_fraction"], torch.tensor(2 / 3))
    weight, bias, features = gradients(loss, [*network.parameters(), hidden])
    by_value = 0.5 * torch.tensor([[2.0], [0.0], [-0.8]]) / 3
    assert_all_close([features, weight, bias], [by_value, (by_value * hidden).sum(0, True).detach(), by_value.sum(0)])


def test_value_loss_says_which_samples_are_clipped_where_it_keeps_them_apart():
    network, data = value_network(), minibatch(2, 8)
    loss = ValueLoss(network)
    loss.reduction = "none"
    moved = network(data.select("value_hidden"))["state_value"] - data["state_value"]  # (2, 8, 1)
    assert torch.equal(loss(data)["value_clip_fraction"], (moved.abs() > 0.2).float())


@pytest.mark.parametrize("clip_value", [0.2, None])
@pytest.mark.parametrize("batch", [(16,), (4, 8)])
def test_value_loss_is_the_critic_part_of_clip_ppo(clip_value: float | None, batch: tuple[int, ...]):
    network, data = value_network(), minibatch(*batch)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Linear(FEATURES, ACTIONS), ["policy_hidden"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical, return_log_prob=True),
    )
    data["action_log_prob"] = torch.zeros(batch)
    theirs = ClipPPOLoss(actor, network, critic_coeff=0.7, clip_value=clip_value, loss_critic_type="l2")(data)
    ours = ValueLoss(network, coeff=0.7, clip_value=clip_value)(data)
    tensors = [*network.parameters(), data["value_hidden"]]
    assert torch.equal(ours["loss_critic"], theirs["loss_critic"])
    for a, b in zip(gradients(ours["loss_critic"], tensors), gradients(theirs["loss_critic"], tensors), strict=True):
        assert torch.equal(a, b)
    assert ("value_clip_fraction" in ours.keys()) == (clip_value is not None)
    if clip_value is not None:
        assert 0 < ours["value_clip_fraction"] < 1
        assert torch.equal(ours["value_clip_fraction"], theirs["value_clip_fraction"])


def hand_pairs() -> tuple[TensorDictModule, TensorDict]:
    """Logits are (feature, partner's feature): softmax(logits)[0] = 3/4, 1/4, 1/2. Partner: earlier, tied, earlier."""
    network = classifier_network(1)
    set_parameters(network, [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    log3 = math.log(3)
    partner = TensorDict(
        policy_hidden=torch.tensor([[0.0], [log3], [0.0]], requires_grad=True),
        step_count=torch.tensor([[2], [5], [0]]),
        batch_size=[3],
    )
    hidden = torch.tensor([[log3], [0.0], [0.0]], requires_grad=True)
    steps = torch.tensor([[3], [5], [1]])
    return network, TensorDict(policy_hidden=hidden, step_count=steps, partner=partner, batch_size=[3])


def test_order_classifier_loss_by_hand():
    network, data = hand_pairs()
    output = OrderClassifierLoss(network)(data)
    loss = output["loss_order_classifier"]
    torch.testing.assert_close(loss, torch.tensor((2 * math.log(4 / 3) + math.log(2)) / 3))
    torch.testing.assert_close(output["order_accuracy"], torch.tensor(2 / 3))  # 1/2 does not say "earlier"
    by_logit = torch.tensor([0.75 - 1, 0.25 - 0, 0.5 - 1]) / 3  # d loss / d logit 0 = (p_0 - y) / N
    row = by_logit @ torch.cat([data["policy_hidden"], data["partner", "policy_hidden"]], -1).detach()
    weight, bias = gradients(loss, network.parameters())
    assert_all_close([weight, bias], [torch.stack([row, -row]), torch.stack([by_logit.sum(), -by_logit.sum()])])


def test_order_loss_by_hand():
    network, data = hand_pairs()
    loss = OrderLoss(network, coeff=0.3)(data)["loss_order"]
    torch.testing.assert_close(loss, torch.tensor(-0.3 * (2 * math.log(3 / 16) + math.log(1 / 4)) / 2 / 3))
    own, partner = gradients(loss, [data["policy_hidden"], data["partner", "policy_hidden"]])
    by_logit = 0.3 * torch.tensor([[0.25], [-0.25], [0.0]]) / 3  # coeff (p_0 - 1/2) / N, and its negative for logit 1
    assert_all_close([own, partner], [by_logit, -by_logit])


@pytest.mark.parametrize("width", [None, 4])
@pytest.mark.parametrize("batch", [(16,), (3, 5)])
def test_order_losses_are_plain_binary_cross_entropies(width: int | None, batch: tuple[int, ...]):
    network, data = classifier_network(width=width), minibatch(*batch)
    both = [data["policy_hidden"], data["partner", "policy_hidden"]]
    probability = network.module(*both).softmax(-1)[..., 0]
    label = (data["partner", "step_count"] < data["step_count"])[..., 0].float()
    assert 0 < label.mean() < 1
    bce = nn.functional.binary_cross_entropy

    plain, output = bce(probability, label), OrderClassifierLoss(network)(data)
    assert_all_close([output["loss_order_classifier"]], [plain])
    assert_all_close([output["order_accuracy"]], [((probability > 0.5) == (label == 1)).float().mean()])
    parameters = list(network.parameters())
    expected = torch.autograd.grad(plain, parameters, retain_graph=True)
    assert_all_close(gradients(output["loss_order_classifier"], parameters), expected)

    plain, loss = 0.001 * bce(probability, torch.full(batch, 0.5)), OrderLoss(network)(data)["loss_order"]
    assert_all_close([loss, *gradients(loss, both)], [plain, *gradients(plain, both)])


@pytest.mark.parametrize("batch", [(16,), (3, 5)])
def test_advantage_loss_is_plain_squared_error(batch: tuple[int, ...]):
    network, data = advantage_network(), minibatch(*batch)
    tensors = [*network.parameters(), data["policy_hidden"]]
    prediction = network.module(data["policy_hidden"], data["action"])
    plain = 0.4 * (prediction - data["advantage"]).pow(2).mean()
    loss = AdvantageLoss(network, coeff=0.4)(data)["loss_advantage"]
    assert_all_close([loss, *gradients(loss, tensors)], [plain, *gradients(plain, tensors)])


def test_extreme_logits_stay_finite_in_value_and_gradient():
    network, data = hand_pairs()
    both = [data["policy_hidden"], data["partner", "policy_hidden"]]
    both[0].data.copy_(torch.tensor([[-1e6], [1e6], [1e30]]))
    loss, output = OrderLoss(network, coeff=1.0)(data)["loss_order"], OrderClassifierLoss(network)(data)
    for value in (loss, output["loss_order_classifier"], *gradients(loss, both)):
        assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(output["loss_order_classifier"], network.parameters()))


# --- who is trained


def test_order_classifier_loss_gives_no_gradient_to_the_features():
    loss, data = LOSSES["order_classifier"](), minibatch(8)
    total(loss(data)).backward()
    assert data["policy_hidden"].grad is None and data["partner", "policy_hidden"].grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.classifier_network.parameters())


def test_order_loss_gives_no_gradient_to_the_classifier_but_to_both_features():
    loss, data = LOSSES["order"](), minibatch(8)
    total(loss(data)).backward()
    assert all(parameter.grad is None for parameter in loss.classifier_network.parameters())
    assert data["policy_hidden"].grad.abs().sum() > 0 and data["partner", "policy_hidden"].grad.abs().sum() > 0


def test_order_loss_sees_the_classifiers_steps_but_lists_none_of_its_parameters():
    network, data = classifier_network(), minibatch(8)
    classifier_loss, order_loss = OrderClassifierLoss(network), OrderLoss(network)
    before = total(order_loss(data))
    optimizer = torch.optim.SGD(classifier_loss.parameters(), lr=1.0)
    total(classifier_loss(data)).backward()
    optimizer.step()
    assert total(order_loss(data)) != before
    parent = nn.ModuleList([order_loss])
    assert not list(order_loss.parameters()) and not list(parent.parameters())
    assert set(parent.state_dict()) == {"0.coeff"}
    assert not order_loss.classifier_network_params["module", "layers", "0", "weight"].requires_grad


@pytest.mark.parametrize("name", ["advantage", "value", "order_classifier"])
def test_an_optimizer_over_the_heads_own_parameters_trains_it(name: str):
    loss, data = LOSSES[name](), minibatch(8)
    parameters = list(network_of(loss).parameters())
    assert {id(p) for p in parameters} == {id(p) for p in loss.parameters()}
    before = [parameter.clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    value = total(loss(data))
    value.backward()
    optimizer.step()
    assert all((parameter != old).any() for parameter, old in zip(parameters, before, strict=True))
    assert total(loss(data)) < value


@pytest.mark.parametrize("name", ["advantage", "value"])
def test_targets_get_no_gradient(name: str):
    data = minibatch(8)
    targets = [data[key].requires_grad_() for key in ("advantage", "value_target", "state_value")]
    total(LOSSES[name]()(data)).backward()
    assert all(target.grad is None for target in targets)


# --- TorchRL's conventions


@each_loss
def test_the_output_is_what_out_keys_say_and_the_input_stays(build: Any):
    loss, data = build(), minibatch(3, 4)
    before = data.clone()
    output = loss(data)
    assert set(output.keys()) == set(loss.out_keys) and output.batch_size == torch.Size([])
    assert all(value.shape == () and value.dtype == torch.float32 for value in output.values())
    assert set(data.keys(True)) == set(before.keys(True))
    assert (data == before).all()


@each_loss
def test_in_keys_are_sufficient(build: Any):
    loss, data = build(), minibatch(6)
    assert torch.equal(total(loss(data.select(*loss.in_keys))), total(loss(data)))
    arguments = {key if isinstance(key, str) else "_".join(key): data[key] for key in loss.in_keys}
    dispatched = loss(**arguments)
    first = dispatched[0] if isinstance(dispatched, tuple) else dispatched
    assert torch.equal(first, loss(data)[loss.out_keys[0]])


@pytest.mark.parametrize(
    ("name", "argument", "old"),
    [
        ("advantage", "advantage", "advantage"),
        ("value", "value_target", "value_target"),
        ("order_classifier", "step_count", "step_count"),
        ("order_classifier", "partner_step_count", ("partner", "step_count")),
    ],
)
def test_set_keys_renames_an_input(name: str, argument: str, old: Any):
    loss, data = LOSSES[name](), minibatch(8)
    expected = total(loss(data))
    renamed = data.clone(False)
    renamed["elsewhere", "tensor"] = renamed[old]
    renamed[old] = torch.flip(renamed[old], [0])  # what the old key holds must not matter
    assert total(loss(renamed)) != expected
    loss.set_keys(**{argument: ("elsewhere", "tensor")})
    assert total(loss(renamed)) == expected
    assert ("elsewhere", "tensor") in loss.in_keys and old not in loss.in_keys
    with pytest.raises(KeyError, match="not in the input"):
        loss(data)
    loss.set_keys(**{argument: None})
    assert total(loss(data)) == expected and old in loss.in_keys


@pytest.mark.parametrize(
    ("name", "argument"),
    [("advantage", "action_advantage"), ("order_classifier", "order_logits"), ("order", "order_logits")],
)
def test_set_keys_renames_the_networks_output(name: str, argument: str):
    loss, data = LOSSES[name](), minibatch(8)
    expected = total(loss(data))
    network = network_of(loss)
    renamed = type(loss)(TensorDictModule(network.module, network.in_keys, [("other", "output")]))
    with pytest.raises(KeyError, match="set_keys"):
        renamed(data)
    renamed.set_keys(**{argument: ("other", "output")})
    assert total(renamed(data)) == expected


def test_set_keys_renames_the_value_in_the_input_and_in_the_networks_output():
    loss, data = LOSSES["value"](), minibatch(8)
    expected = total(loss(data))
    renamed = ValueLoss(TensorDictModule(loss.value_network.module, ["value_hidden"], ["v"]))
    renamed.set_keys(value="v")
    assert "v" in renamed.in_keys and "state_value" not in renamed.in_keys
    assert total(renamed(data.rename_key_("state_value", "v"))) == expected


@each_loss
def test_set_keys_refuses_an_unknown_key(build: Any):
    with pytest.raises(ValueError, match="reward is not an accepted tensordict key"):
        build().set_keys(reward="reward")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("advantage", "advantage"),
        ("value", "value_target"),
        ("value", "state_value"),
        ("order_classifier", "step_count"),
    ],
)
def test_a_target_of_another_shape_is_refused_instead_of_broadcast(name: str, key: str):
    data = minibatch(8)
    data[key] = data[key].squeeze(-1)
    with pytest.raises(ValueError, match=rf"'{key}' must have the prediction's shape \(8, 1\); got \(8,\)"):
        LOSSES[name]()(data)


def test_order_losses_refuse_a_classifier_without_two_outputs():
    network = TensorDictModule(lambda own, partner: own[..., :1], PAIR, ["order_logits"])
    with pytest.raises(ValueError, match=r"order logits must have shape \(\*B, 2\); got \(8, 1\)"):
        OrderLoss(network)(minibatch(8))


@each_loss
def test_masked_samples_do_not_count(build: Any):
    loss, data = build(), minibatch(8)
    valid = torch.tensor([True] * 5 + [False] * 3)
    expected = loss(data[valid])
    data["collector", "mask"] = valid[:, None]
    output = loss(data)
    for key in set(loss.out_keys) - {"value_clip_fraction"}:
        torch.testing.assert_close(output[key], expected[key])


@pytest.mark.parametrize("name", ["advantage", "value", "order"])
def test_a_coefficient_can_be_scheduled(name: str):
    loss, data = LOSSES[name](), minibatch(8)
    before = total(loss(data))
    loss.coeff = 2 * loss.coeff.item()
    torch.testing.assert_close(total(loss(data)), 2 * before)


@each_loss
def test_a_deepcopy_gives_the_same_and_trains_alone(build: Any):
    loss, data = build(), minibatch(8)
    expected = total(loss(data)).item()
    twin = copy.deepcopy(loss)
    twin_parameters = list(twin.parameters()) or list(twin.classifier_network.parameters())
    assert total(twin(data)).item() == expected
    with torch.no_grad():
        for parameter in twin_parameters:
            parameter.add_(torch.randn(parameter.shape))
    assert total(twin(data)).item() != expected
    assert total(loss(data)).item() == expected


@pytest.mark.parametrize("name", ["advantage", "value", "order_classifier"])
def test_a_state_dict_restores_loss_and_head(name: str):
    source, target, data = LOSSES[name](), LOSSES[name](), minibatch(8)
    with torch.no_grad():  # biases start alike
        for parameter in source.parameters():
            parameter.add_(torch.randn(parameter.shape))
    if hasattr(source, "coeff"):
        source.coeff = 0.125
    assert total(source(data)) != total(target(data))
    target.load_state_dict(source.state_dict())
    assert torch.equal(total(source(data)), total(target(data)))
    assert_all_close(network_of(target).parameters(), network_of(source).parameters())


def test_a_state_dict_restores_the_order_losses_together():
    def pair() -> nn.ModuleList:
        network = classifier_network()
        return nn.ModuleList([OrderClassifierLoss(network), OrderLoss(network)])

    source, target, data = pair(), pair(), minibatch(8)
    source[1].coeff = 0.5
    target.load_state_dict(source.state_dict())
    for a, b in zip(source, target, strict=True):
        assert torch.equal(total(a(data)), total(b(data)))


@each_loss
def test_double_precision_and_the_tie_to_the_head_survive_a_cast(build: Any):
    loss, data = build().double(), minibatch(8)
    network_of(loss).double()  # the order loss only borrows its classifier
    data = data.apply(lambda x: x.double() if x.is_floating_point() else x)
    assert total(loss(data)).dtype == torch.float64
    own = {id(parameter) for parameter in network_of(loss).parameters()}
    assert {id(parameter) for parameter in loss.parameters()} <= own


# --- partners


def test_partners_are_of_the_same_level():
    seeds = torch.randint(-5, 2**40, (7,))[torch.randint(0, 7, (1000,))]
    partners = same_level_partners(seeds)
    assert partners.dtype == torch.int64 and partners.shape == (1000,)
    assert torch.equal(seeds[partners], seeds)
    assert len(partners.unique()) > 500  # and not all the same ones


def test_partners_are_uniform_over_the_level_itself_included():
    level_seed = torch.tensor([3, 1, 3, 2, 3, 1])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([same_level_partners(level_seed, generator) for _ in range(3000)])  # (3000, 6)
    frequency = nn.functional.one_hot(draws, 6).float().mean(0)  # (6, 6)
    same = (level_seed[:, None] == level_seed).float()
    torch.testing.assert_close(frequency, same / same.sum(1, True), rtol=0, atol=0.04)  # 4 standard errors
    assert torch.equal(frequency > 0, same > 0)
    # Two samples of one level draw independently of each other: they agree in 1/3 of the draws.
    assert abs((draws[:, 0] == draws[:, 2]).float().mean() - 1 / 3) < 0.04


def test_partners_are_determined_by_the_generator():
    level_seed = torch.randint(0, 5, (200, 1))
    first, again, other = (same_level_partners(level_seed, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, same_level_partners(level_seed.squeeze(1), torch.Generator().manual_seed(1)))
    torch.manual_seed(1)
    assert torch.equal(same_level_partners(level_seed), first)


def test_a_sample_alone_in_its_level_gets_itself():
    assert same_level_partners(torch.tensor([9, 4, 9, -2]))[[1, 3]].tolist() == [1, 3]
    assert same_level_partners(torch.zeros(1, 1, dtype=torch.int32)).tolist() == [0]
    assert same_level_partners(torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize(
    ("level_seed", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.long), r"shape \(N,\) or \(N, 1\); got \(4, 2\)"),
        (torch.zeros((), dtype=torch.long), r"got \(\)"),
        (torch.zeros(4), "level_seed must be of an integer type; got torch.float32"),
        (torch.zeros(4, dtype=torch.bool), "got torch.bool"),
    ],
)
def test_partners_refuse_other_level_seeds(level_seed: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        same_level_partners(level_seed)


# --- the method


def order_accuracy_after_training(coeff: float) -> float:
    """Mean accuracy of the classifier in the last 50 of 250 minibatches, over pairs that are not tied."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Linear(3, 4)  # sees time, and two things that have no order
    network = classifier_network(4)
    classifier_loss, order_loss = OrderClassifierLoss(network), OrderLoss(network, coeff=coeff)
    classifier_optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    encoder_optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    accuracies = []
    for _ in range(250):
        level_seed = torch.randint(0, 4, (128, 1), generator=generator)
        time = torch.rand(128, 1, generator=generator)
        observation = torch.cat([time - 0.5, level_seed - 1.5, torch.randn(128, 1, generator=generator)], -1)
        samples = TensorDict(
            policy_hidden=encoder(observation), step_count=(time * 1000).long(), level_seed=level_seed, batch_size=[128]
        )
        partners = same_level_partners(level_seed, generator)
        samples["partner"] = samples[partners]
        pairs = samples[samples["step_count"].squeeze(-1) != samples["partner", "step_count"].squeeze(-1)]
        output = classifier_loss(pairs)
        classifier_optimizer.zero_grad()
        output["loss_order_classifier"].backward()
        classifier_optimizer.step()
        encoder_optimizer.zero_grad()
        order_loss(pairs)["loss_order"].backward()
        encoder_optimizer.step()
        accuracies.append(output["order_accuracy"])
    return torch.stack(accuracies[-50:]).mean().item()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other cost a thousand tiny steps half a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_an_adversarially_trained_encoder_hides_the_order_from_the_classifier():
    assert order_accuracy_after_training(coeff=0.0) > 0.9
    assert abs(order_accuracy_after_training(coeff=1.0) - 0.5) < 0.1
