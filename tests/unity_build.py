"""A stand-in for a Unity build, for tests: an executable that speaks ML-Agents' protocol, and a game of a few rules.

    file_name = write_build(folder, agents=[3, 1], episode_steps=[2, 5])

Everything on Python's side of the wire is real: the process that is started, gRPC, `UnityEnvironment`, TorchRL's
wrapper. After com.unity.ml-agents' RpcCommunicator.cs and Agent.cs: Unity is the client; a terminal step comes beside
the first decision step of the agent's next episode, or, where an episode ended between two decisions, in a message
before it; an agent keeps its id.

The game: what an agent sees is [id, full resets, episodes before this one, decisions in this one, 0, ...] in its first
array and the action that it took last in its second; its reward is the first number of that action.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

GAME: dict[str, Any] = {
    "behaviors": ["FoodCollector?team=0"],
    "observations": [["RayPerceptionSensor", [49]], ["VectorSensor_size4", [4]]],
    "continuous": 3,
    "branches": [2],
    "agents": [0, 1, 2, 3, 4],
    "episode_steps": [3],  # one for all agents, or one for each
    "interrupted": True,  # episodes end by a limit of steps
    "ends_first": False,  # ends come in a message before that of the next decisions
    "group_reward": 0.0,
    "communication_version": "1.5.0",
    # From this decision on, counted from 1 over all episodes, ...
    "absent_from": None,  # ... the last agent asks for no actions
    "newcomer_from": None,  # ... there is one agent more
    "masked_from": None,  # ... the last action of the last branch is forbidden
    "crash_from": None,  # ... there is no build; from 0: at the first reset
    "log": None,  # where to write what came, one JSON a line
}


def write_build(folder: Path, name: str = "FoodCollector", **game: Any) -> str:
    """Write the build and return its path; `game` replaces values of `GAME`."""
    assert game.keys() <= GAME.keys(), game.keys()
    rules = folder / f"{name}.json"
    rules.write_text(json.dumps(GAME | {"log": str(folder / f"{name}.log")} | game))
    build = folder / f"{name}.x86_64"
    command = shlex.join([sys.executable, "-W", "ignore", __file__, str(rules)])
    build.write_text(f'#!/bin/sh\nGRPC_VERBOSITY=NONE exec {command} "$@"\n')
    build.chmod(0o755)
    return str(build)


class Agent:
    def __init__(self, number: int, steps: int):
        self.number, self.steps = number, steps
        self.resets = self.episode = self.step = 0
        self.action: list[float] = []

    def begin(self, *, by_reset: bool) -> None:
        self.resets += by_reset
        self.episode = 0 if by_reset else self.episode + 1
        self.step, self.action = 0, []


class Game:
    """What Unity would send, as the protocol's messages."""

    def __init__(self, rules: dict[str, Any]):
        self.rules, self.decisions = rules, 0
        steps = rules["episode_steps"]
        self.agents = [Agent(n, steps[i % len(steps)]) for i, n in enumerate(rules["agents"])]
        self.asking: list[Agent] = []

    def since(self, fault: str) -> bool:
        first = self.rules[fault]
        return first is not None and self.decisions >= first

    def info(self, agent: Agent, *, done: bool) -> Any:
        from mlagents_envs.communicator_objects.agent_info_pb2 import AgentInfoProto
        from mlagents_envs.communicator_objects.observation_pb2 import ObservationProto

        first = [agent.number, agent.resets, agent.episode, agent.step]
        observations = []
        for (name, shape), values in zip(self.rules["observations"], (first, agent.action), strict=False):
            number = 1
            for size in shape:
                number *= size
            padded = [*values, *[0.0] * number][:number]
            observations.append(
                ObservationProto(name=name, shape=shape, float_data=ObservationProto.FloatData(data=padded))
            )
        size = sum(self.rules["branches"])
        forbidden = [index == size - 1 and self.since("masked_from") for index in range(size)]
        return AgentInfoProto(
            id=agent.number,
            done=done,
            max_step_reached=done and self.rules["interrupted"],
            reward=agent.action[0] if agent.action else 0.0,
            group_reward=self.rules["group_reward"],
            observations=observations,
            action_mask=[] if done else forbidden,
        )

    def message(self, ended: list[Any], asking: list[Agent]) -> Any:
        from mlagents_envs.communicator_objects.brain_parameters_pb2 import ActionSpecProto, BrainParametersProto
        from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto

        self.asking = asking
        message = UnityMessageProto()
        message.header.status = 200
        branches, names = self.rules["branches"], self.rules["behaviors"]
        actions = ActionSpecProto(
            num_continuous_actions=self.rules["continuous"],
            num_discrete_actions=len(branches),
            discrete_branch_sizes=branches,
        )
        output = message.unity_output
        for index, name in enumerate(names):
            output.rl_initialization_output.brain_parameters.append(
                BrainParametersProto(brain_name=name, is_training=True, action_spec=actions)
            )
            infos = [*ended, *(self.info(agent, done=False) for agent in asking)]
            output.rl_output.agentInfos[name].value.extend(infos[index :: len(names)])
        return message

    def reset(self) -> list[Any]:
        if self.since("crash_from"):
            sys.exit(1)
        for agent in self.agents:
            agent.begin(by_reset=True)
        return [self.message([], self.agents)]

    def step(self, actions: Any) -> list[Any]:
        """The messages from these actions to the next: one, or two with ``ends_first``."""
        received = [action for name in self.rules["behaviors"] for action in actions[name].value]
        assert len(received) == len(self.asking), (len(received), len(self.asking))
        self.decisions += 1
        if self.since("crash_from"):
            sys.exit(1)
        ended = []
        for agent, action in zip(self.asking, received, strict=True):
            agent.action = [*action.continuous_actions, *map(float, action.discrete_actions)]
            agent.step += 1
            if agent.step == agent.steps:
                ended.append(self.info(agent, done=True))
                agent.begin(by_reset=False)
        if self.since("newcomer_from") and len(self.agents) == len(self.rules["agents"]):
            self.agents.append(Agent(99, 10))
        asking = self.agents[: -1 if self.since("absent_from") else None]
        if ended and self.rules["ends_first"]:
            return [self.message(ended, []), self.message([], asking)]
        return [self.message(ended, asking)]


