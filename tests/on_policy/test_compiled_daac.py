"""DAAC's compiled phases: the torch phases' parameters, moments, metrics and checkpoints; agents apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pairwise import grid
from test_compiled_phase import FRAMES, RATES, Plain, assert_equal_to, make_model, rollout, tensors_of
from test_on_policy_seeds import SEEDS, SIZE, SPECS, assert_close, make_settings, train
from test_on_policy_seeds import make_model as seeded_model
from torch import Tensor

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.phases import RolloutPhase
from decouple.seeding import SeedNoise

pytest.importorskip("numba")

from decouple.on_policy.compiled_daac import compiled_daac_phases

pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

DAAC = {"minibatches": 5, "policy_epochs": 2, "value_epochs": 3, "value_every": 2, "advantage_coeff": 0.7}


def _named(name: str, text: str) -> str:
    return f"{name}: {text}"


def learn(
    model: ActorValue, phases: Sequence[RolloutPhase], seeds: list[int], rollouts: range
) -> list[tuple[str, dict[str, Any]]]:
    """Each phase's metrics on these rollouts, where it is due."""
    shuffle, found = SeedNoise(seeds), []
    for number in rollouts:
        frames = rollout(model, [1000 * number + seed for seed in seeds])
        due: list[Any] = [phase for phase in phases if number % phase.every == 0]
        for phase in due:
            phase.anneal(1 - number / 4)
        found += [(phase.name, phase.run(frames, shuffle, micro_batch=1000)) for phase in due]
    return found


def all_tensors(model: ActorValue, phases: Sequence[Any]) -> dict[str, Tensor]:
    """The model's numbers, and each phase's: its optimizer's state and its own head's."""
    found: dict[str, Tensor] = {}
    for phase in phases:
        found |= {f"{phase.name} {name}": value for name, value in tensors_of(model, phase).items()}
        for index, state in enumerate(phase.state_dict()["losses"]):
            found |= {f"{phase.name} {index} {name}": value for name, value in state.items() if value is not None}
    return found


LEARNED: dict[str, tuple[dict, dict]] = {  # settings, and scales of the gradients at the cut
    "plain": ({"clip_value": None, "entropy_coeff": 0.0, "max_grad_norm": 1e6}, {}),
    "policy": ({"clip_value": 0.1, "entropy_coeff": 0.05}, {"policy_gradient": 0.5, "value_gradient": 0.0}),
    "value": ({"clip_value": 0.1}, {"policy_gradient": 0.0, "value_gradient": 0.3}),
    "cut-off": ({"clip_value": 0.1}, {"policy_gradient": 0.0, "value_gradient": 0.0}),
    "rates": (RATES, {}),
}


@grid(how=list(LEARNED), k=[0, 1, 2], kind=list(SPECS))
def test_all_phases_learn_the_same_numbers(how: str, k: int, kind: str):
    changes, cut = LEARNED[how]
    settings = make_settings(**DAAC, clip_epsilon=0.05, **changes)
    model = stack([make_model(seed, kind, k, **cut) for seed in SEEDS[:2]])
    twin = copy.deepcopy(model)
    phases, compiled = daac_phases(model, settings, SEEDS[:2]), compiled_daac_phases(twin, settings, SEEDS[:2])
    before = {name: value.clone() for name, value in all_tensors(model, phases).items()}
    expected, found = (learn(m, p, SEEDS[:2], range(3)) for m, p in ((model, phases), (twin, compiled)))
    assert [name for name, _ in found] == ["policy", "value", "policy", "policy", "value"]
    assert_equal_to(all_tensors(twin, compiled), after := all_tensors(model, phases), 1e-12)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name for name in before if "advantage_network" in name and "linear" in name} <= moved
    for (_, own), (_, of_torch) in zip(found, expected, strict=True):
        assert list(own) == list(of_torch)
        for name, value in of_torch.items():
            near = 1e-6 if name.startswith("cut/") else 1e-11  # torch measures at the cut in float32
            torch.testing.assert_close(own[name], value, rtol=near, atol=near, msg=partial(_named, name))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_linear_actors_advantage_head_reads_the_observation(kind: str):
    def linear(seed: int) -> ActorValue:
        torch.manual_seed(seed)
        network = separate([], [], at=0, example={"observation": torch.zeros(SIZE + 1)})
        return actor_value(network, SPECS[kind], policy_gain=1.0).double()

    settings, model = make_settings(**DAAC), stack([linear(seed) for seed in SEEDS[:2]])
    twin = copy.deepcopy(model)
    phases, compiled = daac_phases(model, settings, SEEDS[:2]), compiled_daac_phases(twin, settings, SEEDS[:2])
    learn(model, phases, SEEDS[:2], range(2))
    learn(twin, compiled, SEEDS[:2], range(2))
    assert_equal_to(all_tensors(twin, compiled), all_tensors(model, phases), 1e-12)


