"""Compiled kernels for small perceptrons on a processor; they know shapes and flat memory, no modules."""
