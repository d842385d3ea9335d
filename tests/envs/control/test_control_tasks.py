"""Control tasks: against Gymnasium stepped beside, normalisation by plain NumPy, seeds as an axis, resuming."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playing import play
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from decouple.envs.control.catalogue import TASKS
from decouple.envs.control.running_normalization import RunningMoments
from decouple.envs.control.spaces import read_actions, read_entries
from decouple.envs.control.tasks import control_env
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint

gymnasium = pytest.importorskip("gymnasium")
import odd_spaces  # noqa: E402  (registers tasks with Gymnasium)
from gymnasium import spaces  # noqa: E402
from gymnasium.spaces import flatten  # noqa: E402

KEYS = ("observation", "reward", "episode_reward", "step_count", "done", "terminated", "truncated")
AT_RESET = tuple(key for key in KEYS if key != "reward")
DIMENSIONS = {"pendulum": (3, 1), "acrobot": (6, 3), "reacher": (11, 2), "halfcheetah": (17, 6), "ant": (111, 8)}
DIMENSIONS |= {"forage": (91, 4)}
NEWEST = {"Reacher-v5": (10, 2), "HalfCheetah-v5": (17, 6), "Ant-v5": (105, 8)}
NORMALIZED = {"normalize_observation": True, "normalize_reward": True}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MuJoCo writes a log into the current folder when it warns; it has no reason to here."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("MUJOCO_LOG.TXT").exists()


def needs(name: str) -> None:
    if name in NEWEST or name == "Humanoid-v5" or (name in TASKS and TASKS[name][2] == "mujoco"):
        pytest.importorskip("mujoco")


def actions(env: EnvBase, steps: int, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [env.action_spec.rand() for _ in range(steps)]  # each (S, N) or (S, N, A)


def same(left: TensorDictBase, right: TensorDictBase, keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(left[key], right[key]) for key in keys)


def plain_games(name: str, seed: int, number: int) -> tuple[list[Any], list[int]]:
    """Gymnasium's own games, with all its wrappers, and the seeds that ours should give them."""
    task, options, _ = TASKS[name]
    with warnings.catch_warnings(), silent_mujoco(name):
        warnings.simplefilter("ignore")
        games = [gymnasium.make(task, **options) for _ in range(number)]
    return games, [int(np.random.SeedSequence([seed, n]).generate_state(1)[0]) for n in range(number)]


@contextlib.contextmanager
def silent_mujoco(name: str) -> Iterator[None]:
    if TASKS[name][2] != "mujoco":
        yield
        return
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)
    yield
    mujoco.set_mju_user_warning(None)


@pytest.mark.parametrize("name", TASKS)
def test_specs_and_the_papers_dimensions(name: str) -> None:
    needs(name)
    env = control_env(name, [0, 1], 2)
    observed, acting = DIMENSIONS[name]
    assert env.batch_size == (2, 2) and env.observation_spec["observation"].shape == (2, 2, observed)
    if name in ("acrobot", "forage"):
        assert env.action_spec.n == acting and env.action_spec.shape == (2, 2) and env.action_spec.dtype == torch.int64
    else:
        bound = 2.0 if name == "pendulum" else 1.0
        assert env.action_spec.shape == (2, 2, acting)
        assert (env.action_spec.low == -bound).all() and (env.action_spec.high == bound).all()
    check_env_specs(env)


@pytest.mark.parametrize(("name", "dimensions"), NEWEST.items())
def test_the_newest_versions_go_by_their_ids(name: str, dimensions: tuple[int, int]) -> None:
    needs(name)
    env = control_env(name, [0, 1], 2)
    assert env.observation_spec["observation"].shape == (2, 2, dimensions[0])
    assert env.action_spec.shape == (2, 2, dimensions[1])
    assert env.max_episode_steps == (50 if name == "Reacher-v5" else 1000)


