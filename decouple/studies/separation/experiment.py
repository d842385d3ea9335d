"""The separation study's experiment: train on 200 levels of a Procgen game, test on all of them.

    run = prepare(procgen_experiment(env="starpilot", separation="late", total_frames=1_000_000, run_dir="runs/one"))
    report = train(run)  # {"final/train_return": ..., "final/test_return": ..., ...}

The value network uses the policy's first k blocks. The same settings started again go on from the last checkpoint in
`run_dir`. As a command: experiments/procgen.py. After Nafi, Ali and Hsu, *Analyzing the Sensitivity to Policy-Value
Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchrl.envs import EnvBase

from decouple.analysis.evaluation import evaluate
from decouple.checks import check_setting
from decouple.envs.procgen.games import procgen_env
from decouple.envs.procgen.levels import training_fingerprints, unseen_episodes
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.gating import gated
from decouple.networks.recurrence import RecurrentBlock
from decouple.networks.separation import separate, separation_index
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.gates import learn_gates
from decouple.on_policy.kept import idle_text, kept_text
from decouple.on_policy.phases import RolloutPhase
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import frames_to_resume
from decouple.runs.finished import frames_of, run_checkpoint
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.learning_rates import scheduled
from decouple.runs.locks import FileLock, lock_folder
from decouple.runs.progress import StepProgress
from decouple.runs.rules import SETTINGS_OF_PROCGEN, identity_of
from decouple.runs.settings import changed, flat
from decouple.runs.tracking import Tracker
from decouple.seeding import seed_globals
from decouple.studies.separation.settings import (
    NOT_IDENTITY,
    OF_EVALUATION,
    PROCGEN_KEYS,
    ProcgenExperiment,
    procgen_experiment,
)

__all__ = [
    "FINAL_SEED",
    "PreparedRun",
    "evaluate_checkpoint",
    "load_agent",
    "make_env",
    "make_evaluation",
    "make_model",
    "make_unseen",
    "prepare",
    "train",
]


FINAL_SEED = 2_000_000  # seed of the final evaluation; evaluations in training have 1,000,000 + the iteration


def make_env(config: ProcgenExperiment, num_envs: int, seed: int, *, test: bool, training: bool) -> EnvBase:
    """Games on the training levels or, with `test`, on all levels; rewards are scaled for `training` only."""
    return procgen_env(
        config.env,
        num_envs,
        scale_rewards=training,
        num_levels=0 if test else config.num_levels,
        start_level=0 if test else config.start_level,
        distribution_mode=config.distribution_mode,
        seed=seed,
        num_threads=config.num_threads,
        groups=2 if training and config.computed.overlap else 1,
        backend=config.backend,
        device=None if training or config.computed.device == "cpu" else config.computed.device,
    )


def make_model(config: ProcgenExperiment, env: EnvBase) -> ActorValue:
    """The study's IMPALA-CNN, of the settings' width, separated at their k; with a recurrent block where it is asked.

    Raises:
        ValueError: a separation that the networks do not have.
    """
    options: dict[str, Any] = {"in_place_skip": config.in_place_skip}
    if config.width != 1:
        channels = [round(config.width * size) for size in (16, 32, 32)]
        options |= {"channels": channels, "hidden_size": round(config.width * 256)}
    if config.separation == "learned":
        allowed = "1 with separation=learned"
        check_setting("policy_gradient", config.policy_gradient, lambda v: v == 1, allowed)
        check_setting("attention", config.attention, lambda v: not v, "false with separation=learned")
        blocks = (impala_blocks(**options) for _ in range(2))
        return actor_value(gated(*blocks, value_gradient=config.value_gradient), env.action_spec)
    k = separation_index(config.separation, config.depth)
    if config.attention:
        # No attention on the frame's three channels, nor in the dense block, which is the last of the IMPALA-CNN.
        options["attention_from"] = min(max(k, 1), len(impala_blocks()) - 1)
    network = separate(
        [*impala_blocks(**options), *_memory(config, "actor")],
        [*impala_blocks(**options), *_memory(config, "critic")],
        at=k,
        policy_gradient=config.policy_gradient,
        value_gradient=config.value_gradient,
    )
    return actor_value(network, env.action_spec)


def _memory(config: ProcgenExperiment, name: str) -> list[nn.Module]:
    """The recurrent block of the actor or the critic, of the dense block's size; none where there is none."""
    if config.recurrent is None or config.recurrent_in not in ("both", name):
        return []
    size = round(config.width * 256)
    return [RecurrentBlock(config.recurrent, size, size)]


