"""DNA: dual network architecture, with a policy phase, a value phase, and the value's distillation into the policy.

    train_on_policy(env, model, dna_phases(model, settings), settings, log=print)

The paper's networks are k = 0; any other k is allowed. Advantages and value targets are two estimates of one rollout:
`dna_lambda` and `gae_lambda`. The defaults of `dna_...` are the paper's for Atari, with minibatches of 2048, 512 and
512 frames of a rollout of 16,384; the others are those of this package's study. The paper's on Atari are a learning
rate of 2.5e-4 and a gradient norm of 5. Its settings on Procgen could not be found. `clone_distance=kl` is CleanRL's
and an option of the authors' code; their branch for the paper has `logits`.

Source: Aitchison and Sweetser 2022, DNA: Proximal Policy Optimization with a Dual Network Architecture
(https://arxiv.org/abs/2206.10027; maitchison/PPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict.nn import TensorDictModuleBase
from torch import nn

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.phase_parts import adam, auxiliary_value_loss, clone_loss, policy_loss, unique, value_loss
from decouple.on_policy.phases import Phase
from decouple.on_policy.phasic_losses import Before
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["dna_phases"]


@checked(seeds=ANY_NUMBER)
def dna_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """DNA: three phases on every rollout, each with an Adam of its own.

    1. policy: `-J_pi - entropy_coeff S`, with advantages by `dna_lambda`;
    2. value: `value_coeff (V - R)^2`, unclipped, with R by `gae_lambda`;
    3. distillation: `value_coeff (V_pi - V)^2 + clone_coeff D(pi_old, pi)`, where V_pi is a linear head on the policy's
       features, and V and pi_old are the value network and the policy after the second phase.

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        settings: DNA's settings.
        seeds: seeds of a stack's agents, from each of which its head V_pi is initialised; None for one agent.

    Raises:
        ValueError: a recurrent model; seeds that are not different or not as many as the model's.
    """
    of_policy, of_value = model.get_features(["policy_hidden"]), model.get_features(["value_hidden"])
    distilled = auxiliary_value_loss(model, settings, seeds)
    distilled.set_keys(value_target=("before", "state_value"))

    def phase(number: int, name: str, losses: Sequence[nn.Module], features: TensorDictModuleBase, **own: Any) -> Phase:
        return Phase(
            loss=losses,
            optimizer=adam(model, unique(features, *losses), settings),
            epochs=settings.dna_epochs[number],
            minibatches=settings.dna_minibatches[number],
            max_grad_norm=settings.max_grad_norm,
            features=features,
            name=name,
            **own,
        )

    clones, before = [distilled, clone_loss(model, settings)], Before(model, values=True)
    return [
        phase(0, "policy", [policy_loss(model, settings)], of_policy, gae_lambda=settings.dna_lambda),
        phase(1, "value", [value_loss(model, settings.value_coeff, None)], of_value),
        phase(2, "distillation", clones, of_policy, prepare=before),
    ]
