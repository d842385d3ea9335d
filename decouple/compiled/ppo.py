"""The update of PPO as kernels, and those of its rollouts: acting, values, generalised advantages.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347; the advantages, Schulman et al. 2015,
https://arxiv.org/abs/1506.02438. The losses are TorchRL's ClipPPOLoss and `decouple.on_policy.losses.ValueLoss`, on a
tanh-squashed normal with a scale of its own, or on a categorical.

A frame is a row of numbers: the observation (O); what the action says, which is the normal's number before the tanh
(A) or the index; then the columns REFERENCE to VALUE. An agent has one critic, its value network, and one optimizer.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import overload

from decouple.compiled.adam import adam, clip, squares
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import backward, forward, matrix
from decouple.compiled.memory import (
    CRITIC,
    CRITIC_LAYERS,
    CRITIC_MEAN,
    CRITIC_SQUARE,
    GRADIENT,
    POLICY,
    POLICY_LAYERS,
    SCALE,
    SIZE,
    START,
    TRUNK,
    TRUNK_LAYERS,
    TRUNK_SIZE,
)

__all__: list[str] = []  # kernels are called by the compiled agents and their phase, and by each other

# Columns of `rates`, float64: one row of settings per agent. CLIP_LOW, CLIP_HIGH: bounds of the ratio's logarithm.
LEARNING_RATE, EPSILON, MOST_NORM, POLICY_GRADIENT, VALUE_GRADIENT = range(5)
CLIP_LOW, CLIP_HIGH, ENTROPY_COEFF, VALUE_COEFF, CLIP_VALUE = range(
    5, 10
)  # CLIP_VALUE infinite: values are not clipped
RATES = 10

# Columns of `metrics`, float64: means over a minibatch; at the cut squared norms and the product, of the first one.
OBJECTIVE, ENTROPY, CRITIC_LOSS, CLIP_FRACTION, KL, MAX_RATIO, MEAN_RATIO, VALUE_CLIPPED, NORM = range(9)
CUT_POLICY, CUT_VALUE, CUT_PRODUCT = range(9, 12)
METRICS = 12

# Columns of a frame behind observation and action. REFERENCE: what the log-probability of acting leaves, see `prepare`.
REFERENCE, ADVANTAGE, TARGET, VALUE = range(4)
BEHIND = 4

# Rows of `bounds`, float64 (3, A): middle and half of the actions' range, and the logarithm of that half.
MIDDLE, HALF, LOG_HALF = range(3)

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
LOG_2, LOG_4 = math.log(2), math.log(4)
LEAST_SCALE = 1e-4  # tensordict's AddStateIndependentNormalScale
LEAST_DEVIATION = 1e-4  # of advantages, TorchRL's GAE
TINY = 1e-300

# The entropy's integral, as decouple.networks.distributions: nodes at 0 and at +-e, half a standard deviation apart.
NODES = np.arange(11) / 2
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS = WEIGHTS / (WEIGHTS[0] + 2 * WEIGHTS[1:].sum())
PAIRS = len(NODES)


@kernel
def epoch(
    agents, layers, slopes, rates, memory, steps, rows, orders, widths, discrete, bounds, minibatches, at_the_cut,
    scratch, metrics, first, last,
):  # fmt: skip
    """One pass over a rollout for the agents from `first` to `last`: a step of Adam on each of its minibatches.

    Args:
        agents, layers, slopes: tables of `memory.Tables`. rates: settings, (S, RATES).
        memory: the agents' numbers. steps: int64 (S,), steps of the optimizer so far.
        rows: frames of `prepare`, (S, B, W). orders: int64 (S, B), the order in which each agent takes them.
        widths: numbers of an observation, and of an action in a row.
        discrete: True for a categorical. bounds: of the actions, (3, A).
        minibatches: number of minibatches; the first ones are longer by one where B is no multiple of it.
        at_the_cut: True to measure the gradients at the cut in the first minibatch.
        scratch: memory for one agent. metrics: float64 (S, minibatches, METRICS).
    """
    frames = rows.shape[1]
    for s in range(first, last):
        begin = 0
        for number in range(minibatches):
            count = frames // minibatches
            if number < frames % minibatches:
                count += 1
            steps[s] += 1
            learn(
                agents[s], layers, slopes, memory, rates[s], steps[s], rows[s], orders[s, begin : begin + count],
                widths, discrete, bounds, at_the_cut and number == 0, scratch, metrics[s, number],
            )  # fmt: skip
            begin += count


@kernel
def learn(
    agent, layers, slopes, memory, rate, steps, rows, order, widths, discrete, bounds, at_the_cut, scratch, metrics
):
    """One step of an agent on the frames in `order`."""
    batch, observed = len(order), widths[0]
    real, gradient = memory.dtype.type, GRADIENT * agent[SIZE]
    behind = rows.shape[1] - observed
    observation, frame = matrix(scratch, 0, batch, observed), matrix(scratch, batch * observed, batch, behind)
    for i in range(batch):
        row = rows[order[i]]
        for j in range(observed):
            observation[i, j] = row[j]
        for j in range(behind):
            frame[i, j] = row[observed + j]
    begins = batch * rows.shape[1]
    hidden, at = forward(layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, observation, scratch, begins)
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
        metrics[CUT_POLICY], metrics[CUT_VALUE], metrics[CUT_PRODUCT] = 0, 0, 0
        if from_policy:
            metrics[CUT_POLICY] = product(of_policy_side, of_policy_side)
        if from_value:
            metrics[CUT_VALUE] = product(of_value_side, of_value_side)
        if from_policy and from_value:
            metrics[CUT_PRODUCT] = product(of_policy_side, of_value_side)
    start, size = agent[START], agent[SIZE]
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
        start, size = start + agent[TRUNK_SIZE], size - agent[TRUNK_SIZE]
    total = float(squares(memory, start + gradient, size))
    metrics[NORM] = math.sqrt(total)
    mean, square = CRITIC_MEAN * agent[SIZE], CRITIC_SQUARE * agent[SIZE]
    scale = clip(total, rate[MOST_NORM])
    adam(memory, start, size, gradient, mean, square, steps, rate[LEARNING_RATE], rate[EPSILON], scale)


@kernel
def add(to, x, by):
    """to <- to + by x, matrices."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            to[i, j] += by * x[i, j]


