"""Settings of SAC, TD3 and DDPG, each default with its source.

Sources: SU, OpenAI Spinning Up (https://spinningup.openai.com), the code of the actor-size study; zoo, the
hyper-parameters of RL Baselines3 Zoo (https://github.com/DLR-RM/rl-baselines3-zoo), the source of its settings; SB3,
the defaults of Stable-Baselines3, where the zoo gives none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from decouple.checks import POSITIVE_WHOLE, check_fields, check_setting, checked, positive_whole
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.heads import ActionSpace
from decouple.runs.learning_rates import check_rates
from decouple.runs.settings import with_defaults

__all__ = ["DDPGSettings", "OffPolicySettings", "SACSettings", "TD3Settings"]


@dataclass
class OffPolicySettings:
    """Settings that SAC, TD3 and DDPG have in common. Steps and frames count one agent's, not all seeds' together.

    The minimum of two critics underestimates; small actors then gather poor data, and their critics overfit it:
    Mastikhina et al., *Optimistic critics can empower small actors* (RLC 2025, https://arxiv.org/abs/2506.01016). A
    less pessimistic `target_aggregation` is the remedy: mean, or quantiles up to 1, the maximum. With transitions held
    out, `loss/critic_held_out` beside `loss/critic` shows how far the critic overfits.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    total_frames: int = 1_000_000  # environment steps of each agent (zoo, MuJoCo)
    learning_starts: int = 10_000  # steps with uniform actions before the first update (SU start_steps; zoo, MuJoCo)
    train_every: int = 1  # environment steps between updates (SB3; SU 50, with as many updates)
    updates: int = 1  # gradient steps after every train_every environment steps (SB3)
    batch_size: int = 256  # transitions of each agent per update (SB3; SU 100)
    buffer_size: int = 1_000_000  # transitions kept of each agent (SU, SB3)
    gamma: float = 0.99  # discount (SU, SB3)
    tau: float = 0.005  # share of the online network that the target takes on at each policy step (SU, SB3)
    policy_delay: int = 1  # critic steps per step of the policy and the targets
    target_aggregation: Any = "min"  # aggregate of the target critics: min (SU, SB3), mean, or a quantile in [0, 1]
    held_out_every: int | None = None  # every n-th step's transitions are held out of training; None: none are
    learning_rate: float = 3e-4  # Adam's learning rate, for policy, critics and temperature (SAC: SB3; SU 1e-3)
    learning_rates: dict[str, float] = field(default_factory=dict)  # rates of parts: trunk, policy, value, temperature
    schedule: str = "constant"  # the learning rate's course: constant, or linear, which falls to 0 at total_frames
    schedules: dict[str, str] = field(default_factory=dict)  # schedules of parts, where they differ
    adam_epsilon: float = 1e-8  # Adam's epsilon (PyTorch)
    max_grad_norm: float | None = None  # largest norm of each agent's gradient, per optimizer; None: any (SU, SB3)
    log_every: int = 1000  # steps between rows of metrics
    evaluate_every: int = 10_000  # steps between evaluations
    checkpoint_every: int = 10_000  # steps between checkpoints; a multiple of log_every

    def __post_init__(self) -> None:
        whole = ("total_frames", "train_every", "updates", "batch_size", "buffer_size", "policy_delay")
        for name in (*whole, "log_every", "evaluate_every", "checkpoint_every"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        allowed = f"a whole number in [0, {self.total_frames}), below total_frames, so that updates follow"
        check_setting("learning_starts", self.learning_starts, lambda v: v in range(self.total_frames), allowed)
        for name in ("gamma", "tau"):
            check_setting(name, getattr(self, name), lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("learning_rate", "adam_epsilon"):
            check_setting(name, getattr(self, name), lambda v: 0 < v < math.inf, "positive and finite")
        allowed = "min, mean, or a quantile in [0, 1]"
        check_setting("target_aggregation", self.target_aggregation, _aggregates, allowed)
        if self.held_out_every is not None:
            allowed = "a whole number, at least 2, or None"
            check_setting("held_out_every", self.held_out_every, lambda v: positive_whole(v) and v >= 2, allowed)
        if self.max_grad_norm is not None:
            check_setting("max_grad_norm", self.max_grad_norm, lambda v: v > 0, "positive, or None for no clipping")
        allowed = f"a multiple of log_every, {self.log_every}, so that a row is never half written"
        for name in ("evaluate_every", "checkpoint_every"):
            check_setting(name, getattr(self, name), lambda v: v % self.log_every == 0, allowed)
        allowed = f"a multiple of train_every, {self.train_every}"
        check_setting("log_every", self.log_every, lambda v: v % self.train_every == 0, allowed)
        check_fields(self)
        check_rates(self)

    @staticmethod
    def rated_parts() -> Sequence[str]:
        """The parts that have a learning rate; `value` is the critics."""
        return "trunk", "policy", "value"

    @checked()
    def check_model(self, model: ActorQValue) -> None:
        """Check that the algorithm can train this model; ValueError otherwise."""


def _aggregates(how: Any) -> bool:
    return how in ("min", "mean") or (isinstance(how, int | float) and not isinstance(how, bool) and 0 <= how <= 1)


@dataclass
class SACSettings(OffPolicySettings):
    """Settings of soft actor-critic, for continuous and discrete actions; entropies of actions in [-1, 1], in nats."""

    alpha: float | None = None  # temperature; None: learned (SB3; SU 0.2)
    alpha_init: float = 1.0  # first value of a learned temperature (SB3)
    target_entropy: float | None = None  # target of a learned temperature; None: -A, discrete 0.98 log n (TorchRL)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "alpha_init"):
            if getattr(self, name) is not None:
                check_setting(name, getattr(self, name), lambda v: 0 < v < math.inf, "positive and finite")

    @staticmethod
    def rated_parts() -> Sequence[str]:
        """Those of `OffPolicySettings`, and the temperature."""
        return *OffPolicySettings.rated_parts(), "temperature"

    @checked()
    def entropy_target(self, space: ActionSpace) -> float:
        """The target entropy of a learned temperature, in nats, for actions whose components lie in [-1, 1]."""
        if self.target_entropy is not None:
            return self.target_entropy
        return 0.98 * math.log(space.size) if space.discrete else -float(space.size)

    @checked()
    def check_model(self, model: ActorQValue) -> None:
        if model.deterministic or model.critics != 2:
            raise ValueError(
                "model must have a stochastic policy and a twin critic for SAC: actor_qvalue(twin_blocks=...)"
            )


@dataclass
@with_defaults(learning_rate=1e-3)  # (SU, SB3, zoo)
class DDPGSettings(OffPolicySettings):
    """Settings of deep deterministic policy gradient.

    Noise is added to actions in [-1, 1], so its unit is half the action's range, as in Fujimoto et al. 2018.
    """

    exploration_noise: float = 0.1  # standard deviation of the noise on actions while training (SU, zoo)
    target_noise: float = 0.0  # standard deviation of the noise on the target policy's actions; TD3's smoothing
    target_noise_clip: float = 0.5  # bound of the target noise

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("exploration_noise", "target_noise", "target_noise_clip"):
            check_setting(name, getattr(self, name), lambda v: 0 <= v < math.inf, "at least 0 and finite")

    @checked()
    def check_model(self, model: ActorQValue) -> None:
        if not model.deterministic:
            raise ValueError(
                "model must have a deterministic policy for DDPG and TD3: actor_qvalue(deterministic=True)"
            )


@dataclass
@with_defaults(policy_delay=2, target_noise=0.2, target_noise_clip=0.5)  # (SU, SB3)
class TD3Settings(DDPGSettings):
    """Settings of TD3 (twin delayed DDPG): DDPG with a twin critic, a delayed policy, smoothed targets."""

    @checked()
    def check_model(self, model: ActorQValue) -> None:
        super().check_model(model)
        if model.critics != 2:
            raise ValueError("model must have a twin critic for TD3: actor_qvalue(twin_blocks=...)")
