"""The updates of DAAC as kernels: its policy phase, with an advantage head, and its value phase.

Raileanu and Fergus 2021, https://arxiv.org/abs/2102.10330. The policy's loss is PPO's and, on a linear head that reads
the policy's features and the action, the advantage's squared error. Each phase has an optimizer of its own, whose
moments are the copies POLICY_MEAN and POLICY_SQUARE, or CRITIC_MEAN and CRITIC_SQUARE; both train a trunk. Frames are
those of `rollouts`.
"""

from __future__ import annotations

import math

from decouple.compiled.adam import adam, clip, squares
from decouple.compiled.critics import trunk_gradient
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import all_borrowed, backward, forward, matrix
from decouple.compiled.losses import (
    ADVANTAGE_COEFF,
    ADVANTAGE_LOSS,
    CUT_POLICY,
    CUT_PRODUCT,
    CUT_VALUE,
    EPSILON,
    MOST_NORM,
    NORM,
    POLICY_GRADIENT,
    POLICY_RATE,
    TRUNK_RATE,
    VALUE_GRADIENT,
    VALUE_RATE,
    categorical_loss,
    normal_loss,
    product,
    value_loss,
)
from decouple.compiled.memory import (
    CRITIC,
    CRITIC_LAYERS,
    CRITIC_MEAN,
    CRITIC_SQUARE,
    CRITICS_SIZE,
    GRADIENT,
    POLICY,
    POLICY_LAYERS,
    POLICY_MEAN,
    POLICY_SIZE,
    POLICY_SQUARE,
    SCALE,
    SIZE,
    START,
    TRUNK_LAYERS,
    TRUNK_SIZE,
)
from decouple.compiled.rollouts import ADVANTAGE, minibatch, opened

__all__: list[str] = []  # kernels are called by the compiled phases, and by each other


@kernel
def policy_epoch(
    agents, layers, slopes, rates, memory, steps, rows, orders, widths, discrete, bounds, minibatches, at_the_cut,
    scratch, metrics, first, last,
):  # fmt: skip
    """One pass of the policy phase over a rollout for the agents from `first` to `last`; arguments as `ppo.epoch`'s."""
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        for number in range(minibatches):
            order = minibatch(orders[s], minibatches, number)
            steps[s] += 1
            learn_policy(
                agents[s], layers, slopes, memory, rates[s], steps[s], rows[s], order, widths, discrete, bounds,
                at_the_cut and number == 0, scratch, metrics[s, number],
            )  # fmt: skip


@kernel
def value_epoch(
    agents, layers, slopes, rates, memory, steps, rows, orders, widths, discrete, bounds, minibatches, at_the_cut,
    scratch, metrics, first, last,
):  # fmt: skip
    """One pass of the value phase over a rollout for the agents from `first` to `last`; arguments as `ppo.epoch`'s."""
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        for number in range(minibatches):
            order = minibatch(orders[s], minibatches, number)
            steps[s] += 1
            learn_value(
                agents[s], layers, slopes, memory, rates[s], steps[s], rows[s], order, widths,
                at_the_cut and number == 0, scratch, metrics[s, number],
            )  # fmt: skip


@kernel
def learn_policy(
    agent, layers, slopes, memory, rate, steps, rows, order, widths, discrete, bounds, at_the_cut, scratch, metrics
):
    """One step of an agent's trunk, policy and advantage head on the frames in `order`."""
    observation, frame, begins, hidden, at = opened(agent, layers, slopes, memory, rows, order, widths[0], scratch)
    of_features = at
    features, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS] - 1, memory, 0, hidden, scratch, at)
    by_features, at = heads_gradient(
        agent, layers, slopes, memory, rate, features, frame, widths, discrete, bounds, scratch, at, metrics
    )
    step_policy(
        agent, layers, slopes, memory, rate, steps, observation, begins, hidden, of_features, by_features, len(order),
        at_the_cut, scratch, at, metrics,
    )  # fmt: skip


@kernel
def heads_gradient(
    agent, layers, slopes, memory, rate, features, frame, widths, discrete, bounds, scratch, at, metrics
):
    """The losses on the policy's head, its last layer, and on the advantage head: the gradient by the features (B, F).

    The gradients by the heads' numbers are written into the memory.

    Returns:
        The gradient by the features, and the place behind it.
    """
    batch, gradient = features.shape[0], GRADIENT * agent[SIZE]
    last, of_head = agent[POLICY] + agent[POLICY_LAYERS] - 1, at
    out, at = forward(layers, slopes, last, 1, memory, 0, features, scratch, at)
    by_out, by_advantage = matrix(scratch, at, batch, out.shape[1]), scratch[at + out.size : at + out.size + batch]
    at += out.size + batch
    place, inputs = agent[SCALE], features.shape[1] + widths[1]
    if discrete:
        categorical_loss(out, frame, widths[1], rate, by_out, metrics)
        inputs = features.shape[1] + out.shape[1]
    else:
        normal_loss(agent, memory, out, frame, rate, bounds, by_out, scratch, at, metrics)
        place += widths[1]
    head = memory[place : place + inputs + 1]
    of_own = memory[place + gradient : place + gradient + inputs + 1]
    advantage_loss(head, features, frame, widths[1], discrete, rate, by_advantage, of_own, metrics)
    by_features, at = backward(
        layers, slopes, last, 1, memory, 0, gradient, features, of_head, by_out, scratch, at, True, True
    )
    for i in range(batch):
        for j in range(features.shape[1]):
            by_features[i, j] += by_advantage[i] * head[j]
    return by_features, at


