"""TRPO: a policy step along the natural gradient, as large as a bound on the KL divergence allows.

    settings = TRPOSettings(total_frames=1_000_000)
    train_on_policy(env, model, trpo_phases(model, settings), settings, log=print)

Maximise `L(theta) = mean (pi_theta(a | s) / pi_old(a | s)) A` subject to `mean KL(pi_old || pi_theta) <= delta`. With g
the gradient of L and H the Hessian of the mean KL, both at the old parameters, x = H^-1 g by conjugate gradients, and
the step is `sqrt(2 delta / (x^T H x)) x`, shortened until L has grown and the bound holds. Source: Schulman et al.
2015, Trust Region Policy Optimization (https://arxiv.org/abs/1502.05477), appendix C; numbers as in OpenAI Spinning Up.

In a stacked model (`decouple.networks.stacking.stack`) each seed takes a step of its own: products are (S,), and a seed
whose line search fails keeps its old parameters while the others step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor, distributions, nn
from torchrl.modules import set_recurrent_mode

from decouple.checks import POSITIVE_WHOLE, at_least, check_setting, checked
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import kl_divergence
from decouple.networks.stacking import seed_count
from decouple.on_policy.agents import Metric
from decouple.on_policy.phase_metrics import metric
from decouple.on_policy.phase_parts import value_phase
from decouple.on_policy.phases import RolloutPhase
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.performance import autocast
from decouple.runs.settings import with_defaults
from decouple.seeding import SeedNoise

__all__ = ["TRPOPhase", "TRPOSettings", "conjugate_gradient", "fisher_vector_product", "trpo_phases"]

RESIDUAL = 1e-10  # squared residual, relative to the first, at which conjugate gradients stop


@dataclass
@with_defaults(
    algorithm="trpo",
    total_frames=200_000,  # 50 rollouts
    rollout_steps=4000,  # environment steps per rollout of one environment, steps_per_epoch
    gamma=0.99,
    gae_lambda=0.97,
    learning_rate=1e-3,  # learning rate of the value's Adam, vf_lr
    adam_epsilon=1e-8,  # epsilon of the value's Adam
    value_coeff=1.0,
    value_epochs=80,  # value steps per rollout, train_v_iters
    minibatches=1,  # minibatches of the value phase: a step reads the whole rollout
    micro_batch=4000,
)
class TRPOSettings(OnPolicySettings):
    """Settings of TRPO; defaults are those of OpenAI Spinning Up (`spinup.trpo_tf1`).

    The settings of PPO's, DAAC's and IDAAC's losses (clipping, epochs, entropy) are not used. `rollout_steps` counts
    per environment: 4000 frames are 4000 steps of one environment, or 1000 steps of four.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    delta: float = 0.01  # largest mean KL divergence of a step
    damping: float = 0.1  # number added to the diagonal of the Fisher matrix
    cg_iters: int = 10  # iterations of conjugate gradients
    backtrack_iters: int = 10  # step lengths tried by the line search
    backtrack_coeff: float = 0.8  # factor from one step length to the next

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_trpo(self.delta, self.damping, self.cg_iters, self.backtrack_iters, self.backtrack_coeff)

    @staticmethod
    def rated_parts() -> Sequence[str]:
        """The value alone: the policy's steps are as large as `delta` allows."""
        return ("value",)

    @staticmethod
    def algorithms() -> Collection[str]:
        """The one allowed name, `trpo`."""
        return ("trpo",)


@checked()
def trpo_phases(model: ActorValue, settings: TRPOSettings) -> list[RolloutPhase]:
    """TRPO: a natural-gradient step of the policy, then the value's epochs of Adam on its squared error, unclipped.

    The policy is the model's own: actions of a bounded space come from a tanh-squashed normal with a learned scale that
    starts at 1. Spinning Up uses a plain normal with unbounded actions, whose log scale starts at -0.5.

    Args:
        model: a model from `actor_value` on a network separated at k = 0, or a `stack` of such models.
        settings: TRPO's settings.

    Raises:
        ValueError: a network with a trunk: the value's epochs would move the policy out of its trust region.
    """
    policy = TRPOPhase(
        model,
        delta=settings.delta,
        damping=settings.damping,
        cg_iters=settings.cg_iters,
        backtrack_iters=settings.backtrack_iters,
        backtrack_coeff=settings.backtrack_coeff,
    )
    return [policy, value_phase(model, settings, clipped=False)]


