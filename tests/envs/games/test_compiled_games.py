"""Pong and Pixelcopter by kernels and by torch, side by side: every result and every bit of the state, step by step."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from decouple.envs.games import compiled_games
from decouple.envs.games.batched import GamesEnv, games_env

NAMES = ["pong", "pixelcopter"]
GENERATOR = torch.Generator()


def pair(name: str, seeds: list[int], num_envs: int, **settings: Any) -> tuple[GamesEnv, GamesEnv]:
    """Two environments of the same games: by kernels, and by torch."""
    pytest.importorskip("numba")
    by_kernels, by_torch = (games_env(name, seeds, num_envs, **settings) for _ in range(2))
    assert by_kernels._kernels is not None
    by_torch._kernels = None
    return by_kernels, by_torch


def bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor's numbers, which tell 0 from -0."""
    integers = {torch.float64: torch.int64, torch.float32: torch.int32}
    return tensor.contiguous().view(integers.get(tensor.dtype, tensor.dtype))


def check_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], where: object) -> None:
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype and value.shape == theirs[key].shape, (key, where)
        assert torch.equal(bits(value), bits(theirs[key])), (key, where)


def check_state(ours: GamesEnv, theirs: GamesEnv, where: object) -> None:
    mine, other = ours.get_extra_state(), theirs.get_extra_state()
    assert mine["settings"] == other["settings"]
    for part in ("games", "running"):
        check_same(mine[part], other[part], where)


def press(env: GamesEnv, skilled: Tensor) -> Tensor:
    """Actions (S, N): of skilled players, who follow the ball or the corridor, and of players who press anything."""
    seen = env.games.observation().view(*env.batch_size, -1)
    if env.name == "pong":
        follow = (seen[..., 4] > seen[..., 0]).long()
    else:
        follow = (seen[..., 2] + seen[..., 1] * 15 < seen[..., 3]).long()
    anything = torch.randint(env.games.num_actions, env.batch_size, generator=GENERATOR)
    return torch.where(skilled, follow, anything)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("seeds", "num_envs", "steps", "settings"),
    [
        ([3], 1, 3000, {"max_episode_steps": 700}),
        ([0, 7], 30, 1500, {"frame_skip": 3, "max_episode_steps": 20}),
        ([1], 1000, 400, {"scale_observations": False, "scale_rewards": False}),
    ],
)
def test_kernels_play_torchs_games_to_the_bit(
    name: str, seeds: list[int], num_envs: int, steps: int, settings: dict[str, int]
) -> None:
    ours, theirs = pair(name, seeds, num_envs, **settings)
    GENERATOR.manual_seed(num_envs)
    skilled = torch.rand(ours.batch_size, generator=GENERATOR) < 0.5
    assert torch.equal(ours.plain_reset(), theirs.plain_reset())
    if name == "pong":  # games that end soon, won by either side
        for env in (ours, theirs):
            env.games.state["numbers"][::2, 7:] = 10
    ended = torch.zeros(2, dtype=torch.int64)
    for step in range(steps):
        action = press(theirs, skilled)
        (mine, next_seen), (other, next_other) = ours.plain_step(action), theirs.plain_step(action)
        check_same(mine, other, step)
        assert torch.equal(bits(next_seen), bits(next_other)), step
        check_state(ours, theirs, step)
        ended += torch.stack([other["terminated"].sum(), other["truncated"].sum()])
        if step % 100 == 99:  # players change, and some episodes begin anew
            skilled = torch.rand(ours.batch_size, generator=GENERATOR) < 0.5
            asked = {"_reset": torch.rand(*ours.batch_size, 1, generator=GENERATOR) < 0.2}
            check_same(ours._restart(asked), theirs._restart(asked), step)
    assert ended[0] > 0 and (ended[1] > 0 or num_envs != 30)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_and_torch_take_turns(name: str) -> None:
    """The state is the same tensors for both."""
    turns, theirs = pair(name, [0], 40)
    kernels = turns._kernels
    assert torch.equal(turns.plain_reset(), theirs.plain_reset())
    everyone = torch.ones(1, 40, dtype=torch.bool)
    for step in range(300):
        turns._kernels = kernels if step % 3 else None
        action = press(theirs, everyone)
        check_same(turns.plain_step(action)[0], theirs.plain_step(action)[0], step)
    check_state(turns, theirs, "end")


