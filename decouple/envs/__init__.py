"""Environments, one room per source, each with a function that returns a TorchRL ``EnvBase``.

Nothing is imported here: ``from decouple.envs.procgen import procgen_env`` asks for the games only when an environment
is built, so that ``import decouple`` needs no environment package.
"""
