"""One cell of the actor-size study: S agents of one algorithm, actor size and critic size on one task.

    result = train_agents(TD3Control(env="pendulum", actor=[4, 4], critic=[16, 16], seeds=6, run_dir="runs/one"))
    result["final/return"], result["final/return/seed0"]

The agents train as one batch, are evaluated without exploration, and recorded in `run_dir`; the same settings started
again go on from the last checkpoint. After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import EnvBase

from decouple.analysis.evaluation import episode_returns
from decouple.checks import SOME, check_setting, checked
from decouple.compiled.kernel import compiling_seconds
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.runs.checkpoint import frames_to_resume, load_checkpoint
from decouple.runs.finite import FailedSeeds, NotFiniteError
from decouple.runs.learning_rates import scheduled
from decouple.runs.locks import FileLock, lock_folder
from decouple.runs.metrics import read_result
from decouple.runs.performance import keep_memory
from decouple.runs.settings import flat
from decouple.runs.tracking import Tracker
from decouple.seeding import seed_globals, seed_metrics
from decouple.studies.actor_size.algorithms import algorithm_of, control_identity, seeded_model
from decouple.studies.actor_size.build import best_device, make_env
from decouple.studies.actor_size.settings import (
    EVALUATION_SEED,
    FINAL_SEED,
    LEARNED,
    NOT_IDENTITY,
    ControlSettings,
    sizes_name,
)

__all__ = ["done_result", "final_returns", "run_result", "train_agents"]

MANY_WEIGHTS = 16_000  # weights between hidden layers, over all agents, from which PyTorch's threads pay


@checked()
def run_result(config: ControlSettings) -> dict[str, float] | None:
    """The result of the run in `run_dir`, finished or not; None where there is none.

    Raises:
        CheckpointError: the folder holds a run of other settings, or under other rules.
        ValueError: a result.json that is damaged; without it, the run is evaluated again.
    """
    checkpoint, result = Path(config.run_dir) / "checkpoint.pt", Path(config.run_dir) / "result.json"
    if not checkpoint.exists() or not result.exists():
        return None
    load_checkpoint(checkpoint, expect=_identity(config))
    try:
        return read_result(result)
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and the same command evaluates the agents again") from error


@checked()
def done_result(config: ControlSettings) -> dict[str, float] | None:
    """The result of the run in `run_dir` if it has all its frames. None where frames are left to train, and where
    the run is beyond `total_frames`, which `train_agents` refuses.

    Raises:
        CheckpointError: the folder holds a run of other settings, or under other rules.
        ValueError: a result.json that is damaged.
    """
    report = run_result(config)
    beyond = -1 if report is None else report["frames"] - config.learning.total_frames
    return report if 0 <= beyond < config.frames_per_iteration else None


def _frames_to_resume(config: ControlSettings) -> int | None:
    """`frames_to_resume` of the run in `run_dir`."""
    return frames_to_resume(
        config.run_dir,
        _identity(config),
        total_frames=config.learning.total_frames,
        frames_per_iteration=config.frames_per_iteration,
    )


@checked()
def train_agents(config: ControlSettings) -> dict[str, Any]:
    """Train the agents, or continue the run in `run_dir`, and evaluate them at the end.

    An agent in which a reward, an observation, a loss, a parameter or the final return is not finite has failed: the
    others go on as they would without it.

    Returns:
        `final/return` (the mean over agents), `final/return_std` (over agents), and with several agents
        `final/return/seed<seed>`; off policy also `final/value_predicted`, `final/value_monte_carlo` and
        `final/value_bias`, of `decouple.off_policy.value_bias`. Where agents have failed, their own numbers are None,
        the others are those of the remaining `final/seeds` agents, and `failed` says why, by `seed<seed>`. The same is
        in `run_dir/result.json`.

    Raises:
        NotFiniteError: all agents have failed; `result.json` then has None for the return, and why.
        ValueError: a setting does not fit the task or the algorithm; nothing is written then.
        CheckpointError: the folder holds a run of other settings or under other rules, or its checkpoint is gone.
        FileNotFoundError: the replay of the run to continue is gone.
        FolderInUseError: another process trains in the folder.
    """
    device = _device(config)
    env = make_env(config, config.num_envs, config.all_seeds)
    keep_memory()  # else glibc gives the memory of six agents' layers back to the system after every operation
    with contextlib.closing(env):
        whole = env.batch_size[1]
        says = f"{whole} here, or another multiple of the games in an environment that {config.env} makes"
        check_setting("num_envs", config.num_envs, lambda number: number == whole or config.env == "unity", says)
        models = [seeded_model(config, env, seed) for seed in config.all_seeds]
        with _threads(config, models[0]):
            seed_globals(config.seed)
            return _train(config, env, models, FailedSeeds(config.all_seeds, config.env), device)


@checked(agents=SOME)
def final_returns(config: ControlSettings, agents: Sequence[Any]) -> list[float]:
    """The mean return of each agent, in the order of seeds, by the final evaluation of `train_agents`.

    Args:
        config: the run's settings, without `normalize_observation`.
        agents: one for each seed, as `load_agents` or `initial_agents` gives them.
    """
    check_setting("normalize_observation", config.normalize_observation, lambda v: not v, "false: no statistics given")
    check_setting("agents", agents, lambda v: len(v) == config.seeds, f"one for each seed, {config.seeds}")
    for agent in agents:
        fits = isinstance(agent, ActorValue | ActorQValue)
        check_setting("agents", type(agent), lambda _, fits=fits: fits, "models of actor_value or actor_qvalue")
    policy = algorithm_of(config).make_agents(config, list(agents)).policy
    return _returns(config, policy, FINAL_SEED, config.final_episodes, test=True).mean(1).tolist()


@contextlib.contextmanager
def _threads(config: ControlSettings, model: nn.Module) -> Iterator[None]:
    """Set PyTorch's threads for a run. A second one slows small networks down, badly so beside other runs."""
    before = torch.get_num_threads()
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    weights = config.seeds * max(sum(a * b for a, b in pairwise(sizes)) for sizes in (config.actor, config.critic))
    torch.set_num_threads(config.num_threads or (before if convolves or weights >= MANY_WEIGHTS else 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(config: ControlSettings) -> str:
    """The device of a run: that of its settings, if this machine has it; ValueError otherwise."""
    device, seen = best_device() if config.device == "auto" else config.device, torch.cuda.device_count()
    says = "cpu or auto where torch sees no GPU" if not seen else f"cpu, auto, or cuda:<n> with n below {seen}"
    index = int(device.partition(":")[2] or 0)
    check_setting("device", device, lambda name: name == "cpu" or index < seen, says)
    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # torch allows it for convolutions: a mantissa of ten bits
    return device


def _train(
    config: ControlSettings, env: EnvBase, models: list[Any], failed: FailedSeeds, device: str
) -> dict[str, Any]:
    """Train and evaluate the agents, and write the run's folder."""
    agents, identity = algorithm_of(config).make_agents(config, models, device=device), _identity(config)
    evaluation = _evaluation(config, agents.policy, env, failed)
    with _locked(config) as lock:
        resume = _frames_to_resume(config)
        agents.check_files(resume)
        told = agents.update, agents.keeps(env)
        with _tracker(config, models[0], resume, lock, *told) as tracker, _no_return(tracker, failed):
            agents.train(
                env,
                failed,
                resume,
                seeds=config.all_seeds,
                log=tracker.log,
                evaluate=lambda number: evaluation(EVALUATION_SEED + number, config.evaluate_episodes),
                checkpoint=Path(config.run_dir) / "checkpoint.pt",
                identity=identity,
                on_checkpoint=tracker.plot,
                record=tracker.marks,
                expect=tracker.expect if config.show_progress else None,
            )
            report = _final(config, evaluation, failed) | agents.diagnosis(env, failed)
            tracker.summarise(report, failed=reasons_by_name(failed))
        agents.close()
    return report | ({"failed": reasons_by_name(failed)} if failed.reasons else {})


def reasons_by_name(failed: FailedSeeds) -> dict[str, str]:
    """Why agents have failed, by `seed<seed>`."""
    return {f"seed{seed}": reason for seed, reason in failed.reasons.items()}


@contextlib.contextmanager
def _no_return(tracker: Tracker, failed: FailedSeeds) -> Iterator[None]:
    """Write a result without a return, and with the reasons, where all agents have failed."""
    try:
        yield
    except NotFiniteError:
        names = [] if failed.alone else [f"/seed{seed}" for seed in failed.seeds]
        report = {"final/seeds": 0.0} | {f"final/return{name}": None for name in ["", *names]}
        tracker.summarise(report, failed=reasons_by_name(failed))
        raise


def _locked(config: ControlSettings) -> FileLock:
    """Lock the run's folder for this process; a restart moves its content aside."""
    lock = lock_folder(config.run_dir, restart=config.restart)
    if lock.aside and config.show_progress:
        print(f"the run that was in {config.run_dir} is kept in {lock.aside}", file=sys.stderr)
    return lock


def _evaluation(
    config: ControlSettings, policy: TensorDictModuleBase, like: EnvBase, failed: FailedSeeds
) -> Callable[[int, int], dict[str, float]]:
    """A function of (seed, episodes): the mean return of each agent that has not failed, without exploration, on fresh
    environments."""

    def evaluate(seed: int, episodes: int) -> dict[str, float]:
        returns = _returns(config, policy, seed, episodes, like, test=True)
        rows = [{"eval/return": each} for each in returns.mean(1).tolist()]
        if config.has_test_levels:
            trained = _returns(config, policy, seed, episodes, like).mean(1).tolist()
            for row, train in zip(rows, trained, strict=True):
                test = row["eval/return"]
                row |= {"eval/train_return": train, "eval/test_return": test, "eval/generalisation_gap": train - test}
        return seed_metrics(failed.kept(rows), config.all_seeds)

    return evaluate


def _returns(
    config: ControlSettings,
    policy: TensorDictModuleBase,
    seed: int,
    episodes: int,
    like: EnvBase | None = None,
    *,
    test: bool = False,
) -> Tensor:
    """Raw returns of all agents without exploration, (S, episodes), on fresh environments, each agent's with
    `seed` plus its own as the first seed; of the test's levels, or of training's."""
    seeds = [seed + agent for agent in config.all_seeds]
    with contextlib.closing(make_env(config, episodes, seeds, like, test=test)) as env:
        rounds = -(-episodes // env.batch_size[1])  # one, unless a Unity build has fewer agents
        parts = [episode_returns(env, policy, stochastic=False).view(config.seeds, -1) for _ in range(rounds)]
    return torch.cat(parts, 1)[:, :episodes]


def _final(
    config: ControlSettings, evaluation: Callable[[int, int], dict[str, float]], failed: FailedSeeds
) -> dict[str, float | None]:
    """Returns after training, the mean and the deviation over the agents that have one."""
    found = evaluation(FINAL_SEED, config.final_episodes)
    report = final_report(found, config.all_seeds, failed)
    other = ("eval/train_return", "eval/test_return", "eval/generalisation_gap")
    report |= {name.replace("eval/", "final/"): value for name, value in found.items() if name.startswith(other)}
    return report | finished_seeds(config.all_seeds, failed)


def final_report(found: Mapping[str, float], seeds: Sequence[int], failed: FailedSeeds) -> dict[str, float | None]:
    """`final/return` (the mean), `final/return/seed<seed>` where there are several, and `final/return_std`.

    Args:
        found: metrics of the final evaluation: `eval/return`, and `eval/return/seed<seed>` with several seeds.
        seeds: seeds of the agents.
        failed: record of the agents that have failed; one whose return is not finite is entered.

    Raises:
        NotFiniteError: all agents have failed.
    """
    own = {seed: found.get(f"eval/return/seed{seed}", found["eval/return"]) for seed in seeds}
    for index, (seed, value) in enumerate(own.items()):
        if seed not in failed.reasons and not np.isfinite(value):
            failed.fail(index, f"the return is {value} after training")
    failed.stop_if_all()
    each = [value for seed, value in own.items() if seed not in failed.reasons]
    report: dict[str, float | None] = {"final/return": sum(each) / len(each)}
    if len(own) > 1:
        report |= {f"final/return/seed{seed}": None if seed in failed.reasons else own[seed] for seed in own}
    report["final/return_std"] = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
    return report


def finished_seeds(seeds: Sequence[int], failed: FailedSeeds) -> dict[str, float | None]:
    """`final/seeds`, the number of agents that have a return, where some have failed; empty elsewhere."""
    return {"final/seeds": float(sum(seed not in failed.reasons for seed in seeds))} if failed.reasons else {}


def _tracker(
    config: ControlSettings, model: nn.Module, resume: int | None, lock: FileLock, update: str, keeps: str
) -> Tracker:
    names = sizes_name(config.actor), sizes_name(config.critic)
    counts = parameter_count(model)
    of_actor = counts["trunk"] + counts["policy"]
    if config.show_progress:
        print(
            f"{config.env}, {config.algorithm}, actor |{names[0]}| ({of_actor:,} parameters), "
            f"critic |{names[1]}|, {config.seeds} agents, {update}; the record goes to {config.run_dir}"
            + (f"; going on from {resume:,} frames" if resume else "")
            + keeps,
            file=sys.stderr,
        )
        if config.env_workers > (games := config.num_envs * config.seeds):
            print(f"env_workers={config.env_workers}: {games} work, one for each of the {games} games", file=sys.stderr)
    facts = {"parameters": json.dumps(counts), "multiply_adds": json.dumps(multiply_adds(model))}
    return Tracker(
        config.run_dir,
        flat(config),
        total_frames=config.learning.total_frames,
        **config.tracked.options(f"{config.env}/{config.algorithm}/{names[0]}-{names[1]}"),
        resume_frames=resume,
        facts=facts,
        progress=config.show_progress,
        quick_frames=getattr(config.learning, "learning_starts", 0),
        not_counted=compiling_seconds,
        lock=lock,
    )


def _identity(config: ControlSettings) -> dict[str, Any]:
    whole = scheduled(config.learning) or config.separation == LEARNED  # gates anneal over all frames
    return control_identity(config, NOT_IDENTITY - ({"total_frames"} if whole else set()))
