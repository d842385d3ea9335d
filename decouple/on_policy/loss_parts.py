"""What losses on a model's heads have in common: checks of their arguments, and how they read a minibatch.

prediction = run_network(network, params, minibatch, "state_value")     # (*B, 1), the minibatch unchanged
target = constant(minibatch, "value_target", prediction.shape)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor
from torch.nn import functional
from torchrl.objectives.common import LossModule

from decouple.checks import FLOAT32_MAX, check_setting

__all__ = [
    "action_vector",
    "as_integers",
    "as_network",
    "constant",
    "in_keys",
    "keys_of",
    "nonnegative",
    "run_network",
]


def action_vector(
    action: Tensor, batch: tuple[int, ...], size: int, *, discrete: bool, choices: Sequence[int] = ()
) -> Tensor:
    """Actions as vectors (*B, size): one-hot ones of indices (*B,), or of several at once (*B, K), else as they come.

    ValueError for another shape. `batch` is *B.
    """
    if choices and action.shape == (*batch, len(choices)):
        indices = as_integers("action", action).long().unbind(-1)
        action = torch.cat(list(map(functional.one_hot, indices, choices)), -1)
    elif discrete and action.shape == batch:
        action = functional.one_hot(as_integers("action", action).long(), size)  # (*B, size)
    if action.shape != (*batch, size):
        allowed = f"{(*batch, size)}" + (f" or, as an index, {batch}" if discrete else "")
        raise ValueError(f"action must have shape {allowed}; got {tuple(action.shape)}")
    return action


def keys_of(loss: LossModule) -> Any:
    """A loss's own `_AcceptedKeys`, which LossModule's annotation does not know."""
    return loss.tensor_keys


def in_keys(network: TensorDictModule, *keys: NestedKey) -> list[Any]:
    """The keys that a loss on this network reads, with further ones of its own, each once."""
    return list(dict.fromkeys([*network.in_keys, *keys]))


def run_network(
    network: TensorDictModule, params: TensorDictBase, tensordict: TensorDictBase, key: NestedKey
) -> Tensor:
    """The network's output under key, computed on a copy of its inputs: the caller's `state_value` is not changed."""
    with params.to_module(network, preserve_module_state=False):
        output = network(tensordict.select(*network.in_keys)).get(key, None)
    if output is None:
        raise KeyError(f"the network writes {network.out_keys}, not {key!r}: name its output by set_keys")
    return output


def constant(tensordict: TensorDictBase, key: NestedKey, shape: tuple[int, ...]) -> Tensor:
    """An input of this shape, without its gradient; KeyError where it is missing, ValueError for another shape."""
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(f"{key!r} is not in the input, which holds {list(tensordict.keys())}; name it by set_keys")
    if value.shape != shape:  # else it would broadcast without an error
        raise ValueError(f"{key!r} must have the prediction's shape {tuple(shape)}; got {tuple(value.shape)}")
    return value.detach()


def as_network(name: str, network: Any) -> TensorDictModule:
    """The network itself; TypeError, by its name, where it is no TensorDictModule."""
    if not isinstance(network, TensorDictModuleBase):
        raise TypeError(f"{name} must be a TensorDictModule; got {type(network).__name__}")
    return network  # pyright: ignore[reportReturnType]  # a sequence of modules serves as well


def as_integers(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself; ValueError, by its name, where it is not of an integer type."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be of an integer type; got {tensor.dtype}")
    return tensor


def nonnegative(name: str, value: Any) -> float:
    """A coefficient as a float; ValueError, by its name, where it is negative or not finite."""
    check_setting(name, value, lambda v: not isinstance(v, bool) and 0 <= v <= FLOAT32_MAX, "a finite number >= 0")
    return float(value)
