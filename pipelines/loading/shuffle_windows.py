"""Which blocks are open while a replica goes through its lanes, and which are opened next."""

from __future__ import annotations

import heapq
from itertools import pairwise

from pipelines.data.shards import Manifest
from pipelines.loading.block_pool import BlockPool
from pipelines.loading.blocks import passing_bytes
from pipelines.loading.order import WINDOW_BLOCKS, Order, Window

#: No lane has more windows open, though there be room: they would be no use yet.
_WINDOWS_A_LANE = 3
#: Batches that are ready before they are asked for.
BATCHES_AHEAD = 2


def least_bytes(manifest: Manifest, batch_size: int, world_size: int, row_bytes: int) -> int:
    """The memory that a replica's loader needs: for the windows of one step, and the batches that are made of them.

    Args:
        row_bytes: of a picture as it is in a batch.
    """
    lanes = -(-manifest.lanes // world_size)
    rows_a_step = -(-batch_size // manifest.lanes)
    windows = 1 if rows_a_step == 1 else 2 + rows_a_step // manifest.block_rows
    sizes = [stop - start for shard in manifest.shards for start, stop in pairwise(shard.offsets)]
    blocks = min(lanes * windows * WINDOW_BLOCKS, len(sizes)) * max(sizes)
    passing = passing_bytes(max(sizes), manifest.rows)
    return blocks + passing + batches_bytes(manifest, batch_size, world_size, row_bytes)


def batches_bytes(manifest: Manifest, batch_size: int, world_size: int, row_bytes: int) -> int:
    """Of the batches that are ready, the one that is being made, and the one in use."""
    rows = -(-batch_size // manifest.lanes) * -(-manifest.lanes // world_size)
    return (BATCHES_AHEAD + 2) * rows * row_bytes * len(manifest.columns)


class ShuffleWindows:
    """The windows of some lanes: those of the present step are open, the next are opened in order of need.

    Args:
        order: of the run.
        lanes: of the replica.
        pool: opens the blocks, within its budget.
    """

    def __init__(self, order: Order, lanes: range, pool: BlockPool) -> None:
        self._order, self._lanes, self._pool = order, lanes, pool
        #: (last step that needs it, number, window) of what is open.
        self._open: list[tuple[int, int, Window]] = []
        self._count = 0
        #: (step that needs it, lane, position in the lane's stream) of every lane's next window.
        self._next: list[tuple[int, int, int]] = []

    def move_to(self, step: int) -> None:
        """Have wanted what `step` needs, and what comes after it as far as the budget goes.

        Steps must come one after the other.

        Raises:
            OverBudgetError: the budget has no room for what `step` needs.
        """
        after = self._order.positions(step + 1)
        if not self._next:
            before = self._order.positions(step)
            self._next = [(step, lane, int(before[lane])) for lane in self._lanes]
            heapq.heapify(self._next)
        while self._open and self._open[0][0] < step:
            self._pool.release(heapq.heappop(self._open)[2].blocks)
        while self._next:
            _, lane, position = self._next[0]
            window = self._order.window(lane, position)
            if position < after[lane]:
                self._pool.need(window.blocks)
            elif len(self._open) >= _WINDOWS_A_LANE * len(self._lanes) or not self._pool.want(window.blocks):
                return
            self._count += 1
            heapq.heappush(self._open, (self._order.step_of(lane, window.stop - 1), self._count, window))
            heapq.heapreplace(self._next, (self._order.step_of(lane, window.stop), lane, window.stop))
