"""counting.py against Table A.2 of Mysore et al. 2021: the parameters of every actor in it, built with this package."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torchrl.data import Bounded, Categorical, TensorSpec

from decouple.actor_qvalue import actor_qvalue
from decouple.blocks import mlp_blocks
from decouple.counting import parameter_count
from decouple.separation import separate

TABLE = Path(__file__).parent / "data" / "honey_table_a2.csv"
CONTINUOUS = {"Pendulum": (3, 1), "Reacher": (11, 2), "HalfCheetah": (17, 6), "Ant": (111, 8), "FoodCollector": (53, 4)}
DISCRETE = {"Acrobot": (6, 3), "Pong": (7, 3), "Pixelcopter": (7, 2)}


def table() -> list[tuple[str, list[int], int]]:
    """(task, hidden sizes, parameters) of each entry."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    entries = []
    for row in rows:
        hidden_sizes = [int(size) for size in row.pop("hidden").split(",")]
        entries += [(task, hidden_sizes, int(count)) for task, count in row.items() if count]
    return entries


def actor_parameters(task: str, hidden_sizes: list[int], at: int) -> int:
    """Of the actor with one output per action; the critic, of another size, does not count."""
    observation, action = (CONTINUOUS | DISCRETE)[task]
    spec: TensorSpec = Bounded(-1.0, 1.0, (action,)) if task in CONTINUOUS else Categorical(action)
    further = action if task in CONTINUOUS else 0
    trunk_size = hidden_sizes[at - 1] if at else observation
    dropped = mlp_blocks(observation, hidden_sizes[:at], gain=None) if at else []
    network = separate(
        mlp_blocks(observation, hidden_sizes, gain=None),
        [*dropped, *mlp_blocks(trunk_size + further, [7])],
        at=at,
        value_keys=["action"] if further else [],
        example={"observation": torch.zeros(observation), "action": torch.zeros(action)},
    )
    count = parameter_count(actor_qvalue(network, spec, deterministic=task in CONTINUOUS))
    return count["trunk"] + count["policy"]


@pytest.mark.parametrize("at", [0, 1])
def test_actors_are_as_large_as_in_the_paper(at: int) -> None:
    entries = table()
    assert len(entries) == 69
    assert {task for task, _, _ in entries} == CONTINUOUS.keys() | DISCRETE.keys()
    counted = {(task, *sizes): actor_parameters(task, sizes, at) for task, sizes, _ in entries}
    assert len(counted) == 69
    assert counted == {(task, *sizes): count for task, sizes, count in entries}


def test_one_entry_by_hand() -> None:
    # Pendulum |8,8|: 3 x 8 + 8, 8 x 8 + 8, 8 x 1 + 1
    assert actor_parameters("Pendulum", [8, 8], at=0) == 32 + 72 + 9 == 113
