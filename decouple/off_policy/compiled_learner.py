"""S agents that learn by compiled kernels: the `Learner`, with its update and its actions as machine code.

    learner = CompiledLearner([make_model(seed) for seed in seeds], SACSettings())
    why = not_compiled(models, settings)       # None, or why these agents need a `Learner`

Each agent's numbers lie in flat memory (`decouple.compiled`), and its update is one call, without autograd and without
allocations. Agents are spread over threads; an agent's numbers do not depend on those beside it, or on the number of
threads. Everything else is the `Learner`'s: equations, random numbers, checkpoints, which either learner continues
(within rounding), and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decouple.checks import checked
from decouple.compiled import memory as copies
from decouple.compiled.kernel import compiling, one_blas_thread, unavailable
from decouple.compiled.memory import AgentShape, Layer, Tables
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.blocks import Concatenate, DenseBlock
from decouple.networks.heads import NormalParameters
from decouple.off_policy.learner import Learner
from decouple.off_policy.replay import Transition
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings
from decouple.seeding import SeedNoise

__all__ = ["CompiledLearner", "not_compiled"]

KINDS = {nn.Identity: "linear", nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu"}


@checked()
def not_compiled(models: Sequence[ActorQValue], settings: OffPolicySettings) -> str | None:
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
    """S agents whose updates are compiled; the interface, arguments and errors of `Learner`.

    Attributes:
        threads: number of threads that agents are spread over; `torch.get_num_threads()` when the learner is made.

    Raises:
        ValueError: models that kernels do not know; the message says what they do know.
    """

    @checked()
    def __init__(self, models: Sequence[ActorQValue], settings: OffPolicySettings):
        super().__init__(models, settings)
        why = not_compiled(models, settings)
        if why is not None:
            raise ValueError(f"models must be perceptrons on a processor to be compiled: {why}")
        one_blas_thread()
        self.tables = Tables([_shape(models[0])] * self.seeds)
        self.memory = self.tables.memory(np.float32 if self.dtype == torch.float32 else np.float64)
        self.temperature = np.zeros((self.seeds, 3), dtype=self.memory.dtype)
        self.steps = np.zeros((self.seeds, 3), dtype=np.int64)
        self.rates = np.array([_rates(settings, self)] * self.seeds)
        self.threads = max(1, min(self.seeds, torch.get_num_threads()))
        self.metrics = np.zeros((self.seeds, 5))
        self.scratch: list[np.ndarray] = []
        self._read()

    # ------------------------------------------------------------------------------------------------------- kernels

    @cached_property
    def kernel(self) -> Any:
        """The algorithm's update; imported at its first use, since kernels need Numba."""
        if self.like.deterministic:
            from decouple.compiled.td3 import update
        elif self.space.discrete:
            from decouple.compiled.discrete_sac import update
        else:
            from decouple.compiled.sac import update
        return update

    def update(self, batch: Transition, noise: SeedNoise) -> dict[str, Tensor]:
        parts = [part.numpy() for part in batch]
        rows = np.ascontiguousarray(np.concatenate(parts, -1))  # (S, B, W)
        return self._update(rows, (parts[0].shape[-1], parts[1].shape[-1]), noise)

    def _update(self, rows: np.ndarray, widths: tuple[int, int], noise: SeedNoise) -> dict[str, Tensor]:
        self.updates += 1
        policy_step = self.updates % self.settings.policy_delay == 0
        drawn = self._noise(rows.shape[1], policy_step, noise)
        size = self.tables.scratch(rows.shape[1])
        while len(self.scratch) < self.threads or len(self.scratch[0]) < size:
            self.scratch = [np.empty(size, dtype=self.memory.dtype) for _ in range(self.threads)]

        def run(thread: int) -> None:
            first, last = self.seeds * thread // self.threads, self.seeds * (thread + 1) // self.threads
            self.kernel(
                self.tables.agents, self.tables.layers, self.tables.slopes, self.rates, self.memory, self.temperature,
                self.steps, rows, widths, drawn, policy_step, self.scratch[thread], self.metrics, first, last,
            )  # fmt: skip

        if not self.called:
            self.called = True
            with compiling(f"{self.kernel.__module__.rpartition('.')[2]}-{self.memory.dtype}"):
                run(0)
            rest = range(1, self.threads)
        else:
            rest = range(1, self.threads)
        others = [self.pool.submit(run, thread) for thread in range(1, self.threads)]
        run(0)
        for other in others:
            other.result()
        names = ["loss/critic", "value/mean"]
        if policy_step:
            names += ["loss/actor"] + ([] if self.like.deterministic else ["policy/entropy", "policy/alpha"])
        found = torch.from_numpy(self.metrics.astype(self.memory.dtype))
        return dict(zip(names, found.unbind(1), strict=False))

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="agents")

    def _noise(self, batch: int, policy_step: bool, noise: SeedNoise) -> np.ndarray:
        """The random numbers of an update, (2, S, B, A), drawn in the order in which `Learner` draws them."""
        shape = (2, self.seeds, batch, self.space.size)
        if self.space.discrete:
            return np.zeros((1, self.seeds, 0, 0), dtype=self.memory.dtype)
        drawn = np.zeros(shape, dtype=self.memory.dtype)
        if not self.like.deterministic or getattr(self.settings, "target_noise", 0):
            drawn[0] = noise.normal(*shape[2:]).numpy()
        if policy_step and not self.like.deterministic:
            drawn[1] = noise.normal(*shape[2:]).numpy()
        return drawn

    # ---------------------------------------------------------------------------------- between memory and the learner

    def _read(self) -> None:
        """Copy the learner's parameters, targets and moments into the memory."""
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
        """Copy the memory into the learner's parameters, targets and moments."""
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

    @cached_property
    def _pairs(self) -> list[tuple[str, int, list[tuple[Tensor, Tensor]]]]:
        return list(self._all_tensors())

    def _tensors(self) -> list[tuple[str, int, list[tuple[Tensor, Tensor]]]]:
        return self._pairs

    def _all_tensors(self) -> Iterator[tuple[str, int, list[tuple[Tensor, Tensor]]]]:
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

    def act(self, observation: Tensor, noise: SeedNoise | None = None) -> Tensor:
        self._write()
        return super().act(observation, noise)

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


