"""An actor that ships: one agent of a run of either study as a file, checked, with its size and its latency.

    source, report, rows = export(Export(checkpoint="runs/procgen/as_written/starpilot/late/seed0", format="pt2"))

The run is one of experiments/control.py or procgen.py: its folder, or its checkpoint. The file holds the scaling of
observations, the actor and the bounds of actions, but no critic. Before it is written it plays its task; a card beside
it says what it is: see docs/export.md.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import EnvBase, TensorDictPrimer, TransformedEnv

from decouple.checks import POSITIVE_WHOLE, all_of, at_least, check_fields, check_setting, checked, one_of
from decouple.deploy.card import actor_card, card_path
from decouple.deploy.checking import RefusedFileError, difference_from
from decouple.deploy.contents import Content
from decouple.deploy.export import A_WHILE, FLOAT_TOLERANCE, PRECISIONS, ExportReport, actor_latency, export_actor
from decouple.deploy.page import check_page
from decouple.deploy.plain_actor import PlainActor
from decouple.runs.files import replace_file
from decouple.runs.performance import processor_kind
from decouple.studies.actor_size.trials import t_interval
from decouple.studies.distillation.sources import Source, agent_source, read_source  # noqa: F401  (were here)
from decouple.studies.file_playing import FILE_SEED, VALIDATION_SEED, play_file

__all__ = ["Export", "export", "write_actor"]

FORMATS = {"onnx": "onnx", "pt2": "pt2", "c": "c", "page": "html"}  # format -> ending of its file
INT8_EPISODES = 10  # episodes whose observations set the scales in int8
UNBOUNDED = 1e30  # a bound beyond it is the largest number of a type, and says nothing


@dataclass
class Export:
    """Settings of an export, and of the check of its file."""

    checkpoint: str | None = None  # a run's folder, or its checkpoint.pt; must be given
    # onnx, pt2 (torch.export), c (plain C) or page (HTML, where the actor plays Pong or Pixelcopter); None: what the
    # ending of `output` says, and onnx without it
    format: str | None = None
    precision: str = "float32"  # float32, or int8 for onnx and c
    seed: int | None = None  # seed of the agent, in a run with several; None: the one with the best final return
    sample: bool = False  # sample actions, with noise as a second input; else the distribution's mode
    output: str | None = None  # output file, whose ending is the format's; None: actor_seed<seed>.* in the run's folder
    observations: int = (
        256  # observations recorded in the task for the check, beside 256 random ones; int8: of 10 episodes
    )
    # largest difference allowed, see ExportReport in decouple/deploy/export.py; None: 1e-4, and any in int8
    tolerance: float | None = None
    # episodes that the file plays in its task; None: 100, and of Procgen in float32 none
    episodes: int | None = None
    # share of the float32 actor's return that int8 may lose: the 95 % interval of the difference over the same episodes
    # must exclude a larger loss
    int8_loss: float = 0.05
    batch_sizes: list[int] = field(default_factory=lambda: [1, 64])  # batch sizes at which latency is measured
    seconds: float = 1.0  # seconds of calls that each latency is measured over

    def __post_init__(self) -> None:
        sizes = all_of(at_least(1), least=1)
        check_fields(
            self,
            seed=at_least(0),
            int8_loss=at_least(0),
            episodes=at_least(0),
            batch_sizes=sizes,
            seconds=A_WHILE,
            tolerance=at_least(0),
        )
        check_setting("checkpoint", self.checkpoint, bool, "a run's folder, or its checkpoint")
        endings = {ending: name for name, ending in FORMATS.items()}
        ending = Path(self.output).suffix.removeprefix(".") if self.output else ""
        self.format = self.format or endings.get(ending, "onnx")
        check_setting("format", self.format, FORMATS.__contains__, "onnx, pt2, c or page")
        says = f"a file that ends in .{FORMATS[self.format]}, as format={self.format} has it"
        check_setting("output", self.output, lambda v: v is None or ending == FORMATS[str(self.format)], says)
        allowed = PRECISIONS if self.format in ("onnx", "c") else PRECISIONS[:1]
        check_setting("precision", self.precision, one_of(*allowed))
        check_setting("observations", self.observations, POSITIVE_WHOLE)
        check_proof(self.precision, self.episodes)


def check_proof(precision: str, episodes: int | None) -> None:
    """ValueError unless an int8 actor, whose actions are others than the model's, plays for its proof."""
    if precision == "int8" and episodes is not None and episodes < 2:
        says = "at least 2 in int8, whose proof is the return in the task"
        raise ValueError(f"episodes must be {says}; got {episodes}")


