"""Kernels of PPO's and DAAC's losses: a squashed normal's entropy and its slopes, also where exponentials overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decouple.networks.distributions import IntegratedTanhNormal

pytest.importorskip("numba")

from decouple.compiled.losses import NODES, squashed_entropy


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1.0, 4.0, 90.0])
@pytest.mark.parametrize("loc", [-300.0, -25.0, -0.7, 0.0, 1e-6, 3.0, 25.0])
def test_the_entropy_of_a_squashed_normal_is_that_of_its_distribution(loc: float, scale: float):
    own = [torch.tensor([number], dtype=torch.float64, requires_grad=True) for number in (loc, scale)]
    expected = IntegratedTanhNormal(*own).entropy()
    slopes = torch.autograd.grad(expected, own)
    entropy, by_loc, by_scale = squashed_entropy(loc, scale, np.log(scale), np.exp(-2 * scale * NODES), True)
    assert entropy == pytest.approx(expected.item(), rel=1e-8, abs=1e-8)  # softplus is linear from 20 on in torch
    assert [by_loc, by_scale] == pytest.approx([slope.item() for slope in slopes], rel=1e-7, abs=1e-7)
