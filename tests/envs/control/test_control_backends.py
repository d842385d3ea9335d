"""What steps the games: batched rules bit for bit as Gymnasium's games, envpool's beside them where it is installed."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playing import play
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from decouple.envs.control.tasks import control_env
from decouple.runs.checkpoint import load_checkpoint, save_checkpoint

gymnasium = pytest.importorskip("gymnasium")
HAS_ENVPOOL = importlib.util.find_spec("envpool") is not None
needs_envpool = pytest.mark.skipif(
    not HAS_ENVPOOL, reason="envpool is not installed; it cannot be beside procgen-mirror"
)
KEYS = ("observation", "reward", "episode_reward", "step_count", "done", "terminated", "truncated")
AT_RESET = tuple(key for key in KEYS if key != "reward")
NORMALIZED = {"normalize_observation": True, "normalize_reward": True}
OTHER = {"gymnasium": "batched", "batched": "gymnasium"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.path.exists("MUJOCO_LOG.TXT")


def actions(env: EnvBase, steps: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [env.action_spec.rand() for _ in range(steps)]  # each (S, N) or (S, N, A)


def same(left: TensorDictBase, right: TensorDictBase, keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(left[key], right[key]) for key in keys)


LEVELS = {"levels": range(3, 30), "env_kwargs": {"life": "shown"}}


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        *(("pendulum", 650, {}), ("pendulum", 650, NORMALIZED), ("pendulum", 450, {"levels": range(5)})),
        *(("acrobot", 520, {}), ("acrobot", 520, NORMALIZED), ("forage", 200, {}), ("forage", 200, LEVELS)),
    ],
)
def test_batched_games_are_gymnasiums_bit_for_bit(name: str, steps: int, options: dict[str, Any]) -> None:
    """Over several episodes, with resets in the middle of some."""
    batched = control_env(name, [3, 11], 3, backend="batched", **options)
    plain = control_env(name, [3, 11], 3, backend="gymnasium", **options)
    one, two = batched.reset(), plain.reset()
    for t, now in enumerate(actions(batched, steps)):
        if t % 90 == 40:
            mask = torch.zeros(2, 3, 1, dtype=torch.bool)
            mask[t % 2, t % 3] = True
            one, two = (env.reset(state.set("_reset", mask)) for env, state in ((batched, one), (plain, two)))
        after, one = batched.step_and_maybe_reset(one.set("action", now))
        its, two = plain.step_and_maybe_reset(two.set("action", now))
        assert same(after["next"], its["next"]) and same(one, two, AT_RESET)
    # What the observations and rewards of 32 bits do not show: states, generators and returns of 64 bits.
    ours, theirs = batched.state_dict()["_extra_state"], plain.state_dict()["_extra_state"]
    assert ours["settings"] == theirs["settings"]
    for left, right in zip(ours["games"], theirs["games"], strict=True):
        assert left["generator"] == right["generator"]
        assert left["simulator"]["state"].tolist() == right["simulator"]["state"].tolist()
    assert ours["running"]["episode_reward"].tolist() == theirs["running"]["episode_reward"].tolist()


@pytest.mark.parametrize("saved_by", ["batched", "gymnasium"])
@pytest.mark.parametrize(("name", "options"), [("pendulum", {}), ("acrobot", {}), ("forage", LEVELS)])
def test_each_continues_what_the_other_saved(name: str, options: dict[str, Any], saved_by: str) -> None:
    env = control_env(name, [0, 7], 2, backend=saved_by, **options)
    fresh = control_env(name, [0, 7], 2, backend=OTHER[saved_by], **options)
    fresh.load_state_dict(env.state_dict())  # before its start: the first episodes are still due
    assert same(fresh.reset(), env.reset(), AT_RESET)
    action = actions(env, 300)
    _, state = play(env, action[:37])
    state = env.reset(state.set("_reset", torch.tensor([[[False], [False]], [[False], [True]]])))  # one at its start
    save_checkpoint("checkpoint.pt", {"env": env.state_dict()})
    fresh.load_state_dict(load_checkpoint("checkpoint.pt")["env"])
    shown = fresh.reset()
    assert same(shown, state, AT_RESET)
    assert same(play(env, action[37:], state)[0], play(fresh, action[37:], shown)[0])


def test_a_saved_state_is_not_overwritten_by_later_steps() -> None:
    env = control_env("pendulum", [0], 2, backend="batched")
    _, state = play(env, actions(env, 5))
    saved = env.get_extra_state()
    before = [game["simulator"]["state"].tolist() for game in saved["games"]]
    play(env, actions(env, 5), state)
    assert [game["simulator"]["state"].tolist() for game in saved["games"]] == before


@pytest.mark.parametrize(
    ("name", "backend"),
    [("pendulum", "batched"), ("Acrobot-v1", "batched"), ("CartPole-v1", "gymnasium"), ("reacher", "gymnasium")],
)
def test_auto_is_batched_where_there_are_rules_and_never_envpool(name: str, backend: str) -> None:
    if name == "reacher":
        pytest.importorskip("mujoco")
    env = control_env(name, [0])
    assert env.backend == backend and env.resumable
    assert control_env("pendulum", [0], backend="gymnasium").backend == "gymnasium"


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("pendulum", "numpy", r"backend must be one of auto, gymnasium, batched, envpool; got 'numpy'"),
        ("pendulum", None, r"backend must be .*; got None"),
        (
            "CartPole-v1",
            "batched",
            r"for CartPole-v1: only Pendulum-v1, Acrobot-v1 and .* are batched.*; got 'batched'",
        ),
        ("pendulum", "envpool", r"backend must be auto or gymnasium for pendulum, .*; got 'envpool'"),
    ],
)
def test_a_backend_that_does_not_have_the_task_is_refused(name: str, backend: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        control_env(name, [0], backend=backend)


def test_without_envpool_the_error_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ImportError, match=r"backend envpool needs envpool: pip install 'torchrl-decouple\[envpool\]'"):
        control_env("halfcheetah", [0], backend="envpool")


ENVPOOL_TASKS = [
    ("reacher", 11, 2),
    ("halfcheetah", 17, 6),
    ("ant", 111, 8),
    ("Reacher-v5", 10, 2),
    ("HalfCheetah-v5", 17, 6),
    ("Ant-v5", 105, 8),
]


@needs_envpool
@pytest.mark.parametrize(("name", "observed", "acting"), ENVPOOL_TASKS)
def test_envpool_has_gymnasiums_dimensions_and_limits(name: str, observed: int, acting: int) -> None:
    env = control_env(name, [0, 1], 2, backend="envpool")
    assert env.observation_spec["observation"].shape == (2, 2, observed)
    assert env.action_spec.shape == (2, 2, acting) and (env.action_spec.low == -1).all()
    assert env.max_episode_steps == (50 if name.lower().startswith("reacher") else 1000) and not env.resumable
    check_env_specs(env)
    steps, _ = play(env, actions(env, 60))
    if env.max_episode_steps == 50:
        assert steps["truncated"].squeeze(-1).sum(0).eq(1).all() and steps["truncated"][49].all()
    if name.lower().startswith("ant"):  # the contact forces, after 27 numbers of places and speeds, are computed
        assert (steps["observation"][..., 27:] != 0).any(-1).float().mean() > 0.1
    env.close()


@needs_envpool
def test_envpool_has_every_mujoco_task_in_gymnasiums_dimensions() -> None:
    mujoco = pytest.importorskip("mujoco")
    import envpool

    mujoco.set_mju_user_warning(lambda message: None)
    ids = [key for key, spec in gymnasium.registry.items() if "envs.mujoco." in str(spec.entry_point)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Gymnasium's Pusher-v4 refuses MuJoCo 3 and later.
        for key in set(ids) & set(envpool.list_all_envs()) - {"Pusher-v4"}:
            theirs = envpool.make_spec(key, post_constraint=True).gymnasium_observation_space
            assert theirs.shape == gymnasium.make(key).observation_space.shape, key
    mujoco.set_mju_user_warning(None)
    assert {"Humanoid-v5", "Hopper-v4"} <= set(ids)


@needs_envpool
@pytest.mark.parametrize(("name", "hidden", "steps", "tolerance"), [("halfcheetah", 1, 20, 1e-6), ("ant", 2, 1, 1e-4)])
def test_envpool_makes_gymnasiums_steps(name: str, hidden: int, steps: int, tolerance: float) -> None:
    """From the state that envpool's first observation shows: all but the ``hidden`` first coordinates, of the place."""
    pytest.importorskip("mujoco")
    env, plain = (control_env(name, [0], backend=backend) for backend in ("envpool", "gymnasium"))
    state, other = env.reset(), plain.reset()
    game = plain._games.games[0].unwrapped
    seen = env._games.reset(np.arange(1))[0]  # again, for its 64 bits
    places, speeds = game.model.nq - hidden, game.model.nv
    game.set_state(np.concatenate([np.zeros(hidden), seen[:places]]), seen[places : places + speeds])
    for now in actions(env, steps):
        one, state = env.step_and_maybe_reset(state.set("action", now))
        two, other = plain.step_and_maybe_reset(other.set("action", now))
        for key in ("observation", "reward"):
            torch.testing.assert_close(one["next", key], two["next", key], atol=tolerance, rtol=tolerance)
    env.close()


