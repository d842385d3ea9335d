"""Export of the actor alone to a file that runs without this package, ONNX (.onnx) or `torch.export` (.pt2); latency.

    report = export_actor(model, "actor.onnx", metadata={"algorithm": "td3", "run": "runs/one"})
    report.bytes, report.difference                    # the file's size; largest difference from the model's actions
    session = onnxruntime.InferenceSession("actor.onnx")               # no torch from here on
    (action,) = session.run(["action"], {"observation": observation})  # (B, O) -> (B, A)

The file holds trunk, policy branch and head, the scaling of observations and the action's bounds, and no critic. Its
input is the environment's observation and its output the environment's action, for any batch size. It draws no random
numbers: an actor that samples takes noise as a second input. Formats: https://onnx.ai,
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
from torchrl.modules import IndependentNormal

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
RANDOM_OBSERVATIONS = 256  # random observations in the check
LEAST_CALLS, LEAST_WARM_UP = 20, 3  # fewest calls of a latency, and of its warm-up, however long they last


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
    """Write the actor alone to a file, once its content has been checked to give the model's own actions.

    Inputs and output are those of `PlainActor` with one batch axis of any size: `observation` (B, ...), with `sample`
    also `noise` (B, n), and `action`. A recurrent actor's file also has the input `state` (B, m), zeros where an
    episode begins, and the output `next_state`. The metadata are the caller's, and shapes, bounds, scaling, parameters,
    multiply-adds and versions. An .onnx file holds them under their keys, as JSON; those of a .pt2 file are in
    `<path>.json` beside it.

    Args:
        model: one agent's model, from `actor_value` or `actor_qvalue`.
        path: file name that ends in .onnx or .pt2; its folder is made where it is missing.
        sample, observation_scaling, observation_dtype: as for `PlainActor`.
        observations: recorded observations, unscaled, (n, ...), for the check beside 256 random ones.
        metadata: further facts, as the algorithm and the run; anything that JSON can hold.
        tolerance: largest difference allowed; see `ExportReport`.

    Raises:
        ValueError: a path with another ending, a model that `PlainActor` refuses, or observations of another shape or
            type.
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

    The 99th percentile also depends on the machine's other load.

    Args:
        model, sample, observation_scaling, observation_dtype: as for `PlainActor`.
        runtimes: `eager`, the layers as a plain PyTorch module; `exported`, the module that `torch.export` returns;
            `onnx`, ONNX Runtime. Each takes and returns arrays of its own kind.
        batch_sizes: numbers of observations per call.
        seconds: time to measure each runtime with each batch size; at least 20 calls.

    Returns:
        A row for each runtime and batch size: `runtime`, `batch`, `median_us` and `p99_us` (the 99th percentile), in
        microseconds, and `calls`.

    Raises:
        ValueError: an unknown runtime, a size that is not positive, or a model that `PlainActor` refuses.
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


def _facts(actor: PlainActor) -> dict[str, Any]:
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
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    return proto.SerializeToString()


def _inputs(actor: PlainActor) -> list[str]:
    """The names of the actor's inputs, in their order."""
    return ["observation", *(["state"] if actor.state_size else []), *(["noise"] if actor.sample else [])]


def _onnx_session(content: bytes) -> Callable[..., list[np.ndarray]]:
    """A function from NumPy arrays, in the order of the inputs, to the outputs, by ONNX Runtime on one thread."""
    runtime = _extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _runner(content: bytes, suffix: str) -> Callable[..., Any]:
    """A function from tensors, in the order of the inputs, to the action, or to action and state, by the file."""
    if suffix == ".onnx":
        session = _onnx_session(content)

        def run(*inputs: Tensor) -> Any:
            outputs = [torch.from_numpy(each) for each in session(*(x.numpy() for x in inputs))]
            return outputs if len(outputs) > 1 else outputs[0]

        return run
    return torch.export.load(io.BytesIO(content)).module()


