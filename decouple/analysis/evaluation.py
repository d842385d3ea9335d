"""Evaluation: whole episodes on fresh environments, on training levels and on test levels, and the gap between them.

    report = evaluate(model, {"train": make_train_env, "test": make_test_env}, episodes=10, seed=0)
    report["eval/train_return"], report["eval/test_return"], report["eval/generalisation_gap"]

Training on a fixed set of levels and testing on the full distribution: Cobbe et al. 2020,
https://arxiv.org/abs/1912.01588.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.data import Bounded
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

from decouple.checks import SEED, at_least, checked
from decouple.compiled.modes import ModeKernels
from decouple.compiled.playing import Playing, may_be_played
from decouple.networks.fitting import acted, evaluating
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

    Where the mode is asked for, kernels act for compiled agents, and on a `PlayedByKernels` they play too, many steps
    in one call. Actions differ from those of the policy's modules by rounding.

    Args:
        env: batched environment (N,), or (S, N) of several agents, without reward scaling. Which episodes it has begun
            afterwards depends on how it was played.
        policy: module that reads the observation, and if it is recurrent its memory, and writes `action`. It may have
            a method `mode_kernels`, which gives `ModeKernels` that act as it does, or None.
        stochastic: sample actions, as in training; False takes the distribution's mode.
        max_steps: most steps of an episode; a longer one is an error and is never cut off.
        progress: called with the episodes finished and N, after each step, or where kernels play after many.

    Returns:
        Returns (N,), or (S * N,) agent by agent, float64.

    Raises:
        RuntimeError: an episode did not end within `max_steps`.
    """
    returns = torch.zeros(env.batch_size.numel(), dtype=torch.float64)  # (N,)
    running = torch.ones_like(returns, dtype=torch.bool)  # (N,)
    mode = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
    kernels = None if stochastic else _mode_kernels(policy, env)
    with torch.no_grad(), set_exploration_type(mode), evaluating(policy):
        if kernels is None:
            moves = _by_modules(with_memory(env, policy), policy, returns, running, max_steps)
        else:
            moves = _by_kernels(env, kernels, returns, running, max_steps)
        for _ in moves:
            if progress:
                progress(int((~running).sum()), len(returns))
    if running.any():
        raise RuntimeError(f"{int(running.sum())} of {len(returns)} episodes did not end within max_steps={max_steps}")
    return returns


def _mode_kernels(policy: nn.Module, env: EnvBase) -> ModeKernels | None:
    """Kernels that act as the policy does in its mode; None where it has none, or where the environment is no plain
    (S, N) on a processor with observations and actions as theirs."""
    # Methods of the types: a wrapped policy or environment, which passes on the inner one's, is not that one.
    if not hasattr(type(policy), "mode_kernels") or not hasattr(type(env), "plain_step"):
        return None
    kernels: ModeKernels | None = policy.mode_kernels()
    if kernels is None or (env.device is not None and env.device.type != "cpu") or len(env.batch_size) != 2:
        return None
    seen, spec, (observed, acts) = env.observation_spec.get("observation", None), env.action_spec, kernels.widths
    batch = tuple(env.batch_size)
    if batch[0] != kernels.seeds or seen is None or tuple(seen.shape) != (*batch, observed):
        return None
    if kernels.choices:  # a kernel that plays takes an index as it is
        fits = tuple(spec.shape) == batch and getattr(spec, "n", None) == kernels.choices
    else:
        fits = tuple(spec.shape) == (*batch, acts) and isinstance(spec, Bounded)
    return kernels if fits else None


def _by_modules(env: EnvBase, policy: nn.Module, returns: Tensor, running: Tensor, max_steps: int) -> Iterator[None]:
    """Play at most `max_steps` steps, one after another, until no first episode is running."""
    step = env.reset()
    for _ in range(max_steps):
        step, following = env.step_and_maybe_reset(acted(policy, step))
        _count(step["next"], returns, running)
        yield
        if not running.any():
            return
        step = following


def _by_kernels(env: Any, kernels: ModeKernels, returns: Tensor, running: Tensor, max_steps: int) -> Iterator[None]:
    """As `_by_modules`, with kernels that act, and that play where they can: then some steps at a time."""
    observation = env.plain_reset()
    playing: Playing | None = env.begin_steps() if may_be_played(env) else None
    if playing is None:
        for _ in range(max_steps):
            stepped, observation = env.plain_step(kernels.act(observation))
            _count(stepped, returns, running)
            yield
            if not running.any():
                return
        return
    left, size = max_steps, tuple(env.batch_size)
    each, arrays = kernels.most(size[1]), (running.view(size).numpy(), returns.view(size).numpy())  # share memory
    try:
        while left and running.any():
            kernels.play(playing, min(left, each), *arrays)
            left -= min(left, each)
            yield
    finally:
        env.end_steps(playing)


def _count(stepped: Any, returns: Tensor, running: Tensor) -> None:
    """Count a step, `stepped` as under `next`, into the first episodes' returns, and note which are running."""
    reward, done = (stepped[key].reshape(-1).cpu() for key in ("reward", "done"))
    returns += torch.where(running, reward.double(), 0.0)
    running &= ~done


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
