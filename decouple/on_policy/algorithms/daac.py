"""DAAC: decoupled advantage actor-critic, a policy phase with an advantage head and a value phase.

    train_on_policy(env, model, daac_phases(model, settings), settings, log=print)

    model = stack([actor_value(...) for seed in seeds])         # several seeds at once
    train_on_policy(env, model, daac_phases(model, settings, seeds), settings, log=print, seeds=seeds)

Source: Raileanu and Fergus 2021, Decoupling Value and Policy for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2102.10330), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.phase_parts import advantage_loss, policy_loss, policy_phase, unique, value_phase
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["daac_phases"]


@checked(seeds=ANY_NUMBER)
def daac_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """DAAC: a policy phase on `-J_pi + advantage_coeff L_A - entropy_coeff S`, then a value phase, each with its Adam.

    Each phase runs and trains only the network that it needs; both train the parameters of a trunk. Source: Raileanu
    and Fergus 2021, section 3; equation 3 of the separation study.

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        settings: DAAC's settings.
        seeds: seeds of a stack's agents, from each of which its advantage head is initialised; None for one agent.

    Raises:
        ValueError: seeds that are not different or not as many as the model's.
    """
    features = model.get_features(["policy_hidden"])
    losses = [policy_loss(model, settings), advantage_loss(model, settings, seeds)]
    parameters = unique(features, *losses)
    policy = policy_phase(model, losses, features, parameters, settings)
    return [policy, value_phase(model, settings)]
