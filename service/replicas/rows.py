"""Which rows of the global batch a replica has at hand, and how its samples are numbered.

A *row* is a sample's number in the global batch. Networks may be shown several sets of samples in one call
(a critic sees generated, real and previous images): pass p's row r is numbered ``p * size + r``. A *group*
is what a statistic is taken over: one pass, or one of a recipe's fixed shards of it. A step that reads
several batches is made of *parts*, whose draws have keys of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from service.replicas import randomness
from service.replicas.noise import Draw, Noise
from service.replicas.row_sets import RowSet
from service.replicas.statistics import Known, copy_of

T = TypeVar("T")
#: What is the same at every step is kept for so many sets of rows.
_MOST_KEPT = 256


class Shown(NamedTuple):
    """What networks are being shown.

    Attributes:
        numbers: (N,) of all rows, with their passes.
        runs: (first, count) of each run of them.
        sets: the rows of each pass.
        first_group: of the first pass.
        shards: groups of a pass.
        group_size: rows of a group, wherever they are.
    """

    numbers: Tensor
    runs: tuple[tuple[int, int], ...]
    sets: tuple[RowSet, ...]
    first_group: int
    shards: int
    group_size: int


class Present(NamedTuple):
    """What rows and their draws depend on at one moment of a step.

    Of no use after that step: `step` is counted in place.
    """

    step: Tensor
    size: int
    group_size: int
    own_rows: RowSet
    part: str
    shown: Shown
    layer_calls: Counter[tuple[str, int]]
    known: Known | None


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
        whole_size: `size`, also while the batch is subsampled.
        own_rows: the rows that this replica has of one pass.
        arithmetic: what networks compute within (`service.replicas.products`).
        noise: makes a step's draws at once; None: each is made by itself, as a compiler sees all of them anyhow.
        rows_at_once: how many rows of a pass go through a network in one call (`service.replicas.microbatches`).
        known: the statistics that layers are told, which are being shown a micro-batch; None: they see all rows.
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
        self.size = self.whole_size = size
        self.shards = shards
        self.group_size = size // shards
        self.seed = seed
        self.device = device
        self.dtype = dtype
        self.arithmetic: AbstractContextManager[Any] = nullcontext()
        self.rows_at_once: int | None = None
        self.noise: Noise | None = None
        self.known: Known | None = None
        self._kept: dict[Any, Any] = {}
        self._place = place or (lambda first, count, size: torch.arange(first, first + count, device=device))
        self.step, self._number = self.scalar(0), 0
        self.own_rows = RowSet(torch.arange(0, device=device), 0, (0,))
        self._shown: Shown
        self._show((self.own_rows,), 0)
        self._part = ""
        self._layer_calls: Counter[tuple[str, int]] = Counter()

    def start(self, step: int, first_row: int, count: int, part: int = 0, cells: Sequence[int] = ()) -> None:
        """Open a part of `step`; this host has read `count` rows of its batch from `first_row` on.

        Args:
            cells: how many of them are of each of its cells [default: it has one].
        """
        numbers = self._place(first_row, count, self.size)
        if self.noise is not None and (not part or step != self._number):
            self.noise.begin((first_row, count))
        self._count_to(step)
        first = 0 if len(numbers) == self.size else first_row
        of_cells = tuple(cells) or (len(numbers),)
        self.own_rows = self._once((first, of_cells, self.size), lambda: RowSet(numbers, first, of_cells))
        self._part = f"part {part}" if part else ""
        self._layer_calls.clear()
        self._show((self.own_rows,), 0)

    @contextmanager
    def passes(self, *rows: RowSet, first: int = 0) -> Iterator[None]:
        """Within, networks are shown these sets of rows, concatenated; the first of them is pass `first`."""
        before = self._shown
        self._show(rows, first)
        try:
            yield
        finally:
            self._shown = before

    def _show(self, rows: Sequence[RowSet], first: int) -> None:
        sets = tuple(rows)
        self._shown = self._once((sets, first, self.size), lambda: self._numbered(sets, first))

    def _numbered(self, sets: tuple[RowSet, ...], first: int) -> Shown:
        passes = [number * self.size for number in range(first, first + len(sets))]
        numbered = [part.numbers + offset for part, offset in zip(sets, passes, strict=True)]
        numbers = numbered[0] if len(numbered) == 1 else torch.cat(numbered)
        runs = tuple((part.first + offset, len(part)) for part, offset in zip(sets, passes, strict=True))
        return Shown(numbers, runs, sets, first * self.shards, self.shards, self.group_size)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What is made of the same rows at every step, made once. A compiler is to see it made each time."""
        if self.noise is None or torch.compiler.is_compiling():
            return make()
        if key not in self._kept:
            if len(self._kept) == _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def _count_to(self, step: int) -> None:
        """The next step is counted to on the device, for which the host does not have to be asked."""
        if self.noise is not None and step == self._number + 1:
            self.step.add_(1)
        elif self.noise is None or step != self._number:
            self.step = self.scalar(step)
        self._number = step

    @property
    def present(self) -> Present:
        """What `at` goes back to."""
        calls = self._layer_calls.copy()
        return Present(self.step, self.size, self.group_size, self.own_rows, self._part, self._shown, calls, self.known)

    @contextmanager
    def at(self, present: Present) -> Iterator[None]:
        """Within, rows and draws are what they were, or would be, then."""
        before = self.present
        self.become(present)
        try:
            yield
        finally:
            self.become(before)

    def become(self, present: Present) -> None:
        """Go back, or on, to another moment."""
        self.step, self.size, self.group_size, self.own_rows, self._part, self._shown, calls, self.known = present
        self._layer_calls = calls.copy()

    @property
    def rows(self) -> Tensor:
        """(N,) the numbers of the rows that networks are being shown."""
        return self._shown.numbers

    @property
    def groups(self) -> int:
        """How many groups these are of."""
        return len(self._shown.sets) * self.shards

    @property
    def _first_group(self) -> int:
        return self._shown.first_group

    @contextmanager
    def subsampled(self, every: int) -> Iterator[slice]:
        """Within, the batch is every so-manieth row of itself; yields which of this replica's samples those are.

        Networks that follow the batch are then shown those rows alone.
        """
        before = self.present
        kept = slice(-self.own_rows.first % every, None, every)
        self.size, self.group_size = self.size // every, self.group_size // every
        every_row = self.own_rows
        self.own_rows = self._once((every_row, every), lambda: every_row.subsampled(kept, every))
        self._part = f"{self._part}, thinned"  # Rows have other numbers now, and may not draw what those draw.
        try:
            with self.passes(self.own_rows):
                yield kept
        finally:
            self.become(before._replace(layer_calls=self._layer_calls))

    @contextmanager
    def drawing_every(self, steps: int) -> Iterator[None]:
        """Within, noise is that of the last step whose number is a multiple of `steps`."""
        if steps == 1:
            yield
            return
        before = self.step, self.noise
        self.step, self.noise = self.step - self.step % steps, None
        try:
            yield
        finally:
            self.step, self.noise = before

    def scalar(self, value: int) -> Tensor:
        """A 0-dimensional int64 on the device.

        It is copied there: written by a kernel, some values would be part of a compiled step, and others not.
        """
        return torch.tensor([value]).to(self.device, non_blocking=True)[0]

    def all_rows(self, number: int = 0) -> Tensor:
        """(size,) the rows of the whole batch in pass `number`, wherever they are."""
        return self._once((number, self.size), lambda: torch.arange(self.size, device=self.device) + number * self.size)

    def layer_key(self, layer: str) -> str:
        """A name for a layer's draws: another one each time that a pass goes through the layer."""
        self._layer_calls[layer, self._first_group] += 1
        return f"{layer} {self._layer_calls[layer, self._first_group]}"

    def normal(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) standard normal values, keyed by the rows."""
        drawn = self._draw("normal", name, per_row, self._shown.runs, lambda: self.rows)
        return drawn.to(self.dtype)

    def uniform(self, name: str, per_row: int) -> Tensor:
        """(N, per_row) values uniform on [0, 1), keyed by the rows."""
        return self._draw("uniform", name, per_row, self._shown.runs, lambda: self.rows)

    def uniform_for_all(self, name: str, per_row: int, number: int = 0) -> Tensor:
        """(size, per_row) values uniform on [0, 1), keyed by all rows of pass `number`, wherever they are."""
        runs = ((number * self.size, self.size),)
        return self._draw("uniform", name, per_row, runs, lambda: self.all_rows(number))

    def _draw(
        self,
        kind: Literal["uniform", "normal"],
        name: str,
        per_row: int,
        runs: tuple[tuple[int, int], ...],
        rows: Callable[[], Tensor],
    ) -> Tensor:
        draw, made = Draw(kind, self._key(name), per_row, runs), None
        if self.noise is not None and self.known is None and draw.small and not torch.compiler.is_compiling():
            made = self.noise.draw(draw, self.step)
        by_itself = randomness.normal if kind == "normal" else randomness.uniform
        return by_itself(draw.key, self.step, rows(), per_row) if made is None else made

    @property
    def first_told(self) -> bool:
        """Whether the last statistic is news: layers are told it for each micro-batch, and again for gradients."""
        return self.known is None or self.known.first_told

    def as_at_first(self, value: Tensor) -> Tensor:
        """A copy of what a layer changes, as all rows of one call are to see it."""
        return copy_of(value) if self.known is None else self.known.as_at_first(value)

    def _of_all_rows(self, values: Tensor, take: Callable[[Tensor], Tensor], by_row: bool = False) -> Tensor:
        """A statistic of rows, of all of them if some are at hand (`service.replicas.statistics`)."""
        return take(values) if self.known is None else self.known.statistic(values, take, by_row)

    def _key(self, name: str) -> int:
        return randomness.key_of(self.seed, f"{name}, {self._part}" if self._part else name)
