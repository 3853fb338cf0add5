"""A manifest -> the batches of one replica."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.order import Indices, Order
from pipelines.shards import Images, Manifest, read_images, read_manifest
from pipelines.storage import Location


@dataclass(frozen=True)
class LocalBatch:
    """A replica's part of a global batch: images (N, C, H, W), uint8, and the first one's row in it."""

    first_row: int
    images: Tensor


class Loader:
    """Reads the batches of one replica, any step at any time.

    Args:
        folder: a data set.
        batch_size: samples in the global batch.
        seed: of the run.
        rank, world_size: which replica this is.

    Raises:
        FileNotFoundError: `folder` holds no data set.
        ValueError: a shard is not what the manifest says.
    """

    def __init__(self, folder: Location, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.manifest: Manifest = read_manifest(folder)
        self._folder = folder
        self._order = Order(self.manifest.rows, self.manifest.lanes, batch_size, seed)
        self._rank, self._world_size = rank, world_size
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._shards: dict[int, Images] = {}

    def batch(self, step: int) -> LocalBatch:
        """This replica's part of the batch of `step`, in the batch's order."""
        share = self._order.share(step, self._rank, self._world_size)
        return LocalBatch(share.first_row, self._read(share.indices))

    def some(self, count: int) -> Tensor:
        """At most `count` images spread evenly over the data set, always the same, (N, C, H, W) uint8."""
        count = min(count, self.manifest.rows)
        return self._read(np.arange(count, dtype=np.int64) * self.manifest.rows // count)

    def _read(self, indices: Indices) -> Tensor:
        shape = (self.manifest.height, self.manifest.width, self.manifest.channels)
        images = np.empty((len(indices), *shape), np.uint8)
        homes = np.searchsorted(self._starts, indices, side="right") - 1
        for home in np.unique(homes):
            here = homes == home
            images[here] = self._shard(int(home))[indices[here] - self._starts[home]]
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _shard(self, number: int) -> Images:
        if number not in self._shards:
            self._shards[number] = read_images(self._folder, self.manifest.shards[number])
        return self._shards[number]
