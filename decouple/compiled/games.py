"""Pong and Pixelcopter as kernels: one call steps all games of an environment, with torch's numbers to the bit.

Kernels write into the state that ``PongGames`` and ``PixelcopterGames`` hold as tensors (decouple/envs/games), whose
rules they repeat; those files say why a rule is as it is. A rule's numbers are given by the caller, so that each has
one place: ``facts``, in the order of the names below.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray

from decouple.compiled.kernel import exact_kernel
from decouple.compiled.places import pointer
from decouple.seeding import FIRST, GAMMA, SECOND

__all__: list[str] = []  # kernels are called by environments and by each other

PONG_FACTS = (
    "W", "H", "DT", "RADIUS", "REACH", "PADDLE", "PLAYER_X", "CPU_X", "PLAYER_FACE", "CPU_FACE", "BALL_SPEED", "CHASE",
    "DRIFT", "KICK", "FASTEST", "FRICTION", "BOUNCE", "TOP", "BOTTOM", "WINNING_SCORE", "WINNING_REWARD",
)  # fmt: skip
(
    W, H, DT, RADIUS, REACH, PADDLE, PLAYER_X, CPU_X, PLAYER_FACE, CPU_FACE, BALL_SPEED, CHASE,
    DRIFT, KICK, FASTEST, FRICTION, BOUNCE, TOP, BOTTOM, WINNING_SCORE, WINNING_REWARD,
) = range(len(PONG_FACTS))  # fmt: skip
PLAYER_Y, VELOCITY, CPU_Y, X, Y, VX, VY, PLAYER_SCORE, CPU_SCORE = range(9)  # rows of Pong's numbers

PIXELCOPTER_FACTS = (
    "WIDTH", "HEIGHT", "SCROLL", "DRAG", "COPTER_X", "COPTER_HEIGHT", "BLOCK_WIDTH", "BLOCK_HEIGHT", "BLOCK_X_LOW",
    "BLOCK_X_HIGH", "BLOCK_Y_LOW", "BLOCK_Y_HIGH", "NEAR_LOW", "NEAR_HIGH", "BESIDE_LOW", "BESIDE_HIGH", "CORRIDOR",
    "LOSS",
)  # fmt: skip
(
    WIDTH, HEIGHT, SCROLL, DRAG, COPTER_X, COPTER_HEIGHT, BLOCK_WIDTH, BLOCK_HEIGHT, BLOCK_X_LOW,
    BLOCK_X_HIGH, BLOCK_Y_LOW, BLOCK_Y_HIGH, NEAR_LOW, NEAR_HIGH, BESIDE_LOW, BESIDE_HIGH, CORRIDOR,
    LOSS,
) = range(len(PIXELCOPTER_FACTS))  # fmt: skip
COPTER_Y, MOMENTUM, BLOCK_AT_X, BLOCK_AT_Y, PASSED_X, PASSED_Y = range(6)  # Pixelcopter's numbers, as they are given

STEP, FIRST_FACTOR, SECOND_FACTOR = np.uint64(GAMMA), np.uint64(FIRST), np.uint64(SECOND)
UNIT = 2.0**-53


@exact_kernel
def uniform(streams, game):
    """The next number of a game's stream, as ``Stream.uniform``. ``streams``: uint64 (B,)."""
    z = streams[game] + STEP
    streams[game] = z
    z = (z ^ (z >> np.uint64(30))) * FIRST_FACTOR
    z = (z ^ (z >> np.uint64(27))) * SECOND_FACTOR
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * UNIT


# ---------------------------------------------------------------------------------------------------------------- Pong


@exact_kernel
def pong_reset(which, facts, numbers, streams):
    """Begin new games where ``which``, bool (B,)."""
    for game in range(which.shape[0]):
        if which[game]:
            side = uniform(streams, game)
            height = uniform(streams, game)
            speed = facts[BALL_SPEED]
            numbers[:, game] = 0.0
            numbers[PLAYER_Y, game] = numbers[CPU_Y, game] = numbers[Y, game] = facts[H] / 2
            numbers[X, game] = facts[W] / 2
            numbers[VX, game] = speed if side > 0.5 else -speed
            numbers[VY, game] = height * speed - 0.5 * speed


