"""A phase of training: which loss, by which optimizer, for how many epochs, every how many rollouts.

    phase = Phase(loss, optimizer, epochs=3, features=model.get_features())
    metrics = run_phase(phase, batch, generator, micro_batch=128)

The one extension point of a training loop. PPO is one phase; DAAC is a policy phase and a value phase; an algorithm of
your own is a list of phases, with no subclass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from decouple.separation import cut_gradients

__all__ = ["Phase", "run_phase"]


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


def run_phase(
    phase: Phase,
    batch: TensorDictBase,
    shuffle: torch.Generator,
    *,
    micro_batch: int,
    precision: str = "fp32",
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, float]:
    """Run a phase's epochs on a flat rollout.

    Args:
        phase: what to run.
        batch: (B,), with the keys that the phase's features and losses read.
        shuffle: draws the minibatches.
        micro_batch: samples per backward pass; gradients of a minibatch are accumulated over them.
        precision: of the features, `fp32` or `bf16`.
        progress: called after each minibatch with what is under way, how many are done, and of how many.

    Returns:
        By the name they are logged under: means over the minibatches of what the losses put out and of the gradient
        norm, and the gradients at the cut in the first minibatch.

    Raises:
        ValueError: two losses of the phase give an output of one name.
    """
    if phase.prepare:
        phase.prepare(batch)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    steps = phase.epochs * phase.minibatches
    cut_reports: list[dict[str, float]] = []
    for epoch in range(phase.epochs):
        order = torch.randperm(batch.numel(), generator=shuffle)  # (B,)
        for number, indices in enumerate(order.tensor_split(phase.minibatches)):
            minibatch = batch[indices]  # (B / minibatches,)
            if phase.adversary:
                _step(phase.adversary, minibatch, micro_batch, precision, sums)
            first = epoch == 0 and number == 0
            _step(phase, minibatch, micro_batch, precision, sums, cut_reports if first else None)
            if progress:
                progress(f"{phase.name} phase, minibatches", epoch * phase.minibatches + number + 1, steps)
    means = {name: (value / steps).item() for name, value in sums.items()}
    return means | _cut_metrics(phase.name, cut_reports)


def _step(
    phase: Phase,
    minibatch: TensorDictBase,
    micro_batch: int,
    precision: str,
    sums: dict[str, Tensor],
    cut_reports: list[dict[str, float]] | None = None,
) -> None:
    """One optimizer step on a minibatch, its gradient accumulated over micro-batches; adds what to log to `sums`."""
    phase.optimizer.zero_grad(set_to_none=True)
    device = phase.parameters()[0].device
    for micro in minibatch.split(micro_batch):  # (b,)
        if phase.features is not None:
            with torch.set_grad_enabled(phase.train_features), autocast(device, precision):
                phase.features(micro)
        outputs = _run_losses(phase, micro)
        weight = micro.numel() / minibatch.numel()
        total = weight * torch.stack([value for name, value in outputs.items() if name.startswith("loss_")]).sum()
        if cut_reports is not None:
            cut_reports.append(cut_gradients(total, micro))
        total.backward()
        for name, value in outputs.items():
            metric = _logged_name(name, phase.name)
            sums[metric] = sums[metric] + value.detach().cpu() * weight
    norm = nn.utils.clip_grad_norm_(phase.parameters(), phase.max_grad_norm or math.inf)
    sums[f"grad_norm/{phase.name}"] = sums[f"grad_norm/{phase.name}"] + norm.detach().cpu()
    phase.optimizer.step()


def _run_losses(phase: Phase, minibatch: TensorDictBase) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for loss in phase.losses:
        for name, value in loss(minibatch).items():
            if name in outputs:
                raise ValueError(f"loss must give each output a name of its own; two of {phase.name} give {name!r}")
            outputs[name] = value
    return outputs


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


def positive_whole(value: object) -> bool:
    """Whether it is an integer of at least 1, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_setting(name: str, value: object, allowed: Callable[..., bool], says: str) -> None:
    """Refuse a setting by name: ValueError with what is allowed, in words, and what came."""
    try:
        fits = allowed(value)
    except TypeError:  # of a type that cannot be compared
        fits = False
    if not fits:
        raise ValueError(f"{name} must be {says}; got {value!r}")
