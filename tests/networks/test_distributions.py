"""Actions from each seed's noise, the integrated entropy and the KL divergence, against formulas and integrals."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule
from torch import Tensor, distributions
from torchrl.data import Bounded, Categorical
from torchrl.modules import IndependentNormal, OneHotCategorical, TanhNormal

from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.distributions import (
    IntegratedTanhNormal,
    MultiCategorical,
    SeedSampler,
    integrated_entropy,
    kl_divergence,
)
from decouple.networks.separation import separate
from decouple.seeding import SeedNoise

LOW, HIGH = torch.tensor([-1.0, -3.0]).double(), torch.tensor([1.0, 2.0]).double()
BOUNDS = {"low": LOW, "high": HIGH}


def sampler(keys: list[str], distribution: type, noise: SeedNoise, **options: Tensor) -> SeedSampler:
    module = ProbabilisticTensorDictModule(
        keys, ["action"], distribution_class=distribution, distribution_kwargs=options, return_log_prob=True
    )
    return SeedSampler(module, noise)


def normal_parameters(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(*shape, 2).double(), torch.rand(*shape, 2).double() + 0.5


def test_a_squashed_action_and_its_log_probability_are_those_of_the_formula_and_of_torchrl():
    loc, scale = normal_parameters(3, 50)
    found = sampler(["loc", "scale"], TanhNormal, SeedNoise([4, 5, 6]), **BOUNDS)(TensorDict(loc=loc, scale=scale))
    noise = torch.cat([SeedNoise([seed]).normal(50, 2) for seed in (4, 5, 6)]).double()
    x, half = loc + scale * noise, (HIGH - LOW) / 2
    torch.testing.assert_close(found["action"], LOW + half * (1 + x.tanh()))
    normal = -noise.square() / 2 - scale.log() - math.log(2 * math.pi) / 2
    expected = (normal - (1 - x.tanh().square()).log() - half.log()).sum(-1)
    torch.testing.assert_close(found["action_log_prob"], expected)
    assert torch.equal(found["action_log_prob"], TanhNormal(loc, scale, **BOUNDS).log_prob(found["action"]))


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_categorical_action_is_the_first_whose_cumulative_probability_exceeds_a_uniform_number(one_hot: bool):
    probability = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.1, 0.9, 0.0]])  # of two seeds
    logits = probability.log().unsqueeze(1).expand(2, 2000, 4)
    kind = OneHotCategorical if one_hot else distributions.Categorical
    found = sampler(["logits"], kind, SeedNoise([1, 2]))(TensorDict(logits=logits))
    action = found["action"].argmax(-1) if one_hot else found["action"]
    for seed, chosen, limits in zip((1, 2), action, ([0.5, 0.5, 0.75], [0.0, 0.1, 1.0]), strict=True):
        uniform = SeedNoise([seed]).uniform(2000, 1).squeeze()
        expected = sum((uniform >= limit).long() for limit in limits)
        assert torch.equal(chosen, expected)
    torch.testing.assert_close(found["action_log_prob"], logits.gather(-1, action.unsqueeze(-1)).squeeze(-1))
    assert (found["action_log_prob"] > -math.inf).all()  # what has no probability is not drawn
    share = torch.stack([(action == a).float().mean(1) for a in range(4)], 1)
    torch.testing.assert_close(share, probability, atol=0.03, rtol=0)


def test_a_distribution_that_cannot_be_drawn_per_seed_is_refused():
    with pytest.raises(
        ValueError, match=r"module must have a TanhNormal, IndependentNormal, .* distribution; got Normal"
    ):
        sampler(["loc", "scale"], distributions.Normal, SeedNoise([0]))


@pytest.mark.parametrize(("scale", "error"), [(0.3, 1e-6), (1.0, 1e-5), (2.0, 1e-3)])
@pytest.mark.parametrize("loc", [0.0, 1.0, -3.0])
def test_the_entropy_is_minus_the_integral_of_p_log_p(loc: float, scale: float, error: float):
    parameters = torch.full((5, 2), loc).double(), torch.full((5, 2), scale).double()
    entropy = IntegratedTanhNormal(*parameters, **BOUNDS).entropy()
    x = torch.linspace(loc - 12 * scale, loc + 12 * scale, 200_001, dtype=torch.float64)
    density = torch.exp(-((x - loc) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))
    log_p = density.log() - 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))  # of tanh x, bounds aside
    one = torch.trapezoid(-density * log_p, x).item()
    assert entropy.shape == (5,)
    assert entropy.tolist() == pytest.approx([2 * one + math.log(1.0) + math.log(2.5)] * 5, abs=2 * error)


def test_the_entropy_and_its_gradient_are_the_means_of_torchrls_samples():
    loc, scale = (value[0].requires_grad_() for value in normal_parameters(1, 3))
    sampled = -TanhNormal(loc, scale, **BOUNDS).rsample_and_log_prob((200_000,))[1].mean(0)
    exact = IntegratedTanhNormal(loc, scale, **BOUNDS).entropy()
    torch.testing.assert_close(exact, sampled, atol=0.02, rtol=0)
    slopes = [torch.autograd.grad(value.sum(), [loc, scale]) for value in (exact, sampled)]
    torch.testing.assert_close(slopes[0], slopes[1], atol=0.03, rtol=0)


def test_a_head_with_integrated_entropy_shares_the_parameters_and_leaves_the_models_as_it_was():
    for spec, kind in ((Bounded(-1, 1, shape=(2,)), IntegratedTanhNormal), (Categorical(3), distributions.Categorical)):
        model = actor_value(separate(mlp_blocks(4, [8]), mlp_blocks(4, [8]), at=0), spec)
        head = integrated_entropy(model.get_policy_head())
        assert list(map(id, head.parameters())) == list(map(id, model.get_policy_head().parameters()))
        assert type(head.get_dist(TensorDict(policy_hidden=torch.ones(8)))) is kind
        assert (
            type(model.get_policy_head().get_dist(TensorDict(policy_hidden=torch.ones(8)))) is not IntegratedTanhNormal
        )


def test_the_divergence_of_squashed_normals_is_that_of_their_normals():
    old, new = normal_parameters(3, 4), tuple(value + 0.3 for value in normal_parameters(3, 4))
    (m0, s0), (m1, s1) = old, new
    expected = ((s1 / s0).log() + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5).sum(-1)
    found = kl_divergence(TanhNormal(*old, **BOUNDS), TanhNormal(*new, **BOUNDS))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [distributions.Categorical, OneHotCategorical])
def test_the_divergence_of_categorical_distributions(kind: type):
    old, new = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0]
    assert kl_divergence(kind(probs=old), kind(probs=new)).tolist() == pytest.approx(expected, abs=1e-6)


def test_several_categoricals_are_independent_ones():
    torch.manual_seed(0)
    logits, other = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    several = MultiCategorical(logits, (3, 2))
    alone = [distributions.Categorical(logits=part) for part in logits.split([3, 2], -1)]
    action = several.sample()
    assert action.shape == (2, 4, 2) and (action.amax((0, 1)) < torch.tensor([3, 2])).all()
    expected = sum(of.log_prob(index) for of, index in zip(alone, action.unbind(-1), strict=True))
    torch.testing.assert_close(several.log_prob(action), expected)
    torch.testing.assert_close(several.entropy(), sum(of.entropy() for of in alone))
    assert torch.equal(several.mode, torch.stack([logits[..., :3].argmax(-1), logits[..., 3:].argmax(-1)], -1))
    assert torch.equal(several.deterministic_sample, several.mode)
    changed = [distributions.Categorical(logits=part) for part in other.split([3, 2], -1)]
    divergence = sum(distributions.kl_divergence(a, b) for a, b in zip(alone, changed, strict=True))
    torch.testing.assert_close(kl_divergence(several, MultiCategorical(other, (3, 2))), divergence)
    with pytest.raises(ValueError, match=r"logits must have the last axis 6, of \(3, 3\)"):
        MultiCategorical(logits, (3, 3))


def test_several_categories_and_plain_normals_are_drawn_per_seed():
    """Each seed draws what it draws alone: shares of the choices, and loc + scale times its own noise."""
    probability = torch.tensor([[0.5, 0.0, 0.5, 0.1, 0.9]])
    logits = probability.log().expand(2, 2000, 5).contiguous()
    both = sampler(["logits"], MultiCategorical, SeedNoise([1, 2]), choices=(3, 2))(TensorDict(logits=logits))
    for seed in (0, 1):
        own = sampler(["logits"], MultiCategorical, SeedNoise([1 + seed]), choices=(3, 2))(
            TensorDict(logits=logits[:1])
        )
        assert torch.equal(own["action"][0], both["action"][seed])
    share = torch.stack([(both["action"][..., 0] == a).float().mean() for a in range(3)])
    torch.testing.assert_close(share, probability[0, :3], atol=0.03, rtol=0)
    loc, scale = normal_parameters(2, 5)
    loc[1] = math.nan
    found = sampler(["loc", "scale"], IndependentNormal, SeedNoise([4, 5]))(TensorDict(loc=loc, scale=scale))
    torch.testing.assert_close(found["action"][0], (loc + scale * SeedNoise([4, 5]).normal(5, 2))[0])
    assert (found["action"][1] == 0).all() and found["action_log_prob"][1].isnan().all()


def test_of_parameters_that_are_nan_the_action_is_valid_and_its_probability_nan():
    """The second of two seeds has failed; the first draws what it would draw alone."""
    loc, scale = normal_parameters(2, 5)
    alone = sampler(["loc", "scale"], TanhNormal, SeedNoise([4]), **BOUNDS)(TensorDict(loc=loc[:1], scale=scale[:1]))
    loc[1] = math.nan
    found = sampler(["loc", "scale"], TanhNormal, SeedNoise([4, 5]), **BOUNDS)(TensorDict(loc=loc, scale=scale))
    assert torch.equal(found["action"][1], LOW.expand(5, 2)) and found["action_log_prob"][1].isnan().all()
    assert torch.equal(found["action"][0], alone["action"][0])
    logits = torch.full((2, 5, 3), math.nan)
    for kind in (distributions.Categorical, OneHotCategorical):
        found = sampler(["logits"], kind, SeedNoise([4, 5]))(TensorDict(logits=logits))
        index = found["action"] if kind is distributions.Categorical else found["action"].argmax(-1)
        assert (index == 0).all() and found["action_log_prob"].isnan().all()
