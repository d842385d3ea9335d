"""settings.py: a run's settings composed of parts, and their flat keys."""

from __future__ import annotations

import dataclasses
import pickle
import typing
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from decouple.checks import PROBABILITY, check_fields
from decouple.runs.settings import (
    FlatKeys,
    changed,
    defaults_of,
    flat,
    part,
    points_to_part,
    sets_own_fields,
    with_defaults,
)


@dataclass
class Slow:
    """Settings of an algorithm."""

    gamma: float = 0.9
    steps: int = 10
    clip: float | None = 0.2
    algorithm: str = "slow"

    def __post_init__(self) -> None:
        check_fields(self, gamma=PROBABILITY)


@dataclass
@with_defaults(gamma=0.5)
class Fast(Slow):
    """Settings of another one."""

    jumps: int = 2


@dataclass(frozen=True)
class Machine:
    """Where it runs."""

    device: str = "cpu"
    steps: int = 1


@dataclass
class Experiment:
    """A run's settings."""

    learning: Any = part(Slow, without=("algorithm",))
    env: str = "toy"
    algorithm: str = "slow"
    sizes: list[int] = field(default_factory=lambda: [4, 4])
    machine: Machine = part(Machine, without=("steps",))

    def __post_init__(self) -> None:
        check_fields(self)

    __getattr__, __setattr__ = points_to_part, sets_own_fields


SLOW = FlatKeys("SlowExperiment", Experiment)
FAST = FlatKeys(
    "FastExperiment", Experiment, {"learning": Fast}, {"algorithm": "fast", "sizes": [8], "steps": 20, "device": None}
)


def test_flat_values_become_parts_and_come_back():
    settings = SLOW.compose({"gamma": 0.8, "env": "pendulum", "device": "cuda"})
    assert settings == Experiment(Slow(gamma=0.8), env="pendulum", machine=Machine("cuda"))
    assert flat(settings) == {
        **{"gamma": 0.8, "steps": 10, "clip": 0.2},
        **{"env": "pendulum", "algorithm": "slow", "sizes": [4, 4], "device": "cuda"},
    }
    assert list(flat(settings)) == ["gamma", "steps", "clip", "env", "algorithm", "sizes", "device"]
    assert SLOW.compose(flat(settings)) == settings and pickle.loads(pickle.dumps(settings)) == settings


def test_flat_values_and_defaults_are_copies():
    settings = SLOW.compose({})
    flat(settings)["sizes"].append(1)
    SLOW.defaults["sizes"].append(1)
    FAST.defaults["sizes"].append(1)
    FAST.structured()().sizes.append(1)  # pyright: ignore[reportAttributeAccessIssue]
    assert settings.sizes == SLOW.compose({}).sizes == [4, 4] and FAST.defaults["sizes"] == [8]
    assert FAST.structured()().sizes == [8]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_part_may_be_of_another_class_with_departures_from_its_defaults():
    settings = FAST.compose({"device": "cpu"})
    assert settings.learning == Fast(gamma=0.5, steps=20, jumps=2) and settings.algorithm == "fast"
    assert settings.sizes == [8]
    assert FAST.defaults | {"device": "cpu"} == flat(settings)
    assert defaults_of(settings) == flat(Experiment(Fast()))  # as the classes have them


def test_a_key_that_there_is_not_is_refused_by_name():
    for unknown in ("gama", "learning", "jumps"):
        with pytest.raises(ValueError, match=f"{unknown} must not be added: SlowExperiment has no such setting"):
            SLOW.compose({"gamma": 0.8, unknown: 1})
        with pytest.raises(ValueError, match=f"{unknown} must not be added: Experiment has no such setting"):
            changed(SLOW.compose({}), **{unknown: 1})
    with pytest.raises(ValueError, match="jumps must not be added: SlowExperiment"):
        FlatKeys("SlowExperiment", Experiment, departures={"jumps": 3})


