"""Export of the actor alone to a file that runs without this package: ONNX, `torch.export`, C or a page; latency.

    report = export_actor(model, "actor.onnx", metadata={"algorithm": "td3", "run": "runs/one"})
    report.bytes, report.difference                    # the file's size; largest difference from the model's actions
    session = onnxruntime.InferenceSession("actor.onnx")               # no torch from here on
    (action,) = session.run(["action"], {"observation": observation})  # (B, O) -> (B, A)
    export_actor(model, "actor.c")                     # actor.c and actor.h: C99, for a microcontroller
    export_actor(model, "actor.html", metadata={"task": "pong"})        # a page on which it plays, in JavaScript

The file holds trunk, policy branch and head, the scaling of observations and the action's bounds, and no critic. Its
input is the environment's observation and its output the environment's action, for any batch size; in C, of one
observation. It draws no random numbers: an actor that samples takes noise as a second input. Formats:
https://onnx.ai, https://docs.pytorch.org/docs/stable/export.html, ISO C99.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decouple.checks import SOME, all_of, at_least, between, check_setting, checked, one_of, positive_whole
from decouple.deploy.checking import RANDOM_OBSERVATIONS, RefusedFileError, difference_from, inputs_to_check
from decouple.deploy.compiled_c import compiled_here
from decouple.deploy.constants import actor_constants
from decouple.deploy.contents import FORMATS, Content, file_content
from decouple.deploy.formats import actor_facts, call_times, onnx_bytes, onnx_session, pt2_bytes, runner
from decouple.deploy.page import check_page
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.deploy.plain_c import c_files
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.runs.files import replace_file

__all__ = ["ExportReport", "actor_latency", "export_actor"]

A_WHILE = between(0, 3600)  # seconds
RUNTIMES = ("eager", "exported", "onnx")
IN_C = "c"  # a runtime only where it is asked for: not every actor is a perceptron, nor every machine has a compiler
PRECISIONS = ("float32", "int8")
FLOAT_TOLERANCE = 1e-4  # of actions in float32


class ExportReport(NamedTuple):
    """The report on an exported file, with the difference between its actions and the model's.

    The difference is the largest over all observations. For a continuous action it is that of a component, in units of
    half its range, or of 1 without bounds. For a discrete action it is the gap between the model's best score (logit,
    plus noise) and its score of the file's action, 0 where both choose alike.
    """

    path: Path
    bytes: int
    observations: int  # number of observations checked, random and recorded
    difference: float
    tolerance: float
    metadata: dict[str, Any]


@checked(tolerance=at_least(0), precision=one_of(*PRECISIONS))
def export_actor(
    model: ActorValue | ActorQValue,
    path: str | Path,
    *,
    sample: bool = False,
    observation_scaling: ObservationScaling | None = None,
    observation_dtype: torch.dtype | None = None,
    observations: Tensor | None = None,
    metadata: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    precision: str = "float32",
    accept: Callable[[Content], Mapping[str, Any]] | None = None,
) -> ExportReport:
    """Write the actor alone to a file, once its content has been checked to give the model's own actions.

    Inputs and output are those of `PlainActor` with one batch axis of any size: `observation` (B, ...), with `sample`
    also `noise` (B, n), and `action`. A recurrent actor's file also has the input `state` (B, m), zeros where an
    episode begins, and the output `next_state`. The metadata are the caller's, and shapes, bounds, scaling, parameters,
    multiply-adds and versions. An .onnx file holds them under their keys, as JSON; those of the others are in
    `<path>.json` beside them. A .c file has a header beside it, and reads one observation.

    Args:
        model: one agent's model, from `actor_value` or `actor_qvalue`; for .c that of a perceptron.
        path: file name that ends in .onnx, .pt2, .c or .html; its folder is made where it is missing.
        sample, observation_scaling, observation_dtype: as for `PlainActor`.
        observations: recorded observations, unscaled, (n, ...), for the check beside 256 random ones; in int8 alone.
        metadata: further facts, as the algorithm and the run; anything that JSON can hold. A page needs the game's name
            under `task`.
        tolerance: largest difference allowed; see `ExportReport`. None: 1e-4, and in int8 any.
        precision: float32, or int8: weights, and inputs of layers, in whole numbers whose scales come from the recorded
            observations. How well an int8 actor acts only its task can tell.
        accept: function of the `Content`, called before anything is written, as to play the task with it. What it
            returns joins the metadata; if it raises, no file is written.

    Raises:
        ValueError: a path with another ending, a model that `PlainActor` or the format refuses, observations of another
            shape or type, or none in int8.
        ImportError: onnxscript or onnxruntime is missing, for an .onnx file.
        RefusedFileError: the file's actions are not the model's; no file is written then.
    """
    path = Path(path)
    check_setting("path", path.suffix, FORMATS.__contains__, f"a file that ends in one of {list(FORMATS)}")
    actor = PlainActor(
        model, sample=sample, observation_scaling=observation_scaling, observation_dtype=observation_dtype
    )
    check_setting("precision", precision, lambda v: v == "float32" or path.suffix != ".pt2", "float32 for .pt2")
    if path.suffix == ".html":
        check_page(metadata or {}, sample=sample, precision=precision)
    if precision == "int8" and observations is None:
        raise ValueError("observations must be given in int8, which takes its scales from them; got None")
    allowed = tolerance if tolerance is not None else FLOAT_TOLERANCE if precision == "float32" else math.inf
    facts = actor_facts(actor) | {"precision": precision} | dict(metadata or {})
    random = RANDOM_OBSERVATIONS if precision == "float32" else 0  # int8 has the scales of recorded ones
    inputs = inputs_to_check(actor, observations, random)
    with file_content(actor, path, precision, observations) as content:
        difference = difference_from(actor, content.run, model, *inputs)
        if not difference <= allowed:
            raise RefusedFileError(f"the file's actions must be the model's to {allowed}; they differ by {difference}")
        facts |= content.facts | dict(accept(content) if accept else {})
        files = content.sealed(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, held in reversed(files.items()):  # the file that was asked for is written last
        replace_file(path.with_name(name), held)
    return ExportReport(path, len(files[path.name]), len(inputs[0]), difference, allowed, facts)


@checked(runtimes=SOME, batch_sizes=all_of(at_least(1), least=1), seconds=A_WHILE)
def actor_latency(
    model: ActorValue | ActorQValue,
    *,
    runtimes: Sequence[str] = RUNTIMES,
    batch_sizes: Sequence[int] = (1, 64),
    sample: bool = False,
    observation_scaling: ObservationScaling | None = None,
    observation_dtype: torch.dtype | None = None,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """Time of one call of the actor alone, on one thread of the CPU, after a warm-up.

    The 99th percentile also depends on the machine's other load.

    Args:
        model, sample, observation_scaling, observation_dtype: as for `PlainActor`.
        runtimes: `eager`, the layers as a plain PyTorch module; `exported`, the module that `torch.export` returns;
            `onnx`, ONNX Runtime; `c`, the C file, compiled with -O2. Each takes and returns arrays of its own kind.
            C is timed without Python around it, each time the mean of 50 calls of one observation.
        batch_sizes: numbers of observations per call.
        seconds: time to measure each runtime with each batch size; at least 20 calls.

    Returns:
        A row for each runtime and batch size: `runtime`, `batch`, `median_us` and `p99_us` (the 99th percentile), in
        microseconds, and `calls`.

    Raises:
        ValueError: an unknown runtime, a size that is not positive, or a model that `PlainActor` or C refuses.
        ImportError: onnxscript or onnxruntime is missing, for `onnx`.
        FileNotFoundError: there is no C compiler, for `c`.
        CannotRunHereError: there is none whose programs run here, for `c`.
    """
    for runtime in runtimes:
        check_setting("runtimes", runtime, (*RUNTIMES, IN_C).__contains__, f"of {[*RUNTIMES, IN_C]}")
    for batch in batch_sizes:
        check_setting("batch_sizes", batch, positive_whole, "of whole numbers, at least 1")
    actor = PlainActor(
        model, sample=sample, observation_scaling=observation_scaling, observation_dtype=observation_dtype
    )
    rows = []
    for runtime in runtimes:
        timed = _c_times(actor, seconds) if runtime == IN_C else _runtime_times(runtime, actor, seconds)
        for batch in batch_sizes:
            times = timed(batch)
            median, p99 = np.percentile(times, [50, 99]).tolist()
            row = {"runtime": runtime, "batch": batch, "median_us": median, "p99_us": p99, "calls": len(times)}
            rows.append(row)
    return rows


def _runtime_times(runtime: str, actor: PlainActor, seconds: float) -> Callable[[int], list[float]]:
    """A function from a batch size to microseconds of calls."""
    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "eager": lambda: actor,
        "exported": lambda: runner(pt2_bytes(actor), ".pt2"),
        "onnx": lambda: onnx_session(onnx_bytes(actor)),
    }
    call = makers[runtime]()

    def timed(batch: int) -> list[float]:
        inputs = actor.random_inputs(batch)
        return call_times(call, [x.numpy() for x in inputs] if runtime == "onnx" else inputs, seconds)

    return timed


def _c_times(actor: PlainActor, seconds: float) -> Callable[[int], list[float]]:
    constants = actor_constants(actor)
    files = c_files(constants, "actor", {})

    def timed(batch: int) -> list[float]:
        with compiled_here(constants, files, "actor") as compiled:
            inputs = [x.numpy() for x in actor.random_inputs(100)]
            return [batch * each for each in compiled.microseconds(seconds, *inputs)]

    return timed
