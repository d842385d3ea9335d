"""A phase of training: which loss, by which optimizer, for how many epochs, every how many rollouts.

    phase = Phase(loss, optimizer, epochs=3, features=model.get_features())
    metrics = run_phase(phase, batch, generator, micro_batch=128)

The one extension point of a training loop. PPO is one phase; DAAC is a policy phase and a value phase; an algorithm of
your own is a list of phases, with no subclass. Whatever has the attributes and methods of `RolloutPhase` can stand in
the list, also where it takes no steps by an optimizer.

Several seeds of a stacked model (`decouple.networks.stacking.stack`) train at once: batches are (S, B) in place of
(B,), and the losses keep their samples apart (`reduction="none"`), so that each seed has a mean, a gradient and a norm
of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from decouple.checks import ANY_NUMBER, check_fields, check_setting, checked, positive_whole
from decouple.networks.separation import cut_squares, live_cuts, norms_and_cosine
from decouple.on_policy.agents import Agents, Metric, agents_of
from decouple.on_policy.cuda_graph import Captured, copy_in_place
from decouple.runs.performance import Performance, autocast
from decouple.seeding import SeedNoise

__all__ = ["Phase", "RolloutPhase", "run_phase"]


class RolloutPhase(Protocol):
    """What a training loop asks of a phase: `Phase` has it, and so has `decouple.on_policy.algorithms.trpo.TRPOPhase`.

    Attributes:
        name: what is logged is told apart by it.
        every: the phase runs on rollouts 0, every, 2 every, ...
        minibatches: per epoch; a rollout must have as many frames.
    """

    name: str
    every: int
    minibatches: int

    def run(
        self,
        batch: TensorDictBase,
        shuffle: torch.Generator | SeedNoise,
        *,
        micro_batch: int,
        precision: str = "fp32",
        progress: Callable[[str, int, int], object] | None = None,
    ) -> dict[str, Metric]:
        """Learn from a flat rollout, as `run_phase` does."""
        ...

    def state_dict(self) -> dict:
        """What a checkpoint must hold beside the model."""
        ...

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a `state_dict`."""
        ...


