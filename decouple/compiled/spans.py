"""Several steps of a training loop in one call: agents act, games are played, transitions are kept, agents learn.

A kernel makes the steps up to the next one that Python has to see; it draws no random numbers, but gets those that lie
ready. Networks, games and updates are functions that it is given (`decouple.compiled.playing`), so it is compiled once
for all of them. They stand behind other things in tuples: Numba warns of tuples that begin with a function.
"""

from __future__ import annotations

import numpy as np

from decouple.compiled.kernel import exact_kernel

__all__: list[str] = []  # kernels are called by learners and collectors


@exact_kernel
def collect(acting, noise, discrete, bounds, scratch, game, at, most, acted, stepped, ends):
    """Play at most `most` steps of S agents into a rollout, up to the first that ends an episode; returns their number.

    Args:
        acting: agents, layers, slopes and memory, and behind them `rollouts.act`, which takes them.
        noise: as there, for each step: (>= most, S, N, A). discrete, bounds, scratch: as there.
        game: places, play, limit, scale, observation, total, steps and terminated, as in `Playing`.
        at: the first step's place in the rollout.
        acted: what is acted on and chosen: observations (S, N, T, O), actions (S, N, T, A), log-probabilities and
            values (S, N, T).
        stepped: what steps give: observations (S, N, T, O), rewards, episodes' rewards and steps (S, N, T).
        ends: done, terminated and truncated, bool (3, S, N, T).
    """
    agents, layers, slopes, memory, act = acting
    places, play, limit, scale, observation, total, steps, terminated = game
    seen, actions, log_probs, values = acted
    following, rewards, totals, counts = stepped
    seeds, games, observed = observation.shape
    number, acts = seeds * games, actions.shape[3]
    action = np.empty((seeds, games, acts), dtype=actions.dtype)
    log_prob, value = np.empty((seeds, games), dtype=values.dtype), np.empty((seeds, games), dtype=values.dtype)
    reward = np.empty(number)
    for step in range(most):
        t, ended = at + step, False
        act(
            agents, layers, slopes, memory, observation, noise[step], discrete, bounds, scratch, action, log_prob,
            value, 0, seeds,
        )  # fmt: skip
        for s in range(seeds):
            for i in range(games):
                for j in range(observed):
                    seen[s, i, t, j] = observation[s, i, j]
                for j in range(acts):
                    actions[s, i, t, j] = action[s, i, j]
                log_probs[s, i, t], values[s, i, t] = log_prob[s, i], value[s, i]
        play(places, 0, number, action.reshape(number, acts), observation.reshape(number, observed), reward, terminated)
        for s in range(seeds):
            for i in range(games):
                g = s * games + i
                done = counted(g, reward[g], limit, total, steps, terminated)
                ended = ended or done
                for j in range(observed):
                    following[s, i, t, j] = observation[s, i, j]
                rewards[s, i, t], totals[s, i, t], counts[s, i, t] = reward[g] * scale, total[g], steps[g]
                ends[0, s, i, t], ends[1, s, i, t], ends[2, s, i, t] = done, terminated[g], steps[g] >= limit
        if ended:
            return step + 1
    return most


@exact_kernel
def play_out(acting, bounds, agent, game, most, running, returns, scratch, first, last):
    """Play the running games of the agents from `first` to `last` at most `most` steps, each up to its episode's end.

    Agents act without exploration, one after another. A game whose episode has ended is not played any more, and costs
    nothing: those that run on are acted for as one batch.

    Args:
        acting: agents, layers, slopes, memory, kind, noise that is not read, an array of the actions' type, and
            `acting.act`, which takes them.
        bounds, scratch: as there. agent: the number of the first agent among all.
        game: as for `learn`.
        running: bool (S, N), set to False where an episode has ended.
        returns: float64 (S, N), to which rewards are added, rounded to the float32 that agents see.
    """
    agents, layers, slopes, memory, kind, noise, like, act = acting
    places, play, limit, scale, observation, total, steps, terminated = game
    games, observed, acts = observation.shape[1], observation.shape[2], like.shape[2]
    seen, action = np.empty((games, observed), dtype=observation.dtype), np.empty((games, acts), dtype=like.dtype)
    reward = np.empty(games)
    for s in range(first, last):
        g, of_all = s * games, (agent + s) * games
        for _ in range(most):
            number = 0
            for i in range(games):
                if running[s, i]:
                    for j in range(observed):
                        seen[number, j] = observation[s, i, j]
                    number += 1
            if number == 0:
                break
            act(
                agents[s : s + 1], layers, slopes, memory, kind, 0.0, seen[:number].reshape(1, number, observed), noise,
                False, bounds, scratch, action[:number].reshape(1, number, acts),
            )  # fmt: skip
            acted, begin = 0, 0
            while begin < games:  # neighbours that run on are played in one call
                end = begin
                while end < games and running[s, end]:
                    end += 1
                if end > begin:
                    play(
                        places, of_all + begin, of_all + end, action[acted : acted + end - begin],
                        observation[s][begin:end], reward[begin:end], terminated[g + begin : g + end],
                    )  # fmt: skip
                acted += end - begin
                begin = end + 1
            for i in range(games):
                if running[s, i]:
                    returns[s, i] += np.float32(reward[i] * scale)
                    running[s, i] = not counted(g + i, reward[i], limit, total, steps, terminated)


