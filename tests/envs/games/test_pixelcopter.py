"""Pixelcopter: the rules by hand on both faces at once, their agreement to the bit, invariants, known returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import ON_GPU
from torch import Tensor

from decouple.envs.games.pixelcopter import CLIMB, NOOP, Pixelcopter, PixelcopterGames
from decouple.envs.games.streams import Stream, Streams, stream_seed

DEVICES = ["cpu", ON_GPU]
Policy = Callable[[Tensor, torch.Generator], Tensor]


class Both:
    """One game in plain Python and one in tensors, of the same stream: whatever is done to one is done to the other."""

    def __init__(self, seed: int = 0) -> None:
        self.one, self.games = Pixelcopter(Stream(seed)), PixelcopterGames(Streams(torch.tensor([seed])))
        self.one.reset()
        self.games.reset(torch.tensor([True]))

    def place(self, y: float, momentum: float = 0.0) -> None:
        """The copter, so that it will be at y with this momentum after a step in which nothing is done."""
        self.one.momentum = momentum / 0.99 - 0.0576  # the push and the drag undo it, but for its last bits
        self.one.y = y - momentum
        self.games.state["momentum"][0], self.games.state["y"][0] = self.one.momentum, self.one.y

    def place_block(self, x: float, y: float) -> None:
        """The next block, so that it will be at x after a step."""
        self.one.blocks[-1][:] = [x + 0.64, y]
        self.games.state["block_x"][0], self.games.state["block_y"][0] = x + 0.64, y

    def flatten(self) -> None:
        """A straight corridor: y from 12 to 36."""
        self.one.column_y = [24] * len(self.one.column_y)
        self.games.state["column_y"][:] = 24

    def step(self, action: int = NOOP) -> tuple[float, bool]:
        reward, dead = self.one.step(action)
        rewards, deaths = self.games.step(torch.tensor([action]))
        assert (rewards.item(), deaths.item()) == (reward, dead)
        assert self.games.observation()[0].tolist() == self.one.observation().tolist()
        assert (rewards.dtype, deaths.dtype) == (torch.float64, torch.bool)
        return reward, dead


def hovering(seed: int = 0) -> Iterator[tuple[int, float, Both]]:
    """Frame by frame, 1, 2, ...: the reward of a copter held in the middle of the corridor, and no block in its way."""
    both, frame = Both(seed), 0
    while True:
        frame += 1
        both.one.blocks[-1][1] = both.games.state["block_y"][0] = 50
        seen = both.one.observation()
        both.place(seen[0] + (seen[3] - seen[2]) / 2)
        reward, dead = both.step()
        assert not dead
        yield frame, reward, both


def test_the_first_observation_and_the_draws() -> None:
    stream = Stream(7)
    drawn = [stream.uniform() for _ in range(51)]
    both = Both(7)
    block = [48 + int(24 * drawn[0]), 12 + int(24 * drawn[1])]
    frequency = 4.5 / 48 + (-0.01 + 0.02 * drawn[2])
    heights = [int(24 + 6 * math.sin(frequency * (2 + 4 * i) + 0.5 * drawn[3 + i])) for i in range(48)]
    assert both.one.blocks == [block] and both.one.column_y == heights
    assert both.one.column_x == list(range(2, 194, 4)) and both.one.stream.state == stream.state
    # Columns reach 2 to each side. That of x = 14 is the first that overlaps the copter, from 15 to 17, then 18.
    first = heights[3]
    expected = [24, 0, 24 - (first - 12), first + 12 - 24, block[0] - 16, block[1], block[1] + 9]
    assert both.one.observation().tolist() == expected == both.games.observation()[0].tolist()
    assert both.games.streams.state.item() % 2**64 == stream.state


def test_a_fall_and_a_climb_by_hand() -> None:
    falling, climbing = Both(), Both()
    for both, action, momenta in (
        # 0.0576 = 0.09 * 0.0192 * 1000 / 30 a frame, times 0.99: 0.057024, (0.057024 + 0.0576) * 0.99, ...
        (falling, NOOP, [0.057024, 0.11347776, 0.1693669824]),
        (climbing, CLIMB, [-0.5544, -1.103256, -1.64662344]),  # -0.56 a frame
    ):
        both.flatten()
        y = 24.0
        for momentum in momenta:
            assert both.step(action) == (0, False)
            y += momentum
            assert both.one.observation()[:4].tolist() == pytest.approx([y, momentum, y - 12, 36 - y], abs=1e-12)


@pytest.mark.parametrize(
    ("action", "frame"),
    [
        # m_n = 99 c (1 - 0.99^n), y_n = 24 + 99 c (n - 99 (1 - 0.99^n)), with c the push. y_20 = 35.3, y_21 = 36.4
        (NOOP, 21),
        # y_5 = 15.8, y_6 = 12.5: less than 2.4 below the ceiling
        (CLIMB, 6),
    ],
)
def test_death_at_the_floor_and_at_the_ceiling(action: int, frame: int) -> None:
    push = {NOOP: 0.0576, CLIMB: -0.56}[action]
    both = Both()
    both.flatten()
    both.place_block(60, 50)
    rewards, dead = [], False
    while not dead:
        reward, dead = both.step(action)
        rewards.append(reward)
    decay = 1 - 0.99**frame
    assert both.one.y == pytest.approx(24 + 99 * push * (frame - 99 * decay), abs=1e-9)
    assert len(rewards) == frame and both.one.momentum == pytest.approx(99 * push * decay, abs=1e-9)
    assert rewards == [1 if n in (10, 16) else -5 if n == frame else 0 for n in range(1, frame + 1)]  # columns: below


@pytest.mark.parametrize(
    ("y", "dead"), [(14.39, True), (14.41, False), (35.99, False), (36.01, True), (3.0, True), (44.0, True)]
)
def test_where_the_corridor_ends(y: float, dead: bool) -> None:
    both = Both()
    both.flatten()
    both.place(y)
    assert both.step() == (-5 if dead else 0, dead)


def test_a_column_earns_1_when_it_has_left() -> None:
    # Column i begins at 2 + 4i and is gone at -4: after (6 + 4i) / 0.64 frames, which is never a whole number.
    leaves = [math.ceil((6 + 4 * i) / 0.64) for i in range(35)]
    assert leaves[:4] == [10, 16, 22, 29] and leaves[34] == 222
    # Then 13 are left, and 48 come at 50, 54, ...: the first 13 go on, after them those, of which the 35th makes it 13.
    leaves += [math.ceil((6 + 4 * i) / 0.64) for i in range(35, 48)]
    leaves += [222 + math.ceil((54 + 4 * i) / 0.64) for i in range(35)]
    assert leaves[-1] == 222 + 297
    numbers = []
    for frame, reward, both in hovering():
        gate = len(both.one.blocks) == 2 and 15.36 < both.one.blocks[0][0] <= 16
        assert reward - gate == (frame in leaves), frame
        numbers.append(len(both.one.column_x))
        if frame == 222 + 297:
            break
    assert [frame for frame, number in enumerate(numbers, 1) if number == 61] == [*range(222, 229), 519]
    assert min(numbers) == 14 and max(numbers) == 61


def test_new_terrain_takes_the_next_49_numbers() -> None:
    both = next(both for frame, _, both in hovering(3) if frame == 221)
    before = both.one.stream.state
    seen = both.one.observation()
    both.place(seen[0] + (seen[3] - seen[2]) / 2)
    both.step()
    stream = Stream(before)
    drawn = [stream.uniform() for _ in range(49)]
    frequency = 4.5 / 48 + (-0.01 + 0.02 * drawn[0])
    heights = [int(24 + 6 * math.sin(frequency * (50 + 4 * i) + 0.5 * drawn[1 + i])) for i in range(48)]
    assert both.one.column_y[13:] == heights and both.one.stream.state == stream.state
    assert both.one.column_x[13:] == list(range(50, 242, 4))
    assert both.games.state["column_y"][0].tolist() == both.one.column_y


def test_a_block_passed_earns_1_and_makes_room_for_the_next() -> None:
    both = Both(5)
    both.flatten()
    both.place_block(16.01, 50)
    assert both.step() == (0, False)
    stream = Stream(both.one.stream.state)
    x, y = 48 + int(24 * stream.uniform()), 12 + int(24 * stream.uniform())
    assert both.step() == (1, False)  # 15.37 <= 16
    assert both.one.observation()[4:].tolist() == [x - 16, y, y + 9] and len(both.one.blocks) == 2
    assert both.one.stream.state == stream.state
    # The one passed leaves at -4, (15.37 + 4) / 0.64 = 30.3 frames later, and earns nothing more.
    both.one.blocks[-1][1] = both.games.state["block_y"][0] = 50
    numbers = []
    for _ in range(31):
        both.place(24)
        reward, dead = both.step()
        assert reward in (0, 1) and not dead
        numbers.append(len(both.one.blocks))
    assert numbers == [2] * 30 + [1]


def test_all_rewards_of_one_frame_are_added() -> None:
    both = Both()
    both.flatten()
    for _ in range(9):
        both.place(24)
        assert both.step() == (0, False)
    both.place_block(15.9, 24)
    both.place(24)
    assert both.step() == (1 + 1 - 5, True)  # the tenth frame: a column, a gate, and death by its block


@pytest.mark.parametrize(
    ("x", "y", "dead"),
    [
        # A block at y 24, the copter above and below it: rectangles from 20 to 29, and from int(y) - 1 to int(y) + 1.
        (16.5, 19.99, False),
        (16.5, 20.01, True),
        (16.5, 29.99, True),
        (16.5, 30.01, False),
        # From int(x) - 2 to int(x) + 2, and from 15 to 17.
        (13.99, 25, False),
        (14.01, 25, True),
        (18.99, 25, True),
        (19.01, 25, False),
    ],
)
def test_a_block_kills_where_the_truncated_rectangles_overlap(x: float, y: float, dead: bool) -> None:
    both = Both()
    both.flatten()
    both.place_block(x, 24)
    both.place(y)
    passed = x <= 16
    assert both.step() == (passed - 5 * dead, dead)


@settings(max_examples=300, deadline=None)
@given(
    x=st.one_of(st.integers(10, 24), st.floats(10, 24)),
    block_y=st.integers(12, 35),
    y=st.one_of(st.integers(6, 42), st.floats(6, 42)),
    momentum=st.floats(-6, 2),
    action=st.sampled_from([CLIMB, NOOP]),
)
def test_the_two_agree_wherever_block_and_copter_are(
    x: float, block_y: int, y: float, momentum: float, action: int
) -> None:
    both = Both()
    both.place(y, momentum)
    both.place_block(x, block_y)
    if x + 0.64 > 16:  # else it would have been passed before
        both.step(action)


def climbs(probability: float) -> Policy:
    return lambda seen, generator: (torch.rand(len(seen), generator=generator) >= probability).long()


def hover(seen: Tensor, _: torch.Generator) -> Tensor:
    """Climb where the copter will be below the middle of the corridor in six frames; blocks are not looked at."""
    return (6 * seen[:, 1] <= (seen[:, 3] - seen[:, 2]) / 2).long()


def agree(
    policy: Policy, number: int, steps: int, device: str, move: Callable[[list, PixelcopterGames], None] | None = None
) -> int:
    """Play games by both faces, every number compared; ``move`` may change both before a step. Returns the ends."""
    seeds = [stream_seed(11, index) for index in range(number)]
    ones = [Pixelcopter(Stream(seed)) for seed in seeds]
    games = PixelcopterGames(Streams(torch.tensor(seeds, device=device)))
    generator, ends = torch.Generator().manual_seed(0), 0
    dead = torch.ones(number, dtype=torch.bool)
    for _ in range(steps):
        games.reset(dead.to(device))
        for one, ended in zip(ones, dead, strict=True):
            if ended:
                one.reset()
        if move is not None:
            move(ones, games)
        seen = games.observation().cpu()
        assert seen.tolist() == [one.observation().tolist() for one in ones]
        actions = policy(seen, generator)
        expected = [one.step(int(action)) for one, action in zip(ones, actions, strict=True)]
        rewards, deaths = games.step(actions.to(device))
        dead = deaths.cpu()
        assert rewards.tolist() == [reward for reward, _ in expected] and dead.tolist() == [end for _, end in expected]
        assert games.observation().tolist() == [one.observation().tolist() for one in ones]
        assert [state % 2**64 for state in games.streams.state.tolist()] == [one.stream.state for one in ones]
        ends += int(dead.sum())
    return ends


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("policy", "fewest"),
    [(climbs(0.5), 2000), (climbs(0.0), 700), (climbs(0.1), 450), (hover, 80)],
    ids=["random", "never climb", "climb 0.1", "hover"],
)
def test_the_two_faces_agree_to_the_bit(policy: Policy, fewest: int, device: str) -> None:
    assert agree(policy, 40, 400, device) >= fewest


@pytest.mark.parametrize("device", DEVICES)
def test_the_two_faces_agree_on_games_longer_than_the_terrain_takes_to_repeat(device: str) -> None:
    def hold(ones: list[Pixelcopter], games: PixelcopterGames) -> None:
        """In the middle of the corridor, and the blocks out of the way: nobody dies."""
        middles = []
        for one in ones:
            seen = one.observation()
            one.y, one.momentum = seen[0] + (seen[3] - seen[2]) / 2, 0.0
            middles.append(one.y)
            for block in one.blocks:
                block[1] = 50
            assert 13 < len(one.column_x) <= 61 and 1 <= len(one.blocks) <= 2
        games.state["y"][:] = torch.tensor(middles, dtype=torch.float64)
        games.state["momentum"][:] = 0
        games.state["block_y"][:] = games.state["passed_y"][:] = 50

    assert agree(climbs(0.0), 4, 2 * (222 + 2 * 297), device, hold) == 0


def test_a_copter_that_lives_on_earns_what_the_limit_is_chosen_by() -> None:
    earned, after = 0.0, {}
    for frame, reward, _ in hovering():
        earned += reward
        after[frame] = earned
        if frame == Pixelcopter.max_episode_steps:
            break
    assert 37 <= after[240] <= 44 and 170 <= after[1000] <= 180 and Pixelcopter.reward_scale == 1
    assert Pixelcopter.max_episode_steps == PixelcopterGames.max_episode_steps == 1000


def test_a_game_is_the_same_alone_and_beside_others() -> None:
    seeds = torch.tensor([stream_seed(2, index) for index in range(5)])
    together, alone = PixelcopterGames(Streams(seeds)), PixelcopterGames(Streams(seeds[3:4]))
    actions = climbs(0.1)(torch.zeros(5 * 400, 7), torch.Generator().manual_seed(1)).reshape(400, 5)
    dead = torch.ones(5, dtype=torch.bool)
    rewards = []
    for action in actions:
        together.reset(dead)
        alone.reset(dead[3:4])
        assert torch.equal(together.observation()[3:4], alone.observation())
        reward, dead = together.step(action)
        single, end = alone.step(action[3:4])
        assert torch.equal(reward[3:4], single) and torch.equal(dead[3:4], end)
        rewards.append(reward)
    assert len(set(map(tuple, torch.stack(rewards).T.tolist()))) == 5


def test_the_state_is_all_there_is() -> None:
    def play(games: PixelcopterGames, actions: Tensor) -> list[list[float]]:
        out = []
        for action in actions:
            reward, dead = games.step(action)
            games.reset(dead)
            out += [reward.tolist(), *games.observation().tolist()]
        return out

    actions = climbs(0.1)(torch.zeros(2 * 300 * 4, 7), torch.Generator().manual_seed(2)).reshape(2, 300, 4)
    games = PixelcopterGames(Streams(torch.arange(4)))
    games.reset(torch.ones(4, dtype=torch.bool))
    play(games, actions[0])
    other = PixelcopterGames(Streams(games.streams.state))
    other.state = {key: value.clone() for key, value in games.state.items()}
    assert all(len(value) == 4 for value in games.state.values())
    assert play(games, actions[1]) == play(other, actions[1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    actions=st.lists(st.tuples(st.sampled_from([CLIMB, NOOP]), st.integers(1, 12)), min_size=1, max_size=60),
)
def test_invariants_under_any_actions(seed: int, actions: list[tuple[int, int]]) -> None:
    game = Pixelcopter(Stream(seed))
    game.reset()
    for action, times in actions:
        for _ in range(times):
            reward, dead = game.step(action)
            seen = game.observation()
            assert np.isfinite(seen).all()
            assert (game.observation_low <= seen).all() and (seen <= game.observation_high).all()
            assert np.abs(seen * game.observation_scale).max() < 6
            assert reward in ((-5, -4, -3) if dead else (0, 1, 2))
            assert 1 <= len(game.blocks) <= 2 and 13 < len(game.column_x) <= 61
            assert all(before < after for before, after in pairwise(game.column_x))
            if not dead:  # all that kills is far enough away
                assert seen[2] > 2.4 and seen[3] > 0 and 8.4 < game.y < 42
            else:
                game.reset()


def episodes(policy: Policy, number: int) -> tuple[Tensor, Tensor]:
    """Return and length of the first episode of each game, float64 (number,)."""
    games = PixelcopterGames(Streams(torch.tensor([stream_seed(0, index) for index in range(number)])))
    games.reset(torch.ones(number, dtype=torch.bool))
    returns, lengths = torch.zeros(2, number, dtype=torch.float64)
    playing, generator = torch.ones(number, dtype=torch.bool), torch.Generator().manual_seed(4)
    while playing.any():
        reward, dead = games.step(policy(games.observation(), generator))
        returns += reward * playing
        lengths += playing
        playing &= ~dead
    return returns, lengths


@pytest.mark.parametrize(
    ("policy", "return_range", "length_range"),
    [
        (climbs(0.5), (-4.8, -4.8), (7, 7)),  # seen with rectangles by rounding, printed with two digits
        (climbs(0.1), (-1.0, -0.5), (30.7, 33.5)),
        (hover, (14, 20), (100, 200)),
    ],
    ids=["random", "climb 0.1", "hover"],
)
def test_returns_and_lengths_are_those_of_the_original(
    policy: Policy, return_range: tuple[float, float], length_range: tuple[float, float]
) -> None:
    returns, lengths = episodes(policy, 600)
    for values, (low, high), unit in ((returns, return_range, 0.05), (lengths, length_range, 0.5)):
        error = 3 * values.std().item() / math.sqrt(len(values)) + unit * (low == high)
        assert low - error <= values.mean().item() <= high + error
    assert returns.max() <= 121 and lengths.max() <= 734  # the best and the longest that the original showed


@pytest.mark.parametrize("action", [2, -1, 0.5, math.nan, None])
def test_other_actions_are_refused(action: object) -> None:
    game = Pixelcopter(Stream(0))
    game.reset()
    with pytest.raises(ValueError, match=r"action must be 0, climb, or 1, do nothing; got"):
        game.step(action)


def test_the_picture_shows_terrain_block_and_copter() -> None:
    both = Both()
    both.flatten()
    both.place_block(30, 20)
    both.place(27)
    both.step()
    picture = both.one.picture()
    assert picture.shape == (384, 384, 3) and picture.dtype == np.uint8
    green, sky, orange, white = (
        picture[8 * y + 4, 8 * x + 4].tolist() for x, y in ((5, 3), (5, 20), (30, 24), (16, 27))
    )
    assert len({tuple(colour) for colour in (green, sky, orange, white)}) == 4
    rows, columns = np.nonzero((picture == orange).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16 * 8, 25 * 8 - 1, 28 * 8, 32 * 8 - 1)
    rows, columns = np.nonzero((picture == white).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (26 * 8, 28 * 8 - 1, 15 * 8, 17 * 8 - 1)
    rows = np.nonzero((picture[:, 40] == sky).all(-1))[0]
    assert (rows.min(), rows.max()) == (12 * 8, 36 * 8 - 1)  # the corridor