@needs_envpool
def test_envpools_episodes_end_and_begin() -> None:
    """An ant that thrashes about falls: its episode terminates, and the next one begins at once, at its first step."""
    env = control_env("ant", [0, 1], 3, backend="envpool")
    state, ends = env.reset(), 0
    length, total = torch.zeros(2, 3, 1, dtype=torch.int64), torch.zeros(2, 3, 1, dtype=torch.float64)
    for now in actions(env, 400):
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        after = transition["next"]
        length, total = length + 1, total + after["reward"].double()
        assert torch.equal(after["step_count"], length)
        torch.testing.assert_close(after["episode_reward"], total.float(), rtol=1e-5, atol=1e-5)
        done = after["done"]
        assert torch.equal(done, after["terminated"] | after["truncated"])
        height = after["observation"][..., :1]
        assert torch.equal(after["terminated"], (height < 0.2) | (height > 1.0))
        assert ((state["observation"][..., :1] - 0.75).abs() < 0.11)[done].all()  # a start: 0.75 and noise of 0.1
        length, total, ends = length.masked_fill(done, 0), total.masked_fill(done, 0), ends + int(done.sum())
    assert ends > 3
    env.close()


@needs_envpool
def test_envpools_games_follow_from_their_seed_alone() -> None:
    together, alone = (control_env("halfcheetah", seeds, 2, backend="envpool") for seeds in ([5, 1], [1]))
    action = actions(together, 50)
    beside, single = play(together, action)[0], play(alone, [now[1:] for now in action])[0]
    assert same(beside[:, 1:], single)
    assert beside["observation"][0].reshape(4, 17).unique(dim=0).shape[0] == 4
    alone.set_seed(5)
    assert same(play(alone, [now[:1] for now in action])[0], beside[:, :1])


