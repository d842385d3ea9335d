"""Kernels of rollouts: frames, acting, values, generalised advantages; for every algorithm that learns from rollouts.

The advantages: Schulman et al. 2015, https://arxiv.org/abs/1506.02438. Actions are drawn from a tanh-squashed normal
with a scale of its own, or from a categorical.

A frame is a row of numbers: the observation (O); what the action says, which is the normal's number before the tanh
(A) or the index; then the columns REFERENCE to VALUE. An agent has one critic, its value network.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import overload

from decouple.compiled.kernel import kernel
from decouple.compiled.layers import borrowed, forward, matrix
from decouple.compiled.memory import CRITIC, CRITIC_LAYERS, POLICY, POLICY_LAYERS, SCALE, TRUNK, TRUNK_LAYERS

__all__: list[str] = []  # kernels are called by the compiled agents and their phases, and by each other

# Columns of a frame behind observation and action. REFERENCE: what the log-probability of acting leaves, see `prepare`.
REFERENCE, ADVANTAGE, TARGET, VALUE = range(4)
BEHIND = 4

# Rows of `bounds`, float64 (3, A): middle and half of the actions' range, and the logarithm of that half.
MIDDLE, HALF, LOG_HALF = range(3)

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
LOG_2 = math.log(2)
LEAST_SCALE = 1e-4  # tensordict's AddStateIndependentNormalScale
LEAST_DEVIATION = 1e-4  # of advantages, TorchRL's GAE


@kernel
def prepare(rows, actions, log_probs, widths, discrete, bounds, first, last):
    """Write what the actions say into the frames of the agents from `first` to `last`.

    For a normal that is each action's number u before the tanh, and REFERENCE, so that
    `log pi(a) - log_prob = sum_j -(u_j - loc_j)^2 / (2 scale_j^2) - log scale_j - REFERENCE`; for a categorical the
    index, and log_prob itself.

    Args:
        rows: frames (S, B, W). actions: (S, B, A), or indices (S, B, 1). log_probs: (S, B), of acting.
        widths, discrete, bounds: as for `ppo.epoch`.
    """
    observed, acts = widths
    for s in range(first, last):
        for i in range(rows.shape[1]):
            reference = log_probs[s, i]
            for j in range(acts):
                if discrete:
                    rows[s, i, observed + j] = actions[s, i, j]
                else:
                    u, log_slope = unsquashed(actions[s, i, j], bounds[:, j])
                    rows[s, i, observed + j] = u
                    reference += rows.dtype.type(HALF_LOG_2_PI) + log_slope
            rows[s, i, observed + acts + REFERENCE] = reference


def inside(y):
    """A tanh's value in a kernel, held off -1 and 1 by the decimal resolution of its type, as TorchRL holds it."""
    raise NotImplementedError("for kernels")


@overload(inside)
def _inside(y):
    nearest = 1 - 1e-15 if y.bitwidth == 64 else np.float32(1 - 1e-6)
    return lambda y: nearest if y > nearest else (-nearest if y < -nearest else y)


@kernel
def unsquashed(action, bounds):
    """An action's number u before the tanh, and log |d action / d u|, as TorchRL's TanhNormal computes them."""
    real = type(action)
    y = inside((action - real(bounds[MIDDLE])) / real(bounds[HALF]))
    u = math.atanh(y)
    double = real(-2) * u
    softplus = double if double > real(20) else math.log1p(math.exp(double))  # from 20 on as torch
    return u, real(2) * (real(LOG_2) - u - softplus) + real(bounds[LOG_HALF])


@kernel
def gather(rows, order, observed, scratch):
    """The frames in `order` of an agent's rows (B, W): observations (b, O), what is behind them (b, W - O), the place
    behind both, which lie at the beginning of the scratch memory."""
    batch, behind = len(order), rows.shape[1] - observed
    observation, frame = matrix(scratch, 0, batch, observed), matrix(scratch, batch * observed, batch, behind)
    for i in range(batch):
        row = rows[order[i]]
        for j in range(observed):
            observation[i, j] = row[j]
        for j in range(behind):
            frame[i, j] = row[observed + j]
    return observation, frame, batch * rows.shape[1]


@kernel
def minibatch(order, minibatches, number):
    """A minibatch's part of a rollout's order; the first ones are longer by one where it is no multiple."""
    least, longer = len(order) // minibatches, len(order) % minibatches
    begin = number * least + min(number, longer)
    return order[begin : begin + least + (1 if number < longer else 0)]


@kernel
def opened(agent, layers, slopes, memory, rows, order, observed, scratch):
    """The opening of a step on frames in `order`: what `gather` returns, the trunk's output, the place behind it."""
    observation, frame, begins = gather(rows, order, observed, scratch)
    hidden, at = forward(layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, observation, scratch, begins)
    return observation, frame, begins, hidden, at