class TRPOPhase:
    """A natural-gradient step of the policy on a rollout, within a bound on the mean KL divergence.

    It reads a rollout (B,), or (S, B) of a stacked model, with normalised `advantage` and `action_log_prob`; of a
    recurrent model its sequences, (B, L) or (S, B, L). The whole rollout goes through the policy at once, whatever the
    micro-batch. It draws no random numbers and has no state.

    Args:
        model: as for `trpo_phases`; its policy branch and policy head are trained.
        delta: largest mean KL(old || new) of a step, in nats.
        damping: number added to the diagonal of the Fisher matrix.
        cg_iters: iterations of conjugate gradients.
        backtrack_iters: step lengths tried, from the largest that the quadratic model allows.
        backtrack_coeff: factor from one step length to the next.
        every: period in rollouts: the phase runs on rollouts 0, every, 2 every, ...

    Raises:
        ValueError: a network with a trunk, or a setting out of range.
    """

    name = "policy"
    minibatches = 1

    @checked(every=at_least(1))
    def __init__(
        self,
        model: ActorValue,
        *,
        delta: float = 0.01,
        damping: float = 0.1,
        cg_iters: int = 10,
        backtrack_iters: int = 10,
        backtrack_coeff: float = 0.8,
        every: int = 1,
    ):
        if model.at != 0:
            raise ValueError(f"model must be separated at k = 0 for TRPO, with no trunk; got k = {model.at}")
        _check_trpo(delta, damping, cg_iters, backtrack_iters, backtrack_coeff)
        check_setting("every", every, POSITIVE_WHOLE)
        self.delta, self.damping, self.cg_iters = delta, damping, cg_iters
        self.backtrack_iters, self.backtrack_coeff, self.every = backtrack_iters, backtrack_coeff, every
        features = model.get_features(["policy_hidden"])
        self.policy = ProbabilisticTensorDictSequential(*features.module.values(), *model.get_policy_head().module)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.policy.parameters())

    def state_dict(self) -> dict:
        """Empty: a step depends on the model and the rollout alone."""
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """Nothing to load."""

    def run(
        self,
        batch: TensorDictBase,
        shuffle: torch.Generator | SeedNoise | None = None,
        *,
        micro_batch: int | None = None,
        precision: str = "fp32",
        progress: Callable[[str, int, int], object] | None = None,
    ) -> dict[str, Metric]:
        """Take one step on a rollout; `shuffle` and `micro_batch` are not used.

        Returns:
            Numbers, or (S,) with several seeds: `policy/kl` of the step taken, `policy/improvement` of L,
            `policy/step_fraction`, the step's share of the largest one (0: no step was taken), `policy/entropy` before
            the step (estimated on the rollout's actions) and `grad_norm/policy`.
        """
        count = seed_count(self.policy)
        agents = torch.Size([] if count is None else [count])  # () or (S,)
        seeds = agents.numel()
        with torch.no_grad():
            old = self._distribution(batch, precision)
        distribution = self._distribution(batch, precision)
        before = _surrogate(distribution, batch, seeds)  # (S,)
        gradient = _flat(torch.autograd.grad(before.sum(), self.parameters(), retain_graph=True), seeds)  # (S, n)
        divergence = _per_seed(kl_divergence(old, distribution), seeds)
        product = fisher_vector_product(divergence, self.parameters(), self.damping)
        direction = conjugate_gradient(product, gradient, self.cg_iters)  # (S, n)
        curvature = (direction * product(direction)).sum(1)  # (S,)
        scale = torch.where(curvature > 0, 2 * self.delta / curvature, 0).sqrt()
        found = self._line_search(scale.unsqueeze(1) * direction, old, before.detach(), batch, precision)
        found["policy/entropy"] = -_per_seed(batch["action_log_prob"], seeds)
        found["grad_norm/policy"] = gradient.norm(dim=1)
        if progress:
            progress(f"{self.name} phase, minibatches", 1, 1)
        return {name: metric(value.reshape(agents)) for name, value in found.items()}

    @torch.no_grad()
    def _line_search(
        self,
        step: Tensor,
        old: distributions.Distribution,
        before: Tensor,
        batch: TensorDictBase,
        precision: str,
    ) -> dict[str, Tensor]:
        """Move each seed's parameters by the first of its shortened steps (S, n) that is accepted, or not at all."""
        seeds = len(step)
        start = _flat(self.parameters(), seeds).clone()  # (S, n)
        accepted = torch.zeros(seeds, dtype=torch.bool, device=step.device)
        fraction, kl, improvement = torch.zeros_like(before), torch.zeros_like(before), torch.zeros_like(before)
        for iteration in range(self.backtrack_iters):
            tried = torch.where(accepted, fraction, self.backtrack_coeff**iteration)
            _set(self.parameters(), start + tried.unsqueeze(1) * step)
            distribution = self._distribution(batch, precision)
            divergence = _per_seed(kl_divergence(old, distribution), seeds)
            gain = _surrogate(distribution, batch, seeds) - before
            new = ~accepted & (divergence <= self.delta) & (gain > 0)
            values = zip((fraction, kl, improvement), (tried, divergence, gain), strict=True)
            fraction, kl, improvement = (torch.where(new, now, last) for last, now in values)
            accepted |= new
            if accepted.all():
                break
        else:
            _set(self.parameters(), torch.where(accepted.unsqueeze(1), start + fraction.unsqueeze(1) * step, start))
        return {"policy/kl": kl, "policy/improvement": improvement, "policy/step_fraction": fraction}

    def _distribution(self, batch: TensorDictBase, precision: str) -> distributions.Distribution:
        recurrent = "is_init" in self.policy.in_keys  # the batch then holds sequences
        with autocast(batch["action_log_prob"].device, precision), set_recurrent_mode(recurrent):
            return self.policy.get_dist(batch.select(*self.policy.in_keys))


