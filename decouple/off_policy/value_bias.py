"""The bias of the critics' values against the returns that they predict, a reason why small actors perform worse.

    bias = value_bias(env, learner, SeedNoise(seeds))      # env (S, N), on fresh episodes
    bias["value/bias"]                                     # (S,): negative where the critics underestimate

Mastikhina et al., *Optimistic critics can empower small actors* (RLC 2025, https://arxiv.org/abs/2506.01016): with a
small actor the minimum of two critics underestimates, and the agent gathers poor data. They also find that critics
overfit these data; the setting `held_out_every` measures that and logs `loss/critic_held_out`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import PROBABILITY, axes, check_setting, checked
from decouple.off_policy.interfaces import OffPolicyLearner
from decouple.seeding import SeedNoise

__all__ = ["discounted_returns", "value_bias"]


@checked(
    reward=axes(1, 9, kind="float"),
    bonus=axes(1, 9, kind="float"),
    last=axes(0, 8, kind="float"),
    lengths=axes(0, 8, kind="integer"),
    gamma=PROBABILITY,
)
def discounted_returns(reward: Tensor, bonus: Tensor, last: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    """The return that the action value of each step predicts: `G_t = r_t + gamma (bonus_{t+1} + G_{t+1})`.

    Args:
        reward, bonus: reward and entropy bonus of each step, (T, *B); a value leaves out its own action's bonus.
        last: value after the last step, (*B): 0 where the episode terminated, an estimate where it was cut off.
        lengths: steps of each episode, (*B), at most T; later rows are not read.
        gamma: discount.

    Returns:
        Returns (T, *B); after an episode's end they have no meaning.
    """
    steps, one = tuple(reward.shape), tuple(reward.shape[1:])
    for name, given, shape, says in (
        *(("bonus", bonus, steps, "reward's shape"), ("last", last, one, "reward's shape without its first axis")),
        ("lengths", lengths, one, "reward's shape without its first axis"),
    ):
        check_setting(name, tuple(given.shape), lambda found, shape=shape: found == shape, f"of {says}, {shape}")
    return _discounted_returns(reward, bonus, last, lengths, gamma)


def _discounted_returns(reward: Tensor, bonus: Tensor, last: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    """`discounted_returns` without checks: numbers of an agent that has failed may not be finite."""
    returns, following = torch.empty_like(reward), last
    for t in range(len(reward) - 1, -1, -1):
        returns[t] = reward[t] + gamma * torch.where(t == lengths - 1, last, following)
        following = returns[t] + bonus[t]
    return returns


@checked()
@torch.no_grad()
def value_bias(env: EnvBase, learner: OffPolicyLearner, noise: SeedNoise, *, tail: float = 0.25) -> dict[str, Tensor]:
    """Compare the critics' values of the agents' own actions with the discounted returns, on one episode per game.

    Actions are those that the critics' targets assume: sampled ones for SAC, with the entropy bonus, and actions
    without noise for TD3 and DDPG. Where an episode is cut off, the critics' own value replaces the missing rewards;
    only steps at which its weight is at most `tail` count.

    Args:
        env: environment (S, N), with the rewards that the critics learned from.
        learner: the agents.
        noise: the random numbers of the S seeds.
        tail: largest weight `gamma^steps` of the value after a cut, in (0, 1).

    Returns:
        Means over steps, each (S,): `value/predicted`, `value/monte_carlo`, and `value/bias`, the first minus the
        second. NaN where no step is far enough from the cut.

    Raises:
        ValueError: a tail outside (0, 1), or an environment of another number of seeds.
    """
    if not 0 < tail < 1:
        raise ValueError(f"tail must lie in (0, 1); got {tail}")
    if len(env.batch_size) != 2 or env.batch_size[0] != learner.seeds:
        raise ValueError(f"env must be (S, N) with S = {learner.seeds}; got {tuple(env.batch_size)}")
    step, gamma = env.reset(), learner.settings.gamma
    rows: list[dict[str, Tensor]] = []
    alive = torch.ones(*env.batch_size, 1, dtype=torch.bool)
    last = torch.zeros(*env.batch_size, 1)  # the critics' value where an episode was cut off
    cut_off = ~alive
    while alive.any():
        action, value, bonus = learner.judge(step["observation"], noise)
        step["action"] = action.squeeze(-1) if learner.space.discrete else action
        step, following = env.step_and_maybe_reset(step)
        after = step["next"]
        rows.append({"reward": after["reward"], "bonus": bonus, "value": value, "alive": alive})
        cut = alive & after["done"] & ~after["terminated"]
        if cut.any():
            _, of_next, entropy = learner.judge(after["observation"], noise)
            last, cut_off = torch.where(cut, of_next + entropy, last), cut_off | cut
        alive, step = alive & ~after["done"], following
    episodes = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}  # (T, S, N, 1)
    lengths = episodes["alive"].sum(0)  # (S, N, 1)
    returns = _discounted_returns(episodes["reward"], episodes["bonus"], last, lengths, gamma)
    steps_left = lengths - torch.arange(len(rows)).view(-1, 1, 1, 1)
    counts = episodes["alive"] & (~cut_off | (gamma ** steps_left.float() <= tail))
    number = counts.sum((0, 2, 3))  # (S,)
    predicted, seen = (torch.where(counts, x, 0.0).sum((0, 2, 3)) / number for x in (episodes["value"], returns))
    return {"value/predicted": predicted, "value/monte_carlo": seen, "value/bias": predicted - seen}
