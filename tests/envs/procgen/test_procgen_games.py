"""ProcgenGamesEnv and procgen_env, with whichever backend is installed; the golden trace was recorded with procgen."""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.util
import io
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from commands import environment
from marks import needs_games
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torch.nn import Linear, Module, Sequential
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import RandomPolicy, check_env_specs

from decouple.analysis.evaluation import evaluate
from decouple.envs.procgen import backends
from decouple.envs.procgen.games import ProcgenGamesEnv, procgen_env
from decouple.envs.procgen.levels import training_fingerprints
from decouple.envs.procgen.options import GAMES, TIME_LIMIT, distribution_modes
from decouple.networks.actor_value import actor_value
from decouple.networks.separation import separate
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import load_checkpoint

BACKENDS = [name for name in ("procgen", "envpool") if importlib.util.find_spec(name) is not None]
needs_procgen = pytest.mark.skipif("procgen" not in BACKENDS, reason="envpool cannot save or serialise its games")
needs_envpool = pytest.mark.skipif("envpool" not in BACKENDS, reason="envpool is not installed")
TRACE = Path(__file__).parents[2] / "data" / "procgen_trace.npz"
TRACE_GAMES = ("starpilot", "miner", "bossfight", "chaser")
TRACE_STEPS, TRACE_ENVS, TRACE_SEED = 300, 4, 7
KEYS = ("observation", "reward", "done", "terminated", "truncated", "level_seed", "prev_level_complete")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Torch's threads would spin beside those of the games, and these tests compute next to nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def actions(steps: int, num_envs: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 15, (steps, num_envs)))  # (T, N) int64


def play(env: EnvBase, action: Tensor) -> TensorDict:
    """What the environment answers to these actions, from where it stands; (T, N) of ``next``."""
    steps = []
    state: TensorDictBase = env.reset()
    for now in action:
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        steps.append(transition["next"])
    return TensorDict.stack(steps)


def play_trace(game: str) -> dict[str, np.ndarray]:
    """The columns of the golden trace for one game, each (T, N)."""
    env = ProcgenGamesEnv(game, TRACE_ENVS, num_levels=3, start_level=10, seed=TRACE_SEED)
    steps = play(env, actions(TRACE_STEPS, TRACE_ENVS, seed=TRACE_SEED))
    env.close()
    columns = {"reward": np.float32, "done": np.bool_, "level_seed": np.int32}
    return {key: steps[key][..., 0].numpy().astype(dtype) for key, dtype in columns.items()}


def same(left: TensorDictBase, right: TensorDictBase, keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(left[key], right[key]) for key in keys)


