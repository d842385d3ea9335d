"""A separation that is learned: gates between the policy's blocks and the value's own.

    network = gated(mlp_blocks(8, [64, 64]), mlp_blocks(8, [64, 64]))
    model = actor_value(network, env.action_spec)
    gates_of(model).values()                # g_1, g_2, each in [0, 1]
    chosen_separation([0.9, 0.2])           # 1: the value network would share the first block

The value network reads at its block i a mixture, `h_i = g_i trunk_i + (1 - g_i) own_i`, of the outputs of the policy's
block i and of its own, with `g_i = sigmoid(a_i / temperature)`. A gate of 1 hands the policy's features on, whatever
came before it. So the last gate above one half is the separation point k that the gates choose. `learn_gates`
(decouple.on_policy.gates) trains them. Ours; no source was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decouple.checks import PROBABILITY, SOME, all_of, at_least, check_setting, checked
from decouple.networks.counting import block_multiply_adds
from decouple.networks.recurrence import recurrent_blocks
from decouple.networks.separation import Branch, Cut, SeparatedNetwork, separate

__all__ = ["GatedNetwork", "GatedPolicy", "Gates", "chosen_separation", "gated", "gates_of"]


class Gates(nn.Module):
    """The gates g_1 to g_d: a parameter `logits` (d,), or (S, d) in a stack, which starts at 0, and a temperature."""

    temperature: Tensor
    block_costs: list[int]  # multiply-adds of the blocks that they stand between

    @checked(count=at_least(1))
    def __init__(self, count: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(count))
        self.register_buffer("temperature", torch.ones(()))
        self.block_costs = [1] * count

    @staticmethod
    @checked(gates=SOME)
    def stacked(gates: Sequence[Gates]) -> Gates:
        """The gates of S networks as one module, for `stack`."""
        together = Gates(gates[0].logits.shape[-1])
        together.logits = nn.Parameter(torch.stack([each.logits.detach() for each in gates]))
        together.temperature.copy_(gates[0].temperature)
        together.block_costs = gates[0].block_costs
        return together

    def values(self) -> Tensor:
        """The gates, (d,) or (S, d), each in [0, 1]."""
        return torch.sigmoid(self.logits / self.temperature)

    def forward(self, index: int, trunk: Tensor, own: Tensor) -> Tensor:
        """The mixture of the policy's and the value's features at block `index`, counted from 0; of any shape."""
        gate = self.values()[..., index]
        gate = gate.reshape(*gate.shape, *(1 for _ in range(own.ndim - gate.ndim))).to(own.dtype)
        return gate * trunk + (1 - gate) * own


class GatedPolicy(Branch):
    """The policy's blocks, which also hand on the outputs of the first of them: (features, outputs ...)."""

    def __init__(self, blocks: Sequence[nn.Module], shown: int):
        super().__init__(blocks, name="policy")
        self.shown = shown

    def forward(self, hidden: Tensor, *inputs: Tensor) -> Any:
        outputs = []
        for block in self:
            hidden = block(hidden)
            outputs.append(hidden)
        return _full(hidden), *outputs[: self.shown]


