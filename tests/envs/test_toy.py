"""Goal tracking: the paper's equations, by hand and against plain float64; the noise; seeds as an axis; resuming."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from playing import play
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs.utils import check_env_specs

from decouple.envs.toy import goal_tracking_env
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint

pytest.importorskip("opensimplex")
KEYS = ("observation", "goal", "state", "reward", "episode_reward", "step_count", "done", "terminated", "truncated")


def actions(steps: int, S: int, N: int = 1) -> Tensor:
    return torch.rand(steps, S, N, 1, generator=torch.Generator().manual_seed(5)) * 4 - 2  # (T, S, N, 1)


def same(left: TensorDictBase, right: TensorDictBase, keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(left[key], right[key]) for key in keys)


def test_specs() -> None:
    check_env_specs(goal_tracking_env([0, 1], 2))
    env = goal_tracking_env(range(2), 3)
    assert env.batch_size == (2, 3)
    assert env.action_spec.shape == (2, 3, 1) and env.action_spec.low.unique() == -2 and env.action_spec.high.max() == 2


def test_three_steps_by_hand() -> None:
    env = goal_tracking_env([3])
    state = env.reset()
    s0, g0 = state["state"].item(), state["goal"].item()
    assert state["observation"].item() == g0 - s0 and state["step_count"].item() == 0
    assert state["episode_reward"].item() == 0 and -1 <= s0 <= 1
    steps, _ = play(env, torch.tensor([0.25, -2.0, 0.5]).reshape(3, 1, 1, 1), state)
    g1, g2, g3 = steps["goal"].flatten().tolist()
    s1 = min(s0 + 0.25, 1)
    places, goals = [s1, -1.0, -0.5], [g1, g2, g3]  # s1 - 2 <= -1 is clipped; and then half a step up
    rewards = [-abs(g0 - s1), -abs(g1 + 1), -abs(g2 + 0.5)]
    assert steps["state"].flatten().tolist() == pytest.approx(places, abs=1e-7)
    assert steps["reward"].flatten().tolist() == pytest.approx(rewards, abs=1e-6)
    observations = [goal - place for goal, place in zip(goals, places, strict=True)]
    assert steps["observation"].flatten().tolist() == pytest.approx(observations, abs=1e-6)
    returns = [rewards[0], sum(rewards[:2]), sum(rewards)]
    assert steps["episode_reward"].flatten().tolist() == pytest.approx(returns, abs=1e-6)
    assert steps["step_count"].flatten().tolist() == [1, 2, 3] and not steps["done"].any()


def test_a_thousand_steps_follow_the_equations() -> None:
    env = goal_tracking_env([0, 1, 2], 2)
    state = env.reset()
    place, goal, total = state["state"].double(), state["goal"].double(), torch.zeros(3, 2, 1, dtype=torch.float64)
    for now in actions(1000, 3, 2):
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        after = transition["next"]
        place = (place + now.double()).clamp(-1, 1)
        reward = -(goal - place).abs()
        total = total + reward
        torch.testing.assert_close(after["state"].double(), place, atol=1e-6, rtol=0)
        torch.testing.assert_close(after["reward"].double(), reward, atol=1e-6, rtol=0)
        torch.testing.assert_close(after["observation"].double(), after["goal"].double() - place, atol=1e-6, rtol=0)
        torch.testing.assert_close(after["episode_reward"].double(), total, atol=1e-3, rtol=0)
        place, goal = state["state"].double(), state["goal"].double()
        total = total.masked_fill(after["done"], 0)


def test_the_ideal_policy_earns_exactly_nothing() -> None:
    env = goal_tracking_env(range(5), 4)
    state = env.reset()
    for _ in range(400):
        transition, state = env.step_and_maybe_reset(state.set("action", state["observation"]))
        assert (transition["next", "episode_reward"] == 0).all()


def test_standing_still_earns_the_distance_to_the_goals() -> None:
    env = goal_tracking_env([4, 5], 3)
    state = env.reset()
    first_goal, place = state["goal"], state["state"]
    steps, _ = play(env, torch.zeros(200, 2, 3, 1), state)
    goals = torch.cat([first_goal[None], steps["goal"][:-1]]).double()  # g_0 .. g_199; g_200 is shown, not rewarded
    expected = -(goals - place.double()).abs().sum(0)
    torch.testing.assert_close(steps["episode_reward"][-1].double(), expected, rtol=1e-6, atol=0)
    assert (expected < -10).all()


def test_goals_are_simplex_noise_along_a_line_scaled_and_on_a_grid() -> None:
    from opensimplex import OpenSimplex

    env = goal_tracking_env([7], episode_steps=20, frequency=0.05)
    noise_seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(7)))
    noise = OpenSimplex(noise_seed)
    for _ in range(3):
        state = env.reset()
        start = int(env.get_extra_state()["episodes"]["position"])
        steps, _ = play(env, torch.zeros(20, 1, 1, 1), state)
        goals = [state["goal"].item(), *steps["goal"].flatten().tolist()]
        expected = [max(-1.0, min(1.0, noise.noise2((start + t) * 0.05, 0.0) / 0.86)) for t in range(21)]
        assert goals == pytest.approx(expected, abs=2**-24)
        assert all(float(goal * 2**23).is_integer() for goal in goals)


def test_goals_move_smoothly_over_most_of_the_range() -> None:
    steps, _ = play(goal_tracking_env(range(6), 8), torch.zeros(199, 6, 8, 1))
    goal = steps["goal"]
    moves = (goal[1:] - goal[:-1]).abs()
    assert moves.max() < 0.08 and moves.mean() > 0.005
    assert goal.abs().max() <= 1 and goal.min() < -0.8 and goal.max() > 0.8
    assert goal.std(0).min() > 0.05  # in every episode it moves


def test_the_seed_decides_the_goals() -> None:
    action = actions(450, 2)
    first, again, other = (play(goal_tracking_env(seeds), action)[0] for seeds in ([1, 2], [1, 2], [3, 4]))
    assert same(first, again)
    goals = [first["goal"][:, 0], first["goal"][:, 1], other["goal"][:, 0], other["goal"][:, 1]]
    assert not any(torch.equal(goals[i], goals[j]) for i in range(4) for j in range(i))
    assert not torch.equal(first["goal"][:200], first["goal"][200:400])  # nor are two episodes the same
    assert not torch.equal(goal_tracking_env([1], 2).reset()["goal"][0, 0], first["goal"][0, 0])
    env = goal_tracking_env([8, 9])
    env.set_seed(1)
    assert env.seeds == [1, 2] and same(play(env, action)[0], first)


@pytest.mark.parametrize("N", [1, 3])
def test_a_seed_sees_the_same_alone_and_beside_others(N: int) -> None:
    action = actions(70, 3, N)
    together, alone = goal_tracking_env([5, 1, 9], N, episode_steps=25), goal_tracking_env([1], N, episode_steps=25)
    beside, single = together.reset(), alone.reset()
    for t, now in enumerate(action):
        if t % 16 == 7:  # resets in mid-episode: of all environments, and of some, at other times for other seeds
            mask = torch.zeros(3, N, 1, dtype=torch.bool)
            mask[t % 3] = True
            mask[1, t % N] = True
            beside = together.reset(beside.set("_reset", mask))
            single = alone.reset(single.set("_reset", mask[1:2]))
        one, beside = together.step_and_maybe_reset(beside.set("action", now))
        two, single = alone.step_and_maybe_reset(single.set("action", now[1:2]))
        assert same(one["next"][1:2], two["next"])
        assert same(beside[1:2], single, tuple(key for key in KEYS if key != "reward"))


def test_episodes_end_by_truncation_only_and_show_the_last_observation() -> None:
    env = goal_tracking_env([0, 1], 2, episode_steps=7)
    state = env.reset()
    for t in range(1, 22):
        before = state["state"]
        transition, state = env.step_and_maybe_reset(state.set("action", torch.full((2, 2, 1), 0.01)))
        after = transition["next"]
        assert (after["truncated"] == (t % 7 == 0)).all() and torch.equal(after["done"], after["truncated"])
        assert not after["terminated"].any() and (after["step_count"] == (t - 1) % 7 + 1).all()
        torch.testing.assert_close(after["state"], (before + 0.01).clamp(-1, 1))
        torch.testing.assert_close(after["observation"], after["goal"] - after["state"])
        assert not state["done"].any()
        if t % 7 == 0:
            assert (state["step_count"] == 0).all() and (state["episode_reward"] == 0).all()
            assert (state["state"] != after["state"]).all()


def test_a_partial_reset_leaves_the_others_alone() -> None:
    left, right = goal_tracking_env([0, 1], 2), goal_tracking_env([0, 1], 2)
    action = actions(30, 2, 2)
    _, state = play(left, action[:10])
    _, other = play(right, action[:10])
    mask = torch.tensor([[[True], [False]], [[False], [False]]])
    reset = left.reset(state.clone().set("_reset", mask))
    kept = ~mask[..., 0]
    assert same(reset[kept], other[kept], ("observation", "goal", "state", "episode_reward", "step_count"))
    assert reset["step_count"].flatten().tolist() == [0, 10, 10, 10] and reset["episode_reward"][0, 0] == 0
    assert reset["state"][0, 0] != other["state"][0, 0]
    here, there = play(left, action[10:], reset)[0], play(right, action[10:], other)[0]
    assert same(here[:, kept], there[:, kept])


def test_what_was_handed_out_is_not_overwritten() -> None:
    env = goal_tracking_env([0], episode_steps=5)
    first = env.reset()
    kept = first.clone()
    after = env.step(first.clone().set("action", torch.ones(1, 1, 1)))["next"]
    kept_after = after.clone()
    play(env, actions(12, 1))
    assert same(first, kept, tuple(kept.keys())) and same(after, kept_after)


@pytest.mark.parametrize("steps", [1, 13, 20])
def test_a_saved_run_continues_bit_for_bit(steps: int, tmp_path: Path) -> None:
    action = actions(steps + 60, 2, 3)
    env = goal_tracking_env([0, 1], 3, episode_steps=20)
    _, state = play(env, action[:steps])
    state = env.reset(state.set("_reset", torch.tensor([[[True], [False], [False]], [[False], [False], [True]]])))
    save_checkpoint(tmp_path / "checkpoint.pt", {"env": env.state_dict()})
    fresh = goal_tracking_env([0, 1], 3, episode_steps=20)
    play(fresh, action[:3])
    fresh.load_state_dict(load_checkpoint(tmp_path / "checkpoint.pt")["env"])
    shown = fresh.reset()
    assert same(shown, state, tuple(key for key in KEYS if key != "reward"))
    assert same(play(env, action[steps:], state)[0], play(fresh, action[steps:], shown)[0])
    assert (fresh.reset()["step_count"] == 0).all()  # later resets begin episodes as ever


def test_a_run_saved_at_an_end_begins_the_episodes_that_were_due() -> None:
    env, fresh = goal_tracking_env([0, 1], 2, episode_steps=5), goal_tracking_env([0, 1], 2, episode_steps=5)
    _, state = play(env, actions(4, 2, 2))
    ended = env.step(state.set("action", torch.zeros(2, 2, 1)))["next"].exclude("reward")
    assert ended["done"].all()
    fresh.load_state_dict(env.state_dict())
    begun = fresh.reset()
    assert same(begun, env.reset(ended), ("observation", "goal", "state", "step_count"))
    never = goal_tracking_env([0, 1], 2, episode_steps=5)
    fresh.load_state_dict(never.state_dict())
    assert same(fresh.reset(), never.reset(), ("observation", "goal", "state"))


def test_a_state_of_other_settings_is_refused_by_name() -> None:
    state = goal_tracking_env([0, 1]).state_dict()
    with pytest.raises(ValueError, match=r"got seeds \[0, 1\] there, \[0, 2\] here, episode_steps 200 there, 9 here$"):
        goal_tracking_env([0, 2], episode_steps=9).load_state_dict(state)


BAD_ARGUMENTS = [
    ({"seeds": []}, r"seeds must be a non-empty sequence of integers; got \[\]"),
    ({"seeds": 3}, r"seeds must be a non-empty sequence of integers; got 3"),
    ({"seeds": "12"}, r"seeds must be a non-empty sequence of integers; got '12'"),
    ({"seeds": [0, -1]}, r"seeds\[1\] must be an integer in \[0, 2147483647\]; got -1"),
    ({"seeds": [0.5]}, r"seeds\[0\] must be an integer in \[0, 2147483647\]; got 0.5"),
    ({"num_envs": 0}, r"num_envs must be an integer in \[1, 2147483647\]; got 0"),
    ({"episode_steps": True}, r"episode_steps must be an integer in \[1, 2147483647\]; got True"),
    ({"frequency": 0}, r"frequency must be a finite number > 0; got 0"),
    ({"frequency": float("nan")}, r"frequency must be a finite number > 0; got nan"),
    ({"frequency": "fast"}, r"frequency must be a finite number > 0; got 'fast'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        goal_tracking_env(**({"seeds": [0]} | arguments))


def test_bad_actions_are_refused_and_change_nothing() -> None:
    env = goal_tracking_env([0, 1], episode_steps=2)
    state = env.reset()
    nan = torch.tensor([[[0.0]], [[float("nan")]]])
    with pytest.raises(ValueError, match=r"action must be a number everywhere; got .*nan"):
        env.step(state.clone().set("action", nan))
    with pytest.raises(ValueError, match=r"action must have the shape \(2, 1, 1\); got \(2, 1\)"):
        env.step(state.clone().set("action", torch.zeros(2, 1)))
    for _ in range(2):
        after = env.step(state.set("action", torch.full((2, 1, 1), 1e9)))["next"]
    assert (after["state"] == 1).all() and (after["step_count"] == 2).all()
    with pytest.raises(RuntimeError, match="must be reset before the next step"):
        env.step(state.set("action", torch.zeros(2, 1, 1)))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensimplex", None)
    with pytest.raises(
        ImportError, match=r"goal_tracking_env needs opensimplex: pip install 'torchrl-decouple\[toy\]'"
    ):
        goal_tracking_env([0])


def test_making_the_task_leaves_pytorchs_threads():
    """OpenSimplex runs its loop by Numba where that is installed, in a pool of threads that is PyTorch's too."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            goal_tracking_env(seeds=[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
