"""Procgen's games by name, and the options that choose their levels."""

from __future__ import annotations

from typing import Any

from decouple.checks import INT32_MAX, check_integer, check_setting, one_of

__all__ = [
    "EXPLORATION_LEVELS",
    "EXTREME_GAMES",
    "GAMES",
    "MEMORY_GAMES",
    "TIME_LIMIT",
    "distribution_modes",
    "level_options",
]

# fmt: off
GAMES: tuple[str, ...] = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)
# fmt: on
TIME_LIMIT: dict[str, int] = dict.fromkeys(GAMES, 1000) | {
    **{"bigfish": 6000, "bossfight": 4000, "plunder": 4000},  # steps per episode: the games' `timeout`
    **{"leaper": 500, "maze": 500},
}
EXTREME_GAMES = ("chaser", "dodgeball", "leaper", "starpilot")
MEMORY_GAMES = ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner")
EXPLORATION_LEVELS = {  # the hard level of each game that its authors chose for exploration
    **{"coinrun": 1949448038, "caveflyer": 1259048185, "leaper": 1318677581, "jumper": 1434825276},
    **{"maze": 158988835, "heist": 876640971, "climber": 1561126160, "ninja": 1123500215},
}


def distribution_modes(game: str) -> tuple[str, ...]:
    """The distribution modes of ``game``: easy and hard, for some games also extreme, memory and exploration."""
    check_setting("game", game, one_of(*GAMES))
    games_of = {"extreme": EXTREME_GAMES, "memory": MEMORY_GAMES, "exploration": EXPLORATION_LEVELS}
    return ("easy", "hard", *(mode for mode, games in games_of.items() if game in games))


def level_options(game: str, distribution_mode: str, num_levels: int, start_level: int) -> dict[str, Any]:
    """The level options for the games' library.

    Args:
        game: one of ``GAMES``.
        distribution_mode: one of ``distribution_modes(game)``; exploration is one hard level.
        num_levels: number of levels: they are drawn from [start_level, start_level + num_levels). 0: all 2^31 - 1.
        start_level: first level; 0 with num_levels 0.

    Raises:
        ValueError: an argument outside its range.
    """
    check_setting("distribution_mode", distribution_mode, one_of(*distribution_modes(game)))
    num_levels = check_integer("num_levels", num_levels, 0, INT32_MAX)
    start_level = check_integer("start_level", start_level, 0, INT32_MAX - num_levels)
    if start_level and not num_levels:
        raise ValueError(f"start_level must be 0 with num_levels 0, which stands for all levels; got {start_level}")
    if distribution_mode == "exploration":
        if num_levels:
            raise ValueError(f"num_levels must be 0 with distribution_mode exploration; got {num_levels}")
        distribution_mode, num_levels, start_level = "hard", 1, EXPLORATION_LEVELS[game]
    return {"num_levels": num_levels, "start_level": start_level, "distribution_mode": distribution_mode}
