"""What each block of policy and value has learned, measured on its features: similarity, rank, what can be read off.

    for branch, index, features in block_outputs(model, frames):        # (N, ...), one block after another
        products = centred_gram(features)                               # (N, N)
        effective_rank(products), dormant_share(features)
        linear_probes(products, part, {"level": level, "return": return_to_go})
        information_about_labels(distances(features), level)

Features are flattened, not pooled over space: the dense block reads where things are, so a mean over places would hide
what it can use. A flattened stage has more features than there are frames, hence everything that can be is computed
from products or distances of frames, (N, N). Sources stand at each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from decouple.checks import SOME, Must, above, at_least, axes, check_setting, checked, positive_whole
from decouple.networks.actor_value import ActorValue
from decouple.networks.fitting import evaluating

__all__ = [
    "block_outputs",
    "centred_gram",
    "deal_episodes",
    "distances",
    "dormant_share",
    "effective_rank",
    "information_about_labels",
    "linear_cka",
    "linear_probes",
    "mutual_information",
    "perturbation_saliency",
]

SQUARE = Must(
    lambda gram: (
        gram.ndim == 2 and len(gram) == gram.shape[1] > 0 and gram.is_floating_point() and gram.isfinite().all()
    ),
    "a tensor (N, N) of finite floats",
)
FIT, CHOOSE, TEST = 0, 1, 2  # the parts of the frames of a probe
PENALTIES = [10.0**power for power in range(-7, 4)]  # of a probe, in units of the mean square of a frame's features


@checked(observation=axes(2, 9), batch_size=at_least(1))
def block_outputs(
    model: ActorValue, observation: Tensor, *, batch_size: int = 256
) -> Iterator[tuple[str, int, Tensor]]:
    """What each block puts out for these observations: the trunk's blocks, then the policy's, then the value's.

    Blocks run one after another on all observations, in batches; no more than two blocks' outputs (three at the cut)
    are held at a time.

    Args:
        model: from `actor_value`, with branches that read nothing but the trunk's output.
        observation: (N, ...).
        batch_size: observations that run together.

    Yields:
        `trunk`, `policy` or `value`; the block's index in its stack; its output (N, ...). The shared model has no
        blocks but the trunk's.
    """
    extra = [*model.policy.keys, *model.value.keys]
    check_setting("model", extra, lambda keys: not keys, "one whose branches read no further keys")

    def outputs(block: nn.Module, inputs: Tensor) -> Tensor:
        # Not around the yields: whoever takes a block's output has its own gradients and modes, and two of these
        # generators that are taken in turn would end in each other's.
        with torch.no_grad(), evaluating(model):
            return torch.cat([block(batch) for batch in inputs.split(batch_size)])

    hidden = observation
    for index, block in enumerate(model.trunk):
        hidden = outputs(block, hidden)
        yield "trunk", index, hidden
    for branch, blocks in (("policy", model.policy), ("value", model.value)):
        features = hidden
        for index, block in enumerate(blocks, start=model.at):
            features = outputs(block, features)
            yield branch, index, features


@checked(features=axes(2, 9))
def centred_gram(features: Tensor) -> Tensor:
    """Scalar products of the frames' features about their mean, (N, ...) -> float64 (N, N)."""
    return _products(features, scaled=False)


@checked(a=SQUARE, b=SQUARE)
def linear_cka(a: Tensor, b: Tensor) -> float:
    """Similarity of two representations of the same frames, up to rotation and scale: 1 the same, near 0 unrelated.

    Linear CKA (Kornblith et al. 2019, https://arxiv.org/abs/1905.00414) of the unbiased HSIC (Song et al. 2012; Nguyen
    et al. 2021, https://arxiv.org/abs/2010.15327): with more features than frames the biased one nears 1 for features
    that have nothing in common. So it can lie a little below 0.

    Args:
        a: `centred_gram` of one representation, (N, N), N at least 4.
        b: that of the other.

    Returns:
        CKA; nan where a representation is constant.
    """
    check_setting("b", tuple(b.shape), lambda shape: shape == tuple(a.shape), f"of a's shape, {tuple(a.shape)}")
    check_setting("a", len(a), lambda frames: frames >= 4, "of at least 4 frames")
    similarity, of_a, of_b = _hsic(a, b), _hsic(a, a), _hsic(b, b)
    return similarity / math.sqrt(of_a * of_b) if of_a > 0 and of_b > 0 else math.nan


