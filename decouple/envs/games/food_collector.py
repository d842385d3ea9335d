"""Food Collector after Unity's ML-Agents: five agents gather good food, avoid bad food and freeze each other.

``FoodCollector`` is one field in NumPy, written directly from the rules: agent 0 is the learner, the other four act at
random. ``FoodCollectorGames`` in ``decouple.envs.games.food_collector_games`` steps thousands of fields at once as
tensors, with five learners each. From the same random streams both have the same motion, bit for bit.

    game = FoodCollector(Stream(stream_seed(0, 0)))
    game.reset()
    reward, terminated = game.step([1.0, 0.0, 0.3, -1.0])  # forward, to the right, turn to the left, shoot if > 0
    game.observation()

A field of 100 x 100 units between walls holds 25 pieces of good food, reward +1 when touched, and 25 of bad food,
reward -1. A touched piece moves at once to a new random place. An episode has 1,000 decisions of 0.1 s, each of five
physics steps with the same action, and ends only by this time limit. A reward belongs to the agent that earned it;
freezing another agent earns nothing.

Source: Unity ML-Agents, releases 13 to 16, the version with rays: its scene, prefabs and FoodCollectorAgent.cs. Places
of food are drawn from the stream of the field's first agent, an agent's own random numbers from its own stream.

**Differences from the original.** The original runs in the physics engine PhysX: this is the same task, but not the
same motion.

- The field is flat: agents and food do not fall on to the floor at the beginning.
- An agent is a disc of radius 0.5, for food, rays, laser and other agents. In PhysX it is a box of side 1, which turns.
- Food is a disc of radius 0.75, at rest until it is touched. All agents that touch it in one step get its reward.
- Eating costs no speed. In PhysX food is a body of 5 kg at rest, with which an agent of 10 kg collides before it
  disappears; this takes a third of the agent's speed towards it.
- Eaten food is in its new place at once. In PhysX it falls from a height of 3 for about 0.7 s, sqrt(2 * 2.25 / 9.81),
  and is out of reach for most of that time.
- When an episode ends, all food of the field gets new places. In Unity it does only when all fields are reset.
- Agents block each other like walls: each loses its speed towards the other, and passes none on. An overlap, as when
  two begin in one place, is undone by at most 0.05 for each in a physics step. Only the nearest agent counts.
- A wall has neither thickness nor friction, and nothing bounces. The floor's friction is 0.6, for all motion.
- In a physics step all act, then all shots are cast, then all move: an agent that is hit freezes from the next step on.
- Contact is not overlap: an object that a ray's or the laser's sphere overlaps by less than 0.01 at its start is hit,
  at distance 0. An object with a larger overlap is ignored, as in PhysX.

**Reward.** Table I of "Honey, I Shrunk The Actor" (Mysore et al. 2021) asks for 60 (SAC) and 50 (PPO) an episode. We
take these as raw rewards of one agent: ``reward_scale`` is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from decouple.checks import checked
from decouple.envs.games.streams import Stream

__all__ = ["ACTION_FORMS", "FoodCollector"]

NUM_AGENTS, NUM_FOOD = 5, 50  # numbers per field; the first half of the food is good
NUM_GOOD = NUM_FOOD // 2
ACTION_FORMS = ("box4", "hybrid", "discrete")
BRANCHES, CHOICES = (3, 3, 3, 2), (0, 1, -1)  # sizes of the choices in the form discrete, and meaning of their numbers

HALF_WIDTH, SPAWN = 50.0, 45.0  # half widths of the field, and of the square in which things are placed
AGENT_RADIUS, FOOD_RADIUS = 0.5, 0.75
EATING = AGENT_RADIUS + FOOD_RADIUS  # distance at which food is touched
REACH = HALF_WIDTH - AGENT_RADIUS  # bound of an agent's middle, which stays in [-REACH, REACH]

PHYSICS_STEPS, DT = 5, 0.02  # physics steps per decision; seconds per physics step
PUSH = 2.0  # change of the velocity by a full push in a physics step
FRICTION = 0.6 * 9.81 * DT  # largest loss of velocity by friction in a physics step
DRAG = 1 - 0.5 * DT
TURN = math.radians(300 * DT)  # angle of a full turn action in a physics step, rad
SPEED_LIMIT, BRAKE = 5.0, 0.95  # speed above which the velocity is braked, and the brake's factor
SHOOTING_PUSH, SHOOTING_BRAKE = 0.5, 0.75
FROZEN_STEPS = 201  # physics steps until more than 4 s have passed
UNDONE = 0.05  # largest part of an overlap that each of two agents undoes in a physics step
# A push forward and to the right has length sqrt 2. Without friction v = DRAG (BRAKE v + PUSH sqrt 2) gives 47.1.
MAX_SPEED = DRAG * PUSH * math.sqrt(2) / (1 - DRAG * BRAKE)

LASER_RADIUS, LASER_LENGTH = 2.0, 25.0
RAY_RADIUS, RAY_LENGTH = 0.5, 50.0
RAY_ANGLES = tuple(math.radians(degrees) for degrees in (0, -70 / 3, 70 / 3, -140 / 3, 140 / 3, -70, 70))  # to the left
TAGS = ("food", "agent", "wall", "badFood", "frozenAgent")
ROUNDING = 1e-6  # tolerance by which an action may miss its range
TOUCHING = 0.01  # largest overlap at the start of a cast that counts as contact
NO_GAP, PARALLEL = 1e-6, 1e-12  # smallest gap and divisor: 1e-6 / 1e-12 is so far that a ray along a wall never hits it
COSINES, SINES = np.cos(RAY_ANGLES), np.sin(RAY_ANGLES)  # (7,)
# Sums of the radii of a ray's sphere and of food or, in the last four places, of another agent: (54,).
RADIUS_SUMS = RAY_RADIUS + np.array([FOOD_RADIUS] * NUM_FOOD + [AGENT_RADIUS] * (NUM_AGENTS - 1))
WORTH = np.repeat([1.0, -1.0], NUM_GOOD)  # (50,)
OTHERS = np.array([[other for other in range(NUM_AGENTS) if other != agent] for agent in range(NUM_AGENTS)])  # (5, 4)

NUM_RAY_VALUES = len(RAY_ANGLES) * (len(TAGS) + 2)  # 49
OBSERVATION_SIZE = NUM_RAY_VALUES + 4
OBSERVATION_LOW = np.zeros(OBSERVATION_SIZE)
OBSERVATION_LOW[NUM_RAY_VALUES : NUM_RAY_VALUES + 2] = -math.ceil(MAX_SPEED)
OBSERVATION_HIGH = np.ones(OBSERVATION_SIZE)
OBSERVATION_HIGH[NUM_RAY_VALUES : NUM_RAY_VALUES + 2] = math.ceil(MAX_SPEED)
OBSERVATION_SCALE = np.ones(OBSERVATION_SIZE)
OBSERVATION_SCALE[NUM_RAY_VALUES : NUM_RAY_VALUES + 2] = 1 / 30  # near the largest speed of a push straight ahead, 31

PIXELS, MARGIN = 6, 12  # picture pixels per unit, and of the walls
MIDDLE = int(HALF_WIDTH) * PIXELS + MARGIN
NOSE = 2.5  # units
FLOOR, WALL, GOOD, BAD, BEAM = (44, 48, 56), (120, 112, 100), (80, 200, 96), (224, 72, 64), (255, 120, 220)
AGENT, LEARNER, FROZEN = (72, 144, 255), (255, 208, 64), (240, 248, 255)

# Unit vectors of the headings 0 ... 359 degrees, clockwise from +y, as Unity's seen from above: (360, 2).
HEADINGS = np.array([[math.sin(math.radians(degree)), math.cos(math.radians(degree))] for degree in range(360)])


def cos_sin(angle: Any) -> tuple[Any, Any]:
    """Cosine and sine of small angles, an array or a tensor, by series, since libraries differ in the last bit.

    For |angle| <= TURN, 0.105, the error of the series is below 1e-16.
    """
    square = angle * angle
    cosine = 1 - square * (1 / 2 - square * (1 / 24 - square * (1 / 720 - square * (1 / 40320))))
    sine = angle * (1 - square * (1 / 6 - square * (1 / 120 - square * (1 / 5040 - square * (1 / 362880)))))
    return cosine, sine


def _squared_length(vector: np.ndarray) -> np.ndarray:
    """The squared length of vectors (..., 2)."""
    x, y = vector[..., 0], vector[..., 1]
    return x * x + y * y


def _discs_ahead(offset: np.ndarray, direction: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """The distance that a disc travels until it touches others; inf where it misses or overlaps them at its start.

    Args:
        offset: vectors from its start to the others' middles, (..., 2).
        direction: unit vectors of its motion, (..., 2).
        radius: sums of its own radius and the other's, (...).
    """
    along = offset[..., 0] * direction[..., 0] + offset[..., 1] * direction[..., 1]
    across = offset[..., 0] * direction[..., 1] - offset[..., 1] * direction[..., 0]
    square = radius * radius - across * across
    travel = along - np.sqrt(np.maximum(square, 0))
    return np.where((square > 0) & (travel > -TOUCHING), np.maximum(travel, 0), np.inf)


def _wall_ahead(position: np.ndarray, direction: np.ndarray, radius: float) -> np.ndarray:
    """The distance from ``position``, (2,), along ``direction``, (..., 2), until a disc touches a wall: (...)."""
    gap = HALF_WIDTH - radius - np.sign(direction) * position
    gap = np.where(gap > -TOUCHING, np.maximum(gap, NO_GAP), np.inf)
    return (gap / np.maximum(np.abs(direction), PARALLEL)).min(axis=-1)


class FoodCollector:
    """One field, in NumPy. It begins with ``reset``.

    An action has one of three forms. ``box4``: four numbers in [-1, 1]: push forward, push to the right, turn to the
    left, and laser, which fires if > 0. ``hybrid``: a pair of the first three numbers, and 0 or 1 for the laser.
    ``discrete``: four integers, with 0 for nothing: 1 forward, 2 backward; 1 right, 2 left, instead of forward and
    backward; 1 turn left, 2 turn right; 1 fire.

    The observation has 53 numbers. Seven rays (spheres of radius 0.5, cast over 50 units) point straight ahead, and
    23.3, 46.7 and 70 degrees to the right and to the left. Each has seven numbers: five of 0 or 1 for the first hit
    (food, agent, wall, badFood, frozenAgent); 1 if there is no hit; and the distance / 50, or 1. The last four numbers
    are the agent's velocity to the right and forward in units/s, 1 if it is frozen, and 1 if it shot in the last
    physics step.

    Raises:
        ValueError: an action that is not finite, out of range or of another form.

    Attributes:
        position, velocity, heading: float64 (5, 2), units, units/s and a unit vector; x to the right, y up on a map.
        thaw: physics steps until an agent is free, int (5,). shot: True if it shot in the last physics step, bool (5,).
        food: positions of the food, float64 (50, 2); the first 25 pieces are good.
    """

    observation_low, observation_high = OBSERVATION_LOW, OBSERVATION_HIGH
    observation_scale = OBSERVATION_SCALE
    max_episode_steps = 1000
    reward_scale = 1.0
    render_fps = 10

    @checked()
    def __init__(self, stream: Stream, action_form: str = "box4", others: Sequence[Stream] | None = None) -> None:
        """``others``: streams of agents 1 to 4; by default each reset seeds them by four numbers of ``stream``."""
        if action_form not in ACTION_FORMS:
            raise ValueError(f"action_form must be one of {', '.join(ACTION_FORMS)}; got {action_form!r}")
        if others is not None and len(others) != NUM_AGENTS - 1:
            raise ValueError(f"others must be {NUM_AGENTS - 1} streams, or None; got {len(others)}")
        self.action_form, self.stream, self.others = action_form, stream, others
        self.position, self.velocity = np.zeros((NUM_AGENTS, 2)), np.zeros((NUM_AGENTS, 2))
        self.heading = HEADINGS[np.zeros(NUM_AGENTS, dtype=int)]
        self.thaw, self.shot = np.zeros(NUM_AGENTS, dtype=int), np.zeros(NUM_AGENTS, dtype=bool)
        self.food = np.zeros((NUM_FOOD, 2))

    def action_space(self) -> Any:
        """The action space for Gymnasium."""
        from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple

        if self.action_form == "discrete":
            return MultiDiscrete(BRANCHES)
        number = 4 if self.action_form == "box4" else 3
        move = Box(-1, 1, (number,), dtype=np.float32)
        return move if self.action_form == "box4" else Tuple((move, Discrete(2)))

    def reset(self) -> None:
        """Place all food and all agents anew."""
        others = self.others or [Stream(int(self.stream.uniform() * 2**53)) for _ in range(1, NUM_AGENTS)]
        self._streams = [self.stream, *others]
        for food in range(NUM_FOOD):
            self.food[food] = _place(self.stream)
        for agent in range(NUM_AGENTS):
            self.reset_agent(agent)

    def reset_agent(self, agent: int) -> None:
        """Place one agent anew, at rest, free and without a shot, as at its time limit."""
        stream = self._streams[agent]
        self.position[agent], self.velocity[agent] = _place(stream), 0
        self.heading[agent] = HEADINGS[int(stream.uniform() * 360)]
        self.thaw[agent], self.shot[agent] = 0, False

    def step(self, action: Any) -> tuple[float, bool]:
        """Play one decision of agent 0, the others' uniform in [-1, 1]^4; return its raw reward, and False."""
        actions = np.empty((NUM_AGENTS, 4))
        actions[0] = self._as_box4(action)
        for agent, stream in enumerate(self._streams[1:], start=1):
            actions[agent] = [2 * stream.uniform() - 1 for _ in range(4)]
        return float(self.step_all(actions)[0]), False

    def _as_box4(self, action: Any) -> np.ndarray:
        """Check the action, and convert it to four numbers."""
        if self.action_form == "discrete":
            branches = np.asarray(action)
            fits = branches.shape == (4,) and np.issubdtype(branches.dtype, np.integer)
            if not fits or (branches < 0).any() or (branches >= BRANCHES).any():
                raise ValueError(f"action must be four integers in [0, 3), the last in [0, 2); got {action!r}")
            forward, right, turn, shoot = (int(branch) for branch in branches)
            return np.array([0 if right else CHOICES[forward], CHOICES[right], CHOICES[turn], shoot], dtype=np.float64)
        if self.action_form == "hybrid":
            if not isinstance(action, tuple | list) or len(action) != 2 or action[1] not in (0, 1):
                raise ValueError(f"action must be a pair, three numbers and 0 or 1; got {action!r}")
            action = [*action[0], action[1]]
        return _checked(action, (4,))

    def step_all(self, actions: np.ndarray) -> np.ndarray:
        """Play one decision of all five agents; return raw rewards, float64 (5,).

        Args:
            actions: actions of all agents, (5, 4), always in the form ``box4``.
        """
        actions = _checked(actions, (NUM_AGENTS, 4))
        forward, right, turn = actions[:, :3].clip(-1, 1).T
        cosine, sine = cos_sin(turn * TURN)
        reward = np.zeros(NUM_AGENTS)
        for _ in range(PHYSICS_STEPS):
            push = self._act(forward, right, cosine, sine, actions[:, 3] > 0)
            for agent in self._hits():
                if self.thaw[agent] == 0:
                    self.thaw[agent] = FROZEN_STEPS
            self._move(push)
            reward += self._eat()
        return reward

    def _act(
        self, forward: np.ndarray, right: np.ndarray, cosine: np.ndarray, sine: np.ndarray, wants: np.ndarray
    ) -> np.ndarray:
        """Thaw, shoot, brake and turn; return each agent's push, the change of its velocity, (5, 2)."""
        self.thaw = np.maximum(self.thaw - 1, 0)
        free = self.thaw == 0
        self.shot = free & wants
        x, y = self.heading.T
        gain = free * np.where(self.shot, SHOOTING_PUSH * PUSH, PUSH)
        push = np.array([(x * forward + y * right) * gain, (y * forward - x * right) * gain]).T
        self.heading = np.where(free, [x * cosine - y * sine, x * sine + y * cosine], self.heading.T).T
        self.velocity[self.shot] *= SHOOTING_BRAKE
        self.velocity[_squared_length(self.velocity) > SPEED_LIMIT**2] *= BRAKE
        return push

    def _hits(self) -> list[int]:
        """The agents that lasers hit first; food and walls stop a laser."""
        shooters = np.flatnonzero(self.shot)
        if len(shooters) == 0:
            return []
        offset = self.position[OTHERS[shooters]] - self.position[shooters, None]  # (R, 4, 2)
        ahead = _discs_ahead(offset, self.heading[shooters, None], LASER_RADIUS + AGENT_RADIUS)
        hits = []
        for agent, others, nearest in zip(shooters, ahead.argmin(axis=1), ahead.min(axis=1), strict=True):
            if nearest <= LASER_LENGTH:  # few
                middle, heading = self.position[agent], self.heading[agent]
                food = _discs_ahead(self.food - middle, heading, LASER_RADIUS + FOOD_RADIUS).min()
                if nearest < min(food, _wall_ahead(middle, heading, LASER_RADIUS)):
                    hits.append(int(OTHERS[agent, others]))
        return hits

    def _move(self, push: np.ndarray) -> None:
        velocity = (self.velocity + push) * DRAG
        slowness = 1 / np.sqrt(np.maximum(_squared_length(velocity), FRICTION**2))
        self.velocity = velocity * np.maximum(1 - FRICTION * slowness, 0)[:, None]
        self.position = self.position + self.velocity * DT
        self._block()
        outward = (np.abs(self.position) > REACH) & (self.velocity * self.position > 0)
        self.velocity[outward] = 0
        self.position = self.position.clip(-REACH, REACH)

    def _block(self) -> None:
        """Undo overlaps of agents step by step, and take away their speed towards the nearest agent."""
        offset = self.position[:, None] - self.position[OTHERS]  # (5, 4, 2)
        square = _squared_length(offset)
        if square.min() >= (2 * AGENT_RADIUS) ** 2:
            return
        nearest = square.argmin(axis=1)
        square, offset = square[np.arange(NUM_AGENTS), nearest], offset[np.arange(NUM_AGENTS), nearest]  # (5,), (5, 2)
        nearness = 1 / np.sqrt(np.maximum(square, NO_GAP**2))
        overlap, away = 2 * AGENT_RADIUS - square * nearness, offset * nearness[:, None]
        towards = np.minimum((self.velocity * away).sum(axis=1), 0) * (overlap > 0)
        self.velocity = self.velocity - towards[:, None] * away
        self.position = self.position + np.clip(overlap / 2, 0, UNDONE)[:, None] * away

    def _eat(self) -> np.ndarray:
        """Move touched food to new places; return the rewards for it, (5,)."""
        touched = _squared_length(self.position[:, None] - self.food) < EATING**2  # (5, 50)
        for food in np.flatnonzero(touched.any(axis=0)):
            self.food[food] = _place(self.stream)
        return touched @ WORTH

    def observation(self, agent: int = 0) -> np.ndarray:
        """The raw observation of an agent, float64 (53,)."""
        middle, (x, y), velocity = self.position[agent], self.heading[agent], self.velocity[agent]
        directions = np.stack([x * COSINES - y * SINES, x * SINES + y * COSINES], axis=1)  # (7, 2)
        others = OTHERS[agent]
        things = np.concatenate([self.food, self.position[others]]) - middle  # (54, 2)
        ahead = _discs_ahead(things, directions[:, None], RADIUS_SUMS)  # (7, 54)
        agents, frozen = ahead[:, NUM_FOOD:], self.thaw[others] > 0
        travel = np.stack(  # (7, 5), in the order of TAGS
            [
                ahead[:, :NUM_GOOD].min(axis=1),
                np.where(frozen, np.inf, agents).min(axis=1),
                _wall_ahead(middle, directions, RAY_RADIUS),
                ahead[:, NUM_GOOD:NUM_FOOD].min(axis=1),
                np.where(frozen, agents, np.inf).min(axis=1),
            ],
            axis=1,
        )
        first, distance = travel.argmin(axis=1), travel.min(axis=1)
        hit = distance <= RAY_LENGTH
        rays = np.zeros((len(RAY_ANGLES), len(TAGS) + 2))
        rays[np.arange(len(RAY_ANGLES)), np.where(hit, first, len(TAGS))] = 1
        rays[:, -1] = np.where(hit, distance / RAY_LENGTH, 1)
        right, forward = velocity[0] * y - velocity[1] * x, velocity[0] * x + velocity[1] * y
        return np.concatenate([rays.ravel(), [right, forward, self.thaw[agent] > 0, self.shot[agent]]])

    def picture(self) -> np.ndarray:
        """A picture of the field from above, uint8 (624, 624, 3).

        Good food is green, bad food red. Agents are blue with a line ahead, the learner is yellow, frozen ones are
        white. A beam from an agent that shot has the laser's full length, also where something stops the laser.
        """
        image = np.empty((2 * MIDDLE, 2 * MIDDLE, 3))
        image[:] = FLOOR
        ahead = self.position + self.heading * LASER_LENGTH
        for start, end in zip(self.position[self.shot], ahead[self.shot], strict=True):
            _paint(image, start, end, LASER_RADIUS, BEAM, opacity=0.3)
        image[:MARGIN] = image[-MARGIN:] = image[:, :MARGIN] = image[:, -MARGIN:] = WALL
        for food, place in enumerate(self.food):
            _paint(image, place, place, FOOD_RADIUS, GOOD if food < NUM_GOOD else BAD)
        for agent, place in enumerate(self.position):
            colour = FROZEN if self.thaw[agent] > 0 else LEARNER if agent == 0 else AGENT
            _paint(image, place, place + NOSE * self.heading[agent], AGENT_RADIUS / 2, colour)
            # Twice its real size, to be visible.
            _paint(image, place, place, 2 * AGENT_RADIUS, LEARNER if agent == 0 else AGENT)
            _paint(image, place, place, 1.4 * AGENT_RADIUS, colour)
        return np.rint(image).astype(np.uint8)


