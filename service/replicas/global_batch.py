"""The global batch of a step, as one replica sees it: statistics over all of its rows, wherever they are.

Everything that looks beyond one sample (batch norm, loss weights) asks the `GlobalBatch`. It answers as if the whole
batch were on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from service.replicas.collectives import Collective
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

    def group_means(self, values: Tensor, count_per_row: int = 1) -> Tensor:
        """Batch-global means over each group, one collective for all of them.

        Args:
            values: (N, K) sums over `count_per_row` items of each row here.

        Returns:
            (groups, K), the same on every replica, differentiable.
        """
        if self.groups == 1:
            sums = values.sum(0, keepdim=True)
        else:
            sums = torch.where(self._members(), values[:, None], 0).sum(0)
        return self.collective.sum_over_replicas(sums) / (self.group_size * count_per_row)

    def per_row(self, statistics: Tensor) -> Tensor:
        """(groups, K) statistics -> (N, K), each row that of its group; (1, K) when there is one group."""
        return statistics if self.groups == 1 else torch.where(self._members(), statistics, 0).sum(1)

    def over_groups(self, values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of all samples of a group says of the present rows, one collective for all groups.

        Args:
            values: (N, K), of the present rows.
            statistic: (group_size, K) -> (group_size, J).

        Returns:
            (N, J).
        """
        if self.collective.world_size == 1:
            return torch.cat([statistic(group) for group in values.chunk(self.groups)])
        places = self.rows - self._first_group * self.group_size
        everyone = self.collective.sum_over_replicas(_placed(values, places, self.groups * self.group_size))
        return torch.cat([statistic(group) for group in everyone.chunk(self.groups)])[places]

    def gather(self, values: Tensor, rows: Tensor) -> Tensor:
        """The global batch's values, (size, ...), on every replica, from the (N, ...) at `rows` here."""
        if self.collective.world_size == 1:
            return values
        return self.collective.sum_over_replicas(_placed(values, rows, self.size))

    def whole(self, *tables: tuple[Tensor, Sequence[Tensor]]) -> list[Tensor]:
        """Tables of the global batch, the same on every replica, from each one's rows of them; differentiable.

        What is computed from them is computed as if on one device. One collective serves all tables.

        Args:
            tables: (N, K) values, and the sets of rows (of one pass each) that they are of, concatenated.

        Returns:
            For each table (passes, shards, group_size, K).
        """
        if self.collective.world_size == 1:
            spread = [values for values, _ in tables]
        else:
            spread = [self._spread(values, rows) for values, rows in tables]
            summed = self.collective.sum_over_replicas(torch.cat([table.flatten() for table in spread]))
            sizes = [table.numel() for table in spread]
            spread = [part.view_as(table) for part, table in zip(summed.split(sizes), spread, strict=True)]
        return [
            table.view(len(rows), self.shards, self.group_size, table.shape[1])
            for table, (_, rows) in zip(spread, tables, strict=True)
        ]

    def _spread(self, values: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """(N, K) -> (passes * size, K), zero where the rows of other replicas belong."""
        places = torch.cat([part + index * self.size for index, part in enumerate(rows)])
        return _placed(values, places, len(rows) * self.size)

    def _members(self) -> Tensor:
        """(N, groups, 1), whether the row is of the group.

        It chooses, and is not multiplied with: a value that is not finite stays in its own group.
        """
        group = self.rows // self.group_size - self._first_group
        return (group[:, None] == torch.arange(self.groups, device=self.device))[..., None]


def _placed(values: Tensor, places: Tensor, count: int) -> Tensor:
    """(N, ...) values, each at its place among `count`, and zeros where those of other replicas belong.

    They are added to zeros, and not copied over them: XLA shares a sum out over its chips.
    """
    return values.new_zeros((count, *values.shape[1:])).index_add(0, places, values)
