"""actor_critic.py: the design's counts, keys, what runs and how often, and PPO's gradients against plain torch."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import IndependentNormal, TanhNormal
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.distributions import MultiCategorical as MultiCategoricalDistribution
from decouple.networks.separation import cut_gradients, separate

FRAME = (3, 16, 16)
ACTIONS = 5


def small_impala(**options) -> list[nn.Module]:
    return impala_blocks(FRAME, (4, 8, 8), 16, **options)


def impala_model(k: int, *, policy_gain: float = 1.0, **options) -> ActorValue:
    network = separate(small_impala(), small_impala(), at=k, **options)
    return actor_value(network, Categorical(ACTIONS), policy_gain=policy_gain)


def mlp_model(k: int, spec=None, **options) -> ActorValue:
    network = separate(mlp_blocks(3, [8, 6]), mlp_blocks(3, [8, 7]), at=k, **options)
    return actor_value(network, Categorical(ACTIONS) if spec is None else spec, policy_gain=1.0)


def frames(*batch: int) -> Tensor:
    return torch.randint(0, 256, (*batch, *FRAME), dtype=torch.uint8)


def observed(observation: Tensor, axes: int = 3, **others: Tensor) -> TensorDict:
    """A TensorDict whose batch axes are those before the last `axes` of the observation."""
    return TensorDict(observation=observation, batch_size=observation.shape[: observation.ndim - axes], **others)


# --- counts


@pytest.mark.parametrize(
    ("at", "parameters", "millions"),
    [
        ("shared", 626_256, 30.61),
        ("late", 1_197_040, 35.85),
        ("early", 1_238_672, 50.01),
        ("full", 1_248_400, 61.21),
    ],
)
def test_the_designs_table_of_parameters_and_multiply_adds(at, parameters, millions):
    model = actor_value(separate(impala_blocks(), impala_blocks(), at=at), Categorical(15))
    assert parameter_count(model)["total"] == parameters == sum(p.numel() for p in model.parameters())
    assert round(multiply_adds(model)["total"] / 1e6, 2) == millions


@pytest.mark.parametrize(("at", "start", "parameters"), [("early", 1, 1_242_384), ("late", 2, 1_199_088)])
def test_attention_in_the_separated_stages_adds_its_parameters(at, start, parameters):
    stacks = (impala_blocks(attention_from=start) for _ in range(2))
    model = actor_value(separate(*stacks, at=at), Categorical(15))
    assert parameter_count(model)["total"] == parameters


def test_heads_count_with_their_branch():
    model = actor_value(separate(impala_blocks(), impala_blocks(), at="late"), Categorical(15))
    stages, dense = [9_728, 41_632, 46_240], 2048 * 256 + 256  # worked out in test_separation.py
    trunk, branch = stages[0] + stages[1], stages[2] + dense
    policy, value = branch + 256 * 15 + 15, branch + 256 + 1
    assert parameter_count(model) == {"trunk": trunk, "policy": policy, "value": value, "total": 1_197_040}
    trunk, branch = 11_206_656 + 14_155_776, 4_718_592 + 2048 * 256
    policy, value = branch + 256 * 15, branch + 256
    assert multiply_adds(model) == {"trunk": trunk, "policy": policy, "value": value, "total": 35_852_288}


# --- keys and features


@pytest.mark.parametrize("k", range(5))
def test_the_model_writes_action_its_log_prob_and_the_value_and_nothing_else(k):
    model, batch = impala_model(k), observed(frames(2, 3))
    out = model(batch)
    assert set(out.keys()) == {"observation", "action", "action_log_prob", "state_value"}
    assert out["action"].shape == out["action_log_prob"].shape == (2, 3) and out["state_value"].shape == (2, 3, 1)
    assert model.in_keys == ["observation"]
    assert model.at == k


def test_the_attributes_tell_sizes_and_kind_of_action():
    model = impala_model(2)
    assert (model.policy_size, model.action_size, model.discrete) == (16, 5, True)
    model = mlp_model(1, Bounded(-1, 1, (2,)))
    assert (model.policy_size, model.action_size, model.discrete) == (6, 2, False)


def test_another_observation_key_is_read():
    network = separate(mlp_blocks(3, [8]), mlp_blocks(3, [8]), at=0)
    model = actor_value(network, Categorical(2), observation_key="state")
    assert model.in_keys == model.get_policy_operator().in_keys == ["state"]
    assert multiply_adds(model)["total"] == 2 * 3 * 8 + 8 * 2 + 8


def test_the_policy_path_is_bit_identical_for_every_k_up_to_the_logits():
    blocks, batch, head = small_impala(), observed(frames(6)), None
    for k in range(5):
        network = separate(copy.deepcopy(blocks), small_impala(), at=k)
        model = actor_value(network, Categorical(ACTIONS))
        head = model.get_policy_head().state_dict() if head is None else head
        model.get_policy_head().load_state_dict(head)
        out = model.get_policy_head()(model.get_features(["policy_hidden"])(batch.copy()))
        hidden = nn.Sequential(*blocks)(batch["observation"])
        weight, bias = head["module.0.module.weight"], head["module.0.module.bias"]
        assert torch.equal(out["policy_hidden"], hidden)
        # The distribution keeps the logits as they are: normalised only in the log-probability.
        assert torch.equal(out["logits"], functional.linear(hidden, weight, bias))


@pytest.mark.parametrize("k", [0, 2, 4])
def test_any_leading_batch_axes_give_the_result_of_the_flat_batch(k):
    model, x = impala_model(k), frames(2, 3)
    heads = [*model.get_features().module.values(), *model.get_policy_head().module[:1], model.get_value_head()]

    def run(x: Tensor) -> list[Tensor]:
        out = observed(x)
        for module in heads:
            out = module(out)
        return [out[key] for key in ("policy_hidden", "value_hidden", "logits", "state_value")]

    for nested, flat, row, single in zip(run(x), run(x.flatten(0, 1)), run(x[1]), run(x[1, 2]), strict=True):
        assert torch.equal(nested.flatten(0, 1), flat)
        torch.testing.assert_close(row, nested[1])
        torch.testing.assert_close(single, nested[1, 2])


@pytest.mark.parametrize("k", [0, 2, 4])
def test_features_hold_the_cut_that_its_gradients_are_read_from(k):
    model = impala_model(k)
    features = model.get_features()(observed(frames(3)))
    loss = features["policy_hidden"].sum() - features["value_hidden"].square().sum()
    report = cut_gradients(loss, features)
    if k == 0:
        assert report == {}
        return
    for side in ("policy", "value"):
        (gradient,) = torch.autograd.grad(loss, features["cut", side], retain_graph=True)
        assert report[f"{side}_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert -1 <= report["cosine"] <= 1


def test_features_of_no_or_another_key_are_refused():
    for keys in ([], ["hidden"], ["policy_hidden", "logits"]):
        with pytest.raises(ValueError, match=re.escape(f"policy_hidden, value_hidden or both; got {keys}")):
            impala_model(1).get_features(keys)


# --- heads and action spaces


def test_heads_start_orthogonal_with_their_gains_and_zero_biases():
    network = separate(small_impala(), small_impala(), at=2)
    model = actor_value(network, Categorical(ACTIONS), policy_gain=0.01, value_gain=3.0)
    policy, value = model.get_policy_head()[0].module, model.get_value_head().module
    torch.testing.assert_close(policy.weight @ policy.weight.T, 0.01**2 * torch.eye(ACTIONS), rtol=0, atol=1e-9)
    torch.testing.assert_close(value.weight @ value.weight.T, torch.tensor([[9.0]]))
    assert not policy.bias.any() and not value.bias.any()
    default = actor_value(separate(small_impala(), small_impala(), at=2), Categorical(ACTIONS))
    assert default.get_policy_head()[0].module.weight.norm(dim=1).tolist() == pytest.approx([0.01] * ACTIONS)
    assert default.get_value_head().module.weight.norm().item() == pytest.approx(1.0)


@pytest.mark.parametrize("batch", [(), (4,)], ids=["spec alone", "spec with the batch of its environment"])
def test_a_bounded_action_lies_between_its_bounds_with_a_finite_log_prob(batch):
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([-1.0, 10.0])
    model = mlp_model(1, Bounded(low.expand(*batch, 2), high.expand(*batch, 2)))
    with torch.no_grad():
        model.get_policy_head()[0].module[0].weight.mul_(20)  # saturate the tanh
    out = model(observed(torch.randn(500, 3), axes=1))
    assert out["action"].shape == (500, 2) and out["action_log_prob"].shape == (500,)
    assert (out["action"] >= low).all() and (out["action"] <= high).all()
    assert (out["action"].amax(0) - out["action"].amin(0) > 0.5 * (high - low)).all()
    assert out["action_log_prob"].isfinite().all()
    again = model.get_policy_head().get_dist(model.get_features()(out)).log_prob(out["action"])
    assert again.isfinite().all()


def test_a_bounded_log_prob_is_that_of_a_squashed_normal():
    model = mlp_model(0, Bounded(-2.0, 6.0, (1,)))
    out = model.get_policy_head()(model.get_features()(observed(torch.randn(50, 3), axes=1)))
    loc, scale, action = (out[key].double() for key in ("loc", "scale", "action"))
    unit = (action - 2) / 4  # from [-2, 6] to [-1, 1]
    normal = torch.distributions.Normal(loc, scale).log_prob(torch.atanh(unit))
    expected = (normal - torch.log(4 * (1 - unit**2))).squeeze(-1)
    torch.testing.assert_close(out["action_log_prob"].double(), expected, rtol=1e-3, atol=1e-3)


def test_a_one_hot_action_and_its_log_prob():
    model = mlp_model(1, OneHot(ACTIONS))
    out = model.get_policy_head()(model.get_features()(observed(torch.randn(40, 3), axes=1)))
    assert out["action"].shape == (40, ACTIONS) and (out["action"].sum(-1) == 1).all()
    expected = (out["logits"].log_softmax(-1) * out["action"]).sum(-1)
    torch.testing.assert_close(out["action_log_prob"], expected)


def test_actions_are_sampled_unless_the_exploration_type_says_otherwise():
    model, batch = mlp_model(1), observed(torch.randn(1, 3).expand(400, 3), axes=1)
    logits = model.get_policy_head()(model.get_features()(batch.copy()))["logits"][0]
    counts = torch.bincount(model(batch.copy())["action"], minlength=ACTIONS)
    deviation = (400 * logits.softmax(-1) * (1 - logits.softmax(-1))).sqrt()
    assert ((counts - 400 * logits.softmax(-1)).abs() < 5 * deviation).all()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert (model(batch.copy())["action"] == logits.argmax()).all()


@pytest.mark.parametrize(
    "spec",
    [
        Bounded(0, 3, (2,), dtype=torch.int64),
        Bounded(-1.0, 1.0, ()),
        MultiOneHot([2, 3]),
        MultiCategorical([2, 3], mask=torch.ones(5, dtype=torch.bool)),
        Composite(action=Categorical(3)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_other_action_spaces_are_refused(spec):
    kinds = "Categorical, OneHot, MultiCategorical, Binary, or a vector of floats"
    with pytest.raises(ValueError, match=f"action_spec must (be {kinds}|have no mask).*; got"):
        mlp_model(1, spec)


HALF_BOUNDED = Bounded(torch.tensor([-1.0, -torch.inf]), torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize(
    ("spec", "distribution", "made"),
    [
        (Bounded(-1.0, 1.0, (2,)), "auto", TanhNormal),
        (Bounded(-1.0, 1.0, (2,)), "squashed_normal", TanhNormal),
        (Bounded(-1.0, 1.0, (2,)), "normal", IndependentNormal),
        (Unbounded((4, 2)), "auto", IndependentNormal),
        (HALF_BOUNDED, "auto", IndependentNormal),
        (MultiCategorical([3, 2], (4, 2)), "auto", MultiCategoricalDistribution),
        (Binary(3), "auto", MultiCategoricalDistribution),
    ],
)
def test_the_distribution_is_that_of_the_action_space(spec, distribution, made):
    network = separate([nn.Linear(3, 8)], [nn.Linear(3, 8)], at=1, example=torch.zeros(3))
    model = actor_value(network, spec, distribution=distribution)
    observation = observed(torch.randn(5, 3), axes=1)
    assert type(model.get_policy_operator().get_dist(observation.copy())) is made
    found = model(observation)
    size = 5 if isinstance(spec, MultiCategorical) else 6 if isinstance(spec, Binary) else 2
    choices = {5: (3, 2), 6: (2, 2, 2), 2: ()}[size]
    assert (model.action_size, model.action_space.choices, model.discrete) == (size, choices, size != 2)
    assert found["action"].shape == (5, len(choices) or 2) and found["action_log_prob"].shape == (5,)
    assert model.action_space.bounded == (made is TanhNormal)


def test_a_squashed_normal_needs_finite_bounds():
    network = separate([nn.Linear(3, 8)], [nn.Linear(3, 8)], at=1, example=torch.zeros(3))
    for spec in (HALF_BOUNDED, Unbounded((2,))):
        with pytest.raises(ValueError, match="distribution must be normal for actions without finite bounds; got 'sq"):
            actor_value(network, spec, distribution="squashed_normal")
    with pytest.raises(ValueError, match="distribution must be one of auto, normal, squashed_normal; got 'beta'"):
        actor_value(network, Unbounded((2,)), distribution="beta")


def test_a_network_without_known_feature_sizes_is_refused():
    unknown = separate([nn.Sequential(nn.Linear(3, 4))], [nn.Sequential(nn.Linear(3, 4))], at=0)
    maps = separate(small_impala()[:2], small_impala()[:2], at=1)
    for network in (unknown, maps):
        with pytest.raises(ValueError, match="network must know its feature sizes"):
            actor_value(network, Categorical(2))


# --- a privileged critic


@pytest.mark.parametrize("case", ["mlp at 0", "mlp at 1", "impala at 2"])
def test_only_the_value_reads_the_privileged_key(case):
    k = int(case[-1])
    if case.startswith("mlp"):
        x, policy = torch.randn(4, 3), mlp_blocks(3, [8, 8])
        value = mlp_blocks(3 + 2, [8]) if k == 0 else [*mlp_blocks(3, [8]), *mlp_blocks(8 + 2, [8])]
    else:
        x, policy, value = torch.rand(4, *FRAME), small_impala(), small_impala(extra_features=2)
    example = {"observation": torch.zeros(x.shape[1:]), "state": torch.zeros(2)}
    network = separate(policy, value, at=k, value_keys=["state"], example=example)
    model = actor_value(network, Categorical(ACTIONS))
    state = torch.randn(4, 2)

    def run(state: Tensor) -> TensorDict:
        return model.get_features()(observed(x, axes=x.ndim - 1, state=state))

    out, other = run(state), run(state + 1)
    assert torch.equal(out["policy_hidden"], other["policy_hidden"])
    assert not torch.isclose(out["value_hidden"], other["value_hidden"]).all()
    hidden = nn.Sequential(*policy[:k], *value[k:-1])(x)
    linear = value[-1].linear
    joined = torch.cat([hidden.flatten(1) if hidden.ndim == 2 else hidden.relu().flatten(1), state], 1)
    expected = value[-1].activation(joined @ linear.weight.T + linear.bias)
    torch.testing.assert_close(out["value_hidden"], expected)

    assert model.get_policy_operator().in_keys == ["observation"]
    assert set(model.in_keys) == set(model.get_value_operator().in_keys) == {"observation", "state"}
    assert model(observed(x, axes=x.ndim - 1, state=state))["state_value"].shape == (4, 1)
    assert multiply_adds(model)["total"] > 0


# --- what runs, how often, and what learns


class Counting(nn.Module):
    """A block that counts its calls."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.block(x)


