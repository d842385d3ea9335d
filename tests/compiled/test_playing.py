"""Kernels as arguments of kernels, and arrays that a kernel finds by their addresses."""

from __future__ import annotations

import numpy as np
import pytest

from decouple.compiled.playing import addresses, first_class
from decouple.envs.control import acrobot, control_env, pendulum
from decouple.envs.control.compiled_rules import compiled_play

pytest.importorskip("numba")
pytest.importorskip("gymnasium")


def test_a_kernel_is_called_by_its_address() -> None:
    import numba

    @numba.njit
    def twice(x, out):
        out[0] = 2 * x

    @numba.njit
    def fourfold(function, x, out):
        function(x, out)
        function(int(out[0]), out)

    out = np.zeros(1)
    fourfold(first_class(twice, 1, out), 3, out)
    assert out[0] == 12


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    array = np.zeros((3, 4))
    assert addresses(array, array[1]) == [array.ctypes.data, array.ctypes.data + 32]
    with pytest.raises(ValueError, match=r"arrays must be contiguous; got strides \(8, 32\)"):
        addresses(array, array.T)


@pytest.mark.parametrize("rules", [pendulum, acrobot])
def test_a_part_of_the_games_is_played_by_the_rules(rules) -> None:
    """Games 1 and 2 of four; the others, and what was handed out, stay."""
    name = rules.__name__.rpartition(".")[2]
    env = control_env(name, [3], 4)
    seen = env.plain_reset()
    before, shown = env._games.games.copy(), seen.clone()
    action = np.array([[0.5], [-2.0]], np.float32) if rules is pendulum else np.array([[2], [0]])
    playing = env.begin_steps()
    assert playing is not None and compiled_play(rules) is playing.play
    assert playing.certain == (200 if rules is pendulum else 1)

    import numba

    @numba.njit
    def play(function, places, action, observation, reward, terminated):
        function(places, 1, 3, action, observation, reward, terminated)

    reward = np.zeros(2)
    play(playing.play, playing.places, action, playing.observation[0, 1:3], reward, playing.terminated[1:3])
    state, observation, expected, terminated = rules.step(before[:, 1:3], action if rules is pendulum else action[:, 0])
    assert np.array_equal(env._games.games, np.concatenate([before[:, :1], state, before[:, 3:]], 1))
    assert np.array_equal(playing.observation[0, 1:3], observation) and np.array_equal(reward, expected)
    assert not terminated.any() and not playing.terminated.any()
    assert np.array_equal(seen.numpy(), shown.numpy())
