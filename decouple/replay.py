"""Replay for S agents: the last transitions of each, sampled per seed, in memory or in one file of fixed size.

    replay = Replay(1_000_000, Widths(observation=17, action=6), seeds=6, path="runs/one/replay.bin", slack=10_000)
    replay.add(Transition(observation, action, reward, terminated, next_observation))         # each (S, N, width)
    batch = replay.sample(indices)                                                             # (S, B) -> (S, B, width)

TorchRL's buffers draw one set of indices for all, and a sample costs them some 200 microseconds, as much as a small
network's update; this one draws a set for each seed and gathers whole rows. A run that was killed resumes exactly:
rows are written straight into the file, which is `slack` rows longer than what may be sampled, so that what is written
after a checkpoint never lies over what that checkpoint still samples from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Replay", "Transition", "Widths"]


class Transition(NamedTuple):
    """One step of S agents: each (S, B, width), float32; a discrete action is its index (S, B, 1)."""

    observation: Tensor
    action: Tensor
    reward: Tensor  # (S, B, 1)
    terminated: Tensor  # (S, B, 1): 1 where the episode ended for good, 0 at a time-out
    next_observation: Tensor


class Widths(NamedTuple):
    """Numbers of one observation and of one action."""

    observation: int
    action: int


class Replay:
    """The last `capacity` transitions of each of S agents.

    Args:
        capacity: transitions of each agent that may be sampled; the oldest go first.
        widths: of an observation and an action.
        seeds: S.
        path: a file that holds the rows, made here or gone on with; None: memory.
        slack: rows that may be added between two checkpoints; a file is so much longer.

    Raises:
        ValueError: a size below 1.
        OSError: the disk has no room for the file; it is asked for at once, not when it fills.
    """

    def __init__(self, capacity: int, widths: Widths, *, seeds: int, path: str | Path | None = None, slack: int = 0):
        for name, value in (("capacity", capacity), ("seeds", seeds), *widths._asdict().items()):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if slack < 0:
            raise ValueError(f"slack must be 0 or more; got {slack}")
        self.capacity, self.widths, self.seeds = capacity, widths, seeds
        self.split = [widths.observation, widths.action, 1, 1, widths.observation]
        shape = (capacity + slack, seeds, sum(self.split))
        self.reopened = path is not None and Path(path).exists()
        self.file = None if path is None else _open(Path(path), shape)
        self.rows = torch.zeros(shape) if self.file is None else torch.from_numpy(self.file)  # (ring, S, width)
        self.flat = self.rows.view(-1, shape[-1])  # (ring * S, width)
        self.offsets = torch.arange(seeds)[:, None]  # (S, 1)
        self.added = 0  # of each agent, since the beginning

    def __len__(self) -> int:
        """Transitions of each agent that may be sampled."""
        return min(self.added, self.capacity)

    def add(self, transition: Transition) -> None:
        """Add N transitions of each agent, (S, N, width)."""
        new = torch.cat([part.to(torch.float32) for part in transition], -1).transpose(0, 1)  # (N, S, width)
        ring = len(self.rows)
        self.added += len(new)
        new = new[-ring:]
        first = self.added - len(new)
        if first % ring + len(new) <= ring:
            self.rows[first % ring : first % ring + len(new)] = new
        else:
            self.rows[torch.arange(first, self.added) % ring] = new

    def sample(self, indices: Tensor) -> Transition:
        """The transitions at `indices` (S, B), whole numbers in [0, len(self)): 0 is the oldest."""
        positions = (indices + (self.added - len(self))).remainder_(len(self.rows))  # (S, B)
        rows = self.flat.index_select(0, (positions * self.seeds + self.offsets).view(-1))  # (S * B, width)
        return Transition(*rows.view(*indices.shape, sum(self.split)).split(self.split, -1))

    def since(self, added: int) -> Transition:
        """What has been added since there were `added` transitions of each agent, (S, K, width), the oldest first.

        Of more than lie in memory or in the file, the last.
        """
        first = max(added, self.added - len(self.rows))
        rows = self.rows[torch.arange(first, self.added) % len(self.rows)]  # (K, S, width)
        return Transition(*rows.transpose(0, 1).split(self.split, -1))

    def state_dict(self) -> dict[str, int | Tensor]:
        """What a checkpoint needs: the place in the file, whose rows are put on the disk now; in memory, the rows."""
        place: dict[str, int | Tensor] = {"added": self.added, "ring": len(self.rows)}
        if self.file is not None:
            self.file.flush()
            return place
        return place | {"rows": self.rows[: self.added].clone()}

    def load_state_dict(self, state: Mapping[str, int | Tensor]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: rows have been written over already in a ring of another length (`capacity` and `slack`), or
                lie in a file that is not this one.
        """
        added, ring = int(state["added"]), int(state["ring"])
        if ring != len(self.rows) and added > min(ring, len(self.rows)):
            raise ValueError(f"capacity and slack must come to {ring}, as in the replay saved; got {len(self.rows)}")
        if "rows" in state:
            rows = state["rows"]
            self.rows[: len(rows)] = rows
        elif added and not self.reopened:
            raise ValueError(f"path must be the file that the state's {added:,} rows lie in; got a new one, or memory")
        self.added = added


def _open(path: Path, shape: tuple[int, int, int]) -> np.memmap:
    """The file's rows, mapped; its room on the disk is reserved here, so that a full disk is an error and no crash.

    A file that is there already, of a run that goes on, keeps its rows; a shorter one grows.
    """
    size = int(np.prod(shape)) * 4
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else None
    with open(path, "ab") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif (before or 0) < size:
                file.truncate(size)
        except OSError as error:
            if before is None:
                path.unlink()
            raise OSError(f"no room for the replay file {path}: {size:,} bytes; {error}") from error
    return np.memmap(path, np.float32, "r+", shape=shape)
