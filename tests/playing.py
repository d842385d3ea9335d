"""For tests of environments: step one through given actions."""

from __future__ import annotations

from collections.abc import Iterable

from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase


def play(
    env: EnvBase, action: Iterable[Tensor], start: TensorDictBase | None = None
) -> tuple[TensorDict, TensorDictBase]:
    """What the environment answers, (T, S, N) of ``next``, and where it stands then."""
    state = env.reset() if start is None else start
    steps = []
    for now in action:
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        steps.append(transition["next"])
    return TensorDict.stack(steps), state
