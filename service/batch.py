"""The global batch of a step, as one replica sees it: which rows are here, and statistics over all of them.

Everything that looks beyond one sample (batch norm, loss weights) or draws noise asks the `GlobalBatch`.
It answers as if the whole batch were on one device.

A *row* is a sample's number in the global batch. Networks may be shown several sets of samples in one call
(a critic sees generated, real and previous images): pass p's row r is numbered ``p * size + r``. A *group*
is what a statistic is taken over: one pass, or one of a recipe's fixed shards of it. A step that reads
several batches is made of *parts*, whose draws have keys of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from service import randomness
from service.collectives import Collective


class GlobalBatch:
    """One step's batch. `start` opens a step, `passes` says what a network is about to be shown.

    Args:
        size: samples in the global batch.
        shards: statistics are taken over this many equal runs of rows (1: over the whole batch).
        seed: of the run; keys every draw.
        collective: reduces over the replicas.
        device: where rows and draws live.
        dtype: of the draws.
        place: (first, count, size) -> the numbers of the rows that this replica has, of those `count` from `first` on
            that it has read of a batch of `size` [default: those]. Where tensors span all hosts, it has all rows.
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
        self.size = size
        self.shards = shards
        self.group_size = size // shards
        self.seed = seed
        self.collective = collective
        self.device = device
        self.dtype = dtype
        self._place = place or (lambda first, count, size: torch.arange(first, first + count, device=device))
        self.step = self.scalar(0)
        self.own_rows = torch.arange(0, device=device)
        self.rows = self.own_rows
        self.groups = shards
        self._first_row = 0
        self._first_group = 0
        self._part = ""
        self._visits: Counter[tuple[str, int]] = Counter()

    def start(self, step: int, first_row: int, count: int, part: int = 0) -> None:
        """Open a part of `step`; this host has read `count` rows of its batch from `first_row` on."""
        self.step = self.scalar(step)
        self.own_rows = self._place(first_row, count, self.size)
        self._first_row = 0 if len(self.own_rows) == self.size else first_row
        self._part = f"part {part}" if part else ""
        self._visits.clear()
        self._show((self.own_rows,), 0)

    @contextmanager
    def passes(self, *rows: Tensor, first: int = 0) -> Iterator[None]:
        """Within, networks are shown these sets of rows, concatenated; the first of them is pass `first`."""
        before = self.rows, self.groups, self._first_group
        self._show(rows, first)
        try:
            yield
        finally:
            self.rows, self.groups, self._first_group = before

    def _show(self, rows: Sequence[Tensor], first: int) -> None:
        numbered = [part + (first + index) * self.size for index, part in enumerate(rows)]
        self.rows = numbered[0] if len(numbered) == 1 else torch.cat(numbered)
        self.groups = len(rows) * self.shards
        self._first_group = first * self.shards

    @contextmanager
    def thinned(self, every: int) -> Iterator[slice]:
        """Within, the batch is every so-manieth row of itself; yields which of this replica's samples those are.

        Networks that follow the batch are then shown those rows alone.
        """
        before = self.size, self.group_size, self.own_rows, self._part
        kept = slice(-self._first_row % every, None, every)
        self.size, self.group_size = self.size // every, self.group_size // every
        self.own_rows = self.own_rows[kept] // every
        self._part = f"{self._part}, thinned"  # Rows have other numbers now, and may not draw what those draw.
        try:
            with self.passes(self.own_rows):
                yield kept
        finally:
            self.size, self.group_size, self.own_rows, self._part = before

    @contextmanager
    def drawing_at(self, step: int) -> Iterator[None]:
        """Within, noise is that of another step."""
        before = self.step
        self.step = self.scalar(step)
        try:
            yield
        finally:
            self.step = before

    def scalar(self, value: int) -> Tensor:
        """A 0-dimensional int64 on the device.

        It is copied there: written by a kernel, some values would be part of a compiled step, and others not.
        """
        return torch.tensor([value]).to(self.device, non_blocking=True)[0]

    def all_rows(self, number: int = 0) -> Tensor:
        """(size,) the rows of the whole batch in pass `number`, wherever they are."""
        return torch.arange(self.size, device=self.device) + number * self.size

    def visit(self, layer: str) -> str:
        """A name for a layer's draws: another one each time that a pass goes through the layer."""
        self._visits[layer, self._first_group] += 1
        return f"{layer} {self._visits[layer, self._first_group]}"

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

    def normal(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) standard normal values, keyed by the rows."""
        return randomness.normal(self._key(name), self.step, self.rows, per_row).to(self.dtype)

    def uniform(self, name: str, per_row: int, rows: Tensor | None = None) -> Tensor:
        """(N, per_row) values uniform on [0, 1), keyed by the present rows, or by others."""
        return randomness.uniform(self._key(name), self.step, self.rows if rows is None else rows, per_row)

    def _key(self, name: str) -> int:
        return randomness.key_of(self.seed, f"{name}, {self._part}" if self._part else name)

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
