"""Each measure on a case whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Categorical

from decouple.analysis.representation import (
    CHOOSE,
    FIT,
    TEST,
    block_outputs,
    centred_gram,
    deal_episodes,
    distances,
    dormant_share,
    effective_rank,
    information_about_labels,
    linear_cka,
    linear_probes,
    mutual_information,
    perturbation_saliency,
)
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks
from decouple.networks.separation import separate


def model(k: int) -> ActorValue:
    stacks = (impala_blocks((3, 16, 16), (4, 8, 8), 16) for _ in range(2))
    return actor_value(separate(*stacks, at=k), Categorical(5))


# --- blocks


@pytest.mark.parametrize("k", range(5))
def test_blocks_run_one_after_another_and_end_in_the_models_own_features(k: int):
    agent, frames = model(k), torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    found = {(branch, index): features for branch, index, features in block_outputs(agent, frames, batch_size=3)}
    branches = [(branch, index) for branch in ("policy", "value") for index in range(k, 4)]
    assert list(found) == [*(("trunk", index) for index in range(k)), *branches]
    shapes = {0: (7, 4, 8, 8), 1: (7, 8, 4, 4), 2: (7, 8, 2, 2), 3: (7, 16)}
    assert all(tuple(features.shape) == shapes[index] for (_, index), features in found.items())
    with torch.no_grad():
        expected = agent.get_features()(TensorDict(observation=frames, batch_size=7))
    for branch in ("policy", "value"):
        last = found[branch if k < 4 else "trunk", 3]
        torch.testing.assert_close(last, expected[f"{branch}_hidden"])
        assert not last.requires_grad


def test_a_branch_that_reads_further_keys_is_refused():
    network = separate(
        mlp_blocks(3, [4, 4]), mlp_blocks(3 + 2, [4]), at=0, value_keys=["more"],
        example={"observation": torch.zeros(3), "more": torch.zeros(2)},
    )  # fmt: skip
    agent = actor_value(network, Categorical(5))
    with pytest.raises(ValueError, match=r"model must be one whose branches read no further keys; got \['more'\]"):
        list(block_outputs(agent, torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        list(block_outputs(model(2), torch.zeros(2, 3), batch_size=0))
    with pytest.raises(ValueError, match="observation must be of the model's shape, "):
        list(block_outputs(model(2), torch.zeros(2, 2)))


# --- CKA and rank


def test_cka_of_the_same_features_rotated_and_scaled_is_1():
    x = torch.randn(60, 20)
    rotation = torch.linalg.qr(torch.randn(20, 20)).Q
    assert linear_cka(centred_gram(x), centred_gram(3 * x @ rotation + 5)) == pytest.approx(1, abs=1e-5)
    assert linear_cka(centred_gram(x), centred_gram(x * torch.linspace(0.1, 3, 20))) < 0.97


@pytest.mark.parametrize("features", [10, 5000])
def test_cka_of_independent_features_is_near_0_also_where_they_outnumber_the_frames(features: int):
    ours, theirs = (centred_gram(torch.randn(200, features)) for _ in range(2))
    assert abs(linear_cka(ours, theirs)) < 0.05
    if features == 5000:  # the biased estimate, which this is not
        assert (ours * theirs).sum() / (ours.norm() * theirs.norm()) > 0.9


def test_cka_by_hand():
    # Two groups of frames. Products about the mean are 1 within a group and -1 across it. Zero the diagonal: each row
    # of three sums to 1 - 2 = -1 in one grouping; the other grouping crosses it, and has the same sums.
    one, two = torch.tensor([[1.0], [1], [-1], [-1]]), torch.tensor([[1.0], [-1], [1], [-1]])
    # tr(KL): of the 12 pairs, 4 agree (both -1, across in both) and 8 differ: 4 - 8 = -4. (1'K1)(1'L1) = 16, / (3 * 2).
    # 1'KL1 = sum of (-1)(-1) over 4 rows = 4, * 2 / 2. HSIC ~ -4 + 16 / 6 - 4 = -16 / 3; with itself 12 + 16 / 6 - 4.
    assert linear_cka(centred_gram(one), centred_gram(two)) == pytest.approx((-16 / 3) / (32 / 3))


def test_cka_refuses_other_frames_and_says_nan_of_constant_features():
    a, b = centred_gram(torch.randn(5, 2)), centred_gram(torch.ones(5, 2))
    assert math.isnan(linear_cka(a, b))
    with pytest.raises(ValueError, match=r"b must be of a's shape, \(5, 5\); got \(6, 6\)"):
        linear_cka(a, torch.eye(6))
    with pytest.raises(ValueError, match="a must be the products of at least 4 frames; got 3"):
        linear_cka(torch.eye(3), torch.eye(3))


def test_gram_and_distances_by_hand_whatever_the_shape():
    x = torch.tensor([[0.0, 1, 7], [4, 1, 7], [2, 4, 7]])  # centred: (-2, -1, 0), (2, -1, 0), (0, 2, 0)
    assert centred_gram(x).tolist() == [[5, -3, -2], [-3, 5, -2], [-2, -2, 4]]
    # deviations sqrt(8 / 3) and sqrt(6 / 3), the third feature constant
    expected = [math.sqrt(16 / (8 / 3)), math.sqrt(4 / (8 / 3) + 9 / 2)]
    assert distances(x)[0, 1:].tolist() == pytest.approx(expected)
    wide = torch.randn(9, 5, 30, 20)
    flat = wide.flatten(1).double()
    flat = flat - flat.mean(0)
    torch.testing.assert_close(centred_gram(wide), flat @ flat.T)
    flat = flat / flat.std(0, correction=0)
    torch.testing.assert_close(distances(wide), torch.cdist(flat, flat))


def test_effective_rank_is_the_number_of_equal_singular_values():
    for rank in (1, 3, 7):
        left = torch.linalg.qr(torch.randn(50, rank + 1, dtype=torch.float64) * 1).Q
        left = torch.linalg.qr(left - left.mean(0)).Q[:, :rank]  # orthonormal columns of mean 0
        right = torch.linalg.qr(torch.randn(12, rank, dtype=torch.float64)).Q
        assert effective_rank(centred_gram(2.5 * left @ right.T)) == pytest.approx(rank)
    # singular values in the shares 3 / 4 and 1 / 4
    pair = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(centred_gram(pair)) == pytest.approx(4 / 3**0.75)
    assert math.isnan(effective_rank(centred_gram(torch.ones(5, 3))))


# --- dormant units


def test_dormant_units_that_were_planted():
    dense = torch.rand(100, 40) + 1
    dense[:, :6] = 0
    dense[:, 6] = 0.02  # 0.02 of a mean of about 1.3: below tau
    dense[:, 7] *= -1  # active, if negative
    assert dormant_share(dense) == 7 / 40
    assert dormant_share(dense, tau=0) == 6 / 40
    channels = torch.rand(10, 8, 4, 4) + 1
    channels[:, 2] = 0
    channels[:, 3, :, 1:] = 0  # active in one column
    assert dormant_share(channels) == 1 / 8
    assert dormant_share(torch.zeros(3, 4)) == 1
    with pytest.raises(ValueError, match="tau must be at least 0; got -1"):
        dormant_share(dense, tau=-1)


# --- probes


def episodes(levels: int, each: int, frames: int) -> tuple[Tensor, Tensor]:
    """Episode and level of every frame."""
    episode = torch.arange(levels * each).repeat_interleave(frames)
    return episode, episode // each


def test_episodes_are_dealt_whole_and_no_level_is_tested_that_was_not_fitted():
    episode, level = episodes(levels=5, each=4, frames=3)
    part = deal_episodes(episode, level)
    assert all(len(part[episode == one].unique()) == 1 for one in episode.unique())
    for one in range(5):
        own = part[level == one]
        assert [(own == p).sum().item() // 3 for p in (FIT, CHOOSE, TEST)] == [2, 1, 1]
    again, other = (deal_episodes(episode, level, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert torch.equal(again, deal_episodes(episode, level, torch.Generator().manual_seed(1)))
    assert not torch.equal(again, other)
    with pytest.raises(ValueError, match="episode must be such that some level has at least 4"):
        deal_episodes(*episodes(levels=5, each=3, frames=2))


def test_a_probe_reads_the_level_where_it_is_and_not_where_it_is_not():
    episode, level = episodes(levels=6, each=8, frames=10)
    part = deal_episodes(episode, level)
    held = torch.nn.functional.one_hot(level).float() @ torch.randn(6, 30) + 0.1 * torch.randn(480, 30)
    assert linear_probes(centred_gram(held), part, {"level": level})["level"] == 1
    nothing = linear_probes(centred_gram(torch.randn(480, 30)), part, {"level": level})["level"]
    assert nothing < 1 / 6 + 4 * math.sqrt(1 / 6 * 5 / 6 / (part == TEST).sum())
    # What tells episodes apart, and not levels, must not help: a leak of episodes would tell them all.
    own = torch.randn(48, 200)[episode]
    assert linear_probes(centred_gram(own), part, {"level": level})["level"] < 0.5


def test_a_probe_of_a_number_explains_what_is_linear_in_the_features():
    episode, level = episodes(levels=4, each=8, frames=12)
    part = deal_episodes(episode, level)
    x = torch.randn(384, 10, dtype=torch.float64) + 4
    noise = torch.randn(384, dtype=torch.float64)
    signal = x @ torch.randn(10, dtype=torch.float64)
    signal = (signal - signal.mean()) / signal.std() + 30  # far from 0: it takes the intercept
    scores = linear_probes(
        centred_gram(x), part, {"exact": signal, "half": signal + noise, "none": noise, "constant": torch.ones(384)}
    )
    assert scores["exact"] == pytest.approx(1, abs=1e-5)
    assert scores["half"] == pytest.approx(0.5, abs=0.15)
    assert scores["none"] < 0.1
    assert math.isnan(scores["constant"])


def test_a_probe_equals_ridge_regression_by_normal_equations():
    episode, level = episodes(levels=2, each=4, frames=5)
    part = deal_episodes(episode, level)
    x = torch.randn(40, 3, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2, 0.5], dtype=torch.float64) + torch.randn(40, dtype=torch.float64)
    fit, choose, test = (part == one for one in (FIT, CHOOSE, TEST))
    mean, centre = y[fit].mean(), x[fit].mean(0)
    z = x - centre
    unit = z[fit].square().sum() / fit.sum()

    def predict(penalty: float) -> Tensor:
        weights = torch.linalg.solve(z[fit].T @ z[fit] + penalty * unit * torch.eye(3), z[fit].T @ (y[fit] - mean))
        return z @ weights + mean

    best = min((predict(10.0**p) for p in range(-7, 4)), key=lambda told: (told - y)[choose].square().sum())
    expected = 1 - (best - y)[test].square().sum() / (y[test] - y[test].mean()).square().sum()
    assert linear_probes(centred_gram(x), part, {"y": y})["y"] == pytest.approx(expected.item(), rel=1e-6)


# --- mutual information


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_information_of_a_correlated_gaussian(rho: float):
    x, noise = torch.randn(2, 1500, 1, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    found = mutual_information(distances(x), distances(7 * y - 3))
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08)


def test_information_of_gaussians_in_two_dimensions_adds_up():
    x, noise = torch.randn(2, 1500, 2, dtype=torch.float64)
    y = 0.8 * x + 0.6 * noise
    both = mutual_information(torch.hypot(distances(x[:, :1]), distances(x[:, 1:])), distances(y))
    assert both == pytest.approx(-math.log(1 - 0.64), abs=0.15)
    assert both == pytest.approx(mutual_information(distances(x), distances(y)))


def test_information_by_hand():
    # Points 0, 1, 3, 7 in both, k = 1: the radius is the distance to the nearest, and nothing is closer in either:
    # psi(1) + psi(4) - 2 psi(1) = psi(4) - psi(1) = 1 + 1 / 2 + 1 / 3.
    line = torch.tensor([0.0, 1, 3, 7])
    distance = (line.unsqueeze(0) - line.unsqueeze(1)).abs()
    assert mutual_information(distance, distance, neighbours=1) == pytest.approx(11 / 6)
    # Labels a, a, b, b: nearest of the same label at 1, 1, 4, 4. Within them, with the frame itself: 0: itself -> 1;
    # 1: itself -> 1; 3: 1 and 0 are closer -> 3; 7: itself -> 1. psi(4) + psi(1) - psi(2) - (3 psi(1) + psi(3)) / 4.
    expected = (11 / 6) - 1 - (1 + 1 / 2) / 4
    assert information_about_labels(distance, torch.tensor([5, 5, 9, 9]), neighbours=1) == pytest.approx(expected)
    # A label that comes once is left out.
    more = torch.tensor([0.0, 1, 3, 7, 3.1])
    distance = (more.unsqueeze(0) - more.unsqueeze(1)).abs()
    assert information_about_labels(distance, torch.tensor([5, 5, 9, 9, 1]), neighbours=1) == pytest.approx(expected)
    assert math.isnan(information_about_labels(distance, torch.arange(5)))


def test_information_about_labels_of_groups_apart_and_of_none():
    label = torch.arange(4).repeat(200)
    apart = torch.nn.functional.one_hot(label).double() * 100 + torch.randn(800, 4, dtype=torch.float64)
    assert information_about_labels(distances(apart), label) == pytest.approx(math.log(4), abs=0.02)
    assert information_about_labels(distances(torch.randn(800, 4)), label) < 0.03
    # Two normals a distance of 2 apart: I = log 2 - E[h(posterior)], by summing over a grid.
    two = torch.arange(2).repeat(1000)
    x = torch.randn(2000, 1, dtype=torch.float64) + 2 * two.unsqueeze(-1)
    grid = torch.linspace(-8, 10, 20_001, dtype=torch.float64)
    densities = torch.stack([torch.exp(-((grid - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0, 2)])
    share = densities / densities.sum(0)
    expected = math.log(2) + torch.trapezoid((densities / 2 * share.log()).sum(0), grid).item()
    assert information_about_labels(distances(x), two) == pytest.approx(expected, abs=0.06)


def test_frames_that_are_equal_are_no_information_of_their_own():
    label = torch.arange(4).repeat(100)
    copies = torch.randn(4, 300)[label]
    assert information_about_labels(distances(copies), label) == pytest.approx(math.log(4), abs=0.02)
    assert mutual_information(distances(copies), distances(2 * copies + 1)) == pytest.approx(math.log(4), abs=0.02)
    unrelated = torch.randn(4, 5)[torch.arange(4).repeat_interleave(100)]
    assert mutual_information(distances(copies), distances(unrelated)) < 0.05


@pytest.mark.parametrize("neighbours", [0, 10, 1.5])
def test_information_refuses_more_neighbours_than_there_are(neighbours: float):
    distance = torch.rand(10, 10)
    with pytest.raises(ValueError, match=rf"neighbours must be a whole number.*; got {neighbours}"):
        mutual_information(distance, distance, neighbours=neighbours)


# --- saliency


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_saliency_lies_on_the_one_patch_that_is_read(dtype: torch.dtype):
    frame = torch.randint(0, 256, (3, 64, 48)).to(dtype)

    def reads(batch: Tensor) -> Tensor:
        assert batch.dtype == dtype
        return batch[:, :, 40:48, 8:16].float().mean((1, 3)) / 255  # (B, 8), rows of a patch

    found = perturbation_saliency(reads, frame, stride=4, sigma=2.0)
    assert found.shape == (64, 48) and (found >= 0).all()
    outside = found.clone()
    outside[32:56, 0:24] = 0  # the patch, and as far as the blurred places reach
    assert outside.max() < 1e-3 * found.max()
    row, column = divmod(int(found.argmax()), 48)
    assert 38 <= row < 50 and 6 <= column < 18


def test_saliency_by_hand_of_one_place():
    # One bright pixel in an 8 x 8 frame, tried at stride 8: one place, (4, 4), where the mask is 1.
    frame = torch.zeros(1, 8, 8, dtype=torch.float64)
    frame[0, 4, 4] = 100
    kernel = torch.exp(-(torch.arange(-3, 4).double() ** 2) / 2)
    left = 100 * (1 / kernel.sum()) ** 2  # of the pixel, once blurred
    found = perturbation_saliency(lambda batch: batch[:, 0, 4, 4:5], frame, stride=8, sigma=1.0)
    torch.testing.assert_close(found, torch.full((8, 8), (100 - left.item()) ** 2 / 2, dtype=torch.float64))


def test_saliency_refuses_a_batch_and_a_stride_of_nothing():
    for options, says in (({"stride": 0}, "stride must be at least 1"), ({"sigma": 0}, "sigma must be positive")):
        with pytest.raises(ValueError, match=says):
            perturbation_saliency(lambda batch: batch, torch.zeros(1, 8, 8), **options)
    with pytest.raises(ValueError, match=r"frame must be an array of 3 axes"):
        perturbation_saliency(lambda batch: batch, torch.zeros(1, 1, 8, 8))


def test_taking_outputs_leaves_gradients_and_modes_to_whoever_takes_them():
    agent, frames = model(1), torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    agent.train()
    two = [block_outputs(agent, frames) for _ in range(2)]
    for _ in zip(*two, strict=True):  # in turn, as two runs are compared
        assert torch.is_grad_enabled() and agent.training
    assert torch.is_grad_enabled() and agent.training
