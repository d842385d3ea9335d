"""S students of one size as one batch: what they read, how they act, and what they learn from labels.

students = Students(models, scaling)                # untrained models of one architecture, one for each seed
action = students.act(observation, noise)           # raw observations (S, B, ...)
loss = students.loss(observation, labels)           # (S,)
students.models()                                   # each student as a model of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from decouple.deploy.plain_actor import ObservationScaling
from decouple.networks.stacking import stack, unstack
from decouple.seeding import SeedNoise
from decouple.studies.distillation.losses import policy_head, policy_parameters

__all__ = ["StudentPolicy", "Students", "scaled"]


class Students:
    """The students of a distillation.

    Args:
        models: one model for each seed, of one architecture, from `actor_value` or `actor_qvalue`.
        scaling: scaling of raw observations, the teacher's; None: there is none.

    Attributes:
        model: the stack of all students.
        head: the kind of their policies.
    """

    def __init__(self, models: Sequence[Any], scaling: ObservationScaling | None):
        self.alone, self.model, self.scaling = list(models), stack(models), scaling
        self.head = policy_head(models[0])

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> the stacked parameters that are trained: those of trunk, policy branch and policy head."""
        parts = self.model.parts()
        used = {id(each) for module in (*parts["trunk"], *parts["policy"]) for each in module.parameters()}
        return {name: each for name, each in self.model.named_parameters() if id(each) in used}

    def act(self, observation: Tensor, noise: SeedNoise | None) -> Tensor:
        """Actions at raw observations (S, B, ...), in the task's units; without noise the policies' modes."""
        with torch.no_grad():
            return self.head.act(policy_parameters(self.model, scaled(self.scaling, observation)), noise)

    def loss(self, observation: Tensor, labels: Tensor) -> Tensor:
        """The mean divergence from the teacher at raw observations (S, B, ...) with its parameters (S, B, n): (S,)."""
        own = policy_parameters(self.model, scaled(self.scaling, observation))
        return self.head.divergence(labels, own).mean(-1)

    def models(self) -> list[Any]:
        """Each student as a model of its own."""
        unstack(self.model, self.alone)
        return self.alone


class StudentPolicy(TensorDictModuleBase):
    """The students' policies without exploration, for `episode_returns`: `observation` (S, N, ...) -> `action`."""

    def __init__(self, students: Students):
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self.students = students

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("action", self.students.act(tensordict["observation"], None))


def scaled(scaling: ObservationScaling | None, observation: Tensor) -> Tensor:
    """Raw observations as the networks read them."""
    if scaling is None:
        return observation
    mean, std = (torch.as_tensor(each, dtype=torch.float32) for each in (scaling.mean, scaling.std))
    found = (observation - mean) / std
    return found if scaling.clip is None else found.clamp(-scaling.clip, scaling.clip)
