"""The games as Gymnasium environments: its checkers, seeds, scales and skipped frames, pictures, windows, refusals."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decouple.envs.games.pong import DOWN, UP, Pong
from decouple.envs.games.streams import Stream

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402  (where Gymnasium is installed)

from decouple.envs.games.gymnasium_env import GAMES, GameEnv  # noqa: E402

# Where a number has no bound, the space says so.
UNBOUNDED = pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity")


def make(name: str, **options: Any) -> gymnasium.Env:
    return gymnasium.make(f"decouple/{name}-v0", **options)


@UNBOUNDED
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("scale", [False, True])
def test_gymnasium_finds_nothing_to_say(name: str, scale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # it renders in all modes
    env = make(name, scale_observations=scale, scale_rewards=scale)
    check_env(env.unwrapped)
    env.reset(seed=0)
    for _ in range(30):  # under the passive checker
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()


def test_spaces_and_limits() -> None:
    shapes = {"Pong": (7,), "Pixelcopter": (7,), "FoodCollector": (53,)}
    assert {name: GAMES[name].max_episode_steps for name in ("Pong", "Pixelcopter")} == {
        "Pong": 100_000,
        "Pixelcopter": 1_000,
    }
    for name, shape in shapes.items():
        env = make(name)
        assert env.observation_space.shape == shape and env.observation_space.dtype == np.float32
        assert env.spec is not None and env.spec.max_episode_steps == GAMES[name].max_episode_steps
        assert gymnasium.spec(f"decouple/{name}-v0").to_json()
    assert make("Pong").action_space == gymnasium.spaces.Discrete(3)
    assert make("Pixelcopter").action_space == gymnasium.spaces.Discrete(2)
    assert make("FoodCollector").action_space == gymnasium.spaces.Box(-1, 1, (4,))
    low, high = make("Pong").observation_space.low, make("Pong").observation_space.high
    assert low.tolist()[:4] == pytest.approx([3.5, -5.76, 2.54, 0]) and high[2:4].tolist() == pytest.approx([45.46, 64])
    scaled = make("Pong", scale_observations=True).observation_space
    assert scaled.high[:4].tolist() == pytest.approx([44.5 / 48, 1, 45.46 / 48, 1]) and np.isinf(scaled.high[4])


def test_an_id_with_its_module_needs_no_import() -> None:
    program = 'import gymnasium; print(gymnasium.make("decouple.envs.games.gymnasium_env:decouple/Pong-v0").spec.id)'
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0 and ran.stdout.strip().endswith("decouple/Pong-v0"), ran.stderr


@pytest.mark.parametrize("name", GAMES)
def test_the_seed_decides(name: str) -> None:
    def play(seed: int) -> list[np.ndarray]:
        env = make(name)
        env.action_space.seed(0)
        first, _ = env.reset(seed=seed)
        seen = [first]
        for _ in range(40):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, np.array([reward])]
            if terminated or truncated or len(seen) == 41:
                observation, _ = env.reset()
                seen.append(observation)
        return seen

    first, again, other = play(1), play(1), play(2)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    env = make(name)
    begun, _ = env.reset(seed=1)
    assert np.array_equal(begun, first[0]) and not np.array_equal(env.reset()[0], begun)


def test_a_reset_draws_the_seed_of_the_stream() -> None:
    env, generator = make("Pong"), np.random.default_rng(5)
    for index in range(3):
        shown, info = env.reset(seed=5 if index == 0 else None)
        game = Pong(Stream(int(generator.integers(2**64, dtype=np.uint64))))
        game.reset()
        assert shown.tolist() == game.observation().astype(np.float32).tolist() and info == {}
        for _ in range(200):
            reward, over = game.step(DOWN)
            answer = env.step(DOWN)
            assert answer[1:] == (reward, over, False, {}) and type(answer[1]) is float
            assert answer[0].tolist() == game.observation().astype(np.float32).tolist()


def test_scales_and_skipped_frames() -> None:
    env = make("Pong", frame_skip=4, scale_observations=True, scale_rewards=True)
    plain = make("Pong", disable_env_checker=True)
    shown, other = env.reset(seed=3)[0], plain.reset(seed=3)[0]
    scale, rewards, over = plain.unwrapped.game.observation_scale, [], False
    np.testing.assert_allclose(shown, other * scale, rtol=1e-6)
    while not over:
        shown, reward, over, _, _ = env.step(UP)
        total = 0.0
        for _ in range(4):
            other, more, ended, _, _ = plain.step(UP)
            total += more
            if ended:  # the frames that are left count nothing
                break
        np.testing.assert_allclose(shown, other * scale, rtol=1e-6)
        assert reward == total / 16 and over == ended
        rewards.append(reward)
    assert sum(rewards) == pytest.approx(-1) and rewards[-1] == -6 / 16


def test_the_limit_truncates() -> None:
    env = make("Pong", max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(2)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("name", GAMES)
def test_a_picture(name: str) -> None:
    env = make(name, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    height, width, colours = picture.shape
    assert 300 <= height <= 640 and 300 <= width <= 640 and colours == 3 and len(np.unique(picture)) > 3
    for _ in range(3):
        env.step(env.action_space.sample())
    assert not np.array_equal(env.render(), picture)


def test_a_window_shows_the_picture_at_the_speed_of_play(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make("Pong", render_mode="human")
    env.reset(seed=0)
    window = pygame.display.get_surface()
    assert window is not None and window.get_size() == (512, 384)
    start = time.perf_counter()
    for _ in range(6):
        env.step(UP)
    assert time.perf_counter() - start > 0.15  # 6 of 30 a second
    game = env.unwrapped.game
    assert np.array_equal(pygame.surfarray.array3d(window), game.picture().swapaxes(0, 1)) and env.render() is None
    env.close()
    assert not pygame.display.get_init()
    env.close()


def test_pictures_per_second_are_those_of_play() -> None:
    assert make("Pong").unwrapped.metadata["render_fps"] == 30
    assert make("Pong", frame_skip=4).unwrapped.metadata["render_fps"] == 8  # 7.5
    assert GameEnv.metadata["render_fps"] == 30


def test_without_a_render_mode_there_is_a_warning() -> None:
    env = GameEnv("Pong")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize("action", [3, -1, 1.0, float("nan"), None, "up", [1], np.array([1]), np.float32(1)])
def test_what_is_no_action_is_refused_and_changes_nothing(action: Any) -> None:
    env = GameEnv("Pong")
    env.reset(seed=0)
    before = env.game.observation()
    with pytest.raises(ValueError, match=r"action must lie in Discrete\(3\); got"):
        env.step(action)
    assert np.array_equal(env.game.observation(), before)
    env.step(np.int64(2))
    env.step(np.array(1))


@pytest.mark.parametrize(
    "action", [[0, 0, 0], [0, 0, 0, np.nan], [0, 0, 0, 1.1], [-np.inf, 0, 0, 0], None, "left", [[0, 0, 0, 0]], 0.5]
)
def test_what_is_no_continuous_action_is_refused_and_changes_nothing(action: Any) -> None:
    env = GameEnv("FoodCollector")
    env.reset(seed=0)
    before = env.game.observation()
    with pytest.raises(ValueError, match=r"action must lie in Box\(-1.0, 1.0, \(4,\), float32\); got"):
        env.step(action)
    assert np.array_equal(env.game.observation(), before)
    env.step([0.0, 1.0, -1.0, 1 + 5e-7])
    env.step(np.zeros(4))


@pytest.mark.parametrize("form", ["hybrid", "discrete"])
def test_other_forms_of_action(form: str) -> None:
    env = make("FoodCollector", action_form=form)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    with pytest.raises(ValueError, match="action must lie in"):
        env.unwrapped.step(np.array([7, 0, 0, 0]))


def test_a_step_before_the_start_or_after_the_end_is_refused() -> None:
    env = GameEnv("Pong")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="must be reset before the next step"):
            env.step(0)
        env.reset(seed=0)
        while not env.step(UP)[2]:
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Tennis"}, "name must be one of Pong, Pixelcopter, FoodCollector; got 'Tennis'"),
        ({"frame_skip": 0}, r"frame_skip must be an integer in \[1, 2147483647\]; got 0"),
        ({"render_mode": "ansi"}, "render_mode must be human, rgb_array or None; got 'ansi'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GameEnv(**({"name": "Pong"} | arguments))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = GameEnv("Pong", render_mode="human")
    with pytest.raises(
        ImportError, match=r"render_mode=\"human\" needs pygame-ce: pip install 'torchrl-decouple\[games\]'"
    ):
        env.reset(seed=0)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    file = importlib.util.find_spec("decouple.envs.games.gymnasium_env")
    assert file is not None and file.origin is not None and file.loader is not None
    spec = importlib.util.spec_from_file_location("without_gymnasium", file.origin)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=r"gymnasium_env needs Gymnasium: pip install 'torchrl-decouple\[games\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
