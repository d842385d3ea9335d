"""The check of an exported actor: how far its actions are from those of the model that it came from.

inputs = inputs_to_check(actor, recorded_observations)
difference_from(actor, run, model, *inputs)        # `difference` of `ExportReport`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import IndependentNormal

from decouple.deploy.plain_actor import PlainActor
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.fitting import evaluating

__all__ = ["RANDOM_OBSERVATIONS", "RefusedFileError", "difference_from", "inputs_to_check"]

RANDOM_OBSERVATIONS = 256  # random observations in the check
AT_ONCE = 512  # observations that are compared in one call: thousands of frames would need gigabytes


class RefusedFileError(RuntimeError):
    """A file is not written, since it acts otherwise than the model, or worse."""


def inputs_to_check(
    actor: PlainActor, recorded: Tensor | None, random: int = RANDOM_OBSERVATIONS
) -> tuple[Tensor, ...]:
    """Random observations and the recorded ones, states for a recurrent actor, noise for one that samples."""
    if recorded is None:
        return actor.random_inputs(random)
    if tuple(recorded.shape[1:]) != actor.observation_shape or recorded.dtype != actor.observation_dtype:
        wanted = f"(n, {', '.join(map(str, actor.observation_shape))}) of {actor.observation_dtype}"
        raise ValueError(f"observations must be {wanted}; got {tuple(recorded.shape)} of {recorded.dtype}")
    observation, *others = actor.random_inputs(random + len(recorded))
    return torch.cat([observation[:random], recorded.cpu()]), *others


def difference_from(
    actor: PlainActor, run: Callable[..., Any], model: ActorValue | ActorQValue, observation: Tensor, *inputs: Tensor
) -> float:
    """The difference of `ExportReport`; the model's own actions are its TorchRL policy's on scaled observations."""
    pieces = zip(*(each.split(AT_ONCE) for each in (observation, *inputs)), strict=True)
    # np.max, since Python's max would lose a NaN.
    return float(np.max([_difference(actor, run, model, *piece) for piece in pieces]))


def _difference(
    actor: PlainActor, run: Callable[..., Any], model: ActorValue | ActorQValue, observation: Tensor, *inputs: Tensor
) -> float:
    policy = model.get_policy_operator()
    device = next(model.parameters()).device
    scaled = observation if actor.scaling is None else actor.scaling.apply(observation)
    step = TensorDict({policy.in_keys[0]: scaled.to(device)}, [len(scaled)])
    noise = inputs[-1:] if actor.sample else ()
    with torch.no_grad(), evaluating(model), set_exploration_type(ExplorationType.DETERMINISTIC):
        action, of_state = run(observation, *inputs), 0.0
        if actor.state_size:
            action, after = action
            of_state = _state_difference(actor, policy, step, inputs[0], after)
        # np.maximum, since Python's max would lose a NaN.
        return float(np.maximum(of_state, _action_difference(actor, policy, step, action, noise)))


def _state_difference(actor: PlainActor, policy: Any, step: TensorDict, state: Tensor, after: Tensor) -> float:
    """The largest difference of a next state (B, m) from the policy's own; the states are put into `step`."""
    own = [each for states in actor.states(state).values() for each in states]
    keys = [key for key in policy.in_keys if str(key).startswith("recurrent_state")]
    observed = step[policy.in_keys[0]]
    step["is_init"] = torch.zeros(len(state), 1, dtype=torch.bool, device=observed.device)
    for key, value in zip(keys, own, strict=True):
        # In the model's type; where a picture's bytes are observed, that is the state's own.
        step[key] = value.to(observed.device, observed.dtype if observed.is_floating_point() else value.dtype)
    found = policy(step.copy())
    wanted = torch.cat([found["next", key].flatten(1) for key in keys], -1)
    return (after - wanted.cpu()).abs().max().item()


def _action_difference(
    actor: PlainActor, policy: Any, step: TensorDict, action: Tensor, noise: Sequence[Tensor]
) -> float:
    """The difference of `ExportReport` between these actions and the policy's own."""
    device = step[policy.in_keys[0]].device
    if actor.space.choices:
        scores = (policy.get_dist(step).logits.cpu() + sum(noise)).split(actor.space.choices, -1)  # (B, n_i) each
        pairs = zip(scores, action.unbind(-1), strict=True)
        return max((of.amax(-1) - of.gather(-1, index[:, None]).squeeze(-1)).max().item() for of, index in pairs)
    if actor.space.discrete:
        scores = policy.get_dist(step).logits.cpu() + sum(noise)  # (B, n)
        index = action.argmax(-1) if actor.space.one_hot else action
        return (scores.amax(-1) - scores.gather(-1, index[:, None]).squeeze(-1)).max().item()
    wanted = _drawn(policy.get_dist(step), noise[0].to(device)) if noise else policy(step)["action"]
    return ((action - wanted.cpu()).abs() / (actor.half_range if actor.space.bounded else 1)).max().item()


def _drawn(distribution: Any, noise: Tensor) -> Tensor:
    """The sample of TorchRL's TanhNormal or IndependentNormal for this noise."""
    if isinstance(distribution, IndependentNormal):
        return distribution.mean + distribution.stddev * noise
    normal = distribution.root_dist
    return distribution.transforms[0](normal.loc + normal.scale * noise)
