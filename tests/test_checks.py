"""Checks of arguments: by annotation and by rule, each refusal with the name, what is allowed and what came."""

from __future__ import annotations

import doctest
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from decouple.checks import (
    ANY_NUMBER,
    DEVICE,
    POSITIVE_WHOLE,
    PROBABILITY,
    SOME,
    above,
    all_of,
    at_least,
    axes,
    between,
    check_fields,
    check_seeds,
    check_setting,
    check_switches,
    checked,
    distinct,
    has,
    inside,
    one_of,
    shown,
)


class Plays(Protocol):
    def play(self) -> None: ...


@checked(gamma=PROBABILITY, x=axes(1, 2, kind="float"), names=all_of(one_of("a", "b"), least=1), loose=ANY_NUMBER)
def door(
    x: Tensor,
    gamma: float = 0.5,
    *,
    seeds: Sequence[int] | None = None,
    names: Sequence[str] = ("a",),
    scores: Mapping[str, Sequence[float]] | None = None,
    path: str | Path = "",
    kind: Literal["local", "wandb"] = "local",
    call: Callable[[], int] | None = None,
    player: Plays | None = None,
    on: bool = True,
    loose: float = 0.0,
) -> float:
    """Gamma again.

    >>> door(torch.ones(2), 0.25)
    0.25
    """
    return gamma


X = torch.zeros(3)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"gamma": bad} for bad in (-1, 2, math.nan, math.inf, "1", True, None, torch.tensor(0.5), np.zeros(2), 1j)),
        *({"x": bad} for bad in (0.5, X.long(), torch.zeros(0), torch.zeros(1, 1, 1), torch.full((2,), math.nan))),
        *({"seeds": bad} for bad in (0, "01", [0.5], [True], [2**31], {0: 1}, {0})),
        *({"names": bad} for bad in ([], ["c"], "a", ["a", None])),
        *({"scores": bad} for bad in ([1.0], {"a": 1.0}, {"a": [math.nan]}, {0: [1.0]}, {"a": "x"})),
        *({"path": bad} for bad in (None, 0, b"x")),
        *({"kind": "remote"}, {"call": 3}, {"player": object()}, {"on": 1}, {"loose": "nan"}),
    ],
    ids=lambda arguments: re.sub(r" at 0x\w+", "", str(arguments)),
)
def test_what_does_not_fit_is_refused_by_name_and_value(arguments):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError) as refused:
        door(**{"x": X, **arguments})
    assert str(refused.value).startswith(f"{name} must be ") and str(refused.value).endswith(f"; got {shown(value)}")


def test_what_fits_is_passed_on():
    class Player:
        def play(self) -> None: ...

    assert door(X, np.float32(1), seeds=range(3), scores={"a": np.ones(2), "b": (1,)}, path=Path("x")) == 1
    assert door(torch.zeros(2, 2), call=lambda: 3, player=Player(), on=np.True_, loose=math.nan, names=["b"]) == 0.5
    assert door(X, seeds=np.arange(2)) == 0.5


def test_a_call_that_lacks_an_argument_is_pythons_own_error():
    with pytest.raises(TypeError, match="'x'"):
        door()
    with pytest.raises(TypeError, match="other"):
        door(X, other=1)


def test_examples_in_docstrings_of_checked_functions_are_found_and_run():
    found = doctest.DocTestFinder().find(door, "door", module=sys.modules[__name__], globs=globals())
    assert [len(each.examples) for each in found] == [1]
    assert doctest.DocTestFinder()._from_module(sys.modules[__name__], door)  # not taken for another module's


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (between(0, 1), 1, 1.5),
        (inside(0, 1), 0.5, 1),
        (above(0), 0.1, 0),
        (at_least(2), 2, 1),
        (has("a"), {"a": 1}, {"b": 1}),
        (distinct(at_least(0)), [0, 1], [1, 1]),
        (SOME, [0], []),
        (DEVICE, "cpu", "toaster"),
        (axes(1, kind="integer"), np.arange(3), np.zeros(3)),
    ],
    ids=lambda value: getattr(value, "says", str(value)),
)
def test_rules(rule, good, bad):
    @checked(value=rule)
    def function(value: Any) -> None: ...

    function(good)
    with pytest.raises(ValueError, match=r"^value must be "):
        function(bad)


def test_fields_are_checked_of_subclasses_too_with_a_prefix_where_given():
    @dataclass
    class Settings:
        gamma: float = 0.9
        sizes: list[int] = field(default_factory=list)

        def __post_init__(self) -> None:
            check_fields(self, "search.", gamma=PROBABILITY)

    @dataclass
    class More(Settings):
        steps: int = 1

    More(gamma=1, sizes=[3])
    for settings, message in (
        ({"gamma": math.nan}, "search.gamma must be a finite number; got nan"),
        ({"sizes": ["3"]}, "search.sizes must be a sequence of [a whole number]; got ['3']"),
        ({"steps": 1.0}, "search.steps must be a whole number; got 1.0"),
    ):
        with pytest.raises(ValueError) as refused:
            More(**settings)
        assert str(refused.value) == message


@pytest.mark.parametrize("value", [torch.tensor(1), torch.ones(2), np.ones(2), np.array(1)])
def test_an_array_is_no_setting(value):
    with pytest.raises(ValueError, match="gamma must be 1"):
        check_setting("gamma", value, lambda v: v == 1, "1")


def test_seeds_are_different():
    assert check_seeds([3, 1]) == [3, 1]
    with pytest.raises(ValueError, match=r"seeds must be different from one another; got \[0, 0\]"):
        check_seeds([0, 0])


def test_what_python_and_torch_have_for_a_sequence_is_one():
    @checked()
    def take(sizes: list[int], pair: tuple[int, ...], blocks: Sequence[torch.nn.Module]) -> int:
        return len(sizes) + len(pair) + len(blocks)

    layers = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for blocks in (torch.nn.ModuleList(layers), torch.nn.Sequential(*layers), list(layers), layers):
        assert take((8, 8), [4], blocks) == 5
    with pytest.raises(ValueError, match="blocks must be"):
        take([8], (4,), torch.nn.Linear(1, 1))


def test_a_whole_number_that_is_too_large_is_told_how_large_it_may_be():
    @checked()
    def take(frames: int) -> int:
        return frames

    with pytest.raises(ValueError, match="frames must be a whole number of 32 bits; got 3000000000"):
        take(3_000_000_000)


def test_a_rule_is_for_none_too_unless_the_annotation_names_it():
    @checked(name=SOME, other=SOME, size=above(0))
    def take(name: Any, other: str | None = None, size: int | None = None) -> None: ...

    take("a", None, None)
    with pytest.raises(ValueError, match="name must be not empty; got None"):
        take(None)


def test_a_rule_stands_for_a_predicate_and_its_words():
    check_setting("window", 3, POSITIVE_WHOLE)
    for value in (0, -1, 2.5, True, "3", None, float("nan")):
        with pytest.raises(ValueError, match=rf"window must be a whole number, at least 1; got {value!r}"):
            check_setting("window", value, POSITIVE_WHOLE)


def test_a_switch_is_true_or_false_by_name():
    check_switches(overlap=True, compile=False)
    for value in (1, 0, None, "yes", np.True_):
        with pytest.raises(ValueError, match=rf"compile must be True or False; got {value!r}"):
            check_switches(overlap=True, compile=value)
