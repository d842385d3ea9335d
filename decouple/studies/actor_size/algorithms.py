"""The algorithms of the actor-size study, each in one entry of a table: its settings, its model and its training.

config = TD3Control(env="pendulum", actor=[4, 4], critic=[16, 16], seeds=6, gamma=0.98)
config = CONTROL_ALGORITHMS["td3"](env="pendulum")      # the same by its name
model = make_model(config, env)                         # one agent
agents = algorithm_of(config).make_agents(config, models)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torchrl.envs import EnvBase

from decouple.checks import SEED, check_setting, checked, positive_whole
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.off_policy.settings import DDPGSettings, SACSettings, TD3Settings
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.dcpg import dcpg_phases
from decouple.on_policy.algorithms.ddcpg import ddcpg_phases
from decouple.on_policy.algorithms.dna import dna_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppg import ppg_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.algorithms.trpo import TRPOSettings, trpo_phases
from decouple.on_policy.compiled_daac import compiled_daac_phases
from decouple.on_policy.compiled_idaac import compiled_idaac_phases
from decouple.on_policy.compiled_phase import CompiledPhase
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.rules import SETTINGS_OF_CONTROL, identity_of
from decouple.runs.settings import FlatKeys, flat
from decouple.studies.actor_size.agents import Agents, OffPolicyAgents, OnPolicyAgents
from decouple.studies.actor_size.build import action_value_model, make_small_env, state_value_model, unit_actions
from decouple.studies.actor_size.settings import ControlSettings

__all__ = [
    "CONTROL_ALGORITHMS",
    "Algorithm",
    "DAACControl",
    "DCPGControl",
    "DDCPGControl",
    "DDPGControl",
    "DNAControl",
    "IDAACControl",
    "PPGControl",
    "PPOControl",
    "SACControl",
    "TD3Control",
    "TRPOControl",
    "algorithm_of",
    "control_identity",
    "initial_agents",
    "make_model",
    "seeded_model",
]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm of the study. Called with settings by their flat keys, it returns the settings of a run.

    Where `total_frames` leaves no frame to learn from after the default `learning_starts`, the default becomes a tenth
    of `total_frames`.

    Attributes:
        keys: flat keys, with the class of the algorithm's own settings and its departures from the defaults.
        make_model: (settings, environment) -> one agent's networks.
        make_agents: (settings, one model for each seed, device=) -> the agents that are trained.
        published_as: the algorithm whose published settings of a task it takes where nobody has published its own.
    """

    keys: FlatKeys
    make_model: Callable[[ControlSettings, EnvBase], Any]
    make_agents: Callable[..., Agents]
    published_as: str | None = None

    def __call__(self, **settings: Any) -> ControlSettings:
        name = self.keys.departures["algorithm"]
        given = settings.get("algorithm", name)
        check_setting("algorithm", given, lambda v: v == name, f"{[name]} for {self.keys.name}")
        return self.keys.compose(self._short_start(settings) | settings)

    def _short_start(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """`learning_starts` of a run that is shorter than its default."""
        defaults = self.keys.defaults
        total = settings.get("total_frames", defaults["total_frames"])
        short = positive_whole(total) and total <= defaults.get("learning_starts", -1)
        return {"learning_starts": total // 10} if short else {}

    @property
    def on_policy(self) -> bool:
        return issubclass(self.keys.parts["learning"], OnPolicySettings)


def _clipping(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Settings with PPO's `clip_value=auto` resolved: 0.2 where rewards are normalised, as in Baselines, else None."""
    if not isinstance(settings["clip_value"], str) or settings["clip_value"] != "auto":
        return settings
    return settings | {"clip_value": 0.2 if settings["normalize_reward"] is True else None}


# SAC on a control task.
SACControl = Algorithm(
    FlatKeys("SACControl", ControlSettings, {"learning": SACSettings}, {"algorithm": "sac"}),
    partial(action_value_model, deterministic=False, twin=True),
    OffPolicyAgents,
)

# TD3, with the paper's layers.
TD3Control = Algorithm(
    FlatKeys(
        "TD3Control",
        ControlSettings,
        {"learning": TD3Settings},
        {"algorithm": "td3", "actor": [400, 300], "critic": [400, 300]},
    ),
    partial(action_value_model, deterministic=True, twin=True),
    OffPolicyAgents,
)

# DDPG, with the paper's layers.
DDPGControl = Algorithm(
    FlatKeys(
        "DDPGControl",
        ControlSettings,
        {"learning": DDPGSettings},
        {"algorithm": "ddpg", "actor": [400, 300], "critic": [400, 300]},
    ),
    partial(action_value_model, deterministic=True, twin=False),
    OffPolicyAgents,
)

# OpenAI Baselines' ppo2 for MuJoCo, with a constant learning rate. As there, values are clipped where rewards are
# normalised.
BASELINES: dict[str, Any] = {
    **{"actor": [64, 64], "critic": [64, 64], "policy_gradient": 1.0},
    **{"actor_activation": "tanh", "critic_activation": "tanh"},
    **{"actor_gain": 2**0.5, "critic_gain": 2**0.5, "actor_head_gain": 0.01, "critic_head_gain": 1.0},
    **{"total_frames": 1_000_000, "rollout_steps": 2048, "gamma": 0.99, "learning_rate": 3e-4},
    "clip_value": "auto",  # 0.2 with normalize_reward, None (no clipping) without
    **{"entropy_coeff": 0.0, "minibatches": 32, "micro_batch": 1_000_000},
}

# PPO, as in Baselines.
PPOControl = Algorithm(
    FlatKeys(
        "PPOControl",
        ControlSettings,
        {"learning": OnPolicySettings},
        {"algorithm": "ppo", **BASELINES, "epochs": 10},
        settle=_clipping,
    ),
    state_value_model,
    partial(OnPolicyAgents, phases_of=ppo_phases, compiled=lambda model, settings: [CompiledPhase(model, settings)]),
)

# DAAC and IDAAC on PPO's settings. Their own are the Procgen study's (Raileanu and Fergus 2021, appendix): one epoch of
# the policy and nine of the value on each rollout, the advantage loss's weight 0.25, the order loss's 0.001. The paper
# has no task without levels, and none with these networks.
DAACControl = Algorithm(
    FlatKeys(
        "DAACControl",
        ControlSettings,
        {"learning": OnPolicySettings},
        {"algorithm": "daac", **BASELINES},
        settle=_clipping,
    ),
    state_value_model,
    partial(OnPolicyAgents, phases_of=daac_phases, compiled=compiled_daac_phases, own_modules=True),
    published_as="ppo",
)
IDAACControl = Algorithm(
    FlatKeys(
        "IDAACControl",
        ControlSettings,
        {"learning": OnPolicySettings},
        {"algorithm": "idaac", **BASELINES},
        settle=_clipping,
    ),
    state_value_model,
    partial(OnPolicyAgents, phases_of=idaac_phases, compiled=compiled_idaac_phases, own_modules=True),
    published_as="ppo",
)


def _normalizing(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Settings with `normalize_reward=auto` resolved: true on all tasks but the toy problem."""
    if isinstance(settings["normalize_reward"], str) and settings["normalize_reward"] == "auto":
        settings = settings | {"normalize_reward": settings["env"] != "toy"}
    return _clipping(settings)


def _phasic(name: str, phases_of: Callable[..., Any]) -> Algorithm:
    """PPG, DCPG, DDCPG or DNA on PPO's settings; their own are the papers', which have no task with these networks.

    Rewards are normalised but for the toy problem's, which are small: a phase weighs the values' squared error against
    a divergence of the policy, whose unit is one.
    """
    keys = FlatKeys(
        f"{name.upper()}Control",
        ControlSettings,
        {"learning": OnPolicySettings},
        {"algorithm": name, **BASELINES, "normalize_reward": "auto"},
        settle=_normalizing,
    )
    agents = partial(OnPolicyAgents, phases_of=phases_of, own_modules=True)
    return Algorithm(keys, state_value_model, agents, published_as="ppo")


PPGControl = _phasic("ppg", ppg_phases)
DCPGControl = _phasic("dcpg", dcpg_phases)
DDCPGControl = _phasic("ddcpg", ddcpg_phases)
DNAControl = _phasic("dna", dna_phases)

# TRPO; its own settings are OpenAI Spinning Up's.
TRPOControl = Algorithm(
    FlatKeys(
        "TRPOControl",
        ControlSettings,
        {"learning": TRPOSettings},
        {
            **{"algorithm": "trpo", "actor": [64, 64], "critic": [64, 64]},
            **{"actor_activation": "tanh", "critic_activation": "tanh"},
        },
    ),
    state_value_model,
    partial(OnPolicyAgents, phases_of=trpo_phases),
)

# The one place where an algorithm's name becomes an algorithm.
CONTROL_ALGORITHMS: dict[str, Algorithm] = {
    "sac": SACControl,
    "td3": TD3Control,
    "ddpg": DDPGControl,
    "ppo": PPOControl,
    "daac": DAACControl,
    "idaac": IDAACControl,
    "ppg": PPGControl,
    "dcpg": DCPGControl,
    "ddcpg": DDCPGControl,
    "dna": DNAControl,
    "trpo": TRPOControl,
}


@checked()
def algorithm_of(config: ControlSettings) -> Algorithm:
    """The algorithm of a run's settings.

    Raises:
        ValueError: an unknown algorithm, or settings of another algorithm in `learning`.
    """
    check_setting("algorithm", config.algorithm, CONTROL_ALGORITHMS.__contains__, f"one of {list(CONTROL_ALGORITHMS)}")
    algorithm = CONTROL_ALGORITHMS[config.algorithm]
    own = algorithm.keys.parts["learning"]
    allowed = f"{own.__name__} for algorithm={config.algorithm}"
    check_setting("learning", config.learning, lambda v: isinstance(v, own), allowed)
    return algorithm


@checked()
def make_model(config: ControlSettings, env: EnvBase) -> ActorValue | ActorQValue:
    """One agent's networks: an actor and a critic of the sizes asked for, separated at k.

    Raises:
        ValueError: a separation beyond the shorter network, or an algorithm that the task's actions do not allow.
    """
    return algorithm_of(config).make_model(config, env)


@checked(seed=SEED)
def seeded_model(config: ControlSettings, env: EnvBase, seed: int) -> Any:
    """One agent's model, initialised from this seed alone, whatever other agents there are."""
    torch.manual_seed(seed)
    return make_model(config, env)


@checked()
def initial_agents(config: ControlSettings) -> list[Any]:
    """The untrained agents that `train_agents` starts from: one model for each seed."""
    with contextlib.closing(make_small_env(config)) as env, torch.random.fork_rng(devices=[]):
        return [seeded_model(config, env, seed) for seed in config.all_seeds]


@checked()
def control_identity(config: ControlSettings, leave_out: Collection[str]) -> dict[str, Any]:
    """Settings and rules that results rest on, without those in `leave_out`; see `decouple.runs.rules`.

    How an update is computed is no part of it: what is learned is the same within rounding, and so are checkpoints but
    those of `update=torchrl`. All but these have the name that 0.1 gave them, `batched`.
    """
    found = identity_of(
        config,
        SETTINGS_OF_CONTROL,
        leave_out=leave_out,
        unit_actions=lambda: unit_actions(flat(config)),
        defaults=algorithm_of(config).keys.defaults,
    )
    return found | ({"update": "torchrl" if config.update == "torchrl" else "batched"} if "update" in found else {})
