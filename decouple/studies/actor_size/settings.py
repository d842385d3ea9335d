"""Settings of the actor-size study: the task, the two networks, the record, and an algorithm's own.

    TD3Control(env="pendulum", actor=[4, 4], critic=[16, 16], seeds=6, gamma=0.98)
    CONTROL_ALGORITHMS["td3"]               # the same by its name

After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from decouple.checks import PROBABILITY, at_least, check_fields, check_setting, checked, positive_whole
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings, TD3Settings
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.algorithms.trpo import TRPOSettings
from decouple.on_policy.settings import OnPolicySettings

__all__ = [
    "CONTROL_ALGORITHMS",
    "ControlSettings",
    "DDPGControl",
    "PPOControl",
    "SACControl",
    "TD3Control",
    "TRPOControl",
    "sizes_name",
]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU}
# Added to an agent's seed: episodes that it does not train on, after training and during it.
FINAL_SEED, EVALUATION_SEED = 1_000_000, 2_000_000


@dataclass
class ControlSettings:
    """The task, the two networks and the record, beside the settings of an algorithm.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    # toy, pendulum, acrobot, reacher, halfcheetah, ant, pong, pixelcopter, foodcollector, or a Gymnasium id
    env: str = "pendulum"
    file_name: str | None = None  # of env=unity: the executable of a Unity build (docs/unity.md)
    algorithm: str = "sac"  # sac, td3, ddpg, ppo or trpo
    actor: list[int] = field(default_factory=lambda: [256, 256])  # hidden layers of the policy; []: one linear layer
    critic: list[int] = field(default_factory=lambda: [256, 256])  # hidden layers of the value network
    separation: Any = "full"  # k: the value network uses the policy's first k hidden layers; full: 0
    policy_gradient: float = 0.0  # scale of the policy's gradient into a shared trunk
    value_gradient: float = 1.0  # scale of the value's gradient into it
    actor_activation: str = "relu"  # relu, tanh, elu, silu or leaky_relu
    critic_activation: str = "relu"
    actor_gain: float | None = None  # of hidden layers' orthogonal initialisation; None: PyTorch's own
    critic_gain: float | None = None
    actor_head_gain: float | None = None  # the same for the last layer
    critic_head_gain: float | None = None
    seeds: int = 1  # agents, trained as one batch
    seed: int = 0  # of the first agent; the others have the next numbers
    num_envs: int = 1  # environments of each agent
    frame_skip: int = 1  # of pong, pixelcopter and foodcollector: steps of the game in one
    backend: str = "auto"  # of Gymnasium's tasks: auto, gymnasium, batched or envpool; see `control_env`
    normalize_observation: bool = False  # by each agent's running mean and standard deviation
    normalize_reward: bool = False  # by the running standard deviation of each agent's discounted return
    num_threads: int | None = None  # of PyTorch; None: 1 for networks as small as these, all where they are wide
    update: str = "batched"  # batched, or torchrl: TorchRL's own losses, for one agent
    evaluate_episodes: int = 10  # of each agent, during training
    final_episodes: int = 100  # of each agent, after training
    keep_replay: bool = False  # whether the replay file outlives the run, so that a longer total_frames can go on
    run_dir: str = "runs/control"  # the run's folder
    restart: bool = False  # begin anew; what is in run_dir is kept beside it, as <run_dir>.1 and so on
    tracker: str | None = None  # local or wandb; None: wandb under a W&B agent, else local
    mode: str = "offline"  # of wandb: offline or online
    show_progress: bool = True  # on stderr

    def __post_init__(self) -> None:
        own = type(self) is not ControlSettings  # an algorithm's, with settings of its own to check
        if own:
            super().__post_init__()
        gains = dict.fromkeys(("actor_gain", "critic_gain", "actor_head_gain", "critic_head_gain"), at_least(0))
        check_fields(self, policy_gradient=PROBABILITY, value_gradient=PROBABILITY, **gains)
        names = [name for name, kind in CONTROL_ALGORITHMS.items() if type(self) is kind]
        check_setting(
            "algorithm", self.algorithm, lambda v: not own or v in names, f"{names} for {type(self).__name__}"
        )
        most = 2**31 - EVALUATION_SEED - self.seeds - getattr(self, "total_frames", 0)
        check_setting("seed", self.seed, lambda v: 0 <= v < most, f"in [0, {most:,}): evaluations count on from it")
        for name in ("seeds", "num_envs", "frame_skip", "evaluate_episodes", "final_episodes"):
            check_setting(name, getattr(self, name), positive_whole, "a whole number, at least 1")
        if isinstance(self, OnPolicySettings):
            self.check_rollout(self.num_envs)
        if self.num_threads is not None:
            check_setting("num_threads", self.num_threads, positive_whole, "a whole number, at least 1, or None")
        for name in ("actor", "critic"):
            check_setting(name, getattr(self, name), lambda v: all(map(positive_whole, v)), "a list of positive sizes")
        depth = min(len(self.actor), len(self.critic))
        whole = isinstance(self.separation, int | np.integer) and not isinstance(self.separation, bool)
        known = isinstance(self.separation, str) or (whole and 0 <= self.separation <= depth)
        allowed = f"a name or a whole number in [0, {depth}], the hidden layers of the smaller network"
        check_setting("separation", self.separation, lambda _: known, allowed)
        for name in ("actor_activation", "critic_activation"):
            check_setting(name, getattr(self, name), ACTIVATIONS.__contains__, f"one of {sorted(ACTIVATIONS)}")
        check_setting("restart", self.restart, lambda v: isinstance(v, bool), "true or false")
        check_setting("update", self.update, ("batched", "torchrl").__contains__, "batched or torchrl")
        if self.update == "torchrl" and (self.seeds > 1 or not isinstance(self, OffPolicySettings)):
            raise ValueError(f"update must be batched for more than one seed and for {self.algorithm}; got 'torchrl'")

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))


