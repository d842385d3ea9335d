"""Separation points: where the value network leaves the policy network.

A policy network and a value network are two lists of blocks. **Separation at k** means that the value network uses the
policy's first k blocks in place of its own: k = 0 is full separation, k = depth full sharing.

    network = separate(impala_blocks(), impala_blocks(), at="late")
    policy_hidden, value_hidden = network(frames)     # trunk once, then each branch

The degrees shared, early, late and full are those of Nafi, Ali and Hsu, *Analyzing the Sensitivity to Policy-Value
Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023). Two lists of different sizes are the asymmetric
actor and critic of Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from decouple.checks import PROBABILITY, Must, at_least, checked
from decouple.networks.batching import AnyBatch
from decouple.networks.fitting import check_fit
from decouple.networks.recurrence import RecurrentSequential, recurrent_blocks, run_blocks

__all__ = [
    "SeparatedNetwork",
    "cut_gradients",
    "cut_squares",
    "live_cuts",
    "norms_and_cosine",
    "scale_gradient",
    "scaled_cuts",
    "separate",
    "separation_index",
]

PARTS = ("trunk", "policy", "value")
NAMES = ("shared", "late", "early", "full")  # of separations: separation_index
if TYPE_CHECKING:  # a type checker knows the names; a wrong one has an error of its own, with the depth
    At = int | Literal["shared", "late", "early", "full"]
else:
    At = int | str


@checked(depth=at_least(0))
def separation_index(at: At, depth: int) -> int:
    """The separation point k of a name or an integer, for stacks of `depth` blocks.

    `shared` is depth, `full` 0, `early` 1 and `late` depth - 2 (the last residual stage and the dense block of an
    IMPALA-CNN are separate). `early` and `late` differ from depth 4 on; below depth 3 both are refused.

    For an IMPALA-CNN `shared` is 4. The paper says "separating only the final fully connected layers used as the policy
    and value heads"; its code shares the 256-wide layer too. Without that layer k would be 3.

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


