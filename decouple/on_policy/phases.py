"""A phase of training: its losses, its optimizer, its epochs, and the rollouts on which it runs.

    phase = Phase(loss, optimizer, epochs=3, features=model.get_features())
    metrics = run_phase(phase, batch, generator, micro_batch=128)

A training loop runs a list of phases. PPO is one phase; DAAC is a policy phase and a value phase; an algorithm of your
own is a list of phases, without a subclass. Any object with the attributes and methods of `RolloutPhase` can stand in
the list, also one without an optimizer.

With a stacked model (`decouple.networks.stacking.stack`) S seeds train at once: batches are (S, B) in place of (B,),
and the losses are not averaged over samples (`reduction="none"`), so that each seed has a mean, a gradient and a
gradient norm of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import set_recurrent_mode

from decouple.checks import POSITIVE_WHOLE, PROBABILITY, Must, at_least, check_fields, check_setting, checked
from decouple.networks.separation import cut_squares, live_cuts, norms_and_cosine, scaled_cuts
from decouple.on_policy.agents import Agents, Metric, agents_of
from decouple.on_policy.cuda_graph import Captured, copy_in_place
from decouple.on_policy.phase_metrics import logged_name, metric, on_cpu
from decouple.runs.learning_rates import anneal
from decouple.runs.performance import Performance, autocast
from decouple.seeding import SeedNoise

__all__ = ["Phase", "RolloutPhase", "run_phase"]


class RolloutPhase(Protocol):
    """The interface of a phase, as a training loop uses it; `Phase` and `algorithms.trpo.TRPOPhase` have it.

    Attributes:
        name: name that tells the phase's metrics apart.
        every: period in rollouts: the phase runs on rollouts 0, every, 2 every, ...
        minibatches: minibatches per epoch, at most the frames of a rollout.

    A phase may also have `start`, `past`, `keeps` and `gae_lambda`, as `Phase` has them; without them it has their
    defaults.
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
        """The phase's state for a checkpoint, without the model's."""
        ...

    def load_state_dict(self, state: Mapping) -> None:
        """Restore a `state_dict`."""
        ...


