"""The update of SAC with continuous actions as one kernel: twin critics, a tanh-squashed normal, the temperature.

Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905. The equations are those of `decouple.off_policy.learner`.
"""

from __future__ import annotations

import math

from decouple.compiled.critics import (
    ACTOR_LOSS,
    AGGREGATION,
    ALPHA,
    ENTROPY,
    EPSILON,
    LEARNS_ALPHA,
    POLICY_GRADIENT,
    TARGET_ENTROPY,
    TEMPERATURE_RATE,
    critic,
    critic_gradient,
    follow_targets,
    joined,
    learn_critics,
    learn_policy,
    target_values,
    transitions,
    trunk,
)
from decouple.compiled.functions import exp, softplus, tanh
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import all_borrowed, backward, forward, matrix
from decouple.compiled.memory import GRADIENT, POLICY, POLICY_LAYERS, SIZE, TARGET, TRUNK_LAYERS

__all__: list[str] = []  # kernels are called by learners and by each other

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
LOG_2 = math.log(2)
MIN_LOG_SCALE, MAX_LOG_SCALE = -20.0, 2.0  # as decouple.networks.heads


@kernel
def update(
    agents, layers, slopes, rates, memory, temperature, steps, rows, widths, noise, more_noise,
    policy_step, scratch, metrics, first, last,
):  # fmt: skip
    """One gradient step of the agents from `first` to `last`, as `td3.update`.

    Args:
        temperature: (S, 3), each agent's log alpha with Adam's two moments.
        noise, more_noise: standard normal numbers (S, B, A) for the target's action and for the policy's.
    """
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        agent, rate, row = agents[s], rates[s], rows[s]
        observed, acts = widths
        observation, action, reward, terminated, following, at = transitions(row, observed, acts, scratch, 0)
        alpha = math.exp(temperature[s, 0])
        value, _ = soft_value(agent, layers, slopes, memory, rate, alpha, following, noise[s], scratch, at)
        at = learn_critics(
            agent, layers, slopes, memory, rate, steps[s], observation, action, False, reward, terminated, value,
            scratch, at, metrics[s],
        )  # fmt: skip
        if policy_step:
            steps[s, 1] += 1
            log_prob = climb(
                agent, layers, slopes, memory, rate, steps[s, 1], alpha, observation, more_noise[s], scratch, at,
                metrics[s],
            )  # fmt: skip
            learn_temperature(temperature[s], rate, steps[s], log_prob)
            metrics[s, ENTROPY], metrics[s, ALPHA] = -log_prob, alpha
            follow_targets(agent, memory, rate, False)


@kernel
def learn_temperature(temperature, rate, steps, log_prob):
    """Adam's step on log alpha: its gradient is -(log pi + target entropy), the loss of TorchRL and SB3."""
    if rate[LEARNS_ALPHA] == 0:
        return
    steps[2] += 1
    gradient = -(log_prob + rate[TARGET_ENTROPY])
    mean = 0.9 * temperature[1] + (1 - 0.9) * gradient
    square = 0.999 * temperature[2] + (1 - 0.999) * gradient * gradient
    root = math.sqrt(1 - 0.999 ** steps[2])
    temperature[1], temperature[2] = mean, square
    by = rate[TEMPERATURE_RATE] / (1 - 0.9 ** steps[2])
    temperature[0] -= by * mean / (math.sqrt(square) / root + rate[EPSILON])


@kernel
def drawn(out, noise, action, log_probs, scratch, at):
    """Draw the squashed normal: outputs (B, 2 A) and noise (B, A) -> action (B, A) and log-probability (B,)."""
    (batch, acts), real = action.shape, action.dtype.type
    least, most = real(MIN_LOG_SCALE), real(MAX_LOG_SCALE)
    log_probs[:] = real(-acts * HALF_LOG_2_PI)
    column = matrix(scratch, at, 3, batch)  # a loop becomes vector code where its numbers lie side by side
    for j in range(acts):
        for i in range(batch):
            column[0, i], column[1, i], column[2, i] = out[i, j], out[i, acts + j], noise[i, j]
        for i in range(batch):
            log_scale, e = column[1, i], column[2, i]
            log_scale = least if log_scale < least else log_scale
            log_scale = most if log_scale > most else log_scale
            u = column[0, i] + exp(log_scale) * e
            log_probs[i] += real(-0.5) * e * e - log_scale - real(2) * (real(LOG_2) - u - softplus(real(-2) * u))
            column[0, i] = tanh(u)
        for i in range(batch):
            action[i, j] = column[0, i]