@kernel
def act(
    agents, layers, slopes, memory, observations, noise, discrete, bounds, scratch, actions, log_probs, values, first,
    last,
):  # fmt: skip
    """Draw the actions of the agents from `first` to `last`, as `SeededPolicy` does from the same random numbers.

    Args:
        observations: (S, N, O).
        noise: standard normal (S, N, A), or uniform in [0, 1) (S, N, 1) for a categorical.
        actions: set to actions (S, N, A), or to indices (S, N, 1). log_probs, values: set, (S, N).
    """
    memory, scratch = borrowed(memory), borrowed(scratch)
    for s in range(first, last):
        agent, games = agents[s], observations.shape[1]
        hidden, at = forward(layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, observations[s], scratch, 0)
        out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
        value, at = forward(layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, hidden, scratch, at)
        for i in range(games):
            values[s, i] = value[i, 0]
            if discrete:
                actions[s, i, 0], log_probs[s, i] = category(out[i], noise[s, i, 0])
            else:
                log_probs[s, i] = squashed(agent, memory, out[i], noise[s, i], bounds, actions[s, i])


@kernel
def category(logits, uniform):
    """An index by the inverse of the categorical's distribution function, and its log-probability."""
    largest, number = log_sum_exp(logits), len(logits)
    total = logits.dtype.type(0)
    for k in range(number):
        total += math.exp(logits[k] - largest)
    reached, index, bound = logits.dtype.type(0), 0, logits.dtype.type(uniform) * total
    for k in range(number):
        reached += math.exp(logits[k] - largest)
        if reached <= bound:
            index += 1
    index = min(index, number - 1)
    return index, logits[index] - largest


@kernel
def squashed(agent, memory, loc, noise, bounds, action):
    """Draw a squashed normal's action (A,); returns its log-probability."""
    real = loc.dtype.type
    log_prob = real(0)
    for j in range(len(loc)):
        scale = scale_of(memory[agent[SCALE] + j])
        y = inside(math.tanh(loc[j] + scale * real(noise[j])))
        drawn = real(bounds[MIDDLE, j]) + real(bounds[HALF, j]) * y
        if drawn != drawn:
            drawn = real(bounds[MIDDLE, j] - bounds[HALF, j])
        u, log_slope = unsquashed(drawn, bounds[:, j])
        z = (u - loc[j]) / scale
        log_prob -= real(0.5) * z * z + math.log(scale) + real(HALF_LOG_2_PI) + log_slope
        action[j] = drawn
    return log_prob


@kernel
def scale_of(raw):
    """A scale from its parameter: exp(raw), at least LEAST_SCALE."""
    own, least = math.exp(raw), type(raw)(LEAST_SCALE)
    return least if own < least else own


@kernel
def log_sum_exp(logits):
    """log of the sum of exp of a row."""
    largest = logits[0]
    for k in range(1, len(logits)):
        if logits[k] > largest:
            largest = logits[k]
    total = logits.dtype.type(0)
    for k in range(len(logits)):
        total += math.exp(logits[k] - largest)
    return largest + math.log(total)


@kernel
def judge(agents, layers, slopes, memory, observations, block, scratch, values, first, last):
    """Values of observations (S, M, O) of the agents from `first` to `last`, (S, M); `block` rows at a time."""
    for s in range(first, last):
        agent = agents[s]
        for begin in range(0, observations.shape[1], block):
            end = min(begin + block, observations.shape[1])
            part = observations[s, begin:end]
            hidden, at = forward(layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, part, scratch, 0)
            value, at = forward(layers, slopes, agent[CRITIC], agent[CRITIC_LAYERS], memory, 0, hidden, scratch, at)
            for i in range(end - begin):
                values[s, begin + i] = value[i, 0]


@kernel
def estimate(rewards, values, following, done, terminated, gamma, decay, advantages, targets, first, last):
    """Generalised advantages of the agents from `first` to `last`, standardised over an agent's frames, and targets.

        delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t          A_t = delta_t + decay (1 - done_t) A_{t+1}
        target_t = A_t + V_t

    Args:
        rewards, values, following: (S, N, T); `following` are the next frames' values V'.
        done, terminated: bool (S, N, T).
        gamma, decay: the discount, and its product with lambda.
        advantages, targets: set, (S, N, T).
    """
    games, steps = rewards.shape[1:]
    real = rewards.dtype.type
    discount, decay = real(gamma), real(decay)
    for s in range(first, last):
        total = 0.0
        for i in range(games):
            advantage = real(0)
            for t in range(steps - 1, -1, -1):
                delta = rewards[s, i, t] - values[s, i, t]
                if not terminated[s, i, t]:
                    delta += discount * following[s, i, t]
                advantage = delta if done[s, i, t] else delta + decay * advantage
                advantages[s, i, t] = advantage
                targets[s, i, t] = advantage + values[s, i, t]
                total += advantage
        mean, square = total / (games * steps), 0.0
        for i in range(games):
            for t in range(steps):
                square += (advantages[s, i, t] - mean) ** 2
        deviation = math.sqrt(square / (games * steps - 1))
        deviation = LEAST_DEVIATION if deviation < LEAST_DEVIATION else deviation
        for i in range(games):
            for t in range(steps):
                advantages[s, i, t] = real((advantages[s, i, t] - mean) / deviation)
