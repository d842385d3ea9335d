"""Forage: the rules by hand, levels, pictures, and what a random and a careful player earn."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from decouple.envs.control.forage import MEAL, MOST, START, Forage, grid
from decouple.envs.control.tasks import control_env

gymnasium = pytest.importorskip("gymnasium")
from decouple.envs.control.forage_game import ForageGame  # noqa: E402  (needs Gymnasium)

UP, RIGHT, DOWN, LEFT = range(4)
ID = "decouple/Forage-v0"


def state(cell: int, life: int, pillars: int = 0, food: tuple[int, ...] = (), poison: tuple[int, ...] = ()) -> Any:
    bits = [sum(1 << each for each in cells) for cells in (food, poison)]
    return np.array([[cell, life, pillars, *bits]], dtype=np.float64).T


def walk(rules: Forage, game: np.ndarray, *actions: int) -> list[tuple[int, int, float, bool]]:
    """Cell, life, reward and end of each step."""
    found = []
    for action in actions:
        game, _, reward, over = rules.step(game, np.array([action]))
        found.append((int(game[0, 0]), int(game[1, 0]), float(reward[0]), bool(over[0])))
    return found


def test_the_agent_moves_by_a_cell_and_stays_at_the_border_and_before_pillars() -> None:
    rules = Forage("hidden")  # cells 0 to 24; pillars may stand on 6, 8, 16 and 18
    far = (24,)
    assert [step[0] for step in walk(rules, state(0, 8, food=far), UP, LEFT, RIGHT, DOWN, DOWN)] == [0, 0, 1, 6, 11]
    assert [step[0] for step in walk(rules, state(1, 8, pillars=0b0001, food=far), DOWN)] == [1]
    assert [step[0] for step in walk(rules, state(1, 8, pillars=0b1110, food=far), DOWN)] == [6]
    assert [step[0] for step in walk(rules, state(17, 8, pillars=0b1000, food=far), RIGHT, LEFT)] == [17, 16]


def test_food_earns_poison_costs_and_both_are_eaten_once() -> None:
    game = state(0, 8, food=(1, 24), poison=(2,))
    assert [step[2] for step in walk(Forage(), game, RIGHT, RIGHT, LEFT, RIGHT)] == [1, -1, 0, 0]


def test_an_episode_ends_with_the_last_food_and_with_the_life() -> None:
    last = state(0, 2, food=(1,))
    assert walk(Forage(), last, DOWN, UP, RIGHT) == [(5, 2, 0, False), (0, 2, 0, False), (1, 2, 1, True)]
    for life in ("shown", "hidden"):
        assert walk(Forage(life), last, DOWN, UP) == [(5, 1, 0, False), (0, 0, 0, True)]
        assert walk(Forage(life), state(0, 5, food=(1, 24)), RIGHT)[0][1] == 5 - 1 + MEAL
        assert walk(Forage(life), state(0, MOST, food=(1, 24)), RIGHT)[0][1] == MOST


@pytest.mark.parametrize("size", [5, 7])
def test_the_observation_is_the_picture_and_the_bar_where_it_is_shown(size: int) -> None:
    area, places = size * size, (size // 2) ** 2
    game = state(3, 5, pillars=1, food=(1, 4), poison=(0, area - 1))
    seen = {life: Forage(life, size).observe(game)[0] for life in ("none", "shown", "hidden")}
    parts = np.split(seen["shown"], [area, 2 * area, 3 * area, 3 * area + places])
    ones = [part.nonzero()[0].tolist() for part in parts]
    assert ones == [[3], [1, 4], [0, area - 1], [0], [0, 1, 2, 3, 4]] and len(parts[-1]) == MOST
    assert np.array_equal(seen["none"], seen["hidden"]) and not seen["hidden"][-MOST:].any()
    assert np.array_equal(seen["none"][:-MOST], seen["shown"][:-MOST])


@pytest.mark.parametrize("size", [5, 7])
def test_a_level_has_its_food_and_poison_on_cells_that_can_be_reached(size: int) -> None:
    rules, where = Forage("shown", size), grid(size)
    for level in range(60):
        generator = np.random.default_rng(level)
        begun, seen = rules.begin(generator)
        assert np.array_equal(seen, rules.observe(begun[:, None])[0]) and begun[1] == START
        cell, pillars, food, poison = (int(begun[index]) for index in (0, 2, 3, 4))
        assert (food.bit_count(), poison.bit_count()) == (size + 1, size) and food & poison == 0
        assert not (food | poison) >> cell & 1
        standing = {c for c in range(size * size) if where.pillar[c] >= 0 and pillars >> where.pillar[c] & 1}
        reached, edge = {cell}, deque([cell])
        while edge:
            for to in where.target[:, edge.popleft()].tolist():
                if to not in standing | reached:
                    reached.add(to)
                    edge.append(to)
        assert reached == set(range(size * size)) - standing
        again = rules.begin(np.random.default_rng(level))[0]
        assert np.array_equal(again, begun)
    levels = {tuple(rules.begin(np.random.default_rng(level))[0]) for level in range(500)}
    assert len(levels) == 500


def test_levels_for_training_are_the_only_ones_that_are_played() -> None:
    env = control_env("forage", [0, 1], 4, levels=range(6), env_kwargs={"life": "hidden"})
    known = {Forage("hidden").begin(np.random.Generator(np.random.PCG64(level)))[1].tobytes() for level in range(6)}
    met, now = set(), env.reset()
    torch.manual_seed(0)
    for _ in range(60):
        _, after = env.step_and_maybe_reset(now.set("action", env.action_spec.rand()))
        began = (after["step_count"] == 0).squeeze(-1)
        met |= {row.numpy().tobytes() for row in after["observation"][began]}
        now = after
    assert met == known


def returns(life: str, choose: Any, games: int = 1500) -> float:
    rules, generator = Forage(life), np.random.default_rng(0)
    game, total, alive = rules.examples(generator, games)[0], np.zeros(games), np.ones(games, dtype=np.bool_)
    for _ in range(50):
        game, _, reward, over = rules.step(game, choose(game, generator))
        total += reward * alive
        alive &= ~over
    return float(total.mean())


def nearest_food(game: np.ndarray, _: Any) -> np.ndarray:
    """The first move of a shortest way to food, past poison where that is no longer."""
    where, chosen = grid(5), []
    for cell, _, pillars, food, poison in game.T.astype(np.int64).tolist():
        costs, first = {cell: 0}, {cell: 0}
        todo = [cell]
        while todo:
            todo.sort(key=costs.__getitem__)
            at = todo.pop(0)
            for move, to in enumerate(where.target[:, at].tolist()):
                place = where.pillar[to]
                cost = costs[at] + 1 + 2 * (poison >> to & 1)
                if (place < 0 or not pillars >> place & 1) and cost < costs.get(to, 99):
                    costs[to], first[to] = cost, move if at == cell else first[at]
                    todo.append(to)
        goals = [to for to in costs if food >> to & 1]
        chosen.append(first[min(goals, key=costs.__getitem__)] if goals else 0)
    return np.array(chosen)


def test_what_players_earn() -> None:
    random = {life: returns(life, lambda game, generator: generator.integers(0, 4, game.shape[1])) for life in LIVES}
    careful = {life: returns(life, nearest_food, 100) for life in LIVES}
    assert random == pytest.approx({"none": 0.56, "shown": 0.15, "hidden": 0.15}, abs=0.12)
    assert careful["none"] > 4.8 and careful["shown"] == careful["hidden"] > 4


LIVES = ("none", "shown", "hidden")


def test_gymnasiums_own_check_passes_and_the_picture_shows_the_game() -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(gymnasium.make(ID, life="shown").unwrapped, skip_render_check=True)
    env = gymnasium.make(ID, life="shown", render_mode="rgb_array")
    observation, _ = env.reset(seed=3)
    picture: Any = env.render()
    assert picture.shape == (176, 160, 3) and picture.dtype == np.uint8
    middle = picture[16:160:32, 16:160:32].reshape(25, 3)
    assert (middle[observation[:25] > 0] == 255).all()  # the agent is white
    assert len({tuple(colour) for colour in middle[observation[25:50] > 0]}) == 1
    lit = (picture[168] > 0).any(1).mean()
    assert lit == pytest.approx(START / MOST, abs=0.01)
    assert gymnasium.make(ID).spec.max_episode_steps == 50


def test_what_is_wrong_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="life must be one of none, shown, hidden; got 'long'"):
        Forage("long")
    for size in (6, 5.0, True):
        with pytest.raises(ValueError, match=f"size must be 5 or 7; got {size}"):
            control_env("forage", [0], env_kwargs={"size": size})
    with pytest.raises(ValueError, match="env_kwargs must be arguments of forage"):
        control_env("forage", [0], env_kwargs={"lives": 3})
    with pytest.raises(ValueError, match="render_mode must be rgb_array or None; got 'ansi'"):
        ForageGame(render_mode="ansi")
    env = gymnasium.make(ID).unwrapped
    with pytest.raises(RuntimeError, match="must be reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must lie in Discrete\(4\); got 4"):
        env.step(4)
