"""A fuzz of arguments: every public function, constructor and setting, with one argument replaced by a bad value.

    PYTHONPATH=. python tests/fuzz_arguments.py                  # all of it: the table of shares
    PYTHONPATH=. python tests/fuzz_arguments.py --only statistics --sample 300
    PYTHONPATH=. python tests/fuzz_arguments.py --show unnamed     # the calls of one share

A call is one of four. **clear**: an error that the package raises itself, and that names the argument. **meant**:
accepted, and the value means something there (`suits`, `RANGES`). **meaningless**: accepted, and it does not.
**unnamed**: an error that the package raises, or that falls out of one of its lines, and that does not name the
argument. **inside**: an error out of torch, tensordict, NumPy or Python, or no end within `SECONDS` of the processor.

Left out by rule (`valid_calls.LEFT_OUT`): what is called per step or per minibatch, records that the package fills,
what takes a checkpoint's state, methods whose signature is TorchRL's.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import dataclasses
import dis
import functools
import gc
import importlib
import inspect
import io
import math
import os
import pkgutil
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import valid_calls
from commands import composing
from tensordict import NestedKey
from torch import nn

import decouple
from decouple.commands.folders import CONFIGS
from decouple.commands.procgen import experiment_of
from decouple.commands.settings import control_settings
from decouple.runs.settings import flat
from decouple.studies.actor_size.smallest_actor import SearchSettings
from decouple.studies.any_task.study import TaskStudy
from decouple.studies.distillation.settings import distillation

# Arguments that a message may call by the word which the docstring uses.
OTHER_NAMES = {
    **{"where": "runs", "folders": "runs"},  # the setting of the report that hands them on
    **{"metrics": "metric", "result": "metric"},  # one of them, by its name
    "cells": "line",  # of a table's file: the message names the file, the line and the column
    **{"expect": "settings", "identity": "settings", "policy_blocks": "stack", "value_blocks": "stack"},
    **{"policy_keys": "branch", "value_keys": "branch", "name": "performance"},
}
KINDS = ("clear", "meant", "meaningless", "unnamed", "inside")
SECONDS = 10.0
PACKAGE = Path(decouple.__file__).parent


class Tried(NamedTuple):
    """One call: what was replaced by what, and what came of it."""

    kind: str
    name: str
    argument: str
    value: str
    error: str


# -------------------------------------------------------------------------------------------------------- bad values


def bad_values(valid: Any = None) -> list[Any]:
    """Wrong types, and of the right ones wrong numbers, sizes and contents; `valid` adds misshapen copies of itself."""
    numbers = [0, -1, 1, 3, 2**31, 10**30, 0.5, -0.5, 1.5, 1e-300, 1e301, math.nan, math.inf, -math.inf, 1j]
    numbers += [True, False, np.int64(-2), np.float32("nan")]
    texts = ["", "x", "1", "nan", b"x", Path("missing/x")]
    several = [[], [0], [-1], [0, 0], [0.5], [math.nan], ["x"], [None], [[0]], [0, "x"], (), (0,), (3, 3), {}, {"x": 1}]
    several += [{0: 1}, {"x": None}, {0}, range(0), iter(())]
    arrays = [np.array(1.0), np.zeros(3), np.zeros((0, 3)), np.array(["x"])]
    arrays += [torch.tensor(1.0), torch.zeros(3), torch.zeros(0), torch.full((2,), math.nan), torch.zeros(2, 3).long()]
    others = [None, object(), int, lambda *a, **k: None, ..., nn.Linear(2, 2), nn.Identity()]
    found = [*numbers, *texts, *several, *arrays, *others]
    if isinstance(valid, torch.Tensor) and valid.ndim:
        found += [valid[None], valid[:0], valid[..., :-1], valid[0], valid.double() * math.nan, valid > 0]
        found += [valid.to(torch.complex64), valid.tolist(), valid.numpy()]
    if isinstance(valid, list | tuple) and valid:
        found += [[*valid, valid[0]], valid[0], [*valid, None], dict(enumerate(valid))]
    if isinstance(valid, dict) and valid:
        found += [dict.fromkeys(valid), dict.fromkeys(valid, math.nan), {key: [] for key in valid}, list(valid)]
        found += [{name: dict.fromkeys(of) if isinstance(of, dict) else "x" for name, of in valid.items()}]
    return found


# --------------------------------------------------------------------------------------------------- what suits where


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda v: least <= v < 2**31


def _share(v: float) -> bool:
    return 0 <= v <= 1


def _positive(v: float) -> bool:
    return v > 0


def _not_negative(v: float) -> bool:
    return v >= 0


# By an argument's name, or by `name.argument`: what a number, or a sequence, must be to mean something.
RANGES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(["gamma", "gae_lambda", "tau", "policy_gradient", "value_gradient", "scale"], _share),
    **dict.fromkeys(
        ["delta", "learning_rate", "epsilon", "adam_epsilon", "clip", "clip_epsilon", "clip_value"], _positive
    ),
    **dict.fromkeys(["max_grad_norm", "alpha", "alpha_init", "sigma", "lease", "time_scale", "cpus"], _positive),
    **dict.fromkeys(["frequency", "upscale"], _positive),
    **dict.fromkeys(
        ["tolerance", "damping", "coeff", "value_coeff", "entropy_coeff", "advantage_coeff"], _not_negative
    ),
    **dict.fromkeys(["order_coeff", "exploration_noise", "target_noise", "target_noise_clip"], _not_negative),
    **dict.fromkeys(["gain", "policy_gain", "value_gain", "actor_gain", "critic_gain"], _not_negative),
    **dict.fromkeys(["actor_head_gain", "critic_head_gain", "reward_scale"], _not_negative),
    **dict.fromkeys(["confidence", "backtrack_coeff", "tail"], lambda v: 0 < v < 1),
    "seconds": _not_negative,
    "value_bias.tail": lambda v: 0 <= v < 1,
    **dict.fromkeys(["dormant_share.tau", "Representation.tau"], _not_negative),
    "RunningRewardScaling.epsilon": _not_negative,
    "threshold": lambda v: True,
    "baseline": lambda v: True,
    "target_entropy": lambda v: True,
    "spread": _not_negative,
    **dict.fromkeys(
        [
            "seed",
            "first_seed",
            "teacher_seed",
            "index",
            "start_level",
            "extra_features",
            "slack",
            "initial",
            "depth",
            "resume_frames",
        ],
        _whole(0),
    ),
    **dict.fromkeys(["continuous", "worker_id", "num_levels", "learning_starts", "begins"], _whole(0)),
    "needed": lambda v: True,
    "splitmix64.state": lambda v: True,  # its lowest 64 bits count
    "training_fingerprints.num_levels": _whole(1),
    "held_out_every": _whole(2),
    **dict.fromkeys(["low", "high", "value", "at"], lambda v: True),
    **dict.fromkeys(["separation", "log.frames", "rows_up_to.frames"], _whole(0)),
    **dict.fromkeys(["Stream.seed", "stream_seed.seed", "stream_seed.index"], lambda v: -(2**63) <= v < 2**64),
    **dict.fromkeys(
        ["seeds"], lambda v: not hasattr(v, "__len__") or (len(v) > 0 and len(set(v)) == len(v) and min(v) >= 0)
    ),
    "SeedNoise.seeds": len,  # any integers, equal ones too: splitmix64 mixes their lowest 64 bits
    **dict.fromkeys(
        ["sizes.sizes", "size_name.size", "size_order.size", "sizes_name.sizes"], lambda v: all(x >= 1 for x in v)
    ),
    **dict.fromkeys(
        ["actor", "critic", "smallest_actor.baseline", "search_steps.baseline", "smallest_student.of_size"],
        lambda v: all(x >= 1 for x in v),
    ),
    **dict.fromkeys(["hidden_sizes", "channels", "batch_sizes", "branches"], lambda v: len(v) > 0 and min(v) >= 1),
    "RunningMoments.size": lambda v: all(x >= 1 for x in v),
    **dict.fromkeys(["agents"], lambda v: len(v) > 0 and len(set(v)) == len(v)),
    **dict.fromkeys(
        ["runtimes", "models", "policy_blocks", "value_blocks", "layers", "groups", "phases", "modules"], len
    ),
}
NOT_FINITE = {  # where a number that is not finite has its meaning
    *(
        ("return_text", "value"),
        ("spread_text", "spread"),
        ("csv_cell", "value"),
        ("rounded_threshold", "baseline"),
        ("SearchSettings", "threshold"),
    ),
    *(("RunningRewardScaling", "clip"), ("is", "max_norm"), ("hopeless", "needed"), ("stopped_at", "needed")),
}
EMPTY_SUITS = {  # sequences and mappings that may be empty
    "phases",  # a training that collects and evaluates alone
    *("cells", "pairs", "rules", "always", "leave_out", "make_envs", "tags", "of_size"),
    *(
        "policy_keys",
        "value_keys",
        "keys",
        "titles",
        "options",
        "facts",
        "config",
        "metadata",
        "comparisons",
        "additional_args",
    ),
    *(
        "branches",
        "seen",
        "policy_blocks",
        "value_blocks",
        "state",
        "expect",
        "identity",
        "latency",
        "studies",
        "sections",
    ),
    *(
        "published",
        "parameters",
        "searches",
        "paper",
        "by_range",
        "scores",
        "reference",
        "rows",
        "curves",
        "aggregates",
    ),
    *("profiles", "frames", "values", "configs", "metrics", "result", "actor", "critic", "size", "sizes", "baseline"),
    *("cost", "value", "parameters", "lines", "by_name", "size_order", "measures", "branches", "ranges", "thresholds"),
    *("env_kwargs", "defaults", "record", "failed"),
    "batch",  # of one environment, as torch.Size([])
    "old_rules.settings",  # no setting that a rule concerns
}
LIST_SUITS = {  # where a list serves as a tuple of any length: it is kept as a tuple, or only its elements are read
    *("AgentActions.branches", "Cell.actor", "Cell.critic", "RunningMoments.size", "beside.critic"),
}


def suits(name: str, argument: str, kind: Any, value: Any) -> bool:
    """Whether a value that was accepted means something as this argument: of its type, and within its range."""
    own = name.rpartition(".")[2]
    if f"{own}.{argument}" in LIST_SUITS and isinstance(value, list):
        value = tuple(value)
    return _of_type(value, kind) and _in_range(own, argument, kind, value)


def _in_range(name: str, argument: str, kind: Any, value: Any) -> bool:
    if isinstance(value, bool | str | bytes | Path) or value is None or callable(value):
        return True
    allowed = RANGES.get(f"{name}.{argument}", RANGES.get(argument))
    if isinstance(value, int | float | np.number):
        if not math.isfinite(value) or abs(value) > 3.5e38:
            return (name, argument) in NOT_FINITE
        if allowed is None:
            allowed = _whole(1) if int in (kind, *typing.get_args(kind)) else lambda v: True
    if value.size == 0 if isinstance(value, np.ndarray) else isinstance(value, Sequence | Mapping) and not value:
        return not EMPTY_SUITS.isdisjoint([argument, f"{name}.{argument}"])
    try:
        return allowed is None or bool(allowed(value))
    except Exception:
        return False


def _of_type(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, inspect.Parameter.empty, object) or isinstance(kind, str | typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_of_type(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float | np.number) and not isinstance(value, bool | complex)
    if (origin or kind) is os.PathLike:
        return isinstance(value, Path)
    if kind is NestedKey:  # a name, or a tuple of names; an empty one names nothing
        return isinstance(value, NestedKey) and len(value) > 0
    if origin is collections.abc.Callable:
        return callable(value)
    base = origin or kind
    if isinstance(base, type) and isinstance(value, np.ndarray) and issubclass(base, Sequence) and inner:
        return value.ndim == 1 and all(_of_type(one, inner[0]) for one in value)
    if not isinstance(base, type) or getattr(base, "_is_protocol", False):
        return True
    base = (list, tuple) if base is list else base  # a setting that Hydra wants declared as a list
    if not isinstance(value, base) or (isinstance(value, str | bytes) and base not in (str, bytes)):
        return False
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(_of_type(k, inner[0]) and _of_type(v, inner[1]) for k, v in value.items())
    if isinstance(value, tuple) and inner and inner[-1] is not Ellipsis and base is tuple:
        return len(value) == len(inner) and all(map(_of_type, value, inner))
    if isinstance(value, Sequence) and inner:
        return all(_of_type(one, inner[0]) for one in value)
    return True


# -------------------------------------------------------------------------------------------------------- public names


@functools.cache
def public_names() -> list[tuple[str, Any]]:
    """`name` and `Class.method` of all that the modules say is public; `room.file.name` where two share a name."""
    found = []
    for info in sorted(pkgutil.walk_packages([str(PACKAGE)], "decouple."), key=lambda info: info.name):
        if info.ispkg or info.name.rpartition(".")[2].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        place = ".".join(info.name.split(".")[-2:])
        own = [
            n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == info.name
        ]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if inspect.isclass(value):
                found.append((place, name, value))
                for method, of in vars(value).items():
                    if inspect.isfunction(of) and not method.startswith("_") and len(parameters(of)) > 1:
                        found.append((place, f"{name}.{method}", of))
            elif inspect.isfunction(value) and (parameters(value)):
                found.append((place, name, value))
    times = collections.Counter(name for _, name, _ in found)
    shared = {name for name in times if times[name.partition(".")[0]] > 1}
    return [(f"{place}.{name}" if name in shared else name, value) for place, name, value in found]


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that are called by name."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {n: p for n, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def left_out(name: str) -> bool:
    """By a rule of `valid_calls`."""
    of, _, method = name.rpartition(".")
    if name in valid_calls.NAMES_LEFT_OUT or not of or name in valid_calls.CALLS:
        return name in valid_calls.NAMES_LEFT_OUT
    return method in valid_calls.METHODS_LEFT_OUT or of in valid_calls.NAMES_LEFT_OUT


def kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each argument; a string where an annotation cannot be read."""
    if dataclasses.is_dataclass(function):
        found: dict[str, Any] = {}
        for parent in reversed(function.__mro__):  # pyright: ignore
            names = vars(sys.modules[parent.__module__])
            found |= {n: _evaluated(a, names) for n, a in inspect.get_annotations(parent).items()}
        return found
    of = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    return {n: _evaluated(a, of.__globals__) for n, a in getattr(of, "__annotations__", {}).items()}


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation
    except NameError:
        return annotation


