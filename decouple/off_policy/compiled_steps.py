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
from decouple.compiled.playing import PlayedByKernels, Playing, first_class
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


@checked()
def compiled_steps(env: EnvBase, learner: TrainedAgents, replay: Replay, noise: SeedNoise) -> CompiledSteps | None:
    """The steps by kernels, where agents are compiled, the environment has rules for kernels, and updates are as many
    after each step; else None."""
    groups = learner.groups if isinstance(learner, LearnerGroups) else [learner]
    settings, games = learner.settings, env.batch_size[1]
    rules = hasattr(type(env), "begin_steps")  # not a transformed environment's, which passes on its base's
    even = games % settings.train_every == 0 and settings.held_out_every is None and not scheduled(settings)
    mixed = games == settings.batch_size  # then a step's actions and its updates cut their noise from one draw
    if not rules or not even or mixed or not all(isinstance(each, CompiledLearner) for each in groups):
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
        self.loaded: set[int] = set()

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
        draws = [
            _Draws(learner, noise, self.games, self.each)
            for learner, (_, noise, _) in zip(self.learners, groups, strict=True)
        ]
        if most > playing.certain:  # draws that are not used are given back, but not those that lie in a new pool
            most = max(playing.certain, min(most, draws[0].ready()))
        for each in draws:
            each.draw(most)
        played = [
            self._run(number, rows, playing, drawn, own, most)
            for number, ((rows, _, own), drawn) in enumerate(zip(groups, draws, strict=True))
        ]
        (steps,) = set(played)
        if steps < most:
            draws[0].give_back(steps)
        self.replay.added += steps * self.games
        return Made(steps, *self.env.end_steps(playing))

    def _groups(self, sums: MetricSums) -> Sequence[tuple[slice, SeedNoise, MetricSums]]:
        """The rows of each learner, their random numbers and their metrics."""
        if not isinstance(self.learner, LearnerGroups):
            return [(slice(0, self.learner.seeds), self.noise, sums)]
        return [(rows, self.noise.part(rows), sums.part(rows)) for rows in self.learner.rows]

    def _run(self, number: int, rows: slice, playing: Playing, drawn: _Draws, sums: MetricSums, most: int) -> int:
        """Have one learner's agents make at most `most` steps; returns how many they made."""
        from decouple.compiled.spans import learn

        learner, games, replay = drawn.learner, self.games, self.replay
        acting, learning = self.parts[number]
        size, delay, before = learner.settings.batch_size, learner.settings.policy_delay, learner.updates
        of_games = slice(rows.start * games, rows.stop * games)
        game = (
            playing.places, playing.play, playing.limit, playing.scale, playing.observation[rows],
            playing.total[of_games], playing.steps[of_games], playing.terminated[of_games],
        )  # fmt: skip
        of_replay = (
            replay.array, replay.added, replay.capacity, self.to_unit, replay.to_unit is None, rows.start
        )  # fmt: skip
        tables = [sums.so_far(columns, learner.metrics.shape) for columns in (learner.of_critics, learner.of_all)]
        played = np.zeros(learner.seeds, dtype=np.int64)
        arguments = (
            acting, drawn.acting, learner.bounds, game, most, of_replay, learning, (drawn.uniform, drawn.normal),
            drawn.uses, (before, self.each, delay), SCRATCH, (learner.samples(size), learner.metrics, *tables), played,
        )  # fmt: skip
        if number not in self.loaded:
            with compiling(f"steps-{learner.memory.dtype}-{acting[2].dtype}"):
                learner.threads.load(learn, size, *arguments)
            self.loaded.add(number)
        learner.threads.run(learn, max(size, games), *arguments)
        steps = int(played[0])
        learner.updates += steps * self.each
        with_policy = learner.updates // delay - before // delay
        sums.count(learner.of_all, with_policy)
        sums.count(learner.of_critics, steps * self.each - with_policy)
        return steps


class _Draws:
    """The random numbers of a learner's next steps, drawn one after another as `Learner` draws them.

    Attributes:
        acting, uniform, normal, uses: as the kernel `spans.learn` takes them.
    """

    def __init__(self, learner: CompiledLearner, noise: SeedNoise, games: int, each: int):
        self.learner, self.noise, self.each, self.size = learner, noise, each, learner.settings.batch_size
        self.uses, (_, acts) = learner.noise_uses, learner.widths
        self.of_acting = ("uniform" if learner.space.discrete else "normal", games, acts)
        self.of_updates = ("normal", self.size, acts)
        self.acting, self.uniform, self.normal = (learner.nothing[None] for _ in range(3))

    def ready(self) -> int:
        """For how many steps numbers lie ready, at least 1: what is drawn for one step is always used."""
        steps = min(self.noise.ready(*self.of_acting), self.noise.ready("double", self.size) // self.each)
        if any(self.uses):
            steps = min(steps, self.noise.ready(*self.of_updates) // (sum(self.uses) * self.each))
        return max(1, steps)

    def draw(self, steps: int) -> None:
        """Draw for some steps."""
        kind, *shape = self.of_acting
        _, *of_update = self.of_updates
        noise, updates, delay = self.noise, self.learner.updates, self.learner.settings.policy_delay
        act = noise.normal if kind == "normal" else noise.uniform
        self.drawn: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        acting, samples, normal = self.drawn
        for _ in range(steps):
            acting.append(act(*shape))
            for _ in range(self.each):
                updates += 1
                samples.append(noise.doubles(self.size))
                if self.uses[0]:
                    normal.append(noise.normal(*of_update))
                if self.uses[1] and updates % delay == 0:
                    normal.append(noise.normal(*of_update))
        self.acting, self.uniform = torch.stack(acting).numpy(), torch.stack(samples).numpy()
        if normal:
            self.normal = torch.stack(normal).numpy()

    def give_back(self, steps: int) -> None:
        """Give back what was drawn for later steps than these."""
        acting, samples, normal = self.drawn
        updates, delay = self.learner.updates, self.learner.settings.policy_delay  # after the steps
        before = updates - steps * self.each
        taken = steps * self.each * self.uses[0] + (updates // delay - before // delay) * self.uses[1]
        self.noise.give_back(self.of_acting[0], acting[steps:])
        self.noise.give_back("double", samples[steps * self.each :])
        self.noise.give_back("normal", normal[taken:])
