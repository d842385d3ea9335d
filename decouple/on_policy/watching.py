"""Checks of rollouts before training, and while it runs: for numbers that are not finite, and for a `clip_value` that
clips most values.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.envs import EnvBase

from decouple.checks import check_setting
from decouple.networks.actor_value import ActorValue
from decouple.networks.heads import action_space
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.compiled_collector import CompiledCollector
from decouple.on_policy.phases import RolloutPhase
from decouple.on_policy.rollouts import add_next_values
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.finite import FailedSeeds
from decouple.runs.performance import Performance, autocast

__all__ = ["ClipWatch", "WatchedRollouts", "check_rollouts", "check_weights"]


class WatchedRollouts:
    """Rollouts with the next frames' values, checked for numbers that are not finite.

    Args:
        collector: the training loop's collector.
        frames: frames of one agent in a rollout.
        model: the model that acts.
        how: performance settings.
        failed: record of the agents that have failed.
    """

    def __init__(
        self,
        collector: Collector | RolloutCollector | CompiledCollector,
        frames: int,
        model: ActorValue,
        how: Performance,
        failed: FailedSeeds,
    ):
        self.collector, self.frames, self.model, self.how, self.failed = collector, frames, model, how, failed
        self.rollouts = iter(collector)

    def next(self, iteration: int) -> TensorDictBase:
        """The rollout of this iteration, (N, T) or (S, N, T).

        Raises:
            NotFiniteError: all agents have failed.
        """
        before = iteration * self.frames
        try:
            rollout = self._collect()
        except Exception:
            self._blame(before)
            raise
        games = rollout.batch_size[-2]
        frames = range(before + games, before + self.frames + 1, games)
        following = [("next", key) for key in self.model.in_keys if rollout.get(("next", key), None) is not None]
        for keys in ([("next", "reward"), *following], self.model.in_keys):
            self.failed.check_steps({_last(key): _by_step(rollout, key) for key in keys}, frames)
        return rollout

    def _collect(self) -> TensorDictBase:
        if isinstance(self.collector, RolloutCollector):
            return next(self.rollouts)
        with autocast(next(self.model.parameters()).device, self.how.precision):
            rollout = next(self.rollouts)
            add_next_values(rollout, self.model.get_value_operator())
        return rollout

    def _blame(self, before: int) -> None:
        """Raise NotFiniteError if collecting may have failed because the last observation is not finite."""
        collector = self.collector
        at = collector.carrier if isinstance(collector, RolloutCollector) else getattr(collector.policy, "shown", None)
        if at is not None:
            shown = {_last(key): at.get(key) for key in self.model.in_keys}
            self.failed.check(shown, f"after frame {before:,}")


def _by_step(rollout: TensorDictBase, key: NestedKey) -> Tensor:
    """A key of a rollout (N, T) or (S, N, T), as (S, T, N, ...)."""
    values: Tensor = rollout.get(key)
    agents = rollout.batch_size[:-2].numel()
    return values.view(agents, *values.shape[rollout.ndim - 2 :]).transpose(1, 2)


def _last(key: NestedKey) -> str:
    return key if isinstance(key, str) else str(key[-1])


def check_weights(model: ActorValue, failed: FailedSeeds, when: str) -> None:
    """Record agents with a parameter that is not finite as failed; NotFiniteError where all have failed."""
    failed.check({f"parameter {name}": parameter for name, parameter in model.named_parameters()}, when)


class ClipWatch:
    """Warns once where `clip_value` has clipped more than half of the values in LASTING rollouts in a row.

    In the first rollouts it clips most values even with scaled rewards, since the first values are far from any return.
    """

    LASTING = 5

    def __init__(self, seeds: Sequence[int] | None):
        name = "value/clip_fraction"
        whose = {seed: f" of seed {seed}" for seed in seeds} if seeds else {None: ""}
        several = len(whose) > 1  # then `seed_metrics` adds the seed to the name
        self.names = {f"{name}/seed{seed}" if several else name: text for seed, text in whose.items()}
        self.rollouts = dict.fromkeys(self.names, 0)
        self.warned = False

    def see(self, metrics: Mapping[str, float]) -> None:
        """Take in a rollout's metrics; without a value phase they change nothing."""
        shares = {name: metrics[name] for name in self.names if name in metrics}
        for name, share in shares.items():
            self.rollouts[name] = self.rollouts[name] + 1 if share > 0.5 else 0
        lasting = [name for name in shares if self.rollouts[name] >= self.LASTING]
        if lasting and not self.warned:
            self.warned = True
            found = ", ".join(f"{shares[name]:.0%}{self.names[name]}" for name in lasting)
            warnings.warn(
                f"clip_value clips most of a rollout's values ({found}), for {self.LASTING} rollouts in a row: the "
                "value network learns little. Set clip_value to None (null on the command line) or larger; 0.2 is "
                "for scaled rewards (normalize_reward=true on control tasks, RewardScaling)",
                stacklevel=3,
            )


def check_rollouts(env: EnvBase, model: ActorValue, phases: Sequence[RolloutPhase], settings: OnPolicySettings) -> None:
    """Check that the model can choose the games' actions and that rollouts have enough frames; ValueError otherwise."""
    if isinstance(env.action_spec, Bounded | Categorical | OneHot | Unbounded):  # others: the caller's own model
        action_space(env.action_spec, env.batch_size)
    games = env.batch_size[-1]
    settings.check_rollout(games)
    frames = games * settings.rollout_steps
    rows, allowed = frames, f"at most the {frames} frames of a rollout"
    if model.recurrent:
        length, steps = settings.sequence_length, settings.rollout_steps
        check_setting("sequence_length", length, lambda v: steps % v == 0, f"a divisor of rollout_steps, {steps}")
        rows = frames // length
        allowed = f"at most the {rows} sequences of {length} steps in a rollout, since the model is recurrent"
    for phase in phases:
        past = getattr(phase, "past", 1)
        more = f", of which {phase.name} learns from {past} together" if past > 1 else ""
        check_setting("minibatches", phase.minibatches, lambda v, most=rows * past: v <= most, allowed + more)
