"""One agent and several give the same answers, each in its own layout."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Categorical

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.agents import OneAgent, StackedAgents, agents_of, draw_agents, kind_of_agents
from decouple.runs.finite import FailedSeeds
from decouple.seeding import SeedNoise


def make_model() -> ActorValue:
    return actor_value(separate(mlp_blocks(3, [4]), mlp_blocks(3, [4]), at=0), Categorical(2))


def public(kind: type) -> dict[str, list[str]]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(f).parameters) for name, f in functions if not name.startswith("_")}


def test_both_have_the_same_methods():
    assert public(OneAgent) == public(StackedAgents)


def test_a_model_a_generator_and_seeds_say_which_it_is():
    model, together = make_model(), stack([make_model(), make_model()])
    assert (kind_of_agents(model), kind_of_agents(together)) == (OneAgent, StackedAgents)
    assert type(agents_of(torch.Generator())) is type(draw_agents(model, None)) is OneAgent
    assert type(agents_of(SeedNoise([1]))) is type(draw_agents(together, [1, 2])) is StackedAgents


@pytest.mark.parametrize("count", [1, 3])
def test_an_epoch_has_each_frame_once(count: int):
    """7 frames of one agent, and of three: number f of agent s is 10 s + f."""
    one, several = OneAgent(torch.Generator()), StackedAgents(SeedNoise([4, 5, 6]))
    batch = TensorDict({"frame": torch.arange(7)}, [7])
    parts = list(one.minibatches(batch, count))
    seen = [one.frames(batch, part, slice(0, 99))["frame"] for part in parts]
    assert torch.cat(seen).sort().values.tolist() == list(range(7)) and len(seen) == count
    batch = TensorDict({"frame": torch.arange(7) + 10 * torch.arange(3).unsqueeze(1)}, [3, 7])
    several_parts = list(several.minibatches(batch, count))
    seen = [several.frames(batch, part, slice(0, 99))["frame"] for part in several_parts]
    assert torch.cat(seen, 1).sort(1).values.tolist() == batch["frame"].tolist()
    assert [part.shape[-1] for part in several_parts] == [len(part) for part in parts]


def test_each_of_several_draws_what_it_would_draw_alone():
    batch = TensorDict({"frame": torch.arange(7).expand(2, 7)}, [2, 7])
    together = [part["frame"] for part in StackedAgents(SeedNoise([4, 5])).minibatches(batch, 2)]
    alone = [part["frame"] for part in StackedAgents(SeedNoise([5])).minibatches(batch[:1], 2)]
    assert all(torch.equal(a[1], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("agents", [OneAgent(torch.Generator()), StackedAgents(SeedNoise([1, 2]))])
def test_random_numbers_go_on_from_a_state(agents: OneAgent | StackedAgents):
    batch = TensorDict({"frame": torch.arange(8).expand(2, 8)}, [2, 8])
    batch = batch if isinstance(agents, StackedAgents) else batch[0]

    def epoch() -> list[list]:
        return [agents.frames(batch, part, slice(0, 9))["frame"].tolist() for part in agents.minibatches(batch, 2)]

    state = agents.state()
    first = epoch()
    assert epoch() != first
    agents.load_state(state)
    assert epoch() == first


def test_advantages_are_standardised_over_the_frames_of_each_agent():
    """With gamma = 0 the advantage is reward - value: 1, 3 of one agent, 10, 30 of the other."""
    reward = torch.tensor([[[1.0], [3.0]], [[10.0], [30.0]]]).unsqueeze(1)  # (2, 1, 2, 1)
    zeros, never = torch.zeros_like(reward), torch.zeros_like(reward, dtype=torch.bool)
    following = {"reward": reward, "done": never, "terminated": never, "state_value": zeros}
    rollout = TensorDict({"state_value": zeros, "next": TensorDict(following, [2, 1, 2])}, [2, 1, 2])
    alone = rollout[0].clone()
    StackedAgents(SeedNoise([1, 2])).estimate_advantages(rollout, 0.0, 0.5)
    OneAgent(torch.Generator()).estimate_advantages(alone, 0.0, 0.5)
    half = math.sqrt(0.5)  # (1 - 2) / sqrt 2
    torch.testing.assert_close(rollout["advantage"].flatten(1), torch.tensor([[-half, half], [-half, half]]))
    torch.testing.assert_close(alone["advantage"], rollout["advantage"][0])
    torch.testing.assert_close(alone["value_target"], reward[0])


def test_metrics_of_one_are_its_numbers_and_those_of_several_are_told_apart():
    found = {"loss/a": torch.tensor([1.0, 3.0]), "policy/b": 5.0}
    failed = FailedSeeds([7, 8])
    row = StackedAgents(SeedNoise([7, 8])).row_of_phase(found, failed)
    assert row == {"loss/a": 2.0, "loss/a/seed7": 1.0, "loss/a/seed8": 3.0, "policy/b": 5.0}
    with pytest.warns(UserWarning, match="seed 8"):
        failed.fail(1, "loss is nan")
    row = StackedAgents(SeedNoise([7, 8])).row_of_phase(found, failed)  # what is over both is nobody's
    assert row == {"loss/a": 1.0, "loss/a/seed7": 1.0}
    assert OneAgent(torch.Generator()).row_of_phase({"loss/a": 2.0}, FailedSeeds()) == {"loss/a": 2.0}
