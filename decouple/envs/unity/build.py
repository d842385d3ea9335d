"""A Unity build with ML-Agents (https://github.com/Unity-Technologies/ml-agents) as an environment of one policy.

``unity_env("builds/FoodCollector.x86_64", seeds=[0])`` starts the build, through TorchRL's ``UnityMLAgentsEnv``. Its
batch size is (1, N): the N agents of the build are N environments in lockstep, with one policy. It needs a separate
Python environment; docs/unity.md describes that, and how to make a build.
"""

from __future__ import annotations

import importlib
import math
import socket
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import EnvBase, MarlGroupMapType, UnityMLAgentsEnv

from decouple.checks import INT32_MAX, above, at_least, between, check_integer, check_seeds, checked
from decouple.envs import lockstep
from decouple.envs.processes import Owned
from decouple.envs.unity.conversion import AgentActions, Turn, observation_size

__all__ = ["UnityEnv", "unity_env"]

GROUP = "agents"  # TorchRL's name for all agents in one group
BASE_PORT, LAST_PORT = 5005, 65535  # ML-Agents' default first port, and the largest; each running build takes one
MOST_MESSAGES = 1000  # messages in which no agent asks for an action, until the build counts as stuck


class _Build(UnityMLAgentsEnv):
    """TorchRL's environment; in addition it closes a build that has no agents or dies at its start."""

    def _make_specs(self, env: Any) -> None:
        try:
            super()._make_specs(env)
        except BaseException as error:
            env.close()
            if isinstance(error, ValueError):  # no agents
                raise ValueError(f"the build's agents must ask for actions at its start; TorchRL: {error}") from error
            raise