@checked(episodes=at_least(0), int8_loss=at_least(0), seconds=A_WHILE)
def write_actor(
    source: Source,
    path: Path,
    *,
    precision: str = "float32",
    sample: bool = False,
    observations: int = 256,
    tolerance: float | None = None,
    episodes: int = 100,
    int8_loss: float = 0.05,
    seconds: float = 1.0,
) -> ExportReport:
    """Write an agent's file and its card, once the file has been compared with the model and played in its task.

    Args:
        source: the agent.
        path: the file, .onnx, .pt2, .c or .html; the card is beside it, `card_path`.
        precision, sample, tolerance: as for `export_actor`.
        observations: number of observations to record in the task for the check; in int8 those of ten episodes.
        episodes: number of episodes that the file plays, of what agents are tested on; 0: it is not played. In int8 at
            least 2.
        int8_loss: share of the float32 actor's mean return that an int8 one may lose, see `Export`.
        seconds: time to measure the latency.

    Raises:
        RefusedFileError: the file acts otherwise than the model, or is worse in int8; nothing is written then.
        ValueError: fewer than two episodes in int8.
    """
    check_proof(precision, episodes)
    options: dict[str, Any] = {"sample": sample, "observation_scaling": source.scaling}
    mode = PlainActor(source.model, observation_scaling=source.scaling)
    seed = FILE_SEED + source.facts["seed"]
    if precision == "float32":
        recorded = _record(source, mode, observations)
    else:  # whole episodes, for what they leave out would count as the largest that they hold
        recorded = play_file(
            source.make_env, mode, mode, INT8_EPISODES, VALIDATION_SEED + source.facts["seed"]
        ).observations
    allowed = FLOAT_TOLERANCE if tolerance is None else tolerance

    def accept(content: Content) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if times := content.times(seconds):
            median, p99 = np.percentile(times, [50, 99]).tolist()
            facts["latency_us"] = {"median": median, "p99": p99, "processor": processor_kind()}
        if not episodes:
            return facts
        actor = PlainActor(source.model, **options)
        tests = functools.partial(source.make_env, test=True)
        played = play_file(tests, actor, content.run, episodes, seed)
        own = play_file(tests, actor, actor, episodes, seed)
        if precision == "float32":
            apart = difference_from(actor, content.run, source.model, *played.inputs)
            if not apart <= allowed:
                raise RefusedFileError(
                    f"the file must act as the model in the task, to {allowed}; they differ by {apart}"
                )
        else:
            _check_int8(played.returns, own.returns, int8_loss)
        return facts | {"return": played.facts, "return_of_model": own.facts}

    report = export_actor(
        source.model,
        path,
        observations=recorded,
        metadata=source.facts | _task_facts(source),
        tolerance=tolerance,
        precision=precision,
        accept=accept,
        **options,
    )
    replace_file(card_path(path), actor_card(path, report.metadata).encode())
    return report


def _check_int8(returns: Sequence[float], of_float: Sequence[float], loss: float) -> None:
    """RuntimeError unless the paired difference's 95 % interval over episodes excludes a larger loss."""
    low, _ = t_interval([mine - theirs for mine, theirs in zip(returns, of_float, strict=True)])
    mean = statistics.fmean(of_float)
    if not low >= -loss * abs(mean):
        told = f"{statistics.fmean(returns):.6g} beside {mean:.6g} in float32, the difference at least {low:.6g}"
        raise RefusedFileError(f"the int8 actor must lose at most {loss:.0%} of the return in its task; it has {told}")


