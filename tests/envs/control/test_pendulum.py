"""The rules of Pendulum in NumPy: worked out by hand, and bit for bit against Gymnasium's own."""

from __future__ import annotations

import numpy as np
import pytest

from decouple.envs.control import pendulum

gymnasium = pytest.importorskip("gymnasium")


def test_a_step_by_hand() -> None:
    angle, speed = 0.5, 1.0
    state = np.array([[angle, np.pi, 0.0], [speed, 0.0, 7.99]])
    action = np.array([[1.0], [-3.0], [2.0]], dtype=np.float32)
    following, observation, reward, terminated = pendulum.step(state, action)
    faster = speed + (15 * np.sin(angle) + 3 * 1.0) * 0.05
    np.testing.assert_allclose(following[:, 0], [angle + 0.05 * faster, faster], rtol=1e-15)
    # Hanging down, torque is clipped to -2: w = -6 * 0.05. Upright at nearly full speed, it is clipped to 8.
    np.testing.assert_allclose(following[:, 1:], [[np.pi - 0.015, 0.4], [-0.3, 8.0]], rtol=1e-14)
    near = 1e-14 if pendulum.TORQUE is np.float64 else 1e-9  # NumPy 2, as Gymnasium in it, squares a torque in 32 bits
    np.testing.assert_allclose(reward, [-(0.25 + 0.1 + 0.001), -(np.pi**2 + 0.004), -(6.38401 + 0.004)], rtol=near)
    expected = np.stack([np.cos(following[0]), np.sin(following[0]), following[1]], axis=1)
    assert observation.dtype == np.float32 and not terminated.any()
    np.testing.assert_allclose(observation, expected, rtol=1e-6)


def test_every_bit_is_gymnasiums() -> None:
    """From 6000 states, far beyond where games go too, and torques in and out of range."""
    rng = np.random.default_rng(0)
    state = rng.uniform([[-100.0], [-8.0]], [[100.0], [8.0]], (2, 6000))
    state[0, :3000] = rng.uniform(-np.pi, np.pi, 3000)
    action = rng.uniform(-2.5, 2.5, (6000, 1)).astype(np.float32)
    following, observation, reward, _ = pendulum.step(state, action)
    game = gymnasium.make("Pendulum-v1", disable_env_checker=True).unwrapped
    for n in range(6000):
        game.state = state[:, n].copy()
        seen, its_reward, *_ = game.step(action[n])
        assert game.state.tolist() == following[:, n].tolist()
        assert its_reward == reward[n] and seen.tolist() == observation[n].tolist()


@pytest.mark.parametrize("number", [1, 2, 5, 9, 16])
def test_a_game_is_the_same_alone_and_beside_others(number: int) -> None:
    rng = np.random.default_rng(1)
    state, action = rng.uniform(-8, 8, (2, 16)), rng.uniform(-2, 2, (16, 1)).astype(np.float32)
    everyone, some = pendulum.step(state, action), pendulum.step(state[:, :number].copy(), action[:number])
    assert np.array_equal(everyone[0][:, :number], some[0])
    assert all(np.array_equal(one[:number], two) for one, two in zip(everyone[1:], some[1:], strict=True))


def test_episodes_begin_as_gymnasiums() -> None:
    game, generator = gymnasium.make("Pendulum-v1"), np.random.Generator(np.random.PCG64(7))
    for seed in (7, None, None):  # the generator goes on from episode to episode
        seen, _ = game.reset(seed=seed)
        state, observation = pendulum.begin(generator)
        assert state.tolist() == game.unwrapped.state.tolist() and observation.tolist() == seen.tolist()
        assert observation.dtype == np.float32 and abs(state[0]) <= np.pi and abs(state[1]) <= 1
