"""Pong, Pixelcopter and Food Collector: their rules, many games at once, and Gymnasium's form of each."""

from decouple.envs.games.batched import GAMES, GamesEnv, games_env

__all__ = ["GAMES", "GamesEnv", "games_env"]
