"""One valid call of each public name: what `fuzz_arguments` begins with, and changes one argument of.

`CALLS` maps `module.name`, or `module.Class.method`, to a function that makes the keyword arguments anew; `self` among
them is the object whose method is called. A name of an `__all__` that is neither here nor in `LEFT_OUT` fails the fuzz.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_folders import write_study
from tensordict import TensorDict
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
from torch import nn
from torchrl.data import Bounded, Categorical

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "decouple" / "studies"

# Names that are not called with bad arguments, each with its reason.
LEFT_OUT = {
    "PER_STEP": "called at each step or minibatch: what they are built from is checked where it is built",
    "RECORD": "a record that the package fills; the function that reads one checks it",
    "STATE": "takes what a checkpoint hands back, whose checksum and settings are checked when the file is read",
    "TORCH": "the signature is TorchRL's, PyTorch's or Gymnasium's",
    "MACHINE": "needs a program, a device or processes that are not there",
    "CHECK": "is itself a check, of a value by the name that it is given",
    "RULE": "makes a rule of `checked`, when the package is imported",
    "WHOLE": "trains or reports on a whole run of settings that are checked where they are made",
    "COMMAND": "is called by a command with what Hydra has composed, or with what a run has raised",
    "PLAIN": "an exception, a constant, a type, or takes no arguments",
}
METHODS_LEFT_OUT = {
    **dict.fromkeys(
        ["forward", "step", "step_all", "reset", "reset_agent", "observation", "picture", "render", "begin", "wait"],
        "PER_STEP",
    ),
    **dict.fromkeys(["choose", "to_task", "uniform", "normal", "integers", "permutations", "draw", "add"], "PER_STEP"),
    **dict.fromkeys(
        ["sample", "act", "anneal", "at", "random_actions", "judge", "learn", "update", "critic_loss", "run", "scale"],
        "PER_STEP",
    ),
    **dict.fromkeys(["head", "begin_steps", "end_steps"], "PER_STEP"),
    **dict.fromkeys(
        ["merge", "standardize", "traced", "append", "apply", "to_unity", "from_unity", "seed"], "PER_STEP"
    ),
    **dict.fromkeys(
        ["load_state_dict", "state_dict", "load_state", "state", "get_extra_state", "set_extra_state"], "STATE"
    ),
    **dict.fromkeys(["default_keys", "select_subsequence", "extra_repr", "close", "spec", "set_seed"], "TORCH"),
}
NAMES_LEFT_OUT = {
    **dict.fromkeys(["CellError", "GaveUpError", "CheckpointError"], "PLAIN"),
    **dict.fromkeys(["Games", "PullBack", "RolloutPhase", "Concatenate"], "PLAIN"),
    **dict.fromkeys(["Processes.train", "serve", "RayTasks", "UnityEnv", "waited_for"], "MACHINE"),
    **dict.fromkeys(["Estimate", "Profile", "SmallestActor", "Step", "layers_of", "Part"], "RECORD"),
    **dict.fromkeys(
        ["Loggers", "Loggers.log", "Loggers.summarise", "Loggers.film", "Tracking.options"], "RECORD"
    ),  # of a `Tracker`
    **dict.fromkeys(["require_packages", "require_rliable", "tracker_names"], "CHECK"),
    **dict.fromkeys(["Film", "Film.picture", "analysis.film.Played", "studies.file_playing.Played"], "RECORD"),
    **dict.fromkeys(
        [
            "play",
            "write_film",
            "watch",
            "watch_run",
            "log_film",
            "agent_at_play",
            "read_source",
            "Watch.endings",
            "compare_runs",
        ],
        "WHOLE",
    ),
    **dict.fromkeys(
        [
            "branch_section",
            "strip_figure",
            "strip_section",
            "procgen_film",
            "agent_film",
            "pictured_env",
            "study_strips",
        ],
        "WHOLE",
    ),
    **dict.fromkeys(["ControlEnv.pictures", "GymnasiumGames.pictures"], "PLAIN"),
    **dict.fromkeys(["Stopped", "Stopping", "Unfinished"], "RECORD"),
    **dict.fromkeys(["Trial", "Batch", "Transition", "Widths", "Strips"], "RECORD"),
    **dict.fromkeys(["ExportReport", "ObservationScaling", "ActionSpace"], "RECORD"),
    # Parts of `export_actor`, which checks the model, its observations and the path.
    **dict.fromkeys(["ActorConstants", "Content", "Int8Layer", "LinearLayer", "CompiledActor"], "RECORD"),
    **dict.fromkeys(["CompiledActor.run", "CompiledActor.microseconds", "activate", "choose"], "RECORD"),
    **dict.fromkeys(["actor_constants", "constant_actions", "scaled_observation", "c_files", "c_name"], "RECORD"),
    **dict.fromkeys(["c_prototype", "quantized_actions", "quantized_layers", "file_content", "extra"], "RECORD"),
    **dict.fromkeys(["difference_from", "inputs_to_check", "actor_facts", "call_times", "runner"], "RECORD"),
    **dict.fromkeys(
        ["actor_card", "card_path", "RefusedFileError", "Winner", "FilePolicy", "agent_source", "layout", "play_file"],
        "RECORD",
    ),
    **dict.fromkeys(["CannotRunHereError", "compiled_here", "check_kind"], "RECORD"),
    **dict.fromkeys(["untrained_model", "untrained_student"], "WHOLE"),
    **dict.fromkeys(["write_actor", "export_plan", "winner_text", "write_winner", "write_smallest_student"], "WHOLE"),
    # Parts of `export_actor` too, for a page; of a search, whose steps check their arguments; of a distillation, whose
    # settings are checked where they are made.
    **dict.fromkeys(["ActorInNode", "ActorInNode.run", "ActorInNode.microseconds", "page_text"], "RECORD"),
    **dict.fromkeys(["GAMES_ON_PAGE", "node_program"], "PLAIN"),
    "check_page": "CHECK",
    **dict.fromkeys(["Rules", "check_rules", "make_trial", "mean_return", "open_notes", "pair_name"], "RECORD"),
    **dict.fromkeys(["stage_notes", "stage_steps", "check_order", "outcome"], "RECORD"),
    **dict.fromkeys(["SearchSettings.threshold_of", "SearchSettings.stopping"], "RECORD"),
    **dict.fromkeys(["Lesson", "Lesson.sized", "SmallestStudent", "Source", "scaling_state", "scaled"], "RECORD"),
    **dict.fromkeys(["distill", "done_students", "read_lesson", "teacher_returns", "run_student_search"], "WHOLE"),
    **dict.fromkeys(["student_cell", "student_parameters", "student_search_text", "student_store"], "WHOLE"),
    **dict.fromkeys(["student_steps", "student_search_goes_on", "task_in", "task_settings"], "RECORD"),
    **dict.fromkeys(["ControlTask", "ControlTask.make_env", "ControlTask.student_settings"], "RECORD"),
    **dict.fromkeys(["ControlTask.students", "ProcgenTask", "ProcgenTask.make_env", "ProcgenTask.students"], "RECORD"),
    **dict.fromkeys(["ProcgenTask.student_settings", "StudentTask", "raw_control_env"], "RECORD"),
    **dict.fromkeys(["StudentTask.make_env", "StudentTask.students", "StudentTask.student_settings"], "RECORD"),
    **dict.fromkeys(["StudentPolicy", "Students", "Students.loss", "Learning", "Learning.round"], "RECORD"),
    **dict.fromkeys(["PolicyHead", "PolicyHead.divergence", "policy_parameters"], "PER_STEP"),
    **dict.fromkeys(["int8_onnx_bytes", "onnx_bytes", "onnx_session", "onnx_with_metadata", "pt2_bytes"], "RECORD"),
    **dict.fromkeys(["HTMLTable", "Picture", "Section", "Advice"], "RECORD"),
    **dict.fromkeys(["Comparison", "Cost", "Run"], "RECORD"),
    **dict.fromkeys(["DrawnBlock", "Study", "Spread", "Table"], "RECORD"),
    **dict.fromkeys(["SizeCell", "SizeStudy", "Task"], "RECORD"),
    # Made by `separate`, `actor_value`, `actor_qvalue`, `control_env`, `games_env`, `goal_tracking_env` alone.
    **dict.fromkeys(["SeparatedNetwork", "ActorValue", "ActorQValue"], "RECORD"),
    **dict.fromkeys(["ControlEnv", "GamesEnv", "GoalTrackingEnv"], "RECORD"),
    **dict.fromkeys(
        [f"control.{rules}.{name}" for rules in ("acrobot", "pendulum") for name in ("begin", "examples", "step")],
        "PER_STEP",
    ),
    **dict.fromkeys(["draw_categories", "log_tanh_slope", "acted"], "PER_STEP"),
    **dict.fromkeys(["squashed_normal", "kl_divergence"], "PER_STEP"),
    **dict.fromkeys(["IntegratedTanhNormal", "MultiCategorical"], "TORCH"),
    "DISTRIBUTIONS": "PLAIN",
    **dict.fromkeys(["add_next_values", "following_values", "rollout_metrics"], "PER_STEP"),
    **dict.fromkeys(
        ["normalise_advantages", "run_phase", "copy_in_place", "live_cuts", "cut_squares", "norms_and_cosine"],
        "PER_STEP",
    ),
    **dict.fromkeys(
        ["CompiledAgents.places", "CompiledAgents.estimate_advantages", "CompiledAgents.spread"], "PER_STEP"
    ),
    "CompiledCollector": "RECORD",  # made by the training loop
    "PlainEnv": "PLAIN",
    **dict.fromkeys(["clip_per_seed", "clip_grad_norm_per_seed_", "conjugate_gradient"], "PER_STEP"),
    **dict.fromkeys(["fisher_vector_product", "same_level_partners", "fuse"], "PER_STEP"),
    **dict.fromkeys(
        ["seed_metrics", "RunProgress.update", "RunProgress.expect", "Tracker.expect", "shown", "autocast"], "PER_STEP"
    ),
    **dict.fromkeys(
        ["RunProgress.faster", "Tracker.faster", "RunProgress.peak_share", "Tracker.peak_share"], "PER_STEP"
    ),
    **dict.fromkeys(["Acting", "set_rng_state", "agents_in", "stored_settings"], "STATE"),
    "trained_actor": "STATE",
    "CellStore.record_search": "STATE",
    **dict.fromkeys(["Must", "above", "all_of", "at_least", "axes", "between"], "RULE"),
    **dict.fromkeys(["distinct", "has", "inside", "check_fields"], "RULE"),
    **dict.fromkeys(["check_integer", "check_setting", "check_switches", "positive_whole"], "CHECK"),
    **dict.fromkeys(["check_settings", "check_memory", "check_shape", "following_seeds"], "CHECK"),
    **dict.fromkeys(["as_vector", "did_you_mean", "observed_numbers", "read_actions", "read_entries"], "CHECK"),
    **dict.fromkeys(["split_space", "BATCHED", "Outcome", "best_device"], "PLAIN"),
    **dict.fromkeys(["make_first", "made", "TorchRLGames"], "RECORD"),  # of a task that `find_task` has found
    **dict.fromkeys(["GameWorkers", "GameWorkers.ask", "WorkerGames"], "MACHINE"),
    **dict.fromkeys(["ActionReader", "SCHEME", "register_task_names"], "PLAIN"),
    **dict.fromkeys(["begin", "end_at_once", "show"], "COMMAND"),
    **dict.fromkeys(["Forage.examples", "Forage.observe", "paint_rectangle", "reset_mask", "to_begin"], "PER_STEP"),
    **dict.fromkeys(["episode_specs", "set_specs"], "RECORD"),
    **dict.fromkeys(["Owned", "check_threads"], "RECORD"),
    **dict.fromkeys(["FolderInUseError", "FileLock.release"], "PLAIN"),
    **dict.fromkeys(["append_whole", "ActionUnit.to_task", "PlainActor.states"], "PER_STEP"),
    **dict.fromkeys(["FailedSeeds", "NotFiniteError", "ModePolicy", "WatchedPolicy"], "RECORD"),
    **dict.fromkeys(["ClipWatch", "WatchedRollouts", "check_rollouts", "check_weights", "BranchMeasure"], "RECORD"),
    **dict.fromkeys(
        ["TimeLeft", "TimeLeft.iterated", "faster_settings", "seconds_per_iteration", "share_of_peak"], "RECORD"
    ),
    **dict.fromkeys(
        ["OneAgent", "StackedAgents", "agents_of", "draw_agents", "check_agents", "check_agent_seeds"], "RECORD"
    ),
    # Parts of what `ppo_phases`, `daac_phases`, `idaac_phases` make, which check model and settings.
    **dict.fromkeys(["adam", "advantage_loss", "policy_loss", "policy_phase", "value_loss", "value_phase"], "RECORD"),
    **dict.fromkeys(["for_agents", "like", "metric", "unique"], "RECORD"),
    **dict.fromkeys(["auxiliary_phase", "auxiliary_value_loss", "clone_loss", "delayed_policy_phase"], "RECORD"),
    **dict.fromkeys(["logged_name", "on_cpu", "action_vector", "constant", "run_network"], "PER_STEP"),
    **dict.fromkeys(["as_integers", "as_network", "nonnegative"], "CHECK"),
    **dict.fromkeys(
        ["in_keys", "keys_of", "OtherFeatures", "block_multiply_adds", "GatedNetwork", "GatedPolicy"], "RECORD"
    ),
    **dict.fromkeys(["learn_separation", "gate_curves", "learned_run"], "WHOLE"),
    **dict.fromkeys(["LearnedSeparation", "gates_of", "idle_settings"], "RECORD"),
    **dict.fromkeys(
        ["KeptRollouts", "check_no_memory", "check_room", "idle_text", "kept_bytes", "kept_text", "runs_on"], "RECORD"
    ),  # of the loop
    "reserve_file": "RECORD",  # of the replay and of kept rollouts, with the size of their tensors
    "scaled_cuts": "PER_STEP",
    **dict.fromkeys(
        ["RecurrentPart", "RecurrentSequential", "recurrent_blocks", "run_blocks", "with_memory"], "RECORD"
    ),
    **dict.fromkeys(["Rate", "RatedSettings", "rate_groups", "rate_metrics", "rate_of", "scheduled"], "RECORD"),
    **dict.fromkeys(["anneal", "check_rates"], "RECORD"),
    **dict.fromkeys(["OnPolicySettings.check_rollout", "Replay.since"], "PER_STEP"),
    **dict.fromkeys(["MetricSums", "MetricSums.add_columns", "MetricSums.part", "Replay.part"], "PER_STEP"),
    **dict.fromkeys(["MetricSums.so_far", "MetricSums.count", "CompiledLearner.arguments"], "PER_STEP"),
    **dict.fromkeys(["SeedNoise.part", "SeedNoise.ready", "SeedNoise.give_back", "SeedNoise.doubles"], "PER_STEP"),
    **dict.fromkeys(["CompiledAgents.collect", "CompiledLearner.samples"], "PER_STEP"),
    **dict.fromkeys(["ModeGroup", "ModeKernels", "mode_kernels"], "RECORD"),  # of compiled agents
    **dict.fromkeys(["ModeKernels.act", "ModeKernels.most", "ModeKernels.play"], "PER_STEP"),
    **dict.fromkeys(["Playing", "PlayedByKernels", "addresses", "first_class", "compiled_play"], "RECORD"),
    **dict.fromkeys(["Playing.of", "StepsAhead", "StepsAhead.of", "StepsAhead.made", "may_be_played"], "PER_STEP"),
    **dict.fromkeys(
        ["CompiledSteps", "compiled_steps", "RunningEpisodes", "entry_point", "placed"], "RECORD"
    ),  # made by the training loop
    "LearnerGroups": "RECORD",  # of `make_learner`, which checks models and settings
    **dict.fromkeys(["EpisodesInState", "StepProgress", "OffPolicyLearner", "TrainedAgents", "Agents"], "PLAIN"),
    # Entries of tables, and what `train_agents` and `load_agents` make, which check settings and files.
    **dict.fromkeys(["FlatKeys", "Algorithm", "OffPolicyAgents", "OnPolicyAgents"], "RECORD"),
    **dict.fromkeys(["part", "points_to_part", "sets_own_fields"], "RULE"),
    **dict.fromkeys(["Critics", "frozen_rows", "policy_network"], "RECORD"),  # parts of `Learner`, which checks models
    **dict.fromkeys(["Frames", "ProcgenGames", "Games", "games_of", "LockstepEnv"], "RECORD"),
    **dict.fromkeys(["AgentShape", "AgentThreads", "Layer", "Tables", "compiling", "kernel", "exact_kernel"], "RECORD"),
    **dict.fromkeys(["one_blas_thread", "CompiledGames", "CompiledGames.may_step", "compiled_games"], "RECORD"),
    **dict.fromkeys(["batched_rules", "compiled_step", "count_of_steps"], "RECORD"),
    **dict.fromkeys(["unavailable", "compiling_seconds"], "PLAIN"),
    **dict.fromkeys(["procgen.backends.EnvpoolGames", "start_games"], "RECORD"),
    **dict.fromkeys(["import_backend", "Rule"], "RECORD"),
    **dict.fromkeys(["CellRun", "PreparedRun", "Source", "SearchProgress"], "RECORD"),
    **dict.fromkeys(["frames_of", "load_agent", "unit_actions"], "STATE"),
    **dict.fromkeys(["prepare", "train", "evaluate_checkpoint", "make_evaluation", "make_unseen"], "WHOLE"),
    **dict.fromkeys(["separation.experiment.make_env", "separation.experiment.make_model"], "WHOLE"),
    **dict.fromkeys(["analyse", "export", "separation_report", "size_report", "read_cells", "toy_report"], "WHOLE"),
    **dict.fromkeys(
        ["actor_parameters", "run_search", "search_goes_on", "search_text", "train_pairs", "write_table"], "WHOLE"
    ),
    **dict.fromkeys(["SearchSettings.measured", "SearchSettings.steps", "WorkerSettings.start"], "WHOLE"),
    **dict.fromkeys(["points_of", "read_points", "report_folder", "store_of", "task_report", "train_points"], "WHOLE"),
    **dict.fromkeys(["is_trained", "WorkerSettings.check_workers"], "WHOLE"),
    **dict.fromkeys(["Answer", "Entry", "sharable_blocks"], "RECORD"),
    **dict.fromkeys(["commands.control.register", "trained"], "COMMAND"),
    **dict.fromkeys(
        [
            "control_settings",
            "given_settings",
            "interrupted",
            "refuse_added",
            "register_algorithms",
            "schema",
            "settings_beside",
            "run_command",
            "readable",
            "what_is_wrong",
            "run_folder",
        ],
        "COMMAND",
    ),
    **dict.fromkeys(["run_goes_on", "says_what_goes_on", "settings_of", "sweep_result", "train_learned"], "COMMAND"),
}


def ignore(*_: Any, **__: Any) -> None:
    """A callback that does nothing."""


def returns(actor: tuple[int, ...], critic: tuple[int, ...]) -> list[float]:
    return [-150.0 - 10 / (1 + sum(actor)), -151.0]


_numbers = itertools.count()


def folder() -> Path:
    """A new folder below the present one."""
    path = Path(f"folder{next(_numbers)}")
    path.mkdir()
    return path


def blocks() -> list[nn.Module]:
    from decouple.networks.blocks import mlp_blocks

    return mlp_blocks(3, [4, 4])


def gates() -> Any:
    from decouple.networks.gating import Gates

    return Gates(2)


def network(at: int = 0) -> Any:
    from decouple.networks.separation import separate

    return separate(blocks(), blocks(), at=at)


DISCRETE = Categorical(2)
BOX = Bounded(-1, 1, (2,), dtype=torch.float32)


@functools.cache
def model(discrete: bool = True, at: int = 0) -> Any:
    from decouple.networks.actor_value import actor_value

    return actor_value(network(at), DISCRETE if discrete else BOX)


def q_network() -> Any:
    from decouple.networks.blocks import mlp_blocks
    from decouple.networks.separation import separate

    example = {"observation": torch.zeros(3), "action": torch.zeros(2)}
    return separate(blocks(), mlp_blocks(5, [4]), at=0, value_keys=["action"], example=example)


@functools.cache
def q_model() -> Any:
    from decouple.networks.actor_qvalue import actor_qvalue
    from decouple.networks.blocks import mlp_blocks

    return actor_qvalue(q_network(), BOX, twin_blocks=mlp_blocks(5, [4]))


@functools.cache
def frames_model() -> Any:
    from decouple.networks.actor_value import actor_value
    from decouple.networks.blocks import impala_blocks
    from decouple.networks.separation import separate

    stacks = (impala_blocks((3, 8, 8), (2,), 4) for _ in range(2))
    return actor_value(separate(*stacks, at=1), DISCRETE)


def stacked(number: int = 2) -> Any:
    from decouple.networks.actor_value import actor_value
    from decouple.networks.stacking import stack

    return stack([actor_value(network(), DISCRETE) for _ in range(number)])


def noise(seeds: int = 2) -> Any:
    from decouple.seeding import SeedNoise

    return SeedNoise(range(seeds))


@functools.cache
def sac() -> Any:
    from decouple.off_policy.settings import SACSettings

    return SACSettings(
        total_frames=4,
        learning_starts=1,
        batch_size=2,
        buffer_size=8,
        log_every=2,
        evaluate_every=2,
        checkpoint_every=2,
    )


@functools.cache
def toy_env(seeds: int = 1, steps: int = 5) -> Any:
    from decouple.envs.toy import goal_tracking_env

    return goal_tracking_env(range(seeds), 2, episode_steps=steps)


@functools.cache
def flat_env() -> Any:
    """One agent's environment (N,), for what plays or trains one that is not stacked."""
    from decouple.envs.procgen.games import ProcgenGamesEnv

    return ProcgenGamesEnv("leaper", 2, num_threads=1)