def _hsic(a: Tensor, b: Tensor) -> float:
    """n (n - 3) times the unbiased estimate of HSIC, Song et al. 2012, equation 5."""
    n = len(a)
    a, b = (gram.double() - gram.double().diagonal().diag() for gram in (a, b))
    rows_a, rows_b = a.sum(1), b.sum(1)
    mean = rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2))
    return float((a * b).sum() + mean - 2 / (n - 2) * (rows_a @ rows_b))


@checked(gram=SQUARE)
def effective_rank(gram: Tensor) -> float:
    """How many directions the features use: exp of the entropy of the singular values, as shares of their sum.

    Roy and Vetterli 2007 (EUSIPCO), of the features about their mean: r for r equal singular values, 1 for one.

    Args:
        gram: `centred_gram`, (N, N).

    Returns:
        A number in [1, N); nan where the features are constant.
    """
    squares = torch.linalg.eigvalsh(gram.double())
    rounding = len(gram) * torch.finfo(torch.float64).eps * squares[-1]
    singular = squares[squares > rounding.clamp_min(0)].sqrt()
    if not len(singular):
        return math.nan
    share = singular / singular.sum()
    return math.exp(-(share * share.log()).sum().item())


@checked(features=axes(2, 9), tau=at_least(0))
def dormant_share(features: Tensor, tau: float = 0.025) -> float:
    """Share of units that hardly ever fire: their mean size is at most tau times the block's.

    Sokar et al. 2023, https://arxiv.org/abs/2302.12902. A unit is a channel, over all its places, or a feature of a
    dense block, and its size the mean of its absolute values. With tau = 0 only units that never fire count.

    Args:
        features: what a block puts out, (N, units, ...).
        tau: at least 0.

    Returns:
        A share in [0, 1]; 1 where nothing fires at all.
    """
    check_setting("tau", tau, lambda value: value >= 0, "at least 0")
    size = features.abs().flatten(2).mean(-1) if features.ndim > 2 else features.abs()  # (N, units)
    score = size.double().mean(0)  # (units,)
    return (score <= tau * score.mean()).double().mean().item()


