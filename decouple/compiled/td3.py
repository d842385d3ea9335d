"""The update of TD3 and DDPG as one kernel: critics with a smoothed target, and the policy that climbs the first one.

TD3: Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477. DDPG: Lillicrap et al. 2016,
https://arxiv.org/abs/1509.02971. The equations are those of `decouple.off_policy.learner`.
"""

from __future__ import annotations

from decouple.compiled.critics import (
    ACTOR_LOSS,
    AGGREGATION,
    NOISE_CLIP,
    POLICY_GRADIENT,
    TARGET_NOISE,
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
from decouple.compiled.functions import tanh
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import all_borrowed, backward, forward, matrix
from decouple.compiled.memory import GRADIENT, POLICY, POLICY_LAYERS, SIZE, TARGET, TRUNK_LAYERS

__all__: list[str] = []  # kernels are called by learners and by each other


@kernel
def update(
    agents, layers, slopes, rates, memory, temperature, steps, rows, widths, noise, more_noise,
    policy_step, scratch, metrics, first, last,
):  # fmt: skip
    """One gradient step of the agents from `first` to `last`: of critics, and at a policy step of policy and targets.

    Args:
        agents, layers, slopes: tables of `memory.Tables`. rates: settings, (S, RATES).
        memory: the agents' numbers. temperature: not used.
        steps: int64 (S, 3), steps of each optimizer so far: critics, policy, temperature.
        rows: transitions (S, B, W). widths: of an observation and of an action.
        noise: standard normal numbers (S, B, A) for the target's action. more_noise: not used.
        policy_step: True to update policy and targets.
        scratch: memory for one agent. metrics: float64 (S, METRICS).
    """
    agents, layers, slopes, rates, memory, rows, scratch, metrics = all_borrowed(
        agents, layers, slopes, rates, memory, rows, scratch, metrics
    )
    for s in range(first, last):
        agent, rate, row = agents[s], rates[s], rows[s]
        observed, acts = widths
        observation, action, reward, terminated, following, at = transitions(row, observed, acts, scratch, 0)
        value, _ = target_value(agent, layers, slopes, memory, rate, following, noise[s], scratch, at)
        at = learn_critics(
            agent, layers, slopes, memory, rate, steps[s], observation, action, False, reward, terminated, value,
            scratch, at, metrics[s],
        )  # fmt: skip
        if policy_step:
            steps[s, 1] += 1
            climb(agent, layers, slopes, memory, rate, steps[s, 1], observation, acts, scratch, at, metrics[s])
            follow_targets(agent, memory, rate, True)


@kernel
def target_value(agent, layers, slopes, memory, rate, following, noise, scratch, at):
    """The target critics' value (B, 1) of the target policy's smoothed action."""
    shift, real = TARGET * agent[SIZE], memory.dtype.type
    hidden, at = trunk(agent, layers, slopes, memory, shift, following, scratch, at)
    action, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, shift, hidden, scratch, at)
    deviation, most, one = real(rate[TARGET_NOISE]), real(rate[NOISE_CLIP]), real(1)
    for i in range(action.shape[0]):
        for j in range(action.shape[1]):
            chosen = tanh(action[i, j])
            if deviation > 0:
                smoothing = real(noise[i, j]) * deviation
                smoothing = min(max(smoothing, -most), most)
                chosen = min(max(chosen + smoothing, -one), one)
            action[i, j] = chosen
    inputs, at = joined(hidden, action, scratch, at)
    return target_values(agent, layers, slopes, memory, rate[AGGREGATION], inputs, scratch, at)


@kernel
def climb(agent, layers, slopes, memory, rate, steps, observation, acts, scratch, at, metrics):
    """One step of the policy towards larger values of the first critic."""
    batch, real = observation.shape[0], memory.dtype.type
    begins = at
    hidden, at = trunk(agent, layers, slopes, memory, 0, observation, scratch, at)
    of_policy = at
    out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
    action = matrix(scratch, at, batch, acts)
    at += batch * acts
    for i in range(batch):
        for j in range(acts):
            action[i, j] = tanh(out[i, j])
    inputs, at = joined(hidden, action, scratch, at)
    of_critic = at
    values, at = critic(agent, layers, slopes, memory, 0, 0, inputs, scratch, at)
    of_values = matrix(scratch, at, batch, 1)
    at += batch
    total = 0.0
    for i in range(batch):
        total += values[i, 0]
        of_values[i, 0] = -real(1) / real(batch)
    dx, at = critic_gradient(agent, layers, slopes, memory, 0, inputs, of_critic, of_values, scratch, at, False, True)
    of_out = matrix(scratch, at, batch, acts)
    at += batch * acts
    before = hidden.shape[1]
    for i in range(batch):
        for j in range(acts):
            of_out[i, j] = dx[i, before + j] * (real(1) - action[i, j] * action[i, j])
    trains_trunk = agent[TRUNK_LAYERS] > 0 and rate[POLICY_GRADIENT] > 0
    of_hidden, at = backward(
        layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, GRADIENT * agent[SIZE], hidden, of_policy,
        of_out, scratch, at, True, trains_trunk,
    )  # fmt: skip
    learn_policy(agent, layers, slopes, memory, rate, steps, observation, begins, of_hidden, scratch, at)
    metrics[ACTOR_LOSS] = -total / batch
