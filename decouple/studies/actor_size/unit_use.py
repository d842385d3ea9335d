"""How much of its width each network of a study's agents uses: dormant units and effective rank, on their own states.

    rows = unit_use("runs/one")                                         # a row per agent, network and hidden layer
    study_units(read_studies(store), "runs/smallest_actor/report/units.csv")    # of every cell, kept in a file

A small actor that fails may fail for lack of units, or because training has left those that it has unused. Dormant
units: Sokar et al. 2023 (https://arxiv.org/abs/2302.12902); effective rank: Roy and Vetterli 2007.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from decouple.analysis.representation import centred_gram, dormant_share, effective_rank
from decouple.checks import at_least, between, check_setting, checked
from decouple.networks.fitting import evaluating
from decouple.runs.checkpoint import CheckpointError, reading_checkpoint
from decouple.runs.files import csv_lines, csv_rows, replace_file
from decouple.runs.finished import run_checkpoint
from decouple.studies.actor_size.algorithms import algorithm_of, make_model
from decouple.studies.actor_size.build import make_env
from decouple.studies.actor_size.load import stored_settings
from decouple.studies.actor_size.results import SizeStudy
from decouple.studies.actor_size.settings import FINAL_SEED
from decouple.studies.actor_size.study import csv_cell

__all__ = ["study_units", "unit_use"]

ENVIRONMENTS = 10  # of each agent while its states are gathered; a multiple of Food Collector's five on a field
OF_CELL = ("task", "algorithm", "settings", "actor", "critic")
MEASURED = ("seed", "network", "layer", "units", "dormant", "effective_rank")
NETWORKS = ("trunk", "policy", "value", "twin")


@checked(run_dir=None, steps=at_least(1), states=at_least(2), tau=between(0, 1))
def unit_use(
    run_dir: str | os.PathLike[str], *, steps: int = 200, states: int = 500, tau: float = 0.025
) -> list[dict[str, Any]]:
    """Dormant units and effective rank of each hidden layer of a run's agents, on states of their own play.

    The agents play ten games each without exploration, `steps` steps long; of these states, `states` spread evenly over
    games and steps are looked at.

    Args:
        run_dir: folder of a finished run of `train_agents`.
        steps: steps of each game.
        states: number of states, at most `10 * steps`.
        tau: threshold of a dormant unit, as `dormant_share` has it.

    Returns:
        Rows of `MEASURED`, of the agents that have not failed: the seed; the network (`trunk`, `policy`, `value`, or
        `twin`, the second critic); the layer, from 1, a branch continuing the count of the trunk; its units; the share
        of dormant ones; and the effective rank, in directions, 0 where the layer is constant.

    Raises:
        FileNotFoundError: no checkpoint in `run_dir`, which may be the checkpoint's own path.
        CheckpointError: it is damaged, or of another experiment.
        ValueError: more states than there are, or recurrent networks.
    """
    check_setting(
        "states",
        states,
        lambda n: n <= ENVIRONMENTS * steps,
        f"at most {ENVIRONMENTS} times steps, {ENVIRONMENTS * steps}",
    )
    path, state = run_checkpoint(run_dir, "run_dir")
    with reading_checkpoint(path, "agents of train_agents"):
        config = stored_settings(state["settings"])
    check_setting("run_dir", config.recurrent, lambda kind: kind is None, "of a run without recurrent layers")
    rows = []
    with contextlib.closing(make_env(config, config.num_envs, config.all_seeds)) as trained:
        agents = algorithm_of(config).make_agents(config, [make_model(config, trained) for _ in config.all_seeds])
        agents.load(state)
        trained.load_state_dict(state["env"])  # with the statistics that scale the observations
        observations = _states(config, agents, trained, steps, states)  # (S, states, ...)
    for seed, model, observation in zip(config.all_seeds, agents.models(), observations, strict=True):
        if str(seed) in state.get("failed", {}):
            continue
        for network, layer, features in hidden_layers(model, observation):
            rank = effective_rank(centred_gram(features))
            measured = dormant_share(features, tau), 0.0 if math.isnan(rank) else rank
            found = (seed, network, layer, features.shape[1], *measured)
            rows.append(dict(zip(MEASURED, found, strict=True)))
    return rows


@checked(path=None)
def study_units(
    studies: Sequence[SizeStudy],
    path: str | os.PathLike[str],
    *,
    left_out: Callable[[str], object] = lambda text: None,
) -> list[dict[str, str]]:
    """Measure the seeds that the file lacks by `unit_use`, and add them to it after each cell.

    Args:
        studies: studies whose cells are measured; one without a checkpoint is left out, and so are failed seeds.
        path: the CSV file, made where it is missing.
        left_out: function called with the error of each checkpoint that is damaged or cannot be measured.

    Returns:
        All rows of the file, as text: task, algorithm, the settings' key, actor, critic, and the names of `unit_use`.

    Raises:
        ValueError: a file that is no such table; it names the file.
    """
    path = Path(path)
    names = [*OF_CELL, *MEASURED]
    rows = csv_rows(path, *names) if path.exists() else []
    for study in studies:
        for cell in study.cells:
            head = [csv_cell(v) for v in (study.task, study.algorithm, study.key, cell.actor, cell.critic)]
            known = {row["seed"] for row in rows if [row[name] for name in OF_CELL] == head}
            if not cell.folders or {str(seed) for seed in cell.measures["return"]} - {*map(str, cell.failed)} <= known:
                continue
            measured: list[dict[str, Any]] = []
            for folder in cell.folders:
                try:
                    measured += [row for row in unit_use(folder) if str(row["seed"]) not in known]
                except (CheckpointError, OSError, ValueError) as error:
                    left_out(f"{folder}: {error}" if str(folder) not in str(error) else str(error))
            rows += [
                dict(zip(OF_CELL, head, strict=True)) | {name: csv_cell(value) for name, value in row.items()}
                for row in measured
            ]
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, csv_lines([names, *([row[name] for name in names] for row in rows)]))
    return rows


def hidden_layers(model: Any, observation: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Network, layer and output (N, units) of each hidden layer of a model, on observations (N, ...)."""
    found: list[tuple[str, int, Tensor]] = []

    def keeps(network: str, layer: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: found.append((network, layer, output))

    with contextlib.ExitStack() as hooks:
        for network in NETWORKS:
            part = getattr(model.module, network, None)
            first = 1 if network == "trunk" else model.at + 1
            for layer, block in enumerate(part.module if part is not None else (), start=first):
                hooks.callback(block.register_forward_hook(keeps(network, layer)).remove)
        hooks.enter_context(torch.no_grad())
        hooks.enter_context(evaluating(model))
        hooks.enter_context(set_exploration_type(ExplorationType.DETERMINISTIC))
        model(TensorDict({"observation": observation}, [len(observation)]))
    yield from found


def _states(config: Any, agents: Any, like: Any, steps: int, states: int) -> Tensor:
    """Observations of the agents' play, (S, states, ...)."""
    seeds = [FINAL_SEED + seed for seed in config.all_seeds]
    with contextlib.closing(make_env(config, ENVIRONMENTS, seeds, like)) as env, torch.no_grad():
        played = env.rollout(steps, agents.policy, break_when_any_done=False)["observation"].flatten(1, 2)
    chosen = torch.linspace(0, played.shape[1] - 1, states).long()
    return played[:, chosen].cpu()
