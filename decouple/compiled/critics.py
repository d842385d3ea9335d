"""Kernels that off-policy algorithms share: a batch's parts, critics' values and gradients, and the optimizers' steps.

An agent is a row of the agents' table of `memory.Tables`; its settings are a row of `rates`, by the columns below.
"""

from __future__ import annotations

import math

from decouple.compiled.adam import adam, clip, follow, squares
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import backward, forward, matrix
from decouple.compiled.memory import (
    CRITIC,
    CRITIC_LAYERS,
    CRITIC_MEAN,
    CRITIC_SQUARE,
    CRITICS,
    CRITICS_SIZE,
    GRADIENT,
    POLICY_MEAN,
    POLICY_SIZE,
    POLICY_SQUARE,
    SIZE,
    START,
    TARGET,
    TRUNK,
    TRUNK_LAYERS,
    TRUNK_SIZE,
)

__all__: list[str] = []  # kernels are called by learners and by each other

# Columns of `rates`, float64: one row of settings per agent; the first four are learning rates.
TRUNK_RATE, POLICY_RATE, VALUE_RATE, TEMPERATURE_RATE = range(4)
EPSILON, MOST_NORM, GAMMA, TAU, VALUE_GRADIENT, POLICY_GRADIENT = range(4, 10)
AGGREGATION, TARGET_NOISE, NOISE_CLIP, TARGET_ENTROPY, LEARNS_ALPHA = range(10, 15)
RATES = 15
MINIMUM, MEAN = -1.0, -2.0  # AGGREGATION; other values are quantiles

# Columns of `metrics`, float64.
CRITIC_LOSS, VALUE_MEAN, ACTOR_LOSS, ENTROPY, ALPHA = range(5)
METRICS = 5


@kernel
def columns(rows, first, count, scratch, at):
    """Columns of a batch's rows as a contiguous matrix (B, count); and the place behind it."""
    out = matrix(scratch, at, rows.shape[0], count)
    for i in range(rows.shape[0]):
        for j in range(count):
            out[i, j] = rows[i, first + j]
    return out, at + rows.shape[0] * count


@kernel
def transitions(rows, observed, acts, scratch, at):
    """A batch's observations, actions, rewards, terminated flags and next observations; and the place behind them."""
    observation, at = columns(rows, 0, observed, scratch, at)
    action, at = columns(rows, observed, acts, scratch, at)
    reward, at = columns(rows, observed + acts, 1, scratch, at)
    terminated, at = columns(rows, observed + acts + 1, 1, scratch, at)
    following, at = columns(rows, observed + acts + 2, observed, scratch, at)
    return observation, action, reward, terminated, following, at


@kernel
def joined(hidden, action, scratch, at):
    """The critics' input (B, H + A): the trunk's output and the action; and the place behind it."""
    batch, before = hidden.shape
    both = before + action.shape[1]
    out = matrix(scratch, at, batch, both)
    for i in range(batch):
        for j in range(before):
            out[i, j] = hidden[i, j]
        for j in range(before, both):
            out[i, j] = action[i, j - before]
    return out, at + batch * both


@kernel
def trunk(agent, layers, slopes, memory, shift, x, scratch, at):
    """The trunk's output (B, H); without a trunk, x itself."""
    return forward(layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, shift, x, scratch, at)


@kernel
def critic(agent, layers, slopes, memory, shift, index, inputs, scratch, at):
    """Values of one critic (B, n), its outputs kept from `at` on."""
    first = agent[CRITIC] + index * agent[CRITIC_LAYERS]
    return forward(layers, slopes, first, agent[CRITIC_LAYERS], memory, shift, inputs, scratch, at)


@kernel
def critic_gradient(agent, layers, slopes, memory, index, inputs, begin, dy, scratch, at, of_parameters, of_input):
    """Pull a gradient back through a critic that `critic` has run, its outputs kept from `begin` on."""
    first, gradient = agent[CRITIC] + index * agent[CRITIC_LAYERS], GRADIENT * agent[SIZE]
    return backward(
        layers, slopes, first, agent[CRITIC_LAYERS], memory, 0, gradient, inputs, begin, dy, scratch, at,
        of_parameters, of_input,
    )  # fmt: skip