def test_hits_walls_and_last_points_are_torchs() -> None:
    """Pong from 20,000 states anywhere, also ones that play does not reach: hits at both faces and in corners."""
    ours, theirs = pair("pong", [0, 1], 10_000)
    assert torch.equal(ours.plain_reset(), theirs.plain_reset())
    numbers, drawn = theirs.games.state["numbers"], torch.Generator().manual_seed(0)
    low = torch.tensor([3.5, -5.76, 2.7, -2, -1, -40, -40, 0, 0], dtype=torch.float64)
    high = torch.tensor([44.5, 5.76, 45.3, 66, 49, 40, 40, 11, 11], dtype=torch.float64)
    for step in range(20):
        numbers.copy_(torch.rand(numbers.shape, generator=drawn, dtype=torch.float64) * (high - low) + low)
        numbers[:, 7:] = numbers[:, 7:].floor()
        if step % 2:  # near a face, with the paddle near the ball
            numbers[:, 3] = torch.where(numbers[:, 5] < 0, numbers[:, 3] % 3 + 3.8, 57.2 + numbers[:, 3] % 3)
            numbers[:, [0, 2]] = (numbers[:, 4:5] + numbers[:, [0, 2]] / 6 - 4).clamp(3.5, 44.5)
        numbers[::50, 5] = 0.0
        ours.games.state["numbers"].copy_(numbers)
        action = torch.randint(3, (2, 10_000), generator=drawn)
        before = theirs.games.streams.state.clone()
        check_same(ours._advance({"action": action}), theirs._advance({"action": action}), step)
        check_state(ours, theirs, step)
        assert (before != theirs.games.streams.state).sum() > 500  # hits and points
        for env in (ours, theirs):
            env._running = {key: torch.zeros_like(value) for key, value in env._running.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_plays_its_own_games(name: str, copied: Callable[[Any], Any]) -> None:
    ours, theirs = pair(name, [0], 3)
    assert torch.equal(ours.plain_reset(), theirs.plain_reset())
    other = copied(ours._kernels)
    states = {key: value.clone() for key, value in ours.games.state.items()}
    rows, running = torch.zeros(3, dtype=torch.int64).numpy(), ours._running
    shown = other.step(rows, running)[1]
    check_same(dict(ours.games.state), states, "the original")
    check_same(ours._advance({"action": torch.zeros(1, 3, dtype=torch.int64)}), shown, "the copy")
    check_same(dict(ours.games.state), dict(other.games.state), "states")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_an_action_may_be_any_integer(dtype: torch.dtype) -> None:
    ours, theirs = pair("pong", [0], 4)
    assert torch.equal(ours.plain_reset(), theirs.plain_reset())
    action = torch.tensor([[0, 1, 2, 1]], dtype=dtype)
    check_same(ours.plain_step(action)[0], theirs.plain_step(action)[0], dtype)
    with pytest.raises(ValueError, match=r"got \[3\] among them"):
        ours.plain_step(action + torch.tensor([[0, 0, 1, 0]], dtype=dtype))


def test_an_unchecked_action_reads_no_foreign_memory() -> None:
    env = pair("pixelcopter", [0], 3, check_actions=False)[0]
    env.plain_reset()
    state = env.get_extra_state()
    shown = env.plain_step(torch.tensor([[-(2**62), 1, 2**62]]))[1]
    env.set_extra_state(state)
    assert torch.equal(env.plain_step(torch.ones(1, 3, dtype=torch.int64))[1], shown)


def test_without_numba_torch_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_games, "unavailable", lambda: "numba is missing")
    env = games_env("pong", [0])
    assert env._kernels is None and env.rollout(3).shape == (1, 1, 3)


def test_food_collector_has_no_kernels() -> None:
    assert games_env("foodcollector", [0], 5)._kernels is None
