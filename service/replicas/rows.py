"""Which rows of the global batch a replica has at hand, and how its samples are numbered.

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

from service.replicas import randomness


class Rows:
    """One step's rows. `start` opens a step, `passes` says what a network is about to be shown.

    Args:
        size: samples in the global batch.
        shards: statistics are taken over this many equal runs of rows (1: over the whole batch).
        seed: of the run; keys every draw.
        device: where rows and draws live.
        dtype: of the draws.
        place: (first, count, size) -> the numbers of the rows that this replica has, of those `count` from `first` on
            that it has read of a batch of `size` [default: those]. Where tensors span all hosts, it has all rows.

    Attributes:
        own_rows: (N,) the rows that this replica has of one pass.
        rows: (N,) those that networks are being shown.
        groups: how many groups these are of.
    """

    def __init__(
        self,
        size: int,
        shards: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        place: Callable[[int, int, int], Tensor] | None = None,
    ) -> None:
        self.size = size
        self.shards = shards
        self.group_size = size // shards
        self.seed = seed
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
        self._layer_calls: Counter[tuple[str, int]] = Counter()

    def start(self, step: int, first_row: int, count: int, part: int = 0) -> None:
        """Open a part of `step`; this host has read `count` rows of its batch from `first_row` on."""
        self.step = self.scalar(step)
        self.own_rows = self._place(first_row, count, self.size)
        self._first_row = 0 if len(self.own_rows) == self.size else first_row
        self._part = f"part {part}" if part else ""
        self._layer_calls.clear()
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
    def subsampled(self, every: int) -> Iterator[slice]:
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

    def layer_key(self, layer: str) -> str:
        """A name for a layer's draws: another one each time that a pass goes through the layer."""
        self._layer_calls[layer, self._first_group] += 1
        return f"{layer} {self._layer_calls[layer, self._first_group]}"

    def normal(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) standard normal values, keyed by the rows."""
        return randomness.normal(self._key(name), self.step, self.rows, per_row).to(self.dtype)

    def uniform(self, name: str, per_row: int, rows: Tensor | None = None) -> Tensor:
        """(N, per_row) values uniform on [0, 1), keyed by the present rows, or by others."""
        return randomness.uniform(self._key(name), self.step, self.rows if rows is None else rows, per_row)

    def _key(self, name: str) -> int:
        return randomness.key_of(self.seed, f"{name}, {self._part}" if self._part else name)
