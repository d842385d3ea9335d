"""On-policy training: collect a rollout, estimate advantages, run each phase on it.

    phases = ppo_phases(model, settings)              # one phase: PPO's joint loss
    phases = daac_phases(model, settings)             # a policy phase and a value phase
    train_on_policy(env, model, phases, settings, log=print)

    model = stack([actor_value(...) for seed in seeds])         # several seeds at once, each as it would train alone
    train_on_policy(env, model, ppo_phases(model, settings), settings, log=print, seeds=seeds)

PPO (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) is one phase; DAAC and IDAAC (Raileanu and Fergus 2021,
https://arxiv.org/abs/2102.10330) are a policy phase and a value phase. Nothing here asks where the networks separate.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, distributions, nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives import ClipPPOLoss, LossModule
from torchrl.objectives.value import GAE

from decouple.actor_critic import ActorValue
from decouple.checkpoint import checkpoint_exists, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from decouple.checks import check_setting, positive_whole
from decouple.collector import RolloutCollector
from decouple.distributions import integrated_entropy
from decouple.losses import (
    AdvantageHead,
    AdvantageLoss,
    OrderClassifier,
    OrderClassifierLoss,
    OrderLoss,
    ValueLoss,
    same_level_partners,
)
from decouple.performance import Performance
from decouple.phases import Metric, Phase, RolloutPhase, autocast
from decouple.rollouts import (
    SeededPolicy,
    add_next_values,
    normalise_advantages,
    rollout_metrics,
    seed_count,
)
from decouple.seeds import SeedNoise, seed_metrics

__all__ = [
    "ALGORITHMS",
    "OnPolicySettings",
    "daac_phases",
    "idaac_phases",
    "ppo_phases",
    "train_on_policy",
]


@dataclass
class OnPolicySettings:
    """Settings of PPO, DAAC and IDAAC; defaults are the Procgen study's (Cobbe et al. 2020, Raileanu and Fergus 2021).

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    algorithm: str = "ppo"  # ppo, daac or idaac
    total_frames: int = 25_000_000  # frames of an agent, all its environments together; rounded up to whole iterations
    rollout_steps: int = 256  # steps of each environment per iteration
    gamma: float = 0.999  # discount
    gae_lambda: float = 0.95  # lambda of the generalised advantage estimate
    learning_rate: float = 5e-4  # Adam
    adam_epsilon: float = 1e-5  # Adam
    max_grad_norm: float = 0.5  # over all parameters of an optimizer
    clip_epsilon: float = 0.2  # of the probability ratio
    # The value's change since the rollout beyond which nothing is gained; None: no clipping. It is in the unit of
    # returns: 0.2 is for rewards that are scaled, as the study's are (RewardScaling); of raw ones take None.
    clip_value: float | None = 0.2
    value_coeff: float = 0.5  # on the squared error, alpha_v
    entropy_coeff: float = 0.01  # alpha_s
    minibatches: int = 8  # per epoch
    epochs: int = 3  # of PPO's joint phase
    policy_epochs: int = 1  # of DAAC's policy phase, E_pi
    value_epochs: int = 9  # of DAAC's value phase, E_V
    value_every: int = 1  # rollouts between DAAC's value phases, N_pi
    advantage_coeff: float = 0.25  # of DAAC's advantage loss, alpha_A
    order_coeff: float = 0.001  # of IDAAC's adversarial order loss
    order_width: int | None = None  # hidden units of IDAAC's order classifier; None: linear
    micro_batch: int = 128  # frames of an agent per backward pass; gradients of a minibatch are accumulated over them
    precision: str = "fp32"  # of trunk and branches: fp32, or bf16 (autocast; heads and losses stay fp32)
    evaluate_every: int = 10  # iterations between evaluations
    checkpoint_every: int = 10  # iterations between checkpoints

    def __post_init__(self) -> None:
        for name in ("total_frames", "rollout_steps", "minibatches", "epochs", "policy_epochs", "value_epochs"):
            check_setting(name, getattr(self, name), positive_whole, "a whole number, at least 1")
        for name in ("value_every", "micro_batch", "evaluate_every", "checkpoint_every"):
            check_setting(name, getattr(self, name), positive_whole, "a whole number, at least 1")
        if self.order_width is not None:
            check_setting("order_width", self.order_width, positive_whole, "a whole number, at least 1, or None")
        for name in ("gamma", "gae_lambda"):
            check_setting(name, getattr(self, name), lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "clip_epsilon"):
            check_setting(name, getattr(self, name), lambda v: 0 < v < math.inf, "positive and finite")
        if self.clip_value is not None:
            check_setting("clip_value", self.clip_value, lambda v: 0 < v < math.inf, "positive and finite, or None")
        for name in ("value_coeff", "entropy_coeff", "advantage_coeff", "order_coeff"):
            check_setting(name, getattr(self, name), lambda v: 0 <= v < math.inf, "at least 0 and finite")
        allowed = self.algorithms()
        check_setting("algorithm", self.algorithm, allowed.__contains__, f"one of {sorted(allowed)}")
        check_setting("precision", self.precision, ("fp32", "bf16").__contains__, "fp32 or bf16")

    @staticmethod
    def algorithms() -> Mapping[str, Callable[..., Sequence[RolloutPhase]]]:
        """What `algorithm` may name, and the function from (model, settings) to its phases."""
        return ALGORITHMS