@dataclass
class Phase:
    """One kind of update on a rollout: losses, an optimizer, epochs, and the rollouts on which it runs.

    Attributes:
        loss: LossModules that read features; their outputs named `loss_...` are summed, others are logged.
        optimizer: optimizer of the phase's parameters; it steps once per minibatch.
        epochs: passes over the rollout.
        every: period in rollouts: the phase runs on rollouts 0, every, 2 every, ...
        minibatches: minibatches per epoch.
        max_grad_norm: largest gradient norm over all the optimizer's parameters; None for no clipping.
        features: module that computes the features once per minibatch, as `model.get_features()`; None where the
            losses read the observation themselves.
        train_features: True where gradients flow into the features.
        prepare: function that adds keys to the flat rollout (B,) before the first epoch.
        draw: function that does so by random numbers: it gets the rollout, and what draws the minibatches.
        look_up: function that adds to a micro-batch's frames what stands at other rows of the rollout: it gets both.
        adversary: a phase that steps first on each of this phase's minibatches. Its own epochs, every, prepare,
            draw, look_up and adversary stay at the defaults. It computes the features itself, without gradient, since
            its step on the whole minibatch must come before this phase's first micro-batch.
        name: prefix of the phase's metrics.
        start: first rollout on which the phase runs; it then runs on start, start + every, start + 2 every, ...
        past: number of rollouts that it learns from: the last `past` of them, in one batch (past B,).
        keeps: keys of a flat rollout that it reads, where `past` is more than 1; only these are kept.
        updates: most minibatches of a run, fewer than all epochs have; None: all epochs.
        gae_lambda: lambda of the advantages that it learns from; None: that of the settings.
        cut_gradients: scales of the policy's and the value's gradient at the cut during this phase; None: the model's.
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
    draw: Callable[[TensorDictBase, torch.Generator | SeedNoise], object] | None = field(default=None, kw_only=True)
    look_up: Callable[[TensorDictBase, TensorDictBase], object] | None = field(default=None, kw_only=True)
    adversary: Phase | None = None
    name: str = "joint"
    start: int = field(default=0, kw_only=True)
    past: int = field(default=1, kw_only=True)
    keeps: Sequence[NestedKey] = field(default=(), kw_only=True)
    updates: int | None = field(default=None, kw_only=True)
    gae_lambda: float | None = field(default=None, kw_only=True)
    cut_gradients: tuple[float, float] | None = field(default=None, kw_only=True)
    captured: bool = field(default=False, init=False, repr=False)
    _kept: TensorDictBase | None = field(default=None, init=False, repr=False)  # the rollout that the graph reads
    _graph: Captured | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        losses = Must(lambda loss: isinstance(loss, nn.Module) or len(loss), "a module, or several: not empty")
        check_fields(self, loss=losses, start=at_least(0), gae_lambda=PROBABILITY)
        for name in ("epochs", "every", "minibatches", "past"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        if self.past > 1:
            check_setting("keeps", self.keeps, len, f"the keys that the phase reads, with past={self.past}")
        if self.updates is not None:
            check_setting("updates", self.updates, POSITIVE_WHOLE)
        if self.cut_gradients is not None:
            shares = lambda v: len(v) == 2 and all(0 <= scale <= 1 for scale in v)  # noqa: E731
            check_setting("cut_gradients", self.cut_gradients, shares, "two numbers in [0, 1], or None")
        if self.adversary and (self.adversary.epochs, self.adversary.every) != (1, 1):
            raise ValueError("adversary must have epochs=1 and every=1: it steps with this phase's minibatches")
        own = self.adversary
        if own and (own.prepare or own.draw or own.look_up or own.adversary):
            raise ValueError("adversary must have no prepare, no draw, no look_up and no adversary of its own")
        if self.max_grad_norm is not None:
            check_setting("max_grad_norm", self.max_grad_norm, lambda v: v > 0, "positive, or None for no clipping")

    @property
    def losses(self) -> list[nn.Module]:
        return [self.loss] if isinstance(self.loss, nn.Module) else list(self.loss)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict:
        """The state of the losses (which hold heads of their own), the optimizer and the adversary."""
        state = {"losses": [loss.state_dict() for loss in self.losses], "optimizer": self.optimizer.state_dict()}
        return state | ({"adversary": self.adversary.state_dict()} if self.adversary else {})

    def load_state_dict(self, state: Mapping) -> None:
        for loss, loss_state in zip(self.losses, state["losses"], strict=True):
            loss.load_state_dict(loss_state)
        # Adam's implementation is this device's, not the saved one; so is a learning rate in a tensor.
        ways = ("fused", "foreach", "capturable")
        groups = [
            {**saved, **{key: own[key] for key in own if key in ways or (key == "lr" and isinstance(own[key], Tensor))}}
            for saved, own in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        for parameter, own in self.optimizer.state.items():
            for key, value in own.items():  # with the parameter's strides, which fused Adam requires
                alike = isinstance(value, Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    own[key] = torch.empty_like(parameter).copy_(value)
        if self.adversary:
            self.adversary.load_state_dict(state["adversary"])
        self.capture(self.captured)  # an old graph would step the old state

    @checked()
    def prepare_for(self, how: Performance) -> None:
        """Prepare the optimizer steps for these performance settings: one fused kernel on a GPU, a CUDA graph."""
        self.capture(how.cuda_graphs)
        how.prepare_optimizer(self.optimizer)
        if self.adversary:
            how.prepare_optimizer(self.adversary.optimizer)

    @checked()
    def capture(self, on: bool) -> None:
        """Turn the CUDA graph of an update on or off from here on; the old graph and its rollout are dropped.

        Off where the phase learns from several rollouts, which do not lie in the device's memory.
        """
        self.captured, self._kept, self._graph = on and self.past == 1, None, None

    def anneal(self, left: float) -> None:
        """Set what is scheduled, rates and losses that anneal, for a share `left` of the training still to come."""
        for phase in (self, self.adversary) if self.adversary else (self,):
            anneal(phase.optimizer, left)
            for loss in phase.losses:
                if callable(annealed := getattr(loss, "anneal", None)):
                    annealed(left)

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
        phase: the phase to run.
        batch: flat rollout (B,) with the keys that the phase's features and losses read; (S, B) with several seeds.
            For a recurrent model sequences (B, L) or (S, B, L): minibatches are of whole sequences, each of which
            starts with the state that its first step has.
        shuffle: random numbers that draw the minibatches: one agent's generator, or several seeds' `SeedNoise`.
        micro_batch: samples per seed and backward pass; a minibatch's gradients are accumulated over micro-batches.
        precision: precision of the features, `fp32` or `bf16`.
        progress: called after each minibatch with (what is under way, minibatches done, minibatches in all).

    Returns:
        Metrics by the name that they are logged under: the losses' outputs and the gradient norm, as means over the
        minibatches, and norms and cosine of the gradients at the cut in the first minibatch. With several seeds they
        are (S,); an output that a loss averages itself is a number, over all seeds.

    Raises:
        ValueError: two losses of the phase have an output of one name, or with several seeds a loss that has averaged
            over them.
    """
    with scaled_cuts(phase.features, phase.cut_gradients):
        sums, steps = _run_epochs(phase, batch, shuffle, micro_batch, precision, progress)
    squares = {name.removeprefix("cut/"): sums.pop(name) for name in [*sums] if name.startswith("cut/")}
    means = {name: metric(value / steps) for name, value in sums.items()}
    cuts = norms_and_cosine(squares)
    shape = batch.shape[: agents_of(shuffle).axes]
    return means | {f"cut/{phase.name}_{name}": metric(value.reshape(shape)) for name, value in cuts.items()}


