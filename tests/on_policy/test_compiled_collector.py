"""Rollouts whose steps a kernel plays are, to the bit, those of Python's steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from commands import assert_same

from decouple.compiled.kernel import unavailable
from decouple.networks.stacking import stack
from decouple.on_policy.compiled_agents import CompiledAgents
from decouple.on_policy.compiled_collector import CompiledCollector
from decouple.seeding import SeedNoise
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, seeded_model
from decouple.studies.actor_size.build import make_env

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="kernels need the extra fast")
pytest.importorskip("gymnasium")


class Collected:
    """Some rollouts of small agents, with the states behind them and the number of Python's own steps."""

    def __init__(self, name: str, seeds: list[int], games: int, steps: int, **own: Any) -> None:
        own = {"rollout_steps": 8, "minibatches": 2, "show_progress": False, "run_dir": "/nowhere"} | own
        config = CONTROL_ALGORITHMS["ppo"](env=name, actor=[8], critic=[8], num_envs=games, seeds=len(seeds), **own)
        self.env, self.noise, self.single = make_env(config, games, seeds), SeedNoise(seeds), 0
        self.agents = CompiledAgents(stack([seeded_model(config, self.env, seed) for seed in seeds]))
        step = self.env.plain_step
        object.__setattr__(self.env, "plain_step", lambda action: (self.count(), step(action))[1])
        self.collector = CompiledCollector(self.env, self.agents, self.noise, steps)

    def count(self) -> None:
        self.single += 1

    def states(self) -> Any:
        return self.env.state_dict(), self.noise.state_dict()

    def next(self) -> dict[str, Any]:
        found = next(self.collector).to_dict()
        return found | {"next": dict(sorted(found["next"].items()))}


CASES = [
    ("pendulum", [1], 4, 150),
    ("pendulum", [1, 2], 2, 90),
    ("acrobot", [3, 4], 2, 220),
    ("pong", [5], 2, 200),
    ("pixelcopter", [6, 7], 3, 100),
]


@pytest.mark.parametrize(("name", "seeds", "games", "steps"), CASES)
def test_a_rollout_is_that_of_single_steps(
    name: str, seeds: list[int], games: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Collected(name, seeds, games, steps) for _ in range(2))
    found = [one.next() for _ in range(3)]
    monkeypatch.setattr(CompiledAgents, "may_collect", False)
    expected = [other.next() for _ in range(3)]
    assert_same(found, expected)
    assert_same(one.states(), other.states())
    assert [list(each) for each in found] == [list(each) for each in expected]
    assert one.single == 0 and other.single == 3 * steps
    if name != "pong":  # whose games are longer
        assert sum(int(each["next"]["done"].sum()) for each in found) > 0


def test_games_go_on_from_the_middle() -> None:
    whole = Collected("acrobot", [3], 2, 60)
    first = [whole.next() for _ in range(2)]
    state = torch.utils._pytree.tree_map(lambda each: each.clone() if hasattr(each, "clone") else each, whole.states())
    rest = whole.next()
    other = Collected("acrobot", [3], 2, 60)
    other.env.load_state_dict(state[0])
    other.noise.load_state_dict(state[1])
    other.collector = CompiledCollector(other.env, other.agents, other.noise, 60)
    assert_same(other.next(), rest)
    assert len(first) == 2


def test_normalised_observations_are_python_s() -> None:
    """Python normalises them."""
    games = Collected("pendulum", [1], 2, 10, normalize_observation=True)
    games.next()
    assert games.single == 10