def make_unseen(
    config: ProcgenExperiment, trained: ProcgenExperiment, progress: Callable[[str, int, int], object]
) -> Callable[[int, int], Tensor] | None:
    """A function of (episodes, seed) that marks test episodes on levels unlike all training levels; None if not set.

    The training levels are looked at once, in the first evaluation. Also None where all levels were trained on, and for
    another game or mode than the one trained on.
    """
    same = (config.env, config.distribution_mode) == (trained.env, trained.distribution_mode)
    if not (config.unseen and trained.num_levels and same):
        return None
    options: dict[str, Any] = {key: getattr(config, key) for key in ("distribution_mode", "num_threads", "backend")}
    options["told_by"] = config.unseen
    seen: list[frozenset[bytes]] = []

    def unseen(episodes: int, seed: int) -> Tensor:
        if not seen:
            found = training_fingerprints(
                config.env,
                trained.num_levels,
                trained.start_level,
                progress=lambda done, wanted: progress("looking at training levels", done, wanted),
                **options,
            )
            seen.append(found)
        return unseen_episodes(config.env, episodes, seed, seen[0], **options)

    return unseen


def make_evaluation(
    config: ProcgenExperiment,
    model: ActorValue,
    progress: Callable[[str, int, int], object],
    trained: ProcgenExperiment | None = None,
) -> Callable[..., dict[str, float]]:
    """A function of (seed, episodes): returns on training and on test levels, on fresh environments.

    trained: the settings that the model was trained with; None: `config`.
    """
    unseen = make_unseen(config, trained or config, progress)
    environments = {
        name: lambda num_envs, seed, test=test: make_env(config, num_envs, seed, test=test, training=False)
        for name, test in (("train", False), ("test", True))
    }
    policy = model.get_policy_operator()
    return lambda seed, episodes: evaluate(
        policy,
        environments,
        episodes=episodes,
        seed=seed,
        unseen=unseen,
        progress=lambda done, wanted: progress("evaluating, episodes", done, wanted),
    )


def final_report(config: ProcgenExperiment, evaluation: Callable[..., dict[str, float]]) -> dict[str, float]:
    """The metrics `final/...` of the evaluation after training; `evaluation` is from `make_evaluation`."""
    report = {
        key.replace("eval/", "final/"): value for key, value in evaluation(FINAL_SEED, config.final_episodes).items()
    }
    return {"final/episodes": config.final_episodes, **report}


@dataclass
class PreparedRun:
    """A run that is ready to train; its settings have been checked."""

    config: ProcgenExperiment
    env: EnvBase
    model: ActorValue
    phases: list[RolloutPhase]
    checkpoint: Path
    identity: dict[str, Any]  # settings and rules that the checkpoint must share with the run
    lock: FileLock  # lock on the run's folder
    tracker: Tracker


def prepare(config: ProcgenExperiment) -> PreparedRun:
    """Build environment, model and phases; open the record in `run_dir`, a new one or that of the run to continue."""
    seed_globals(config.seed)
    env = make_env(config, config.num_envs, config.seed, test=False, training=True)
    try:
        return prepare_in(env, config)
    except BaseException:
        env.close()
        raise


def prepare_in(env: EnvBase, config: ProcgenExperiment) -> PreparedRun:
    """The rest of `prepare`, once the environment is built."""
    model = make_model(config, env)
    config.computed.prepare(model)
    phases = learn_gates(model, ALGORITHMS[config.learning.algorithm](model, config.learning), config.learning)
    whole = scheduled(config.learning) or config.separation == "learned"  # gates anneal over all frames
    identity = identity_of(
        config,
        SETTINGS_OF_PROCGEN,
        leave_out=NOT_IDENTITY - ({"total_frames"} if whole else set()),
        unit_actions=lambda: True,
        defaults=PROCGEN_KEYS.defaults,
    )
    identity["backend"] = env.base_env.backend
    checkpoint = Path(config.run_dir) / "checkpoint.pt"
    lock = lock_folder(config.run_dir, restart=config.restart)
    if lock.aside and config.show_progress:
        print(f"the run that was in {config.run_dir} is kept in {lock.aside}", file=sys.stderr)
    try:
        resume_frames = frames_to_resume(
            config.run_dir,
            identity,
            total_frames=config.learning.total_frames,
            frames_per_iteration=config.num_envs * config.learning.rollout_steps,
        )
        tracker = Tracker(
            config.run_dir,
            flat(config),
            total_frames=config.learning.total_frames,
            **config.tracked.options(f"{config.protocol}/{config.env}/{config.separation}"),
            resume_frames=resume_frames,
            facts=describe(env, model),
            progress=config.show_progress,
            lock=lock,
        )
    except BaseException:
        lock.release()
        raise
    if config.show_progress:
        print(
            f"{config.env}, separation={config.separation} (k={model.at} of {config.depth}), "
            f"{config.learning.algorithm}, {parameter_count(model)['total']:,} parameters; "
            f"the record goes to {config.run_dir}"
            + (f"; going on from {resume_frames:,} frames" if resume_frames else "")
            + kept_text(phases, env, config.learning.rollout_steps)
            + idle_text(phases, config.learning.total_frames, config.num_envs * config.learning.rollout_steps)
            + f"\nperformance={config.performance}: {config.computed.describe()}",
            file=sys.stderr,
        )
    return PreparedRun(config, env, model, phases, checkpoint, identity, lock, tracker)


