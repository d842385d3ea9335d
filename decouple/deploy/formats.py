"""Contents of an actor's file in ONNX and in `torch.export`'s format, and functions that run them.

content = onnx_bytes(actor)
runner(content, ".onnx")(observation)              # (B, O) -> (B, A)
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from decouple.deploy.plain_actor import PlainActor
from decouple.networks.counting import multiply_adds
from decouple.version import VERSION

__all__ = [
    "actor_facts",
    "call_times",
    "extra",
    "int8_onnx_bytes",
    "onnx_bytes",
    "onnx_session",
    "onnx_with_metadata",
    "pt2_bytes",
    "runner",
]

LEAST_CALLS, LEAST_WARM_UP = 20, 3  # fewest calls of a latency, and of its warm-up, however long they last


def actor_facts(actor: PlainActor) -> dict[str, Any]:
    """The metadata that a user of the file needs."""
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
    if space.choices:
        facts["action"] = {"kind": "indices", "choices": list(space.choices)}
    elif space.low is None or space.high is None:
        facts["action"] = {"kind": "one-hot" if space.one_hot else "index", "actions": space.size}
    else:
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()} if space.bounded else {}
        facts["action"] = {"kind": "continuous", "size": space.size, **bounds}
    if actor.state_size:
        facts["state"] = {"shape": ["batch", actor.state_size], "dtype": "float32", "first": "zeros"}
    if actor.sample:
        kind = "standard Gumbel" if space.discrete else "standard normal"
        facts["noise"] = {"shape": ["batch", space.size], "dtype": "float32", "distribution": kind}
    return facts


def _program(actor: PlainActor) -> ExportedProgram:
    inputs = actor.random_inputs(2)  # torch.export would treat a batch size of 1 as a constant
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(actor, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds file names of this machine
    return program


def pt2_bytes(actor: PlainActor) -> bytes:
    """The content of a `torch.export` file."""
    content = io.BytesIO()
    torch.export.save(_program(actor), content)
    return content.getvalue()


def onnx_bytes(actor: PlainActor) -> bytes:
    """The content of an ONNX file without metadata."""
    extra("onnxscript")
    with _without_notices():
        exported: Any = torch.onnx.export(
            _program(actor),
            dynamo=True,
            verbose=False,
            input_names=_inputs(actor),
            output_names=["action", *(["next_state"] if actor.state_size else [])],
        )
    proto = exported.model_proto
    graph = proto.graph
    del graph.value_info[:]  # intermediate shapes, which follow from the others
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")  # origins in PyTorch's graph
    for each in (*graph.input, *graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "batch"
    return proto.SerializeToString()


def _inputs(actor: PlainActor) -> list[str]:
    """The names of the actor's inputs, in their order."""
    return ["observation", *(["state"] if actor.state_size else []), *(["noise"] if actor.sample else [])]


def int8_onnx_bytes(content: bytes, inputs: Sequence[np.ndarray]) -> bytes:
    """The content with all layers but the head in int8, by ONNX Runtime's static quantisation.

    Args:
        content: content in float32, from `onnx_bytes`.
        inputs: the inputs in their order, recorded observations (n, ...) first, which set the scales.
    """
    quantization, model = extra("onnxruntime.quantization"), extra("onnx").load_from_string(content)

    class Recorded(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            names = [each.name for each in model.graph.input]
            self.left = iter([dict(zip(names, inputs, strict=True))])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder, _without_advice():
        file = Path(folder) / "actor.onnx"
        kinds = ["Conv", "Gemm", "MatMul"]
        layers = [node.name for node in model.graph.node if node.op_type in kinds]
        # The head has few weights, and its outputs are the action's: Pendulum's return is 1 % better so.
        kept = layers[-1:] if len(layers) > 1 else []
        rules = {"ActivationSymmetric": True}  # what was met on one side only may come on the other
        options = {"op_types_to_quantize": kinds, "nodes_to_exclude": kept, "extra_options": rules}
        quantization.quantize_static(model, file, Recorded(), **options)
        return file.read_bytes()


def onnx_with_metadata(content: bytes, facts: Mapping[str, Any]) -> bytes:
    """The content with each of the facts as JSON under its key."""
    proto = extra("onnx").load_from_string(content)
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    return proto.SerializeToString()


def onnx_session(content: bytes) -> Callable[..., list[np.ndarray]]:
    """A function from NumPy arrays, in the order of the inputs, to the outputs, by ONNX Runtime on one thread."""
    runtime = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def runner(content: bytes, suffix: str) -> Callable[..., Any]:
    """A function from tensors, in the order of the inputs, to the action, or to action and state, by the content."""
    if suffix == ".onnx":
        session = onnx_session(content)

        def run(*inputs: Tensor) -> Any:
            outputs = [torch.from_numpy(each) for each in session(*(x.numpy() for x in inputs))]
            return outputs if len(outputs) > 1 else outputs[0]

        return run
    return torch.export.load(io.BytesIO(content)).module()


def extra(name: str) -> Any:
    """A module of the extra `export`, or an ImportError that names it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"ONNX needs {name}: pip install 'torchrl-decouple[export]'") from error


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Silence the exporter's notices on PyTorch's own code and on torchvision, which no actor uses."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            yield
    finally:
        logger.disabled = before


def call_times(call: Callable[..., Any], inputs: Sequence[Any], seconds: float) -> list[float]:
    """Microseconds of each call on one thread, after a warm-up of a tenth of `seconds`."""
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


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the root logger's advice to prepare the model, which the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