def play(rules: dict[str, Any], arguments: list[str]) -> None:
    """Connect to the port that Python listens on, and play until it says that it is enough."""
    import grpc
    from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto
    from mlagents_envs.communicator_objects.unity_to_external_pb2_grpc import UnityToExternalProtoStub

    game = Game(rules)
    port = arguments[arguments.index("--mlagents-port") + 1]
    with grpc.insecure_channel(f"localhost:{port}") as channel, Path(rules["log"]).open("a", buffering=1) as log:
        exchange = UnityToExternalProtoStub(channel).Exchange
        hello = UnityMessageProto()
        hello.header.status = 200
        hello.unity_output.rl_initialization_output.name = "stand-in"
        hello.unity_output.rl_initialization_output.communication_version = rules["communication_version"]
        hello.unity_output.rl_initialization_output.package_version = "2.2.1"
        hello.unity_output.rl_initialization_output.capabilities.baseRLCapabilities = True
        start = exchange(hello).unity_input.rl_initialization_input
        facts = {"process": os.getpid(), "arguments": arguments, "seed": start.seed, "areas": start.num_areas}
        log.write(json.dumps(facts) + "\n")
        empty = UnityMessageProto()
        empty.header.status = 200
        answer, waiting = exchange(empty), []
        while answer.header.status == 200:
            came = answer.unity_input.rl_input
            if came.command == 1:
                log.write(json.dumps({"reset": came.side_channel.hex()}) + "\n")
                waiting = game.reset()
            elif not waiting:
                waiting = game.step(came.agent_actions)
            else:  # between two messages of one step nobody may act
                assert not any(actions.value for actions in came.agent_actions.values())
            answer = exchange(waiting.pop(0))


if __name__ == "__main__":
    play(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