def train(run: PreparedRun) -> dict[str, float]:
    """Train, and evaluate at the end; returns the final evaluation."""
    config, tracker = run.config, run.tracker
    with (
        contextlib.closing(run.env),
        run.lock,
        contextlib.closing(StepProgress(config.show_progress)) as progress,
        tracker,
    ):
        evaluation = make_evaluation(config, run.model, progress)
        failed = FailedSeeds([config.seed], config.env)
        try:
            train_on_policy(
                run.env,
                run.model,
                run.phases,
                config.learning,
                log=tracker.log,
                evaluate=lambda iteration: evaluation(1_000_000 + iteration, config.evaluate_episodes),
                checkpoint=run.checkpoint,
                identity=run.identity,
                on_checkpoint=tracker.plot,
                record=tracker.marks,
                progress=progress,
                expect=tracker.expect if config.show_progress else None,
                peak_share=tracker.peak_share if config.show_progress else None,
                faster=tracker.faster if config.show_progress else None,
                performance=config.computed,
                failed=failed,
            )
        except NotFiniteError as error:  # replaces an earlier result, too
            reasons = {f"seed{config.seed}": str(error)}
            tracker.summarise({"final/train_return": None, "final/test_return": None}, failed=reasons)
            raise
        report = final_report(config, evaluation)
        tracker.summarise(report)
    return report


def evaluate_checkpoint(config: ProcgenExperiment, overrides: set[str]) -> tuple[ProcgenExperiment, dict[str, float]]:
    """Evaluate a checkpoint's policy with its own settings, except those overridden on the command line.

    Returns the settings used and the evaluation.
    """
    if overrides - OF_EVALUATION:
        allowed, got = ", ".join(sorted(OF_EVALUATION)), ", ".join(sorted(overrides - OF_EVALUATION))
        raise ValueError(f"with evaluate, only these can be set: {allowed}; got {got}")
    _, state = run_checkpoint(str(config.evaluate), "evaluate")
    says = "a run of experiments/procgen.py: its folder, or its checkpoint"
    check_setting("evaluate", config.evaluate, lambda _: "protocol" in state.get("settings", {}), says)
    saved = {key: value for key, value in state["settings"].items() if key in PROCGEN_KEYS.defaults}
    trained = changed(config, **saved)
    config = changed(config, **{key: value for key, value in saved.items() if key not in overrides})
    with contextlib.closing(make_env(config, 1, config.seed, test=False, training=False)) as env:
        model = make_model(config, env)
    config.computed.prepare(model)
    model.load_state_dict(state["model"])
    parameters = {f"parameter {name}": value for name, value in model.named_parameters()}
    FailedSeeds([trained.seed], trained.env).check(parameters, f"in {trained.evaluate}")
    with contextlib.closing(StepProgress(config.show_progress)) as progress:
        return config, final_report(config, make_evaluation(config, model, progress, trained))


def describe(env: EnvBase, model: ActorValue) -> dict[str, str]:
    """Facts of the run for its record."""
    return {
        "backend": str(env.base_env.backend_version),
        "separation_index": str(model.at),
        "parameters": json.dumps(parameter_count(model)),
        "multiply_adds_per_frame": json.dumps(multiply_adds(model)),
    }


def load_agent(state: Mapping[str, Any]) -> tuple[ProcgenExperiment, ActorValue, int]:
    """Settings, model and frames of training from a run's checkpoint; the model is on the CPU, in float32.

    Args:
        state: the checkpoint's content, as `run_checkpoint` reads it.
    """
    here = state["settings"] | {"device": "cpu", "precision": "fp32"}  # whatever the run was computed with
    config = procgen_experiment(**{key: value for key, value in here.items() if key in PROCGEN_KEYS.defaults})
    with contextlib.closing(make_env(config, 1, config.seed, test=False, training=False)) as env:
        model = make_model(config, env)
    model.load_state_dict(state["model"])
    return config, model, frames_of(state)
