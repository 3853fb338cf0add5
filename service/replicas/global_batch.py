"""The global batch of a step, as one replica sees it: statistics over all of its rows, wherever they are.

Everything that looks beyond one sample (batch norm, loss weights) asks the `GlobalBatch`. It answers as if the whole
batch were on one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from service.replicas.collectives import Collective
from service.replicas.row_sets import RowSet
from service.replicas.rows import Rows


class GlobalBatch(Rows):
    """One step's batch.

    Args:
        collective: reduces over the replicas.

    The others are those of `Rows`.
    """

    def __init__(
        self,
        size: int,
        shards: int,
        seed: int,
        collective: Collective,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        place: Callable[[int, int, int], Tensor] | None = None,
    ) -> None:
        super().__init__(size, shards, seed, device, dtype, place)
        self.collective = collective

    @property
    def in_one_place(self) -> bool:
        """Whether torch's own kernels see all rows, and may take statistics as they do."""
        return self.collective.in_one_place and self.known is None

    @property
    def over_chips(self) -> bool:
        """Whether what looks like one tensor is laid out over many devices, by a compiler."""
        return self.collective.world_size == 1 and not self.collective.in_one_place

    def group_means(self, values: Tensor, count_per_row: int = 1) -> Tensor:
        """Batch-global means over each group, one collective for all of them.

        Args:
            values: (N, K) sums over `count_per_row` items of each row here.

        Returns:
            (groups, K), the same on every replica, differentiable.
        """
        return self._of_all_rows(values, lambda rows: self._group_means(rows, count_per_row))

    def _group_means(self, values: Tensor, count_per_row: int) -> Tensor:
        if self.groups == 1:
            sums = values.sum(0, keepdim=True)
        else:
            sums = torch.where(self._members(), values[:, None], 0).sum(0)
        return self.collective.sum_over_replicas(sums) / (self.group_size * count_per_row)

    def per_row(self, statistics: Tensor) -> Tensor:
        """(groups, K) statistics -> (N, K), each row that of its group; (1, K) when there is one group."""
        return statistics if self.groups == 1 else torch.where(self._members(), statistics, 0).sum(1)

    def to_rows(self, values: Tensor) -> Tensor:
        """(K,), the same on every replica, -> (N or 1, K), for each row."""
        return values[None]

    def over_groups(self, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of all samples of a group says of the present rows, one collective for all groups.

        Args:
            values: (N, K), of the present rows.
            statistic: (group_size, K) -> (group_size, J).

        Returns:
            (N, J).
        """
        return self._of_all_rows(values, lambda rows: self._over_groups(rows, statistic), by_row=True)

    def _over_groups(self, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        if self.collective.world_size == 1:
            return torch.cat([statistic(group) for group in values.chunk(self.groups)])
        places = self.rows - self._first_group * self.group_size
        everyone = self.collective.sum_over_replicas(placed(values, places, self.groups * self.group_size))
        return torch.cat([statistic(group) for group in everyone.chunk(self.groups)])[places]

    def gather(self, values: Tensor, rows: RowSet) -> Tensor:
        """The global batch's values, (size, ...), on every replica, from the (N, ...) at `rows` here."""
        if self.collective.world_size == 1:
            return values
        return self.collective.sum_over_replicas(placed(values, rows.numbers, self.size))

    def whole(self, *tables: tuple[Tensor, Sequence[RowSet]]) -> list[Tensor]:
        """Tables of the global batch, the same on every replica, from each one's rows of them; differentiable.

        What is computed from them is computed as if on one device. One collective serves all tables.

        Args:
            tables: (N, K) values, and the sets of rows (of one pass each) that they are of, concatenated.

        Returns:
            For each table (passes, shards, group_size, K).
        """
        if self.collective.world_size == 1:
            return [values.view(self._shape(values, rows)) for values, rows in tables]
        spread = [self._spread(values, rows) for values, rows in tables]
        flat = torch.cat([table.flatten() for table in spread])
        return self._parted(self.collective.sum_over_replicas(flat, same_gradient=True), tables)

    def _parted(self, flat: Tensor, tables: Sequence[tuple[Tensor, Sequence[RowSet]]]) -> list[Tensor]:
        """All tables in one -> each (passes, shards, group_size, K)."""
        shapes = [self._shape(values, rows) for values, rows in tables]
        sizes = [math.prod(shape) for shape in shapes]
        return [part.view(shape) for part, shape in zip(flat.flatten().split(sizes), shapes, strict=True)]

    def _shape(self, values: Tensor, rows: Sequence[RowSet]) -> tuple[int, int, int, int]:
        return len(rows), self.shards, self.group_size, values.shape[1]

    def _spread(self, values: Tensor, rows: Sequence[RowSet]) -> Tensor:
        """(N, K) -> (passes * size, K), zero where the rows of other replicas belong."""
        places = torch.cat([part.numbers + index * self.size for index, part in enumerate(rows)])
        return placed(values, places, len(rows) * self.size)

    def _members(self) -> Tensor:
        """(N, groups, 1), whether the row is of the group.

        It chooses, and is not multiplied with: a value that is not finite stays in its own group.
        """
        group = self.rows // self.group_size - self._first_group
        return (group[:, None] == torch.arange(self.groups, device=self.device))[..., None]


def placed(values: Tensor, places: Tensor, count: int) -> Tensor:
    """(N, ...) values, each at its place among `count`, and zeros where those of other replicas belong.

    They are added to zeros, and not copied over them: XLA shares a sum out over its chips.
    """
    return values.new_zeros((count, *values.shape[1:])).index_add(0, places, values)
