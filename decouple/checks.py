"""Checks of arguments and settings: an error names the argument, what is allowed and what came.

    @checked(gamma=PROBABILITY, frames=at_least(1))
    def discounted(reward: Tensor, gamma: float, frames: int, seeds: Sequence[int] | None = None) -> Tensor: ...

    discounted(reward, -1, 8)       # ValueError: gamma must be in [0, 1]; got -1

The annotation gives an argument's type; a rule adds further conditions. `checked` is for functions and constructors
that users call now and then; code that runs at every environment step relies on arguments that were checked before.
`check_fields` does the same for the fields of a dataclass.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = [
    "ANY_NUMBER",
    "A_FILE",
    "DEVICE",
    "FLOAT32_MAX",
    "INT32_MAX",
    "POSITIVE_WHOLE",
    "PROBABILITY",
    "SEED",
    "SOME",
    "TEXTS_BY_NAME",
    "Must",
    "above",
    "all_of",
    "at_least",
    "axes",
    "between",
    "check_fields",
    "check_integer",
    "check_seeds",
    "check_setting",
    "check_switches",
    "checked",
    "distinct",
    "has",
    "inside",
    "one_of",
    "positive_whole",
    "shown",
]

INT32_MAX = 2**31 - 1  # the largest seed, and the largest count of anything
FLOAT32_MAX = float(np.finfo(np.float32).max)  # networks compute in float32: larger numbers are infinite to them

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Must:
    """A rule for an argument, beside its type: a predicate, and its words, which follow `must be` in an error."""

    allowed: Callable[[Any], Any]
    says: str
    any_number: bool = False  # numbers may be infinite, NaN, or integers beyond 32 bits


def between(low: float, high: float) -> Must:
    """A number in [low, high]."""
    return Must(lambda value: low <= value <= high, f"in [{low:,}, {high:,}]")


def inside(low: float, high: float) -> Must:
    """A number in (low, high), both ends excluded."""
    return Must(lambda value: low < value < high, f"between {low:,} and {high:,}")


def at_least(low: float) -> Must:
    """A number of at least `low`."""
    return Must(lambda value: value >= low, f"at least {low:,}")


def above(low: float) -> Must:
    """A number greater than `low`."""
    return Must(lambda value: value > low, "positive" if low == 0 else f"above {low:,}")


def one_of(*choices: Any) -> Must:
    """One of these values."""
    return Must(lambda value: value in choices, f"one of {', '.join(map(str, choices))}")


def all_of(rule: Must, *, least: int = 0) -> Must:
    """A sequence of at least `least` elements, each of which follows the rule."""
    number = f", {least} of them or more" if least else ""
    says = f"a sequence of elements {rule.says}{number}" if rule.says else f"a sequence of {least} or more"
    return Must(lambda values: len(values) >= least and all(map(rule.allowed, values)), says, rule.any_number)


def distinct(rule: Must, *, least: int = 1) -> Must:
    """A sequence whose elements follow the rule and differ from one another."""
    inner = all_of(rule, least=least)
    return Must(lambda values: inner.allowed(values) and len(set(values)) == len(values), f"{inner.says}, none twice")


def has(*keys: Any) -> Must:
    """A mapping with these keys."""
    return Must(
        lambda mapping: all(key in mapping for key in keys), f"a mapping with the keys {', '.join(map(str, keys))}"
    )


def axes(least: int, most: int | None = None, *, kind: str = "real") -> Must:
    """A tensor or an array with `least` to `most` axes, none of them empty; floats must be finite.

    `kind` is `float`, `integer`, or `real` for either.
    """
    most = least if most is None else most
    number = f"{least}" if least == most else f"{least} to {most}"

    def allowed(value: Any) -> bool:
        array = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        floating = array.is_floating_point()
        if not least <= array.ndim <= most or 0 in array.shape or array.is_complex() or array.dtype == torch.bool:
            return False
        return kind in ("real", "float" if floating else "integer") and not (floating and not array.isfinite().all())

    what = {"real": "numbers", "float": "floats", "integer": "integers"}[kind]
    return Must(allowed, f"an array of {number} axes of finite {what}, none of them empty")


PROBABILITY = between(0, 1)
SEED = between(0, INT32_MAX)
ANY_NUMBER = Must(lambda value: True, "", any_number=True)
SOME = Must(len, "not empty")
DEVICE = Must(torch.device, "a device that torch knows")
A_FILE = Must(lambda path: Path(path).name, "the path of a file")
TEXTS_BY_NAME = Must(
    lambda texts: isinstance(texts, Mapping) and all(isinstance(one, str) for pair in texts.items() for one in pair),
    "a mapping of strings to strings",
)


def positive_whole(value: object) -> bool:
    """Return whether the value is an integer of at least 1, and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


