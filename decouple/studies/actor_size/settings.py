"""Settings of a run of the actor-size study: the task, the two networks, the record, and the algorithm's own as a part.

    config = TD3Control(env="pendulum", actor=[4, 4], gamma=0.98)       # decouple.studies.actor_size.algorithms
    config.env, config.actor                                            # the run's own settings
    config.learning.gamma                                               # the algorithm's

After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from decouple.checks import (
    INT32_MAX,
    POSITIVE_WHOLE,
    PROBABILITY,
    all_of,
    at_least,
    check_fields,
    check_setting,
    checked,
    one_of,
    positive_whole,
)
from decouple.envs.control.catalogue import TASKS
from decouple.envs.games.batched import GAMES
from decouple.networks.heads import DISTRIBUTIONS
from decouple.networks.separation import NAMES
from decouple.off_policy.settings import OffPolicySettings, SACSettings
from decouple.on_policy.settings import OnPolicySettings, check_memory
from decouple.runs.loggers import OF_THE_RECORD, Tracking
from decouple.runs.settings import part, points_to_part, sets_own_fields

__all__ = [
    "ACTIVATIONS",
    "EVALUATION_SEED",
    "FINAL_SEED",
    "NOT_IDENTITY",
    "OF_TEST_LEVELS",
    "ControlSettings",
    "settings_key",
    "sizes_name",
]

BACKBONES = ("auto", "none", "impala", "nature")
VECTORS = ("toy", "unity", *TASKS, *GAMES)  # tasks without a picture
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU}
# Offsets of an agent's seed in evaluations, after training and during it: it does not train on these episodes.
FINAL_SEED, EVALUATION_SEED = 1_000_000, 2_000_000

LEARNED = "learned"  # the separation that gates choose
OF_TEST_LEVELS = ("num_levels", "train_kwargs", "test_kwargs")  # by which agents are tested on another task
DEVICES = re.compile(r"cpu|cuda(:\d+)?|auto")

# Settings in which a checkpoint and the run that continues it may differ.
NOT_IDENTITY = {
    *("total_frames", "evaluate_every", "evaluate_episodes", "final_episodes", "micro_batch"),
    *("run_dir", "restart", "show_progress", "keep_replay", "video", "num_threads", *OF_THE_RECORD),
    *("rollouts_in", "keep_rollouts", "device", "env_workers", "measure_branches"),
}


@dataclass
class ControlSettings:
    """Settings of a run: the task, the two networks and the record, with an algorithm's own settings as a part.

    Algorithms depart from some defaults: see `decouple.studies.actor_size.algorithms`.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    learning: OffPolicySettings | OnPolicySettings = part(SACSettings, without=["algorithm"])  # algorithm's settings
    # toy, pendulum, acrobot, reacher, halfcheetah, ant, pong, pixelcopter, foodcollector, unity, a Gymnasium id, or a
    # function of a module that makes an environment of Gymnasium's or TorchRL's, as my_package.module:make
    env: str = "pendulum"
    env_kwargs: dict[str, Any] = field(default_factory=dict)  # keyword arguments of a Gymnasium environment
    train_kwargs: dict[str, Any] = field(default_factory=dict)  # further ones of the environments of training alone
    test_kwargs: dict[str, Any] = field(default_factory=dict)  # further ones of environments to test on; see num_levels
    # number of training levels: each reset takes one of the seeds from start_level on, and tests take others; 0: all
    num_levels: int = 0
    start_level: int = 0  # first training level
    # Gymnasium wrappers around the environment, as module:Wrapper or "module:Wrapper(size=42)", the innermost first
    wrappers: list[str] = field(default_factory=list)
    frame_stack: int = 1  # observations of so many steps together, by Gymnasium's wrapper, around those
    # blocks that read pictures, before the hidden layers: impala, nature, a function as my_package.module:blocks; none:
    # pictures are vectors of pixels; auto: impala where there is a picture
    backbone: str = "auto"
    # keys of the observation, a Dict, that the value network alone reads, behind the cut; on-policy algorithms
    privileged: list[str] = field(default_factory=list)
    file_name: str | None = None  # the executable of a Unity build, for env=unity (docs/unity.md)
    algorithm: str = "sac"  # sac, td3, ddpg, ppo, daac, idaac, ppg, dcpg, ddcpg, dna or trpo
    actor: list[int] = field(default_factory=lambda: [256, 256])  # hidden layers of the policy; []: one linear layer
    critic: list[int] = field(default_factory=lambda: [256, 256])  # hidden layers of the value network
    # gru or lstm: one hidden layer of each network is recurrent, for PPO, DAAC and TRPO; null: none
    recurrent: str | None = None
    recurrent_in: str = "both"  # the networks whose layer is recurrent: both, actor or critic
    recurrent_layer: int = -1  # index of the recurrent hidden layer; -1: the last
    # k: the value network uses the policy's first k hidden layers; full: 0; learned: gates choose k (docs/learned.md)
    separation: Any = "full"
    policy_gradient: float = 0.0  # scale of the policy's gradient into a shared trunk
    value_gradient: float = 1.0  # scale of the value's gradient into a shared trunk
    # distribution of on-policy algorithms' continuous actions: squashed_normal, between the bounds; normal,
    # whose actions the task clips; auto: squashed_normal where there are bounds
    distribution: str = "auto"
    actor_activation: str = "relu"  # activation of the actor: relu, tanh, elu, silu or leaky_relu
    critic_activation: str = "relu"  # activation of the critic, one of the same
    actor_gain: float | None = None  # gain of the actor's hidden layers, initialised orthogonally; None: PyTorch's own
    critic_gain: float | None = None  # gain of the critic's hidden layers, likewise
    actor_head_gain: float | None = None  # gain of the actor's last layer, likewise
    critic_head_gain: float | None = None  # gain of the critic's last layer, likewise
    seeds: int = 1  # number of agents, trained as one batch
    seed: int = 0  # seed of the first agent; the others have the next numbers
    num_envs: int = 1  # number of environments of each agent
    frame_skip: int = 1  # game steps in an environment step of pong, pixelcopter and foodcollector
    backend: str = "auto"  # what steps Gymnasium's tasks: auto, gymnasium, batched or envpool (docs/control.md)
    normalize_observation: bool = False  # normalise by each agent's running mean and standard deviation
    normalize_reward: bool = False  # divide by the running standard deviation of each agent's discounted return
    # device of the networks and their updates: cpu, cuda, cuda:<n>, or auto, cuda where there is a GPU
    device: str = "cpu"
    env_workers: int = 1  # processes that step the environments of training and evaluation; Gymnasium's own alone
    num_threads: int | None = None  # threads of PyTorch; None: 1 for small networks, all of them for wide ones
    update: str = "auto"  # code of the update: compiled, batched, torchrl (one agent), or auto: compiled, else batched
    evaluate_episodes: int = 10  # episodes of each agent in an evaluation during training
    final_episodes: int = 100  # episodes of each agent in the final evaluation
    # at each evaluation, measure how alike the two branches' last hidden features are (CKA), and their effective ranks,
    # on 512 of each on-policy agent's own states (docs/separation.md)
    measure_branches: bool = False
    video: bool = False  # draw the first agent at play after training (docs/watch.md)
    keep_replay: bool = False  # keep the replay file after the run, so that a longer total_frames can go on
    run_dir: str = "runs/control"  # the run's folder
    restart: bool = False  # start over; the old run_dir is kept beside it, as <run_dir>.1 and so on
    tracked: Tracking = part(Tracking)  # loggers beside the run's own files
    show_progress: bool = True  # show progress on stderr

    def __post_init__(self) -> None:
        gains = dict.fromkeys(("actor_gain", "critic_gain", "actor_head_gain", "critic_head_gain"), at_least(0))
        check_fields(self, policy_gradient=PROBABILITY, value_gradient=PROBABILITY, **gains)
        says = "a dict of the environment's keyword arguments, each a plain value"
        for name in ("env_kwargs", "train_kwargs", "test_kwargs"):
            check_setting(name, getattr(self, name), _plain, says)
        levels = f"in [0, {INT32_MAX - 1:,}), the last level too"
        check_setting("num_levels", self.num_levels, lambda n: 0 <= n < INT32_MAX - 1 - self.start_level, levels)
        check_setting("start_level", self.start_level, lambda n: 0 <= n < INT32_MAX - 1, levels)
        known = self.backbone in BACKBONES or ":" in self.backbone
        check_setting("backbone", self.backbone, lambda _: known, f"{', '.join(BACKBONES)} or my_package.module:blocks")
        most = 2**31 - EVALUATION_SEED - self.seeds - self.learning.total_frames
        check_setting("seed", self.seed, lambda v: 0 <= v < most, f"in [0, {most:,}): evaluations count on from it")
        positive = ("seeds", "num_envs", "frame_skip", "frame_stack", "evaluate_episodes", "final_episodes")
        for name in (*positive, "env_workers"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        check_setting("device", self.device, DEVICES.fullmatch, "cpu, cuda, cuda:<n> or auto")
        self._check_privileged()
        if self.num_threads is not None:
            check_setting("num_threads", self.num_threads, positive_whole, "a whole number, at least 1, or None")
        self._check_networks()
        self._check_memory()
        self._check_branches()
        check_setting(
            "video", self.video, lambda v: not (v and self.env in ("toy", "unity")), f"false for env={self.env}"
        )
        check_setting("restart", self.restart, lambda v: isinstance(v, bool), "true or false")
        check_setting("distribution", self.distribution, one_of(*DISTRIBUTIONS))
        if self.distribution != "auto" and not isinstance(self.learning, OnPolicySettings):
            raise ValueError(f"distribution must be auto for {self.algorithm}; got {self.distribution!r}")
        updates = ("auto", "compiled", "batched", "torchrl")
        check_setting("update", self.update, updates.__contains__, f"one of {', '.join(updates)}")
        if isinstance(self.learning, OnPolicySettings):
            self.learning.check_rollout(self.num_envs)
        if self.update == "torchrl" and (self.seeds > 1 or isinstance(self.learning, OnPolicySettings)):
            raise ValueError(f"update must be auto for more than one seed and for {self.algorithm}; got 'torchrl'")

    def _check_privileged(self) -> None:
        once = "keys of the observation, each once"
        check_setting("privileged", self.privileged, lambda keys: len(set(keys)) == len(keys), once)
        allowed = (
            f"left out for {self.algorithm}, whose replay keeps the observation alone: on-policy algorithms read it"
        )
        off_policy = isinstance(self.learning, OffPolicySettings)
        check_setting("privileged", self.privileged, lambda keys: not (keys and off_policy), allowed)

    def _check_memory(self) -> None:
        if not check_memory(self.recurrent, self.recurrent_in, self.algorithm):
            return
        which = [name for name in ("actor", "critic") if self.recurrent_in in ("both", name)]
        for name in which:
            depth = len(getattr(self, name))
            allowed = f"an index of the {name}'s {depth} hidden layers"
            check_setting("recurrent_layer", self.recurrent_layer, lambda v, d=depth: -d <= v < d, allowed)

    def _check_gates(self) -> None:
        learns = isinstance(self.learning, OnPolicySettings) and self.algorithm != "trpo"
        check_setting("separation", self.separation, lambda _: learns, f"a number or full for {self.algorithm}")
        check_setting("recurrent", self.recurrent, lambda v: v is None, "null with separation=learned")
        sizes = "of equal sizes with separation=learned: gates mix their layers"
        depth = min(len(self.actor), len(self.critic))
        same = self.actor[:depth] == self.critic[:depth] and (depth or self.may_have_pictures)
        check_setting("critic", self.critic, lambda _: same, f"like actor {self.actor}, {sizes}")
        check_setting("policy_gradient", self.policy_gradient, lambda v: v == 1, "1 with separation=learned")

    def _check_branches(self) -> None:
        on_policy = isinstance(self.learning, OnPolicySettings)
        wrong = (
            (not on_policy, f"for {self.algorithm}, whose critic reads the action too"),
            (self.separation == LEARNED, "with separation=learned, whose gates mix the branches"),
            (self.recurrent is not None, "with recurrent layers, whose features depend on the states before"),
            (not (self.actor and self.critic), "where actor or critic has no hidden layer"),
        )
        for holds, why in wrong:
            check_setting("measure_branches", self.measure_branches, lambda v, no=holds: not (v and no), f"false {why}")

    def _check_networks(self) -> None:
        for name in ("actor", "critic"):
            check_setting(name, getattr(self, name), lambda v: all(map(positive_whole, v)), "a list of positive sizes")
        depth = min(len(self.actor), len(self.critic))
        digits = isinstance(self.separation, str) and self.separation.isdecimal()
        at: Any = int(self.separation) if digits else self.separation
        most = math.inf if self.may_have_pictures else depth  # how many blocks read pictures, only the task tells
        whole = isinstance(at, int | np.integer) and not isinstance(at, bool)
        known = 0 <= at <= most if whole else at in (*NAMES, LEARNED)
        names = ", ".join((*NAMES, LEARNED))
        allowed = f"one of {names} or a whole number in [0, {depth}], the hidden layers of the smaller network"
        check_setting("separation", self.separation, lambda _: known, allowed)
        if self.separation == LEARNED:
            self._check_gates()
        for name in ("actor_activation", "critic_activation"):
            check_setting(name, getattr(self, name), ACTIVATIONS.__contains__, f"one of {sorted(ACTIVATIONS)}")

    if not TYPE_CHECKING:  # a type checker knows better what there is
        __getattr__, __setattr__ = points_to_part, sets_own_fields

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def may_have_pictures(self) -> bool:
        """Whether the task may show pictures that blocks of their own read."""
        return self.backbone != "none" and self.env not in VECTORS

    @property
    def has_test_levels(self) -> bool:
        """Whether agents are tested on other levels, or another environment, than they are trained on."""
        return any(getattr(self, name) for name in OF_TEST_LEVELS)

    @property
    def frames_per_iteration(self) -> int:
        """Frames of each agent in one iteration: off policy one step of its environments, on policy a rollout."""
        return self.num_envs * getattr(self.learning, "rollout_steps", 1)


@checked()
def settings_key(settings: str) -> str:
    """Hash of a cell's settings, eight hexadecimal digits: the name of the folder that the runs of its study are in."""
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


@checked(sizes=all_of(at_least(1)))
def sizes_name(sizes: Sequence[int]) -> str:
    """Hidden layers as a name: `16x16`; `linear` where there are none, and `1` is one hidden layer of one unit."""
    return "x".join(map(str, sizes)) or "linear"


def _plain(value: object) -> bool:
    """Whether a value can be kept as YAML and JSON and be the same again."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(of) for key, of in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
