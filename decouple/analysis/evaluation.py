"""Evaluation: whole episodes on fresh environments, on training levels and on test levels, and the gap between them.

    report = evaluate(model, {"train": make_train_env, "test": make_test_env}, episodes=10, seed=0)
    report["eval/train_return"], report["eval/test_return"], report["eval/generalisation_gap"]

Training on a fixed set of levels and testing on the full distribution: Cobbe et al. 2020,
https://arxiv.org/abs/1912.01588.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from decouple.checks import SEED, at_least, checked
from decouple.networks.fitting import evaluating
from decouple.networks.recurrence import with_memory
from decouple.seeding import rng_state, set_rng_state

__all__ = ["episode_returns", "evaluate"]


@checked(max_steps=at_least(1))
def episode_returns(
    env: EnvBase,
    policy: nn.Module,
    *,
    stochastic: bool = True,
    max_steps: int = 100_000,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    """The undiscounted return of each environment's first episode, in the environment's own `reward`.

    It takes one episode of each of N environments, not the first N to end, which would favour short episodes.

    Args:
        env: batched environment (N,), or (S, N) of several agents, without reward scaling.
        policy: module that reads the observation, and if it is recurrent its memory, and writes `action`.
        stochastic: sample actions, as in training; False takes the distribution's mode.
        max_steps: most steps of an episode; a longer one is an error and is never cut off.
        progress: called with the episodes finished and N.

    Returns:
        Returns (N,), or (S * N,) agent by agent, float64.

    Raises:
        RuntimeError: an episode did not end within `max_steps`.
    """
    returns = torch.zeros(env.batch_size.numel(), dtype=torch.float64)  # (N,)
    running = torch.ones_like(returns, dtype=torch.bool)  # (N,)
    mode = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
    env = with_memory(env, policy)
    with torch.no_grad(), set_exploration_type(mode), evaluating(policy):
        step = env.reset()
        for _ in range(max_steps):
            step, following = env.step_and_maybe_reset(policy(step))
            reward, done = (step["next", key].reshape(-1).cpu() for key in ("reward", "done"))
            returns += torch.where(running, reward.double(), 0.0)
            running &= ~done
            if progress:
                progress(int((~running).sum()), len(returns))
            if not running.any():
                return returns
            step = following
    raise RuntimeError(f"{int(running.sum())} of {len(returns)} episodes did not end within max_steps={max_steps}")


@checked(episodes=at_least(1), seed=SEED)
def evaluate(
    policy: nn.Module,
    make_envs: Mapping[str, Callable[[int, int], EnvBase]],
    *,
    episodes: int,
    seed: int,
    stochastic: bool = True,
    unseen: Callable[[int, int], Tensor] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, float]:
    """Mean, median and standard deviation of returns per set of levels, and the generalisation gap.

    Environments are made for the evaluation and closed after it. The global random state is left as it was, so that
    evaluating does not change training.

    Args:
        policy: module that reads the observation and writes `action`, as `model.get_policy_operator()`.
        make_envs: functions of (number of environments, seed) by the name of their levels, as `train` and `test`.
        episodes: episodes of each set of levels.
        seed: seed of the environments and of the sampled actions.
        stochastic: sample actions; False takes the distribution's mode.
        unseen: function of (number of environments, seed) that tells which `test` episodes play a level unlike all
            training levels, bool (episodes,), as Procgen's `unseen_episodes`. No other number depends on it.
        progress: called with the episodes finished and wanted, per set.

    Returns:
        `eval/<name>_return`, `eval/<name>_return_median`, `eval/<name>_return_std` (0 for one episode), and, with
        `train` and `test`, `eval/generalisation_gap` (train minus test). With `unseen`, also `eval/repeated_levels`,
        the share of test episodes whose level repeats a training level, and the three numbers of the other episodes
        as `eval/unseen_return` and so on, left out where there are no other episodes.
    """
    before = rng_state()
    report: dict[str, float] = {}
    try:
        for name, make_env in make_envs.items():
            torch.manual_seed(seed)
            env = make_env(episodes, seed)
            try:
                returns = episode_returns(env, policy, stochastic=stochastic, progress=progress)  # (episodes,)
            finally:
                env.close()
            report |= _summary(name, returns)
            if name == "test" and unseen:
                new = unseen(episodes, seed)  # (episodes,)
                report["eval/repeated_levels"] = 1 - new.double().mean().item()
                report |= _summary("unseen", returns[new])
    finally:
        set_rng_state(before)
    if {"train", "test"} <= make_envs.keys():
        report["eval/generalisation_gap"] = report["eval/train_return"] - report["eval/test_return"]
    return report


def _summary(name: str, returns: Tensor) -> dict[str, float]:
    """Mean, median and standard deviation of returns (n,), by metric name; empty where n is 0."""
    if not len(returns):
        return {}
    return {
        f"eval/{name}_return": returns.mean().item(),
        f"eval/{name}_return_median": returns.quantile(0.5).item(),
        f"eval/{name}_return_std": returns.std(correction=min(1, len(returns) - 1)).item(),
    }
