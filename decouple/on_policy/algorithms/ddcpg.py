"""DDCPG: DCPG, whose auxiliary phase also trains the features to tell which action led from a state to the next.

    train_on_policy(env, model, ddcpg_phases(model, settings), settings, log=print)

The paper's network is k = depth, one network for both; at any other k the discriminator reads the policy's features.
Actions have to be discrete. By default no transition leads over the end of an episode; in the released code the first
frame of the next episode counts as the next state (`dynamics_across_ends=True`). The false transitions are drawn once
a phase, where the released code draws them in each minibatch, so that they do not depend on `micro_batch`.

Source: Moon, Lee and Song 2022, Rethinking Value Function Learning for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2210.09960; snu-mllab/DCPG).
"""

from __future__ import annotations

from collections.abc import Sequence

from tensordict.nn import TensorDictModule

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.agents import kind_of_agents
from decouple.on_policy.dynamics import DynamicsDiscriminator, DynamicsLoss, OtherRows, Transitions
from decouple.on_policy.phase_parts import auxiliary_phase, delayed_policy_phase, for_agents
from decouple.on_policy.phases import Phase
from decouple.on_policy.phasic_losses import check_no_memory
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["ddcpg_phases"]

OTHERS = ["following", "other_following"]  # the next frames, and those of the false transitions


@checked(seeds=ANY_NUMBER)
def ddcpg_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """DDCPG: DCPG's two phases, and in the auxiliary phase `dynamics_coeff` times the discriminator's loss.

    The rollouts must also hold `step_count`, by which an episode's first frame is known.

    Args:
        model: a model from `actor_value` with discrete actions, or a `stack` of S of them.
        settings: DDCPG's settings.
        seeds: seeds of a stack's agents, from each of which its discriminator is initialised; None for one agent.

    Raises:
        ValueError: a recurrent model, continuous actions; seeds that are not different or not as many as the model's.
    """
    check_no_memory(model)
    if not model.discrete:
        raise ValueError("model must have discrete actions for DDCPG, whose discriminator tells them apart by number")
    sizes, choices = (model.policy_size, model.action_size, settings.dynamics_width), model.action_space.choices or None
    head = for_agents(model, lambda: DynamicsDiscriminator(*sizes, choices=choices), seeds)
    reads = ["policy_hidden", "action", ("following", "policy_hidden")]
    dynamics = DynamicsLoss(TensorDictModule(head, reads, ["dynamics_logit"]), coeff=settings.dynamics_coeff)
    dynamics.reduction = kind_of_agents(model).reduction
    auxiliary = auxiliary_phase(
        model,
        settings,
        [dynamics],
        clipped=True,
        others=OTHERS,
        keeps=["action", "step_count"],
        draw=Transitions(settings.rollout_steps, across_ends=settings.dynamics_across_ends),
        look_up=OtherRows(model.get_features(["policy_hidden"]).in_keys),
    )
    return [delayed_policy_phase(model, settings, delayed=True, clipped=True), auxiliary]
