"""A run's settings, composed of parts, and their flat keys.

    @dataclass
    class Experiment:
        learning: Any = part(TD3Settings)       # a part: a dataclass with settings of its own
        env: str = "toy"                        # a setting of the run itself

    keys = FlatKeys("TD3Experiment", Experiment, departures={"gamma": 0.98})
    settings = keys.compose({"env": "pendulum", "tau": 0.01})
    settings.learning.tau, settings.learning.gamma, settings.env            # 0.01, 0.98, "pendulum"
    flat(settings)                              # {..., "gamma": 0.98, "tau": 0.01, ..., "env": "pendulum"}
    changed(settings, gamma=0.9, env="toy")     # a copy with other values

In Python a part is a field of the run's settings. Everywhere else (command line, sweep, config.yaml, checkpoint, a
cell's key) the parts' settings stand beside the run's own, each under its flat key: `gamma`, not `learning.gamma`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from decouple.checks import Must, checked

__all__ = ["FlatKeys", "changed", "defaults_of", "flat", "part", "points_to_part", "sets_own_fields", "with_defaults"]

WITHOUT = "names of a part that are no keys"  # key in the metadata of a part's field

Settings = TypeVar("Settings")
Kind = TypeVar("Kind")
A_DATACLASS = Must(dataclasses.is_dataclass, "a dataclass")


class Key(NamedTuple):
    """A flat key: the part with the setting (None: the run itself), the setting's type and its default."""

    part: str | None
    type: Any
    default: Any


def part(kind: type, *, without: Collection[str] = ()) -> Any:
    """A field of a run's settings that holds a part.

    Args:
        kind: the part's dataclass, with a default for each setting.
        without: names in the part that have no flat key, because the run or another part has a setting of that name.
            They keep the part's default.
    """
    return dataclasses.field(default_factory=kind, metadata={WITHOUT: frozenset(without)})


def with_defaults(**defaults: Any) -> Callable[[type[Kind]], type[Kind]]:
    """A decorator, below `@dataclass`, that gives inherited fields other defaults without declaring them again.

    Raises:
        ValueError: a name that is not among the inherited fields.
    """

    def decorate(kind: type[Kind]) -> type[Kind]:
        inherited = {name: of for base in reversed(kind.__bases__) for name, of in typing.get_type_hints(base).items()}
        _known(defaults, inherited, kind.__name__)
        kind.__annotations__ = inspect.get_annotations(kind) | {name: inherited[name] for name in defaults}
        for name, value in defaults.items():
            setattr(kind, name, value)
        return kind

    return decorate


def points_to_part(settings: Any, name: str) -> Any:
    """The `__getattr__` of settings with parts: its error names the part with the setting, as `learning.gamma`.

    Raises:
        AttributeError: always; Python calls it only for attributes that the settings do not have.
    """
    says = f"{type(settings).__name__} has no attribute {name!r}"
    for field, value in vars(settings).items():
        if dataclasses.is_dataclass(value) and name in {own.name for own in dataclasses.fields(value)}:
            says += f"; it is in a part: {field}.{name}"
    raise AttributeError(says)


def sets_own_fields(settings: Any, name: str, value: Any) -> None:
    """The `__setattr__` of settings with parts: a part's setting is not set on the run, where nothing would read it.

    Raises:
        AttributeError: `name` is not a field of the run's settings; the error names the part with the setting.
    """
    if name not in type(settings).__dataclass_fields__:
        points_to_part(settings, name)
    object.__setattr__(settings, name, value)


