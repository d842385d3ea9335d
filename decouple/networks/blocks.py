"""Block stacks: a network as a list of blocks, so that it can be separated after any of them.

    blocks = impala_blocks()                       # four blocks: three residual stages and a dense one
    blocks = mlp_blocks(17, [64, 64])              # two blocks, each a linear layer and its activation
    blocks = [MyStem(), MyBody(), MyNeck()]        # any modules are blocks

A block takes the output of the block before it and, where its `forward` accepts more than one argument, further
features (see `separate`, `policy_keys` and `value_keys`). Every block here accepts any number of leading batch axes.

IMPALA-CNN: Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, in the size that the Procgen paper uses (Cobbe et
al. 2020, https://arxiv.org/abs/1912.01588). Squeeze-and-excitation: Hu et al. 2018, https://arxiv.org/abs/1709.01507.
Nature-CNN: Mnih et al. 2015, https://doi.org/10.1038/nature14236.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.checks import Must, all_of, at_least, check_setting, checked

__all__ = ["Concatenate", "impala_blocks", "mlp_blocks", "nature_blocks"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
MAKES_MODULE = Must(lambda make: isinstance(make(), nn.Module), "a function that makes a module")


@checked(
    observation_shape=all_of(at_least(1)),
    channels=all_of(at_least(1), least=1),
    hidden_size=at_least(1),
    attention_from=at_least(0),
    attention_reduction=at_least(1),
    extra_features=at_least(0),
)
def impala_blocks(
    observation_shape: Sequence[int] = (3, 64, 64),
    channels: Sequence[int] = (16, 32, 32),
    hidden_size: int = 256,
    *,
    attention_from: int | None = None,
    attention_reduction: int = 8,
    in_place_skip: bool = False,
    extra_features: int = 0,
) -> list[nn.Module]:
    """Blocks of the IMPALA-CNN: one residual stage per entry of `channels`, then a dense block.

    A stage is a 3x3 convolution, a max-pool of stride 2 and two residual blocks (ReLU, conv, ReLU, conv, add): five
    convolutions. The dense block is flatten, ReLU, linear, ReLU. With the defaults the depth is 4 and the dense layer
    2048 -> 256. Convolutions start Xavier-uniform, the dense layer orthogonal with gain sqrt(2), biases at 0.

    Args:
        observation_shape: (channels, height, width) of a frame.
        channels: output channels of each stage.
        hidden_size: output features of the dense block.
        attention_from: index of the first stage with squeeze-and-excitation attention (before its convolution, after
            its pool, and at the end of each residual branch), as in the separated stages of the separation study's
            released code; None for no attention.
        attention_reduction: factor by which the attention squeezes the channels.
        in_place_skip: the skip connection carries ReLU(x) in place of x, as in the released code, where the first ReLU
            of a residual block works in place; not the network of Espeholt et al.
        extra_features: features that the dense block reads beside the frames (a privileged critic).

    Returns:
        Blocks from (*B, *observation_shape), uint8 in [0, 255] (divided by 255 here) or float, to (*B, hidden_size).

    Raises:
        ValueError: a shape or a size that is not positive, or attention on fewer channels than `attention_reduction`.
    """
    shape = _image_shape(observation_shape)
    _check_sizes("channels", channels)
    _check_sizes("hidden_size", [hidden_size])
    _check_extra(extra_features)
    if attention_from is not None and not 0 <= attention_from <= len(channels):
        raise ValueError(f"attention_from must lie in [0, {len(channels)}], the number of stages; got {attention_from}")
    reads = [shape[0], *channels]  # channels that each stage reads
    if attention_from is not None and attention_from < len(channels):
        least = min(reads[attention_from:])
        says = f"in [1, {least}], the layer's channels from stage attention_from={attention_from} on"
        check_setting("attention_reduction", attention_reduction, lambda by: by <= least, says)
    blocks: list[nn.Module] = []
    for index, out_channels in enumerate(channels):
        reduction = attention_reduction if attention_from is not None and index >= attention_from else None
        stage = ImpalaStage(shape[0], out_channels, attention_reduction=reduction, in_place_skip=in_place_skip)
        blocks.append(_shaped(stage, shape))
        shape = (out_channels, (shape[1] + 1) // 2, (shape[2] + 1) // 2)
    flat = math.prod(shape)
    blocks.append(_shaped(DenseBlock(flat + extra_features, hidden_size, leading_activation=True), shape))
    return blocks


@checked(observation_shape=all_of(at_least(1)), hidden_size=at_least(1), extra_features=at_least(0))
def nature_blocks(
    observation_shape: Sequence[int] = (4, 84, 84), hidden_size: int = 512, *, extra_features: int = 0
) -> list[nn.Module]:
    """Blocks of the Nature-CNN: convolutions of 32 8x8/4, 64 4x4/2 and 64 3x3/1 filters, then a dense block; depth 4.

    Args:
        observation_shape: (channels, height, width) of an observation, at least 36 pixels high and wide.
        hidden_size: output features of the dense block.
        extra_features: features that the dense block reads beside the frames (a privileged critic).

    Returns:
        Blocks from (*B, *observation_shape), uint8 in [0, 255] (divided by 255 here) or float, to (*B, hidden_size).
    """
    shape = _image_shape(observation_shape)
    _check_sizes("hidden_size", [hidden_size])
    _check_extra(extra_features)
    if min(shape[1:]) < 36:
        raise ValueError(f"observation_shape must be at least 36 pixels high and wide; got {tuple(observation_shape)}")
    blocks: list[nn.Module] = []
    for out_channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        convolution = nn.Conv2d(shape[0], out_channels, kernel, stride)
        blocks.append(_shaped(ConvolutionBlock(orthogonal_(convolution, math.sqrt(2))), shape))
        shape = (out_channels, (shape[1] - kernel) // stride + 1, (shape[2] - kernel) // stride + 1)
    flat = math.prod(shape)
    blocks.append(_shaped(DenseBlock(flat + extra_features, hidden_size, flatten=3), shape))
    return blocks


@checked(in_features=at_least(1), hidden_sizes=all_of(at_least(1), least=1), activation=MAKES_MODULE, gain=at_least(0))
def mlp_blocks(
    in_features: int,
    hidden_sizes: Sequence[int],
    activation: Callable[[], nn.Module] = nn.Tanh,
    *,
    gain: float | None = math.sqrt(2),
) -> list[nn.Module]:
    """Blocks of a multilayer perceptron: a linear layer and its activation per hidden size.

    Args:
        in_features: size of the observation, plus the size of any further keys that the first block reads. Where a
            later block reads them, compose: `[*mlp_blocks(17, [64]), *mlp_blocks(64 + 5, [64])]`.
        hidden_sizes: units of each hidden layer.
        activation: function that makes the activation, as `nn.Tanh` or `lambda: nn.LeakyReLU(0.1)`.
        gain: gain of the orthogonal initialisation, with biases at 0; None keeps PyTorch's own initialisation.

    Returns:
        Blocks from (*B, in_features) to (*B, hidden_sizes[-1]), one per hidden size.
    """
    _check_sizes("in_features", [in_features])
    _check_sizes("hidden_sizes", hidden_sizes)
    sizes = [in_features, *hidden_sizes]
    return [
        _shaped(DenseBlock(size_in, size_out, flatten=1, activation=activation, gain=gain), (size_in,))
        for size_in, size_out in pairwise(sizes)
    ]


class ImpalaStage(nn.Module):
    """A residual stage of the IMPALA-CNN: (*B, in_channels, H, W) -> (*B, out_channels, ceil(H / 2), ceil(W / 2))."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        attention_reduction: int | None = None,
        in_place_skip: bool = False,
    ):
        super().__init__()
        self.attention_in = _attention(in_channels, attention_reduction)
        self.convolution = _convolution(in_channels, out_channels)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.attention_out = _attention(out_channels, attention_reduction)
        self.residual = nn.Sequential(
            *(ResidualBlock(out_channels, attention_reduction, in_place_skip=in_place_skip) for _ in range(2))
        )

    def forward(self, frames: Tensor) -> Tensor:
        batch = frames.shape[:-3]
        x = self.attention_in(_as_images(frames, self.convolution.weight))  # (N, C_in, H, W)
        x = self.residual(self.attention_out(self.pool(self.convolution(x))))  # (N, C_out, H / 2, W / 2)
        return x.reshape(*batch, *x.shape[1:])


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), with optional attention before the addition; (N, C, H, W) to the same."""

    def __init__(self, channels: int, attention_reduction: int | None = None, *, in_place_skip: bool = False):
        super().__init__()
        self.convolution_1 = _convolution(channels, channels)
        self.convolution_2 = _convolution(channels, channels)
        self.attention = _attention(channels, attention_reduction)
        self.in_place_skip = in_place_skip

    def forward(self, x: Tensor) -> Tensor:
        rectified = functional.relu(x)
        residual = self.attention(self.convolution_2(functional.relu(self.convolution_1(rectified))))
        return residual + (rectified if self.in_place_skip else x)


class SqueezeExcitation(nn.Module):
    """Channel attention: x * sigmoid(W_2 ReLU(W_1 mean_hw(x))), (N, C, H, W) to the same; no biases."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"attention_reduction must lie in [1, {channels}], the layer's channels; got {reduction}")
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((-2, -1))))))  # (N, C)
        return x * weights[..., None, None]


