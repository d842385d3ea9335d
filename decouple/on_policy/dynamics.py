"""DDCPG's discriminator of dynamics: did this action lead from this state to that one?

    discriminator = DynamicsDiscriminator(256, 15)
    network = TensorDictModule(discriminator, ["policy_hidden", "action", ("following", "policy_hidden")], ["follows"])
    loss = DynamicsLoss(network)                       # reads what `Transitions` and `OtherRows` have written
    phase = Phase(loss, optimizer, past=32, keeps=[...], draw=Transitions(256), look_up=OtherRows(["observation"]))

Real transitions are told from two false ones: with another action, and with another next state. `Transitions` draws
both for each frame of the rollouts; `OtherRows` fetches the observations for one micro-batch at a time, so that the
rollouts are not copied.

Source: Moon, Lee and Song 2022, Rethinking Value Function Learning for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2210.09960; snu-mllab/DCPG).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase, dispatch
from torch import Tensor, nn
from torch.nn import functional
from torchrl.objectives.common import LossModule

from decouple.checks import all_of, at_least, check_setting, checked
from decouple.networks.blocks import orthogonal_
from decouple.on_policy.loss_parts import action_vector, as_network, in_keys, keys_of, nonnegative, run_network
from decouple.seeding import SeedNoise

__all__ = ["DynamicsDiscriminator", "DynamicsLoss", "OtherRows", "Transitions"]


class DynamicsDiscriminator(nn.Module):
    """The discriminator f(z, a, z'), a perceptron with two hidden layers: a logit (*B, 1), high where z' follows.

    Args:
        hidden_size: F, the width of the features z and z'.
        num_actions: number of discrete actions, or the sum of several components' choices.
        width: units of each hidden layer.
        choices: choices of the components where an action is several indices; they enter as one-hot vectors. None
            for a single index.
    """

    @checked(hidden_size=at_least(1), num_actions=at_least(1), width=at_least(1), choices=all_of(at_least(1), least=1))
    def __init__(self, hidden_size: int, num_actions: int, width: int = 256, choices: Sequence[int] | None = None):
        super().__init__()
        adds_up = lambda v: v is None or sum(v) == num_actions  # noqa: E731
        check_setting("choices", choices, adds_up, f"numbers that add up to num_actions, {num_actions}, or None")
        self.num_actions, self.choices = num_actions, tuple(choices or ())
        sizes = [2 * hidden_size + num_actions, width, width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [orthogonal_(nn.Linear(inputs, outputs), gain=math.sqrt(2)), nn.ReLU()]
        self.layers = nn.Sequential(*layers, orthogonal_(nn.Linear(width, 1)))

    def forward(self, hidden: Tensor, action: Tensor, next_hidden: Tensor) -> Tensor:
        """(*B, F), the action as an index (*B,), one-hot (*B, A) or several indices (*B, K), (*B, F) -> (*B, 1)."""
        batch = tuple(hidden.shape[:-1])
        vector = action_vector(action, batch, self.num_actions, discrete=True, choices=self.choices)
        return self.layers(torch.cat([hidden, vector.to(hidden.dtype), next_hidden], -1))


class DynamicsLoss(LossModule):
    """DDCPG's loss, which trains discriminator and features alike.

    `loss_dynamics = coeff * mean (BCE(f(z, a, z'), 1) + BCE(f(z, a'', z'), 0) / 2 + BCE(f(z, a, z''), 0))`, over all
    frames, as in the released code. A frame that no next state follows has the loss 0, and so has the second term where
    a'' is a, which `Transitions` writes where all actions are the same.

    Args:
        discriminator_network: module that reads features, action and next features and writes `dynamics_logit`.
        coeff: weight of the loss, finite and >= 0.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):
        action: NestedKey = "action"
        other_action: NestedKey = "other_action"
        next_hidden: NestedKey = ("following", "policy_hidden")
        other_next_hidden: NestedKey = ("other_following", "policy_hidden")
        follows: NestedKey = "follows"
        dynamics_logit: NestedKey = "dynamics_logit"

    default_keys = _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})
    discriminator_network: TensorDictModule
    discriminator_network_params: TensorDictParams
    target_discriminator_network_params: TensorDictParams
    coeff: Tensor

    def __init__(self, discriminator_network: TensorDictModuleBase, *, coeff: float = 1.0):
        super().__init__()
        network = as_network("discriminator_network", discriminator_network)
        self.convert_to_functional(network, "discriminator_network")
        self.register_coeff_buffer("coeff", nonnegative("coeff", coeff), device=self._default_device)
        self.reduction = "mean"
        self.out_keys = ["loss_dynamics", "dynamics_accuracy"]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        keys = keys_of(self)
        further = keys.action, keys.other_action, keys.next_hidden, keys.other_next_hidden, keys.follows
        self.in_keys = in_keys(self.discriminator_network, *further)

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The scalars `loss_dynamics` and `dynamics_accuracy`, the share of the frames that follow and of their two
        false transitions that the discriminator tells; with `reduction = "none"` per sample, (*B, 1), whose mean is the
        scalar: the accuracy has there the weight of all frames over those that follow."""
        keys = keys_of(self)
        follows: Tensor = tensordict.get(keys.follows)
        action, other = tensordict.get(keys.action), tensordict.get(keys.other_action)
        differs = (action != other).reshape(*follows.shape[:-1], -1).any(-1, keepdim=True)  # (*B, 1)
        real, false_action, false_next = (
            self._logit(tensordict, *of)
            for of in ((action, keys.next_hidden), (other, keys.next_hidden), (action, keys.other_next_hidden))
        )
        of_action = functional.softplus(false_action) * differs
        loss = functional.softplus(-real) + of_action / 2 + functional.softplus(false_next)  # (*B, 1)
        told = ((real > 0).float() + (false_action < 0).float() + (false_next < 0).float()) / 3
        share = follows.float().mean(-2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # (1, 1) or (S, 1, 1)
        output = {"loss_dynamics": self.coeff * loss * follows, "dynamics_accuracy": told * follows / share}
        return TensorDict({name: self._reduce_loss(value, tensordict) for name, value in output.items()})

    def _logit(self, tensordict: TensorDictBase, action: Tensor, next_hidden: NestedKey) -> Tensor:
        keys = keys_of(self)
        seen = tensordict.select(*self.discriminator_network.in_keys, strict=False)
        seen.set(keys.action, action)
        seen.set(keys.next_hidden, tensordict.get(next_hidden))
        network, params = self.discriminator_network, self.discriminator_network_params
        return run_network(network, params, seen, keys.dynamics_logit)


class Transitions:
    """Draws each frame's transition and its two false ones; a `draw` of a phase whose rollouts have `action` and
    `step_count`.

    It writes into flat rollouts (B,) or (S, B):

    - `follows`, (B, 1), True where the next frame is the one after this action: not at the end of a rollout, whose next
      frame is not kept, and with `across_ends=False` not at the end of an episode;
    - `other_action`: that of a random frame with another action, or the frame's own where there is no such frame;
    - `rows`, (B, 2): the row of the next frame, and of the next frame of another one that has one. Where fewer than two
      frames have one, none `follows`.

    Args:
        rollout_steps: steps of each environment in a rollout.
        across_ends: let the first frame of an episode follow the last one of the episode before, as the released code.
    """

    @checked(rollout_steps=at_least(1))
    def __init__(self, rollout_steps: int, *, across_ends: bool = False):
        self.rollout_steps, self.across_ends = rollout_steps, across_ends

    def __call__(self, batch: TensorDictBase, shuffle: torch.Generator | SeedNoise) -> None:
        """Add the keys to flat rollouts, with random numbers from `shuffle`."""
        several = isinstance(shuffle, SeedNoise)
        of_agents = batch.select("action", "step_count").unbind(0) if several else [batch]
        generators = shuffle.generators if several else [shuffle]
        found = [self._of(own, generator) for own, generator in zip(of_agents, generators, strict=True)]
        batch.update(torch.stack(found) if several else found[0])

    def _of(self, batch: TensorDictBase, generator: torch.Generator) -> TensorDict:
        action, step_count = batch["action"], batch["step_count"]
        frames, device = len(action), action.device
        row = torch.arange(frames, device=device)
        follows = (row + 1) % self.rollout_steps != 0
        if not self.across_ends:
            follows &= step_count.reshape(frames).roll(-1) != 0
        follows &= follows.sum() > 1
        # A random other one of the n frames with a next frame: 1 to n - 1 places on, from its own place or any.
        having = follows.nonzero().flatten()
        place = (follows.cumsum(0) - 1).clamp_min(0)
        step = 1 + _draw(frames, len(having) - 1, generator).to(device)
        other = having[(place + step) % len(having)] if len(having) else row
        rows = torch.stack([(row + 1) % frames, (other + 1) % frames], -1)
        others = _with_another_action(action, generator)
        return TensorDict(follows=follows.unsqueeze(-1), rows=rows, other_action=action[others], batch_size=[frames])


def _with_another_action(action: Tensor, generator: torch.Generator) -> Tensor:
    """For each frame the index of a random one whose action differs, (B,); its own where all actions are the same."""
    frames = len(action)
    _, kind, size = torch.unique(action.reshape(frames, -1), dim=0, return_inverse=True, return_counts=True)
    by_kind = kind.argsort(stable=True)  # (B,): frames sorted by their action
    first = size.cumsum(0) - size
    others = frames - size[kind]
    draw = _draw(frames, others, generator).to(action.device)
    found = by_kind[(first[kind] + size[kind] + draw) % frames]  # the frames behind its own block, around the end
    return torch.where(others > 0, found, torch.arange(frames, device=action.device))


def _draw(count: int, below: Tensor | int, generator: torch.Generator) -> Tensor:
    """Whole random numbers from 0 to `below` - 1, (count,); 0 where `below` is not positive."""
    # Whole numbers below 2^62 modulo `below`: exact to one part in 2^40 up to 2^22 frames, unlike float32.
    drawn = torch.randint(2**62, (count,), generator=generator, device=generator.device)
    return drawn % torch.as_tensor(below).to(drawn.device).clamp_min(1)


class OtherRows:
    """Fetches the observations of the two rows that `Transitions` has drawn; a `look_up` of a phase.

    It writes the keys under `following` and `other_following` into a micro-batch (b,) or (S, b).

    Args:
        keys: the keys that the features read.
    """

    @checked()
    def __init__(self, keys: Sequence[Any]):
        self.keys = list(keys)

    def __call__(self, batch: TensorDictBase, micro: TensorDictBase) -> None:
        """Add the keys to frames of a batch."""
        observed, rows = batch.select(*self.keys), micro["rows"]
        for number, name in enumerate(("following", "other_following")):
            own = rows[..., number]
            agents: Any = torch.arange(len(own), device=own.device).unsqueeze(-1)
            micro[name] = observed[own] if own.ndim == 1 else observed[agents, own]
