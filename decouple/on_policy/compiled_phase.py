"""PPO's phase by compiled kernels: the phase of `ppo_phases`, with its epochs as machine code.

    why = not_compiled(model, settings)                     # None, or why these agents need `ppo_phases`
    phases = [CompiledPhase(model, settings)]
    train_on_policy(env, model, phases, settings, log=print, seeds=seeds)

The losses, the random numbers, the metrics and the checkpoints are those of `ppo_phases`, and either phase continues
the other's checkpoint, within rounding. The model's parameters are current whenever no phase runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from decouple.checks import check_setting, checked
from decouple.compiled.memory import CRITIC_MEAN, CRITIC_SQUARE
from decouple.compiled.threads import SCRATCH
from decouple.networks.actor_value import ActorValue
from decouple.networks.separation import norms_and_cosine
from decouple.on_policy.agents import Metric
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.compiled_agents import CompiledAgents, not_known
from decouple.on_policy.losses import AdvantageLoss, OrderLoss, ValueLoss
from decouple.on_policy.phase_metrics import metric
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.seeding import SeedNoise

__all__ = ["CompiledPhase", "not_compiled"]


@checked()
def not_compiled(model: ActorValue, settings: OnPolicySettings) -> str | None:
    """Why kernels cannot train a model's agents by PPO, DAAC or IDAAC, for a message; None where they can: in fp32, and
    `not_known` knows the model."""
    if settings.precision != "fp32":
        return f"precision is {settings.precision}, and kernels compute in the parameters' type"
    return not_known(model)


class CompiledPhase:
    """PPO's joint phase of a stacked model, compiled; a `RolloutPhase`.

    Args:
        model: a `stack` of models from `actor_value`.
        settings: PPO's settings.

    Attributes:
        agents: the agents in flat memory.
        phase: the phase of `ppo_phases`, which holds the settings and the optimizer's state between rollouts.

    Raises:
        ValueError: a model that kernels do not know; the message says what they do know. Settings in bf16.
    """

    rows_of_frame = 1  # rows that go through the networks for each frame of a minibatch

    @checked()
    def __init__(self, model: ActorValue, settings: OnPolicySettings):
        check_setting("precision", settings.precision, ("fp32",).__contains__, "fp32 with compiled kernels")
        (phase,) = ppo_phases(model, settings)
        self._hold(CompiledAgents(model), phase)

    def _hold(self, agents: CompiledAgents, phase: Phase) -> None:
        self.agents, self.phase = agents, phase
        self.name, self.every, self.minibatches = phase.name, phase.every, phase.minibatches
        self.steps = np.zeros(agents.seeds, dtype=np.int64)

    # ------------------------------------------------------------------------------------- what tells the phases apart

    def _kernel(self) -> tuple[str, Any]:
        """The kernel of an epoch, and its name."""
        from decouple.compiled.ppo import epoch

        return "ppo-epoch", epoch

    @property
    def _moments_in(self) -> tuple[int, int]:
        """The copies of the memory that hold Adam's two moments."""
        return CRITIC_MEAN, CRITIC_SQUARE

    def _more(self, batch: TensorDictBase, shuffle: SeedNoise) -> tuple[Any, ...]:
        """The kernel's further arguments, before the scratch memory; drawn before the first minibatches."""
        return ()

    @property
    def _trains_trunk(self) -> bool:
        cut = self.agents.model.cut
        return cut.policy_gradient > 0 or cut.value_gradient > 0

    # ---------------------------------------------------------------------------------------------------- as the loop's

    def anneal(self, left: float) -> None:
        self.phase.anneal(left)

    def state_dict(self) -> dict:
        return self.phase.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        self.phase.load_state_dict(state)

    def run(
        self,
        batch: TensorDictBase,
        shuffle: torch.Generator | SeedNoise,
        *,
        micro_batch: int,
        precision: str = "fp32",
        progress: Callable[[str, int, int], object] | None = None,
    ) -> dict[str, Metric]:
        """Learn from a flat rollout (S, B), as `run_phase` does; `progress` is called after each epoch.

        Args:
            batch, shuffle, precision: as for `run_phase`; shuffle is a `SeedNoise`, and precision is fp32.
            micro_batch: not used: a minibatch's frames lie in the processor's cache.
            progress: called with (what is under way, minibatches done, minibatches in all).

        Returns:
            The metrics of `run_phase`. `policy/max_ratio` is of whole minibatches.
        """
        from decouple.compiled.losses import METRICS

        check_setting("precision", precision, ("fp32",).__contains__, "fp32 with compiled kernels")
        if not isinstance(shuffle, SeedNoise):
            raise ValueError(f"shuffle must be the SeedNoise of a stacked model; got {type(shuffle).__name__}")
        agents, phase, (name, epoch) = self.agents, self.phase, self._kernel()
        rows = self._frames(batch)
        rates = np.array([self._rates()] * agents.seeds)
        self._read()
        found = np.zeros((phase.epochs, agents.seeds, phase.minibatches, METRICS))
        more, minibatch = self._more(batch, shuffle), -(-rows.shape[1] // phase.minibatches)
        for number in range(phase.epochs):
            orders = shuffle.permutations(rows.shape[1]).numpy()
            agents.spread(
                name, epoch, minibatch * self.rows_of_frame, *agents.network[:3], rates, agents.memory, self.steps,
                rows, orders, agents.widths, agents.discrete, agents.bounds, phase.minibatches, number == 0, *more,
                SCRATCH, found[number],
            )  # fmt: skip
            if progress:
                done, steps = (each * phase.minibatches for each in (number + 1, phase.epochs))
                progress(f"{self.name} phase, minibatches", done, steps)
        self._write()
        return self._metrics(found, rates[0])

    def _frames(self, batch: TensorDictBase) -> np.ndarray:
        """The rollout as frames of the kernels, (S, B, W)."""
        from decouple.compiled.rollouts import ADVANTAGE, BEHIND, TARGET, VALUE, prepare

        agents, (seeds, frames) = self.agents, batch.batch_size
        observed, acts = agents.widths
        rows = np.empty((seeds, frames, observed + acts + BEHIND), dtype=agents.dtype)
        rows[..., :observed] = batch[agents.key].numpy()
        for column, key in ((ADVANTAGE, "advantage"), (TARGET, "value_target"), (VALUE, "state_value")):
            rows[..., observed + acts + column] = batch[key].numpy()[..., 0]
        action: Tensor = batch["action"]
        if agents.discrete:
            action = (action.long().argmax(-1) if agents.one_hot else action).unsqueeze(-1)
        actions = np.ascontiguousarray(action.numpy(), dtype=agents.dtype)
        log_probs = np.ascontiguousarray(batch["action_log_prob"].numpy(), dtype=agents.dtype)
        agents.spread(
            "rollouts-prepare", prepare, 0, rows, actions, log_probs, agents.widths, agents.discrete, agents.bounds
        )
        return rows

    def _rates(self) -> np.ndarray:
        """The settings as the kernels read them; from the losses and the optimizer, which a checkpoint may change."""
        from decouple.compiled import losses

        groups = self.phase.optimizer.param_groups
        most, cut = self.phase.max_grad_norm, self.agents.model.cut
        columns = {
            losses.EPSILON: groups[0]["eps"],
            losses.MOST_NORM: math.inf if most is None else most,
            losses.POLICY_GRADIENT: cut.policy_gradient,
            losses.VALUE_GRADIENT: cut.value_gradient,
            losses.CLIP_VALUE: math.inf,
        }
        parts = {"trunk": losses.TRUNK_RATE, "policy": losses.POLICY_RATE, "value": losses.VALUE_RATE}
        for group in groups:
            columns |= dict.fromkeys([parts[group["part"]]] if "part" in group else parts.values(), group["lr"])
        policy, value, advantage, order = map(self._loss, (ClipPPOLoss, ValueLoss, AdvantageLoss, OrderLoss))
        if policy:
            low, high = policy._clip_bounds
            columns |= {losses.CLIP_LOW: low, losses.CLIP_HIGH: high, losses.ENTROPY_COEFF: policy.entropy_coeff}
        if value:
            columns[losses.VALUE_COEFF] = value.coeff
            if value.clip_value is not None:
                columns[losses.CLIP_VALUE] = value.clip_value
        if advantage:
            columns[losses.ADVANTAGE_COEFF] = advantage.coeff
        if order:
            columns[losses.ORDER_COEFF] = order.coeff
        rates = np.zeros(losses.RATES)
        rates[list(columns)] = [float(each) for each in columns.values()]
        return rates

    def _loss(self, kind: type) -> Any:
        """The phase's loss of a kind, or None."""
        return next((loss for loss in self.phase.losses if isinstance(loss, kind)), None)

    def _metrics(self, found: np.ndarray, rate: np.ndarray) -> dict[str, Metric]:
        """What `run_phase` returns, from each minibatch's numbers, (epochs, S, minibatches, METRICS)."""
        from decouple.compiled import losses

        dtype = next(self.agents.model.parameters()).dtype
        means = found.mean((0, 2))  # (S, METRICS)

        def own(column: int) -> Tensor:
            return torch.from_numpy(means[:, column].copy()).to(dtype)

        of_policy: dict[str, Metric] = {
            "loss/objective": own(losses.OBJECTIVE),
            "policy/clip_fraction": float(means[:, losses.CLIP_FRACTION].mean()),
            "policy/kl_approx": float(means[:, losses.KL].mean()),
            "policy/entropy": float(means[:, losses.ENTROPY].mean()),
            "loss/entropy": -rate[losses.ENTROPY_COEFF] * own(losses.ENTROPY),
            "policy/max_ratio": float(found[..., losses.MAX_RATIO].max(1).mean()),
            "policy/mean_ratio": float(means[:, losses.MEAN_RATIO].mean()),
        }
        metrics = of_policy if self._loss(ClipPPOLoss) else {}
        if self._loss(AdvantageLoss):
            metrics["loss/advantage"] = own(losses.ADVANTAGE_LOSS)
        if self._loss(OrderLoss):
            metrics["loss/order"] = own(losses.ORDER_LOSS)
        if rate[losses.CLIP_VALUE] != math.inf:
            metrics["value/clip_fraction"] = own(losses.VALUE_CLIPPED)
        if self._loss(ValueLoss):
            metrics["loss/critic"] = own(losses.CRITIC_LOSS)
        metrics[f"grad_norm/{self.name}"] = own(losses.NORM)
        live = self.agents.model.at > 0 and (rate[losses.POLICY_GRADIENT] > 0 or rate[losses.VALUE_GRADIENT] > 0)
        if live:
            columns = {"policy": losses.CUT_POLICY, "value": losses.CUT_VALUE, "product": losses.CUT_PRODUCT}
            first = torch.from_numpy(found[0, :, 0]).float()  # (S, METRICS)
            cuts = norms_and_cosine({name: first[:, column] for name, column in columns.items()})
            metrics |= {f"cut/{self.name}_{name}": metric(value) for name, value in cuts.items()}
        return metrics

    # -------------------------------------------------------------------------------- between memory and the optimizer

    @torch.no_grad()
    def _read(self) -> None:
        """Copy the model's parameters and Adam's moments into the memory."""
        self.agents.read()
        state = self.phase.optimizer.state
        taken = [own["step"] for own in state.values() if "step" in own]
        self.steps[:] = int(max(taken)) if taken else 0
        for place, moment in self._moments():
            place[...] = moment.numpy()

    @torch.no_grad()
    def _write(self) -> None:
        """Copy the memory into the model's parameters and Adam's moments."""
        self.agents.write()
        state = self.phase.optimizer.state
        stays = () if self._trains_trunk else tuple(self.agents.model.trunk.parameters())
        trained = [p for p in self.phase.parameters() if not any(p is each for each in stays)]
        for parameter in trained:
            set_steps(state[parameter], parameter, self.steps[0])
        for place, moment in self._moments():
            moment.copy_(torch.from_numpy(place))

    def _moments(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Each piece of memory that holds Adam's moments, with its part of the optimizer's state."""
        state = self.phase.optimizer.state
        for copy_of, name in zip(self._moments_in, ("exp_avg", "exp_avg_sq"), strict=True):
            yield from self.agents.places(copy_of, lambda parameter, name=name: state.get(parameter, {}).get(name))


def set_steps(own: dict[str, Tensor], parameter: Tensor, steps: int) -> None:
    """Set the steps in Adam's state of a parameter, with new moments where it has none yet."""
    if "step" not in own:
        own["step"] = torch.tensor(0.0)
        own["exp_avg"], own["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    own["step"].fill_(float(steps))
