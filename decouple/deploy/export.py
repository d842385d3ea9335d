"""The actor alone, as a file that runs without this package: ONNX (.onnx) or `torch.export` (.pt2); and its latency.

    report = export_actor(model, "actor.onnx", metadata={"algorithm": "td3", "run": "runs/one"})
    report.bytes, report.difference                    # of the file; from the model, over the observations checked
    session = onnxruntime.InferenceSession("actor.onnx")               # no torch from here on
    (action,) = session.run(["action"], {"observation": observation})  # (B, O) -> (B, A)

Trunk, policy branch and head are in it, with the scaling of observations and the action's bounds; no critic is. It
takes what the environment gives and gives what the environment takes, for any batch size. The graph draws no random
numbers: an actor that samples takes its noise as a second input. Formats: https://onnx.ai,
https://docs.pytorch.org/docs/stable/export.html.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.export import ExportedProgram
from torchrl.envs.utils import ExplorationType, set_exploration_type

from decouple.checks import SOME, all_of, at_least, between, check_setting, checked, positive_whole
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.networks.actor_qvalue import ActorQValue
from decouple.networks.actor_value import ActorValue
from decouple.networks.counting import multiply_adds
from decouple.networks.fitting import evaluating
from decouple.runs.files import json_bytes, replace_file
from decouple.version import VERSION

__all__ = ["ExportReport", "actor_latency", "export_actor"]

A_WHILE = between(0, 3600)  # seconds
FORMATS = (".onnx", ".pt2")
RUNTIMES = ("eager", "exported", "onnx")
RANDOM_OBSERVATIONS = 256  # in the check
LEAST_CALLS, LEAST_WARM_UP = 20, 3  # of a latency, however long they last


class ExportReport(NamedTuple):
    """A file that has been written, and how far its actions are from the model's.

    The difference is the largest over all observations: of a component of the action, in units of half its range; of a
    discrete action, what the model's own score of it (logit, plus noise) falls short of the best score, 0 where both
    choose alike.
    """

    path: Path
    bytes: int
    observations: int  # checked, random and recorded
    difference: float
    tolerance: float
    metadata: dict[str, Any]


@checked(tolerance=at_least(0))
def export_actor(
    model: ActorValue | ActorQValue,
    path: str | Path,
    *,
    sample: bool = False,
    observation_scaling: ObservationScaling | None = None,
    observation_dtype: torch.dtype | None = None,
    observations: Tensor | None = None,
    metadata: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write the actor alone to a file, after the file's content has given the model's own actions.

    Inputs and output are those of `PlainActor` with one batch axis of any size: `observation` (B, ...), with `sample`
    also `noise` (B, n), and `action`. An .onnx file holds the metadata under its keys, as JSON, and a .pt2 file has it
    beside it in `<path>.json`: what the caller gives, and shapes, bounds, scaling, parameters, multiply-adds, versions.

    Args:
        model: of one agent, from `actor_value` or `actor_qvalue`.
        path: ends in .onnx or .pt2; its folder is made where it is missing.
        sample, observation_scaling, observation_dtype: as for `PlainActor`.
        observations: recorded ones, unscaled, (n, ...), for the check beside 256 random ones.
        metadata: further facts, as the algorithm and the run that it comes from; anything that JSON can hold.
        tolerance: what the difference may be at most; see `ExportReport`.

    Raises:
        ValueError: a path of another kind, what `PlainActor` refuses, or observations of another shape or type.
        ImportError: onnxscript or onnxruntime is missing, for an .onnx file.
        RuntimeError: the file's actions are not the model's; no file is written then.
    """
    path = Path(path)
    check_setting("path", path.suffix, FORMATS.__contains__, f"a file that ends in one of {list(FORMATS)}")
    actor = PlainActor(
        model, sample=sample, observation_scaling=observation_scaling, observation_dtype=observation_dtype
    )
    facts = _facts(actor) | dict(metadata or {})
    inputs = _inputs_to_check(actor, observations)
    content = _onnx(actor, facts) if path.suffix == ".onnx" else _pt2(actor)
    difference = _difference(actor, _runner(content, path.suffix), model, *inputs)
    if not difference <= tolerance:
        raise RuntimeError(f"the file's actions must be the model's to {tolerance}; they differ by {difference}")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    if path.suffix == ".pt2":
        replace_file(path.with_name(f"{path.name}.json"), json_bytes(facts))
    return ExportReport(path, len(content), len(inputs[0]), difference, tolerance, facts)


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

    The 99th percentile says what else the machine was doing as much as what the actor needs.

    Args:
        model, sample, observation_scaling, observation_dtype: as for `PlainActor`.
        runtimes: `eager`, the layers as a plain PyTorch module; `exported`, the module that `torch.export` gives back;
            `onnx`, ONNX Runtime. Each is given arrays of its own kind and gives one back.
        batch_sizes: observations in a call.
        seconds: that calls are made for, of each runtime with each batch size; at least 20 calls.

    Returns:
        A row for each runtime and batch size: `runtime`, `batch`, `median_us` and `p99_us` (the 99th percentile), in
        microseconds, and `calls`.

    Raises:
        ValueError: an unknown runtime, a size that is not positive, or what `PlainActor` refuses.
        ImportError: onnxscript or onnxruntime is missing, for `onnx`.
    """
    for runtime in runtimes:
        check_setting("runtimes", runtime, RUNTIMES.__contains__, f"of {list(RUNTIMES)}")
    for batch in batch_sizes:
        check_setting("batch_sizes", batch, positive_whole, "of whole numbers, at least 1")
    actor = PlainActor(
        model, sample=sample, observation_scaling=observation_scaling, observation_dtype=observation_dtype
    )
    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "eager": lambda: actor,
        "exported": lambda: _runner(_pt2(actor), ".pt2"),
        "onnx": lambda: _onnx_session(_onnx(actor, {})),
    }
    rows = []
    for runtime in runtimes:
        call = makers[runtime]()
        for batch in batch_sizes:
            inputs = actor.random_inputs(batch)
            times = _times(call, [x.numpy() for x in inputs] if runtime == "onnx" else inputs, seconds)
            median, p99 = np.percentile(times, [50, 99]).tolist()
            row = {"runtime": runtime, "batch": batch, "median_us": median, "p99_us": p99, "calls": len(times)}
            rows.append(row)
    return rows


def _times(call: Callable[..., Any], inputs: Sequence[Any], seconds: float) -> list[float]:
    """Microseconds of each call, on one thread, after a tenth of the time that is not counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            _timed(call, inputs, seconds / 10, LEAST_WARM_UP)
            return _timed(call, inputs, seconds, LEAST_CALLS)
    finally:
        torch.set_num_threads(threads)


