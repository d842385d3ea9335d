"""IDAAC's phases by compiled kernels: those of `idaac_phases`, with their epochs as machine code.

    phases = compiled_idaac_phases(model, settings, seeds)
    train_on_policy(env, model, phases, settings, log=print, seeds=seeds)

The losses, the random numbers, the metrics and the checkpoints are those of `idaac_phases`, and either continues the
other's checkpoint, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from decouple.checks import SEED, all_of, checked
from decouple.compiled.memory import CRITIC_MEAN, CRITIC_SQUARE, ONLINE, AgentShape, Layer, Tables
from decouple.networks.actor_value import ActorValue
from decouple.networks.stacking import StackedLinear
from decouple.on_policy.agents import Metric
from decouple.on_policy.algorithms.idaac import idaac_phases, own_partners
from decouple.on_policy.compiled_agents import CompiledAgents, linear_places
from decouple.on_policy.compiled_daac import PolicyPhase, ValuePhase, agents_with_head, check_compiled
from decouple.on_policy.compiled_phase import CompiledPhase, set_steps
from decouple.on_policy.losses import OrderLoss
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.seeding import SeedNoise

__all__ = ["compiled_idaac_phases"]


@checked(seeds=all_of(SEED))
def compiled_idaac_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int]) -> list[CompiledPhase]:
    """IDAAC's policy phase and its value phase of a stacked model, compiled, on the same agents in memory.

    Args:
        model: a `stack` of models from `actor_value`.
        settings: IDAAC's settings.
        seeds: the agents' seeds, from each of which its advantage head and its order classifier are initialised.

    Raises:
        ValueError: a model that kernels do not know (`not_compiled` says why), settings in bf16, or seeds that are not
            different or not as many as the model's.
    """
    check_compiled(model, settings)
    policy, value = idaac_phases(model, settings, seeds)
    agents = agents_with_head(model, policy)
    return [_OrderPhase(agents, policy), ValuePhase(agents, value)]


class _OrderPhase(PolicyPhase):
    """IDAAC's policy phase: DAAC's, and the order classifiers, which step before it on each minibatch."""

    rows_of_frame = 2  # a frame and its partner

    def __init__(self, agents: CompiledAgents, phase: Phase):
        super().__init__(agents, phase)
        order = next(loss for loss in phase.losses if isinstance(loss, OrderLoss))
        self.classifiers = _Classifiers(order.classifier_network.module, agents)
        agents.threads.beside.append(self.classifiers.tables)

    def _kernel(self) -> tuple[str, Any]:
        from decouple.compiled.idaac import policy_epoch

        return "idaac-policy", policy_epoch

    def _more(self, batch: TensorDictBase, shuffle: SeedNoise) -> tuple[Any, ...]:
        own = self.classifiers
        counts = np.ascontiguousarray(batch["step_count"].squeeze(-1).numpy(), dtype=np.int64)
        tables = own.tables.agents, own.tables.layers, own.tables.slopes, own.memory
        return own_partners(batch, shuffle).numpy(), counts, *tables

    def _metrics(self, found: np.ndarray, rate: np.ndarray) -> dict[str, Metric]:
        from decouple.compiled import losses

        means = torch.from_numpy(found.mean((0, 2))).to(next(self.agents.model.parameters()).dtype)  # (S, METRICS)
        of_classifier: dict[str, Metric] = {
            "loss/order_classifier": means[:, losses.CLASSIFIER_LOSS],
            "order/accuracy": means[:, losses.ORDER_ACCURACY],
            "grad_norm/order": means[:, losses.CLASSIFIER_NORM],
        }
        return of_classifier | super()._metrics(found, rate)

    @torch.no_grad()
    def _read(self) -> None:
        super()._read()
        for place, tensor in self._of_classifiers():
            place[...] = tensor.numpy()

    @torch.no_grad()
    def _write(self) -> None:
        super()._write()
        adversary: Any = self.phase.adversary
        for parameter in adversary.parameters():
            set_steps(adversary.optimizer.state[parameter], parameter, self.steps[0])
        for place, tensor in self._of_classifiers():
            tensor.copy_(torch.from_numpy(place))

    def _of_classifiers(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Each piece of the classifiers' memory, with its part of a parameter or of the optimizer's state."""
        adversary: Any = self.phase.adversary
        state: Mapping[Any, Any] = adversary.optimizer.state
        yield from self.classifiers.places(ONLINE, lambda parameter: parameter)
        for copy_of, name in ((CRITIC_MEAN, "exp_avg"), (CRITIC_SQUARE, "exp_avg_sq")):
            yield from self.classifiers.places(copy_of, lambda parameter, name=name: state.get(parameter, {}).get(name))


class _Classifiers:
    """The agents' order classifiers in flat memory: of each agent one critic, as the tables know it.

    Args:
        module: a stack of `OrderClassifier`.
        agents: the agents beside whom they stand.
    """

    def __init__(self, module: nn.Module, agents: CompiledAgents):
        self.modules = [each for each in module.modules() if isinstance(each, StackedLinear)]
        *hidden, last = [(each.in_features, each.out_features) for each in self.modules]
        layers = [*(Layer(*sizes, "relu") for sizes in hidden), Layer(*last)]
        self.tables = Tables([AgentShape([], [], [layers])] * agents.seeds)
        self.memory = self.tables.memory(agents.dtype)

    def places(self, copy_of: int, of: Callable[[nn.Parameter], Tensor | None]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """As `CompiledAgents.places`."""
        return linear_places(self.tables, self.memory, "critic", self.modules, copy_of, of)
