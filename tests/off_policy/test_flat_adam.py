"""Parameters in one tensor, and Adam on it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from decouple.off_policy.flat_adam import FlatAdam, FlatParameters


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def test_parameters_become_views_and_their_modules_work_as_before():
    net, x = network(), torch.randn(7, 4)
    before = net(x)
    flat = FlatParameters(net.parameters())
    assert len(flat) == 4 * 5 + 5 + 5 * 2 + 2
    assert torch.equal(net(x), before)
    flat.values.zero_()
    assert not net(x).any()
    net.load_state_dict(network().state_dict())
    assert torch.equal(net(x), before) and flat.values.any()
    alone = copy.deepcopy(net)
    flat.values.zero_()
    assert torch.equal(alone(x), before)


def test_no_parameters_are_no_numbers():
    assert len(FlatParameters([])) == 0


def test_its_adam_has_the_numbers_of_torchs():
    ours, theirs = network(), network()
    parts = [FlatParameters(ours[0].parameters()), FlatParameters(ours[2].parameters())]
    flat = FlatAdam(parts, learning_rate=0.05, epsilon=1e-5)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.05, eps=1e-5)
    for _ in range(30):
        x, y = torch.randn(16, 4), torch.randn(16, 2)
        flat.step(torch.autograd.grad((ours(x) - y).square().mean(), flat.parameters))
        adam.zero_grad()
        (theirs(x) - y).square().mean().backward()
        adam.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_its_first_step_by_hand():
    """m / (1 - b1) = g and v / (1 - b2) = g^2: the step is lr g / (|g| + eps)."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    FlatAdam([FlatParameters([parameter])], learning_rate=0.1, epsilon=1.0).step([torch.tensor([3.0, -1.0])])
    torch.testing.assert_close(parameter.detach(), torch.tensor([1 - 0.1 * 3 / 4, -2 + 0.1 * 1 / 2]))


def test_it_goes_on_from_its_state():
    def run(net: nn.Module, adam: FlatAdam, first: int, last: int) -> None:
        for step in range(first, last):
            x = torch.full((3, 4), step / 10)
            adam.step(torch.autograd.grad(net(x).square().sum(), adam.parameters))

    whole, parts = network(), network()
    adams = [FlatAdam([FlatParameters(net.parameters())], 0.01) for net in (whole, parts)]
    run(whole, adams[0], 0, 6)
    run(parts, adams[1], 0, 3)
    again = network()
    again.load_state_dict(parts.state_dict())
    resumed = FlatAdam([FlatParameters(again.parameters())], 0.01)
    resumed.load_state_dict(adams[1].state_dict())
    run(again, resumed, 3, 6)
    for own, other in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(own, other)
