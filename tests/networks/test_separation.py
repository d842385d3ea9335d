"""separation.py: who owns which parameter, what flows over the cut, counts by hand, and what is refused."""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from decouple.networks.batching import any_batch
from decouple.networks.blocks import impala_blocks, mlp_blocks, nature_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.separation import (
    SeparatedNetwork,
    cut_gradients,
    scale_gradient,
    separate,
    separation_index,
)

FRAME = (3, 16, 16)


def small_impala(**options) -> list[nn.Module]:
    return impala_blocks(FRAME, (4, 8, 8), 16, **options)


class Gate(nn.Module):
    """A user's block with a parameter of its own and any leading axes."""

    def __init__(self, size: int):
        super().__init__()
        self.gate = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate.sigmoid()


def own_blocks() -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6)), Gate(6), nn.ReLU(), nn.Linear(6, 4, bias=False)]


STACKS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...], int]] = {
    "impala": (small_impala, FRAME, 4),
    "impala_attention": (lambda: small_impala(attention_from=1, attention_reduction=2), FRAME, 4),
    "mlp": (lambda: mlp_blocks(5, [8, 6, 4]), (5,), 3),
    "nature": (lambda: nature_blocks((2, 36, 36), 16), (2, 36, 36), 4),
    "own": (own_blocks, (5,), 4),
}
CASES = [(build, shape, k) for build, shape, depth in STACKS.values() for k in range(depth + 1)]
NAMES = [f"{name}-{k}" for name, (_, _, depth) in STACKS.items() for k in range(depth + 1)]
every_stack_and_k = pytest.mark.parametrize(("build", "shape", "k"), CASES, ids=NAMES)


def make(build: Callable[[], list[nn.Module]], shape: tuple[int, ...], k: int | str, **options) -> SeparatedNetwork:
    return separate(build(), build(), at=k, example=torch.zeros(shape), **options)