@exact_kernel
def pong_step(actions, frames, facts, pushes, numbers, streams, rewards, over):
    """Play ``frames`` frames of every game with one action, or fewer until a game is over.

    Args:
        actions: int64 (B,); frames: >= 1.
        facts, pushes: numbers of the rules; push of each action, (3,).
        numbers: state, float64 (9, B). streams: uint64 (B,). Both are written into.
        rewards, over: results, float64 (B,) and bool (B,).
    """
    games = actions.shape[0]
    from_x, from_y = np.empty(games), np.empty(games)
    event, still = np.empty(games, dtype=np.bool_), np.empty(games, dtype=np.bool_)
    rewards[:], over[:] = 0.0, False
    for _ in range(frames):
        pong_ball(facts, numbers, from_x, from_y, event)
        for game in range(games):
            still[game] = over[game]
            if over[game]:
                numbers[X, game], numbers[Y, game] = from_x[game], from_y[game]
            elif event[game]:
                reward, ended, point = pong_event(game, from_x[game], from_y[game], facts, numbers, streams)
                rewards[game] += reward
                over[game], still[game] = ended, point
        pong_paddles(actions, still, facts, pushes, numbers)


@exact_kernel
def chosen(pushes, action):
    """The push of an action; the last one's for an action that there is not."""
    last = pushes.shape[0] - 1
    return pushes[action] if 0 <= action < last else pushes[last]


@exact_kernel
def pong_ball(facts, numbers, from_x, from_y, event):
    """Move the balls; ``event``: where one may have met a paddle, a wall or an end. All games at once, as vector code.

    Args:
        from_x, from_y: results, where the balls were, (B,). event: result, bool (B,).
    """
    middle_x, middle_y = facts[W] / 2, facts[H] / 2
    first, last = facts[CPU_X] - facts[PADDLE] - middle_x, facts[CPU_FACE] - middle_x + facts[FASTEST] * facts[DT]
    for game in range(event.shape[0]):
        from_x[game], from_y[game] = numbers[X, game], numbers[Y, game]
        x = from_x[game] + numbers[VX, game] * facts[DT]
        y = from_y[game] + numbers[VY, game] * facts[DT]
        numbers[X, game], numbers[Y, game] = x, y
        aside = abs(x - middle_x)
        at_face = (aside >= first) & (aside <= last)
        event[game] = at_face | (aside >= middle_x) | (abs(y - middle_y) >= middle_y - facts[RADIUS])


@exact_kernel
def pong_event(game, from_x, from_y, facts, numbers, streams):
    """Apply hits, bounces and points after the ball has moved; reward, whether the game is over, whether one scored."""
    x, y, vx, vy = numbers[X, game], numbers[Y, game], numbers[VX, game], numbers[VY, game]
    left = x < facts[W] / 2
    face, paddle = (facts[PLAYER_FACE], numbers[PLAYER_Y, game]) if left else (facts[CPU_FACE], numbers[CPU_Y, game])
    near = x <= facts[PLAYER_X] + facts[PADDLE] or x >= facts[CPU_X] - facts[PADDLE]
    hit = near and pong_crosses(from_x, from_y, x, y, face, paddle, facts[REACH])
    if hit:
        x = min(max(x, 0.0), facts[W]) + (facts[RADIUS] if left else -facts[RADIUS])
        vx = -(vx + facts[KICK])
    lost, won = x <= 0, x >= facts[W]
    point = lost or won
    drawn = uniform(streams, game) if hit or point else 0.0
    if hit:
        vy = (vy + 2 * numbers[VELOCITY, game] if left else vy) + (drawn * 0.001 - 0.0005)
    top, bottom = y <= facts[RADIUS], y >= facts[H] - facts[RADIUS]
    if top or bottom:
        vy *= facts[BOUNCE]
    if top:
        y += 1.0
    if bottom:
        y -= 1.0
    if point:
        x = facts[W] / 2
        vx = -facts[BALL_SPEED] if lost else facts[BALL_SPEED]
        vy = drawn * facts[BALL_SPEED] - 0.5 * facts[BALL_SPEED]
    numbers[X, game], numbers[Y, game], numbers[VX, game], numbers[VY, game] = x, y, vx, vy
    numbers[PLAYER_SCORE, game] += won
    numbers[CPU_SCORE, game] += lost
    player_won = numbers[PLAYER_SCORE, game] == facts[WINNING_SCORE]
    cpu_won = numbers[CPU_SCORE, game] == facts[WINNING_SCORE]
    reward = (won + facts[WINNING_REWARD] * player_won) - (lost + facts[WINNING_REWARD] * cpu_won)
    return reward, player_won or cpu_won, point