@kernel
def aggregate(values, other, count, how):
    """values <- the aggregate of two critics' values (B, n), by AGGREGATION; with one critic they stay."""
    if count == 1:
        return
    share = values.dtype.type(0.5 if how == MEAN else how)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            low, high = values[i, j], other[i, j]
            if not low <= high:
                low, high = high, low
            if how == MINIMUM:
                values[i, j] = high if high != high else low  # NaN of either critic, as in torch
            else:
                values[i, j] = low + share * (high - low)


@kernel
def target_values(agent, layers, slopes, memory, how, inputs, scratch, at):
    """The target critics' values (B, n), aggregated over critics; and the place behind them."""
    shift = TARGET * agent[SIZE]
    values, place = critic(agent, layers, slopes, memory, shift, 0, inputs, scratch, at)
    other = values
    if agent[CRITICS] == 2:
        other, place = critic(agent, layers, slopes, memory, shift, 1, inputs, scratch, place)
    aggregate(values, other, agent[CRITICS], how)
    return values, place


@kernel
def learn_critics(
    agent, layers, slopes, memory, rates, steps, observation, action, discrete, reward, terminated, following, scratch,
    at, metrics,
):  # fmt: skip
    """One step of an agent's critics, and of its trunk where the value's gradient reaches it.

    Args:
        agent, layers, slopes, memory: the agent's row of the table, the tables, and all numbers.
        rates, steps: the agent's settings, and its optimizers' steps; the critics' are counted here.
        observation, action: the batch's (B, O) and (B, A), or indices (B, 1).
        discrete: True where the critics give a value for each action.
        reward, terminated: the batch's, (B, 1). following: values of the next observations, (B, 1).
        scratch, at: memory, and where it is free; the pass that gave `following` has kept its outputs from there on.
        metrics: the agent's row, in which CRITIC_LOSS and VALUE_MEAN are set.

    Returns:
        The place behind the values that are learned, from which scratch memory is free again.
    """
    batch = observation.shape[0]
    real = memory.dtype.type
    steps[0] += 1
    target, free = targets(reward, terminated, following, rates[GAMMA], scratch, at)
    begins = at = free
    hidden, at = trunk(agent, layers, slopes, memory, 0, observation, scratch, at)
    inputs = hidden
    if not discrete:
        inputs, at = joined(hidden, action, scratch, at)
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rates[VALUE_GRADIENT] > 0
    of_hidden = matrix(scratch, at, batch, hidden.shape[1])
    if trains_trunk:
        of_hidden[:] = 0
        at += batch * hidden.shape[1]
    loss, total = 0.0, 0.0
    for index in range(agent[CRITICS]):
        values, place = critic(agent, layers, slopes, memory, 0, index, inputs, scratch, at)
        outputs = values.shape[1]
        of_values = matrix(scratch, place, batch, outputs)
        place += batch * outputs
        if discrete:
            of_values[:] = 0
        for i in range(batch):
            chosen = int(action[i, 0]) if discrete else 0
            error = values[i, chosen] - target[i]
            loss += error * error
            total += values[i, chosen]
            of_values[i, chosen] = error * (real(2) / real(batch))
        dx, place = critic_gradient(
            agent, layers, slopes, memory, index, inputs, at, of_values, scratch, place, True, trains_trunk
        )
        if trains_trunk:
            for i in range(batch):
                for j in range(hidden.shape[1]):
                    of_hidden[i, j] += dx[i, j]
    if trains_trunk:
        scale = rates[VALUE_GRADIENT]
        trunk_gradient(agent, layers, slopes, memory, observation, begins, of_hidden, scale, scratch, at)
    critics = agent[START] + agent[TRUNK_SIZE] + agent[POLICY_SIZE]
    size, rate = agent[CRITICS_SIZE], rates[VALUE_RATE]
    step(agent, memory, rates, rate, steps[0], critics, size, trains_trunk, CRITIC_MEAN, CRITIC_SQUARE)
    metrics[CRITIC_LOSS] = loss / batch
    metrics[VALUE_MEAN] = total / (batch * agent[CRITICS])
    return free