def test_in_float32_they_differ_by_rounding():
    settings = make_settings(**DAAC, clip_value=0.1)
    model = stack([make_model(seed, "continuous", 1) for seed in SEEDS[:2]]).float()
    twin = copy.deepcopy(model)
    phases, compiled = daac_phases(model, settings, SEEDS[:2]), compiled_daac_phases(twin, settings, SEEDS[:2])
    learn(model, phases, SEEDS[:2], range(2))
    learn(twin, compiled, SEEDS[:2], range(2))
    assert_equal_to(all_tensors(twin, compiled), all_tensors(model, phases), 1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_agent_alone_becomes_bit_for_bit_what_it_becomes_beside_others(threads: int):
    """On the same frames: torch, which acts here, rounds differently by the number of agents."""
    settings = make_settings(**DAAC)
    models = [make_model(seed, "continuous", 1).float() for seed in SEEDS]
    together, shuffle = stack(models), SeedNoise(SEEDS)
    phases = compiled_daac_phases(together, settings, SEEDS)
    phases[0].agents.threads.count = threads
    frames = rollout(together, SEEDS)
    for phase in phases:
        phase.run(frames, shuffle, micro_batch=1000)
    for index, seed in enumerate(SEEDS):
        alone, own_shuffle = stack([models[index]]), SeedNoise([seed])
        own, at = compiled_daac_phases(alone, settings, [seed]), slice(index, index + 1)
        for phase in own:
            phase.run(frames[at], own_shuffle, micro_batch=1000)
        for a, b in zip(own[0].phase.parameters(), phases[0].phase.parameters(), strict=True):
            assert torch.equal(a, b[at])
        for a, b in zip(alone.parameters(), together.parameters(), strict=True):
            assert torch.equal(a, b[at])


TORCH, COMPILED = partial(daac_phases, seeds=SEEDS), partial(compiled_daac_phases, seeds=SEEDS)


@pytest.mark.parametrize(("first", "second"), [(TORCH, COMPILED), (COMPILED, TORCH)])
def test_either_continues_the_others_checkpoint(tmp_path: Path, first: Callable, second: Callable):
    models = [seeded_model(seed, "continuous", 1) for seed in SEEDS]
    settings = make_settings(value_every=2)
    expected, rows = train(models, SEEDS, settings, make_phases=TORCH)
    file = tmp_path / "checkpoint.pt"
    own = make_settings(value_every=2, total_frames=settings.total_frames // 3)
    train(models, SEEDS, own, checkpoint=file, make_phases=first)
    found, logged = train(models, SEEDS, settings, checkpoint=file, make_phases=second)
    for trained, model in zip(found, expected, strict=True):
        assert_close(trained, model)
    for name in ("loss/critic", "loss/advantage"):
        assert logged[-1][name] == pytest.approx(rows[-1][name], rel=1e-6)


@pytest.mark.parametrize("kind", ["continuous", "one-hot"])
def test_a_whole_training_run_is_the_torch_phases_and_resumes_to_the_bit(tmp_path: Path, kind: str):
    models, settings = [seeded_model(seed, kind, 1) for seed in SEEDS], make_settings()
    expected, of_torch = train(models, SEEDS, settings, kind, make_phases=TORCH, env=Plain(SEEDS, kind))
    found, rows = train(models, SEEDS, settings, kind, make_phases=COMPILED, env=Plain(SEEDS, kind))
    for own, model in zip(found, expected, strict=True):
        assert_close(own, model)
    assert [sorted(row) for row in rows] == [sorted(row) for row in of_torch]
    options: dict[str, Any] = {"make_phases": COMPILED, "checkpoint": tmp_path / "checkpoint.pt"}
    first = make_settings(total_frames=settings.total_frames // 3)
    train(models, SEEDS, first, kind, env=Plain(SEEDS, kind), **options)
    resumed, _ = train(models, SEEDS, settings, kind, env=Plain(SEEDS, kind), **options)
    for own, model in zip(resumed, found, strict=True):
        assert all(map(torch.equal, own.parameters(), model.parameters()))


def test_progress_counts_minibatches_and_what_kernels_cannot_do_is_refused():
    settings, model = make_settings(**DAAC), stack([make_model(3, "continuous", 0)])
    (policy, value), told = compiled_daac_phases(model, settings, [3]), []
    assert (policy.every, value.every, policy.minibatches) == (1, 2, 5)
    frames = rollout(model, [3])
    assert frames.shape == (1, FRAMES)
    policy.run(frames, SeedNoise([3]), micro_batch=1, progress=lambda *args: told.append(args))
    assert told == [("policy phase, minibatches", 5, 10), ("policy phase, minibatches", 10, 10)]
    with pytest.raises(ValueError, match="model must be a stack of perceptrons"):
        compiled_daac_phases(make_model(3, "continuous", 0), settings, [3])
    with pytest.raises(ValueError, match="precision must be fp32"):
        compiled_daac_phases(model, make_settings(precision="bf16"), [3])
    with pytest.raises(ValueError, match="seeds must be 1 different integers"):
        compiled_daac_phases(model, settings, [3, 4])