def ppo_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """PPO's joint loss, `-J_pi + value_coeff L_V - entropy_coeff S`, as one phase over the whole model.

    Source: Schulman et al. 2017, with the value clipped as in OpenAI Baselines unless `clip_value` is None. The phase
    reads what a rollout of `model` holds, flat (B,), with `advantage` and `value_target` (B, 1); of a stacked model
    (S, B). The entropy of a stacked model's tanh-squashed normals is integrated (`IntegratedTanhNormal`), where
    TorchRL's loss samples it.
    """
    losses = [_policy_loss(model, settings), _value_loss(model, settings)]
    if seed_count(model) is not None:
        for loss in losses:
            loss.reduction = "none"
    phase = Phase(
        loss=losses,
        optimizer=_adam(model.parameters(), settings),
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm,
        features=model.get_features(),
    )
    return [phase]


def daac_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """DAAC: a policy phase on `-J_pi + advantage_coeff L_A - entropy_coeff S`, then a value phase, each with its Adam.

    Either phase runs and trains only the network that it needs; parameters of a trunk are trained by both. Source:
    Raileanu and Fergus 2021, section 3; the equation 3 of the separation study. ValueError for a stacked model.
    """
    _check_alone(model, "DAAC")
    features = model.get_features(["policy_hidden"])
    losses = [_policy_loss(model, settings), _advantage_loss(model, settings)]
    parameters = _unique(features, *losses)
    policy = _policy_phase(losses, features, parameters, settings)
    return [policy, _value_phase(model, settings)]


def idaac_phases(model: ActorValue, settings: OnPolicySettings) -> list[Phase]:
    """IDAAC: DAAC whose policy features are also pushed not to tell which of two frames of a level came earlier.

    On each policy minibatch an order classifier steps first, on detached features, with its own Adam. The rollout must
    hold `level_seed` and `step_count` (B, 1) besides. Source: Raileanu and Fergus 2021, section 4. ValueError for a
    stacked model.
    """
    _check_alone(model, "IDAAC")
    features = model.get_features(["policy_hidden"])
    classifier = TensorDictModule(
        _like(model, OrderClassifier(model.policy_size, settings.order_width)),
        ["policy_hidden", ("partner", "policy_hidden")],
        ["order_logits"],
    )
    losses = [_policy_loss(model, settings), _advantage_loss(model, settings)]
    parameters = _unique(features, *losses)
    losses.append(OrderLoss(classifier, coeff=settings.order_coeff))
    both_features = TensorDictSequential(features, _PartnerFeatures(features))
    adversary = Phase(
        loss=OrderClassifierLoss(classifier),
        optimizer=_adam(classifier.parameters(), settings),
        max_grad_norm=settings.max_grad_norm,
        features=both_features,
        train_features=False,
        name="order",
    )
    policy = _policy_phase(
        losses,
        both_features,
        parameters,
        settings,
        prepare=lambda batch: _add_partners(batch, features.in_keys),
        adversary=adversary,
    )
    return [policy, _value_phase(model, settings)]


