"""The policy phase of IDAAC as a kernel: DAAC's, after a step of an order classifier, and against it.

Raileanu and Fergus 2021, https://arxiv.org/abs/2102.10330, section 3.3. Each frame has a partner of its level. On every
minibatch the classifier first learns which of the two came earlier, from their features; the policy's features then
learn that it cannot tell. The classifiers are tables and memory of their own (`memory.Tables`), each with one critic.
Their optimizer's moments are the copies CRITIC_MEAN and CRITIC_SQUARE. Frames are those of `rollouts`.
"""

from __future__ import annotations

import math

from decouple.compiled.adam import adam, clip, squares
from decouple.compiled.daac import heads_gradient, step_policy
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import all_borrowed, backward, borrowed, forward, matrix
from decouple.compiled.losses import (
    CLASSIFIER_LOSS,
    CLASSIFIER_NORM,
    EPSILON,
    MOST_NORM,
    ORDER_ACCURACY,
    ORDER_COEFF,
    ORDER_LOSS,
    POLICY_RATE,
)
from decouple.compiled.memory import (
    CRITIC,
    CRITIC_LAYERS,
    CRITIC_MEAN,
    CRITIC_SQUARE,
    GRADIENT,
    POLICY,
    POLICY_LAYERS,
    SIZE,
    START,
    TRUNK,
    TRUNK_LAYERS,
)
from decouple.compiled.rollouts import minibatch

__all__: list[str] = []  # kernels are called by the compiled phases, and by each other


@kernel
def policy_epoch(
    agents, layers, slopes, rates, memory, steps, rows, orders, widths, discrete, bounds, minibatches, at_the_cut,
    partners, counts, classifiers, class_layers, class_slopes, class_memory, scratch, metrics, first, last,
):  # fmt: skip
    """One pass of the policy phase over a rollout for the agents from `first` to `last`; arguments as `ppo.epoch`'s.

    Args:
        partners: index of each frame's partner, (S, B). counts: steps of the episode at each frame, (S, B).
        classifiers, class_layers, class_slopes, class_memory: tables and memory of the order classifiers.
    """
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    class_layers, class_slopes, class_memory = borrowed(class_layers), borrowed(class_slopes), borrowed(class_memory)
    for s in range(first, last):
        agent = agents[s]
        for number in range(minibatches):
            order = minibatch(orders[s], minibatches, number)
            batch = len(order)
            steps[s] += 1
            observation, frame, earlier, begins = gather_pairs(
                rows[s], order, partners[s], counts[s], widths[0], scratch
            )
            hidden, of_features = forward(
                layers, slopes, agent[TRUNK], agent[TRUNK_LAYERS], memory, 0, observation, scratch, begins
            )
            features, at = forward(
                layers, slopes, agent[POLICY], agent[POLICY_LAYERS] - 1, memory, 0, hidden, scratch, of_features
            )
            by_features, at = matrix(scratch, at, 2 * batch, features.shape[1]), at + features.size
            order_gradient(
                classifiers[s], class_layers, class_slopes, class_memory, rates[s], steps[s], features, earlier,
                by_features, scratch, at, metrics[s, number],
            )  # fmt: skip
            by_own, at = heads_gradient(
                agent, layers, slopes, memory, rates[s], features[:batch], frame, widths, discrete, bounds, scratch, at,
                metrics[s, number],
            )  # fmt: skip
            for i in range(batch):
                for j in range(features.shape[1]):
                    by_features[i, j] += by_own[i, j]
            step_policy(
                agent, layers, slopes, memory, rates[s], steps[s], observation, begins, hidden, of_features,
                by_features, batch, at_the_cut and number == 0, scratch, at, metrics[s, number],
            )  # fmt: skip


