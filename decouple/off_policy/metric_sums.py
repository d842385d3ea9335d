"""Sums of metrics over updates, until they are logged.

sums = MetricSums()
sums.add({"loss/critic": torch.tensor([0.3, 0.5])})         # an update of two agents
sums.means()["loss/critic"]                                 # (S,): the means over updates
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["MetricSums"]


class MetricSums:
    """Sums of metrics of S agents over updates."""

    def __init__(self) -> None:
        self._tensors: dict[str, tuple[Tensor, int]] = {}
        self._tables: dict[int, tuple[Mapping[str, int], np.ndarray, int]] = {}  # by the identity of the columns' names
        self._parts: dict[int, MetricSums] = {}  # by the first agent

    def part(self, rows: slice) -> MetricSums:
        """The sums of some agents, one of the parts that all of S are split into."""
        return self._parts.setdefault(rows.start, MetricSums())

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Add an update's metrics, (S,) each."""
        for name, value in found.items():
            total, count = self._tensors.get(name, (0.0, 0))
            self._tensors[name] = (value + total, count + 1)

    def add_columns(self, columns: Mapping[str, int], found: np.ndarray) -> None:
        """Add an update's metrics from a table: one sum in place of one for each name.

        Args:
            columns: name of each metric, with its column; the same object for all updates that have these metrics.
            found: float64 (S, M), which may change later.
        """
        known = self._tables.get(id(columns))
        if known is None:
            self._tables[id(columns)] = columns, found.copy(), 1
            return
        _, total, count = known
        total += found
        self._tables[id(columns)] = columns, total, count + 1

    def so_far(self, columns: Mapping[str, int], shape: tuple[int, ...]) -> np.ndarray:
        """The sums of `add_columns`, float64 (S, M), to which updates add before `count`; -0 where there are none.

        -0 + x is x to the bit, also where x is -0.
        """
        return self._tables.setdefault(id(columns), (columns, np.full(shape, -0.0), 0))[1]

    def count(self, columns: Mapping[str, int], updates: int) -> None:
        """Count updates that were added to `so_far`."""
        _, total, count = self._tables[id(columns)]
        self._tables[id(columns)] = columns, total, count + updates

    def means(self) -> dict[str, Tensor]:
        """The mean of each metric over the updates that had it, (S,)."""
        if self._parts:
            parts = [self._parts[first].means() for first in sorted(self._parts)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        sums = dict(self._tensors)
        for columns, table, updates in (each for each in self._tables.values() if each[2]):
            for name, column in columns.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = torch.from_numpy(table[:, column].copy()) + total, count + updates
        return {name: total / count for name, (total, count) in sums.items()}