@needs_envpool
def test_a_loaded_run_on_envpool_begins_new_episodes() -> None:
    env, fresh = (control_env("halfcheetah", [0, 1], 2, backend="envpool", **NORMALIZED) for _ in range(2))
    first = env.reset()["observation"]
    play(env, actions(env, 30))
    fresh.load_state_dict(env.state_dict())
    begun = fresh.reset()
    assert (begun["step_count"] == 0).all() and (begun["episode_reward"] == 0).all()
    again = control_env("halfcheetah", [0, 1], 2, backend="envpool", **NORMALIZED)
    again.load_state_dict(env.state_dict())
    assert same(again.reset(), begun, AT_RESET)  # which are the same each time, but not those of the start
    assert not torch.equal(begun["observation"], first)
    assert np.array_equal(fresh.observation_statistics.count, env.observation_statistics.count + 2)
    pytest.importorskip("mujoco")
    plain = control_env("halfcheetah", [0, 1], 2, **NORMALIZED)
    with pytest.raises(ValueError, match=r"got backend None there, 'envpool' here"):
        env.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"got backend 'envpool' there, None here"):
        plain.load_state_dict(env.state_dict())


def pickled(env: EnvBase) -> EnvBase:
    return pickle.loads(pickle.dumps(env))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *(("pendulum", "batched"), ("acrobot", "batched"), ("pendulum", "gymnasium"), ("CartPole-v1", "gymnasium")),
        *(("forage", "batched"), ("forage", "gymnasium")),
        ("halfcheetah", "gymnasium"),
    ],
)
def test_a_copy_plays_on_as_the_environment_does(name: str, backend: str, copied: Callable[[EnvBase], EnvBase]) -> None:
    if name == "halfcheetah":
        pytest.importorskip("mujoco")
    env = control_env(name, [3, 5], 2, backend=backend, **NORMALIZED)
    action = actions(env, 60)
    state = play(env, action[:20])[1]
    other = copied(env)
    here, there = play(env, action[20:], state.clone()), play(other, action[20:], state.clone())
    assert same(here[0], there[0])
    assert same(env.reset(), other.reset(), AT_RESET)  # and their generators stand in the same place


