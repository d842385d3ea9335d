"""Builds of Unity that use ML-Agents."""

from decouple.envs.unity.build import UnityEnv, unity_env

__all__ = ["UnityEnv", "unity_env"]
