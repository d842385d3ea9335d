"""Pendulum, Acrobot and Forage by kernels: bit for bit the NumPy rules, which other tests compare with single games."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from decouple.compiled.kernel import unavailable
from decouple.envs.control import acrobot, compiled_rules, control_env, pendulum
from decouple.envs.control.forage import Forage

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


FORAGE = [Forage(life, size) for life in ("none", "shown", "hidden") for size in (5, 7)]


@pytest.mark.parametrize("rules", [pendulum, acrobot, *FORAGE], ids=str)
@pytest.mark.parametrize("games", [1, 7, 20_000])
def test_every_bit_is_the_rules(rules: Any, games: int) -> None:
    step = compiled_rules.compiled_step(rules)
    assert step is not rules.step
    generator = np.random.default_rng(games)
    state, action = rules.examples(generator, games)
    if rules in (pendulum, acrobot):
        state = generator.uniform(-30.0, 30.0, state.shape)
    for _ in range(12):
        ours, theirs = step(state, action), rules.step(state, action)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        state, action = ours[0], generator.permutation(action)


@pytest.mark.parametrize("rules", [pendulum, acrobot])
def test_a_kernel_with_other_sines_is_not_used(rules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        action = torch.randint(3, (2, 2), generator=generator)  # Forage has a fourth
        if name == "pendulum":
            action = 2.5 * (2 * torch.rand(2, 2, 1, generator=generator) - 1)
        stepped, observation = env.plain_step(action)
        found += [stepped[key] for key in sorted(stepped)] + [observation]
        if t == 50:
            env.load_state_dict(env.state_dict())
            found.append(env.plain_reset())
    return found


@pytest.mark.parametrize(("name", "steps"), [("pendulum", 450), ("acrobot", 1100), ("forage", 120)])
def test_episodes_are_counted_as_without_kernels(name: str, steps: int, request: pytest.FixtureRequest) -> None:
    by_kernels = play(name, steps)
    request.getfixturevalue("without_kernels")
    without = play(name, steps)
    for one, other in zip(by_kernels, without, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    assert sum(bool(each.any()) for each in by_kernels if each.dtype == torch.bool) > 2  # episodes ended
