"""Metrics of a phase: the names under which a loss's outputs are logged, and their way from the device.

logged_name("loss_critic", "value")                   # "loss/critic"
metric(torch.tensor(0.5))                             # 0.5
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from decouple.on_policy.agents import Metric

__all__ = ["logged_name", "metric", "on_cpu"]

# The losses' outputs beside `loss_...` -> the name that is logged; other outputs are logged under the phase's name.
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


def metric(value: Tensor) -> Metric:
    """A tensor () as a Python number; a tensor (S,) as it is."""
    return value if value.ndim else value.item()


def on_cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All values copied from the device at once: the only time that a phase waits for the device."""
    if not values or all(value.device.type == "cpu" for value in values.values()):
        return dict(values)
    flat = torch.cat([value.reshape(-1) for value in values.values()]).cpu()
    parts = flat.split([value.numel() for value in values.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}


def logged_name(output: str, phase: str) -> str:
    """The name under which a loss's output is logged; `phase`: the name of its phase."""
    if output.startswith("loss_"):
        return f"loss/{output.removeprefix('loss_')}"
    if output.startswith("gate_"):
        return output.replace("_", "/")
    return METRIC_NAMES.get(output, f"{phase}/{output}")
