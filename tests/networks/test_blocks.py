"""blocks.py against plain torch written here, shapes and initialisations by hand, and what every stack promises."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.networks import blocks as module
from decouple.networks.blocks import DenseBlock, ImpalaStage, impala_blocks, mlp_blocks, nature_blocks

FRAME = (3, 16, 16)


def small_impala(**options) -> list[nn.Module]:
    return impala_blocks(FRAME, (4, 8, 8), 16, **options)


STACKS = {
    "impala": (small_impala, FRAME),
    "impala_odd": (lambda: impala_blocks((3, 9, 7), (4, 8), 16), (3, 9, 7)),
    "impala_attention": (lambda: small_impala(attention_from=1, attention_reduction=2), FRAME),
    "nature": (lambda: nature_blocks((2, 36, 40), 16), (2, 36, 40)),
    "mlp": (lambda: mlp_blocks(5, [8, 6]), (5,)),
}
each_stack = pytest.mark.parametrize(("build", "shape"), STACKS.values(), ids=STACKS.keys())


def frames(*batch: int, shape: tuple[int, ...] = FRAME) -> Tensor:
    return torch.randint(0, 256, (*batch, *shape), dtype=torch.uint8)


def run(stack: list[nn.Module], x: Tensor) -> Tensor:
    for block in stack:
        x = block(x)
    return x


def plain_impala(stack: list[nn.Module], x: Tensor, *, in_place: bool = False) -> Tensor:
    """The IMPALA-CNN by functional calls only; where asked, with the released code's ReLU that works in place."""
    for stage in stack[:-1]:
        p = dict(stage.named_parameters())

        def attend(x: Tensor, name: str, p: dict[str, Tensor] = p) -> Tensor:
            if f"{name}.squeeze.weight" not in p:
                return x
            mean = x.flatten(2).mean(2)  # (N, C)
            squeezed = torch.clamp(mean @ p[f"{name}.squeeze.weight"].T, min=0)  # (N, C / reduction)
            return x / (1 + torch.exp(-squeezed @ p[f"{name}.excite.weight"].T))[:, :, None, None]

        def conv(x: Tensor, name: str, p: dict[str, Tensor] = p) -> Tensor:
            return functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

        x = functional.max_pool2d(conv(attend(x, "attention_in"), "convolution"), 3, 2, padding=1)
        x = attend(x, "attention_out")
        for i in (0, 1):
            if in_place:
                x = x.clone()
                y = functional.relu_(x)  # x itself is rectified, and so is the skip connection
            else:
                y = functional.relu(x)
            y = conv(functional.relu(conv(y, f"residual.{i}.convolution_1")), f"residual.{i}.convolution_2")
            x = x + attend(y, f"residual.{i}.attention")
    x = functional.relu(x).flatten(1)
    return functional.relu(x @ stack[-1].linear.weight.T + stack[-1].linear.bias)


# --- values and gradients


@pytest.mark.parametrize("in_place", [False, True], ids=["", "in_place_skip"])
@pytest.mark.parametrize("attention_from", [None, 0, 1, 3])
def test_impala_equals_plain_torch_in_values_and_gradients(in_place, attention_from):
    stack = small_impala(attention_from=attention_from, attention_reduction=2, in_place_skip=in_place)
    x = torch.rand(5, *FRAME)
    actual, expected = run(stack, x), plain_impala(stack, x, in_place=in_place)
    torch.testing.assert_close(actual, expected)
    parameters = list(nn.Sequential(*stack).parameters())
    weights = torch.randn_like(actual)
    gradients = [torch.autograd.grad((out * weights).sum(), parameters) for out in (actual, expected)]
    for g_actual, g_expected in zip(*gradients, strict=True):
        torch.testing.assert_close(g_actual, g_expected)


def test_in_place_skip_and_attention_each_change_the_network():
    stack = small_impala(attention_from=0, attention_reduction=2)
    x = torch.rand(5, *FRAME)
    assert not torch.allclose(run(stack, x), plain_impala(stack, x, in_place=True))
    for stage in stack[:-1]:
        for block in (stage, *stage.residual):
            for name in ("attention_in", "attention_out", "attention"):
                if hasattr(block, name):
                    setattr(block, name, nn.Identity())
    without = plain_impala(stack, x)
    torch.testing.assert_close(run(stack, x), without)
    torch.manual_seed(1)
    assert not torch.allclose(run(small_impala(attention_from=0, attention_reduction=2), x), without)


def test_attention_stands_in_the_stages_from_attention_from_on_and_in_no_other():
    for start in range(4):
        stack = small_impala(attention_from=start, attention_reduction=2)
        has = [any("squeeze" in name for name, _ in block.named_parameters()) for block in stack]
        assert has == [index >= start and index < 3 for index in range(4)]