def counted_model() -> tuple[ActorValue, list[Counting]]:
    """The model and, counting, the last block of its trunk, of its policy and of its value branch."""
    policy, value = mlp_blocks(3, [8, 8, 8]), mlp_blocks(3, [8, 8, 8])
    policy[1:], value[1:] = map(Counting, policy[1:]), map(Counting, value[1:])
    network = separate(policy, value, at=2)
    model = actor_value(network, Categorical(ACTIONS))
    counters = [policy[1], policy[2], value[2]]
    for counter in counters:
        counter.calls = 0  # separate() has run its example
    assert value[1] not in list(model.modules())
    return model, counters


RUNS = {
    "model": (lambda m: m, [1, 1, 1]),
    "features": (lambda m: m.get_features(), [1, 1, 1]),
    "policy features": (lambda m: m.get_features(["policy_hidden"]), [1, 1, 0]),
    "value features": (lambda m: m.get_features(["value_hidden"]), [1, 0, 1]),
    "policy operator": (lambda m: m.get_policy_operator(), [1, 1, 0]),
    "value operator": (lambda m: m.get_value_operator(), [1, 0, 1]),
    "policy subsequence": (lambda m: m.select_subsequence(out_keys=["policy_hidden"]), [1, 1, 0]),
    "trunk subsequence": (lambda m: m.select_subsequence(out_keys=["hidden"]), [1, 0, 0]),
}


