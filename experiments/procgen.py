"""Separation points on Procgen: train on 200 levels of a game, test on all of them.

    python experiments/procgen.py separation=late env=starpilot protocol=as_written total_frames=1000000 seed=0
    python experiments/procgen.py separation=late env=starpilot,plunder seed=0,1,2 -m                # docs/sweeps.md
    python experiments/procgen.py separation=late env=starpilot performance=fastest micro_batch=64
    python experiments/procgen.py evaluate=runs/demo/checkpoint.pt num_levels=500 start_level=1000
    python experiments/procgen.py --help

`separation` is shared, late, early, full or an integer k: the value network uses the policy's first k blocks. The same
command started again goes on from its last checkpoint. After Nafi, Ali and Hsu, *Analyzing the Sensitivity to
Policy-Value Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023).
"""

# First: else `import procgen` finds this script.
from _script import run_checkpoint, run_command, run_folder, run_goes_on, says_what_goes_on, settings_of, sweep_result  # noqa: I001

import contextlib
import dataclasses
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks
from decouple.runs.checkpoint import frames_to_resume
from decouple.checks import PROBABILITY, SEED, at_least, check_fields, check_setting
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.envs.procgen.games import procgen_env
from decouple.envs.procgen.levels import LOOKS, training_fingerprints, unseen_episodes
from decouple.analysis.evaluation import evaluate
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.locks import FileLock, lock_folder
from decouple.runs.metrics import check_run_files, read_yaml
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.performance import Performance, choose_performance
from decouple.on_policy.phases import Phase
from decouple.runs.progress import StepProgress
from decouple.runs.rules import SETTINGS_OF_PROCGEN, identity_of
from decouple.networks.separation import separate, separation_index
from decouple.runs.tracking import Tracker, default_tracker


