"""One cell of the actor-size study: S agents of one algorithm, actor size and critic size on one task.

    result = train_agents(TD3Control(env="pendulum", actor=[4, 4], critic=[16, 16], seeds=6, run_dir="runs/one"))
    result["final/return"], result["final/return/seed0"]

The agents train as one batch, are evaluated without exploration, and recorded in `run_dir`; the same settings started
again go on from the last checkpoint. After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase

from decouple.analysis.evaluation import episode_returns
from decouple.checks import PROBABILITY, SOME, at_least, check_fields, check_setting, checked, positive_whole
from decouple.envs.control.tasks import control_env
from decouple.envs.games.batched import GAMES, games_env
from decouple.envs.toy import goal_tracking_env
from decouple.envs.unity.build import unity_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import Concatenate, mlp_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.heads import action_space
from decouple.networks.separation import separate, separation_index
from decouple.networks.stacking import stack, unstack
from decouple.off_policy.learner import Learner
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, SACSettings, TD3Settings
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.off_policy.training import GreedyPolicy, replay_for, train_off_policy
from decouple.off_policy.value_bias import value_bias
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.algorithms.trpo import TRPOSettings, trpo_phases
from decouple.on_policy.rollouts import ModePolicy
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import CheckpointError, frames_to_resume, load_checkpoint, reading_checkpoint
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.locks import FileLock, lock_folder
from decouple.runs.metrics import read_result
from decouple.runs.performance import keep_memory
from decouple.runs.progress import StepProgress
from decouple.runs.rules import SETTINGS_OF_CONTROL, identity_of, rule_text, rules_of
from decouple.runs.tracking import Tracker, default_tracker
from decouple.seeding import SeedNoise, seed_metrics

__all__ = [
    "CONTROL_ALGORITHMS",
    "ControlSettings",
    "DDPGControl",
    "PPOControl",
    "SACControl",
    "TD3Control",
    "TRPOControl",
    "agents_in",
    "control_identity",
    "done_result",
    "final_returns",
    "initial_agents",
    "load_agents",
    "make_env",
    "make_model",
    "make_small_env",
    "run_result",
    "sizes_name",
    "train_agents",
    "unit_actions",
]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU}
MANY_WEIGHTS = 16_000  # between hidden layers, of all agents together, from which on PyTorch's threads pay
FINAL_SEED, EVALUATION_SEED = 1_000_000, 2_000_000  # added to an agent's seed: episodes that it does not train on


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
def control_identity(config: ControlSettings, leave_out: Collection[str]) -> dict[str, Any]:
    """What the results of these settings rest on, without those left out; see `decouple.runs.rules`."""
    return identity_of(
        config,
        SETTINGS_OF_CONTROL,
        leave_out=leave_out,
        unit_actions=lambda: unit_actions(config.env, config.backend),
    )


@functools.cache
def unit_actions(env: str, backend: str = "auto") -> bool:
    """Whether a task's actions are all discrete or bounded by -1 and 1, asked of its action spec.

    Raises:
        ValueError, ImportError: there is no such task, or its package is not installed.
    """
    if env == "unity" or env in GAMES:  # ML-Agents' actions are, and the games' own
        return True
    with contextlib.closing(make_small_env(SACControl(env=env, backend=backend))) as made:
        return action_space(made.action_spec).in_unit


@checked()
def sizes_name(sizes: Sequence[int]) -> str:
    """Hidden layers as a name: `16x16`; `linear` where there are none, and `1` is one hidden layer of one unit."""
    return "x".join(map(str, sizes)) or "linear"


@checked()
def run_result(config: ControlSettings) -> dict[str, float] | None:
    """The result of the run in `run_dir`, however far it has come; None where there is none.

    Raises:
        CheckpointError: the folder holds a run of other settings, or under other rules.
        ValueError: a result.json that is damaged; without it, the run is evaluated again.
    """
    checkpoint, result = Path(config.run_dir) / "checkpoint.pt", Path(config.run_dir) / "result.json"
    if not checkpoint.exists() or not result.exists():
        return None
    load_checkpoint(checkpoint, expect=_identity(config))
    try:
        return read_result(result)
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and the same command evaluates the agents again") from error


@checked()
def done_result(config: ControlSettings) -> dict[str, float] | None:
    """The result of the run in `run_dir` where it has all its frames; None where there is more to train, and where the
    run has come further than `total_frames`, which `train_agents` refuses.

    Raises:
        CheckpointError: the folder holds a run of other settings, or under other rules.
        ValueError: a result.json that is damaged.
    """
    report = run_result(config)
    done = report is not None and 0 <= report["frames"] - config.total_frames < _frames_per_iteration(config)
    return report if done else None


def _frames_per_iteration(config: ControlSettings) -> int:
    """By how much a run goes on at once, of each agent; off policy it is a step."""
    return config.num_envs * (config.rollout_steps if isinstance(config, OnPolicySettings) else 1)


def _frames_to_resume(config: ControlSettings) -> int | None:
    """`frames_to_resume` of the run in `run_dir`."""
    return frames_to_resume(
        config.run_dir,
        _identity(config),
        total_frames=config.total_frames,
        frames_per_iteration=_frames_per_iteration(config),
    )


@checked(num_envs=at_least(1))
def make_env(config: ControlSettings, num_envs: int, seeds: Sequence[int], like: EnvBase | None = None) -> EnvBase:
    """The task, (S, num_envs); with `like`, observations are scaled as that environment does, and rewards are not.

    Raises:
        ValueError: an unknown task, or a setting that the task does not have.
        ImportError: the task's package is not installed.
    """
    if (config.file_name is None) == (config.env == "unity"):
        raise ValueError(f"file_name must be given with env=unity and with no other; got {config.file_name!r}")
    own_rules = config.env in ("toy", "unity", *GAMES)
    if own_rules and (config.normalize_observation or config.normalize_reward):
        neither = f"false on env={config.env}, which needs neither"
        raise ValueError(f"normalize_observation and normalize_reward must be {neither}")
    if config.frame_skip != 1 and config.env not in GAMES:
        raise ValueError(f"frame_skip must be 1 on env={config.env}: only {', '.join(GAMES)} have it")
    if config.backend != "auto" and own_rules:
        raise ValueError(f"backend must be auto on env={config.env}, which is no task of Gymnasium")
    if config.env == "toy":
        return goal_tracking_env(seeds, num_envs)
    if config.env == "unity":  # an evaluation takes as many agents as the build has, in rounds
        return unity_env(config.file_name, seeds, config.num_envs if like is None else None)
    if config.env in GAMES:
        return games_env(config.env, seeds, num_envs, frame_skip=config.frame_skip)
    return control_env(
        config.env,
        seeds,
        num_envs,
        normalize_observation=config.normalize_observation,
        normalize_reward=config.normalize_reward and like is None,
        gamma=config.gamma,
        statistics=None if like is None else like.observation_statistics,
        backend=config.backend,
    )


@checked()
def make_small_env(config: ControlSettings) -> EnvBase:
    """The task with as few environments as it has, of the first seed: for the shapes of what a model reads and does."""
    return make_env(config, GAMES[config.env].agents_per_game if config.env in GAMES else 1, [config.seed])


@checked()
def make_model(config: ControlSettings, env: EnvBase) -> ActorValue | ActorQValue:
    """One agent's networks: an actor and a critic of the sizes asked for, separated at k.

    Raises:
        ValueError: a separation beyond the shorter network, or an algorithm that the task's actions do not allow.
    """
    observations = env.observation_spec["observation"].shape[-1]
    space = action_space(env.action_spec, env.batch_size)
    off_policy = isinstance(config, OffPolicySettings)
    reads = space.size if off_policy and not space.discrete else 0  # numbers of the action that the critic reads
    k = separation_index(config.separation, min(len(config.actor), len(config.critic)))
    actor = _mlp(observations, config.actor, config.actor_activation, config.actor_gain)

    def critic() -> list[nn.Module]:
        first = config.actor[k - 1] if k else observations  # features at the cut
        own = _mlp(first + reads, config.critic[k:], config.critic_activation, config.critic_gain)
        if reads and not own:
            own = [Concatenate()]
        return [*actor[:k], *own]  # the first k are dropped

    example = {"observation": torch.zeros(observations)} | ({"action": torch.zeros(reads)} if reads else {})
    network = separate(
        actor,
        critic(),
        at=k,
        policy_gradient=config.policy_gradient,
        value_gradient=config.value_gradient,
        value_keys=["action"] if reads else [],
        example=example,
    )
    gains = {"policy_gain": config.actor_head_gain, "value_gain": config.critic_head_gain}
    if not off_policy:
        return actor_value(network, env.action_spec, **gains)
    deterministic = isinstance(config, DDPGSettings)
    twin = None if deterministic and not isinstance(config, TD3Settings) else critic()
    return actor_qvalue(network, env.action_spec, twin_blocks=twin, deterministic=deterministic, **gains)


@checked()
def train_agents(config: ControlSettings) -> dict[str, Any]:
    """Train the agents, or go on with those of `run_dir`, and evaluate them at the end.

    An agent in which a reward, an observation, a loss, a parameter or the final return is not finite has failed: the
    others go on as they would without it.

    Returns:
        `final/return` (the mean over agents), `final/return_std` (over agents), and with several agents
        `final/return/seed<seed>`; off policy also `final/value_predicted`, `final/value_monte_carlo` and
        `final/value_bias`, of `decouple.off_policy.value_bias`. Where agents have failed, their own numbers are None,
        the others are those of the remaining `final/seeds` agents, and `failed` says why, by `seed<seed>`. The same is
        in `run_dir/result.json`.

    Raises:
        NotFiniteError: all agents have failed; `result.json` then has None for the return, and why.
        ValueError: a setting that does not fit the task or the algorithm; nothing is written then.
        CheckpointError: a run folder of other settings, or under other rules, or one whose checkpoint is gone.
        FileNotFoundError: a run to go on with whose replay is gone.
        FolderInUseError: another process trains in the folder.
    """
    env = make_env(config, config.num_envs, config.all_seeds)
    keep_memory()  # six agents' layers are blocks that glibc would give back to the system after every operation
    with contextlib.closing(env), _threads(config):
        models = [_seeded_model(config, env, seed) for seed in config.all_seeds]
        for seed_global in (random.seed, np.random.seed, torch.manual_seed):
            seed_global(config.seed)
        train = _on_policy if isinstance(config, OnPolicySettings) else _off_policy
        return train(config, env, models, FailedSeeds(config.all_seeds, config.env))


@checked()
def initial_agents(config: ControlSettings) -> list[Any]:
    """The agents as `train_agents` makes them, before anything has been trained: one model for each seed."""
    with contextlib.closing(make_small_env(config)) as env, torch.random.fork_rng(devices=[]):
        return [_seeded_model(config, env, seed) for seed in config.all_seeds]


@checked(agents=SOME)
def final_returns(config: ControlSettings, agents: Sequence[Any]) -> list[float]:
    """What the final evaluation of `train_agents` would say of these agents: each one's mean return, by seed.

    Args:
        config: the run, without `normalize_observation`.
        agents: one for each seed, as `load_agents` or `initial_agents` gives them.
    """
    check_setting("normalize_observation", config.normalize_observation, lambda v: not v, "false: agents come alone")
    check_setting("agents", agents, lambda v: len(v) == config.seeds, f"one for each seed, {config.seeds}")
    for agent in agents:
        fits = isinstance(agent, ActorValue | ActorQValue)
        check_setting("agents", type(agent), lambda _, fits=fits: fits, "models of actor_value or actor_qvalue")
    returns = []
    for seed, agent in zip(config.all_seeds, agents, strict=True):
        with contextlib.closing(make_env(config, config.final_episodes, [FINAL_SEED + seed])) as env:
            returns.append(episode_returns(env, agent.get_policy_operator(), stochastic=False).mean().item())
    return returns


@checked()
def load_agents(run_dir: str | Path) -> list[Any]:
    """The agents of a run, as they were at its last checkpoint: one model each, from `actor_qvalue` or `actor_value`.

    Raises:
        FileNotFoundError: no checkpoint in `run_dir`.
        CheckpointError: it is damaged, or of another experiment; or its critics read actions in another unit (0.1, on
            bounds other than +-1), where `decouple.studies.actor_size.trained_actor` gives its actors.
        ValueError: a run with `normalize_observation`, whose agents are nothing without their environment's statistics.
    """
    path = Path(run_dir) / "checkpoint.pt"
    state = load_checkpoint(path)
    with reading_checkpoint(path, "agents of train_agents"):
        settings = state["settings"]
        scaled, agents = settings["normalize_observation"], agents_in(state)
        here = rules_of(settings, lambda: unit_actions(settings["env"], settings["backend"]))
    there, unit = settings.get("rules", {}).get("action_unit"), here.get("action_unit")
    if there != unit:
        rule = rule_text("action_unit", there, unit)
        raise CheckpointError(f"{path} holds critics of {rule}; trained_actor() gives its actors alone")
    if scaled:
        raise ValueError("run_dir must be of a run without normalize_observation: its agents read scaled observations")
    return agents


def agents_in(state: Mapping[str, Any]) -> list[Any]:
    """The agents in what `load_checkpoint` gives of a run; with `normalize_observation` they read scaled numbers."""
    settings = {name: value for name, value in state["settings"].items() if name != "rules"}
    if "log_every" in settings:
        settings["evaluate_every"] = settings["log_every"]  # not kept, and a multiple of it
    config = CONTROL_ALGORITHMS[settings["algorithm"]](**settings)
    with contextlib.closing(make_small_env(config)) as env:
        models = [make_model(config, env) for _ in config.all_seeds]
    if isinstance(config, OnPolicySettings):
        stacked = stack(models)
        stacked.load_state_dict(state["model"])
        unstack(stacked, models)
        return models
    learner = TorchRLLearner(models[0], config) if config.update == "torchrl" else Learner(models, config)
    learner.load_state_dict(state["learner"])
    return learner.models()


@contextlib.contextmanager
def _threads(config: ControlSettings) -> Iterator[None]:
    """PyTorch's threads while a run lasts. Small networks lose by a second one, and with other runs beside it badly."""
    before = torch.get_num_threads()
    weights = config.seeds * max(sum(a * b for a, b in pairwise(sizes)) for sizes in (config.actor, config.critic))
    torch.set_num_threads(config.num_threads or (before if weights >= MANY_WEIGHTS else 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _off_policy(config: Any, env: EnvBase, models: list, failed: FailedSeeds) -> dict[str, Any]:
    learner = TorchRLLearner(models[0], config) if config.update == "torchrl" else Learner(models, config)
    checkpoint, identity = Path(config.run_dir) / "checkpoint.pt", _identity(config)
    replay_file = Path(config.run_dir) / "replay.bin"
    evaluation = _evaluation(config, GreedyPolicy(learner), env, failed)
    with _locked(config) as lock:
        resume = _frames_to_resume(config)
        if resume and resume < config.total_frames and not replay_file.exists():
            raise FileNotFoundError(
                f"{replay_file} is gone, and the run cannot go on without it (see keep_replay); put it back, or begin "
                "anew with restart=true, which keeps the old folder aside"
            )
        with _tracker(config, models[0], resume, lock) as tracker, _no_return(tracker, failed):
            if resume is None or resume < config.total_frames:
                train_off_policy(
                    env,
                    learner,
                    seeds=config.all_seeds,
                    log=tracker.log,
                    evaluate=lambda frames: evaluation(EVALUATION_SEED + frames, config.evaluate_episodes),
                    replay=replay_for(env, learner, replay_file),
                    checkpoint=checkpoint,
                    identity=identity,
                    on_checkpoint=tracker.plot,
                    record=tracker.marks,
                    failed=failed,
                )
            else:  # done already; what it has seen scales what its evaluation sees
                state = load_checkpoint(checkpoint, expect=identity)
                learner.load_state_dict(state["learner"])
                env.load_state_dict(state["env"])
                failed.load_state_dict(state.get("failed", {}))
                failed.check(learner.weights(), f"in {checkpoint}")
            report = _final(config, evaluation, failed) | _value_bias(config, learner, env, failed)
            tracker.summarise(report, failed=_reasons(failed))
        if not config.keep_replay:
            replay_file.unlink(missing_ok=True)
    return report | ({"failed": _reasons(failed)} if failed.reasons else {})


def _on_policy(config: Any, env: EnvBase, models: list, failed: FailedSeeds) -> dict[str, Any]:
    model = stack(models)
    phases = (trpo_phases if isinstance(config, TRPOSettings) else ppo_phases)(model, config)
    checkpoint, identity = Path(config.run_dir) / "checkpoint.pt", _identity(config)
    evaluation = _evaluation(config, ModePolicy(model), env, failed)
    steps = StepProgress() if config.show_progress else None
    with _locked(config) as lock:
        resume = _frames_to_resume(config)
        with _tracker(config, models[0], resume, lock) as tracker, _no_return(tracker, failed):
            train_on_policy(
                env,
                model,
                phases,
                config,
                seeds=config.all_seeds,
                log=tracker.log,
                evaluate=lambda iteration: evaluation(EVALUATION_SEED + iteration, config.evaluate_episodes),
                checkpoint=checkpoint,
                identity=identity,
                on_checkpoint=tracker.plot,
                record=tracker.marks,
                failed=failed,
                progress=steps,
            )
            report = _final(config, evaluation, failed)
            tracker.summarise(report, failed=_reasons(failed))
    if steps:
        steps.close()
    return report | ({"failed": _reasons(failed)} if failed.reasons else {})


def _reasons(failed: FailedSeeds) -> dict[str, str]:
    return {f"seed{seed}": reason for seed, reason in failed.reasons.items()}


@contextlib.contextmanager
def _no_return(tracker: Tracker, failed: FailedSeeds) -> Iterator[None]:
    """Where all agents have failed, the result says that there is no return, and why."""
    try:
        yield
    except NotFiniteError:
        names = [] if failed.alone else [f"/seed{seed}" for seed in failed.seeds]
        report = {"final/seeds": 0.0} | {f"final/return{name}": None for name in ["", *names]}
        tracker.summarise(report, failed=_reasons(failed))
        raise


def _locked(config: ControlSettings) -> FileLock:
    """The run's folder for this process alone, emptied where a restart is asked for."""
    lock = lock_folder(config.run_dir, restart=config.restart)
    if lock.aside and config.show_progress:
        print(f"the run that was in {config.run_dir} is kept in {lock.aside}", file=sys.stderr)
    return lock


def _evaluation(
    config: ControlSettings, policy: TensorDictModuleBase, like: EnvBase, failed: FailedSeeds
) -> Callable[[int, int], dict[str, float]]:
    """A function of (seed, episodes): the mean return of each agent that has not failed, without exploration, on fresh
    environments."""

    def evaluate(seed: int, episodes: int) -> dict[str, float]:
        env = make_env(config, episodes, [seed + agent for agent in config.all_seeds], like)
        with contextlib.closing(env):
            rounds = -(-episodes // env.batch_size[1])  # one, but where a Unity build has fewer agents
            parts = [episode_returns(env, policy, stochastic=False).view(config.seeds, -1) for _ in range(rounds)]
        returns = torch.cat(parts, 1)[:, :episodes]  # (S, E)
        rows = [{"eval/return": each} for each in returns.mean(1).tolist()]
        return seed_metrics(failed.kept(rows), config.all_seeds)

    return evaluate


def _final(
    config: ControlSettings, evaluation: Callable[[int, int], dict[str, float]], failed: FailedSeeds
) -> dict[str, float | None]:
    """Returns after training, the mean and the deviation over the agents that have one."""
    found = evaluation(FINAL_SEED, config.final_episodes)
    own = {seed: found.get(f"eval/return/seed{seed}", found["eval/return"]) for seed in config.all_seeds}
    for index, (seed, value) in enumerate(own.items()):
        if seed not in failed.reasons and not np.isfinite(value):
            failed.fail(index, f"the return is {value} after training")
    failed.stop_if_all()
    each = [value for seed, value in own.items() if seed not in failed.reasons]
    report: dict[str, float | None] = {"final/return": sum(each) / len(each)}
    if len(own) > 1:
        report |= {f"final/return/seed{seed}": None if seed in failed.reasons else own[seed] for seed in own}
    report["final/return_std"] = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
    return report | ({"final/seeds": float(len(each))} if failed.reasons else {})


def _value_bias(config: ControlSettings, learner: Any, like: EnvBase, failed: FailedSeeds) -> dict[str, float]:
    """How far the critics are off at the end; nothing where that cannot be told (see `value_bias`), or where they
    learned from rewards that only `like` can scale."""
    if config.normalize_reward or not isinstance(learner, Learner):
        return {}
    seeds = [FINAL_SEED + agent for agent in config.all_seeds]
    with contextlib.closing(make_env(config, config.evaluate_episodes, seeds, like)) as env:
        found = value_bias(env, learner, SeedNoise(seeds, learner.device))
    rows: list[dict[str, float]] = []
    for agent in range(config.seeds):
        of_agent = {name.replace("value/", "final/value_"): each[agent].item() for name, each in found.items()}
        rows.append({name: value for name, value in of_agent.items() if np.isfinite(value)})
    return seed_metrics(failed.kept(rows), config.all_seeds)


def _tracker(config: ControlSettings, model: nn.Module, resume: int | None, lock: FileLock) -> Tracker:
    names = sizes_name(config.actor), sizes_name(config.critic)
    counts = parameter_count(model)
    of_actor = counts["trunk"] + counts["policy"]
    if config.show_progress:
        print(
            f"{config.env}, {config.algorithm}, actor |{names[0]}| ({of_actor:,} parameters), "
            f"critic |{names[1]}|, {config.seeds} agents; the record goes to {config.run_dir}"
            + (f"; going on from {resume:,} frames" if resume else ""),
            file=sys.stderr,
        )
    facts = {"parameters": json.dumps(counts), "multiply_adds": json.dumps(multiply_adds(model))}
    return Tracker(
        config.run_dir,
        asdict(config),
        total_frames=config.total_frames,
        tracker=config.tracker or default_tracker(),
        mode=config.mode,
        group=f"{config.env}/{config.algorithm}/{names[0]}-{names[1]}",
        resume_frames=resume,
        facts=facts,
        progress=config.show_progress,
        lock=lock,
    )


def _seeded_model(config: ControlSettings, env: EnvBase, seed: int) -> Any:
    """The model that this seed alone gives, whatever other agents there are."""
    torch.manual_seed(seed)
    return make_model(config, env)


def _mlp(inputs: int, sizes: Sequence[int], activation: str, gain: float | None) -> list[nn.Module]:
    return mlp_blocks(inputs, list(sizes), ACTIVATIONS[activation], gain=gain) if sizes else []


def _identity(config: ControlSettings) -> dict[str, Any]:
    return control_identity(config, NOT_IDENTITY)
