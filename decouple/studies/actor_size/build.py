"""The parts of a cell of the actor-size study: its task, and the networks of an agent.

env = make_env(config, config.num_envs, config.all_seeds)
agent = action_value_model(config, env, deterministic=True, twin=True)      # TD3's
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchrl.envs import EnvBase

from decouple.checks import INT32_MAX, at_least, check_setting, checked
from decouple.envs.control.spaces import Entry
from decouple.envs.control.tasks import control_env
from decouple.envs.games.batched import GAMES, games_env
from decouple.envs.toy import goal_tracking_env
from decouple.envs.unity.build import unity_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import Concatenate, impala_blocks, mlp_blocks, nature_blocks
from decouple.networks.fitting import evaluating
from decouple.networks.gating import GatedNetwork, gated
from decouple.networks.heads import action_space
from decouple.networks.observations import Fuse, PictureView
from decouple.networks.recurrence import RecurrentBlock
from decouple.networks.separation import SeparatedNetwork, separate, separation_index
from decouple.studies.actor_size.settings import ACTIVATIONS, LEARNED, ControlSettings

__all__ = [
    "OF_TASK",
    "action_value_model",
    "best_device",
    "make_env",
    "make_small_env",
    "sharable_blocks",
    "state_value_model",
    "unit_actions",
]

# Settings that make the environment, whoever plays it.
OF_TASK = (
    *("env", "env_kwargs", "train_kwargs", "num_levels", "start_level", "wrappers", "frame_stack", "backbone"),
    "privileged",
)


@checked(num_envs=at_least(1))
def make_env(
    config: ControlSettings, num_envs: int, seeds: Sequence[int], like: EnvBase | None = None, *, test: bool = False
) -> EnvBase:
    """The task, (S, num_envs). With `like`, observations are scaled by its statistics, and rewards are not scaled; of
    games with several agents there are then as many as hold `num_envs` of them.

    With `test`, it is the task that agents are tested on, where that is another than they are trained on.

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
    of_gymnasium = ("env_kwargs", "train_kwargs", "test_kwargs", "num_levels", "start_level", "wrappers", "privileged")
    given = [name for name in of_gymnasium if getattr(config, name)]
    given += [name for name in ("frame_stack", "env_workers") if getattr(config, name) > 1]
    if given and own_rules:
        raise ValueError(f"{given[0]} must be left out on env={config.env}, which is no task of Gymnasium")
    if config.env == "toy":
        return goal_tracking_env(seeds, num_envs)
    if config.env == "unity":  # an evaluation takes as many agents as the build has, in rounds
        return unity_env(config.file_name, seeds, config.num_envs if like is None else None)
    if config.env in GAMES:
        agents = GAMES[config.env].agents_per_game
        whole = num_envs if like is None else -(-num_envs // agents) * agents  # an evaluation plays whole games
        return games_env(config.env, seeds, whole, frame_skip=config.frame_skip)
    return control_env(
        config.env,
        seeds,
        num_envs,
        normalize_observation=config.normalize_observation,
        normalize_reward=config.normalize_reward and like is None,
        gamma=config.learning.gamma,
        statistics=None if like is None else like.observation_statistics,
        backend=config.backend,
        env_kwargs=config.env_kwargs | (config.test_kwargs if test else config.train_kwargs),
        levels=_levels(config, test),
        wrappers=config.wrappers,
        frame_stack=config.frame_stack,
        pictures=config.backbone != "none",
        privileged=config.privileged,
        env_workers=getattr(like, "workers", None) or min(config.env_workers, num_envs * len(seeds)),
        device=config.device if config.device != "auto" else best_device(),
    )


@checked()
def best_device() -> str:
    """cuda where torch sees a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _levels(config: ControlSettings, test: bool) -> range | None:
    """Seeds of the resets: those of training, or all that come after them."""
    after = config.start_level + config.num_levels
    if not config.num_levels:
        return None
    return range(after, INT32_MAX) if test else range(config.start_level, after)


@checked()
def make_small_env(config: ControlSettings) -> EnvBase:
    """The task of the first seed with as few environments as possible: for shapes of observations and actions."""
    return make_env(config, GAMES[config.env].agents_per_game if config.env in GAMES else 1, [config.seed])


@checked()
def unit_actions(settings: Mapping[str, Any]) -> bool:
    """Whether a task's actions are all discrete or bounded by -1 and 1, by its action spec.

    Args:
        settings: a run's settings by flat key, also of an older version; read are those that make the task.

    Raises:
        ValueError, ImportError: there is no such task, or its package is not installed.
    """
    if settings["env"] == "unity" or settings["env"] in GAMES:  # ML-Agents' actions are, and the games'
        return True
    read = {name: settings[name] for name in ("backend", *OF_TASK) if name in settings}
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
            For `separation=learned` networks whose blocks give different shapes.
    """
    if config.separation == LEARNED:
        network = _gated(config, env)
    else:
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


def _gated(config: ControlSettings, env: EnvBase) -> GatedNetwork:
    """The actor and the value network with gates between them, block by block."""
    front, features = _front(config, env)
    actor = [*front, *_blocks(config, "actor", features)]
    critic = [*_front(config, env)[0], *_blocks(config, "critic", features)]
    observed = env.observation_spec["observation"]
    example = torch.zeros(observed.shape[-1], dtype=observed.dtype)
    return gated(actor, critic, value_gradient=config.value_gradient, example=example)


@checked()
def sharable_blocks(config: ControlSettings, env: EnvBase) -> int:
    """The largest k: blocks that read pictures, and the hidden layers of the smaller network."""
    return len(_front(config, env)[0]) + min(len(config.actor), len(config.critic))


def _separated(
    config: ControlSettings, env: EnvBase, *, critic_reads_action: bool
) -> tuple[SeparatedNetwork, Callable[[], list[nn.Module]]]:
    """The actor and a critic, separated at k, and the function that makes another critic's blocks."""
    observed = env.observation_spec["observation"]
    space = action_space(env.action_spec, env.batch_size)
    further = _further_keys(env, space.size if critic_reads_action and not space.discrete else 0)
    reads = sum(further.values())
    front, features = _front(config, env)
    k = separation_index(config.separation, len(front) + min(len(config.actor), len(config.critic)))
    actor = [*front, *_blocks(config, "actor", features)]
    hidden = max(0, k - len(front))  # shared hidden layers

    def critic() -> list[nn.Module]:
        first = config.actor[hidden - 1] if hidden else features  # features that the critic's hidden layers read
        own = _blocks(config, "critic", first + reads, hidden)
        if reads and not own:
            own = [Concatenate()]
        fronts = _front(config, env)[0][k:] if k < len(front) else []
        return [*actor[:k], *fronts, *own]  # `separate` drops the first k

    seen = torch.zeros(observed.shape[-1], dtype=observed.dtype)
    network = separate(
        actor,
        critic(),
        at=k,
        policy_gradient=config.policy_gradient,
        value_gradient=config.value_gradient,
        value_keys=list(further),
        example={"observation": seen} | {key: torch.zeros(size) for key, size in further.items()},
    )
    return network, critic


def _further_keys(env: EnvBase, action: int) -> dict[str, int]:
    """What the critic reads behind the cut, each with its size: the action off policy, and what is privileged."""
    keys = {"action": action} if action else {}
    if "privileged" in env.observation_spec.keys():
        keys["privileged"] = env.observation_spec["privileged"].shape[-1]
    return keys


def _front(config: ControlSettings, env: EnvBase) -> tuple[list[nn.Module], int]:
    """The blocks before the hidden layers, which read pictures, and the numbers that they give.

    A picture alone is read by the backbone's blocks, several parts by one block that joins the pictures' features and
    the numbers. There are none where there is no picture.
    """
    numbers = env.observation_spec["observation"].shape[-1]
    entries = getattr(env, "entries", [])
    if not any(entry.picture for entry in entries):
        says = f"auto or none on {config.env}, whose observations have no picture"
        check_setting("backbone", config.backbone, lambda name: name in ("auto", "none") or not entries, says)
        return [], numbers
    encoders = [_encoder(config.backbone, entry) for entry in entries if entry.picture]
    if len(entries) == 1:
        (encoder,) = encoders
        # Each in a container that takes one input alone: a critic's action goes to its hidden layers.
        blocks: list[nn.Module] = [nn.Sequential(*encoder[:2]), *(nn.Sequential(block) for block in encoder[2:])]
    else:
        plain = [(entry.first, entry.first + entry.size) for entry in entries if not entry.picture]
        blocks = [Fuse([nn.Sequential(*encoder) for encoder in encoders], plain)]
    example = torch.zeros(1, numbers, dtype=env.observation_spec["observation"].dtype)
    says = "a function that makes blocks from a picture (*B, C, H, W) to features (*B, F)"
    with torch.no_grad(), evaluating(*blocks):
        for block in blocks:
            example = block(example)
    check_setting("backbone", tuple(example.shape), lambda shape: len(shape) == 2 and shape[0] == 1, says)
    return blocks, example.shape[-1]


def _encoder(backbone: str, entry: Entry) -> list[nn.Module]:
    """A view of one picture, and the backbone's blocks on it."""
    assert entry.picture is not None
    known = {"auto": impala_blocks, "impala": impala_blocks, "nature": nature_blocks}
    view = PictureView(entry.first, entry.shape, entry.picture, entry.scale, keep_bytes=backbone in known)
    blocks = list((known.get(backbone) or _user_blocks(backbone))(view.picture))
    check_setting("backbone", blocks, lambda v: v and all(isinstance(b, nn.Module) for b in v), "of a list of modules")
    return [view, *blocks]


def _user_blocks(name: str) -> Callable[..., Sequence[nn.Module]]:
    """The function of a module, by the name my_package.module:function."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but imports a missing one
        found = None
    check_setting("backbone", name, lambda _: callable(found), "of a module that can be imported, and its function")
    return found  # pyright: ignore[reportReturnType]


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