class Pixels(Module):
    """uint8 frames (*B, 3, 64, 64) -> 64 of their numbers, (*B, 64)."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames[..., 1, ::8, ::8].flatten(-2).float() / 255


@needs_games
def test_specs() -> None:
    check_env_specs(ProcgenGamesEnv("bigfish", 3))
    check_env_specs(procgen_env("bigfish", 3, num_levels=2))


@needs_games
@pytest.mark.parametrize("game", GAMES)
def test_every_game_makes_and_steps(game: str) -> None:
    env = ProcgenGamesEnv(game, 2, num_threads=1)
    steps = play(env, actions(5, 2))
    assert steps["observation"].shape == (5, 2, 3, 64, 64) and steps["observation"].dtype == torch.uint8
    assert steps["reward"].shape == (5, 2, 1) and steps["level_seed"].dtype == torch.int64
    assert steps["observation"].float().std() > 1
    assert env.backend_version.startswith(env.backend)
    env.close()


@needs_games
def test_seed_decides_the_trajectory() -> None:
    action = actions(60, 4)
    first = play(ProcgenGamesEnv("starpilot", 4, seed=1), action)
    again = play(ProcgenGamesEnv("starpilot", 4, seed=1), action)
    other = play(ProcgenGamesEnv("starpilot", 4, seed=2), action)
    assert same(first, again)
    assert not torch.equal(first["level_seed"], other["level_seed"])
    reseeded = ProcgenGamesEnv("starpilot", 4, seed=2)
    reseeded.set_seed(1)
    assert same(first, play(reseeded, action))


@needs_games
def test_levels_come_from_the_asked_range_only() -> None:
    steps = play(ProcgenGamesEnv("bossfight", 16, num_levels=3, start_level=100), actions(200, 16))
    assert set(steps["level_seed"].unique().tolist()) == {100, 101, 102}
    unlimited = play(ProcgenGamesEnv("bossfight", 16), actions(100, 16))
    assert unlimited["level_seed"].unique().numel() > 30


@needs_games
def test_exploration_is_one_chosen_level() -> None:
    steps = play(ProcgenGamesEnv("ninja", 2, distribution_mode="exploration"), actions(20, 2))
    assert steps["level_seed"].unique().tolist() == [1123500215]


@needs_games
@pytest.mark.parametrize("game", TRACE_GAMES)
def test_reproduces_the_trace_recorded_with_procgen(game: str) -> None:
    with np.load(TRACE) as golden:
        for key, column in play_trace(game).items():
            np.testing.assert_array_equal(column, golden[f"{game}_{key}"], err_msg=key)


@needs_games
def test_done_shows_the_next_episode_and_reset_returns_that_frame() -> None:
    env = ProcgenGamesEnv("bossfight", 8, num_levels=4)
    state: TensorDictBase = env.reset()
    ends = 0
    for now in actions(120, 8):
        transition, state = env.step_and_maybe_reset(state.set("action", now))
        assert torch.equal(transition["next", "observation"], state["observation"])
        assert torch.equal(transition["next", "level_seed"], state["level_seed"])
        assert torch.equal(transition["next", "terminated"], transition["next", "done"])
        assert not state["done"].any()
        ends += int(transition["next", "done"].sum())
    assert ends > 0


@needs_games
def test_time_out_is_terminated_and_truncated() -> None:
    # Leaper's frog that never moves is never hit: every episode runs to the limit of 500 steps.
    steps = play(ProcgenGamesEnv("leaper", 2), torch.full((1001, 2), 4))
    expected = torch.zeros(1001, 2, 1, dtype=torch.bool)
    expected[[499, 999]] = True
    for key in ("done", "terminated", "truncated"):
        assert torch.equal(steps[key], expected), key
    # Bossfight's random player is shot long before its 4000 steps.
    shot = play(ProcgenGamesEnv("bossfight", 8), actions(100, 8))
    assert shot["terminated"].any() and not shot["truncated"].any()


@needs_procgen
@pytest.mark.parametrize("game", GAMES)
def test_time_limits_are_those_in_the_games_own_state(game: str) -> None:
    env = ProcgenGamesEnv(game, 1, num_threads=1, backend="procgen")
    state, position = env.get_extra_state()["games"][0].numpy().tobytes(), 4  # version, then as Game::serialize writes

    def integers(count: int) -> tuple[int, ...]:
        nonlocal position
        position += 4 * count
        return struct.unpack(f"<{count}i", state[position - 4 * count : position])

    (name_length,) = integers(1)
    position += name_length
    integers(17)  # options, levels
    for _ in range(2):  # the two random generators
        _, text_length = integers(2)
        position += text_length
    assert integers(5)[-1] == TIME_LIMIT[game]  # reward, done, complete, action, timeout
    env.close()


@needs_envpool
def test_time_limits_are_those_that_envpool_registers() -> None:
    specs = importlib.import_module("envpool.registration").registry.specs
    for game in GAMES:
        for mode in distribution_modes(game):
            task = f"{game.capitalize()}{mode.capitalize()}-v0"
            assert specs[task][2]["max_episode_steps"] == TIME_LIMIT[game], task


@needs_games
def test_episode_statistics_belong_to_the_episode_that_ended() -> None:
    env = procgen_env("starpilot", 8, num_levels=3)
    steps = play(env, actions(300, 8))
    raw = play(ProcgenGamesEnv("starpilot", 8, num_levels=3), actions(300, 8))["reward"]
    total, length = torch.zeros(8, 1), torch.zeros(8, 1, dtype=torch.int64)
    for t in range(300):
        total, length = total + raw[t], length + 1
        assert torch.equal(steps["episode_reward"][t], total) and torch.equal(steps["step_count"][t], length)
        total, length = total.masked_fill(steps["done"][t], 0), length.masked_fill(steps["done"][t], 0)
    assert steps["done"].sum() > 8 and raw.sum() > 0
    assert not torch.equal(steps["reward"], raw) and torch.equal(steps["reward"] > 0, raw > 0)
    unscaled = procgen_env("starpilot", 8, num_levels=3, scale_rewards=False)
    assert torch.equal(play(unscaled, actions(300, 8))["reward"], raw)


@needs_games
def test_reset_is_silent_and_changes_nothing_at_first_frames(capfd: pytest.CaptureFixture[str]) -> None:
    env = procgen_env("coinrun", 4, num_levels=5)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = env.reset(), env.reset()
    assert same(first, second, ("observation", "level_seed"))
    assert capfd.readouterr() == ("", "")


@needs_games
def test_reset_in_mid_episode_restarts_the_asked_games_only() -> None:
    action = actions(40, 4)
    left, right = ProcgenGamesEnv("coinrun", 4, seed=5), ProcgenGamesEnv("coinrun", 4, seed=5)
    before = play(left, action[:20])[-1]
    play(right, action[:20])
    mask = torch.tensor([[False], [True], [False], [False]])
    after = left.reset(before.clone().set("_reset", mask))
    others = ~mask[:, 0]
    assert torch.equal(after["observation"][others], before["observation"][others])
    assert not torch.equal(after["observation"][1], before["observation"][1])
    assert after["level_seed"][1] != before["level_seed"][1]
    for now in action[20:]:
        here = left.step(TensorDict({"action": now}, [4]))["next"]
        there = right.step(TensorDict({"action": now}, [4]))["next"]
        assert same(here[others], there[others])
    restarted = left.reset()
    assert (restarted["level_seed"] != here["level_seed"]).all()


@needs_games
def test_an_observation_is_not_overwritten_by_later_steps() -> None:
    env = ProcgenGamesEnv("starpilot", 4)
    first = env.reset()["observation"]
    kept = first.clone()
    play(env, actions(20, 4))
    assert torch.equal(first, kept)


@needs_procgen
def test_games_can_be_freed_while_others_are_built() -> None:
    # The garbage collector may free games inside cffi's lock, where their destructor must not wait for that lock.
    games = ProcgenGamesEnv("coinrun", 1, backend="procgen")._games[0].games
    freeing = threading.Thread(target=games.close, daemon=True)
    with games._ffi._lock:
        freeing.start()
        freeing.join(timeout=20)
    assert not freeing.is_alive() and games.closed


@needs_games
@pytest.mark.parametrize("game", ["starpilot", "coinrun"])
def test_two_groups_play_what_one_plays_also_where_games_are_given_up(game: str) -> None:
    action = actions(200, 6, seed=3)
    plain, grouped = (ProcgenGamesEnv(game, 6, num_levels=9, groups=groups) for groups in (1, 2))
    assert grouped.groups == [slice(0, 3), slice(3, 6)]
    some = torch.tensor([[False], [True], [False], [False], [True], [True]])
    for part in (action[:100], action[100:]):
        assert same(play(plain, part), play(grouped, part))  # begins with a reset
        one, two = (env.reset(TensorDict({"_reset": some}, [6])) for env in (plain, grouped))
        assert same(one, two, ("observation", "level_seed"))


@needs_games
def test_a_group_can_be_sent_off_before_the_step_before_is_dealt_with() -> None:
    action = actions(60, 4, seed=3)
    plain, grouped = (ProcgenGamesEnv("starpilot", 4, num_levels=9, groups=groups) for groups in (1, 2))
    expected = play(plain, action)
    state: TensorDictBase = grouped.reset()
    for group, rows in enumerate(grouped.groups):
        grouped.begin(group, action[0, rows])
    for t in range(60):
        for group, rows in enumerate(grouped.groups):
            assert torch.equal(grouped.wait(group), expected[t]["observation"][rows])
            if t + 1 < 60:
                grouped.begin(group, action[t + 1, rows])
        step, state = grouped.step_and_maybe_reset(state.set("action", action[t]))
        assert same(step["next"], expected[t])
        assert torch.equal(state["observation"], expected[t]["observation"])


@needs_procgen
def test_a_state_goes_from_one_group_to_two() -> None:
    action = actions(60, 4)
    plain, grouped = (ProcgenGamesEnv("starpilot", 4, groups=groups, seed=groups) for groups in (1, 2))
    play(plain, action[:30])
    grouped.set_extra_state(plain.get_extra_state())
    plain.set_extra_state(plain.get_extra_state())  # so that neither gives up its episodes at the next reset
    assert same(play(plain, action[30:]), play(grouped, action[30:]))


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@needs_procgen
@pytest.mark.parametrize("game", ["starpilot", "heist"])
def test_a_saved_run_continues_bit_for_bit(game: str) -> None:
    action = actions(260, 6)
    env = procgen_env(game, 6, num_levels=4, backend="procgen")
    play(env, action[:130])
    state = saved_and_loaded(env.state_dict())
    carried = env.transform[2]._running
    fresh = procgen_env(game, 6, num_levels=4, seed=99, backend="procgen")
    fresh.load_state_dict(state)
    keys = (*KEYS, "episode_reward", "step_count")
    shown = fresh.reset()
    assert torch.equal(shown["step_count"], carried["step_count"])
    assert torch.equal(shown["episode_reward"], carried["episode_reward"])
    here: TensorDictBase = shown
    there: TensorDictBase = shown.clone()
    for now in action[130:]:
        one, here = env.step_and_maybe_reset(here.set("action", now))
        two, there = fresh.step_and_maybe_reset(there.set("action", now))
        assert same(one["next"], two["next"], keys)
    assert fresh.base_env.resumable
    assert not torch.equal(fresh.reset()["observation"], there["observation"])  # later resets restart as ever


@needs_procgen
@pytest.mark.parametrize("game", ["leaper", "starpilot", "coinrun"])
def test_a_state_saved_where_some_episodes_ended_keeps_the_counts_of_the_others(game: str) -> None:
    env, fresh = (procgen_env(game, 4, num_levels=3, seed=seed, backend="procgen") for seed in (0, 9))
    now: TensorDictBase = env.reset()
    found = 0
    for action in actions(160, 4):
        step, now = env.step_and_maybe_reset(now.set("action", action))
        done = step["next", "done"]
        if done.any() and not done.all():
            fresh.load_state_dict(env.state_dict())
            restored = fresh.reset()
            assert same(restored, now, ("step_count", "episode_reward", "observation", "level_seed"))
            assert now["step_count"][~done].min() > 0
            found += 1
    assert found
    env.close()
    fresh.close()


@needs_procgen
def test_a_reset_of_some_games_keeps_the_counts_of_the_others_in_the_state() -> None:
    env, fresh = (procgen_env("coinrun", 3, seed=seed, backend="procgen") for seed in (0, 9))
    some = torch.tensor([[False], [True], [False]])
    assert env.reset(TensorDict({"_reset": some}, [3]))["step_count"].flatten().tolist() == [0, 0, 0]
    state = play(env, actions(7, 3))[-1]
    assert state["step_count"].flatten().tolist() == [7, 7, 7]
    env.reset(TensorDict({"_reset": some}, [3]))  # no counts in it
    fresh.load_state_dict(env.state_dict())
    shown = fresh.reset()
    assert shown["step_count"].flatten().tolist() == [7, 0, 7]
    fresh.load_state_dict(env.state_dict())
    fresh.reset(TensorDict({"_reset": ~some}, [3]))  # the first after loading: it too begins what it is asked to
    assert fresh.base_env.get_extra_state()["elapsed"].tolist() == [0, 0, 0]
    env.close()
    fresh.close()


@needs_procgen
@pytest.mark.filterwarnings("ignore:Creating .* is deprecated:DeprecationWarning")  # TorchRL's own, at import
@pytest.mark.parametrize("algorithm", ["ppo", "idaac"])
def test_training_goes_on_bit_for_bit_from_where_some_episodes_had_just_ended(algorithm: str, tmp_path: Path) -> None:
    settings = OnPolicySettings(
        algorithm=algorithm,
        total_frames=4 * 6 * 24,  # 24 iterations
        rollout_steps=6,
        minibatches=2,
        epochs=1,
        value_epochs=1,
        learning_rate=1e-3,
        order_coeff=1.0,
        checkpoint_every=1,
    )

    def train(seed: int, path: Path, on_checkpoint: Callable[[TransformedEnv], object]) -> tuple[dict, list[dict]]:
        """The model and what was logged of it, but times."""
        torch.manual_seed(seed)
        env = procgen_env("leaper", 4, num_levels=3, seed=seed, num_threads=1, backend="procgen")
        blocks = [[Sequential(Pixels(), Linear(64, 8))] for _ in range(2)]
        model = actor_value(separate(*blocks, at=0, example=torch.zeros(3, 64, 64)), env.action_spec, policy_gain=1.0)
        phases, rows = ALGORITHMS[algorithm](model, settings), []
        train_on_policy(
            env,
            model,
            phases,
            settings,
            log=lambda row, frames: rows.append({key: value for key, value in row.items() if "time/" not in key}),
            checkpoint=path,
            on_checkpoint=lambda: on_checkpoint(env),
        )
        env.close()
        return model.state_dict(), rows

    kept: list[int] = []

    def keep(env: TransformedEnv) -> None:
        at_first_frame = env.base_env.get_extra_state()["elapsed"] == 0
        if at_first_frame.any() and not at_first_frame.all():
            iteration = load_checkpoint(tmp_path / "whole.pt")["iteration"]
            shutil.copy(tmp_path / "whole.pt", tmp_path / f"{iteration}.pt")
            kept.append(iteration)

    whole, expected = train(0, tmp_path / "whole.pt", keep)
    assert kept
    for iteration in kept[:2]:
        model, rows = train(1, tmp_path / f"{iteration}.pt", lambda env: None)
        assert str(rows) == str(expected[iteration:])  # as text: NaN equals NaN
        assert all(torch.equal(model[key], whole[key]) for key in whole)


@needs_procgen
@pytest.mark.filterwarnings("ignore:Creating .* is deprecated:DeprecationWarning")  # TorchRL's own, at import
def test_a_collector_resumes_at_the_restored_frames() -> None:
    from torchrl.collectors import Collector

    env = procgen_env("starpilot", 3, backend="procgen")
    last = play(env, actions(20, 3))[-1]
    fresh = procgen_env("starpilot", 3, seed=9, backend="procgen")
    fresh.load_state_dict(saved_and_loaded(env.state_dict()))
    collector = Collector(fresh, RandomPolicy(fresh.action_spec), frames_per_batch=30, total_frames=30)
    batch = next(iter(collector))
    assert torch.equal(batch["observation"][:, 0], last["observation"])
    assert torch.equal(batch["step_count"][:, 0], last["step_count"])
    collector.shutdown()


@needs_games
def test_a_state_of_other_settings_is_refused_by_name() -> None:
    env, other = (
        ProcgenGamesEnv("coinrun", 2, num_levels=5),
        ProcgenGamesEnv("coinrun", 2, num_levels=6, use_backgrounds=False),
    )
    with pytest.raises(ValueError, match="num_levels 5 there, 6 here, use_backgrounds True there, False here"):
        other.load_state_dict(env.state_dict())


@needs_envpool
def test_envpool_says_that_it_cannot_save_and_starts_fresh() -> None:
    env = procgen_env("coinrun", 2, backend="envpool")
    play(env, actions(10, 2))
    state = saved_and_loaded(env.state_dict())
    fresh = procgen_env("coinrun", 2, backend="envpool")
    assert not fresh.base_env.resumable and fresh.base_env.get_extra_state()["games"] is None
    fresh.load_state_dict(state)
    assert (fresh.reset()["step_count"] == 0).all()


@needs_procgen
def test_sequential_levels_go_on_without_a_done_and_restart_the_clock() -> None:
    env = ProcgenGamesEnv("maze", 16, use_sequential_levels=True, num_levels=1, backend="procgen")
    steps = play(env, actions(400, 16))
    won = steps["prev_level_complete"]
    assert won.sum() > 5 and not (won & steps["done"]).any()
    assert steps["level_seed"][won].unique().tolist()[:2] == [997, 1994]
    since_won = [399 - int(won[:, n].nonzero()[-1, 0]) if won[:, n].any() else 400 for n in range(16)]
    assert env.get_extra_state()["elapsed"].tolist() == since_won


def open_games() -> int:
    """How many of gym3's objects there are; whoever is closed should be none."""
    return sum(type(thing).__name__ == "ProcgenGym3Env" for thing in gc.get_objects())


