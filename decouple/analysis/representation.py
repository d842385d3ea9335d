"""Measures of each block's features in policy and value network: similarity, rank, linear probes, information.

    for branch, index, features in block_outputs(model, frames):        # (N, ...), one block after another
        products = centred_gram(features)                               # (N, N)
        effective_rank(products), dormant_share(features)
        linear_probes(products, part, {"level": level, "return": return_to_go})
        information_about_labels(distances(features), level)

Features are flattened, not pooled over space: the dense block uses positions, which a mean over them would hide. A
flattened stage has more features than there are frames, hence most measures are computed from products or distances of
frames, (N, N). Each function names its source.
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
FIT, CHOOSE, TEST = 0, 1, 2  # a probe's parts of the frames
PENALTIES = [10.0**power for power in range(-7, 4)]  # a probe's penalties, in units of the mean eigenvalue of its gram


@checked(observation=axes(2, 9), batch_size=at_least(1))
def block_outputs(
    model: ActorValue, observation: Tensor, *, batch_size: int = 256
) -> Iterator[tuple[str, int, Tensor]]:
    """Each block's output for these observations: first the trunk's blocks, then the policy's, then the value's.

    Blocks run one after another on all observations, in batches; no more than two blocks' outputs (three at the cut)
    are held at a time.

    Args:
        model: a model from `actor_value` whose branches read only the trunk's output.
        observation: observations (N, ...).
        batch_size: observations per forward pass.

    Yields:
        `trunk`, `policy` or `value`; the block's index in its stack; its output (N, ...). The shared model has only the
        trunk's blocks.
    """
    extra = [*model.policy.keys, *model.value.keys]
    check_setting("model", extra, lambda keys: not keys, "one whose branches read no further keys")
    shape, known = tuple(observation.shape[1:]), model.example.get("observation")
    takes = shape if known is None else tuple(known.shape)
    check_setting("observation", shape, lambda given: given == takes, f"of the model's shape, (N, *{takes})")
    kinds = observation.dtype, observation.is_floating_point()
    check_setting("observation", kinds, lambda v: v[1] or v[0] == torch.uint8, "of floats, or uint8")

    def outputs(block: nn.Module, inputs: Tensor) -> Tensor:
        # Not around the yields: between them the caller's own gradient and training modes must hold, also where two
        # of these generators run in turn.
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
    """Scalar products of the frames' centred features, (N, ...) -> float64 (N, N)."""
    return _products(features, scaled=False)


