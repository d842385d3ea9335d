"""Steps of a training loop that kernels make by themselves, several in one call.

    steps = compiled_steps(env, learner, replay, noise)       # None where Python makes each step
    made = steps.make(most=100, sums=sums)                  # acts, plays, keeps, learns; None: Python has to step
    made.steps, made.stepped, made.observation

The random numbers are those that the steps draw one by one, in their order. So replay, agents and games are, to the
bit, those of single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import checked
from decouple.compiled.kernel import compiling
from decouple.compiled.memory import SIZE
from decouple.compiled.playing import PlayedByKernels, Playing, StepsAhead, entry_point, first_class, may_be_played
from decouple.compiled.threads import SCRATCH
from decouple.off_policy.compiled_learner import CompiledLearner
from decouple.off_policy.interfaces import TrainedAgents
from decouple.off_policy.learner_groups import LearnerGroups
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay
from decouple.runs.learning_rates import scheduled
from decouple.seeding import SeedNoise

__all__ = ["CompiledSteps", "compiled_steps"]

MOST = 64  # steps of a call; so many random numbers are drawn for them
WORK = 2**28  # of a call: steps times the agents' parameters times the rows of a sample; a tenth of a second, or less


class Made(NamedTuple):
    """Steps that were made: their number, what `plain_step` returns for the last one, and what to act on next."""

    steps: int
    stepped: dict[str, Tensor]
    observation: Tensor


class _Group(NamedTuple):
    """What a learner of equal agents has of a run: its agents' rows, random numbers and metrics."""

    rows: slice
    noise: SeedNoise
    sums: MetricSums


@checked()
def compiled_steps(env: EnvBase, learner: TrainedAgents, replay: Replay, noise: SeedNoise) -> CompiledSteps | None:
    """The steps by kernels, where agents are compiled, the environment has rules for kernels, and updates are as many
    after each step; else None."""
    groups = learner.groups if isinstance(learner, LearnerGroups) else [learner]
    settings, games = learner.settings, env.batch_size[1]
    even = games % settings.train_every == 0 and settings.held_out_every is None and not scheduled(settings)
    mixed = games == settings.batch_size  # then a step's actions and its updates cut their noise from one draw
    if not may_be_played(env) or not even or mixed or not all(isinstance(each, CompiledLearner) for each in groups):
        return None
    return CompiledSteps(env, learner, replay, noise)