# ----------------------------------------------------------------------------------------------------------- the calls


class Endless(BaseException):
    """The call did not end in time."""


@contextlib.contextmanager
def quiet(seconds: float = 0.0) -> Iterator[None]:
    """No warnings, no output, and an end after so many seconds of the processor, or sixty times as many; 0: none."""
    clock, processor = time.monotonic(), time.process_time()

    def end(*_: Any) -> None:
        if time.process_time() - processor >= seconds or time.monotonic() - clock >= 60 * seconds:
            raise Endless
        signal.setitimer(signal.ITIMER_REAL, seconds)  # others had the processor

    before = signal.signal(signal.SIGALRM, end)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Call it; what is made lazily is begun, and what is open is closed."""
    own = dict(arguments)
    result = function(own.pop("self"), **own) if "self" in own else function(**own)
    if inspect.isgenerator(result):
        next(result)
        result.close()
    elif hasattr(result, "close") and not isinstance(result, types.ModuleType):
        with contextlib.suppress(Exception):
            result.close()


def classify(error: BaseException, argument: str, value: Any, kind: Any = Any) -> str:
    """Whose error it is, and whether it names the argument; a file of this path is named by its path."""
    if isinstance(error, Endless | MemoryError | RecursionError):
        return "inside"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    text = str(error)
    named = re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", text) is not None
    if type(error).__module__.startswith(("omegaconf", "hydra")):
        return "clear" if named or argument in text else "unnamed"
    file = Path(frame.f_code.co_filename)
    ours = PACKAGE in file.parents
    if not ours:
        # A file that is not there is said so by the system, with its name.
        says_file = isinstance(error, OSError) and error.filename is not None and isinstance(value, str | Path)
        return "clear" if says_file and str(value) in str(error.filename) else "inside"
    named = named or OTHER_NAMES.get(argument, argument) in text
    if isinstance(error, OSError | decouple.CheckpointError) and isinstance(value, str | Path):
        named = named or str(value) in text
    if isinstance(value, str | Path) and (_is(kind, Path) or _is(kind, os.PathLike)):
        named = named or re.match(rf"{re.escape(str(Path(value)))}(?!\w)", text) is not None
    raised = last is not None and frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    if named and (raised or isinstance(error, OSError)):
        return "clear"
    return "unnamed" if raised else "inside"


def _is(kind: Any, wanted: Any) -> bool:
    """Whether an annotation is this type, or a union with it."""
    return (typing.get_origin(kind) or kind) is wanted or any(_is(one, wanted) for one in typing.get_args(kind))


def trials(name: str, function: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """The arguments of a call, and the positions of the bad values for each."""
    with quiet():
        valid = valid_calls.CALLS[name]()
    for argument, parameter in parameters(function).items():
        if argument != "self":
            given = valid.get(argument, parameter.default)
            yield from ((argument, index) for index in range(len(bad_values(given))))


@functools.cache
def lacking(name: str) -> str | None:
    """What a valid call of this name fails with on this machine, as a package that is not installed."""
    with quiet():
        try:
            call(dict(public_names())[name], valid_calls.CALLS[name]())
        except ImportError as error:
            return str(error)
    return None


def attempt(name: str, function: Callable[..., Any], argument: str, index: int) -> Tried | None:
    """One call with one bad value; None where it tells nothing of the package."""
    torch.manual_seed(0)
    error: BaseException | None = None
    with quiet():
        arguments = valid_calls.CALLS[name]()
        default = parameters(function)[argument].default
        value = bad_values(arguments.get(argument, default))[index]
    arguments[argument] = value
    try:
        with quiet(SECONDS):
            call(function, arguments)
    except (Exception, Endless, SystemExit) as caught:
        error = caught
    if isinstance(error, ImportError) and str(error) == lacking(name):
        error = None  # it came as far as a valid call does
    if error is None:
        meant = suits(name, argument, kinds(function).get(argument, Any), value)
        kind = "meant" if meant else "meaningless"
    else:
        kind = classify(error, argument, value, kinds(function).get(argument, Any))
        if kind in ("unnamed", "inside") and callable(value) and "Callable" in str(kinds(function).get(argument)):
            return None  # a function of the caller's own, and its own error
    text = "" if error is None else f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    return Tried(kind, name, argument, _shown(value), text)


def _shown(value: Any) -> str:
    text = (
        f"{type(value).__name__}{tuple(value.shape)}" if isinstance(value, torch.Tensor | np.ndarray) else repr(value)
    )
    return re.sub(r"\s+", " ", text)[:60]


def _wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def all_trials(only: Sequence[str] = ()) -> list[tuple[str, Callable[..., Any], str, int]]:
    """Every call there is, in order."""
    return [
        (name, function, argument, index)
        for name, function in public_names()
        if not left_out(name) and _wanted(f"{function.__module__}.{name}", only)
        for argument, index in trials(name, function)
    ]


# ------------------------------------------------------------------------------------------------- settings of scripts


TEXTS = [
    "null",
    "true",
    "-1",
    "0",
    "0.5",
    "3",
    "nan",
    "inf",
    "-inf",
    "1e301",
    "2147483648",
    "x",
    "''",
    "[]",
    "[0]",
    "{}",
]
TEXTS += ["[-1]", "[x]", "[[1]]", "{x:1}", "???"]


class Script(NamedTuple):
    """A script of experiments/: its folder of configurations, and what is given in each call."""

    configs: str
    given: tuple[str, ...] = ()


LEARNERS = ("sac", "td3", "ddpg", "ppo", "daac", "idaac", "trpo")
SCRIPTS = {
    **{f"control {a}": Script("control", (f"algorithm={a}",)) for a in LEARNERS},
    "smallest_actor": Script("control", ("algorithm=td3",)),
    "separation": Script("control", ("algorithm=ppo",)),
    "toy": Script(""),
    "distill": Script("", ("checkpoint=x", "actor=[4]")),
    "procgen": Script(""),
    "export": Script("readers", ("checkpoint=x",)),
    "report": Script("readers", ("runs=x",)),
    "representation": Script("readers", ("checkpoint=x",)),
    "size_report": Script("readers"),
}


BESIDE = {
    "smallest_actor": ("search", SearchSettings),
    "separation": ("study", TaskStudy),
    "distill": ("search", SearchSettings),
}  # beside an agent's settings


@functools.lru_cache(maxsize=1)
def composed(script: str) -> Any:
    """The configuration of a script as Hydra composes it."""
    with composing(script.partition(" ")[0]) as configuration:
        return configuration(*SCRIPTS[script].given)


def settings_of(script: str, key: str, text: str) -> Any:
    """The settings that a script makes of its configuration, one of them given on the command line."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import ConfigCompositionException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name, config = script.partition(" ")[0], copy.deepcopy(composed(script))
    OmegaConf.set_struct(config, True)
    if key:
        override = f"{key}={text}"
        try:
            OmegaConf.update(config, key, OverridesParser.create().parse_override(override).value())
        except OmegaConfBaseException as error:  # as Hydra says it
            raise ConfigCompositionException(f"Error merging override {override}") from error
    if name in BESIDE:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        group, kind = BESIDE[name]
        beside = kind(**plain.pop(group))
        return beside, distillation(**plain) if name == "distill" else control_settings(plain)
    return {"control": control_settings, "procgen": experiment_of}.get(name, OmegaConf.to_object)(config)


