"""Procgen: the games of either package, their levels, and the scaling of their rewards."""

from decouple.envs.procgen.games import EpisodesInState, ProcgenEnv, distribution_modes, procgen_env

__all__ = ["EpisodesInState", "ProcgenEnv", "distribution_modes", "procgen_env"]