def _paint(
    image: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, colour: tuple[int, ...], opacity: float = 1.0
) -> None:
    """Paint a line with round ends, or a disc if ``start`` is ``end``, in units of the field, with smooth edges."""
    (left, low), (right, high) = (
        np.rint((side(start, end) + sign * radius) * PIXELS).astype(int) + sign
        for side, sign in ((np.minimum, -1), (np.maximum, 1))
    )
    left, right = np.clip([MIDDLE + left, MIDDLE + right], 0, 2 * MIDDLE)
    top, bottom = np.clip([MIDDLE - high, MIDDLE - low], 0, 2 * MIDDLE)
    x = (np.arange(left, right) + 0.5 - MIDDLE) / PIXELS - start[0]
    y = (MIDDLE - np.arange(top, bottom)[:, None] - 0.5) / PIXELS - start[1]
    (dx, dy), square = end - start, _squared_length(end - start)
    along = np.clip((x * dx + y * dy) / max(square, NO_GAP), 0, 1)  # the nearest point of the line
    distance = np.hypot(x - along * dx, y - along * dy)
    covered = opacity * np.clip((radius - distance) * PIXELS + 0.5, 0, 1)[..., None]
    window = image[top:bottom, left:right]
    window += covered * (np.array(colour) - window)


def _checked(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Check that actions are numbers in [-1, 1] of that shape; return them as float64."""
    values = np.asarray(actions, dtype=np.float64)
    if values.shape != shape or not (np.abs(values) <= 1 + ROUNDING).all():  # False for NaN too
        raise ValueError(f"action must be numbers in [-1, 1] of the shape {shape}; got {actions!r}")
    return values


def _place(stream: Stream) -> tuple[float, float]:
    """A random place for food or an agent."""
    return stream.uniform() * (2 * SPAWN) - SPAWN, stream.uniform() * (2 * SPAWN) - SPAWN