class UnityEnv(EnvBase):
    """The N agents of a Unity build in lockstep, with one policy; batch size (1, N). Made by ``unity_env``.

    Keys: ``observation`` float32 (1, N, O), the agent's arrays one after the other; ``action`` float32 (1, N, A) or
    int64 (1, N), see ``AgentActions``; ``reward`` float32 (1, N, 1); ``episode_reward`` float32 (1, N, 1), the sum of
    the episode's rewards so far; ``step_count`` int64 (1, N, 1), its actions so far; ``done``, ``terminated``,
    ``truncated`` bool (1, N, 1). The observation of a last step is the true last one. An action beyond [-1, 1] goes to
    the build unchanged.

    Unity begins an agent's next episode by itself. So a reset of ended agents only returns their first observations,
    and leaves the others alone. Only a full reset, without a mask or while episodes run, resets the scene.

    TorchRL's ``UnityMLAgentsEnv`` starts the build, finds its agents, and passes actions, steps and resets on. Its
    observations are not used: where a message has both a terminal and a decision step of an agent, it keeps only the
    terminal one, and loses the first observation of the next episode. So the build's messages are read directly.

    A build cannot be saved: ``state_dict`` holds the settings only, and all episodes begin anew after loading.

    Raises:
        ValueError: an action that is not finite, outside the discrete range or of another shape; a reset of some agents
            of which not all have ended; a state that was saved under other settings.
        RuntimeError: a step beyond the end of an episode; a build that does not keep to lockstep (``Turn``); use after
            ``close``, or in a forked process.

    Attributes:
        seeds: seed of the build, in a list. agents: ids of the agents in Unity, in the order of the rows.
        actions: form of their actions.
    """

    def __init__(self, build: UnityMLAgentsEnv, seeds: list[int]) -> None:
        behaviors = dict(build.behavior_specs)
        if len(behaviors) != 1:
            raise ValueError(f"the build must have one behavior, of all its agents; got {', '.join(behaviors)}")
        ((self._behavior, spec),) = behaviors.items()
        self.agents = sorted(int(name.removeprefix("agent_")) for name in build.agent_name_to_behavior_map)
        super().__init__(batch_size=torch.Size([1, len(self.agents)]))
        self.seeds = seeds
        self._shapes = [(each.name, tuple(each.shape)) for each in spec.observation_specs]
        self.actions = AgentActions(spec.action_spec.continuous_size, tuple(spec.action_spec.discrete_branches))
        self._make_specs(observation_size(self._shapes))
        # TorchRL needs observations of agents that a message leaves out; zeros will do, since its output is not read.
        self._blank = build.observation_spec.zero()[GROUP].to_dict()
        self._start()
        self._owned = Owned(build, _close_build, "a Unity build's agents")
        self.is_closed = False  # TorchRL's default is True
        _close_at_exit(self)

    @property
    def _build(self) -> UnityMLAgentsEnv:
        return self._owned.use

    def _make_specs(self, size: int) -> None:
        self.action_spec = self.actions.spec(self.batch_size)
        self._action_shape = self.action_spec.shape
        observation = Unbounded(torch.Size([*self.batch_size, size]), dtype=torch.float32)
        lockstep.set_specs(self, observation=observation, **lockstep.episode_specs(self))

    def _start(self) -> None:
        """All agents are due for a reset, and the scene with them."""
        number = len(self.agents)
        self._episode_reward, self._step_count = np.zeros(number), np.zeros(number, dtype=np.int64)
        self._observation = np.zeros((number, self.observation_spec["observation"].shape[-1]), dtype=np.float32)
        self._first: np.ndarray | None = None  # None: Unity has no next episodes waiting
        self._terminated, self._truncated = np.ones(number, dtype=np.bool_), np.zeros(number, dtype=np.bool_)

    def _shown(self) -> dict[str, Tensor]:
        """The outputs, as copies, which must not change with the next step."""
        terminated = torch.from_numpy(self._terminated.copy())
        truncated = torch.from_numpy(self._truncated.copy())
        columns = {
            "episode_reward": torch.from_numpy(self._episode_reward.astype(np.float32)),
            "step_count": torch.from_numpy(self._step_count.copy()),
            "done": terminated | truncated,
            "terminated": terminated,
            "truncated": truncated,
        }
        shown = {key: value[None, :, None] for key, value in columns.items()}
        return shown | {"observation": torch.from_numpy(self._observation.copy())[None]}

    def _checked(self, action: Tensor) -> np.ndarray:
        """Checked actions, one row per agent: (N, A), or (N,) for discrete ones."""
        lockstep.check_shape(action, self._action_shape)
        values = action.detach().cpu().numpy()[0]
        if self.actions.continuous:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)  # the build's type, in which 1e300 is infinite
            if not np.isfinite(values).all():
                raise ValueError(f"action must be finite; got {values.tolist()}")
            return values
        number = math.prod(self.actions.branches)
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= number:
            raise ValueError(f"action must be integers in [0, {number}); got {values.tolist()}")
        return values

    def _message(self, action: np.ndarray) -> TensorDict:
        """Our actions in the nested form of TorchRL's wrapper."""
        continuous, discrete = map(torch.from_numpy, self.actions.to_unity(action))
        parts = {"continuous_action": continuous, "discrete_action": discrete}
        agents = {}
        for row, agent in enumerate(self.agents):
            name = f"agent_{agent}"
            agents[name] = self._blank[name] | {key: each[row] for key, each in parts.items() if each.shape[1]}
        return TensorDict({GROUP: agents})

    def _turn(self, message: TensorDict) -> Turn:
        """Read messages until all agents ask for an action; the first message has arrived."""
        turn = Turn(self.agents, self._observation.shape[1])
        for _ in range(MOST_MESSAGES):
            if turn.add(*self._build.get_steps(self._behavior)):
                return turn
            self._build.step(message.copy())  # no agent asks, so no agent acts; the simulation goes on
        raise RuntimeError(f"an agent must ask for an action sometime; none did in {MOST_MESSAGES} messages")

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = self._checked(tensordict.get("action"))
        if (self._terminated | self._truncated).any():
            raise RuntimeError(lockstep.ENDED)
        message = self._message(action)
        self._build.step(message.copy())
        turn = self._turn(message)
        self._observation, self._first = turn.observation, turn.first
        self._terminated, self._truncated = turn.terminated, turn.truncated
        self._step_count += 1
        self._episode_reward += turn.reward
        reward = torch.from_numpy(turn.reward.astype(np.float32))[None, :, None]
        return TensorDict(self._shown() | {"reward": reward}, self.batch_size)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = lockstep.reset_mask(tensordict)
        which = np.ones(len(self.agents), dtype=np.bool_) if mask is None else mask.reshape(-1).cpu().numpy()
        running = ~(self._terminated | self._truncated)
        if mask is None or self._first is None or (which & running).any():
            if not which.all():
                raise ValueError(f"only agents that have ended can be reset, or all; got {which.tolist()}")
            self._build.reset()
            self._first = self._turn(self._message(self._idle())).first
        self._observation = np.where(which[:, None], self._first, self._observation)
        for values in (self._episode_reward, self._step_count, self._terminated, self._truncated):
            values[which] = 0
        return TensorDict(self._shown(), self.batch_size)

    def _idle(self) -> np.ndarray:
        """An action that fills a message in which no agent acts."""
        return np.zeros(tuple(self._action_shape[1:]), dtype=np.float32 if self.actions.continuous else np.int64)

    def _set_seed(self, seed: int | None) -> None:
        """A build takes its seed when it starts."""
        raise NotImplementedError(f"a Unity build takes its seed when it starts: unity_env(..., seeds=[{seed}])")

    def _settings(self) -> dict[str, Any]:
        return {
            "seeds": list(self.seeds),
            "behavior": self._behavior,
            "agents": len(self.agents),
            "observations": [[name, *shape] for name, shape in self._shapes],
            "actions": [self.actions.continuous, *self.actions.branches],
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The settings; a running simulation of Unity cannot be saved."""
        return {"settings": self._settings()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Begin all episodes anew; ValueError, naming the settings that differ, if saved under others."""
        lockstep.check_settings(self._settings(), state["settings"], "build")
        self._start()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the build."""
        if not self.is_closed:
            self._owned.close()
        super().close(raise_if_closed=raise_if_closed)


def _close_build(build: UnityMLAgentsEnv) -> None:
    build.close()


def _close_at_exit(env: EnvBase) -> None:
    """Close the build at Python's exit, if it is still open.

    ML-Agents does so in ``atexit``, which Python calls only after the threads of gRPC's server have ended. These wait
    for the build, so that a program without ``close`` would never end.
    """
    there = weakref.ref(env)

    def close() -> None:
        left = there()
        if left is not None and not left.is_closed:
            left.close()

    # concurrent.futures registers its wait in the same way; the function registered last is called first.
    threading._register_atexit(close)


def _mlagents(module: str) -> Any:
    """Import a module of mlagents_envs, by name, so that a type checker accepts this file where it is missing."""
    own = "in a Python environment of its own (docs/unity.md): pip install 'torchrl-decouple[unity]'"
    try:
        found = importlib.import_module(f"mlagents_envs.{module}")
    except ImportError as error:
        raise ImportError(f"unity_env needs mlagents-envs, {own}") from error
    except TypeError as error:  # raised by a protobuf that is too new for the generated code
        raise ImportError(f"mlagents-envs needs protobuf < 3.21, {own}") from error
    if int(np.__version__.partition(".")[0]) < 2:  # np.bool went with NumPy 1.24 and came back with 2.0
        raise ImportError(f"mlagents-envs needs NumPy >= 2 beside decouple; got {np.__version__}; {own}")
    return found


def _free_worker(base_port: int) -> int:
    """The first worker id whose port is free.

    Tested here, because a ``UnityEnvironment`` that finds its port taken causes an error at Python's exit.
    """
    for port in range(base_port, LAST_PORT + 1):
        with socket.socket() as probe:
            if sys.platform == "linux":  # else a port that was closed a moment ago counts as taken
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("localhost", port))
            except OSError:
                continue
        return port - base_port
    raise RuntimeError(f"no port is free from base_port={base_port} on")


def _start_build(file_name: str | None, seed: int, time_scale: float, **settings: Any) -> UnityMLAgentsEnv:
    """Start a build in TorchRL's environment.

    Raises:
        FileNotFoundError: there is no build at ``file_name``.
        ImportError: mlagents-envs is missing or does not work here.
    """
    channel = _mlagents("side_channel.engine_configuration_channel").EngineConfigurationChannel()
    if file_name is not None and _mlagents("env_utils").validate_environment_path(file_name) is None:
        raise FileNotFoundError(f"file_name must be the executable of a Unity build; got {file_name!r}")
    channel.set_configuration_parameters(time_scale=time_scale)
    return _Build(
        file_name,
        seed=seed,
        side_channels=[channel],
        group_map=MarlGroupMapType.ALL_IN_ONE_GROUP,
        categorical_actions=True,
        **settings,
    )


@checked(
    num_envs=at_least(1),
    time_scale=above(0),
    num_areas=at_least(1),
    worker_id=at_least(0),
    base_port=between(1, 65535),
    timeout_wait=at_least(1),
)
def unity_env(
    file_name: str | Path | None,
    seeds: Sequence[int],
    num_envs: int | None = None,
    *,
    time_scale: float = 20.0,
    no_graphics: bool = True,
    num_areas: int = 1,
    worker_id: int | None = None,
    base_port: int = BASE_PORT,
    timeout_wait: int = 60,
    additional_args: Sequence[str] = (),
) -> UnityEnv:
    """Start a Unity build and act for its agents; see ``UnityEnv`` for keys and shapes.

    ::

        env = unity_env("builds/FoodCollector.x86_64", seeds=[0])
        env.rollout(100)

    Args:
        file_name: path of the executable; None waits for the Play button of a Unity Editor, on port 5004.
        seeds: one integer in [0, 2^31 - 1], the seed of the build. A build is one simulation with one policy, so that
            several seeds are several runs.
        num_envs: N, number of agents; refused if the build has another number. None: as many as the build has.
        time_scale: largest number of simulated seconds per second, > 0; ML-Agents trains with 20. It does not change
            the physics step.
        no_graphics: start without a window.
        num_areas: copies of the training area, >= 1, in scenes that have ML-Agents' TrainingAreaReplicator.
        worker_id: number of the build's port, base_port + worker_id; None takes the first free port. Set it for runs
            that start at the same moment. Not used with an Editor.
        base_port: first port, in [1024, 65535]. Not used with an Editor.
        timeout_wait: seconds to wait for an answer of the build, >= 10.
        additional_args: further arguments for the executable, such as ``["-logFile", "/path/to/player.log"]``.

    Raises:
        ValueError: an argument outside its range; a build that we do not support: more than one behavior, pictures or
            grids as observations, actions that ``AgentActions`` does not cover.
        FileNotFoundError: there is no build at ``file_name``.
        ImportError: mlagents-envs is not installed, or does not work with the installed protobuf or NumPy.
    """
    (seed, *others) = check_seeds(seeds)
    if others:
        raise ValueError(f"seeds must be a single one: a Unity build is one simulation; got {list(seeds)}")
    if num_envs is not None:
        check_integer("num_envs", num_envs, 1, INT32_MAX)
    base_port = check_integer("base_port", base_port, 1024, LAST_PORT)
    port = {} if file_name is None else {"base_port": base_port, "worker_id": worker_id}
    if worker_id is not None:
        check_integer("worker_id", worker_id, 0, LAST_PORT - base_port)
    elif port:
        port["worker_id"] = _free_worker(base_port)
    build = _start_build(
        None if file_name is None else str(file_name),
        seed,
        float(time_scale),
        no_graphics=bool(no_graphics),
        num_areas=check_integer("num_areas", num_areas, 1, INT32_MAX),
        timeout_wait=check_integer("timeout_wait", timeout_wait, 10, INT32_MAX),
        additional_args=list(additional_args),
        **port,
    )
    try:
        env = UnityEnv(build, [seed])
    except BaseException:
        build.close()
        raise
    if num_envs is not None and num_envs != len(env.agents):
        env.close()
        raise ValueError(f"num_envs must be the number of agents of the build, {len(env.agents)}; got {num_envs}")
    return env
