"""Settings of the separation study's experiment, and their flat keys.

    config = procgen_experiment(env="plunder", separation="full", algorithm="daac", gamma=0.99, precision="fp32")
    config.env, config.learning.gamma, config.computed.precision        # "plunder", 0.99, "fp32"

In Python the training loop's settings and `Performance` are parts. On the command line, in sweeps, in stored configs
and in checkpoints all keys are flat: `gamma`, not `learning.gamma`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decouple.checks import PROBABILITY, SEED, Must, at_least, check_fields, check_setting, checked, one_of
from decouple.envs.procgen.levels import LOOKS
from decouple.on_policy.settings import OnPolicySettings, check_memory
from decouple.runs.loggers import OF_THE_RECORD, Tracking
from decouple.runs.performance import Performance, choose_performance
from decouple.runs.settings import FlatKeys, part, points_to_part, sets_own_fields

__all__ = ["PROCGEN_KEYS", "ProcgenExperiment", "procgen_experiment", "shared_depth"]

WIDTH = Must(lambda width: 1 / 16 <= width <= 16, "in [1/16, 16]: of one to 256 channels in the first stage")


@dataclass
class ProcgenExperiment:
    """Settings of the experiment, with the training loop's and `Performance` as parts; see `procgen_experiment`.

    The defaults are the easy protocol of the Procgen paper.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    learning: OnPolicySettings = part(OnPolicySettings, without=["precision", "micro_batch"])  # both are in `computed`
    env: str = "starpilot"  # one of the 16 games
    separation: Any = "late"  # shared, late, early, full, an integer in [0, depth], or learned (docs/learned.md)
    protocol: str = "as_written"  # as_written, as_released or controlled; see docs/procgen.md
    seed: int = 0  # seed of parameters, actions, minibatches and the order of levels
    num_envs: int = 64  # parallel games, stepped together
    num_levels: int = 200  # number of training levels; 0: all levels
    start_level: int = 0  # first training level
    distribution_mode: str = "easy"  # easy, hard, extreme, memory or exploration, as the game has them
    num_threads: int | None = None  # threads of the games; None: chosen by the number of processors
    backend: str | None = None  # package of the games: procgen or envpool; None: the one installed
    attention: bool = False  # squeeze-and-excitation in the separated stages, except the network's first
    in_place_skip: bool = False  # skip connections carry ReLU(x), as in the released code
    width: float = 1.0  # channels and units of the IMPALA-CNN, as a share of 16, 32, 32 and 256
    # gru or lstm: a recurrent block of as many units behind the dense one, for PPO and DAAC; null: none
    recurrent: str | None = None
    recurrent_in: str = "both"  # the networks that have it: both, actor or critic
    policy_gradient: float = 1.0  # scale of the policy's gradient into the trunk
    value_gradient: float = 1.0  # scale of the value's gradient into the trunk
    evaluate_episodes: int = 10  # episodes of an evaluation during training, on training and on test levels each
    final_episodes: int = 100  # episodes of the final evaluation, on training and on test levels each
    unseen: str | None = "layout"  # layout, frame or null: tells test levels unlike training ones, reported apart
    video: bool = False  # draw the agent at play after training (docs/watch.md)
    evaluate: str | None = None  # a run's folder, or its checkpoint: evaluate it, without training
    run_dir: str = "runs/procgen"  # the run's folder
    restart: bool = False  # start over; the old run_dir is kept beside it, as <run_dir>.1 and so on
    tracked: Tracking = part(Tracking)  # loggers beside the run's own files
    show_progress: bool = True  # show progress on stderr
    performance: str = "auto"  # auto, fastest or reference: the rule for settings of `computed` that are not given
    computed: Performance = part(Performance)  # device, precision, threads, compilation: how the run is computed

    def __post_init__(self) -> None:
        positive = {name: at_least(1) for name in ("num_envs", "evaluate_episodes", "final_episodes")}
        gradients = {"policy_gradient": PROBABILITY, "value_gradient": PROBABILITY}
        levels = {"start_level": at_least(0), "num_levels": at_least(0)}
        others = {"seed": SEED, "num_threads": at_least(1), "width": WIDTH}
        check_fields(self, **gradients, **positive, **levels, **others)
        if self.separation == "learned":
            says = "false with separation=learned"
            check_setting("cuda_graphs", self.computed.cuda_graphs, lambda on: not on, says)
        self._check_memory()
        number = type(self.separation) is int and 0 <= self.separation <= self.depth
        known = isinstance(self.separation, str) or number
        check_setting("separation", self.separation, lambda _: known, f"a name or a whole number in [0, {self.depth}]")
        how = {"precision": self.computed.precision, "micro_batch": self.computed.micro_batch}
        self.learning = dataclasses.replace(self.learning, **how)  # says of these two what holds
        self.learning.check_rollout(self.num_envs)
        check_setting("unseen", self.unseen, (None, *LOOKS).__contains__, "layout, frame or null")

    @property
    def depth(self) -> int:
        """The largest k: blocks that both networks have, four of the IMPALA-CNN and a recurrent one."""
        return shared_depth(self.recurrent, self.recurrent_in)

    def _check_memory(self) -> None:
        known = self.learning.algorithms()
        if not check_memory(self.recurrent, self.recurrent_in, self.learning.algorithm, known):
            return
        check_setting("separation", self.separation, lambda at: at != "learned", "a point, without a memory's gates")
        for name in ("overlap", "compile", "cuda_graphs"):
            check_setting(name, getattr(self.computed, name), lambda on: not on, f"false with {self.recurrent}")

    if not TYPE_CHECKING:  # a type checker knows better what there is
        __getattr__, __setattr__ = points_to_part, sets_own_fields