def test_attention_has_2_c_times_c_over_reduction_weights_and_no_bias():
    stack = impala_blocks(attention_from=1)  # channels 16, 32, 32, reduction 8
    weights = [sum(p.numel() for n, p in block.named_parameters() if "attention" in n) for block in stack]
    assert weights == [0, 2 * 16 * 2 + 3 * 2 * 32 * 4, 4 * 2 * 32 * 4, 0] == [0, 832, 1024, 0]


def test_nature_equals_plain_torch():
    stack = nature_blocks((2, 36, 40), 16)
    x = torch.rand(3, 2, 36, 40)
    expected = x
    for block, stride in zip(stack[:3], (4, 2, 1), strict=True):
        expected = functional.relu(
            functional.conv2d(expected, block.convolution.weight, block.convolution.bias, stride)
        )
    linear = stack[3].linear
    expected = functional.relu(expected.flatten(1) @ linear.weight.T + linear.bias)
    torch.testing.assert_close(run(stack, x), expected)


def test_mlp_equals_plain_torch_with_any_activation():
    stack = mlp_blocks(5, [8, 6], activation=lambda: nn.LeakyReLU(0.1))
    x = torch.randn(3, 5)
    first, second = (block.linear for block in stack)
    hidden = functional.leaky_relu(x @ first.weight.T + first.bias, 0.1)
    torch.testing.assert_close(run(stack, x), functional.leaky_relu(hidden @ second.weight.T + second.bias, 0.1))
    assert isinstance(mlp_blocks(5, [8])[0].activation, nn.Tanh)


def test_dense_blocks_append_further_features_in_order():
    for block, x in ((small_impala(extra_features=3)[-1], torch.rand(4, 8, 2, 2)), (mlp_blocks(35, [6])[0], None)):
        x = torch.rand(4, 32) if x is None else x
        a, b = torch.randn(4, 2), torch.randn(4, 1, dtype=torch.float64)
        joined = torch.cat([functional.relu(x).flatten(1), a, b.float()], 1)
        expected = block.activation(joined @ block.linear.weight.T + block.linear.bias)
        torch.testing.assert_close(block(x, a, b), expected)
    assert nature_blocks((2, 36, 36), 16, extra_features=3)[-1].linear.in_features == 64 + 3


# --- shapes, types and batch axes


def test_nature_of_84_by_84_by_4_has_the_papers_shapes_and_parameters():
    stack, x, shapes = nature_blocks(), frames(1, shape=(4, 84, 84)), []
    for block in stack:
        assert block.in_shape == tuple(x.shape[1:])
        x = block(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(1, 32, 20, 20), (1, 64, 9, 9), (1, 64, 7, 7), (1, 512)]
    assert stack[3].linear.in_features == 64 * 7 * 7 == 3136
    by_hand = [32 * 4 * 64 + 32, 64 * 32 * 16 + 64, 64 * 64 * 9 + 64, 3136 * 512 + 512]
    assert [sum(p.numel() for p in block.parameters()) for block in stack] == by_hand


def test_impala_of_64_by_64_halves_the_frame_three_times_and_ends_in_256():
    assert [block.in_shape for block in impala_blocks()] == [(3, 64, 64), (16, 32, 32), (32, 16, 16), (32, 8, 8)]
    assert impala_blocks()[3].linear.weight.shape == (256, 2048)


@each_stack
def test_each_block_takes_the_shape_that_it_declares_and_puts_out_the_next_ones(build, shape):
    stack, x = build(), torch.rand(2, *shape)
    for block in stack:
        assert tuple(x.shape[1:]) == block.in_shape
        x = block(x)


@each_stack
def test_any_leading_batch_axes_give_the_result_of_the_flat_batch(build, shape):
    stack, x = build(), torch.rand(2, 3, *shape)
    flat = run(stack, x.flatten(0, 1))
    nested = run(stack, x)
    assert nested.shape == (2, 3, *flat.shape[1:])
    assert torch.equal(nested.flatten(0, 1), flat)
    torch.testing.assert_close(run(stack, x[1]), nested[1])  # (3,)
    torch.testing.assert_close(run(stack, x[1, 2]), nested[1, 2])  # (): a single unbatched observation
    assert run(stack, x[:0]).shape == (0, 3, *flat.shape[1:])


@pytest.mark.parametrize("name", ["impala", "impala_attention", "nature"])
def test_uint8_frames_equal_floats_divided_by_255(name):
    build, shape = STACKS[name]
    stack, x = build(), frames(2, 3, shape=shape)
    before = x.clone()
    assert torch.equal(run(stack, x), run(stack, x.float() / 255))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", ["impala", "nature"])