# The one place where an algorithm's name becomes phases.
ALGORITHMS: dict[str, Callable[[ActorValue, OnPolicySettings], list[Phase]]] = {
    "ppo": ppo_phases,
    "daac": daac_phases,
    "idaac": idaac_phases,
}


def train_on_policy(
    env: EnvBase,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    *,
    log: Callable[[dict[str, float], int], object],
    seeds: Sequence[int] | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    checkpoint: str | Path | None = None,
    identity: Mapping | None = None,
    on_checkpoint: Callable[[], object] | None = None,
    record: Callable[[], Mapping[str, Any]] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    performance: Performance | None = None,
) -> int:
    """Train until `settings.total_frames`, going on from `checkpoint` where that file exists.

    With `seeds` S agents train at once, in an environment (S, N) and as a stacked model. They share nothing, not even
    random numbers: to float rounding each becomes what it would become alone, whoever trains beside it. Settings,
    frames and progress are those of one agent. A metric's name holds the mean over the seeds, `<name>/seed<seed>` each
    seed's.

    Args:
        env: batched environment (N,) with `observation`, a scalar `reward` (N, 1) and, for returns to be logged,
            `episode_reward` and `step_count` (TorchRL's RewardSum and StepCounter). A run resumes exactly where its
            `state_dict` holds all its state, as that of `procgen_env` does. IDAAC reads `level_seed` (N, 1) and
            `step_count` too. With `seeds` (S, N); row s must not depend on the others.
        model: from `actor_value`; with `seeds` a `stack` of S of them.
        phases: from `ppo_phases`, `daac_phases`, `idaac_phases`, `trpo_phases`, or your own.
        settings: of the loop.
        log: called with metrics and the frames so far, once an iteration.
        seeds: S different ones, of the actions and minibatches of each agent; None for one agent that is not stacked,
            whose random numbers are torch's own.
        evaluate: called with the iteration every `evaluate_every` iterations, counted from the first, and after the
            last; it must leave the global random state as it was. Its metrics are logged with the iteration's.
        checkpoint: file written at the start, every `checkpoint_every` iterations and at the end, atomically.
        identity: settings that a checkpoint must share with this run to be continued; stored in it.
        on_checkpoint: called after each checkpoint.
        record: called before each checkpoint for what it should hold under "record", as `Tracker.marks`.
        progress: called within an iteration with what is under way, how much of it is done, and of how much.
        performance: how it is computed; its precision and micro-batch take the place of those of the settings. The
            model has been through its `prepare`. None: on the model's device, with all that it may switch on off.

    Returns:
        The frames collected in all.

    Warns:
        UserWarning: once, naming `clip_value`, where it clips more than half of a rollout's values: returns are larger
            than it by far, and the value network learns next to nothing.

    Raises:
        ValueError: an environment that is not batched (N,), or (S, N) with seeds; seeds that are not as many as the
            model's, or not different; a phase with more minibatches than a rollout has frames; or a performance that
            several seeds do not have.
        CheckpointError: a checkpoint that is damaged or of other settings.
    """
    _check_seeds(env, model, seeds)
    frames_per_iteration = env.batch_size[-1] * settings.rollout_steps
    for phase in phases:
        allowed = f"at most the {frames_per_iteration} frames of a rollout"
        check_setting("minibatches", phase.minibatches, lambda v: v <= frames_per_iteration, allowed)
    state = load_checkpoint(checkpoint, expect=identity) if checkpoint and checkpoint_exists(checkpoint) else None
    if state:
        env.load_state_dict(state["env"])  # before the collector, whose first reset hands back the frames restored
    shuffle = _shuffle(model, seeds)
    how = performance or Performance(precision=settings.precision, micro_batch=settings.micro_batch)
    _prepare_phases(phases, how)
    collector = _collector(env, model, settings.rollout_steps, shuffle, how)
    iteration = _restore(state, model, phases, shuffle) if state else 0
    iterations = -(-settings.total_frames // frames_per_iteration)

    def save() -> None:
        if checkpoint:
            beside = {"record": dict(record())} if record else {}
            save_checkpoint(checkpoint, _state(env, model, phases, shuffle, iteration, identity) | beside)

    if not state:
        save()  # from here on the folder says what run it belongs to
    rollouts = iter(collector)
    warned = False
    try:
        while iteration < iterations:
            if progress:
                progress("collecting, frames", 0, frames_per_iteration)
            metrics = _iterate(rollouts, model, phases, settings, how, iteration, shuffle, seeds, progress)
            warned = warned or _warn_of_clipping(metrics, seeds)
            last = iteration + 1 == iterations
            if evaluate and (iteration % settings.evaluate_every == 0 or last):
                metrics |= evaluate(iteration)
            iteration += 1
            log(metrics, iteration * frames_per_iteration)
            if iteration % settings.checkpoint_every == 0 or last:
                save()
                if checkpoint and on_checkpoint:
                    on_checkpoint()
    finally:
        collector.shutdown(close_env=False)
        for phase in phases:
            if isinstance(phase, Phase):
                phase.capture(False)  # let go of the last rollout
    return iteration * frames_per_iteration


def _collector(
    env: EnvBase, model: ActorValue, steps: int, shuffle: torch.Generator | SeedNoise, how: Performance
) -> Collector | RolloutCollector:
    """What collects rollouts (N, T) or (S, N, T); resets the environment."""
    if how.collector == "preallocated":
        if isinstance(shuffle, SeedNoise):
            raise ValueError("performance must have the collector torchrl with several seeds; got preallocated")
        return RolloutCollector(
            env, model, steps, precision=how.precision, overlap=how.overlap, captured=how.cuda_graphs
        )
    return Collector(
        env,
        SeededPolicy(model, shuffle) if isinstance(shuffle, SeedNoise) else model,
        frames_per_batch=env.batch_size.numel() * steps,
        total_frames=-1,
        exploration_type=ExplorationType.RANDOM,
        use_buffers=False,  # the frames of a rollout are stacked once, not kept in a second buffer
        return_same_td=True,
        track_traj_ids=False,
        trust_policy=True,
        auto_register_policy_transforms=False,  # the environment is used as it came
    )


def _prepare_phases(phases: Sequence[RolloutPhase], how: Performance) -> None:
    for phase in phases:
        if isinstance(phase, Phase):
            phase.capture(how.cuda_graphs)
            for part in (phase, phase.adversary):
                if part is not None:
                    how.prepare_optimizer(part.optimizer)


def _iterate(
    rollouts: Iterator[TensorDictBase],
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    how: Performance,
    iteration: int,
    shuffle: torch.Generator | SeedNoise,
    seeds: Sequence[int] | None,
    progress: Callable[[str, int, int], object] | None,
) -> dict[str, float]:
    """Collect one rollout and run the phases that are due on it; what to log of both."""
    start = time.perf_counter()
    device = next(model.parameters()).device
    if isinstance(rollouts, RolloutCollector):
        rollout = next(rollouts)  # (N, T)
    else:
        with autocast(device, how.precision):
            rollout = next(rollouts)  # (N, T) or (S, N, T)
            add_next_values(rollout, model.get_value_operator())
    alone = seeds is None
    GAE(gamma=settings.gamma, lmbda=settings.gae_lambda, value_network=None, average_gae=alone)(rollout)
    if not alone:
        normalise_advantages(rollout)
    metrics = rollout_metrics(rollout) if alone else seed_metrics([rollout_metrics(own) for own in rollout], seeds)
    batch = rollout.exclude("next").reshape(*rollout.batch_size[:-2], -1)  # (B,) or (S, B)
    rollout.clear()  # TorchRL's collector keeps a reference until its next rollout: free the next frames now
    if how.device != "cpu":
        batch = batch.to(device, non_blocking=True)
    collected = time.perf_counter()
    for phase in phases:
        if iteration % phase.every == 0:
            found = phase.run(batch, shuffle, micro_batch=how.micro_batch, precision=how.precision, progress=progress)
            found = _row(found, seeds)
            # Where two phases have a loss in common, the second one's numbers carry its name.
            metrics |= {f"{name}_{phase.name}" if name in metrics else name: value for name, value in found.items()}
    learned = time.perf_counter()
    return metrics | {
        "time/collect_seconds": collected - start,
        "time/learn_seconds": learned - collected,
        "time/frames_per_second": batch.shape[-1] / (learned - start),  # of one agent
    }


def _row(found: Mapping[str, Metric], seeds: Sequence[int] | None) -> dict[str, float]:
    """What a phase found, with the metrics (S,) of seeds taken apart."""
    row: dict[str, float] = {}
    for name, value in found.items():
        if seeds is not None and isinstance(value, Tensor):
            row |= seed_metrics([{name: own} for own in value.tolist()], seeds)
        else:
            row[name] = float(value)
    return row


def _warn_of_clipping(metrics: Mapping[str, float], seeds: Sequence[int] | None) -> bool:
    """Say where `clip_value` clips more than half of a rollout's values, and of which seeds; whether it was said."""
    name = "value/clip_fraction"
    shares = {f" of seed {seed}": metrics.get(f"{name}/seed{seed}", metrics.get(name, 0.0)) for seed in seeds or []}
    much = {whose: share for whose, share in (shares or {"": metrics.get(name, 0.0)}).items() if share > 0.5}
    if much:
        found = ", ".join(f"{share:.0%}{whose}" for whose, share in much.items())
        warnings.warn(
            f"clip_value clips most of a rollout's values ({found}), which then learn next to nothing: it suits "
            "rewards that are scaled. Set clip_value to None (null on the command line), or scale rewards "
            "(normalize_reward=true on control tasks, RewardScaling)",
            stacklevel=3,
        )
    return bool(much)


class _PolicyLoss(ClipPPOLoss):
    """TorchRL's, without the question to the device whether a categorical's entropy is finite."""

    def _get_entropy(self, dist: distributions.Distribution, adv_shape: torch.Size) -> Tensor:
        if isinstance(dist, distributions.Categorical):
            return dist.entropy().unsqueeze(-1)
        return super()._get_entropy(dist, adv_shape)


def _policy_loss(model: ActorValue, settings: OnPolicySettings) -> LossModule:
    """`-J_pi - entropy_coeff S`. The value's loss is apart: TorchRL's clips it after a question to the device."""
    head = model.get_policy_head()
    return _PolicyLoss(
        head if seed_count(model) is None else integrated_entropy(head),
        None,
        clip_epsilon=settings.clip_epsilon,
        critic_coeff=0.0,
        entropy_coeff=settings.entropy_coeff,
        normalize_advantage=False,  # once over the rollout, by GAE
    )


def _value_loss(model: ActorValue, settings: OnPolicySettings) -> LossModule:
    return ValueLoss(model.get_value_head(), coeff=settings.value_coeff, clip_value=settings.clip_value)


def _advantage_loss(model: ActorValue, settings: OnPolicySettings) -> nn.Module:
    sizes = model.policy_size, model.action_size
    advantage_head = AdvantageHead(*sizes, discrete=model.discrete, space=model.action_space)
    head = TensorDictModule(_like(model, advantage_head), ["policy_hidden", "action"], ["action_advantage"])
    return AdvantageLoss(head, coeff=settings.advantage_coeff)


def _policy_phase(
    losses: list[nn.Module],
    features: TensorDictModuleBase,
    parameters: list[nn.Parameter],
    settings: OnPolicySettings,
    **pairing: Any,
) -> Phase:
    return Phase(
        loss=losses,
        optimizer=_adam(parameters, settings),
        epochs=settings.policy_epochs,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm,
        features=features,
        name="policy",
        **pairing,
    )


def _value_phase(model: ActorValue, settings: OnPolicySettings) -> Phase:
    features = model.get_features(["value_hidden"])
    loss = _value_loss(model, settings)
    return Phase(
        loss=loss,
        optimizer=_adam(_unique(features, loss), settings),
        epochs=settings.value_epochs,
        every=settings.value_every,
        minibatches=settings.minibatches,
        max_grad_norm=settings.max_grad_norm,
        features=features,
        name="value",
    )


class _PartnerFeatures(TensorDictModuleBase):
    """The features of each frame's partner: (`partner`, `observation`, ...) -> (`partner`, `policy_hidden`)."""

    def __init__(self, features: TensorDictModuleBase):
        super().__init__()
        self.in_keys = [("partner", key) for key in features.in_keys]
        self.out_keys = [("partner", "policy_hidden")]
        self.features = features

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.features(tensordict.get("partner"))
        return tensordict


def _add_partners(batch: TensorDictBase, keys: Sequence[NestedKey]) -> None:
    """Pair each frame of a flat rollout (B,) with a random one of its level: its keys and its step in the episode."""
    partners = same_level_partners(batch["level_seed"])
    batch["partner"] = batch.select(*keys, "step_count")[partners]


def _like(model: nn.Module, module: nn.Module) -> nn.Module:
    """The module on the model's device and in its type."""
    return module.to(next(model.parameters()))


def _unique(*modules: nn.Module) -> list[nn.Parameter]:
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def _adam(parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter], settings: OnPolicySettings) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=settings.learning_rate, eps=settings.adam_epsilon)


