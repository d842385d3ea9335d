"""Random perceptrons as files, in float32, act as PyTorch does: with -m slow a thousand in C, a hundred in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded

from decouple.deploy.compiled_c import CompiledActor, c_compiler
from decouple.deploy.constants import actor_constants
from decouple.deploy.export import export_actor
from decouple.deploy.formats import onnx_bytes, onnx_session
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.deploy.plain_c import c_files
from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.studies.actor_size.settings import ACTIVATIONS

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.skipif(c_compiler() is None, reason="no C compiler is installed")

HEADS = ("squashed", "unbounded", "index", "one-hot", "several", "sac", "sac, discrete", "td3")


def drawn(random: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """A random model, and options of its export."""
    widths = random.integers(1, 65, random.integers(0, 5)).tolist()
    inputs, size = int(random.integers(1, 20)), int(random.integers(1, 7))
    activation, head = random.choice(list(ACTIVATIONS)), str(random.choice(HEADS))
    low = torch.from_numpy(random.normal(size=size).astype(np.float32))
    box = Bounded(low, low + torch.from_numpy(random.uniform(0.1, 5, size).astype(np.float32)), (size,))
    specs: dict[str, TensorSpec] = {
        "unbounded": Unbounded((size,)),
        "index": Categorical(size + 1),
        "one-hot": OneHot(size + 1),
        "several": MultiCategorical(random.integers(2, 5, size).tolist()),
        "sac, discrete": Categorical(size + 1),
    }
    blocks = mlp_blocks(inputs, widths, ACTIVATIONS[activation]) if widths else []
    action = size if head in ("sac", "td3") else 0
    example = {"observation": torch.zeros(inputs)} | ({"action": torch.zeros(action)} if action else {})
    critic = mlp_blocks(inputs + action, [4])
    torch.manual_seed(int(random.integers(2**31)))
    network = separate(blocks, critic, at=0, value_keys=["action"] if action else [], example=example)
    if head in ("sac", "sac, discrete", "td3"):
        twin = mlp_blocks(inputs + action, [4])
        model = actor_qvalue(network, specs.get(head, box), twin_blocks=twin, deterministic=head == "td3")
    else:
        model = actor_value(network, specs.get(head, box), policy_gain=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 0.5)
    scaling = None
    if random.random() < 0.5:
        mean, std = torch.from_numpy(random.normal(size=inputs)), torch.from_numpy(random.uniform(0.01, 5, inputs))
        scaling = ObservationScaling(mean, std, [None, 1.5, 10.0][random.integers(3)])
    return model, {"sample": bool(random.random() < 0.5) and head != "td3", "observation_scaling": scaling}


def largest_difference(actor: PlainActor, action: np.ndarray, wanted: np.ndarray) -> float:
    """In units of half a range; of discrete actions the share that differ."""
    assert action.shape == wanted.shape and action.dtype == wanted.dtype
    if actor.space.discrete:
        return float((action != wanted).mean())
    return float((np.abs(action - wanted) / (actor.half_range.numpy() if actor.bounded else 1)).max())


def check(seed: int, *, onnx: bool) -> None:
    model, options = drawn(np.random.default_rng(seed))
    actor = PlainActor(model, **options)
    inputs = actor.random_inputs(64, seed=seed)
    wanted = actor(*inputs).numpy()
    constants = actor_constants(actor)
    with CompiledActor(constants, c_files(constants, "actor", {}), "actor", flags=["-O1"]) as compiled:
        found = [compiled.run(*(x.numpy() for x in inputs))]
    found += [onnx_session(onnx_bytes(actor))(*(x.numpy() for x in inputs))[0]] if onnx else []
    for action in found:
        difference = largest_difference(actor, action, wanted)
        assert difference <= 1e-4, f"seed {seed}: {difference} from PyTorch\n{actor}"


@pytest.mark.parametrize("seed", range(20))
def test_twenty_random_actors_act_from_c_as_in_pytorch(seed):
    check(seed, onnx=seed < 4)  # ONNX takes seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000))
def test_a_thousand_random_actors_act_from_c_and_a_hundred_from_onnx_as_in_pytorch(seed):
    check(seed, onnx=seed % 10 == 9)


def test_a_random_actor_passes_the_exports_own_check(tmp_path: Path):
    for seed in range(8):
        model, options = drawn(np.random.default_rng(seed))
        assert export_actor(model, tmp_path / "actor.c", **options).difference < 1e-5


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "none"])
def test_onnx_and_c_propagate_nan_and_take_huge_observations_alike(activation):
    """docs/export.md: continuous actions are NaN, and discrete ones 0; with a clip huge numbers count as the clip."""
    blocks = mlp_blocks(3, [8], ACTIVATIONS.get(activation, nn.Identity))
    network = separate(blocks, mlp_blocks(3, [4]), at=0, example=torch.zeros(3))
    observation = torch.tensor([[np.nan, 0, 0], [0, np.nan, 1], [1e30, 0, 0], [0, -np.inf, 3e38], [1.0, 2.0, 3.0]])
    for spec in (Bounded(-2, 2, (2,)), Categorical(4))[: 1 + (activation in ("relu", "tanh"))]:
        actor = PlainActor(
            actor_value(network, spec, policy_gain=1.0), observation_scaling=ObservationScaling(clip=5.0)
        )
        wanted, constants = actor(observation).numpy(), actor_constants(actor)
        in_onnx = onnx_session(onnx_bytes(actor))(observation.numpy())[0]
        with CompiledActor(constants, c_files(constants, "actor", {}), "actor") as compiled:
            in_c = compiled.run(observation.numpy())
        np.testing.assert_allclose(in_c, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(in_onnx, wanted, rtol=0, atol=1e-5)
