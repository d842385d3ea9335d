"""Algorithms as lists of phases, one file each: PPO, DAAC, IDAAC, PPG, DCPG, DDCPG, DNA and TRPO."""

from collections.abc import Callable

from decouple.networks.actor_value import ActorValue
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.dcpg import dcpg_phases
from decouple.on_policy.algorithms.ddcpg import ddcpg_phases
from decouple.on_policy.algorithms.dna import dna_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppg import ppg_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.phases import Phase
from decouple.on_policy.settings import OnPolicySettings

__all__ = ["ALGORITHMS"]

# The name of an algorithm in `OnPolicySettings` -> the function that makes its phases.
ALGORITHMS: dict[str, Callable[[ActorValue, OnPolicySettings], list[Phase]]] = {
    "ppo": ppo_phases,
    "daac": daac_phases,
    "idaac": idaac_phases,
    "ppg": ppg_phases,
    "dcpg": dcpg_phases,
    "ddcpg": ddcpg_phases,
    "dna": dna_phases,
}
