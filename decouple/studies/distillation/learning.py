"""The students' learning: they act, the teacher labels what they meet, and they learn its policy from the labels.

    run = Learning(env, students, label, settings, seeds, failed)
    while run.frames < settings.total_frames:
        metrics = run.round()                           # some steps of all games, then some updates

Data is gathered by the student, as in DAgger (Ross et al. 2011, https://arxiv.org/abs/1011.0686): it learns what to do
in the states that it gets into itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.networks.stacking import clip_grad_norm_per_seed_
from decouple.off_policy.stepping import games_of
from decouple.runs.finite import FailedSeeds
from decouple.seeding import SeedNoise, rng_state, seed_metrics, set_rng_state
from decouple.studies.distillation.buffer import LabelledBuffer
from decouple.studies.distillation.settings import DistillationLearning
from decouple.studies.distillation.students import Students

__all__ = ["Learning"]


class Learning:
    """The state of S students' learning: frames done, games, labelled observations, optimizer and random numbers.

    Args:
        env: the task with raw observations, (S, N), or (N,) of one student.
        students: the students.
        label: function from raw observations (S, N, ...) to the teacher's parameters (S, N, n).
        settings: settings of the learning, with the size of the buffer.
        seeds: the students' seeds.
        failed: record of the students in which a loss or a parameter is not finite.
    """

    def __init__(
        self,
        env: EnvBase,
        students: Students,
        label: Callable[[Tensor], Tensor],
        settings: DistillationLearning,
        seeds: Sequence[int],
        failed: FailedSeeds,
    ):
        assert settings.buffer_frames
        self.env, self.students, self.label, self.settings = env, students, label, settings
        self.seeds, self.failed = list(seeds), failed
        self.games, self.noise = games_of(env), SeedNoise(seeds)
        self.alone = len(env.batch_size) == 1  # one student's games, without an axis of seeds
        self.per_step = env.batch_size[-1]
        self.buffer = LabelledBuffer(len(seeds), settings.buffer_frames)
        self.weights = students.parameters()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=settings.learning_rate, fused=True)
        self.frames = 0

    def begin(self) -> None:
        """Reset the games; after `load_state_dict` they go on where they were."""
        self.games.begin()

    def round(self) -> dict[str, float]:
        """Some steps of all games and some updates; returns metrics, without students that have failed.

        Raises:
            NotFiniteError: all students have failed.
        """
        rows: list[dict[str, float]] = [{} for _ in self.seeds]
        for name, values in {**self._play(), **self._learn()}.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row |= {name: value} if value == value else {}
        return seed_metrics(self.failed.kept(rows), self.seeds)

    def _play(self) -> dict[str, Tensor]:
        """Steps of all games, whose observations are labelled; returns the mean return of episodes that ended."""
        ended, returns = torch.zeros(len(self.seeds)), torch.zeros(len(self.seeds))
        for _ in range(self.settings.steps):
            seen = self.games.observation
            observation = seen[None] if self.alone else seen  # (S, N, ...)
            self.buffer.add(observation, self.label(observation))
            action = self.students.act(observation, self.noise if self.settings.sample else None)
            stepped = self.games.step(action[0] if self.alone else action)
            done, total = (stepped[key].reshape(len(self.seeds), -1) for key in ("done", "episode_reward"))
            ended += done.sum(1)
            returns += torch.where(done, total, 0.0).sum(1)
        self.frames += self.settings.steps * self.per_step
        return {"train/episode_return": returns / ended}  # NaN where none has ended

    def _learn(self) -> dict[str, Tensor]:
        """Updates on the buffer; returns the mean loss and gradient norm of each student."""
        settings, sums = self.settings, torch.zeros(2, len(self.seeds))
        left = max(0.0, 1 - (self.frames - settings.steps * self.per_step) / settings.total_frames)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * (left if settings.schedule == "linear" else 1)
        for _ in range(settings.updates):
            indices = self.noise.integers(len(self.buffer), settings.batch_size)  # (S, B)
            loss = self.students.loss(*self.buffer.sample(indices))  # (S,)
            self.optimizer.zero_grad()
            loss.sum().backward()
            weights = list(self.weights.values())
            norms = clip_grad_norm_per_seed_(weights, settings.max_grad_norm, len(self.seeds))
            self.optimizer.step()
            sums += torch.stack([loss.detach(), norms])
        loss, norms = sums / settings.updates
        when = f"by frame {self.frames:,}"
        self.failed.check({"loss": loss}, when)
        self.failed.check({f"parameter {name}": each for name, each in self.weights.items()}, when)
        return {"loss/divergence": loss, "loss/grad_norm": norms}

    def state_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "model": self.students.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.state_dict(),
            "env": self.env.state_dict(),
            "buffer": self.buffer.state_dict(),
            "failed": self.failed.state_dict(),
            "rng": rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frames = state["frames"]
        self.students.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.load_state_dict(state["noise"])
        self.env.load_state_dict(state["env"])
        self.buffer.load_state_dict(state["buffer"])
        self.failed.load_state_dict(state["failed"])
        set_rng_state(state["rng"])
