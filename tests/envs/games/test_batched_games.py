"""The batched games as a TorchRL environment: keys, ends, both faces in step, seeds as an axis, resuming, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marks import needs_gpu
from playing import play
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical
from torchrl.envs.utils import check_env_specs

from decouple.envs.games.batched import GAMES, GamesEnv, games_env
from decouple.envs.games.streams import stream_seed
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint

KEYS = ("observation", "reward", "episode_reward", "step_count", "done", "terminated", "truncated")
SHOWN = tuple(key for key in KEYS if key != "reward")
SIZES = {"pong": (7, 3), "pixelcopter": (7, 2), "foodcollector": (53, None)}  # observed numbers, discrete actions
NAMES = list(SIZES)


def actions(env: GamesEnv, steps: int) -> Tensor:
    """(T, S, N) or (T, S, N, A)."""
    generator, shape = torch.Generator().manual_seed(5), (steps, *env.action_spec.shape)
    if isinstance(env.action_spec, Categorical):
        return torch.randint(env.action_spec.n, shape, generator=generator)
    return torch.rand(shape, generator=generator) * 2 - 1


def same(left: TensorDictBase, right: TensorDictBase, keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(left[key], right[key]) for key in keys)


@pytest.mark.parametrize("name", NAMES)
def test_specs(name: str) -> None:
    check_env_specs(games_env(name, [0, 1], 5))
    env = games_env(name, range(2), 5)
    observed, number = SIZES[name]
    assert env.batch_size == (2, 5) and env.observation_spec["observation"].shape == (2, 5, observed)
    if number is None:
        assert isinstance(env.action_spec, Bounded) and env.action_spec.shape == (2, 5, 4)
        assert env.action_spec.low.unique() == -1 and env.action_spec.high.unique() == 1
    else:
        assert isinstance(env.action_spec, Categorical) and env.action_spec.shape == (2, 5)
        assert env.action_spec.n == number
    shown = env.rollout(3)["next"]
    assert {key: shown[key].dtype for key in KEYS} == {
        **dict.fromkeys(("observation", "reward", "episode_reward"), torch.float32),
        **{"step_count": torch.int64},
        **dict.fromkeys(("done", "terminated", "truncated"), torch.bool),
    }


@pytest.mark.parametrize("form", ["box4", "discrete", "hybrid"])
def test_food_collector_has_three_forms_of_action(form: str) -> None:
    """One motion, said in each form: ahead at full speed, a turn to the left, and the laser now and then."""
    check_env_specs(games_env("foodcollector", [0, 1], 5, action_form=form))
    env, box = games_env("foodcollector", [0], 10, action_form=form), games_env("foodcollector", [0], 10)
    state, other = env.reset(), box.reset()
    for step in range(30):
        shoots = step % 3 == 0
        for key, value in {
            "box4": {"action": torch.tensor([1.0, 0, 1, 1 if shoots else -1])},
            "discrete": {"action": torch.tensor([1, 0, 1, int(shoots)])},
            "hybrid": {("action", "move"): torch.tensor([1.0, 0, 1]), ("action", "laser"): torch.tensor(int(shoots))},
        }[form].items():
            state.set(key, value.expand(1, 10, *value.shape))
        other.set("action", torch.tensor([1.0, 0, 1, 1 if shoots else -1]).expand(1, 10, 4))
        state, other = env.step_mdp(env.step(state)), box.step_mdp(box.step(other))
        assert same(state, other, SHOWN)
    assert (state["episode_reward"] != 0).any()


def test_a_form_of_action_is_kept_with_the_state() -> None:
    hybrid, box = (games_env("foodcollector", [0], 5, action_form=form) for form in ("hybrid", None))
    with pytest.raises(ValueError, match="got action_form 'hybrid' there, 'box4' here"):
        box.load_state_dict(hybrid.state_dict())
    older = box.state_dict()
    del older["_extra_state"]["settings"]["action_form"]
    box.load_state_dict(older)


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.parametrize(
    ("name", "frame_skip", "limit", "steps"),
    # not Food Collector: its single face has other players
    [("pong", 1, 450, 3000), ("pong", 3, 150, 600), ("pixelcopter", 1, 40, 1000), ("pixelcopter", 3, 12, 300)],
)
def test_both_faces_agree_to_the_bit(name: str, frame_skip: int, limit: int, steps: int) -> None:
    """The same streams; half of the players press anything, the others follow the ball or the corridor."""
    scale = frame_skip > 1
    gymnasium = pytest.importorskip("gymnasium")
    import decouple.envs.games.gymnasium_env  # noqa: F401  (registers them)

    options = {"frame_skip": frame_skip, "max_episode_steps": limit}
    options |= {"scale_observations": scale, "scale_rewards": scale}
    identity = {"pong": "decouple/Pong-v0", "pixelcopter": "decouple/Pixelcopter-v0"}[name]
    alone = [gymnasium.make(identity, **options) for _ in range(4)]
    env = games_env(name, [0], 4, **options)
    expected = np.zeros((4, 7), dtype=np.float32)

    def begin(which: list[int], seeds: list[int | None]) -> TensorDictBase:
        mask = torch.zeros(1, 4, 1, dtype=torch.bool)
        for index, seed in zip(which, seeds, strict=True):
            mask[0, index] = True
            source = alone[index].unwrapped
            generator = copy.deepcopy(source.np_random) if seed is None else np.random.default_rng(seed)
            env.games.streams.state[index] = signed(int(generator.integers(2**64, dtype=np.uint64)))
            expected[index], _ = alone[index].reset(seed=seed)
        shown = env.reset(state.set("_reset", mask))
        assert shown["observation"][0].tolist() == expected.tolist()
        return shown

    state = env.reset()
    state = begin([0, 1, 2, 3], [10, 11, 12, 13])
    generator, ends = np.random.default_rng(0), [0, 0]
    for _ in range(steps):
        seen = [game.unwrapped.game.observation() for game in alone]
        follow = [int(x[4] > x[0]) if name == "pong" else int(x[2] + x[1] * 15 < x[3]) for x in seen]
        press = [follow[n] if n % 2 else int(generator.integers(SIZES[name][1])) for n in range(4)]
        after = env.step(state.set("action", torch.tensor([press])))["next"]
        answers = [game.step(action) for game, action in zip(alone, press, strict=True)]
        observation, reward, terminated, truncated, _ = zip(*answers, strict=True)
        assert after["observation"][0].tolist() == [row.tolist() for row in observation]
        assert after["reward"].flatten().tolist() == np.array(reward, dtype=np.float32).tolist()
        assert after["terminated"].flatten().tolist() == list(terminated)
        assert after["truncated"].flatten().tolist() == list(truncated)
        ends = [ends[0] + sum(terminated), ends[1] + sum(truncated)]
        over = [n for n in range(4) if terminated[n] or truncated[n]]
        state = after.exclude("reward")
        if over:
            expected[:] = np.stack(observation)
            state = begin(over, [None] * len(over))
    assert min(ends) >= 2


def test_streams_belong_to_game_and_seed() -> None:
    env = games_env("pong", [4, 9], 3)
    assert env.games.streams.state.tolist() == [stream_seed(seed, index) for seed in (4, 9) for index in range(3)]


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str) -> None:
    env = games_env(name, [1, 2], 5)
    action = actions(env, 60)
    first = play(env, action)[0]
    assert same(first, play(games_env(name, [1, 2], 5), action)[0])
    assert not torch.equal(first["observation"][:, 0, 0], first["observation"][:, 1, 0])
    assert not torch.equal(play(games_env(name, [1, 3], 5), action)[0]["observation"][:, 1], first["observation"][:, 1])
    other = games_env(name, [8, 9], 5)
    other.set_seed(1)
    assert other.seeds == [1, 2] and same(play(other, action)[0], first)
    again = play(env, action)[0]  # nor are two episodes the same
    assert not torch.equal(again["observation"], first["observation"])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_sees_the_same_alone_and_beside_others(name: str) -> None:
    options: dict[str, Any] = {"max_episode_steps": 25}
    together, alone = games_env(name, [5, 1, 9], 5, **options), games_env(name, [1], 5, **options)
    beside, single = together.reset(), alone.reset()
    for t, now in enumerate(actions(together, 80)):
        if t % 16 == 7:  # resets in mid-episode: of all games, and of some, at other times for other seeds
            mask = torch.zeros(3, 5, 1, dtype=torch.bool)
            mask[t % 3] = True
            mask[1, t % 5] = True
            beside = together.reset(beside.set("_reset", mask))
            single = alone.reset(single.set("_reset", mask[1:2]))
        one, beside = together.step_and_maybe_reset(beside.set("action", now))
        two, single = alone.step_and_maybe_reset(single.set("action", now[1:2]))
        assert same(one["next"][1:2], two["next"]) and same(beside[1:2], single, SHOWN)


@pytest.mark.parametrize("name", ["pong", "pixelcopter"])
def test_a_partial_reset_leaves_the_others_alone(name: str) -> None:
    left, right = games_env(name, [0, 1], 2), games_env(name, [0, 1], 2)
    action = torch.ones(30, 2, 2, dtype=torch.int64)  # in Pixelcopter to do nothing, which lives for twenty frames
    _, state = play(left, action[:5])
    _, other = play(right, action[:5])
    mask = torch.tensor([[[True], [False]], [[False], [False]]])
    reset = left.reset(state.clone().set("_reset", mask))
    kept = ~mask[..., 0]
    assert same(reset[kept], other[kept], SHOWN)
    assert reset["step_count"].flatten().tolist() == [0, 5, 5, 5] and reset["episode_reward"][0, 0] == 0
    assert (reset["observation"][0, 0] != other["observation"][0, 0]).any()
    here, there = play(left, action[5:], reset)[0], play(right, action[5:], other)[0]
    assert same(here[:, kept], there[:, kept])


@pytest.mark.parametrize("name", NAMES)
def test_episodes_end_at_the_limit_and_show_the_last_observation(name: str) -> None:
    env = games_env(name, [0], 5, max_episode_steps=4)
    assert games_env(name, [0], 5).max_episode_steps == GAMES[name].max_episode_steps
    state = env.reset()
    for t in range(1, 13):
        action = actions(env, 12)[t - 1] if name == "foodcollector" else torch.ones(1, 5, dtype=torch.int64)
        after = env.step(state.set("action", action))["next"]
        assert (after["truncated"] == (t % 4 == 0)).all() and not after["terminated"].any()
        assert (after["step_count"] == (t - 1) % 4 + 1).all() and torch.equal(after["done"], after["truncated"])
        raw = env.games.observation() * torch.as_tensor(env.games.observation_scale)
        assert torch.equal(after["observation"], raw.float().view(1, 5, -1))
        state = after.exclude("reward")
        if t % 4 == 0:
            state = env.reset(state.set("_reset", after["done"]))
            assert not state["done"].any() and (state["step_count"] == 0).all() and (state["episode_reward"] == 0).all()
            assert (state["observation"] != after["observation"]).any(-1).all()


def test_rewards_are_scaled_and_their_sum_is_not() -> None:
    env, raw = games_env("pong", [0], 50), games_env("pong", [0], 50, scale_rewards=False, scale_observations=False)
    action = actions(env, 600)
    scaled, plain = play(env, action)[0], play(raw, action)[0]
    torch.testing.assert_close(scaled["reward"] * 16, plain["reward"], rtol=0, atol=0)
    assert torch.equal(scaled["episode_reward"], plain["episode_reward"])
    ended = plain["terminated"]
    assert ended.sum() > 20 and (plain["episode_reward"][ended] <= -14).all() and (plain["reward"][ended] == -6).all()
    total = torch.zeros(1, 50, 1)
    for reward, episode_reward, done in zip(*(plain[key] for key in ("reward", "episode_reward", "done")), strict=True):
        total = total + reward
        assert torch.equal(total, episode_reward)
        total = total.masked_fill(done, 0)
    size = torch.tensor([1 / 48, 1 / 5.76, 1 / 48, 1 / 64, 1 / 48, 1 / 36, 1 / 36])
    torch.testing.assert_close(scaled["observation"], plain["observation"] * size)


def test_frames_that_are_skipped_repeat_the_action_and_sum_the_rewards() -> None:
    skipping = games_env("pong", [0, 1], 20, frame_skip=4, scale_rewards=False)
    assert skipping.max_episode_steps == 25_000  # 100,000 of the game
    assert games_env("pong", [0]).max_episode_steps == 100_000
    every = games_env("pong", [0, 1], 20, scale_rewards=False)
    state, other = skipping.reset(), every.reset()
    for now in actions(skipping, 60):  # no game is over in 240 frames
        after = skipping.step(state.set("action", now))["next"]
        reward = torch.zeros(2, 20, 1)
        for _ in range(4):
            other = every.step(other.set("action", now))["next"]
            reward += other["reward"]
        assert torch.equal(after["reward"], reward) and torch.equal(after["observation"], other["observation"])
        state = after.exclude("reward")
    assert (state["episode_reward"] < -2).any() and (state["step_count"] == 60).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_handed_out_is_not_overwritten(name: str) -> None:
    env = games_env(name, [0], 5, max_episode_steps=5)
    first = env.reset()
    action = actions(env, 13)
    kept = first.clone()
    after = env.step(first.clone().set("action", action[0]))["next"]
    kept_after = after.clone()
    play(env, action[1:])
    assert same(first, kept, SHOWN) and same(after, kept_after)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 13, 20])
def test_a_saved_run_continues_bit_for_bit(name: str, steps: int, tmp_path: Path) -> None:
    env, fresh = games_env(name, [0, 1], 5, max_episode_steps=20), games_env(name, [0, 1], 5, max_episode_steps=20)
    action = actions(env, steps + 60)
    _, state = play(env, action[:steps])
    mask = torch.zeros(2, 5, 1, dtype=torch.bool)
    # A whole field: TorchRL goes on showing an agent that is not reset what it saw before others were put elsewhere.
    mask[0, 0 if name != "foodcollector" else slice(None)] = True
    state = env.reset(state.set("_reset", mask))
    save_checkpoint(tmp_path / "checkpoint.pt", {"env": env.state_dict()})
    play(fresh, action[:3])
    fresh.load_state_dict(load_checkpoint(tmp_path / "checkpoint.pt")["env"])
    shown = fresh.reset()
    assert same(shown, state, SHOWN)
    assert same(play(env, action[steps:], state)[0], play(fresh, action[steps:], shown)[0])
    assert (fresh.reset()["step_count"] == 0).all()  # later resets begin episodes as ever


def test_a_run_saved_at_an_end_begins_the_episodes_that_were_due() -> None:
    env, fresh = games_env("pong", [0, 1], 2, max_episode_steps=5), games_env("pong", [0, 1], 2, max_episode_steps=5)
    action = actions(env, 5)
    _, state = play(env, action[:4])
    ended = env.step(state.set("action", action[4]))["next"].exclude("reward")
    assert ended["done"].all()
    fresh.load_state_dict(env.state_dict())
    begun = fresh.reset()
    assert same(begun, env.reset(ended), SHOWN) and (begun["step_count"] == 0).all()
    never = games_env("pong", [0, 1], 2, max_episode_steps=5)
    fresh.load_state_dict(never.state_dict())
    assert same(fresh.reset(), never.reset(), SHOWN)


def test_a_state_of_other_settings_is_refused_by_name() -> None:
    state = games_env("pong", [0, 1]).state_dict()
    with pytest.raises(ValueError, match=r"got seeds \[0, 1\] there, \[0, 2\] here, frame_skip 1 there, 2 here$"):
        games_env("pong", [0, 2], frame_skip=2, max_episode_steps=100_000).load_state_dict(state)


BAD_ARGUMENTS = [
    ({"name": "tennis"}, r"name must be one of pong, pixelcopter, foodcollector; got 'tennis'"),
    ({"seeds": []}, r"seeds must be a non-empty sequence of integers; got \[\]"),
    ({"seeds": [0, -1]}, r"seeds\[1\] must be an integer in \[0, 2147483647\]; got -1"),
    ({"num_envs": 0}, r"num_envs must be an integer in \[1, 2147483647\]; got 0"),
    ({"name": "foodcollector", "num_envs": 6}, r"num_envs must be a multiple of 5, .* of foodcollector; got 6"),
    (
        {"name": "foodcollector", "num_envs": 5, "action_form": "box"},
        r"action_form must be box4 or hybrid or discrete or None for foodcollector; got",
    ),
    ({"action_form": "box4"}, "action_form must be None for pong; got 'box4'"),
    ({"max_episode_steps": 0}, r"max_episode_steps must be an integer in \[1, 2147483647\]; got 0"),
    ({"frame_skip": 1.5}, r"frame_skip must be an integer in \[1, 2147483647\]; got 1.5"),
    ({"scale_rewards": 2}, r"scale_rewards must be True or False; got 2"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        games_env(**({"name": "pong", "seeds": [0]} | arguments))


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("pong", [[0, 1, 3, 0, 0]], r"action must be integers in \[0, 3\); got \[3\] among them"),
        ("pong", [[0, -1, 3, 0, 0]], r"action must be integers in \[0, 3\); got \[-1, 3\] among them"),
        ("pixelcopter", [[0, 1, 2, 0, 0]], r"action must be integers in \[0, 2\); got \[2\] among them"),
        ("pong", [[0.0, 1.0, float("nan"), 0.0, 0.0]], r"action must be integers; got torch.float32"),
        ("pong", [[True] * 5], r"action must be integers; got torch.bool"),
        ("pong", [[[0]] * 5], r"action must have the shape \(1, 5\); got \(1, 5, 1\)"),
        ("foodcollector", [[[0.0, float("nan"), 0, 0]] * 5], r"must be finite and in \[-1, 1\]; got \[nan, .*\] among"),
        ("foodcollector", [[[0.0, -1.01, 0, 0]] * 5], r"must be finite and in \[-1, 1\]; got \[-1.00?9*.* among them"),
        ("foodcollector", [[[0.0, float("inf"), 0, 0]] * 5], r"must be finite and in \[-1, 1\]; got \[inf, .* among"),
        ("foodcollector", [[[0, 0, 0, 0]] * 5], r"action must be floats; got torch.int64"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(name: str, action: list, message: str) -> None:
    env, other = games_env(name, [0], 5), games_env(name, [0], 5)
    good = actions(env, 20)
    _, state = play(env, good[:3])
    _, twin = play(other, good[:3])
    with pytest.raises(ValueError, match=message):
        env.step(state.clone().set("action", torch.tensor(action)))
    assert same(play(env, good[3:], state)[0], play(other, good[3:], twin)[0])


@pytest.mark.parametrize(
    ("form", "key", "action", "message"),
    [
        ("discrete", "action", [0, 0, 0, 2], r"action must be integers from 0 and below \(3, 3, 3, 2\); got \[2"),
        ("discrete", "action", [0, 0, -1, 0], r"from 0 and below \(3, 3, 3, 2\); got \[-1"),
        ("discrete", "action", [0.0, 0, 0, 0], r"action must be integers; got torch.float32"),
        ("hybrid", ("action", "move"), [0.0, 0, 2], r"action.move must be finite and in \[-1, 1\]; got \[2.0"),
        ("hybrid", ("action", "move"), [0.0, 0, 0, 0], r"action.move must have the shape \(1, 5, 3\); got \(1, 5, 4\)"),
        ("hybrid", ("action", "laser"), 2, r"action.laser must be integers in \[0, 2\); got \[2"),
        ("hybrid", ("action", "laser"), 1.0, r"action.laser must be integers; got torch.float32"),
    ],
)
def test_bad_actions_of_other_forms_are_refused(form: str, key: Any, action: Any, message: str) -> None:
    env = games_env("foodcollector", [0], 5, action_form=form)
    state, value = env.rand_action(env.reset()), torch.tensor(action)
    with pytest.raises(ValueError, match=message):
        env.step(state.set(key, value.expand(1, 5, *value.shape)))


def test_an_action_at_its_bound_may_miss_it_by_a_rounding() -> None:
    env = games_env("foodcollector", [0], 5)
    env.step(env.reset().set("action", torch.full((1, 5, 4), 1 + 5e-7)))


def test_a_step_beyond_the_end_is_refused() -> None:
    env = games_env("pong", [0], 2, max_episode_steps=2)
    action = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="must be reset before the next step"):
        env.step(env.fake_tensordict().set("action", action))
    state = env.reset()
    for _ in range(2):
        state = env.step(state.set("action", action))["next"].exclude("reward")
    with pytest.raises(RuntimeError, match="must be reset before the next step"):
        env.step(state.set("action", action))
    trusting = games_env("pong", [0], 2, max_episode_steps=2, check_actions=False)
    state = trusting.reset()
    for _ in range(3):
        state = trusting.step(state.set("action", action))["next"].exclude("reward")
    assert (state["step_count"] == 3).all()


@needs_gpu
@pytest.mark.parametrize("name", ["pong", "pixelcopter"])
def test_a_gpu_plays_the_same_games(name: str) -> None:
    env, other = games_env(name, [0, 1], 50), games_env(name, [0, 1], 50, device="cuda")
    action = actions(env, 600)
    assert same(play(env, action)[0], play(other, action.cuda())[0].cpu())


@needs_gpu
@pytest.mark.parametrize("form", ["box4", "discrete", "hybrid"])
def test_every_form_of_action_is_checked_and_played_on_a_gpu(form: str) -> None:
    env = games_env("foodcollector", [0, 1], 5, action_form=form, device="cuda")
    assert env.rollout(3)["next", "observation"].device.type == "cuda"