class ConvolutionBlock(nn.Module):
    """A convolution and ReLU: (*B, C_in, H, W) -> (*B, C_out, H', W')."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution

    def forward(self, frames: Tensor) -> Tensor:
        batch = frames.shape[:-3]
        x = functional.relu(self.convolution(_as_images(frames, self.convolution.weight)))  # (N, C_out, H', W')
        return x.reshape(*batch, *x.shape[1:])


class DenseBlock(nn.Module):
    """Flatten the last `flatten` axes, append further features, linear, activation: (*B, ...) -> (*B, out_features)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        flatten: int = 3,
        leading_activation: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gain: float | None = math.sqrt(2),
    ):
        super().__init__()
        self.flatten = flatten
        self.leading = activation() if leading_activation else nn.Identity()
        self.linear = nn.Linear(in_features, out_features)
        self.activation = activation()
        if gain is not None:
            orthogonal_(self.linear, gain)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        x = self.leading(x).flatten(-self.flatten)  # (*B, in_features - extra)
        if extra:
            x = torch.cat([x, *(e.to(x.dtype) for e in extra)], -1)  # (*B, in_features)
        return self.activation(self.linear(x))  # (*B, out_features)


class Concatenate(nn.Module):
    """Appends further features, (*B, F), (*B, E) ... -> (*B, F + E ...); it is the one block of a linear critic."""

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        return torch.cat([x, *(e.to(x.dtype) for e in extra)], -1)


