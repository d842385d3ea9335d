"""Food Collector for many fields in lockstep, as tensors, by the rules of ``decouple.envs.games.food_collector``.

    games = FoodCollectorGames(Streams(torch.tensor([stream_seed(0, index) for index in range(5 * 1000)])))
    games.reset(torch.ones(5000, dtype=torch.bool))
    reward, terminated = games.step(torch.rand(5000, 4) * 2 - 1)
    games.observation()  # (5000, 53)

Rows are agents: 5 f to 5 f + 4 are those of field f, all of them learners. Places and motion are float64, computed in
the order of ``FoodCollector``, and so the same bits; rays are cast in float32, which is twice as fast.

Internally the field is the last axis: an operation on one agent or piece of food works on a row of fields. To save
time, food is searched near agents only, lasers are followed only where another agent is in the beam, and rays are cast
for a few hundred fields at a time, which fit into a CPU's caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import threshold_

from decouple.checks import checked
from decouple.envs.games import food_collector as rules
from decouple.envs.games.food_collector import NUM_AGENTS, NUM_FOOD, NUM_GOOD, NUM_RAY_VALUES, TOUCHING
from decouple.envs.games.streams import Streams

__all__ = ["FoodCollectorGames"]

CPU_CHUNK, GPU_CHUNK = 512, 16384  # fields processed together: on a CPU as many as its caches hold
FAR = 1e4  # a distance beyond all others; FAR^2 replaces the squared half chord where a ray misses
# Largest distance that an agent moves in a decision beyond the effect of its initial speed: by the pushes of its steps,
# each at most sqrt 2 PUSH, and by undone overlaps; with a margin for float32.
STEPS = rules.PHYSICS_STEPS * (rules.PHYSICS_STEPS + 1) / 2
PUSHED = STEPS * math.sqrt(2) * rules.PUSH * rules.DT + rules.PHYSICS_STEPS * rules.UNDONE + 0.01
LASER_RADII = [(rules.LASER_RADIUS + radius) ** 2 for radius in (rules.AGENT_RADIUS, rules.FOOD_RADIUS)]
PAIRS = [(first, second) for first in range(NUM_AGENTS) for second in range(first + 1, NUM_AGENTS)]


@dataclass
class _Agents:
    """The agents of F fields during a decision, with the field as the last axis. Food stays in the state."""

    position: Tensor  # float64 (2, 5, F), as are the next two
    velocity: Tensor
    heading: Tensor
    thaw: Tensor  # int64 (5, F)
    shot: Tensor  # bool (5, F)


def _travel(along: Tensor, across: Tensor, squared_radius: Tensor, touching: float = TOUCHING) -> Tensor:
    """The distance that a disc travels until it touches others; beyond FAR / 2 where it misses. Overwrites both inputs.

    On a CPU ``threshold_``, which replaces numbers up to a limit by another number, takes a tenth of the time of a
    mask. ``rsqrt`` is faster than ``sqrt``, which is slow with negative numbers too.

    Args:
        along, across: vectors from its start to the others' middles: components along and across its direction.
        squared_radius: square of the sum of its own radius and the others': ().
        touching: largest overlap at the start that counts as contact.
    """
    square = torch.addcmul(squared_radius, across, across, value=-1, out=across)
    threshold_(square, 0, FAR * FAR)  # makes the result of the next line negative where the disc misses
    return threshold_(along.addcmul_(square, square.rsqrt(), value=-1), -touching, FAR)


class FoodCollectorGames:
    """F fields of five agents each, on one device; B = 5 F rows, one for each agent and its random stream.

    Actions are (B, 4), floats in the forms ``box4`` and ``hybrid``, integers in the form ``discrete``, with the numbers
    of ``FoodCollector``; the pair of ``hybrid`` is one row. Observations are (B, 53), rewards float64 (B,).

    ``reset`` places the agents in its mask anew, and the food of fields with all five agents in the mask. On a GPU the
    motion may differ from a CPU's in the last bits, because ``rsqrt`` does.

    Attributes:
        state: position, velocity, heading: float64 (B, 2). thaw: int64 (B,). shot: bool (B,). food: float64 (B, 10, 2):
            a field's fifty pieces, ten in each agent's row; the field's first 25 are good. ``step`` and ``reset``
            write into these tensors: to keep them, clone them.
    """

    observation_size = rules.OBSERVATION_SIZE
    observation_low, observation_high = rules.OBSERVATION_LOW, rules.OBSERVATION_HIGH
    observation_scale = rules.OBSERVATION_SCALE
    max_episode_steps = rules.FoodCollector.max_episode_steps
    reward_scale = rules.FoodCollector.reward_scale
    agents_per_game = NUM_AGENTS

    @checked()
    def __init__(self, streams: Streams, action_form: str = "box4", dtype: torch.dtype = torch.float32) -> None:
        """``dtype``: floating-point type of rays and observations."""
        if action_form not in rules.ACTION_FORMS:
            raise ValueError(f"action_form must be one of {', '.join(rules.ACTION_FORMS)}; got {action_form!r}")
        B, device = len(streams.state), streams.state.device
        if B == 0 or B % NUM_AGENTS:
            raise ValueError(f"streams must have a multiple of {NUM_AGENTS} rows, whole fields; got {B}")
        self.num_actions = rules.BRANCHES if action_form == "discrete" else None
        self.streams, self.action_form, self.dtype, self.num_fields = streams, action_form, dtype, B // NUM_AGENTS
        self._others = torch.from_numpy(rules.OTHERS).to(device)  # (5, 4)
        self._numbers = torch.arange(NUM_AGENTS, device=device)
        self._pairs = torch.tensor(PAIRS, device=device).T.contiguous()  # (2, 10)
        self._headings = torch.from_numpy(rules.HEADINGS).to(device)  # (360, 2)
        self._choices = torch.tensor(rules.CHOICES, dtype=torch.float64, device=device)
        self._angles = torch.tensor(rules.RAY_ANGLES, dtype=torch.float64, device=device).view(-1, 1)  # (7, 1)
        self._laser_to_agent, self._laser_to_food = torch.tensor(LASER_RADII, dtype=torch.float64, device=device)
        self._ray_to_agent = torch.tensor((rules.RAY_RADIUS + rules.AGENT_RADIUS) ** 2, dtype=dtype, device=device)
        # Sums of radii per ray, divided by the ray's cosine, like all lengths in `_cast`'s loop over rays.
        radii = (rules.RAY_RADIUS + rules.FOOD_RADIUS) / self._angles.squeeze(1).cos()
        self._rays_to_food = radii.square().to(dtype).unbind()
        self._chunk = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
        zeros = torch.zeros(B, 2, dtype=torch.float64, device=device)
        self.state = {
            "position": zeros,
            "velocity": zeros.clone(),
            "heading": self._headings[0].repeat(B, 1),
            "thaw": torch.zeros_like(streams.state),
            "shot": torch.zeros(B, dtype=torch.bool, device=device),
            "food": zeros.unsqueeze(1).repeat(1, NUM_FOOD // NUM_AGENTS, 1),
        }

    def reset(self, which: Tensor) -> None:
        """Place the agents in ``which``, bool (B,), anew, and the food of fields with all five agents in it."""
        state = self.state
        full = which.view(-1, NUM_AGENTS).all(1)
        if full.any():
            drawn = self.streams.draw(full.nonzero().squeeze(1) * NUM_AGENTS, 2 * NUM_FOOD)
            state["food"].view(self.num_fields, NUM_FOOD, 2)[full] = _place(drawn).view(-1, NUM_FOOD, 2)
        drawn = self.streams.draw(which.nonzero().squeeze(1), 3)  # (R, 3)
        state["position"][which] = _place(drawn[:, :2])
        state["heading"][which] = self._headings[(drawn[:, 2] * 360).long()]
        for key in ("velocity", "thaw", "shot"):
            state[key][which] = 0

    def _agents(self) -> _Agents:
        def last(key: str) -> Tensor:
            rows = self.state[key].view(self.num_fields, NUM_AGENTS, -1)
            return rows.permute(2, 1, 0).clone(memory_format=torch.contiguous_format)  # (2 or 1, 5, F)

        vectors = [last(key) for key in ("position", "velocity", "heading")]
        return _Agents(*vectors, last("thaw")[0], last("shot")[0])

    def _keep(self, agents: _Agents) -> None:
        for key in ("position", "velocity", "heading", "thaw", "shot"):
            rows = self.state[key].view(self.num_fields, NUM_AGENTS, -1)
            rows.copy_(getattr(agents, key).view(-1, NUM_AGENTS, self.num_fields).permute(2, 1, 0))

    def _food(self, start: int, dtype: torch.dtype) -> Tensor:
        """The food of a chunk of fields, from field ``start`` on: (2, 50, C)."""
        rows = self.state["food"].view(self.num_fields, NUM_FOOD, 2)[start : start + self._chunk]
        return torch.empty(2, NUM_FOOD, len(rows), dtype=dtype, device=rows.device).copy_(rows.permute(2, 1, 0))

    def _controls(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """The actions as forward, right and left turn, float64 (3, 5, F), and as shooting, bool (5, F)."""
        columns = action.view(-1, NUM_AGENTS, 4).permute(2, 1, 0).contiguous()
        if self.action_form == "discrete":
            move = self._choices[columns[:3]]
            move[0] *= columns[1] == 0
        else:
            move = columns[:3].double().clamp_(-1, 1)
        return move, columns[3] > 0

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Play one decision of all agents; return raw reward float64 (B,), and terminated bool (B,), all False."""
        agents, (move, wants) = self._agents(), self._controls(action)
        turn = rules.cos_sin(move[2] * rules.TURN)
        near = self._near(agents)
        touched = []
        for _ in range(rules.PHYSICS_STEPS):
            push = self._act(agents, move, turn, wants)
            self._shoot(agents)
            self._move(agents, push)
            near = self._eat(agents.position, near, touched)
        self._keep(agents)
        reward = torch.zeros(len(action), dtype=torch.float64, device=action.device)
        agent, place = torch.cat(touched, 1)
        reward.index_add_(0, agent, 1.0 - 2.0 * (place % NUM_FOOD >= NUM_GOOD).double())
        return reward, torch.zeros_like(self.state["shot"])

    def _act(self, agents: _Agents, move: Tensor, turn: tuple[Tensor, Tensor], wants: Tensor) -> Tensor:
        """Thaw, shoot, brake and turn; return each agent's push, the change of its velocity, (2, 5, F)."""
        agents.thaw.sub_(1).clamp_(min=0)
        free = agents.thaw == 0
        agents.shot = free & wants
        # As numbers: on a CPU a product takes a fifth of the time of a mask. Sums such as 1 + (c - 1) are exact.
        free, shot = free.double(), agents.shot.double()
        (forward, right, _), (x, y) = move, agents.heading
        gain = free * (rules.PUSH - (1 - rules.SHOOTING_PUSH) * rules.PUSH * shot)
        push = torch.stack([x * forward + y * right, y * forward - x * right]).mul_(gain)
        cosine, sine = 1 + free * (turn[0] - 1), free * turn[1]
        agents.heading = torch.stack([x * cosine - y * sine, x * sine + y * cosine])
        agents.velocity *= 1 - (1 - rules.SHOOTING_BRAKE) * shot
        square = _squared_length(agents.velocity)
        fast = torch.gt(square, rules.SPEED_LIMIT**2, out=square)
        agents.velocity *= 1 - (1 - rules.BRAKE) * fast
        return push

    def _shoot(self, agents: _Agents) -> None:
        """Freeze the agents that lasers hit first; food and walls stop a laser."""
        F, (x, y), thaw = self.num_fields, agents.position, agents.thaw.view(-1)
        along, across = _in_frame(self._to_others(agents.position), agents.heading.unsqueeze(2))
        travel = _travel(along, across, self._laser_to_agent)  # (5, 4, F)
        agent, field = ((travel.amin(1) <= rules.LASER_LENGTH) & agents.shot).nonzero().T  # (R,): few
        travel, other = travel[agent, :, field].min(1)
        target = self._others[agent, other] * F + field
        awake = thaw[target] == 0
        agent, field, target, travel = agent[awake], field[awake], target[awake], travel[awake]
        middle, heading = torch.stack([x[agent, field], y[agent, field]]), agents.heading[:, agent, field]  # (2, R)
        food = self.state["food"].view(F, NUM_FOOD, 2).index_select(0, field).permute(2, 1, 0)  # (2, 50, R)
        along, across = _in_frame(food - middle.unsqueeze(1), heading.unsqueeze(1))
        stopped = _travel(along, across, self._laser_to_food).amin(0)
        stopped = torch.minimum(stopped, _wall_ahead(middle, heading, rules.LASER_RADIUS))
        thaw.index_fill_(0, target[travel < stopped], rules.FROZEN_STEPS)

    def _to_others(self, position: Tensor) -> Tensor:
        """The vectors from each agent to the four others, (2, 5, 4, F)."""
        others = position.index_select(1, self._others.view(-1)).view(2, NUM_AGENTS, NUM_AGENTS - 1, -1)
        return others.sub_(position.unsqueeze(2))

    def _move(self, agents: _Agents, push: Tensor) -> None:
        velocity, position = agents.velocity, agents.position
        velocity.add_(push).mul_(rules.DRAG)
        slowness = _squared_length(velocity).clamp_(min=rules.FRICTION**2).rsqrt_()
        velocity *= (1 - rules.FRICTION * slowness).clamp_(min=0)
        position += velocity * rules.DT
        self._block(agents)
        outward = (position.abs() > rules.REACH) & (velocity * position > 0)
        velocity.masked_fill_(outward, 0)
        position.clamp_(-rules.REACH, rules.REACH)

    def _block(self, agents: _Agents) -> None:
        """Undo overlaps of agents step by step, and take away their speed towards the nearest agent."""
        position, diameter = agents.position, 2 * rules.AGENT_RADIUS
        first, second = (position.index_select(1, which) for which in self._pairs)
        square = _squared_length(first.sub_(second)).amin(0)  # (F,)
        touching = (square < diameter**2).nonzero().squeeze(1)  # few
        here, velocity = position[:, :, touching], agents.velocity[:, :, touching]  # (2, 5, R)
        offset = self._to_others(here).neg_()
        square, nearest = _squared_length(offset).min(1)  # (5, R)
        offset = offset.gather(2, nearest.expand(2, 1, -1, -1).transpose(1, 2)).squeeze(2)  # (2, 5, R)
        nearness = square.clamp(min=rules.NO_GAP**2).rsqrt_()
        overlap, away = diameter - square * nearness, offset * nearness
        speed = velocity * away
        towards = (speed[0] + speed[1]).clamp_(max=0) * (overlap > 0)
        agents.velocity[:, :, touching] = velocity - towards * away
        position[:, :, touching] = here + (overlap / 2).clamp_(0, rules.UNDONE) * away

    def _near(self, agents: _Agents) -> Tensor:
        """Pairs of agent and food that may touch in a decision: int64 (2, P), agent x F + field, field x 50 + food."""
        F, position, found = self.num_fields, agents.position.float(), []
        speed = _squared_length(agents.velocity.float()).sqrt_()  # (5, F)
        reach = (rules.EATING + PUSHED + rules.PHYSICS_STEPS * rules.DT * speed).square_()
        for start in range(0, F, self._chunk):
            chunk = slice(start, start + self._chunk)
            x, y = self._food(start, position.dtype).unsqueeze(2) - position[:, None, :, chunk]  # (50, 5, C) each
            beyond = x.square_().addcmul_(y, y).sub_(reach[:, chunk])
            field, piece = (beyond.amin(1).T.contiguous() < 0).nonzero().T  # (R,): in the order of memory
            row, agent = (beyond[piece, :, field] < 0).nonzero().T  # (P,)
            field = start + field[row]
            found.append(torch.stack([agent * F + field, field * NUM_FOOD + piece[row]]))
        return torch.cat(found, 1)

    def _eat(self, position: Tensor, near: Tensor, touched: list[Tensor]) -> Tensor:
        """Move touched food; return ``near`` with the pairs of moved food and all agents of its field added.

        Appends to ``touched`` the pairs that touched: int64 (2, T), field x 5 + agent and field x 50 + food.
        """
        F, (agent, place), (x, y) = self.num_fields, near, position.view(2, -1)
        dx, dy = self.state["food"].view(-1, 2).index_select(0, place).T
        square = _squared_length((x.index_select(0, agent) - dx, y.index_select(0, agent) - dy))
        agent, place = near[:, square < rules.EATING**2]
        # unique() removes pairs that were added twice, and sorts, so that a field's pieces move in their order.
        pairs = (place * NUM_AGENTS + agent // F).unique()
        agent, place = pairs % NUM_AGENTS, pairs // NUM_AGENTS
        touched.append(torch.stack([place // NUM_FOOD * NUM_AGENTS + agent, place]))
        place = place.unique_consecutive()
        self._respawn(place)
        agent = self._numbers * F + (place // NUM_FOOD).unsqueeze(1)  # (R, 5)
        return torch.cat([near, torch.stack([agent, place.unsqueeze(1).expand_as(agent)]).view(2, -1)], 1)

    def _respawn(self, places: Tensor) -> None:
        """Move food to new places; ``places``: int64 (R,), sorted, field x 50 + food."""
        food = self.state["food"].view(-1, 2)
        while len(places):
            field = places // NUM_FOOD
            first = torch.ones_like(field, dtype=torch.bool)
            first[1:] = field[1:] != field[:-1]
            food[places[first]] = _place(self.streams.draw(field[first] * NUM_AGENTS, 2))
            places = places[~first]

    def observation(self) -> Tensor:
        """The raw observations, (B, 53), in ``dtype``."""
        agents, F, number = self._agents(), self.num_fields, len(rules.TAGS) + 1
        seen = torch.empty(F, NUM_AGENTS * self.observation_size, dtype=self.dtype, device=agents.shot.device)
        for start in range(0, F, self._chunk):
            chunk = slice(start, start + self._chunk)
            position, velocity, heading, frozen, shot = (
                part[..., chunk].to(self.dtype)
                for part in (agents.position, agents.velocity, agents.heading, agents.thaw > 0, agents.shot)
            )
            travel = self._cast(position, heading, self._food(start, self.dtype), frozen)  # (5, 7, 6, C)
            distance = travel.amin(2, keepdim=True)
            values = travel.new_empty(NUM_AGENTS, self.observation_size, travel.shape[-1])  # (5, 53, C)
            rays = values[:, :NUM_RAY_VALUES].view(NUM_AGENTS, -1, number + 1, travel.shape[-1])
            torch.eq(travel, distance, out=rays[:, :, :number])  # written as numbers, without a bool tensor: fast
            torch.mul(distance.clamp_(max=rules.RAY_LENGTH), 1 / rules.RAY_LENGTH, out=rays[:, :, number:])
            values[:, -3], values[:, -4] = _in_frame(velocity, heading)
            values[:, -2], values[:, -1] = frozen, shot
            seen[chunk] = values.view(-1, values.shape[-1]).T
        return seen.view(-1, self.observation_size)

    def _cast(self, position: Tensor, heading: Tensor, food: Tensor, frozen: Tensor) -> Tensor:
        """The distances of rays to each of TAGS, then the ray's length: (5 agents, 7 rays, 6, C), none equal in a ray.

        Args:
            position, heading: vectors of the agents, (2, 5, C). food: positions, (2, 50, C). frozen: 1 or 0, (5, C).
        """
        C, angles = position.shape[-1], self._angles.to(position.dtype)
        travel = position.new_full((NUM_AGENTS, len(angles), len(rules.TAGS) + 1, C), rules.RAY_LENGTH)
        (x, y), cosine, sine = heading.unsqueeze(2), angles.cos(), angles.sin()
        directions = torch.stack([x * cosine - y * sine, x * sine + y * cosine])  # (2, 5, 7, C)
        travel[:, :, 2] = _wall_ahead(position.unsqueeze(2), directions, rules.RAY_RADIUS)

        along, across = _in_frame(self._to_others(position).unsqueeze(2), directions.unsqueeze(3))  # (5, 7, 4, C)
        agents = _travel(along, across, self._ray_to_agent)
        others = frozen.index_select(0, self._others.view(-1)).view(NUM_AGENTS, 1, NUM_AGENTS - 1, C) * FAR
        torch.amin(agents + others, 2, out=travel[:, :, 1])
        torch.amin(agents + (FAR - others), 2, out=travel[:, :, 4])

        # Components of the vectors to food, ahead of an agent and to its right: (50, 5, C).
        ahead, aside = _in_frame(food.unsqueeze(2) - position.unsqueeze(1), heading.unsqueeze(1))
        along, across = torch.empty_like(ahead), torch.empty_like(ahead)
        nearest = []  # for each ray the distances to the nearest good and bad food: (2, 5, C)
        for angle, squared_radius in zip(rules.RAY_ANGLES, self._rays_to_food, strict=True):
            # All lengths are divided by the ray's cosine, so that each component needs one product only.
            torch.sub(ahead, aside, alpha=math.tan(angle), out=along)
            torch.add(aside, ahead, alpha=math.tan(angle), out=across)
            hits = _travel(along, across, squared_radius, TOUCHING / math.cos(angle))
            nearest.append(hits.view(2, NUM_GOOD, NUM_AGENTS, C).amin(1))
        torch.mul(torch.stack(nearest, 2).permute(1, 2, 0, 3), cosine.unsqueeze(1), out=travel[:, :, 0:4:3])
        return _tell_apart(travel.clamp_(min=0))


def _tell_apart(travel: Tensor) -> Tensor:
    """Put the tag (index on the axis of length 6) into the last three bits, so that no two distances are equal."""
    bits = travel.view(torch.int32 if travel.dtype == torch.float32 else torch.int64)
    bits.bitwise_and_(-8).bitwise_or_(torch.arange(travel.shape[-2], dtype=bits.dtype, device=bits.device).view(-1, 1))
    return travel


def _place(uniform: Tensor) -> Tensor:
    return uniform * (2 * rules.SPAWN) - rules.SPAWN


def _squared_length(vector: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The squared length of vectors (2, ...)."""
    return vector[0] * vector[0] + vector[1] * vector[1]


def _in_frame(offset: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The components of ``offset`` along ``direction`` and to its right; both inputs (2, ...)."""
    (dx, dy), (x, y) = offset, direction
    return torch.addcmul(dx * x, dy, y), torch.addcmul(dx * y, dy, x, value=-1)


def _wall_ahead(position: Tensor, direction: Tensor, radius: float) -> Tensor:
    """The distance that a disc travels until it touches a wall; ``position`` and ``direction``: (2, ...)."""
    gap = rules.HALF_WIDTH - radius - direction.sign() * position
    gap = torch.where(gap > -TOUCHING, gap.clamp(min=rules.NO_GAP), FAR)
    return (gap / direction.abs().clamp_(min=rules.PARALLEL)).amin(0)