@functools.cache
def script_settings(script: str) -> tuple[str, ...]:
    """Every setting of a script, as one writes it on the command line; not those that choose a file of Hydra's."""
    from omegaconf import DictConfig, OmegaConf

    folder = CONFIGS / SCRIPTS[script].configs
    with quiet():
        config = composed(script)

    def keys(node: Any, prefix: str = "") -> Iterator[str]:
        for key in node:
            child = None if OmegaConf.is_missing(node, key) else node[key]
            if isinstance(child, DictConfig):
                yield from keys(child, f"{prefix}{key}.")
            elif prefix or not (folder / key).is_dir():
                yield f"{prefix}{key}"

    return tuple(keys(config))


def setting_trials(only: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Every setting of every script, and the texts for each; what two algorithms share is tried with the first."""
    found: dict[tuple[str, str], str] = {}
    for script in SCRIPTS:
        if _wanted(f"scripts.{script}", only):
            for key in script_settings(script):
                found.setdefault(("control" if SCRIPTS[script].configs == "control" else script, key), script)
    return [(script, key, text) for (_, key), script in found.items() for text in TEXTS]


def attempt_setting(script: str, key: str, text: str) -> Tried:
    """One script with one setting replaced."""
    error: BaseException | None = None
    settings: Any = None
    try:
        with quiet(SECONDS):
            settings = settings_of(script, key, text)
    except (Exception, Endless, SystemExit) as caught:
        error = caught
    name = key.rpartition(".")[2]
    if error is None:
        owner = settings[not key.startswith("search.")] if isinstance(settings, tuple) else settings
        value, of_parts = flat(owner).get(name), getattr(owner, "learning", None)
        own = kinds(type(owner)) | (kinds(type(of_parts)) if of_parts else {})
        meant = suits(f"{script}.{type(owner).__name__}", name, own.get(name, Any), value)
        kind = "meant" if meant else "meaningless"
    else:
        kind = classify(error, name, text)
    said = "" if error is None else f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    return Tried(kind, f"scripts.{script}", key, text, said)


# ---------------------------------------------------------------------------------------------------------------- runs


def fuzz(only: Sequence[str] = (), sample: int | None = None, seed: int = 0, *, scripts: bool = True) -> list[Tried]:
    """Try all calls, or a sample of them drawn with this seed, in a folder of its own."""
    before, threads = Path.cwd(), torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several wait for each other, at the cost of the processor's time
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            calls: list[tuple[Callable[..., Tried | None], tuple]] = [(attempt, one) for one in all_trials(only)]
            if scripts:
                calls += [(attempt_setting, one) for one in setting_trials(only)]
            if sample is not None and sample < len(calls):
                kept = sorted(random.Random(seed).sample(range(len(calls)), sample))
                calls = [calls[index] for index in kept]
            found = []
            for number, (run, one) in enumerate(calls):
                found.append(run(*one))
                if number % 500 == 0:
                    gc.collect()
            return [one for one in found if one is not None]
        finally:
            os.chdir(before)
            torch.set_num_threads(threads)


def shares(found: Sequence[Tried]) -> str:
    """The table: how many calls of each kind, and their share."""
    counts = collections.Counter(one.kind for one in found)
    return "\n".join(f"{kind:12}{counts[kind]:8,}{counts[kind] / max(1, len(found)):8.1%}" for kind in KINDS)


def main() -> None:
    """See the module's page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", default="")
    parser.add_argument("--no-scripts", action="store_true")
    options = parser.parse_args()
    found = fuzz(options.only, options.sample, options.seed, scripts=not options.no_scripts)
    for one in found:
        if one.kind in options.show.split(","):
            print(f"{one.kind}: {one.name}({one.argument}={one.value}) {one.error}")
    print(f"{len(found):,} calls\n{shares(found)}")


if __name__ == "__main__":
    main()