def _state(
    env: EnvBase,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    shuffle: torch.Generator | SeedNoise,
    iteration: int,
    identity: Mapping | None,
) -> dict:
    return {
        "settings": dict(identity or {}),
        "iteration": iteration,
        "model": model.state_dict(),
        "phases": [phase.state_dict() for phase in phases],
        "env": env.state_dict(),
        "shuffle": shuffle.state_dict() if isinstance(shuffle, SeedNoise) else shuffle.get_state(),
        "rng": rng_state(),
    }


def _restore(
    state: Mapping, model: ActorValue, phases: Sequence[RolloutPhase], shuffle: torch.Generator | SeedNoise
) -> int:
    model.load_state_dict(state["model"])
    for phase, phase_state in zip(phases, state["phases"], strict=True):
        phase.load_state_dict(phase_state)
    if isinstance(shuffle, SeedNoise):
        shuffle.load_state_dict(state["shuffle"])
    else:
        shuffle.set_state(state["shuffle"])
    set_rng_state(state["rng"])
    return state["iteration"]


def _shuffle(model: ActorValue, seeds: Sequence[int] | None) -> torch.Generator | SeedNoise:
    """What draws the minibatches and, with seeds, the actions."""
    if seeds is None:
        return torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    return SeedNoise(seeds, next(model.parameters()).device)


def _check_seeds(env: EnvBase, model: ActorValue, seeds: Sequence[int] | None) -> None:
    """Refuse an environment, a model and seeds that are not of equally many agents."""
    batch_size, stacked = tuple(env.batch_size), seed_count(model)
    if seeds is None:
        if len(batch_size) != 1:
            raise ValueError(f"env must have one batch axis (N,); got batch_size {batch_size}")
        if stacked is not None:
            raise ValueError(f"seeds must be {stacked} integers, one for each model of the stack; got None")
        return
    if len(seeds) != stacked or len(set(seeds)) != len(seeds):
        allowed = (
            f"{stacked} different integers, one for each model of the stack" if stacked else "None without a stack"
        )
        raise ValueError(f"seeds must be {allowed}; got {list(seeds)}")
    if len(batch_size) != 2 or batch_size[0] != stacked:
        raise ValueError(f"env must have the batch axes (S, N) with S = {stacked} seeds; got batch_size {batch_size}")


def _check_alone(model: ActorValue, algorithm: str) -> None:
    if seed_count(model) is not None:
        raise ValueError(
            f"model must not be stacked for {algorithm}: of several seeds at once PPO and TRPO are capable"
        )
