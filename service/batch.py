"""The global batch of a step, as one replica sees it: which rows are here, and statistics over all of them.

Everything that looks beyond one sample (batch norm, loss weights) or draws noise asks the `GlobalBatch`.
It answers as if the whole batch were on one device.

A *row* is a sample's number in the global batch. Networks may be shown several sets of samples in one call
(a critic sees generated, real and previous images): pass p's row r is numbered ``p * size + r``. A *group*
is what a statistic is taken over: one pass, or one of a recipe's fixed shards of it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """

    def __init__(
        self,
        size: int,
        shards: int,
        seed: int,
        collective: Collective,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.size = size
        self.shards = shards
        self.group_size = size // shards
        self.seed = seed
        self.collective = collective
        self.device = device
        self.dtype = dtype
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.own_rows = torch.arange(size, device=device)
        self.rows = self.own_rows
        self.groups = shards
        self._first_row = 0
        self._first_group = 0

    def start(self, step: int, first_row: int, count: int) -> None:
        """Open `step`; this replica holds `count` rows from `first_row` on."""
        self.step.fill_(step)
        if count != len(self.own_rows) or first_row != self._first_row:
            self.own_rows = torch.arange(first_row, first_row + count, device=self.device)
        self._first_row = first_row
        self.rows, self.groups = self.own_rows, self.shards

    @contextmanager
    def passes(self, *rows: Tensor, first: int = 0) -> Iterator[None]:
        """Within, networks are shown these sets of rows, concatenated; the first of them is pass `first`."""
        before = self.rows, self.groups
        numbered = [part + (first + index) * self.size for index, part in enumerate(rows)]
        self.rows = torch.cat(numbered)
        self.groups = len(rows) * self.shards
        self._first_group = first * self.shards
        try:
            yield
        finally:
            self.rows, self.groups = before
            self._first_group = 0

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

    def gather(self, values: Tensor, rows: Tensor) -> Tensor:
        """The global batch's values, (size, ...), on every replica, from the (N, ...) at `rows` here."""
        whole = values.new_zeros((self.size, *values.shape[1:]))
        whole[rows] = values
        return self.collective.sum_over_replicas(whole)

    def normal(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) standard normal values, keyed by the rows."""
        return randomness.normal(self._key(name), self.step, self.rows, per_row).to(self.dtype)

    def uniform(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) values uniform on [0, 1), keyed by the rows."""
        return randomness.uniform(self._key(name), self.step, self.rows, per_row)

    def _key(self, name: str) -> int:
        return randomness.key_of(self.seed, name)

    def _members(self) -> Tensor:
        """(N, groups, 1), whether the row is of the group.

        It chooses, and is not multiplied with: a value that is not finite stays in its own group.
        """
        group = self.rows // self.group_size - self._first_group
        return (group[:, None] == torch.arange(self.groups, device=self.device))[..., None]