POSITIVE_WHOLE = Must(positive_whole, "a whole number, at least 1")


def check_setting(name: str, value: object, allowed: Must | Callable[..., Any], says: str = "") -> None:
    """Check a setting; raise ValueError with its name, what is allowed and what came.

    An array or a tensor is always refused; NaN fails every comparison.

    Args:
        name: the setting's name.
        value: the setting's value.
        allowed: a rule, or a predicate that `says` puts in words.
        says: words for the predicate, which follow `must be` in the error.
    """
    if isinstance(allowed, Must):
        allowed, says = allowed.allowed, allowed.says
    if isinstance(value, np.ndarray | torch.Tensor) or not _holds(allowed, value):
        raise ValueError(f"{name} must be {says}; got {shown(value)}")


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return the value as an int; ValueError with its name unless it is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}]; got {shown(value)}")
    return int(value)


def check_switches(**switches: object) -> None:
    """Check that each argument is True or False; ValueError with its name otherwise."""
    for name, value in switches.items():
        check_setting(name, value, lambda v: isinstance(v, bool), "True or False")


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds as a list; ValueError unless they are different integers in [0, 2**31), at least one."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(f"seeds must be a non-empty sequence of integers; got {shown(seeds)}")
    checked = [check_integer(f"seeds[{index}]", seed, 0, INT32_MAX) for index, seed in enumerate(seeds)]
    if len(set(checked)) != len(checked):
        raise ValueError(f"seeds must be different from one another; got {shown(seeds)}")
    return checked


def checked(**rules: Must) -> Callable[[Function], Function]:
    """Check a function's arguments at each call: each by its annotation, and by its rule where one is given.

    Refused, unless the rule allows any number, are floats that are NaN or infinite, and integers beyond 32 bits. A rule
    is not applied to None where the annotation names None; Any and a TypeVar do not. Defaults are not checked.

    Raises:
        ValueError: at the call, naming the argument, what is allowed and what came.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters
        assert rules.keys() <= parameters.keys(), f"no arguments of {function.__qualname__}: {rules.keys()}"
        positional = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        variadic = next((name for name, p in parameters.items() if p.kind == p.VAR_POSITIONAL), "")
        kinds: dict[str, Any] = {}

        def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not kinds:  # at the first call, since an annotation may name a class that is defined later
                kinds.update(_resolved(function))
            names = [*positional, *[variadic] * (len(args) - len(positional))]
            for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                if name in kinds or name in rules:
                    _check(name, value, kinds.get(name, Any), rules.get(name))

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return function(*args, **kwargs)

        # With the globals of the function's own module: doctest skips functions that seem to belong to another module.
        own = inspect.unwrap(function).__globals__
        rebuilt = types.FunctionType(wrapper.__code__, own, function.__name__, None, wrapper.__closure__)
        return functools.wraps(function)(rebuilt)  # pyright: ignore[reportReturnType]

    return decorate


def check_fields(settings: Any, prefix: str = "", /, **rules: Must) -> None:
    """Check a dataclass's fields from its `__post_init__`: each by its annotation, and by its rule where one is given.

    An error puts `prefix`, as `search.`, before the field's name.
    """
    kinds = _field_kinds(type(settings))
    for name in (field.name for field in fields(settings) if field.name in kinds):
        _check(f"{prefix}{name}", getattr(settings, name), kinds[name], rules.get(name))


def shown(value: object) -> str:
    """The text of a value in an error: type, shape and dtype of an array, the class of a module, long texts cut."""
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim > 0:
        return f"{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, torch.nn.Module):
        return f"a {type(value).__name__}"
    try:
        text = repr(value)
    except Exception:  # a caller's own __repr__ may raise anything
        return f"a {type(value).__name__}"
    return text if len(text) <= 400 else reprlib.repr(value)


# --------------------------------------------------------------------------------------------------------------- types


def _check(name: str, value: Any, kind: Any, rule: Must | None) -> None:
    any_number = rule is not None and rule.any_number
    if not _fits(value, kind, any_number):
        words = _words(kind, any_number)
        if isinstance(value, int) and abs(value) > INT32_MAX:
            words = words.replace("a whole number", "a whole number of 32 bits")
        raise ValueError(f"{name} must be {words}; got {shown(value)}")
    judged = value is not None or type(None) not in typing.get_args(kind)
    if rule is not None and judged and not _holds(rule.allowed, value):
        raise ValueError(f"{name} must be {rule.says}; got {shown(value)}")


def _holds(allowed: Callable[[Any], Any], value: Any) -> bool:
    try:
        return bool(allowed(value))
    except (TypeError, ValueError, AttributeError, OverflowError, RuntimeError):  # a type the predicate cannot judge
        return False


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments' annotations as types, without those whose names are imported for type checkers only."""
    own = inspect.unwrap(function)
    return _evaluated({k: v for k, v in own.__annotations__.items() if k != "return"}, own.__globals__)


