"""Pixelcopter with game-state observations, after the PyGame Learning Environment: one game, and many as tensors.

A helicopter has to stay in a winding corridor, and off the blocks in it. It climbs fast and falls slowly; everything
else moves to the left by 0.64 pixels a frame. The field has 48 x 48 pixels, y downwards, and 30 frames a second. The
two classes have the same rules, and the same bits on the same random streams:

>>> game = Pixelcopter(Stream(0))
>>> game.reset()
>>> game.step(CLIMB)
(0.0, False)
>>> games = PixelcopterGames(Streams(torch.tensor([0, 1])))
>>> games.reset(torch.ones(2, dtype=torch.bool))
>>> reward, terminated = games.step(torch.tensor([CLIMB, NOOP]))
>>> games.observation()[0].tolist() == game.observation().tolist()
True

A passed block earns 1, and so does each column of the corridor that leaves the field, every 6.25 frames. An episode
ends only with a crash, which costs 5.

The original has no time limit. Here a game is cut after 1,000 frames. A copter that stays alive earns 0.16 a frame by
columns and about 0.015 by blocks: about 175 in 1,000 frames. Table I of "Honey, I Shrunk The Actor" (Mysore et al.
2021) has returns from 20 to 37; 37 plus the 5 of a crash take about 240 frames, so that the limit is no obstacle. The
table's thresholds, 35 for SAC and 20 for PPO, are taken as raw rewards: ``reward_scale`` is 1.

Source: Tasfi, PyGame Learning Environment (2016), ple/games/pixelcopter.py at commit 2782f50 (a later commit places the
blocks differently), with rectangles truncated to integers, as pygame did in 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from decouple.checks import checked
from decouple.envs.games.pictures import PIXELS, paint_rectangle
from decouple.envs.games.streams import Stream, Streams

__all__ = ["CLIMB", "NOOP", "Pixelcopter", "PixelcopterGames"]

CLIMB, NOOP = 0, 1
WIDTH = HEIGHT = 48  # pixels
DT = 1000 / 30  # ms per frame
SPEED = 0.0004 * WIDTH  # px/ms
SCROLL = SPEED * DT  # px per frame
PUSHES = (SPEED * -0.875 * DT, SPEED * 0.09 * DT)  # change of the momentum per frame by each action, px per frame
DRAG = 0.99
COPTER_X = int(0.35 * WIDTH)  # 16
COPTER_SIZE = int(0.05 * WIDTH)  # 2, side of the copter's rectangle
COPTER_HEIGHT = 0.05 * HEIGHT  # 2.4, height of the copter in the test against the ceiling
BLOCK_WIDTH, BLOCK_HEIGHT = int(0.1 * WIDTH), int(0.2 * HEIGHT)  # 4, 9
BLOCK_X = (WIDTH, int(1.5 * WIDTH))  # range of a new block's x, upper end excluded
BLOCK_Y = (int(0.25 * HEIGHT), int(0.75 * HEIGHT))  # range of its y, likewise
NEAR = (COPTER_X - 2, COPTER_X + 3)  # range of x in which a block overlaps the copter in x, upper end excluded
BESIDE = (-4, 6)  # range of the copter's y less the block's in which they overlap in y, likewise
COLUMN_WIDTH, COLUMN_HEIGHT = int(0.1 * WIDTH), int(1.5 * HEIGHT)  # 4, 72
CORRIDOR = 0.25 * HEIGHT  # distance from the middle of a column to its ceiling, and to its floor
TOP, BOTTOM = 0.125 * HEIGHT, 0.875 * HEIGHT
TERRAIN = 4 * WIDTH  # length of the terrain that is added at once
NUM_ADDED = TERRAIN // COLUMN_WIDTH  # 48 columns
NUM_LEFT = 13  # new columns are added when no more than these remain
LOSS = -5.0

# The y of a column lies in [18, 30]. A living copter is between the ceiling and the floor of a column, so 8.4 < y < 42.
# On the way from one to the other its momentum stays within -6.2 and 2.1 pixels a frame.
OBSERVATION_LOW = np.array([0, -7, -18, -18, 0, 12, 21], dtype=np.float64)
OBSERVATION_HIGH = np.array([48, 3, 42, 42, 55, 35, 44], dtype=np.float64)
# Heights are divided by the field's, distances to ceiling and floor by the corridor's; the momentum is of order one.
OBSERVATION_SCALE = 1 / np.array([HEIGHT, 1, 2 * CORRIDOR, 2 * CORRIDOR, WIDTH, HEIGHT, HEIGHT])


def _overlap(x: float, y: float, width: int, height: int, copter_y: float) -> bool:
    """Whether the integer rectangle of an object at (x, y) overlaps the copter's; touching edges do not count."""
    left, top = int(x) - width // 2, int(y) - height // 2
    copter_left, copter_top = COPTER_X - COPTER_SIZE // 2, int(copter_y) - COPTER_SIZE // 2
    across = left < copter_left + COPTER_SIZE and left + width > copter_left
    return across and top < copter_top + COPTER_SIZE and top + height > copter_top


