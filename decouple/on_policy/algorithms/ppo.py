"""PPO: the policy's clipped objective and the value's squared error, in one phase over the whole model.

    train_on_policy(env, model, ppo_phases(model, settings), settings, log=print)

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms (https://arxiv.org/abs/1707.06347).
"""

from __future__ import annotations

from decouple.checks import checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.phase_parts import adam, policy_loss, value_loss
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["ppo_phases"]


@checked()
def ppo_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """PPO's joint loss, `-J_pi + value_coeff L_V - entropy_coeff S`, as one phase over the whole model.

    Source: Schulman et al. 2017, with the value clipped as in OpenAI Baselines unless `clip_value` is None. The phase
    reads a flat rollout (B,) of `model` with `advantage` and `value_target` (B, 1); for a stacked model (S, B). With a
    stacked model the entropy of tanh-squashed normals is integrated (`IntegratedTanhNormal`); TorchRL's loss samples
    it.
    """
    losses = [policy_loss(model, settings), value_loss(model, settings.value_coeff, settings.clip_value)]
    phase = Phase(
        loss=losses,
        optimizer=adam(model, model.parameters(), settings),
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm,
        features=model.get_features(),
    )
    return [phase]