@pytest.mark.parametrize("name", ["pendulum", "acrobot", "halfcheetah", "ant"])
def test_steps_as_gymnasium_does(name: str) -> None:
    needs(name)
    env = control_env(name, [3, 11], 2)
    state = env.reset()
    games, seeds = zip(*(plain_games(name, seed, 2) for seed in (3, 11)), strict=True)
    games, seeds = [game for row in games for game in row], [seed for row in seeds for seed in row]
    seen = [game.reset(seed=seed)[0] for game, seed in zip(games, seeds, strict=True)]
    total, length, ends = [0.0] * 4, [0] * 4, 0
    for now in actions(env, 420):
        assert torch.equal(state["observation"].reshape(4, -1), torch.from_numpy(np.stack(seen)).float())
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        after = transition["next"].reshape(4)
        for n, game in enumerate(games):
            seen[n], reward, terminated, truncated, _ = game.step(now.reshape(4, *now.shape[2:])[n].numpy())
            total[n], length[n] = total[n] + float(reward), length[n] + 1
            assert after["observation"][n].tolist() == np.asarray(seen[n], dtype=np.float32).tolist()
            assert after["reward"][n].item() == np.float32(reward)
            assert after["episode_reward"][n].item() == np.float32(total[n])
            assert after["step_count"][n].item() == length[n]
            ended = terminated or truncated
            assert [after[key][n].item() for key in KEYS[-3:]] == [ended, terminated, truncated]
            if ended:
                seen[n], total[n], length[n], ends = game.reset()[0], 0.0, 0, ends + 1
    assert ends > 0 or name in ("acrobot", "halfcheetah")  # their episodes of 500 and 1000 steps go on


def test_pendulum_is_truncated_at_200_steps_with_its_true_last_observation() -> None:
    env = control_env("pendulum", [0])
    (game,), (seed,) = plain_games("pendulum", 0, 1)
    game.reset(seed=seed)
    torque = torch.ones(1, 1, 1)
    steps, state = play(env, [torque] * 200)
    for _ in range(200):
        last = game.step(np.ones(1, dtype=np.float32))[0]
    assert steps["truncated"].flatten().tolist() == [False] * 199 + [True]
    assert torch.equal(steps["done"], steps["truncated"]) and not steps["terminated"].any()
    assert steps["observation"][-1].flatten().tolist() == last.tolist()
    assert state["step_count"].item() == 0 and not torch.equal(state["observation"], steps["observation"][-1])


def test_acrobot_terminates_when_it_swings_up() -> None:
    env = control_env("acrobot", [0])
    state = env.reset()
    for _ in range(500):  # torque along the second joint's velocity brings it up
        action = torch.where(state["observation"][..., 5] > 0, 2, 0)
        transition, state = env.step_and_maybe_reset(state.set("action", action))
        if transition["next", "done"].any():
            break
    last = transition["next"]
    assert last["terminated"].all() and not last["truncated"].any() and last["reward"].item() == 0
    assert last["episode_reward"].item() == -(last["step_count"].item() - 1) < -20
    cosine1, sine1, cosine2, sine2 = last["observation"].flatten()[:4].tolist()
    assert -cosine1 - (cosine1 * cosine2 - sine1 * sine2) > 1  # the height that ends the task


def test_any_other_task_goes_by_its_id() -> None:
    env = control_env("CartPole-v1", [0], 2)
    assert env.observation_spec["observation"].shape == (1, 2, 4) and env.max_episode_steps == 500
    check_env_specs(env)
    assert play(env, actions(env, 100))[0]["terminated"].any()


def test_a_module_before_the_id_is_imported_as_gymnasium_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    register = f"import gymnasium\ngymnasium.register('OwnWalk-v0', entry_point='{walk}')"
    (tmp_path / "own_package_of_a_test.py").write_text(register)
    (tmp_path / "broken_package_of_a_test.py").write_text("import no_such_module_of_a_test")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        env = control_env("own_package_of_a_test:OwnWalk-v0", [0], 2)
        assert env.name == "own_package_of_a_test:OwnWalk-v0"
        assert play(env, actions(env, 20))[0]["observation"].shape == (20, 1, 2, 4)
    finally:
        gymnasium.registry.pop("OwnWalk-v0", None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_a_test"):  # the module's own fault, as it is
        control_env("broken_package_of_a_test:OwnWalk-v0", [0])


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [("pendulum", {}), ("pendulum", NORMALIZED), ("acrobot", {}), ("halfcheetah", {}), ("ant", NORMALIZED)],
)
def test_a_seed_sees_the_same_alone_and_beside_others(name: str, options: dict[str, Any], N: int) -> None:
    needs(name)
    together, alone = control_env(name, [5, 1, 9], N, **options), control_env(name, [1], N, **options)
    beside, single = together.reset(), alone.reset()
    assert same(beside[1:2], single, AT_RESET)
    for t, now in enumerate(actions(together, 230)):
        if t % 16 == 7:  # resets in mid-episode: of one seed's games, and of one of the seed that is compared
            mask = torch.zeros(3, N, 1, dtype=torch.bool)
            mask[t % 3] = True
            mask[1, t % N] = True
            beside = together.reset(beside.set("_reset", mask))
            single = alone.reset(single.set("_reset", mask[1:2]))
        one, beside = together.step_and_maybe_reset(beside.set("action", now))
        two, single = alone.step_and_maybe_reset(single.set("action", now[1:2]))
        assert same(one["next"][1:2], two["next"])
        assert same(beside[1:2], single, AT_RESET)


