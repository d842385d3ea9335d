"""Pong with game-state observations, after the PyGame Learning Environment: one game, and many at once as tensors.

The table has 64 x 48 pixels, y downwards, and 30 frames a second. The player on the left accelerates its paddle up or
down; the computer on the right follows the approaching ball. The first with 11 points wins. The two classes have the
same rules, and the same bits on the same random streams:

>>> game = Pong(Stream(0))
>>> game.reset()
>>> game.step(UP)
(0.0, False)
>>> games = PongGames(Streams(torch.tensor([0, 1])))
>>> games.reset(torch.ones(2, dtype=torch.bool))
>>> reward, terminated = games.step(torch.tensor([UP, DOWN]))
>>> games.observation()[0].tolist() == game.observation().tolist()
True

The reward is +1 or -1 per point, and another +5 or -5 for the game. So returns lie in [-16, 16]; a random player's are
close to -16. Times ``reward_scale``, 1/16, they lie in [-1, 1]. Table I of "Honey, I Shrunk The Actor"
(Mysore et al. 2021) does not say how it scaled rewards; with this scale its thresholds 0.90 and 0.80 mean games won by
11 points to 1 or 2, and to 3.

The original has no time limit. Here a game is cut after 100,000 frames. A player who knows where the ball will arrive
and hits it as hard as possible wins 60 of 60 games, in 4,599 to 7,140 frames. One who only follows the ball, as agents
learn to, wins in 28,000 to 44,000 frames. So 10,000 frames, the limit in decouple 0.1, were too few.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decouple.checks import checked
from decouple.envs.games.pictures import PIXELS, paint_rectangle
from decouple.envs.games.streams import Stream, Streams

__all__ = ["DOWN", "NOOP", "UP", "Pong", "PongGames"]

UP, DOWN, NOOP = 0, 1, 2
W, H = 64.0, 48.0  # width and height of the table, pixels
DT = (1000 / 30) / 1000  # seconds per frame
RADIUS = 1.0  # radius of the ball
REACH = 7.0 / 2  # half of a paddle's height
PADDLE = 1.0  # a paddle's width
PLAYER_X, CPU_X = 4.0, W - 4.0  # x of the paddles' middles
PLAYER_FACE, CPU_FACE = PLAYER_X + PADDLE / 2, CPU_X - PADDLE / 2  # x at which a paddle hits the ball
BALL_SPEED = 0.75 * H  # pixels per second
PUSH = 0.4 * H * DT  # change of the player's velocity by a frame of up or down, pixels per frame
CHASE = 0.6 * H * DT  # speed of the computer's paddle, pixels per frame
DRIFT = 0.6 * H / 4 * DT  # the same while the ball moves away
KICK = 0.05 * BALL_SPEED  # number added by a hit to the velocity in x, before its sign is reversed
FASTEST = BALL_SPEED + 2 * KICK  # largest speed in x: the player's hits slow the ball down, the computer's speed it up
FRICTION, BOUNCE = 0.9, -0.99
TOP, BOTTOM = REACH, H - REACH  # bounds of a paddle's middle, y
WINNING_SCORE, WINNING_REWARD = 11, 5.0

PUSHES = (-PUSH, PUSH, 0.0)  # push of each action
PLAYER_SPEED = 9 * PUSH  # largest speed of the player's paddle, from v = 0.9 (v + PUSH)
OBSERVATION_SCALE = np.array([1 / H, 1 / PLAYER_SPEED, 1 / H, 1 / W, 1 / H, 1 / BALL_SPEED, 1 / BALL_SPEED])


def _crosses(x: float, y: float, to_x: float, to_y: float, face: float, paddle: float) -> bool:
    """Whether the ball's path crosses the face of a paddle, end points included.

    The parameters of both line segments at their crossing must lie in [0, 1].
    """
    along_x, along_y, height = to_x - x, to_y - y, (paddle + REACH) - (paddle - REACH)
    denominator = along_x * height
    if denominator == 0:
        return False
    from_x, from_y = x - face, y - (paddle - REACH)
    on_paddle = (along_x * from_y - along_y * from_x) / denominator
    return 0 <= on_paddle <= 1 and 0 <= -(height * from_x) / denominator <= 1


class _Facts:
    """Constants of both classes."""

    num_actions = 3
    observation_scale = OBSERVATION_SCALE
    max_episode_steps = 100_000
    reward_scale = 1 / 16


class Pong(_Facts):
    """One game in plain numbers.

    Observation, 7 numbers: the player's y and velocity (pixels per frame), the computer's y, the ball's x and y, its
    velocity in x and y (pixels per second). Actions: 0 up, 1 down, 2 nothing.

    Attributes:
        stream: random numbers of the game. A reset draws two, a hit one, a serve one.
        player_score, cpu_score: points.
    """

    # A ball that passes a paddle is served again before it is observed. Its y and its velocity in y have no bounds:
    # every hit of the player may add to the velocity.
    observation_low = np.array([TOP, -PLAYER_SPEED, TOP - CHASE, 0, -np.inf, -FASTEST, -np.inf])
    observation_high = np.array([BOTTOM, PLAYER_SPEED, BOTTOM + CHASE, W, np.inf, FASTEST, np.inf])
    render_fps = 30

    @checked()
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def reset(self) -> None:
        """Begin a new game."""
        self.player_score = self.cpu_score = 0
        self.player_y = self.cpu_y = H / 2
        self.player_velocity = 0.0
        self.ball_y = H / 2
        self._serve(1.0 if self.stream.uniform() > 0.5 else -1.0)

    def _serve(self, direction: float) -> None:
        """Serve the ball from the middle, at its present height."""
        self.ball_x, self.ball_vx = W / 2, BALL_SPEED * direction
        self.ball_vy = self.stream.uniform() * BALL_SPEED - 0.5 * BALL_SPEED

    def step(self, action: int) -> tuple[float, bool]:
        """Play one frame; return the reward, and whether the game is over."""
        self._move_ball()
        if self.ball_x <= 0:
            self.cpu_score += 1
            self._serve(-1.0)
            over = self.cpu_score == WINNING_SCORE
            return -1.0 - WINNING_REWARD if over else -1.0, over
        if self.ball_x >= W:
            self.player_score += 1
            self._serve(1.0)
            over = self.player_score == WINNING_SCORE
            return 1.0 + WINNING_REWARD if over else 1.0, over
        self._move_player(action)
        self._move_cpu()
        return 0.0, False

    def _move_ball(self) -> None:
        # The original remembers the ball's position before a serve, but reads it only near a paddle, where no serve
        # begins. So the position at the start of this frame is enough.
        before_x, before_y = self.ball_x, self.ball_y
        x, y = before_x + self.ball_vx * DT, before_y + self.ball_vy * DT
        if x <= PLAYER_X + PADDLE and _crosses(before_x, before_y, x, y, PLAYER_FACE, self.player_y):
            x = max(0.0, x) + RADIUS
            self.ball_vx = -(self.ball_vx + KICK)
            self.ball_vy += 2 * self.player_velocity
            self.ball_vy += self.stream.uniform() * 0.001 - 0.0005
        elif x >= CPU_X - PADDLE and _crosses(before_x, before_y, x, y, CPU_FACE, self.cpu_y):
            x = min(W, x) - RADIUS
            self.ball_vx = -(self.ball_vx + KICK)
            self.ball_vy += self.stream.uniform() * 0.001 - 0.0005
        if y - RADIUS <= 0:
            self.ball_vy *= BOUNCE
            y += 1.0
        if y + RADIUS >= H:
            self.ball_vy *= BOUNCE
            y -= 1.0
        self.ball_x, self.ball_y = x, y

    def _move_player(self, action: int) -> None:
        self.player_velocity = (self.player_velocity + PUSHES[action]) * FRICTION
        self.player_y += self.player_velocity
        if self.player_y <= TOP or self.player_y >= BOTTOM:
            self.player_y = TOP if self.player_y <= TOP else BOTTOM
            self.player_velocity = 0.0

    def _move_cpu(self) -> None:
        chases = self.ball_vx >= 0 and self.ball_x >= W / 2
        goal, distance = (self.ball_y, CHASE) if chases else (H / 2, DRIFT)
        down = self.cpu_y <= goal
        # Clamped before it moves, so that it may end up to one frame's move beyond the edge.
        self.cpu_y = min(max(self.cpu_y, TOP), BOTTOM) + (distance if down else -distance)

    def observation(self) -> np.ndarray:
        """The observation, float64 (7,)."""
        ball = (self.ball_x, self.ball_y, self.ball_vx, self.ball_vy)
        return np.array((self.player_y, self.player_velocity, self.cpu_y, *ball))

    def picture(self) -> np.ndarray:
        """A picture of the table, with 8 x 8 pixels for one of the game: uint8 (384, 512, 3)."""
        table = np.full((int(H) * PIXELS, int(W) * PIXELS, 3), (30, 30, 30), dtype=np.uint8)
        paint_rectangle(table, (W / 2, H / 2), (0.25, H), (70, 70, 70))
        paint_rectangle(table, (PLAYER_X, self.player_y), (PADDLE, 2 * REACH), (120, 200, 255))
        paint_rectangle(table, (CPU_X, self.cpu_y), (PADDLE, 2 * REACH), (255, 160, 120))
        paint_rectangle(table, (self.ball_x, self.ball_y), (2 * RADIUS, 2 * RADIUS), (255, 255, 255))
        for score, right, colour in (
            (self.player_score, -1, (120, 200, 255)),
            (self.cpu_score, 1, (255, 160, 120)),
        ):
            for point in range(score):  # one mark per point, from the middle outwards
                paint_rectangle(table, (W / 2 + right * (2 + 2 * point), 1.5), (1, 1), colour)
        return table


class PongGames(_Facts):
    """B games in lockstep, in tensors on the device of their streams, equal to ``Pong`` bit for bit.

    Attributes:
        streams: random streams of the B games. A game's reset draws two numbers, a hit one, a serve one.
        state: ``numbers`` float64 (B, 9): the observation of ``Pong``, the player's score and the computer's score.
            Changed in place.
    """

    observation_size = 7
    agents_per_game = 1

    @checked()
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        B, device = len(streams.state), streams.state.device
        # One row per number, because a step works on all games' x at once, and moves x and y together.
        self._numbers = torch.zeros(9, B, dtype=torch.float64, device=device)
        self.state = {"numbers": self._numbers.T}
        # In nine of ten games the ball flies freely and only the paddles move. Selecting the others synchronizes a GPU;
        # on the CPU it doubles the frames per second of 16,000 games.
        self._picks = self._numbers.is_cpu
        # As tensors, because torch.where of two plain numbers returns float32.
        values = {"push": PUSHES, "face": PLAYER_FACE, "radius": RADIUS, "chase": CHASE, "speed": BALL_SPEED}
        self._constant = {key: torch.tensor(value, dtype=torch.float64, device=device) for key, value in values.items()}

    def reset(self, which: Tensor) -> None:
        """Begin new games where ``which`` is True, bool (B,)."""
        rows = which.nonzero().squeeze(1)  # (R,)
        side, height = self.streams.draw(rows, 2).unbind(1)
        speed = self._constant["speed"]
        new = torch.zeros(9, len(rows), dtype=torch.float64, device=which.device)
        new[0] = new[2] = new[4] = H / 2
        new[3] = W / 2
        new[5] = torch.where(side > 0.5, speed, -speed)
        new[6] = height * BALL_SPEED - 0.5 * BALL_SPEED
        self._numbers.index_copy_(1, rows, new)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Play one frame of every game.

        Args:
            action: actions int64 (B,): 0 up, 1 down, 2 nothing.

        Returns:
            Reward float64 (B,), and terminated bool (B,), True where a game is over.
        """
        numbers, push = self._numbers, self._constant["push"].index_select(0, action)
        before = numbers[3:5].clone()  # (2, B)
        numbers[3:5] += numbers[5:7] * DT
        if not self._picks:
            still = numbers[:3].clone()
            reward, over, point = self._play(numbers, before, None)
            self._move_paddles(push)
            numbers[:3] = torch.where(point, still, numbers[:3])
            return reward, over
        rows = self._events().nonzero().squeeze(1)  # (R,)
        events = numbers.index_select(1, rows)
        rewards, ends, point = self._play(events, before.index_select(1, rows), rows)
        numbers[3:].index_copy_(1, rows, events[3:])
        self._move_paddles(push)
        points = point.nonzero().squeeze(1)
        numbers[:3].index_copy_(1, rows.index_select(0, points), events[:3].index_select(1, points))
        reward = torch.zeros(len(action), dtype=torch.float64).index_copy_(0, rows, rewards)
        return reward, torch.zeros(len(action), dtype=torch.bool).index_copy_(0, rows, ends)

    def _events(self) -> Tensor:
        """A mask, bool (B,), of all games in which the ball met a paddle, a wall or an end, and of a few more."""
        x, y = self._numbers[3:5]
        from_middle = (x - W / 2).abs_()
        face = (from_middle >= CPU_X - PADDLE - W / 2) & (from_middle <= CPU_FACE - W / 2 + FASTEST * DT)
        return face | (from_middle >= W / 2) | ((y - H / 2).abs_() >= H / 2 - RADIUS)

    def _play(self, numbers: Tensor, before: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Apply hits, bounces and points after the ball has moved from ``before``, (2, R).

        ``numbers``, (9, R), are those of the games ``rows``, None: of all games. Returns reward, terminated and
        point (True where a point was scored), (R,) each.
        """
        _, velocity, _, x, y, vx, vy, _, _ = numbers.unbind()
        hit, left = self._hit(numbers, before)
        lost, won = x <= 0, x >= W
        point = lost | won
        drawn = self._draw(hit | point, rows)  # never both: a ball that was hit is in the field
        struck = torch.where(left, vy + 2 * velocity, vy).add_(drawn * 0.001 - 0.0005)
        torch.where(hit, struck, vy, out=vy)
        top, bottom = y <= RADIUS, y >= H - RADIUS
        torch.where(top | bottom, vy * BOUNCE, vy, out=vy)
        y.add_(top).add_(bottom, alpha=-1)
        x.masked_fill_(point, W / 2)
        vx.masked_fill_(won, BALL_SPEED).masked_fill_(lost, -BALL_SPEED)
        torch.where(point, drawn * BALL_SPEED - 0.5 * BALL_SPEED, vy, out=vy)
        gains = torch.stack([won, lost]).double()  # (2, R): the player's and the computer's
        numbers[7:] += gains
        beaten = numbers[7:] == WINNING_SCORE
        gains.add_(beaten, alpha=WINNING_REWARD)
        return gains[0] - gains[1], beaten.any(0), point

    def _hit(self, numbers: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Apply hits to x and its velocity; return masks of hits, and of balls in the left half."""
        player_y, _, cpu_y, x, _, vx = numbers[:6]
        left = x < W / 2
        hit = (x <= PLAYER_X + PADDLE) | (x >= CPU_X - PADDLE)
        face = torch.where(left, self._constant["face"], CPU_FACE)
        hit &= _cross(before, numbers[3:5], face, torch.where(left, player_y, cpu_y))
        away = torch.where(left, self._constant["radius"], -RADIUS)
        torch.where(hit, x.clamp(0, W).add_(away), x, out=x)
        torch.where(hit, -(vx + KICK), vx, out=vx)
        return hit, left

    def _draw(self, which: Tensor, rows: Tensor | None) -> Tensor:
        """Draw a random number for each game in ``which``: (R,)."""
        if rows is None:
            return self.streams.uniform(which).squeeze(1)
        picked = which.nonzero().squeeze(1)
        drawn = self.streams.draw(rows.index_select(0, picked)).squeeze(1)
        return torch.zeros(len(rows), dtype=torch.float64).index_copy_(0, picked, drawn)

    def _move_paddles(self, push: Tensor) -> None:
        player_y, velocity, cpu_y, x, y, vx = self._numbers[:6]
        velocity.add_(push).mul_(FRICTION)
        player_y += velocity
        velocity.masked_fill_((player_y <= TOP) | (player_y >= BOTTOM), 0)
        player_y.clamp_(TOP, BOTTOM)
        chases = (vx >= 0) & (x >= W / 2)
        way = torch.where(chases, y, H / 2).sub_(cpu_y)  # 0 counts as down
        distance = torch.where(chases, self._constant["chase"], DRIFT)
        cpu_y.clamp_(TOP, BOTTOM).add_(distance.copysign_(way))

    def observation(self) -> Tensor:
        """The observations, float64 (B, 7), in memory that the next step changes."""
        return self._numbers[:7].T


def _cross(before: Tensor, after: Tensor, face: Tensor, paddle: Tensor) -> Tensor:
    """``_crosses`` for points (2, R) and numbers (R,). Without motion in x parameters are NaN or inf: no crossing."""
    along_x, along_y = after - before
    top = paddle - REACH
    height = (paddle + REACH) - top
    denominator = along_x * height
    from_x, from_y = before[0] - face, before[1] - top
    parameters = torch.stack([along_x * from_y - along_y * from_x, -(height * from_x)]).div_(denominator)  # (2, R)
    return (parameters.clamp(0, 1) == parameters).all(0)
