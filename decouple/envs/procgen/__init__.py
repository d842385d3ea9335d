"""Procgen: the games (from either of two packages), their levels, and the scaling of their rewards."""

from decouple.envs.procgen.games import EpisodesInState, ProcgenEnv, ProcgenGamesEnv, procgen_env
from decouple.envs.procgen.options import GAMES, distribution_modes

__all__ = ["GAMES", "EpisodesInState", "ProcgenEnv", "ProcgenGamesEnv", "distribution_modes", "procgen_env"]
