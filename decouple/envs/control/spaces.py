"""Gymnasium's spaces as an environment's specs: actions of a game, and the size of what it shows.

    actions = read_actions(game.action_space)       # ValueError for a space that no policy here acts in
    spec = actions.spec(torch.Size([2, 3]))         # of 2 seeds with 3 games each
    game.step(actions.to_games(chosen)[0])          # chosen: (G,), (G, K) or (G, A)

A policy chooses an index, several indices, or a vector of floats. The game gets it in its own type, shape and
numbering.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torchrl.data import Bounded, Categorical, MultiCategorical, TensorSpec, Unbounded

from decouple.checks import check_setting, checked

__all__ = ["ActionReader", "Entry", "as_vector", "observed_numbers", "read_actions", "read_entries", "split_space"]


class ActionReader(Protocol):
    """How a policy's actions become a game's."""

    def spec(self, batch: torch.Size) -> TensorSpec:
        """The action spec of games with this batch size."""
        ...

    def changes(self) -> dict[str, Any]:
        """What `to_games` does to an action, as JSON can hold it; {} where the game takes what a policy gives.

        `start`: number that is added to each index; `low` and `high`: bounds to which numbers are clipped, None for
        infinite ones; `shape`: shape of the game's own action, where it is no vector.
        """
        ...

    def to_games(self, chosen: np.ndarray) -> np.ndarray:
        """Actions of G games, each as its game takes it: indices (G,), several of each (G, K), or floats (G, A).

        Raises:
            ValueError: an action that is not finite, or outside the discrete range.
        """
        ...


class _Indices:
    """One of n actions, which the game counts from `start`."""

    def __init__(self, space: Any) -> None:
        self.number, self.start = int(space.n), int(space.start)

    def spec(self, batch: torch.Size) -> TensorSpec:
        return Categorical(self.number, shape=batch, dtype=torch.int64)

    def changes(self) -> dict[str, Any]:
        return {"start": self.start} if self.start else {}

    def to_games(self, chosen: np.ndarray) -> np.ndarray:
        numbers = chosen.tolist()  # usually few numbers, which Python checks faster than NumPy
        if chosen.dtype.kind not in "iu" or min(numbers) < 0 or max(numbers) >= self.number:
            raise ValueError(f"action must be integers in [0, {self.number}); got {numbers}")
        chosen = chosen.astype(np.int64, copy=False)
        return chosen + self.start if self.start else chosen


class _SeveralIndices:
    """A MultiDiscrete or a MultiBinary space: an index for each component, of any number of axes, row by row."""

    def __init__(self, space: Any) -> None:
        binary = not hasattr(space, "nvec")
        self.shape, self.dtype = space.shape, space.dtype
        self.choices = np.full(space.shape, 2).ravel() if binary else space.nvec.ravel()
        self.start = np.zeros(len(self.choices), np.int64) if binary else space.start.ravel()

    def spec(self, batch: torch.Size) -> TensorSpec:
        return MultiCategorical(self.choices.tolist(), torch.Size([*batch, len(self.choices)]), dtype=torch.int64)

    def changes(self) -> dict[str, Any]:
        return ({"start": self.start.tolist()} if self.start.any() else {}) | _axes(self.shape)

    def to_games(self, chosen: np.ndarray) -> np.ndarray:
        if chosen.dtype.kind not in "iu" or (chosen < 0).any() or (chosen >= self.choices).any():
            says = f"[0, n) with n of {self.choices.tolist()} for each component"
            raise ValueError(f"action must be integers in {says}; got {chosen.tolist()}")
        return (chosen + self.start).astype(self.dtype).reshape(-1, *self.shape)


class _Vectors:
    """A Box of floats, of any number of axes, as a vector row by row; an action beyond a bound is clipped to it."""

    def __init__(self, space: Any) -> None:
        self.shape, self.dtype, self.bounds = space.shape, space.dtype, _float32_bounds(space)
        self.low, self.high = space.low.ravel(), space.high.ravel()
        self.bounded = all(np.isfinite(bound).all() for bound in self.bounds)

    def spec(self, batch: torch.Size) -> TensorSpec:
        shape = torch.Size([*batch, math.prod(self.shape)])
        if not self.bounded:
            return Unbounded(shape, dtype=torch.float32)
        low, high = (torch.from_numpy(bound.ravel()).expand(shape) for bound in self.bounds)
        return Bounded(low, high, shape, dtype=torch.float32)

    def changes(self) -> dict[str, Any]:
        bounds = zip(("low", "high"), self.bounds, strict=True)
        finite = {name: [x if math.isfinite(x) else None for x in bound.ravel().tolist()] for name, bound in bounds}
        return (finite if any(x is not None for bound in finite.values() for x in bound) else {}) | _axes(self.shape)

    def to_games(self, chosen: np.ndarray) -> np.ndarray:
        values = chosen
        if values.dtype != self.dtype:
            with np.errstate(over="ignore"):  # an action that overflows to infinity is refused below
                values = values.astype(self.dtype)
        if not all(map(math.isfinite, values.ravel().tolist())):
            raise ValueError(f"action must be finite; got {values.tolist()} (the game takes {self.dtype})")
        values = np.minimum(np.maximum(values, self.low), self.high)  # faster than np.clip
        return values if len(self.shape) == 1 else values.reshape(-1, *self.shape)


def _axes(shape: tuple[int, ...]) -> dict[str, Any]:
    return {} if len(shape) == 1 else {"shape": list(shape)}


@checked()
def read_actions(space: Any) -> ActionReader:
    """How actions in a Gymnasium space are read.

    Raises:
        ValueError: a space in which no policy here acts, with what is supported.
    """
    from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

    if isinstance(space, Discrete):
        return _Indices(space)
    if isinstance(space, MultiDiscrete | MultiBinary) and math.prod(space.shape):
        return _SeveralIndices(space)
    if isinstance(space, Box) and _fits(space):
        return _Vectors(space)
    raise ValueError(
        "name must be a task whose actions are Discrete, MultiDiscrete, MultiBinary, or a Box of floats, in each "
        f"component the lower bound below the upper; got {space}"
    )


@checked()
def as_vector(space: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The space of a game's observations as vectors, and the function that makes a vector of an observation.

    Both are of `gymnasium.spaces`: a Dict's entries come in the order of their names, an index as one-hot, a picture
    row by row. A vector of floats stays as it is, and so does what is not a fixed number of numbers.
    """
    from gymnasium.spaces import Box, flatten, flatten_space

    vector = isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
    if vector or not _numbers(space):
        return space, _same
    return flatten_space(space), functools.partial(flatten, space)


