"""An actor that ships: one agent of a run of either study as a file, checked, with its size and its latency.

    source, report, rows = export(Export(checkpoint="runs/procgen/as_written/starpilot/late/seed0", format="pt2"))

The run is one of experiments/control.py or procgen.py: its folder, or its checkpoint. The file holds the scaling of
observations, the actor and the bounds of actions, but no critic: see docs/export.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs import EnvBase

from decouple.checks import POSITIVE_WHOLE, all_of, at_least, check_fields, check_setting, one_of
from decouple.deploy.compiled_c import c_compiler
from decouple.deploy.export import A_WHILE, PRECISIONS, ExportReport, actor_latency, export_actor
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.envs.games.batched import GAMES, games_env
from decouple.runs.finished import frames_of, run_checkpoint
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.build import make_env
from decouple.studies.actor_size.load import trained_actor
from decouple.studies.separation.experiment import load_agent
from decouple.studies.separation.experiment import make_env as make_procgen_env

__all__ = ["Export", "Source", "export"]

FORMATS = ("onnx", "pt2", "c")


@dataclass
class Export:
    """Settings of an export, and of the check of its file."""

    checkpoint: str | None = None  # a run's folder, or its checkpoint.pt; must be given
    format: str = "onnx"  # onnx, pt2 (torch.export) or c (plain C)
    precision: str = "float32"  # float32, or int8 for c
    seed: int | None = None  # seed of the agent, in a run with several; None: the first
    sample: bool = False  # sample actions, with noise as a second input; else the distribution's mode
    output: str | None = None  # output file; None: actor_seed<seed>.<format> in the run's folder
    observations: int = 256  # observations recorded in the run's task for the check, beside 256 random ones
    # largest difference allowed, see ExportReport in decouple/deploy/export.py; None: 1e-4, and any in int8
    tolerance: float | None = None
    batch_sizes: list[int] = field(default_factory=lambda: [1, 64])  # batch sizes at which latency is measured
    seconds: float = 1.0  # seconds of calls that each latency is measured over

    def __post_init__(self) -> None:
        sizes = all_of(at_least(1), least=1)
        check_fields(self, seed=at_least(0), batch_sizes=sizes, seconds=A_WHILE, tolerance=at_least(0))
        check_setting("checkpoint", self.checkpoint, bool, "a run's folder, or its checkpoint")
        check_setting("format", self.format, FORMATS.__contains__, "onnx, pt2 or c")
        allowed = PRECISIONS if self.format == "c" else PRECISIONS[:1]
        check_setting("precision", self.precision, one_of(*allowed))
        check_setting("observations", self.observations, POSITIVE_WHOLE)


@dataclass
class Source:
    """One agent of a run, and the task that it was trained on."""

    model: Any  # model from actor_qvalue or actor_value
    scaling: ObservationScaling | None  # scaling of observations in training; None: there was none
    make_env: Callable[[], EnvBase]  # function that makes the task, with raw observations
    facts: dict[str, Any]  # facts for the file's metadata


def from_control(state: dict[str, Any], seed: int | None) -> Source:
    """An agent of experiments/control.py."""
    settings = state["settings"]
    seeds = range(settings["seed"], settings["seed"] + settings["seeds"])
    seed = seeds[0] if seed is None else seed
    check_setting("seed", seed, seeds.__contains__, f"one of the run's, {list(seeds)}")
    agent = seeds.index(seed)
    facts = {
        "task": settings["env"],
        "algorithm": settings["algorithm"],
        "actor": settings["actor"],
        "separation": settings["separation"],
        "seed": seed,
        "frames": frames_of(state),
    }
    return Source(*trained_actor(state, agent), lambda: raw_control_env(settings, seed), facts)


def raw_control_env(settings: dict[str, Any], seed: int) -> EnvBase:
    """The run's task, with raw observations."""
    if settings["env"] in GAMES:
        agents, skip = GAMES[settings["env"]].agents_per_game, settings["frame_skip"]
        return games_env(settings["env"], [seed], agents, frame_skip=skip, scale_observations=False)
    task = {name: settings[name] for name in ("env", "env_kwargs") if name in settings}
    return make_env(CONTROL_ALGORITHMS[settings["algorithm"]](**task), 1, [seed])


def from_procgen(state: dict[str, Any], seed: int | None) -> Source:
    """The agent of experiments/procgen.py."""
    settings = state["settings"]
    check_setting("seed", seed, (None, settings["seed"]).__contains__, f"the run's, {settings['seed']}")
    config, model, frames = load_agent(state)

    def games() -> EnvBase:
        return make_procgen_env(config, 4, config.seed, test=False, training=False)

    facts = {
        "task": f"procgen {config.env}, {config.distribution_mode}",
        "algorithm": config.learning.algorithm,
        "protocol": config.protocol,
        "separation": config.separation,
        "seed": config.seed,
        "frames": frames,
    }
    return Source(model, None, games, facts)


def record(env: EnvBase, actor: PlainActor, count: int) -> Tensor:
    """Observations (count, ...) that the actor meets in its task."""
    with contextlib.closing(env), torch.no_grad():
        policy = TensorDictModule(actor, ["observation"], ["action"])
        played = env.rollout(-(-count // env.batch_size.numel()), policy, break_when_any_done=False)
    return played["observation"].flatten(0, env.batch_dims)[:count]


def export(config: Export) -> tuple[Source, ExportReport, list[dict[str, Any]]]:
    """Write the file and check it; returns the agent exported, the report, and the rows of its latency."""
    path, state = run_checkpoint(str(config.checkpoint))
    settings = state.get("settings", {})
    kinds = {"actor": from_control, "protocol": from_procgen}  # keyed by a setting that only this kind of run has
    read = next((read for setting, read in kinds.items() if setting in settings), None)
    if read is None:
        raise ValueError(f"checkpoint must be of a run of experiments/control.py or procgen.py; got {path}")
    source = read(state, config.seed)
    options: dict[str, Any] = {"sample": config.sample, "observation_scaling": source.scaling}
    player = PlainActor(source.model, observation_scaling=source.scaling)
    report = export_actor(
        source.model,
        config.output or path.with_name(f"actor_seed{source.facts['seed']}.{config.format}"),
        observations=record(source.make_env(), player, config.observations),
        metadata=source.facts | {"run": str(path.parent)},
        tolerance=config.tolerance,
        precision=config.precision,
        **options,
    )
    runtimes = ["eager", "exported"]
    if config.format == "onnx" or (config.format == "c" and c_compiler()):
        runtimes.append(config.format)
    return (
        source,
        report,
        actor_latency(
            source.model, runtimes=runtimes, batch_sizes=config.batch_sizes, seconds=config.seconds, **options
        ),
    )
