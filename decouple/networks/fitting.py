"""Checks that blocks fit one another: one example runs through them; an error names the block and both shapes.

`separate` uses it with its example, or with the first block's own input shape; `multiply_adds` uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from decouple.checks import Must, checked
from decouple.networks.batching import AnyBatch

__all__ = ["acted", "check_fit", "evaluating", "example_inputs"]


SEPARATED = Must(
    lambda network: all(isinstance(getattr(network, part), nn.Sequential) for part in ("trunk", "policy", "value")),
    "made by separate()",
)


@checked(network=SEPARATED)
def check_fit(
    network: Any,
    policy_blocks: Sequence[nn.Module],
    value_blocks: Sequence[nn.Module],
    example: Tensor | Mapping[str, Tensor] | None,
) -> None:
    """Run one example through trunk and branches; ValueError names a block that does not fit, with both shapes."""
    network.example = _example_shapes(network, policy_blocks or value_blocks, example)
    inputs = example_inputs(network, example, cast=example is None)  # not cast: a wrong type must show here
    if inputs is None:
        return
    missing = {*network.policy.keys, *network.value.keys} - inputs.keys()
    if missing:
        raise ValueError(f"example must hold every further key that a branch reads; it lacks {sorted(missing)}")
    k, given = network.at, example is not None
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        inputs = {key: each.clone() if each.is_inference() else each for key, each in inputs.items()}  # have versions
        hidden = inputs["observation"]
        for index, block in enumerate(network.trunk):
            hidden = _run_block(block, index, "policy", hidden, (), None, given=given, kept=inputs["observation"])
        for name, blocks in (("policy", policy_blocks), ("value", value_blocks)):
            branch = getattr(network, name)
            features, expects = hidden, _own_shape(blocks, k, inputs["observation"])
            for index, block in enumerate(branch):
                extra = tuple(inputs[key] for key in branch.keys) if index == branch.reader else ()
                own = None if index else expects
                features = _run_block(block, k + index, name, features, extra, own, given=given, kept=hidden)
            setattr(network, f"{name}_size", int(features.shape[-1]) if features.ndim == 2 else None)


def _run_block(
    block: nn.Module,
    index: int,
    stack: str,
    x: Tensor,
    extra: tuple[Tensor, ...],
    expects: tuple[int, ...] | None,
    *,
    given: bool,
    kept: Tensor,
) -> Tensor:
    """Run the block, check its output and return it.

    expects: the input shape that the block's own stack would give it, for the message of a block without `in_shape`.
    given: True where the caller gave an example, which the first block reads.
    kept: the observation or the trunk's output, which other blocks read too: this block must not change it.
    """
    name = f"{stack}_blocks[{index}] ({type(block).__name__})"
    if isinstance(block, AnyBatch) and block.features is None:
        block.features = x.ndim - 1
    declared = getattr(block, "in_shape", None)
    source = " of the example" if given and index == 0 and not extra else ""
    if declared is not None and not extra and tuple(x.shape[1:]) != tuple(declared):
        raise ValueError(f"{name} takes {tuple(declared)}, but gets {tuple(x.shape[1:])}{source}")
    shapes = [tuple(e.shape[1:]) for e in (x, *extra)]
    version = kept._version
    try:
        out = block(x, *extra)
    except Exception as error:
        takes = declared or expects or _linear_shape(block)
        types = {p.dtype for p in block.parameters() if p.is_floating_point()}
        others = {e.dtype for e in (x, *extra) if e.is_floating_point()} - types
        if types and others:
            wants, got = (" and ".join(sorted(map(str, each))) for each in (types, others))
            raise ValueError(f"{name} takes {wants}, but gets {got} from the example: {error}") from error
        raise ValueError(
            f"{name} takes {takes or 'another shape'}, but gets {shapes if extra else shapes[0]}{source}: {error}"
        ) from error
    if not isinstance(out, Tensor) or out.shape[:1] != x.shape[:1]:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{name} must give one tensor that keeps the batch axes; got {got} from {tuple(x.shape)}")
    if kept._version != version:
        raise ValueError(
            f"{name} must not work in place on the observation or the trunk's output: other blocks read it too"
        )
    if declared is None:
        _check_batch_axes(block, name, (x, *extra), out)
    return out


def _check_batch_axes(block: nn.Module, name: str, inputs: Sequence[Tensor], out: Tensor) -> None:
    """Check that a block takes no, one and two batch axes and treats rows by themselves; ValueError otherwise.

    Args:
        inputs: its inputs of one row, (1, ...) each. out: what it made of them.
    """
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay
    rows = [torch.cat([each, _other_row(each, generator)]) for each in inputs]  # (2, ...)
    for axes, lead in (("one leading batch axis", (2,)), ("none", ()), ("two leading batch axes", (3, 2))):
        # Copies: a block may work in place on an input that no other block reads.
        given = [each.expand(*lead, *each.shape[1:]).clone() if lead else each[0].clone() for each in rows]
        expected = out.shape[1:]
        why = None
        try:
            found = block(*given)
        except Exception as error:
            why = f"with {axes} it fails: {error}"
        else:
            first = found[(0,) * len(lead)] if found.shape == (*lead, *expected) else None
            if first is None:
                why = f"with {axes} it gives {tuple(found.shape)} in place of {(*lead, *expected)}"
            elif not torch.allclose(first, out[0], rtol=1e-3, atol=1e-4, equal_nan=True):
                why = f"with {axes} a row's output depends on the other rows"
        if why:
            raise ValueError(
                f"{name} must take any number of leading batch axes and treat rows by themselves; {why}. A module that "
                "takes one batch axis becomes such a block by any_batch(module)"
            )


def _other_row(row: Tensor, generator: torch.Generator) -> Tensor:
    """A row unlike this one: random floats in [0, 1), or zeros, which are indices too."""
    if not row.is_floating_point():
        return torch.zeros_like(row)
    return torch.rand(row.shape, generator=generator).to(row)


def _linear_shape(block: nn.Module | None) -> tuple[int, ...] | None:
    """The input shape of a plain linear layer; None for other blocks, and for a lazy layer, which has none yet."""
    return (block.in_features,) if isinstance(block, nn.Linear) and block.in_features > 0 else None


def _own_shape(blocks: Sequence[nn.Module], k: int, observation: Tensor) -> tuple[int, ...] | None:
    """The output shape of the stack's own first k blocks; None at k = 0 or depth, or where they do not run on this."""
    if k == 0 or k >= len(blocks):
        return None
    try:
        with evaluating(*blocks[:k]):
            for block in blocks[:k]:
                observation = block(observation)
        return tuple(observation.shape[1:])
    except Exception:
        return None