def _new_columns(start: int) -> range:
    """The x of the 48 columns of new terrain that begins at ``start``."""
    return range(start + COLUMN_WIDTH // 2, start + TERRAIN + COLUMN_WIDTH // 2, COLUMN_WIDTH)


class _Facts:
    """Constants of both classes."""

    num_actions = 2
    observation_scale = OBSERVATION_SCALE
    max_episode_steps = 1000
    reward_scale = 1.0


class Pixelcopter(_Facts):
    """One game, in plain Python. It begins with ``reset``.

    Observation, 7 numbers: the copter's y; its momentum, in pixels a frame; its distances to the corridor's ceiling and
    floor; the distance in x to the next block, the y of that block's middle, and that y plus the block's height, 9 (in
    the original "top" and "bottom", though the first is the middle).

    Attributes:
        y, momentum: position and velocity of the copter. blocks: [x, y] of at most two blocks.
        column_x, column_y: position of the columns, at most 61, from left to right, which is their order of arrival.
    """

    observation_low, observation_high = OBSERVATION_LOW, OBSERVATION_HIGH
    render_fps = 30

    @checked()
    def __init__(self, stream: Stream) -> None:
        self.stream = stream  # reset draws 51 numbers, a new block 2, new terrain 49
        self.y, self.momentum = HEIGHT / 2, 0.0
        self.blocks: list[list[float]] = []
        self.column_x: list[float] = []
        self.column_y: list[int] = []

    def reset(self) -> None:
        """Begin a new game, from the stream's next numbers."""
        self.y, self.momentum = HEIGHT / 2, 0.0
        self.blocks, self.column_x, self.column_y = [], [], []
        self._add_block()
        self._add_terrain(0)

    def _add_block(self) -> None:
        x, y = (low + int(self.stream.uniform() * (high - low)) for low, high in (BLOCK_X, BLOCK_Y))
        self.blocks.append([float(x), float(y)])

    def _add_terrain(self, start: int) -> None:
        uniform = self.stream.uniform
        frequency = 4.5 / WIDTH + (-0.01 + 0.02 * uniform())
        columns = _new_columns(start)
        self.column_x += map(float, columns)
        wave = [math.sin(frequency * x + 0.5 * uniform()) for x in columns]
        self.column_y += [int(HEIGHT / 2 + 0.125 * HEIGHT * height) for height in wave]

    def _columns_here(self) -> Iterator[int]:
        """The y of the columns that overlap the copter, in their order of arrival."""
        for x, y in zip(self.column_x, self.column_y, strict=True):
            if x >= COPTER_X + COLUMN_WIDTH:  # too far to the right, as are all that follow
                break
            if _overlap(x, y, COLUMN_WIDTH, COLUMN_HEIGHT, self.y):
                yield y

    def step(self, action: int) -> tuple[float, bool]:
        """Play one frame; return raw reward and terminated.

        Args:
            action: 0 to climb, 1 to do nothing.

        Raises:
            ValueError: another action.
        """
        if action not in (CLIMB, NOOP):
            raise ValueError(f"action must be {CLIMB}, climb, or {NOOP}, do nothing; got {action!r}")
        self.momentum = (self.momentum + PUSHES[action]) * DRAG
        self.y = y = self.y + self.momentum
        for block in self.blocks:
            block[0] -= SCROLL
        self.column_x = [x - SCROLL for x in self.column_x]
        dead = any(_overlap(*block, BLOCK_WIDTH, BLOCK_HEIGHT, y) for block in self.blocks)  # there is only one life
        for column_y in self._columns_here():
            dead |= y - COPTER_HEIGHT <= column_y - CORRIDOR or y >= column_y + CORRIDOR
        reward = 0.0
        for block in list(self.blocks):
            if block[0] <= COPTER_X and len(self.blocks) == 1:
                reward += 1
                self._add_block()
            if block[0] <= -BLOCK_WIDTH:
                self.blocks.remove(block)
        while self.column_x[0] <= -COLUMN_WIDTH:
            reward += 1
            del self.column_x[0], self.column_y[0]
        dead |= y < TOP or y > BOTTOM
        if len(self.column_x) <= NUM_LEFT:
            self._add_terrain(WIDTH)
        return reward + LOSS if dead else reward, dead

    def observation(self) -> np.ndarray:
        """The raw observation, float64 (7,)."""
        y, column_y = self.y, next(self._columns_here())
        x, block_y = min(block for block in self.blocks if block[0] > COPTER_X)
        to_ceiling, to_floor = y - (column_y - CORRIDOR), column_y + CORRIDOR - y
        return np.array([y, self.momentum, to_ceiling, to_floor, x - COPTER_X, block_y, block_y + BLOCK_HEIGHT])

    def picture(self) -> np.ndarray:
        """A picture of the field, uint8 (384, 384, 3): terrain green, blocks orange, the copter white."""
        image = np.full((HEIGHT * PIXELS, WIDTH * PIXELS, 3), (16, 20, 32), dtype=np.uint8)
        for x, y in zip(self.column_x, self.column_y, strict=True):
            paint_rectangle(image, (x, y), (COLUMN_WIDTH, COLUMN_HEIGHT), (88, 152, 72))
            paint_rectangle(image, (x, y), (COLUMN_WIDTH, 2 * CORRIDOR), (16, 20, 32))
        for x, y in self.blocks:
            paint_rectangle(image, (x, y + 0.5), (BLOCK_WIDTH, BLOCK_HEIGHT), (232, 144, 48))  # from y - 4 to y + 5
        paint_rectangle(image, (COPTER_X, self.y), (COPTER_SIZE, COPTER_SIZE), (255, 255, 255))
        return image


@cache
def _timetable() -> tuple[list[tuple[int, int]], list[bool], list[bool], int]:
    """Compute the motion of the columns in each frame since the reset, by scrolling them once.

    Columns move independently of actions and random numbers; only their heights are random. So the frame alone decides
    which columns overlap the copter in x, when one leaves and when new ones come. New columns come when 13 are left,
    always at the same x, so that from the second time on everything repeats.

    A column is named by its slot: slots 13 ... 60 are the newest 48 columns, 0 ... 12 the columns left when these came.

    Returns:
        Four results: for every frame, the slots of the first and last column at the copter's x; whether a column
        leaves; whether 48 new ones come (slots 48 ... 60 then become 0 ... 12). Last, the frame that follows the last.
    """
    fresh = range(NUM_LEFT, NUM_LEFT + NUM_ADDED)
    columns = list(zip(map(float, _new_columns(0)), fresh, strict=True))
    here, leaves, comes, came = [], [False], [False], []
    while True:
        slots = [slot for x, slot in columns if _overlap(x, HEIGHT / 2, COLUMN_WIDTH, COLUMN_HEIGHT, HEIGHT / 2)]
        here.append((slots[0], slots[-1]))
        columns = [(x - SCROLL, slot) for x, slot in columns]
        left = [column for column in columns if column[0] > -COLUMN_WIDTH]
        leaves.append(len(left) < len(columns))  # one at most: they are more than a frame's move apart
        comes.append(len(left) <= NUM_LEFT)
        columns = left
        if comes[-1]:
            came.append(len(here))
            columns = [(x, slot - NUM_ADDED) for x, slot in left]
            columns += zip(map(float, _new_columns(WIDTH)), fresh, strict=True)
            if len(came) == 3:  # the same columns as at the second time
                return here, leaves[:-1], comes[:-1], came[1]


class PixelcopterGames(_Facts):
    """``Pixelcopter`` for B games in lockstep, as tensors on one device, with a random stream for each game.

    The numbers are those of ``Pixelcopter``, bit for bit: float64 sums and products in the same order. Only the last
    bit of a sine may differ between libraries and devices. It enters the height of a column, which is truncated to an
    integer: the two classes agree unless a height lies within 1e-14 of an integer.

    A step computes with 2 blocks and 2 columns per game: ``_timetable`` says which columns matter. 48 new columns come
    in one frame of 297, and only for the games that need them; finding these games synchronizes a GPU twice a step.

    Attributes:
        state: y, momentum: float64 (B,). frame: row of the timetable, int64 (B,). block_x, block_y, passed_x, passed_y:
            position of the next block and of the block passed last, float64 (B,). column_y: y by slot, int8 (B, 61).
            ``step`` and ``reset`` write into these tensors: to keep them, clone them.
    """

    observation_size = 7
    agents_per_game = 1

    @checked()
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        device = streams.state.device
        here, leaves, comes, again = _timetable()
        self._first, self._last = torch.tensor(here, device=device).T.contiguous()  # (F,) each
        self._leaves = torch.tensor(leaves, dtype=torch.float64, device=device)  # (F,), reward for a leaving column
        self._comes = torch.tensor(comes, device=device)  # (F,)
        self._next = torch.tensor([*range(1, len(here)), again], device=device)  # (F,)
        self._push = torch.tensor(PUSHES, dtype=torch.float64, device=device)
        self._new_x = [  # x of new columns, (48,) each: of the first terrain, and of all later ones
            torch.tensor(_new_columns(start), dtype=torch.float64, device=device) for start in (0, WIDTH)
        ]
        middle = torch.full(streams.state.shape, HEIGHT / 2, dtype=torch.float64, device=device)
        self.state = {
            "y": middle.clone(),
            "momentum": torch.zeros_like(middle),
            "frame": torch.zeros_like(streams.state),
            "block_x": torch.full_like(middle, BLOCK_X[0]),
            "block_y": middle.clone(),
            "passed_x": torch.full_like(middle, -BLOCK_WIDTH),
            "passed_y": middle.clone(),
            "column_y": middle.to(torch.int8).unsqueeze(1).repeat(1, NUM_LEFT + NUM_ADDED),
        }

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the games' kernels read of the timetable.

        Returns:
            For each frame the slot of the first and of the last column at the copter, whether new columns come, and the
            frame that follows: int64 (4, F). The reward for a column that leaves, float64 (F,). The x of the new
            columns of the first terrain, and of all later ones: float64 (2, 48).
        """
        timetable = torch.stack([self._first, self._last, self._comes.long(), self._next])
        return timetable, self._leaves, torch.stack(self._new_x)

    def reset(self, which: Tensor) -> None:
        """Begin new games where ``which`` is True, bool (B,)."""
        state, rows = self.state, which.nonzero().squeeze(1)
        if not len(rows):
            return
        drawn = self.streams.draw(rows, 2 + 1 + NUM_ADDED)
        for key, start in (("y", HEIGHT / 2), ("momentum", 0), ("frame", 0), ("passed_x", -BLOCK_WIDTH)):
            state[key].index_fill_(0, rows, start)
        self._set_block(rows, drawn[:, :2])
        self._set_terrain(rows, drawn[:, 2:], self._new_x[0])

    def _set_block(self, rows: Tensor, drawn: Tensor) -> None:
        """Place a new next block in the games ``rows``, (R,), from their random numbers ``drawn``, (R, 2)."""
        for key, (low, high), uniform in zip(("block_x", "block_y"), (BLOCK_X, BLOCK_Y), drawn.unbind(1), strict=True):
            self.state[key].index_copy_(0, rows, (uniform * (high - low)).floor_().add_(low))

    def _set_terrain(self, rows: Tensor, drawn: Tensor, x: Tensor) -> None:
        """Add 48 columns at ``x``, (48,), in the games ``rows``, (R,), from random numbers ``drawn``, (R, 49)."""
        frequency = 4.5 / WIDTH + (-0.01 + 0.02 * drawn[:, :1])
        wave = (frequency * x).add_(drawn[:, 1:], alpha=0.5).sin_()  # (R, 48)
        y = wave.mul_(0.125 * HEIGHT).add_(HEIGHT / 2).to(torch.int8)  # truncated to integers
        self.state["column_y"][:, NUM_LEFT:].index_copy_(0, rows, y)

    def _column_y(self, slots: Tensor) -> Tensor:
        """The y of one column of each game, int8 (B,): the column in slot ``slots[frame]``; ``slots``: (F,)."""
        slot = slots.index_select(0, self.state["frame"])
        return self.state["column_y"].gather(1, slot.unsqueeze(1)).squeeze(1)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Play one frame of all games.

        Args:
            action: actions int64 (B,), 0 to climb, 1 to do nothing; checked by the calling environment.

        Returns:
            Raw reward float64 (B,), and terminated bool (B,).
        """
        state = self.state
        state["momentum"].add_(self._push.index_select(0, action)).mul_(DRAG)
        state["y"].add_(state["momentum"])
        state["block_x"].sub_(SCROLL)
        state["passed_x"].sub_(SCROLL)
        state["frame"].copy_(self._next.index_select(0, state["frame"]))
        reward = self._leaves.index_select(0, state["frame"]) + self._pass_blocks()
        rows = self._comes.index_select(0, state["frame"]).nonzero().squeeze(1)
        if len(rows):
            columns = state["column_y"]
            columns[rows, :NUM_LEFT] = columns[rows, NUM_ADDED:]
            self._set_terrain(rows, self.streams.draw(rows, 1 + NUM_ADDED), self._new_x[1])
        # The original tests this before it adds new blocks and columns, which are too far away to matter.
        dead = self._outside() | self._on_block()
        return reward.add_(dead, alpha=LOSS), dead

    def _outside(self) -> Tensor:
        """Mask of the copters that touch a ceiling or a floor, bool (B,).

        Columns that overlap a copter in x do so in y too, as they are much higher than the field. TOP and BOTTOM need
        no test: beyond them a copter is beyond the ceiling or floor of any column, whose y lies in [18, 30].
        """
        y, first, last = self.state["y"], self._column_y(self._first), self._column_y(self._last)
        ceiling, floor = torch.maximum(first, last) - int(CORRIDOR), torch.minimum(first, last) + int(CORRIDOR)
        return (y - COPTER_HEIGHT <= ceiling) | (y >= floor)

    def _on_block(self) -> Tensor:
        """Mask of the copters that overlap a block, bool (B,).

        With rectangles truncated to integers a block overlaps the copter if its x is in [14, 19) and the copter's y
        less the block's is in [-4, 6). The block passed last has left this range of x before the next one enters it.
        """
        state, y = self.state, self.state["y"]
        passed = state["passed_x"] >= NEAR[0]
        x = torch.where(passed, state["passed_x"], state["block_x"])
        block_y = torch.where(passed, state["passed_y"], state["block_y"])
        return (x >= NEAR[0]) & (x < NEAR[1]) & (y >= block_y + BESIDE[0]) & (y < block_y + BESIDE[1])

    def _pass_blocks(self) -> Tensor:
        """Replace each next block that has been passed by a new one; return the mask of these games, bool (B,).

        The block passed before has then left the field: a new block comes at x >= 48 when the last is at 16 or less, so
        that they are 32 apart, and a block leaves at -4. So there are at most two blocks, and one when one is passed.
        """
        state = self.state
        passed = state["block_x"] <= COPTER_X
        rows = passed.nonzero().squeeze(1)
        if len(rows):
            for now, before in (("block_x", "passed_x"), ("block_y", "passed_y")):
                state[before].index_copy_(0, rows, state[now].index_select(0, rows))
            self._set_block(rows, self.streams.draw(rows, 2))
        return passed

    def observation(self) -> Tensor:
        """The raw observations, float64 (B, 7)."""
        state, y, column_y = self.state, self.state["y"], self._column_y(self._first).double()
        to_ceiling, to_floor = y - (column_y - CORRIDOR), column_y + CORRIDOR - y
        to_block, block_y = state["block_x"] - COPTER_X, state["block_y"]
        columns = [y, state["momentum"], to_ceiling, to_floor, to_block, block_y, block_y + BLOCK_HEIGHT]
        return torch.stack(columns).T  # ten times as fast as stacking along the last axis
