"""The parts of a cell of the actor-size study: its task, and the networks of an agent.

env = make_env(config, config.num_envs, config.all_seeds)
agent = action_value_model(config, env, deterministic=True, twin=True)      # TD3's
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchrl.envs import EnvBase

from decouple.checks import at_least, check_setting, checked
from decouple.envs.control.tasks import control_env
from decouple.envs.games.batched import GAMES, games_env
from decouple.envs.toy import goal_tracking_env
from decouple.envs.unity.build import unity_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import Concatenate, mlp_blocks
from decouple.networks.heads import action_space
from decouple.networks.recurrence import RecurrentBlock
from decouple.networks.separation import SeparatedNetwork, separate, separation_index
from decouple.studies.actor_size.settings import ACTIVATIONS, ControlSettings

__all__ = ["action_value_model", "make_env", "make_small_env", "state_value_model", "unit_actions"]


@checked(num_envs=at_least(1))
def make_env(config: ControlSettings, num_envs: int, seeds: Sequence[int], like: EnvBase | None = None) -> EnvBase:
    """The task, (S, num_envs). With `like`, observations are scaled by its statistics, and rewards are not scaled.

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
    if config.env_kwargs and own_rules:
        raise ValueError(f"env_kwargs must be empty on env={config.env}, which is no task of Gymnasium")
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
        gamma=config.learning.gamma,
        statistics=None if like is None else like.observation_statistics,
        backend=config.backend,
        env_kwargs=config.env_kwargs,
    )


@checked()
def make_small_env(config: ControlSettings) -> EnvBase:
    """The task of the first seed with as few environments as possible: for shapes of observations and actions."""
    return make_env(config, GAMES[config.env].agents_per_game if config.env in GAMES else 1, [config.seed])


@checked()
def unit_actions(settings: Mapping[str, Any]) -> bool:
    """Whether a task's actions are all discrete or bounded by -1 and 1, by its action spec.

    Args:
        settings: a run's settings by flat key, also of an older version; read are `env`, `backend` and `env_kwargs`.

    Raises:
        ValueError, ImportError: there is no such task, or its package is not installed.
    """
    if settings["env"] == "unity" or settings["env"] in GAMES:  # ML-Agents' actions are, and the games'
        return True
    read = {name: settings[name] for name in ("env", "backend", "env_kwargs") if name in settings}
    return _unit_actions(json.dumps(read, sort_keys=True))


@functools.cache
def _unit_actions(task: str) -> bool:
    with contextlib.closing(make_small_env(ControlSettings(**json.loads(task)))) as made:
        return action_space(made.action_spec).in_unit


@checked()
def state_value_model(config: ControlSettings, env: EnvBase) -> ActorValue:
    """One agent of PPO, DAAC, IDAAC or TRPO: an actor and a value network of the sizes asked for, separated at k.

    Raises:
        ValueError: a separation beyond the shorter network, or a recurrent layer of the critic's in the trunk.
    """
    network, _ = _separated(config, env, critic_reads_action=False)
    model = actor_value(network, env.action_spec, distribution=config.distribution, **_head_gains(config))
    allowed = "actor or both where the recurrent layer is one of the trunk's"
    check_setting("recurrent_in", config.recurrent_in, lambda _: model.recurrent or config.recurrent is None, allowed)
    return model


@checked()
def action_value_model(config: ControlSettings, env: EnvBase, *, deterministic: bool, twin: bool) -> ActorQValue:
    """One agent of SAC, TD3 or DDPG: an actor and critics of the sizes asked for, separated at k.

    Args:
        config: the run's settings.
        env: the task.
        deterministic: True for a deterministic policy, as TD3's and DDPG's; False for a distribution, as SAC's.
        twin: True for a second critic.

    Raises:
        ValueError: a separation beyond the shorter network, or a policy that the task's actions do not allow.
    """
    network, critic = _separated(config, env, critic_reads_action=True)
    twin_blocks = critic() if twin else None
    return actor_qvalue(
        network, env.action_spec, twin_blocks=twin_blocks, deterministic=deterministic, **_head_gains(config)
    )


def _separated(
    config: ControlSettings, env: EnvBase, *, critic_reads_action: bool
) -> tuple[SeparatedNetwork, Callable[[], list[nn.Module]]]:
    """The actor and a critic, separated at k, and the function that makes another critic's blocks."""
    observations = env.observation_spec["observation"].shape[-1]
    space = action_space(env.action_spec, env.batch_size)
    reads = space.size if critic_reads_action and not space.discrete else 0  # size of the action
    k = separation_index(config.separation, min(len(config.actor), len(config.critic)))
    actor = _blocks(config, "actor", observations)

    def critic() -> list[nn.Module]:
        first = config.actor[k - 1] if k else observations  # features at the cut
        own = _blocks(config, "critic", first + reads, k)
        if reads and not own:
            own = [Concatenate()]
        return [*actor[:k], *own]  # `separate` drops the first k

    network = separate(
        actor,
        critic(),
        at=k,
        policy_gradient=config.policy_gradient,
        value_gradient=config.value_gradient,
        value_keys=["action"] if reads else [],
        example={"observation": torch.zeros(observations)} | ({"action": torch.zeros(reads)} if reads else {}),
    )
    return network, critic


def _head_gains(config: ControlSettings) -> dict[str, float | None]:
    return {"policy_gain": config.actor_head_gain, "value_gain": config.critic_head_gain}


def _blocks(config: ControlSettings, name: str, inputs: int, first: int = 0) -> list[nn.Module]:
    """The hidden layers of `actor` or `critic` from the index `first` on, which reads `inputs` numbers."""
    sizes, activation, gain = (getattr(config, f"{name}{of}") for of in ("", "_activation", "_gain"))
    recurs = config.recurrent is not None and config.recurrent_in in ("both", name)
    recurrent = config.recurrent_layer % len(sizes) if recurs else None
    blocks: list[nn.Module] = []
    for index in range(first, len(sizes)):
        if index == recurrent:
            blocks.append(RecurrentBlock(config.recurrent, inputs, sizes[index]))
        else:
            blocks += mlp_blocks(inputs, [sizes[index]], ACTIVATIONS[activation], gain=gain)
        inputs = sizes[index]
    return blocks