def randomize(network: nn.Module) -> None:
    """Random biases too, so that no unit is silent by symmetry."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


# --- the parts


@every_stack_and_k
def test_each_parameter_lies_in_exactly_one_part(build, shape, k):
    policy_blocks, value_blocks = build(), build()
    network = separate(policy_blocks, value_blocks, at=k, example=torch.zeros(shape))
    parts = [[id(p) for p in part.parameters()] for part in (network.trunk, network.policy, network.value)]
    assert len({i for part in parts for i in part}) == sum(map(len, parts)) == len(list(network.parameters()))
    expected = [policy_blocks[:k], policy_blocks[k:], value_blocks[k:]]
    assert parts == [[id(p) for block in blocks for p in block.parameters()] for blocks in expected]
    assert network.at == k


@every_stack_and_k
def test_the_policy_path_is_bit_identical_for_every_k(build, shape, k):
    policy_blocks, x = build(), torch.rand(3, *shape)
    network = separate(copy.deepcopy(policy_blocks), build(), at=k, example=torch.zeros(shape))
    assert torch.equal(network(x)[0], nn.Sequential(*policy_blocks)(x))


@every_stack_and_k
def test_the_value_path_is_the_policys_first_k_blocks_and_its_own_others(build, shape, k):
    policy_blocks, value_blocks, x = build(), build(), torch.rand(3, *shape)
    network = separate(policy_blocks, value_blocks, at=k, example=torch.zeros(shape))
    assert torch.equal(network(x)[1], nn.Sequential(*policy_blocks[:k], *value_blocks[k:])(x))


@every_stack_and_k
def test_any_leading_batch_axes_give_the_result_of_the_flat_batch(build, shape, k):
    network, x = make(build, shape, k), torch.rand(2, 3, *shape)
    flat, nested = network(x.flatten(0, 1)), network(x)
    for f, n, row, single in zip(flat, nested, network(x[1]), network(x[1, 2]), strict=True):
        assert n.shape[:2] == (2, 3)
        assert torch.equal(n.flatten(0, 1), f)
        torch.testing.assert_close(row, n[1])
        torch.testing.assert_close(single, n[1, 2])


@pytest.mark.parametrize("k", range(5))
def test_uint8_frames_equal_floats_divided_by_255_and_are_left_as_they_were(k):
    network = make(small_impala, FRAME, k)
    x = torch.randint(0, 256, (2, *FRAME), dtype=torch.uint8)
    before = x.clone()
    for from_bytes, from_floats in zip(network(x), network(x.float() / 255), strict=True):
        assert torch.equal(from_bytes, from_floats)
    assert torch.equal(x, before)


def test_feature_sizes_are_known_without_an_example_where_the_blocks_say_what_they_take():
    network = separate(small_impala(), [*small_impala()[:3], *mlp_blocks(1, [1])], at="shared")
    assert (network.policy_size, network.value_size) == (16, 16)
    linear = separate([nn.Linear(3, 4), nn.Linear(4, 5)], [nn.Linear(3, 4), nn.Linear(4, 6)], at=1)
    assert (linear.policy_size, linear.value_size) == (5, 6)
    unknown = separate(own_blocks(), own_blocks(), at=1)
    assert (unknown.policy_size, unknown.value_size) == (None, None)
    maps = separate(small_impala()[:2], small_impala()[:2], at=1)
    assert (maps.policy_size, maps.value_size) == (None, None)  # three axes of features, not one


def test_stacks_of_different_depths_separate_up_to_the_shorter_ones_depth():
    network = separate(mlp_blocks(3, [8]), mlp_blocks(3, [8, 7, 6]), at=1)
    assert (network.at, len(network.policy), len(network.value)) == (1, 0, 2)
    assert (network.policy_size, network.value_size) == (8, 6)
    with pytest.raises(ValueError, match=re.escape("at must lie in [0, 1], the shorter stack's depth; got 2")):
        separate(mlp_blocks(3, [8]), mlp_blocks(3, [8, 7, 6]), at=2)
    assert separate(mlp_blocks(3, [8, 7, 6, 5, 4]), mlp_blocks(3, [8, 7, 6, 5]), at="late").at == 2
    assert separate(mlp_blocks(3, [8, 7, 6]), mlp_blocks(3, [8, 7]), at="shared").at == 2


def test_empty_stacks_hand_the_observation_to_both_branches():
    network, x = separate([], [], at=0, example=torch.zeros(3)), torch.randn(2, 3)
    assert (network.at, network.policy_size, network.value_size) == (0, 3, 3)
    assert all(torch.equal(features, x) for features in network(x))
    assert parameter_count(network) == {"trunk": 0, "policy": 0, "value": 0, "total": 0}
    one_empty = separate([], mlp_blocks(3, [8]), at="full")
    assert (one_empty.policy_size, one_empty.value_size) == (3, 8)
    assert separate([], [], at="shared").at == 0
    with pytest.raises(ValueError, match=re.escape("at must lie in [0, 0], the shorter stack's depth; got 1")):
        separate([], mlp_blocks(3, [8]), at=1)


# --- the separation point


def test_names_are_the_studys_points():
    assert [separation_index(at, 4) for at in ("full", "early", "late", "shared")] == [0, 1, 2, 4]
    assert [separation_index(at, 3) for at in ("full", "early", "late", "shared")] == [0, 1, 1, 3]
    assert [separation_index(str(k), 4) for k in range(5)] == [0, 1, 2, 3, 4]
    assert [separation_index(at, 2) for at in ("full", "shared")] == [0, 2]


@pytest.mark.parametrize(
    ("at", "depth", "message"),
    [
        (5, 4, "at must lie in [0, 4], the shorter stack's depth; got 5"),
        (-1, 4, "at must lie in [0, 4], the shorter stack's depth; got -1"),
        ("5", 4, "at must lie in [0, 4], the shorter stack's depth; got 5"),
        ("-1", 4, "at must lie in [0, 4], the shorter stack's depth; got -1"),
        ("Late", 4, "at must be one of ['early', 'full', 'late', 'shared'] or an integer in [0, 4]; got 'Late'"),
        ("--1", 4, "at must be one of ['early', 'full', 'late', 'shared'] or an integer in [0, 4]; got '--1'"),
        ("", 4, "at must be one of ['early', 'full', 'late', 'shared'] or an integer in [0, 4]; got ''"),
        ("late", 2, "at must be one of ['full', 'shared'] or an integer in [0, 2]; got 'late'"),
        ("early", 2, "at must be one of ['full', 'shared'] or an integer in [0, 2]; got 'early'"),
        (True, 4, "at must be a whole number or a string; got True"),
        (2.0, 4, "at must be a whole number or a string; got 2.0"),
        (None, 4, "at must be a whole number or a string; got None"),
    ],
)
def test_other_points_are_refused_with_what_is_allowed(at, depth, message):
    with pytest.raises(ValueError) as refused:
        separation_index(at, depth)
    assert str(refused.value) == message


# --- counts


def by_hand() -> tuple[list[int], list[int]]:
    """Parameters and multiply-adds of the blocks of the default IMPALA-CNN on a 64x64x3 frame."""
    parameters, products, c_in, side = [], [], 3, 64
    for c_out in (16, 32, 32):
        parameters.append((9 * c_in + 1) * c_out + 4 * (9 * c_out + 1) * c_out)
        products.append(9 * c_in * c_out * side**2 + 4 * 9 * c_out**2 * (side // 2) ** 2)
        c_in, side = c_out, side // 2
    return [*parameters, 2048 * 256 + 256], [*products, 2048 * 256]


@pytest.mark.parametrize("k", range(5))
def test_counts_per_part_are_those_worked_out_by_hand(k):
    parameters, products = by_hand()
    assert parameters == [9_728, 41_632, 46_240, 524_544]
    assert products == [11_206_656, 14_155_776, 4_718_592, 524_288]
    network = separate(impala_blocks(), impala_blocks(), at=k)
    for count, blocks in ((parameter_count(network), parameters), (multiply_adds(network), products)):
        trunk, branch = sum(blocks[:k]), sum(blocks[k:])
        assert count == {"trunk": trunk, "policy": branch, "value": branch, "total": trunk + 2 * branch}


def test_multiply_adds_of_linear_layers_are_inputs_times_outputs():
    network = separate(mlp_blocks(3, [8, 5]), [*mlp_blocks(3, [8]), *mlp_blocks(8, [7])], at=1)
    assert multiply_adds(network) == {"trunk": 24, "policy": 40, "value": 56, "total": 120}
    assert multiply_adds(network, torch.zeros(3)) == multiply_adds(network)
    privileged = separate(
        mlp_blocks(3, [8]),
        mlp_blocks(3 + 2, [8]),
        at=0,
        value_keys=["state"],
        example={"observation": torch.zeros(3), "state": torch.zeros(2)},
    )
    assert multiply_adds(privileged) == {"trunk": 0, "policy": 24, "value": 40, "total": 64}


def test_counting_needs_an_observation_and_a_network_with_parts():
    with pytest.raises(ValueError, match="example must be given: the network does not know its observation's shape"):
        multiply_adds(separate(own_blocks(), own_blocks(), at=1))
    assert multiply_adds(separate(own_blocks(), own_blocks(), at=1), torch.zeros(5))["total"] == 5 * 6 + 2 * 6 * 4
    for count in (parameter_count, multiply_adds):
        with pytest.raises(ValueError, match=re.escape("must come from separate() or actor_value(); got Linear")):
            count(nn.Linear(2, 2))


def test_an_example_of_whole_numbers_is_remembered_as_such():
    blocks = [[nn.Embedding(7, 4), nn.Linear(4, 3)] for _ in range(2)]
    network = separate(*blocks, at=1, example=torch.tensor(5))
    assert network.policy_size == 3
    assert multiply_adds(network) == {"trunk": 0, "policy": 12, "value": 12, "total": 24}


def test_an_example_of_another_type_than_the_blocks_is_refused_as_it_would_be_in_training():
    wide = torch.zeros(3, dtype=torch.float64)
    assert refused(mlp_blocks(3, [8]), mlp_blocks(3, [8]), 0, example=wide).startswith(
        "policy_blocks[0] (DenseBlock) takes torch.float32, but gets torch.float64 from the example: "
    )
    doubled = [mlp_blocks(3, [8])[0].double() for _ in range(2)]
    network = separate(doubled[:1], doubled[1:], 0, example=wide)
    assert network.value_size == 8 and multiply_adds(network)["value"] == 3 * 8
    narrow = refused(doubled[:1], doubled[1:], 0, example=torch.zeros(3))
    assert "takes torch.float64, but gets torch.float32 from the example" in narrow
    # What counts is not what fits: the same count, whatever the type.
    assert multiply_adds(separate(mlp_blocks(3, [8]), mlp_blocks(3, [8]), 0), wide)["value"] == 3 * 8


def test_neither_the_check_nor_the_counts_leave_a_trace_in_the_network():
    def blocks() -> list[nn.Module]:
        return [nn.Linear(3, 4), any_batch(nn.BatchNorm1d(4)), nn.Linear(4, 2)]

    network = separate(blocks(), blocks(), at=1, example=torch.ones(3))
    multiply_adds(network)
    for branch in (network.policy, network.value):
        assert branch[0].module.num_batches_tracked == 0 and branch[0].module.training
    assert all(p.grad is None for p in network.parameters())


# --- copies


def saved_and_loaded(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def restored_from_a_state_dict(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data.zero_()
    twin.load_state_dict(network.state_dict())
    return twin


COPIES = {
    "deepcopy": copy.deepcopy,
    "deepcopy of deepcopy": lambda n: copy.deepcopy(copy.deepcopy(n)),
    "pickle": saved_and_loaded,
    "state_dict": restored_from_a_state_dict,
    "double": lambda n: copy.deepcopy(n).double(),
    "to": lambda n: copy.deepcopy(n).to(torch.float64),
    "half and back": lambda n: copy.deepcopy(n).half().float(),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("k", [1, 3])
def test_a_copy_keeps_what_is_shared_shared_and_is_apart_from_the_original(duplicate, k):
    network = make(lambda: mlp_blocks(5, [8, 6, 4]), (5,), k)
    twin = duplicate(network)
    dtype = next(twin.parameters()).dtype
    x = torch.randn(7, 5)
    original, before = network(x), twin(x.to(dtype))
    for a, b in zip(original, before, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-2, atol=1e-2)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    before[1].square().sum().backward()  # of the value only: the policy changes by what it shares
    assert all(p.grad is None for p in twin.policy.parameters())
    optimizer.step()
    for a, b in zip(twin(x.to(dtype)), before, strict=True):
        assert not torch.allclose(a, b)
    for a, b in zip(network(x), original, strict=True):
        assert torch.equal(a, b)


def test_a_state_dict_has_each_shared_parameter_once():
    network = make(lambda: mlp_blocks(5, [8, 6]), (5,), 1)
    assert sorted(network.state_dict()) == sorted(
        f"{part}.0.linear.{name}" for part in ("trunk", "policy", "value") for name in ("weight", "bias")
    )


# --- refused


def refused(policy_blocks, value_blocks, at, **options) -> str:
    with pytest.raises(ValueError) as error:
        separate(policy_blocks, value_blocks, at=at, **options)
    return str(error.value)


def test_an_impala_stage_that_does_not_fit_is_refused_with_both_shapes_and_its_index():
    wider = impala_blocks(FRAME, (4, 16, 8), 16)
    assert refused(small_impala(), wider, 2) == "value_blocks[2] (ImpalaStage) takes (16, 4, 4), but gets (8, 4, 4)"
    assert separate(small_impala(), wider, at=1).at == 1  # both stacks have four channels there
    smaller_frames = impala_blocks((3, 8, 8), (4, 8, 8), 16)
    assert refused(small_impala(), smaller_frames, 3) == (
        "value_blocks[3] (DenseBlock) takes (8, 1, 1), but gets (8, 2, 2)"
    )
    assert refused(small_impala(), smaller_frames, 0) == (
        "value_blocks[0] (ImpalaStage) takes (3, 8, 8), but gets (3, 16, 16)"
    )


def test_an_mlp_block_that_does_not_fit_is_refused_with_both_shapes_and_its_index():
    assert refused(mlp_blocks(3, [8, 8]), mlp_blocks(3, [16, 8]), 1) == (
        "value_blocks[1] (DenseBlock) takes (16,), but gets (8,)"
    )
    assert refused([*mlp_blocks(3, [8]), *mlp_blocks(9, [8])], mlp_blocks(3, [8]), 0) == (
        "policy_blocks[1] (DenseBlock) takes (9,), but gets (8,)"
    )


def test_a_plain_linear_that_does_not_fit_is_refused_with_both_shapes_and_its_index():
    policy, value = [nn.Linear(3, 8), nn.Linear(8, 4)], [nn.Linear(3, 16), nn.Linear(16, 4)]
    assert refused(policy, value, 1).startswith("value_blocks[1] (Linear) takes (16,), but gets (8,): mat1 and mat2")
    assert refused(policy, [nn.Linear(5, 4)], 0).startswith("value_blocks[0] (Linear) takes (5,), but gets (3,): mat1")
    assert refused([nn.Linear(3, 8), nn.Linear(9, 4)], value, 2).startswith("policy_blocks[1] (Linear) takes (9,), but")


def test_a_users_block_that_does_not_fit_is_refused_with_both_shapes_and_its_index():
    def blocks(width: int) -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(3, width)), nn.Sequential(Gate(width), nn.Linear(width, 4))]

    message = refused(blocks(8), blocks(6), 1, example=torch.zeros(3))
    assert message.startswith("value_blocks[1] (Sequential) takes (6,), but gets (8,): ")
    assert separate(blocks(8), blocks(6), at=0, example=torch.zeros(3)).value_size == 4


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise IndexError("no such axis")


class MixesTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 2)


def test_a_users_block_that_fails_or_changes_the_batch_is_refused_by_its_index():
    assert refused([nn.Linear(3, 4), Fails()], [nn.Linear(3, 4)], 0) == (
        "policy_blocks[1] (Fails) takes another shape, but gets (4,): no such axis"
    )
    assert refused([nn.Linear(3, 4)], [nn.Linear(3, 4), MixesTheBatch()], 0) == (
        "value_blocks[1] (MixesTheBatch) must give one tensor that keeps the batch axes; got (2, 2) from (1, 4)"
    )
    assert refused([nn.Linear(3, 4), nn.LSTM(4, 4)], [], 0) == (
        "policy_blocks[1] (LSTM) must give one tensor that keeps the batch axes; got tuple from (1, 4)"
    )


def test_a_block_that_takes_any_shape_fits_a_trunk_unlike_its_own():
    """A lazy layer takes the trunk's width, not that of the blocks it stood behind."""
    value = [nn.Linear(3, 5), nn.LazyLinear(4)]
    network = separate([nn.Linear(3, 8), nn.Linear(8, 4)], value, at=1, example=torch.zeros(3))
    assert network(torch.zeros(2, 3))[1].shape == (2, 4)