@dataclass
class SACControl(ControlSettings, SACSettings):
    """SAC on a control task."""

    algorithm: str = "sac"


@dataclass
class TD3Control(ControlSettings, TD3Settings):
    """TD3 on a control task."""

    algorithm: str = "td3"
    actor: list[int] = field(default_factory=lambda: [400, 300])
    critic: list[int] = field(default_factory=lambda: [400, 300])


@dataclass
class DDPGControl(ControlSettings, DDPGSettings):
    """DDPG on a control task."""

    algorithm: str = "ddpg"
    actor: list[int] = field(default_factory=lambda: [400, 300])
    critic: list[int] = field(default_factory=lambda: [400, 300])


@dataclass
class PPOControl(ControlSettings, OnPolicySettings):
    """PPO on a control task; defaults are OpenAI Baselines' ppo2 for MuJoCo, but a constant learning rate.

    Values are clipped where rewards are normalised, as there: with `clip_value` left at `auto` it becomes 0.2 with
    `normalize_reward` and None without, and holds that from then on.
    """

    algorithm: str = "ppo"
    actor: list[int] = field(default_factory=lambda: [64, 64])
    critic: list[int] = field(default_factory=lambda: [64, 64])
    policy_gradient: float = 1.0
    actor_activation: str = "tanh"
    critic_activation: str = "tanh"
    actor_gain: float | None = 2**0.5
    critic_gain: float | None = 2**0.5
    actor_head_gain: float | None = 0.01
    critic_head_gain: float | None = 1.0
    total_frames: int = 1_000_000
    rollout_steps: int = 2048
    gamma: float = 0.99
    learning_rate: float = 3e-4
    clip_value: Any = "auto"  # of the value's change since the rollout; None: no clipping
    entropy_coeff: float = 0.0
    minibatches: int = 32
    epochs: int = 10
    micro_batch: int = 1_000_000

    def __post_init__(self) -> None:
        if isinstance(self.clip_value, str) and self.clip_value == "auto":
            self.clip_value = 0.2 if self.normalize_reward is True else None
        super().__post_init__()

    @staticmethod
    def algorithms() -> Mapping[str, Any]:
        """PPO alone: the other algorithms of `OnPolicySettings` train one agent that is not stacked."""
        return {"ppo": ppo_phases}


@dataclass
class TRPOControl(ControlSettings, TRPOSettings):
    """TRPO on a control task."""

    algorithm: str = "trpo"
    actor: list[int] = field(default_factory=lambda: [64, 64])
    critic: list[int] = field(default_factory=lambda: [64, 64])
    actor_activation: str = "tanh"
    critic_activation: str = "tanh"


# The one place where an algorithm's name becomes settings.
CONTROL_ALGORITHMS: dict[str, type[ControlSettings]] = {
    "sac": SACControl,
    "td3": TD3Control,
    "ddpg": DDPGControl,
    "ppo": PPOControl,
    "trpo": TRPOControl,
}

# What a checkpoint need not share with the run that continues it.
NOT_IDENTITY = {
    *("total_frames", "evaluate_every", "evaluate_episodes", "final_episodes", "micro_batch"),
    *("run_dir", "restart", "tracker", "mode", "show_progress", "keep_replay", "num_threads"),
}


@checked()
def sizes_name(sizes: Sequence[int]) -> str:
    """Hidden layers as a name: `16x16`; `linear` where there are none, and `1` is one hidden layer of one unit."""
    return "x".join(map(str, sizes)) or "linear"