@dataclass
class ProcgenExperiment(OnPolicySettings):
    """Settings of this experiment beside those of the loop; defaults are the easy protocol of the Procgen paper.

    What `Performance` has, and is None here, is as `performance` chooses it; it holds the choice from then on.
    """

    env: str = "starpilot"  # one of the 16 games
    separation: Any = "late"  # shared, late, early, full, or an integer in [0, 4]
    protocol: str = "as_written"  # as_written, as_released or controlled; see docs/procgen.md
    seed: int = 0  # of parameters, actions, minibatches and the order of levels
    num_envs: int = 64  # games in lockstep
    num_levels: int = 200  # training levels
    start_level: int = 0  # first training level
    distribution_mode: str = "easy"  # easy, hard, extreme, memory or exploration, as the game has them
    num_threads: int | None = None  # of the games; None: chosen by the number of processors
    backend: str | None = None  # procgen or envpool; None: the one installed
    attention: bool = False  # squeeze-and-excitation in the separated stages but the first
    in_place_skip: bool = False  # skip connections carry ReLU(x), as in the released code
    policy_gradient: float = 1.0  # scale of the policy's gradient into the trunk
    value_gradient: float = 1.0  # scale of the value's gradient into the trunk
    evaluate_episodes: int = 10  # on training and on test levels each, during training
    final_episodes: int = 100  # the same, after training
    unseen: str | None = "layout"  # report test episodes apart whose level's layout, or frame, is none trained on
    evaluate: str | None = None  # a run's folder, or its checkpoint: evaluate it for final_episodes, train nothing
    run_dir: str = "runs/procgen/${protocol}/${env}/${separation}/seed${seed}"  # the run's folder
    restart: bool = False  # begin anew; what is in run_dir is kept beside it, as <run_dir>.1 and so on
    tracker: str | None = None  # local or wandb; None: wandb under a W&B agent, else local
    mode: str = "offline"  # of wandb: offline or online
    performance: str = "auto"  # auto, fastest or reference; the settings below, each by name, are of Performance
    device: str | None = None  # cpu, cuda or cuda:<n>
    precision: Any = None  # fp32 or bf16
    memory_format: str | None = None  # contiguous or channels_last
    micro_batch: Any = None  # frames per backward pass
    torch_threads: int | None = None  # of the network on the CPU; None: torch's own choice
    keep_memory: bool | None = None  # freed memory stays with the process
    collector: str | None = None  # torchrl or preallocated
    overlap: bool | None = None  # half of the games step while the network acts on the other half
    compile: bool | None = None  # torch.compile
    cuda_graphs: bool | None = None  # of acting and of a minibatch's update

    def __post_init__(self) -> None:
        if self.overlap is None and self.num_envs % 2:
            self.overlap = False  # there are no two halves
        names = [field.name for field in dataclasses.fields(Performance)]
        self.computed = choose_performance(self.performance, **{name: getattr(self, name) for name in names})
        for name in names:
            setattr(self, name, getattr(self.computed, name))
        super().__post_init__()
        check_fields(self, policy_gradient=PROBABILITY, value_gradient=PROBABILITY, seed=SEED, start_level=at_least(0))
        known = isinstance(self.separation, str) or (type(self.separation) is int and 0 <= self.separation <= 4)
        check_setting("separation", self.separation, lambda _: known, "a name or a whole number in [0, 4]")
        for name in ("num_envs", "evaluate_episodes", "final_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        self.check_rollout(self.num_envs)
        check_setting("unseen", self.unseen, (None, *LOOKS).__contains__, "layout, frame or null")


# What a checkpoint need not share with the run that continues it.
NOT_IDENTITY = {
    *("total_frames", "evaluate_every", "checkpoint_every", "evaluate_episodes", "final_episodes", "evaluate"),
    *("unseen", "num_threads", "run_dir", "restart", "tracker", "mode", "performance"),
    *({field.name for field in dataclasses.fields(Performance)} - {"precision"}),
}
# What may be said beside `evaluate`; all else is the checkpoint's.
OF_EVALUATION = {
    *("evaluate", "env", "num_levels", "start_level", "distribution_mode"),
    *("final_episodes", "unseen", "num_threads", "backend", "device", "torch_threads"),
}


FINAL_SEED = 2_000_000  # of the final evaluation; those in training have 1,000,000 + the iteration


def make_env(config: ProcgenExperiment, num_envs: int, seed: int, *, test: bool, training: bool) -> EnvBase:
    """Games on the training levels or, with `test`, on all levels; rewards scaled only where they are trained on."""
    return procgen_env(
        config.env,
        num_envs,
        scale_rewards=training,
        num_levels=0 if test else config.num_levels,
        start_level=0 if test else config.start_level,
        distribution_mode=config.distribution_mode,
        seed=seed,
        num_threads=config.num_threads,
        groups=2 if training and config.overlap else 1,
        backend=config.backend,
        device=None if training or config.device == "cpu" else config.device,
    )


def make_model(config: ProcgenExperiment, env: EnvBase) -> ActorValue:
    """The IMPALA-CNN of the study, separated."""
    depth = len(impala_blocks())
    k = separation_index(config.separation, depth)
    options: dict[str, Any] = {"in_place_skip": config.in_place_skip}
    if config.attention:
        # None on the frame's three channels, and the dense block, last, has none.
        options["attention_from"] = min(max(k, 1), depth - 1)
    network = separate(
        impala_blocks(**options),
        impala_blocks(**options),
        at=k,
        policy_gradient=config.policy_gradient,
        value_gradient=config.value_gradient,
    )
    return actor_value(network, env.action_spec)


def make_unseen(
    config: ProcgenExperiment, trained: ProcgenExperiment, progress: Callable[[str, int, int], object]
) -> Callable[[int, int], Tensor] | None:
    """A function of (episodes, seed): which test episodes are on a level like none trained on; None where not asked.

    The levels trained on are looked at once, when the first evaluation asks. None also where all levels were trained
    on, and for another game or mode than the one trained on.
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

    trained: the settings that the model was trained with, where they are not `config`.
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
    """The evaluation after training, `final/...`, of an evaluation that `make_evaluation` gave."""
    report = {
        key.replace("eval/", "final/"): value for key, value in evaluation(FINAL_SEED, config.final_episodes).items()
    }
    return {"final/episodes": config.final_episodes, **report}


@dataclass
class Run:
    """A run that is ready to train; whatever is wrong with its settings has been said."""

    config: ProcgenExperiment
    env: EnvBase
    model: ActorValue
    phases: list[Phase]
    checkpoint: Path
    identity: dict[str, Any]  # what the checkpoint must share with the run
    lock: FileLock  # of the run's folder
    tracker: Tracker


def prepare(config: ProcgenExperiment) -> Run:
    """Build environment, model and phases, and open the record in `run_dir`, or that of the run to go on with."""
    for seed_global in (random.seed, np.random.seed, torch.manual_seed):
        seed_global(config.seed)
    env = make_env(config, config.num_envs, config.seed, test=False, training=True)
    try:
        return prepare_in(env, config)
    except BaseException:
        env.close()
        raise


def prepare_in(env: EnvBase, config: ProcgenExperiment) -> Run:
    """`prepare` in this environment."""
    model = make_model(config, env)
    config.computed.prepare(model)
    phases = ALGORITHMS[config.algorithm](model, config)
    identity = identity_of(config, SETTINGS_OF_PROCGEN, leave_out=NOT_IDENTITY, unit_actions=lambda: True)
    identity["backend"] = env.base_env.backend
    checkpoint = Path(config.run_dir) / "checkpoint.pt"
    lock = lock_folder(config.run_dir, restart=config.restart)
    if lock.aside:
        print(f"the run that was in {config.run_dir} is kept in {lock.aside}", file=sys.stderr)
    try:
        resume_frames = frames_to_resume(
            config.run_dir,
            identity,
            total_frames=config.total_frames,
            frames_per_iteration=config.num_envs * config.rollout_steps,
        )
        tracker = Tracker(
            config.run_dir,
            asdict(config),
            total_frames=config.total_frames,
            tracker=config.tracker or default_tracker(),
            mode=config.mode,
            group=f"{config.protocol}/{config.env}/{config.separation}",
            resume_frames=resume_frames,
            facts=describe(env, model),
            lock=lock,
        )
    except BaseException:
        lock.release()
        raise
    print(
        f"{config.env}, separation={config.separation} (k={model.at} of {len(impala_blocks())}), {config.algorithm}, "
        f"{parameter_count(model)['total']:,} parameters; the record goes to {config.run_dir}"
        + (f"; going on from {resume_frames:,} frames" if resume_frames else "")
        + f"\nperformance={config.performance}: {config.computed.describe()}",
        file=sys.stderr,
    )
    return Run(config, env, model, phases, checkpoint, identity, lock, tracker)


def train(run: Run) -> dict[str, float]:
    """Train, and evaluate at the end; returns the final evaluation."""
    config, tracker = run.config, run.tracker
    with contextlib.closing(run.env), run.lock, contextlib.closing(StepProgress()) as progress, tracker:
        evaluation = make_evaluation(config, run.model, progress)
        failed = FailedSeeds([config.seed], config.env)
        try:
            train_on_policy(
                run.env,
                run.model,
                run.phases,
                config,
                log=tracker.log,
                evaluate=lambda iteration: evaluation(1_000_000 + iteration, config.evaluate_episodes),
                checkpoint=run.checkpoint,
                identity=run.identity,
                on_checkpoint=tracker.plot,
                record=tracker.marks,
                progress=progress,
                performance=config.computed,
                failed=failed,
            )
        except NotFiniteError as error:  # in place of an earlier result, too
            reasons = {f"seed{config.seed}": str(error)}
            tracker.summarise({"final/train_return": None, "final/test_return": None}, failed=reasons)
            raise
        report = final_report(config, evaluation)
        tracker.summarise(report)
    return report


def evaluate_checkpoint(config: ProcgenExperiment, overrides: set[str]) -> tuple[ProcgenExperiment, dict[str, float]]:
    """Evaluate a checkpoint's policy with its own settings, but for those overridden on the command line.

    Returns those settings and the evaluation.
    """
    if overrides - OF_EVALUATION:
        allowed, got = ", ".join(sorted(OF_EVALUATION)), ", ".join(sorted(overrides - OF_EVALUATION))
        raise ValueError(f"with evaluate, only these can be set: {allowed}; got {got}")
    _, state = run_checkpoint(str(config.evaluate))
    says = "a run of experiments/procgen.py: its folder, or its checkpoint"
    check_setting("evaluate", config.evaluate, lambda _: "protocol" in state.get("settings", {}), says)
    fields = {field.name for field in dataclasses.fields(config)}
    saved = {key: value for key, value in state["settings"].items() if key in fields}
    trained = dataclasses.replace(config, **saved)
    config = dataclasses.replace(config, **{key: value for key, value in saved.items() if key not in overrides})
    with contextlib.closing(make_env(config, 1, config.seed, test=False, training=False)) as env:
        model = make_model(config, env)
    config.computed.prepare(model)
    model.load_state_dict(state["model"])
    parameters = {f"parameter {name}": value for name, value in model.named_parameters()}
    FailedSeeds([trained.seed], trained.env).check(parameters, f"in {trained.evaluate}")
    with contextlib.closing(StepProgress()) as progress:
        return config, final_report(config, make_evaluation(config, model, progress, trained))


def describe(env: EnvBase, model: ActorValue) -> dict[str, str]:
    """Facts of the run for its record."""
    return {
        "backend": str(env.base_env.backend_version),
        "separation_index": str(model.at),
        "parameters": json.dumps(parameter_count(model)),
        "multiply_adds_per_frame": json.dumps(multiply_adds(model)),
    }


def table(config: ProcgenExperiment, report: dict[str, float]) -> str:
    """The final evaluation, as lines to read."""
    last_level = config.start_level + config.num_levels - 1
    levels = {"train": f"{config.start_level} to {last_level}" if config.num_levels else "all", "test": "all"}
    lines = [f"{f'{config.env}, {config.final_episodes} episodes each':36}    mean  median     std"]
    for name, which in levels.items():
        numbers = (report[f"final/{name}_return{suffix}"] for suffix in ("", "_median", "_std"))
        lines.append(f"{f'{name} return, levels {which}':36}" + "".join(f"{number:8.2f}" for number in numbers))
    if "final/unseen_return" in report:
        numbers = (report[f"final/unseen_return{suffix}"] for suffix in ("", "_median", "_std"))
        what = f"of these, {1 - report['final/repeated_levels']:.0%}: unlike training"
        lines.append(f"{what:36}" + "".join(f"{number:8.2f}" for number in numbers))
    lines.append(f"{'generalisation gap':36}{report['final/generalisation_gap']:8.2f}")
    return "\n".join(lines)


def as_begun(config: Any, run_dir: str) -> ProcgenExperiment:
    """The settings of a run in `run_dir`, in the precision that it was begun in where the command names none.

    Another machine, or another version, would choose another, which is another run. One that restarts chooses anew.
    """
    begun = Path(run_dir) / "config.yaml"
    if config.precision is None and not config.restart and begun.exists():
        check_run_files(run_dir)
        config.precision = read_yaml(begun).get("precision")
    experiment: ProcgenExperiment = settings_of(config)
    experiment.run_dir = run_dir
    return experiment


ConfigStore.instance().store(name="procgen_schema", node=ProcgenExperiment)
# A launcher sends `main` to processes where this folder is not on the path: it takes along what comes from no module.
del sys.modules["_script"]


@hydra.main(version_base="1.3", config_path="../configs", config_name="procgen")
def main(config: Any) -> float:
    """Returns what a sweeper maximises: the final mean return on test levels."""
    if config.evaluate:
        overrides = {override.split("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}
        experiment, report = evaluate_checkpoint(settings_of(config), overrides)
        print(table(experiment, report))
        return report["final/test_return"]
    experiment = as_begun(config, run_folder(config))
    done = sweep_result(experiment)
    run = None if done else prepare(experiment)
    with says_what_goes_on(lambda: run_goes_on(experiment.run_dir)):
        report = done or train(run)
    print(table(experiment, report))
    print(f"the record is in {experiment.run_dir}")
    return report["final/test_return"]


if __name__ == "__main__":
    # Hydra reads a bare integer as a number, but names groups by strings: separation=3 becomes separation='3'.
    sys.argv[1:] = [
        re.sub(r"(?<=[=,(])\d+(?=[,)]|$)", r"'\g<0>'", argument) if argument.startswith("separation=") else argument
        for argument in sys.argv[1:]
    ]
    run_command(main)