def _inputs_to_check(actor: PlainActor, recorded: Tensor | None) -> tuple[Tensor, ...]:
    if recorded is None:
        return actor.random_inputs(RANDOM_OBSERVATIONS)
    if tuple(recorded.shape[1:]) != actor.observation_shape or recorded.dtype != actor.observation_dtype:
        wanted = f"(n, {', '.join(map(str, actor.observation_shape))}) of {actor.observation_dtype}"
        raise ValueError(f"observations must be {wanted}; got {tuple(recorded.shape)} of {recorded.dtype}")
    observation, *others = actor.random_inputs(RANDOM_OBSERVATIONS + len(recorded))
    return torch.cat([observation[:RANDOM_OBSERVATIONS], recorded.cpu()]), *others


def _difference(
    actor: PlainActor, run: Callable[..., Any], model: ActorValue | ActorQValue, observation: Tensor, *inputs: Tensor
) -> float:
    """The difference of `ExportReport`; the model's own actions are its TorchRL policy's on scaled observations."""
    policy = model.get_policy_operator()
    device = next(model.parameters()).device
    scaled = observation if actor.scaling is None else actor.scaling.apply(observation)
    step = TensorDict({policy.in_keys[0]: scaled.to(device)}, [len(scaled)])
    noise = inputs[-1:] if actor.sample else ()
    with torch.no_grad(), evaluating(model), set_exploration_type(ExplorationType.DETERMINISTIC):
        action = run(observation, *inputs)
        of_state = 0.0
        if actor.state_size:
            action, after = action
            of_state = _state_difference(actor, policy, step, inputs[0], after)
        return max(of_state, _action_difference(actor, policy, step, action, noise))


def _state_difference(actor: PlainActor, policy: Any, step: TensorDict, state: Tensor, after: Tensor) -> float:
    """The largest difference of a next state (B, m) from the policy's own; the states are put into `step`."""
    own = [each for states in actor.states(state).values() for each in states]
    keys = [key for key in policy.in_keys if str(key).startswith("recurrent_state")]
    step["is_init"] = torch.zeros(len(state), 1, dtype=torch.bool, device=step[policy.in_keys[0]].device)
    for key, value in zip(keys, own, strict=True):
        step[key] = value.to(step[policy.in_keys[0]])
    found = policy(step.copy())
    wanted = torch.cat([found["next", key].flatten(1) for key in keys], -1)
    return (after - wanted.cpu()).abs().max().item()


def _action_difference(
    actor: PlainActor, policy: Any, step: TensorDict, action: Tensor, noise: Sequence[Tensor]
) -> float:
    """The difference of `ExportReport` between these actions and the policy's own."""
    device = step[policy.in_keys[0]].device
    if actor.space.choices:
        scores = (policy.get_dist(step).logits.cpu() + sum(noise)).split(actor.space.choices, -1)  # (B, n_i) each
        pairs = zip(scores, action.unbind(-1), strict=True)
        return max((of.amax(-1) - of.gather(-1, index[:, None]).squeeze(-1)).max().item() for of, index in pairs)
    if actor.space.discrete:
        scores = policy.get_dist(step).logits.cpu() + sum(noise)  # (B, n)
        index = action.argmax(-1) if actor.space.one_hot else action
        return (scores.amax(-1) - scores.gather(-1, index[:, None]).squeeze(-1)).max().item()
    wanted = _drawn(policy.get_dist(step), noise[0].to(device)) if noise else policy(step)["action"]
    return ((action - wanted.cpu()).abs() / (actor.half_range if actor.space.bounded else 1)).max().item()


def _drawn(distribution: Any, noise: Tensor) -> Tensor:
    """The sample of TorchRL's TanhNormal or IndependentNormal for this noise."""
    if isinstance(distribution, IndependentNormal):
        return distribution.mean + distribution.stddev * noise
    normal = distribution.root_dist
    return distribution.transforms[0](normal.loc + normal.scale * noise)


def _extra(name: str) -> Any:
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
