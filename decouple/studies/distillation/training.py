"""One distillation: S students of one size learn from a trained actor, are evaluated, and recorded in a folder.

    lesson = read_lesson(distillation(checkpoint="runs/control/pendulum/td3/...", actor=[8, 8], seeds=6))
    result = distill(lesson)
    result["final/return"], result["final/return/seed0"], result["final/teacher_return"]

Evaluated are the modes of their policies, over the episodes that a search for a trained actor compares sizes by. The
same settings started again go on from the last checkpoint. As a command: experiments/distill.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor

from decouple.analysis.evaluation import episode_returns
from decouple.checks import check_setting, checked
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.runs.checkpoint import (
    checkpoint_digest,
    checkpoint_exists,
    frames_to_resume,
    load_checkpoint,
    save_checkpoint,
)
from decouple.runs.finished import evaluated_over
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.locks import lock_folder
from decouple.runs.metrics import read_result
from decouple.runs.performance import keep_memory
from decouple.runs.progress import StepProgress
from decouple.runs.rules import rules_of
from decouple.runs.settings import changed, flat
from decouple.runs.tracking import Tracker
from decouple.seeding import seed_globals, seed_metrics
from decouple.studies.actor_size.cell import final_report, finished_seeds, reasons_by_name
from decouple.studies.actor_size.settings import EVALUATION_SEED, FINAL_SEED, sizes_name
from decouple.studies.distillation.learning import Learning
from decouple.studies.distillation.losses import policy_head, policy_parameters
from decouple.studies.distillation.settings import DISTILLATION_KEYS, NOT_IDENTITY, DistillationSettings
from decouple.studies.distillation.sources import Source, read_source, scaling_state, task_in
from decouple.studies.distillation.students import StudentPolicy, Students, scaled
from decouple.studies.distillation.tasks import ProcgenTask, StudentTask
from decouple.studies.separation.experiment import make_evaluation

__all__ = ["Lesson", "distill", "done_students", "read_lesson", "teacher_returns"]

STUDENTS, FRAMES_KEPT, BYTES_KEPT = 6, 20_000, 2**26
TEACHER_FACTS = ("algorithm", "actor", "separation", "width", "seed", "frames")


class Lesson(NamedTuple):
    """A distillation that is ready to begin: its settings, the teacher and the task."""

    settings: DistillationSettings  # with all open choices made
    task: StudentTask
    teacher: Source
    digest: str  # SHA-256 of the teacher's checkpoint

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that the results depend on, and the teacher."""
        values, defaults = flat(self.settings), DISTILLATION_KEYS.defaults
        always = {"seed", "seeds", "buffer_frames"}
        kept = {
            name: value
            for name, value in values.items()
            if name not in NOT_IDENTITY and (name in always or value != defaults[name])
        }
        rules = rules_of({"env": self.task.settings["env"]}, lambda: True)
        kept |= {"teacher": self.digest, "of_seed": self.teacher.facts["seed"]}
        return kept | ({"rules": rules} if rules else {})

    def sized(self, size: Any) -> Lesson:
        """The same with students of another size."""
        return self._replace(settings=changed(self.settings, sizes="fixed", **{self.task.sized_by: size}))

    @property
    def student_settings(self) -> dict[str, Any]:
        """Settings of the students' networks."""
        own = self.settings
        sizes = {"actor": own.actor, "width": own.width, "actor_activation": own.actor_activation}
        return self.task.student_settings(sizes)


