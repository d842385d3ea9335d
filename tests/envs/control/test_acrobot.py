"""The rules of Acrobot in NumPy: worked out by hand, and bit for bit against Gymnasium's own."""

from __future__ import annotations

import numpy as np
import pytest

from decouple.envs.control import acrobot

gymnasium = pytest.importorskip("gymnasium")


def test_at_rest_it_hangs_and_a_torque_bends_it_by_the_books_equations() -> None:
    state = np.zeros((4, 2))
    following, observation, reward, terminated = acrobot.step(state, np.array([1, 2]))
    np.testing.assert_allclose(following[:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(observation[0], [1, 0, 1, 0, 0, 0], atol=1e-15)
    # Hanging, d1 = 4.5 and d2 = 1.75, so that 1 Nm accelerates the second angle by 1 / (1.25 - 1.75^2 / 4.5) and the
    # first by -d2 / d1 of it; over 0.2 s gravity takes away little.
    second = 1 / (1.25 - 1.75**2 / 4.5)
    np.testing.assert_allclose(following[2:, 1], [-1.75 / 4.5 * second * 0.2, second * 0.2], rtol=0.15)
    assert reward.tolist() == [-1, -1] and not terminated.any()


def test_it_ends_above_the_height_and_angles_turn() -> None:
    # Upright; upright but folded back; about to turn past pi, so that about 3.1 + 0.2 becomes a turn less.
    state = np.array([[np.pi, 0.0, 0.0, 0.0], [np.pi, np.pi, 0.0, 0.0], [3.1, 0.0, 1.0, 0.0]]).T
    following, _, reward, terminated = acrobot.step(state, np.array([1, 1, 1]))
    assert terminated[:2].tolist() == [True, False] and reward[:2].tolist() == [0, -1]
    assert following[0, 2] == pytest.approx(3.3 - 2 * np.pi, abs=0.05)


def test_every_bit_is_gymnasiums() -> None:
    rng = np.random.default_rng(0)
    limits = np.array([[np.pi], [np.pi], [4 * np.pi], [9 * np.pi]])
    state = rng.uniform(-limits, limits, (4, 1500))
    state[:, :500] *= 0.1
    action = rng.integers(0, 3, 1500)
    following, observation, reward, terminated = acrobot.step(state, action)
    game = gymnasium.make("Acrobot-v1", disable_env_checker=True).unwrapped
    for n in range(1500):
        game.state = state[:, n].copy()
        seen, its_reward, ended, *_ = game.step(action[n])
        assert game.state.tolist() == following[:, n].tolist() and seen.tolist() == observation[n].tolist()
        assert its_reward == reward[n] and ended == terminated[n]
    assert 0 < terminated.sum() < 1500
    largest = abs(following).max(axis=1)
    assert largest[:2].max() <= np.pi and largest[2:].tolist() == [4 * np.pi, 9 * np.pi]  # speeds were clipped


@pytest.mark.parametrize("number", [1, 2, 5, 9, 16])
def test_a_game_is_the_same_alone_and_beside_others(number: int) -> None:
    rng = np.random.default_rng(1)
    state, action = rng.uniform(-3, 3, (4, 16)), rng.integers(0, 3, 16)
    everyone, some = acrobot.step(state, action), acrobot.step(state[:, :number].copy(), action[:number])
    assert np.array_equal(everyone[0][:, :number], some[0])
    assert all(np.array_equal(one[:number], two) for one, two in zip(everyone[1:], some[1:], strict=True))


def test_episodes_begin_as_gymnasiums() -> None:
    game, generator = gymnasium.make("Acrobot-v1"), np.random.Generator(np.random.PCG64(7))
    for seed in (7, None, None):
        seen, _ = game.reset(seed=seed)
        state, observation = acrobot.begin(generator)
        assert state.tolist() == game.unwrapped.state.tolist() and observation.tolist() == seen.tolist()
        assert (abs(state) <= 0.1 + 1e-7).all()
