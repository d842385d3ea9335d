"""Pong: the rules by hand on both faces at once, their agreement to the bit, invariants, a random player's returns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import ON_GPU
from torch import Tensor

from decouple.envs.games.pong import DOWN, NOOP, UP, Pong, PongGames
from decouple.envs.games.streams import Stream, Streams, stream_seed

PLACES = ["picks", "all", *(["cuda"] if torch.cuda.is_available() else [])]  # which rows a step computes, and where
NUMBERS = (
    "player_y",
    "player_velocity",
    "cpu_y",
    "ball_x",
    "ball_y",
    "ball_vx",
    "ball_vy",
    "player_score",
    "cpu_score",
)


def games(seeds: list[int], place: str = "picks") -> PongGames:
    """B games that have begun. ``all`` computes on the CPU as a GPU does: all rows, with masks."""
    made = PongGames(Streams(torch.tensor(seeds, device="cuda" if place == "cuda" else "cpu")))
    made._picks = made.streams._picks = place == "picks"
    made.reset(torch.ones(len(seeds), dtype=torch.bool, device=made.streams.state.device))
    return made


class Both:
    """One game in plain Python and its like in tensors, of the same stream: whatever is done to one is done to all."""

    def __init__(self, seed: int = 0, **numbers: float) -> None:
        self.one, self.many = Pong(Stream(seed)), [games([seed], place) for place in PLACES]
        self.one.reset()
        for key, value in numbers.items():
            setattr(self.one, key, value)
            for many in self.many:
                many.state["numbers"][0, NUMBERS.index(key)] = value

    def step(self, action: int = NOOP) -> tuple[float, bool]:
        reward, over = self.one.step(action)
        for many in self.many:
            device = many.streams.state.device
            rewards, ends = many.step(torch.tensor([action], device=device))
            assert (rewards.tolist(), ends.tolist()) == ([reward], [over])
            assert (rewards.dtype, ends.dtype) == (torch.float64, torch.bool)
            assert many.state["numbers"][0].tolist() == [getattr(self.one, key) for key in NUMBERS]
            assert many.observation()[0].tolist() == self.one.observation().tolist()
            assert many.streams.state.item() % 2**64 == self.one.stream.state
        return reward, over


@pytest.mark.parametrize("seed", range(6))
def test_the_first_observation_and_the_draws(seed: int) -> None:
    stream = Stream(seed)
    side, height = stream.uniform(), stream.uniform()
    both = Both(seed)
    vx, vy = 36 if side > 0.5 else -36, height * 36 - 18
    assert both.one.observation().tolist() == [24, 0, 24, 32, 24, vx, vy] and both.one.stream.state == stream.state
    assert both.step() == (0, False)
    assert both.one.stream.state == stream.state  # a free frame draws nothing
    assert both.one.ball_x == pytest.approx(32 + vx / 30) and both.one.ball_y == pytest.approx(24 + vy / 30)


def test_both_sides_are_served() -> None:
    sides = games([stream_seed(0, index) for index in range(400)]).observation()[:, 5]
    assert set(sides.tolist()) == {-36, 36} and abs((sides > 0).sum().item() - 200) < 5 * 10


def test_the_player_speeds_up_and_stops_at_the_edge() -> None:
    # 0.4 * 48 / 30 = 0.64 a frame, times 0.9: v = -0.576, -1.0944, -1.56096; then down: (-1.56096 + 0.64) * 0.9
    both = Both(ball_vx=36.0, ball_vy=0.0)
    for action, y, velocity in (
        (UP, 23.424, -0.576),
        (UP, 22.3296, -1.0944),
        (UP, 20.76864, -1.56096),
        (DOWN, 19.939776, -0.828864),
        (NOOP, 19.1937984, -0.7459776),
    ):
        assert both.step(action) == (0, False)
        assert both.one.observation()[:2].tolist() == pytest.approx([y, velocity], abs=1e-12)
    for _ in range(12):
        both.step(UP)
    assert both.one.observation()[:2].tolist() == [3.5, 0]
    for _ in range(25):
        both.step(DOWN)
    assert both.one.observation()[:2].tolist() == [44.5, 0]


def test_a_hit_of_the_player_by_hand() -> None:
    both = Both(ball_x=5.2, ball_y=24.0, ball_vx=-36.0, ball_vy=3.0, player_velocity=-0.5)
    after = Stream(both.one.stream.state)
    both.step()
    # From 5.2 to 4, through 4.5 at the height of the paddle: set out by 1, the way back slower by 1.8.
    assert both.one.ball_x == pytest.approx(5) and both.one.ball_y == pytest.approx(24.1)
    assert both.one.ball_vx == pytest.approx(34.2)
    assert both.one.ball_vy == pytest.approx(3 - 2 * 0.5 + after.uniform() * 0.001 - 0.0005, abs=1e-12)
    assert both.one.stream.state == after.state and both.one.player_velocity == pytest.approx(-0.45)


def test_a_hit_of_the_computer_by_hand() -> None:
    both = Both(ball_x=58.8, ball_y=24.0, ball_vx=36.0, ball_vy=-3.0, player_velocity=1.0)
    after = Stream(both.one.stream.state)
    both.step()
    assert both.one.ball_x == pytest.approx(59) and both.one.ball_vx == pytest.approx(-37.8)
    assert both.one.ball_vy == pytest.approx(-3 + after.uniform() * 0.001 - 0.0005, abs=1e-12)
    for _ in range(45):  # (59 - 4.5) / 1.26 = 43.3 frames to the player
        both.step(DOWN if both.one.ball_y > both.one.player_y else UP)
    assert both.one.ball_vx == pytest.approx(36)  # -(-37.8 + 1.8)


@pytest.mark.parametrize(
    ("x", "paddle", "hit"),
    [
        (5.2, 27.5, True),  # its upper end, at the ball's height
        (5.2, np.nextafter(27.5, 28), False),
        (5.2, 20.5, True),
        (5.2, np.nextafter(20.5, 20), False),
        (5.71, 24.0, False),  # to 4.51: beside the paddle, not yet through its middle
        (5.7, 24.0, True),  # to 4.5
        (4.5, 24.0, True),  # from there
        (4.49, 24.0, False),  # behind it
    ],
)
def test_what_the_player_reaches(x: float, paddle: float, hit: bool) -> None:
    both = Both(ball_x=x, ball_y=24.0, ball_vx=-36.0, ball_vy=0.0, player_y=paddle)
    both.step()
    assert (both.one.ball_vx > 0) == hit


@pytest.mark.parametrize(
    ("x", "paddle", "hit"),
    [(58.8, 27.5, True), (58.8, np.nextafter(27.5, 28), False), (58.29, 24.0, False), (59.51, 24.0, False)],
)
def test_what_the_computer_reaches(x: float, paddle: float, hit: bool) -> None:
    both = Both(ball_x=x, ball_y=24.0, ball_vx=36.0, ball_vy=0.0, cpu_y=paddle)
    both.step()
    assert (both.one.ball_vx < 0) == hit


def test_a_ball_that_stands_still_is_not_hit() -> None:
    both = Both(ball_x=4.5, ball_y=24.0, ball_vx=0.0, ball_vy=0.0)
    before = both.one.stream.state
    assert both.step() == (0, False) and both.one.ball_x == 4.5 and both.one.stream.state == before


@pytest.mark.parametrize(("y", "vy", "to_y"), [(1.5, -18.0, 1.9), (46.5, 18.0, 46.1), (3.0, -60.0, 2.0)])
def test_walls_by_hand(y: float, vy: float, to_y: float) -> None:
    # 0.6 a frame: to 0.9 and 47.1, set in by 1; and from 3 by 2 to 1, where the ball touches
    both = Both(ball_y=y, ball_vy=vy)
    both.step()
    assert both.one.ball_y == pytest.approx(to_y) and both.one.ball_vy == pytest.approx(-0.99 * vy)


@pytest.mark.parametrize(("x", "vx", "point"), [(0.9, -36.0, -1), (63.5, 36.0, 1)])
def test_a_point_and_its_serve_by_hand(x: float, vx: float, point: int) -> None:
    both = Both(ball_x=x, ball_vx=vx, ball_y=20.0, ball_vy=3.0, player_y=30.0, player_velocity=1.0, cpu_y=40.0)
    after = Stream(both.one.stream.state)
    assert both.step(UP) == (point, False)
    served = after.uniform() * 36 - 18
    # To the side that lost, from the middle at the height of the ball; and no paddle moves.
    expected = [30, 1, 40, 32, 20.1, 36 * point, served]
    assert both.one.observation().tolist() == pytest.approx(expected) and both.one.stream.state == after.state
    assert (both.one.player_score, both.one.cpu_score) == ((1, 0) if point > 0 else (0, 1))


def test_the_last_point_ends_the_game_and_counts_six() -> None:
    lost = Both(ball_x=0.9, ball_vx=-36.0, cpu_score=10, player_score=3, player_y=40.0)
    assert lost.step() == (-6, True)
    won = Both(ball_x=63.5, ball_vx=36.0, player_score=10, cpu_score=10)
    assert won.step() == (6, True)
    assert Both(ball_x=63.5, ball_vx=36.0, player_score=9, cpu_score=10).step() == (1, False)


@pytest.mark.parametrize(
    ("numbers", "way"),
    [
        # chases at 28.8 pixels a second, 0.96 a frame, a ball that comes in its half
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 30.0}, 0.96),
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 24.0}, 0.96),  # as high as the ball: down
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 20.0}, -0.96),
        ({"ball_x": 30.8, "ball_vx": 36.0, "ball_y": 20.0}, -0.96),  # to 32: in its half
        # else drifts to the middle at a quarter of it, down from there
        ({"ball_x": 30.7, "ball_vx": 36.0, "ball_y": 20.0}, 0.24),
        ({"ball_x": 40.0, "ball_vx": -36.0, "ball_y": 20.0}, 0.24),
        ({"ball_x": 40.0, "ball_vx": -36.0, "ball_y": 40.0, "cpu_y": 24.1}, -0.24),
        # has come to stand beyond the edge, is put back and goes on
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 46.5, "cpu_y": 45.46}, 0.0),
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 20.0, "cpu_y": 45.46}, -1.92),
        ({"ball_x": 40.0, "ball_vx": 36.0, "ball_y": 1.5, "cpu_y": 2.54}, 0.0),
    ],
)
def test_the_computers_paddle_by_hand(numbers: dict[str, float], way: float) -> None:
    both = Both(**({"ball_vy": 0.0} | numbers))
    before = both.one.cpu_y
    both.step()
    assert both.one.cpu_y - before == pytest.approx(way, abs=1e-12)


@pytest.mark.parametrize("place", ["picks", "all", ON_GPU])
def test_one_game_and_many_agree_to_the_bit(place: str) -> None:
    """3,000 frames of players who press anything, who follow the ball, and who often do; games are begun anew."""
    seeds = [stream_seed(5, index) for index in range(8)]
    many, alone = games(seeds, place), [Pong(Stream(seed)) for seed in seeds]
    for game in alone:
        game.reset()
    device, generator, ends = many.streams.state.device, torch.Generator().manual_seed(1), 0
    for _ in range(3000):
        seen = many.observation().cpu()
        action = torch.randint(3, (8,), generator=generator)
        follow = torch.where(seen[:, 4] > seen[:, 0], DOWN, UP)
        follows = torch.rand(8, generator=generator) < torch.tensor([0.0, 1.0, 0.0, 0.7]).repeat(2)
        action = torch.where(follows, follow, action)
        reward, over = (answer.tolist() for answer in many.step(action.to(device)))
        answers = [game.step(press) for game, press in zip(alone, action.tolist(), strict=True)]
        assert list(zip(reward, over, strict=True)) == answers
        for game, end in zip(alone, over, strict=True):
            if end:
                game.reset()
                ends += 1
        if any(over):
            many.reset(torch.tensor(over, device=device))
        assert many.observation().tolist() == [game.observation().tolist() for game in alone]
        assert [state % 2**64 for state in many.streams.state.tolist()] == [game.stream.state for game in alone]
    assert ends > 20


def test_a_reset_leaves_the_others_alone() -> None:
    many = games([1, 2, 3])
    for _ in range(40):
        many.step(torch.tensor([UP, DOWN, NOOP]))
    numbers, streams = many.state["numbers"], many.streams.state
    before, drawn = numbers.clone(), streams.clone()
    many.reset(torch.tensor([False, True, False]))
    kept = torch.tensor([0, 2])
    assert torch.equal(numbers[kept], before[kept]) and torch.equal(streams[kept], drawn[kept])
    assert numbers[1, :5].tolist() == [24, 0, 24, 32, 24] and streams[1] != drawn[1]
    many.reset(torch.zeros(3, dtype=torch.bool))
    assert torch.equal(numbers[kept], before[kept])


def follow(game: Pong, action: int) -> int:
    return action if action < 3 else DOWN if game.ball_y > game.player_y else UP


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), pattern=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_nothing_leaves_the_field_whatever_is_pressed(seed: int, pattern: list[int]) -> None:
    """3 and 4 follow the ball, so that some rallies are long."""
    game = Pong(Stream(seed))
    game.reset()
    for frame in range(1500):
        reward, over = game.step(follow(game, pattern[frame % len(pattern)]))
        seen = game.observation()
        assert reward in (-6, -1, 0, 1, 6) and over == (abs(reward) == 6) and np.isfinite(seen).all()
        assert (seen >= game.observation_low).all() and (seen <= game.observation_high).all()
        assert -1 < seen[4] < 49 or abs(seen[6]) > 30  # only a steep ball gets beyond a wall
        assert 0 <= game.player_score <= 11 and 0 <= game.cpu_score <= 11
        if over:
            game.reset()


def test_observations_are_scaled_to_numbers_of_order_one() -> None:
    many, seen = games([stream_seed(2, index) for index in range(50)]), []
    for _ in range(300):
        many.step(torch.randint(3, (50,), generator=torch.Generator().manual_seed(len(seen))))
        seen.append(many.observation().numpy() * many.observation_scale)
    largest = np.abs(np.stack(seen)).max((0, 1))
    assert (largest > 0.4).all() and (largest < 1.6).all()


def test_a_random_player_loses_by_the_known_numbers() -> None:
    """The original's: return -16.0, about 490 frames; with a deviation of 110 the mean of 400 games is within 5.5."""
    B = 400
    many = games([stream_seed(0, index) for index in range(B)])
    returns, frames = torch.zeros(B, dtype=torch.float64), torch.zeros(B)
    running, generator = torch.ones(B, dtype=torch.bool), torch.Generator().manual_seed(0)
    while running.any():
        reward, over = many.step(torch.randint(3, (B,), generator=generator))
        returns += torch.where(running, reward, 0.0)
        frames += running
        running &= ~over
        many.reset(over)
    assert -16 <= returns.mean() < -15.9 and returns.min() == -16
    assert abs(frames.mean() - 490) < 25