def _timed(call: Callable[..., Any], inputs: Sequence[Any], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        before = time.perf_counter()
        call(*inputs)
        times.append((time.perf_counter() - before) * 1e6)
    return times


def _facts(actor: PlainActor) -> dict[str, Any]:
    """What a user of the file has to know of it."""
    space, scaling = actor.space, actor.scaling
    dtype = str(actor.observation_dtype).removeprefix("torch.")
    facts: dict[str, Any] = {
        "observation": {"shape": ["batch", *actor.observation_shape], "dtype": dtype},
        "observation_scaling": None,
        "sample": actor.sample,
        "parameters": sum(p.numel() for p in actor.parameters()),
        "multiply_adds": multiply_adds(actor, torch.zeros(actor.observation_shape))["total"],
        "versions": {"decouple": VERSION, "torch": torch.__version__},
    }
    if scaling is not None:
        baked = {"mean": actor.mean.tolist(), "std": actor.std.tolist(), "clip": scaling.clip}
        facts["observation_scaling"] = baked
    if space.low is None or space.high is None:
        facts["action"] = {"kind": "one-hot" if space.one_hot else "index", "actions": space.size}
    else:
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        facts["action"] = {"kind": "continuous", "size": space.size, **bounds}
    if actor.sample:
        kind = "standard Gumbel" if space.discrete else "standard normal"
        facts["noise"] = {"shape": ["batch", space.size], "dtype": "float32", "distribution": kind}
    return facts


def _program(actor: PlainActor) -> ExportedProgram:
    inputs = actor.random_inputs(2)  # a batch of one would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(actor, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # file names of this machine
    return program


def _pt2(actor: PlainActor) -> bytes:
    content = io.BytesIO()
    torch.export.save(_program(actor), content)
    return content.getvalue()


def _onnx(actor: PlainActor, facts: Mapping[str, Any]) -> bytes:
    _extra("onnxscript")
    with _without_notices():
        exported: Any = torch.onnx.export(
            _program(actor),
            dynamo=True,
            verbose=False,
            input_names=["observation", "noise"][: 1 + actor.sample],
            output_names=["action"],
        )
    proto = exported.model_proto
    graph = proto.graph
    del graph.value_info[:]  # shapes in between, which follow from the others
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")  # where in PyTorch's graph each comes from
    for each in (*graph.input, *graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "batch"
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    return proto.SerializeToString()


def _onnx_session(content: bytes) -> Callable[..., np.ndarray]:
    """NumPy arrays in the order of the inputs -> the action, by ONNX Runtime on one thread."""
    runtime = _extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(["action"], dict(zip(names, arrays, strict=True)))[0]


def _runner(content: bytes, suffix: str) -> Callable[..., Tensor]:
    """Tensors in the order of the inputs -> the action, by what is in the file."""
    if suffix == ".onnx":
        session = _onnx_session(content)
        return lambda *inputs: torch.from_numpy(session(*(x.numpy() for x in inputs)))
    return torch.export.load(io.BytesIO(content)).module()


def _inputs_to_check(actor: PlainActor, recorded: Tensor | None) -> tuple[Tensor, ...]:
    if recorded is None:
        return actor.random_inputs(RANDOM_OBSERVATIONS)
    if tuple(recorded.shape[1:]) != actor.observation_shape or recorded.dtype != actor.observation_dtype:
        wanted = f"(n, {', '.join(map(str, actor.observation_shape))}) of {actor.observation_dtype}"
        raise ValueError(f"observations must be {wanted}; got {tuple(recorded.shape)} of {recorded.dtype}")
    observation, *noise = actor.random_inputs(RANDOM_OBSERVATIONS + len(recorded))
    return torch.cat([observation[:RANDOM_OBSERVATIONS], recorded.cpu()]), *noise


def _difference(
    actor: PlainActor, run: Callable[..., Tensor], model: ActorValue | ActorQValue, observation: Tensor, *noise: Tensor
) -> float:
    """See `ExportReport`. The model's own actions are those of its TorchRL policy on scaled observations."""
    policy = model.get_policy_operator()
    device = next(model.parameters()).device
    scaled = observation if actor.scaling is None else actor.scaling.apply(observation)
    step = TensorDict({policy.in_keys[0]: scaled.to(device)}, [len(scaled)])
    with torch.no_grad(), evaluating(model), set_exploration_type(ExplorationType.DETERMINISTIC):
        action = run(observation, *noise)
        if actor.space.discrete:
            scores = policy.get_dist(step).logits.cpu() + sum(noise)  # (B, n)
            index = action.argmax(-1) if actor.space.one_hot else action
            return (scores.amax(-1) - scores.gather(-1, index[:, None]).squeeze(-1)).max().item()
        wanted = _drawn(policy.get_dist(step), noise[0].to(device)) if noise else policy(step)["action"]
        return ((action - wanted.cpu()).abs() / actor.half_range).max().item()


def _drawn(distribution: Any, noise: Tensor) -> Tensor:
    """TorchRL's TanhNormal at this noise."""
    normal = distribution.root_dist
    return distribution.transforms[0](normal.loc + normal.scale * noise)


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"ONNX needs {name}: pip install 'decouple[export]'") from error


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Silence what PyTorch's exporter says of its own code, and of torchvision, which no actor uses."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            yield
    finally:
        logger.disabled = before
