"""Additions to TorchRL's policy distributions: actions drawn per seed, an entropy without sampling, the KL divergence.

    policy[-1] = SeedSampler(policy[-1], SeedNoise(seeds))      # each seed's actions from its own random numbers
    head = integrated_entropy(model.get_policy_head())          # losses on it draw no random numbers
    divergence = kl_divergence(old, new)                        # (*B,), in closed form

TorchRL samples actions, and the entropy of a tanh-squashed normal, from the global generator: a seed's draws would
depend on the other seeds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, distributions
from torch.nn import functional
from torchrl.modules import IndependentNormal, OneHotCategorical, TanhNormal

from decouple.checks import checked
from decouple.seeding import SeedNoise

__all__ = [
    "IntegratedTanhNormal",
    "MultiCategorical",
    "SeedSampler",
    "draw_categories",
    "integrated_entropy",
    "kl_divergence",
    "log_tanh_slope",
    "squashed_normal",
]

LOG_2 = math.log(2)
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
REACH, STEPS = 5.0, 21  # the integral covers 5 standard deviations to either side, in steps of one half


class SeedSampler(TensorDictModuleBase):
    """The last module of a policy head; it draws each seed's actions from that seed's random numbers.

    Distribution parameters (S, *B, A) -> `action` and its `action_log_prob` (S, *B) by the distribution. It always
    samples: a normal as loc + scale * noise, a tanh-squashed one as squash(loc + scale * noise), a categorical by the
    inverse of its distribution function at a uniform number. Where parameters are nan the action is still valid, a
    lower bound, 0 or index 0, so that the other seeds' games go on; its log-probability is nan.

    Args:
        module: the sampling module that this one replaces: `model.get_policy_head()[-1]`.
        noise: the random numbers of the S seeds, on the parameters' device.

    Raises:
        ValueError: a distribution of another kind.
    """

    @checked()
    def __init__(self, module: ProbabilisticTensorDictModule, noise: SeedNoise):
        super().__init__()
        known = (TanhNormal, IndependentNormal, distributions.Categorical, MultiCategorical)
        if not issubclass(module.distribution_class, known):
            names = "TanhNormal, IndependentNormal, Categorical, OneHotCategorical or MultiCategorical"
            raise ValueError(f"module must have a {names} distribution; got {module.distribution_class.__name__}")
        self.sampled, self.noise = module, noise
        self.in_keys, self.out_keys = list(module.in_keys), list(module.out_keys)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        distribution = self.sampled.get_dist(tensordict)
        action = _draw(distribution, self.noise)
        tensordict.set(self.sampled.dist_sample_keys[0], action)
        return tensordict.set(self.sampled.log_prob_key, distribution.log_prob(action))


class MultiCategorical(distributions.Distribution):
    """Several independent categoricals, one for each component of an action.

    Args:
        logits: the components' logits, one behind the other, (*B, sum of choices).
        choices: number of choices of each component, K numbers.

    Attributes:
        parts: the K distributions. A sample is (*B, K), its log-probability and the entropy (*B,).

    Raises:
        ValueError: logits of another size.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, choices: Sequence[int]):
        if not choices or logits.shape[-1] != sum(choices):
            raise ValueError(f"logits must have the last axis {sum(choices)}, of {tuple(choices)}; got {logits.shape}")
        self.logits = logits
        parts = logits.split(list(choices), -1)
        self.parts = [distributions.Categorical(logits=part, validate_args=False) for part in parts]
        super().__init__(logits.shape[:-1], torch.Size([len(choices)]), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.stack([part.sample(torch.Size(sample_shape)) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        found = [part.log_prob(each) for part, each in zip(self.parts, value.unbind(-1), strict=True)]
        return torch.stack(found).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    @property
    def mode(self) -> Tensor:
        return torch.stack([part.logits.argmax(-1) for part in self.parts], -1)

    deterministic_sample = mode  # TorchRL's name


class IntegratedTanhNormal(TanhNormal):
    """TorchRL's TanhNormal with an entropy that is integrated over the normal; TorchRL samples it.

    With x = loc + scale * e, e standard normal, the entropy of low + (high - low) (1 + tanh x) / 2 is that of x plus
    `E log (1 - tanh(x)^2) + log ((high - low) / 2)` in each component. The expectation is a sum over 21 values of e,
    half a standard deviation apart: exact to 1e-5 up to scale 1, to 1e-3 at scale 2.
    """

    def entropy(self) -> Tensor:
        """Entropy, (*B,), in nats."""
        normal = self.root_dist
        loc, scale = normal.loc, normal.scale  # (*B, A)
        nodes = torch.linspace(-REACH, REACH, STEPS, dtype=loc.dtype, device=loc.device)
        x = loc.unsqueeze(-1) + scale.unsqueeze(-1) * nodes  # (*B, A, 21)
        squashing = log_tanh_slope(x) @ (-nodes.square() / 2).softmax(0)  # (*B, A)
        return (normal.entropy() + squashing + ((self.high - self.low) / 2).log()).sum(-1)


@checked()
def integrated_entropy(head: ProbabilisticTensorDictSequential) -> ProbabilisticTensorDictSequential:
    """The policy head with IntegratedTanhNormal in place of TanhNormal, on the same parameters; other heads stay."""
    *layers, sampled = head.module
    sampled = copy.copy(sampled)
    if sampled.distribution_class is TanhNormal:
        sampled.distribution_class = IntegratedTanhNormal
    return ProbabilisticTensorDictSequential(*layers, sampled)


def kl_divergence(old: distributions.Distribution, new: distributions.Distribution) -> Tensor:
    """KL(old || new), (*B,), in nats, of two distributions of one kind: categoricals, normals, tanh-squashed normals.

    An invertible function does not change the divergence: two TanhNormals with equal bounds have that of their normals.
    """
    if isinstance(old, TanhNormal) and isinstance(new, TanhNormal):
        return distributions.kl_divergence(old.root_dist, new.root_dist).sum(-1)
    if isinstance(old, MultiCategorical) and isinstance(new, MultiCategorical):
        pairs = zip(old.parts, new.parts, strict=True)
        return torch.stack([kl_divergence(before, after) for before, after in pairs]).sum(0)
    if isinstance(old, distributions.Categorical) and isinstance(new, distributions.Categorical):
        return _categorical_divergence(old, new)
    return distributions.kl_divergence(old, new)


def _categorical_divergence(old: distributions.Categorical, new: distributions.Categorical) -> Tensor:
    """torch's numbers for two categoricals, without its assignments by masks, for which a GPU waits."""
    terms = old.probs * (old.logits - new.logits)
    terms = torch.where(new.probs == 0, torch.inf, terms)
    return torch.where(old.probs == 0, 0, terms).sum(-1)


def log_tanh_slope(x: Tensor) -> Tensor:
    """`log (1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x))`, of any shape, without overflow."""
    return 2 * (LOG_2 - x - functional.softplus(-2 * x))


def squashed_normal(loc: Tensor, scale: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """A sample of a tanh-squashed normal in (-1, 1) and its log-probability there, from standard normal numbers.

    `u = loc + scale eps, a = tanh(u)`, `log pi(a) = sum_i log N(u_i; loc_i, scale_i) - log (1 - tanh(u_i)^2)`. In a
    task's units, `middle + half a`, the same action's log-probability is less by `sum_i log half_i`.

    Args:
        loc, scale, eps: mean and scale of the normal, and standard normal numbers, each (*B, A).

    Returns:
        Action (*B, A) and log-probability (*B, 1), with pathwise gradients.
    """
    u = torch.addcmul(loc, scale, eps)
    log_prob = (-0.5 * eps.square() - scale.log() - log_tanh_slope(u)).sum(-1, keepdim=True)
    return torch.tanh(u), log_prob - loc.shape[-1] * HALF_LOG_2_PI


def draw_categories(probs: Tensor, noise: SeedNoise) -> Tensor:
    """Draw an index from each distribution, (S, *B, n) -> (S, *B), by the inverse of its distribution function.

    Where probabilities are nan the index is 0, a valid action; the training loop then finds that the agent has failed.
    """
    cumulative = probs.cumsum(-1)  # (S, *B, n)
    uniform = noise.uniform(*cumulative.shape[1:-1], 1).to(cumulative) * cumulative[..., -1:]  # the sum may miss 1
    return (cumulative <= uniform).sum(-1).clamp(max=cumulative.shape[-1] - 1)


def _draw(distribution: Any, noise: SeedNoise) -> Tensor:
    if isinstance(distribution, TanhNormal):
        normal: Any = distribution.root_dist
        preimage = normal.loc + normal.scale * noise.normal(*normal.loc.shape[1:]).to(normal.loc)  # (S, *B, A)
        action: Any = distribution.transforms[0](preimage)
        return torch.where(action.isnan(), distribution.low, action)
    if isinstance(distribution, IndependentNormal):
        normal = distribution.base_dist
        action = normal.loc + normal.scale * noise.normal(*normal.loc.shape[1:]).to(normal.loc)  # (S, *B, A)
        return torch.where(action.isnan(), 0.0, action)
    if isinstance(distribution, MultiCategorical):
        return torch.stack([draw_categories(part.probs, noise) for part in distribution.parts], -1)  # (S, *B, K)
    index = draw_categories(distribution.probs, noise)  # (S, *B)
    one_hot = isinstance(distribution, OneHotCategorical)
    return functional.one_hot(index, distribution.probs.shape[-1]) if one_hot else index