@functools.cache
def procgen_model() -> Any:
    from decouple.networks.actor_value import actor_value
    from decouple.networks.blocks import impala_blocks
    from decouple.networks.separation import separate

    stacks = (impala_blocks((3, 64, 64), (2,), 4) for _ in range(2))
    return actor_value(separate(*stacks, at=0), flat_env().action_spec)


@functools.cache
def toy_q() -> Any:
    from decouple.networks.actor_qvalue import actor_qvalue
    from decouple.networks.blocks import mlp_blocks
    from decouple.networks.separation import separate

    example = {"observation": torch.zeros(1), "action": torch.zeros(1)}
    made = separate(mlp_blocks(1, [4]), mlp_blocks(2, [4]), at=0, value_keys=["action"], example=example)
    return actor_qvalue(made, toy_env().action_spec, twin_blocks=mlp_blocks(2, [4]))


def learner() -> Any:
    from decouple.off_policy.learner import Learner

    return Learner([toy_q()], sac())


def toy_model(seeds: int = 1) -> Any:
    from decouple.networks.actor_value import actor_value
    from decouple.networks.blocks import mlp_blocks
    from decouple.networks.separation import separate
    from decouple.networks.stacking import stack

    stacks = [(mlp_blocks(1, [4]), mlp_blocks(1, [4])) for _ in range(seeds)]
    return stack([actor_value(separate(*pair, at=0), toy_env().action_spec) for pair in stacks])