def _run_epochs(
    phase: Phase,
    batch: TensorDictBase,
    shuffle: torch.Generator | SeedNoise,
    micro_batch: int,
    precision: str,
    progress: Callable[[str, int, int], object] | None,
) -> tuple[dict[str, Tensor], int]:
    """The sums of each metric over the minibatches, on the CPU, and the number of minibatches."""
    if phase.prepare:
        with autocast(phase.parameters()[0].device, precision):
            phase.prepare(batch)
    if phase.draw:
        phase.draw(batch, shuffle)
    agents = agents_of(shuffle)
    sequences = _has_sequences(batch, agents)
    if phase.features is not None and "is_init" in phase.features.in_keys:
        check_setting("batch", tuple(batch.shape), lambda _: sequences, "sequences (B, L) for a recurrent model")
    step = _step_on(phase, agents, batch)
    sums: dict[str, Tensor] = {}
    done, steps = 0, min(phase.epochs * phase.minibatches, phase.updates or math.inf)
    while done < steps:
        for part in agents.minibatches(batch, phase.minibatches, gathered=phase.past == 1):
            first = done == 0
            found = step(part, first or phase.captured, micro_batch, precision)  # one graph for all minibatches
            for name, value in found.items():
                if name.startswith("cut/") and not first:
                    continue
                sums[name] = sums[name] + value if name in sums else value.clone()
            done += 1
            if progress:
                progress(f"{phase.name} phase, minibatches", done, int(steps))
            if done == steps:
                break
    return on_cpu(sums), done


def _has_sequences(batch: TensorDictBase, agents: Agents) -> bool:
    """Whether a batch holds sequences, (B, L) or (S, B, L), in place of frames."""
    return batch.ndim == agents.axes + 2


def _step_on(phase: Phase, agents: Agents, batch: TensorDictBase) -> Callable[..., dict[str, Tensor]]:
    """`_step_with_adversary` with phase, agents and rollout filled in; in a CUDA graph where the phase is captured."""

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
    """Take the adversary's step, where there is an adversary, and then the phase's own; return their metrics."""
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
    """Take one optimizer step on a minibatch, its gradient accumulated over micro-batches; return its metrics.

    `part` is one of the agents' `minibatches` of the batch.
    All results stay on the device: nothing here waits for it.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    device = phase.parameters()[0].device
    sequences, count = _has_sequences(batch, agents), part.shape[agents.axes]  # of frames, or of sequences
    rows_of_micro = max(1, micro_batch // batch.shape[-1]) if sequences else micro_batch
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    for first in range(0, count, rows_of_micro):
        rows = slice(first, min(first + rows_of_micro, count))
        # One at a time: the memory of its frames and features is free again for the next micro-batch.
        micro = agents.frames(batch, part, rows)  # (b,) or (S, b); sequences (b, L) or (S, b, L)
        if phase.look_up:
            phase.look_up(batch, micro)
        if phase.past > 1 and batch.device != device:
            micro = micro.to(device)
        if phase.features is not None:
            with (
                torch.set_grad_enabled(phase.train_features),
                autocast(device, precision),
                set_recurrent_mode(sequences),
            ):
                phase.features(micro)
        frames: Any = micro.flatten(agents.axes, -1) if sequences else micro  # losses read single frames
        outputs = agents.means(_run_losses(phase, frames), frames.batch_size)
        weight = (rows.stop - rows.start) / count
        losses = [value for name, value in outputs.items() if name.startswith("loss_")]
        total = weight * torch.stack(losses).sum(0)  # () or (S,)
        cuts = live_cuts(micro) if at_the_cut else {}
        for cut in cuts.values():
            cut.retain_grad()
        total.sum().backward()  # seeds share no parameters: each gets the gradient of its own loss
        for name, value in outputs.items():
            add(logged_name(name, phase.name), value.detach() * weight)
        squares = cut_squares(cuts, [cut.grad for cut in cuts.values()], micro.batch_size[: agents.axes].numel())
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