def test_two_settings_of_one_name_are_refused():
    @dataclass
    class Both:
        learning: Any = part(Slow)
        machine: Machine = part(Machine)

    @dataclass
    class Again:
        learning: Any = part(Slow)
        gamma: float = 0.1

    with pytest.raises(ValueError, match="steps must be a setting of one part of Both"):
        FlatKeys("Both", Both)
    with pytest.raises(ValueError, match="gamma must be a setting of one part of Again"):
        FlatKeys("Again", Again)


def test_values_are_checked_by_the_part_that_they_are_of():
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]; got 2"):
        SLOW.compose({"gamma": 2})
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]; got 2"):
        changed(SLOW.compose({}), gamma=2)


def test_a_setting_asked_of_the_run_is_told_to_be_in_its_part():
    settings = Experiment()
    with pytest.raises(AttributeError, match=r"'gamma'; it is in a part: learning\.gamma$"):
        settings.gamma  # noqa: B018
    with pytest.raises(AttributeError, match=r"Experiment has no attribute 'nothing'$"):
        settings.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"'gamma'; it is in a part: learning\.gamma$"):
        settings.gamma = 0.1
    settings.env = "other"
    assert settings.env == "other"
    assert not hasattr(settings, "gamma") and pickle.loads(pickle.dumps(settings)) == settings


def test_a_changed_copy_leaves_the_settings_as_they_were():
    settings = FAST.compose({"device": "cpu"})
    other = changed(settings, gamma=0.1, jumps=3, env="pendulum", device="cuda")
    assert flat(other) == flat(settings) | {"gamma": 0.1, "jumps": 3, "env": "pendulum", "device": "cuda"}
    assert type(other.learning) is Fast and settings.learning.gamma == 0.5 and settings.env == "toy"


def test_what_some_values_leave_open_is_settled_before_they_are_checked():
    def settle(values: dict[str, Any]) -> dict[str, Any]:
        assert values.keys() == flat(Experiment()).keys()
        return values | {"clip": 0.3 if values["env"] == "toy" else None} if values["clip"] == "auto" else values

    keys = FlatKeys("Settled", Experiment, departures={"clip": "auto"}, settle=settle)
    assert keys.compose({}).learning.clip == 0.3
    assert keys.compose({"env": "pong"}).learning.clip is None
    assert keys.compose({"clip": 0.1}).learning.clip == 0.1


def test_a_structured_config_has_the_names_types_and_defaults():
    structured = FAST.structured()
    assert structured.__name__ == "FastExperiment" and dataclasses.asdict(structured()) == FAST.defaults
    kinds = typing.get_type_hints(structured)
    assert list(kinds) == [*("gamma", "steps", "clip", "jumps"), *("env", "algorithm", "sizes", "device")]
    assert kinds["gamma"] is float and kinds["steps"] is int and kinds["sizes"] == list[int]
    assert kinds["clip"] == float | None and kinds["device"] == str | None  # since its default is None
    auto = FlatKeys("Auto", Experiment, departures={"clip": "auto"}).structured()
    assert typing.get_type_hints(auto)["clip"] is Any
    config = OmegaConf.merge(OmegaConf.structured(structured), OmegaConf.from_dotlist(["steps=7", "clip=null"]))
    plain: Any = OmegaConf.to_container(config)
    assert FAST.compose(plain | {"device": "cpu"}).learning == Fast(gamma=0.5, steps=7, clip=None)


def test_defaults_that_are_inherited_may_be_others():
    assert Fast().gamma == 0.5 and Slow().gamma == 0.9 and Fast().steps == 10
    assert [each.name for each in dataclasses.fields(Fast)] == ["gamma", "steps", "clip", "algorithm", "jumps"]
    with pytest.raises(ValueError, match=r"gamma must be a finite number; got 'much'"):
        Fast(gamma="much")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="gama must not be added: Slower has no such setting"):

        @with_defaults(gama=1)
        class Slower(Slow):
            """Misspelt."""
