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
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs import EnvBase, ExplorationType
from torchrl.objectives import ClipPPOLoss, LossModule
from torchrl.objectives.value import GAE

from decouple.checks import ANY_NUMBER, check_fields, check_setting, checked, positive_whole
from decouple.networks.actor_value import ActorValue
from decouple.networks.distributions import integrated_entropy
from decouple.networks.heads import action_space
from decouple.networks.stacking import seed_count
from decouple.on_policy.collector import RolloutCollector
from decouple.on_policy.losses import (
    AdvantageHead,
    AdvantageLoss,
    OrderClassifier,
    OrderClassifierLoss,
    OrderLoss,
    ValueLoss,
    same_level_partners,
)
from decouple.on_policy.phases import Metric, Phase, RolloutPhase, autocast
from decouple.on_policy.rollouts import SeededPolicy, add_next_values, normalise_advantages, rollout_metrics
from decouple.runs.checkpoint import checkpoint_exists, load_checkpoint, save_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.performance import Performance
from decouple.seeding import SeedNoise, rng_state, seed_metrics, set_rng_state

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
        check_fields(self)

    def check_rollout(self, num_envs: int) -> None:
        """Refuse a rollout of one frame, whose advantages have no standard deviation that they could be divided by."""
        allowed = "at least 2 with one environment: advantages are divided by their standard deviation over a rollout"
        check_setting("rollout_steps", self.rollout_steps, lambda steps: steps * num_envs > 1, allowed)

    @staticmethod
    def algorithms() -> Mapping[str, Callable[..., Sequence[RolloutPhase]]]:
        """What `algorithm` may name, and the function from (model, settings) to its phases."""
        return ALGORITHMS


@checked()
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


@checked()
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


@checked()
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


