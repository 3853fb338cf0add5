"""The global batch of replicas that agree to the last bit: statistics whose sums have one order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from service.replicas.collectives import Collective
from service.replicas.exact.layout import Layout
from service.replicas.exact.tree import owned_cells, tree_sum
from service.replicas.global_batch import GlobalBatch, placed
from service.replicas.row_sets import RowSet


class ExactBatch(GlobalBatch):
    """One step's batch, in cells.

    Args:
        cells: of the global batch.
        rank: whose cells are here.

    The others are those of `GlobalBatch`.
    """

    def __init__(
        self,
        size: int,
        shards: int,
        seed: int,
        collective: Collective,
        device: torch.device,
        dtype: torch.dtype,
        place: Callable[[int, int, int], Tensor],
        cells: int,
        rank: int,
    ) -> None:
        self.cells = cells
        self.own_cells = owned_cells(rank, collective.world_size, cells)
        self._laid_out: tuple[Any, Layout] | None = None
        super().__init__(size, shards, seed, collective, device, dtype, place)

    @property
    def in_one_place(self) -> bool:
        return False

    @property
    def layout(self) -> Layout:
        """Of the rows that networks are being shown."""
        if self._laid_out is None or self._laid_out[0] is not self._shown:
            self._laid_out = self._shown, Layout(self._shown, len(self.own_cells))
        return self._laid_out[1]

    def over_cells(self, partial: Tensor) -> Tensor:
        """(groups, own cells, K) -> (groups, K): the sum over all cells, on every replica. Records no gradient."""
        groups, _, columns = partial.shape
        table = partial.new_zeros(groups, self.cells, columns)
        table[:, self.own_cells.start : self.own_cells.stop] += partial  # Added to zero, as others' are: no -0.
        return tree_sum(self.collective.sum_over_replicas(table), 1)

    def _group_means(self, values: Tensor, count_per_row: int) -> Tensor:
        summed: Tensor = _SumRows.apply(values, self, self.layout)  # type: ignore[no-untyped-call]
        return summed / (self.group_size * count_per_row)

    def per_row(self, statistics: Tensor) -> Tensor:
        """(groups, K) statistics -> (N, K), each row that of its group."""
        rows: Tensor = _SpreadToRows.apply(statistics, self, self.layout)  # type: ignore[no-untyped-call]
        return rows

    def to_rows(self, values: Tensor) -> Tensor:
        return self.per_row(values.expand(self.groups, -1))

    def _over_groups(self, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        places = self.rows - self._first_group * self.group_size
        everyone = _gathered(placed(values, places, self.groups * self.group_size), self)
        found = torch.cat([statistic(group) for group in everyone.chunk(self.groups)])
        return _own(found, self).index_select(0, places)

    def gather(self, values: Tensor, rows: RowSet) -> Tensor:
        return _gathered(placed(values, rows.numbers, self.size), self)

    def whole(self, *tables: tuple[Tensor, Sequence[RowSet]]) -> list[Tensor]:
        spread = [self._spread(values, rows) for values, rows in tables]
        return self._parted(_gathered(torch.cat([table.flatten() for table in spread]), self), tables)


class _SumRows(torch.autograd.Function):
    """(N, K) rows -> (groups, K), whole."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, batch: ExactBatch, layout: Layout) -> Tensor:
        ctx.where = batch, layout
        return batch.over_cells(layout.sums(values))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _SpreadToRows.apply(gradient, *ctx.where), None, None  # type: ignore[no-untyped-call]


class _SpreadToRows(torch.autograd.Function):
    """(groups, K), whole, -> (N, K) rows."""

    @staticmethod
    def forward(ctx: Any, statistics: Tensor, batch: ExactBatch, layout: Layout) -> Tensor:
        ctx.where = batch, layout
        return layout.spread(statistics.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _SumRows.apply(gradient.contiguous(), *ctx.where), None, None  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """Rows, at their places among zeros, -> all rows, whole."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, batch: ExactBatch) -> Tensor:
        ctx.batch = batch
        return batch.collective.sum_over_replicas(table).view_as(table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _own(gradient, ctx.batch), None


class _Own(torch.autograd.Function):
    """A whole table -> the same, of which this replica is about to take its own rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, batch: ExactBatch) -> Tensor:
        ctx.batch = batch
        return table.view_as(table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient, ctx.batch), None


def _gathered(table: Tensor, batch: ExactBatch) -> Tensor:
    everyone: Tensor = _Gathered.apply(table, batch)  # type: ignore[no-untyped-call]
    return everyone


def _own(table: Tensor, batch: ExactBatch) -> Tensor:
    same: Tensor = _Own.apply(table, batch)  # type: ignore[no-untyped-call]
    return same