def test_a_lazy_first_layer_waits_for_an_example():
    def lazy() -> list[nn.Module]:
        return [nn.LazyLinear(4)]

    assert separate(lazy(), lazy(), at=1).policy_size is None
    assert separate(lazy(), lazy(), at=1, example=torch.zeros(3)).trunk[0].weight.shape == (4, 3)


@pytest.mark.parametrize("k", [0, 1])
def test_a_block_that_would_change_in_place_what_others_read_is_refused(k):
    def blocks() -> list[nn.Module]:
        return [*(nn.Linear(3, 3) for _ in range(k)), nn.ReLU(inplace=True), nn.Linear(3, 2)]

    plain = [*(nn.Linear(3, 3) for _ in range(k)), nn.ReLU(), nn.Linear(3, 2)]
    tail = "(ReLU) must not work in place on the observation or the trunk's output: other blocks read it too"
    assert refused(blocks(), plain, k, example=torch.zeros(3)) == f"policy_blocks[{k}] {tail}"
    assert refused(plain, blocks(), k, example=torch.zeros(3)) == f"value_blocks[{k}] {tail}"
    through_a_view = [*blocks()[:k], nn.Identity(), nn.ReLU(inplace=True)]
    assert refused(through_a_view, plain, k, example=torch.zeros(3)) == f"policy_blocks[{k + 1}] {tail}"
    if k == 0:
        assert refused(blocks(), plain, 1, example=torch.zeros(3)) == f"policy_blocks[0] {tail}"
    else:
        assert separate(blocks(), blocks(), at=2, example=torch.zeros(3)).at == 2  # inside the trunk it may
    with torch.inference_mode():  # as elsewhere
        assert separate(plain, mlp_blocks(3, [4, 2]), at=0, example=torch.zeros(3)).policy_size == 2
        assert refused(blocks(), plain, k, example=torch.zeros(3)) == f"policy_blocks[{k}] {tail}"


