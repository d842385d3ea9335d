"""Off-policy learning: settings, replay, the learners, and the loop that trains by them."""

from decouple.off_policy.training import GreedyPolicy, replay_for, train_off_policy

__all__ = ["GreedyPolicy", "replay_for", "train_off_policy"]
