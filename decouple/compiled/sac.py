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
    GAMMA,
    LEARNING_RATE,
    LEARNS_ALPHA,
    POLICY_GRADIENT,
    TARGET_ENTROPY,
    critic,
    critic_gradient,
    follow_targets,
    joined,
    learn_critics,
    learn_policy,
    target_values,
    targets,
    transitions,
    trunk,
)
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import backward, forward, matrix
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
    for s in range(first, last):
        agent, rate, row = agents[s], rates[s], rows[s]
        observed, acts = widths
        observation, action, reward, terminated, following, at = transitions(row, observed, acts, scratch, 0)
        alpha = math.exp(temperature[s, 0])
        value, place = soft_value(agent, layers, slopes, memory, rate, alpha, following, noise[s], scratch, at)
        target, at = targets(reward, terminated, value, rate[GAMMA], scratch, place)
        steps[s, 0] += 1
        learn_critics(
            agent, layers, slopes, memory, rate, steps[s, 0], observation, action, False, target, scratch, at,
            metrics[s],
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
    temperature[0] -= rate[LEARNING_RATE] / (1 - 0.9 ** steps[2]) * mean / (math.sqrt(square) / root + rate[EPSILON])


@kernel
def drawn(out, noise, action, log_probs):
    """Draw the squashed normal: outputs (B, 2 A) and noise (B, A) -> action (B, A) and log-probability (B,)."""
    acts, real = action.shape[1], action.dtype.type
    for i in range(action.shape[0]):
        log_prob = real(-acts * HALF_LOG_2_PI)
        for j in range(acts):
            log_scale = min(max(out[i, acts + j], real(MIN_LOG_SCALE)), real(MAX_LOG_SCALE))
            e = real(noise[i, j])
            u = out[i, j] + real(math.exp(log_scale)) * e
            double = real(-2) * u
            softplus = double if double > real(20) else real(math.log1p(math.exp(double)))  # from 20 on as torch
            log_prob += real(-0.5) * e * e - log_scale - real(2) * (real(LOG_2) - u - softplus)
            action[i, j] = math.tanh(u)
        log_probs[i] = log_prob


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
    drawn(out, noise, action, log_probs)
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
    drawn(out, noise, action, log_probs)
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
    for i in range(batch):
        for j in range(acts):
            a, raw = action[i, j], out[i, acts + j]
            of_u = (dx[i, before + j] + dz[i, before + j]) * (real(1) - a * a) + weight * real(2) * a
            of_out[i, j] = of_u
            within = real(MIN_LOG_SCALE) <= raw <= real(MAX_LOG_SCALE)
            of_out[i, acts + j] = of_u * real(noise[i, j]) * real(math.exp(raw)) - weight if within else none
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    of_hidden, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, GRADIENT * agent[SIZE], hidden, of_policy,
        of_out, scratch, at, True, trains_trunk,
    )  # fmt: skip
    learn_policy(agent, layers, slopes, memory, rate, steps, observation, begins, of_hidden, scratch, at)
    metrics[ACTOR_LOSS] = loss / batch
    return total / batch
