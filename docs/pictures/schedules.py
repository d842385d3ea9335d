"""Draw schedules.svg: who is trained on what, and when, read off the phases of each algorithm.

python docs/pictures/schedules.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rcParams
from matplotlib.figure import Figure
from torchrl.data import Categorical

from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.kept import runs_on
from decouple.on_policy.settings import OnPolicySettings

ROLLOUTS, AUXILIARY_EVERY = 5, 4  # drawn; the papers have an auxiliary phase on every 32nd rollout
COLOURS = {
    "objective": "#2b6cb0",  # the policy's own loss
    "advantage": "#4fa3d1",
    "order": "#9dc9e0",
    "clone": "#b8b8b8",  # to stay where it is
    "auxiliary_value": "#e8a33d",
    "dynamics": "#7a9a3a",
    "critic": "#c0392b",
}
WORDS = {
    "objective": "PPO's loss",
    "advantage": "advantages, by a head",
    "order": "not to tell frames' order",
    "clone": "to stay where it is",
    "auxiliary_value": "values, by a head",
    "dynamics": "which action led where",
    "critic": "values",
}


class Bar(NamedTuple):
    """A phase on a rollout: its passes over frames of one rollout, and the losses of the policy and of the value."""

    rollout: int
    phase: str
    passes: int
    policy: tuple[str, ...]
    value: tuple[str, ...]


def losses_of(phase: Any) -> dict[str, tuple[str, ...]]:
    """The names of the losses on the policy's and on the value's features."""
    found: dict[str, list[str]] = {"policy": [], "value": []}
    for loss in phase.losses:
        side = "value" if "value_hidden" in loss.in_keys else "policy"
        name = next(key for key in loss.out_keys if key.startswith("loss_")).removeprefix("loss_")
        keys = getattr(loss, "tensor_keys", None)
        held = name == "critic" and getattr(keys, "value_target", "") == "state_value"  # the rollout's own values
        found[side].append("clone" if held else name)
    return {side: tuple(names) for side, names in found.items()}


def bars(algorithm: str, rollouts: int = ROLLOUTS, every: int = AUXILIARY_EVERY) -> list[Bar]:
    """The phases that run on each rollout, at k = 2 of 3, by the algorithm's own defaults."""
    network = separate(mlp_blocks(4, [8, 8, 8]), mlp_blocks(4, [8, 8, 8]), at=2)
    settings = OnPolicySettings(algorithm=algorithm, auxiliary_every=every)
    phases = ALGORITHMS[algorithm](actor_value(network, Categorical(3)), settings)
    return [
        Bar(rollout, phase.name, phase.epochs * min(phase.past, rollout + 1), **losses_of(phase))
        for rollout in range(rollouts)
        for phase in phases
        if runs_on(phase, rollout)
    ]


def draw(path: Path) -> None:
    rcParams["svg.hashsalt"] = "schedules"
    figure = Figure(figsize=(10, 1.05 * len(ALGORITHMS)), layout="constrained")
    for axes, algorithm in zip(figure.subplots(len(ALGORITHMS), 1), ALGORITHMS, strict=True):
        at = 0.0
        for bar in (found := bars(algorithm)):
            for row, names in ((1, bar.policy), (0, bar.value)):
                for index, name in enumerate(names):
                    height = 0.8 / len(names)
                    axes.barh(row - 0.4 + height * index, bar.passes, height, at, align="edge", color=COLOURS[name])
            at += bar.passes
            if bar is found[-1] or found[found.index(bar) + 1].rollout > bar.rollout:
                axes.axvline(at, color="black", lw=1)  # behind a rollout
        axes.set(yticks=[0, 1], yticklabels=["value", "policy"], xticks=[], xlim=(0, at), ylim=(-0.5, 1.5))
        axes.set_title(algorithm, loc="left", fontsize="small", fontweight="bold", pad=2)
    used = {name for algorithm in ALGORITHMS for bar in bars(algorithm) for name in (*bar.policy, *bar.value)}
    handles = [axes.barh(0, 0, color=colour, label=WORDS[name]) for name, colour in COLOURS.items() if name in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
