"""Off-policy learning: settings, replay, learners, and the training loop."""

from decouple.off_policy.training import GreedyPolicy, replay_for, train_off_policy

__all__ = ["GreedyPolicy", "replay_for", "train_off_policy"]
