"""The order of samples: which rows of a data set make up each global batch, and which replica reads them.

A data set is dealt into lanes, equal runs of its rows. A lane is a stream of its own: it goes through its
rows in an order keyed by (seed, lane, epoch), again and again. Step s takes from lane l the samples that
bring the lane's total to ``floor(((s + 1) * B + o(l)) / L)``, where B is the batch size, L the number of
lanes and o a permutation of 0 .. L - 1. By Hermite's identity the lanes' shares sum to exactly B, whatever
B and L are; when L divides B they are equal. So any step is reached without replaying those before.

A replica owns a contiguous run of lanes, and so a contiguous run of the global batch's rows.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one replica reads at one step: rows of the data set, and where they stand in the global batch."""

    first_row: int
    indices: Indices


@dataclass
class Order:
    """The order of one data set, batch size and seed.

    Args:
        rows: of the data set; at least `lanes`.
        lanes: from its manifest.
        batch_size: samples in the global batch.
        seed: of the run.
    """

    rows: int
    lanes: int
    batch_size: int
    seed: int
    _offsets: Indices = field(init=False, repr=False)
    _epochs: dict[int, tuple[int, Indices]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        # Multiples of a number near the golden section of L spread early turns evenly over the lanes, and so
        # over the replicas, when a batch is smaller than the number of lanes.
        stride = (
            next(n for n in range(round(self.lanes * 0.618), 0, -1) if math.gcd(n, self.lanes) == 1)
            if self.lanes > 1
            else 1
        )
        self._offsets = np.arange(self.lanes, dtype=np.int64) * stride % self.lanes

    def share(self, step: int, rank: int, world_size: int) -> Share:
        """The part of `step`'s batch that replica `rank` of `world_size` owns."""
        before = (step * self.batch_size + self._offsets) // self.lanes
        after = ((step + 1) * self.batch_size + self._offsets) // self.lanes
        first = rank * self.lanes // world_size
        last = (rank + 1) * self.lanes // world_size
        parts = [self._take(lane, before[lane], after[lane]) for lane in range(first, last)]
        first_row = int((after[:first] - before[:first]).sum())
        return Share(first_row, np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))

    def _take(self, lane: int, start: int, stop: int) -> Indices:
        """The samples at positions [start, stop) of a lane's stream, as rows of the data set."""
        low, high = lane * self.rows // self.lanes, (lane + 1) * self.rows // self.lanes
        length = high - low
        taken = [low + self._epoch(lane, int(at) // length, length)[at % length] for at in range(start, stop)]
        return np.array(taken, dtype=np.int64)

    def _epoch(self, lane: int, epoch: int, length: int) -> Indices:
        """The order of a lane's rows in one epoch; the last one asked for is kept."""
        kept = self._epochs.get(lane)
        if kept is None or kept[0] != epoch:
            digest = hashlib.blake2b(f"{self.seed}/{lane}/{epoch}".encode(), digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            kept = self._epochs[lane] = (epoch, generator.permutation(length))
        return kept[1]
