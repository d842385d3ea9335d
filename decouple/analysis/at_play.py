"""An agent as `play` of film.py asks it: its actions, and the values and the entropy that are drawn beneath them.

    film = play(env, agent_at_play(model, scaling.apply), pictures, steps=500)

Models are those of `actor_value` and `actor_qvalue`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from decouple.analysis.film import Played
from decouple.checks import checked
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import integrated_entropy

__all__ = ["agent_at_play"]


@checked()
def agent_at_play(
    model: ActorValue | ActorQValue, scale: Callable[[Tensor], Tensor] | None = None
) -> Callable[[TensorDictBase], Played]:
    """A function from N states to the agent's actions, and the values of the states or of the actions, and its entropy.

    Args:
        model: the agent; it is put into evaluation mode.
        scale: function of the task's observations to those that the model reads; None: they are the same.
    """
    operator: Any = model.get_policy_operator()
    stochastic = not getattr(model, "deterministic", False)
    policy = integrated_entropy(operator) if stochastic else None
    model.eval()

    def act(step: TensorDictBase) -> Played:
        shown = step.select(*model.in_keys, strict=False)
        if scale:
            shown["observation"] = scale(shown["observation"])
        found = model(shown.copy())
        if getattr(model, "recurrent", False):
            step["next"] = found["next"]  # the next states
        entropy = policy.get_dist(shown.copy()).entropy() if policy is not None else None
        return Played(step.set("action", found["action"]), _value(model, found), entropy)

    return act


def _value(model: ActorValue | ActorQValue, found: TensorDictBase) -> Tensor:
    """The state's value; off policy the least of the critics' values of the chosen action. (N,)"""
    if isinstance(model, ActorValue):
        return found["state_value"].reshape(-1)
    keys = [model.value_key, ("twin", model.value_key)][: model.critics]
    values = torch.stack([found[key] for key in keys]).amin(0)  # (*B, 1), or of each discrete action
    if model.action_space.discrete:
        action = found["action"]
        one_hot = action.shape == values.shape
        chosen = action.argmax(-1, keepdim=True) if one_hot else action.unsqueeze(-1)
        values = values.gather(-1, chosen.long())
    return values.reshape(-1)
