"""Memory for blocks from afar, used again: new memory costs as much as receiving what goes into it."""

from __future__ import annotations

import mmap
import threading


class MemoryPool:
    """Pieces of memory of one size: as many as were in use at once, until `clear`. Safe for threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._spare: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self) -> mmap.mmap:
        """A piece of memory, whose content is whatever was there."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        return mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give(self, slot: mmap.mmap) -> None:
        """Let a piece be used for something else: nobody may look at it any more."""
        with self._lock:
            self._spare.append(slot)

    def clear(self) -> None:
        """Give what is not in use back to the system."""
        with self._lock:
            self._spare.clear()
