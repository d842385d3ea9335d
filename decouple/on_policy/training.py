"""On-policy training: collect a rollout, estimate advantages, run each phase on it.

    phases = ppo_phases(model, settings)              # one phase: PPO's joint loss
    phases = daac_phases(model, settings)             # a policy phase and a value phase
    train_on_policy(env, model, phases, settings, log=print)

    model = stack([actor_value(...) for seed in seeds])         # several seeds at once, each as it would train alone
    train_on_policy(env, model, ppo_phases(model, settings), settings, log=print, seeds=seeds)

The algorithms stand in `decouple.on_policy.algorithms`. Nothing here asks which it is, or where the networks separate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives.value import GAE

from decouple.checks import ANY_NUMBER, check_setting, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.heads import action_space
from decouple.networks.stacking import seed_count
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.phases import Metric, Phase, RolloutPhase
from decouple.on_policy.rollouts import SeededPolicy, WatchedPolicy, normalise_advantages, rollout_metrics
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.watching import ClipWatch, WatchedRollouts, check_weights
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.performance import Performance
from decouple.seeding import SeedNoise, rng_state, seed_metrics, set_rng_state

__all__ = ["train_on_policy"]


@checked(seeds=ANY_NUMBER)
def train_on_policy(
    env: EnvBase,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    *,
    log: Callable[[dict[str, float], int], object],
    seeds: Sequence[int] | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    checkpoint: str | Path | None = None,
    identity: Mapping | None = None,
    on_checkpoint: Callable[[], object] | None = None,
    record: Callable[[], Mapping[str, str]] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    performance: Performance | None = None,
    failed: FailedSeeds | None = None,
) -> int:
    """Train until `settings.total_frames`, going on from `checkpoint` where that file exists.

    With `seeds` S agents train at once, in an environment (S, N) and as a stacked model. They share nothing, not even
    random numbers: to float rounding each becomes what it would become alone, whoever trains beside it. Settings,
    frames and progress are those of one agent. A metric's name holds the mean over the seeds, `<name>/seed<seed>` each
    seed's.

    Args:
        env: batched environment (N,) with `observation`, a scalar `reward` (N, 1) and, for returns to be logged,
            `episode_reward` and `step_count` (TorchRL's RewardSum and StepCounter). A run resumes exactly where its
            `state_dict` holds all its state, as that of `procgen_env` does. IDAAC reads `level_seed` (N, 1) and
            `step_count` too. With `seeds` (S, N); row s must not depend on the others.
        model: from `actor_value`; with `seeds` a `stack` of S of them.
        phases: from `ppo_phases`, `daac_phases`, `idaac_phases`, `trpo_phases`, or your own.
        settings: of the loop.
        log: called with metrics and the frames so far, once an iteration.
        seeds: S different ones, of the actions and minibatches of each agent; None for one agent that is not stacked,
            whose random numbers are torch's own.
        evaluate: called with the iteration every `evaluate_every` iterations, counted from the first, and after the
            last; it must leave the global random state as it was. Its metrics are logged with the iteration's.
        checkpoint: file written at the start, every `checkpoint_every` iterations and at the end, atomically.
        identity: settings that a checkpoint must share with this run to be continued; stored in it.
        on_checkpoint: called after each checkpoint.
        record: called before each checkpoint for what it should say of the files beside it, `Tracker.marks`.
        progress: called within an iteration with what is under way, how much of it is done, and of how much.
        performance: how it is computed; its precision and micro-batch take the place of those of the settings. The
            model has been through its `prepare`. None: on the model's device, with all that it may switch on off.
        failed: takes note of the agents in which a reward, an observation, a loss or a parameter is not finite; of the
            same seeds. They have no metrics from then on, and stay so when the run goes on from a checkpoint.

    Returns:
        The frames collected in all.

    Warns:
        UserWarning: once, naming `clip_value`, where it clips more than half of the values in five rollouts in a row:
            returns are larger than it by far, and the value network learns next to nothing.

    Raises:
        NotFiniteError: all agents have failed; the last checkpoint is of the time before.
        ValueError: an environment that is not batched (N,), or (S, N) with seeds, or whose games do not each take one
            action of those that `action_space` allows; seeds that are not as many as the model's, or not different; a
            rollout of one frame; a phase with more minibatches than a rollout has frames; or a performance that several
            seeds do not have.
        CheckpointError: a checkpoint that is damaged or of other settings.
    """
    _check_seeds(env, model, seeds)
    if isinstance(env.action_spec, Bounded | Categorical | OneHot):  # else the model's actions are its own affair
        action_space(env.action_spec, env.batch_size)
    failed = failed or FailedSeeds(seeds)
    frames_per_iteration = env.batch_size[-1] * settings.rollout_steps
    settings.check_rollout(env.batch_size[-1])
    for phase in phases:
        allowed = f"at most the {frames_per_iteration} frames of a rollout"
        check_setting("minibatches", phase.minibatches, lambda v: v <= frames_per_iteration, allowed)
    state = load_checkpoint(checkpoint, expect=identity) if checkpoint and checkpoint_exists(checkpoint) else None
    if state:
        env.load_state_dict(state["env"])  # before the collector, whose first reset hands back the frames restored
    shuffle = _shuffle(model, seeds)
    how = performance or Performance(precision=settings.precision, micro_batch=settings.micro_batch)
    _prepare_phases(phases, how)
    collector = _collector(env, model, settings.rollout_steps, shuffle, how)
    iteration = _restore(state, model, phases, shuffle, failed) if state else 0
    iterations = -(-settings.total_frames // frames_per_iteration)

    def save() -> None:
        if checkpoint:
            now = _state(env, model, phases, shuffle, iteration, identity, failed)
            save_checkpoint(checkpoint, now, record=record() if record else None)

    if not state:
        save()  # from here on the folder says what run it belongs to
    collect = WatchedRollouts(collector, frames_per_iteration, model, how, failed)
    clip_watch = ClipWatch(seeds)
    try:
        check_weights(model, failed, f"in {checkpoint}" if state else "at the start")
        while iteration < iterations:
            if progress:
                progress("collecting, frames", 0, frames_per_iteration)
            metrics = _iterate(collect, model, phases, settings, how, iteration, shuffle, progress)
            clip_watch.see(metrics)
            last = iteration + 1 == iterations
            if evaluate and (iteration % settings.evaluate_every == 0 or last):
                metrics |= evaluate(iteration)
            iteration += 1
            log(metrics, iteration * frames_per_iteration)
            if iteration % settings.checkpoint_every == 0 or last:
                save()
                if checkpoint and on_checkpoint:
                    on_checkpoint()
    finally:
        collector.shutdown(close_env=False)
        for phase in phases:
            if isinstance(phase, Phase):
                phase.capture(False)  # let go of the last rollout
    return iteration * frames_per_iteration


def _collector(
    env: EnvBase, model: ActorValue, steps: int, shuffle: torch.Generator | SeedNoise, how: Performance
) -> Collector | RolloutCollector:
    """What collects rollouts (N, T) or (S, N, T); resets the environment."""
    if how.collector == "preallocated":
        if isinstance(shuffle, SeedNoise):
            raise ValueError("performance must have the collector torchrl with several seeds; got preallocated")
        return RolloutCollector(
            env, model, steps, precision=how.precision, overlap=how.overlap, captured=how.cuda_graphs
        )
    return Collector(
        env,
        SeededPolicy(model, shuffle) if isinstance(shuffle, SeedNoise) else WatchedPolicy(model),
        frames_per_batch=env.batch_size.numel() * steps,
        total_frames=-1,
        exploration_type=ExplorationType.RANDOM,
        use_buffers=False,  # the frames of a rollout are stacked once, not kept in a second buffer
        return_same_td=True,
        track_traj_ids=False,
        trust_policy=True,
        auto_register_policy_transforms=False,  # the environment is used as it came
    )


def _prepare_phases(phases: Sequence[RolloutPhase], how: Performance) -> None:
    for phase in phases:
        if isinstance(phase, Phase):
            phase.capture(how.cuda_graphs)
            for part in (phase, phase.adversary):
                if part is not None:
                    how.prepare_optimizer(part.optimizer)


def _iterate(
    collect: WatchedRollouts,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    how: Performance,
    iteration: int,
    shuffle: torch.Generator | SeedNoise,
    progress: Callable[[str, int, int], object] | None,
) -> dict[str, float]:
    """Collect one rollout and run the phases that are due on it; what to log of both, of agents that have not failed.

    Raises:
        NotFiniteError: all agents have failed.
    """
    start = time.perf_counter()
    device, failed = next(model.parameters()).device, collect.failed
    rollout = collect.next(iteration)
    alone = rollout.ndim == 2
    GAE(gamma=settings.gamma, lmbda=settings.gae_lambda, value_network=None, average_gae=alone)(rollout)
    if not alone:
        normalise_advantages(rollout)
    of_rollout = [rollout_metrics(rollout)] if alone else [rollout_metrics(own) for own in rollout]
    batch = rollout.exclude("next").reshape(*rollout.batch_size[:-2], -1)  # (B,) or (S, B)
    rollout.clear()  # TorchRL's collector keeps a reference until its next rollout: free the next frames now
    if how.device != "cpu":
        batch = batch.to(device, non_blocking=True)
    collected = time.perf_counter()
    learning = {"micro_batch": how.micro_batch, "precision": how.precision, "progress": progress}
    due = [phase for phase in phases if iteration % phase.every == 0]
    found = [(phase.name, phase.run(batch, shuffle, **learning)) for phase in due]
    by = f"by frame {(iteration + 1) * collect.frames:,}"
    for _, of_phase in found:
        losses = {name: value for name, value in of_phase.items() if name.startswith("loss/")}
        failed.check({name: torch.as_tensor(value) for name, value in losses.items()}, by)
    check_weights(model, failed, by)
    metrics = of_rollout[0] if alone else seed_metrics(failed.kept(of_rollout), failed.seeds)
    for name, of_phase in found:
        # Where two phases have a loss in common, the second one's numbers carry its name.
        row = {key: float(value) for key, value in of_phase.items()} if alone else _row(of_phase, failed)
        metrics |= {f"{key}_{name}" if key in metrics else key: value for key, value in row.items()}
    learned = time.perf_counter()
    return metrics | {
        "time/collect_seconds": collected - start,
        "time/learn_seconds": learned - collected,
        "time/frames_per_second": batch.shape[-1] / (learned - start),  # of one agent
    }


def _row(found: Mapping[str, Metric], failed: FailedSeeds) -> dict[str, float]:
    """What a phase found, the metrics (S,) taken apart; what is over all seeds is left out where one has failed."""
    row: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            row |= seed_metrics(failed.kept([{name: own} for own in value.tolist()]), failed.seeds)
        elif not failed.reasons:
            row[name] = float(value)
    return row


def _state(
    env: EnvBase,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    shuffle: torch.Generator | SeedNoise,
    iteration: int,
    identity: Mapping | None,
    failed: FailedSeeds,
) -> dict:
    return {
        "settings": dict(identity or {}),
        "iteration": iteration,
        "failed": failed.state_dict(),
        "model": model.state_dict(),
        "phases": [phase.state_dict() for phase in phases],
        "env": env.state_dict(),
        "shuffle": shuffle.state_dict() if isinstance(shuffle, SeedNoise) else shuffle.get_state(),
        "rng": rng_state(),
    }


def _restore(
    state: Mapping,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    shuffle: torch.Generator | SeedNoise,
    failed: FailedSeeds,
) -> int:
    failed.load_state_dict(state.get("failed", {}))  # not there before version 0.2
    model.load_state_dict(state["model"])
    for phase, phase_state in zip(phases, state["phases"], strict=True):
        phase.load_state_dict(phase_state)
    if isinstance(shuffle, SeedNoise):
        shuffle.load_state_dict(state["shuffle"])
    else:
        shuffle.set_state(state["shuffle"])
    set_rng_state(state["rng"])
    return state["iteration"]


def _shuffle(model: ActorValue, seeds: Sequence[int] | None) -> torch.Generator | SeedNoise:
    """What draws the minibatches and, with seeds, the actions."""
    if seeds is None:
        return torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    return SeedNoise(seeds, next(model.parameters()).device)


def _check_seeds(env: EnvBase, model: ActorValue, seeds: Sequence[int] | None) -> None:
    """Refuse an environment, a model and seeds that are not of equally many agents."""
    batch_size, stacked = tuple(env.batch_size), seed_count(model)
    if seeds is None:
        if len(batch_size) != 1:
            raise ValueError(f"env must have one batch axis (N,); got batch_size {batch_size}, and no seeds")
        if stacked is not None:
            raise ValueError(f"seeds must be {stacked} integers, one for each model of the stack; got None")
        return
    if len(seeds) != stacked or len(set(seeds)) != len(seeds):
        allowed = (
            f"{stacked} different integers, one for each model of the stack" if stacked else "None without a stack"
        )
        raise ValueError(f"seeds must be {allowed}; got {list(seeds)}")
    if len(batch_size) != 2 or batch_size[0] != stacked:
        raise ValueError(f"env must have the batch axes (S, N) with S = {stacked} seeds; got batch_size {batch_size}")
