"""Parts of the algorithms' phases: losses on a model's heads, and the phases that several algorithms share.

    losses = [policy_loss(model, settings), value_loss(model, settings.value_coeff, settings.clip_value)]
    policy = policy_phase(losses, features, parameters, settings)

A stacked model's loss is not averaged over samples, so that each agent has a mean of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, distributions, nn
from torchrl.objectives import ClipPPOLoss, LossModule

from decouple.networks.actor_value import ActorValue
from decouple.networks.heads import Head
from decouple.networks.stacking import stack
from decouple.on_policy.agents import check_agent_seeds, kind_of_agents
from decouple.on_policy.losses import AdvantageHead, AdvantageLoss, ValueLoss
from decouple.on_policy.phases import Phase
from decouple.on_policy.phasic_losses import AuxiliaryValueLoss, Before, CloneLoss, check_no_memory
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.learning_rates import rate_groups
from decouple.seeding import splitmix64

__all__ = [
    "OtherFeatures",
    "adam",
    "advantage_loss",
    "auxiliary_phase",
    "auxiliary_value_loss",
    "clone_loss",
    "delayed_policy_phase",
    "for_agents",
    "like",
    "policy_loss",
    "policy_phase",
    "unique",
    "value_loss",
    "value_phase",
]


Loss = TypeVar("Loss", bound=LossModule)


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


def _by_agent(loss: Loss, model: ActorValue) -> Loss:
    """The loss, averaged over samples for one agent, and per sample for a stack, which averages agent by agent."""
    loss.reduction = kind_of_agents(model).reduction
    return loss


def value_loss(model: ActorValue, coeff: float, clip_value: float | None) -> LossModule:
    """The value loss `coeff L_V` on the model's value head, clipped unless `clip_value` is None."""
    loss = ValueLoss(model.get_value_head(), coeff=coeff, clip_value=clip_value)
    return _by_agent(loss, model)


def advantage_loss(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> AdvantageLoss:
    """DAAC's advantage loss `advantage_coeff L_A`, with a new advantage head on the policy's features.

    `seeds`: seeds of a stacked model's agents, for their heads' initialisation; None for one agent.
    """

    def make() -> AdvantageHead:
        sizes = model.policy_size, model.action_size
        return AdvantageHead(*sizes, discrete=model.discrete, space=model.action_space)

    head = TensorDictModule(for_agents(model, make, seeds), ["policy_hidden", "action"], ["action_advantage"])
    loss = AdvantageLoss(head, coeff=settings.advantage_coeff)
    return _by_agent(loss, model)


def clone_loss(model: ActorValue, settings: OnPolicySettings) -> CloneLoss:
    """The loss `clone_coeff D(pi_old, pi)`, for a phase with `Before` as its `prepare`."""
    loss = CloneLoss(model.get_policy_head(), coeff=settings.clone_coeff, distance=settings.clone_distance)
    return _by_agent(loss, model)


def auxiliary_value_loss(
    model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None
) -> AuxiliaryValueLoss:
    """The loss `value_coeff (V_aux - R)^2`, with a new value head on the policy's features; `seeds` as in DAAC's."""
    head = for_agents(model, lambda: Head(model.policy_size, 1, 1.0), seeds)
    loss = AuxiliaryValueLoss(
        TensorDictModule(head, ["policy_hidden"], ["auxiliary_value"]), coeff=settings.value_coeff
    )
    return _by_agent(loss, model)


def delayed_policy_phase(model: ActorValue, settings: OnPolicySettings, *, delayed: bool, clipped: bool) -> Phase:
    """PPG's and DCPG's policy phase: PPO's without clipped values, over the whole model.

    Args:
        model, settings: the algorithm's.
        delayed: hold values at those of the rollout, and do not train them on returns. At k = 0, where the policy's
            step does not move them, the phase leaves the value network alone.
        clipped: clip gradients by `max_grad_norm`.
    """
    losses, keys = [policy_loss(model, settings)], ["policy_hidden"]
    if not delayed or model.shares:
        value = value_loss(model, settings.value_coeff, None)
        if delayed:
            value.set_keys(value_target="state_value")
        losses, keys = [*losses, value], [*keys, "value_hidden"]
    features = model.get_features(keys)
    return policy_phase(model, losses, features, unique(features, *losses), settings, clipped=clipped)


class OtherFeatures(TensorDictModuleBase):
    """Computes the features of other frames, which stand under a nested key: (name, `observation`) -> (name, ...).

    Args:
        features: module that computes the frames' own features, as `model.get_features(["policy_hidden"])`.
        name: the nested key.
    """

    def __init__(self, features: TensorDictModuleBase, name: str):
        super().__init__()
        self.in_keys = [(name, key) for key in features.in_keys]
        self.out_keys = [(name, "policy_hidden")]
        self.features, self.name = features, name

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.features(tensordict.get(self.name))
        return tensordict


def auxiliary_phase(
    model: ActorValue,
    settings: OnPolicySettings,
    losses: Sequence[nn.Module],
    *,
    clipped: bool,
    others: Sequence[str] = (),
    keeps: Sequence[str] = (),
    **further: Any,
) -> Phase:
    """PPG's and DCPG's auxiliary phase: `losses`, the values' squared error and `clone_loss`, over past rollouts.

    The first comes after `auxiliary_past` rollouts, the others every `auxiliary_every` rollouts.

    Args:
        model, settings: the algorithm's.
        losses: losses of the algorithm's own on the policy's features. Without any, and without a trunk that the
            value trains, the policy does not move and the phase leaves it alone.
        clipped: clip gradients by `max_grad_norm`.
        others: nested keys of other frames, whose policy features the losses read too.
        keeps: further keys of the rollouts that the losses need.
        **further: further fields of `Phase`.
    """
    check_no_memory(model)
    past = settings.auxiliary_past or settings.auxiliary_every
    own, keys = [*losses, value_loss(model, settings.value_coeff, None)], ["value_hidden"]
    if losses or (model.shares and model.cut.value_gradient > 0):
        own, keys = [*own, clone_loss(model, settings)], ["policy_hidden", *keys]
    features = model.get_features(keys)
    reads = features.in_keys
    if others:
        of_policy = model.get_features(["policy_hidden"])
        features = TensorDictSequential(features, *(OtherFeatures(of_policy, name) for name in others))
    return Phase(
        loss=own,
        optimizer=adam(model, unique(features, *own), settings),
        epochs=settings.auxiliary_epochs,
        every=settings.auxiliary_every,
        start=past - 1,
        past=past,
        keeps=[*reads, "value_target", *keeps],
        minibatches=settings.auxiliary_minibatches * past,
        updates=settings.auxiliary_updates,
        max_grad_norm=settings.max_grad_norm if clipped else None,
        features=features,
        prepare=Before(model) if "policy_hidden" in keys else None,
        name="auxiliary",
        **further,
    )


def policy_phase(
    model: ActorValue,
    losses: list[nn.Module],
    features: TensorDictModuleBase,
    parameters: list[nn.Parameter],
    settings: OnPolicySettings,
    *,
    clipped: bool = True,
    **pairing: Any,
) -> Phase:
    """A policy phase with an Adam of its own; `pairing` holds the further fields of `Phase` that IDAAC's pairs need.

    `clipped=False` ignores `max_grad_norm`.
    """
    return Phase(
        loss=losses,
        optimizer=adam(model, parameters, settings),
        epochs=settings.policy_epochs,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm if clipped else None,
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