@needs_procgen
def test_closed_games_do_not_wait_for_the_collector() -> None:
    policy = TensorDictModule(lambda frames: torch.randint(15, frames.shape[:1]), ["observation"], ["action"])

    def make(levels: int) -> Callable[[int, int], EnvBase]:
        options = {"scale_rewards": False, "num_threads": 1, "backend": "procgen"}
        return lambda n, seed: procgen_env("leaper", n, num_levels=levels, seed=seed, **options)

    gc.collect()
    before = open_games()
    gc.disable()
    try:
        evaluate(policy, {"train": make(200), "test": make(0)}, episodes=2, seed=0)
        training_fingerprints("coinrun", 2, num_threads=1, backend="procgen")
        with pytest.raises(ZeroDivisionError):
            training_fingerprints("coinrun", 2, num_threads=1, backend="procgen", progress=lambda done, wanted: 1 / 0)
        with pytest.raises(ValueError, match="gamma must"):
            procgen_env("coinrun", 2, gamma=2.0, backend="procgen")
        assert open_games() == before
    finally:
        gc.enable()


@needs_procgen
def test_games_dropped_in_a_cycle_are_closed_and_never_the_collectors_garbage() -> None:
    env = ProcgenGamesEnv("coinrun", 2, num_threads=1, backend="procgen")
    env.itself = env
    handle = weakref.ref(env._games[0].games)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what the collector would free is kept in gc.garbage instead
    try:
        del env
        gc.collect()
        garbage = {type(thing).__name__ for thing in gc.garbage}
        assert handle() is None  # though its owner is still there
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert "ProcgenGamesEnv" in garbage and "ProcgenGym3Env" not in garbage