def on_policy(**settings: Any) -> Any:
    from decouple.on_policy.settings import OnPolicySettings

    own = {"total_frames": 10, "rollout_steps": 5, "minibatches": 1, "epochs": 1}
    return OnPolicySettings(**{**own, **settings})


def control(**settings: Any) -> Any:
    from decouple.studies.actor_size.algorithms import SACControl

    own = {"env": "toy", "total_frames": 40, "learning_starts": 10, "batch_size": 4, "actor": [4], "critic": [4]}
    own |= {"log_every": 20, "evaluate_every": 20, "checkpoint_every": 20, "evaluate_episodes": 1}
    return SACControl(**{**own, "final_episodes": 1, "show_progress": False, **settings})


@functools.cache
def study() -> Any:
    from decouple.studies.separation.results import read_study
    from decouple.studies.separation.run_folders import find_runs

    return read_study(find_runs(write_study(folder())))


@functools.cache
def size_study() -> Any:
    from size_studies import RETURNS, cell, search_of, train

    from decouple.studies.actor_size.results import read_studies
    from decouple.studies.actor_size.store import CellStore

    store = CellStore(folder() / "cells.sqlite")
    for (actor, critic), each in RETURNS.items():
        train(store, cell(actor, critic), each, loss=[1.0, 2.0], held_out=[2.0, 3.0], bias=[0.5, 0.25])
    search_of(store, RETURNS)
    return read_studies(store)[0], store


