"""Parts of the algorithms' phases: losses on a model's heads, and the phases that several algorithms share.

    losses = [policy_loss(model, settings), value_loss(model, settings.value_coeff, settings.clip_value)]
    policy = policy_phase(losses, features, parameters, settings)

A stacked model's loss is not averaged over samples, so that each agent has a mean of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, distributions, nn
from torchrl.objectives import ClipPPOLoss, LossModule

from decouple.networks.actor_value import ActorValue
from decouple.networks.stacking import stack
from decouple.on_policy.agents import check_agent_seeds, kind_of_agents
from decouple.on_policy.losses import AdvantageHead, AdvantageLoss, ValueLoss
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.learning_rates import rate_groups
from decouple.seeding import splitmix64

__all__ = [
    "adam",
    "advantage_loss",
    "for_agents",
    "like",
    "policy_loss",
    "policy_phase",
    "unique",
    "value_loss",
    "value_phase",
]


class _PolicyLoss(ClipPPOLoss):
    """TorchRL's ClipPPOLoss without its check that a categorical's entropy is finite, which waits for the GPU."""

    def _get_entropy(self, dist: distributions.Distribution, adv_shape: torch.Size) -> Tensor:
        if isinstance(dist, distributions.Categorical):
            return dist.entropy().unsqueeze(-1)
        return super()._get_entropy(dist, adv_shape)


def policy_loss(model: ActorValue, settings: OnPolicySettings) -> LossModule:
    """PPO's policy loss `-J_pi - entropy_coeff S`; the value loss is separate, since TorchRL's waits for the GPU."""
    agents = kind_of_agents(model)
    return _PolicyLoss(
        agents.head_for_loss(model.get_policy_head()),
        None,
        clip_epsilon=settings.clip_epsilon,
        critic_coeff=0.0,
        entropy_coeff=settings.entropy_coeff,
        normalize_advantage=False,  # GAE has standardised them over the rollout
        reduction=agents.reduction,
    )


def value_loss(model: ActorValue, coeff: float, clip_value: float | None) -> LossModule:
    """The value loss `coeff L_V` on the model's value head, clipped unless `clip_value` is None."""
    loss = ValueLoss(model.get_value_head(), coeff=coeff, clip_value=clip_value)
    loss.reduction = kind_of_agents(model).reduction
    return loss


def advantage_loss(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> AdvantageLoss:
    """DAAC's advantage loss `advantage_coeff L_A`, with a new advantage head on the policy's features.

    `seeds`: seeds of a stacked model's agents, for their heads' initialisation; None for one agent.
    """

    def make() -> AdvantageHead:
        sizes = model.policy_size, model.action_size
        return AdvantageHead(*sizes, discrete=model.discrete, space=model.action_space)

    head = TensorDictModule(for_agents(model, make, seeds), ["policy_hidden", "action"], ["action_advantage"])
    loss = AdvantageLoss(head, coeff=settings.advantage_coeff)
    loss.reduction = kind_of_agents(model).reduction
    return loss


def policy_phase(
    model: ActorValue,
    losses: list[nn.Module],
    features: TensorDictModuleBase,
    parameters: list[nn.Parameter],
    settings: OnPolicySettings,
    **pairing: Any,
) -> Phase:
    """DAAC's policy phase; `pairing` holds the further fields of `Phase` that IDAAC's pairs of frames need."""
    return Phase(
        loss=losses,
        optimizer=adam(model, parameters, settings),
        epochs=settings.policy_epochs,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm,
        features=features,
        name="policy",
        **pairing,
    )


def value_phase(model: ActorValue, settings: OnPolicySettings, *, clipped: bool = True) -> Phase:
    """A value phase, which trains trunk, value branch and value head with an Adam of its own.

    `clipped=False` ignores `clip_value` and `max_grad_norm`: neither values nor gradients are clipped.
    """
    features = model.get_features(["value_hidden"])
    loss = value_loss(model, settings.value_coeff, settings.clip_value if clipped else None)
    return Phase(
        loss=loss,
        optimizer=adam(model, unique(features, loss), settings),
        epochs=settings.value_epochs,
        every=settings.value_every,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm if clipped else None,
        features=features,
        name="value",
    )


def for_agents(
    model: nn.Module, make: Callable[[], nn.Module], seeds: Sequence[int] | None, stream: int = 0
) -> nn.Module:
    """A new module beside a model, initialised at random: one agent's, or a stack of one for each of S agents.

    Args:
        model: the model; the module gets its device and type.
        make: function that makes one agent's module.
        seeds: seeds of a stack's agents, from each of which alone its module is initialised. None for one agent, whose
            module is drawn from torch's generator.
        stream: number that tells the modules of one model apart.

    Raises:
        ValueError: seeds that are not different or not as many as the model's.
    """
    check_agent_seeds(model, seeds)
    if seeds is None:
        return like(model, make())
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(splitmix64(splitmix64(int(seed)) + 1 + stream) % 2**63)
            modules.append(make())
    return like(model, stack(modules))


def like(model: nn.Module, module: nn.Module) -> nn.Module:
    """The module, moved to the model's device and type."""
    return module.to(next(model.parameters()))


def unique(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of all modules, each once, in order."""
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def adam(model: ActorValue, parameters: Iterable[nn.Parameter], settings: OnPolicySettings) -> torch.optim.Adam:
    """Adam with the settings' epsilon and each part's learning rate; parameters beside the model have the policy's."""
    parts = {id(p): name for name, modules in model.parts().items() for m in modules for p in m.parameters()}
    groups = rate_groups(settings, ((parts.get(id(parameter), "policy"), parameter) for parameter in parameters))
    return torch.optim.Adam(groups, lr=settings.learning_rate, eps=settings.adam_epsilon)
