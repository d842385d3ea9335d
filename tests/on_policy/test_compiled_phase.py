"""PPO's compiled phase: the torch phase's parameters, moments, metrics and checkpoints; agents apart; threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pairwise import grid
from tensordict import TensorDict, TensorDictBase
from test_on_policy_seeds import SEEDS, SIZE, SPECS, Drift, assert_close, make_settings, train
from test_on_policy_seeds import make_model as seeded_model
from torch import Tensor, nn

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.phases import Phase, RolloutPhase
from decouple.on_policy.rollouts import SeededPolicy
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.seeding import SeedNoise

pytest.importorskip("numba")

from decouple.on_policy.compiled_phase import CompiledPhase, not_compiled

pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

FRAMES = 53  # in 5 minibatches: three of 11 and two of 10
RATES = {"learning_rates": {"trunk": 0.004, "value": 0.07}, "schedule": "linear", "schedules": {"policy": "constant"}}


def make_model(seed: int, kind: str, k: int, **cut: float) -> ActorValue:
    """An agent whose networks differ in depth, sizes and activation beyond the cut."""
    torch.manual_seed(seed)
    policy = mlp_blocks(SIZE + 1, [8, 6])
    value = [*policy[:k], *mlp_blocks([SIZE + 1, 8, 6][k], [7, 5, 4][k:], nn.SiLU)]
    return actor_value(separate(policy, value, at=k, **cut), SPECS[kind], policy_gain=1.0).double()


def rollout(model: ActorValue, seeds: list[int]) -> TensorDictBase:
    """Frames (S, FRAMES) that the model acts on; each agent's from its own seed."""
    noise, shape = SeedNoise(seeds), (len(seeds), FRAMES)
    dtype = next(model.parameters()).dtype
    frames = TensorDict({"observation": noise.normal(FRAMES, SIZE + 1).to(dtype)}, shape)
    SeededPolicy(model, noise)(frames)
    frames["advantage"] = noise.normal(FRAMES, 1).to(dtype)
    frames["value_target"] = frames["state_value"] + noise.normal(FRAMES, 1).to(dtype)
    return frames


def learn(model: ActorValue, phase: RolloutPhase, seeds: list[int], rollouts: range) -> list[dict[str, Any]]:
    """The metrics of the phase on these rollouts, each acted by the model as it is then."""
    shuffle, found = SeedNoise(seeds), []
    for number in rollouts:
        frames = rollout(model, [1000 * number + seed for seed in seeds])
        if isinstance(phase, Phase | CompiledPhase):
            phase.anneal(1 - number / 4)
        found.append(phase.run(frames, shuffle, micro_batch=1000))
    return found


def tensors_of(model: nn.Module, phase: RolloutPhase) -> dict[str, Tensor]:
    """All parameters, and all numbers of the optimizer's state, by name."""
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for index, state in phase.state_dict()["optimizer"]["state"].items():
        found |= {f"{key} of {index}": value for key, value in state.items()}
    return found


def _named(name: str, text: str) -> str:
    return f"{name}: {text}"


def assert_equal_to(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance, msg=partial(_named, name))


LEARNED: dict[str, tuple[dict, dict]] = {  # settings, and scales of the gradients at the cut
    "plain": ({"clip_value": None, "entropy_coeff": 0.0, "max_grad_norm": 1e6}, {}),
    "clipped": ({"clip_value": 0.1, "entropy_coeff": 0.05}, {"policy_gradient": 0.5, "value_gradient": 0.0}),
    "cut-off": ({"clip_value": 0.1}, {"policy_gradient": 0.0, "value_gradient": 0.0}),
    "rates": (RATES, {}),
    "rates cut-off": (RATES, {"policy_gradient": 0.0, "value_gradient": 0.0}),
}


@grid(how=list(LEARNED), k=[0, 1, 2], kind=list(SPECS))
def test_both_phases_learn_the_same_numbers(how: str, k: int, kind: str):
    changes, cut = LEARNED[how]
    settings = make_settings(minibatches=5, epochs=3, clip_epsilon=0.05, **changes)
    model = stack([make_model(seed, kind, k, **cut) for seed in SEEDS[:2]])
    twin = copy.deepcopy(model)
    phase, compiled = ppo_phases(model, settings)[0], CompiledPhase(twin, settings)
    before = {name: value.clone() for name, value in tensors_of(model, phase).items()}
    expected, found = (learn(m, p, SEEDS[:2], range(3)) for m, p in ((model, phase), (twin, compiled)))
    assert_equal_to(tensors_of(twin, compiled), tensors_of(model, phase), 1e-12)
    moved = [name for name, value in before.items() if not torch.equal(value, dict(model.named_parameters())[name])]
    assert len(moved) == len(before) - (2 * k if cut.get("policy_gradient") == 0 else 0)
    for own, of_torch in zip(found, expected, strict=True):
        assert list(own) == list(of_torch)
        assert of_torch["policy/clip_fraction"] > 0
        for name, value in of_torch.items():
            near = 1e-6 if name.startswith("cut/") else 1e-11  # torch measures at the cut in float32
            torch.testing.assert_close(own[name], value, rtol=near, atol=near, msg=partial(_named, name))
    assert any(name.startswith("cut/") for name in found[0]) == (k > 0 and cut.get("policy_gradient") != 0)


