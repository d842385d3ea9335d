"""What the numbers of a task mean to whoever runs its actor: names and units of observations and actions, and licence.

layout("pendulum")["observation"]                      # ["cosine of the angle from upright", ...]
"""

from __future__ import annotations

import contextlib
from typing import Any

from decouple.envs.control.catalogue import TASKS

__all__ = ["layout"]

OWN_RULES = "MIT, this package's own rules; no pictures or sounds"
GYMNASIUM = "MIT (Gymnasium); no pictures or sounds"
LAYOUTS: dict[str, dict[str, Any]] = {
    "pendulum": {
        "observation": ["cosine of the angle from upright", "sine of it", "angular velocity, rad/s, in [-8, 8]"],
        "action": ["torque, N m, in [-2, 2]"],
        "assets": GYMNASIUM,
    },
    "acrobot": {
        "observation": [
            *("cosine of the first angle", "sine of it", "cosine of the second angle, relative to the first"),
            *("sine of it", "first angular velocity, rad/s", "second angular velocity, rad/s"),
        ],
        "action": ["0: torque -1 N m on the joint, 1: none, 2: +1 N m"],
        "assets": GYMNASIUM,
    },
    "pong": {
        "observation": [
            *("y of the player's paddle, px", "its velocity, px a frame", "y of the computer's paddle, px"),
            *("x of the ball, px", "y of the ball, px", "its velocity along x, px/s", "its velocity along y, px/s"),
        ],
        "action": ["0: up, 1: down, 2: nothing"],
        "assets": OWN_RULES,
    },
    "pixelcopter": {
        "observation": [
            *("y of the copter, px", "its velocity, px a frame", "distance to the ceiling, px"),
            *("distance to the floor, px", "distance to the next block, px", "its top, px", "its bottom, px"),
        ],
        "action": ["0: climb, 1: nothing"],
        "assets": OWN_RULES,
    },
}


def layout(task: str) -> dict[str, Any]:
    """`observation` and `action`, a text for each number; `assets`, their licence; `gymnasium`, id and options of the
    task in Gymnasium. What is not known is left out."""
    known = dict(LAYOUTS.get(task, {}))
    if task in TASKS:
        name, options, _ = TASKS[task]
        if ":" not in name:  # as forage, which this package makes
            known["gymnasium"] = [name, options]
    elif _is_plain_box(task):
        known["gymnasium"] = [task, {}]
    if "assets" not in known and known.get("gymnasium", [""])[0].split("-")[0] in ("Reacher", "HalfCheetah", "Ant"):
        known["assets"] = "MIT (Gymnasium) and Apache-2.0 (MuJoCo)"
    return known


def _is_plain_box(task: str) -> bool:
    """Whether it is an id that Gymnasium itself registers, whose observations are arrays."""
    try:
        import gymnasium
    except ImportError:
        return False
    if task not in gymnasium.registry or not str(gymnasium.registry[task].entry_point).startswith("gymnasium."):
        return False
    with contextlib.closing(gymnasium.make(task)) as env:
        return isinstance(env.observation_space, gymnasium.spaces.Box)
