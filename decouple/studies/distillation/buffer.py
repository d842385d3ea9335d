"""The latest observations of S students, each with its teacher's label: what a student learns from.

buffer = LabelledBuffer(seeds=6, frames=20_000)
buffer.add(observation, labels)                     # (S, N, ...), (S, N, n)
observation, labels = buffer.sample(indices)        # (S, B) -> (S, B, ...), (S, B, n)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decouple.checks import at_least, checked

__all__ = ["LabelledBuffer"]


class LabelledBuffer:
    """A ring of labelled observations of each student; the oldest give way.

    Args:
        seeds: number of students, S.
        frames: most observations of each student that are kept.
    """

    @checked(seeds=at_least(1), frames=at_least(1))
    def __init__(self, seeds: int, frames: int):
        self.seeds, self.frames = seeds, frames
        self.rows: list[Tensor] = []  # observations (S, frames, ...) and labels (S, frames, n)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.frames)

    def add(self, observation: Tensor, labels: Tensor) -> None:
        """Add N observations of each student, (S, N, ...), with labels (S, N, n)."""
        given = observation, labels
        if not self.rows:
            self.rows = [torch.zeros(self.seeds, self.frames, *each.shape[2:], dtype=each.dtype) for each in given]
        places = torch.arange(self.added, self.added + observation.shape[1]) % self.frames
        for row, each in zip(self.rows, given, strict=True):
            row[:, places[-self.frames :]] = each[:, -self.frames :]
        self.added += observation.shape[1]

    def sample(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (S, B, ...) and labels (S, B, n) at indices (S, B) below the buffer's length."""
        students = torch.arange(self.seeds)[:, None]
        observation, labels = (row[students, indices] for row in self.rows)
        return observation, labels

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [row[:, : len(self)].clone() for row in self.rows], "added": self.added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.added = state["added"]
        self.rows = []
        for row in state["rows"]:
            self.rows.append(torch.zeros(self.seeds, self.frames, *row.shape[2:], dtype=row.dtype))
            self.rows[-1][:, : row.shape[1]] = row
