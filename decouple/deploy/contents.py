"""What an actor's files hold, in each format, with a function that runs it before anything is written.

with file_content(actor, Path("actor.c"), "float32", observations) as content:
    content.run(observation)                       # (B, O) -> (B, A)
    content.sealed(facts)                          # {"actor.c": b"...", "actor.h": b"...", "actor.c.json": b"..."}
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decouple.deploy.checking import RefusedFileError
from decouple.deploy.compiled_c import CannotRunHereError, CompiledActor, compiled_here
from decouple.deploy.constants import actor_constants, constant_actions
from decouple.deploy.formats import (
    call_times,
    int8_onnx_bytes,
    onnx_bytes,
    onnx_session,
    onnx_with_metadata,
    pt2_bytes,
    runner,
)
from decouple.deploy.page import ActorInNode, node_program, page_text
from decouple.deploy.plain_actor import PlainActor
from decouple.deploy.plain_c import c_files
from decouple.deploy.quantization import quantized_actions, quantized_layers
from decouple.runs.files import json_bytes

__all__ = ["FORMATS", "Content", "file_content"]

FORMATS = (".onnx", ".pt2", ".c", ".html")
SAME = 1e-4  # difference of an int8 actor's actions from their plain reading that is rounding
FLIPS = 0.01  # share of observations at which rounding may turn one whole number into the next


class Content(NamedTuple):
    """The content of an actor's files, before its metadata are complete."""

    # function from observations (B, ...), state (B, m) and noise (B, n), as the actor has them, to the content's
    # actions; of a recurrent actor to actions and next states
    run: Callable[..., Any]
    times: Callable[[float], list[float]]  # function from seconds to measure to microseconds of calls at batch 1
    facts: dict[str, Any]  # metadata that only this format has
    # function from all metadata to name -> content of each file, the one that was asked for first
    sealed: Callable[[Mapping[str, Any]], dict[str, bytes]]


@contextlib.contextmanager
def file_content(actor: PlainActor, path: Path, precision: str, observations: Tensor | None) -> Iterator[Content]:
    """The content of the file at `path`, by its ending; within the context it can be run.

    Args:
        actor: the actor.
        path: the file, .onnx, .pt2, .c or .html.
        precision: float32, or int8 with scales from the observations.
        observations: observations (n, ...), unscaled.

    Raises:
        ValueError: an actor that the format cannot hold.
        RuntimeError: a C compiler refuses the source.
        RefusedFileError: the int8 actions in C are not those of their plain reading.
    """
    if path.suffix in (".c", ".html"):
        made = (
            _page_content(actor, path) if path.suffix == ".html" else _c_content(actor, path, precision, observations)
        )
        with made as content:
            yield content
        return
    onnx = path.suffix == ".onnx"
    content = onnx_bytes(actor) if onnx else pt2_bytes(actor)
    if precision == "int8" and observations is not None:
        _, *noise = actor.random_inputs(len(observations))
        content = int8_onnx_bytes(content, [x.cpu().numpy() for x in (observations, *noise)])

    def times(seconds: float) -> list[float]:
        inputs = actor.random_inputs(1)
        if not onnx:
            return call_times(runner(content, ".pt2"), inputs, seconds)
        return call_times(onnx_session(content), [x.numpy() for x in inputs], seconds)

    def sealed(facts: Mapping[str, Any]) -> dict[str, bytes]:
        if onnx:
            return {path.name: onnx_with_metadata(content, facts)}
        return {path.name: content, f"{path.name}.json": json_bytes(facts)}

    yield Content(runner(content, path.suffix), times, {}, sealed)


@contextlib.contextmanager
def _page_content(actor: PlainActor, path: Path) -> Iterator[Content]:
    constants = actor_constants(actor)

    def sealed(facts: Mapping[str, Any]) -> dict[str, bytes]:
        return {path.name: page_text(constants, facts).encode(), f"{path.name}.json": json_bytes(facts)}

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(computed(*(x.numpy() for x in inputs)))

    if node_program() is None:
        computed, facts = lambda x: constant_actions(constants, x), {"checked": "NumPy's reading; no Node.js was found"}
        yield Content(run, lambda seconds: [], facts, sealed)
        return
    with ActorInNode(constants) as running:
        computed, facts = running.run, {"checked": f"run by Node.js {running.version}"}
        inputs = [x.numpy() for x in actor.random_inputs(100)]
        yield Content(run, lambda seconds: running.microseconds(seconds, *inputs), facts, sealed)


@contextlib.contextmanager
def _c_content(actor: PlainActor, path: Path, precision: str, observations: Tensor | None) -> Iterator[Content]:
    constants = actor_constants(actor)
    recorded = observations if precision == "int8" else None
    layers = None if recorded is None else quantized_layers(constants, recorded.cpu().numpy())
    texts = c_files(constants, path.stem, {}, layers)

    def reading(*arrays: np.ndarray) -> np.ndarray:
        return constant_actions(constants, *arrays) if layers is None else quantized_actions(constants, layers, *arrays)

    def sealed(facts: Mapping[str, Any]) -> dict[str, bytes]:
        told = c_files(constants, path.stem, facts, layers)
        files = {name: told[name].encode() for name in (path.name, f"{path.stem}.h")}
        return {**files, f"{path.name}.json": json_bytes(facts)}

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(computed(*(x.numpy() for x in inputs)))

    try:
        made = compiled_here(constants, texts, path.stem)
    except (FileNotFoundError, CannotRunHereError) as error:
        why = "no C compiler was found" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        computed, facts = reading, {"checked": f"NumPy's reading of its numbers; {why}"}
        yield Content(run, lambda seconds: [], facts, sealed)
        return
    with made as compiled:
        computed, facts = compiled.run, {"checked": f"compiled by {compiled.version}", **compiled.memory()}
        if layers is not None:
            _check_int8(actor, compiled, reading)
        inputs = [x.numpy() for x in actor.random_inputs(100)]
        yield Content(run, lambda seconds: compiled.microseconds(seconds, *inputs), facts, sealed)


def _check_int8(actor: PlainActor, compiled: CompiledActor, reading: Callable[..., np.ndarray]) -> None:
    """Compare with the plain reading. One that rounds another way may turn a whole number into its neighbour."""
    arrays = [x.numpy() for x in actor.random_inputs(1000)]
    found, wanted = compiled.run(*arrays), reading(*arrays)
    unit = actor.half_range.numpy() if actor.bounded else 1
    apart = np.abs(found - wanted) / unit > SAME
    share = float(apart.reshape(len(apart), -1).any(-1).mean())
    if share > FLIPS:
        raise RefusedFileError(
            f"the C file's int8 actions differ from their plain reading at {share:.0%} of observations"
        )
