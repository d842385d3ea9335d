"""On-policy training: collect a rollout, estimate advantages, run each phase on it.

    phases = ppo_phases(model, settings)              # one phase: PPO's joint loss
    phases = daac_phases(model, settings)             # a policy phase and a value phase
    train_on_policy(env, model, phases, settings, log=print)

    model = stack([actor_value(...) for seed in seeds])         # several seeds at once, each as it would train alone
    train_on_policy(env, model, ppo_phases(model, settings), settings, log=print, seeds=seeds)

The algorithms are in `decouple.on_policy.algorithms`. The loop is the same for each, and for every separation point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from decouple.checks import SEED, all_of, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.recurrence import with_memory
from decouple.on_policy.agents import Agents, check_agents, draw_agents
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.compiled_collector import CompiledCollector
from decouple.on_policy.compiled_phase import CompiledPhase
from decouple.on_policy.estimating import (
    COLLECTING,
    LONG_S,
    TimeLeft,
    faster_settings,
    seconds_per_iteration,
    share_of_peak,
)
from decouple.on_policy.kept import KeptRollouts, check_room, runs_on
from decouple.on_policy.phases import Phase, RolloutPhase
from decouple.on_policy.rollouts import rollout_metrics
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.watching import ClipWatch, WatchedRollouts, check_rollouts, check_weights
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.learning_rates import rate_metrics
from decouple.runs.performance import Performance
from decouple.seeding import SeedNoise, rng_state, set_rng_state

__all__ = ["train_on_policy"]


@checked(seeds=all_of(SEED))
def train_on_policy(
    env: EnvBase,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    *,
    log: Callable[[dict[str, float], int], object],
    seeds: Sequence[int] | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    measure: Callable[[TensorDictBase], Mapping[str, float]] | None = None,
    checkpoint: str | Path | None = None,
    identity: Mapping | None = None,
    on_checkpoint: Callable[[], object] | None = None,
    record: Callable[[], Mapping[str, str]] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    expect: Callable[[float], object] | None = None,
    peak_share: Callable[[float], object] | None = None,
    faster: Callable[[Mapping[str, float]], object] | None = None,
    performance: Performance | None = None,
    failed: FailedSeeds | None = None,
) -> int:
    """Train until `settings.total_frames`, resuming from `checkpoint` where that file exists.

    With `seeds` S agents train at once, in an environment (S, N) and as a stacked model. They share nothing, not even
    random numbers: up to float rounding each agent learns what it would learn alone. Settings, frames and progress are
    those of one agent. A metric is logged as its mean over the seeds, and as `<name>/seed<seed>` for each seed.

    Args:
        env: batched environment (N,) with `observation`, a scalar `reward` (N, 1) and, for returns to be logged,
            `episode_reward` and `step_count` (TorchRL's RewardSum and StepCounter). A run resumes exactly if the
            environment's `state_dict` holds all its state, as that of `procgen_env` does. IDAAC reads
            `step_count` too and, where there are levels, `level_seed` (N, 1). With `seeds` (S, N); row s must not
            depend on the others.
        model: a model from `actor_value`; with `seeds` a `stack` of S of them.
        phases: phases from `ppo_phases`, `daac_phases`, `idaac_phases`, `trpo_phases`, or your own.
        settings: the training loop's settings.
        log: called once an iteration with the metrics and the frames so far.
        seeds: S different seeds of the agents' actions and minibatches; None for one agent that is not stacked, whose
            random numbers come from torch's generators.
        evaluate: called with the iteration every `evaluate_every` iterations, counted from the first, and after the
            last; it must leave the global random state as it was. Its metrics are logged with the iteration's.
        measure: called in these iterations too, once their phases have run, with the rollout's frames, (B,) or (S, B),
            which it must leave as they are, and the random state too. Its metrics are logged with the iteration's.
        checkpoint: file written at the start, every `checkpoint_every` iterations and at the end, atomically.
        identity: settings stored in a checkpoint; only a run with the same ones may resume from it.
        on_checkpoint: called after each checkpoint.
        record: called before each checkpoint; it returns marks of the files beside it, as `Tracker.marks` does.
        progress: called within an iteration with (what is under way, how much is done, how much there is).
        expect: called once with an estimate of the seconds that training still takes: before the first iteration where
            the network's speed is known by `seconds_per_iteration`, else some seconds after it began (`TimeLeft`).
        peak_share: called with the share of what the processor's matrix products reach: see `share_of_peak`. Not for
            a run that is over in `LONG_S` seconds.
        faster: called with the settings of `Performance` that would be faster on this machine, as
            `torch_threads=2`, and how many times: see `faster_settings`. Not for such a short run.
        performance: device, precision and speed settings; its precision and micro-batch replace those of `settings`.
            The model must have been through its `prepare`. None: the model's device, without optional speed-ups.
        failed: record of the agents in which a reward, an observation, a loss or a parameter is not finite, for the
            same seeds. A failed agent has no metrics from then on, also after the run is resumed.

    Returns:
        The frames collected in all.

    Warns:
        UserWarning: once, naming `clip_value`, where it clips more than half of the values in five rollouts in a row:
            returns are far larger than it, and the value network learns almost nothing.

    Raises:
        NotFiniteError: all agents have failed; the last checkpoint was written before.
        ValueError: an environment that is not batched (N,), or (S, N) with seeds, or whose action spec `action_space`
            refuses for one action per game; seeds that are not different or not as many as the model's; a rollout of
            one frame; a phase with more minibatches than a rollout has frames; or performance settings that do not
            support several seeds.
        CheckpointError: a checkpoint that is damaged or has other settings.
    """
    check_agents(env, model, seeds)
    check_rollouts(env, model, phases, settings)
    how = performance or Performance(precision=settings.precision, micro_batch=settings.micro_batch)
    folder = Path(checkpoint).parent if checkpoint else None
    on_disk = settings.rollouts_in == "disk"
    kept = KeptRollouts(phases, folder, on_disk=on_disk)
    run = _Run(env, model, phases, settings, draw_agents(model, seeds), how, failed or FailedSeeds(seeds), kept)

    def save(*, end: bool = False) -> None:
        if checkpoint:
            run.save(checkpoint, identity, record, drop_rollouts=end and not settings.keep_rollouts)

    state = load_checkpoint(checkpoint, expect=identity) if checkpoint and checkpoint_exists(checkpoint) else None
    kept.tidy(state)  # before room is asked for, and before there is a file of this run
    if not state or state["iteration"] < run.iterations:
        checkpoints = [*range(0, run.iterations, settings.checkpoint_every), *[run.iterations] * settings.keep_rollouts]
        check_room(phases, env, settings.rollout_steps, folder, on_disk=on_disk, checkpoints=checkpoints)
    run.begin(state, checkpoint)
    if not state:
        save()  # from here on the folder tells which run it belongs to
    clip_watch = ClipWatch(seeds)
    try:
        check_weights(model, run.failed, f"in {checkpoint}" if state else "at the start")
        watch = run.say_costs(expect, peak_share, faster, progress)
        while run.iteration < run.iterations:
            last = run.iteration + 1 == run.iterations
            due = run.iteration % settings.evaluate_every == 0 or last
            metrics = run.iterate(watch or progress, measure if due else None)
            clip_watch.see(metrics)
            if evaluate and due:
                metrics |= evaluate(run.iteration)
            run.iteration += 1
            log(metrics, run.iteration * run.frames)
            if watch:
                watch.iterated()
            if run.iteration % settings.checkpoint_every == 0 or last:
                save(end=last)
                if checkpoint and on_checkpoint:
                    on_checkpoint()
    finally:
        run.end()
    return run.iteration * run.frames


class _Run:
    """The state of a run: agents, environment, phases, and the iterations done.

    Args:
        env, model, phases, settings: as for `train_on_policy`.
        agents: the model's agents, with their random numbers.
        how: performance settings.
        failed: record of the agents that have failed.
        kept: rollouts of the past.

    Attributes:
        iteration, iterations: iterations done, and those of the whole run.
        frames: frames of one agent in an iteration.
    """

    def __init__(
        self,
        env: EnvBase,
        model: ActorValue,
        phases: Sequence[RolloutPhase],
        settings: OnPolicySettings,
        agents: Agents,
        how: Performance,
        failed: FailedSeeds,
        kept: KeptRollouts,
    ):
        self.env, self.model, self.phases, self.settings = env, model, phases, settings
        self.agents, self.how, self.failed, self.kept = agents, how, failed, kept
        self.memory: TensorDictBase | None = None  # of a recurrent model, after the last rollout
        self.frames = env.batch_size[-1] * settings.rollout_steps
        self.iterations = -(-settings.total_frames // self.frames)
        self.iteration = 0

    def begin(self, state: Mapping | None, checkpoint: str | Path | None) -> None:
        """Prepare the first iteration, or the one after a checkpoint's last; `state` is what `checkpoint` holds."""
        if state:
            self.env.load_state_dict(state["env"])  # before the collector's reset, which then returns these frames
        for phase in self.phases:
            if isinstance(phase, Phase):
                phase.prepare_for(self.how)
        self.collector = self._collector()
        self.rollouts = WatchedRollouts(self.collector, self.frames, self.model, self.how, self.failed)
        if state:
            self._load_state_dict(state)
        if state and checkpoint and self.iteration < self.iterations:
            self.kept.load(state, Path(checkpoint))

    def _collector(self) -> Collector | RolloutCollector | CompiledCollector:
        """The collector of rollouts: compiled where a phase is and the environment steps without TensorDicts."""
        steps, shuffle = self.settings.rollout_steps, self.agents.shuffle
        compiled = [phase.agents for phase in self.phases if isinstance(phase, CompiledPhase)]
        plain = hasattr(type(self.env), "plain_step")  # not a transformed environment's, which passes on its base's
        if compiled and plain and isinstance(shuffle, SeedNoise) and self.how.collector == "torchrl":
            return CompiledCollector(self.env, compiled[0], shuffle, steps)
        return self.agents.collector(with_memory(self.env, self.model), self.model, steps, self.how)

    def say_costs(
        self,
        expect: Callable[[float], object] | None,
        peak_share: Callable[[float], object] | None,
        faster: Callable[[Mapping[str, float]], object] | None,
        progress: Callable[[str, int, int], object] | None,
    ) -> TimeLeft | None:
        """Tell what training will cost and what would be faster, from a few frames, where iterations are long.

        Returns:
            What watches the first iterations for the estimate, where a few frames say nothing; it then stands in the
            place of `progress`.
        """
        left, rollouts, each = self.iterations - self.iteration, self.collector, None
        if not (expect or peak_share or faster) or left <= 0:
            return None
        if isinstance(rollouts, RolloutCollector):
            each = seconds_per_iteration(rollouts, self.phases, self.how)
            long = each is not None and left * each >= LONG_S
            if each and expect:
                expect(left * each)
            if each and long and peak_share and (share := share_of_peak(each, rollouts, self.phases, self.how)):
                peak_share(share)
            if each and long and faster:
                faster(faster_settings(each, rollouts, self.phases, self.how, other_precision=self.iteration == 0))
        if each or not expect:
            return None
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return TimeLeft(self.phases, self.iterations, self.iteration, expect, progress, within=on_cpu)

    def end(self) -> None:
        """Release the collector and the rollouts."""
        self.kept.close()
        self.collector.shutdown(close_env=False)
        for phase in self.phases:
            if isinstance(phase, Phase):
                phase.capture(False)

    def iterate(
        self,
        progress: Callable[[str, int, int], object] | None,
        measure: Callable[[TensorDictBase], Mapping[str, float]] | None = None,
    ) -> dict[str, float]:
        """Collect one rollout, run the phases that are due on it, and measure what is to be measured on its frames.

        Returns:
            The metrics of all, without agents that have failed.

        Raises:
            NotFiniteError: all agents have failed.
        """
        if progress:
            progress(COLLECTING, 0, self.frames)
        start = time.perf_counter()
        rollout = self.rollouts.next(self.iteration)
        self._estimate_advantages(rollout)
        of_rollout = [rollout_metrics(own) for own in self.agents.each(rollout)]
        if self.model.recurrent:
            self.memory = _memory_after(rollout, self.model)
        length = [self.settings.sequence_length] if self.model.recurrent else []
        batch = rollout.exclude("next").reshape(*rollout.batch_size[:-2], -1, *length)  # (B,) or (S, B); (..., B, L)
        rollout.clear()  # TorchRL's collector keeps a reference until its next rollout: free the next frames now
        device = next(self.model.parameters()).device
        if device.type != "cpu":
            batch = batch.to(device, non_blocking=True)
        if progress:
            progress(COLLECTING, self.frames, self.frames)
        collected = time.perf_counter()
        found = self._learn(batch, progress)
        metrics = self.agents.row(of_rollout, self.failed)
        metrics |= rate_metrics(self.settings, 1 - self.iteration / self.iterations, self.model.at)
        for name, of_phase in found:
            # Where two phases share a loss's name, the second one's metric gets the phase's name appended, and each
            # seed's the seed's behind it.
            own = {f"{key}_{name}" if key in metrics else key: value for key, value in of_phase.items()}
            metrics |= self.agents.row_of_phase(own, self.failed)
        learned = time.perf_counter()
        metrics |= measure(batch) if measure else {}
        return metrics | {
            "time/collect_seconds": collected - start,
            "time/learn_seconds": learned - collected,
            "time/frames_per_second": self.frames / (learned - start),  # one agent's
        }

    def _estimate_advantages(self, rollout: TensorDictBase) -> None:
        """Write `advantage` and `value_target` into a rollout that holds the next frames' values.

        Where a phase has a lambda of its own, its advantages are written under (`advantages`, the phase's name).
        """
        by = self.collector.agents if isinstance(self.collector, CompiledCollector) else self.agents
        own = {phase.name: phase.gae_lambda for phase in self.phases if getattr(phase, "gae_lambda", None) is not None}
        for name, gae_lambda in own.items():
            by.estimate_advantages(rollout, self.settings.gamma, gae_lambda)
            rollout["advantages", name] = rollout["advantage"].clone()
        by.estimate_advantages(rollout, self.settings.gamma, self.settings.gae_lambda)

    def _learn(
        self, batch: TensorDictBase, progress: Callable[[str, int, int], object] | None
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Run the phases that are due on a flat rollout; return each phase's name and metrics, numbers or (S,)."""
        learning = {"micro_batch": self.how.micro_batch, "precision": self.how.precision, "progress": progress}
        due = [phase for phase in self.phases if runs_on(phase, self.iteration)]
        left = 1 - self.iteration / self.iterations
        for phase in due:
            if isinstance(phase, Phase | CompiledPhase):
                phase.anneal(left)
        self.kept.add(batch, self.iteration)
        found = [
            (phase.name, phase.run(self._frames_of(phase, batch), self.agents.shuffle, **learning)) for phase in due
        ]
        by = f"by frame {(self.iteration + 1) * self.frames:,}"
        for _, of_phase in found:
            losses = {name: value for name, value in of_phase.items() if name.startswith("loss/")}
            self.failed.check({name: torch.as_tensor(value) for name, value in losses.items()}, by)
        check_weights(self.model, self.failed, by)
        return found

    def _frames_of(self, phase: RolloutPhase, batch: TensorDictBase) -> TensorDictBase:
        """What a phase learns from: the flat rollout, the phase's own advantages in it, or several rollouts."""
        if getattr(phase, "past", 1) > 1:
            return self.kept.frames()
        own = batch.get(("advantages", phase.name), None)
        return batch if own is None else batch.copy().set("advantage", own)

    def save(
        self,
        checkpoint: str | Path,
        identity: Mapping | None,
        record: Callable[[], Mapping[str, str]] | None,
        *,
        drop_rollouts: bool,
    ) -> None:
        """Write a checkpoint, and beside it the rollouts that later phases need, or none with `drop_rollouts`."""
        kept = self.kept.save(self.iteration, end=drop_rollouts)
        state = {"settings": dict(identity or {}), **self.state_dict(), **kept}
        save_checkpoint(checkpoint, state, record=record() if record else None)
        self.kept.forget(self.iteration, end=drop_rollouts)

    def state_dict(self) -> dict[str, Any]:
        """The run's state for a checkpoint."""
        return {
            "iteration": self.iteration,
            "failed": self.failed.state_dict(),
            "model": self.model.state_dict(),
            "phases": [phase.state_dict() for phase in self.phases],
            "env": self.env.state_dict(),
            "shuffle": self.agents.state(),
            "rng": rng_state(),
            **({} if self.memory is None else {"memory": self.memory.to_dict()}),
        }

    def _load_state_dict(self, state: Mapping) -> None:
        self.failed.load_state_dict(state.get("failed", {}))  # absent before version 0.2
        self.model.load_state_dict(state["model"])
        for phase, phase_state in zip(self.phases, state["phases"], strict=True):
            phase.load_state_dict(phase_state)
        self.agents.load_state(state["shuffle"])
        set_rng_state(state["rng"])
        self.iteration = state["iteration"]
        if "memory" in state:
            self.memory = TensorDict(state["memory"], self.env.batch_size)
            preallocated = isinstance(self.collector, RolloutCollector)
            acting: Any = self.collector if preallocated else self.collector.policy
            acting.kept = self.memory.clone()


def _memory_after(rollout: TensorDictBase, model: ActorValue) -> TensorDictBase:
    """What a recurrent model reads after a rollout: its states, and whether an episode begins; (N,) or (S, N)."""
    last: TensorDictBase = rollout["next"][..., -1]
    states = {key[1]: last[key[1]].clone() for key in model.out_keys if key[0] == "next"}
    return TensorDict({"is_init": last["done"].clone(), **states}, last.batch_size)