@checked(episode=axes(1, kind="integer"), level=axes(1, kind="integer"))
def deal_episodes(episode: Tensor, level: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Parts of a probe, whole episodes each: 0 to fit on, 1 to choose the penalty by, 2 to test on.

    The episodes of each level are shuffled and dealt to fit, test, fit and choose in turn: every level that is tested
    was fitted on, in another episode.

    Args:
        episode: the episode of each frame, integers (N,).
        level: the level of each frame, integers (N,).
        generator: of the shuffling.

    Returns:
        The part of each frame, (N,).

    Raises:
        ValueError: some part is empty: too few episodes of a level.
    """
    check_setting(
        "level", tuple(level.shape), lambda n: n == episode.shape, f"of episode's shape, {tuple(episode.shape)}"
    )
    part = torch.full_like(episode, FIT)
    for one in level.unique():
        own = episode[level == one].unique()
        for turn, index in enumerate(torch.randperm(len(own), generator=generator)):
            part[(episode == own[index]) & (level == one)] = (FIT, TEST, FIT, CHOOSE)[turn % 4]
    says = "such that some level has at least 4 (record more episodes, or fewer levels)"
    check_setting("episode", len(episode.unique()), lambda _: len(part.unique()) == 3, says)
    return part


@checked(gram=SQUARE, part=axes(1, kind="integer"), targets=SOME)
def linear_probes(gram: Tensor, part: Tensor, targets: Mapping[str, Tensor]) -> dict[str, float]:
    """How well a linear function of the features tells each target in episodes that it was not fitted on.

    Ridge regression in closed form, an intercept beside it; the penalty is chosen for each target on a part of its
    own. Labels are regressed on as one-hot rows, and the largest output is the label told.

    Args:
        gram: `centred_gram`, (N, N).
        part: from `deal_episodes`, (N,).
        targets: numbers, floating (N,), or labels, integers (N,).

    Returns:
        Of each target the share of variance explained on the test part, 1 - SSE / SST, at most 1 and below 0 where a
        constant does better (nan where the target is constant there); of labels the share that is told right.
    """
    check_setting("part", len(part), lambda n: n == len(gram), f"as long as gram, {len(gram)}")
    for name, target in targets.items():
        check_setting(
            "targets", tuple(target.shape), lambda shape: shape == (len(gram),), f"({len(gram)},), for {name}"
        )
    gram = gram.double()
    fit, choose, test = (part == one for one in (FIT, CHOOSE, TEST))
    gram = gram - gram[fit].mean(0) - gram[:, fit].mean(1, keepdim=True) + gram[fit][:, fit].mean()
    eigenvalues, vectors = torch.linalg.eigh(gram[fit][:, fit])  # (n,), (n, n)
    unit = eigenvalues.mean().clamp_min(torch.finfo(torch.float64).tiny)
    scores = {}
    for name, target in targets.items():
        labels = not target.is_floating_point()
        goal = _one_hot(target) if labels else target.double().unsqueeze(-1)  # (N, T)
        mean = goal[fit].mean(0)
        projected = vectors.T @ (goal[fit] - mean)  # (n, T)

        def predict(penalty: float, where: Tensor, projected: Tensor = projected, mean: Tensor = mean) -> Tensor:
            weights = vectors @ (projected / (eigenvalues.clamp_min(0) + penalty * unit).unsqueeze(-1))  # (n, T)
            return gram[where][:, fit] @ weights + mean

        losses = [(predict(penalty, choose) - goal[choose]).square().sum().item() for penalty in PENALTIES]
        told, truth = predict(PENALTIES[losses.index(min(losses))], test), goal[test]
        if labels:
            scores[name] = (told.argmax(-1) == truth.argmax(-1)).double().mean().item()
        else:
            spread = (truth - truth.mean()).square().sum().item()
            scores[name] = 1 - (told - truth).square().sum().item() / spread if spread > 0 else math.nan
    return scores


@checked(features=axes(2, 9))
def distances(features: Tensor) -> Tensor:
    """Euclidean distances between frames, each feature divided by its standard deviation; (N, ...) -> float64 (N, N).

    A feature that does not vary adds nothing. Frames that are equal but for rounding lie at 0.
    """
    products = _products(features, scaled=True)
    squares = products.diagonal().clone()
    squared = products.mul_(-2).add_(squares.unsqueeze(0)).add_(squares.unsqueeze(1)).clamp_min_(0)
    return squared.masked_fill_(squared < 1e-12 * squares.mean(), 0).fill_diagonal_(0).sqrt_()


@checked(a=SQUARE, b=SQUARE)
def mutual_information(a: Tensor, b: Tensor, neighbours: int = 3) -> float:
    """I(A; B) of continuous A and B in nats, by nearest neighbours.

    psi(k) + psi(N) - mean(psi(n_a + 1) + psi(n_b + 1)), n_a and n_b the frames closer in A, in B, than the k-th
    neighbour in both at once: the first estimator of Kraskov et al. 2004, https://arxiv.org/abs/cond-mat/0305641, used
    on features by Garcin et al. 2025, https://arxiv.org/abs/2503.06343. A frame with k others equal to it counts all of
    them (Gao et al. 2017, https://arxiv.org/abs/1709.06212). It tells at most about log N nats, and in many dimensions
    far less than there is: compare blocks on the same frames, and read no number for itself.

    Args:
        a: `distances` between the N samples of A, (N, N).
        b: those of B. Two variables as one: `torch.hypot(a, b)`.
        neighbours: k.

    Returns:
        At least 0: a negative estimate is one of 0.
    """
    check_setting("b", tuple(b.shape), lambda shape: shape == tuple(a.shape), f"of a's shape, {tuple(a.shape)}")
    n = len(a)
    check_setting("neighbours", neighbours, lambda k: positive_whole(k) and k < n, f"a whole number in [1, {n - 1}]")
    both = _others(torch.maximum(a, b))
    radius = both.kthvalue(neighbours).values.unsqueeze(-1)  # (N, 1)
    equal = radius.eq(0)
    k = torch.where(equal[:, 0], both.eq(0).sum(-1), neighbours)  # (N,)
    closer = (((_others(one) < radius) | (equal & _others(one).eq(0))).sum(-1) for one in (a, b))  # (N,) each
    loss = sum(torch.digamma(count.double() + 1).mean() for count in closer)
    return max(0.0, float(torch.digamma(k.double()).mean() + _psi(n) - loss))


@checked(distance=SQUARE, label=axes(1, kind="integer"), neighbours=at_least(1))
def information_about_labels(distance: Tensor, label: Tensor, neighbours: int = 3) -> float:
    """I(A; L) of a continuous A and a discrete L in nats, by nearest neighbours.

    psi(N) + mean psi(k) - mean(psi(N_l)) - mean(psi(m)), N_l the frames of the same label, m those at most as far as
    the k-th neighbour of the same label: Ross 2014, https://doi.org/10.1371/journal.pone.0087357, as Garcin et al.
    2025 use it for the level; k counts all of the label that are as far as the k-th. A label with fewer frames uses
    fewer neighbours, and one frame alone is left out. At most the entropy of the label, log of their number where all
    come as often; its limits are `mutual_information`'s.

    Args:
        distance: `distances` between the N samples of A, (N, N).
        label: integers (N,).
        neighbours: k.

    Returns:
        At least 0: a negative estimate is one of 0. nan where no label comes twice.
    """
    check_setting("label", len(label), lambda n: n == len(distance), f"as long as distance, {len(distance)}")
    same = label.unsqueeze(0) == label.unsqueeze(1)  # (N, N)
    kept = same.sum(1) > 1
    if not kept.any():
        return math.nan
    distance, same = _others(distance)[kept][:, kept], same[kept][:, kept]
    count = same.sum(1)  # (N,), with the frame itself
    nearest = (count - 1).clamp_max(neighbours)
    of_label = distance.masked_fill(~same, math.inf).sort(1).values
    within = distance <= of_label.gather(1, (nearest - 1).unsqueeze(-1))  # (N, N)
    numbers = ((within & same).sum(1), count, within.sum(1))
    means = [torch.digamma(number.double()).mean() for number in numbers]
    return max(0.0, float(_psi(len(distance)) + means[0] - means[1] - means[2]))


@checked(frame=axes(3), stride=at_least(1), sigma=above(0), batch_size=at_least(1))
def perturbation_saliency(
    score: Callable[[Tensor], Tensor], frame: Tensor, *, stride: int = 4, sigma: float = 3.0, batch_size: int = 128
) -> Tensor:
    """How much each place of a frame matters: `1/2 |f(I) - f(I')|^2`, I' the frame blurred there.

    Greydanus et al. 2018, https://arxiv.org/abs/1711.00138. Blurring takes away what is there without adding what the
    network never saw, so that the picture is less noisy than the gradient's.

    Args:
        score: frames (B, C, H, W), of the frame's type, -> (B, K), as logits or a value.
        frame: (C, H, W), uint8 or floating.
        stride: pixels between the places tried.
        sigma: pixels, of the blur and of the place that is blurred.
        batch_size: frames in a call of `score`.

    Returns:
        (H, W), at least 0, linear between the places tried.
    """
    check_setting("frame", frame.ndim, lambda axes: axes == 3, "of three axes, (C, H, W)")
    check_setting("sigma", sigma, lambda pixels: pixels > 0, "positive")
    height, width = frame.shape[-2:]
    image = frame.double()
    blurred = _blur(image, sigma)
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    places = torch.cartesian_prod(rows[stride // 2 :: stride], columns[stride // 2 :: stride])  # (P, 2)
    changes = []
    with torch.no_grad():
        before = score(frame.unsqueeze(0)).double()  # (1, K)
        for batch in places.split(batch_size):
            down = (rows - batch[:, :1]).square().unsqueeze(-1)  # (B, H, 1)
            across = (columns - batch[:, 1:]).square().unsqueeze(-2)  # (B, 1, W)
            mask = torch.exp(-(down + across) / (2 * sigma**2)).unsqueeze(1)  # (B, 1, H, W)
            perturbed = image + mask * (blurred - image)
            perturbed = perturbed if frame.is_floating_point() else perturbed.round()
            changes.append((score(perturbed.to(frame.dtype)).double() - before).square().sum(-1) / 2)
    shape = (1, 1, len(rows[stride // 2 :: stride]), len(columns[stride // 2 :: stride]))
    tried = torch.cat(changes).reshape(shape)
    return functional.interpolate(tried, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def _blur(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of (C, H, W), the frame's edge going on beyond it."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = functional.pad(image.unsqueeze(1), (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _products(features: Tensor, *, scaled: bool) -> Tensor:
    """Products of frames about their mean, some features at a time, since their copies in float64 take room."""
    check_setting("features", features.ndim, lambda axes: axes >= 2, "of at least two axes, (N, ...)")
    products = torch.zeros(len(features), len(features), dtype=torch.float64)
    for columns in features.flatten(1).split(1024, dim=1):
        x = columns.double()
        x = x - x.mean(0)
        if scaled:
            deviation = x.square().mean(0).sqrt()
            x = x / torch.where(deviation > 0, deviation, 1.0)
        products.addmm_(x, x.T)
    return products


def _others(distance: Tensor) -> Tensor:
    """Distances to the other frames: a frame is no neighbour of itself."""
    return distance.clone().fill_diagonal_(math.inf)


def _one_hot(label: Tensor) -> Tensor:
    return functional.one_hot(label.unique(return_inverse=True)[1]).double()


def _psi(number: int) -> float:
    return torch.digamma(torch.tensor(float(number), dtype=torch.float64)).item()
