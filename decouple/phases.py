"""A phase of training: which loss, by which optimizer, for how many epochs, every how many rollouts.

    phase = Phase(loss, optimizer, epochs=3, features=model.get_features())
    metrics = run_phase(phase, batch, generator, micro_batch=128)

The one extension point of a training loop. PPO is one phase; DAAC is a policy phase and a value phase; an algorithm of
your own is a list of phases, with no subclass. Whatever has the attributes and methods of `RolloutPhase` can stand in
the list, also where it takes no steps by an optimizer.

Several seeds of a stacked model (`decouple.seeds.stack`) train at once: batches are (S, B) in place of (B,), and the
losses keep their samples apart (`reduction="none"`), so that each seed has a mean, a gradient and a norm of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from decouple.checks import check_setting, positive_whole
from decouple.seeds import SeedNoise, clip_grad_norm_per_seed_
from decouple.separation import cut_gradients

__all__ = ["Phase", "RolloutPhase", "run_phase"]

# A metric: of one agent a number, of several seeds (S,) where each has its own.
Metric = float | Tensor


class RolloutPhase(Protocol):
    """What a training loop asks of a phase: `Phase` has it, and so has `decouple.trpo.TRPOPhase`.

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

    def __post_init__(self) -> None:
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
        self.optimizer.load_state_dict(state["optimizer"])
        if self.adversary:
            self.adversary.load_state_dict(state["adversary"])

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
        shuffle: draws the minibatches; with several seeds their noise, which draws minibatches for each.
        micro_batch: samples, of each seed, per backward pass; gradients of a minibatch are accumulated over them.
        precision: of the features, `fp32` or `bf16`.
        progress: called after each minibatch with what is under way, how many are done, and of how many.

    Returns:
        By the name they are logged under: means over the minibatches of what the losses put out and of the gradient
        norm, and the gradients at the cut in the first minibatch. With several seeds losses, norms and gradients are
        (S,); what a loss itself averages is a number, over all of them.

    Raises:
        ValueError: two losses of the phase give an output of one name, or with several seeds a loss that has averaged
            over them.
    """
    if phase.prepare:
        phase.prepare(batch)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    steps = phase.epochs * phase.minibatches
    cut_reports: list[list[dict[str, float]]] = [[] for _ in range(len(batch) if batch.ndim == 2 else 1)]
    for epoch in range(phase.epochs):
        for number, minibatch in enumerate(_minibatches(batch, phase.minibatches, shuffle)):
            if phase.adversary:
                _step(phase.adversary, minibatch, micro_batch, precision, sums)
            first = epoch == 0 and number == 0
            _step(phase, minibatch, micro_batch, precision, sums, cut_reports if first else None)
            if progress:
                progress(f"{phase.name} phase, minibatches", epoch * phase.minibatches + number + 1, steps)
    means = {name: value / steps if value.ndim else (value / steps).item() for name, value in sums.items()}
    cuts = [_cut_metrics(phase.name, reports) for reports in cut_reports]
    if batch.ndim == 1:
        return means | cuts[0]
    nan = float("nan")  # of a seed without gradient on both sides there is no cosine
    return means | {
        name: torch.tensor([cut.get(name, nan) for cut in cuts])
        for name in dict.fromkeys(n for cut in cuts for n in cut)
    }


def _minibatches(batch: TensorDictBase, count: int, shuffle: torch.Generator | SeedNoise) -> Iterator[TensorDictBase]:
    """An epoch: (B,) or (S, B) -> `count` times (B / count,) or (S, B / count)."""
    if isinstance(shuffle, SeedNoise):
        order = shuffle.permutations(batch.shape[1])  # (S, B)
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        shuffled: Any = batch[rows, order]  # indexed once: the minibatches are views
        yield from shuffled.split([part.shape[1] for part in order.tensor_split(count, 1)], 1)
    else:
        for indices in torch.randperm(batch.numel(), generator=shuffle).tensor_split(count):
            yield batch[indices]


def _step(
    phase: Phase,
    minibatch: TensorDictBase,
    micro_batch: int,
    precision: str,
    sums: dict[str, Tensor],
    cut_reports: list[list[dict[str, float]]] | None = None,
) -> None:
    """One optimizer step on a minibatch, its gradient accumulated over micro-batches; adds what to log to `sums`."""
    phase.optimizer.zero_grad(set_to_none=True)
    device = phase.parameters()[0].device
    for micro in minibatch.split(micro_batch, minibatch.ndim - 1):  # (b,) or (S, b)
        if phase.features is not None:
            with torch.set_grad_enabled(phase.train_features), autocast(device, precision):
                phase.features(micro)
        outputs = _run_losses(phase, micro)
        weight = micro.numel() / minibatch.numel()
        losses = [value for name, value in outputs.items() if name.startswith("loss_")]
        total = weight * torch.stack(losses).sum(0)  # () or (S,)
        if cut_reports is not None:
            for reports, own in zip(cut_reports, total.reshape(-1), strict=True):
                reports.append(cut_gradients(own, micro))
        total.sum().backward()  # seeds have no parameter in common: each gets the gradient of its own loss
        for name, value in outputs.items():
            metric = _logged_name(name, phase.name)
            sums[metric] = sums[metric] + value.detach().cpu() * weight
    if minibatch.ndim == 1:
        norm = nn.utils.clip_grad_norm_(phase.parameters(), phase.max_grad_norm or math.inf)
    else:
        norm = clip_grad_norm_per_seed_(phase.parameters(), phase.max_grad_norm or math.inf, len(minibatch))  # (S,)
    sums[f"grad_norm/{phase.name}"] = sums[f"grad_norm/{phase.name}"] + norm.detach().cpu()
    phase.optimizer.step()


def _run_losses(phase: Phase, minibatch: TensorDictBase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for loss in phase.losses:
        for name, value in loss(minibatch).items():
            if name in outputs:
                raise ValueError(f"loss must give each output a name of its own; two of {phase.name} give {name!r}")
            outputs[name] = value
    return outputs if minibatch.ndim == 1 else _of_each_seed(outputs, len(minibatch))


def _of_each_seed(outputs: Mapping[str, Tensor], seeds: int) -> dict[str, Tensor]:
    """Losses (S, ...) averaged over each seed's samples, (S,); what is no loss and no number is left out."""
    found: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if name.startswith("loss_"):
            if value.ndim == 0 or len(value) != seeds:
                allowed = (
                    f"its samples apart with {seeds} seeds, as reduction='none' does: {name} must be ({seeds}, ...)"
                )
                raise ValueError(f"loss must keep {allowed}; got {tuple(value.shape)}")
            found[name] = value.reshape(seeds, -1).mean(1)
        elif value.ndim == 0:  # PPO's effective sample size, over the first axis of its input, is none
            found[name] = value
    return found


def _cut_metrics(name: str, reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """Norms and cosine of a minibatch's gradients at the cut, from those of its micro-batches."""
    reports = [report for report in reports if report]
    if not reports:
        return {}
    norms = {side: math.sqrt(sum(report[f"{side}_norm"] ** 2 for report in reports)) for side in ("policy", "value")}
    metrics = {f"cut/{name}_{side}_norm": norm for side, norm in norms.items()}
    product = sum(report["policy_norm"] * report["value_norm"] * report.get("cosine", 0.0) for report in reports)
    if min(norms.values()) > 0:
        metrics[f"cut/{name}_cosine"] = product / (norms["policy"] * norms["value"])
    return metrics


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 for convolutions and matrix products at precision `bf16`; a context without effect at `fp32`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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
