"""Replay for S agents: each agent's last transitions, sampled per seed, in memory or in one file of fixed size.

    replay = Replay(1_000_000, Widths(observation=17, action=6), space, seeds=6, path="runs/one/replay.bin", slack=100)
    replay.add(Transition(observation, action, reward, terminated, next_observation))         # each (S, N, width)
    batch = replay.sample(indices)                                                             # (S, B) -> (S, B, width)

Actions are added in the task's units, and stored and sampled in [-1, 1], as critics read them. Observations of bytes,
pictures, stay bytes: four of them lie in a row's place of one float32.

TorchRL's buffers draw one set of indices for all seeds, and a sample takes some 200 microseconds, as long as a small
network's update; this replay draws a set per seed and gathers whole rows. A killed run resumes exactly. Rows are
written straight into the file, which is `slack` rows longer than the rows that may be sampled: rows written after a
checkpoint never overwrite those that the checkpoint samples from. A checkpoint holds checksums of its rows, so that a
file that was cut, emptied or altered is refused; a checkpoint computes checksums only for blocks that are new.
"""

from __future__ import annotations

import contextlib
import copy
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decouple.checks import at_least, checked
from decouple.networks.heads import ActionSpace, ActionUnit
from decouple.runs.files import reserve_file
from decouple.runs.locks import BEGIN_ANEW

__all__ = ["Replay", "Transition", "Widths"]

BLOCK = 1024  # rows per checksum


class Transition(NamedTuple):
    """Environment steps of S agents, each tensor (S, B, width), float32; a discrete action is its index (S, B, 1).

    Observations may be bytes, where the replay's `Widths` say so.
    """

    observation: Tensor
    action: Tensor  # in the task's units when added to a replay, in [-1, 1] when sampled from one
    reward: Tensor  # (S, B, 1)
    terminated: Tensor  # (S, B, 1): 1 where the episode terminated, 0 elsewhere and at a time-out
    next_observation: Tensor


class Widths(NamedTuple):
    """Widths of one observation and of one action, and whether observations are bytes."""

    observation: int
    action: int
    in_bytes: bool = False