@exact_kernel
def pong_crosses(from_x, from_y, x, y, face, paddle, reach):
    """Whether the ball's path crosses the face of a paddle; without motion in x numbers are NaN or inf: it does not."""
    along_x, along_y = x - from_x, y - from_y
    top = paddle - reach
    height = (paddle + reach) - top
    denominator = along_x * height
    before_x, before_y = from_x - face, from_y - top
    on_paddle = (along_x * before_y - along_y * before_x) / denominator
    on_path = -(height * before_x) / denominator
    return 0 <= on_paddle <= 1 and 0 <= on_path <= 1


@exact_kernel
def pong_paddles(actions, still, facts, pushes, numbers):
    """Move both paddles where not ``still``, bool (B,). All games at once, as vector code."""
    top, bottom = facts[TOP], facts[BOTTOM]
    for game in range(actions.shape[0]):
        old_velocity, old_y, cpu_y = numbers[VELOCITY, game], numbers[PLAYER_Y, game], numbers[CPU_Y, game]
        velocity = (old_velocity + chosen(pushes, actions[game])) * facts[FRICTION]
        player_y = old_y + velocity
        stops = (player_y <= top) | (player_y >= bottom)
        chases = (numbers[VX, game] >= 0) & (numbers[X, game] >= facts[W] / 2)
        goal = numbers[Y, game] if chases else facts[H] / 2
        distance = facts[CHASE] if chases else facts[DRIFT]
        following = clamped(cpu_y, top, bottom) + math.copysign(distance, goal - cpu_y)
        numbers[VELOCITY, game] = old_velocity if still[game] else (0.0 if stops else velocity)
        numbers[PLAYER_Y, game] = old_y if still[game] else clamped(player_y, top, bottom)
        numbers[CPU_Y, game] = cpu_y if still[game] else following


@exact_kernel
def clamped(number, low, high):
    number = low if number < low else number
    return high if number > high else number


@exact_kernel
def pong_play(places, first, last, action, observation, reward, terminated):
    """A step of the games from ``first`` to ``last``, as ``compiled.playing.Playing.play``.

    ``places``: the number of all games, and ``frames``; where facts, pushes, numbers, streams and scale lie.
    """
    games, frames = places[0], places[1]
    facts = carray(pointer(places[2]), len(PONG_FACTS), np.float64)
    pushes = carray(pointer(places[3]), 3, np.float64)
    numbers = carray(pointer(places[4]), (9, games), np.float64)[:, first:last]
    streams = carray(pointer(places[5]), games, np.uint64)[first:last]
    pong_step(action.reshape(len(action)), frames, facts, pushes, numbers, streams, reward, terminated)
    pong_observe(numbers, carray(pointer(places[6]), 7, np.float64), observation)


@exact_kernel
def pong_observe(numbers, scale, shown):
    """Observations float32 (B, 7) into ``shown``; ``scale``: float64 (7,)."""
    for game in range(shown.shape[0]):
        for j in range(shown.shape[1]):
            shown[game, j] = numbers[j, game] * scale[j]


# --------------------------------------------------------------------------------------------------------- Pixelcopter