def _in_pairs(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat tensor in the shapes of these tensors, one after another."""
    parts = flat.split([each.numel() for each in like])
    return [part.view_as(each) for part, each in zip(parts, like, strict=True)]


def _rates(settings: OffPolicySettings, learner: Learner) -> list[float]:
    """An agent's settings as the kernels read them: a row of `rates`."""
    how = settings.target_aggregation
    cut = learner.cut
    of_noise = [0.0, 0.0]
    if isinstance(settings, DDPGSettings):
        of_noise = [settings.target_noise, settings.target_noise_clip]
    of_entropy = [0.0, 0.0]
    if isinstance(settings, SACSettings):
        of_entropy = [settings.entropy_target(learner.space), float(settings.alpha is None)]
    most = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
    return [
        settings.learning_rate, settings.adam_epsilon, most, settings.gamma, settings.tau, cut.value_gradient,
        cut.policy_gradient, {"min": -1.0, "mean": -2.0}.get(how, how), *of_noise, *of_entropy,
    ]  # fmt: skip


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
    return AgentShape(
        trunk=_layers(model.trunk, "trunk"),
        policy=_layers(nn.Sequential(model.policy, model.policy_layer), "policy"),
        critics=[_layers(nn.Sequential(*parts), "critic") for parts in critics],
    )


def _layers(module: nn.Module, part: str) -> list[Layer]:
    """The module's linear layers, each with the activation that follows it."""
    if isinstance(module, Concatenate | NormalParameters):
        return []  # the kernels append the action and read the scale themselves
    if isinstance(module, nn.Linear) and module.bias is not None:
        return [Layer(module.in_features, module.out_features)]
    if isinstance(module, DenseBlock) and isinstance(module.leading, nn.Identity) and module.flatten == 1:
        kind, slope = _activation(module.activation)
        if kind:
            return [Layer(module.linear.in_features, module.linear.out_features, kind, slope)]
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in _layers(child, part)]
    raise ValueError(f"the {part} holds {type(module).__name__}, and kernels know dense blocks: {module}")


def _activation(module: nn.Module) -> tuple[str | None, float]:
    if isinstance(module, nn.ELU):
        return "elu", module.alpha
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu", module.negative_slope
    return KINDS.get(type(module)), 0.0
