"""Separation points: where the value network leaves the policy network.

A policy network and a value network are two lists of blocks. **Separation at k** means that the value network uses the
policy's first k blocks in place of its own: k = 0 is full separation, k = depth full sharing.

    network = separate(impala_blocks(), impala_blocks(), at="late")
    policy_hidden, value_hidden = network(frames)     # trunk once, then each branch
    parameter_count(network)                          # {"trunk": ..., "policy": ..., "value": ..., "total": ...}

The degrees shared, early, late and full are those of Nafi, Ali and Hsu, *Analyzing the Sensitivity to Policy-Value
Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023). Two lists of different sizes are the asymmetric
actor and critic of Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "SeparatedNetwork",
    "cut_gradients",
    "multiply_adds",
    "parameter_count",
    "scale_gradient",
    "separate",
    "separation_index",
]

PARTS = ("trunk", "policy", "value")


def separation_index(at: int | str, depth: int) -> int:
    """The separation point k of a name or an integer, for stacks of `depth` blocks.

    `shared` is depth, `full` 0, `early` 1 and `late` depth - 2 (the last residual stage and the dense block of an
    IMPALA-CNN are separate). `early` and `late` are distinct points of their own from depth 4 on, and refused below 3.

    >>> [separation_index(at, depth=4) for at in ("shared", "late", "early", "full", 3)]
    [4, 2, 1, 0, 3]

    Raises:
        ValueError: an unknown name, or an integer outside [0, depth].
    """
    names = {"shared": depth, "full": 0} | ({"early": 1, "late": depth - 2} if depth >= 3 else {})
    if isinstance(at, str) and at.removeprefix("-").isdecimal():
        at = int(at)
    if isinstance(at, str):
        if at not in names:
            raise ValueError(f"at must be one of {sorted(names)} or an integer in [0, {depth}]; got {at!r}")
        return names[at]
    if isinstance(at, bool) or not isinstance(at, int):
        raise ValueError(f"at must be a name or an integer; got {at!r}")
    if not 0 <= at <= depth:
        raise ValueError(f"at must lie in [0, {depth}], the shorter stack's depth; got {at}")
    return at


def separate(
    policy_blocks: Sequence[nn.Module],
    value_blocks: Sequence[nn.Module],
    at: int | str,
    *,
    policy_gradient: float = 1.0,
    value_gradient: float = 1.0,
    policy_keys: Sequence[str] = (),
    value_keys: Sequence[str] = (),
    example: Tensor | Mapping[str, Tensor] | None = None,
) -> SeparatedNetwork:
    """Separate two block stacks at k: the value network uses the policy's first k blocks in place of its own.

    Args:
        policy_blocks: the policy's blocks; the first k become the trunk, the others the policy branch.
        value_blocks: the value's blocks; the first k are dropped, the others become the value branch.
        at: the separation point, a name (`shared`, `late`, `early`, `full`) or an integer k.
        policy_gradient: scale in [0, 1] of the gradient that the policy branch sends into the trunk (0 stops it).
        value_gradient: the same for the value branch. PPO uses 1 and 1; DrQ and SAC-AE use 0 and 1.
        policy_keys: further observation keys that the policy branch reads after the cut. They go, in order, to the
            branch's first block whose `forward` accepts more than one argument.
        value_keys: the same for the value branch (a privileged critic).
        example: one observation without batch axes, or a mapping with `observation` and every further key, run through
            all blocks once to check that they fit and to learn the feature sizes. Blocks made by this package and
            plain `nn.Linear` say themselves what they take, so it can be left out unless further keys are read. Without
            it a user's own blocks are not checked.

    Returns:
        The separated network, with `.trunk`, `.cut`, `.policy`, `.value`, `.at`.

    Raises:
        ValueError: k out of range, blocks that do not fit (with both shapes and the block's index), a block that
            changes in place what the other branch reads too, a gradient scale outside [0, 1], further keys that no
            block can read, or a parameter that both branches would own.
    """
    policy_blocks, value_blocks = list(policy_blocks), list(value_blocks)
    k = separation_index(at, min(len(policy_blocks), len(value_blocks)))
    trunk = nn.Sequential(*policy_blocks[:k])
    policy = Branch(policy_blocks[k:], policy_keys, name="policy")
    value = Branch(value_blocks[k:], value_keys, name="value")
    network = SeparatedNetwork(trunk, Cut(policy_gradient, value_gradient), policy, value)
    _check_ownership(network)
    _check_fit(network, policy_blocks, value_blocks, example)
    return network


class SeparatedNetwork(nn.Module):
    """A trunk, a cut, a policy branch and a value branch. Made by `separate`; each parameter lies in exactly one part.

    Attributes:
        trunk: the shared blocks, k of them.
        cut: passes the trunk's output to each branch with its own gradient scale.
        policy: the policy's own blocks.
        value: the value's own blocks.
        at: the separation point k.
        policy_size: features of `policy_hidden`, None where no example told.
        value_size: features of `value_hidden`, None where no example told.
        example: shape and type of one observation and of every further key, as tensors on the device `meta`.
    """

    def __init__(self, trunk: nn.Sequential, cut: Cut, policy: Branch, value: Branch):
        super().__init__()
        self.trunk = trunk
        self.cut = cut
        self.policy = policy
        self.value = value
        self.policy_size: int | None = None
        self.value_size: int | None = None
        self.example: dict[str, Tensor] = {}

    @property
    def at(self) -> int:
        return len(self.trunk)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules that make the features of each part, in the order they run."""
        return {"trunk": [self.trunk], "policy": [self.policy], "value": [self.value]}

    def forward(
        self, observation: Tensor, policy_extra: Sequence[Tensor] = (), value_extra: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """(*B, ...) -> `policy_hidden` (*B, F_policy), `value_hidden` (*B, F_value)."""
        to_policy, to_value = self.cut(self.trunk(observation))
        return self.policy(to_policy, *policy_extra), self.value(to_value, *value_extra)


class Cut(nn.Module):
    """Passes the trunk's output to the policy and to the value branch, each with its own gradient scale in [0, 1]."""

    def __init__(self, policy_gradient: float = 1.0, value_gradient: float = 1.0):
        super().__init__()
        for name, scale in (("policy_gradient", policy_gradient), ("value_gradient", value_gradient)):
            if not 0 <= scale <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {scale}")
        self.policy_gradient = float(policy_gradient)
        self.value_gradient = float(value_gradient)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return scale_gradient(hidden, self.policy_gradient), scale_gradient(hidden, self.value_gradient)

    def extra_repr(self) -> str:
        return f"policy_gradient={self.policy_gradient}, value_gradient={self.value_gradient}"


class Branch(nn.Sequential):
    """The blocks after the cut; further observation keys go to the first block that accepts more than one argument."""

    def __init__(self, blocks: Sequence[nn.Module], keys: Sequence[str] = (), *, name: str = "branch"):
        super().__init__(*blocks)
        if isinstance(keys, str):
            raise ValueError(f"{name}_keys must be a list of keys; got the string {keys!r}")
        self.keys = tuple(keys)
        readers = [index for index, block in enumerate(blocks) if _reads_extra(block, len(self.keys))]
        if self.keys and not readers:
            raise ValueError(
                f"{name}_keys must be empty where no block of the {name} branch takes {1 + len(self.keys)} inputs; "
                f"got {list(self.keys)} and {len(blocks)} blocks after the cut"
            )
        self.reader = readers[0] if self.keys else None

    def forward(self, hidden: Tensor, *extra: Tensor) -> Tensor:
        if len(extra) != len(self.keys):
            raise ValueError(
                f"a branch that reads {list(self.keys)} must get {len(self.keys)} inputs more; got {len(extra)}"
            )
        for index, block in enumerate(self):
            hidden = block(hidden, *extra) if index == self.reader else block(hidden)
        # Features leave autocast in full precision: heads, distributions and losses need it.
        lowered = hidden.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(hidden.device.type)
        return hidden.float() if lowered else hidden


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x forward, scale * gradient backward; any shape. Scale 1 makes a view, so the gradient at it can be read."""
    if not x.is_floating_point():
        return x  # frames at k = 0: nothing upstream to send a gradient to
    if scale == 0:
        return x.detach()
    return x.view_as(x) if scale == 1 else _ScaleGradient.apply(x, scale)  # pyright: ignore[reportReturnType]


class _ScaleGradient(torch.autograd.Function):
    generate_vmap_rule = True  # TorchRL's GAE calls the value operator under vmap

    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.scale * gradient, None


def cut_gradients(loss: Tensor, features: TensorDictBase) -> dict[str, float]:
    """Gradients that each branch sends over the cut: their norms, and the cosine of the angle between them.

    Read as they arrive at the cut, before its gradient scales. A cosine below 0 says that policy and value pull the
    trunk in opposite directions.

    Args:
        loss: a scalar that still holds its graph; the graph is kept.
        features: a TensorDict that the features of `actor_value` wrote, with (`cut`, `policy`) and (`cut`, `value`),
            each (*B, ...).

    Returns:
        `policy_norm`, `value_norm` (0 where a branch got no gradient, or the cut stops it) and `cosine` (absent unless
        both got one); an empty dict at k = 0, where there is no trunk, and where the cut stops both.
    """
    cuts = {side: features.get(("cut", side), None) for side in ("policy", "value")}
    live = {side: cut for side, cut in cuts.items() if cut is not None and cut.requires_grad}
    if not live:
        return {}
    gradients = torch.autograd.grad(loss, list(live.values()), retain_graph=True, allow_unused=True)
    flat = {side: g.flatten().float() for side, g in zip(live, gradients, strict=True) if g is not None}
    norms = {side: g.norm() for side, g in flat.items()}
    report = {f"{side}_norm": norms[side].item() if side in norms else 0.0 for side in ("policy", "value")}
    if len(flat) == 2 and min(norms.values()) > 0:
        report["cosine"] = (flat["policy"] @ flat["value"] / (norms["policy"] * norms["value"])).item()
    return report


def parameter_count(network: nn.Module) -> dict[str, int]:
    """Parameters of each part and in `total`; of a network made by `separate` or a model made by `actor_value`.

    A model's heads count with their branch.
    """
    counts = {
        part: sum(p.numel() for p in {id(p): p for m in modules for p in m.parameters()}.values())
        for part, modules in _parts(network).items()
    }
    return counts | {"total": sum(counts.values())}


def multiply_adds(network: nn.Module, example: Tensor | Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Multiply-adds of convolutions and matrix products for one observation, per part and in `total`.

    Args:
        network: made by `separate`, or a model made by `actor_value` (heads count with their branch).
        example: one observation without batch axes, or a mapping as for `separate`; left out where the network
            already knows its observation's shape.
    """
    parts = _parts(network)
    inputs = _example_inputs(network, example)
    if inputs is None:
        raise ValueError("example must be given: the network does not know its observation's shape")
    counts = {}
    hidden: dict[str, Tensor] = {}
    with torch.no_grad(), _evaluating(network):
        for part, (body, *heads) in parts.items():
            with FlopCounterMode(display=False) as counter:
                if part == "trunk":
                    hidden["cut"] = body(inputs["observation"])
                else:
                    features = body(hidden["cut"], *(inputs[key] for key in body.keys))
                    for head in heads:
                        head(features)
            counts[part] = counter.get_total_flops() // 2
    return counts | {"total": sum(counts.values())}


def _parts(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Per part, the module that makes its features and then any heads on them."""
    parts = getattr(network, "parts", None)
    if not callable(parts):
        raise ValueError(f"network must come from separate() or actor_value(); got {type(network).__name__}")
    return parts()  # pyright: ignore[reportReturnType]


def _reads_extra(block: nn.Module, count: int) -> bool:
    """Whether the block's forward takes `count` positional arguments beside its input."""
    if count == 0:
        return False
    try:
        inspect.signature(block.forward).bind(*range(1 + count))
    except TypeError:
        return False
    return True


def _check_ownership(network: SeparatedNetwork) -> None:
    owners: dict[int, str] = {}
    for part in PARTS:
        for name, parameter in getattr(network, part).named_parameters():
            other = owners.setdefault(id(parameter), part)
            if other != part:
                raise ValueError(
                    f"policy_blocks and value_blocks must not hold the same parameter beyond the cut; parameter "
                    f"{name} lies in {other} and in {part}: build each list on its own"
                )


def _check_fit(
    network: SeparatedNetwork,
    policy_blocks: Sequence[nn.Module],
    value_blocks: Sequence[nn.Module],
    example: Tensor | Mapping[str, Tensor] | None,
) -> None:
    """Run one example through trunk and branches; name the block that does not fit, with both shapes."""
    network.example = _example_shapes(network, policy_blocks or value_blocks, example)
    inputs = _example_inputs(network, example)
    if inputs is None:
        return
    missing = {*network.policy.keys, *network.value.keys} - inputs.keys()
    if missing:
        raise ValueError(f"example must hold every further key that a branch reads; it lacks {sorted(missing)}")
    k = network.at
    with torch.no_grad(), _evaluating(network):
        hidden = inputs["observation"]
        for index, block in enumerate(network.trunk):
            hidden = _run_block(block, index, "policy", hidden, (), expects=None)
        for name, blocks in (("policy", policy_blocks), ("value", value_blocks)):
            branch: Branch = getattr(network, name)
            features, expects = hidden, _own_shape(blocks, k, inputs["observation"])
            for index, block in enumerate(branch):
                extra = tuple(inputs[key] for key in branch.keys) if index == branch.reader else ()
                version = hidden._version
                features = _run_block(block, k + index, name, features, extra, expects if index == 0 else None)
                if hidden._version != version:
                    raise ValueError(
                        f"{name}_blocks[{k + index}] ({type(block).__name__}) must not work in place on what it gets "
                        "over the cut: the other branch reads it too"
                    )
            setattr(network, f"{name}_size", int(features.shape[-1]) if features.ndim == 2 else None)


def _run_block(
    block: nn.Module, index: int, stack: str, x: Tensor, extra: tuple[Tensor, ...], expects: tuple[int, ...] | None
) -> Tensor:
    """The block's output; `expects` is what its own stack would give it, where the block does not say what it takes."""
    name = f"{stack}_blocks[{index}] ({type(block).__name__})"
    declared = getattr(block, "in_shape", None)
    if declared is not None and not extra and tuple(x.shape[1:]) != tuple(declared):
        raise ValueError(f"{name} takes {tuple(declared)}, but gets {tuple(x.shape[1:])}")
    shapes = [tuple(e.shape[1:]) for e in (x, *extra)]
    try:
        out = block(x, *extra)
    except Exception as error:
        takes = declared or expects or _linear_shape(block)
        raise ValueError(
            f"{name} takes {takes or 'another shape'}, but gets {shapes if extra else shapes[0]}: {error}"
        ) from error
    if not isinstance(out, Tensor) or out.shape[:1] != x.shape[:1]:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{name} must give one tensor that keeps the batch axes; got {got} from {tuple(x.shape)}")
    return out


def _linear_shape(block: nn.Module | None) -> tuple[int, ...] | None:
    """What a plain linear layer takes; None for other blocks, and for a lazy layer, which does not know yet."""
    return (block.in_features,) if isinstance(block, nn.Linear) and block.in_features > 0 else None


def _own_shape(blocks: Sequence[nn.Module], k: int, observation: Tensor) -> tuple[int, ...] | None:
    """The shape that the stack's own first k blocks would hand to block k; None where they do not run on this."""
    if k == 0 or k >= len(blocks):
        return None
    try:
        with _evaluating(*blocks[:k]):
            for block in blocks[:k]:
                observation = block(observation)
        return tuple(observation.shape[1:])
    except Exception:
        return None


def _example_shapes(
    network: SeparatedNetwork, blocks: Sequence[nn.Module], example: Tensor | Mapping[str, Tensor] | None
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


def _example_inputs(network: nn.Module, example: Tensor | Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    """One example with a batch axis of 1, in the parameters' type and on their device."""
    if example is not None:
        tensors = {"observation": example} if isinstance(example, Tensor) else dict(example)
    elif known := getattr(network, "example", None):
        tensors = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in known.items()}
    else:
        return None
    like = next((p for p in network.parameters() if not isinstance(p, nn.UninitializedParameter)), torch.zeros(0))
    return {
        key: tensor[None].to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
        for key, tensor in tensors.items()
    }


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, so that an example leaves no trace in running statistics."""
    modes = {module: module.training for root in modules for module in root.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
