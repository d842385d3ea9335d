"""The S agents of a stacked model in flat memory, for kernels: acting, values and advantages of rollouts.

    why = not_known(model)                               # None, or why kernels cannot run these agents
    agents = CompiledAgents(model)
    agents.read()                                           # the model's parameters into the memory
    action, log_prob, value = agents.act(observation, noise)

Agents are spread over threads; an agent's numbers do not depend on those beside it, or on the number of threads. The
model's parameters and the memory are two copies: `read` and `write` carry one over to the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.modules import TanhNormal

from decouple.checks import checked
from decouple.compiled.kernel import compiling, one_blas_thread, unavailable
from decouple.compiled.memory import ONLINE, AgentShape, Layer, Tables
from decouple.compiled.modes import ModeGroup, ModeKernels
from decouple.compiled.playing import Playing, StepsAhead, entry_point, first_class
from decouple.compiled.threads import SCRATCH, AgentThreads
from decouple.networks.actor_value import ActorValue
from decouple.networks.perceptrons import perceptron_layers
from decouple.networks.stacking import StackedLinear, StackedNormalScale, seed_count
from decouple.seeding import SeedNoise

__all__ = ["CompiledAgents", "not_known"]

BLOCK = 256  # observations that values are computed for at once
MOST = 256  # steps that kernels play in one call
PARTS = ("trunk", "policy", "critic")


@checked()
def not_known(model: ActorValue) -> str | None:
    """Why kernels cannot run a model's agents, for a message; None where they can.

    Kernels know stacks of perceptrons that read one vector, on a processor, in float32 or float64, all of whose
    parameters are trained.
    """
    why = unavailable()
    if why is not None:
        return why
    if seed_count(model) is None:
        return "the model is not stacked, and kernels know stacks, also of one model"
    if model.gated:
        return "the model has gates, and kernels know none"
    parameters = list(model.parameters())
    if any(each.device.type != "cpu" for each in parameters):
        return f"the model is on {parameters[0].device}, and kernels run on a processor"
    types = {each.dtype for each in parameters}
    if types not in ({torch.float32}, {torch.float64}):
        return f"the parameters are {' and '.join(map(str, types))}, and kernels know float32 and float64"
    if not all(each.requires_grad for each in parameters):
        return "some parameters are frozen, and kernels train all"
    if model.recurrent:
        return "the model is recurrent, and kernels know no memory"
    if len(model.in_keys) != 1:
        return f"the model reads {list(model.in_keys)}, and kernels one observation"
    sampled = model.get_policy_head()[-1].distribution_class
    if not issubclass(sampled, TanhNormal | torch.distributions.Categorical):
        return f"actions are drawn from {sampled.__name__}, and kernels know squashed normals and categoricals"
    scales = [module for module in model.modules() if isinstance(module, StackedNormalScale)]
    if len(scales) != issubclass(sampled, TanhNormal) or any(scale.scale_mapping != "exp" for scale in scales):
        return "the normal's scale is not the exponential of a parameter"
    try:
        shape = _shape(model)
    except ValueError as error:
        return str(error)
    return None if shape.policy and shape.critics[0] else "a part has no layers"


class CompiledAgents:
    """The S agents of a stacked model, as kernels run them.

    Args:
        model: a `stack` of models from `actor_value`.
        head: weight (S, in, 1) and bias (S, 1, 1) of the policy's further head, as DAAC's advantage; None for none.

    Attributes:
        seeds: number of agents, S.
        tables, memory: where each number of each agent lies, and all numbers (`decouple.compiled.memory`).
        dtype: NumPy's type of the numbers, float32 or float64.
        threads: threads that agents are spread over, as many as PyTorch's when the agents are made, and at most S.
        key: the observation's key.
        widths: numbers of an observation, and of an action: A, or 1 for an index.
        discrete, one_hot: kind of the actions.

    Raises:
        ValueError: a model that kernels do not know; the message says what they do know.
    """

    @checked()
    def __init__(self, model: ActorValue, head: tuple[nn.Parameter, nn.Parameter] | None = None):
        why = not_known(model)
        if why is not None:
            raise ValueError(f"model must be a stack of perceptrons on a processor to be compiled: {why}")
        one_blas_thread()
        self.model, self.head, self.key = model, head, model.in_keys[0]
        self.seeds = seed_count(model) or 0
        shape = _shape(model)._replace(head=head[0].shape[1] if head else 0)
        self.tables = Tables([shape] * self.seeds)
        self.dtype = np.dtype(np.float64 if next(model.parameters()).dtype == torch.float64 else np.float32)
        self.memory = self.tables.memory(self.dtype)
        self.threads = AgentThreads(self.tables, self.dtype, torch.get_num_threads())
        space = model.action_space
        self.discrete, self.one_hot = space.discrete, space.one_hot
        first = (shape.trunk or shape.policy)[0]
        self.widths = (first.inputs, 1 if space.discrete else space.size)
        self.bounds = np.zeros((3, 1 if space.low is None else space.size))
        if space.low is not None and space.high is not None:
            half = (space.high - space.low) / 2
            parts = ((space.high + space.low) / 2, half, half.log())  # in the bounds' own type, as TanhNormal
            self.bounds[:] = [part.double().numpy() for part in parts]
        self._called: set[str] = set()
        self._acts: Any = None
        self._collect: Any = None
        self._ahead = StepsAhead(MOST)
        self.read()

    # --------------------------------------------------------------------------------------------------- the two copies

    @torch.no_grad()
    def read(self) -> None:
        """Copy the model's parameters into the memory."""
        for place, parameter in self.places(ONLINE, lambda parameter: parameter):
            place[...] = parameter.numpy()

    @torch.no_grad()
    def write(self) -> None:
        """Copy the memory into the model's parameters."""
        for place, parameter in self.places(ONLINE, lambda parameter: parameter):
            parameter.copy_(torch.from_numpy(place))

    def places(self, copy_of: int, of: Callable[[nn.Parameter], Tensor | None]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Each piece of a copy in memory, with its part of the tensor that `of` gives for a parameter.

        Layers whose tensor is None are left out.
        """
        for part, modules in self._linear.items():
            yield from linear_places(self.tables, self.memory, part, modules, copy_of, of)
        weight, bias = (of(parameter) for parameter in self.head) if self.head else (None, None)
        if weight is not None and bias is not None:
            for agent in range(self.seeds):
                to_weight, to_bias = self.tables.head(self.memory, agent, copy_of)
                yield to_weight, weight[agent]
                yield to_bias, bias[agent, 0]
        for scale in self._scales:
            tensor = of(scale.state_independent_scale)
            if tensor is not None:
                yield from ((self.tables.scale(self.memory, s, copy_of), tensor[s]) for s in range(self.seeds))

    # ---------------------------------------------------------------------------------------------------------- kernels

    def act(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Draw actions by the parameters in memory, from the same random numbers as `SeededPolicy`; by one thread.

        Args:
            observation: (S, N, O).
            noise: the random numbers of the seeds.

        Returns:
            Action, (S, N, A), an index (S, N) or one-hot (S, N, n); log-probability (S, N); value (S, N, 1).
        """
        from decouple.compiled.rollouts import act

        _, games, _ = observation.shape
        drawn = noise.uniform(games, 1) if self.discrete else noise.normal(games, self.widths[1])
        actions = np.empty((self.seeds, games, self.widths[1]), dtype=np.int64 if self.discrete else self.dtype)
        log_probs, values = np.empty((2, self.seeds, games), dtype=self.dtype)
        arguments = (
            *self.network, self._array(observation), self._array(drawn), self.discrete, self.bounds,
            self.threads.scratch(games), actions, log_probs, values,
        )  # fmt: skip
        if "rollouts-act" in self._called:  # without what a context takes, a tenth of the call
            act(*arguments, 0, self.seeds)
        else:
            with self._compiling("rollouts-act"):
                act(*arguments, 0, self.seeds)
        action = torch.from_numpy(actions)
        if self.discrete:
            action = action.squeeze(-1)
        if self.one_hot:
            action = nn.functional.one_hot(action, self.model.action_size)
        return action, torch.from_numpy(log_probs), torch.from_numpy(values.reshape(self.seeds, games, 1))

    def mode_kernels(self) -> ModeKernels | None:
        """The agents as kernels have them act without exploration, by the model's present parameters, which are read;
        None where `may_collect` is False."""
        if not self.may_collect:
            return None
        self.read()
        return self._modes

    @cached_property
    def _modes(self) -> ModeKernels:
        """The squashed normal's mode is an action that its network computes: the tanh of loc, in the task's units."""
        from decouple.compiled.acting import CATEGORICAL, DETERMINISTIC
        from decouple.compiled.rollouts import HALF, MIDDLE

        middle, half = self.bounds[[MIDDLE, HALF]].astype(np.float32)
        most = half * np.float32(1 - torch.finfo(torch.float32).resolution)  # TorchRL holds the tanh off -1 and 1
        low = self.model.action_space.low
        lowest = middle - half if low is None else low.float().numpy()  # of an agent that has failed, as `ModePolicy`
        bounds = np.stack([middle, half, middle - most, middle + most, lowest])
        kind, choices = (CATEGORICAL, self.model.action_size) if self.discrete else (DETERMINISTIC, 0)
        return ModeKernels([ModeGroup(self.tables, self.memory, self.threads, kind, bounds, self.widths, choices)])

    @property
    def may_collect(self) -> bool:
        """Whether `collect` and `mode_kernels` know the agents: float32, and actions that are numbers or an index."""
        return self.dtype == np.float32 and not self.one_hot and self.key == "observation"

    def collect(
        self, playing: Playing, noise: SeedNoise, at: int, most: int, acted: tuple[np.ndarray, ...],
        stepped: tuple[np.ndarray, ...], ends: np.ndarray,
    ) -> int:  # fmt: skip
        """Play some steps into a rollout by the parameters in memory, with the random numbers of `act`; by one thread.

        Args:
            playing: the games.
            noise: the random numbers of the seeds.
            at: the first step's place in the rollout.
            most: the number of steps; fewer are made where an episode ends.
            acted, stepped, ends: the rollout, as `spans.collect` writes it.

        Returns:
            The number of steps.
        """
        from decouple.compiled.spans import collect

        games = playing.observation.shape[1]
        kind, acts = ("uniform", 1) if self.discrete else ("normal", self.widths[1])
        most = self._ahead.of(most, playing.certain, lambda: noise.ready(kind, games, acts))
        draw = noise.uniform if self.discrete else noise.normal
        drawn = [draw(games, acts) for _ in range(min(most, MOST))]
        arguments = (
            (*self.network, self._act(acted[1].dtype)), torch.stack(drawn).numpy(), self.discrete, self.bounds,
            self.threads.scratch(games), playing.of(slice(0, self.seeds)), at, len(drawn), acted, stepped, ends,
        )  # fmt: skip
        if self._collect is None:
            with self._compiling(f"rollouts-collect-{acted[1].dtype}"):
                self._collect = entry_point(collect, *arguments)
        steps: int = self._collect(*arguments)
        noise.give_back(kind, drawn[steps:])
        self._ahead.made(steps)
        return steps

    def _act(self, actions: np.dtype) -> Any:
        """The kernel that draws actions of a type, as an argument of `spans.collect`."""
        from decouple.compiled.rollouts import act

        if self._acts is None:
            numbers, row = np.zeros((1, 1, 1), dtype=self.dtype), np.zeros((1, 1), dtype=self.dtype)
            self._acts = first_class(
                act, *self.network, numbers, numbers, self.discrete, self.bounds, self.threads.scratch(1),
                numbers.astype(actions), row, row, 0, 1,
            )  # fmt: skip
        return self._acts

    def judge(self, observation: Tensor) -> Tensor:
        """Values of observations (S, *B, O) by the parameters in memory, (S, *B, 1)."""
        from decouple.compiled.rollouts import judge

        rows = self._array(observation.reshape(self.seeds, -1, observation.shape[-1]))  # (S, M, O)
        values = np.empty(rows.shape[:2], dtype=self.dtype)
        self.spread("rollouts-judge", judge, BLOCK, *self.network, rows, BLOCK, SCRATCH, values)
        return torch.from_numpy(values).view(*observation.shape[:-1], 1)

    def estimate_advantages(self, rollout: TensorDictBase, gamma: float, gae_lambda: float) -> None:
        """Write `advantage`, standardised over each agent's frames, and `value_target`, both (S, N, T, 1)."""
        from decouple.compiled.rollouts import estimate

        following: TensorDictBase = rollout["next"]
        numbers = [following["reward"], rollout["state_value"], following["state_value"]]
        ends = [following["done"].squeeze(-1).numpy(), following["terminated"].squeeze(-1).numpy()]  # (S, N, T)
        advantages, targets = (np.empty(rollout.batch_size, dtype=self.dtype) for _ in range(2))
        discount = np.float32(gamma)  # TorchRL's GAE holds its settings in float32
        self.spread(
            "rollouts-estimate", estimate, 0, *(self._array(each.squeeze(-1)) for each in numbers),
            *(np.ascontiguousarray(each) for each in ends), float(discount), float(discount * np.float32(gae_lambda)),
            advantages, targets,
        )  # fmt: skip
        rollout["advantage"] = torch.from_numpy(advantages).unsqueeze(-1)
        rollout["value_target"] = torch.from_numpy(targets).unsqueeze(-1)

    def spread(self, name: str, kernel: Any, batch: int, *arguments: Any) -> None:
        """Call a kernel for all agents, spread over threads.

        Args:
            name: name of the kernel, for the line that says that it is compiled.
            kernel, batch, arguments: as for `AgentThreads.run`.
        """
        with self._compiling(name) as first:
            if first:
                self.threads.load(kernel, batch, *arguments)
        self.threads.run(kernel, batch, *arguments)

    @contextlib.contextmanager
    def _compiling(self, name: str) -> Iterator[bool]:
        """Around a kernel's call; yields True, and says that it is compiled, at its first call in the process."""
        first = name not in self._called
        self._called.add(name)
        with compiling(f"{name}-{self.dtype}") if first else contextlib.nullcontext():
            yield first

    @cached_property
    def network(self) -> tuple[np.ndarray, ...]:
        """The first arguments of every kernel that runs the networks."""
        return self.tables.agents, self.tables.layers, self.tables.slopes, self.memory

    @cached_property
    def _linear(self) -> dict[str, list[Any]]:
        """Each part's linear layers, in order."""
        parts = zip(PARTS, self.model.parts().values(), strict=True)
        return {
            name: [each for m in ms for each in m.modules() if isinstance(each, StackedLinear)] for name, ms in parts
        }

    @cached_property
    def _scales(self) -> list[StackedNormalScale]:
        return [module for module in self.model.modules() if isinstance(module, StackedNormalScale)]

    def _array(self, tensor: Tensor) -> np.ndarray:
        array = tensor.numpy(force=tensor.requires_grad)
        if array.dtype == self.dtype and array.flags.c_contiguous:
            return array  # the usual case, sooner than NumPy finds it out
        return np.ascontiguousarray(array, dtype=self.dtype)


def linear_places(
    tables: Tables,
    memory: np.ndarray,
    part: str,
    modules: Sequence[StackedLinear],
    copy_of: int,
    of: Callable[[nn.Parameter], Tensor | None],
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Each piece of a copy in memory that a part's linear layers have; as `CompiledAgents.places`."""
    for index, module in enumerate(modules):
        weight, bias = of(module.weight), of(module.bias)
        if weight is None or bias is None:
            continue
        for agent in range(len(tables.shapes)):
            to_weight, to_bias = tables.layer(memory, agent, tables.rows(agent, part)[index], copy_of)
            yield to_weight, weight[agent]
            yield to_bias, bias[agent, 0]


def _shape(model: ActorValue) -> AgentShape:
    """The layers of one of the model's agents, part by part.

    Raises:
        ValueError: a part that is no perceptron, naming it.
    """
    layers = {
        name: [Layer(*layer) for module in modules for layer in perceptron_layers(module, name)]
        for name, modules in model.parts().items()
    }
    scales = 0 if model.discrete else model.action_size
    return AgentShape(layers["trunk"], layers["policy"], [layers["value"]], scales)