class Replay:
    """The last `capacity` transitions of each of S agents.

    Args:
        capacity: transitions per agent that may be sampled; the oldest are overwritten first.
        widths: widths of an observation and an action.
        space: action space of the environment: `action_space(env.action_spec)`.
        seeds: number of agents, S.
        path: file of the rows, made here or reused; None for memory.
        slack: rows that may be added between two checkpoints; the file is longer by as many.

    Raises:
        ValueError: a size below 1, or an action width other than the space's.
        OSError: the disk has no room for the file; its whole size is reserved at once.
    """

    @checked(slack=at_least(0))
    def __init__(
        self,
        capacity: int,
        widths: Widths,
        space: ActionSpace,
        *,
        seeds: int,
        path: str | Path | None = None,
        slack: int = 0,
    ):
        sizes = {"capacity": capacity, "seeds": seeds, "observation": widths.observation, "action": widths.action}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if slack < 0:
            raise ValueError(f"slack must be 0 or more; got {slack}")
        width = 1 if space.discrete else space.size
        if widths.action != width:
            raise ValueError(f"widths.action must be {width}, the width of the space's actions; got {widths.action}")
        self.capacity, self.widths, self.space, self.seeds = capacity, widths, space, seeds
        unit = None if space.in_unit else ActionUnit(space)
        self.to_unit = None if unit is None else (unit.middle.numpy(), unit.divisor.numpy())
        observed = -(-widths.observation // 4) if widths.in_bytes else widths.observation  # columns
        self.split = [observed, widths.action, 1, 1, observed]
        ends = np.cumsum(self.split).tolist()
        self.columns = list(zip([0, *ends[:-1]], ends, strict=True))  # first column of each part, and the one behind
        shape = (capacity + slack, seeds, sum(self.split))
        self.path = None if path is None else Path(path)
        # The size in bytes of a file that is reused.
        self.found = self.path.stat().st_size if self.path and self.path.exists() else None
        self.file = None if self.path is None else _open(self.path, shape)
        self.rows = torch.zeros(shape) if self.file is None else torch.from_numpy(self.file)  # (ring, S, width)
        self.array = self.rows.numpy()
        self.flat = self.rows.view(-1, shape[-1])  # (ring * S, width)
        self.offsets, self.stride = torch.arange(seeds)[:, None], seeds  # (S, 1); rows of `flat` from step to step
        self.added = 0  # transitions per agent since the beginning
        self.sums: dict[int, int] = {}  # block, counted from the first row ever added -> CRC-32 of its rows in the file

    def __len__(self) -> int:
        """The number of transitions per agent that may be sampled."""
        return min(self.added, self.capacity)

    def add(self, transition: Transition) -> None:
        """Add N transitions of each agent, (S, N, width), with actions in the task's units."""
        parts, ring = [_array(part) for part in transition], len(self.array)
        if self.widths.in_bytes:
            parts[0], parts[-1] = _packed(parts[0]), _packed(parts[-1])
        if self.to_unit is not None:  # as `ActionUnit` computes it
            parts[1] = (parts[1] - self.to_unit[0]) / self.to_unit[1]
        place, number = self.added % ring, parts[0].shape[1]
        if place + number <= ring:  # the usual case, without a copy in between
            rows = self.array[place : place + number]
            for part, (first, last) in zip(parts, self.columns, strict=True):
                rows[..., first:last] = part.swapaxes(0, 1)  # (N, S, width)
            self.added += number
            return
        new = np.concatenate(parts, -1).swapaxes(0, 1)  # (N, S, width)
        self.added += len(new)
        new = new[-ring:]
        place = (self.added - len(new)) % ring
        before = new[: ring - place]  # rows up to the ring's end; the others begin it anew
        self.array[place : place + len(before)] = before
        self.array[: len(new) - len(before)] = new[len(before) :]

    def sample(self, indices: Tensor) -> Transition:
        """The transitions at `indices` (S, B), integers in [0, len(self)), 0 the oldest; actions in [-1, 1]."""
        positions = (indices.cpu() + (self.added - len(self))).remainder_(len(self.rows))  # (S, B)
        rows = self.flat.index_select(0, (positions * self.stride + self.offsets).view(-1))  # (S * B, width)
        return self._transition(rows.view(*indices.shape, sum(self.split)))

    def part(self, rows: slice) -> Replay:
        """The transitions of some agents alone, to sample: a view, which sees what is added here until it is called."""
        own = copy.copy(self)
        own.rows, own.array = self.rows[:, rows], self.array[:, rows]
        own.seeds, own.offsets = own.rows.shape[1], self.offsets[rows]
        return own

    def since(self, added: int) -> Transition:
        """The transitions added after the first `added` of each agent, (S, K, width), the oldest first.

        Transitions that have been overwritten since are left out.
        """
        first = max(added, self.added - len(self.rows))
        rows = self.rows[torch.arange(first, self.added) % len(self.rows)]  # (K, S, width)
        return self._transition(rows.transpose(0, 1))

    def _transition(self, rows: Tensor) -> Transition:
        """Rows (S, B, columns) by their parts."""
        observation, *others, following = rows.split(self.split, -1)
        if self.widths.in_bytes:
            size = self.widths.observation
            observation, following = (x.contiguous().view(torch.uint8)[..., :size] for x in (observation, following))
        return Transition(observation, *others, following)

    def state_dict(self) -> dict[str, int | Tensor]:
        """The state for a checkpoint: in memory, the rows; with a file, its position and checksums.

        A file's rows are flushed to the disk first.
        """
        place: dict[str, int | Tensor] = {"added": self.added, "ring": len(self.rows)}
        if self.file is None:
            return place | {"rows": self.rows[: self.added].clone()}
        self.file.flush()
        first, last = self.added - len(self), self.added
        whole = range(-(-first // BLOCK), last // BLOCK)  # blocks of which every row may be sampled
        self.sums = {block: self.sums.get(block) or self._sum(block * BLOCK, (block + 1) * BLOCK) for block in whole}
        sums = [self._sum(*ends) for ends in _ends(first, last)]
        return place | {"first": first, "sums": torch.tensor([*self.sums.values(), *sums], dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, int | Tensor]) -> None:
        """Restore a `state_dict`.

        Raises:
            ValueError: a full ring of another length (`capacity` and `slack`), rows in another file than this one, or
                a file that was cut or altered since.
        """
        added, ring = int(state["added"]), int(state["ring"])
        if ring != len(self.rows) and added > min(ring, len(self.rows)):
            raise ValueError(f"capacity and slack must come to {ring}, as in the replay saved; got {len(self.rows)}")
        self.sums = {}
        if "rows" in state:
            rows = state["rows"]
            self.rows[: len(rows)] = rows
        elif added:
            self._check_file(added, ring, state)
        self.added = added

    def _check_file(self, added: int, ring: int, state: Mapping[str, int | Tensor]) -> None:
        """Check that the file holds a state's rows; ValueError otherwise. A file that was cut keeps its length."""
        if self.path is None or self.file is None or self.found is None:
            raise ValueError(f"path must be the file that the state's {added:,} rows lie in; got a new one, or memory")
        way_out = f"put a whole copy of it back, or {BEGIN_ANEW}"
        size = ring * self.rows[0].nbytes
        if self.found < size:
            with contextlib.suppress(OSError):  # Windows truncates no file that is mapped
                os.truncate(self.path, self.found)
            raise ValueError(f"{self.path} was cut: it has {self.found:,} bytes of {size:,}; {way_out}")
        if "sums" not in state:  # a checkpoint of decouple 0.1
            return
        first, sums = int(state["first"]), state["sums"]
        whole = range(-(-first // BLOCK), added // BLOCK)
        parts = [(block * BLOCK, (block + 1) * BLOCK) for block in whole] + _ends(first, added)
        for (start, stop), expected in zip(parts, torch.as_tensor(sums).tolist(), strict=True):
            if self._sum(start, stop) != expected:
                raise ValueError(
                    f"{self.path} is corrupt: of the {added:,} transitions of each agent, those from {start:,} to "
                    f"{stop:,} have changed since the checkpoint (CRC-32 differs); {way_out}"
                )
        self.sums = dict(zip(whole, torch.as_tensor(sums).tolist(), strict=False))

    def _sum(self, start: int, stop: int) -> int:
        """CRC-32 of the rows from `start` to `stop`, counted from the first ever added, as they lie in the file."""
        ring, found = len(self.rows), 0
        while start < stop:
            place = start % ring
            count = min(stop - start, ring - place)
            found = zlib.crc32(self.rows[place : place + count].numpy(), found)
            start += count
        return found


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array; without `force`, which takes as long as the rest, where it is not needed."""
    if tensor.requires_grad or tensor.device.type != "cpu":
        return tensor.numpy(force=True)
    return tensor.numpy()


def _packed(observed: np.ndarray) -> np.ndarray:
    """Bytes (S, N, O) as float32 (S, N, O / 4), rounded up: the same memory, of which no number is ever computed."""
    missing = -observed.shape[-1] % 4
    padded = np.pad(observed.astype(np.uint8, copy=False), ((0, 0), (0, 0), (0, missing)))
    return np.ascontiguousarray(padded).view(np.float32)


def _ends(first: int, last: int) -> list[tuple[int, int]]:
    """The rows before the first whole block and after the last one, each as (start, stop)."""
    behind = max(first, last // BLOCK * BLOCK)
    return [(first, min(-(-first // BLOCK) * BLOCK, behind)), (behind, last)]


def _open(path: Path, shape: tuple[int, int, int]) -> np.memmap:
    """The file's rows as a memory map. The disk space is reserved here: a full disk is then an error and not a crash.

    An existing file, of a resumed run, keeps its rows; a shorter one grows.
    """
    size = int(np.prod(shape)) * 4
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else None
    try:
        reserve_file(path, size)
    except OSError as error:
        if before is None:
            path.unlink(missing_ok=True)
        raise OSError(f"no room for the replay file {path}: {size:,} bytes; {error}") from error
    return np.memmap(path, np.float32, "r+", shape=shape)
