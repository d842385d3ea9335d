"""DCPG: delayed-critic policy gradient, which trains the value on returns in auxiliary phases alone.

    train_on_policy(env, model, dcpg_phases(model, settings), settings, log=print)

The paper's network is k = depth, one network for both; any other k is allowed. Gradients are clipped by `max_grad_norm`
in both phases, values are not. Minibatches are random frames; in the released code those of the auxiliary phase are
segments of environments.

Source: Moon, Lee and Song 2022, Rethinking Value Function Learning for Generalization in Reinforcement Learning
(https://arxiv.org/abs/2210.09960; snu-mllab/DCPG).
"""

from __future__ import annotations

from collections.abc import Sequence

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.agents import check_agent_seeds
from decouple.on_policy.phase_parts import auxiliary_phase, delayed_policy_phase
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["dcpg_phases"]


@checked(seeds=ANY_NUMBER)
def dcpg_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int] | None = None) -> list[Phase]:
    """DCPG: a policy phase that holds values where they are, and an auxiliary phase that trains them.

    The policy phase, on every rollout, has the loss `-J_pi - entropy_coeff S + value_coeff (V - V_old)^2`, where V_old
    are the values of the rollout. The auxiliary phase, after every `auxiliary_every` rollouts and over the last of
    them, has `value_coeff (V - R)^2 + clone_coeff KL(pi_old, pi)`. Each has an Adam of its own.

    Args:
        model: a model from `actor_value`, or a `stack` of S of them.
        settings: DCPG's settings.
        seeds: seeds of a stack's agents; no module is initialised from them.

    Raises:
        ValueError: a recurrent model; seeds that are not different or not as many as the model's.
    """
    check_agent_seeds(model, seeds)
    return [
        delayed_policy_phase(model, settings, delayed=True, clipped=True),
        auxiliary_phase(model, settings, [], clipped=True),
    ]
