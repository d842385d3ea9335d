"""On-policy learning: rollouts, losses, phases, and the loop that trains by them."""

from decouple.on_policy.training import (
    ALGORITHMS,
    OnPolicySettings,
    daac_phases,
    idaac_phases,
    ppo_phases,
    train_on_policy,
)

__all__ = ["ALGORITHMS", "OnPolicySettings", "daac_phases", "idaac_phases", "ppo_phases", "train_on_policy"]
