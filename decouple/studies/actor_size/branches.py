"""How alike policy and value branch are while they learn: CKA and effective rank of their last hidden features.

    measure = BranchMeasure(model, seeds, failed)       # a stacked model
    measure(frames)["branches/cka/seed0"]               # on the frames of a rollout, (S, B)

The measures are those of `decouple.analysis.representation`, on states that the agent has just met in training.
They cost some milliseconds. At k = depth both branches are the trunk: CKA is 1 and the ranks are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from decouple.analysis.representation import effective_rank
from decouple.checks import SEED, all_of, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.fitting import evaluating
from decouple.runs.finite import FailedSeeds
from decouple.seeding import seed_metrics

__all__ = ["CKA", "RANKS", "SHARES", "STATES", "BranchMeasure"]

STATES = 512  # of each agent, on which features are compared; or all that a rollout has
CKA = "branches/cka"
RANKS = "branches/policy_rank", "branches/value_rank"  # in directions
SHARES = "branches/policy_rank_share", "branches/value_rank_share"  # of the branch's width


class BranchMeasure:
    """Measures the branches of S agents' model; draws no random number of the run's and changes nothing.

    Args:
        model: a `stack` of models from `actor_value`, without recurrent layers or gates.
        seeds: seeds of its S agents.
        failed: record of the agents that have failed, which are not measured.
    """

    @checked(seeds=all_of(SEED, least=1))
    def __init__(self, model: ActorValue, seeds: Sequence[int], failed: FailedSeeds):
        self.model, self.seeds, self.failed = model, list(seeds), failed
        self.features = model.get_features()

    def __call__(self, frames: TensorDictBase) -> dict[str, float]:
        """CKA, ranks and their shares of the width on `STATES` of these frames (S, B), drawn once for all calls.

        CKA is nan, and a rank 0, where a branch's features are constant.
        """
        order = torch.randperm(frames.shape[1], generator=torch.Generator().manual_seed(0))
        chosen = order[:STATES].to(next(self.model.parameters()).device)
        read = frames.select(*self.features.in_keys)[:, chosen]
        with torch.no_grad(), evaluating(self.model):
            found = self.features(read)
        both = [found[key].double().cpu() for key in ("policy_hidden", "value_hidden")]  # (S, n, F) each
        rows = [_measured(*own) for own in zip(*both, strict=True)]
        return seed_metrics(self.failed.kept(rows), self.seeds)


def _measured(policy: Tensor, value: Tensor) -> dict[str, float]:
    """One agent's metrics, from features (n, F) of each branch; none where features are not finite."""
    if not (policy.isfinite().all() and value.isfinite().all()):
        return {}
    moved = [features - features[0] for features in (policy, value)]  # what is constant becomes 0, without rounding
    centred = [features - features.mean(0) for features in moved]
    ranks = [_rank(features) for features in centred]
    shares = [rank / features.shape[1] for rank, features in zip(ranks, centred, strict=True)]
    names = [CKA, *RANKS, *SHARES]
    return dict(zip(names, [_cka(*centred), *ranks, *shares], strict=True))


def _rank(features: Tensor) -> float:
    """`effective_rank` of centred features (n, F), from the smaller of the two products with the same eigenvalues."""
    count, width = features.shape
    rank = effective_rank(features.T @ features if width < count else features @ features.T)
    return 0.0 if math.isnan(rank) else rank


def _cka(a: Tensor, b: Tensor) -> float:
    """`linear_cka` of centred features (n, F), without the products of frames, (n, n), that it takes."""
    if len(a) < 4:
        return math.nan
    similarity, of_a, of_b = _hsic(a, b), _hsic(a, a), _hsic(b, b)
    return similarity / math.sqrt(of_a * of_b) if of_a > 0 and of_b > 0 else math.nan


def _hsic(a: Tensor, b: Tensor) -> float:
    """Song et al. 2012, equation 5, times n (n - 3), of the products a a' and b b' without their diagonals.

    Since a and b are centred, each row of a product sums to 0, and without the diagonal to minus its diagonal entry.
    """
    n = len(a)
    of_a, of_b = (features.square().sum(1) for features in (a, b))  # the diagonals, (n,)
    mean = of_a.sum() * of_b.sum() / ((n - 1) * (n - 2))
    return float((a.T @ b).square().sum() - of_a @ of_b + mean - 2 / (n - 2) * (of_a @ of_b))
