"""Critics and policies of S agents, each as one operation where that makes an update faster.

critics = Critics(body, head, count=2, seeds=6)
values = critics(hidden, action)                    # (S, B, H), (S, B, A) -> (2, S, B, 1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decouple.off_policy.stacked_mlp import PullBack, fuse

__all__ = ["Critics", "frozen_rows", "policy_network"]


class Critics:
    """Q critics for each of S agents, stacked critic by critic: (S, B, H), action (S, B, A) -> values (Q, S, B, n)."""

    def __init__(self, body: nn.Module, head: nn.Module, count: int, seeds: int):
        self.body, self.head, self.count, self.seeds = body, head, count, seeds
        self.reads_action = bool(body.keys)
        self.fused = fuse(body, head) if body.reader in (None, 0) else None

    def __call__(self, hidden: Tensor, action: Tensor | None = None) -> Tensor:
        inputs = self._inputs(hidden, action)
        if self.fused is not None:
            out = self.fused(self._joined(inputs))
        else:
            out = self.head(self.body(*(x.repeat(self.count, 1, 1) for x in inputs)))
        return out.view(self.count, *hidden.shape[:2], -1)

    def traced(self, hidden: Tensor, action: Tensor | None = None) -> tuple[Tensor, PullBack]:
        """The values, and their backward function, as from `FusedMLP.traced`, for the input (Q S, B, H + A)."""
        assert self.fused is not None  # the learner has checked it
        out, pull_back = self.fused.traced(self._joined(self._inputs(hidden, action)))

        def from_values(gradient: Tensor, **wanted: bool) -> tuple[Any, list[Any]]:
            return pull_back(gradient.reshape(out.shape), **wanted)

        return out.view(self.count, *hidden.shape[:2], -1), from_values

    def _inputs(self, hidden: Tensor, action: Tensor | None) -> list[Tensor]:
        return [hidden, action] if self.reads_action and action is not None else [hidden]

    def _joined(self, inputs: Sequence[Tensor]) -> Tensor:
        """The critics' input (Q S, B, H + A), the same for each of the Q critics."""
        return torch.cat([x.expand(self.count, *x.shape) for x in inputs], -1).flatten(0, 1)


def policy_network(policy: nn.Sequential) -> Callable[[Tensor], Any]:
    """The policy's branch and head as one operation where they are a plain perceptron, then the layers after it."""
    branch, layer = policy
    linear, *after = layer if isinstance(layer, nn.Sequential) else [layer]
    network = fuse(branch, linear)
    if network is None:
        return policy
    return network if not after else lambda x: after[0](network(x))


def frozen_rows(module: nn.Module, count: int) -> nn.Module:
    """A stacked module on views of the first `count` rows of this one's parameters, without gradient."""
    frozen = copy.deepcopy(module)
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        frozen.get_submodule(owner)._parameters[leaf] = nn.Parameter(parameter.detach()[:count], requires_grad=False)
    return frozen