@pytest.mark.parametrize("seed", [0, 1])
def test_a_player_who_only_follows_the_ball_wins_before_the_limit(seed: int) -> None:
    game = Pong(Stream(seed))
    game.reset()
    frames = next(n for n in range(1, game.max_episode_steps + 1) if game.step(follow(game, 3))[1])
    assert game.player_score == 11 and game.cpu_score <= 1
    assert 10_000 < frames < 50_000  # the limit of 0.1 ended such games


def test_the_scale_of_returns() -> None:
    assert Pong.reward_scale * 16 == 1 == PongGames.reward_scale * 16
    assert math.isclose((11 + 5 - 2) * Pong.reward_scale, 0.875)  # won by 11 to 2


def test_the_picture_shows_the_game() -> None:
    game = Pong(Stream(0))
    game.reset()
    game.ball_x, game.ball_y, game.player_y, game.cpu_y = 20.0, 30.0, 10.0, 40.0
    game.player_score, game.cpu_score = 2, 11
    picture = game.picture()
    assert picture.shape == (384, 512, 3) and picture.dtype == np.uint8

    def colour(x: float, y: float) -> tuple[int, ...]:
        return tuple(picture[int(y * 8), int(x * 8)].tolist())

    background, player, cpu, ball = (colour(*place) for place in ((10, 44), (4, 10), (60, 40), (20, 30)))
    assert len({background, player, cpu, ball}) == 4
    assert colour(4, 6.6) == colour(4, 13.4) == player and colour(4, 14) == colour(5, 10) == background
    marks = [x for x in range(64) if colour(x, 1.5) in (player, cpu)]
    assert [colour(x, 1.5) for x in marks].count(player) == 2 and len(marks) == 13
    game.ball_y = -3.0  # beyond the wall
    assert game.picture().shape == (384, 512, 3)


def test_state_is_what_a_step_changes() -> None:
    """Copies of it and of the streams, put back, give the same frames again."""
    many = games([stream_seed(1, index) for index in range(20)])
    actions = torch.randint(3, (400, 20), generator=torch.Generator().manual_seed(0))

    def play(some: Tensor) -> list[Tensor]:
        return [torch.stack([*many.step(action), *many.observation().unbind(1)]) for action in some]

    play(actions[:100])
    saved = {key: value.clone() for key, value in many.state.items()} | {"streams": many.streams.state.clone()}
    first = play(actions[100:])
    for key, value in (many.state | {"streams": many.streams.state}).items():
        value.copy_(saved[key])
    assert all(torch.equal(one, two) for one, two in zip(first, play(actions[100:]), strict=True))