def _example_shapes(
    network: Any, blocks: Sequence[nn.Module], example: Tensor | Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    if example is None:
        first = blocks[0] if blocks else None
        shape = getattr(first, "in_shape", None) or _linear_shape(first)
        if shape is None or network.policy.keys or network.value.keys:
            if network.policy.keys or network.value.keys:
                keys = sorted({*network.policy.keys, *network.value.keys})
                raise ValueError(f"example must be a mapping with observation and {keys}, since a branch reads them")
            return {}
        return {"observation": torch.empty(shape, device="meta")}
    tensors = {"observation": example} if isinstance(example, Tensor) else dict(example)
    if "observation" not in tensors:
        raise ValueError(f"example must hold the key observation; got {sorted(tensors)}")
    return {key: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for key, tensor in tensors.items()}


@checked()
def example_inputs(
    network: nn.Module, example: Tensor | Mapping[str, Tensor] | None, *, cast: bool = True
) -> dict[str, Tensor] | None:
    """One example with a batch axis of 1, on the parameters' device, and in their type unless `cast` is false."""
    if example is not None:
        tensors = {"observation": example} if isinstance(example, Tensor) else dict(example)
        if "observation" not in tensors:
            raise ValueError(f"example must hold the key observation; got {sorted(tensors)}")
    elif known := getattr(network, "example", None):
        tensors = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in known.items()}
    else:
        return None
    like = next((p for p in network.parameters() if not isinstance(p, nn.UninitializedParameter)), torch.zeros(0))
    return {
        key: tensor[None].to(like.device, like.dtype if cast and tensor.is_floating_point() else tensor.dtype)
        for key, tensor in tensors.items()
    }


def acted(policy: nn.Module, step: TensorDictBase) -> TensorDictBase:
    """The step with the policy's action; ValueError, naming the policy, for a module that does not write one."""
    says = f"policy must be a module that reads a TensorDict and writes action; got a {type(policy).__name__}"
    try:
        found = policy(step)
    except (TypeError, AttributeError) as error:  # as of a layer, which takes a tensor
        raise ValueError(f"{says}: {error}") from error
    if not isinstance(found, TensorDictBase) or found.get("action", None) is None:
        raise ValueError(says)
    return found


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode inside the context, so that an example does not change running statistics."""
    modes = {module: module.training for root in modules for module in root.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