@exact_kernel
def pixelcopter_reset(which, facts, new_x, y, momentum, frame, block_x, block_y, passed_x, column_y, streams):
    """Begin new games where ``which``, bool (B,)."""
    for game in range(which.shape[0]):
        if which[game]:
            y[game], momentum[game], frame[game] = facts[HEIGHT] / 2, 0.0, 0
            passed_x[game] = -facts[BLOCK_WIDTH]
            set_block(game, facts, block_x, block_y, streams)
            set_terrain(game, facts, new_x[0], column_y, streams)


@exact_kernel
def set_block(game, facts, block_x, block_y, streams):
    """Place a new next block."""
    across = facts[BLOCK_X_HIGH] - facts[BLOCK_X_LOW]
    down = facts[BLOCK_Y_HIGH] - facts[BLOCK_Y_LOW]
    block_x[game] = math.floor(uniform(streams, game) * across) + facts[BLOCK_X_LOW]
    block_y[game] = math.floor(uniform(streams, game) * down) + facts[BLOCK_Y_LOW]


@exact_kernel
def set_terrain(game, facts, new_x, column_y, streams):
    """Add new columns at ``new_x`` in a game's last slots."""
    first = column_y.shape[1] - new_x.shape[0]
    frequency = 4.5 / facts[WIDTH] + (-0.01 + 0.02 * uniform(streams, game))
    for index in range(new_x.shape[0]):
        wave = math.sin(frequency * new_x[index] + 0.5 * uniform(streams, game))
        column_y[game, first + index] = np.int8(wave * (0.125 * facts[HEIGHT]) + facts[HEIGHT] / 2)


@exact_kernel
def pixelcopter_step(
    actions, frames, facts, pushes, timetable, leaves, new_x,
    y, momentum, frame, block_x, block_y, passed_x, passed_y, column_y, streams, rewards, over,
):  # fmt: skip
    """Play ``frames`` frames of every game with one action, or fewer until a game is over.

    Args:
        actions: int64 (B,); frames: >= 1.
        facts, pushes: numbers of the rules; push of each action, (2,).
        timetable: for each frame: slot of the first and of the last column at the copter, whether new columns come, and
            the frame that follows: int64 (4, F). leaves: reward for a column that leaves, float64 (F,).
        new_x: x of the new columns of the first terrain and of all later ones, (2, 48).
        y, ..., column_y: state, as ``PixelcopterGames.state``. streams: uint64 (B,). All are written into.
        rewards, over: results, float64 (B,) and bool (B,).
    """
    added = new_x.shape[1]
    for game in range(actions.shape[0]):
        push = chosen(pushes, actions[game])
        total, dead = 0.0, False
        for _ in range(frames):
            momentum[game] = (momentum[game] + push) * facts[DRAG]
            y[game] += momentum[game]
            block_x[game] -= facts[SCROLL]
            passed_x[game] -= facts[SCROLL]
            now = timetable[3, frame[game]]
            frame[game] = now
            reward = leaves[now]
            if block_x[game] <= facts[COPTER_X]:
                reward += 1.0
                passed_x[game], passed_y[game] = block_x[game], block_y[game]
                set_block(game, facts, block_x, block_y, streams)
            if timetable[2, now]:
                for slot in range(column_y.shape[1] - added):
                    column_y[game, slot] = column_y[game, added + slot]
                set_terrain(game, facts, new_x[1], column_y, streams)
            first, last = column_y[game, timetable[0, now]], column_y[game, timetable[1, now]]
            outside = (
                y[game] - facts[COPTER_HEIGHT] <= max(first, last) - facts[CORRIDOR]
                or y[game] >= min(first, last) + facts[CORRIDOR]
            )
            near_x, near_y = block_x[game], block_y[game]
            if passed_x[game] >= facts[NEAR_LOW]:
                near_x, near_y = passed_x[game], passed_y[game]
            across = facts[NEAR_LOW] <= near_x < facts[NEAR_HIGH]
            down = near_y + facts[BESIDE_LOW] <= y[game] < near_y + facts[BESIDE_HIGH]
            dead = outside or (across and down)
            total += reward + facts[LOSS] if dead else reward
            if dead:
                break
        rewards[game], over[game] = total, dead


