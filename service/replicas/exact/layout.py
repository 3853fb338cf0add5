"""Where the rows that networks are being shown lie: of which cell, and of which group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.replicas.exact.tree import tree_sum
from service.replicas.row_sets import RowSet
from service.replicas.rows import Shown


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
        present: those of them from the first to the last that has rows among these.
        runs: by present cell, its rows in each pass, as slices of those shown.
        lengths: of the pieces, each once.
    """

    def __init__(self, shown: Shown, cells: int) -> None:
        self.cells, self.groups = cells, len(shown.sets) * shown.shards
        self.pieces: list[Piece] = []
        counts = [sum(of_cell) for of_cell in zip(*(rows.cells for rows in shown.sets), strict=True)]
        filled = [cell for cell, count in enumerate(counts) if count]
        self.present = range(filled[0], filled[-1] + 1) if filled else range(0)
        self.runs: list[list[slice]] = [[] for _ in self.present]
        start = 0
        for number, rows in enumerate(shown.sets):
            bounds = list(_bounds(rows))
            for place, cell in enumerate(self.present):
                low, high = bounds[cell]
                begin = start + low - rows.first
                self.runs[place].append(slice(begin, begin + high - low))
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
        return len(self.lengths) == 1 and len(self.pieces) == self.groups * len(self.present)

    def sums(self, values: Tensor) -> Tensor:
        """(N, K) -> (groups, cells, K): of each cell, the sum of its rows in each group, in the tree's order."""
        if self.even:
            return self.placed(tree_sum(values.view(self.groups, len(self.present), -1, values.shape[1]), 2), 1)
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
            self._group_of_row = self._of_rows([piece.group for piece in self.pieces], statistics.device)
        return statistics.index_select(0, self._group_of_row)

    def cell_of_row(self, device: torch.device) -> Tensor:
        """(N,), of each row the cell."""
        return self._of_rows([piece.cell for piece in self.pieces], device)

    def _of_rows(self, of_pieces: list[int], device: torch.device) -> Tensor:
        lengths = torch.tensor([piece.stop - piece.start for piece in self.pieces], dtype=torch.int64)
        return torch.tensor(of_pieces, dtype=torch.int64).repeat_interleave(lengths).to(device)

    def placed(self, of_cells: Tensor, dim: int = 0) -> Tensor:
        """What was computed of each present cell, as what was of each cell: zeros of those without rows."""
        if len(self.present) == self.cells:
            return of_cells
        shape = [*of_cells.shape]
        shape[dim] = self.cells
        whole = of_cells.new_zeros(shape)
        whole.narrow(dim, self.present.start, len(self.present)).copy_(of_cells)
        return whole

    def blocks(self, values: Tensor) -> list[Tensor]:
        """(N, ...) -> of each present cell, its rows of all passes."""
        return [values[runs[0]] if len(runs) == 1 else torch.cat([values[run] for run in runs]) for runs in self.runs]

    def stacked(self, values: Tensor) -> Tensor:
        """As `blocks`, (present cells, n, ...), where the layout is even."""
        passes = values.view(self.groups, len(self.present), -1, *values.shape[1:])
        return passes.transpose(0, 1).reshape(len(self.present), -1, *values.shape[1:])


def _bounds(rows: RowSet) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(itertools.accumulate(rows.cells, initial=rows.first))


def _by_group(low: int, high: int, size: int) -> Sequence[tuple[int, int, int]]:
    """[low, high) cut at multiples of `size`, with the number of each part's group."""
    cuts = [low, *range((low // size + 1) * size, high, size), high] if high > low else [low, low]
    return [(a, b, a // size) for a, b in itertools.pairwise(cuts)]
