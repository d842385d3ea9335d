"""Environments, one folder per source, each with a function that returns a TorchRL ``EnvBase``.

Nothing is imported here, so that ``import decouple`` needs no environment package. ``procgen_env`` and the others
import the games' package when an environment is built.
"""
