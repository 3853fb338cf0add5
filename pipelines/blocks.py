"""The blocks of a data set: read from wherever they lie, checked, and made readable without a copy."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.disk_cache import DiskCache
from pipelines.shards import DamagedShardError, Images, Manifest, Shard, checksum, labels, pixels, rows_of
from pipelines.storage import Location

_THREADS_LOCAL, _THREADS_REMOTE = 2, 16


class Block(NamedTuple):
    """Some rows of a data set.

    Attributes:
        pictures: by column: decoded, (rows, H, W, C), or encoded.
        labels: NO_LABEL where there is none.
        close: gives the memory back.
    """

    pictures: Mapping[str, Images | pa.BinaryArray]
    labels: NDArray[np.int64]
    close: Callable[[], None]


class Blocks:
    """All blocks of a data set, by number.

    Args:
        folder: the data set's.
        manifest: of the version to read.
        cache: keeps what comes from afar; None for none.
    """

    def __init__(self, folder: Location, manifest: Manifest, cache: DiskCache | None = None) -> None:
        self.manifest = manifest
        self._folder, self._cache = folder, cache
        homes = [(shard, at) for shard in manifest.shards for at in range(len(shard.checks))]
        self._homes = homes
        self.rows = [min(manifest.block_rows, shard.rows - at * manifest.block_rows) for shard, at in homes]
        self.bytes = [shard.offsets[at + 1] - shard.offsets[at] for shard, at in homes]
        self.starts = np.cumsum([0, *self.rows])
        self.threads = _THREADS_LOCAL if folder.is_local else _THREADS_REMOTE
        self._files: dict[str, pa.NativeFile | mmap.mmap] = {}
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return len(self._homes)

    def find(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the data set as (block, row in it)."""
        homes = np.searchsorted(self.starts, rows, side="right") - 1
        return homes, rows - self.starts[homes]

    def open(self, number: int) -> Block:
        """Read a block.

        Raises:
            DamagedShardError: its shard is missing, cannot be read, or is not what the manifest says.
        """
        shard, at = self._homes[number]
        content, close = self._content(shard, at)
        rows = rows_of(content, self.manifest.arrow)
        if self.manifest.shape is None:
            pictures = {name: rows.column(name) for name in self.manifest.columns}
        else:
            pictures = {name: pixels(rows, name) for name in self.manifest.columns}
        return Block(pictures, labels(rows), close)

    def _content(self, shard: Shard, at: int) -> tuple[pa.Buffer, Callable[[], None]]:
        if self._folder.is_local:
            return self._mapped(shard, at)
        key = f"{shard.sha256}-{at:05}"
        if self._cache is not None:
            kept = self._cache.get(key)
            if kept is not None and checksum(kept) == shard.checks[at]:
                return kept, _nothing
        content = self._fetched(shard, at)
        if self._cache is not None:
            self._cache.put(key, content)
        return content, _nothing

    def _mapped(self, shard: Shard, at: int) -> tuple[pa.Buffer, Callable[[], None]]:
        """A block of a local file: pages of it are read when they are touched, which the check does here."""
        start, stop = shard.offsets[at], shard.offsets[at + 1]
        whole = self._map(shard)
        if len(whole) != shard.bytes:
            raise self._damaged(shard, f"it has {len(whole)} bytes, the manifest says {shard.bytes}")
        view = memoryview(whole)[start:stop]
        self._check(shard, at, view)
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first

        def close() -> None:
            if length > 0:
                whole.madvise(mmap.MADV_DONTNEED, first, length)

        return pa.py_buffer(view), close

    def _map(self, shard: Shard) -> mmap.mmap:
        with self._opening:
            if shard.name not in self._files:
                path = Path((self._folder / shard.name).path)
                try:
                    with path.open("rb") as file:
                        self._files[shard.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise self._damaged(shard, f"it cannot be read: {error}") from error
            return self._files[shard.name]

    def _fetched(self, shard: Shard, at: int) -> pa.Buffer:
        """A block of a remote file. Retries are the file system's."""
        start, stop = shard.offsets[at], shard.offsets[at + 1]
        try:
            content = pa.py_buffer(self._remote(shard).read_at(stop - start, start))
        except (OSError, pa.ArrowException) as error:
            with self._opening:
                self._files.pop(shard.name, None)
            raise self._damaged(shard, f"it cannot be read: {error}") from error
        if content.size != stop - start:
            raise self._damaged(shard, f"it ends before byte {stop}, the manifest says {shard.bytes} bytes")
        self._check(shard, at, content)
        return content

    def _remote(self, shard: Shard) -> pa.NativeFile:
        with self._opening:
            if shard.name not in self._files:
                self._files[shard.name] = (self._folder / shard.name).open()
            return self._files[shard.name]

    def _check(self, shard: Shard, at: int, content: memoryview | pa.Buffer) -> None:
        found = checksum(content)
        if found != shard.checks[at]:
            what = f"block {at} has XXH3 {found}, the manifest says {shard.checks[at]}"
            raise self._damaged(shard, f"{what} (whole file: sha256 {shard.sha256})")

    def _damaged(self, shard: Shard, what: str) -> DamagedShardError:
        return DamagedShardError(
            f"shard {self._folder / shard.name} is damaged: {what}; put it back, or ingest it again"
        )


def _nothing() -> None:
    """Memory of one's own goes with its last user."""
