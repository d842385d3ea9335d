"""An exported actor in its task: played through the file's content, and compared with the model step by step.

    played = play_file(make_env, actor, content.run, episodes=100, seed=1_400_000)
    played.mean, played.low, played.high               # the return, with its 95 % interval over episodes

Nothing but the content's own function chooses an action.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.analysis.evaluation import episode_returns
from decouple.deploy.plain_actor import PlainActor
from decouple.studies.actor_size.trials import t_interval

__all__ = ["FILE_SEED", "VALIDATION_SEED", "FilePolicy", "Played", "play_file"]

# Offsets of an agent's seed in episodes that choose among agents, and in those that a file is proven in. Neither is met
# in training, in evaluations or in a search's comparisons.
VALIDATION_SEED, FILE_SEED = 1_200_000, 1_400_000
# Inputs that are kept for the comparison: so many, and so many bytes of observations.
MOST_KEPT, MOST_BYTES = 20_000, 2**28


class Played(NamedTuple):
    """Returns of whole episodes."""

    returns: list[float]
    # the inputs that were met, observations (n, ...) first: of all steps, or of every 2nd, 4th, ... of long plays
    inputs: tuple[Tensor, ...]
    seed: int  # seed of the task

    @property
    def observations(self) -> Tensor:
        """Observations that were met, (n, ...)."""
        return self.inputs[0]

    @property
    def mean(self) -> float:
        """The mean return."""
        return statistics.fmean(self.returns)

    @property
    def facts(self) -> dict[str, Any]:
        """The mean return and its 95 % interval over episodes, as metadata."""
        low, high = t_interval(self.returns) if len(self.returns) > 1 else (None, None)
        return {"mean": self.mean, "low": low, "high": high, "episodes": len(self.returns), "seed": self.seed}


class FilePolicy(TensorDictModuleBase):
    """A policy that asks a file for its actions: `observation` (*B, ...) -> `action`, one call for all games.

    A recurrent actor's state is kept here, and is zeros where `is_init` (*B, 1) says that an episode begins.

    Args:
        actor: the actor that the file came from, for shapes.
        run: function from observations (B, ...), state where it is recurrent, noise where it samples, to actions.
        seed: seed of the noise.
    """

    def __init__(self, actor: PlainActor, run: Callable[..., Tensor], seed: int = 0) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation", *(["is_init"] if actor.state_size else [])], ["action"]
        self.state_size = actor.state_size
        self.state: Tensor | None = None  # of a recurrent actor, (B, m)
        self.shape, self.space, self.sample = actor.observation_shape, actor.space, actor.sample
        self.run: Callable[..., Tensor] = run
        self.noise = torch.Generator().manual_seed(seed)
        self.kept: list[tuple[Tensor, ...]] = []  # the inputs of each `every`-th step
        self.steps, self.every = 0, 1

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict["observation"]
        batch = observation.shape[: observation.ndim - len(self.shape)]
        inputs = [observation.reshape(-1, *self.shape).contiguous()]  # (B, ...)
        if self.state_size:
            inputs.append(self._state(tensordict["is_init"].reshape(-1, 1)))
        if self.sample:
            inputs.append(self._noise(len(inputs[0])))
        self._keep(inputs)
        action = self.run(*inputs)
        if self.state_size:
            action, self.state = action
        return tensordict.set("action", action.reshape(*batch, *action.shape[1:]))

    def _keep(self, inputs: list[Tensor]) -> None:
        """Keep a step's inputs, evenly over all steps: where there are too many, every second one is dropped."""
        if self.steps % self.every == 0:
            self.kept.append(tuple(each.clone() for each in inputs))
            most = min(MOST_KEPT, MOST_BYTES // (inputs[0][0].numel() * inputs[0].element_size()))
            while len(self.kept) > 1 and sum(len(step[0]) for step in self.kept) > most:
                self.kept, self.every = self.kept[::2], 2 * self.every
        self.steps += 1

    def _state(self, begins: Tensor) -> Tensor:
        """The state (B, m) of games of which some begin, (B, 1)."""
        if self.state is None:
            self.state = torch.zeros(len(begins), self.state_size)
        return self.state.masked_fill(begins, 0)

    def _noise(self, count: int) -> Tensor:
        noise = torch.empty(count, self.space.size)
        if self.space.discrete:
            return -noise.exponential_(generator=self.noise).log()  # Gumbel
        return noise.normal_(generator=self.noise)


def play_file(
    make_env: Callable[[int, int], EnvBase], actor: PlainActor, run: Callable[..., Tensor], episodes: int, seed: int
) -> Played:
    """Play whole episodes.

    Args:
        make_env: function of a number of games and a seed: the task, with observations as the file reads them.
        actor: the actor that the file came from.
        run: function from observations, and noise, to actions.
        episodes: number of episodes.
        seed: seed of the task.
    """
    policy = FilePolicy(actor, run, seed)
    with contextlib.closing(make_env(episodes, seed)) as env:
        returns = episode_returns(env, policy).tolist()
    return Played(returns[:episodes], tuple(map(torch.cat, zip(*policy.kept, strict=True))), seed)
