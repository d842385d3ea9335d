"""Recurrent blocks: a GRU or an LSTM in the place of any block, whose state travels in the TensorDict.

    blocks = [*mlp_blocks(4, [32]), gru_block(32, 32)]
    model = actor_value(separate(blocks, value_blocks, at=1), env.action_spec)
    model.in_keys                                  # ["observation", "is_init", "recurrent_state_policy_0"]
    env = with_memory(env, model)                  # TorchRL's InitTracker, and the states' first values

A step reads `is_init` (*B, 1), True where an episode begins, and the block's state, and writes the new state under
`next`, as TorchRL's GRUModule and LSTMModule do. In `torchrl.modules.set_recurrent_mode(True)` the last batch axis is
time: the first step's state is read, and the state is reset within the sequence where `is_init` says so. Equations and
gates' order are those of `torch.nn.GRU` and `torch.nn.LSTM`. TorchRL's modules hold an `nn.GRU`, which several agents
cannot share as a stack; these blocks consist of linear layers, of which `stack` makes one product.

GRU: Cho et al. 2014, https://arxiv.org/abs/1406.1078. LSTM: Hochreiter and Schmidhuber 1997,
https://doi.org/10.1162/neco.1997.9.8.1735.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from decouple.checks import at_least, checked, one_of

if TYPE_CHECKING:  # TorchRL takes seconds to import, and a network without a memory does not need it
    from torchrl.envs import EnvBase, TensorDictPrimer

__all__ = [
    "RecurrentBlock",
    "RecurrentPart",
    "RecurrentSequential",
    "gru_block",
    "lstm_block",
    "recurrent_blocks",
    "run_blocks",
    "with_memory",
]

GATES = {"gru": 3, "lstm": 4}


def gru_block(in_features: int, hidden_size: int, *, gain: float | None = 1.0) -> RecurrentBlock:
    """A gated recurrent unit as a block, (*B, in_features) -> (*B, hidden_size).

    Args:
        in_features: size of the input, plus the size of any further keys that the block reads.
        hidden_size: units, and size of the state.
        gain: gain of the orthogonal initialisation of both weights, with biases at 0; None keeps PyTorch's own for
            recurrent layers.
    """
    return RecurrentBlock("gru", in_features, hidden_size, gain=gain)


def lstm_block(in_features: int, hidden_size: int, *, gain: float | None = 1.0) -> RecurrentBlock:
    """Long short-term memory as a block, (*B, in_features) -> (*B, hidden_size); arguments as for `gru_block`."""
    return RecurrentBlock("lstm", in_features, hidden_size, gain=gain)


class RecurrentBlock(nn.Module):
    """A recurrent layer; made by `gru_block` and `lstm_block`.

    Attributes:
        kind: gru or lstm.
        hidden_size: number of units.
        state_shape: shape of a state: (1, hidden_size), the output; for an lstm (2, hidden_size), output and cell.
    """

    @checked(kind=one_of(*GATES), in_features=at_least(1), hidden_size=at_least(1), gain=at_least(0))
    def __init__(self, kind: str, in_features: int, hidden_size: int, *, gain: float | None = 1.0):
        super().__init__()
        self.kind, self.hidden_size, self.in_shape = kind, hidden_size, (in_features,)
        self.inputs = nn.Linear(in_features, GATES[kind] * hidden_size)
        self.memory = nn.Linear(hidden_size, GATES[kind] * hidden_size)
        for layer in (self.inputs, self.memory):
            for parameter in layer.parameters():
                if gain is None:
                    nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)
                elif parameter is layer.weight:
                    for gate in parameter.split(hidden_size):
                        nn.init.orthogonal_(gate, gain)
                else:
                    nn.init.zeros_(parameter)

    @property
    def state_shape(self) -> tuple[int, int]:
        return (1 if self.kind == "gru" else 2, self.hidden_size)

    def forward(self, x: Tensor, *extra: Tensor, is_init: Tensor | None = None, state: Tensor | None = None) -> Any:
        """Features (*B, hidden_size) and, where a state (*B, *state_shape) is given, the new states.

        Without a state it is zero. In recurrent mode B is (*A, T), and the state of the first step is read.
        """
        from torchrl.modules.tensordict_module.rnn import recurrent_mode

        x = torch.cat([x, *(each.to(x.dtype) for each in extra)], -1) if extra else x
        gates = self.inputs(x)  # (*B, gates H)
        first = gates.new_zeros(*gates.shape[:-1], *self.state_shape) if state is None else state
        if not recurrent_mode():
            after = self._step(gates, first if is_init is None else _reset(first, is_init))  # (*B, *state_shape)
        else:
            now, states = first.select(-3, 0), []
            for t, each in enumerate(gates.unbind(-2)):
                now = self._step(each, now if is_init is None else _reset(now, is_init.select(-2, t)))
                states.append(now)
            after = torch.stack(states, -3)  # (*A, T, *state_shape)
        features = after.select(-2, 0)
        # A state keeps its type, also under autocast: a rollout stacks the states of all steps.
        return features if state is None else (features, after.to(state.dtype))

    def _step(self, gates: Tensor, state: Tensor) -> Tensor:
        """One step: the inputs' share of the gates (*B, gates H), the state before and after it (*B, *state_shape)."""
        hidden = state.select(-2, 0)  # (*B, H)
        own = self.memory(hidden)
        if self.kind == "gru":
            (r, z, n), (own_r, own_z, own_n) = gates.chunk(3, -1), own.chunk(3, -1)
            n = torch.tanh(n + torch.sigmoid(r + own_r) * own_n)
            return torch.lerp(n, hidden.to(n.dtype), torch.sigmoid(z + own_z)).unsqueeze(-2)
        i, f, g, o = (gates + own).chunk(4, -1)
        cell = torch.sigmoid(f) * state.select(-2, 1) + torch.sigmoid(i) * torch.tanh(g)
        return torch.stack([torch.sigmoid(o) * torch.tanh(cell), cell], -2)

    def extra_repr(self) -> str:
        return f"kind={self.kind}, in_features={self.in_shape[0]}, hidden_size={self.hidden_size}"