class GatedValue(nn.Module):
    """The value's own blocks and the gates: the observation and the policy's outputs -> features (*B, F).

    Without the policy's outputs it runs its own blocks alone, as with all gates at 0.
    """

    def __init__(self, blocks: Sequence[nn.Module], gates: Gates, cut: Cut):
        super().__init__()
        self.blocks, self.gates, self.cut = nn.Sequential(*blocks), gates, cut
        self.keys: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def forward(self, hidden: Tensor, *outputs: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            hidden = block(hidden)
            if index < len(outputs):
                _, trunk = self.cut(outputs[index])  # with the scale of the value's gradient
                hidden = self.gates(index, trunk, hidden)
        return _full(hidden)


class GatedNetwork(SeparatedNetwork):
    """A policy network and a value network with gates between them; made by `gated`. It has no trunk: `at` is 0.

    Attributes:
        gated: number of gates, d.
        block_costs: multiply-adds of the value's own blocks 1 to d, for one observation.
    """

    def __init__(self, policy: GatedPolicy, value: GatedValue, like: SeparatedNetwork, block_costs: list[int]):
        super().__init__(nn.Sequential(), value.cut, policy, value)
        self.policy_size, self.value_size, self.example = like.policy_size, like.value_size, like.example
        self.gated, self.block_costs = policy.shown, block_costs
        value.gates.block_costs = block_costs

    def forward(self, observation: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """(*B, ...) -> `policy_hidden` (*B, F), `value_hidden` (*B, F)."""
        features, *outputs = self.policy(observation)
        return features, self.value(observation, *outputs)


@checked(value_gradient=PROBABILITY)
def gated(
    policy_blocks: Sequence[nn.Module],
    value_blocks: Sequence[nn.Module],
    *,
    value_gradient: float = 1.0,
    example: Tensor | Mapping[str, Tensor] | None = None,
) -> GatedNetwork:
    """Put gates between two block stacks whose outputs have equal shapes, block by block.

    The value's blocks start as copies of the policy's, where they have the same parameters: a mixture of two units that
    hold one feature with opposite signs would be nothing, and the gates could not pass from one to the other.

    Args:
        policy_blocks: the policy's blocks.
        value_blocks: the value's blocks, none of which is the policy's; their parameters are set here.
        value_gradient: scale in [0, 1] of the gradient that the value sends through the gates into the policy's blocks.
        example: one observation, as for `separate`.

    Raises:
        ValueError: recurrent blocks, blocks that do not fit, outputs of different shapes, or an input shape that is
            not known.
    """
    policy_blocks, value_blocks = list(policy_blocks), list(value_blocks)
    for name, blocks in (("policy_blocks", policy_blocks), ("value_blocks", value_blocks)):
        check_setting(name, blocks, lambda v, n=name: v and not recurrent_blocks(v, n), "blocks without a memory")
    like = separate(policy_blocks, value_blocks, 0, example=example)
    known = sorted(like.example)
    check_setting("example", known, lambda keys: "observation" in keys, "given for blocks of other packages")
    count = min(len(policy_blocks), len(value_blocks))
    own, others = (block_multiply_adds(blocks[:count], like.example) for blocks in (value_blocks, policy_blocks))
    for index, ((_, shape), (_, other)) in enumerate(zip(own, others, strict=True)):
        if shape != other:
            raise ValueError(
                f"value_blocks must give the shapes of policy_blocks for gates between them; block {index} gives "
                f"{shape} and {other}"
            )
    for block, other in zip(value_blocks, policy_blocks, strict=False):
        if _shapes(block) == _shapes(other):
            block.load_state_dict(other.state_dict())
    cut = Cut(1.0, value_gradient)
    value = GatedValue(value_blocks, Gates(count), cut)
    return GatedNetwork(GatedPolicy(policy_blocks, count), value, like, [cost for cost, _ in own])


def gates_of(model: nn.Module) -> Gates | None:
    """The gates of a network from `gated`, of a model on it, or of a stack of them; None where there are none."""
    return next((module for module in model.modules() if isinstance(module, Gates)), None)


@checked(gates=all_of(PROBABILITY, least=1))
def chosen_separation(gates: Sequence[float]) -> int:
    """The separation point k that gates g_1 to g_d choose: the last one above one half; 0 where there is none.

    >>> [chosen_separation(gates) for gates in ([0.1, 0.2], [0.9, 0.2], [0.1, 0.8])]
    [0, 1, 2]
    """
    return max((index for index, gate in enumerate(gates, start=1) if gate > 0.5), default=0)


def _shapes(block: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in block.state_dict().items()}


def _full(features: Tensor) -> Tensor:
    """Features out of autocast in full precision."""
    lowered = features.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(features.device.type)
    return features.float() if lowered else features
