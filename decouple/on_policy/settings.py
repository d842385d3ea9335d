"""Settings of on-policy training: the training loop's, and those of PPO, DAAC, IDAAC, PPG, DCPG, DDCPG and DNA.

settings = OnPolicySettings(total_frames=1_000_000, learning_rate=3e-4)
train_on_policy(env, model, ppo_phases(model, settings), settings, log=print)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from decouple.checks import POSITIVE_WHOLE, check_fields, check_setting, one_of, positive_whole
from decouple.runs.learning_rates import check_rates

__all__ = ["RECURRENT", "OnPolicySettings", "check_memory"]

RECURRENT = ("ppo", "daac", "trpo")  # algorithms that train recurrent networks


def check_memory(recurrent: str | None, recurrent_in: str, algorithm: str, known: Collection[str] = RECURRENT) -> bool:
    """Check what a study's settings say of recurrent networks; returns whether there are any.

    Args:
        recurrent: gru, lstm or None. recurrent_in: the networks that are recurrent: both, actor or critic.
        algorithm: the algorithm, by its name. known: the study's algorithms.

    Raises:
        ValueError: another value, or an algorithm that trains no recurrent networks; it names those of `known` that do.
    """
    check_setting("recurrent", recurrent, (None, "gru", "lstm").__contains__, "gru, lstm or null")
    check_setting("recurrent_in", recurrent_in, one_of("both", "actor", "critic"))
    if recurrent is not None and algorithm not in RECURRENT:
        *others, last = (name for name in RECURRENT if name in known)
        raise ValueError(f"recurrent must be null for {algorithm}: {', '.join(others)} and {last} have it")
    return recurrent is not None


@dataclass
class OnPolicySettings:
    """Settings of on-policy algorithms; defaults are the Procgen study's (Cobbe et al. 2020, Raileanu and Fergus 2021).

    The auxiliary phases' are PPG's (Cobbe et al. 2021), and DNA's its authors' on Atari (Aitchison and Sweetser 2022).

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    algorithm: str = "ppo"  # ppo, daac, idaac, ppg, dcpg, ddcpg or dna
    total_frames: int = 25_000_000  # environment steps per agent, over all its environments; rounded up to iterations
    rollout_steps: int = 256  # steps of each environment per iteration
    gamma: float = 0.999  # discount
    gae_lambda: float = 0.95  # lambda of the generalised advantage estimate
    learning_rate: float = 5e-4  # Adam's learning rate
    learning_rates: dict[str, float] = field(default_factory=dict)  # rates of parts: trunk, policy, value
    schedule: str = "constant"  # the learning rate's course: constant, or linear, which falls to 0 at total_frames
    schedules: dict[str, str] = field(default_factory=dict)  # schedules of parts, where they differ
    adam_epsilon: float = 1e-5  # Adam's epsilon
    max_grad_norm: float = 0.5  # largest gradient norm, over all parameters of an optimizer
    clip_epsilon: float = 0.2  # clip range of the probability ratio
    # Clip range of the value's change since the rollout; None: no clipping. Its unit is that of returns: 0.2 suits
    # scaled rewards, as the study's are (RewardScaling); use None for raw rewards.
    clip_value: float | None = 0.2
    value_coeff: float = 0.5  # weight of the value's squared error, alpha_v
    entropy_coeff: float = 0.01  # weight of the entropy, alpha_s
    minibatches: int = 8  # minibatches per epoch
    epochs: int = 3  # epochs of PPO's joint phase
    policy_epochs: int = 1  # epochs of DAAC's, PPG's and DCPG's policy phase, E_pi
    value_epochs: int = 9  # epochs of DAAC's value phase, E_V
    value_every: int = 1  # rollouts per value phase of DAAC, N_pi
    advantage_coeff: float = 0.25  # weight of DAAC's advantage loss, alpha_A
    order_coeff: float = 0.001  # weight of IDAAC's adversarial order loss
    order_width: int | None = None  # hidden units of IDAAC's order classifier; None: linear
    auxiliary_every: int = 32  # rollouts from one auxiliary phase of PPG and DCPG to the next, N_pi
    auxiliary_past: int | None = None  # rollouts that an auxiliary phase learns from; None: auxiliary_every
    auxiliary_epochs: int = 6  # epochs of an auxiliary phase, E_aux
    auxiliary_minibatches: int = 16  # minibatches per epoch of an auxiliary phase and rollout that it learns from
    auxiliary_updates: int | None = None  # most minibatches of an auxiliary phase; None: all of its epochs
    clone_coeff: float = 1.0  # weight of the divergence from the policy before an auxiliary phase, beta
    clone_distance: str = "kl"  # that divergence: kl, or logits, half the mean squared error of a categorical's logits
    # PPG: the policy phase holds values at those of the rollout, as DCPG's does, and does not train them on returns
    delayed_value: bool = False
    dynamics_coeff: float = 1.0  # weight of DDCPG's discriminator of dynamics
    dynamics_width: int = 256  # units of each of its two hidden layers
    # DDCPG: an episode's last frame counts as followed by the next one's first, as in the released code
    dynamics_across_ends: bool = False
    gate_prices: list[float] = field(default_factory=lambda: [0.1])  # separation=learned: prices of own value blocks
    gate_rate: float = 0.03  # separation=learned: Adam's learning rate of the gates
    rollouts_in: str = "memory"  # where an auxiliary phase's rollouts are kept: memory, or disk (memory-mapped)
    keep_rollouts: bool = False  # keep an auxiliary phase's rollouts after the run, so that a longer one can go on
    dna_lambda: float = 0.8  # lambda of DNA's advantages; its value targets have gae_lambda
    dna_epochs: list[int] = field(default_factory=lambda: [2, 1, 2])  # epochs of policy, value and distillation phase
    # minibatches per epoch of DNA's policy, value and distillation phase: 2048, 512 and 512 of 16,384 frames
    dna_minibatches: list[int] = field(default_factory=lambda: [8, 32, 32])
    sequence_length: int = 32  # recurrent models: steps of a sequence, through which gradients flow
    micro_batch: int = 128  # frames of an agent per backward pass; a minibatch's gradients are accumulated over them
    precision: str = "fp32"  # precision of trunk and branches: fp32, or bf16 (autocast; heads and losses stay fp32)
    evaluate_every: int = 10  # iterations between evaluations
    checkpoint_every: int = 10  # iterations between checkpoints

    def __post_init__(self) -> None:
        for name in ("total_frames", "rollout_steps", "minibatches", "epochs", "policy_epochs", "value_epochs"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        for name in ("value_every", "micro_batch", "sequence_length", "evaluate_every", "checkpoint_every"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        for name in ("auxiliary_every", "auxiliary_epochs", "auxiliary_minibatches", "dynamics_width"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        for name in ("order_width", "auxiliary_past", "auxiliary_updates"):
            optional = lambda v: v is None or positive_whole(v)  # noqa: E731
            check_setting(name, getattr(self, name), optional, "a whole number, at least 1, or None")
        for name in ("dna_epochs", "dna_minibatches"):
            three = lambda v: len(v) == 3 and all(map(positive_whole, v))  # noqa: E731
            check_setting(name, getattr(self, name), three, "three whole numbers, each at least 1")
        for name in ("gamma", "gae_lambda", "dna_lambda"):
            check_setting(name, getattr(self, name), lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "clip_epsilon", "gate_rate"):
            check_setting(name, getattr(self, name), lambda v: 0 < v < math.inf, "positive and finite")
        prices = lambda v: v and len(set(v)) == len(v) and all(0 <= price < math.inf for price in v)  # noqa: E731
        check_setting("gate_prices", self.gate_prices, prices, "different numbers, each at least 0 and finite")
        if self.clip_value is not None:
            check_setting("clip_value", self.clip_value, lambda v: 0 < v < math.inf, "positive and finite, or None")
        for of in ("value", "entropy", "advantage", "order", "clone", "dynamics"):
            name = f"{of}_coeff"
            check_setting(name, getattr(self, name), lambda v: 0 <= v < math.inf, "at least 0 and finite")
        allowed = self.algorithms()
        check_setting("algorithm", self.algorithm, allowed.__contains__, f"one of {sorted(allowed)}")
        check_setting("clone_distance", self.clone_distance, one_of("kl", "logits"))
        check_setting("rollouts_in", self.rollouts_in, one_of("memory", "disk"))
        check_setting("precision", self.precision, ("fp32", "bf16").__contains__, "fp32 or bf16")
        check_fields(self)
        check_rates(self)

    def check_rollout(self, num_envs: int) -> None:
        """Check that a rollout has at least two frames: advantages are divided by their standard deviation."""
        allowed = "at least 2 with one environment: advantages are divided by their standard deviation over a rollout"
        check_setting("rollout_steps", self.rollout_steps, lambda steps: steps * num_envs > 1, allowed)

    @staticmethod
    def rated_parts() -> Sequence[str]:
        """The parts that have a learning rate; further heads, as DAAC's advantage, count with the policy."""
        return "trunk", "policy", "value"

    @staticmethod
    def algorithms() -> Collection[str]:
        """The names allowed for `algorithm`; `decouple.on_policy.algorithms.ALGORITHMS` has the phases of each."""
        return "ppo", "daac", "idaac", "ppg", "dcpg", "ddcpg", "dna"