@checked()
def split_space(space: Any, privileged: Sequence[str]) -> tuple[Any, Any]:
    """The space of what all networks read, and that of the keys which the value network alone reads; None without keys.

    Args:
        space: Gymnasium's space of an observation.
        privileged: keys of the Dict that the value network alone reads.

    Raises:
        ValueError: a space that is no Dict, a key that it does not have, or no key left for the policy.
    """
    from gymnasium.spaces import Dict

    if not privileged:
        return space, None
    keys = list(space.spaces) if isinstance(space, Dict) else []
    says = f"some of the observation's keys, {', '.join(keys)}, but not all of them"
    if not keys:
        says = f"left out for this task, whose observation is no Dict but {space}"
    allowed = set(privileged) < set(keys) and len(set(privileged)) == len(privileged)
    check_setting("privileged", list(privileged), lambda _: allowed, says)
    parts = [Dict({key: space[key] for key in keys if (key in privileged) == own}) for own in (False, True)]
    return parts[0], parts[1]


class Entry(NamedTuple):
    """A part of an observation, and where the vector has it."""

    name: str  # key in a Dict, of several levels joined by dots; empty where the observation is no Dict
    first: int  # index of its first number in the vector
    shape: tuple[int, ...]  # its own shape; its numbers stand row by row
    picture: tuple[int, ...] | None  # order of its axes that puts channels before height and width; None: no picture
    scale: float  # largest number of a picture's pixels, 255 for bytes
    kind: str = "Box"  # kind of its space: Box, Discrete (one-hot), MultiDiscrete (a one-hot each) or MultiBinary

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@checked()
def read_entries(space: Any) -> list[Entry]:
    """The parts of an observation in a Gymnasium space, in the order in which `as_vector` puts them in the vector.

    A picture is a Box of bytes of two axes or more, or a Box of floats of three: height and width, with channels before
    or behind them (the shorter side of the three), and stacked frames before all, as Gymnasium's wrapper stacks them.
    Empty for a space that is no fixed number of numbers.
    """
    if not _numbers(space):
        return []
    entries, first = [], 0
    for name, part in _parts(space):
        shape = _shape(part)
        bytes_ = getattr(part, "dtype", None) == np.uint8 and type(part).__name__ == "Box"
        axes = _channels_first(shape) if len(shape) >= (2 if bytes_ else 3) and type(part).__name__ == "Box" else None
        entries.append(Entry(name, first, shape, axes, 255.0 if bytes_ else 1.0, type(part).__name__))
        first += entries[-1].size
    return entries


