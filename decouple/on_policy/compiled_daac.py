"""DAAC's phases by compiled kernels: those of `daac_phases`, with their epochs as machine code.

    phases = compiled_daac_phases(model, settings, seeds)
    train_on_policy(env, model, phases, settings, log=print, seeds=seeds)

The losses, the random numbers, the metrics and the checkpoints are those of `daac_phases`, and either continues the
other's checkpoint, within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decouple.checks import SEED, all_of, check_setting, checked
from decouple.compiled.memory import CRITIC_MEAN, CRITIC_SQUARE, POLICY_MEAN, POLICY_SQUARE
from decouple.networks.actor_value import ActorValue
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.compiled_agents import CompiledAgents, not_known
from decouple.on_policy.compiled_phase import CompiledPhase
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["compiled_daac_phases"]


@checked(seeds=all_of(SEED))
def compiled_daac_phases(model: ActorValue, settings: OnPolicySettings, seeds: Sequence[int]) -> list[CompiledPhase]:
    """DAAC's policy phase and its value phase of a stacked model, compiled, on the same agents in memory.

    Args:
        model: a `stack` of models from `actor_value`.
        settings: DAAC's settings.
        seeds: the agents' seeds, from each of which its advantage head is initialised.

    Raises:
        ValueError: a model that kernels do not know (`not_compiled` says why), settings in bf16, or seeds that are not
            different or not as many as the model's.
    """
    check_compiled(model, settings)
    policy, value = daac_phases(model, settings, seeds)
    agents = agents_with_head(model, policy)
    return [PolicyPhase(agents, policy), ValuePhase(agents, value)]


def check_compiled(model: ActorValue, settings: OnPolicySettings) -> None:
    """Raise ValueError where kernels do not know the model, or cannot compute in the settings' precision."""
    check_setting("precision", settings.precision, ("fp32",).__contains__, "fp32 with compiled kernels")
    why = not_known(model)
    if why is not None:
        raise ValueError(f"model must be a stack of perceptrons on a processor to be compiled: {why}")


def agents_with_head(model: ActorValue, policy: Phase) -> CompiledAgents:
    """The model's agents in memory, with the advantage head of a policy phase's second loss."""
    of_head: Any = policy.losses[1].advantage_network_params
    return CompiledAgents(model, (of_head["module", "linear", "weight"], of_head["module", "linear", "bias"]))


class PolicyPhase(CompiledPhase):
    """DAAC's policy phase: trunk, policy and advantage head."""

    def __init__(self, agents: CompiledAgents, phase: Phase):
        self._hold(agents, phase)

    def _kernel(self) -> tuple[str, Any]:
        from decouple.compiled.daac import policy_epoch

        return "daac-policy", policy_epoch

    @property
    def _moments_in(self) -> tuple[int, int]:
        return POLICY_MEAN, POLICY_SQUARE

    @property
    def _trains_trunk(self) -> bool:
        return self.agents.model.cut.policy_gradient > 0


class ValuePhase(CompiledPhase):
    """DAAC's value phase: trunk and value network."""

    def __init__(self, agents: CompiledAgents, phase: Phase):
        self._hold(agents, phase)

    def _kernel(self) -> tuple[str, Any]:
        from decouple.compiled.daac import value_epoch

        return "daac-value", value_epoch

    @property
    def _moments_in(self) -> tuple[int, int]:
        return CRITIC_MEAN, CRITIC_SQUARE

    @property
    def _trains_trunk(self) -> bool:
        return self.agents.model.cut.value_gradient > 0