class BeginsAnew(gymnasium.Env, gymnasium.utils.EzPickle):
    """A simulator that a copy of which begins anew, as Gymnasium's Box2D tasks are."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), dtype=np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        gymnasium.utils.EzPickle.__init__(self)


class OwnNumbers(gymnasium.Env):
    """Draws from a generator of its own, which a reset seeds, as the emulator of Atari's games does."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), dtype=np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.own = np.random.default_rng(seed)
        return self.own.random(1).astype(np.float32), {}

    def step(self, action):
        return self.own.random(1).astype(np.float32), 0.0, False, False, {}


def test_games_that_cannot_be_restored_go_on_with_numbers_of_their_own():
    gymnasium.register("decouple_test/OwnNumbers-v0", entry_point=OwnNumbers)
    try:
        env = control_env("decouple_test/OwnNumbers-v0", [0, 1], 2)
        first = env.reset()["observation"].flatten().tolist()
        resumed = []
        for _ in range(2):
            other = control_env("decouple_test/OwnNumbers-v0", [0, 1], 2)
            other.load_state_dict(env.state_dict())
            resumed.append(other.reset()["observation"].flatten().tolist())
        assert resumed[0] == resumed[1] and len({*first, *resumed[0]}) == 8
    finally:
        del gymnasium.registry["decouple_test/OwnNumbers-v0"]


@needs_envpool
def test_envpools_games_have_no_copy() -> None:
    env = control_env("halfcheetah", [0], 2, backend="envpool")
    with pytest.raises(TypeError, match="envpool's games cannot be copied or pickled"):
        copy.deepcopy(env)
    env.reset()
    env.close()
    with pytest.raises(RuntimeError, match="envpool's games are closed"):
        env.reset()


def test_a_task_whose_copy_would_begin_anew_has_none() -> None:
    gymnasium.register("decouple_test/BeginsAnew-v0", entry_point=BeginsAnew)
    try:
        env = control_env("decouple_test/BeginsAnew-v0", [0])
        for copied in (copy.deepcopy, pickled):
            with pytest.raises(TypeError, match=r"games of decouple_test/BeginsAnew-v0 cannot be copied or pickled"):
                copied(env)
    finally:
        del gymnasium.registry["decouple_test/BeginsAnew-v0"]