def fisher_vector_product(
    divergence: Tensor, parameters: Sequence[Tensor], damping: float
) -> Callable[[Tensor], Tensor]:
    """The function v -> (H + damping I) v, with H the Hessian of a KL divergence, by differentiating twice.

    At equal distributions that Hessian is the Fisher matrix.

    Args:
        divergence: mean KL(old || new) of each seed, (S,), with the graph to the parameters.
        parameters: stacked parameters of S seeds, seed by seed.
        damping: number added to the diagonal.

    Returns:
        A function (S, n) -> (S, n).
    """
    seeds = len(divergence)
    gradient = _flat(torch.autograd.grad(divergence.sum(), parameters, create_graph=True), seeds)  # (S, n)

    def product(vector: Tensor) -> Tensor:
        hessian = torch.autograd.grad((gradient * vector).sum(), parameters, retain_graph=True, materialize_grads=True)
        return _flat(hessian, seeds) + damping * vector

    return product


@torch.no_grad()
def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solve H_s x_s = b_s for symmetric positive definite H_s, from x = 0; Hestenes and Stiefel 1952.

    Args:
        product: function v -> H v, (S, n) -> (S, n).
        b: right-hand sides, (S, n).
        iterations: most iterations; a system stops earlier where its squared residual is 1e-10 of the first.

    Returns:
        x, (S, n).
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = residual.square().sum(1, keepdim=True)  # (S, 1)
    enough = RESIDUAL * square
    for _ in range(iterations):
        active = square > enough  # (S, 1)
        if not active.any():
            break
        with torch.enable_grad():
            image = product(direction)
        length = torch.where(active, square / (direction * image).sum(1, keepdim=True), 0)
        x = x + length * direction
        residual = residual - length * image
        after = residual.square().sum(1, keepdim=True)
        direction = torch.where(active, residual + after / square * direction, direction)
        square = torch.where(active, after, square)
    return x


def _surrogate(distribution: distributions.Distribution, batch: TensorDictBase, seeds: int) -> Tensor:
    """The surrogate objective L of each seed, (S,)."""
    log_ratio = distribution.log_prob(batch["action"]) - batch["action_log_prob"]
    return _per_seed(log_ratio.exp() * batch["advantage"].squeeze(-1), seeds)


def _per_seed(values: Tensor, seeds: int) -> Tensor:
    """Mean of each seed's samples: (B,) or (S, B) -> (S,)."""
    return values.reshape(seeds, -1).mean(1)


def _flat(tensors: Sequence[Tensor], seeds: int) -> Tensor:
    """Stacked gradients or parameters of S seeds as one tensor (S, n)."""
    return torch.cat([tensor.reshape(seeds, -1) for tensor in tensors], 1)


def _set(parameters: Sequence[Tensor], values: Tensor) -> None:
    """Write values (S, n), in the layout of `_flat`, into the parameters."""
    sizes = [parameter.numel() // len(values) for parameter in parameters]
    for parameter, value in zip(parameters, values.split(sizes, 1), strict=True):
        parameter.copy_(value.reshape(parameter.shape))


def _check_trpo(delta: float, damping: float, cg_iters: int, backtrack_iters: int, backtrack_coeff: float) -> None:
    check_setting("delta", delta, lambda v: 0 < v < math.inf, "positive and finite")
    check_setting("damping", damping, lambda v: 0 <= v < math.inf, "at least 0 and finite")
    check_setting("cg_iters", cg_iters, POSITIVE_WHOLE)
    check_setting("backtrack_iters", backtrack_iters, POSITIVE_WHOLE)
    check_setting("backtrack_coeff", backtrack_coeff, lambda v: 0 < v < 1, "between 0 and 1")