@pytest.mark.parametrize(("choose", "expected"), RUNS.values(), ids=RUNS.keys())
def test_each_operator_runs_the_trunk_once_and_no_branch_that_it_does_not_need(choose, expected):
    model, counters = counted_model()
    choose(model)(observed(torch.randn(4, 3), axes=1))
    assert [counter.calls for counter in counters] == expected


@pytest.mark.parametrize("choose", [RUNS["policy features"][0], RUNS["policy subsequence"][0]])
def test_the_value_branch_gets_no_gradient_from_the_policy(choose):
    model, (_, policy, value) = counted_model()
    choose(model)(observed(torch.randn(4, 3), axes=1))["policy_hidden"].sum().backward()
    assert all(p.grad is None for p in [*value.parameters(), *model.get_value_head().parameters()])
    assert all(p.grad.any() for p in [*policy.parameters(), *model.module["trunk"].parameters()])


def test_operators_write_their_keys_and_nothing_else():
    model, batch = impala_model(2), observed(frames(4))
    assert set(model.get_policy_operator()(batch.copy()).keys()) == {"observation", "action", "action_log_prob"}
    assert set(model.get_value_operator()(batch.copy()).keys()) == {"observation", "state_value"}
    whole = model(batch.copy())
    assert torch.equal(model.get_value_operator()(batch.copy())["state_value"], whole["state_value"])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(model.get_policy_operator()(batch.copy())["action"], model(batch.copy())["action"])


