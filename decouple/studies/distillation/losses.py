"""What a student learns from a teacher's labels, for each kind of policy, and how it acts.

    head = policy_head(model)                           # categorical, normal or deterministic
    parameters = policy_parameters(model, observation)  # (*B, n): logits, loc and scale, or the action before its tanh
    loss = head.divergence(of_teacher, of_student)      # (*B,)
    action = head.act(parameters, noise)                # (S, B, A); without noise the mode

The losses of Rusu et al., *Policy distillation* (2016, https://arxiv.org/abs/1511.06295), at temperature 1, and of
bounded actions before the tanh, which changes no divergence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from decouple.checks import checked
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import draw_categories
from decouple.networks.heads import ActionSpace
from decouple.seeding import SeedNoise

__all__ = ["PolicyHead", "policy_head", "policy_parameters"]


class PolicyHead(NamedTuple):
    """The kind of a policy, with its action space."""

    kind: str  # categorical, normal (squashed or not) or deterministic
    space: ActionSpace

    @property
    def size(self) -> int:
        """Number of a policy's parameters, n."""
        return 2 * self.space.size if self.kind == "normal" else self.space.size

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """How far a student's policy lies from its teacher's, (*B,).

        Categoricals: `KL(teacher || student) = sum_a p (log p - log q)`, summed over the components of an action.
        Normals, before any tanh: `sum_i log(s'_i / s_i) + (s_i^2 + (m_i - m'_i)^2) / (2 s'_i^2) - 1/2`, with the
        student's m', s'. Deterministic policies: `sum_i (tanh x_i - tanh x'_i)^2`, actions in [-1, 1].

        Args:
            teacher, student: parameters of their policies, (*B, n).
        """
        if self.kind == "deterministic":
            return (torch.tanh(teacher) - torch.tanh(student)).square().sum(-1)
        if self.kind == "normal":
            (loc, scale), (own_loc, own_scale) = teacher.chunk(2, -1), student.chunk(2, -1)
            spread = (scale.square() + (loc - own_loc).square()) / (2 * own_scale.square())
            return (own_scale.log() - scale.log() + spread - 0.5).sum(-1)
        found = torch.zeros(teacher.shape[:-1], dtype=teacher.dtype, device=teacher.device)
        for of, own in zip(self._parts(teacher), self._parts(student), strict=True):
            log_p, log_q = of.log_softmax(-1), own.log_softmax(-1)
            found = found + (log_p.exp() * (log_p - log_q)).sum(-1)
        return found

    def act(self, parameters: Tensor, noise: SeedNoise | None) -> Tensor:
        """Actions in the task's units (S, B, A), indices (S, B) or (S, B, K), or one-hot; NaN becomes a valid action.

        Args:
            parameters: parameters of the students' policies, (S, B, n).
            noise: random numbers of the S students, from which actions are drawn; None for the mode. A deterministic
                policy draws none.
        """
        if self.kind != "categorical":
            return self._bounded(parameters, noise)
        drawn = [
            part.argmax(-1) if noise is None else draw_categories(part.softmax(-1), noise)
            for part in self._parts(parameters)
        ]
        if self.space.choices:
            return torch.stack(drawn, -1)
        return functional.one_hot(drawn[0], self.space.size) if self.space.one_hot else drawn[0]

    def _bounded(self, parameters: Tensor, noise: SeedNoise | None) -> Tensor:
        x = parameters
        if self.kind == "normal":
            x, scale = parameters.chunk(2, -1)
            x = x if noise is None else torch.addcmul(x, scale, noise.normal(*x.shape[1:]))
        x = x.nan_to_num(0.0)
        low, high = self.space.low, self.space.high
        if low is None or high is None or not self.space.bounded:
            return x
        return torch.clamp((high + low) / 2 + (high - low) / 2 * torch.tanh(x), low, high)

    def _parts(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.split(self.space.choices, -1) if self.space.choices else (logits,)


@checked()
def policy_head(model: ActorValue | ActorQValue) -> PolicyHead:
    """The kind of a model's policy."""
    space = model.action_space
    kind = "categorical" if space.discrete else "deterministic" if getattr(model, "deterministic", False) else "normal"
    return PolicyHead(kind, space)


def policy_parameters(model: ActorValue | ActorQValue, observation: Any) -> Tensor:
    """Observation (*B, ...) as the network reads it -> logits; loc and scale; or the action before its tanh: (*B, n).

    Of a model from `actor_value` or `actor_qvalue` without memory, or of a `stack` of S such, (S, *B, ...).
    """
    parts = model.parts()
    x = observation
    for module in (*parts["trunk"], *parts["policy"]):
        x = module(x)
    return x if isinstance(x, Tensor) else torch.cat(x, -1)
