"""Off-policy training of S agents at once: act, store transitions, update.

    learner = Learner([make_model(seed) for seed in seeds], TD3Settings(total_frames=20_000))
    train_off_policy(env, learner, seeds=seeds, log=lambda metrics, frames: print(frames, metrics))

The environment has the batch size (S, N): N environments for each of S seeds. Each agent learns what it would learn
alone with its seed; frames count the environment steps of one agent.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import SEED, checked, distinct
from decouple.compiled.kernel import compiling_seconds
from decouple.compiled.modes import ModeKernels
from decouple.networks.heads import action_space
from decouple.off_policy.compiled_learner import mode_kernels
from decouple.off_policy.compiled_steps import compiled_steps
from decouple.off_policy.interfaces import TrainedAgents
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition, Widths
from decouple.off_policy.stepping import games_of
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.learning_rates import rate_metrics, scheduled
from decouple.seeding import SeedNoise, rng_state, seed_metrics, set_rng_state

__all__ = ["GreedyPolicy", "replay_for", "train_off_policy"]

HELD_OUT_BATCH = 1024  # held-out transitions per agent on which the critic's loss is measured


@checked()
def replay_for(env: EnvBase, learner: TrainedAgents, path: str | Path | None = None) -> Replay:
    """Make the replay for the learner's settings, in memory or in the file at `path`."""
    settings, per_step = learner.settings, env.batch_size[1]
    observed, actions = env.observation_spec["observation"], 1 if learner.space.discrete else learner.space.size
    widths = Widths(observed.shape[-1], actions, in_bytes=observed.dtype == torch.uint8)
    capacity = min(settings.buffer_size, -(-settings.total_frames // per_step) * per_step)
    slack = settings.checkpoint_every + per_step
    return Replay(capacity, widths, learner.space, seeds=learner.seeds, path=path, slack=slack)


@checked(seeds=distinct(SEED))
def train_off_policy(
    env: EnvBase,
    learner: TrainedAgents,
    *,
    seeds: Sequence[int],
    log: Callable[[dict[str, float], int], object],
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    replay: Replay | None = None,
    checkpoint: str | Path | None = None,
    identity: Mapping | None = None,
    on_checkpoint: Callable[[], object] | None = None,
    record: Callable[[], Mapping[str, str]] | None = None,
    expect: Callable[[float], object] | None = None,
    failed: FailedSeeds | None = None,
) -> int:
    """Train until each agent has made `total_frames` steps, resuming from `checkpoint` where that file exists.

    Args:
        env: environment (S, N) with `observation` (S, N, O), scalar `reward` (S, N, 1), `episode_reward` and
            `step_count`. A run resumes exactly if the environment's `state_dict` holds all its state, as that of
            `control_env` does.
        learner: the agents, with the training loop's settings.
        seeds: one seed per agent, for exploration, replay and the losses' noise; parameters and environments have
            seeds of their own.
        log: called with metrics and the frames so far, every `log_every` frames. With several seeds a metric is
            logged as its mean over them, and as `<metric>/seed<seed>` for each seed.
        evaluate: called with the frames so far, every `evaluate_every` frames and at the end.
        replay: replay from `replay_for`, in a file if a killed run is to be resumed. None: memory, whose rows go into
            the checkpoint.
        checkpoint: file written at the start, every `checkpoint_every` frames and at the end, atomically.
        identity: settings stored in a checkpoint; only a run with the same ones may resume from it.
        on_checkpoint: called after each checkpoint.
        record: called before each checkpoint; it returns marks of the files beside it, as `Tracker.marks` does.
        expect: called once, some seconds after the start, with an estimate of the seconds that training still takes.
        failed: record of the agents in which a reward, an observation, a loss or a parameter is not finite, for the
            same seeds. A failed agent has no metrics from then on, also after the run is resumed.

    Returns:
        The frames of each agent.

    Raises:
        NotFiniteError: all agents have failed; the last checkpoint was written before.
        ValueError: an environment that is not (S, N), or whose action spec `action_space` refuses for one action per
            game; or seeds that are not one per agent.
        CheckpointError: a checkpoint that is damaged or has other settings.
    """
    _check_env(env, learner, seeds)
    replay = replay_for(env, learner) if replay is None else replay
    run = _Run(env, learner, seeds, replay, failed or FailedSeeds(seeds))
    if checkpoint and checkpoint_exists(checkpoint):
        run.load_state_dict(load_checkpoint(checkpoint, expect=identity))
        run.check_weights(f"in {checkpoint}")

    def save() -> None:
        if checkpoint:
            state = {"settings": dict(identity or {}), **run.state_dict()}
            save_checkpoint(checkpoint, state, record=record() if record else None)

    if run.frames == 0:
        save()  # from here on the folder tells which run it belongs to
    run.begin()
    settings, before = learner.settings, run.frames
    watch = _Watch(run) if expect else None

    def due(every: int) -> bool:
        return run.frames >= settings.total_frames or run.frames // every > before // every

    while run.frames < settings.total_frames:
        run.advance()
        before = run.frames - run.per_step
        if expect and watch and (seconds := watch.seconds_left()) is not None:
            expect(seconds)
            watch = None
        if due(settings.log_every):
            metrics = run.metrics()
            if evaluate and due(settings.evaluate_every):
                metrics |= evaluate(run.frames)
            log(metrics, run.frames)
        if due(settings.checkpoint_every):
            save()
            if checkpoint and on_checkpoint:
                on_checkpoint()
    return run.frames


class _Watch:
    """Watches how long a run takes, for one estimate: by its first updates, or if there are none yet, by a few."""

    STEPS, UPDATES_S = 5, 1.5  # steps with updates, and seconds of them, that suffice
    UNTIL_S = 4.0  # seconds without updates, after which a few are made

    def __init__(self, run: _Run):
        self.run = run
        # Times and frames: at the end of the first step, in which kernels are compiled, and of the first with updates.
        self.began: tuple[float, int] | None = None
        self.learning: tuple[float, int] | None = None
        settings = run.learner.settings
        # The first updates are slow: kernels are loaded or compiled, those of a delayed policy with its first update.
        self.warm = settings.learning_starts + settings.policy_delay * max(settings.train_every, run.per_step)

    def seconds_left(self) -> float | None:
        """The seconds that training still takes; None while they are not known. Called after each step."""
        run, settings = self.run, self.run.learner.settings
        now = time.perf_counter() - compiling_seconds()  # a clock that stands still while kernels are compiled
        if run.frames > self.warm:
            if self.learning is None:
                self.learning = now, run.frames
            since, first = self.learning
            if run.frames - first < self.STEPS * run.per_step or now - since < self.UPDATES_S:
                return None
            return (settings.total_frames - run.frames) * (now - since) / (run.frames - first)
        if self.began is None:
            self.began = now, run.frames
        since, first = self.began
        if run.frames == first or run.frames > settings.learning_starts or now - since < self.UNTIL_S:
            return None
        steps = (settings.total_frames - run.frames) * (now - since) / (run.frames - first)
        updates = (settings.total_frames - settings.learning_starts) // settings.train_every * settings.updates
        return steps + updates * self._seconds_per_update()

    def _seconds_per_update(self) -> float:
        """Seconds of an update, by a few on what the replay holds; learner and random numbers are as before."""
        learner, replay, sums = self.run.learner, self.run.replay, MetricSums()
        noise = SeedNoise(self.run.seeds, learner.device)
        state = copy.deepcopy(learner.state_dict())

        def update() -> None:
            learner.learn(replay, noise.integers(len(replay), learner.settings.batch_size), noise, sums)

        device = torch.device(learner.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # TorchRL's losses draw from torch's
            for _ in range(learner.settings.policy_delay):
                update()  # not timed, as above
            start, times = time.perf_counter(), 0
            while times < 20 and time.perf_counter() - start < 0.3:
                update()
                times += 1
            each = (time.perf_counter() - start) / times
        learner.load_state_dict(state)
        return each


def _check_env(env: EnvBase, learner: TrainedAgents, seeds: Sequence[int]) -> None:
    if len(env.batch_size) != 2 or env.batch_size[0] != learner.seeds:
        raise ValueError(f"env must have the batch size ({learner.seeds}, N); got {tuple(env.batch_size)}")
    if len(seeds) != learner.seeds:
        raise ValueError(f"seeds must be one per agent, {learner.seeds}; got {list(seeds)}")
    action_space(env.action_spec, env.batch_size)


class GreedyPolicy(TensorDictModuleBase):
    """The agents' policies without exploration: `observation` (S, N, O) -> `action`; for `episode_returns`."""

    @checked()
    def __init__(self, learner: TrainedAgents):
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self.learner = learner
        self._modes: ModeKernels | None = None

    def mode_kernels(self) -> ModeKernels | None:
        """Kernels that act as this policy does; None where not all agents are compiled."""
        self._modes = self._modes or mode_kernels(self.learner)
        return self._modes

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.learner.act(tensordict["observation"])
        return tensordict.set("action", action.squeeze(-1) if self.learner.space.discrete else action)


class _Run:
    """The state of a run: frames done, the environments' last step, random numbers, and sums for the metrics."""

    def __init__(self, env: EnvBase, learner: TrainedAgents, seeds: Sequence[int], replay: Replay, failed: FailedSeeds):
        self.env, self.learner, self.replay, self.seeds, self.failed = env, learner, replay, list(seeds), failed
        self.games = games_of(env)
        self.noise = SeedNoise(seeds, learner.device)
        self.scheduled = scheduled(learner.settings)
        self.per_step = env.batch_size[1]  # transitions of each agent per environment step
        every = learner.settings.held_out_every
        self.held_out = None  # kept in memory and in the checkpoint
        if every:
            most = learner.settings.total_frames // every + self.per_step
            self.held_out = Replay(most, replay.widths, replay.space, seeds=learner.seeds)
        self.frames = 0
        self.compiled_steps = compiled_steps(env, learner, replay, self.noise)
        self._forget()

    def begin(self) -> None:
        """Reset the environments; after `load_state_dict` the reset returns their restored observations."""
        self.games.begin()
        self.started = time.perf_counter()

    def advance(self) -> None:
        """One step, or by kernels several, the last of which may be the first that anything is due after."""
        settings = self.learner.settings
        made = None
        if self.compiled_steps is not None and self.frames >= settings.learning_starts:
            every = (settings.log_every, settings.checkpoint_every, settings.total_frames)
            left = min(each - self.frames % each for each in every)
            made = self.compiled_steps.make(-(-left // self.per_step), self.sums)
        if made is None:
            self.step()
            return
        self.frames += made.steps * self.per_step
        self.games.observation = made.observation
        self._note_episodes(made.stepped)

    def step(self) -> None:
        """One step of every environment, and the updates that are due after it."""
        settings, learner = self.learner.settings, self.learner
        observation = self.games.observation  # (S, N, O)
        if self.frames < settings.learning_starts:
            action = learner.random_actions(self.per_step, self.noise)  # (S, N, A)
        else:
            action = learner.act(observation, self.noise)
        action = action.to(observation.device)
        following = self.games.step(action.squeeze(-1) if learner.space.discrete else action)
        ends = following["reward"], following["terminated"], following["observation"]
        self._kept_in().add(Transition(observation, action, *ends))
        self._note_episodes(following)
        before, self.frames = self.frames, self.frames + self.per_step
        if self.frames > settings.learning_starts:
            times = self.frames // settings.train_every - before // settings.train_every
            if times and self.scheduled:
                learner.anneal(1 - before / settings.total_frames)
            for _ in range(times * settings.updates):
                indices = self.noise.integers(len(self.replay), settings.batch_size)  # (S, B)
                learner.learn(self.replay, indices, self.noise, self.sums)

    def _kept_in(self) -> Replay:
        """The replay that gets this step's transitions."""
        every = self.learner.settings.held_out_every
        if self.held_out is None or every is None or (self.frames // self.per_step + 1) % every:
            return self.replay
        return self.held_out

    def metrics(self) -> dict[str, float]:
        """Means since the last call, without failed agents: losses over updates, returns over ended episodes.

        Transitions, losses and parameters since the last call are first checked for numbers that are not finite.

        Raises:
            NotFiniteError: all agents have failed.
        """
        self._check_steps()
        learned = self.sums.means()  # each (S,)
        self.failed.check(learned, f"by frame {self.frames:,}")
        self.check_weights(f"by frame {self.frames:,}")
        means = {name: each.tolist() for name, each in learned.items()}
        if self.held_out and "loss/critic" in means:
            indices = self.noise.integers(len(self.held_out), HELD_OUT_BATCH)  # (S, B)
            loss = self.learner.critic_loss(self.held_out.sample(indices), self.noise)  # (S,)
            means["loss/critic_held_out"] = loss.tolist()
        rows = [{name: each[index] for name, each in means.items()} for index in range(len(self.seeds))]
        episodes = zip(self.ended.tolist(), self.returns.tolist(), self.lengths.tolist(), strict=True)
        for row, (ended, returns, lengths) in zip(rows, episodes, strict=True):
            row["train/episodes"] = ended
            if ended:
                row |= {"train/episode_return": returns / ended, "train/episode_length": lengths / ended}
        metrics = seed_metrics(self.failed.kept(rows), self.seeds)
        if not hasattr(self.learner, "groups"):  # whose learning rates may differ
            left = 1 - max(0, self.frames - self.per_step) / self.learner.settings.total_frames  # at the last update
            metrics |= rate_metrics(self.learner.settings, left, self.learner.at)
        now = time.perf_counter()
        metrics["time/frames_per_second"] = (self.frames - self.logged) / (now - self.started)
        self.started = now
        self._forget()
        return metrics

    def check_weights(self, when: str) -> None:
        """Record agents with a parameter that is not finite as failed."""
        self.failed.check({f"parameter {name}": each for name, each in self.learner.weights().items()}, when)

    def _check_steps(self) -> None:
        """Record agents as failed whose stored rewards or observations since the last row are not all finite."""
        rewards, observations, frames = [], [], []
        for replay, looked in zip(self._kept(), self.looked, strict=True):
            new = replay.since(looked)
            rewards.append(new.reward)  # each (S, K, width)
            observations.append(torch.cat([new.observation, new.next_observation], -1))
            frames += self._frames_of(replay, new.reward.shape[1])
        order = sorted(range(len(frames)), key=frames.__getitem__)
        values = {"reward": torch.cat(rewards, 1)[:, order], "observation": torch.cat(observations, 1)[:, order]}
        self.failed.check_steps(values, sorted(frames))

    def _frames_of(self, replay: Replay, count: int) -> list[int]:
        """The frames after each of the last `count` transitions that went into the replay."""
        every, steps = self.learner.settings.held_out_every, self.frames // self.per_step
        numbers = range(1, steps + 1)  # the numbers of the steps stored in this replay
        if every and replay is self.held_out:
            numbers = numbers[every - 1 :: every]
        elif every:
            numbers = [number for number in numbers[-2 * count :] if number % every]
        return [self.per_step * numbers[-1 - back // self.per_step] for back in reversed(range(count))]

    def _kept(self) -> list[Replay]:
        return [self.replay] if self.held_out is None else [self.replay, self.held_out]

    def state_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "failed": self.failed.state_dict(),
            "learner": self.learner.state_dict(),
            "noise": self.noise.state_dict(),
            "env": self.env.state_dict(),
            "replay": self.replay.state_dict(),
            "held_out": self.held_out.state_dict() if self.held_out is not None else None,
            "rng": rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frames = state["frames"]
        self.failed.load_state_dict(state.get("failed", {}))  # absent before version 0.2
        self.learner.load_state_dict(state["learner"])
        self.noise.load_state_dict(state["noise"])
        self.env.load_state_dict(state["env"])
        self.replay.load_state_dict(state["replay"])
        if self.held_out is not None:
            self.held_out.load_state_dict(state["held_out"])
        set_rng_state(state["rng"])
        self._forget()

    def _note_episodes(self, following: Mapping[str, Tensor]) -> None:
        if self.games.observation is following["observation"]:
            return  # the usual case: no episode has ended
        done = following["done"]  # (S, N, 1)
        if done.any():
            self.ended += done.sum((1, 2))
            self.returns += torch.where(done, following["episode_reward"], 0.0).sum((1, 2))
            self.lengths += torch.where(done, following["step_count"], 0).sum((1, 2))

    def _forget(self) -> None:
        """Reset the sums for the next row of metrics."""
        self.sums = MetricSums()
        self.ended, self.returns, self.lengths = (torch.zeros(len(self.seeds)) for _ in range(3))  # (S,)
        self.logged, self.looked = self.frames, [replay.added for replay in self._kept()]