def test_seeds_and_games_differ_and_set_seed_starts_anew() -> None:
    env, other = control_env("pendulum", [4, 5], 2), control_env("pendulum", [8, 9], 2)
    action = actions(env, 210)
    first, second = play(env, action)[0], play(other, action)[0]
    starts = torch.cat([first["observation"][0].reshape(4, 3), second["observation"][0].reshape(4, 3)])
    assert starts.unique(dim=0).shape[0] == 8
    other.set_seed(4)
    assert other.seeds == [4, 5] and same(play(other, action)[0], first)


def test_a_partial_reset_leaves_the_others_alone() -> None:
    left, right = control_env("acrobot", [0, 1], 2), control_env("acrobot", [0, 1], 2)
    action = actions(left, 30)
    state, other = play(left, action[:10])[1], play(right, action[:10])[1]
    mask = torch.tensor([[[True], [False]], [[False], [False]]])
    reset = left.reset(state.clone().set("_reset", mask))
    kept = ~mask[..., 0]
    assert same(reset[kept], other[kept], AT_RESET)
    assert reset["step_count"].flatten().tolist() == [0, 10, 10, 10]
    assert reset["episode_reward"].flatten().tolist() == [0, -10, -10, -10]
    assert not torch.equal(reset["observation"][0, 0], other["observation"][0, 0])
    here, there = play(left, action[10:], reset)[0], play(right, action[10:], other)[0]
    assert same(here[:, kept], there[:, kept])


def test_what_was_handed_out_is_not_overwritten() -> None:
    env = control_env("pendulum", [0], 2, **NORMALIZED)
    first = env.reset()
    kept = first.clone()
    after = env.step(first.clone().set("action", torch.ones(1, 2, 1)))["next"]
    kept_after = after.clone()
    play(env, actions(env, 210))
    assert same(first, kept, AT_RESET) and same(after, kept_after)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TASKS),
        ("pendulum", NORMALIZED),
        ("ant", NORMALIZED),
        ("CartPole-v1", {}),
        ("MountainCarContinuous-v0", {}),
        ("Humanoid-v5", {}),
        *((name, {}) for name in NEWEST),
    ],
)
def test_a_saved_run_continues_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    needs(name)
    env, fresh = control_env(name, [0, 7], 2, **options), control_env(name, [0, 7], 2, **options)
    action = actions(env, 330)
    _, state = play(env, action[:37])
    state = env.reset(state.set("_reset", torch.tensor([[[False], [False]], [[False], [True]]])))
    state = play(env, action[37:40], state)[1]  # one game is at its third step, the others are further on
    save_checkpoint("checkpoint.pt", {"env": env.state_dict()})
    play(fresh, action[:5])
    fresh.load_state_dict(load_checkpoint("checkpoint.pt")["env"])
    shown = fresh.reset()
    assert fresh.resumable and same(shown, state, AT_RESET)
    assert same(play(env, action[40:], state)[0], play(fresh, action[40:], shown)[0])
    assert (fresh.reset()["step_count"] == 0).all()  # later resets begin episodes as ever


def test_a_run_saved_at_an_end_or_before_its_start_begins_what_was_due() -> None:
    env, fresh = control_env("pendulum", [0, 1], 2), control_env("pendulum", [0, 1], 2)
    fresh.load_state_dict(env.state_dict())
    assert same(fresh.reset(), env.reset(), AT_RESET)
    action = actions(env, 200)
    _, state = play(env, action[:199], env.reset())
    ended = env.step(state.set("action", action[199]))["next"].exclude("reward")
    assert ended["done"].all()
    fresh.load_state_dict(env.state_dict())
    assert same(fresh.reset(), env.reset(ended), AT_RESET)