@exact_kernel
def counted(game, reward, limit, total, steps, terminated):
    """Count a step into a game's running episode; whether the episode has ended."""
    total[game] += reward
    steps[game] += 1
    return terminated[game] or steps[game] >= limit


@exact_kernel
def learn(
    acting, noise, bounds, game, most, replay, learning, draws, uses, updates, scratch, of_agents, played, first, last
):
    """At most `most` steps of the agents from `first` to `last`, one agent after another, each step with its updates.

    An agent's steps go up to the first that ends an episode.

    Args:
        acting: kind, exploration, memory for actions (S, N, A), or indices (S, N, 1), and `acting.act`.
        noise: its noise for each step, (>= most, S, N, A). bounds: as there.
        game: as for `collect`, of these agents' games alone but for `play` and `places`.
        replay: rows of a `Replay` (ring, all agents, W); rows added so far; rows that may be sampled; its `to_unit`,
            (2, A); whether actions are kept as they are; and the number of the first agent among all.
        learning: agents, layers, slopes, rates, memory, temperature, steps and widths, and behind them an algorithm's
            `update`, which takes them.
        draws: uniform numbers in [0, 1) for each update's sample, float64 (., S, B); normal numbers (., S, B, A), which
            updates take one after another.
        uses: whether an update takes these for the target, and whether for the policy at a policy step.
        updates: updates so far, updates after each step, and updates from one policy step to the next.
        of_agents: memory for samples (S, B, W), metrics (S, METRICS), and two sums of metrics, to which those of
            updates of critics alone are added, and of all others.
        played: set to each agent's steps, (S,).
    """
    kind, explores, action, act = acting
    places, play, limit, scale, observation, total, steps, terminated = game
    rows, added, capacity, to_unit, in_unit, agent = replay
    agents, layers, slopes, rates, memory, temperature, optimizer_steps, widths, update = learning
    uniform, normal = draws
    before, each, delay = updates
    batch, metrics, of_critics, of_all = of_agents
    (observed, acts), games, real = widths, observation.shape[1], rows.dtype.type
    reward = np.empty(games)
    for s in range(first, last):
        done, drawn, g, own = before, 0, s * games, agent + s
        played[s] = most
        for step in range(most):
            act(
                agents[s : s + 1], layers, slopes, memory, kind, explores, observation[s : s + 1],
                noise[step][s : s + 1], True, bounds, scratch, action[s : s + 1],
            )  # fmt: skip
            for i in range(games):
                row = rows[(added + step * games + i) % len(rows), own]
                for j in range(observed):
                    row[j] = observation[s, i, j]
                for j in range(acts):
                    chosen = real(action[s, i, j])
                    row[observed + j] = chosen if in_unit else (chosen - to_unit[0, j]) / to_unit[1, j]
            play(places, own * games, (own + 1) * games, action[s], observation[s], reward, terminated[g : g + games])
            ended = False
            for i in range(games):
                row = rows[(added + step * games + i) % len(rows), own]
                row[observed + acts] = reward[i] * scale
                row[observed + acts + 1] = terminated[g + i]
                for j in range(observed):
                    row[observed + acts + 2 + j] = observation[s, i, j]
                end = counted(g + i, reward[i], limit, total, steps, terminated)
                ended = ended or end
            stored = added + (step + 1) * games
            length = min(stored, capacity)
            for _ in range(each):
                for b in range(batch.shape[1]):
                    place = (stored - length + int(uniform[done - before, s, b] * length)) % len(rows)
                    for j in range(batch.shape[2]):
                        batch[s, b, j] = rows[place, own, j]
                done += 1
                policy_step = done % delay == 0
                of_target = normal[drawn]
                drawn += uses[0]
                of_policy = normal[drawn if policy_step and uses[1] else 0]
                drawn += policy_step and uses[1]
                update(
                    agents, layers, slopes, rates, memory, temperature, optimizer_steps, batch, widths, of_target,
                    of_policy, policy_step, scratch, metrics, s, s + 1,
                )  # fmt: skip
                sums = of_all if policy_step else of_critics
                for j in range(metrics.shape[1]):
                    sums[s, j] += metrics[s, j]
            if ended:
                played[s] = step + 1
                break