class CompiledSteps:
    """The steps of a run by kernels; made by `compiled_steps`.

    Args:
        env: the environment, with the methods of `PlayedByKernels`.
        learner: a `CompiledLearner`, or `LearnerGroups` of such.
        replay: keeps all transitions.
        noise: the run's random numbers.
    """

    def __init__(self, env: Any, learner: Any, replay: Replay, noise: SeedNoise):
        self.env: PlayedByKernels = env
        self.learner, self.replay, self.noise = learner, replay, noise
        self.games = env.batch_size[1]
        self.each = self.games // learner.settings.train_every * learner.settings.updates  # updates after a step
        self.learners: list[CompiledLearner] = learner.groups if isinstance(learner, LearnerGroups) else [learner]
        self.parts = [self._functions(each) for each in self.learners]
        self.to_unit = np.zeros((2, 1), np.float32) if replay.to_unit is None else np.stack(replay.to_unit)
        parameters = sum(int(each.tables.agents[:, SIZE].sum()) for each in self.learners)
        self.most = max(1, min(MOST, WORK // (parameters * learner.settings.batch_size * self.each)))
        self.ahead = StepsAhead(self.most)
        self.kernels: dict[int, Any] = {}  # for each learner, compiled for its arguments' types

    def _functions(self, learner: CompiledLearner) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The kernels that act and update, each with its arguments, as `spans.learn` takes them."""
        seeds, scratch, (observed, acts) = learner.seeds, learner.threads.scratch(1), learner.widths
        action = np.zeros((seeds, self.games, acts), dtype=np.int64 if learner.space.discrete else np.float32)
        seen, drawn = np.zeros((seeds, self.games, observed), np.float32), np.zeros_like(action, dtype=np.float32)
        network = learner.arguments(learner.samples(1), drawn, drawn, True)
        own = [scratch if each is SCRATCH else each for each in network]
        act = first_class(
            learner.kernels["act"], *network[:3], learner.memory, learner.kind, learner.explores, seen, drawn, True,
            learner.bounds, scratch, action,
        )  # fmt: skip
        update = first_class(learner.kernels["update"], *own, 0, 0)
        of_update = (*network[:7], learner.widths)
        return (learner.kind, learner.explores, action, act), (*of_update, update)

    def make(self, most: int, sums: MetricSums) -> Made | None:
        """Make one step or more, up to `most`, with policies that act and updates after each; None where Python
        has to make it."""
        playing = self.env.begin_steps()
        if playing is None:
            return None
        groups = self._groups(sums)
        # Agents beside others end their episodes at other steps, and all have to stop at the same one.
        most = min(most, self.most, playing.certain if self.learner.seeds > 1 else most)
        draws = _Draws(self.learners, groups, self.noise, self.games, self.each)
        most = self.ahead.of(most, playing.certain, draws.ready)
        draws.draw(most)
        (steps,) = {
            self._run(number, group, playing, drawn, most)
            for number, (group, drawn) in enumerate(zip(groups, draws.of_each, strict=True))
        }
        if steps < most:
            draws.give_back(most, steps)
        self.ahead.made(steps)
        self.replay.added += steps * self.games
        return Made(steps, *self.env.end_steps(playing))

    def _groups(self, sums: MetricSums) -> Sequence[_Group]:
        """What each learner has of the run."""
        if not isinstance(self.learner, LearnerGroups):
            return [_Group(slice(0, self.learner.seeds), self.noise, sums)]
        return [_Group(rows, self.noise.part(rows), sums.part(rows)) for rows in self.learner.rows]

    def _run(self, number: int, group: _Group, playing: Playing, drawn: tuple[np.ndarray, ...], most: int) -> int:
        """Have one learner's agents make at most `most` steps; returns how many they made."""
        from decouple.compiled.spans import learn

        learner, games, replay, (rows, _, sums) = self.learners[number], self.games, self.replay, group
        (acting, learning), (acting_noise, uniform, normal) = self.parts[number], drawn
        size, delay, before = learner.settings.batch_size, learner.settings.policy_delay, learner.updates
        in_unit = replay.to_unit is None
        of_replay = (replay.array, replay.added, replay.capacity, self.to_unit, in_unit, rows.start)
        tables = [sums.so_far(columns, learner.metrics.shape) for columns in (learner.of_critics, learner.of_all)]
        played = np.zeros(learner.seeds, dtype=np.int64)
        arguments = (
            acting, acting_noise, learner.bounds, playing.of(rows), most, of_replay, learning, (uniform, normal),
            learner.noise_uses, (before, self.each, delay), SCRATCH,
            (learner.samples(size), learner.metrics, *tables), played,
        )  # fmt: skip
        if number not in self.kernels:
            with compiling(f"steps-{learner.memory.dtype}-{acting[2].dtype}"):
                scratch = learner.threads.scratch(size)
                own = [scratch if each is SCRATCH else each for each in arguments]
                self.kernels[number] = entry_point(learn, *own, 0, 0)
        learner.threads.run(self.kernels[number], max(size, games), *arguments)
        steps = int(played[0])
        learner.updates += steps * self.each
        with_policy = learner.updates // delay - before // delay
        sums.count(learner.of_all, with_policy)
        sums.count(learner.of_critics, steps * self.each - with_policy)
        return steps


class _Draws:
    """The random numbers of some steps, drawn one after another as `_Run.step` and the learners draw them.

    Args:
        learners, groups: the learners, and of each its rows and its part of the random numbers.
        noise: the run's random numbers, from which samples are drawn for all agents.
        games: games of each agent. each: updates after a step.

    Attributes:
        of_each: for each learner its noise for acting, for samples and for updates, as the kernel `spans.learn` takes
            them.
    """

    def __init__(
        self, learners: Sequence[CompiledLearner], groups: Sequence[_Group], noise: SeedNoise, games: int, each: int
    ):
        first = learners[0]
        self.groups, self.noise, self.games, self.each = groups, noise, games, each
        self.rows, self.delay = first.settings.batch_size, first.settings.policy_delay
        self.uses, self.acts, self.updates = first.noise_uses, first.widths[1], first.updates
        self.kind = "uniform" if first.space.discrete else "normal"
        self.nothing = [learner.nothing for learner in learners]

    def ready(self) -> int:
        """For how many steps numbers lie ready, at least 1: what is drawn for one step is always used."""
        samples = self.noise.ready("double", self.rows) // self.each
        steps = [min(group.noise.ready(self.kind, self.games, self.acts), samples) for group in self.groups]
        if any(self.uses):
            most = sum(self.uses) * self.each
            steps += [group.noise.ready("normal", self.rows, self.acts) // most for group in self.groups]
        return max(1, min(steps))

    def draw(self, steps: int) -> None:
        """Draw for some steps."""
        acts = [group.noise.uniform if self.kind == "uniform" else group.noise.normal for group in self.groups]
        self.samples: list[Tensor] = []
        self.acting: list[list[Tensor]] = [[] for _ in self.groups]
        self.normal: list[list[Tensor]] = [[] for _ in self.groups]
        for _ in range(steps):
            for act, acting in zip(acts, self.acting, strict=True):
                acting.append(act(self.games, self.acts))
            for _ in range(self.each):
                self.updates += 1
                self.samples.append(self.noise.doubles(self.rows))
                times = self.uses[0] + (self.uses[1] and self.updates % self.delay == 0)
                for group, normal in zip(self.groups, self.normal, strict=True):
                    normal.extend(group.noise.normal(self.rows, self.acts) for _ in range(times))
        samples = torch.stack(self.samples)
        self.of_each = [
            (
                torch.stack(acting).numpy(),
                samples[:, group.rows].contiguous().numpy(),
                torch.stack(normal).numpy() if normal else nothing[None],
            )
            for acting, normal, group, nothing in zip(self.acting, self.normal, self.groups, self.nothing, strict=True)
        ]

    def give_back(self, drawn: int, steps: int) -> None:
        """Give back what was drawn for later steps than these."""
        before, until = self.updates - drawn * self.each, self.updates - (drawn - steps) * self.each
        taken = steps * self.each * self.uses[0] + (until // self.delay - before // self.delay) * self.uses[1]
        self.noise.give_back("double", self.samples[steps * self.each :])
        for group, acting, normal in zip(self.groups, self.acting, self.normal, strict=True):
            group.noise.give_back(self.kind, acting[steps:])
            group.noise.give_back("normal", normal[taken:])
