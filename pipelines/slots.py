"""Memory for blocks from afar, used again: allocators that serve many threads keep more than they are asked for."""

from __future__ import annotations

import mmap
import threading

_ROUND = 1 << 16
#: Slots that wait for their next use; more are given back.
SPARE_SLOTS = 4


class Slots:
    """Pieces of memory, given back to the system when there are too many to spare. Safe for threads."""

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> mmap.mmap:
        """A piece of at least `size` bytes, and little more."""
        rounded = -(-size // _ROUND) * _ROUND
        with self._lock:
            for slot in self._spare:
                if len(slot) == rounded:
                    self._spare.remove(slot)
                    return slot
        return mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give(self, slot: mmap.mmap) -> None:
        """Let a piece be used for something else: nobody may look at it any more."""
        with self._lock:
            self._spare.append(slot)
            del self._spare[:-SPARE_SLOTS]
