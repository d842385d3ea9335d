"""PPG: phasic policy gradient, whose auxiliary phases train the value on many rollouts and distil it into the policy.

    train_on_policy(env, model, ppg_phases(model, settings), settings, log=print)

The papers' networks are separation points: "dual" is k = 0; "shared" is k = depth, where the value's gradient reaches
the trunk; "detach" is k = depth with `value_gradient=0`. Any k between is allowed, which no paper has tried.

As published (openai/phasic-policy-gradient), Adam's epsilon is 1e-8 and no gradient is clipped; here `adam_epsilon` is
a setting, and neither gradients nor values are clipped, as there. Minibatches are random frames; there they are
segments of environments. PPG reloaded, one network for both, is `delayed_value=True, auxiliary_every=1,
auxiliary_past=32, auxiliary_epochs=1, auxiliary_updates=96, clone_coeff=16`, but for its gradient norm of 0.5: here
`max_grad_norm` is ignored.

Sources: Cobbe et al. 2021, Phasic Policy Gradient (https://arxiv.org/abs/2009.04416); Wang et al. 2023, PPG Reloaded
(ICML 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.phase_parts import auxiliary_phase, auxiliary_value_loss, delayed_policy_phase
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["ppg_phases"]


@checked(seeds=ANY_NUMBER)
def ppg_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """PPG: a policy phase on every rollout, and after every `auxiliary_every` of them an auxiliary phase.

    The policy phase has the loss `-J_pi - entropy_coeff S + value_coeff (V - R)^2` in one Adam; with `delayed_value`
    the value is held at that of the rollout instead. The auxiliary phase, with an Adam of its own, goes over the last
    rollouts with `value_coeff (V_aux - R)^2 + clone_coeff KL(pi_old, pi) + value_coeff (V - R)^2`, where V_aux is a
    linear head on the policy's features.

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        settings: PPG's settings.
        seeds: seeds of a stack's agents, from each of which its auxiliary head is initialised; None for one agent.

    Raises:
        ValueError: a recurrent model; seeds that are not different or not as many as the model's.
    """
    auxiliary = auxiliary_value_loss(model, settings, seeds)
    policy = delayed_policy_phase(model, settings, delayed=settings.delayed_value, clipped=False)
    return [policy, auxiliary_phase(model, settings, [auxiliary], clipped=False)]
