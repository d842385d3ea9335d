"""What is stacked computes what each network would alone."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import AddStateIndependentNormalScale
from torch import nn
from torchrl.data import Bounded

from decouple.networks.actor_qvalue import actor_qvalue
from decouple.networks.blocks import impala_blocks, mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import StackedLinear, StackedNormalScale, clip_grad_norm_per_seed_, stack, unstack

SEEDS = 3


def networks(sizes: tuple[int, ...] = (4, 4, 2), count: int = SEEDS) -> list[nn.Sequential]:
    """Tanh networks with a layer (4, 4), whose weight and transpose have one shape."""
    pairs = list(pairwise(sizes))
    return [nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh()))) for _ in range(count)]


@pytest.mark.parametrize("batch", [(), (5,), (5, 6), (2, 3, 4)], ids=str)
def test_stacked_networks_compute_what_each_does_alone(batch: tuple[int, ...]) -> None:
    models = networks()
    x = torch.randn(SEEDS, *batch, 4)
    out = stack(models)(x)
    assert out.shape == (SEEDS, *batch, 2)
    for s, model in enumerate(models):
        torch.testing.assert_close(out[s], model(x[s]))


def test_layers_without_bias_and_bare_layers_stack() -> None:
    layers = [nn.Linear(3, 2, bias=False) for _ in range(SEEDS)]
    x = torch.randn(SEEDS, 7, 3)
    together = stack(layers)
    assert isinstance(together, StackedLinear) and together.bias is None
    torch.testing.assert_close(together(x), torch.stack([layer(row) for layer, row in zip(layers, x, strict=True)]))
    assert repr(together) == f"StackedLinear(seeds={SEEDS}, in_features=3, out_features=2)"


def test_state_independent_scales_stack() -> None:
    modules = [AddStateIndependentNormalScale(2) for _ in range(SEEDS)]
    for module in modules:
        nn.init.normal_(module.state_independent_scale)
    together = stack(modules)
    assert isinstance(together, StackedNormalScale)
    for batch in ((), (5,), (5, 6)):
        x = torch.randn(SEEDS, *batch, 2)
        loc, scale = together(x)
        for s, module in enumerate(modules):
            own_loc, own_scale = module(x[s])
            torch.testing.assert_close(loc[s], own_loc)
            torch.testing.assert_close(scale[s], own_scale)


def test_a_whole_model_stacks() -> None:
    def model() -> nn.Module:
        example = {"observation": torch.zeros(3), "action": torch.zeros(1)}
        blocks = mlp_blocks(3, [4]), mlp_blocks(3 + 1, [5])
        network = separate(*blocks, at=0, value_keys=["action"], example=example)
        return actor_qvalue(network, Bounded(-2.0, 2.0, (1,)), deterministic=True)

    models = [model() for _ in range(SEEDS)]
    data = TensorDict(observation=torch.randn(SEEDS, 6, 3), batch_size=[SEEDS, 6])
    out = stack(models)(data.clone())
    for s, alone in enumerate(models):
        own = alone(data[s].clone())
        for key in ("action", "state_action_value"):
            torch.testing.assert_close(out[key][s], own[key])


def test_the_gradient_of_the_sum_is_each_networks_own() -> None:
    models = networks()
    together, x = stack(models), torch.randn(SEEDS, 5, 4)
    together(x).square().sum().backward()
    alone = copy.deepcopy(models)
    for model, row in zip(alone, x, strict=True):
        model(row).square().sum().backward()
    first = together.get_submodule("0")
    for s, model in enumerate(alone):
        torch.testing.assert_close(first.weight.grad[s].T, model[0].weight.grad)
        torch.testing.assert_close(first.bias.grad[s, 0], model[0].bias.grad)


def test_stacking_copies_and_unstacking_gives_back() -> None:
    models = networks()
    together = stack(models)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.mul_(2)
    for model, state in zip(models, before, strict=True):
        torch.testing.assert_close(dict(model.state_dict()), dict(state))  # the stack had parameters of its own
    unstack(together, models)
    for model, state in zip(models, before, strict=True):
        torch.testing.assert_close(dict(model.state_dict()), {name: 2 * value for name, value in state.items()})


@pytest.mark.parametrize("sizes", [(4, 4), (1, 1), (1, 4), (4, 1)])
def test_unstacking_keeps_square_and_single_layers_the_right_way_round(sizes: tuple[int, int]) -> None:
    models, others = networks(sizes), networks(sizes)
    unstack(stack(models), others)
    for model, other in zip(models, others, strict=True):
        torch.testing.assert_close(dict(other.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_what_cannot_be_stacked_is_refused() -> None:
    with pytest.raises(ValueError, match="models must hold at least one model; got none"):
        stack([])
    with pytest.raises(ValueError, match=r"one architecture; models\[0\] and models\[1\] differ in .*\(4, 3\)"):
        stack([nn.Linear(3, 4), nn.Linear(3, 5)])
    with pytest.raises(ValueError, match=r"one architecture.*their length"):
        stack([nn.Sequential(), nn.Sequential(nn.Tanh())])
    with pytest.raises(ValueError, match=r"linear layers; model \(LayerNorm\) has \['weight', 'bias'\]"):
        stack([nn.LayerNorm(4) for _ in range(2)])
    with pytest.raises(ValueError, match=r"no buffers in blocks .*; BatchNorm1d has \['running_mean', "):
        stack([nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)])
    with pytest.raises(ValueError, match=r"models must be those that were stacked; models\[0\]"):
        unstack(stack(networks()), [nn.Linear(3, 3, bias=False)])


@pytest.mark.parametrize("other", [nn.ReLU(), nn.LeakyReLU(0.3)], ids=str)
def test_models_that_differ_in_what_has_no_parameters_are_refused(other: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"one architecture.*LeakyReLU\(negative_slope=0.1\)"):
        stack([nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(0.1)), nn.Sequential(nn.Linear(3, 3), other)])


# ------------------------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("critics", [1, 2])
def test_each_seed_is_clipped_as_torch_clips_it_alone(critics: int) -> None:
    # Row q * S + s is critic q of seed s. Seeds of gradient norms below and far above the bound.
    models = networks(count=critics * SEEDS)
    together = stack(models)
    x = torch.randn(critics * SEEDS, 5, 4) * torch.tensor([0.01, 1.0, 100.0] * critics)[:, None, None]
    scale = torch.tensor([0.001, 1.0, 100.0] * critics)[:, None, None]
    (together(x) * scale).sum().backward()
    norms = clip_grad_norm_per_seed_(list(together.parameters()), 0.5, SEEDS)
    assert norms.shape == (SEEDS,)
    first = together.get_submodule("0")
    for s in range(SEEDS):
        own = [models[q * SEEDS + s] for q in range(critics)]
        for q, model in enumerate(own):
            row = q * SEEDS + s
            (model(x[row]) * scale[row]).sum().backward()
        expected = nn.utils.clip_grad_norm_([p for model in own for p in model.parameters()], 0.5)
        torch.testing.assert_close(norms[s], expected, rtol=1e-4, atol=0)
        for q, model in enumerate(own):
            torch.testing.assert_close(first.weight.grad[q * SEEDS + s].T, model[0].weight.grad, rtol=1e-4, atol=1e-6)
    assert norms[0] < 0.5 < norms[2]


def test_an_infinite_bound_measures_only() -> None:
    # Seed 0 has gradient (3, 4), seed 1 (5, 12): norms 5 and 13.
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
    without = nn.Parameter(torch.zeros(2, 1))
    assert clip_grad_norm_per_seed_([parameter, without], float("inf"), 2).tolist() == [5.0, 13.0]
    assert parameter.grad.tolist() == [[3.0, 4.0], [5.0, 12.0]] and without.grad is None
    clip_grad_norm_per_seed_([parameter, without], 6.5, 2)
    torch.testing.assert_close(parameter.grad, torch.tensor([[3.0, 4.0], [2.5, 6.0]]))


def test_blocks_that_are_not_linear_run_as_each_alone_and_give_its_gradients() -> None:
    def block(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(*impala_blocks((2, 6, 6), [3], 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()

    models = [block(seed) for seed in range(3)]
    together = stack(models)
    assert {name for name, _ in together.named_parameters()} == {name for name, _ in models[0].named_parameters()}
    frames = torch.rand(3, 4, 2, 6, 6, dtype=torch.float64)  # (S, B, C, H, W)
    out = copy.deepcopy(together)(frames)
    alone = [model(x) for model, x in zip(models, frames, strict=True)]
    torch.testing.assert_close(out, torch.stack(alone))
    together(frames).square().sum().backward()
    for seed, each in enumerate(alone):
        each.square().sum().backward()
        gradients = {name: p.grad for name, p in models[seed].named_parameters()}
        found = {name: p.grad[seed] for name, p in together.named_parameters()}
        torch.testing.assert_close(found["0.convolution.weight"], gradients["0.convolution.weight"])
        torch.testing.assert_close(found["2.weight"], gradients["2.weight"])
        torch.testing.assert_close(found["3.weight"].T, gradients["3.weight"])
    others = [block(seed) for seed in range(3, 6)]
    unstack(together, others)
    for model, other in zip(models, others, strict=True):
        torch.testing.assert_close(dict(other.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


class Dropping(nn.Module):
    """A block that itself reads whether it is trained, as nn.MultiheadAttention does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.convolution(x[:, None]).mean(-1)
        return nn.functional.dropout(hidden, 0.5, self.training)


def test_a_block_that_reads_whether_it_is_trained_is_told() -> None:
    together = stack([nn.Sequential(Dropping()) for _ in range(2)])
    x = torch.rand(2, 64, 3)
    assert (together(x) == 0).any()
    for changed in (copy.deepcopy(together).eval(), together.eval(), copy.deepcopy(together)):
        assert torch.equal(changed(x), changed(x)) and not (changed(x) == 0).any()
    assert (together.train()(x) == 0).any()