def test_in_float32_they_differ_by_rounding():
    settings = make_settings(minibatches=5, epochs=3, clip_value=0.1)
    model = stack([make_model(seed, "continuous", 1) for seed in SEEDS[:2]]).float()
    twin = copy.deepcopy(model)
    phase, compiled = ppo_phases(model, settings)[0], CompiledPhase(twin, settings)
    learn(model, phase, SEEDS[:2], range(2))
    learn(twin, compiled, SEEDS[:2], range(2))
    assert_equal_to(tensors_of(twin, compiled), tensors_of(model, phase), 1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_agent_alone_becomes_bit_for_bit_what_it_becomes_beside_others(threads: int):
    """On the same frames: torch, which acts here, rounds differently by the number of agents."""
    settings = make_settings(minibatches=5)
    models = [make_model(seed, "continuous", 1).float() for seed in SEEDS]
    together, shuffle = stack(models), SeedNoise(SEEDS)
    phase = CompiledPhase(together, settings)
    phase.agents.threads.count = threads
    rollouts = [rollout(together, [1000 * number + seed for seed in SEEDS]) for number in range(2)]
    found: list[dict[str, Any]] = [phase.run(frames, shuffle, micro_batch=1000) for frames in rollouts]
    for index, seed in enumerate(SEEDS):
        alone, own_shuffle = stack([models[index]]), SeedNoise([seed])
        own, at = CompiledPhase(alone, settings), slice(index, index + 1)
        metrics = [own.run(frames[at], own_shuffle, micro_batch=1000) for frames in rollouts]
        theirs = tensors_of(together, phase)
        for name, value in tensors_of(alone, own).items():
            assert torch.equal(value, theirs[name] if value.ndim == 0 else theirs[name][at]), name
        for row, of_one in zip(found, metrics, strict=True):
            assert torch.equal(row["loss/objective"][at], of_one["loss/objective"])


COMPILED = lambda model, settings: [CompiledPhase(model, settings)]  # noqa: E731


@pytest.mark.parametrize(("first", "second"), [(ppo_phases, COMPILED), (COMPILED, ppo_phases)])
def test_either_phase_continues_the_others_checkpoint(tmp_path: Path, first: Callable, second: Callable):
    models = [seeded_model(seed, "continuous", 1) for seed in SEEDS]
    settings = make_settings()
    expected, rows = train(models, SEEDS, settings)

    def until(frames: int, make_phases: Callable) -> tuple[list[ActorValue], list[dict[str, float]]]:
        own, file = make_settings(total_frames=frames), tmp_path / "checkpoint.pt"
        return train(models, SEEDS, own, checkpoint=file, make_phases=make_phases)

    until(settings.total_frames // 3, first)
    found, logged = until(settings.total_frames, second)
    for own, model in zip(found, expected, strict=True):
        assert_close(own, model)
    assert len(logged) == 2 and logged[-1]["loss/critic"] == pytest.approx(rows[-1]["loss/critic"])


def test_the_models_parameters_are_read_anew_at_each_rollout():
    """What a checkpoint or a caller writes into the model is what the next rollout learns from."""
    settings, model = make_settings(minibatches=5), stack([make_model(3, "discrete", 0)])
    phase = CompiledPhase(model, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    twin = copy.deepcopy(model)
    learn(model, phase, [3], range(1))
    learn(twin, torch_phase := ppo_phases(twin, settings)[0], [3], range(1))
    assert_equal_to(tensors_of(model, phase), tensors_of(twin, torch_phase), 1e-12)


def test_an_agent_that_is_not_finite_leaves_the_others_as_they_are():
    settings = make_settings(minibatches=5)
    models = [make_model(seed, "continuous", 1) for seed in SEEDS[:2]]
    model, broken = stack(models), stack(models)
    phase, other = CompiledPhase(model, settings), CompiledPhase(broken, settings)
    frames = rollout(model, SEEDS[:2])
    phase.run(frames, SeedNoise(SEEDS[:2]), micro_batch=1000)
    frames["advantage"][0, 7] = torch.nan
    found: dict[str, Any] = other.run(frames, SeedNoise(SEEDS[:2]), micro_batch=1000)
    assert found["loss/objective"][0].isnan() and found["loss/objective"][1].isfinite()
    for own, theirs in zip(broken.parameters(), model.parameters(), strict=True):
        assert torch.equal(own[1], theirs[1])
    assert all(parameter[0].isnan().any() for parameter in broken.policy.parameters())


def test_progress_counts_minibatches_and_what_kernels_cannot_do_is_refused():
    settings, model = make_settings(minibatches=5, epochs=2), stack([make_model(3, "continuous", 0)])
    phase, told = CompiledPhase(model, settings), []
    frames = rollout(model, [3])
    phase.run(frames, SeedNoise([3]), micro_batch=1, progress=lambda *args: told.append(args))
    assert told == [("joint phase, minibatches", 5, 10), ("joint phase, minibatches", 10, 10)]
    with pytest.raises(ValueError, match="precision must be fp32"):
        phase.run(frames, SeedNoise([3]), micro_batch=1, precision="bf16")
    with pytest.raises(ValueError, match="shuffle must be the SeedNoise"):
        phase.run(frames, torch.Generator(), micro_batch=1)
    with pytest.raises(ValueError, match="model must be a stack of perceptrons"):
        CompiledPhase(make_model(3, "continuous", 0), settings)
    with pytest.raises(ValueError, match="precision must be fp32"):
        CompiledPhase(model, make_settings(precision="bf16"))
    assert not_compiled(model, settings) is None
    assert "precision is bf16" in str(not_compiled(model, make_settings(precision="bf16")))
    assert "not stacked" in str(not_compiled(make_model(3, "continuous", 0), settings))


class Plain(Drift):
    """`Drift` that steps without TensorDicts too, and counts these steps."""

    steps = 0

    def plain_reset(self) -> Tensor:
        return self._reset()["observation"]

    def plain_step(self, action: Tensor) -> tuple[dict[str, Any], Tensor]:
        self.steps += 1
        stepped = self._step(TensorDict({"action": action}, self.batch_size))
        restarted = self._reset(TensorDict({"_reset": stepped["done"]}, self.batch_size))
        return dict(stepped.items()), restarted["observation"]


@pytest.mark.parametrize("kind", ["continuous", "one-hot"])
@pytest.mark.parametrize("make_env", [Drift, Plain])
def test_a_whole_training_run_is_the_torch_phases(kind: str, make_env: Callable):
    models = [seeded_model(seed, kind, 1) for seed in SEEDS]
    settings, env = make_settings(), make_env(SEEDS, kind)
    expected, of_torch = train(models, SEEDS, settings, kind)
    found, rows = train(models, SEEDS, settings, kind, make_phases=COMPILED, env=env)
    for own, model in zip(found, expected, strict=True):
        assert_close(own, model)
    assert [sorted(row) for row in rows] == [sorted(row) for row in of_torch]
    for row, theirs in zip(rows, of_torch, strict=True):
        measured = [name for name in theirs if not name.startswith("time/")]
        assert [row[name] for name in measured] == pytest.approx([theirs[name] for name in measured], rel=1e-5)
    assert isinstance(env, Plain) == (getattr(env, "steps", 0) == 3 * settings.rollout_steps)


def test_a_run_resumes_to_the_bit(tmp_path: Path):
    models, settings = [seeded_model(seed, "continuous", 1) for seed in SEEDS], make_settings()
    whole, _ = train(models, SEEDS, settings, make_phases=COMPILED, env=Plain(SEEDS))
    options: dict[str, Any] = {"make_phases": COMPILED, "checkpoint": tmp_path / "checkpoint.pt"}
    train(models, SEEDS, make_settings(total_frames=settings.total_frames // 3), env=Plain(SEEDS), **options)
    resumed, _ = train(models, SEEDS, settings, env=Plain(SEEDS), **options)
    for own, model in zip(resumed, whole, strict=True):
        assert all(map(torch.equal, own.parameters(), model.parameters()))


class Broken(Plain):
    """`Plain` that shows the last of its agents numbers that are not finite, from the 41st frame on."""

    shown = 0

    def frame(self) -> dict[str, Tensor]:
        self.shown += 1
        frame = super().frame()
        if self.shown > 40:
            frame["observation"][-1] = torch.nan
        return frame


def test_an_agent_that_fails_is_told_and_the_others_go_on():
    models, settings = [seeded_model(seed, "continuous", 1) for seed in SEEDS], make_settings()
    whole, _ = train(models, SEEDS, settings, make_phases=COMPILED, env=Plain(SEEDS))
    failed = FailedSeeds(SEEDS)
    with pytest.warns(UserWarning, match=r"seed 12: observation is nan at frame \d+; it has failed"):
        found, rows = train(models, SEEDS, settings, make_phases=COMPILED, env=Broken(SEEDS), failed=failed)
    for own, theirs in zip(found[:2], whole, strict=False):
        assert all(map(torch.equal, own.parameters(), theirs.parameters()))
    assert "loss/critic/seed3" in rows[-1] and "loss/critic/seed12" not in rows[-1]
    with pytest.raises(NotFiniteError, match="observation is nan at frame"):
        train(models[:1], SEEDS[:1], settings, make_phases=COMPILED, env=Broken(SEEDS[:1]))
