"""Pictures and numbers of one observation that comes as a vector: views of its parts, and their fusion in a block.

    view = PictureView(0, (64, 64, 3), (2, 0, 1))           # a picture of 64 x 64 pixels, channels last in the vector
    blocks = [nn.Sequential(view, impala[0]), *impala[1:]]
    fuse = Fuse([nn.Sequential(view, *impala)], [(12288, 12300)])  # its features, and the vector's last 12 numbers

A network reads one tensor, so an observation of several parts stands in one vector, and its first block takes it apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decouple.checks import above, all_of, at_least, check_setting, checked

__all__ = ["Fuse", "PictureView"]


class PictureView(nn.Module):
    """A picture out of a vector: (*B, O) -> (*B, C, H, W), divided by `scale`.

    Args:
        first: index of the picture's first number in the vector.
        shape: the picture's shape there, row by row.
        axes: order of its axes that puts height and width last; those before become the channels.
        scale: largest number of a pixel.
        keep_bytes: leave a vector of bytes as it is, for blocks that scale it themselves, as this package's do.
    """

    @checked(first=at_least(0), shape=all_of(at_least(1), least=2), axes=all_of(at_least(0)), scale=above(0))
    def __init__(
        self, first: int, shape: Sequence[int], axes: Sequence[int], scale: float = 255.0, *, keep_bytes: bool = True
    ):
        super().__init__()
        says = f"an order of the axes of {tuple(shape)}"
        check_setting("axes", axes, lambda order: sorted(order) == list(range(len(shape))), says)
        self.first, self.shape, self.axes, self.scale, self.keep_bytes = (
            first,
            tuple(shape),
            tuple(axes),
            scale,
            keep_bytes,
        )
        *channels, height, width = (self.shape[axis] for axis in self.axes)
        self.picture = (math.prod(channels), height, width)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[:-1]
        part = x[..., self.first : self.first + math.prod(self.shape)].reshape(-1, *self.shape)
        part = part.permute(0, *(axis + 1 for axis in self.axes)).reshape(*batch, *self.picture)  # (*B, C, H, W)
        return part if self.keep_bytes and not part.is_floating_point() else part / self.scale

    def extra_repr(self) -> str:
        return f"first={self.first}, shape={self.shape}, axes={self.axes}, scale={self.scale}"


class Fuse(nn.Module):
    """A block that joins pictures' features and numbers: (*B, O) -> (*B, F_1 + ... + numbers).

    Args:
        pictures: for each picture, a module from the vector to features, (*B, O) -> (*B, F).
        numbers: first and last index (exclusive) of each part of the vector that is passed on as it is.
    """

    @checked()
    def __init__(self, pictures: Sequence[nn.Module], numbers: Sequence[tuple[int, int]] = ()):
        super().__init__()
        self.pictures, self.numbers = nn.ModuleList(pictures), tuple(numbers)

    def forward(self, x: Tensor) -> Tensor:
        features = [encoder(x) for encoder in self.pictures]
        dtype = features[0].dtype if features else x.dtype
        return torch.cat([*features, *(x[..., first:last].to(dtype) for first, last in self.numbers)], -1)

    def extra_repr(self) -> str:
        return f"numbers={self.numbers}"
