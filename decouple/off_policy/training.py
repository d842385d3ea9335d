"""Off-policy training of S agents at once: act, remember, update.

    learner = Learner([make_model(seed) for seed in seeds], TD3Settings(total_frames=20_000))
    train_off_policy(env, learner, seeds=seeds, log=lambda metrics, frames: print(frames, metrics))

The environment has the batch size (S, N): N environments of each of S seeds. Each agent's numbers are those it would
have alone with its seed; frames count the steps of one agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import ANY_NUMBER, checked
from decouple.networks.heads import action_space
from decouple.off_policy.learners import TrainedAgents
from decouple.off_policy.replay import Replay, Transition, Widths
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.seeding import SeedNoise, rng_state, seed_metrics, set_rng_state

__all__ = ["GreedyPolicy", "replay_for", "train_off_policy"]

HELD_OUT_BATCH = 1024  # transitions of each agent that were kept from training, to measure the critic on


@checked()
def replay_for(env: EnvBase, learner: TrainedAgents, path: str | Path | None = None) -> Replay:
    """The replay that the learner's settings ask for, in memory or in the file at `path`."""
    settings, per_step = learner.settings, env.batch_size[1]
    widths = Widths(env.observation_spec["observation"].shape[-1], 1 if learner.space.discrete else learner.space.size)
    capacity = min(settings.buffer_size, -(-settings.total_frames // per_step) * per_step)
    slack = settings.checkpoint_every + per_step
    return Replay(capacity, widths, learner.space, seeds=learner.seeds, path=path, slack=slack)


@checked(seeds=ANY_NUMBER)
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
    failed: FailedSeeds | None = None,
) -> int:
    """Train until each agent has made `total_frames` steps, going on from `checkpoint` where that file exists.

    Args:
        env: (S, N), with `observation` (S, N, O), scalar `reward` (S, N, 1), `episode_reward` and `step_count`. A run
            resumes exactly where its `state_dict` holds all its state, as those of `control_env` do.
        learner: the agents, with the settings of the loop.
        seeds: one per agent; of exploration, replay and the losses' noise. Parameters and environments have their own.
        log: called with metrics and the frames so far, every `log_every` frames. With several seeds each metric is
            their mean, and `<metric>/seed<seed>` each one's own.
        evaluate: called with the frames so far, every `evaluate_every` frames and at the end.
        replay: from `replay_for`; a file if a killed run is to go on with it. None: memory, kept in the checkpoint.
        checkpoint: file written at the start, every `checkpoint_every` frames and at the end, atomically.
        identity: settings that a checkpoint must share with this run to be continued; stored in it.
        on_checkpoint: called after each checkpoint.
        record: called before each checkpoint for what it should say of the files beside it, `Tracker.marks`.
        failed: takes note of the agents in which a reward, an observation, a loss or a parameter is not finite; of the
            same seeds. They have no metrics from then on, and stay so when the run goes on from a checkpoint.

    Returns:
        The frames of each agent.

    Raises:
        NotFiniteError: all agents have failed; the last checkpoint is of the time before.
        ValueError: an environment that is not (S, N), or whose games do not each take one action of those that
            `action_space` allows; or seeds that are not one per agent.
        CheckpointError: a checkpoint that is damaged or of other settings.
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
        save()  # from here on the folder says what run it belongs to
    run.begin()
    settings, before = learner.settings, run.frames

    def due(every: int) -> bool:
        return run.frames >= settings.total_frames or run.frames // every > before // every

    while run.frames < settings.total_frames:
        before = run.frames
        run.step()
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

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.learner.act(tensordict["observation"])
        return tensordict.set("action", action.squeeze(-1) if self.learner.space.discrete else action)


class _Run:
    """Where a run stands: frames done, the environments' last step, random numbers, and sums of what is logged."""

    def __init__(self, env: EnvBase, learner: TrainedAgents, seeds: Sequence[int], replay: Replay, failed: FailedSeeds):
        self.env, self.learner, self.replay, self.seeds, self.failed = env, learner, replay, list(seeds), failed
        self.noise = SeedNoise(seeds)
        self.per_step = env.batch_size[1]  # transitions of each agent
        every = learner.settings.held_out_every
        self.held_out = None  # in memory, and in the checkpoint
        if every:
            most = learner.settings.total_frames // every + self.per_step
            self.held_out = Replay(most, replay.widths, replay.space, seeds=learner.seeds)
        self.frames = 0
        self._forget()

    def begin(self) -> None:
        """Reset the environments, or go on with what `load_state_dict` gave back to them."""
        self.now = self.env.reset()
        self.started = time.perf_counter()

    def step(self) -> None:
        """One step of every environment, and the updates that are due after it."""
        settings, learner = self.learner.settings, self.learner
        observation = self.now["observation"]  # (S, N, O)
        if self.frames < settings.learning_starts:
            action = learner.random_actions(self.per_step, self.noise)  # (S, N, A)
        else:
            action = learner.act(observation, self.noise)
        self.now["action"] = action.squeeze(-1) if learner.space.discrete else action
        step, self.now = self.env.step_and_maybe_reset(self.now)
        following = step["next"]
        ends = following["reward"], following["terminated"], following["observation"]
        self._kept_in().add(Transition(observation, action, *ends))
        self._note_episodes(following)
        before, self.frames = self.frames, self.frames + self.per_step
        if self.frames > settings.learning_starts:
            times = self.frames // settings.train_every - before // settings.train_every
            for _ in range(times * settings.updates):
                indices = self.noise.integers(len(self.replay), settings.batch_size)  # (S, B)
                for name, value in learner.update(self.replay.sample(indices), self.noise).items():
                    total, count = self.sums.get(name, (0.0, 0))
                    self.sums[name] = (value + total, count + 1)

    def _kept_in(self) -> Replay:
        """Where this step's transitions go."""
        every = self.learner.settings.held_out_every
        if self.held_out is None or every is None or (self.frames // self.per_step + 1) % every:
            return self.replay
        return self.held_out

    def metrics(self) -> dict[str, float]:
        """Means since the last call, of the agents that have not failed: losses over updates, returns over the episodes
        that ended. Looks first at what has come in and what has been learned since then.

        Raises:
            NotFiniteError: all agents have failed.
        """
        self._check_steps()
        learned = {name: total / count for name, (total, count) in self.sums.items()}  # each (S,)
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
        now = time.perf_counter()
        metrics["time/frames_per_second"] = (self.frames - self.logged) / (now - self.started)
        self.started = now
        self._forget()
        return metrics

    def check_weights(self, when: str) -> None:
        """Fail the agents of which a parameter is not finite."""
        self.failed.check({f"parameter {name}": each for name, each in self.learner.weights().items()}, when)

    def _check_steps(self) -> None:
        """Fail the agents whose rewards or observations since the last row are not all finite, as they are kept."""
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
        numbers = range(1, steps + 1)  # of the steps that went there
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
        self.failed.load_state_dict(state.get("failed", {}))  # not there before version 0.2
        self.learner.load_state_dict(state["learner"])
        self.noise.load_state_dict(state["noise"])
        self.env.load_state_dict(state["env"])
        self.replay.load_state_dict(state["replay"])
        if self.held_out is not None:
            self.held_out.load_state_dict(state["held_out"])
        set_rng_state(state["rng"])
        self._forget()

    def _note_episodes(self, following: TensorDictBase) -> None:
        done = following["done"]  # (S, N, 1)
        if done.any():
            self.ended += done.sum((1, 2))
            self.returns += torch.where(done, following["episode_reward"], 0.0).sum((1, 2))
            self.lengths += torch.where(done, following["step_count"], 0).sum((1, 2))

    def _forget(self) -> None:
        """Begin the next row."""
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.ended, self.returns, self.lengths = (torch.zeros(len(self.seeds)) for _ in range(3))  # (S,)
        self.logged, self.looked = self.frames, [replay.added for replay in self._kept()]