@needs_procgen
def test_an_error_while_groups_are_built_closes_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    build, built = backends.ProcgenGames, []

    def build_one(*arguments: Any) -> Any:
        if built:
            raise MemoryError
        built.append(build(*arguments))
        return built[0]

    monkeypatch.setattr(backends, "ProcgenGames", build_one)
    with pytest.raises(MemoryError):
        ProcgenGamesEnv("coinrun", 4, groups=2, backend="procgen")
    with pytest.raises(RuntimeError, match="closed"):
        built[0].games  # noqa: B018


@needs_games
def test_use_after_close_says_so() -> None:
    env = procgen_env("coinrun", 2)
    state = env.rollout(3)[:, -1]["next"].exclude("reward")
    env.close()
    env.close(raise_if_closed=False)
    action = torch.zeros(2, dtype=torch.int64)
    uses = [env.reset, env.state_dict, lambda: env.step(state.set("action", action)), lambda: copy.deepcopy(env)]
    for use in uses[: None if env.base_env.resumable else 1]:
        with pytest.raises(RuntimeError, match="games are closed; make a new environment"):
            use()


@needs_procgen
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_plays_on_by_itself(copied: Callable[[EnvBase], TransformedEnv]) -> None:
    env = procgen_env("starpilot", 4, num_levels=3, groups=2, num_threads=2, backend="procgen")
    state = play(env, actions(40, 4))[-1]
    other = copied(env)
    action = actions(60, 4, seed=1)
    here, there = play(env, action), play(other, action)  # both begin with a reset, which gives up all episodes
    assert same(here, there, (*KEYS, "episode_reward", "step_count"))
    assert not torch.equal(here["level_seed"][0], state["level_seed"])
    env.close()
    assert other.rollout(3).shape == (4, 3)
    other.close()