@checked()
def read_lesson(settings: DistillationSettings) -> Lesson:
    """Read the teacher, and make the choices that depend on its task.

    Raises:
        FileNotFoundError, CheckpointError: there is no such run, or its checkpoint is damaged.
        ValueError: a teacher or students that cannot be, naming the setting.
    """
    path, state, teacher = read_source(str(settings.checkpoint), settings.teacher_seed)
    task = task_in(state)
    procgen = isinstance(task, ProcgenTask)
    allowed = "fixed on Procgen: give width"
    check_setting("sizes", settings.sizes, lambda sizes: sizes == "fixed" or not procgen, allowed)
    seeds = settings.seeds or (1 if procgen else STUDENTS)
    says = "1 on Procgen, whose games play for one agent"
    check_setting("seeds", seeds, lambda count: count == 1 or not procgen, says)
    seen = teacher.model.example["observation"]
    size = seen.numel() * (1 if seen.ndim == 3 else seen.element_size())  # a frame's pixels are bytes
    kept = settings.learning.buffer_frames or min(FRAMES_KEPT, BYTES_KEPT // size)
    digest = checkpoint_digest(path)
    folder = settings.run_dir or _folder(settings, teacher.facts, digest, seeds)
    chosen = changed(settings, checkpoint=str(path.absolute()), seeds=seeds, buffer_frames=kept, run_dir=folder)
    lesson = Lesson(chosen, task, teacher, digest)
    if settings.sizes == "fixed":
        task.students([settings.seed], lesson.student_settings)  # refuses a size that the networks do not have
    return lesson


def _folder(settings: DistillationSettings, facts: Mapping[str, Any], digest: str, seeds: int) -> str:
    """Folder of a run without one of its own."""
    task = re.sub(r"[^A-Za-z0-9_.-]+", "_", facts["task"])
    folder = f"runs/distill/{task}/{facts['algorithm']}_seed{facts['seed']}_{digest[:8]}"
    if settings.sizes == "search":
        return folder
    size = f"width{settings.width}" if settings.actor is None else f"actor{sizes_name(settings.actor)}"
    return f"{folder}/{size}/seeds{settings.seed}_{seeds}"


@checked()
def done_students(lesson: Lesson) -> dict[str, Any] | None:
    """The result of the run in `run_dir` if it has all its frames and `final_episodes`, else None.

    None also where all students have failed: `distill` then meets the failure again, and says which.

    Raises:
        CheckpointError: the folder holds a run of other settings.
        ValueError: a result.json that is damaged.
    """
    checkpoint, result = (Path(lesson.settings.run_dir) / name for name in ("checkpoint.pt", "result.json"))
    if not checkpoint.exists() or not result.exists():
        return None
    load_checkpoint(checkpoint, expect=lesson.identity)
    report, settings = read_result(result), lesson.settings
    whole = report["frames"] >= settings.learning.total_frames and report.get("final/return") is not None
    return report if whole and evaluated_over(settings.run_dir, settings.final_episodes) else None


@checked()
def distill(lesson: Lesson) -> dict[str, Any]:
    """Distil the students, or go on in `run_dir`, and evaluate them at the end.

    Returns:
        `final/return` (the mean over students), `final/return_std`, `final/return/seed<seed>`, and
        `final/teacher_return` over the same episodes; on Procgen `final/train_return` and `final/test_return`, as of
        experiments/procgen.py. A student in which a number is not finite has failed, and `failed` says why.

    Raises:
        NotFiniteError: all students have failed.
        CheckpointError: the folder holds a run of other settings, or its checkpoint is gone.
        FolderInUseError: another process works in the folder.
    """
    settings = lesson.settings
    keep_memory()
    seed_globals(settings.seed)
    students = Students(lesson.task.students(settings.all_seeds, lesson.student_settings), lesson.teacher.scaling)
    failed = FailedSeeds(settings.all_seeds, lesson.task.name)
    with (
        _threads(settings),
        contextlib.closing(lesson.task.make_env(settings.all_seeds, settings.num_envs)) as env,
        lock_folder(settings.run_dir, restart=settings.restart) as lock,
    ):
        run = Learning(env, students, _label(lesson), settings.learning, settings.all_seeds, failed)
        resume = frames_to_resume(
            settings.run_dir,
            lesson.identity,
            total_frames=settings.learning.total_frames,
            frames_per_iteration=settings.learning.steps * run.per_step,
        )
        with _tracker(lesson, students, resume, lock) as tracker:
            evaluate = _evaluation(lesson, students, failed)
            try:
                _learn(lesson, run, tracker, evaluate)
                report = _final(lesson, evaluate, failed)
            except NotFiniteError:
                tracker.summarise({"final/return": None, "final/seeds": 0.0}, failed=reasons_by_name(failed))
                raise
            tracker.summarise(report, failed=reasons_by_name(failed))
    return report | ({"failed": reasons_by_name(failed)} if failed.reasons else {})


def _learn(lesson: Lesson, run: Learning, tracker: Tracker, evaluate: Callable[..., dict[str, float]]) -> None:
    """Train to the end, from the checkpoint where there is one."""
    settings, path, identity = lesson.settings, Path(lesson.settings.run_dir) / "checkpoint.pt", lesson.identity
    told = {name: lesson.teacher.facts[name] for name in TEACHER_FACTS if name in lesson.teacher.facts}
    student = {"settings": lesson.student_settings, "scaling": scaling_state(lesson.teacher.scaling), "teacher": told}

    def save() -> None:
        save_checkpoint(path, {"settings": identity, "student": student, **run.state_dict()}, record=tracker.marks())

    if checkpoint_exists(path):
        run.load_state_dict(load_checkpoint(path, expect=identity))
    else:
        save()  # from here on the folder tells which run it belongs to
    run.begin()
    learning = settings.learning
    while run.frames < learning.total_frames:
        before = run.frames
        metrics = run.round()
        last = run.frames >= learning.total_frames
        if last or run.frames // learning.evaluate_every > before // learning.evaluate_every:
            metrics |= evaluate(EVALUATION_SEED + run.frames, settings.evaluate_episodes)
        tracker.log(metrics, run.frames)
        if last or run.frames // learning.checkpoint_every > before // learning.checkpoint_every:
            save()
            tracker.plot()


def _label(lesson: Lesson) -> Callable[[Tensor], Tensor]:
    """The teacher's parameters (S, N, n) at raw observations (S, N, ...)."""
    model, scaling = lesson.teacher.model.eval().requires_grad_(False), lesson.teacher.scaling

    def label(observation: Tensor) -> Tensor:
        with torch.no_grad():
            return policy_parameters(model, scaled(scaling, observation))

    return label


def _evaluation(lesson: Lesson, students: Students, failed: FailedSeeds) -> Callable[..., dict[str, float]]:
    """A function of (seed, episodes): the return of each student that has not failed, on fresh games."""
    if isinstance(lesson.task, ProcgenTask):
        config, progress = changed(lesson.task.config, unseen=None), StepProgress()

        def of_levels(seed: int, episodes: int) -> dict[str, float]:
            found = make_evaluation(config, students.models()[0], progress)(seed, episodes)
            progress.close()
            return found | {"eval/return": found["eval/test_return"]}

        return of_levels

    def evaluate(seed: int, episodes: int) -> dict[str, float]:
        returns = _returns(lesson, StudentPolicy(students), seed, episodes)
        rows = [{"eval/return": each} for each in returns.mean(1).tolist()]
        return seed_metrics(failed.kept(rows), lesson.settings.all_seeds)

    return evaluate


@checked()
def teacher_returns(lesson: Lesson) -> list[float]:
    """The teacher's mean return over the final episodes of each student, (S,)."""
    own, head = _label(lesson), policy_head(lesson.teacher.model)
    policy = TensorDictModule(lambda seen: head.act(own(seen), None), ["observation"], ["action"])
    return _returns(lesson, policy, FINAL_SEED, lesson.settings.final_episodes).mean(1).tolist()


def _returns(lesson: Lesson, policy: TensorDictModuleBase, seed: int, episodes: int) -> Tensor:
    """Raw returns without exploration, (S, episodes), on fresh games, each student's with `seed` plus its own."""
    seeds = [seed + each for each in lesson.settings.all_seeds]
    with contextlib.closing(lesson.task.make_env(seeds, episodes, test=True)) as env:
        return episode_returns(env, policy, stochastic=False).view(len(seeds), -1)[:, :episodes]


def _final(lesson: Lesson, evaluate: Callable[..., dict[str, float]], failed: FailedSeeds) -> dict[str, float | None]:
    """Returns at the end, the mean and the deviation over the students that have one, and the teacher's."""
    settings = lesson.settings
    found = evaluate(FINAL_SEED, settings.final_episodes)
    if isinstance(lesson.task, ProcgenTask):
        return {name.replace("eval/", "final/"): value for name, value in found.items()}
    report = final_report(found, settings.all_seeds, failed)
    of_teacher = teacher_returns(lesson)
    report["final/teacher_return"] = sum(of_teacher) / len(of_teacher)
    return report | finished_seeds(settings.all_seeds, failed)


def _tracker(lesson: Lesson, students: Students, resume: int | None, lock: Any) -> Tracker:
    settings, counts = lesson.settings, parameter_count(students.alone[0])
    size = f"actor |{sizes_name(settings.actor)}|" if settings.actor is not None else f"width {settings.width}"
    if settings.show_progress:
        print(
            f"{lesson.task.name}, {size} ({counts['trunk'] + counts['policy']:,} parameters) from "
            f"{lesson.teacher.facts['algorithm']}, seed {lesson.teacher.facts['seed']}; {settings.seeds} students; "
            f"the record goes to {settings.run_dir}" + (f"; going on from {resume:,} frames" if resume else ""),
            file=sys.stderr,
        )
    facts = {"parameters": json.dumps(counts), "multiply_adds": json.dumps(multiply_adds(students.alone[0]))}
    return Tracker(
        settings.run_dir,
        flat(settings),
        total_frames=settings.learning.total_frames,
        **settings.tracked.options(f"{lesson.task.name}/distilled/{size}"),
        resume_frames=resume,
        facts=facts,
        progress=settings.show_progress,
        lock=lock,
    )


@contextlib.contextmanager
def _threads(settings: DistillationSettings) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
