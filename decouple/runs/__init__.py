"""A run's record (checkpoints, metrics, curves, locks, progress), its performance settings, and its identity."""
