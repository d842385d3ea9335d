"""The update of discrete SAC as one kernel: critics with a value for each action, a categorical policy.

Christodoulou 2019, https://arxiv.org/abs/1910.07207. The equations are those of `decouple.off_policy.learner`.
"""

from __future__ import annotations

import math

from decouple.compiled.critics import (
    ACTOR_LOSS,
    AGGREGATION,
    ALPHA,
    ENTROPY,
    POLICY_GRADIENT,
    critic,
    follow_targets,
    learn_critics,
    learn_policy,
    target_values,
    transitions,
    trunk,
)
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import all_borrowed, backward, forward, matrix
from decouple.compiled.memory import GRADIENT, POLICY, POLICY_LAYERS, SIZE, TARGET, TRUNK_LAYERS
from decouple.compiled.sac import learn_temperature

__all__: list[str] = []  # kernels are called by learners and by each other


@kernel
def update(
    agents, layers, slopes, rates, memory, temperature, steps, rows, widths, noise, more_noise,
    policy_step, scratch, metrics, first, last,
):  # fmt: skip
    """One gradient step of the agents from `first` to `last`, as `sac.update`; it draws no noise."""
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        agent, rate, row = agents[s], rates[s], rows[s]
        observed = widths[0]
        observation, action, reward, terminated, following, at = transitions(row, observed, 1, scratch, 0)
        alpha = math.exp(temperature[s, 0])
        value, _ = soft_value(agent, layers, slopes, memory, rate, alpha, following, scratch, at)
        at = learn_critics(
            agent, layers, slopes, memory, rate, steps[s], observation, action, True, reward, terminated, value,
            scratch, at, metrics[s],
        )  # fmt: skip
        if policy_step:
            steps[s, 1] += 1
            log_prob = climb(
                agent, layers, slopes, memory, rate, steps[s, 1], alpha, observation, scratch, at, metrics[s]
            )
            learn_temperature(temperature[s], rate, steps[s], log_prob)
            metrics[s, ENTROPY], metrics[s, ALPHA] = -log_prob, alpha
            follow_targets(agent, memory, rate, False)


@kernel
def log_softmax(x):
    """x <- log softmax(x), row by row, in place."""
    for i in range(x.shape[0]):
        most = x[i, 0]
        for j in range(1, x.shape[1]):
            most = max(most, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += x.dtype.type(math.exp(x[i, j] - most))
        shift = most + x.dtype.type(math.log(total))
        for j in range(x.shape[1]):
            x[i, j] -= shift


@kernel
def soft_value(agent, layers, slopes, memory, rate, alpha, following, scratch, at):
    """The mean over the policy's actions of the target critics' value less alpha log pi, (B, 1)."""
    batch, shift = following.shape[0], TARGET * agent[SIZE]
    hidden, at = trunk(agent, layers, slopes, memory, shift, following, scratch, at)
    features = hidden
    if agent[TRUNK_LAYERS] > 0:
        features, at = trunk(agent, layers, slopes, memory, 0, following, scratch, at)
    log_probs, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, features, scratch, at)
    log_softmax(log_probs)
    values, at = target_values(agent, layers, slopes, memory, rate[AGGREGATION], hidden, scratch, at)
    out, by = matrix(scratch, at, batch, 1), memory.dtype.type(alpha)
    for i in range(batch):
        out[i, 0] = 0
        for j in range(log_probs.shape[1]):
            out[i, 0] += memory.dtype.type(math.exp(log_probs[i, j])) * (values[i, j] - by * log_probs[i, j])
    return out, at + batch


@kernel
def climb(agent, layers, slopes, memory, rate, steps, alpha, observation, scratch, at, metrics):
    """One step of the policy towards larger soft values; returns the mean log-probability of its actions."""
    batch, real = observation.shape[0], memory.dtype.type
    begins = at
    hidden, at = trunk(agent, layers, slopes, memory, 0, observation, scratch, at)
    of_policy = at
    log_probs, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
    log_softmax(log_probs)
    values, at = critic(agent, layers, slopes, memory, 0, 0, hidden, scratch, at)
    other, at = critic(agent, layers, slopes, memory, 0, 1, hidden, scratch, at)
    actions = log_probs.shape[1]
    of_logits = matrix(scratch, at, batch, actions)
    at += batch * actions
    loss, total, by = 0.0, 0.0, real(alpha)
    for i in range(batch):
        mean = real(0)
        for j in range(actions):
            probability = real(math.exp(log_probs[i, j]))
            least = values[i, j]
            if not least <= other[i, j]:
                least = other[i, j]
            of_logits[i, j] = by * log_probs[i, j] - least
            mean += probability * of_logits[i, j]
            total += probability * log_probs[i, j]
        loss += mean
        for j in range(actions):
            of_logits[i, j] = real(math.exp(log_probs[i, j])) * (of_logits[i, j] - mean) / real(batch)
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    of_hidden, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, GRADIENT * agent[SIZE], hidden, of_policy,
        of_logits, scratch, at, True, trains_trunk,
    )  # fmt: skip
    learn_policy(agent, layers, slopes, memory, rate, steps, observation, begins, of_hidden, scratch, at)
    metrics[ACTOR_LOSS] = loss / batch
    return total / batch