def _reset(state: Tensor, is_init: Tensor) -> Tensor:
    """The state (*B, *state_shape), zero where `is_init` (*B, 1)."""
    return state.masked_fill(is_init.unsqueeze(-1), 0)


class RecurrentSequential(nn.Sequential):
    """Blocks of which some are recurrent: (x, is_init, state of each) -> (features, new state of each).

    With x alone, states are zero, and it returns the features alone.
    """

    def forward(self, x: Tensor, *memory: Tensor) -> Any:
        return run_blocks(self, x, memory)


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    memory: Sequence[Tensor],
    extra: Sequence[Tensor] = (),
    reader: int | None = None,
) -> Any:
    """Run blocks one after another; (features, new states) with a memory, the features alone without one.

    Args:
        blocks: the blocks. x: their input.
        memory: `is_init`, and a state for each recurrent block; empty: states are zero.
        extra, reader: further inputs, and the index of the block that reads them.
    """
    states, after = iter(memory[1:]), []
    for index, block in enumerate(blocks):
        further = extra if index == reader else ()
        if memory and isinstance(block, RecurrentBlock):
            x, state = block(x, *further, is_init=memory[0], state=next(states))
            after.append(state)
        else:
            x = block(x, *further)
    return (x, *after) if memory else x


def recurrent_blocks(blocks: Iterable[nn.Module], name: str = "blocks") -> dict[int, RecurrentBlock]:
    """The recurrent blocks of a list, by their index.

    Raises:
        ValueError: a recurrent block inside another block, which would not get its state; `name` is the list's.
    """
    found: dict[int, RecurrentBlock] = {}
    for index, block in enumerate(blocks):
        if isinstance(block, RecurrentBlock):
            found[index] = block
        elif any(isinstance(inner, RecurrentBlock) for inner in block.modules()):
            raise ValueError(
                f"{name} must hold recurrent blocks themselves, not inside of others, so that their states travel; "
                f"{name}[{index}] is a {type(block).__name__} with one inside"
            )
    return found


class RecurrentPart(TensorDictModule):
    """A part of a model with recurrent blocks: it reads `is_init` and their states and writes their new states.

    Args:
        part: the part's blocks, a `RecurrentSequential` or a branch.
        in_keys, out_keys: keys as without a memory.
        name: name of the part in the states' keys, `recurrent_state_<name>_<index of the block>`.
    """

    def __init__(self, part: nn.Module, in_keys: Sequence[Any], out_keys: Sequence[Any], name: str):
        self.states = {
            f"recurrent_state_{name}_{index}": own.state_shape for index, own in recurrent_blocks(part).items()
        }
        super().__init__(
            part, [*in_keys, "is_init", *self.states], [*out_keys, *(("next", key) for key in self.states)]
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """TorchRL's transform that gives an environment the states' first values, zero."""
        from torchrl.data import Unbounded
        from torchrl.envs import TensorDictPrimer

        dtype = next(self.parameters()).dtype
        specs = {key: Unbounded(shape=shape, dtype=dtype) for key, shape in self.states.items()}
        return TensorDictPrimer(specs, expand_specs=True)


def with_memory(env: EnvBase, policy: nn.Module) -> EnvBase:
    """The environment with `is_init` and the states that a recurrent policy reads; itself for any other policy."""
    if "is_init" not in getattr(policy, "in_keys", ()):
        return env
    from torchrl.envs import Compose, InitTracker, TransformedEnv
    from torchrl.modules.utils import get_primers_from_module

    tracker = [] if "is_init" in env.observation_spec.keys() else [InitTracker()]
    primers: Any = get_primers_from_module(policy, warn=False)  # a file keeps its states itself, and has none
    return TransformedEnv(env, Compose(*tracker, *([primers] if primers is not None else [])), auto_unwrap=False)