@checked(recurrent=one_of("gru", "lstm"), recurrent_in=one_of("both", "actor", "critic"))
def shared_depth(recurrent: str | None, recurrent_in: str) -> int:
    """Blocks that both networks of the study have, by two of a run's settings: four, and a recurrent one of both."""
    return 4 + (recurrent is not None and recurrent_in == "both")


PERFORMANCE = [field.name for field in dataclasses.fields(Performance)]


def _chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Flat values in which each setting of `Performance` that is None is chosen by `performance`."""
    given = {name: values[name] for name in PERFORMANCE}
    if given["overlap"] is None and type(values["num_envs"]) is int and values["num_envs"] % 2:
        given["overlap"] = False  # an odd number has no two halves
    # With a memory each step reads the state that the one before has written. What is evaluated may have one.
    if values["recurrent"] is not None or values["evaluate"] is not None:
        given |= {name: False for name in ("overlap", "compile", "cuda_graphs") if given[name] is None}
    if values["separation"] == "learned" and given["cuda_graphs"] is None:
        given["cuda_graphs"] = False  # a graph holds what is trained from the first step on, and gates are held first
    return values | dataclasses.asdict(choose_performance(values["performance"], **given))


# The experiment's settings by their flat keys: on the command line, in sweeps, in stored configs and checkpoints.
PROCGEN_KEYS = FlatKeys("ProcgenExperiment", ProcgenExperiment, departures=dict.fromkeys(PERFORMANCE), settle=_chosen)


def procgen_experiment(**settings: Any) -> ProcgenExperiment:
    """The experiment's settings by their flat keys: `procgen_experiment(env="plunder", gamma=0.99, precision="fp32")`.

    Raises:
        ValueError: an unknown setting, or a value that is not allowed.
    """
    return PROCGEN_KEYS.compose(settings)


# Settings in which a checkpoint and the run that continues it may differ.
NOT_IDENTITY = {
    *("total_frames", "evaluate_every", "checkpoint_every", "evaluate_episodes", "final_episodes", "evaluate"),
    *("unseen", "num_threads", "run_dir", "restart", "performance", "video", "show_progress", *OF_THE_RECORD),
    *("rollouts_in", "keep_rollouts"),
    *({*PERFORMANCE} - {"precision"}),
}
# Settings that may be given with `evaluate`; all others are the checkpoint's.
OF_EVALUATION = {
    *("evaluate", "env", "num_levels", "start_level", "distribution_mode"),
    *("final_episodes", "unseen", "num_threads", "backend", "device", "torch_threads"),
    "show_progress",
}
