"""IDAAC's compiled phases: the torch phases' parameters, moments, metrics and checkpoints; agents apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairwise import grid
from tensordict import TensorDictBase
from test_compiled_daac import DAAC, all_tensors
from test_compiled_phase import RATES, Plain, assert_equal_to, make_model, rollout
from test_on_policy_seeds import SEEDS, SIZE, SPECS, assert_close, make_settings, train
from test_on_policy_seeds import make_model as seeded_model
from torch import Tensor

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.seeding import SeedNoise

pytest.importorskip("numba")

from decouple.on_policy.compiled_idaac import compiled_idaac_phases

pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

IDAAC = DAAC | {"value_epochs": 1, "order_coeff": 0.6}


def frames_of(model: ActorValue, seeds: list[int]) -> TensorDictBase:
    """Frames (S, B) of three levels, with steps of which some are equal."""
    frames = rollout(model, seeds)
    drawn = [np.random.default_rng(seed).integers(0, [[3], [20]], (2, frames.shape[1])) for seed in seeds]
    level, steps = torch.from_numpy(np.stack(drawn, 1)).unsqueeze(-1)  # (S, B, 1) each
    frames["level_seed"], frames["step_count"] = level, steps
    return frames


def learn(model: ActorValue, phases: Any, seeds: list[int], rollouts: range) -> list[tuple[str, dict[str, Any]]]:
    """Each phase's metrics on these rollouts, where it is due."""
    shuffle, found = SeedNoise(seeds), []
    for number in rollouts:
        frames = frames_of(model, [1000 * number + seed for seed in seeds])
        for phase in phases:
            if number % phase.every == 0:
                phase.anneal(1 - number / 4)
                found.append((phase.name, phase.run(frames.clone(), shuffle, micro_batch=1000)))
    return found


def numbers_of(model: ActorValue, phases: Any) -> dict[str, Tensor]:
    """`all_tensors`, and the order classifier's: its parameters and its optimizer's state."""
    adversary = phases[0].state_dict()["adversary"]
    found = all_tensors(model, phases)
    for index, state in adversary["optimizer"]["state"].items():
        found |= {f"order {key} of {index}": value for key, value in state.items()}
    return found | {f"order {name}": each for name, each in adversary["losses"][0].items() if each is not None}


LEARNED: dict[str, tuple[dict, dict]] = {  # settings, and scales of the gradients at the cut
    "linear": ({"clip_value": None, "max_grad_norm": 1e6}, {}),
    "hidden layer": ({"order_width": 7, "max_grad_norm": 0.02}, {"policy_gradient": 0.5, "value_gradient": 0.0}),
    "cut-off": ({"order_width": 3}, {"policy_gradient": 0.0, "value_gradient": 0.3}),
    "rates": (RATES, {}),
}