@exact_kernel
def pixelcopter_play(places, first, last, action, observation, reward, terminated):
    """As ``pong_play``.

    ``places``: the number of all games, ``frames``, the timetable's, a game's columns and those that are added; where
    facts, pushes, timetable, leaves, new_x, the state from y to column_y, streams and scale lie.
    """
    games, frames, rows, columns, added = places[0], places[1], places[2], places[3], places[4]
    facts = carray(pointer(places[5]), len(PIXELCOPTER_FACTS), np.float64)
    pushes = carray(pointer(places[6]), 2, np.float64)
    timetable = carray(pointer(places[7]), (4, rows), np.int64)
    leaves = carray(pointer(places[8]), rows, np.float64)
    new_x = carray(pointer(places[9]), (2, added), np.float64)
    y = carray(pointer(places[10]), games, np.float64)[first:last]
    momentum = carray(pointer(places[11]), games, np.float64)[first:last]
    frame = carray(pointer(places[12]), games, np.int64)[first:last]
    block_x = carray(pointer(places[13]), games, np.float64)[first:last]
    block_y = carray(pointer(places[14]), games, np.float64)[first:last]
    passed_x = carray(pointer(places[15]), games, np.float64)[first:last]
    passed_y = carray(pointer(places[16]), games, np.float64)[first:last]
    column_y = carray(pointer(places[17]), (games, columns), np.int8)[first:last]
    streams = carray(pointer(places[18]), games, np.uint64)[first:last]
    scale = carray(pointer(places[19]), 7, np.float64)
    pixelcopter_step(
        action.reshape(len(action)), frames, facts, pushes, timetable, leaves, new_x, y, momentum, frame, block_x,
        block_y, passed_x, passed_y, column_y, streams, reward, terminated,
    )  # fmt: skip
    pixelcopter_observe(facts, timetable, y, momentum, frame, block_x, block_y, column_y, scale, observation)


@exact_kernel
def pixelcopter_observe(facts, timetable, y, momentum, frame, block_x, block_y, column_y, scale, shown):
    """Observations float32 (B, 7) into ``shown``; ``scale``: float64 (7,)."""
    for game in range(shown.shape[0]):
        here = np.float64(column_y[game, timetable[0, frame[game]]])
        shown[game, 0] = y[game] * scale[0]
        shown[game, 1] = momentum[game] * scale[1]
        shown[game, 2] = (y[game] - (here - facts[CORRIDOR])) * scale[2]
        shown[game, 3] = (here + facts[CORRIDOR] - y[game]) * scale[3]
        shown[game, 4] = (block_x[game] - facts[COPTER_X]) * scale[4]
        shown[game, 5] = block_y[game] * scale[5]
        shown[game, 6] = (block_y[game] + facts[BLOCK_HEIGHT]) * scale[6]


# ------------------------------------------------------------------------------------------------------- bookkeeping


@exact_kernel
def may_step(actions, number, terminated, truncated):
    """Whether all actions lie in [0, ``number``) and no episode has ended."""
    for game in range(actions.shape[0]):
        if not 0 <= actions[game] < number or terminated[game] or truncated[game]:
            return False
    return True


@exact_kernel
def count_step(rewards, terminated, reward_scale, limit, total, steps, new_total, new_steps, truncated, shown, done):
    """Count a step into the running episodes, in new arrays, and say what is shown of it; return whether any has ended.

    Args:
        rewards, terminated: what the rules gave, (B,).
        reward_scale: factor of the rewards that are shown. limit: steps of an episode.
        total, steps: running episodes' rewards, float64 (B,), and steps, int64 (B,); kept.
        new_total, new_steps, truncated: results, (B,).
        shown: results float32 (2, B): the reward, scaled, and the episode's rewards. done: result, bool (B,).
    """
    ended = False
    for game in range(rewards.shape[0]):
        new_total[game] = total[game] + rewards[game]
        new_steps[game] = steps[game] + 1
        truncated[game] = new_steps[game] >= limit
        done[game] = terminated[game] or truncated[game]
        ended = ended or done[game]
        shown[0, game] = rewards[game] * reward_scale
        shown[1, game] = new_total[game]
    return ended