SETTINGS = {"separation": "full", "policy_gradient": 0.0, "value_gradient": 1.0}  # that rules ask for
SCORES = {
    "late": {"maze": [7.0, 8.0], "plunder": [6.0, 7.0]},
    "full": {"maze": [5.0, 6.0], "plunder": [8.0, 9.0]},
}


def size_cell() -> Any:
    from size_studies import cell

    return cell((4, 4), (4, 4))


def initial() -> Any:
    from decouple.studies.actor_size.algorithms import initial_agents

    return initial_agents(control())


def estimates() -> dict[str, Any]:
    from decouple.analysis.statistics import Estimate

    each = {name: Estimate(0.5, 0.4, 0.6) for name in ("median", "iqm", "mean", "optimality_gap")}
    return {"late": each, "full": each}


def comparison() -> Any:
    from decouple.studies.separation.recommendation import compare

    return compare(SCORES, "late", "full", repetitions=20)


def profile() -> Any:
    from decouple.analysis.statistics import Profile

    return Profile([0.0, 1.0], [1.0, 0.5], [0.9, 0.4], [1.0, 0.6])


@functools.cache
def paper() -> Any:
    from decouple.studies.actor_size.study import read_paper

    return read_paper()


@functools.cache
def searches() -> list[dict[str, Any]]:
    from decouple.studies.actor_size.search import smallest_actor
    from decouple.studies.actor_size.study import search_record

    found = smallest_actor(returns, baseline=(4, 4), sizes=[(1, 1), (4, 4)])
    record = json.loads(json.dumps(search_record(found, {(1, 1): 8, (4, 4): 41}, 60.0)))
    own = {"task": "pendulum", "algorithm": "td3", "state": "done", "options": {"seeds": 2}, "settings": SETTINGS}
    own |= {"version": "0.2.0", "updated": 0.0}
    return [{**own, "result": record}]


def rows() -> list[dict[str, Any]]:
    from decouple.studies.actor_size.study import table_rows

    return table_rows(searches(), paper())


def run_folder() -> Path:
    """A folder with the metrics of a run."""
    path = folder()
    (path / "metrics.csv").write_text("frames,train/episode_return\n10,1.5\n20,2.5\n")
    return path


def png() -> Path:
    from decouple.runs.curves import plot_curves

    return plot_curves(run_folder())


def figure() -> Any:
    from matplotlib.figure import Figure

    return Figure()


def checkpoint() -> Path:
    from decouple.runs.checkpoint import save_checkpoint

    path = folder() / "checkpoint.pt"
    save_checkpoint(path, {"settings": {"a": 1}, "frames": 10})
    (path.parent / "metrics.csv").write_text("frames\n10\n")
    return path


def store() -> Any:
    from decouple.studies.actor_size.store import CellStore

    return CellStore(folder() / "cells.sqlite")


def store_cell() -> Any:
    from decouple.studies.actor_size.store import Cell

    return Cell("pendulum", "td3", "{}", (4,), (4,))


def cell_file() -> Path:
    from decouple.studies.actor_size.cell_files import save_cells

    (path,) = save_cells(size_study()[1], folder())
    return path


def claimed() -> tuple[Any, Any]:
    of = store()
    return of, of.claim(store_cell(), [0, 1], "folder")


def tracker() -> Any:
    from decouple.runs.tracking import Tracker

    return Tracker(folder(), {"a": 1}, total_frames=100, progress=False)


def write_text(name: str, text: str) -> Path:
    path = folder() / name
    path.write_text(text)
    return path


def features_of(at: int) -> tuple[Any, Any]:
    own = model(at=at)
    data = own.get_features()(TensorDict({"observation": torch.randn(5, 3)}, [5]))
    loss = own.get_policy_head().get_dist(data).logits.square().mean() + own.get_value_head()(data)["state_value"].sum()
    return loss, data


def finished_run() -> Path:
    from decouple.studies.actor_size.cell import train_agents

    config = control(run_dir=str(folder()))
    train_agents(config)
    return Path(config.run_dir)


finished_run = functools.cache(finished_run)

STOPPING = {"needed": -165.0, "most": -145.0, "total": 100, "after": 0.6}
LATENCY_ROWS = "task,algorithm,settings,actor,runtime,batch,median_us,p99_us,calls,measured_utc,platform\n"


def streams(number: int = 2) -> Any:
    from decouple.envs.games.streams import Streams

    return Streams(torch.arange(number))


def stream() -> Any:
    from decouple.envs.games.streams import Stream

    return Stream(0)


@functools.cache
def pendulum_task() -> Any:
    from decouple.envs.control.catalogue import find_task

    return find_task("pendulum")


def gram(seed: int = 0) -> torch.Tensor:
    features = torch.randn(24, 3, generator=torch.Generator().manual_seed(seed)).double()
    return (features - features.mean(0)) @ (features - features.mean(0)).T


