"""Where the rows that networks are being shown lie: of which cell, and of which group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.replicas.exact.tree import tree_sum
from service.replicas.rows import RowSet, Shown


class Piece(NamedTuple):
    """A run of the rows shown, [start, stop), of one cell and one group; both numbered from 0 here."""

    start: int
    stop: int
    group: int
    cell: int


class Layout:
    """The rows shown, in pieces.

    Attributes:
        pieces: in the order of the rows.
        rows: how many there are.
        groups: of all passes.
        cells: this replica's.
        runs: by cell, its rows in each pass, as slices of those shown.
        lengths: of the pieces, each once.
    """

    def __init__(self, shown: Shown, cells: int) -> None:
        self.cells, self.groups = cells, len(shown.sets) * shown.shards
        self.pieces: list[Piece] = []
        self.runs: list[list[slice]] = [[] for _ in range(cells)]
        start = 0
        for number, rows in enumerate(shown.sets):
            for cell, (low, high) in enumerate(_bounds(rows)):
                begin = start + low - rows.first
                self.runs[cell].append(slice(begin, begin + high - low))
                for a, b, group in _by_group(low, high, shown.group_size):
                    offset = start - rows.first
                    self.pieces.append(Piece(offset + a, offset + b, number * shown.shards + group, cell))
            start += len(rows)
        self.rows = start
        self.lengths = frozenset(piece.stop - piece.start for piece in self.pieces)
        self._group_of_row: Tensor | None = None

    @property
    def even(self) -> bool:
        """Whether every cell has as many rows in every group, each a pass of its own."""
        return len(self.lengths) == 1 and len(self.pieces) == self.groups * self.cells

    def sums(self, values: Tensor) -> Tensor:
        """(N, K) -> (groups, cells, K): of each cell, the sum of its rows in each group, in the tree's order."""
        if self.even:
            return tree_sum(values.view(self.groups, self.cells, -1, values.shape[1]), 2)
        found = values.new_zeros(self.groups, self.cells, values.shape[1])
        for start, stop, group, cell in self.pieces:
            if stop > start:
                found[group, cell] = tree_sum(values[start:stop])
        return found

    def spread(self, statistics: Tensor) -> Tensor:
        """(groups, K) -> (N, K), each row that of its group."""
        if self.groups == 1:
            return statistics.expand(self.rows, -1)
        if self._group_of_row is None:
            lengths = torch.tensor([piece.stop - piece.start for piece in self.pieces])
            groups = torch.tensor([piece.group for piece in self.pieces])
            self._group_of_row = groups.repeat_interleave(lengths).to(statistics.device)
        return statistics.index_select(0, self._group_of_row)

    def blocks(self, values: Tensor) -> list[Tensor]:
        """(N, ...) -> of each cell, its rows of all passes."""
        return [values[runs[0]] if len(runs) == 1 else torch.cat([values[run] for run in runs]) for runs in self.runs]

    def stacked(self, values: Tensor) -> Tensor:
        """As `blocks`, (cells, n, ...), where the layout is even."""
        passes = values.view(self.groups, self.cells, -1, *values.shape[1:])
        return passes.transpose(0, 1).reshape(self.cells, -1, *values.shape[1:])


def _bounds(rows: RowSet) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(itertools.accumulate(rows.cells, initial=rows.first))


def _by_group(low: int, high: int, size: int) -> Sequence[tuple[int, int, int]]:
    """[low, high) cut at multiples of `size`, with the number of each part's group."""
    cuts = [low, *range((low // size + 1) * size, high, size), high] if high > low else [low, low]
    return [(a, b, a // size) for a, b in itertools.pairwise(cuts)]
