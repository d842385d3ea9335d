"""Compiled agents beside `Learner`, which is the reference for each kernel: the same losses, parameters and moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("numba")

from decouple.off_policy import compiled_learner
from decouple.off_policy.compiled_learner import CompiledLearner, not_compiled
from decouple.off_policy.learner import Learner
from decouple.off_policy.learners import make_learner
from decouple.off_policy.metric_sums import MetricSums
from decouple.off_policy.replay import Replay, Transition, Widths
from decouple.seeding import SeedNoise
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, initial_agents

SEEDS, BATCH = 2, 16
SMALL: dict[str, Any] = {"env": "pendulum", "seeds": SEEDS, "actor": [8, 6], "critic": [8, 5], "batch_size": BATCH}


class DoubleNoise(SeedNoise):
    """The seeds' numbers in float64, so that float64 networks compute with nothing that was rounded."""

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).double()


def learners(
    algorithm: str, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[Learner, CompiledLearner, Any]:
    config = CONTROL_ALGORITHMS[algorithm](**(SMALL | settings))
    models = [model.to(dtype) for model in initial_agents(config)]
    return Learner(models, config.learning), CompiledLearner(models, config.learning), config


def batches(learner: Learner, count: int, dtype: torch.dtype = torch.float64) -> list[Transition]:
    """Random transitions, each (S, B, width)."""
    generator = torch.Generator().manual_seed(3)
    width, seeds = learner.like.example["observation"].numel(), learner.seeds

    def normal(size: int) -> Tensor:
        return torch.randn(seeds, BATCH, size, generator=generator, dtype=torch.float64).to(dtype)

    made = []
    for _ in range(count):
        if learner.space.discrete:
            action = torch.randint(learner.space.size, (seeds, BATCH, 1), generator=generator).to(dtype)
        else:
            action = normal(learner.space.size).tanh()
        ends = (normal(1) > 1).to(dtype)
        made.append(Transition(normal(width), action, normal(1), ends, normal(width)))
    return made


def leaves(state: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors and numbers of a state, by their path."""
    if isinstance(state, Mapping):
        pairs = list(state.items())
    elif isinstance(state, list | tuple):
        pairs = list(enumerate(state))
    else:
        return {name: torch.as_tensor(state, dtype=torch.float64)}
    return {path: leaf for key, value in pairs for path, leaf in leaves(value, f"{name}/{key}").items()}


def check_same(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> None:
    first, second = leaves(one), leaves(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            second[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


EVERY_K = [
    (algorithm, {"separation": k, "policy_gradient": scales[0], "value_gradient": scales[1]} | more)
    for algorithm, more in (
        ("sac", {}),
        ("td3", {}),
        ("ddpg", {}),
        ("sac", {"env": "acrobot"}),
    )
    for k, scales in ((0, (1.0, 1.0)), (1, (0.0, 1.0)), (1, (0.5, 0.25)), (1, (0.0, 0.0)), (2, (1.0, 0.0)))
]
RATES = {"learning_rates": {"trunk": 1e-3, "value": 3e-3}, "schedule": "linear", "schedules": {"policy": "constant"}}
OTHERS = [
    ("sac", {"actor": [], "critic": [8]}),
    ("sac", {"actor": [8], "critic": []}),
    ("td3", {"actor": [8, 8, 8], "critic": [4]}),
    ("sac", {"max_grad_norm": 0.1, "separation": 1}),
    ("td3", {"max_grad_norm": 0.1}),
    ("sac", {"target_aggregation": "mean", "alpha": 0.2}),
    ("td3", {"target_aggregation": 0.3, "target_noise": 0.5, "policy_delay": 3}),
    ("ddpg", {"target_noise": 0.3, "gamma": 0.5, "tau": 0.2, "learning_rate": 0.01}),
    ("sac", {"env": "acrobot", "target_entropy": 0.3, "adam_epsilon": 0.01}),
    *((algorithm, {**RATES, "separation": 1, "policy_gradient": 1.0}) for algorithm in ("sac", "td3")),
    ("sac", {**RATES, "env": "acrobot", "separation": 1, "max_grad_norm": 0.1}),
    *(("sac", {"actor_activation": name, "critic_activation": name, "separation": 1, "policy_gradient": 1.0})
      for name in ("tanh", "elu", "silu", "leaky_relu")),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "settings"), EVERY_K + OTHERS)
def test_after_fifty_updates_every_number_is_the_learners(algorithm: str, settings: dict[str, Any]) -> None:
    reference, compiled, config = learners(algorithm, **settings)
    noise, same_noise = DoubleNoise(config.all_seeds), DoubleNoise(config.all_seeds)
    for step, batch in enumerate(batches(reference, 50)):
        for learner in (reference, compiled):
            learner.anneal(1 - step / 60)
        check_same(reference.update(batch, noise), compiled.update(batch, same_noise), 1e-11)
    check_same(reference.state_dict(), compiled.state_dict(), 1e-12)


@pytest.mark.parametrize(("algorithm", "env"), [("sac", "pendulum"), ("td3", "pendulum"), ("sac", "acrobot")])
def test_in_float32_numbers_differ_by_rounding(algorithm: str, env: str) -> None:
    settings = {"env": env, "separation": 1, "actor_activation": "tanh"}
    reference, compiled, config = learners(algorithm, torch.float32, **settings)
    noise, same_noise = SeedNoise(config.all_seeds), SeedNoise(config.all_seeds)
    for batch in batches(reference, 10, torch.float32):
        check_same(reference.update(batch, noise), compiled.update(batch, same_noise), 1e-4)
    check_same(reference.weights(), compiled.weights(), 1e-4)
    observation = torch.randn(SEEDS, 40, reference.like.example["observation"].numel())
    for drawn in (None, SeedNoise([5, 6])):
        same = None if drawn is None else SeedNoise([5, 6])
        torch.testing.assert_close(
            compiled.act(observation, same), reference.act(observation, drawn), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("first", [Learner, CompiledLearner])
def test_a_checkpoint_of_either_learner_is_continued_by_the_other(first: type[Learner]) -> None:
    reference, compiled, config = learners("sac", separation=1, policy_gradient=1.0)
    began, goes_on = (reference, compiled) if first is Learner else (compiled, reference)
    noise = DoubleNoise(config.all_seeds)
    *before, last = batches(reference, 4)
    for batch in before:
        began.update(batch, noise)
    goes_on.load_state_dict(began.state_dict())
    state = noise.state_dict()
    began.update(last, noise)
    noise.load_state_dict(state)
    goes_on.update(last, noise)
    check_same(began.state_dict(), goes_on.state_dict(), 1e-13)
    assert goes_on.updates == 4


def test_an_agent_learns_the_same_alone_and_beside_others_in_any_number_of_threads() -> None:
    config = CONTROL_ALGORITHMS["td3"](**(SMALL | {"seeds": 3}))
    models = initial_agents(config)
    all_batches = batches(Learner(models, config.learning), 6, torch.float32)

    def weights(agents: list[int], threads: int) -> dict[str, Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            learner = CompiledLearner([models[agent] for agent in agents], config.learning)
        finally:
            torch.set_num_threads(before)
        assert learner.threads.count == min(threads, len(agents))
        noise = SeedNoise(agents)
        for batch in all_batches:
            learner.update(Transition(*(part[agents] for part in batch)), noise)
        return {name: value.clone() for name, value in learner.models()[0].named_parameters()}

    alone = weights([0], 1)
    for threads in (1, 2, 4):
        beside = weights([0, 1, 2], threads)
        assert all(torch.equal(alone[name], value) for name, value in beside.items())


def test_learning_from_a_replay_is_learning_from_its_sample() -> None:
    reference, compiled, config = learners("sac", torch.float32)
    replays = []
    for _ in range(2):
        replay = Replay(40, Widths(3, 1), reference.space, seeds=SEEDS)
        for batch in batches(reference, 6, torch.float32):  # more than the ring holds
            replay.add(batch)
        replays.append(replay)
    indices = torch.randint(40, (SEEDS, BATCH), generator=torch.Generator().manual_seed(0))
    sums = MetricSums()
    compiled.learn(replays[0], indices, SeedNoise(config.all_seeds), sums)
    twin = CompiledLearner(initial_agents(config), config.learning)
    by_sample = twin.update(replays[1].sample(indices), SeedNoise(config.all_seeds))
    assert (by_replay := sums.means()).keys() == by_sample.keys()
    assert all(torch.equal(by_replay[name].float(), by_sample[name]) for name in by_sample)


def test_an_agent_that_is_not_finite_leaves_the_others_alone() -> None:
    _, compiled, config = learners("sac", torch.float32)
    twin = CompiledLearner(compiled.models(), config.learning)
    (batch,) = batches(compiled, 1, torch.float32)
    spoiled = Transition(*(part.clone() for part in batch))
    spoiled.reward[1, 3] = torch.nan
    twin.update(batch, SeedNoise(config.all_seeds))
    found = compiled.update(spoiled, SeedNoise(config.all_seeds))
    assert found["loss/critic"].isnan().tolist() == [False, True]
    ours, theirs = compiled.models(), twin.models()
    assert all(torch.equal(a, b) for a, b in zip(ours[0].parameters(), theirs[0].parameters(), strict=True))
    assert any(parameter.isnan().any() for parameter in ours[1].parameters())
    action = compiled.act(torch.randn(SEEDS, 4, 3), SeedNoise(config.all_seeds))
    assert action.isfinite().all()


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_scratch_holds_what_an_update_writes(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update in scratch that is larger writes nothing behind what is reserved."""
    _, compiled, config = learners(
        algorithm, torch.float32, separation=1, policy_gradient=1.0, actor_activation="silu", critic_activation="silu"
    )
    size = compiled.tables.scratch(BATCH)
    monkeypatch.setattr(compiled.tables, "scratch", lambda batch: 2 * size)
    scratch = compiled.threads.scratch(BATCH)
    scratch[:] = 7.0
    (batch,) = batches(compiled, 1, torch.float32)
    for _ in range(4):
        compiled.update(batch, SeedNoise(config.all_seeds))
    assert (scratch[:size] != 7.0).any() and (scratch[size:] == 7.0).all()


def test_what_kernels_do_not_know_is_learned_by_torch_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONTROL_ALGORITHMS["sac"](**SMALL)
    models = initial_agents(config)
    assert not_compiled(models) is None
    assert type(make_learner(models, config.learning)) is CompiledLearner
    assert type(make_learner(models, config.learning, "batched")) is Learner
    for model in models:
        model.policy[0].activation = nn.Softplus()
    assert type(make_learner(models, config.learning)) is Learner
    softplus = "module must have activations of Identity, ReLU.*; the policy has Softplus"
    with pytest.raises(ValueError, match=f"update must be auto or batched here: {softplus}; got 'compiled'"):
        make_learner(models, config.learning, "compiled")
    with pytest.raises(ValueError, match=f"models must be perceptrons on a processor to be compiled; {softplus}"):
        CompiledLearner(models, config.learning)
    monkeypatch.setattr(compiled_learner, "unavailable", lambda: "numba cannot be imported: pip install this")
    models = initial_agents(config)
    assert type(make_learner(models, config.learning)) is Learner
    with pytest.raises(ValueError, match=r"update must be .* numba cannot be imported: pip install this; got"):
        make_learner(models, config.learning, "compiled")
