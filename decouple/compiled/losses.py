"""Kernels of the losses of PPO, DAAC and IDAAC: the policy's clipped objective with its entropy, and the value's error.

The losses are TorchRL's ClipPPOLoss and `decouple.on_policy.losses.ValueLoss`, on a tanh-squashed normal with a scale
of its own, or on a categorical. Frames are those of `rollouts`.
"""

from __future__ import annotations

import math

import numpy as np

from decouple.compiled.functions import log_of_normal
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import matrix
from decouple.compiled.memory import GRADIENT, SCALE, SIZE
from decouple.compiled.rollouts import (
    ADVANTAGE,
    HALF_LOG_2_PI,
    LEAST_SCALE,
    LOG_2,
    LOG_HALF,
    REFERENCE,
    TARGET,
    VALUE,
    log_sum_exp,
    scale_of,
)

__all__: list[str] = []  # kernels are called by the algorithms' kernels, and by each other

# Columns of `rates`, float64: one row of settings per agent. TRUNK_RATE, POLICY_RATE, VALUE_RATE: learning rates of the
# parts. CLIP_LOW, CLIP_HIGH: bounds of the ratio's logarithm.
# CLIP_VALUE infinite: values are not clipped. What a phase has no loss for is not read.
TRUNK_RATE, POLICY_RATE, VALUE_RATE, EPSILON, MOST_NORM, POLICY_GRADIENT, VALUE_GRADIENT = range(7)
CLIP_LOW, CLIP_HIGH, ENTROPY_COEFF, VALUE_COEFF, CLIP_VALUE, ADVANTAGE_COEFF, ORDER_COEFF = range(7, 14)
RATES = 14

# Columns of `metrics`, float64: means over a minibatch; at the cut squared norms and the product, of the first one.
OBJECTIVE, ENTROPY, CRITIC_LOSS, CLIP_FRACTION, KL, MAX_RATIO, MEAN_RATIO, VALUE_CLIPPED, NORM = range(9)
CUT_POLICY, CUT_VALUE, CUT_PRODUCT, ADVANTAGE_LOSS = range(9, 13)
CLASSIFIER_LOSS, ORDER_ACCURACY, CLASSIFIER_NORM, ORDER_LOSS = range(13, 17)
METRICS = 17

LOG_4 = math.log(4)
TINY = 1e-300

# The entropy's integral, as decouple.networks.distributions: nodes at 0 and at +-e, half a standard deviation apart.
NODES = np.arange(11) / 2
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS = WEIGHTS / (WEIGHTS[0] + 2 * WEIGHTS[1:].sum())
PAIRS = len(NODES)


@kernel
def gain(log_ratio, advantage, rate, metrics):
    """The clipped objective of one frame: returns it, and its derivative by the log-ratio; sums metrics."""
    real = type(log_ratio)
    low, high = real(rate[CLIP_LOW]), real(rate[CLIP_HIGH])
    clipped = low if log_ratio < low else (high if log_ratio > high else log_ratio)
    ratio = math.exp(log_ratio)
    free, held = ratio * advantage, math.exp(clipped) * advantage
    if clipped != log_ratio:
        metrics[CLIP_FRACTION] += 1
    metrics[KL] -= log_ratio
    metrics[MEAN_RATIO] += ratio
    if ratio > metrics[MAX_RATIO] or ratio != ratio:
        metrics[MAX_RATIO] = ratio
    if free > held:
        return held, real(0)
    return free, free


@kernel
def begin_metrics(metrics):
    for column in range(NORM):
        metrics[column] = 0
    metrics[MAX_RATIO] = -math.inf


@kernel
def end_metrics(metrics, batch, objective, entropy):
    for column in (CLIP_FRACTION, KL, MEAN_RATIO):
        metrics[column] /= batch
    metrics[OBJECTIVE], metrics[ENTROPY] = -objective / batch, entropy / batch


@kernel
def categorical_loss(logits, frame, acts, rate, of_logits, metrics):
    """The policy's loss with a categorical: its gradient by the logits (B, n), and metrics."""
    batch, number = logits.shape
    real = logits.dtype.type
    begin_metrics(metrics)
    objective, total = 0.0, 0.0
    share, of_entropy = real(-1) / real(batch), real(-rate[ENTROPY_COEFF]) / real(batch)
    for i in range(batch):
        largest = log_sum_exp(logits[i])
        chosen = int(frame[i, 0])
        log_ratio = logits[i, chosen] - largest - frame[i, acts + REFERENCE]
        value, slope = gain(log_ratio, frame[i, acts + ADVANTAGE], rate, metrics)
        objective += value
        entropy = real(0)
        for k in range(number):
            log_prob = logits[i, k] - largest
            of_logits[i, k] = math.exp(log_prob)
            entropy -= of_logits[i, k] * log_prob
        total += entropy
        for k in range(number):
            prob, log_prob = of_logits[i, k], logits[i, k] - largest
            of_logits[i, k] = -share * slope * prob - of_entropy * prob * (log_prob + entropy)
        of_logits[i, chosen] += share * slope
    end_metrics(metrics, batch, objective, total)


