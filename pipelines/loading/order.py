"""The order of samples: which rows of a data set make up each global batch, and which replica reads them.

The blocks of a data set are shuffled by the seed and dealt into lanes, equal runs of the rows in that order.
A lane is a stream of its own: in every epoch it goes through its blocks in another order, a few at a time (a
window), and through the rows of a window in any order. Step s takes from lane l the samples that bring the
lane's total to ``floor(((s + 1) * B + o(l)) / L)``, where B is the batch size, L the number of lanes and o a
permutation of 0 .. L - 1. By Hermite's identity the lanes' shares sum to exactly B, whatever B and L are;
when L divides B they are equal. So any step is reached without replaying those before, and what is read
next is known long before.

A replica owns a contiguous run of lanes, and so a contiguous run of the global batch's rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
#: A lane has so many blocks open at once; its rows are shuffled among them.
WINDOW_BLOCKS = 4


class Share(NamedTuple):
    """What one replica reads at one step: rows of the data set, and where they stand in the global batch."""

    first_row: int
    indices: Indices


class Window(NamedTuple):
    """A run of a lane's stream whose rows lie in a few blocks.

    Attributes:
        start, stop: positions in the lane's stream, which goes on from epoch to epoch.
        blocks: numbers of the blocks, ascending.
    """

    lane: int
    start: int
    stop: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class _Epoch:
    """One epoch of a lane: its rows in order, where windows end, and the blocks of each."""

    rows: Indices
    stops: Indices
    blocks: tuple[tuple[int, ...], ...]


class Order:
    """The order of one data set, batch size and seed.

    Args:
        blocks: the rows of each block.
        lanes: from the manifest; no more than there are rows.
        batch_size: samples in the global batch.
        seed: of the run.
        cells: the lanes are shared out over replicas in so many runs, which stay whole [default: each by itself].
    """

    def __init__(self, blocks: Sequence[int], lanes: int, batch_size: int, seed: int, cells: int | None = None) -> None:
        self.lanes, self.batch_size, self.seed = lanes, batch_size, seed
        self._cells = np.arange((cells or lanes) + 1) * lanes // (cells or lanes)
        sizes = np.asarray(blocks, dtype=np.int64)
        self.rows = int(sizes.sum())
        self._starts = np.cumsum(sizes) - sizes
        self._shuffled = _generator(seed, "blocks").permutation(len(sizes))
        self._stops = np.cumsum(sizes[self._shuffled])
        # Multiples of a number near the golden section of L spread early turns evenly over the lanes, and so
        # over the replicas, when a batch is smaller than the number of lanes.
        stride = next(n for n in range(round(lanes * 0.618), 0, -1) if math.gcd(n, lanes) == 1) if lanes > 1 else 1
        self._offsets = np.arange(lanes, dtype=np.int64) * stride % lanes
        bounds = np.arange(lanes + 1, dtype=np.int64) * self.rows // lanes
        self._lane_starts, self._lengths = bounds[:-1], np.diff(bounds)
        self._epochs: dict[int, dict[int, _Epoch]] = {lane: {} for lane in range(lanes)}
        #: Every lane's present epoch, one lane after the other; which one it is.
        self._stream = np.empty(self.rows, dtype=np.int64)
        self._laid_out = np.full(lanes, -1, dtype=np.int64)

    def lanes_of(self, rank: int, world_size: int) -> range:
        """The lanes of replica `rank` of `world_size`."""
        cells = len(self._cells) - 1
        return range(int(self._cells[rank * cells // world_size]), int(self._cells[(rank + 1) * cells // world_size]))

    def cell_rows(self, step: int, rank: int, world_size: int) -> tuple[int, ...]:
        """How many rows of `step`'s batch each cell of a replica has."""
        counts = self.positions(step + 1) - self.positions(step)
        cells = len(self._cells) - 1
        bounds = self._cells[rank * cells // world_size : (rank + 1) * cells // world_size + 1].tolist()
        return tuple(int(counts[low:high].sum()) for low, high in pairwise(bounds))

    def positions(self, step: int) -> Indices:
        """How far each lane's stream has come before `step`."""
        return (step * self.batch_size + self._offsets) // self.lanes

    def step_of(self, lane: int, position: int) -> int:
        """The step that takes what stands at `position` of a lane's stream."""
        return -(-((position + 1) * self.lanes - int(self._offsets[lane])) // self.batch_size) - 1

    def most(self, world_size: int) -> int:
        """No replica of so many reads more rows of any batch."""
        steps = range(self.lanes // math.gcd(self.lanes, self.batch_size) + 1)  # Shares then come again.
        counts = np.diff([self.positions(step) for step in steps], axis=0)
        owned = [self.lanes_of(rank, world_size) for rank in range(world_size)]
        return max(int(counts[:, lanes.start : lanes.stop].sum(1).max()) for lanes in owned)

    def share(self, step: int, rank: int, world_size: int) -> Share:
        """The part of `step`'s batch that replica `rank` of `world_size` owns."""
        before, after = self.positions(step), self.positions(step + 1)
        own = self.lanes_of(rank, world_size)
        counts = after - before
        first_row = int(counts[: own.start].sum())
        epochs, at = np.divmod(before, self._lengths)
        if (at + counts > self._lengths)[own.start : own.stop].any():  # Some lane ends its epoch in this step.
            parts = [part for lane in own for part in self._take(lane, int(before[lane]), int(after[lane]))]
            return Share(first_row, np.concatenate(parts))
        for lane in own.start + np.flatnonzero(self._laid_out[own.start : own.stop] != epochs[own.start : own.stop]):
            self._stream[self._lane_starts[lane] :][: self._lengths[lane]] = self._epoch(
                int(lane), int(epochs[lane])
            ).rows
            self._laid_out[lane] = epochs[lane]
        mine = slice(own.start, own.stop)
        starts = np.repeat(self._lane_starts[mine] + at[mine] - np.cumsum(counts[mine]) + counts[mine], counts[mine])
        return Share(first_row, self._stream[starts + np.arange(len(starts))])

    def window(self, lane: int, position: int) -> Window:
        """The window in which a position of a lane's stream lies."""
        epoch, at = divmod(position, int(self._lengths[lane]))
        found = self._epoch(lane, epoch)
        number = int(np.searchsorted(found.stops, at, side="right"))
        begin = position - at
        start = int(found.stops[number - 1]) if number else 0
        return Window(lane, begin + start, begin + int(found.stops[number]), found.blocks[number])

    def _take(self, lane: int, start: int, stop: int) -> Iterator[Indices]:
        """The samples at positions [start, stop) of a lane's stream, as rows of the data set."""
        length = int(self._lengths[lane])
        while start < stop:
            epoch, at = divmod(start, length)
            rows = self._epoch(lane, epoch).rows[at : at + stop - start]
            yield rows
            start += len(rows)

    def _epoch(self, lane: int, epoch: int) -> _Epoch:
        """The order of a lane's rows in one epoch; the last two that were asked for are kept."""
        kept = self._epochs[lane]
        if epoch not in kept:
            while len(kept) > 1:
                kept.pop(next(iter(kept)))
            kept[epoch] = self._lay_out(lane, epoch)
        return kept[epoch]

    def _lay_out(self, lane: int, epoch: int) -> _Epoch:
        generator = _generator(self.seed, f"{lane}/{epoch}")
        pieces = self._pieces(lane)
        pieces = [pieces[at] for at in generator.permutation(len(pieces))]
        rows, stops, blocks, done = [], [], [], 0
        # Lanes do not open all their windows at the same steps: some begin with a short one.
        cuts = [0, *range(1 + lane % WINDOW_BLOCKS, len(pieces), WINDOW_BLOCKS), len(pieces)]
        for low, high in pairwise(cuts):
            window = np.concatenate([np.arange(first, last) for _, first, last in pieces[low:high]])
            rows.append(generator.permutation(window))
            done += len(window)
            stops.append(done)
            blocks.append(tuple(sorted({block for block, _, _ in pieces[low:high]})))
        return _Epoch(np.concatenate(rows), np.asarray(stops, dtype=np.int64), tuple(blocks))

    def _pieces(self, lane: int) -> list[tuple[int, int, int]]:
        """What a lane has of each block that it has something of: (block, first row, last row + 1)."""
        low = int(self._lane_starts[lane])
        high = low + int(self._lengths[lane])
        pieces = []
        at = int(np.searchsorted(self._stops, low, side="right"))
        while low < high:
            block, stop = int(self._shuffled[at]), int(self._stops[at])
            start = stop - self._size(at)
            first = int(self._starts[block]) - start
            pieces.append((block, first + low, first + min(stop, high)))
            low, at = stop, at + 1
        return pieces

    def _size(self, at: int) -> int:
        return int(self._stops[at] - (self._stops[at - 1] if at else 0))


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