@kernel
def step_policy(
    agent, layers, slopes, memory, rate, steps, observation, begins, hidden, of_features, by_features, own, at_the_cut,
    scratch, at, metrics,
):  # fmt: skip
    """Pull the gradient by the policy's features back through its layers and the trunk, and step all by Adam.

    Args:
        observation, begins, hidden: the trunk's input (B, O), where its outputs begin, and its last output.
        of_features: where the outputs of the policy's layers begin.
        by_features: (B, F), which is overwritten.
        own: rows of the minibatch's own frames, the first ones, of which the gradient at the cut is measured.
    """
    gradient = GRADIENT * agent[SIZE]
    into_trunk = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    by_hidden, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS] - 1, memory, 0, gradient, hidden, of_features, by_features,
        scratch, at, True, into_trunk,
    )  # fmt: skip
    if at_the_cut:
        metrics[CUT_POLICY], metrics[CUT_VALUE], metrics[CUT_PRODUCT] = 0, 0, 0
        if into_trunk:
            metrics[CUT_POLICY] = product(by_hidden[:own], by_hidden[:own])
    trunk = 0  # numbers of the trunk that are trained
    if into_trunk:
        trunk, scale = agent[TRUNK_SIZE], rate[POLICY_GRADIENT]
        trunk_gradient(agent, layers, slopes, memory, observation, begins, by_hidden, scale, scratch, at)
    policy, size, epsilon = agent[START] + agent[TRUNK_SIZE], agent[POLICY_SIZE], rate[EPSILON]
    total = float(squares(memory, policy - trunk + gradient, trunk + size))
    metrics[NORM] = math.sqrt(total)
    mean, square, scale = POLICY_MEAN * agent[SIZE], POLICY_SQUARE * agent[SIZE], clip(total, rate[MOST_NORM])
    adam(memory, policy - trunk, trunk, gradient, mean, square, steps, rate[TRUNK_RATE], epsilon, scale)
    adam(memory, policy, size, gradient, mean, square, steps, rate[POLICY_RATE], epsilon, scale)


@kernel
def learn_value(agent, layers, slopes, memory, rate, steps, rows, order, widths, at_the_cut, scratch, metrics):
    """One step of an agent's trunk and value network on the frames in `order`."""
    batch, gradient = len(order), GRADIENT * agent[SIZE]
    observation, frame, begins, hidden, at = opened(agent, layers, slopes, memory, rows, order, widths[0], scratch)
    of_value = at
    values, at = forward(layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, hidden, scratch, at)
    by_values = matrix(scratch, at, batch, 1)
    at += batch
    value_loss(values, frame, widths[1], rate, by_values, metrics)

    into_trunk = agent[TRUNK_LAYERS] > 0 and rate[VALUE_GRADIENT] > 0
    by_hidden, at = backward(
        layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, gradient, hidden, of_value, by_values, scratch,
        at, True, into_trunk,
    )  # fmt: skip
    if at_the_cut:
        metrics[CUT_POLICY], metrics[CUT_VALUE], metrics[CUT_PRODUCT] = 0, 0, 0
        if into_trunk:
            metrics[CUT_VALUE] = product(by_hidden, by_hidden)
    trunk, critic = agent[START], agent[START] + agent[TRUNK_SIZE] + agent[POLICY_SIZE]
    total = float(squares(memory, critic + gradient, agent[CRITICS_SIZE]))
    if into_trunk:
        scale = rate[VALUE_GRADIENT]
        trunk_gradient(agent, layers, slopes, memory, observation, begins, by_hidden, scale, scratch, at)
        total += float(squares(memory, trunk + gradient, agent[TRUNK_SIZE]))
    metrics[NORM] = math.sqrt(total)
    mean, square, scale = CRITIC_MEAN * agent[SIZE], CRITIC_SQUARE * agent[SIZE], clip(total, rate[MOST_NORM])
    size, epsilon = agent[CRITICS_SIZE], rate[EPSILON]
    adam(memory, critic, size, gradient, mean, square, steps, rate[VALUE_RATE], epsilon, scale)
    if into_trunk:
        size = agent[TRUNK_SIZE]
        adam(memory, trunk, size, gradient, mean, square, steps, rate[TRUNK_RATE], epsilon, scale)


@kernel
def advantage_loss(head, features, frame, acts, discrete, rate, by_advantage, of_head, metrics):
    """The advantage's squared error on a linear head that reads features and action, an index or in [-1, 1].

    Args:
        head: weight (F + A,) and bias. features: (B, F).
        by_advantage: set to the loss's gradient by the head's output, (B,).
        of_head: set to its gradient by the head's numbers.
    """
    batch, number = features.shape
    real = head.dtype.type
    weight = real(2 * rate[ADVANTAGE_COEFF]) / real(batch)
    of_head[:] = 0
    bias, total = len(head) - 1, 0.0
    for i in range(batch):
        advantage = head[bias]
        for j in range(number):
            advantage += features[i, j] * head[j]
        if discrete:
            advantage += head[number + int(frame[i, 0])]
        else:
            for j in range(acts):
                advantage += math.tanh(frame[i, j]) * head[number + j]
        error = advantage - frame[i, acts + ADVANTAGE]
        total += error * error
        slope = weight * error
        by_advantage[i] = slope
        for j in range(number):
            of_head[j] += slope * features[i, j]
        if discrete:
            of_head[number + int(frame[i, 0])] += slope
        else:
            for j in range(acts):
                of_head[number + j] += slope * math.tanh(frame[i, j])
        of_head[bias] += slope
    metrics[ADVANTAGE_LOSS] = rate[ADVANTAGE_COEFF] * total / batch
