"""S agents that learn by compiled kernels: the `Learner`, with its update and its actions as machine code.

    learner = CompiledLearner([make_model(seed) for seed in seeds], SACSettings())
    why = not_compiled(models)       # None, or why these agents need a `Learner`

Each agent's numbers lie in flat memory (`decouple.compiled`), and its update is one call, without autograd and without
allocations. Agents are spread over threads; an agent's numbers do not depend on those beside it, or on the number of
threads. Everything else is the `Learner`'s: equations, random numbers, checkpoints, which either learner continues
(within rounding), and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decouple.checks import SOME, checked
from decouple.compiled import memory as copies
from decouple.compiled.kernel import compiling, one_blas_thread, unavailable
from decouple.compiled.memory import AgentShape, Layer, Tables
from decouple.compiled.modes import ModeGroup, ModeKernels
from decouple.compiled.threads import SCRATCH, AgentThreads
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.heads import ActionSpace
from decouple.networks.perceptrons import perceptron_layers
from decouple.networks.separation import Cut
from decouple.off_policy.interfaces import TrainedAgents
from decouple.off_policy.learner import Learner
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings
from decouple.runs.learning_rates import rate_of
from decouple.seeding import SeedNoise

__all__ = ["CompiledLearner", "mode_kernels", "not_compiled"]


@checked(models=SOME)
def not_compiled(models: Sequence[ActorQValue]) -> str | None:
    """Why these agents cannot learn by kernels, for a message; None where they can.

    Kernels know perceptrons whose critics read the action in their first layer, on a processor, in float32 or float64.
    """
    why = unavailable()
    if why is not None:
        return why
    first = next(models[0].parameters())
    if first.device.type != "cpu":
        return f"the models are on {first.device}, and kernels run on a processor"
    if first.dtype not in (torch.float32, torch.float64):
        return f"the parameters are {first.dtype}, and kernels know float32 and float64"
    try:
        _shape(models[0])
    except ValueError as error:
        return str(error)
    return None


class CompiledLearner(Learner):
    """S agents whose updates and actions are compiled; the interface, arguments and errors of `Learner`.

    Attributes:
        threads: threads that agents are spread over, as many as PyTorch's when the learner is made, and at most S.

    Raises:
        ValueError: models that kernels do not know; the message says what they do know.
    """

    @checked()
    def __init__(self, models: Sequence[ActorQValue], settings: OffPolicySettings):
        super().__init__(models, settings)
        why = not_compiled(models)
        if why is not None:
            raise ValueError(f"models must be perceptrons on a processor to be compiled; {why}")
        self.tables = Tables([_shape(models[0])] * self.seeds)
        self.memory = self.tables.memory(np.float32 if self.dtype == torch.float32 else np.float64)
        self.threads = AgentThreads(self.tables, self.memory.dtype, torch.get_num_threads())
        self.temperature = np.zeros((self.seeds, 3), dtype=self.memory.dtype)  # log alpha and Adam's moments of it
        self.steps = np.zeros((self.seeds, 3), dtype=np.int64)
        self.batch = np.zeros((self.seeds, 0, 0), dtype=np.float32)
        self.nothing = np.zeros((self.seeds, 0, 0), dtype=np.float32)  # in the place of noise that is not drawn
        self.bounds = np.zeros((5, 1), dtype=np.float32)
        if self.acting.unit is not None:
            unit = self.acting.unit
            self.bounds = torch.stack([unit.middle, unit.half_range, unit.low, unit.high, unit.middle]).float().numpy()
        self.explores = float(self.acting.exploration_noise or 0.0)
        self._import_kernels()
        self._read()

    def _import_kernels(self) -> None:
        """Import the kernels of the algorithm, which need Numba, and compile them."""
        from decouple.compiled import acting, critics

        if self.like.deterministic:
            from decouple.compiled import td3 as algorithm

            self.kind = acting.DETERMINISTIC
        elif self.space.discrete:
            from decouple.compiled import discrete_sac as algorithm

            self.kind = acting.CATEGORICAL
        else:
            from decouple.compiled import sac as algorithm

            self.kind = acting.NORMAL
        self.kernels = {"update": algorithm.update, "act": acting.act, "gather": critics.gather}
        self.rates = np.array([_rates(self.settings, self.space, self.cut)] * self.seeds)
        self.metrics = np.zeros((self.seeds, critics.METRICS))
        self.of_critics = {"loss/critic": critics.CRITIC_LOSS, "value/mean": critics.VALUE_MEAN}
        self.of_policy = {"loss/actor": critics.ACTOR_LOSS}
        if not self.like.deterministic:
            self.of_policy |= {"policy/entropy": critics.ENTROPY, "policy/alpha": critics.ALPHA}
        self.of_all = self.of_critics | self.of_policy
        one_blas_thread()
        with compiling(f"{algorithm.__name__.rpartition('.')[2]}-{self.memory.dtype}"):
            self._warm_up()

    def _warm_up(self) -> None:
        """Call each kernel for none of the agents: it is compiled for these types, or read from the disk."""
        observed, acts = self.widths
        rows = np.zeros((1, self.seeds, 2 * observed + acts + 2), dtype=np.float32)
        self.kernels["gather"](rows, np.zeros((0, 1), dtype=np.int64), 0, rows[:0])
        self.threads.load(self.kernels["update"], 1, *self.arguments(rows, self.nothing, self.nothing, True))
        observation = np.zeros((0, 1, observed), dtype=np.float32)
        chosen = np.zeros((0, 1, acts), dtype=np.int64 if self.space.discrete else np.float32)
        self._run_act(observation, self.nothing, False, chosen)

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Widths of an observation and of an action in a replay's row."""
        return self.like.example["observation"].numel(), 1 if self.space.discrete else self.space.size

    # ------------------------------------------------------------------------------------------------ acting, learning

    def anneal(self, left: float) -> None:
        super().anneal(left)
        for part, column in _rate_columns().items():
            self.rates[:, column] = rate_of(self.settings, part).at(left)

    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor:
        count, (_, acts) = observation.shape[1], self.widths
        drawn = self.nothing
        if noise is not None:
            drawn = (noise.uniform(count, 1) if self.space.discrete else noise.normal(count, acts)).numpy()
        chosen = np.empty((self.seeds, count, acts), dtype=np.int64 if self.space.discrete else np.float32)
        self._run_act(observation.contiguous().numpy(), drawn, noise is not None, chosen)
        return torch.from_numpy(chosen)

    @cached_property
    def mode_group(self) -> ModeGroup:
        """The agents as kernels have them act without exploration, always by the learner's present parameters."""
        choices = self.space.size if self.space.discrete else 0
        return ModeGroup(self.tables, self.memory, self.threads, self.kind, self.bounds, self.widths, choices)

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]:
        columns = self._update(np.concatenate([part.numpy() for part in batch], -1), noise)
        found = torch.from_numpy(self.metrics.astype(self.memory.dtype)).unbind(1)
        return {name: found[column] for name, column in columns.items()}

    def learn(self, replay: Replay, indices: Tensor, noise: SeedNoise, sums: MetricSums) -> None:
        batch = self.samples(indices.shape[1])
        self.kernels["gather"](replay.array, indices.numpy(), replay.added - len(replay), batch)
        sums.add_columns(self._update(batch, noise), self.metrics)

    def samples(self, size: int) -> np.ndarray:
        """Memory for a sample of each agent's replay, (S, size, W), the same each time."""
        if self.batch.shape[1] != size:
            observed, acts = self.widths
            self.batch = np.empty((self.seeds, size, 2 * observed + acts + 2), dtype=np.float32)
        return self.batch

    def _update(self, rows: np.ndarray, noise: SeedNoise) -> dict[str, int]:
        """One gradient step on rows of a replay, (S, B, W); the names of its metrics, with their columns."""
        self.updates += 1
        policy_step = self.updates % self.settings.policy_delay == 0
        drawn = self._noise(rows.shape[1], policy_step, noise)
        self.threads.run(self.kernels["update"], rows.shape[1], *self.arguments(rows, *drawn, policy_step))
        return self.of_all if policy_step else self.of_critics

    def arguments(
        self, rows: np.ndarray, noise: np.ndarray, more_noise: np.ndarray, policy_step: bool
    ) -> tuple[Any, ...]:
        """The arguments of the algorithm's kernel but for the range of agents."""
        return (
            self.tables.agents, self.tables.layers, self.tables.slopes, self.rates, self.memory, self.temperature,
            self.steps, rows, self.widths, noise, more_noise, policy_step, SCRATCH, self.metrics,
        )  # fmt: skip

    def _run_act(self, observation: np.ndarray, noise: np.ndarray, draws: bool, chosen: np.ndarray) -> None:
        self.kernels["act"](
            self.tables.agents, self.tables.layers, self.tables.slopes, self.memory, self.kind, self.explores,
            observation, noise, draws, self.bounds, self.threads.scratch(observation.shape[1]), chosen,
        )  # fmt: skip

    def _noise(self, batch: int, policy_step: bool, noise: SeedNoise) -> list[np.ndarray]:
        """The random numbers of an update, (S, B, A) each, drawn in the order in which `Learner` draws them."""
        of_target, of_policy = self.noise_uses
        wanted = [of_target, of_policy and policy_step]
        return [noise.normal(batch, self.space.size).numpy() if each else self.nothing for each in wanted]

    @property
    def noise_uses(self) -> tuple[bool, bool]:
        """Whether an update draws noise for the target's action, and whether for the policy's at a policy step."""
        smoothed = isinstance(self.settings, DDPGSettings) and self.settings.target_noise > 0
        soft = not self.like.deterministic and not self.space.discrete
        return soft or smoothed, soft

    # ---------------------------------------------------------------------------------- between memory and the learner

    def _read(self) -> None:
        """Copy the learner's parameters, targets and moments into the memory."""
        self.written = self.updates
        for place, tensor in self._places():
            place[...] = tensor.detach().numpy()
        if self.log_alpha is not None:
            self.temperature[:, 0] = self.log_alpha.detach().numpy()[:, 0, 0]
        self.steps[:, 0], self.steps[:, 1] = self.critic_optimizer.steps, self.policy_optimizer.steps
        if self.alpha_optimizer is not None:
            self.steps[:, 2] = self.alpha_optimizer.steps
            for column, moment in zip((1, 2), self.alpha_optimizer.moments[0], strict=True):
                self.temperature[:, column] = moment.numpy()

    @torch.no_grad()
    def _write(self) -> None:
        """Copy the memory into the learner's parameters, targets and moments, unless it was copied already."""
        if self.written == self.updates:
            return
        self.written = self.updates
        for place, tensor in self._places():
            tensor.copy_(torch.from_numpy(place))
        if self.log_alpha is not None:
            self.log_alpha[:, 0, 0] = torch.from_numpy(self.temperature[:, 0])
        self.critic_optimizer.steps, self.policy_optimizer.steps = self.steps[0, :2].tolist()
        if self.alpha_optimizer is not None:
            self.alpha_optimizer.steps = int(self.steps[0, 2])
            for column, moment in zip((1, 2), self.alpha_optimizer.moments[0], strict=True):
                moment.copy_(torch.from_numpy(self.temperature[:, column]))

    def _places(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Each piece of memory with the part of a tensor that it stands for."""
        for part, copy_of, names in self._tensors():
            for agent in range(self.seeds):
                for critic in range(self.critics if part == "critic" else 1):
                    rows = self.tables.rows(agent, part, critic)
                    for row, (weight, bias) in zip(rows, names, strict=True):
                        to_weight, to_bias = self.tables.layer(self.memory, agent, row, copy_of)
                        yield to_weight, weight[critic * self.seeds + agent]
                        yield to_bias, bias[critic * self.seeds + agent, 0]

    def _tensors(self) -> Iterator[tuple[str, int, list[tuple[Tensor, Tensor]]]]:
        """For each part and each copy of it, (weight, bias) of its layers: (C S, in, out) and (C S, 1, out)."""
        parts = {"trunk": ["trunk"], "policy": ["policy"], "critic": ["body", "head"]}
        for part, names in parts.items():
            online = [p for name in names for p in self.online[name].parameters()]
            lagging = [p for name in names for p in self.target[name].parameters()]
            yield part, copies.ONLINE, _in_pairs(online)
            yield part, copies.TARGET, _in_pairs(lagging)
            for optimizer, (mean, square) in (
                (self.critic_optimizer, (copies.CRITIC_MEAN, copies.CRITIC_SQUARE)),
                (self.policy_optimizer, (copies.POLICY_MEAN, copies.POLICY_SQUARE)),
            ):
                for group, moments in zip(optimizer.groups, optimizer.moments, strict=True):
                    if online and any(p is online[0] for p in group.parameters):
                        for copy_of, moment in zip((mean, square), moments, strict=True):
                            yield part, copy_of, _in_pairs(_cut(moment, online))

    def weights(self) -> dict[str, Tensor]:
        self._write()
        return super().weights()

    def models(self) -> list[ActorQValue]:
        self._write()
        return super().models()

    def judge(self, observation: Tensor, noise: SeedNoise) -> tuple[Tensor, Tensor, Tensor]:
        self._write()
        return super().judge(observation, noise)

    def critic_loss(self, batch: Transition, noise: SeedNoise) -> Tensor:
        self._write()
        return super().critic_loss(batch, noise)

    def state_dict(self) -> dict[str, Any]:
        self._write()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._read()

    def __deepcopy__(self, memo: dict) -> CompiledLearner:
        twin = CompiledLearner(self.models(), self.settings)
        twin.load_state_dict(self.state_dict())
        return twin


@checked()
def mode_kernels(learner: TrainedAgents) -> ModeKernels | None:
    """Kernels by which agents act without exploration; None where not all are compiled."""
    groups = getattr(learner, "groups", [learner])
    compiled = [each for each in groups if isinstance(each, CompiledLearner)]
    return ModeKernels([each.mode_group for each in compiled]) if len(compiled) == len(groups) else None


def _in_pairs(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat tensor in the shapes of these tensors, one after another."""
    parts = flat.split([each.numel() for each in like])
    return [part.view_as(each) for part, each in zip(parts, like, strict=True)]


def _rates(settings: OffPolicySettings, space: ActionSpace, cut: Cut) -> np.ndarray:
    """An agent's settings as the kernels read them, a row of `rates`."""
    from decouple.compiled import critics

    how, most = settings.target_aggregation, settings.max_grad_norm
    columns = {
        **{column: rate_of(settings, part).start for part, column in _rate_columns().items()},
        critics.EPSILON: settings.adam_epsilon,
        critics.MOST_NORM: math.inf if most is None else most,
        critics.GAMMA: settings.gamma,
        critics.TAU: settings.tau,
        critics.VALUE_GRADIENT: cut.value_gradient,
        critics.POLICY_GRADIENT: cut.policy_gradient,
        critics.AGGREGATION: {"min": critics.MINIMUM, "mean": critics.MEAN}[how] if isinstance(how, str) else how,
    }
    if isinstance(settings, DDPGSettings):
        columns |= {critics.TARGET_NOISE: settings.target_noise, critics.NOISE_CLIP: settings.target_noise_clip}
    if isinstance(settings, SACSettings):
        learns = settings.alpha is None
        columns |= {critics.TARGET_ENTROPY: settings.entropy_target(space), critics.LEARNS_ALPHA: learns}
    rates = np.zeros(critics.RATES)
    rates[list(columns)] = list(columns.values())
    return rates


def _rate_columns() -> dict[str, int]:
    """The columns of `rates` with the parts' learning rates."""
    from decouple.compiled import critics

    names = ("trunk", "policy", "value", "temperature")
    columns = (critics.TRUNK_RATE, critics.POLICY_RATE, critics.VALUE_RATE, critics.TEMPERATURE_RATE)
    return dict(zip(names, columns, strict=True))


def _shape(model: ActorQValue) -> AgentShape:
    """The model's layers, part by part.

    Raises:
        ValueError: a part that is no perceptron, naming it.
    """
    critics = list(model.critic_parts().values())
    for body, _ in critics:
        reader = getattr(body, "reader", None)
        if reader not in (None, 0):
            raise ValueError(f"the critics read the action in block {reader} after the cut, and kernels in the first")
    parts = {"trunk": model.trunk, "policy": nn.Sequential(model.policy, model.policy_layer)}
    layers = {name: [Layer(*layer) for layer in perceptron_layers(module, name)] for name, module in parts.items()}
    of_critics = [perceptron_layers(nn.Sequential(*parts), "critic") for parts in critics]
    return AgentShape(**layers, critics=[[Layer(*layer) for layer in each] for each in of_critics])
