"""DAAC: decoupled advantage actor-critic, a policy phase with an advantage head and a value phase.

    train_on_policy(env, model, daac_phases(model, settings), settings, log=print)

Source: Raileanu and Fergus 2021, Decoupling Value and Policy for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2102.10330), section 3.
"""

from __future__ import annotations

from decouple.checks import checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.phase_parts import advantage_loss, check_alone, policy_loss, policy_phase, unique, value_phase
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["daac_phases"]


@checked()
def daac_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """DAAC: a policy phase on `-J_pi + advantage_coeff L_A - entropy_coeff S`, then a value phase, each with its Adam.

    Each phase runs and trains only the network that it needs; both train the parameters of a trunk. Source: Raileanu
    and Fergus 2021, section 3; equation 3 of the separation study. ValueError for a stacked model.
    """
    check_alone(model, "DAAC")
    features = model.get_features(["policy_hidden"])
    losses = [policy_loss(model, settings), advantage_loss(model, settings)]
    parameters = unique(features, *losses)
    policy = policy_phase(losses, features, parameters, settings)
    return [policy, value_phase(model, settings)]