@kernel
def soft_value(agent, layers, slopes, memory, rate, alpha, following, noise, scratch, at):
    """The target critics' value of the policy's action less alpha log pi, (B, 1)."""
    batch, acts = noise.shape
    shift = TARGET * agent[SIZE]
    hidden, at = trunk(agent, layers, slopes, memory, shift, following, scratch, at)
    features = hidden
    if agent[TRUNK_LAYERS] > 0:
        features, at = trunk(agent, layers, slopes, memory, 0, following, scratch, at)
    out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, features, scratch, at)
    action = matrix(scratch, at, batch, acts)
    log_probs = scratch[at + batch * acts : at + batch * acts + batch]
    at += batch * acts + batch
    drawn(out, noise, action, log_probs, scratch, at)
    inputs, at = joined(hidden, action, scratch, at)
    values, at = target_values(agent, layers, slopes, memory, rate[AGGREGATION], inputs, scratch, at)
    by = memory.dtype.type(alpha)
    for i in range(batch):
        values[i, 0] -= by * log_probs[i]
    return values, at


@kernel
def climb(agent, layers, slopes, memory, rate, steps, alpha, observation, noise, scratch, at, metrics):
    """One step of the policy towards larger soft values; returns the mean log-probability of its actions."""
    batch, acts = noise.shape
    real = memory.dtype.type
    begins = at
    hidden, at = trunk(agent, layers, slopes, memory, 0, observation, scratch, at)
    of_policy = at
    out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
    action = matrix(scratch, at, batch, acts)
    log_probs = scratch[at + batch * acts : at + batch * acts + batch]
    at += batch * acts + batch
    drawn(out, noise, action, log_probs, scratch, at)
    inputs, at = joined(hidden, action, scratch, at)
    of_first = at
    values, at = critic(agent, layers, slopes, memory, 0, 0, inputs, scratch, at)
    of_second = at
    other, at = critic(agent, layers, slopes, memory, 0, 1, inputs, scratch, at)
    of_values, of_other = matrix(scratch, at, batch, 1), matrix(scratch, at + batch, batch, 1)
    at += 2 * batch
    down, by, none = -real(1) / real(batch), real(alpha), real(0)
    loss, total = 0.0, 0.0
    for i in range(batch):
        # Equal values share the gradient, as in torch.
        lower = values[i, 0] < other[i, 0]
        equal = values[i, 0] == other[i, 0]
        least = values[i, 0] if lower else other[i, 0]
        of_values[i, 0] = real(0.5) * down if equal else (down if lower else none)
        of_other[i, 0] = real(0.5) * down if equal else (none if lower else down)
        loss += by * log_probs[i] - least
        total += log_probs[i]
    dx, at = critic_gradient(agent, layers, slopes, memory, 0, inputs, of_first, of_values, scratch, at, False, True)
    dz, at = critic_gradient(agent, layers, slopes, memory, 1, inputs, of_second, of_other, scratch, at, False, True)
    of_out = matrix(scratch, at, batch, 2 * acts)
    at += batch * 2 * acts
    before, weight = hidden.shape[1], by / real(batch)
    for j in range(acts):
        for i in range(batch):
            a, raw = action[i, j], out[i, acts + j]
            of_u = (dx[i, before + j] + dz[i, before + j]) * (real(1) - a * a) + weight * real(2) * a
            of_out[i, j] = of_u
            within = real(MIN_LOG_SCALE) <= raw <= real(MAX_LOG_SCALE)
            of_out[i, acts + j] = of_u * real(noise[i, j]) * exp(raw) - weight if within else none
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    of_hidden, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, GRADIENT * agent[SIZE], hidden, of_policy,
        of_out, scratch, at, True, trains_trunk,
    )  # fmt: skip
    learn_policy(agent, layers, slopes, memory, rate, steps, observation, begins, of_hidden, scratch, at)
    metrics[ACTOR_LOSS] = loss / batch
    return total / batch
