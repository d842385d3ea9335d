"""Pong, Pixelcopter and Food Collector: their rules, a batched environment, and Gymnasium environments."""

from decouple.envs.games.batched import GAMES, GamesEnv, games_env

__all__ = ["GAMES", "GamesEnv", "games_env"]