@checked(seeds=ANY_NUMBER)
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
    record: Callable[[], Mapping[str, str]] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    performance: Performance | None = None,
    failed: FailedSeeds | None = None,
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
        record: called before each checkpoint for what it should say of the files beside it, `Tracker.marks`.
        progress: called within an iteration with what is under way, how much of it is done, and of how much.
        performance: how it is computed; its precision and micro-batch take the place of those of the settings. The
            model has been through its `prepare`. None: on the model's device, with all that it may switch on off.
        failed: takes note of the agents in which a reward, an observation, a loss or a parameter is not finite; of the
            same seeds. They have no metrics from then on, and stay so when the run goes on from a checkpoint.

    Returns:
        The frames collected in all.

    Warns:
        UserWarning: once, naming `clip_value`, where it clips more than half of the values in five rollouts in a row:
            returns are larger than it by far, and the value network learns next to nothing.

    Raises:
        NotFiniteError: all agents have failed; the last checkpoint is of the time before.
        ValueError: an environment that is not batched (N,), or (S, N) with seeds, or whose games do not each take one
            action of those that `action_space` allows; seeds that are not as many as the model's, or not different; a
            rollout of one frame; a phase with more minibatches than a rollout has frames; or a performance that several
            seeds do not have.
        CheckpointError: a checkpoint that is damaged or of other settings.
    """
    _check_seeds(env, model, seeds)
    if isinstance(env.action_spec, Bounded | Categorical | OneHot):  # else the model's actions are its own affair
        action_space(env.action_spec, env.batch_size)
    failed = failed or FailedSeeds(seeds)
    frames_per_iteration = env.batch_size[-1] * settings.rollout_steps
    settings.check_rollout(env.batch_size[-1])
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
    iteration = _restore(state, model, phases, shuffle, failed) if state else 0
    iterations = -(-settings.total_frames // frames_per_iteration)

    def save() -> None:
        if checkpoint:
            now = _state(env, model, phases, shuffle, iteration, identity, failed)
            save_checkpoint(checkpoint, now, record=record() if record else None)

    if not state:
        save()  # from here on the folder says what run it belongs to
    collect = _Collect(collector, frames_per_iteration, model, how, failed)
    clip_watch = _ClipWatch(seeds)
    try:
        _check_weights(model, failed, f"in {checkpoint}" if state else "at the start")
        while iteration < iterations:
            if progress:
                progress("collecting, frames", 0, frames_per_iteration)
            metrics = _iterate(collect, model, phases, settings, how, iteration, shuffle, progress)
            clip_watch.see(metrics)
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
        SeededPolicy(model, shuffle) if isinstance(shuffle, SeedNoise) else _Watched(model),
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


class _Collect:
    """Rollouts with the values of the frames that follow, looked through for what is not finite.

    Args:
        collector: from `_collector`.
        frames: of each agent's rollouts.
        model, how: what acts, and how it is computed.
        failed: takes note.
    """

    def __init__(
        self,
        collector: Collector | RolloutCollector,
        frames: int,
        model: ActorValue,
        how: Performance,
        failed: FailedSeeds,
    ):
        self.collector, self.frames, self.model, self.how, self.failed = collector, frames, model, how, failed
        self.rollouts = iter(collector)

    def next(self, iteration: int) -> TensorDictBase:
        """The rollout of this iteration, (N, T) or (S, N, T).

        Raises:
            NotFiniteError: all agents have failed.
        """
        before = iteration * self.frames
        try:
            rollout = self._collect()
        except Exception:
            self._blame(before)
            raise
        games = rollout.batch_size[-2]
        frames = range(before + games, before + self.frames + 1, games)
        following = [("next", key) for key in self.model.in_keys if rollout.get(("next", key), None) is not None]
        for keys in ([("next", "reward"), *following], self.model.in_keys):
            self.failed.check_steps({_last(key): _by_step(rollout, key) for key in keys}, frames)
        return rollout

    def _collect(self) -> TensorDictBase:
        if isinstance(self.collector, RolloutCollector):
            return next(self.rollouts)
        with autocast(next(self.model.parameters()).device, self.how.precision):
            rollout = next(self.rollouts)
            add_next_values(rollout, self.model.get_value_operator())
        return rollout

    def _blame(self, before: int) -> None:
        """Where collecting broke off: NotFiniteError if the observation shown last is not finite, of which sampling, or
        a game, may have broken."""
        collector = self.collector
        at = collector.carrier if isinstance(collector, RolloutCollector) else getattr(collector.policy, "shown", None)
        if at is not None:
            shown = {_last(key): at.get(key) for key in self.model.in_keys}
            self.failed.check(shown, f"after frame {before:,}")


class _Watched(TensorDictModuleBase):
    """A model as a policy that keeps what it was shown last, for `_Collect` to look at where collecting breaks off."""

    def __init__(self, model: ActorValue):
        super().__init__()
        self.model, self.in_keys, self.out_keys = model, list(model.in_keys), list(model.out_keys)
        self.shown: TensorDictBase | None = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.shown = tensordict
        return self.model(tensordict)


def _by_step(rollout: TensorDictBase, key: NestedKey) -> Tensor:
    """What a rollout (N, T) or (S, N, T) has, as (S, T, N, ...)."""
    values: Tensor = rollout.get(key)
    return (values.unsqueeze(0) if rollout.ndim == 2 else values).transpose(1, 2)


def _last(key: NestedKey) -> str:
    return key if isinstance(key, str) else str(key[-1])


def _iterate(
    collect: _Collect,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    settings: OnPolicySettings,
    how: Performance,
    iteration: int,
    shuffle: torch.Generator | SeedNoise,
    progress: Callable[[str, int, int], object] | None,
) -> dict[str, float]:
    """Collect one rollout and run the phases that are due on it; what to log of both, of agents that have not failed.

    Raises:
        NotFiniteError: all agents have failed.
    """
    start = time.perf_counter()
    device, failed = next(model.parameters()).device, collect.failed
    rollout = collect.next(iteration)
    alone = rollout.ndim == 2
    GAE(gamma=settings.gamma, lmbda=settings.gae_lambda, value_network=None, average_gae=alone)(rollout)
    if not alone:
        normalise_advantages(rollout)
    of_rollout = [rollout_metrics(rollout)] if alone else [rollout_metrics(own) for own in rollout]
    batch = rollout.exclude("next").reshape(*rollout.batch_size[:-2], -1)  # (B,) or (S, B)
    rollout.clear()  # TorchRL's collector keeps a reference until its next rollout: free the next frames now
    if how.device != "cpu":
        batch = batch.to(device, non_blocking=True)
    collected = time.perf_counter()
    learning = {"micro_batch": how.micro_batch, "precision": how.precision, "progress": progress}
    due = [phase for phase in phases if iteration % phase.every == 0]
    found = [(phase.name, phase.run(batch, shuffle, **learning)) for phase in due]
    by = f"by frame {(iteration + 1) * collect.frames:,}"
    for _, of_phase in found:
        losses = {name: value for name, value in of_phase.items() if name.startswith("loss/")}
        failed.check({name: torch.as_tensor(value) for name, value in losses.items()}, by)
    _check_weights(model, failed, by)
    metrics = of_rollout[0] if alone else seed_metrics(failed.kept(of_rollout), failed.seeds)
    for name, of_phase in found:
        # Where two phases have a loss in common, the second one's numbers carry its name.
        row = {key: float(value) for key, value in of_phase.items()} if alone else _row(of_phase, failed)
        metrics |= {f"{key}_{name}" if key in metrics else key: value for key, value in row.items()}
    learned = time.perf_counter()
    return metrics | {
        "time/collect_seconds": collected - start,
        "time/learn_seconds": learned - collected,
        "time/frames_per_second": batch.shape[-1] / (learned - start),  # of one agent
    }


def _row(found: Mapping[str, Metric], failed: FailedSeeds) -> dict[str, float]:
    """What a phase found, the metrics (S,) taken apart; what is over all seeds is left out where one has failed."""
    row: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            row |= seed_metrics(failed.kept([{name: own} for own in value.tolist()]), failed.seeds)
        elif not failed.reasons:
            row[name] = float(value)
    return row


def _check_weights(model: ActorValue, failed: FailedSeeds, when: str) -> None:
    failed.check({f"parameter {name}": parameter for name, parameter in model.named_parameters()}, when)


class _ClipWatch:
    """Warns once where `clip_value` has clipped more than half of the values in LASTING rollouts in a row.

    In the first rollouts it does so where rewards are scaled, too: the first values are far from any return.
    """

    LASTING = 5

    def __init__(self, seeds: Sequence[int] | None):
        name = "value/clip_fraction"
        if seeds is None or len(seeds) == 1:  # as `seed_metrics` names them
            self.names = {name: f" of seed {seeds[0]}" if seeds else ""}
        else:
            self.names = {f"{name}/seed{seed}": f" of seed {seed}" for seed in seeds}
        self.rollouts = dict.fromkeys(self.names, 0)
        self.warned = False

    def see(self, metrics: Mapping[str, float]) -> None:
        """Look at a rollout's metrics; one without a phase of the value says nothing."""
        shares = {name: metrics[name] for name in self.names if name in metrics}
        for name, share in shares.items():
            self.rollouts[name] = self.rollouts[name] + 1 if share > 0.5 else 0
        lasting = [name for name in shares if self.rollouts[name] >= self.LASTING]
        if lasting and not self.warned:
            self.warned = True
            found = ", ".join(f"{shares[name]:.0%}{self.names[name]}" for name in lasting)
            warnings.warn(
                f"clip_value clips most of a rollout's values ({found}), for {self.LASTING} rollouts in a row: they "
                "learn little then. Set clip_value to None (null on the command line) or larger; 0.2 is for "
                "rewards that are scaled (normalize_reward=true on control tasks, RewardScaling)",
                stacklevel=3,
            )


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
    failed: FailedSeeds,
) -> dict:
    return {
        "settings": dict(identity or {}),
        "iteration": iteration,
        "failed": failed.state_dict(),
        "model": model.state_dict(),
        "phases": [phase.state_dict() for phase in phases],
        "env": env.state_dict(),
        "shuffle": shuffle.state_dict() if isinstance(shuffle, SeedNoise) else shuffle.get_state(),
        "rng": rng_state(),
    }


def _restore(
    state: Mapping,
    model: ActorValue,
    phases: Sequence[RolloutPhase],
    shuffle: torch.Generator | SeedNoise,
    failed: FailedSeeds,
) -> int:
    failed.load_state_dict(state.get("failed", {}))  # not there before version 0.2
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
            raise ValueError(f"env must have one batch axis (N,); got batch_size {batch_size}, and no seeds")
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
