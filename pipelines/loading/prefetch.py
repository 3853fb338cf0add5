"""Work that is done before its result is asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Runs through a generator in a thread, a few items ahead of who takes them."""

    def __init__(self, items: Generator[T, None, None], step: int, ahead: int) -> None:
        self.next_step = step
        # Queues without a limit are the fast ones; a token for every item that may be ready is the limit.
        self._ready: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(ahead):
            self._room.put(None)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True, name="loader")
        self._thread.start()

    def take(self) -> T:
        """The next item. Raises what making it raised."""
        found = self._ready.get()
        if isinstance(found, Exception):
            self._ready.put(found)  # Whoever asks again hears it again.
            raise found
        self._room.put(None)
        self.next_step += 1
        return found

    def stop(self) -> None:
        self._stopping = True
        self._room.put(None)
        self._thread.join()

    def _run(self, items: Generator[T, None, None]) -> None:
        try:
            for item in items:
                self._room.get()
                if self._stopping:
                    break
                self._ready.put(item)
        except Exception as error:  # Whoever takes items has to hear of it.
            self._ready.put(error)
        finally:
            items.close()