@checked()
def separate(
    policy_blocks: Sequence[nn.Module],
    value_blocks: Sequence[nn.Module],
    at: At,
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
            all blocks, in its own type, to check that they fit and to find the feature sizes: a float64 example does
            not fit float32 blocks, as in training. Each block must take no, one and two leading batch axes and treat
            rows by themselves; `any_batch` makes such a block of a module that takes one axis. It can be left out where
            the first block is one of this package or a plain `nn.Linear` and no further keys are read; with other first
            blocks nothing is checked then.

    Returns:
        The separated network, with `.trunk`, `.cut`, `.policy`, `.value`, `.at`.

    Raises:
        ValueError: k out of range, blocks that do not fit (with both shapes and the block's index), a block that takes
            one batch axis alone or mixes rows, a block that changes in place what the other branch reads too, a
            gradient scale outside [0, 1], further keys that no block can read, or a parameter that both branches would
            own.
    """
    policy_blocks, value_blocks = list(policy_blocks), list(value_blocks)
    k = separation_index(at, min(len(policy_blocks), len(value_blocks)))
    for name, blocks in (("policy", policy_blocks), ("value", value_blocks)):
        recurrent_blocks(blocks, f"{name}_blocks")  # their checks
    shared = policy_blocks[:k]
    trunk = (RecurrentSequential if recurrent_blocks(shared, "policy_blocks") else nn.Sequential)(*shared)
    policy = Branch(policy_blocks[k:], policy_keys, name="policy")
    value = Branch(value_blocks[k:], value_keys, name="value")
    network = SeparatedNetwork(trunk, Cut(policy_gradient, value_gradient), policy, value)
    _check_ownership(network)
    check_fit(network, policy_blocks, value_blocks, example)
    return network


class SeparatedNetwork(nn.Module):
    """A trunk, a cut, a policy branch and a value branch; made by `separate`. Each parameter lies in exactly one part.

    Attributes:
        trunk: the k shared blocks.
        cut: module that passes the trunk's output to each branch with its own gradient scale.
        policy: the policy's own blocks.
        value: the value's own blocks.
        at: the separation point k.
        policy_size: number of features of `policy_hidden`; None where it is not known for want of an example.
        value_size: number of features of `value_hidden`; None where it is not known for want of an example.
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
        """Per part, the modules that compute its features, in the order in which they run."""
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
        return _scaled(hidden, self.policy_gradient), _scaled(hidden, self.value_gradient)

    def extra_repr(self) -> str:
        return f"policy_gradient={self.policy_gradient}, value_gradient={self.value_gradient}"


@contextlib.contextmanager
def scaled_cuts(module: nn.Module | None, scales: tuple[float, float] | None) -> Iterator[None]:
    """Within it, the cuts in a module have these gradient scales of policy and value; None for either: their own."""
    modules = [] if module is None or scales is None else module.modules()
    cuts = [each for each in modules if isinstance(each, Cut)]
    before = [(cut.policy_gradient, cut.value_gradient) for cut in cuts]
    try:
        for cut in cuts:
            cut.policy_gradient, cut.value_gradient = scales  # pyright: ignore[reportGeneralTypeIssues]
        yield
    finally:
        for cut, own in zip(cuts, before, strict=True):
            cut.policy_gradient, cut.value_gradient = own


class Branch(nn.Sequential):
    """The blocks after the cut; further observation keys go to the first block that accepts more than one argument.

    With `is_init` and a state for each recurrent block behind the further inputs, it also returns the new states.
    """

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
        self.memories = len(recurrent_blocks(blocks, f"{name}_blocks"))  # recurrent blocks, each with a state

    def forward(self, hidden: Tensor, *inputs: Tensor) -> Any:
        count = len(self.keys)
        memory = inputs[count:]
        if len(inputs) < count or len(memory) not in {0, self.memories and 1 + self.memories}:
            raise ValueError(
                f"a branch that reads {list(self.keys)} must get {count} further inputs; got {len(inputs)}"
            )
        if not memory:
            return _in_full(run_blocks(self, hidden, (), inputs, self.reader))
        features, *states = run_blocks(self, hidden, memory, inputs[:count], self.reader)
        return _in_full(features), *states


def _in_full(features: Tensor) -> Tensor:
    """Features out of autocast in full precision: heads, distributions and losses need it."""
    lowered = features.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(features.device.type)
    return features.float() if lowered else features


@checked(scale=PROBABILITY)
def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return x; in the backward pass its gradient is multiplied by scale. Any shape.

    Scale 1 returns a view, so that the gradient at it can be read.
    """
    return _scaled(x, scale)


def _scaled(x: Tensor, scale: float) -> Tensor:
    """`scale_gradient` without the check of its arguments."""
    if not x.is_floating_point():
        return x  # integer frames at k = 0: no layer before them to send a gradient to
    if scale == 0:
        return x.detach()
    return x.view_as(x) if scale == 1 else _ScaleGradient.apply(x, scale)


class _ScaleGradient(torch.autograd.Function):
    generate_vmap_rule = True  # TorchRL's GAE calls the value operator under vmap

    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.scale * gradient, None


@checked(loss=Must(lambda x: x.numel() == 1 and x.requires_grad, "one number with a gradient graph"))
def cut_gradients(loss: Tensor, features: TensorDictBase) -> dict[str, float]:
    """Norms of the gradients that policy and value branch send over the cut, and the cosine between the two gradients.

    Gradients are read before the cut scales them. A cosine below 0 means that policy and value pull the trunk in
    opposite directions.

    Args:
        loss: a scalar that still holds its graph; the graph is kept.
        features: the TensorDict that `get_features()` of a model has written, with (`cut`, `policy`) and (`cut`,
            `value`), each (*B, ...).

    Returns:
        `policy_norm`, `value_norm` (0 where a branch got no gradient, or the cut stops it) and `cosine` (absent unless
        both got one); an empty dict at k = 0, where there is no trunk, and where the cut stops both.
    """
    cuts = live_cuts(features)
    gradients = torch.autograd.grad(loss, list(cuts.values()), retain_graph=True, allow_unused=True) if cuts else ()
    return {name: value.item() for name, value in norms_and_cosine(cut_squares(cuts, gradients)).items()}


def live_cuts(features: TensorDictBase) -> dict[str, Tensor]:
    """The cut's outputs to `policy` and to `value`, without the sides that send no gradient back."""
    cuts = {side: features.get(("cut", side), None) for side in ("policy", "value")}
    return {side: cut for side, cut in cuts.items() if cut is not None and cut.requires_grad}


def cut_squares(cuts: Mapping[str, Tensor], gradients: Sequence[Tensor | None], agents: int = 1) -> dict[str, Tensor]:
    """Squared norms and inner product of the gradients at the cut, which add up over the parts of a batch.

    Args:
        cuts: the tensors from `live_cuts`.
        gradients: the gradient at each of them, (S, ...) for a stack; None where there is none.
        agents: S for a stack, 1 for one agent.

    Returns:
        `policy`, `value` and `product`, each (S,), 0 where there is no gradient; an empty dict without cuts.
    """
    if not cuts:
        return {}
    given = zip(cuts, gradients, strict=True)
    flat = {side: gradient.reshape(agents, -1).float() for side, gradient in given if gradient is not None}
    nothing = torch.zeros(agents, device=next(iter(cuts.values())).device)
    squares = {side: flat[side].square().sum(1) if side in flat else nothing for side in ("policy", "value")}
    return squares | {"product": (flat["policy"] * flat["value"]).sum(1) if len(flat) == 2 else nothing}


def norms_and_cosine(squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`policy_norm`, `value_norm` and `cosine`, each (S,), from `cut_squares`.

    The cosine is NaN for an agent without gradients on both sides, and absent where no agent has both.
    """
    if not squares:
        return {}
    norms = {side: squares[side].sqrt() for side in ("policy", "value")}
    both = norms["policy"] * norms["value"]
    found = {f"{side}_norm": norm for side, norm in norms.items()}
    return found | ({"cosine": torch.where(both > 0, squares["product"] / both, torch.nan)} if (both > 0).any() else {})


def part(name: str) -> Any:
    """A property for model classes: the plain module of the part `trunk`, `cut`, `policy` or `value`."""
    return property(lambda model: model.module[name].module)


def _reads_extra(block: nn.Module, count: int) -> bool:
    """Return whether the block's forward takes `count` positional arguments beside its input."""
    if count == 0:
        return False
    try:
        own = block.module if isinstance(block, AnyBatch) else block
        inspect.signature(own.forward).bind(*range(1 + count))
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