@needs_envpool
def test_envpools_games_have_no_copy() -> None:
    with pytest.raises(TypeError, match="envpool's games cannot be copied or pickled"):
        copy.deepcopy(procgen_env("coinrun", 2, backend="envpool"))


LEFT_OPEN = """
import gc
import torch
from tensordict.nn import TensorDictModule
from decouple import evaluate
from decouple.envs.procgen.games import procgen_env

policy = TensorDictModule(lambda x: torch.randint(15, x.shape[:1]), ["observation"], ["action"])
make = lambda n, seed: procgen_env("leaper", n, seed=seed, scale_rewards=False, num_threads=1)
evaluate(policy, {"train": make, "test": make}, episodes=2, seed=0)
for seed in range(12):
    env = procgen_env("coinrun", 2, num_threads=1, seed=seed)
    env.reset()
    env.itself = env.base_env.itself = env
    if seed % 3 == 0:
        env.close()
    if seed % 4 == 3:
        gc.collect()
kept = procgen_env("coinrun", 2, num_threads=2)
kept.rollout(2)
import os, sys
child = os.fork()
if child == 0:
    try:
        kept.rollout(2)
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_procgen
def test_no_program_crashes_or_hangs_on_games_left_open_by_it_or_by_the_process_it_was_forked_off() -> None:
    program = [sys.executable, "-c", LEFT_OPEN]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    refused, code = done.stdout.splitlines()
    assert "Procgen's games must be used in the process that started them" in refused and code == "0"


BAD_ARGUMENTS = [
    ({"game": "pong"}, r"game must be one of bigfish, .*; got 'pong'"),
    ({"num_envs": 0}, r"num_envs must be an integer in \[1, 2147483647\]; got 0"),
    ({"num_levels": -1}, r"num_levels must be an integer in \[0, .*; got -1"),
    ({"start_level": 5}, "start_level must be 0 with num_levels 0, .*; got 5"),
    ({"num_levels": 10, "start_level": 2**31 - 5}, r"start_level must be an integer in \[0, 2147483637\]"),
    ({"distribution_mode": "extreme"}, r"distribution_mode must be one of easy, hard, exploration; got 'extreme'"),
    ({"distribution_mode": "exploration", "num_levels": 5}, r"num_levels must be 0 with .* exploration; got 5"),
    ({"seed": 1.5}, r"seed must be an integer in \[0, 2147483647\]; got 1.5"),
    ({"num_threads": 0}, r"num_threads must be an integer in \[1, 1024\]; got 0"),
    ({"backend": "gym"}, r"backend must be one of procgen, envpool; got 'gym'"),
    ({"center_agent": 1}, r"center_agent must be True or False; got 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProcgenGamesEnv(**({"game": "coinrun", "num_envs": 2} | arguments))


@needs_games
def test_bad_actions_are_refused() -> None:
    env = ProcgenGamesEnv("coinrun", 2)
    with pytest.raises(ValueError, match=r"action must lie in \[0, 15\); got -1 to 4"):
        env.step(env.reset().set("action", torch.tensor([-1, 4])))


@needs_games
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.tensor([0.0, float("nan")]), r"action must be integers in \[0, 15\); got torch.float32"),
        (torch.tensor([1.0, 2.5]).bfloat16(), r"action must be integers in \[0, 15\); got torch.bfloat16"),
        (torch.tensor([True, False]), r"action must be integers in \[0, 15\); got torch.bool"),
        (torch.tensor([[1], [2]]), r"action must have the shape \(2,\); got \(2, 1\)"),
        (torch.tensor([0, 1, 2]), r"action must have the shape \(2,\); got \(3,\)"),
        (torch.tensor([0, 15]), r"action must lie in \[0, 15\); got "),
    ],
)
def test_what_is_no_action_is_not_played(action: Tensor, message: str, groups: int) -> None:
    env = ProcgenGamesEnv("coinrun", 2, groups=groups, num_threads=1)
    state = env.reset()
    with pytest.raises(ValueError, match=message):
        env._step({"action": action})  # past TorchRL's own checks, which come and go
    assert env.step(state.set("action", torch.tensor([3, 4], dtype=torch.uint8)))["next", "reward"].shape == (2, 1)
    env.close()


def test_a_missing_backend_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "procgen", None)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        ImportError, match=r"pip install 'torchrl-decouple\[procgen\]' or pip install 'torchrl-decouple\[envpool\]'"
    ):
        ProcgenGamesEnv("coinrun", 2)
    with pytest.raises(ImportError, match=r"found: pip install 'torchrl-decouple\[envpool\]'$"):
        ProcgenGamesEnv("coinrun", 2, backend="envpool")


def test_a_script_called_procgen_is_not_taken_for_the_games(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("procgen")
    script.__file__ = "/somewhere/experiments/procgen.py"
    monkeypatch.setitem(sys.modules, "procgen", script)
    with pytest.raises(ImportError, match=r"must find the games; got /somewhere/experiments/procgen.py"):
        ProcgenGamesEnv("coinrun", 2)


def test_the_names_of_version_0_1_go_on() -> None:
    from decouple.envs.procgen import ProcgenEnv
    from decouple.envs.procgen.reward_scaling import RewardScaling, RunningRewardScaling

    assert ProcgenEnv is ProcgenGamesEnv
    assert RewardScaling is RunningRewardScaling


def test_no_class_of_the_environments_has_a_name_of_torchrls() -> None:
    import pkgutil

    import torchrl.envs

    import decouple.envs

    modules = [m.name for m in pkgutil.walk_packages(decouple.envs.__path__, "decouple.envs.")]
    own = {
        name
        for module in modules
        for name, value in vars(importlib.import_module(module)).items()
        if isinstance(value, type) and value.__name__ == name and value.__module__ == module
    }
    assert own and not own & set(dir(torchrl.envs))
