"""Blocks for any number of leading batch axes, made of modules that take exactly one.

    blocks = [any_batch(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())), nn.LazyLinear(64)]
    network = separate(blocks, value_blocks, at=1, example=torch.zeros(3, 16, 16))

An environment steps without a batch axis, with one (N,) or with several; a rollout has one more for its steps. Modules
such as `nn.Flatten` or `nn.TransformerEncoderLayer(batch_first=True)` take one axis alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from decouple.checks import at_least, checked

__all__ = ["AnyBatch", "any_batch"]


@checked(features=at_least(0))
def any_batch(module: nn.Module, features: int | None = None) -> AnyBatch:
    """A block that flattens the leading axes before the module and restores them after it.

    Args:
        module: a module that takes one batch axis and treats each row by itself: (B, ...) -> (B, ...).
        features: number of axes of one input, as 3 for (channels, height, width); None: `separate` takes it from its
            example.
    """
    return AnyBatch(module, features)


class AnyBatch(nn.Module):
    """A module that takes one batch axis, as a block for any number of them; made by `any_batch`.

    Attributes:
        module: the module.
        features: number of axes of one input; None until `separate` has run its example.
    """

    @checked(features=at_least(0))
    def __init__(self, module: nn.Module, features: int | None = None):
        super().__init__()
        self.module, self.features = module, features

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        if self.features is None:
            raise ValueError("features must be given in any_batch(module, features), or separate() get an example")
        lead = x.shape[: x.ndim - self.features]
        out = self.module(*(each.reshape(-1, *each.shape[len(lead) :]) for each in (x, *extra)))
        return out.reshape(*lead, *out.shape[1:])

    def extra_repr(self) -> str:
        return f"features={self.features}"
