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

from pipelines.data.shards import DamagedShardError, Images, Manifest, Shard, checksum, labels, pixels, rows_of
from pipelines.loading.disk_cache import DiskCache
from pipelines.loading.memory_pool import MemoryPool
from pipelines.storage.location import Location

_THREADS_LOCAL, _THREADS_REMOTE = 2, 8
#: Of threads and clients; and, for each row of the data set, of its place in the order.
_OWN_BYTES, _ROW_BYTES = 1 << 24, 24


def passing_bytes(largest: int, rows: int) -> int:
    """The memory that reading takes besides what is open, for blocks of at most `largest` bytes and so many rows."""
    return _THREADS_REMOTE * largest + _OWN_BYTES + _ROW_BYTES * rows


class Block(NamedTuple):
    """Some rows of a data set.

    Attributes:
        pictures: by column: decoded, (rows, H, W, C), or encoded.
        labels: (rows,), or (rows, A) where rows have several; NO_LABEL where there is none.
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
        self.starts = np.cumsum([0, *self.rows])
        self.threads = _THREADS_LOCAL if folder.is_local else _THREADS_REMOTE
        sizes = [shard.offsets[at + 1] - shard.offsets[at] for shard, at in homes]
        #: Of memory, that an open block takes.
        self.bytes = sizes if folder.is_local else [max(sizes)] * len(sizes)
        self._slots = MemoryPool(max(sizes))
        self._maps: dict[str, mmap.mmap] = {}
        #: Files from afar that nobody reads at the moment: each has one place to read at.
        self._files: dict[str, list[pa.NativeFile]] = {}
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
            DamagedShardError: its shard is missing, or is not what the manifest says.
            OSError: the storage cannot be reached.
        """
        shard, at = self._homes[number]
        content, close = self._content(shard, at)
        rows = rows_of(content, self.manifest.arrow)
        if self.manifest.shape is None:
            pictures = {name: rows.column(name) for name in self.manifest.columns}
        else:
            pictures = {name: pixels(rows, name) for name in self.manifest.columns}
        return Block(pictures, labels(rows), close)

    def close(self) -> None:
        """Give back the memory that no open block is in."""
        self._slots.clear()

    def _content(self, shard: Shard, at: int) -> tuple[pa.Buffer, Callable[[], None]]:
        if self._folder.is_local:
            return self._mapped(shard, at)
        slot = self._slots.take()
        content = memoryview(slot)[: shard.offsets[at + 1] - shard.offsets[at]]
        self._receive(shard, at, content)
        return pa.py_buffer(content), lambda: self._slots.give(slot)

    def _receive(self, shard: Shard, at: int, content: memoryview) -> None:
        """A block from the cache, else from afar."""
        key = f"{shard.sha256}-{at:05}"
        if self._cache is not None and self._cache.get(key, content):
            if checksum(content) == shard.checks[at]:
                return
            self._cache.drop(key)
        self._fetch(shard, at, content)
        if self._cache is not None:
            self._cache.put(key, content)

    def _mapped(self, shard: Shard, at: int) -> tuple[pa.Buffer, Callable[[], None]]:
        """A block of a local file: pages of it are read when they are touched, which the check does here."""
        start, stop = shard.offsets[at], shard.offsets[at + 1]
        whole = self._map(shard)
        if len(whole) != shard.bytes:
            raise self._damaged(shard, f"it has {len(whole)} bytes, the manifest says {shard.bytes}")
        view = memoryview(whole)[start:stop]
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        # Besides being true, the advice sets an area of memory apart: Linux maps what surrounds a page that is
        # touched, but not beyond its area, so that what is not open takes no memory.
        whole.madvise(mmap.MADV_SEQUENTIAL, first, stop - first)
        self._check(shard, at, view)

        def close() -> None:
            whole.madvise(mmap.MADV_NORMAL, first, stop - first)
            whole.madvise(mmap.MADV_DONTNEED, first, stop - first)

        return pa.py_buffer(view), close

    def _map(self, shard: Shard) -> mmap.mmap:
        with self._opening:
            if shard.name not in self._maps:
                path = Path((self._folder / shard.name).path)
                try:
                    with path.open("rb") as file:
                        self._maps[shard.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (FileNotFoundError, ValueError) as error:  # An empty file cannot be mapped.
                    raise self._damaged(shard, f"it cannot be read: {error}") from error
            return self._maps[shard.name]

    def _fetch(self, shard: Shard, at: int, content: memoryview) -> None:
        """A block of a remote file. Retries are the file system's; what they do not mend may pass, and is no damage."""
        start = shard.offsets[at]
        try:
            with self._opening:
                idle = self._files.setdefault(shard.name, [])
                file = idle.pop() if idle else None
            file = file or (self._folder / shard.name).open()
            if file.size() != shard.bytes:
                raise self._damaged(shard, f"it has {file.size()} bytes, the manifest says {shard.bytes}")
            file.seek(start)
            received = file.readinto(content)
        except FileNotFoundError as error:
            raise self._damaged(shard, f"it cannot be read: {error}") from error
        with self._opening:
            idle.append(file)
        if received != len(content):
            raise self._damaged(shard, f"it ends before byte {start + len(content)}, of {shard.bytes}")
        self._check(shard, at, content)

    def _check(self, shard: Shard, at: int, content: memoryview) -> None:
        found = checksum(content)
        if found != shard.checks[at]:
            what = f"block {at} has XXH3 {found}, the manifest says {shard.checks[at]}"
            raise self._damaged(shard, f"{what} (whole file: sha256 {shard.sha256})")

    def _damaged(self, shard: Shard, what: str) -> DamagedShardError:
        return DamagedShardError(
            f"shard {self._folder / shard.name} is damaged: {what}; restore it, or ingest it again"
        )
