"""On-policy learning: rollouts, losses, phases, the algorithms built from them, and the training loop."""

from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy

__all__ = ["ALGORITHMS", "OnPolicySettings", "daac_phases", "idaac_phases", "ppo_phases", "train_on_policy"]