@pytest.mark.parametrize("k", [0, 2, 4])
def test_the_operators_hold_the_models_parameters_and_only_those_they_need(k):
    model = impala_model(k)

    def ids(*modules: nn.Module) -> set[int]:
        return {id(p) for module in modules for p in module.parameters()}

    parts = {part: ids(*modules) for part, modules in model.parts().items()}
    assert ids(model) == set().union(*parts.values())
    assert ids(model.get_policy_operator()) == parts["trunk"] | parts["policy"]
    assert ids(model.get_value_operator()) == parts["trunk"] | parts["value"]
    assert ids(model.get_features(), model.get_policy_head(), model.get_value_head()) == ids(model)
    assert ids(model.get_policy_head()) <= parts["policy"] and ids(model.get_value_head()) <= parts["value"]
    assert sum(map(len, parts.values())) == len(ids(model))


def restored_from_a_state_dict(model: ActorValue) -> ActorValue:
    twin = impala_model(model.at)
    twin.load_state_dict(model.state_dict())
    return twin


COPIES = {
    "deepcopy": copy.deepcopy,
    "state_dict": restored_from_a_state_dict,
    "double": lambda model: copy.deepcopy(model).double(),
    "to": lambda model: copy.deepcopy(model).to(torch.float64),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("k", [1, 4])
def test_a_copy_keeps_what_is_shared_shared_and_is_apart_from_the_original(duplicate, k):
    model, x = impala_model(k), frames(4)
    twin = duplicate(model)

    def run(model: ActorValue) -> tuple[Tensor, Tensor]:
        out = model.get_features()(observed(x))
        logits = model.get_policy_head()(out)["logits"]
        return logits, model.get_value_operator()(observed(x))["state_value"]

    original, before = run(model), run(twin)
    for a, b in zip(original, before, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    before[1].square().sum().backward()  # of the value only: the policy changes by what it shares
    optimizer.step()
    for a, b in zip(run(twin), before, strict=True):
        assert not torch.allclose(a, b)
    for a, b in zip(run(model), original, strict=True):
        assert torch.equal(a, b)


def test_a_copy_of_an_operator_still_writes_only_its_keys():
    operator = copy.deepcopy(impala_model(2).get_policy_operator())
    assert set(operator(observed(frames(2))).keys()) == {"observation", "action", "action_log_prob"}


def test_under_autocast_features_logits_and_values_are_float32_and_the_trunk_is_not():
    model, x = impala_model(2), frames(4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.get_value_head()(model.get_policy_head()(model.get_features()(observed(x))))
    assert out["hidden"].dtype == torch.bfloat16
    for key in ("policy_hidden", "value_hidden", "logits", "action_log_prob", "state_value"):
        assert out[key].dtype == torch.float32, key
    weight = model.get_value_head().module.weight
    assert torch.equal(out["state_value"], out["value_hidden"] @ weight.T)  # not rounded on the way
    full = model.get_features()(observed(x))
    torch.testing.assert_close(out["value_hidden"], full["value_hidden"], rtol=0.1, atol=0.05)


# --- PPO and GAE


def plain_ppo(
    logits: Tensor, value: Tensor, batch: TensorDict, *, clip: float, critic_coeff: float, entropy_coeff: float
) -> Tensor:
    """Schulman et al. 2017, with the value clipped around the one acted with."""
    log_probs = logits - logits.exp().sum(-1, keepdim=True).log()
    log_prob = log_probs[torch.arange(len(logits)), batch["action"]]
    ratio, advantage = (log_prob - batch["action_log_prob"]).exp(), batch["advantage"].squeeze(-1)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    moved = (value - batch["state_value"]).clamp(-clip, clip)
    target = batch["value_target"]
    errors = torch.maximum((value - target) ** 2, (batch["state_value"] + moved - target) ** 2)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    assert 0 < ((ratio - 1).abs() > clip).sum() < len(ratio)  # both sides of both clips occur
    assert 0 < (moved.abs() == clip).sum() < len(moved)
    return -gain.mean() + critic_coeff * errors.mean() - entropy_coeff * entropy.mean()


@pytest.mark.parametrize("k", [0, 2, 4])
def test_every_gradient_of_clip_ppo_on_the_features_equals_a_plain_torch_ppos(k):
    policy, value = small_impala(), small_impala()
    trunk = nn.Sequential(*policy[:k])
    network = separate(policy, value, at=k)
    model = actor_value(network, Categorical(ACTIONS), policy_gain=1.0)
    calls = []
    network.trunk.register_forward_hook(lambda *_: calls.append(1))
    loss = ClipPPOLoss(
        model.get_policy_head(),
        model.get_value_head(),
        clip_epsilon=0.2,
        clip_value=True,
        loss_critic_type="l2",
        critic_coeff=0.5,
        entropy_coeff=0.01,
        normalize_advantage=False,
    )
    batch = observed(frames(32))
    with torch.no_grad():
        model(batch)
    batch["action_log_prob"] += 0.3 * torch.randn(32)
    batch["state_value"] += 0.3 * torch.randn(32, 1)
    batch["advantage"], batch["value_target"] = torch.randn(32, 1), torch.randn(32, 1)

    calls.clear()
    out = loss(model.get_features()(batch.copy()))
    (out["loss_objective"] + out["loss_critic"] + out["loss_entropy"]).backward()
    assert len(calls) == 1
    parameters = dict(model.named_parameters())
    actual = {name: p.grad.clone() for name, p in parameters.items()}
    assert all(gradient.any() for gradient in actual.values())

    hidden = trunk(batch["observation"])
    policy_hidden, value_hidden = nn.Sequential(*policy[k:])(hidden), nn.Sequential(*value[k:])(hidden)
    policy_head, value_head = model.get_policy_head()[0].module, model.get_value_head().module
    total = plain_ppo(
        policy_hidden @ policy_head.weight.T + policy_head.bias,
        value_hidden @ value_head.weight.T + value_head.bias,
        batch,
        clip=0.2,
        critic_coeff=0.5,
        entropy_coeff=0.01,
    )
    expected = torch.autograd.grad(total, list(parameters.values()))
    for (name, gradient), reference in zip(actual.items(), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("value_gradient", [0.25, 1.0])
def test_torchrls_gae_takes_the_value_operator_of_an_image_network(value_gradient):
    model, gamma, lmbda = impala_model(2, value_gradient=value_gradient), 0.9, 0.8
    following = observed(frames(2, 4))
    following["reward"] = torch.randn(2, 4, 1)
    following["done"] = following["terminated"] = torch.zeros(2, 4, 1, dtype=torch.bool)
    batch = observed(frames(2, 4)).set("next", following)
    batch.refine_names(None, "time")
    with torch.no_grad():
        value, next_value = (model.get_value_operator()(td.copy())["state_value"] for td in (batch, following))
    GAE(gamma=gamma, lmbda=lmbda, value_network=model.get_value_operator())(batch)
    torch.testing.assert_close(batch["state_value"], value)
    advantage = torch.zeros(2, 1)
    for t in reversed(range(4)):
        error = following["reward"][:, t] + gamma * next_value[:, t] - value[:, t]
        advantage = error + gamma * lmbda * advantage
        torch.testing.assert_close(batch["advantage"][:, t], advantage)


# --- in a user's script


def script() -> str:
    """The first code block of the README, which the page on composing includes."""
    page = (Path(__file__).parents[2] / "README.md").read_text()
    (code, *_) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return code


def test_the_script_of_the_readme_trains_two_iterations():
    names: dict = {}
    exec(compile(script(), "the script of README.md", "exec"), names)
    assert names["collector"]._frames == names["collector"].total_frames == 2 * names["rollout"].numel()
    assert names["loss"].clip_epsilon == pytest.approx(0.2)
    model, total = names["model"], names["total"]
    assert model.at == 1 and total.isfinite()
    assert (model.get_features().module["trunk"].module[0], *names["network"].trunk) == (*names["network"].trunk,) * 2
    steps = {names["optimizer"].state[p]["step"].item() for p in model.parameters()}
    assert steps == {2 * names["rollout"].numel() / len(names["minibatch"])}


def test_the_script_of_the_readme_is_about_twenty_lines():
    lines = [line for line in script().splitlines() if line.strip() and not line.startswith(("import", "from", "#"))]
    assert len(lines) <= 25


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_parts_of_a_model_are_those_of_the_network(k: int):
    network = separate(mlp_blocks(3, [4, 4]), mlp_blocks(3, [4, 4]), at=k)
    model = actor_value(network, Categorical(2))
    for name in ("trunk", "cut", "policy", "value"):
        assert getattr(model, name) is getattr(network, name) is model.module[name].module
