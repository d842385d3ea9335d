"""The update of PPO as kernels.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347. An agent has one critic, its value network, and one optimizer.
Frames are those of `rollouts`.
"""

from __future__ import annotations

import math

from decouple.compiled.adam import adam, clip, squares
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import add, all_borrowed, backward, forward, matrix
from decouple.compiled.losses import (
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
    POLICY_SIZE,
    SIZE,
    START,
    TRUNK,
    TRUNK_LAYERS,
    TRUNK_SIZE,
)
from decouple.compiled.rollouts import minibatch, opened

__all__: list[str] = []  # kernels are called by the compiled phase, and by each other


@kernel
def epoch(
    agents, layers, slopes, rates, memory, steps, rows, orders, widths, discrete, bounds, minibatches, at_the_cut,
    scratch, metrics, first, last,
):  # fmt: skip
    """One pass over a rollout for the agents from `first` to `last`: a step of Adam on each of its minibatches.

    Args:
        agents, layers, slopes: tables of `memory.Tables`. rates: settings, (S, RATES).
        memory: the agents' numbers. steps: int64 (S,), steps of the optimizer so far.
        rows: frames of `rollouts.prepare`, (S, B, W). orders: int64 (S, B), the order in which each agent takes them.
        widths: numbers of an observation, and of an action in a row.
        discrete: True for a categorical. bounds: of the actions, (3, A).
        minibatches: number of minibatches; the first ones are longer by one where B is no multiple of it.
        at_the_cut: True to measure the gradients at the cut in the first minibatch.
        scratch: memory for one agent. metrics: float64 (S, minibatches, METRICS).
    """
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        for number in range(minibatches):
            order = minibatch(orders[s], minibatches, number)
            steps[s] += 1
            learn(
                agents[s], layers, slopes, memory, rates[s], steps[s], rows[s], order, widths, discrete, bounds,
                at_the_cut and number == 0, scratch, metrics[s, number],
            )  # fmt: skip


@kernel
def measure_cut(of_policy, of_value, from_policy, from_value, metrics):
    """Squared norms and product of the two gradients at the cut; 0 for one that does not reach the trunk."""
    metrics[CUT_POLICY], metrics[CUT_VALUE], metrics[CUT_PRODUCT] = 0, 0, 0
    if from_policy:
        metrics[CUT_POLICY] = product(of_policy, of_policy)
    if from_value:
        metrics[CUT_VALUE] = product(of_value, of_value)
    if from_policy and from_value:
        metrics[CUT_PRODUCT] = product(of_policy, of_value)


@kernel
def learn(
    agent, layers, slopes, memory, rate, steps, rows, order, widths, discrete, bounds, at_the_cut, scratch, metrics
):
    """One step of an agent on the frames in `order`."""
    batch, real, gradient = len(order), memory.dtype.type, GRADIENT * agent[SIZE]
    observation, frame, begins, hidden, at = opened(agent, layers, slopes, memory, rows, order, widths[0], scratch)
    of_policy = at
    out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
    of_value = at
    values, at = forward(layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, hidden, scratch, at)
    of_out, of_values = matrix(scratch, at, batch, out.shape[1]), matrix(scratch, at + out.size, batch, 1)
    at += out.size + batch
    if discrete:
        categorical_loss(out, frame, widths[1], rate, of_out, metrics)
    else:
        normal_loss(agent, memory, out, frame, rate, bounds, of_out, scratch, at, metrics)
    value_loss(values, frame, widths[1], rate, of_values, metrics)

    from_policy = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    from_value = agent[TRUNK_LAYERS] > 0 and rate[VALUE_GRADIENT] > 0
    of_policy_side, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, gradient, hidden, of_policy, of_out, scratch,
        at, True, from_policy,
    )  # fmt: skip
    of_value_side, at = backward(
        layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, gradient, hidden, of_value, of_values, scratch,
        at, True, from_value,
    )  # fmt: skip
    if at_the_cut:
        measure_cut(of_policy_side, of_value_side, from_policy, from_value, metrics)
    trunk = agent[TRUNK_SIZE]  # numbers of the trunk that are trained
    if from_policy or from_value:
        of_hidden = matrix(scratch, at, batch, hidden.shape[1])
        at += of_hidden.size
        of_hidden[:] = 0
        if from_policy:
            add(of_hidden, of_policy_side, real(rate[POLICY_GRADIENT]))
        if from_value:
            add(of_hidden, of_value_side, real(rate[VALUE_GRADIENT]))
        backward(
            layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, gradient, observation, begins, of_hidden,
            scratch, at, True, False,
        )  # fmt: skip
    else:  # a trunk that no gradient reaches stays
        trunk = 0
    end, policy, critic = agent[START] + agent[SIZE], agent[POLICY_SIZE], agent[CRITICS_SIZE]
    start = end - critic - policy - trunk
    total = float(squares(memory, start + gradient, end - start))
    metrics[NORM] = math.sqrt(total)
    mean, square = CRITIC_MEAN * agent[SIZE], CRITIC_SQUARE * agent[SIZE]
    scale, epsilon = clip(total, rate[MOST_NORM]), rate[EPSILON]
    adam(memory, start, trunk, gradient, mean, square, steps, rate[TRUNK_RATE], epsilon, scale)
    adam(memory, start + trunk, policy, gradient, mean, square, steps, rate[POLICY_RATE], epsilon, scale)
    adam(memory, end - critic, critic, gradient, mean, square, steps, rate[VALUE_RATE], epsilon, scale)