@kernel
def trunk_gradient(agent, layers, slopes, memory, observation, begin, dy, scale, scratch, at):
    """Pull a gradient, scaled in place, back through the trunk, whose outputs are kept from `begin` on."""
    gradient, by = GRADIENT * agent[SIZE], memory.dtype.type(scale)
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            dy[i, j] *= by
    backward(
        layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, gradient, observation, begin, dy, scratch, at,
        True, False,
    )  # fmt: skip


@kernel
def step(agent, memory, rates, rate, steps, start, size, with_trunk, mean, square):
    """Adam's step on `size` parameters from `start` on, by this rate, and, if asked for, on the trunk by its own.

    Both are clipped together.
    """
    copy, scale = agent[SIZE], 1.0
    if rates[MOST_NORM] != math.inf:
        total = float(squares(memory, start + GRADIENT * copy, size))
        if with_trunk:
            total += squares(memory, agent[START] + GRADIENT * copy, agent[TRUNK_SIZE])
        scale = clip(total, rates[MOST_NORM])
    epsilon = rates[EPSILON]
    places = (GRADIENT * copy, mean * copy, square * copy)
    adam(memory, start, size, places[0], places[1], places[2], steps, rate, epsilon, scale)
    if with_trunk:
        begin, number = agent[START], agent[TRUNK_SIZE]
        adam(memory, begin, number, places[0], places[1], places[2], steps, rates[TRUNK_RATE], epsilon, scale)


@kernel
def learn_policy(agent, layers, slopes, memory, rates, steps, observation, begins, of_hidden, scratch, at):
    """The policy optimizer's step on gradients that lie in memory, and on the trunk where the policy's reaches it.

    Args:
        begins: place of the trunk's outputs for this observation. of_hidden: gradient of the trunk's output (B, H).
    """
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rates[POLICY_GRADIENT] > 0
    if trains_trunk:
        scale = rates[POLICY_GRADIENT]
        trunk_gradient(agent, layers, slopes, memory, observation, begins, of_hidden, scale, scratch, at)
    start, size, rate = agent[START] + agent[TRUNK_SIZE], agent[POLICY_SIZE], rates[POLICY_RATE]
    step(agent, memory, rates, rate, steps, start, size, trains_trunk, POLICY_MEAN, POLICY_SQUARE)


@kernel
def follow_targets(agent, memory, rates, with_policy):
    """Move the target networks: trunk, critics and, for deterministic policies, the policy."""
    target = TARGET * agent[SIZE]
    if with_policy:
        follow(memory, agent[START], agent[SIZE], target, rates[TAU])
        return
    follow(memory, agent[START], agent[TRUNK_SIZE], target, rates[TAU])
    start = agent[START] + agent[TRUNK_SIZE] + agent[POLICY_SIZE]
    follow(memory, start, agent[CRITICS_SIZE], target, rates[TAU])


@kernel
def targets(reward, terminated, value, gamma, scratch, at):
    """`r + gamma (1 - terminated) V`, (B,); and the place behind it."""
    batch = reward.shape[0]
    out, by = scratch[at : at + batch], scratch.dtype.type(gamma)
    for i in range(batch):
        out[i] = reward[i, 0] + by * (scratch.dtype.type(1) - terminated[i, 0]) * value[i, 0]
    return out, at + batch


@kernel
def gather(rows, indices, first, out):
    """out[s, i] <- row `first + indices[s, i]` of agent s: (ring, S, W), (S, B) -> (S, B, W); positions wrap around."""
    ring = rows.shape[0]
    for s in range(out.shape[0]):
        for i in range(out.shape[1]):
            place = (first + indices[s, i]) % ring
            for j in range(out.shape[2]):
                out[s, i, j] = rows[place, s, j]
