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
    centred = [_centred(features) for features in (policy, value)]
    # Of the two products with the same eigenvalues, of features or of frames, the smaller.
    products = [x.T @ x if x.shape[1] < len(x) else x @ x.T for x in centred]
    ranks = [0.0 if math.isnan(rank := effective_rank(product)) else rank for product in products]
    shares = [rank / x.shape[1] for rank, x in zip(ranks, centred, strict=True)]
    return dict(zip([CKA, *RANKS, *SHARES], [_cka(centred, products), *ranks, *shares], strict=True))


def _centred(features: Tensor) -> Tensor:
    moved = features - features[0]  # what is constant becomes 0, without rounding
    return moved - moved.mean(0)


def _cka(centred: Sequence[Tensor], products: Sequence[Tensor]) -> float:
    """`linear_cka` of two centred features (n, F), without the products of frames, (n, n), that it takes.

    Its HSIC (Song et al. 2012, equation 5) is of these products without their diagonals. Since features are centred, a
    row of a product sums to 0, and without the diagonal to minus its entry there; and the sum of the squares of a
    product of frames is that of the features' product.
    """
    a, b = centred
    n = len(a)
    if n < 4:
        return math.nan
    of_a, of_b = (x.square().sum(1) for x in centred)  # the diagonals, (n,)

    def hsic(product: Tensor, x: Tensor, y: Tensor) -> float:
        mean = x.sum() * y.sum() / ((n - 1) * (n - 2))
        return float(product.square().sum() + mean - n / (n - 2) * (x @ y))

    similarity = hsic(a.T @ b, of_a, of_b)
    size_a, size_b = hsic(products[0], of_a, of_a), hsic(products[1], of_b, of_b)
    return similarity / math.sqrt(size_a * size_b) if size_a > 0 and size_b > 0 else math.nan
