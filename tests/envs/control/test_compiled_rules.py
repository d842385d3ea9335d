"""Pendulum and Acrobot by kernels: bit for bit the NumPy rules, which other tests compare with Gymnasium."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from decouple.compiled.kernel import unavailable
from decouple.envs.control import acrobot, compiled_rules, control_env, pendulum

pytestmark = [
    pytest.mark.skipif(unavailable() is not None, reason="kernels need the extra fast"),
    pytest.mark.usefixtures("gymnasium_is_there"),
]


@pytest.fixture
def gymnasium_is_there() -> None:
    pytest.importorskip("gymnasium")


def forget() -> None:
    compiled_rules._step_of.cache_clear()


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_rules, "unavailable", lambda: "numba is missing")


def actions_of(rules: ModuleType, generator: np.random.Generator, games: int) -> np.ndarray:
    if rules is acrobot:
        return generator.integers(0, 3, games)
    return generator.uniform(-2.5, 2.5, (games, 1)).astype(np.float32)


@pytest.mark.parametrize("rules", [pendulum, acrobot])
@pytest.mark.parametrize("games", [1, 7, 20_000])
def test_every_bit_is_the_rules(rules: ModuleType, games: int) -> None:
    step = compiled_rules.compiled_step(rules)
    assert step is not rules.step
    generator = np.random.default_rng(games)
    state = generator.uniform(-30.0, 30.0, (rules.STATE_SIZE, games))
    for _ in range(5):
        action = actions_of(rules, generator, games)
        ours, theirs = step(state, action), rules.step(state, action)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        state = ours[0]


@pytest.mark.parametrize("rules", [pendulum, acrobot])
def test_a_kernel_with_other_sines_is_not_used(rules: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    true = np.sin
    monkeypatch.setattr(rules.np, "sin", lambda x: np.nextafter(true(x), 2.0))
    assert compiled_rules.compiled_step(rules) is rules.step
    forget()


def play(name: str, steps: int) -> list[torch.Tensor]:
    env = control_env(name, [3, 4], 2)
    generator = torch.Generator().manual_seed(0)
    found = [env.plain_reset()]
    for t in range(steps):
        action = torch.randint(3, (2, 2), generator=generator)
        if name == "pendulum":
            action = 2.5 * (2 * torch.rand(2, 2, 1, generator=generator) - 1)
        stepped, observation = env.plain_step(action)
        found += [stepped[key] for key in sorted(stepped)] + [observation]
        if t == 50:
            env.load_state_dict(env.state_dict())
            found.append(env.plain_reset())
    return found


@pytest.mark.parametrize(("name", "steps"), [("pendulum", 450), ("acrobot", 1100)])
def test_episodes_are_counted_as_without_kernels(name: str, steps: int, request: pytest.FixtureRequest) -> None:
    by_kernels = play(name, steps)
    request.getfixturevalue("without_kernels")
    without = play(name, steps)
    for one, other in zip(by_kernels, without, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    assert sum(bool(each.any()) for each in by_kernels if each.dtype == torch.bool) > 2  # episodes ended
