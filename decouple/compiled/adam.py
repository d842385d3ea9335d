"""Kernels of the optimizer: Adam as PyTorch computes it, a gradient clipped by its norm, and target networks."""

from __future__ import annotations

import math

from decouple.compiled.kernel import kernel

__all__: list[str] = []  # kernels are called by learners and by each other


@kernel
def adam(memory, start, size, gradient, mean, square, steps, learning_rate, epsilon, scale):
    """One step of Adam, b1 = 0.9 and b2 = 0.999, on `size` parameters from `start` on.

    Args:
        memory: all numbers. start, size: the parameters.
        gradient, mean, square: distances of the gradient and of the two moments from the parameters.
        steps: steps with this one.
        learning_rate, epsilon: Adam's settings.
        scale: factor of the gradient, of `clip`.
    """
    real = memory.dtype.type
    first, second = real(0.9), real(0.999)
    rest_first, rest_second = real(1 - 0.9), real(1 - 0.999)
    rate = real(learning_rate / (1 - 0.9**steps))
    root = real(math.sqrt(1 - 0.999**steps))
    epsilon, scale = real(epsilon), real(scale)
    parameters = memory[start : start + size]
    gradients = memory[start + gradient : start + gradient + size]
    means = memory[start + mean : start + mean + size]
    squared = memory[start + square : start + square + size]
    for i in range(size):
        g = gradients[i] * scale
        m = first * means[i] + rest_first * g
        v = second * squared[i] + rest_second * g * g
        means[i], squared[i] = m, v
        parameters[i] -= rate * m / (real(math.sqrt(v)) / root + epsilon)


@kernel
def squares(memory, start, size):
    """The sum of the squares of `size` numbers from `start` on."""
    part = memory[start : start + size]
    total = memory.dtype.type(0)
    for i in range(size):
        total += part[i] * part[i]
    return total


@kernel
def clip(total, most):
    """The factor that brings a gradient, the sum of whose squares is `total`, to the norm `most`, where it is longer.

    As `torch.nn.utils.clip_grad_norm_`; `most` infinite leaves it.
    """
    if most == math.inf:
        return 1.0
    factor = most / (math.sqrt(total) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # NaN stays NaN


@kernel
def follow(memory, start, size, target, tau):
    """Move `size` numbers of a target network, `target` behind the parameters, a share `tau` towards them."""
    share = memory.dtype.type(tau)
    online = memory[start : start + size]
    lagging = memory[start + target : start + target + size]
    for i in range(size):
        lagging[i] += share * (online[i] - lagging[i])
