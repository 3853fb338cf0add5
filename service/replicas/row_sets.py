"""Rows of a batch: those that a replica has, that a micro-batch has, or that a smaller batch has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowSet:
    """The rows that a replica has of one batch.

    Attributes:
        numbers: (N,) int64, in the global batch; a contiguous run.
        first: the first of them.
        cells: how many of them lie in each of the replica's cells, in their order (`service.replicas.exact`).
    """

    numbers: Tensor
    first: int
    cells: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def between(self, start: int, stop: int) -> RowSet:
        """Some neighbouring ones of them: those at these places."""
        ends = list(itertools.accumulate(self.cells))
        inside = [max(0, min(stop, end) - max(start, end - count)) for end, count in zip(ends, self.cells, strict=True)]
        return RowSet(self.numbers[start:stop], self.first + start, tuple(inside))

    def subsampled(self, kept: slice, every: int) -> RowSet:
        """Those of them whose number is a multiple, counted anew."""
        bounds = [self.first, *(self.first + count for count in itertools.accumulate(self.cells))]
        below = [-(-bound // every) for bound in bounds]
        cells = tuple(after - before for before, after in itertools.pairwise(below))
        return RowSet(self.numbers[kept] // every, below[0], cells)