@checked(a=SQUARE, b=SQUARE)
def linear_cka(a: Tensor, b: Tensor) -> float:
    """Similarity of two representations of the same frames, up to rotation and scale: 1 the same, near 0 unrelated.

    Linear CKA (Kornblith et al. 2019, https://arxiv.org/abs/1905.00414) with the unbiased HSIC (Song et al. 2012;
    Nguyen et al. 2021, https://arxiv.org/abs/2010.15327): with more features than frames the biased HSIC makes CKA near
    1 even for unrelated features. The unbiased one can make it slightly negative.

    Args:
        a: `centred_gram` of one representation, (N, N), N at least 4.
        b: `centred_gram` of the other.

    Returns:
        CKA; nan where a representation is constant.
    """
    check_setting("b", tuple(b.shape), lambda shape: shape == tuple(a.shape), f"of a's shape, {tuple(a.shape)}")
    check_setting("a", len(a), lambda frames: frames >= 4, "the products of at least 4 frames")
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
    """The number of directions that the features use: exp of the entropy of the singular values' shares.

    Roy and Vetterli 2007 (EUSIPCO), for centred features: r for r equal singular values, 1 for a single one.

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
    """Share of dormant units: those whose mean activation is at most tau times the block's mean.

    Sokar et al. 2023, https://arxiv.org/abs/2302.12902. A unit is a channel, over all positions, or a feature of a
    dense block; its activation is the mean absolute value. With tau = 0 only units that are always 0 count.

    Args:
        features: a block's output, (N, units, ...).
        tau: threshold, at least 0.

    Returns:
        A share in [0, 1]; 1 where all features are 0.
    """
    check_setting("tau", tau, lambda value: value >= 0, "at least 0")
    size = features.abs().flatten(2).mean(-1) if features.ndim > 2 else features.abs()  # (N, units)
    score = size.double().mean(0)  # (units,)
    return (score <= tau * score.mean()).double().mean().item()


@checked(episode=axes(1, kind="integer"), level=axes(1, kind="integer"))
def deal_episodes(episode: Tensor, level: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A probe's parts, in whole episodes: 0 to fit on, 1 to choose the penalty on, 2 to test on.

    The episodes of each level are shuffled and dealt to fit, test, fit and choose in turn: the probe is tested only on
    levels that it was fitted on, in other episodes.

    Args:
        episode: the episode of each frame, integers (N,).
        level: the level of each frame, integers (N,).
        generator: generator of the shuffling; None for torch's global one.

    Returns:
        The part of each frame, (N,).

    Raises:
        ValueError: a part is empty, since no level has enough episodes.
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
    """Scores of linear probes: a linear function of the features predicts each target, in episodes unseen in fitting.

    Ridge regression in closed form with an intercept; the penalty is chosen per target on the part `choose`. Labels
    are regressed as one-hot rows, and the largest output is the predicted label.

    Args:
        gram: `centred_gram` of the features, (N, N).
        part: the frames' parts from `deal_episodes`, (N,).
        targets: numbers, floating (N,), or labels, integers (N,), by name.

    Returns:
        For each target of numbers the share of variance explained on the test part, 1 - SSE / SST: at most 1, below 0
        where a constant does better, nan where the target is constant there. For labels the accuracy.
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

    A constant feature adds nothing. Frames that are equal up to rounding have distance 0.
    """
    products = _products(features, scaled=True)
    squares = products.diagonal().clone()
    squared = products.mul_(-2).add_(squares.unsqueeze(0)).add_(squares.unsqueeze(1)).clamp_min_(0)
    return squared.masked_fill_(squared < 1e-12 * squares.mean(), 0).fill_diagonal_(0).sqrt_()


@checked(a=SQUARE, b=SQUARE)
def mutual_information(a: Tensor, b: Tensor, neighbours: int = 3) -> float:
    """I(A; B) of continuous A and B in nats, by nearest neighbours.

    psi(k) + psi(N) - mean(psi(n_a + 1) + psi(n_b + 1)), with n_a and n_b the numbers of frames closer in A, and in B,
    than the k-th neighbour in A and B together: the first estimator of Kraskov et al. 2004,
    https://arxiv.org/abs/cond-mat/0305641, used on features by Garcin et al. 2025, https://arxiv.org/abs/2503.06343. A
    frame with k others equal to it counts all of them (Gao et al. 2017, https://arxiv.org/abs/1709.06212). The estimate
    is at most about log N nats, and far too low in many dimensions: use it only to compare blocks on the same frames.

    Args:
        a: `distances` between the N samples of A, (N, N).
        b: `distances` between those of B. Two variables as one: `torch.hypot(a, b)`.
        neighbours: number of neighbours, k.

    Returns:
        A number of at least 0: a negative estimate becomes 0.
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

    psi(N) + mean psi(k) - mean(psi(N_l)) - mean(psi(m)), with N_l the frames of the same label and m the frames at most
    as far as the k-th neighbour of the same label: Ross 2014, https://doi.org/10.1371/journal.pone.0087357, as Garcin
    et al. 2025 use it for the level. k includes all frames of the label at the k-th one's distance. A label with fewer
    frames uses fewer neighbours; a label with a single frame is left out. I(A; L) is at most the label's entropy: the
    log of the number of labels where they are equally frequent. The limits of `mutual_information` hold here too.

    Args:
        distance: `distances` between the N samples of A, (N, N).
        label: labels, integers (N,).
        neighbours: number of neighbours, k.

    Returns:
        A number of at least 0: a negative estimate becomes 0. nan where every label occurs only once.
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
    """The saliency of each position in a frame: `1/2 |f(I) - f(I')|^2`, with I' the frame blurred there.

    Greydanus et al. 2018, https://arxiv.org/abs/1711.00138. Blurring removes information without adding patterns that
    the network has never seen, so that the map is less noisy than a gradient.

    Args:
        score: function from frames (B, C, H, W), of the frame's type, to (B, K), as logits or a value.
        frame: frame (C, H, W), uint8 or floating.
        stride: pixels between the positions tried.
        sigma: standard deviation of blur and mask in pixels, at most the frame's larger side.
        batch_size: frames in a call of `score`.

    Returns:
        The saliency map (H, W), at least 0, interpolated linearly between the positions tried.
    """
    check_setting("frame", frame.ndim, lambda axes: axes == 3, "of three axes, (C, H, W)")
    height, width = frame.shape[-2:]
    side = max(height, width)
    check_setting("sigma", sigma, lambda v: 0 < v <= side, f"positive and at most {side}, the frame's larger side")
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
    """A Gaussian blur of a frame (C, H, W) whose edge pixels are repeated beyond the edge."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = functional.pad(image.unsqueeze(1), (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _products(features: Tensor, *, scaled: bool) -> Tensor:
    """Products of centred frames, computed on some features at a time, since float64 copies need memory."""
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
    """Distances to the other frames; infinity to itself, since a frame is not its own neighbour."""
    return distance.clone().fill_diagonal_(math.inf)


def _one_hot(label: Tensor) -> Tensor:
    return functional.one_hot(label.unique(return_inverse=True)[1]).double()


def _psi(number: int) -> float:
    return torch.digamma(torch.tensor(float(number), dtype=torch.float64)).item()