@grid(how=list(LEARNED), k=[0, 1, 2], kind=list(SPECS))
def test_all_phases_learn_the_same_numbers(how: str, k: int, kind: str):
    changes, cut = LEARNED[how]
    settings = make_settings(**IDAAC, clip_epsilon=0.05, **changes)
    model = stack([make_model(seed, kind, k, **cut) for seed in SEEDS[:2]])
    twin = copy.deepcopy(model)
    phases, compiled = idaac_phases(model, settings, SEEDS[:2]), compiled_idaac_phases(twin, settings, SEEDS[:2])
    before = {name: value.clone() for name, value in numbers_of(model, phases).items()}
    expected, found = (learn(m, p, SEEDS[:2], range(3)) for m, p in ((model, phases), (twin, compiled)))
    assert_equal_to(numbers_of(twin, compiled), after := numbers_of(model, phases), 1e-12)
    assert any(name.startswith("order ") and not torch.equal(each, after[name]) for name, each in before.items())
    for (_, own), (_, of_torch) in zip(found, expected, strict=True):
        assert list(own) == list(of_torch)
        for name, value in of_torch.items():
            near = 1e-6 if name.startswith("cut/") else 1e-11  # torch measures at the cut in float32
            torch.testing.assert_close(own[name], value, rtol=near, atol=near, msg=f"{name}: {own[name]}, {value}")
    assert 0 < float(found[0][1]["order/accuracy"].mean()) < 1


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_linear_actors_classifier_reads_the_observation(kind: str):
    def linear(seed: int) -> ActorValue:
        torch.manual_seed(seed)
        network = separate([], [], at=0, example={"observation": torch.zeros(SIZE + 1)})
        return actor_value(network, SPECS[kind], policy_gain=1.0).double()

    settings, model = make_settings(**IDAAC), stack([linear(seed) for seed in SEEDS[:2]])
    twin = copy.deepcopy(model)
    phases, compiled = idaac_phases(model, settings, SEEDS[:2]), compiled_idaac_phases(twin, settings, SEEDS[:2])
    learn(model, phases, SEEDS[:2], range(2))
    learn(twin, compiled, SEEDS[:2], range(2))
    assert_equal_to(numbers_of(twin, compiled), numbers_of(model, phases), 1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_agent_alone_becomes_bit_for_bit_what_it_becomes_beside_others(threads: int):
    settings = make_settings(**IDAAC)
    models = [make_model(seed, "continuous", 1).float() for seed in SEEDS]
    together, shuffle = stack(models), SeedNoise(SEEDS)
    phases = compiled_idaac_phases(together, settings, SEEDS)
    phases[0].agents.threads.count = threads
    frames = frames_of(together, SEEDS)
    for phase in phases:
        phase.run(frames, shuffle, micro_batch=1000)
    for index, seed in enumerate(SEEDS):
        alone, own_shuffle, at = stack([models[index]]), SeedNoise([seed]), slice(index, index + 1)
        own = compiled_idaac_phases(alone, settings, [seed])
        for phase in own:
            phase.run(frames[at], own_shuffle, micro_batch=1000)
        of_all, of_one = numbers_of(together, phases), numbers_of(alone, own)
        for name, value in of_one.items():
            shared = value.shape == of_all[name].shape  # by all agents: steps, bounds of actions, coefficients
            assert torch.equal(value, of_all[name] if shared else of_all[name][at]), name


TORCH, COMPILED = partial(idaac_phases, seeds=SEEDS), partial(compiled_idaac_phases, seeds=SEEDS)


@pytest.mark.parametrize(("first", "second"), [(TORCH, COMPILED), (COMPILED, TORCH)])
def test_either_continues_the_others_checkpoint(tmp_path: Path, first: Callable, second: Callable):
    models, settings = [seeded_model(seed, "continuous", 1) for seed in SEEDS], make_settings(order_coeff=0.5)
    expected, rows = train(models, SEEDS, settings, make_phases=TORCH)
    file = tmp_path / "checkpoint.pt"
    own = make_settings(order_coeff=0.5, total_frames=settings.total_frames // 3)
    train(models, SEEDS, own, checkpoint=file, make_phases=first)
    found, logged = train(models, SEEDS, settings, checkpoint=file, make_phases=second)
    for trained, model in zip(found, expected, strict=True):
        assert_close(trained, model)
    for name in ("loss/order_classifier", "loss/order"):
        assert logged[-1][name] == pytest.approx(rows[-1][name], rel=1e-6)


@pytest.mark.parametrize("kind", ["continuous", "one-hot"])
def test_a_whole_training_run_is_the_torch_phases_and_resumes_to_the_bit(tmp_path: Path, kind: str):
    """The compiled collector counts the steps of an episode as TorchRL's does, also across a resume."""
    models, settings = [seeded_model(seed, kind, 1) for seed in SEEDS], make_settings(order_coeff=0.5)
    expected, of_torch = train(models, SEEDS, settings, kind, make_phases=TORCH, env=Plain(SEEDS, kind))
    found, rows = train(models, SEEDS, settings, kind, make_phases=COMPILED, env=Plain(SEEDS, kind))
    for own, model in zip(found, expected, strict=True):
        assert_close(own, model)
    assert [row["order/accuracy"] for row in rows] == pytest.approx([row["order/accuracy"] for row in of_torch])
    options: dict[str, Any] = {"make_phases": COMPILED, "checkpoint": tmp_path / "checkpoint.pt"}
    first = make_settings(order_coeff=0.5, total_frames=settings.total_frames // 3)
    train(models, SEEDS, first, kind, env=Plain(SEEDS, kind), **options)
    resumed, _ = train(models, SEEDS, settings, kind, env=Plain(SEEDS, kind), **options)
    for own, model in zip(resumed, found, strict=True):
        assert all(map(torch.equal, own.parameters(), model.parameters()))


def test_what_kernels_cannot_do_is_refused():
    settings, model = make_settings(**IDAAC), stack([make_model(3, "continuous", 0)])
    with pytest.raises(ValueError, match="model must be a stack of perceptrons"):
        compiled_idaac_phases(make_model(3, "continuous", 0), settings, [3])
    with pytest.raises(ValueError, match="precision must be fp32"):
        compiled_idaac_phases(model, make_settings(precision="bf16"), [3])
    with pytest.raises(ValueError, match="seeds must be 1 different integers"):
        compiled_idaac_phases(model, settings, [3, 4])