@kernel
def gather_pairs(rows, order, partners, counts, observed, scratch):
    """The frames in `order` of an agent's rows (B, W), with their partners.

    Returns:
        Observations (2 b, O), the frames' before the partners'; what is behind the frames' observations (b, W - O); 1
        where the partner came earlier in its episode than the frame, (b,); and the place behind all.
    """
    batch, behind = len(order), rows.shape[1] - observed
    observation, at = matrix(scratch, 0, 2 * batch, observed), 2 * batch * observed
    frame, at = matrix(scratch, at, batch, behind), at + batch * behind
    earlier = scratch[at : at + batch]
    for i in range(batch):
        own, other = order[i], partners[order[i]]
        for j in range(observed):
            observation[i, j], observation[batch + i, j] = rows[own, j], rows[other, j]
        for j in range(behind):
            frame[i, j] = rows[own, observed + j]
        earlier[i] = 1 if counts[other] < counts[own] else 0
    return observation, frame, earlier, at + batch


@kernel
def order_gradient(agent, layers, slopes, memory, rate, steps, features, earlier, by_features, scratch, at, metrics):
    """A step of an order classifier, and then the order loss: its gradient by the features.

    Args:
        agent, layers, slopes, memory: the classifier's tables and memory.
        features: of the frames and, behind them, of their partners, (2 b, F). by_features: set, (2 b, F).
        earlier: 1 where the partner came earlier, (b,).
    """
    batch, number = len(earlier), features.shape[1]
    real = features.dtype.type
    first, depth, gradient = agent[CRITIC], agent[CRITIC_LAYERS], GRADIENT * agent[SIZE]
    pairs, at = matrix(scratch, at, batch, 2 * number), at + features.size
    for i in range(batch):
        for j in range(number):
            pairs[i, j], pairs[i, number + j] = features[i, j], features[batch + i, j]

    logits, end = forward(layers, slopes, first, depth, memory, 0, pairs, scratch, at)
    by_logits, end = matrix(scratch, end, batch, 2), end + 2 * batch
    total, right = 0.0, 0.0
    for i in range(batch):
        gap = logits[i, 0] - logits[i, 1]
        probability = second_of(gap)  # of output 1
        total += log_of_sum(-gap if earlier[i] == 1 else gap)
        right += (gap > 0) == (earlier[i] == 1)
        by_logits[i, 0] = ((real(1) - probability) - earlier[i]) / real(batch)
        by_logits[i, 1] = -by_logits[i, 0]
    metrics[CLASSIFIER_LOSS], metrics[ORDER_ACCURACY] = total / batch, right / batch
    backward(layers, slopes, first, depth, memory, 0, gradient, pairs, at, by_logits, scratch, end, True, False)
    norm = float(squares(memory, agent[START] + gradient, agent[SIZE]))
    metrics[CLASSIFIER_NORM] = math.sqrt(norm)
    mean, square, scale = CRITIC_MEAN * agent[SIZE], CRITIC_SQUARE * agent[SIZE], clip(norm, rate[MOST_NORM])
    size, epsilon = agent[SIZE], rate[EPSILON]
    adam(memory, agent[START], size, gradient, mean, square, steps, rate[POLICY_RATE], epsilon, scale)

    logits, end = forward(layers, slopes, first, depth, memory, 0, pairs, scratch, at)
    by_logits, end = matrix(scratch, end, batch, 2), end + 2 * batch
    total, weight = 0.0, real(rate[ORDER_COEFF]) / real(batch)
    for i in range(batch):
        gap = logits[i, 0] - logits[i, 1]
        total += 0.5 * (log_of_sum(gap) + log_of_sum(-gap))
        by_logits[i, 0] = weight * (real(0.5) - second_of(gap))
        by_logits[i, 1] = -by_logits[i, 0]
    metrics[ORDER_LOSS] = rate[ORDER_COEFF] * total / batch
    by_pairs, _ = backward(
        layers, slopes, first, depth, memory, 0, gradient, pairs, at, by_logits, scratch, end, False, True
    )
    for i in range(batch):
        for j in range(number):
            by_features[i, j], by_features[batch + i, j] = by_pairs[i, j], by_pairs[i, number + j]


@kernel
def second_of(gap):
    """The probability of the second of two outputs, whose logits differ by `gap`: first less second."""
    one = type(gap)(1)
    return one / (one + math.exp(gap)) if gap < 0 else math.exp(-gap) / (one + math.exp(-gap))


@kernel
def log_of_sum(gap):
    """log(1 + exp(gap)): minus the logarithm of the probability that `second_of` gives."""
    most = max(gap, type(gap)(0))
    return most + math.log1p(math.exp(-abs(gap)))
