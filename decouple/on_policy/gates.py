"""Training the gates of a separation that is learned, in whatever phases train the value.

    model = actor_value(gated(policy_blocks, value_blocks), env.action_spec)
    phases = learn_gates(model, ppo_phases(model, settings), settings)
    train_on_policy(env, model, phases, settings, log=print)

Each phase that reads the value's features gets a further loss, the price of the value's own blocks, and a learning rate
of their own for the gates. They stay at one half in the first quarter of the training, so that both networks have
features to choose from. Then their temperature falls, so that they end near 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from decouple.checks import at_least, check_setting, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.gating import Gates, gates_of
from decouple.on_policy.phases import Phase, RolloutPhase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["PriceLoss", "learn_gates"]

HELD = 0.25  # share of the training in which the gates stay at one half, so that there are features to choose from
LAST_TEMPERATURE = 0.1  # of the gates at the end of training; 1 while they are held


class PriceLoss(nn.Module):
    """The price of the value's own blocks, `loss_price = price * sum_i (1 - g_i) c_i / sum_i c_i`.

    c_i are the multiply-adds of block i: a network that shares nothing pays `price`, one that shares all nothing. It
    also gives each gate as `gate_<i>`, to be logged.

    Args:
        gates: the gates of a network from `gated`.
        price: price of all own blocks together, in the unit of the loss.
    """

    @checked(price=at_least(0))
    def __init__(self, gates: Gates, price: float):
        super().__init__()
        object.__setattr__(self, "gates", gates)  # the model's, which holds their parameters
        self.price = price
        costs = torch.tensor(gates.block_costs, dtype=torch.float64)
        self.shares = costs / costs.sum() if costs.sum() else torch.full_like(costs, 1 / len(costs))  # (d,)

    def forward(self, minibatch: TensorDictBase) -> TensorDict:
        """`loss_price`, and each gate; for a stack (S, 1) and per sample (S, B, 1)."""
        gates = self.gates.values()
        self.shares = self.shares.to(gates)  # once: a copy to a GPU at each step would wait for it
        cost = ((1 - gates) * self.shares).sum(-1)  # () or (S,)
        output: dict[str, Tensor] = {"loss_price": self.price * (cost.unsqueeze(-1) if cost.ndim else cost)}
        for number, gate in enumerate(gates.detach().unbind(-1), start=1):
            shape = (*minibatch.batch_size, 1)
            output[f"gate_{number}"] = gate.reshape(-1, 1, 1).expand(shape) if gate.ndim else gate
        return TensorDict(output)

    def anneal(self, left: float) -> None:
        """Hold the gates, or set their temperature, for a share `left` of the training still to come."""
        learned = max(0.0, 1 - left - HELD) / (1 - HELD)  # share of the time in which they are not held
        self.gates.logits.requires_grad_(1 - left >= HELD)
        self.gates.temperature.fill_(LAST_TEMPERATURE**learned)


@checked()
def learn_gates(model: ActorValue, phases: Sequence[RolloutPhase], settings: OnPolicySettings) -> list[RolloutPhase]:
    """The phases, which now also train the gates of a model; themselves where it has none.

    Args:
        model: a model on a network from `gated`, or a `stack` of S of them.
        phases: an algorithm's phases of this model.
        settings: the settings, with one price in `gate_prices`.

    Raises:
        ValueError: several prices, or phases none of which is a `Phase` that reads the value's features.
    """
    gates = gates_of(model)
    if gates is None:
        return list(phases)
    one = "one price for a training with gates; separation=learned trains a network for each"
    check_setting("gate_prices", settings.gate_prices, lambda prices: len(prices) == 1, one)
    read = [phase for phase in phases if isinstance(phase, Phase) and _reads_values(phase)]
    check_setting("phases", [phase.name for phase in phases], lambda _: read, "of an algorithm that trains the value")
    for phase in read:
        phase.loss = [*phase.losses, PriceLoss(gates, settings.gate_prices[0])]
        for group in phase.optimizer.param_groups:
            group["params"] = [each for each in group["params"] if each is not gates.logits]
        phase.optimizer.add_param_group({"params": [gates.logits], "lr": settings.gate_rate})
    return list(phases)


def _reads_values(phase: Phase) -> bool:
    return phase.features is not None and "value_hidden" in phase.features.out_keys
