"""Actions of agents as one kernel: the policies' outputs for a batch, drawn with noise that is given, or the mode."""

from __future__ import annotations

import math

from decouple.compiled.critics import trunk
from decouple.compiled.functions import exp, tanh
from decouple.compiled.kernel import kernel
from decouple.compiled.layers import borrowed, forward
from decouple.compiled.memory import POLICY, POLICY_LAYERS
from decouple.compiled.sac import MAX_LOG_SCALE, MIN_LOG_SCALE

__all__: list[str] = []  # kernels are called by learners and by each other

DETERMINISTIC, NORMAL, CATEGORICAL = range(3)


@kernel
def act(agents, layers, slopes, memory, kind, exploration, observation, noise, draws, bounds, scratch, action):
    """Actions (S, N, A) in the task's units, or indices (S, N, 1), into `action`.

    Args:
        agents, layers, slopes, memory: as for `td3.update`.
        kind: DETERMINISTIC, NORMAL or CATEGORICAL.
        exploration: standard deviation of the noise on a deterministic policy's actions in [-1, 1].
        observation: (S, N, O), float32.
        noise: standard normal (S, N, A), or uniform (S, N, 1) for a categorical; read where `draws`.
        draws: False for the mode.
        bounds: rows middle, half_range, low, high, and what stands for an action that is not a number, (5, A).
    """
    real, memory, scratch = memory.dtype.type, borrowed(memory), borrowed(scratch)
    for s in range(observation.shape[0]):
        agent = agents[s]
        batch, observed = observation.shape[1], observation.shape[2]
        x = scratch[: batch * observed].reshape(batch, observed)
        for i in range(batch):
            for j in range(observed):
                x[i, j] = observation[s, i, j]
        hidden, at = trunk(agent, layers, slopes, memory, 0, x, scratch, batch * observed)
        out, at = forward(layers, slopes, agent[POLICY], agent[POLICY_LAYERS], memory, 0, hidden, scratch, at)
        if kind == CATEGORICAL:
            for i in range(batch):
                action[s, i, 0] = category(out[i], noise[s, i, 0] if draws else -1.0)
            continue
        acts = action.shape[2]
        for i in range(batch):
            for j in range(acts):
                if kind == NORMAL:
                    u = out[i, j]
                    if draws:
                        log_scale = min(max(out[i, acts + j], real(MIN_LOG_SCALE)), real(MAX_LOG_SCALE))
                        u += exp(log_scale) * real(noise[s, i, j])
                    chosen = tanh(u)
                else:
                    chosen = tanh(out[i, j])
                    if draws:
                        chosen += real(exploration) * real(noise[s, i, j])
                        chosen = min(max(chosen, real(-1)), real(1))
                if chosen != chosen:
                    action[s, i, j] = bounds[4, j]  # an agent that has failed plays on
                    continue
                in_task = bounds[0, j] + bounds[1, j] * chosen
                action[s, i, j] = min(max(in_task, bounds[2, j]), bounds[3, j])


@kernel
def category(logits, uniform):
    """An index by the inverse of the distribution function at a uniform number; below 0: the most probable index."""
    size, best = logits.shape[0], 0
    for j in range(1, size):
        if logits[j] > logits[best]:
            best = j
    if uniform < 0:
        return best
    total = 0.0
    for j in range(size):
        total += math.exp(logits[j] - logits[best])
    reached, chosen = 0.0, 0
    for j in range(size - 1):
        reached += math.exp(logits[j] - logits[best])
        if reached <= uniform * total:
            chosen = j + 1
    return chosen