def distance(seed: int = 0) -> torch.Tensor:
    features = torch.randn(24, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cdist(features, features).double()


PART = torch.arange(24) % 3
LABEL = torch.arange(24) % 2


def head(out: list[str]) -> TensorDictModule:
    return TensorDictModule(nn.Linear(4, 1), ["policy_hidden"], out)


def box_space() -> Any:
    from decouple.networks.heads import action_space

    return action_space(BOX)


def linears() -> list[nn.Linear]:
    from decouple.networks.stacking import StackedLinear

    return [StackedLinear([nn.Linear(3, 4), nn.Linear(3, 4)])]  # pyright: ignore


def phase() -> Any:
    from decouple.on_policy.algorithms.ppo import ppo_phases

    return ppo_phases(model(), on_policy())[0]


def flat() -> Any:
    from decouple.off_policy.flat_adam import FlatParameters

    return FlatParameters(nn.Linear(2, 2).parameters())


def probabilistic() -> Any:
    return model().get_policy_head()


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    # networks
    "actor_value": lambda: {"network": network(), "action_spec": DISCRETE},
    "ActorValue.get_features": lambda: {"self": model()},
    "actor_qvalue": lambda: {"network": q_network(), "action_spec": BOX},
    "impala_blocks": lambda: {"observation_shape": (3, 8, 8), "channels": (8,), "hidden_size": 4},
    "mlp_blocks": lambda: {"in_features": 3, "hidden_sizes": [4]},
    "nature_blocks": lambda: {"observation_shape": (1, 36, 36), "hidden_size": 4},
    "multiply_adds": lambda: {"network": network()},
    "Gates": lambda: {"count": 2},
    "gated": lambda: {"policy_blocks": blocks(), "value_blocks": blocks()},
    "chosen_separation": lambda: {"gates": [0.9, 0.1]},
    "parameter_count": lambda: {"network": network()},
    "SeedSampler": lambda: {"module": probabilistic()[-1], "noise": noise()},
    "integrated_entropy": lambda: {"head": probabilistic()},
    "check_fit": lambda: {
        "network": network(),
        "policy_blocks": blocks(),
        "value_blocks": blocks(),
        "example": torch.zeros(3),
    },
    "RecurrentBlock": lambda: {"kind": "gru", "in_features": 3, "hidden_size": 2},
    **dict.fromkeys(["gru_block", "lstm_block"], lambda: {"in_features": 3, "hidden_size": 2}),
    "any_batch": lambda: {"module": nn.Linear(3, 2), "features": 1},
    "AnyBatch": lambda: {"module": nn.Linear(3, 2), "features": 1},
    "example_inputs": lambda: {"network": network(), "example": torch.zeros(3)},
    "FlatAdam": lambda: {"groups": [flat()], "learning_rate": 1e-3},
    "FlatParameters": lambda: {"parameters": list(nn.Linear(2, 2).parameters())},
    "FusedMLP": lambda: {"layers": linears(), "activations": ["relu"]},
    "Head": lambda: {"in_features": 3, "out_features": 2, "gain": 1.0},
    "ActionUnit": lambda: {"space": box_space()},
    "action_space": lambda: {"spec": BOX},
    "bounded_space": lambda: {"spec": BOX, "kind": "SAC"},
    "unbounded": lambda: {"size": 2},
    "deterministic_head": lambda: {"size": 4, "spec": BOX, "gain": 1.0},
    "stochastic_head": lambda: {"size": 4, "spec": BOX, "gain": 1.0},
    "AdvantageHead": lambda: {"hidden_size": 4, "num_actions": 2},
    "AdvantageLoss": lambda: {"advantage_network": head(["action_advantage"])},
    "OrderClassifier": lambda: {"hidden_size": 4},
    "OrderClassifierLoss": lambda: {"classifier_network": head(["order_logits"])},
    "OrderLoss": lambda: {"classifier_network": head(["order_logits"])},
    "ValueLoss": lambda: {"value_network": head(["state_value"])},
    "SeedNoise": lambda: {"seeds": [0, 1]},
    "splitmix64": lambda: {"state": 0},
    "StackedBlock": lambda: {"blocks": [nn.LayerNorm(4), nn.LayerNorm(4)]},
    "PictureView": lambda: {"first": 0, "shape": (4, 5, 3), "axes": (2, 0, 1)},
    "Fuse": lambda: {"pictures": [nn.Flatten(-3)], "numbers": [(0, 1)]},
    "StackedLinear": lambda: {"layers": [nn.Linear(3, 4), nn.Linear(3, 4)]},
    "StackedNormalScale": lambda: {"modules": [AddStateIndependentNormalScale(2) for _ in range(2)]},
    "stack": lambda: {"models": [network(), network()]},
    "unstack": lambda: {"stacked": stacked(), "models": [model(), model()]},
    "cut_gradients": lambda: dict(zip(("loss", "features"), features_of(1), strict=True)),
    "scale_gradient": lambda: {"x": torch.zeros(3), "scale": 0.5},
    "separate": lambda: {"policy_blocks": blocks(), "value_blocks": blocks(), "at": 1},
    "separation_index": lambda: {"at": 1, "depth": 4},
    "shared_depth": lambda: {"recurrent": "gru", "recurrent_in": "both"},
    # training
    "check_seeds": lambda: {"seeds": [0, 1]},
    "RolloutCollector": lambda: {"env": flat_env(), "model": procgen_model(), "steps": 2},
    "RolloutCollector.shutdown": lambda: {"self": _collector(), "close_env": False},
    "discounted_returns": lambda: {
        "reward": torch.zeros(3, 2, 1),
        "bonus": torch.zeros(3, 2, 1),
        "last": torch.zeros(2, 1),
        "lengths": torch.full((2, 1), 3),
        "gamma": 0.9,
    },
    "value_bias": lambda: {"env": toy_env(), "learner": learner(), "noise": noise(1)},
    "episode_returns": lambda: {"env": toy_env(), "policy": toy_q().get_policy_operator()},
    "evaluate": lambda: (
        {
            "policy": procgen_model().get_policy_operator(),
            "make_envs": {"test": lambda number, seed: toy_env()},
            "episodes": 2,
            "seed": 0,
        }
        | {"policy": toy_q().get_policy_operator()}
    ),
    "Learner": lambda: {"models": [q_model()], "settings": sac()},
    "CompiledLearner": lambda: {"models": [q_model()], "settings": sac()},
    "off_policy.compiled_learner.not_compiled": lambda: {"models": [q_model()]},
    "make_learner": lambda: {"models": [q_model()], "settings": sac()},
    "GreedyPolicy": lambda: {"learner": learner()},
    "replay_for": lambda: {"env": toy_env(), "learner": learner()},
    "train_off_policy": lambda: {"env": toy_env(), "learner": learner(), "seeds": [0], "log": ignore},
    "DDPGSettings": dict,
    "OffPolicySettings": dict,
    "SACSettings": dict,
    "TD3Settings": dict,
    "DDPGSettings.check_model": lambda: {"self": _ddpg(), "model": _ddpg_model()},
    "TD3Settings.check_model": lambda: {"self": _td3(), "model": _td3_model()},
    "OffPolicySettings.check_model": lambda: {"self": _base(), "model": q_model()},
    "SACSettings.check_model": lambda: {"self": sac(), "model": q_model()},
    "SACSettings.entropy_target": lambda: {"self": sac(), "space": q_model().action_space},
    "OnPolicySettings": dict,
    "AuxiliaryValueLoss": lambda: {"value_network": head(["auxiliary_value"])},
    "Before": lambda: {"model": model()},
    "CloneLoss": lambda: {"policy_head": model().get_policy_head()},
    "checkpoint_digest": lambda: {"path": checkpoint()},
    "daac_phases": lambda: {"model": model(), "settings": on_policy(algorithm="daac")},
    "dcpg_phases": lambda: {"model": model(), "settings": on_policy(algorithm="dcpg")},
    "ddcpg_phases": lambda: {"model": model(), "settings": on_policy(algorithm="ddcpg")},
    "DynamicsDiscriminator": lambda: {"hidden_size": 4, "num_actions": 3},
    "DynamicsLoss": lambda: {"discriminator_network": head(["dynamics_logit"])},
    "OtherRows": lambda: {"keys": ["observation"]},
    "Transitions": lambda: {"rollout_steps": 8},
    "PriceLoss": lambda: {"gates": gates(), "price": 0.1},
    "learn_gates": lambda: {"model": model(), "phases": [phase()], "settings": on_policy()},
    "dna_phases": lambda: {"model": model(), "settings": on_policy(algorithm="dna")},
    "idaac_phases": lambda: {"model": model(), "settings": on_policy(algorithm="idaac")},
    "ppg_phases": lambda: {"model": model(), "settings": on_policy(algorithm="ppg")},
    "ppo_phases": lambda: {"model": model(), "settings": on_policy()},
    "CompiledAgents": lambda: {"model": stacked()},
    "CompiledPhase": lambda: {"model": stacked(), "settings": on_policy()},
    "not_known": lambda: {"model": stacked()},
    "compiled_daac_phases": lambda: {"model": stacked(), "settings": on_policy(algorithm="daac"), "seeds": [0, 1]},
    "compiled_idaac_phases": lambda: {"model": stacked(), "settings": on_policy(algorithm="idaac"), "seeds": [0, 1]},
    "on_policy.compiled_phase.not_compiled": lambda: {"model": stacked(), "settings": on_policy()},
    "perceptron_layers": lambda: {"module": nn.Sequential(*blocks()), "part": "policy"},
    "train_on_policy": lambda: _train_on_policy(),
    "Captured": lambda: {"function": ignore, "device": None},
    "Tracking": dict,
    "Performance": dict,
    "Performance.prepare": lambda: {"self": _performance(), "model": model()},
    "Performance.prepare_optimizer": lambda: {"self": _performance(), "optimizer": phase().optimizer},
    "choose_performance": dict,
    "fast_bf16": lambda: {"device": "cpu"},
    "processor_kind": lambda: {},
    "Phase": lambda: {"loss": phase().loss, "optimizer": phase().optimizer, "features": model().get_features()},
    "Phase.capture": lambda: {"self": phase(), "on": False},
    "PlainActor": lambda: {"model": model()},
    "PlainActor.random_inputs": lambda: {"self": _plain(), "batch": 2},
    "RunProgress": lambda: {"total": 10, "initial": 0},
    "Replay": lambda: {"capacity": 4, "widths": _widths(), "space": box_space(), "seeds": 1},
    "seed_globals": lambda: {"seed": 0},
    "SeededPolicy": lambda: {"model": stacked(), "noise": noise()},
    "kind_of_agents": lambda: {"model": model()},
    "Phase.prepare_for": lambda: {"self": phase(), "how": _performance()},
    "seed_count": lambda: {"model": model()},
    "TorchRLLearner": lambda: {"model": q_model(), "settings": sac()},
    "TRPOPhase": lambda: {"model": model()},
    "TRPOSettings": dict,
    "trpo_phases": lambda: {"model": model(), "settings": _trpo()},
    # files and stores
    "Cell": lambda: {
        "task": "pendulum",
        "algorithm": "td3",
        "settings": "{}",
        "actor": (4,),
        "critic": (4,),
    },
    "CellStore": lambda: {"path": folder() / "cells.sqlite"},
    "CellStore.add": lambda: {
        **{"self": store(), "cell": store_cell(), "returns": {0: 1.0, 1: None}},
        **{"seconds": 1.0, "version": None},
    },
    "CellStore.batches": lambda: {"self": store(), "cell": store_cell()},
    "CellStore.claim": lambda: {"self": store(), "cell": store_cell(), "seeds": [0], "folder": "folder"},
    "CellStore.finish": lambda: dict(zip(("self", "batch"), claimed(), strict=True)) | {"returns": {0: 1.0, 1: 2.0}},
    "CellStore.release": lambda: dict(zip(("self", "batch"), claimed(), strict=True)),
    "CellStore.renew": lambda: dict(zip(("self", "batch"), claimed(), strict=True)),
    "CellStore.returns": lambda: {"self": store(), "cell": store_cell()},
    "Processes": dict,
    "cell_of": lambda: {"config": control()},
    "frames_done": lambda: {"run_dir": run_folder()},
    "train_cells": lambda: {
        "configs": [control(run_dir=str(folder()))],
        "store": store(),
        "train": lambda config, go_on: {"final/return": 1.0, "final/return/seed0": 1.0},
    },
    "frames_to_resume": lambda: {
        "run_dir": checkpoint().parent,
        "expect": {"a": 1},
        "total_frames": 20,
        "frames_per_iteration": 10,
    },
    "checkpoint_exists": lambda: {"path": checkpoint()},
    "load_checkpoint": lambda: {"path": checkpoint()},
    "run_checkpoint": lambda: {"given": checkpoint()},
    "evaluated_over": lambda: {"run_dir": finished_run(), "episodes": 1},
    "last_session_ended": lambda: {"run_dir": finished_run()},
    "price_folder": lambda: {"run_dir": folder(), "price": 0.1},
    "ProcgenExperiment": dict,
    "Report": lambda: {"runs": "x"},
    "Representation": lambda: {"checkpoint": "x"},
    "Export": lambda: {"checkpoint": "x"},
    "Compare": lambda: {"runs": ["x"]},
    "Watch": lambda: {"checkpoint": "x"},
    "SearchSettings": dict,
    "DistillationSettings": lambda: {"checkpoint": "x", "actor": [4]},
    "DistillationLearning": dict,
    "LabelledBuffer": lambda: {"seeds": 1, "frames": 4},
    "policy_head": lambda: {"model": model()},
    "smallest_student": lambda: {"evaluate": lambda size: [1.0], "teacher": [1.0], "of_size": [4]},
    "TaskStudy": dict,
    "WorkerSettings": dict,
    "SizeReport": dict,
    "drawn_blocks": lambda: {"model": model()},
    "network_figure": lambda: {"models": {"one": model()}},
    "KeptCell": lambda: {"cell": store_cell(), "measures": {"return": {0: 1.0}}},
    "save_cells": lambda: {"store": size_study()[1], "folder": folder()},
    "read_cell_file": lambda: {"path": cell_file()},
    "load_cells": lambda: {"store": store(), "folder": cell_file().parent},
    "unit_use": lambda: {"run_dir": finished_run(), "steps": 2, "states": 20},
    "study_units": lambda: {"studies": [size_study()[0]], "path": folder() / "units.csv"},
    "ToyStudy": dict,
    "reading_checkpoint": lambda: {"path": checkpoint(), "what": "agents"},
    "save_checkpoint": lambda: {"path": folder() / "pt", "state": {"settings": {"a": 1}}},
    "plot_curves": lambda: {"run_dir": run_folder()},
    "save_figure": lambda: {"figure": figure(), "path": folder() / "figure.png", "dpi": 10},
    "MetricsTable": lambda: {"path": folder() / "csv", "resume_frames": None},
    "column_numbers": lambda: {"path": run_folder() / "csv", "column": "frames", "cells": ["10", "20"]},
    "read_result": lambda: {"path": write_text("result.json", '{"frames": 10}')},
    "read_yaml": lambda: {"path": write_text("config.yaml", "a: 1")},
    "check_run_files": lambda: {"run_dir": run_folder()},
    "naming_file": lambda: {"path": "file"},
    "rows_up_to": lambda: {"path": run_folder() / "metrics.csv", "frames": 10},
    "table_sum": lambda: {"columns": ["frames"], "rows": [["10"]]},
    "folders_below": lambda: {"folder": Path()},
    "named_places": lambda: {"text": "runs"},
    "csv_rows": lambda: {"path": write_text("rows.csv", "a,b\n1,2\n")},
    "csv_lines": lambda: {"rows": [["a", "b"]]},
    "markdown_lines": lambda: {"rows": [["a", "b"]]},
    "file_text": lambda: {"path": folder() / "file", "content": b"x"},
    "json_bytes": lambda: {"record": {"frames": 1000}},
    "read_json": lambda: {"path": write_text("result.json", "{}")},
    "read_metrics": lambda: {"run_dir": run_folder()},
    "read_table": lambda: {"path": run_folder() / "metrics.csv"},
    "replace_file": lambda: {"path": folder() / "file", "content": b"x"},
    "Tracker": lambda: {"run_dir": folder(), "config": {"a": 1}, "total_frames": 10, "progress": False},
    "Tracker.log": lambda: {"self": tracker(), "metrics": {"loss": 1.0}, "frames": 10},
    "Tracker.summarise": lambda: {"self": tracker(), "result": {"final/return": 1.0}},
    # the actor-size study
    "ControlSettings": dict,
    "control_identity": lambda: {"config": control(), "leave_out": ["seed"]},
    "initial_agents": lambda: {"config": control()},
    "final_returns": lambda: {"config": control(), "agents": initial()},
    "run_result": lambda: {"config": control(run_dir=str(folder()))},
    "identity_of": lambda: {
        "settings": control(),
        "always": ["env"],
        "leave_out": ["seed"],
        "unit_actions": lambda: True,
    },
    "outdated": lambda: {"rules": {}, "settings": {"env": "toy"}, "unit_actions": lambda: True},
    "rule_text": lambda: {"name": "pong", "there": 1, "here": 2},
    "rules_of": lambda: {"settings": {"env": "toy"}, "unit_actions": lambda: True},
    "written_by": lambda: {"version": "0.2.0"},
    "done_result": lambda: {"config": control(run_dir=str(folder()))},
    "FileLock": lambda: {"path": folder() / ".lock"},
    "lock_folder": lambda: {"folder": folder()},
    "turn": lambda: {"path": folder() / ".lock"},
    "defaults_of": lambda: {"settings": control()},
    "flat": lambda: {"settings": control()},
    "changed": lambda: {"settings": control()},
    "algorithm_of": lambda: {"config": control()},
    "seeded_model": lambda: {"config": control(), "env": toy_env(), "seed": 0},
    "action_value_model": lambda: {"config": control(), "env": toy_env(), "deterministic": False, "twin": True},
    "state_value_model": lambda: {"config": control(), "env": toy_env()},
    "load_agents": lambda: {"run_dir": finished_run()},
    "actor_size.build.make_env": lambda: {"config": control(), "num_envs": 1, "seeds": [0]},
    "actor_size.algorithms.make_model": lambda: {"config": control(), "env": toy_env()},
    "make_small_env": lambda: {"config": control()},
    "sizes_name": lambda: {"sizes": [4, 4]},
    "train_agents": lambda: {"config": control(run_dir=str(finished_run()))},
    "actor_latency": lambda: {
        "model": model(),
        "runtimes": ["eager"],
        "batch_sizes": [1],
        "seconds": 0.001,
    },
    "export_actor": lambda: {"model": model(), "path": folder() / "actor.onnx"},
    "lower_bound": lambda: {"threshold": -150.0},
    "return_text": lambda: {"value": -150.0},
    "rounded_threshold": lambda: {"baseline": -151.0},
    "search_steps": lambda: {"baseline": [4]},
    "settings_key": lambda: {"settings": "{}"},
    "size_name": lambda: {"size": [4, 4]},
    "smallest_actor": lambda: {"evaluate": returns, "baseline": [4]},
    "t_interval": lambda: {"values": [1.0, 2.0]},
    # environments
    "control_env": lambda: {"name": "pendulum", "seeds": [0], "backend": "batched"},
    "BatchedGames": lambda: {"task": pendulum_task(), "number": 1},
    "Forage": lambda: {"life": "shown", "size": 5},
    "ForageGame": lambda: {"life": "shown", "size": 5},
    "control.envpool_games.EnvpoolGames": lambda: {"task": pendulum_task(), "number": 1},
    "GymnasiumGames": lambda: {"task": pendulum_task(), "number": 1},
    "make_games": lambda: {"task": pendulum_task(), "agents": 1, "each": 1},
    "gymnasium_games": lambda: {"task": pendulum_task(), "number": 1},
    "FoodCollector": lambda: {"stream": stream()},
    "FoodCollectorGames": lambda: {"streams": streams(5)},
    "games_env": lambda: {"name": "pong", "seeds": [0]},
    "GameEnv": lambda: {"name": "Pong"},
    "Pixelcopter": lambda: {"stream": stream()},
    "PixelcopterGames": lambda: {"streams": streams()},
    "Pong": lambda: {"stream": stream()},
    "PongGames": lambda: {"streams": streams()},
    "ProcgenGamesEnv": lambda: {"game": "coinrun", "num_envs": 1, "num_threads": 1},
    "distribution_modes": lambda: {"game": "coinrun"},
    "find_task": lambda: {"name": "pendulum"},
    "help_text": lambda: {"command": "control"},
    "is_outside_name": lambda: {"name": "CartPole-v1"},
    "level_options": lambda: {"game": "coinrun", "distribution_mode": "hard", "num_levels": 200, "start_level": 5},
    "procgen_env": lambda: {"game": "coinrun", "num_envs": 1},
    "first_frames": lambda: {"game": "coinrun", "num_envs": 1},
    "training_fingerprints": lambda: {"game": "coinrun", "num_levels": 1},
    "unseen_episodes": lambda: {"game": "coinrun", "num_envs": 1, "seed": 0, "seen": []},
    "RunningRewardScaling": dict,
    "RunningMoments": lambda: {"num_seeds": 1, "size": (2,)},
    "Stream": lambda: {"seed": 0},
    "Streams": lambda: {"seeds": torch.arange(2)},
    "stream_seed": lambda: {"seed": 0, "index": 0},
    "goal_tracking_env": lambda: {"seeds": [0]},
    "unity_env": lambda: {"file_name": "missing", "seeds": [0]},
    "AgentActions": lambda: {"continuous": 3, "branches": (2,)},
    "Turn": lambda: {"agents": [0, 1], "size": 3},
    "observation_size": lambda: {"shapes": [("a", (3,))]},
    # analysis and reports
    "record_episodes": lambda: {
        "env": flat_env(),
        "policy": procgen_model().get_policy_operator(),
        "frames": 2,
        "gamma": 0.9,
    },
    "block_outputs": lambda: {"model": model(), "observation": torch.randn(5, 3)},
    "centred_gram": lambda: {"features": torch.randn(6, 3)},
    "deal_episodes": lambda: {
        "episode": torch.arange(16) // 2,
        "level": torch.arange(16) // 8,
    },
    "distances": lambda: {"features": torch.randn(6, 3)},
    "dormant_share": lambda: {"features": torch.randn(6, 3)},
    "effective_rank": lambda: {"gram": gram()},
    "information_about_labels": lambda: {"distance": distance(), "label": LABEL},
    "linear_cka": lambda: {"a": gram(), "b": gram(1)},
    "linear_probes": lambda: {"gram": gram(), "part": PART, "targets": {"level": LABEL}},
    "mutual_information": lambda: {"a": distance(), "b": distance(1)},
    "perturbation_saliency": lambda: {
        "score": lambda frames: frames.double().mean((1, 2, 3)).unsqueeze(-1),
        "frame": torch.rand(3, 8, 8),
    },
    "aggregate_metrics": lambda: {"runs": SCORES["late"], "repetitions": 20},
    "exchange_p_value": lambda: {"x": SCORES["late"], "y": SCORES["full"]},
    "normalise_by_range": lambda: {"scores": SCORES, "ranges": {"maze": (5, 10), "plunder": (4, 30)}},
    "normalise_by_reference": lambda: {"scores": SCORES, "reference": "full"},
    "pareto_front": lambda: {"cost": [10, 20], "value": [1.0, 3.0]},
    "seeds_needed": lambda: {"difference": 1.0, "std": 1.0},
    "performance_profile": lambda: {"runs": SCORES["late"], "thresholds": [0.0, 5.0], "repetitions": 20},
    "probability_best": lambda: {"scores": SCORES, "repetitions": 20},
    "probability_of_improvement": lambda: {"x": SCORES["late"], "y": SCORES["full"], "repetitions": 20},
    "write_page": lambda: {"path": folder() / "html", "title": "Title", "sections": [_section()]},
    "compare": lambda: {"scores": SCORES, "x": "late", "y": "full", "repetitions": 20},
    "recommend": lambda: {"scores": SCORES, "aggregates": estimates(), "repetitions": 20},
    "draw_measures": lambda: {
        "path": folder() / "a.png",
        "sets": {"train": [{"block": "trunk 1", "rank": 2.0}], "test": [{"block": "trunk 1", "rank": 1.0}]},
        "measures": {"rank": "rank"},
    },
    "draw_saliency": lambda: {
        "path": folder() / "a.png",
        "frames": torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        "maps": {"policy": torch.rand(1, 8, 8)},
        "titles": ["one"],
    },
    "draw_similarity": lambda: {
        "path": folder() / "a.png",
        "panels": {"train": (["a"], ["b"], [[0.5]])},
    },
    "aggregate_figure": lambda: {"aggregates": estimates(), "unit": "scores"},
    "comparison_figure": lambda: {"comparisons": [comparison()]},
    "curve_figure": lambda: {"study": study(), "metric": "test_return"},
    "mean_over_seeds": lambda: {"curves": [{10: 1.0, 20: 2.0}]},
    "profile_figure": lambda: {"profiles": {"late": profile()}, "unit": "scores"},
    "Run.final": lambda: {"self": _run(), "metric": "test_return"},
    "Run.curve": lambda: {"self": _run(), "metric": "eval/test_return"},
    "Study.finished": lambda: {"self": study(), "variant": "late", "game": "maze"},
    "Study.best_run": lambda: {"self": study(), "variant": "late", "game": "maze"},
    "Study.scores": lambda: {"self": study()},
    "Study.has": lambda: {"self": study(), "metric": "test_return"},
    "Study.runs_of": lambda: {"self": study(), "variant": "late"},
    "Study.cost": lambda: {"self": study(), "variant": "late"},
    "find_runs": lambda: {"where": _run().folder},
    "read_run": lambda: {"folder": _run().folder},
    "platforms": lambda: {"path": _run().folder / "record.json"},
    "last_session": lambda: {"path": _run().folder / "record.json"},
    "read_study": lambda: {"folders": [_run().folder]},
    "aggregate_table": lambda: {"aggregates": estimates(), "name": "a", "divided_by": "PPO's"},
    "comparison_table": lambda: {"comparisons": [comparison()], "name": "a", "caption": "b"},
    "cost_table": lambda: {"study": study()},
    "curve_table": lambda: {"study": study()},
    "generalisation_table": lambda: {"study": study()},
    "profile_table": lambda: {"profiles": {"late": profile()}},
    "read_published": lambda: {"path": STUDIES / "separation" / "published" / "scores.csv"},
    "run_table": lambda: {"study": study()},
    "score_table": lambda: {"study": study(), "published": _published()},
    "setting_table": lambda: {"study": study()},
    "SizeCell.values": lambda: {"self": size_study()[0].cells[0], "measure": "return"},
    "SizeCell.mean": lambda: {"self": size_study()[0].cells[0], "measure": "return"},
    "SizeCell.curve": lambda: {"self": size_study()[0].cells[0], "metric": "loss/critic"},
    "SizeStudy.beside": lambda: {"self": size_study()[0], "critic": (4, 4)},
    "cells_csv": lambda: {"studies": [size_study()[0]]},
    "cells_markdown": lambda: {"study": size_study()[0]},
    "answer_of": lambda: {"study": study(), "repetitions": 20},
    "depth_of": lambda: {"settings": control()},
    "seed_column": lambda: {"metric": "final/return", "seed": 1, "seeds": (0, 1)},
    "last_tenth": lambda: {"frames": [1.0, 2.0], "values": [3.0, 4.0]},
    "read_studies": lambda: {"store": size_study()[1]},
    "size_order": lambda: {"size": (4, 4)},
    "training_maxima": lambda: {"store": size_study()[1], "cell": size_cell(), "seeds": [0]},
    "diagnosis_figure": lambda: {"study": size_study()[0]},
    "pareto_figure": lambda: {"study": size_study()[0], "latency": []},
    "sizes_figure": lambda: {"study": size_study()[0]},
    "training_figure": lambda: {"study": size_study()[0]},
    "read_latency": lambda: {"path": write_text("csv", LATENCY_ROWS)},
    "study_latency": lambda: {"studies": [size_study()[0]], "path": folder() / "latency.csv"},
    "hopeless": lambda: {"frames": [50, 100], "returns": np.zeros((2, 2)), **STOPPING},
    "stopped_at": lambda: {"run_dir": folder(), "seeds": [0, 1], **STOPPING},
    "csv_cell": lambda: {"value": (4, 4)},
    "csv_size": lambda: {"text": "4,4"},
    "csv_table": lambda: {"rows": rows()},
    "markdown_table": lambda: {"rows": rows()},
    "read_paper": lambda: {"path": STUDIES / "actor_size" / "published" / "table_1.csv"},
    "read_paper_parameters": lambda: {"path": STUDIES / "actor_size" / "published" / "table_a2.csv"},
    "old_rules": lambda: {"task": "toy", "algorithm": "td3", "settings": SETTINGS, "version": None},
    "old_searches": lambda: {"searches": searches()},
    "reduction_percent": lambda: {"small": 41, "large": 353},
    "relative_return": lambda: {"row": rows()[0], "which": "baseline"},
    "relative_sizes": lambda: {"row": rows()[0], "parameters": {(4, 4): 41}},
    "search_record": lambda: {"found": _found(), "parameters": {(4, 4): 41}},
    "spread_text": lambda: {"spread": 1.5},
    "table_rows": lambda: {"searches": searches(), "paper": paper()},
    "table_texts": lambda: {"rows": rows()},
    "relative_figure": lambda: {"rows": rows()[:4], "parameters": _paper_parameters()},
    "table_figure": lambda: {"rows": rows()[:4]},
}


