"""The distillation study: a small actor learns from a trained one, at the states that it meets itself."""