class Walk(gymnasium.Env):
    """A simulator that nobody knows how to save: a random walk with no limit of steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), dtype=np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=1)
        return self.place, {}

    def step(self, action):
        self.place = self.place + self.np_random.normal(size=1)
        return self.place, float(action), False, False, {}


@pytest.fixture
def walk() -> Iterator[str]:
    gymnasium.register("decouple_test/Walk-v0", entry_point=Walk, order_enforce=False)
    yield "decouple_test/Walk-v0"
    del gymnasium.registry["decouple_test/Walk-v0"]


def test_a_simulator_that_cannot_be_saved_begins_anew_from_its_generators(walk: str) -> None:
    env, fresh = control_env(walk, [0, 1]), control_env(walk, [0, 1])
    play(env, actions(env, 30))
    assert not env.resumable and env.max_episode_steps is None
    fresh.load_state_dict(env.state_dict())
    begun, asked = fresh.reset(), env.reset()
    assert (begun["step_count"] == 0).all() and (begun["episode_reward"] == 0).all()
    assert same(begun, asked, AT_RESET)  # the same generators drew both


def test_normalization_by_plain_numpy() -> None:
    """Each seed by itself: over all observations handed out, and over the discounted returns of all steps."""
    env = control_env("pendulum", [0, 1], 3, gamma=0.9, **NORMALIZED)
    raw = control_env("pendulum", [0, 1], 3)
    action = actions(env, 420)
    shown, state = env.reset(), raw.reset()
    mask = torch.tensor([[[True], [False], [True]], [[False], [False], [False]]])
    batches: list[list[np.ndarray]] = [[], []]
    returns: list[list[np.ndarray]] = [[], []]
    discounted = np.zeros((2, 3))

    def merged(samples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of all samples and of 1e-4 of a sample of mean 0 and variance 1, in closed form."""
        everything = np.concatenate(samples)
        count = len(everything) + 1e-4
        mean = everything.sum(0) / count
        return mean, ((everything**2).sum(0) + 1e-4) / count - mean**2

    def expect_observation(shown: TensorDictBase, plain: TensorDictBase, s: int, rows: np.ndarray) -> None:
        mean, variance = merged(batches[s])
        expected = ((plain["observation"][s].double().numpy() - mean) / np.sqrt(variance + 1e-8)).clip(-10, 10)
        np.testing.assert_allclose(shown["observation"][s].numpy()[rows], expected[rows], rtol=1e-5, atol=1e-5)

    everyone = np.ones(3, dtype=bool)
    for s in range(2):
        batches[s].append(state["observation"][s].double().numpy())
        expect_observation(shown, state, s, everyone)
    for t, now in enumerate(action):
        one, two = env.step(shown.set("action", now)), raw.step(state.set("action", now))
        after, plain = one["next"], two["next"]
        assert torch.equal(after["episode_reward"], plain["episode_reward"])  # raw in both
        for s in range(2):
            batches[s].append(plain["observation"][s].double().numpy())
            expect_observation(after, plain, s, everyone)
            discounted[s] = 0.9 * discounted[s] + plain["reward"][s, :, 0].double().numpy()
            returns[s].append(discounted[s].copy())
            deviation = np.sqrt(merged(returns[s])[1] + 1e-8)
            expected = (plain["reward"][s, :, 0].numpy() / deviation).clip(-10, 10)
            np.testing.assert_allclose(after["reward"][s, :, 0].numpy(), expected, rtol=1e-4)
        reset = mask if t == 50 else plain["done"]
        if reset.any():
            shown = env.reset(after.exclude("reward").set("_reset", reset.clone()))
            state = raw.reset(plain.exclude("reward").set("_reset", reset.clone()))
            for s in range(2):
                rows = reset[s, :, 0].numpy()
                discounted[s][rows] = 0
                if rows.any():
                    batches[s].append(state["observation"][s].double().numpy()[rows])
                expect_observation(shown, state, s, rows)
                assert torch.equal(shown["observation"][s][~rows], after["observation"][s][~rows])
        else:
            shown, state = after.exclude("reward"), plain.exclude("reward")