@checked(settings=A_DATACLASS)
def flat(settings: Any) -> dict[str, Any]:
    """Flat key -> value, for the settings of a run and of its parts; copies."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if WITHOUT in field.metadata:
            own = dataclasses.asdict(value)
            values |= {name: own[name] for name in own if name not in field.metadata[WITHOUT]}
        else:
            values[field.name] = copy.deepcopy(value)
    return values


@checked(settings=A_DATACLASS)
def defaults_of(settings: Any) -> dict[str, Any]:
    """Flat key -> default in its class, for the settings of a run and of its parts; those without one are left out."""
    keys = _keys(type(settings), _parts_of(settings))
    return {name: key.default for name, key in keys.items() if key.default is not dataclasses.MISSING}


@checked(settings=A_DATACLASS)
def changed(settings: Settings, **values: Any) -> Settings:
    """A copy of a run's settings with some values changed, given by flat key; all settings are checked anew.

    Raises:
        ValueError: an unknown key, or a value that is not allowed.
    """
    keys = _keys(type(settings), _parts_of(settings))
    _known(values, keys, type(settings).__name__)
    own, of_parts = _sorted(values, keys)
    parts = {name: dataclasses.replace(getattr(settings, name), **each) for name, each in of_parts.items()}
    return dataclasses.replace(settings, **parts, **own)


@dataclass(frozen=True)
class FlatKeys:
    """The flat keys of one kind of run, each with its type and default.

    Args:
        name: name of this kind of run, for messages and for the dataclass that `structured` makes.
        settings: dataclass of the run's settings, in which each part is a field made with `part`.
        parts: field -> dataclass of that part; parts left out are as `settings` declares them.
        departures: flat key -> default that differs from the class's.
        settle: a function of all flat values, called before they become settings. It returns them with open choices
            (a value `auto`, None for "as the preset has it") replaced.

    Raises:
        ValueError: two settings with one name, or a departure from an unknown setting.
    """

    name: str
    settings: type
    parts: Mapping[str, type] = dataclasses.field(default_factory=dict)
    departures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settle: Callable[[dict[str, Any]], Mapping[str, Any]] = dict

    def __post_init__(self) -> None:
        _known(self.departures, self._keys(), self.name)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each flat key, in order; copies."""
        return copy.deepcopy({name: key.default for name, key in self._keys().items()} | dict(self.departures))

    @checked()
    def compose(self, values: Mapping[str, Any]) -> Any:
        """The run's settings, made from flat values; settings left out have their defaults.

        Raises:
            ValueError: an unknown key, or a value that is not allowed.
        """
        keys = self._keys()
        _known(values, keys, self.name)
        own, of_parts = _sorted(self.settle(self.defaults | dict(values)), keys)
        kinds = _parts_declared(self.settings) | dict(self.parts)
        parts = {name: kind(**of_parts.get(name, {})) for name, kind in kinds.items()}
        return self.settings(**parts, **own)

    def structured(self) -> type:
        """A plain dataclass with a field for each flat key, for Hydra's structured configs. It checks no values."""
        fields, keys = [], self._keys()
        for name, default in self.defaults.items():
            make = dataclasses.field(default_factory=lambda default=default: copy.deepcopy(default))
            fields.append((name, _widened(keys[name].type, default), make))
        return dataclasses.make_dataclass(self.name, fields)

    def _keys(self) -> dict[str, Key]:
        return _keys(self.settings, self.parts)


def _keys(settings: type, parts: Mapping[str, type]) -> dict[str, Key]:
    """All flat keys in order; a part's keys stand in the place of its field."""
    keys: dict[str, Key] = {}
    kinds, types_of_run = _parts_declared(settings) | dict(parts), typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if field.name in kinds:
            kind = kinds[field.name]
            hints, without = typing.get_type_hints(kind), field.metadata[WITHOUT]
            each = {f.name: Key(field.name, hints[f.name], _default(f)) for f in dataclasses.fields(kind)}
            new = {name: key for name, key in each.items() if name not in without}
        else:
            new = {field.name: Key(None, types_of_run[field.name], _default(field))}
        twice = sorted(keys.keys() & new.keys())
        if twice:
            raise ValueError(f"{', '.join(twice)} must be a setting of one part of {settings.__name__}, and no other")
        keys |= new
    return keys


def _parts_declared(settings: type) -> dict[str, Any]:
    fields = dataclasses.fields(settings)
    return {field.name: field.default_factory for field in fields if WITHOUT in field.metadata}


def _parts_of(settings: Any) -> dict[str, type]:
    """Field -> class, of a run's parts."""
    return {name: type(getattr(settings, name)) for name in _parts_declared(type(settings))}


def _sorted(values: Mapping[str, Any], keys: Mapping[str, Key]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The values of the run itself, and the values of each part."""
    own: dict[str, Any] = {}
    of_parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        where = keys[name].part
        (own if where is None else of_parts.setdefault(where, {}))[name] = value
    return own, of_parts


def _known(values: Collection[str], keys: Collection[str], of: str) -> None:
    unknown = [str(name) for name in values if name not in keys]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} must not be added: {of} has no such setting")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _widened(kind: Any, default: Any) -> Any:
    """A setting's type, widened to a default of another type: `auto`, or None for a value that is chosen later."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    plain = [typing.get_origin(one) or one for one in (typing.get_args(kind) if union else (kind,))]
    if Any in plain or any(isinstance(default, one) for one in plain):
        return kind
    return kind | None if default is None else Any
