"""Agents as flat memory: the tables that tell kernels where each layer's numbers lie.

    tables = Tables([AgentShape(trunk=[], policy=[Layer(3, 64, "relu"), Layer(64, 2)], critics=[...])])
    memory = tables.memory(np.float32)                # all agents' parameters, targets, gradients and moments
    tables.layer(memory, 0, "policy", 1)              # weight (in, out) and bias (out,) of a layer, as views

An agent's numbers are `COPIES` copies of its parameters, one after another: the parameters themselves, the target
networks, the gradient, and Adam's two moments for the critics' optimizer and for the policy's. Each copy holds the
trunk's layers, the policy's, then critic after critic; each layer its weight (in, out), row by row, and its bias. A
policy whose normal has a scale of its own, not computed by a layer, keeps the scale's numbers behind its layers, and
behind them those of a further linear head, if it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from decouple.checks import checked

__all__ = ["ACTIVATIONS", "COPIES", "AgentShape", "Layer", "Tables"]

ACTIVATIONS = {"linear": 0, "relu": 1, "tanh": 2, "elu": 3, "silu": 4, "leaky_relu": 5}
LINEAR, RELU, TANH, ELU, SILU, LEAKY_RELU = ACTIVATIONS.values()

# Columns of the layers' table.
INPUTS, OUTPUTS, ACTIVATION, WEIGHT, BIAS = range(5)

# Columns of the agents' table: the first layer of each part and the number of its layers, the number of critics, where
# the first copy begins, the size of a copy, and the scalars of each part. Critics have equal numbers of layers.
TRUNK, TRUNK_LAYERS, POLICY, POLICY_LAYERS, CRITIC, CRITIC_LAYERS, CRITICS = range(7)
START, SIZE, TRUNK_SIZE, POLICY_SIZE, CRITICS_SIZE = range(7, 12)
SCALE = 12  # where the first copy of the policy's own scale begins
COLUMNS = 13

# The copies of an agent's parameters, in their order.
ONLINE, TARGET, GRADIENT, CRITIC_MEAN, CRITIC_SQUARE, POLICY_MEAN, POLICY_SQUARE = range(7)
COPIES = 7


class Layer(NamedTuple):
    """A linear layer and its activation; `slope`: elu's alpha, leaky_relu's negative slope."""

    inputs: int
    outputs: int
    activation: str = "linear"
    slope: float = 0.0


class AgentShape(NamedTuple):
    """An agent's layers, part by part; each critic's first layer reads the trunk's output and, after it, the action.

    `scales`: numbers of the policy's own scale, a parameter; 0 where a layer computes the scale, or there is none.
    `head`: inputs of the policy's further head, with one output, as DAAC's advantage; 0 where there is none.
    """

    trunk: Sequence[Layer]
    policy: Sequence[Layer]
    critics: Sequence[Sequence[Layer]]
    scales: int = 0
    head: int = 0

    @property
    def of_head(self) -> int:
        """The numbers of the further head: weight (in, 1) and bias (1,)."""
        return self.head + 1 if self.head else 0


class Tables:
    """Where each number of each agent lies. Agents may differ in sizes and depths.

    Attributes:
        agents: int64 (S, COLUMNS). layers: int64 (L, 5), all agents' layers. slopes: float64 (L,).
        size: numbers of all agents with all copies.
        widest: for each agent, the numbers of one row of all its layers' outputs, and its widest input.
    """

    @checked()
    def __init__(self, shapes: Sequence[AgentShape]):
        self.shapes = list(shapes)
        self.agents = np.zeros((len(self.shapes), COLUMNS), dtype=np.int64)
        rows: list[list[int]] = []
        slopes: list[float] = []
        start = 0
        for agent, shape in zip(self.agents, self.shapes, strict=True):
            place = start
            groups = [("trunk", shape.trunk), ("policy", shape.policy)]
            groups += [(f"critic {index}", critic) for index, critic in enumerate(shape.critics)]
            first = {"trunk": TRUNK, "policy": POLICY, "critic 0": CRITIC}
            sizes = dict.fromkeys(("trunk", "policy", "critic"), 0)
            for name, layers in groups:
                if name in first:
                    agent[first[name]], agent[first[name] + 1] = len(rows), len(layers)
                for layer in layers:
                    bias = place + layer.inputs * layer.outputs
                    rows.append([layer.inputs, layer.outputs, ACTIVATIONS[layer.activation], place, bias])
                    slopes.append(layer.slope)
                    sizes[name.split()[0]] += bias + layer.outputs - place
                    place = bias + layer.outputs
                if name == "policy":
                    agent[SCALE] = place
                    sizes[name] += shape.scales + shape.of_head
                    place += shape.scales + shape.of_head
            agent[CRITICS], agent[START], agent[SIZE] = len(shape.critics), start, place - start
            agent[[TRUNK_SIZE, POLICY_SIZE, CRITICS_SIZE]] = list(sizes.values())
            start += COPIES * (place - start)
        self.layers, self.slopes, self.size = np.array(rows, dtype=np.int64), np.array(slopes), start

    def memory(self, dtype: Any) -> np.ndarray:
        """Zeros for all agents' numbers, (size,)."""
        return np.zeros(self.size, dtype=dtype)

    def rows(self, agent: int, part: str, critic: int = 0) -> range:
        """The rows of `layers` that belong to a part: trunk, policy or critic."""
        first, count = {"trunk": (TRUNK, 1), "policy": (POLICY, 3), "critic": (CRITIC, 5)}[part]
        begin, number = int(self.agents[agent, first]), int(self.agents[agent, count])
        return range(begin + critic * number, begin + (critic + 1) * number)

    def layer(self, memory: np.ndarray, agent: int, row: int, copy: int = ONLINE) -> tuple[np.ndarray, np.ndarray]:
        """Weight (in, out) and bias (out,) of a row of `layers`, as views of the memory."""
        inputs, outputs, _, weight, bias = self.layers[row].tolist()
        shift = copy * int(self.agents[agent, SIZE])
        weights = memory[weight + shift : weight + shift + inputs * outputs].reshape(inputs, outputs)
        return weights, memory[bias + shift : bias + shift + outputs]

    def scale(self, memory: np.ndarray, agent: int, copy: int = ONLINE) -> np.ndarray:
        """The policy's own scale (A,), as a view of the memory."""
        begin = int(self.agents[agent, SCALE]) + copy * int(self.agents[agent, SIZE])
        return memory[begin : begin + self.shapes[agent].scales]

    def head(self, memory: np.ndarray, agent: int, copy: int = ONLINE) -> tuple[np.ndarray, np.ndarray]:
        """Weight (in, 1) and bias (1,) of the policy's further head, as views of the memory."""
        shape = self.shapes[agent]
        begin = int(self.agents[agent, SCALE]) + copy * int(self.agents[agent, SIZE]) + shape.scales
        numbers = memory[begin : begin + shape.of_head]
        return numbers[: shape.head].reshape(shape.head, 1), numbers[shape.head :]

    def scratch(self, batch: int) -> int:
        """Numbers that an update of the largest agent with this batch needs beside the memory.

        Each layer's output and its gradient in each of the passes of an update, with room for activations that keep
        their derivative, and the inputs that are put together; and of one layer a gradient and the weight, turned.
        """
        most = largest = 0
        for shape in self.shapes:
            layers = [*shape.trunk, *shape.policy, *(layer for critic in shape.critics for layer in critic)]
            most = max(most, sum(layer.inputs + 4 * layer.outputs for layer in layers))
            largest = max([largest, *(layer.inputs * layer.outputs for layer in layers)])
        return 4 * batch * most + 2 * largest + 4096