def test_the_memory_layout_of_the_frames_does_not_matter(name, dtype):
    build, shape = STACKS[name]
    stack, x = build(), frames(4, shape=shape).to(dtype) / (1 if dtype == torch.uint8 else 255)
    x = x.to(dtype)
    expected = run(stack, x)
    torch.testing.assert_close(run(stack, x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(run(stack, x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)), expected)


@pytest.mark.parametrize("name", ["impala", "nature"])
def test_frames_run_channels_last(name):
    build, shape = STACKS[name]
    out = build()[0](frames(4, shape=shape))
    assert out.is_contiguous(memory_format=torch.channels_last)


@each_stack
def test_blocks_run_under_vmap_as_torchrls_gae_calls_them(build, shape):
    stack = build()
    x = torch.rand(2, 3, *shape) if len(shape) == 1 else frames(2, 3, shape=shape)
    torch.testing.assert_close(torch.vmap(lambda x: run(stack, x))(x), run(stack, x))


@each_stack
def test_double_blocks_compute_in_double(build, shape):
    stack, x = build(), torch.rand(2, *shape, dtype=torch.float64)
    double = [block.double() for block in copy.deepcopy(stack)]
    out = run(double, x)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), run(stack, x.float()))


# --- initialisation


def test_impala_convolutions_start_xavier_uniform():
    for stage, c_in, c_out in zip(impala_blocks()[:3], (3, 16, 32), (16, 32, 32), strict=True):
        for convolution, c in ((stage.convolution, c_in), (stage.residual[1].convolution_2, c_out)):
            bound = math.sqrt(6 / (9 * (c + c_out)))
            largest = convolution.weight.abs().max().item()
            assert 0.95 * bound < largest <= bound
            assert convolution.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def orthogonal(weight: Tensor, gain: float) -> None:
    rows = weight.flatten(1)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), rtol=0, atol=1e-5)


def test_dense_layers_and_natures_convolutions_start_orthogonal_with_gain_root_2():
    layers = [m for stack in (small_impala(), nature_blocks((4, 84, 84)), mlp_blocks(5, [8, 6])) for m in stack]
    weights = [m.linear.weight for m in layers if isinstance(m, DenseBlock)]
    weights += [m.convolution.weight for m in layers if isinstance(m, module.ConvolutionBlock)]
    assert len(weights) == 1 + 1 + 2 + 3
    for weight in weights:
        orthogonal(weight, math.sqrt(2))
    orthogonal(mlp_blocks(5, [8], gain=0.5)[0].linear.weight, 0.5)


@each_stack
def test_all_biases_start_at_zero(build, shape):
    biases = [p for n, p in nn.Sequential(*build()).named_parameters() if n.endswith("bias")]
    assert biases and not any(bias.any() for bias in biases)


def test_without_a_gain_an_mlp_keeps_pytorchs_initialisation():
    torch.manual_seed(3)
    block = mlp_blocks(5, [8], activation=nn.Identity, gain=None)[0]
    torch.manual_seed(3)
    linear = nn.Linear(5, 8)
    assert torch.equal(block.linear.weight, linear.weight) and torch.equal(block.linear.bias, linear.bias)


def test_two_stacks_share_no_parameter():
    parameters = [list(nn.Sequential(*small_impala()).parameters()) for _ in range(2)]
    assert len({id(p) for stack in parameters for p in stack}) == sum(map(len, parameters)) > 0


# --- refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: impala_blocks((64, 64)), "observation_shape must be three positive sizes (channels, height, width)"),
        (lambda: impala_blocks((3, 0, 64)), "observation_shape must be three positive sizes (channels, height, width)"),
        (lambda: impala_blocks(FRAME, ()), "channels must hold positive whole numbers, at least one; got []"),
        (lambda: impala_blocks(FRAME, (16, True)), "channels must hold positive whole numbers, at least one"),
        (lambda: impala_blocks(FRAME, hidden_size=0), "hidden_size must hold positive whole numbers, at least one"),
        (lambda: impala_blocks(FRAME, extra_features=-1), "extra_features must be 0 or more; got -1"),
        (lambda: small_impala(attention_from=4), "attention_from must lie in [0, 3], the number of stages; got 4"),
        (lambda: small_impala(attention_from=-1), "attention_from must lie in [0, 3], the number of stages; got -1"),
        (lambda: small_impala(attention_from=1), "attention_reduction must lie in [1, 4], the layer's channels"),
        (lambda: nature_blocks((4, 84, 35)), "observation_shape must be at least 36 pixels high and wide"),
        (lambda: mlp_blocks(0, [8]), "in_features must hold positive whole numbers, at least one; got [0]"),
        (lambda: mlp_blocks(5, []), "hidden_sizes must hold positive whole numbers, at least one; got []"),
        (lambda: mlp_blocks(5, [8, 2.5]), "hidden_sizes must hold positive whole numbers, at least one; got [8, 2.5]"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message.split()[0])} must .*; got "):
        build()


def test_the_smallest_sizes_are_taken():
    assert run(nature_blocks((1, 36, 36), 1), frames(1, shape=(1, 36, 36))).shape == (1, 1)
    assert run(impala_blocks((1, 1, 1), (1,), 1), frames(1, shape=(1, 1, 1))).shape == (1, 1)
    assert isinstance(small_impala(attention_from=3, attention_reduction=99)[0], ImpalaStage)
