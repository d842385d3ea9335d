"""What a cell of the actor-size study is built of: its task and its networks.

env = make_env(config, config.num_envs, config.all_seeds)
model = make_model(config, env)                                 # one agent's actor and critic
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torchrl.envs import EnvBase

from decouple.checks import at_least, checked
from decouple.envs.control.tasks import control_env
from decouple.envs.games.batched import GAMES, games_env
from decouple.envs.toy import goal_tracking_env
from decouple.envs.unity.build import unity_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import Concatenate, mlp_blocks
from decouple.networks.heads import action_space
from decouple.networks.separation import separate, separation_index
from decouple.off_policy.settings import DDPGSettings, OffPolicySettings, TD3Settings
from decouple.runs.rules import SETTINGS_OF_CONTROL, identity_of
from decouple.studies.actor_size.settings import ACTIVATIONS, ControlSettings, SACControl

__all__ = [
    "control_identity",
    "initial_agents",
    "make_env",
    "make_model",
    "make_small_env",
    "seeded_model",
    "unit_actions",
]


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
def initial_agents(config: ControlSettings) -> list[Any]:
    """The agents as `train_agents` makes them, before anything has been trained: one model for each seed."""
    with contextlib.closing(make_small_env(config)) as env, torch.random.fork_rng(devices=[]):
        return [seeded_model(config, env, seed) for seed in config.all_seeds]


def seeded_model(config: ControlSettings, env: EnvBase, seed: int) -> Any:
    """The model that this seed alone gives, whatever other agents there are."""
    torch.manual_seed(seed)
    return make_model(config, env)


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


def _mlp(inputs: int, sizes: Sequence[int], activation: str, gain: float | None) -> list[nn.Module]:
    return mlp_blocks(inputs, list(sizes), ACTIVATIONS[activation], gain=gain) if sizes else []
