"""A run's record: checkpoints, metrics, curves, locks, progress; how it is computed; what makes two runs the same."""