@kernel
def product(x, y):
    """The sum of the products of two matrices' numbers, in float64."""
    total = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += float(x[i, j]) * float(y[i, j])
    return total


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
def normal_loss(agent, memory, loc, frame, rate, bounds, of_loc, scratch, at, metrics):
    """The policy's loss with a squashed normal: its gradient by loc (B, A) and by the scale's numbers, and metrics."""
    batch, acts = loc.shape
    real = loc.dtype.type
    begin_metrics(metrics)
    share, of_entropy = real(-1) / real(batch), real(-rate[ENTROPY_COEFF]) / real(batch)
    scales, of_scale = scratch[at : at + acts], scratch[at + acts : at + 2 * acts]
    nodes = matrix(scratch, at + 2 * acts, acts, PAIRS)
    log_scales = real(0)
    for j in range(acts):
        scales[j], of_scale[j] = scale_of(memory[agent[SCALE] + j]), 0
        log_scales += math.log(scales[j])
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
            entropy, by_loc, by_scale = squashed_entropy(loc[i, j], scales[j], nodes[j], of_entropy != 0)
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
def scale_of(raw):
    """A scale from its parameter: exp(raw), at least LEAST_SCALE."""
    own, least = math.exp(raw), type(raw)(LEAST_SCALE)
    return least if own < least else own


@kernel
def squashed_entropy(loc, scale, nodes, with_slopes):
    """Entropy of tanh(x), x normal, integrated over 21 nodes loc + scale e; and its derivatives by loc and scale.

    With t = exp(-2 |loc|) and s = exp(-2 scale e) two nodes need one logarithm:
    `log cosh(loc + scale e) + log cosh(loc - scale e) = log(s (1 + t^2) + t (1 + s^2)) - log 4 + 2 |loc| + 2 scale e`.

    Args:
        nodes: s of each e >= 0.
    """
    size, wide = abs(float(loc)), float(scale)
    t = math.exp(-2 * size)
    if t < TINY:
        t = TINY
    log_cosh = WEIGHTS[0] * (size + math.log1p(t) - LOG_2)
    by_loc, by_scale = WEIGHTS[0] * (1 - t) / (1 + t), 0.0
    above, below = 1 + t * t, 1 - t * t
    for k in range(1, PAIRS):
        s = float(nodes[k])
        both = s * above + t * (1 + s * s)
        log_cosh += WEIGHTS[k] * (math.log(both) - LOG_4 + 2 * size + 2 * wide * NODES[k])
        if with_slopes:
            by_loc += WEIGHTS[k] * 2 * s * below / both
            by_scale += WEIGHTS[k] * NODES[k] * 2 * t * (1 - s * s) / both
    if loc < 0:
        by_loc = -by_loc
    entropy = 0.5 + HALF_LOG_2_PI + math.log(wide) - 2 * log_cosh
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
def prepare(rows, actions, log_probs, widths, discrete, bounds, first, last):
    """Write what the actions say into the frames of the agents from `first` to `last`.

    For a normal that is each action's number u before the tanh, and REFERENCE, so that
    `log pi(a) - log_prob = sum_j -(u_j - loc_j)^2 / (2 scale_j^2) - log scale_j - REFERENCE`; for a categorical the
    index, and log_prob itself.

    Args:
        rows: frames (S, B, W). actions: (S, B, A), or indices (S, B, 1). log_probs: (S, B), of acting.
        widths, discrete, bounds: as for `epoch`.
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
