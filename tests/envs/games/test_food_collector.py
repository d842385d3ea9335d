"""Food Collector: the rules by hand on both faces at once, their agreement, invariants, what players earn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decouple.envs.games.food_collector import MAX_SPEED, FoodCollector
from decouple.envs.games.food_collector_games import FoodCollectorGames
from decouple.envs.games.streams import Stream, Streams, stream_seed

FRICTION = 0.11772  # 0.6 x 9.81 x 0.02
STILL, AHEAD, SHOOT = (0, 0, 0, -1), (1, 0, 0, -1), (0, 0, 0, 1)
AWAY = 1000.0  # where nothing is met
STATE = ("position", "velocity", "heading", "thaw", "shot")


def make_games(seeds: Sequence[int], **options: Any) -> FoodCollectorGames:
    """Fields that have begun, one stream for each agent."""
    games = FoodCollectorGames(Streams(torch.tensor(seeds)), **options)
    games.reset(torch.ones(len(seeds), dtype=torch.bool))
    return games


def make_fields(seeds: Sequence[int]) -> list[FoodCollector]:
    """The same fields, one by one."""
    fields = []
    for first in range(0, len(seeds), 5):
        stream, *others = (Stream(seed) for seed in seeds[first : first + 5])
        fields.append(FoodCollector(stream, others=others))
        fields[-1].reset()
    return fields


def check_same(fields: list[FoodCollector], games: FoodCollectorGames, tolerance: float) -> None:
    """Bit for bit, but for what the agents see."""
    for key in STATE:
        expected = np.concatenate([getattr(field, key) for field in fields])
        assert np.array_equal(games.state[key].numpy(), expected), key
    food = games.state["food"].reshape(len(fields), 50, 2).numpy()
    assert np.array_equal(food, np.stack([field.food for field in fields]))
    seen = np.stack([field.observation(agent) for field in fields for agent in range(5)])
    np.testing.assert_allclose(games.observation().double().numpy(), seen, rtol=0, atol=tolerance)


class Both:
    """One field on both faces, with the agents far apart in the corners and the food out of the world."""

    def __init__(self, **options: Any) -> None:
        seeds = [stream_seed(7, index) for index in range(5)]
        self.one, self.many = make_fields(seeds)[0], make_games(seeds, **({"dtype": torch.float64} | options))
        self.one.food[:] = AWAY
        for agent, place in enumerate([(0, 0), (-45, -45), (-45, 45), (45, -45), (45, 45)]):
            self.put(agent, place)

    def put(self, agent: int, place: Sequence[float], degrees: float = 0, velocity: Sequence[float] = (0, 0)) -> None:
        """``degrees``: clockwise from +y."""
        self.one.position[agent], self.one.velocity[agent] = place, velocity
        self.one.heading[agent] = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))

    def _copy(self) -> None:
        for key in (*STATE, "food"):
            to = self.many.state[key]
            to.copy_(torch.from_numpy(getattr(self.one, key)).view(to.shape))

    def step(self, *actions: Sequence[float]) -> list[float]:
        """One decision: of the agents 0, 1, ...; those that are left out do nothing."""
        self._copy()
        chosen = np.array([*actions, *[STILL] * (5 - len(actions))], dtype=np.float64)
        rewards = self.one.step_all(chosen)
        more, ends = self.many.step(torch.from_numpy(chosen))
        assert more.tolist() == rewards.tolist() and not ends.any()
        check_same([self.one], self.many, 1e-9)
        return rewards.tolist()

    def seen(self, agent: int = 0) -> tuple[list[list[float]], list[float]]:
        """The seven rays and the four numbers after them."""
        self._copy()
        check_same([self.one], self.many, 1e-9)
        seen = self.one.observation(agent).tolist()
        return [seen[7 * ray : 7 * ray + 7] for ray in range(7)], seen[49:]


# ------------------------------------------------------------------------------------------------------------- movement
def run(steps: int, speed: float = 0, push: float = 2) -> tuple[float, float]:
    """Speed and way of an agent that pushes straight ahead, by the rules in plain Python."""
    way = 0.0
    for _ in range(steps):
        speed = speed * 0.95 if speed > 5 else speed
        speed = max((speed + push) * 0.99 - FRICTION, 0)
        way += speed * 0.02
    return speed, way


def test_a_straight_run() -> None:
    first = 2 * 0.99 - FRICTION  # 1.86228
    second = (first + 2) * 0.99 - FRICTION  # 3.7059372
    third = (second + 2) * 0.99 - FRICTION  # 5.5311...
    fourth = (third * 0.95 + 2) * 0.99 - FRICTION
    fifth = (fourth * 0.95 + 2) * 0.99 - FRICTION
    both = Both()
    both.step(AHEAD)
    assert both.one.velocity[0].tolist() == pytest.approx([0, fifth], abs=1e-12)
    way = 0.02 * (first + second + third + fourth + fifth)
    assert both.one.position[0].tolist() == pytest.approx([0, way], abs=1e-12)
    assert run(5) == pytest.approx((fifth, way))
    both.put(0, (0, -49))
    for _ in range(25):
        both.step(AHEAD)
    assert both.one.velocity[0, 1] == pytest.approx(run(125)[0], abs=1e-9)
    assert both.one.velocity[0, 1] == pytest.approx((1.98 - FRICTION) / (1 - 0.99 * 0.95), rel=1e-3)  # 31.3 in the end


@pytest.mark.parametrize(
    ("action", "degrees", "direction"),
    [
        ((1, 0, 0, 0), 90, (1, 0)),
        ((-1, 0, 0, 0), 90, (-1, 0)),
        ((0, 1, 0, 0), 0, (1, 0)),
        ((0, 1, 0, 0), 90, (0, -1)),
        ((0, -1, 0, 0), 180, (1, 0)),
    ],
)
def test_directions(action: Sequence[float], degrees: float, direction: tuple[float, float]) -> None:
    both = Both()
    both.put(0, (0, 0), degrees)
    both.step(action)
    speed, way = run(5)
    assert both.one.velocity[0].tolist() == pytest.approx([speed * part for part in direction], abs=1e-9)
    assert both.one.position[0].tolist() == pytest.approx([way * part for part in direction], abs=1e-9)


def test_pushes_add_up() -> None:
    both = Both()
    both.step((0.6, 0.8, 0, 0), (0.25, 0, 0, 0))
    speed, _ = run(5)  # 0.6 and 0.8 are one long
    assert both.one.velocity[0].tolist() == pytest.approx([0.8 * speed, 0.6 * speed])
    assert both.one.velocity[1].tolist() == pytest.approx([0, run(5, push=0.5)[0]])


def test_turning() -> None:
    both = Both()
    both.step((0, 0, 1, 0), (0, 0, -0.5, 0))  # 30 degrees to the left, 15 to the right
    assert both.one.heading[0].tolist() == pytest.approx([-0.5, math.sqrt(3) / 2], abs=1e-15)
    right = math.radians(15)
    assert both.one.heading[1].tolist() == pytest.approx([math.sin(right), math.cos(right)], abs=1e-15)
    for _ in range(50):
        both.step((0, 0, 1, 0), (0, 0, 0.37, 0))
    left = math.radians(30 * 51)
    assert both.one.heading[0].tolist() == pytest.approx([-math.sin(left), math.cos(left)], abs=1e-13)
    assert (both.one.heading**2).sum(axis=1) == pytest.approx(1, abs=1e-13)


def test_an_agent_pushes_before_it_turns() -> None:
    both = Both()
    both.step((1, 0, 1, 0))
    velocity = np.zeros(2)
    for step in range(5):
        if velocity @ velocity > 25:
            velocity = velocity * 0.95
        angle = math.radians(6 * step)  # of the steps before
        velocity = (velocity + np.array([-2 * math.sin(angle), 2 * math.cos(angle)])) * 0.99
        velocity *= 1 - FRICTION / np.linalg.norm(velocity)
    assert both.one.velocity[0].tolist() == pytest.approx(velocity.tolist())


def test_drag_brake_and_friction() -> None:
    both = Both()
    both.put(0, (0, 0), velocity=(0, 5.2))
    both.put(1, (-45, -45), velocity=(0.5, 0))
    both.step()
    first = 5.2 * 0.95 * 0.99 - FRICTION  # 4.77...: no brake from here on
    second = first * 0.99 - FRICTION
    assert both.one.velocity[0, 1] == pytest.approx(run(5, 5.2, push=0)[0])
    assert run(2, 5.2, push=0)[0] == pytest.approx(second) and first < 5
    # 0.5, 0.377, 0.256, 0.136, 0.017 and then friction takes more than there is.
    assert both.one.velocity[1].tolist() == [0, 0]
    assert both.one.position[1, 0] == pytest.approx(-45 + run(5, 0.5, push=0)[1])


def test_walls_stop_and_let_slide() -> None:
    both = Both()
    both.put(0, (49.4, 0), 90, velocity=(10, 3))
    both.put(1, (-45, -49.5), velocity=(0, 2))  # at a wall, going away from it
    both.step(AHEAD)
    assert both.one.position[0, 0] == 49.5 and both.one.velocity[0, 0] == 0
    assert 0.2 < both.one.position[0, 1] < 0.3 and 2 < both.one.velocity[0, 1] < 3
    assert both.one.position[1, 1] > -49.4


def test_agents_block_each_other() -> None:
    both = Both()
    both.put(1, (0, 0.96))
    both.step()
    assert both.one.position[:2, 1].tolist() == pytest.approx([-0.02, 0.98], abs=1e-12)  # half of the overlap each
    both.put(0, (0, 0))
    both.put(1, (0, 0.5))
    both.step()
    assert both.one.position[:2, 1].tolist() == pytest.approx([-0.25, 0.75], abs=1e-12)  # five steps of 0.05
    both.put(0, (0, 0))
    both.put(1, (0, 0.8))
    both.put(2, (0, -0.94))
    both.step()  # of two, the nearest counts: to -0.05, -0.1, -0.055, -0.0775 and
    assert both.one.position[:3, 1].tolist() == pytest.approx([-0.06625, 0.9225, -1.06625], abs=1e-12)
    both.put(0, (0, 0), velocity=(0, 20))
    both.put(1, (0, 1.05))
    both.put(2, (-45, 45))
    both.step(AHEAD)
    assert 0 <= both.one.velocity[0, 1] < 2 and both.one.velocity[1].tolist() == [0, 0]  # it passes no speed on
    assert 0.85 < both.one.position[1, 1] - both.one.position[0, 1] <= 1


# ------------------------------------------------------------------------------------------------------------- shooting
def test_shooting_freezes_whom_it_hits_first() -> None:
    both = Both()
    both.put(1, (0, 20))
    both.put(2, (0, 24))
    both.step(SHOOT)
    assert both.one.thaw.tolist() == [0, 197, 0, 0, 0]  # 201 in the first step, and four steps since
    assert both.one.shot.tolist() == [True, False, False, False, False]
    for _ in range(10):
        both.step(SHOOT)  # the frozen one is in the way, and is not frozen anew
    assert both.one.thaw.tolist() == [0, 147, 0, 0, 0]


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ((0, 27.4), True),  # 24.9 to contact, 2.5 between the middles
        ((0, 27.6), False),
        ((2.4, 10), True),
        ((-2.6, 10), False),
        ((0, -10), False),
        ((0, 2.4), False),  # overlaps the sphere at its start
        ((0, 2.6), True),
    ],
)
def test_what_the_laser_reaches(place: tuple[float, float], hit: bool) -> None:
    both = Both()
    both.put(1, place)
    both.step(SHOOT)
    assert both.one.thaw.tolist() == [0, 197 if hit else 0, 0, 0, 0]


@pytest.mark.parametrize("kind", [0, 25])
@pytest.mark.parametrize(
    ("place", "hit"), [((2.7, 10), False), ((2.8, 10), True), ((0, 21), True), ((0, 2), True), ((0, 3), False)]
)
def test_food_stops_the_laser(kind: int, place: tuple[float, float], hit: bool) -> None:
    both = Both()
    both.put(1, (0, 20))
    both.one.food[kind] = place  # what overlaps the sphere at its start does not stop it
    both.step(SHOOT)
    assert (both.one.thaw[1] > 0) == hit


@pytest.mark.parametrize(("x", "hit"), [(40, True), (46, False), (48.5, True)])
def test_walls_stop_the_laser(x: float, hit: bool) -> None:
    """Six degrees towards the wall, which the sphere touches at x = 48; from beyond that the wall is ignored."""
    both = Both()
    ahead = np.array([math.sin(math.radians(6)), math.cos(math.radians(6))])
    target = (
        np.array([x, 0]) + (22 if x < 48 else 9) * ahead
    )  # 19.5 to contact; the wall is met after 2 / 0.1045 = 19.1
    both.put(0, (x, 0), 6)
    both.put(1, target)
    both.step(SHOOT)
    assert (both.one.thaw[1] > 0) == hit


def test_shooting_costs_speed() -> None:
    both = Both()
    both.put(0, (0, 0), velocity=(0, 10))
    both.step((1, 0, 0, 1))
    speed = 10.0
    for _ in range(5):
        speed *= 0.75
        speed = ((speed * 0.95 if speed > 5 else speed) + 1) * 0.99 - FRICTION
    assert both.one.velocity[0, 1] == pytest.approx(speed)


def test_a_shot_goes_where_the_agent_looks_after_turning() -> None:
    both = Both()
    left = math.radians(6)
    both.put(1, (-25 * math.sin(left) - 2.2, 25 * math.cos(left)))  # 4.8 from the line ahead, 2.2 from the turned one
    both.step((0, 0, 0.2, 1))  # by 1.2 degrees a step, 6 in the last
    assert both.one.thaw[1] == 201


def test_frozen_agents_slide_and_do_nothing_until_four_seconds_have_passed() -> None:
    both = Both()
    both.put(0, (0, -40))
    both.put(1, (0, -20), 90, velocity=(0, 1))
    both.step(SHOOT, (-1, 0, 1, 1))  # acts in the step in which it is hit
    speed = both.one.velocity[1].copy()
    assert both.one.thaw[1] == 197 and not both.one.shot[1]
    heading = both.one.heading[1].copy()
    assert heading.tolist() == pytest.approx([math.cos(math.radians(6)), math.sin(math.radians(6))])
    both.step(STILL, (1, 0, 1, 1))
    assert abs(both.one.velocity[1]).sum() < abs(speed).sum() and both.one.heading[1].tolist() == heading.tolist()
    for _ in range(38):
        both.step(STILL, (1, 0, 0, -1))
    # 200 steps, the last at 4.0 s - 0.02 s; it is free in the second step of the next decision.
    assert both.one.thaw[1] == 2 and both.one.velocity[1].tolist() == [0, 0]
    both.step(STILL, (1, 0, 0, -1))
    assert both.one.thaw[1] == 0
    assert np.linalg.norm(both.one.velocity[1]) == pytest.approx(run(4)[0])


def test_two_who_shoot_each_other_are_both_frozen() -> None:
    both = Both()
    both.put(1, (0, 20), 180)
    both.step(SHOOT, SHOOT)
    assert both.one.thaw.tolist() == [197, 197, 0, 0, 0]


# ----------------------------------------------------------------------------------------------------------------- food
def test_food_is_worth_one_and_moves() -> None:
    both = Both()
    both.put(1, (-45, -45), velocity=(0, 5))
    both.one.food[[3, 30, 31, 4]] = [(0, 1.2), (1.2, 0), (0, 1.26), (-45, -43.4)]
    stream = Stream(0)
    stream.state = both.one.stream.state
    places = [[90 * stream.uniform() - 45, 90 * stream.uniform() - 45] for _ in range(3)]
    assert both.step() == [0, 1, 0, 0, 0]  # one good, one bad; the other agent comes nearer than 1.25 later
    assert both.one.food[[3, 30, 4]].tolist() == places and both.one.food[31].tolist() == [0, 1.26]
    assert both.many.streams.state[0].item() % 2**64 == both.one.stream.state == stream.state
    assert both.step() == [0] * 5


def test_who_touch_the_same_food_both_have_it_frozen_or_not() -> None:
    both = Both()
    both.put(1, (0, 2))
    both.one.food[0] = (0.2, 1)
    both.one.thaw[1] = 100
    assert both.step() == [1, 1, 0, 0, 0]
    both.one.food[49] = (0.2, 1)
    assert both.step() == [-1, -1, 0, 0, 0]


def test_several_pieces_in_one_step_move_in_their_order() -> None:
    both = Both()
    both.one.food[[40, 2, 7]] = [(0, 1), (0, 1), (1, 0)]
    stream = Stream(0)
    stream.state = both.one.stream.state
    places = [[90 * stream.uniform() - 45, 90 * stream.uniform() - 45] for _ in range(3)]
    assert both.step() == [1, 0, 0, 0, 0]
    assert both.one.food[[2, 7, 40]].tolist() == places


@pytest.mark.parametrize("agent", [0, 1])  # who was near to that food before, and who was not
def test_food_that_comes_to_an_agent_is_touched_once_in_the_next_step(agent: int) -> None:
    both = Both()
    stream = Stream(0)
    stream.state = both.one.stream.state
    x, y = 90 * stream.uniform() - 45, 90 * stream.uniform() - 45
    both.put(agent, (x, y))
    both.one.food[0] = (x, y + 1) if agent == 0 else (0, 1)
    assert both.step()[:2] == ([2, 0] if agent == 0 else [1, 1])


# ----------------------------------------------------------------------------------------------------------------- rays
def ray(tag: int, distance: float) -> list[float]:
    return [float(tag == number) for number in range(6)] + [distance / 50]


NOTHING = ray(5, 50)


def test_what_an_agent_sees_of_an_empty_field() -> None:
    both = Both()
    rays, numbers = both.seen()
    ahead, slanted = ray(2, 49.5), NOTHING  # 49.5 / cos 23.3 is beyond 50; 49.5 / sin 70 is, too
    assert rays[0] == pytest.approx(ahead)
    assert [list(one) for one in rays[1:]] == [slanted] * 6
    assert numbers == [0, 0, 0, 0]
    both.put(0, (0, 20))
    rays, _ = both.seen()
    distances = [29.5 / math.cos(math.radians(angle)) for angle in (0, 70 / 3, 140 / 3)]
    assert rays[0] == pytest.approx(ray(2, distances[0]))
    assert rays[1] == pytest.approx(ray(2, distances[1])) and rays[2] == pytest.approx(rays[1])
    assert rays[3] == pytest.approx(ray(2, distances[2])) and rays[4] == pytest.approx(rays[3])
    assert rays[5] == rays[6] == NOTHING
    both.put(0, (40, 20), 90)  # the wall at x = 50 ahead, that at y = 50 to the left
    rays, _ = both.seen()
    assert rays[0] == pytest.approx(ray(2, 9.5))
    assert rays[5] == pytest.approx(ray(2, 9.5 / math.cos(math.radians(70))))
    assert rays[6] == pytest.approx(ray(2, 9.5 / math.cos(math.radians(70))))


def test_rays_go_ahead_then_right_and_left() -> None:
    for index, angle in enumerate([0, 70 / 3, -70 / 3, 140 / 3, -140 / 3, 70, -70]):  # clockwise: to the right
        for heading in (0, 123):
            both = Both()
            both.put(0, (0, 0), heading)
            towards = math.radians(heading + angle)
            both.one.food[0] = 10 * math.sin(towards), 10 * math.cos(towards)
            rays, _ = both.seen()
            assert rays[index] == pytest.approx(ray(0, 8.75))
            assert [number for number in range(7) if rays[number][0] == 1] == [index]


@pytest.mark.parametrize(("tag", "radius"), [(0, 0.75), (1, 0.5), (3, 0.75), (4, 0.5)])
def test_tags_and_distances(tag: int, radius: float) -> None:
    both = Both()

    def put(x: float, y: float) -> None:
        if tag in (0, 3):
            both.one.food[24 if tag == 0 else 25] = (x, y)
        else:
            both.put(3, (x, y))
            both.one.thaw[3] = 10 * (tag == 4)

    reach = radius + 0.5
    for y in (1.3 if tag in (0, 3) else 1, 20, 48):
        put(0, y)
        assert both.seen()[0][0] == pytest.approx(ray(tag, y - reach), abs=1e-12)
    put(0.6 * reach, 20)
    assert both.seen()[0][0] == pytest.approx(ray(tag, 20 - 0.8 * reach))
    put(-1.01 * reach, 20)
    assert both.seen()[0][0] == pytest.approx(ray(2, 49.5))
    put(0, -20)
    assert both.seen()[0][0] == pytest.approx(ray(2, 49.5))
    put(0, reach - 0.005)  # touching
    assert both.seen()[0][0] == pytest.approx(ray(tag, 0), abs=1e-12)
    put(0, reach - 0.05)  # overlapping
    assert both.seen()[0][0] == pytest.approx(ray(2, 49.5))


def test_the_first_thing_hit_counts() -> None:
    both = Both()
    both.one.food[0], both.one.food[1], both.one.food[25] = (0, 20), (0, 30), (0, 15)
    both.put(1, (0, 25))
    assert both.seen()[0][0] == pytest.approx(ray(3, 13.75))
    both.one.food[25] = AWAY
    assert both.seen()[0][0] == pytest.approx(ray(0, 18.75))
    both.one.food[0] = AWAY
    assert both.seen()[0][0] == pytest.approx(ray(1, 24))


def test_an_agent_at_a_wall_sees_it() -> None:
    both = Both()
    both.put(0, (10, 49.5), 10)
    rays, _ = both.seen()
    assert rays[0] == pytest.approx(ray(2, 0), abs=1e-6)
    both.put(0, (10, 49.5), 90)  # along it
    rays, _ = both.seen()
    assert rays[0] == pytest.approx(ray(2, 39.5))
    assert rays[2] == pytest.approx(ray(2, 0), abs=1e-6)  # the wall is to the left
    assert rays[1] == pytest.approx(ray(2, 39.5 / math.cos(math.radians(70 / 3))))


def test_numbers_after_the_rays() -> None:
    both = Both()
    both.put(0, (0, 0), 90, velocity=(3, 4))
    both.one.thaw[0], both.one.shot[0] = 3, True
    assert both.seen()[1] == pytest.approx([-4, 3, 1, 1])
    both.put(1, (-45, -45), 0, velocity=(3, 4))
    assert both.seen(1)[1] == pytest.approx([3, 4, 0, 0])


# -------------------------------------------------------------------------------------------------------- the two faces
def lively(actions: Tensor) -> Tensor:
    """Actions that go forward more often than not, so that much happens."""
    return torch.cat([actions[..., :1].abs(), actions[..., 1:3] / 2, actions[..., 3:] - 0.4], -1).clamp(-1, 1)


def crowd(field: FoodCollector, t: int) -> None:
    """All agents near the first, and food about them."""
    random = np.random.default_rng(t)
    field.position[:] = np.clip(field.position[0] + random.normal(size=(5, 2)), -49, 49)
    field.food[::5] = np.clip(field.position[0] + 5 * random.normal(size=(10, 2)), -45, 45)


def test_both_faces_agree() -> None:
    """Motion, food, rewards and streams bit for bit; what is seen to 1e-9, with rays of float32 to 1e-4.

    In float32 a ray that just grazes something may miss it, or the other way round: one in 1,000 at most.
    """
    seeds = [stream_seed(3, index) for index in range(10)]
    fields, both = make_fields(seeds), [make_games(seeds, dtype=dtype) for dtype in (torch.float64, torch.float32)]
    generator = torch.Generator().manual_seed(1)
    frozen = touched = close = grazed = 0
    for t in range(250):
        if t % 50 == 20:  # an agent's time limit
            which = torch.rand(10, generator=generator) < 0.3
            for games in both:
                games.reset(which)
            for row in which.nonzero().flatten().tolist():
                fields[row // 5].reset_agent(row % 5)
        if t % 25 == 5:
            for field in fields:
                crowd(field, t)
            for games in both:
                games.state["position"].copy_(torch.from_numpy(np.concatenate([field.position for field in fields])))
                games.state["food"].view(2, 50, 2).copy_(torch.from_numpy(np.stack([field.food for field in fields])))
        actions = lively(torch.rand(10, 4, generator=generator, dtype=torch.float64) * 2 - 1)
        parts = zip(fields, actions.split(5), strict=True)
        expected = np.concatenate([field.step_all(part.numpy()) for field, part in parts]).tolist()
        assert [games.step(actions)[0].tolist() for games in both] == [expected, expected]
        check_same(fields, both[0], 1e-9)
        assert all(torch.equal(value, both[1].state[key]) for key, value in both[0].state.items())
        wrong = (both[1].observation() - both[0].observation()).abs() > 1e-4
        grazed += int(wrong[:, :49].reshape(-1, 7).any(1).sum())
        assert not wrong[:, 49:].any()
        frozen, touched = frozen + int((both[0].state["thaw"] > 0).sum()), touched + np.abs(expected).sum()
        close += sum((np.linalg.norm(field.position[0] - field.position[1:], axis=1) < 1).any() for field in fields)
    streams = [stream.state for field in fields for stream in field._streams]
    assert all([state % 2**64 for state in games.streams.state.tolist()] == streams for games in both)
    assert grazed <= 250 * 10 * 7 / 1000
    assert frozen > 100 and touched > 50 and close > 5  # there was something to agree about


def test_a_field_is_the_same_alone_and_beside_others() -> None:
    seeds = [stream_seed(4, index) for index in range(20)]
    together, alone = make_games(seeds), make_games(seeds[5:10])
    actions = lively(torch.rand(60, 20, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1)
    for t, now in enumerate(actions):
        reward, _ = together.step(now)
        assert torch.equal(reward[5:10], alone.step(now[5:10])[0])
        if t % 20 == 0:
            assert torch.equal(together.observation()[5:10], alone.observation())
    assert all(torch.equal(value[5:10], alone.state[key]) for key, value in together.state.items())
    again = make_games(seeds)
    for now in actions:
        again.step(now)
    assert all(torch.equal(value, again.state[key]) for key, value in together.state.items())
    assert not torch.equal(together.state["food"][:5], together.state["food"][5:10])


def test_many_fields_are_looked_at_in_pieces() -> None:
    """More than a chunk of 512, with one that is not full."""
    seeds = [stream_seed(5, index) for index in range(5 * 600)]
    games, fields = make_games(seeds), make_fields(seeds[: 5 * 520])[510:520]
    actions = torch.rand(10, len(seeds), 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    rows = slice(5 * 510, 5 * 520)
    for now in actions:
        reward, _ = games.step(now)
        parts = zip(fields, now[rows].split(5), strict=True)
        assert reward[rows].tolist() == np.concatenate([field.step_all(part.numpy()) for field, part in parts]).tolist()
    seen = np.stack([field.observation(agent) for field in fields for agent in range(5)])
    np.testing.assert_allclose(games.observation()[rows].double(), seen, rtol=0, atol=1e-4)


def test_resets() -> None:
    seeds = [stream_seed(6, index) for index in range(10)]
    games = make_games(seeds)
    assert games.state["food"].abs().max() <= 45 and games.state["position"].abs().max() <= 45
    degrees = torch.atan2(*games.state["heading"].T).rad2deg()
    torch.testing.assert_close(degrees, degrees.round(), atol=1e-9, rtol=0)
    for _ in range(20):
        games.step(lively(torch.rand(10, 4) * 2 - 1))
    games.state["thaw"][:], games.state["shot"][:] = 7, True
    before = {key: value.clone() for key, value in games.state.items()}
    which = torch.tensor([True, False, False, True, False] + [True] * 5)
    games.reset(which)
    assert torch.equal(games.state["food"][:5], before["food"][:5])  # not all five of the first field
    assert not (games.state["food"][5:] == before["food"][5:]).any()
    for key in STATE:
        assert torch.equal(games.state[key][~which], before[key][~which])
    assert not (games.state["position"][which] == before["position"][which]).any()
    assert not any(games.state[key][which].any() for key in ("velocity", "thaw", "shot"))


def test_the_single_game_is_seeded_by_its_stream() -> None:
    def play(seed: int) -> list[Any]:
        game = FoodCollector(Stream(seed))
        game.reset()
        steps = [game.step((1, 0, 0.1, -1)) for _ in range(50)]
        return [steps, game.observation().tolist(), game.position.tolist(), game.food.tolist()]

    assert play(1) == play(1)
    assert play(1)[2:] != play(2)[2:]
    game = FoodCollector(Stream(1))
    game.reset()
    before = game.position.copy()
    for _ in range(20):
        reward, over = game.step(STILL)
        assert isinstance(reward, float) and over is False
    assert (game.position[0] == before[0]).all() and (game.position[1:] != before[1:]).any(axis=1).all()


# -------------------------------------------------------------------------------------------------------------- actions
@pytest.mark.parametrize(
    ("discrete", "box"),
    [
        ((0, 0, 0, 0), (0, 0, 0, -1)),
        ((1, 0, 0, 0), (1, 0, 0, -1)),
        ((2, 0, 1, 0), (-1, 0, 1, -1)),
        ((1, 1, 2, 1), (0, 1, -1, 1)),  # sideways in place of forward
        ((2, 2, 0, 1), (0, -1, 0, 1)),
    ],
)
def test_forms_of_action(discrete: tuple[int, ...], box: tuple[float, ...]) -> None:
    forms = {"box4": box, "hybrid": (box[:3], int(box[3] > 0)), "discrete": np.array(discrete)}
    played = []
    for form, action in forms.items():
        game = FoodCollector(Stream(5), form)
        game.reset()
        for _ in range(3):
            game.step(action)
        played.append([getattr(game, key).tolist() for key in (*STATE, "food")])
    assert played[0] == played[1] == played[2]
    seeds = [stream_seed(5, index) for index in range(5)]
    rows = {"box4": box, "hybrid": (*box[:3], float(box[3] > 0)), "discrete": discrete}
    states = []
    for form, row in rows.items():
        games = make_games(seeds, action_form=form)
        games.step(torch.tensor([row] * 5))
        states.append(games.state)
    assert all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in STATE)


@pytest.mark.parametrize(
    ("form", "action", "says"),
    [
        ("box4", (0, 0, 0, math.nan), r"numbers in \[-1, 1\] of the shape \(4,\); got \(0, 0, 0, nan\)"),
        ("box4", (0, math.inf, 0, 0), r"in \[-1, 1\]"),
        ("box4", (0, 0, -1.001, 0), r"in \[-1, 1\]"),
        ("box4", (0, 0, 0), r"of the shape \(4,\)"),
        ("box4", 0.5, r"of the shape \(4,\)"),
        ("hybrid", ((0, 0, 2), 1), r"in \[-1, 1\]"),
        ("hybrid", ((0, 0, 0), 2), r"a pair, three numbers and 0 or 1; got \(\(0, 0, 0\), 2\)"),
        ("hybrid", (0, 0, 0, 1), "a pair"),
        ("hybrid", ((0, 0), 1), r"of the shape \(4,\)"),
        ("discrete", (0, 3, 0, 0), r"four integers in \[0, 3\), the last in \[0, 2\); got \(0, 3, 0, 0\)"),
        ("discrete", (0, 0, 0, 2), "four integers"),
        ("discrete", (0, -1, 0, 0), "four integers"),
        ("discrete", (0.0, 1.0, 0.0, 0.0), "four integers"),
    ],
)
def test_what_is_no_action_is_refused_and_changes_nothing(form: str, action: Any, says: str) -> None:
    game = FoodCollector(Stream(0), form)
    game.reset()
    before = [getattr(game, key).tolist() for key in STATE], [stream.state for stream in game._streams]
    with pytest.raises(ValueError, match=f"action must be .*{says}"):
        game.step(action)
    assert ([getattr(game, key).tolist() for key in STATE], [stream.state for stream in game._streams]) == before


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(ValueError, match="action_form must be one of box4, hybrid, discrete; got 'box'"):
        FoodCollector(Stream(0), "box")
    with pytest.raises(ValueError, match="action_form must be one of box4, hybrid, discrete; got 'box'"):
        FoodCollectorGames(Streams(torch.arange(5)), "box")
    with pytest.raises(ValueError, match=r"streams must .* multiple of 5 .*; got 6"):
        FoodCollectorGames(Streams(torch.arange(6)))


# ----------------------------------------------------------------------------------------------------------- invariants
def check_invariants(position: np.ndarray, velocity: np.ndarray, seen: np.ndarray, reward: np.ndarray) -> None:
    assert np.abs(position).max() <= 49.5 and np.linalg.norm(velocity, axis=-1).max() <= MAX_SPEED
    assert np.isfinite(seen).all() and (seen >= FoodCollector.observation_low).all()
    assert (seen <= FoodCollector.observation_high).all()
    rays = seen[:, :49].reshape(-1, 7, 7)
    assert np.isin(rays[..., :6], (0, 1)).all() and (rays[..., :6].sum(-1) == 1).all()
    assert (rays[..., 6][rays[..., 5] == 1] == 1).all()
    assert (reward == np.rint(reward)).all() and np.abs(reward).max() <= 5 * 25


EXTREMES = st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0])


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.lists(EXTREMES, min_size=20, max_size=20), st.integers(1, 12)), min_size=1, max_size=6),
    st.booleans(),
)
def test_invariants(seed: int, plan: list[tuple[list[float], int]], crowded: bool) -> None:
    seeds = [stream_seed(seed, index) for index in range(5)]
    (field,), games = make_fields(seeds), make_games(seeds)
    if crowded:  # all in a corner, and food beside them
        field.position[:] = 49.5 - np.abs(field.position) / 100
        field.food[:] = np.abs(field.food)
        games.state["position"].copy_(torch.from_numpy(field.position))
        games.state["food"].copy_(torch.from_numpy(field.food).view(5, 10, 2))
    for actions, times in plan:
        action = np.array(actions).reshape(5, 4)
        for _ in range(times):
            expected = field.step_all(action)
            reward, _ = games.step(torch.from_numpy(action))
            assert reward.tolist() == expected.tolist()
        assert np.array_equal(games.state["position"], field.position)
        check_invariants(
            field.position, field.velocity, np.stack([field.observation(agent) for agent in range(5)]), expected
        )
        state = {key: value.numpy() for key, value in games.state.items()}
        check_invariants(state["position"], state["velocity"], games.observation().numpy(), reward.numpy())


def test_invariants_of_many_fields() -> None:
    games = make_games([stream_seed(8, index) for index in range(5 * 200)])
    generator = torch.Generator().manual_seed(4)
    for t in range(60):
        reward, _ = games.step(torch.randint(-1, 2, (1000, 4), generator=generator).double())
        if t % 6 == 0:
            state = {key: value.numpy() for key, value in games.state.items()}
            check_invariants(state["position"], state["velocity"], games.observation().numpy(), reward.numpy())


# -------------------------------------------------------------------------------------------------------------- players
def greedy(seen: Tensor) -> Tensor:
    """Turns towards the nearest good food that it sees, and goes on; else it looks around."""
    rays = seen[:, :49].view(-1, 7, 7)
    angles = torch.tensor([0, -1, 1, -2, 2, -3, 3]) * 70 / 3
    distance = torch.where(rays[..., 0] == 1, rays[..., 6], 2)
    nearest = distance.min(1)
    sees = nearest.values < 1.5
    turn = torch.where(sees, (angles[nearest.indices] / 30).clamp(-1, 1), 0.5)
    forward = torch.where(sees, torch.where(turn.abs() < 0.5, 1.0, 0.3), 0.3)
    return torch.stack([forward, torch.zeros_like(turn), turn, -torch.ones_like(turn)], 1)


def returns(player: str, fields: int, decisions: int) -> Tensor:
    """What each agent earns."""
    games, generator = (
        make_games([stream_seed(9, index) for index in range(5 * fields)]),
        torch.Generator().manual_seed(6),
    )
    total = torch.zeros(5 * fields, dtype=torch.float64)
    for _ in range(decisions):
        if player == "greedy":
            action = greedy(games.observation())
        else:
            action = torch.rand(5 * fields, 4, generator=generator) * 2 - 1
        total += games.step(action)[0]
    return total


def test_looking_for_food_pays_and_chance_does_not() -> None:
    chance, skill = returns("random", 60, 150), returns("greedy", 60, 150)
    assert abs(chance.mean()) < 4 * chance.std() / math.sqrt(300) + 0.1
    assert skill.mean() > 2


# -------------------------------------------------------------------------------------------------------------- picture
def test_picture() -> None:
    game = FoodCollector(Stream(0))
    game.reset()
    game.food[:] = (40, 40)
    game.food[0], game.food[49] = (-20, 10), (20, -10)
    game.position[:] = [(0, 0), (10, 10), (-10, -30), (30, 30), (-30, 30)]
    game.heading[:] = (0, 1)
    game.thaw[1], game.shot[2] = 5, True
    picture = game.picture()
    assert picture.shape == (624, 624, 3) and picture.dtype == np.uint8

    def at(x: float, y: float) -> tuple[int, ...]:  # six pixels to a unit, 12 of wall around; y grows upwards
        return tuple(picture[int(312 - 6 * y), int(312 + 6 * x)].tolist())

    floor, wall, good, bad = (44, 48, 56), (120, 112, 100), (80, 200, 96), (224, 72, 64)
    assert at(-20, 10) == good and at(20, -10) == bad and at(0, -20) == floor
    assert at(0, 0) == (255, 208, 64) and at(10, 10) == (240, 248, 255) and at(30, 30) == (72, 144, 255)
    assert at(0, 2) == (255, 208, 64) and at(0, -2) == floor  # the line is ahead
    assert picture[0, 300].tolist() == list(wall) and at(50.5, 0) == wall and at(49.5, 0) == floor
    assert at(-10, -10) not in (floor, good, bad) and at(-10, -34) == floor and at(-7, -10) == floor  # the beam