def _parts(space: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name and space of each part, in the order of `gymnasium.spaces.flatten`."""
    from gymnasium.spaces import Dict, Tuple

    if not isinstance(space, Dict | Tuple):
        yield name, space
        return
    for key, part in space.items() if isinstance(space, Dict) else enumerate(space):
        yield from _parts(part, f"{name}.{key}" if name else str(key))


def _shape(part: Any) -> tuple[int, ...]:
    """Shape of a part that is no Dict, as `gymnasium.spaces.flatten` sees it: an index is one-hot."""
    from gymnasium.spaces import Discrete, MultiDiscrete

    if isinstance(part, Discrete):
        return (int(part.n),)
    return (int(part.nvec.sum()),) if isinstance(part, MultiDiscrete) else tuple(part.shape)


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of a picture's axes that puts height and width last; None where it is no picture."""
    if len(shape) not in (2, 3, 4):
        return None
    before = tuple(range(len(shape) - 3))  # of stacked frames
    if len(shape) == 2:
        return (0, 1)
    first, *_, last = range(len(before), len(shape))
    behind = shape[last] <= shape[first]
    return (*before, last, first, first + 1) if behind else (*before, first, first + 1, last)


def _same(observation: Any) -> Any:
    return observation


def _numbers(space: Any) -> bool:
    """Whether observations of a space are a fixed number of numbers, also in Dicts and Tuples."""
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

    if isinstance(space, Dict | Tuple):
        return all(map(_numbers, space.values() if isinstance(space, Dict) else space))
    return isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete)


@checked()
def observed_numbers(space: Any) -> int:
    """The numbers of an observation, O, in a Gymnasium space that is a Box of (O,).

    Raises:
        ValueError: any other space, or O = 0.
    """
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1 or space.shape[0] == 0:
        raise ValueError(
            "name must be a task whose observations are numbers that can be put in a vector: a Box, Discrete, "
            f"MultiDiscrete, MultiBinary, or a Dict or Tuple of these; got {space}"
        )
    return space.shape[0]


def _fits(space: Any) -> bool:
    """Whether a Box is of floats whose lower bounds are below their upper bounds; bounds may be infinite."""
    numbers = math.prod(space.shape) if space.shape else 0
    if not np.issubdtype(space.dtype, np.floating) or not numbers:
        return False
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        ranges = np.where(np.isfinite(low) & np.isfinite(high), high - low, 0)
    if not (ranges <= np.finfo(np.float32).max).all():  # our actions are float32
        return False
    low, high = _float32_bounds(space)
    return bool((low < high).all())


def _float32_bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """A Box's bounds rounded to float32 inwards: none lies beyond the bounds of a float64 task."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    return low, np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