@pytest.mark.parametrize("k", [0, 1, 3])
def test_one_list_for_both_stacks_is_refused(k):
    blocks = mlp_blocks(3, [8, 8, 8, 8])
    assert refused(blocks, blocks, k) == (
        "policy_blocks and value_blocks must not hold the same parameter beyond the cut; parameter 0.linear.weight "
        "lies in policy and in value: build each list on its own"
    )


def test_a_parameter_of_the_trunk_that_returns_after_the_cut_is_refused():
    first, second = mlp_blocks(8, [8, 8])
    assert "lies in trunk and in policy" in refused([first, first], mlp_blocks(8, [8, 8]), 1)
    assert "lies in trunk and in value" in refused([first, second], [nn.Linear(8, 8), first], 1)
    assert separate([first, second], [first, *mlp_blocks(8, [8])], at=1).at == 1  # dropped, so nobody's


@pytest.mark.parametrize("scale", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("side", ["policy_gradient", "value_gradient"])
def test_a_gradient_scale_out_of_range_is_refused(side, scale):
    message = refused(mlp_blocks(3, [8]), mlp_blocks(3, [8]), 1, **{side: scale})
    assert message.startswith(f"{side} must ") and message.endswith(f"; got {scale}")


# --- the cut


@pytest.mark.parametrize("to_value", [0, 0.25, 1])
@pytest.mark.parametrize("to_policy", [0, 0.25, 1])
def test_the_trunk_gets_each_branchs_gradient_times_its_scale(to_policy, to_value):
    policy, value, x = small_impala(), small_impala(), torch.rand(4, *FRAME)
    for block in (*policy, *value):
        randomize(block)
    network = separate(policy, value, at=2, policy_gradient=to_policy, value_gradient=to_value)
    w_policy, w_value = torch.randn(2, 4, 16)
    policy_hidden, value_hidden = network(x)
    ((policy_hidden * w_policy).sum() + (value_hidden * w_value).sum()).backward()

    trunk = [p for block in policy[:2] for p in block.parameters()]
    hidden = policy[1](policy[0](x))
    policy_loss = (policy[3](policy[2](hidden)) * w_policy).sum()
    value_loss = (value[3](value[2](hidden)) * w_value).sum()
    from_policy = torch.autograd.grad(policy_loss, trunk, retain_graph=True)
    from_value = torch.autograd.grad(value_loss, trunk, retain_graph=True)
    for p, g_policy, g_value in zip(trunk, from_policy, from_value, strict=True):
        assert g_policy.norm() > 0 and g_value.norm() > 0
        actual = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(actual, to_policy * g_policy + to_value * g_value)
    for blocks, loss in ((policy[2:], policy_loss), (value[2:], value_loss)):  # the branches learn in full
        own = [p for block in blocks for p in block.parameters()]
        for p, g in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
            torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("scale", [0, 0.25, 1])
def test_scale_gradient_passes_values_and_scales_gradients_under_vmap_too(scale):
    x = torch.randn(2, 3, requires_grad=True)
    for y in (scale_gradient(x, scale), torch.vmap(lambda x: scale_gradient(x, scale))(x)):
        assert torch.equal(y, x)
        assert y.requires_grad == (scale > 0)
        if scale:
            (gradient,) = torch.autograd.grad((y * torch.arange(6).view(2, 3)).sum(), x)
            assert torch.equal(gradient, scale * torch.arange(6).view(2, 3))
    whole = torch.arange(3)
    assert scale_gradient(whole, scale) is whole  # frames at k = 0


def test_under_autocast_features_leave_the_branches_in_float32_and_doubles_stay_doubles():
    network = make(small_impala, FRAME, 2)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randint(0, 256, (2, *FRAME), dtype=torch.uint8)
        assert network.trunk(x).dtype == torch.bfloat16
        lowered = network(x)
    assert [features.dtype for features in lowered] == [torch.float32] * 2
    for a, b in zip(lowered, network(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)
    nothing = separate([], [], at=0, example=torch.zeros(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert nothing(torch.zeros(2, 3, dtype=torch.float64))[0].dtype == torch.float64


# --- a privileged critic


@pytest.mark.parametrize("k", [0, 1])
def test_value_keys_go_to_the_first_mlp_block_after_the_cut(k):
    value = mlp_blocks(3 + 2, [8]) if k == 0 else [*mlp_blocks(3, [8]), *mlp_blocks(8 + 2, [8])]
    policy = mlp_blocks(3, [8, 8])
    example = {"observation": torch.zeros(3), "state": torch.zeros(2)}
    network = separate(policy, value, at=k, value_keys=["state"], example=example)
    x, state = torch.randn(4, 3), torch.randn(4, 2)
    policy_hidden, value_hidden = network(x, value_extra=[state])
    hidden = policy[0](x) if k else x
    linear = value[k].linear
    torch.testing.assert_close(value_hidden, torch.tanh(torch.cat([hidden, state], 1) @ linear.weight.T + linear.bias))
    assert torch.equal(policy_hidden, nn.Sequential(*policy)(x))
    assert network.value.reader == 0 and network.policy.reader is None


class Rescale(nn.Module):
    """A user's block that takes one further input by name of its own."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale


def test_further_keys_go_to_the_first_block_that_takes_them_and_to_no_other():
    example = {"observation": torch.zeros(*FRAME), "state": torch.zeros(3)}
    network = separate(small_impala(), small_impala(extra_features=3), at=2, value_keys=["state"], example=example)
    assert network.value.reader == 1  # the dense block, behind a stage that takes frames only
    own = separate(
        [nn.Linear(3, 4), Rescale(), nn.Linear(4, 2)],
        [nn.Linear(3, 4)],
        at=0,
        policy_keys=["scale"],
        example={"observation": torch.zeros(3), "scale": torch.zeros(1)},
    )
    x, scale = torch.randn(4, 3), torch.randn(4, 1)
    expected = own.policy[2](own.policy[0](x) * scale)
    assert torch.equal(own(x, policy_extra=[scale])[0], expected)


def test_further_keys_without_an_example_or_a_reader_are_refused():
    def privileged() -> list[nn.Module]:
        return mlp_blocks(5, [8, 8])

    plain, example = mlp_blocks(3, [8, 8]), {"observation": torch.zeros(3), "state": torch.zeros(2)}
    assert refused(plain, privileged(), 0, value_keys=["state"]) == (
        "example must be a mapping with observation and ['state'], since a branch reads them"
    )
    assert refused(plain, privileged(), 0, value_keys=["state"], example=torch.zeros(3)) == (
        "example must hold every further key that a branch reads; it lacks ['state']"
    )
    assert refused(plain, privileged(), 0, value_keys=["state"], example={"state": torch.zeros(2)}) == (
        "example must hold the key observation; got ['state']"
    )
    assert refused(plain, privileged(), 2, value_keys=["state"], example=example) == (
        "value_keys must be empty where no block of the value branch takes 2 inputs; got ['state'] and 0 blocks "
        "after the cut"
    )
    linear = [nn.Linear(3, 8)]
    assert refused(linear, privileged(), 0, policy_keys=["state"], example=example) == (
        "policy_keys must be empty where no block of the policy branch takes 2 inputs; got ['state'] and 1 blocks "
        "after the cut"
    )
    assert refused(plain, privileged(), 0, value_keys="state", example=example) == (
        "value_keys must be a sequence of [a string]; got 'state'"
    )
    message = refused(plain, privileged(), 0, value_keys=["state"], example=example | {"state": torch.zeros(1)})
    assert message.startswith("value_blocks[0] (DenseBlock) takes (5,), but gets [(3,), (1,)]: mat1 and mat2")


def test_a_branch_refuses_inputs_that_it_does_not_read_and_misses_those_that_it_does():
    network = make(lambda: mlp_blocks(3, [8]), (3,), 0)
    with pytest.raises(ValueError, match=re.escape("a branch that reads [] must get 0 further inputs; got 1")):
        network(torch.zeros(2, 3), value_extra=[torch.zeros(2, 2)])


# --- gradients at the cut


def linear_network(w_policy: list[float], w_value: list[float], **options) -> SeparatedNetwork:
    """h = x, policy = w_policy h, value = w_value h: the gradients at the cut are the rows of weights."""
    network = separate(*([nn.Linear(2, 2), nn.Linear(2, 1, bias=False)] for _ in range(2)), at=1, **options)
    network.policy[0].weight.data = torch.tensor([w_policy], dtype=torch.float32)
    network.value[0].weight.data = torch.tensor([w_value], dtype=torch.float32)
    return network


def run_over_the_cut(network: SeparatedNetwork, batch: int = 1) -> tuple[Tensor, Tensor, TensorDict]:
    to_policy, to_value = network.cut(network.trunk(torch.randn(batch, 2)))
    features = TensorDict(cut=TensorDict(policy=to_policy, value=to_value, batch_size=batch), batch_size=batch)
    return network.policy(to_policy).sum(), network.value(to_value).sum(), features


def test_norms_and_cosine_are_those_worked_out_by_hand():
    policy, value, features = run_over_the_cut(linear_network([3, 4], [4, 3]))
    report = cut_gradients(policy + 2 * value, features)
    assert report == pytest.approx({"policy_norm": 5.0, "value_norm": 10.0, "cosine": 24 / 25})
    policy, value, features = run_over_the_cut(linear_network([3, 4], [-4, 3]), batch=2)
    report = cut_gradients(policy + value, features)
    assert report == pytest.approx({"policy_norm": 50**0.5, "value_norm": 50**0.5, "cosine": 0.0}, abs=1e-6)
    policy, value, features = run_over_the_cut(linear_network([3, 4], [3, 4]))
    assert cut_gradients(policy - value, features)["cosine"] == pytest.approx(-1.0)


def test_gradients_are_read_before_the_scales_of_the_cut():
    network = linear_network([3, 4], [4, 3], policy_gradient=0.25, value_gradient=0.5)
    policy, value, features = run_over_the_cut(network)
    report = cut_gradients(policy + value, features)
    assert report == pytest.approx({"policy_norm": 5.0, "value_norm": 5.0, "cosine": 24 / 25})


def test_a_branch_without_gradient_has_norm_0_and_there_is_no_cosine_and_no_nan():
    policy, value, features = run_over_the_cut(linear_network([3, 4], [4, 3]))
    assert cut_gradients(policy, features) == {"policy_norm": pytest.approx(5.0), "value_norm": 0.0}
    assert cut_gradients(value, features) == {"policy_norm": 0.0, "value_norm": pytest.approx(5.0)}
    assert cut_gradients(policy + 0 * value, features) == {"policy_norm": pytest.approx(5.0), "value_norm": 0.0}
    assert cut_gradients(0 * (policy + value), features) == {"policy_norm": 0.0, "value_norm": 0.0}
    policy, value, features = run_over_the_cut(linear_network([3, 4], [4, 3], policy_gradient=0))
    assert cut_gradients(policy + value, features) == {"policy_norm": 0.0, "value_norm": pytest.approx(5.0)}


def test_there_is_nothing_to_read_at_k_0_where_the_cut_stops_both_or_without_a_cut():
    stopped = linear_network([3, 4], [4, 3], policy_gradient=0, value_gradient=0)
    full = separate(mlp_blocks(2, [1]), mlp_blocks(2, [1]), at=0)
    for network in (stopped, full):
        policy, value, features = run_over_the_cut(network)
        assert cut_gradients(policy + value, features) == {}
    assert cut_gradients(policy + value, TensorDict(batch_size=1)) == {}


def test_reading_the_gradients_changes_neither_the_graph_nor_the_parameters_gradients():
    network = linear_network([3, 4], [4, 3])
    policy, value, features = run_over_the_cut(network)
    cut_gradients(policy + value, features)
    assert all(p.grad is None for p in network.parameters())
    (policy + value).backward()
    torch.testing.assert_close(network.trunk[0].bias.grad, torch.tensor([7.0, 7.0]))
