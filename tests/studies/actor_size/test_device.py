"""The device of control runs: refusals, and runs on the pretended GPU, where tensors of two devices do not mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairwise import each
from pretended_gpu import PretendedGPU
from test_any_env import ON_POLICY, cell

from decouple.off_policy import flat_adam
from decouple.studies.actor_size import cell as cell_module
from decouple.studies.actor_size.algorithms import algorithm_of, initial_agents
from decouple.studies.actor_size.cell import train_agents


def plain_adam(values, gradients, *_, fused, **__):
    """Adam's place, since the meta device has no fused one; it still refuses tensors of two devices."""
    assert fused
    for value, gradient in zip(values, gradients, strict=True):
        value.add_(gradient, alpha=0.0)


@each(
    valid=lambda algorithm, env: (algorithm, env) != ("td3", "test_any_env:Peek"),  # TD3 has continuous actions alone
    algorithm=["ppo", "daac", "dcpg", "trpo", "sac", "td3"],
    env=["test_any_env:Peek", "torchrl_tasks:GymSteer"],
)
def test_a_run_on_a_gpu_moves_what_has_to_move(algorithm, env, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_module, "_device", lambda config: "meta")
    monkeypatch.setattr(flat_adam, "adam", plain_adam)
    short = {"total_frames": 16, "rollout_steps": 4} if algorithm in ON_POLICY else {}
    config = cell(algorithm, tmp_path, env=env, **short)
    with PretendedGPU() as gpu:
        result = train_agents(config)
    assert np.isfinite(result["final/return"]) and gpu.waits


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_there_are_no_kernels_on_a_gpu(algorithm):
    pytest.importorskip("numba")
    config = cell(algorithm, "unused", env="pendulum")
    with PretendedGPU():
        agents = algorithm_of(config).make_agents(config, initial_agents(config), device="meta")
        assert agents.update.startswith("batched updates, since the model") and "run on a processor" in agents.update
        with pytest.raises(ValueError, match="update must be auto or batched"):
            config.update = "compiled"
            algorithm_of(config).make_agents(config, initial_agents(config), device="meta")


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_processor(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device must be cpu or auto where torch sees no GPU; got '{device}'"):
            train_agents(cell("ppo", tmp_path / "none", env="pendulum", device=device))
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="device must be cpu, cuda, cuda:<n> or auto; got 'tpu'"):
        cell("ppo", tmp_path, env="pendulum", device="tpu")
    both = [train_agents(cell("ppo", tmp_path / name, env="pendulum", device=name)) for name in ("cpu", "auto")]
    assert both[0]["final/return"] == both[1]["final/return"]