@dataclass
class Phase:
    """One kind of update on a rollout: what loss, by which optimizer, for how many epochs, every how many rollouts.

    Attributes:
        loss: LossModules that read features; their outputs named `loss_...` are summed, others are logged.
        optimizer: steps once per minibatch, on gradients clipped at `max_grad_norm` over all its parameters.
        epochs: passes over the rollout.
        every: the phase runs on rollouts 0, every, 2 every, ...
        minibatches: per epoch.
        max_grad_norm: None for no clipping.
        features: run once per minibatch before the losses, as `model.get_features()`; None where the losses read the
            observation themselves.
        train_features: whether gradient flows into the features.
        prepare: called with the flat rollout (B,) before the first epoch, to add keys.
        adversary: a phase whose loss and optimizer step first on each of this phase's minibatches; its own schedule
            (epochs, every, prepare, adversary) stays at the defaults. It runs the features for itself, without
            gradient, since the whole minibatch must have stepped it before the first micro-batch comes back.
        name: prefix of what is logged.
    """

    loss: nn.Module | Sequence[nn.Module]
    optimizer: torch.optim.Optimizer
    epochs: int = 1
    every: int = 1
    minibatches: int = 8
    max_grad_norm: float | None = 0.5
    features: TensorDictModuleBase | None = None
    train_features: bool = True
    prepare: Callable[[TensorDictBase], object] | None = None
    adversary: Phase | None = None
    name: str = "joint"
    captured: bool = field(default=False, init=False, repr=False)
    _kept: TensorDictBase | None = field(default=None, init=False, repr=False)  # the rollout that the graph reads
    _graph: Captured | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self, max_grad_norm=ANY_NUMBER)
        for name in ("epochs", "every", "minibatches"):
            check_setting(name, getattr(self, name), positive_whole, "a whole number, at least 1")
        if self.adversary and (self.adversary.epochs, self.adversary.every) != (1, 1):
            raise ValueError("adversary must have epochs=1 and every=1: it steps with this phase's minibatches")
        if self.adversary and (self.adversary.prepare or self.adversary.adversary):
            raise ValueError("adversary must have no prepare and no adversary of its own")
        if self.max_grad_norm is not None:
            check_setting("max_grad_norm", self.max_grad_norm, lambda v: v > 0, "positive, or None for no clipping")

    @property
    def losses(self) -> list[nn.Module]:
        return [self.loss] if isinstance(self.loss, nn.Module) else list(self.loss)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict:
        """Losses (with heads of their own), optimizer and adversary."""
        state = {"losses": [loss.state_dict() for loss in self.losses], "optimizer": self.optimizer.state_dict()}
        return state | ({"adversary": self.adversary.state_dict()} if self.adversary else {})

    def load_state_dict(self, state: Mapping) -> None:
        for loss, loss_state in zip(self.losses, state["losses"], strict=True):
            loss.load_state_dict(loss_state)
        ways = ("fused", "foreach", "capturable")  # of taking a step: as here, whatever device the state comes from
        groups = [
            {**saved, **{way: own[way] for way in ways if way in own}}
            for saved, own in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        for parameter, own in self.optimizer.state.items():
            for key, value in own.items():  # strides as the parameter's here, which Adam in one kernel asks for
                alike = isinstance(value, Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    own[key] = torch.empty_like(parameter).copy_(value)
        if self.adversary:
            self.adversary.load_state_dict(state["adversary"])
        self.capture(self.captured)  # a graph would step the state that was

    @checked()
    def prepare_for(self, how: Performance) -> None:
        """Take steps as a performance says: by one kernel on a GPU, in a CUDA graph."""
        self.capture(how.cuda_graphs)
        how.prepare_optimizer(self.optimizer)
        if self.adversary:
            how.prepare_optimizer(self.adversary.optimizer)

    @checked()
    def capture(self, on: bool) -> None:
        """From here on hold an update in a CUDA graph, or do not; forgets the graph and the rollout that there were."""
        self.captured, self._kept, self._graph = on, None, None

    def run(
        self,
        batch: TensorDictBase,
        shuffle: torch.Generator | SeedNoise,
        *,
        micro_batch: int,
        precision: str = "fp32",
        progress: Callable[[str, int, int], object] | None = None,
    ) -> dict[str, Metric]:
        """`run_phase` on this phase."""
        return run_phase(self, batch, shuffle, micro_batch=micro_batch, precision=precision, progress=progress)


def run_phase(
    phase: Phase,
    batch: TensorDictBase,
    shuffle: torch.Generator | SeedNoise,
    *,
    micro_batch: int,
    precision: str = "fp32",
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Metric]:
    """Run a phase's epochs on a flat rollout.

    Args:
        phase: what to run.
        batch: (B,), with the keys that the phase's features and losses read; (S, B) with several seeds.
        shuffle: draws the minibatches, a generator of one agent's or `SeedNoise` of several seeds'.
        micro_batch: samples, of each seed, per backward pass; gradients of a minibatch are accumulated over them.
        precision: of the features, `fp32` or `bf16`.
        progress: called after each minibatch with what is under way, how many are done, and of how many.

    Returns:
        By the name they are logged under: means over the minibatches of what the losses put out and of the gradient
        norm, and the gradients at the cut in the first minibatch. With several seeds losses, norms, gradients and
        what else is of each sample are (S,); what a loss itself averages is a number, over all of them.

    Raises:
        ValueError: two losses of the phase give an output of one name, or with several seeds a loss that has averaged
            over them.
    """
    if phase.prepare:
        phase.prepare(batch)
    agents = agents_of(shuffle)
    step = _step_on(phase, agents, batch)
    sums: dict[str, Tensor] = {}
    steps = phase.epochs * phase.minibatches
    for epoch in range(phase.epochs):
        for number, part in enumerate(agents.minibatches(batch, phase.minibatches)):
            first = epoch == 0 and number == 0
            found = step(part, first or phase.captured, micro_batch, precision)  # captured, one graph for all
            for name, value in found.items():
                if name.startswith("cut/") and not first:
                    continue
                sums[name] = sums[name] + value if name in sums else value.clone()
            if progress:
                progress(f"{phase.name} phase, minibatches", epoch * phase.minibatches + number + 1, steps)
    sums = _on_cpu(sums)
    squares = {name.removeprefix("cut/"): sums.pop(name) for name in [*sums] if name.startswith("cut/")}
    means = {name: metric(value / steps) for name, value in sums.items()}
    cuts = norms_and_cosine(squares)
    return means | {f"cut/{phase.name}_{name}": metric(value.reshape(batch.shape[:-1])) for name, value in cuts.items()}


def _step_on(phase: Phase, agents: Agents, batch: TensorDictBase) -> Callable[..., dict[str, Tensor]]:
    """`_step_with_adversary` on this rollout, a function of its other arguments; in a CUDA graph where captured."""

    def step(part: TensorDictBase | Tensor, at_the_cut: bool, micro_batch: int, precision: str) -> dict[str, Tensor]:
        return _step_with_adversary(phase, agents, batch, part, micro_batch, precision, at_the_cut)

    if not phase.captured:
        return step
    if phase._graph is None or phase._kept is None:
        phase._kept, phase._graph = batch, Captured(step, phase.parameters()[0].device)
    else:
        copy_in_place(phase._kept, batch)
    return phase._graph


def _step_with_adversary(
    phase: Phase,
    agents: Agents,
    batch: TensorDictBase,
    part: TensorDictBase | Tensor,
    micro_batch: int,
    precision: str,
    at_the_cut: bool,
) -> dict[str, Tensor]:
    """The adversary's step, where there is one, and then the phase's own."""
    found = _step(phase.adversary, agents, batch, part, micro_batch, precision) if phase.adversary else {}
    return found | _step(phase, agents, batch, part, micro_batch, precision, at_the_cut=at_the_cut)


def _step(
    phase: Phase,
    agents: Agents,
    batch: TensorDictBase,
    part: TensorDictBase | Tensor,
    micro_batch: int,
    precision: str,
    *,
    at_the_cut: bool = False,
) -> dict[str, Tensor]:
    """One optimizer step on a minibatch, its gradient accumulated over micro-batches; what to log of it.

    `part` is one of the agents' `minibatches` of the batch.
    Everything stays on the device: nothing here waits for it.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    device = phase.parameters()[0].device
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    for first in range(0, part.shape[-1], micro_batch):
        rows = slice(first, first + micro_batch)
        # One at a time: its frames, and what the features write into it, are free again with the next.
        micro = agents.frames(batch, part, rows)  # (b,) or (S, b)
        if phase.features is not None:
            with torch.set_grad_enabled(phase.train_features), autocast(device, precision):
                phase.features(micro)
        outputs = agents.means(_run_losses(phase, micro), micro.batch_size)
        weight = micro.numel() / part.numel()
        losses = [value for name, value in outputs.items() if name.startswith("loss_")]
        total = weight * torch.stack(losses).sum(0)  # () or (S,)
        cuts = live_cuts(micro) if at_the_cut else {}
        for cut in cuts.values():
            cut.retain_grad()
        total.sum().backward()  # seeds have no parameter in common: each gets the gradient of its own loss
        for name, value in outputs.items():
            add(_logged_name(name, phase.name), value.detach() * weight)
        squares = cut_squares(cuts, [cut.grad for cut in cuts.values()], micro.batch_size[:-1].numel())
        for name, value in squares.items():
            add(f"cut/{name}", value)
    norm = agents.clip_grad_norm(phase.parameters(), phase.max_grad_norm or math.inf)  # () or (S,)
    phase.optimizer.step()
    return sums | {f"grad_norm/{phase.name}": norm.detach()}


def _run_losses(phase: Phase, minibatch: TensorDictBase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for loss in phase.losses:
        for name, value in loss(minibatch).items():
            if name in outputs:
                raise ValueError(f"loss must give each output a name of its own; two of {phase.name} give {name!r}")
            outputs[name] = value
    return outputs


def metric(value: Tensor) -> Metric:
    """A number () as Python's, and (S,) as it is."""
    return value if value.ndim else value.item()


def _on_cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of them fetched from the device at once: the one time that a phase waits for it."""
    if not values or all(value.device.type == "cpu" for value in values.values()):
        return dict(values)
    flat = torch.cat([value.reshape(-1) for value in values.values()]).cpu()
    parts = flat.split([value.numel() for value in values.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}


# What losses put out beside `loss_...`, by the name it is logged under; anything else goes under the phase's name.
METRIC_NAMES = {
    "entropy": "policy/entropy",
    "clip_fraction": "policy/clip_fraction",
    "kl_approx": "policy/kl_approx",
    "ESS": "policy/effective_sample_size",
    "max_ratio": "policy/max_ratio",
    "mean_ratio": "policy/mean_ratio",
    "value_clip_fraction": "value/clip_fraction",
    "order_accuracy": "order/accuracy",
}


def _logged_name(output: str, phase: str) -> str:
    if output.startswith("loss_"):
        return f"loss/{output.removeprefix('loss_')}"
    return METRIC_NAMES.get(output, f"{phase}/{output}")