@kernel
def normal_loss(agent, memory, loc, frame, rate, bounds, of_loc, scratch, at, metrics):
    """The policy's loss with a squashed normal: its gradient by loc (B, A) and by the scale's numbers, and metrics."""
    batch, acts = loc.shape
    real = loc.dtype.type
    begin_metrics(metrics)
    share, of_entropy = real(-1) / real(batch), real(-rate[ENTROPY_COEFF]) / real(batch)
    scales, of_scale = scratch[at : at + acts], scratch[at + acts : at + 2 * acts]
    log_scale, nodes = scratch[at + 2 * acts : at + 3 * acts], matrix(scratch, at + 3 * acts, acts, PAIRS)
    log_scales = real(0)
    for j in range(acts):
        scales[j], of_scale[j] = scale_of(memory[agent[SCALE] + j]), 0
        log_scale[j] = math.log(scales[j])
        log_scales += log_scale[j]
        for k in range(PAIRS):
            nodes[j, k] = math.exp(-2 * scales[j] * NODES[k])
    objective, total = 0.0, 0.0
    for i in range(batch):
        log_ratio = -log_scales - frame[i, acts + REFERENCE]
        for j in range(acts):
            z = (frame[i, j] - loc[i, j]) / scales[j]
            log_ratio -= real(0.5) * z * z
        value, slope = gain(log_ratio, frame[i, acts + ADVANTAGE], rate, metrics)
        objective += value
        for j in range(acts):
            z = (frame[i, j] - loc[i, j]) / scales[j]
            of_loc[i, j] = share * slope * z / scales[j]
            of_scale[j] += share * slope * (z * z - real(1)) / scales[j]
            entropy, by_loc, by_scale = squashed_entropy(loc[i, j], scales[j], log_scale[j], nodes[j], of_entropy != 0)
            total += entropy + bounds[LOG_HALF, j]
            if of_entropy != 0:
                of_loc[i, j] += of_entropy * real(by_loc)
                of_scale[j] += of_entropy * real(by_scale)
    place = agent[SCALE] + GRADIENT * agent[SIZE]
    for j in range(acts):
        own = math.exp(memory[agent[SCALE] + j])
        memory[place + j] = of_scale[j] * own if own >= real(LEAST_SCALE) else real(0)
    end_metrics(metrics, batch, objective, total)


@kernel
def squashed_entropy(loc, scale, log_scale, nodes, with_slopes):
    """Entropy of tanh(x), x normal, integrated over 21 nodes loc + scale e; and its derivatives by loc and scale.

    With t = exp(-2 |loc|) and s = exp(-2 scale e) two nodes need one logarithm:
    `log cosh(loc + scale e) + log cosh(loc - scale e) = log(s (1 + t^2) + t (1 + s^2)) - log 4 + 2 |loc| + 2 scale e`.

    Args:
        loc, scale, log_scale: the normal's numbers, and the scale's logarithm.
        nodes: s of each e >= 0.
    """
    size, wide = abs(float(loc)), float(scale)
    t = math.exp(-2 * size)
    if t < TINY:
        t = TINY
    log_cosh = WEIGHTS[0] * (size + log_of_normal(1 + t) - LOG_2)
    by_loc, by_scale = WEIGHTS[0] * (1 - t) / (1 + t), 0.0
    above, below = 1 + t * t, 1 - t * t
    for k in range(1, PAIRS):
        s = float(nodes[k])
        both = s * above + t * (1 + s * s)
        log_cosh += WEIGHTS[k] * (log_of_normal(both) - LOG_4 + 2 * size + 2 * wide * NODES[k])
        if with_slopes:
            by_loc += WEIGHTS[k] * 2 * s * below / both
            by_scale += WEIGHTS[k] * NODES[k] * 2 * t * (1 - s * s) / both
    if loc < 0:
        by_loc = -by_loc
    entropy = 0.5 + HALF_LOG_2_PI + log_scale - 2 * log_cosh
    return entropy, -2 * by_loc, 1 / wide - 2 * by_scale


@kernel
def value_loss(values, frame, acts, rate, of_values, metrics):
    """The value's squared error, of the larger of two where values are clipped: its gradient (B, 1), and metrics."""
    batch, real = len(values), values.dtype.type
    most, weight = real(rate[CLIP_VALUE]), real(rate[VALUE_COEFF]) / real(batch)
    total, clipped = 0.0, 0
    for i in range(batch):
        target, old = frame[i, acts + TARGET], frame[i, acts + VALUE]
        error = values[i, 0] - target
        loss, slope = error * error, real(2) * error
        if rate[CLIP_VALUE] != math.inf:
            change = values[i, 0] - old
            held = -most if change < -most else (most if change > most else change)
            other = old + held - target
            other_loss, other_slope = other * other, real(2) * other
            if held != change:
                clipped, other_slope = clipped + 1, real(0)
            if other_loss > loss:
                loss, slope = other_loss, other_slope
            elif not other_loss < loss:  # equal losses share the gradient, as in torch
                slope = real(0.5) * (slope + other_slope)
        total += loss
        of_values[i, 0] = weight * slope
    metrics[CRITIC_LOSS], metrics[VALUE_CLIPPED] = rate[VALUE_COEFF] * total / batch, clipped / batch


@kernel
def product(x, y):
    """The sum of the products of two matrices' numbers, in float64."""
    total = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += float(x[i, j]) * float(y[i, j])
    return total