def _as_images(frames: Tensor, weight: Tensor) -> Tensor:
    """Frames (*B, C, H, W) as one batch (N, C, H, W) in the weights' type, channels last; uint8 is divided by 255."""
    images = frames.reshape(-1, *frames.shape[-3:])
    autocast = torch.is_autocast_enabled(images.device.type)
    dtype = images.dtype if images.is_floating_point() and autocast else weight.dtype
    # Not memory_format=torch.channels_last: under vmap, as in TorchRL's GAE, it refuses the fifth axis.
    rows = images.permute(0, 2, 3, 1).to(dtype=dtype, memory_format=torch.contiguous_format).contiguous()
    if not images.is_floating_point():
        rows.div_(255)
    return rows.permute(0, 3, 1, 2)


def orthogonal_(layer: Layer, gain: float = 1.0) -> Layer:
    """Initialise a linear layer or a convolution in place: orthogonal weights of this gain, biases at 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


def _attention(channels: int, reduction: int | None) -> nn.Module:
    return nn.Identity() if reduction is None else SqueezeExcitation(channels, reduction)


def _shaped(block: nn.Module, in_shape: Sequence[int]) -> nn.Module:
    """Store the block's input shape, without batch axes, so that `separate` can check that blocks fit."""
    block.in_shape = tuple(in_shape)
    return block


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"observation_shape must be three positive sizes (channels, height, width); got {shape}")
    channels, height, width = shape
    return channels, height, width


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    if len(sizes) == 0 or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"{name} must hold positive whole numbers, at least one; got {list(sizes)}")


def _check_extra(extra_features: int) -> None:
    if extra_features < 0:
        raise ValueError(f"extra_features must be 0 or more; got {extra_features}")