def _record(source: Source, actor: PlainActor, count: int) -> Tensor:
    """Observations (count, ...) that the actor meets in its task."""
    with contextlib.closing(source.make_env(1, source.facts["seed"])) as env, torch.no_grad():
        memory = bool(actor.state_size)
        if memory:  # zeros at each reset
            specs: Any = {"state": Unbounded(shape=(actor.state_size,))}
            env = TransformedEnv(env, TensorDictPrimer(specs, expand_specs=True), auto_unwrap=False)
        keys = ["observation", *["state"] * memory], ["action", *[("next", "state")] * memory]
        policy = TensorDictModule(actor, *keys)
        played = env.rollout(-(-count // env.batch_size.numel()), policy, break_when_any_done=False)
    return played["observation"].flatten(0, env.batch_dims)[:count]


def _task_facts(source: Source) -> dict[str, Any]:
    """What the task itself tells: bounds and parts of an observation, and what its own action differs in from ours."""
    with contextlib.closing(source.make_env(1, source.facts["seed"])) as env:
        facts: dict[str, Any] = {"observation_bounds": _bounds(env)}
        parts, changes = getattr(env, "observation_parts", []), getattr(env, "action_changes", {})
    if any(part.name or part.kind != "Box" for part in parts):  # a vector is made of them
        names = ("name", "first", "shape", "kind")
        facts["observation_parts"] = [{name: getattr(part, name) for name in names} for part in parts]
    return facts | ({"task_action": changes} if changes else {})


def _bounds(env: EnvBase) -> dict[str, list[float]] | None:
    """Bounds of one observation, where the task has finite ones."""
    space = env.observation_spec["observation"].space
    shape = env.observation_spec["observation"].shape[env.batch_dims :]
    if len(shape) != 1 or not hasattr(space, "low"):
        return None
    low, high = (getattr(space, side).reshape(-1, shape[0])[0] for side in ("low", "high"))
    known = (low > -UNBOUNDED).all() and (high < UNBOUNDED).all()
    return {"low": low.tolist(), "high": high.tolist()} if known else None


def export(config: Export) -> tuple[Source, ExportReport, list[dict[str, Any]]]:
    """Write the file and its card; returns the agent exported, the report, and the rows of its latency."""
    path, _, source = read_source(str(config.checkpoint), config.seed)
    if config.format == "page":
        check_page(source.facts, sample=config.sample, precision=config.precision)  # before anything is played
    episodes = config.episodes
    if episodes is None:
        episodes = 0 if "protocol" in source.facts and config.precision == "float32" else 100
    report = write_actor(
        source,
        Path(config.output or path.with_name(f"actor_seed{source.facts['seed']}.{FORMATS[str(config.format)]}")),
        precision=config.precision,
        sample=config.sample,
        observations=config.observations,
        tolerance=config.tolerance,
        episodes=episodes,
        int8_loss=config.int8_loss,
        seconds=config.seconds,
    )
    runtimes = ["eager", "exported"]
    if config.format == "onnx" or (config.format == "c" and "latency_us" in report.metadata):  # compiled here
        runtimes.append(config.format)
    timing = {"batch_sizes": config.batch_sizes, "seconds": config.seconds, "observation_scaling": source.scaling}
    rows = actor_latency(source.model, runtimes=runtimes, sample=config.sample, **timing)
    if (config.precision == "int8" or config.format == "page") and "latency_us" in report.metadata:
        median, p99 = (report.metadata["latency_us"][name] for name in ("median", "p99"))
        name = "JavaScript" if config.format == "page" else f"{config.format} int8"
        rows.append({"runtime": name, "batch": 1, "median_us": median, "p99_us": p99})
    return source, report, rows
