"""Unity builds with ML-Agents as environments."""

from decouple.envs.unity.build import UnityEnv, unity_env

__all__ = ["UnityEnv", "unity_env"]
