"""Blocks as users write them: any number of batch axes, or an error by name where the network is made."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Categorical

from decouple.networks.actor_value import actor_value
from decouple.networks.batching import AnyBatch, any_batch
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import stack


def pictures() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())


def attention(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, **options)


MODULES = {
    "pictures": (pictures, (3, 6, 5)),
    "normalised": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), (3, 6, 5)),
    "batch norm": (lambda: nn.BatchNorm1d(4), (4,)),
    "attention": (lambda: nn.Sequential(attention(batch_first=True), nn.Flatten()), (5, 8)),
}


@pytest.mark.parametrize(("make", "shape"), MODULES.values(), ids=MODULES)
def test_a_module_of_one_batch_axis_is_named_and_by_any_batch_a_block(make: Any, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"policy_blocks\[0\] .* must take any number of leading batch .*any_batch\("):
        separate([make()], [make()], at=0, example=torch.rand(shape))
    module = make()
    network = separate([any_batch(module)], [any_batch(make())], at=0, example=torch.rand(shape))
    model = actor_value(network.eval(), Categorical(2))
    rows = torch.rand(2, 3, *shape)
    expected = torch.stack([module(each) for each in rows])  # (2, 3, F)
    for batch in (rows, rows[0], rows[0, 0]):
        lead = batch.shape[: -len(shape)]
        found = model.get_features()(TensorDict({"observation": batch}, lead))["policy_hidden"]
        wanted = expected[(0,) * (2 - len(lead))]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_example_changes_no_running_statistics():
    module = nn.BatchNorm1d(4)
    separate([any_batch(module)], mlp_blocks(4, [2]), at=0, example=torch.rand(4))
    assert module.num_batches_tracked == 0 and module.training


class OverTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=x.ndim > 1)


class SecondAxis(nn.Module):
    """Takes none and one batch axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.ndim == 3 else x.flatten()


class WithExtra(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4 + 6, 5)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.linear(torch.cat([x, state.flatten(1)], -1))


@pytest.mark.parametrize(
    ("block", "shape", "message"),
    [
        (nn.Flatten(), (2, 3), "with none it gives (2, 3) in place of (6,)"),
        (SecondAxis(), (2, 3), "with two leading batch axes it gives (36,) in place of (3, 2, 6)"),
        (nn.Conv2d(3, 3, 1), (3, 4, 4), "with two leading batch axes it fails: Expected 3D (unbatched) or 4D"),
        (attention(), (5, 8), "with one leading batch axis a row's output depends on the other rows"),
        (OverTheBatch(), (4,), "with one leading batch axis a row's output depends on the other rows"),
    ],
)
def test_the_error_says_what_is_wrong(block: nn.Module, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        separate([block], mlp_blocks(4, [2]), at=0, example=torch.zeros(shape))  # of zeros, rows differ all the same


def test_a_float64_example_is_named_before_the_axes():
    with pytest.raises(ValueError, match=r"takes torch\.float32, but gets torch\.float64 from the example"):
        separate([any_batch(pictures())], [any_batch(pictures())], at=0, example=torch.rand(3, 6, 5).double())


def test_the_random_numbers_stay():
    torch.manual_seed(0)
    blocks = [nn.Linear(4, 3)], [nn.Linear(4, 3)]
    before = torch.get_rng_state()
    separate(*blocks, at=0, example=torch.zeros(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_further_keys_keep_their_axes_and_what_a_module_takes_is_still_asked():
    example = {"observation": torch.zeros(4), "state": torch.zeros(2, 3)}
    value = [any_batch(WithExtra())]
    network = separate([nn.Linear(4, 3)], value, at=0, value_keys=["state"], example=example)
    x, state = torch.rand(2, 3, 4), torch.rand(2, 3, 2, 3)
    expected = torch.stack([value[0].module(*each) for each in zip(x, state, strict=True)])
    torch.testing.assert_close(network.value(x, state), expected)
    with pytest.raises(ValueError, match="value_keys must be empty where no block of the value branch takes 2 inputs"):
        separate([nn.Linear(4, 3)], [any_batch(nn.Linear(4, 3))], at=0, value_keys=["state"], example=example)


def test_without_an_example_features_must_be_given_and_stacks_refuse_it():
    with pytest.raises(ValueError, match=r"features must be given in any_batch\(module, features\)"):
        any_batch(nn.Linear(4, 3))(torch.rand(2, 4))
    block = any_batch(nn.Linear(4, 3), 1)
    assert isinstance(block, AnyBatch) and block(torch.rand(2, 3, 4)).shape == (2, 3, 3)
    with pytest.raises(ValueError, match=r"models must have no block of any_batch\(\).*model\.0 is one"):
        stack([nn.Sequential(any_batch(nn.Linear(4, 3), 1)) for _ in range(2)])