def test_evaluation_shares_the_statistics_and_changes_nothing() -> None:
    train = control_env("pendulum", [0, 1], 2, **NORMALIZED)
    statistics = train.observation_statistics
    test = control_env("pendulum", [10, 11], 5, normalize_observation=True, statistics=statistics)
    raw = control_env("pendulum", [10, 11], 5)
    play(train, actions(train, 50))
    before = {key: value.copy() for key, value in vars(statistics).items()}
    action = actions(test, 60)
    seen, plain = play(test, action)[0], play(raw, action)[0]
    assert all(np.array_equal(before[key], value) for key, value in vars(statistics).items())
    mean, variance = (torch.from_numpy(before[key])[:, None] for key in ("mean", "variance"))
    expected = ((plain["observation"] - mean) / (variance + 1e-8).sqrt()).clamp(-10, 10).float()
    torch.testing.assert_close(seen["observation"], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(seen["reward"], plain["reward"])
    assert test.get_extra_state()["statistics"] == {}
    other = control_env("pendulum", [0, 1], 2, **NORMALIZED)
    play(other, actions(other, 20))
    train.load_state_dict(other.state_dict())  # in place: the evaluation follows a run that is resumed
    assert test.observation_statistics is statistics
    assert np.array_equal(statistics.mean, other.observation_statistics.mean)


def test_moments_by_hand() -> None:
    moments = RunningMoments(2, (1,))
    moments.merge(np.array([[[1.0], [3.0]]]), slice(1, 2))
    # Seed 1: count 2.0001, mean 4 / 2.0001, and the squares 1 + 9 + 1e-4 about it; seed 0 is as it was.
    mean = 4 / 2.0001
    np.testing.assert_allclose(moments.mean[:, 0], [0, mean], rtol=1e-12)
    np.testing.assert_allclose(moments.variance[:, 0], [1, 10.0001 / 2.0001 - mean**2], rtol=1e-12)
    np.testing.assert_allclose(moments.count[:, 0], [1e-4, 2.0001], rtol=1e-12)
    assert moments.scale(np.full((2, 1, 1), 25.0))[0].item() == 10
    fresh = RunningMoments(2, (1,))
    fresh.load_state_dict(moments.state_dict())
    assert np.array_equal(fresh.variance, moments.variance)
    with pytest.raises(ValueError, match=r"mean must have the shape \(3, 1\); got \(2, 1\)"):
        RunningMoments(3, (1,)).load_state_dict(moments.state_dict())


def test_it_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    mujoco = pytest.importorskip("mujoco")
    before, filters = mujoco.get_mju_user_warning(), list(warnings.filters)
    env = control_env("halfcheetah", [0, 1])
    play(env, actions(env, 5))
    assert capfd.readouterr() == ("", "") and not os.listdir()
    assert mujoco.get_mju_user_warning() is before and warnings.filters == filters


def test_a_state_of_other_settings_is_refused_by_name() -> None:
    state = control_env("pendulum", [0, 1]).state_dict()
    message = r"got name 'pendulum' there, 'acrobot' here, num_envs 1 there, 2 here, normalize_reward False there, True"
    with pytest.raises(ValueError, match=message):
        control_env("acrobot", [0, 1], 2, normalize_reward=True).load_state_dict(state)


BAD_ARGUMENTS = [
    (
        {"name": "pong"},
        r"name must be one of pendulum, acrobot, .*, ant, forage, an id .*; got 'pong'",
    ),
    ({"name": "pendulm"}, r"name must be .*; got 'pendulm' \(did you mean pendulum\?\)"),
    ({"name": "Cartpol-v1"}, r"name must be .*; got 'Cartpol-v1': .*Did you mean: `CartPole`"),
    ({"name": "pendulum", "env_kwargs": {"h": 1}}, r"env_kwargs must be arguments of pendulum; got \{'h': 1\}.*'h'"),
    ({"name": "pendulum", "env_kwargs": [1]}, r"env_kwargs must be a dict .*; got \[1\]"),
    (
        {"name": "pendulum", "env_kwargs": {"g": 3.0}, "backend": "batched"},
        r"backend must be auto .* options of their own",
    ),
    ({"name": "odd_spaces:nothing"}, r"name must be one of .*; got 'odd_spaces:nothing'"),
    (
        {"name": "odd_spaces:make", "env_kwargs": {"kind": "None"}},
        r"name must be of a function that makes .* made None",
    ),
    (
        {"name": "odd_spaces:make", "env_kwargs": {"kind": "same"}, "num_envs": 2},
        r"a new environment of Gymnasium's or TorchRL's each time; .* made one twice",
    ),
    ({"name": "Nothing-v3"}, r"name must be one of pendulum, .*, an id of Gymnasium .*; got 'Nothing-v3'"),
    ({"name": "Hoper-v5"}, r"an id of Gymnasium .*; got 'Hoper-v5': .* Did you mean: `Hopper`"),
    ({"name": "Hopper-v99"}, r"an id of Gymnasium .*; got 'Hopper-v99': .* `v5` \]"),
    ({"name": "no_such_module:Env-v0"}, r"name must have a module before its colon .*; got 'no_such_module:Env-v0'"),
    (
        {"name": "decouple.nothing:Env-v0"},
        r"name must have a module before its colon .*; got 'decouple.nothing:Env-v0'",
    ),
    (
        {"name": "decouple.envs.games.gymnasium_env:Env-v0"},
        r"an id of Gymnasium .*; got 'decouple.envs.games.gymnasium_env:Env-",
    ),
    ({"name": ":Env-v0"}, r"an id of Gymnasium .*; got ':Env-v0'"),
    ({"name": 3}, r"name must be .*; got 3"),
    ({"name": "Odd/Words-v0"}, r"name must be .* observations .*; got Text"),
    ({"seeds": []}, r"seeds must be a non-empty sequence of integers; got \[\]"),
    ({"seeds": [0, 2**31]}, r"seeds.* must be .*; got .*2147483648"),
    ({"num_envs": 1.0}, r"num_envs must be .*; got 1.0"),
    ({"normalize_observation": 1}, r"normalize_observation must be True or False; got 1"),
    ({"normalize_reward": None}, r"normalize_reward must be True or False; got None"),
    ({"gamma": 1.1}, r"gamma must .*in \[0, 1\]; got 1.1"),
    ({"gamma": float("nan")}, r"gamma must .*in \[0, 1\]; got nan"),
    ({"statistics": RunningMoments(1, (3,))}, r"statistics must be RunningMoments, with normalize_observation; got <"),
    (
        {"normalize_observation": True, "statistics": RunningMoments(2, (3,))},
        r"statistics must .* \(1, 3\).*; got \(2, 3\)",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        control_env(**({"name": "pendulum", "seeds": [0]} | arguments))


def test_bad_actions_and_steps_beyond_an_end_are_refused() -> None:
    env, discrete = control_env("pendulum", [0], 2), control_env("acrobot", [0], 2)
    with pytest.raises(RuntimeError, match="must be reset before the next step"):
        env.step(TensorDict({"action": torch.zeros(1, 2, 1)}, [1, 2]))
    state, other = env.reset(), discrete.reset()
    with pytest.raises(ValueError, match=r"action must be finite; got .*nan"):
        env.step(state.clone().set("action", torch.tensor([[[0.0], [float("nan")]]])))
    with pytest.raises(ValueError, match=r"action must be finite; got .*inf"):  # as float32, which the game gets
        env.step(state.clone().set("action", torch.tensor([[[0.0], [1e300]]], dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"action must have the shape \(1, 2, 1\); got \(1, 2, 2\)"):
        env.step(state.clone().set("action", torch.zeros(1, 2, 2)))
    for wrong in (torch.tensor([[0, 3]]), torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(ValueError, match=r"action must be integers in \[0, 3\); got"):
            discrete.step(other.clone().set("action", wrong))
    for _ in range(200):
        env.step(state.set("action", torch.zeros(1, 2, 1)))
    with pytest.raises(RuntimeError, match="must be reset before the next step"):
        env.step(state)


@pytest.mark.parametrize("name", odd_spaces.READ_OBSERVATIONS)
def test_observations_of_any_numbers_become_a_vector(name: str) -> None:
    space, size = odd_spaces.READ_OBSERVATIONS[name]
    env = control_env(f"Odd/{name}-v0", [0, 1], 2)
    state = env.reset()
    assert env.observation_spec["observation"].shape == (2, 2, size)
    for _ in range(3):
        shown = np.stack([flatten(space, game.unwrapped.shown) for game in env._games.games])
        assert torch.equal(state["observation"], torch.from_numpy(shown).float().view(2, 2, size))
        _, state = play(env, [torch.ones(2, 2, dtype=torch.int64)], state)


def test_a_function_of_a_module_makes_the_games() -> None:
    """With its own arguments and its own end of an episode; its seeds are those of an id."""
    envs = [
        control_env("odd_spaces:make", [3], 2, env_kwargs={"kind": "Discrete"}),
        control_env("Odd/Discrete-v0", [3], 2),
    ]
    by_function, by_id = (play(env, 12 * [torch.zeros(1, 2, dtype=torch.int64)])[0] for env in envs)
    assert torch.equal(by_function["observation"], by_id["observation"])
    assert by_function["truncated"][:, 0, 0, 0].nonzero().tolist() == [[9]]
    assert not envs[0].resumable and envs[0].max_episode_steps is None


def test_options_change_the_task_and_its_saved_state() -> None:
    light, usual = control_env("pendulum", [0], env_kwargs={"g": 1.0}), control_env("pendulum", [0])
    assert (light.backend, usual.backend) == ("gymnasium", "batched")
    rested = 3 * [torch.zeros(1, 1, 1)]
    assert not torch.equal(play(light, rested)[0]["observation"], play(usual, rested)[0]["observation"])
    with pytest.raises(ValueError, match="options"):
        usual.load_state_dict(light.state_dict())


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, missing, extra in (
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
        ("LunarLander-v3", "Box2D", "box2d"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, missing, None)
            without.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
            with pytest.raises(ImportError, match=rf"{name} needs .*: pip install 'torchrl-decouple\[{extra}\]'"):
                control_env(name, [0])
    with monkeypatch.context() as without_mujoco:
        without_mujoco.setitem(sys.modules, "mujoco", None)
        with pytest.raises(ImportError, match=r"ant needs its simulator: pip install 'torchrl-decouple\[mujoco\]'"):
            control_env("ant", [0])
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"ant needs Gymnasium: pip install 'torchrl-decouple\[mujoco\]'"):
        control_env("ant", [0])
    with pytest.raises(ImportError, match=r"pendulum needs Gymnasium: pip install 'torchrl-decouple\[games\]'"):
        control_env("pendulum", [0])


def test_closing_closes_the_games():
    env = control_env("pendulum", [0], 2, backend="gymnasium")
    closed = []
    for game in env._games.games:
        game.close = lambda: closed.append(1)
    env.close()
    assert len(closed) == 2 and env.is_closed


def test_each_reset_takes_one_of_the_levels_and_goes_on_after_a_checkpoint() -> None:
    levels = range(5, 8)
    starts = {gymnasium.make("CartPole-v1").reset(seed=level)[0].tobytes(): level for level in levels}

    def begun(env: EnvBase, episodes: int) -> list[list[int]]:
        """The levels that each game has begun, told by the first observation."""
        return [[starts[row.numpy().tobytes()] for row in env.reset()["observation"][0]] for _ in range(episodes)]

    env = control_env("CartPole-v1", [0], 3, levels=levels)
    first = begun(env, 20)
    assert {level for of_reset in first for level in of_reset} == set(levels)
    saved = env.state_dict()
    later = begun(env, 10)
    again = control_env("CartPole-v1", [0], 3, levels=levels)
    again.load_state_dict(saved)
    again.reset()  # the restored observations
    assert begun(again, 10) == later
    assert begun(control_env("CartPole-v1", [0], 3, levels=levels), 20) == first
    with pytest.raises(ValueError, match="levels"):
        control_env("CartPole-v1", [0], 3, levels=range(5, 9)).load_state_dict(saved)
    assert control_env("pendulum", [0], levels=range(3)).backend == "batched"
    with pytest.raises(ValueError, match="backend must be auto, gymnasium or batched with num_levels; got 'envpool'"):
        control_env("reacher", [0], backend="envpool", levels=range(3))
    for wrong in (range(0), range(-1, 2), (1, 2)):
        with pytest.raises(ValueError, match="levels must be None, or a range of seeds"):
            control_env("pendulum", [0], levels=wrong)


def test_the_parts_of_an_observation_are_told_and_pictures_stay_bytes() -> None:
    env = control_env("Odd/PictureAndVector-v0", [0], pictures=True)
    picture, vector = env.entries
    assert (picture.name, picture.first, picture.shape, picture.picture) == ("picture", 0, (16, 16, 1), (2, 0, 1))
    assert (vector.name, vector.first, vector.shape, vector.picture) == ("vector", 256, (2,), None)
    assert env.observation_spec["observation"].dtype == torch.float32
    env = control_env("Odd/Picture-v0", [0, 1], 2, pictures=True, frame_stack=3)
    state = env.reset()["observation"]
    assert state.dtype == torch.uint8 and state.shape == (2, 2, 3 * 16 * 16)
    assert env.entries[0].picture == (0, 3, 1, 2) and env.entries[0].shape == (3, 16, 16, 1)
    newest = np.stack([game.unwrapped.shown for game in env._games.games]).reshape(2, 2, -1)
    assert np.array_equal(state[..., -256:].numpy(), newest)
    assert not env.resumable


@pytest.mark.parametrize(
    ("shape", "axes"),
    {
        (84, 84): (0, 1),
        (84, 84, 3): (2, 0, 1),
        (3, 64, 64): (0, 1, 2),
        (7, 7, 3): (2, 0, 1),
        (4, 84, 84): (0, 1, 2),
        (4, 84, 84, 3): (0, 3, 1, 2),
        (4, 3, 64, 64): (0, 1, 2, 3),
        (5,): None,
        (2, 2, 2, 2, 2): None,
    }.items(),
    ids=str,
)
def test_height_and_width_of_a_picture_are_its_last_axes(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    assert read_entries(odd_spaces.spaces.Box(0, 255, shape, np.uint8))[0].picture == axes


def test_a_wrapper_has_the_arguments_that_its_name_says() -> None:
    env = control_env("Odd/Discrete-v0", [0], 2, wrappers=["gymnasium.wrappers:MaxAndSkipObservation(skip=2)"])
    done = env.rollout(6, lambda td: td.set("action", torch.zeros(1, 2, dtype=torch.int64)))["next", "done"]
    assert done[0, :, :, 0].nonzero()[:, 1].tolist() == [4, 4]  # ten steps of the game
    for arguments, says in (
        ("(2)", "wrappers must be of Gymnasium wrappers, each as my_package.module:Wrapper or"),
        ("(skip=len)", "wrappers must be of Gymnasium wrappers"),
        ("(skip=2", "wrappers must be of Gymnasium wrappers"),
        ("(skip=2); print(1)", "wrappers must be of Gymnasium wrappers"),
        ("(skips=2)", r"wrappers must be of wrappers that take these games; got '.*\(skips=2\)': .*skips"),
    ):
        with pytest.raises(ValueError, match=says):
            control_env("Odd/Discrete-v0", [0], wrappers=[f"gymnasium.wrappers:MaxAndSkipObservation{arguments}"])


def test_a_matrix_of_floats_and_an_index_are_no_pictures() -> None:
    spaces = odd_spaces.spaces
    assert read_entries(spaces.Box(-1, 1, (3, 4), np.float32))[0].picture is None
    assert read_entries(spaces.Box(0, 1, (8, 9, 3), np.float32))[0][3:] == ((2, 0, 1), 1.0, "Box")
    nested = spaces.Dict({"b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary((2, 2)))), "a": spaces.Box(0, 1)})
    assert [(e.name, e.first, e.size) for e in read_entries(nested)] == [("a", 0, 1), ("b.0", 1, 3), ("b.1", 4, 4)]
    assert read_entries(spaces.Text(3)) == []


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (spaces.Discrete(3), {}),
        (spaces.Discrete(3, start=-1), {"start": -1}),
        (spaces.MultiDiscrete([3, 2]), {}),
        (spaces.MultiDiscrete([[3, 2]], start=[[1, 0]]), {"start": [1, 0], "shape": [1, 2]}),
        (spaces.Box(-2, 2, (1,), np.float32), {"low": [-2.0], "high": [2.0]}),
        (spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1])), {"low": [0.0, None], "high": [None, 1.0]}),
        (spaces.Box(-np.inf, np.inf, (2, 2), np.float32), {"shape": [2, 2]}),
    ],
)
def test_what_a_task_changes_of_an_action_is_told(space, changes):
    assert read_actions(space).changes() == changes