def _ddpg() -> Any:
    from decouple.off_policy.settings import DDPGSettings

    return DDPGSettings()


def _td3() -> Any:
    from decouple.off_policy.settings import TD3Settings

    return TD3Settings()


def _base() -> Any:
    from decouple.off_policy.settings import OffPolicySettings

    return OffPolicySettings()


def _ddpg_model() -> Any:
    from decouple.networks.actor_qvalue import actor_qvalue

    return actor_qvalue(q_network(), BOX, deterministic=True)


def _td3_model() -> Any:
    from decouple.networks.actor_qvalue import actor_qvalue
    from decouple.networks.blocks import mlp_blocks

    return actor_qvalue(q_network(), BOX, twin_blocks=mlp_blocks(5, [4]), deterministic=True)


def _train_on_policy() -> dict[str, Any]:
    from decouple.on_policy.algorithms.ppo import ppo_phases

    own, settings = toy_model(), on_policy(total_frames=5)
    phases = ppo_phases(own, settings)
    return {"env": toy_env(), "model": own, "phases": phases, "settings": settings, "log": ignore, "seeds": [0]}


def _collector() -> Any:
    """A collector with an environment of its own, which it may close."""
    from decouple.on_policy.collector import RolloutCollector

    return RolloutCollector(flat_env.__wrapped__(), procgen_model(), 2)


def _performance() -> Any:
    from decouple.runs.performance import Performance

    return Performance()


def _plain() -> Any:
    from decouple.deploy.plain_actor import PlainActor

    return PlainActor(model())


def _scaling() -> Any:
    from decouple.deploy.plain_actor import ObservationScaling

    return ObservationScaling(0.0, 2.0)


def _widths() -> Any:
    from decouple.off_policy.replay import Widths

    return Widths(3, 2)


def _trpo() -> Any:
    from decouple.on_policy.algorithms.trpo import TRPOSettings

    return TRPOSettings()


def _section() -> Any:
    from decouple.studies.separation.page import HTMLTable, Picture, Section

    return Section("Title", ["text"], [HTMLTable("a", [["a"], ["b"]])], [Picture(png(), "c")])


def _run() -> Any:
    return study().runs["late", "maze"][0]


def _published() -> Any:
    from decouple.studies.separation.tables import read_published

    return read_published()


def _found() -> Any:
    from decouple.studies.actor_size.search import smallest_actor

    return smallest_actor(returns, baseline=(4, 4), sizes=[(4, 4)])


def _paper_parameters() -> Any:
    from decouple.studies.actor_size.study import read_paper_parameters

    return read_paper_parameters()


_ = dataclasses, np
