"""Settings of a distillation: the teacher, the students, and how they learn.

    settings = distillation(checkpoint="runs/control/pendulum/td3/...", actor=[8, 8], seeds=6)
    settings.actor, settings.learning.batch_size

On the command line all keys are flat: `batch_size`, not `learning.batch_size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decouple.checks import POSITIVE_WHOLE, above, at_least, check_fields, check_setting, one_of, positive_whole
from decouple.runs.learning_rates import SCHEDULES
from decouple.runs.loggers import OF_THE_RECORD, Tracking
from decouple.runs.settings import FlatKeys, part, points_to_part, sets_own_fields
from decouple.studies.actor_size.settings import ACTIVATIONS, EVALUATION_SEED

__all__ = ["DISTILLATION_KEYS", "NOT_IDENTITY", "DistillationLearning", "DistillationSettings", "distillation"]


@dataclass
class DistillationLearning:
    """Settings of the students' learning: they act, the teacher labels what they meet, and they learn its policy."""

    total_frames: int = 100_000  # steps of each student in its task
    steps: int = 8  # steps of every game between two rounds of updates
    updates: int = 16  # updates in a round
    batch_size: int = 256  # labelled observations of each student in an update
    # the latest labelled observations of each student, which it learns from; None: 20,000, or as fit into 64 MiB
    buffer_frames: int | None = None
    learning_rate: float = 3e-3  # Adam's learning rate
    schedule: str = "linear"  # of the learning rate: linear, to 0 at the end, or constant
    max_grad_norm: float = 1.0  # largest norm of a student's gradient
    sample: bool = True  # students draw their actions, where the policy has a distribution; false: they take its mode
    evaluate_every: int = 10_000  # frames between evaluations
    checkpoint_every: int = 10_000  # frames between checkpoints

    def __post_init__(self) -> None:
        counts = ("total_frames", "steps", "updates", "batch_size", "evaluate_every", "checkpoint_every")
        rules = dict.fromkeys(counts, POSITIVE_WHOLE) | {"buffer_frames": at_least(1)}
        rules |= {"learning_rate": above(0), "max_grad_norm": above(0), "schedule": one_of(*SCHEDULES)}
        check_fields(self, **rules)


@dataclass
class DistillationSettings:
    """Settings of a distillation: a trained actor teaches smaller ones.

    Raises:
        ValueError: naming the setting, what is allowed and what came.
    """

    learning: DistillationLearning = part(DistillationLearning)  # the students' learning
    checkpoint: str | None = None  # the teacher's run: its folder, or its checkpoint.pt; must be given
    teacher_seed: int | None = None  # seed of the teacher, in a run with several; None: the best final return
    actor: list[int] | None = None  # hidden layers of the students, on control tasks and games; []: one linear layer
    actor_activation: str | None = None  # activation of the students; None: the teacher's
    width: float | None = None  # width of the students on Procgen, as a share of the IMPALA-CNN's
    sizes: str = (
        "fixed"  # fixed: students of the size given; search: the smallest of search.sizes that reaches the bound
    )
    seeds: int | None = None  # number of students, as one batch; None: 6, and on Procgen 1, where there are no others
    seed: int = 0  # seed of the first student; the others have the next numbers
    num_envs: int = 16  # games of each student
    evaluate_episodes: int = 10  # episodes of each student in an evaluation during training
    final_episodes: int = 100  # episodes of each student in the final evaluation
    num_threads: int | None = 1  # threads of PyTorch; None: all of them
    # the run's folder, of a search the folder of its store; None: below runs/distill, named by task, teacher and size
    run_dir: str | None = None
    restart: bool = False  # start over; the old run_dir is kept beside it, as <run_dir>.1 and so on
    tracked: Tracking = part(Tracking)  # loggers beside the run's own files
    show_progress: bool = True  # show progress on stderr

    def __post_init__(self) -> None:
        check_setting("checkpoint", self.checkpoint, bool, "a run's folder, or its checkpoint")
        counts = ("num_envs", "evaluate_episodes", "final_episodes", "seeds", "num_threads")
        rules = dict.fromkeys(counts, POSITIVE_WHOLE)
        check_fields(self, teacher_seed=at_least(0), sizes=one_of("fixed", "search"), **rules)
        most = 2**31 - EVALUATION_SEED - (self.seeds or 6) - self.learning.total_frames
        check_setting("seed", self.seed, lambda v: 0 <= v < most, f"in [0, {most:,}): evaluations count on from it")
        sizes = self.actor is None or all(map(positive_whole, self.actor))
        check_setting("actor", self.actor, lambda _: sizes, "a list of positive sizes")
        known = self.actor_activation is None or self.actor_activation in ACTIVATIONS
        check_setting("actor_activation", self.actor_activation, lambda _: known, f"None, or one of {[*ACTIVATIONS]}")
        if self.sizes == "search":
            for name in ("actor", "width"):
                says = "left out with sizes=search, which tries search.sizes"
                check_setting(name, getattr(self, name), lambda v: v is None, says)
        elif (self.actor is None) == (self.width is None):
            says = "actor must be given on control tasks and games, width in its place on Procgen"
            raise ValueError(f"{says}; got actor={self.actor} and width={self.width}")

    if not TYPE_CHECKING:  # a type checker knows better what there is
        __getattr__, __setattr__ = points_to_part, sets_own_fields

    @property
    def all_seeds(self) -> list[int]:
        """The students' seeds, once their number is known."""
        return list(range(self.seed, self.seed + (self.seeds or 0)))


DISTILLATION_KEYS = FlatKeys("Distillation", DistillationSettings)

# Settings in which a checkpoint and the run that continues it may differ.
NOT_IDENTITY = {
    *("checkpoint", "teacher_seed", "sizes", "evaluate_every", "evaluate_episodes", "final_episodes"),
    *("run_dir", "restart", "show_progress", "num_threads", *OF_THE_RECORD),
}


def distillation(**settings: Any) -> DistillationSettings:
    """The settings by their flat keys: `distillation(checkpoint="runs/one", actor=[8, 8], learning_rate=3e-4)`.

    Raises:
        ValueError: an unknown setting, or a value that is not allowed.
    """
    return DISTILLATION_KEYS.compose(settings)