@functools.cache
def _field_kinds(kind: type) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        module = inspect.getmodule(parent)
        kinds |= _evaluated(inspect.get_annotations(parent), vars(module) if module else {})
    return kinds


def _evaluated(annotations: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    kinds = {}
    for name, text in annotations.items():
        try:
            kinds[name] = eval(text, names) if isinstance(text, str) else text
        except NameError:
            continue
    return kinds


def _fits(value: Any, kind: Any, any_number: bool) -> bool:
    """Return whether a value fits an annotation's type; True where the annotation does not tell."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    plain = origin or kind
    if kind in (Any, object) or isinstance(kind, str | TypeVar):
        return True
    if kind is None or kind is type(None):
        return value is None
    if plain in (typing.Union, types.UnionType):
        return any(_fits(value, one, any_number) for one in inner)
    if plain is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is int:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return whole and (any_number or bool(-INT32_MAX <= value <= INT32_MAX))
    if kind is float:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        most = 2**53 if isinstance(value, int) else FLOAT32_MAX  # beyond 2**53 a float does not hold every integer
        return number and (any_number or bool(abs(value) <= most))
    if plain is Callable:
        return callable(value)
    if plain in (Sequence, list, tuple) and isinstance(value, np.ndarray):
        return value.ndim == 1 and _fits(value.tolist(), kind, any_number)
    if plain is list and isinstance(value, tuple):  # a tuple serves as well
        value = list(value)
    if plain is tuple and inner and inner[-1] is Ellipsis and isinstance(value, list):
        value = tuple(value)
    if plain is Sequence and isinstance(value, torch.nn.ModuleList | torch.nn.Sequential):
        value = list(value)
    if plain is tuple and isinstance(value, tuple) and inner:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return len(kinds) == len(value) and all(map(_fits, value, kinds, [any_number] * len(value)))
    if plain in (Sequence, list, Collection, Iterable):
        if isinstance(value, str | bytes | Mapping | torch.Tensor | np.ndarray) or not isinstance(value, plain):
            return False
        members = [*value[:1], *value[-1:]] if isinstance(value, range) else value  # its ends tell of all numbers
        return not inner or isinstance(value, Iterator) or all(_fits(one, inner[0], any_number) for one in members)
    if plain in (Mapping, dict) and isinstance(value, plain) and inner:
        of_key, of_value = inner
        return all(_fits(k, of_key, any_number) and _fits(v, of_value, any_number) for k, v in value.items())
    if plain is os.PathLike:
        return hasattr(value, "__fspath__")
    if getattr(plain, "_is_protocol", False):
        members = {*vars(plain), *inspect.get_annotations(plain)}
        return all(hasattr(value, name) for name in members if not name.startswith("_"))
    if not isinstance(plain, type):
        return True
    return isinstance(value, plain)


def _words(kind: Any, any_number: bool) -> str:
    """An annotation's type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    plain = origin or kind
    if plain in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(one, any_number) for one in inner))
    if plain is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    named = {
        Any: "one",
        object: "one",
        None: "None",
        type(None): "None",
        bool: "True or False",
        int: "a whole number",
        str: "a string",
    }
    named |= {float: "a number" if any_number else "a finite number", os.PathLike: "a path", Callable: "a function"}
    if plain in named:
        return named[plain]
    if plain in (Sequence, list, tuple, Collection, Iterable) and inner:
        return f"a {'tuple' if plain is tuple else 'sequence'} of [{_words(inner[0], any_number)}]"
    if plain in (Mapping, dict) and inner:
        return f"a mapping of [{_words(inner[0], any_number)}] to [{_words(inner[1], any_number)}]"
    return f"a {plain.__name__}" if isinstance(plain, type) else "one"
