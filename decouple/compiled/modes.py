"""Agents that act without exploration by kernels: one step of theirs, or whole episodes in one call.

    modes = policy.mode_kernels()                # None: the policy's modules have to act
    action = modes.act(observation)              # (S, N, O) -> the modes of the distributions
    modes.play(playing, 100, running, returns)   # games of `PlayedByKernels`, each at most to its episode's end

The kernels know no algorithm: agents of any give their layers, and how the policy's output becomes an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decouple.checks import SOME, checked
from decouple.compiled.kernel import compiling
from decouple.compiled.memory import SIZE, Tables
from decouple.compiled.playing import Playing, entry_point, first_class
from decouple.compiled.threads import SCRATCH, AgentThreads

__all__ = ["ModeGroup", "ModeKernels"]

# Of a call that plays: steps times the games of an agent times all agents' parameters; a tenth of a second.
WORK = 2**28


class ModeGroup(NamedTuple):
    """Equal agents that act without exploration.

    Attributes:
        tables, memory: where each number of each agent lies, and all numbers; kernels read them at each call.
        threads: the threads that the agents are spread over.
        kind, bounds: as for `acting.act`.
        widths: numbers of an observation, and of an action: A, or 1 for an index.
        choices: number of actions to choose from; 0 where they are no indices.
    """

    tables: Tables
    memory: np.ndarray
    threads: AgentThreads
    kind: int
    bounds: np.ndarray
    widths: tuple[int, int]
    choices: int


class ModeKernels:
    """S agents that act without exploration; made by the policies of compiled agents.

    Args:
        groups: groups of equal agents, one after another, which share the task.

    Attributes:
        seeds: number of agents, S.
        widths, choices: as of each group.
    """

    @checked(groups=SOME)
    def __init__(self, groups: Sequence[ModeGroup]):
        self.groups = list(groups)
        sizes = [len(each.tables.shapes) for each in groups]
        ends = list(accumulate(sizes))
        self.rows = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.seeds, self.widths, self.choices = ends[-1], groups[0].widths, groups[0].choices
        self._parameters = sum(int(each.tables.agents[:, SIZE].sum()) for each in groups)
        self._acted = False
        self._kernels: dict[int, Any] = {}  # that play, for each group, compiled for their arguments' types

    def act(self, observation: Tensor) -> Tensor:
        """Actions at observations (S, N, O): float32 (S, N, A), or indices (S, N); by one thread."""
        if not self._acted:
            with compiling(self._name("mode")):
                self._act(np.zeros((0, 1, self.widths[0]), np.float32))  # for none of the agents
            self._acted = True
        seen = np.ascontiguousarray(observation.numpy(force=True), dtype=np.float32)
        action = torch.from_numpy(self._act(seen))
        return action.squeeze(-1) if self.choices else action

    def _act(self, seen: np.ndarray) -> np.ndarray:
        from decouple.compiled.acting import act

        agents, games, _ = seen.shape
        action, nothing = self._actions(agents, games), _nothing(agents)
        for group, rows in zip(self.groups, self.rows, strict=True):
            act(
                *_network(group), group.kind, 0.0, seen[rows], nothing, False, group.bounds,
                group.threads.scratch(games), action[rows],
            )  # fmt: skip
        return action

    def most(self, games: int) -> int:
        """Steps of `play` that take about a tenth of a second, at most; of this number of games of each agent."""
        return max(1, WORK // (games * self._parameters))

    def play(self, playing: Playing, most: int, running: np.ndarray, returns: np.ndarray) -> None:
        """Play each running game at most `most` steps, up to the end of its episode; spread over threads.

        Args:
            playing: the games. One that is not running stays as it is.
            most: steps.
            running: bool (S, N); becomes False where an episode ends.
            returns: float64 (S, N), to which the rewards are added as agents see them.
        """
        games = playing.observation.shape[1]
        for number, (group, rows) in enumerate(zip(self.groups, self.rows, strict=True)):
            arguments = (
                self._acting[number], group.bounds, rows.start, playing.of(rows), most, running[rows], returns[rows],
                SCRATCH,
            )  # fmt: skip
            if number not in self._kernels:
                self._kernels[number] = self._compiled(group, games, arguments)
            group.threads.run(self._kernels[number], games, *arguments)

    @cached_property
    def _acting(self) -> list[tuple[Any, ...]]:
        """What acts for each group, as `spans.play_out` takes it."""
        from decouple.compiled.acting import act

        seen, nothing, action = np.zeros((1, 1, self.widths[0]), np.float32), _nothing(1), self._actions(1, 1)
        with compiling(self._name("mode")):
            functions = [
                first_class(
                    act, *_network(group), group.kind, 0.0, seen, nothing, False, group.bounds,
                    group.threads.scratch(1), action,
                )
                for group in self.groups
            ]  # fmt: skip
        pairs = zip(self.groups, functions, strict=True)
        return [(*_network(group), group.kind, nothing, action, function) for group, function in pairs]

    def _compiled(self, group: ModeGroup, games: int, arguments: tuple[Any, ...]) -> Any:
        """The kernel that plays, compiled for these arguments' types."""
        from decouple.compiled.spans import play_out

        with compiling(self._name("episodes")):
            own = [group.threads.scratch(games) if each is SCRATCH else each for each in arguments]
            return entry_point(play_out, *own, 0, 0)

    def _actions(self, agents: int, games: int) -> np.ndarray:
        return np.zeros((agents, games, self.widths[1]), dtype=np.int64 if self.choices else np.float32)

    def _name(self, what: str) -> str:
        return f"{what}-{self.groups[0].memory.dtype}-{self._actions(0, 0).dtype}"


def _network(group: ModeGroup) -> tuple[np.ndarray, ...]:
    return group.tables.agents, group.tables.layers, group.tables.slopes, group.memory


def _nothing(agents: int) -> np.ndarray:
    """In the place of noise, which a mode does not read."""
    return np.zeros((agents, 0, 0), np.float32)
