"""A manifest -> the batches of one replica, made in the background before they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.data.images import Transform
from pipelines.data.shards import DamagedShardError, read_manifest
from pipelines.loading.block_pool import BlockPool
from pipelines.loading.blocks import Block, Blocks, passing_bytes
from pipelines.loading.disk_cache import DiskCache
from pipelines.loading.order import Indices, Order
from pipelines.loading.prefetch import Prefetcher
from pipelines.loading.shuffle_windows import BATCHES_AHEAD, ShuffleWindows, batches_bytes
from pipelines.storage.location import Location

#: `some` reads from so many blocks, if they have rows enough.
_SOME_BLOCKS = 32


class LocalBatch(NamedTuple):
    """A replica's part of a global batch.

    Attributes:
        first_row: of the global batch, where the part starts.
        images: (N, C, H, W), uint8.
        paired: the images' partners, likewise, if the data set has pairs.
        labels: (N,), or (N, A), of 0 and 1, where samples have several; int64, NO_LABEL where there is none.
        cells: how many of the rows are of each of the replica's cells.
    """

    first_row: int
    images: Tensor
    paired: Tensor | None
    labels: Tensor
    cells: tuple[int, ...] = ()


#: Where a row lies: an open block, and the row in it.
_Place = tuple[Block, int]


@dataclass(frozen=True)
class Reading:
    """How a replica reads; none of it changes what it reads, but `damaged`.

    Attributes:
        memory_bytes: of open blocks and finished batches.
        decode_threads: for pictures that are stored encoded.
        pinned: whether batches are made in memory that a CUDA device copies from by itself.
        damaged: whether a damaged block stops the run, or others of its lane take its place.
        tell: hears of every block that is replaced: what is wrong, and how many rows it has.
    """

    memory_bytes: int = 1 << 30
    decode_threads: int = 1
    pinned: bool = False
    damaged: Literal["stop", "replace"] = "stop"
    tell: Callable[[str, int], None] = field(default=lambda what, rows: None)


def open_loader(
    folder: Location,
    transform: Transform,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    version: int | None = None,
    cache: DiskCache | None = None,
    reading: Reading = Reading(),
    cells: int | None = None,
) -> Loader:
    """The loader of one replica for a data set's version, or its latest.

    Args:
        cells: as `Order` has them.

    Raises:
        FileNotFoundError: there is no such data set.
        DamagedShardError: its manifest cannot be read.
    """
    manifest = read_manifest(folder, version)
    blocks = Blocks(folder, manifest, cache)
    order = Order(blocks.rows, manifest.lanes, batch_size, seed, cells)
    return Loader(blocks, order, transform, rank, world_size, reading)


class Loader:
    """Reads the batches of one replica, any step at any time; the step after the last one is ready soonest.

    Args:
        blocks: of the data set.
        order: of the run.
        transform: what encoded pictures go through; of decoded ones it says the shape.
        rank, world_size: which replica this is.
    """

    def __init__(
        self,
        blocks: Blocks,
        order: Order,
        transform: Transform,
        rank: int,
        world_size: int,
        reading: Reading = Reading(),
    ) -> None:
        self.manifest = blocks.manifest
        #: No replica reads more rows of any batch.
        self.most = order.most(world_size)
        self._blocks, self._transform, self._order, self._reading = blocks, transform, order, reading
        self._rank, self._world_size = rank, world_size
        self._decoders = self._new_decoders()
        self._ahead: Prefetcher[LocalBatch] | None = None
        #: How long `batch` has waited for data, all in all.
        self.waited_seconds = 0.0

    def batch(self, step: int) -> LocalBatch:
        """This replica's part of the batch of `step`, in the batch's order.

        Raises:
            DamagedShardError: a shard is missing, or not what the manifest says.
        """
        began = time.perf_counter()
        if self._ahead is None or self._ahead.next_step != step:
            self.close()
            self._ahead = Prefetcher(self._batches(step), step, BATCHES_AHEAD)
        batch = self._ahead.take()
        self.waited_seconds += time.perf_counter() - began
        return batch

    def some(self, count: int) -> LocalBatch:
        """At most `count` samples from all over the data set, always the same.

        Raises:
            DamagedShardError: a block is damaged, and is not to be replaced by others.
        """
        count = min(count, self.manifest.rows)
        blocks = min(len(self._blocks), max(_SOME_BLOCKS, -(-count // self.manifest.block_rows)))
        left = np.linspace(0, len(self._blocks), blocks, endpoint=False).astype(int).tolist()
        left += sorted(set(range(len(self._blocks))) - set(left))  # For what short or damaged blocks do not give.
        found: list[LocalBatch] = []
        missing = count
        while missing and left:
            home = left.pop(0)
            wanted = min(missing, max(1, -(-missing // max(1, blocks))))
            blocks -= 1
            try:
                block = self._blocks.open(home)
            except DamagedShardError:
                if self._reading.damaged == "stop":
                    raise
                continue
            rows = range(min(wanted, self._blocks.rows[home]))
            found.append(self._assemble(0, [(block, row) for row in rows]))
            missing -= len(rows)
            block.close()
        if not found:
            raise DamagedShardError(f"none of the blocks can be read ({self.manifest.rows:,} rows)")
        return _joined(found)

    def rows(self, start: int, stop: int) -> LocalBatch:
        """The samples from `start` to `stop` as they lie in the data set, those that there are.

        Raises:
            DamagedShardError: a block is damaged.
        """
        homes, rows = (found.tolist() for found in self._blocks.find(np.arange(start, min(stop, self.manifest.rows))))
        opened = {home: self._blocks.open(home) for home in sorted(set(homes))}
        found = self._assemble(0, [(opened[home], row) for home, row in zip(homes, rows, strict=True)])
        for block in opened.values():
            block.close()
        return found

    def close(self) -> None:
        """Stop reading ahead, and give the memory back."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
        self._blocks.close()
        self._decoders.shutdown()
        self._decoders = self._new_decoders()

    def _batches(self, step: int) -> Generator[LocalBatch, None, None]:
        """The batches from `step` on, for ever."""
        pool = BlockPool(self._blocks.open, self._blocks.bytes, self._block_budget(), self._blocks.threads)
        windows = ShuffleWindows(self._order, self._order.lanes_of(self._rank, self._world_size), pool)
        bad: set[int] = set()
        try:
            while True:
                windows.move_to(step)
                share = self._order.share(step, self._rank, self._world_size)
                batch = self._assemble(share.first_row, self._places(step, share.indices, pool, bad))
                yield batch._replace(cells=self._order.cell_rows(step, self._rank, self._world_size))
                step += 1
        finally:
            pool.close()

    def _places(self, step: int, indices: Indices, pool: BlockPool, bad: set[int]) -> list[_Place]:
        """Where rows that can be read lie, in open blocks. New damage is added to `bad`."""
        homes, rows = self._blocks.find(indices)
        if not bad:
            with suppress(DamagedShardError):  # Who is at fault is found out below.
                return list(zip(map(pool.get, homes.tolist()), rows.tolist(), strict=True))
        while True:
            homes, rows = self._blocks.find(indices)
            opened = [self._opened(home, pool, bad) for home in homes.tolist()]
            places = [(block, row) for block, row in zip(opened, rows.tolist(), strict=True) if block is not None]
            if len(places) == len(indices):
                return places
            indices = self._replaced(step, indices, pool, bad)

    def _opened(self, home: int, pool: BlockPool, bad: set[int]) -> Block | None:
        if home in bad:
            return None
        try:
            return pool.get(home) if pool.holds(home) else self._blocks.open(home)
        except DamagedShardError as error:
            if self._reading.damaged == "stop":
                raise
            bad.add(home)
            self._reading.tell(str(error), self._blocks.rows[home])
            return None

    def _replaced(self, step: int, indices: Indices, pool: BlockPool, bad: set[int]) -> Indices:
        """Indices with rows of the same window, or the next, in place of those in bad blocks.

        What takes a row's place follows from its lane alone, so that it is the same on any number of replicas.
        """
        own = self._order.lanes_of(self._rank, self._world_size)
        before, after = self._order.positions(step), self._order.positions(step + 1)
        streams = [(lane, at) for lane in own for at in range(before[lane], after[lane])]
        homes, rows = self._blocks.find(indices)
        mended = indices.copy()
        for place, (lane, position) in enumerate(streams):
            if int(homes[place]) not in bad:
                continue
            healthy = self._healthy(lane, position, pool, bad)
            instead = healthy[position % len(healthy)]
            mended[place] = self._blocks.starts[instead] + rows[place] % self._blocks.rows[instead]
        return mended

    def _healthy(self, lane: int, position: int, pool: BlockPool, bad: set[int]) -> list[int]:
        """The blocks that can be read of the window at a position, or of the first after it that has any."""
        first = window = self._order.window(lane, position)
        while window.start - first.start <= self.manifest.rows:
            healthy = [block for block in window.blocks if self._opened(block, pool, bad) is not None]
            if healthy:
                return healthy
            window = self._order.window(lane, window.stop)
        raise DamagedShardError(f"every block of lane {lane} is damaged")

    def _new_decoders(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._reading.decode_threads, thread_name_prefix="decode")

    def _block_budget(self) -> int:
        """What is left of the budget for blocks that are open."""
        row = int(np.prod(self._transform.shape))
        batches = batches_bytes(self.manifest, self._order.batch_size, self._world_size, row)
        return self._reading.memory_bytes - batches - passing_bytes(max(self._blocks.bytes), self.manifest.rows)

    def _assemble(self, first_row: int, places: list[_Place]) -> LocalBatch:
        of_one = (len(self.manifest.classes),) if self.manifest.several else ()
        labels = np.array([block.labels[row] for block, row in places], np.int64).reshape(len(places), *of_one)
        images, *others = [self._pictures(places, name) for name in self.manifest.columns]
        return LocalBatch(first_row, images, others[0] if others else None, torch.from_numpy(labels))

    def _pictures(self, places: list[_Place], column: str) -> Tensor:
        """A column of the rows at these places, (N, C, H, W)."""
        images = torch.empty((len(places), *self._transform.shape), dtype=torch.uint8, pin_memory=self._reading.pinned)
        target = images.numpy()
        if self.manifest.shape is not None:
            for image, (block, row) in zip(target, places, strict=True):
                image[...] = block.pictures[column][row]
        else:

            def decode(number: int) -> None:
                block, row = places[number]
                target[number] = self._transform.again(block.pictures[column][row].as_py(), self.manifest.shown)

            for _ in self._decoders.map(decode, range(len(places))):
                """Raises what decoding raises."""
        return images.permute(0, 3, 1, 2)


def _joined(parts: list[LocalBatch]) -> LocalBatch:
    """Parts, one after the other, as one."""
    paired = [part.paired for part in parts if part.paired is not None]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return LocalBatch(0, images, torch.cat(paired) if paired else None, labels)
