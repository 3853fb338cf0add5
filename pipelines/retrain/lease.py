"""One at a time, among processes that share nothing but storage: a row of numbered leases with heartbeats."""

from __future__ import annotations

import _thread
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.storage.location import Location

_LEASE = re.compile(r"lease-(\d{8})")
_RELEASED = b"released"
_BEATS = 6


@contextmanager
def lease(folder: Location, patience_seconds: float) -> Iterator[bool]:
    """Hold the folder's lease within; yields False, and holds nothing, if somebody alive has it.

    The next lease in the row is created only if nobody else has (an atomic create). Who finds one that is neither
    released nor beating has waited for `patience_seconds`, that is six beats: clocks need not agree. A holder whose
    beats were away for longer is interrupted when it finds that it was succeeded, as by Ctrl-C.
    """
    beat_seconds = patience_seconds / _BEATS
    number = _number_after_the_last(folder, beat_seconds)
    mine = folder / f"lease-{number:08}"
    if not number or not mine.create(_beat()):
        yield False
        return
    done = threading.Event()

    def keep() -> None:
        while not done.wait(beat_seconds):
            with suppress(OSError):  # The storage is away: the next beat may arrive.
                if (folder / f"lease-{number + 1:08}").exists():
                    _thread.interrupt_main()  # The beats were away for too long, and somebody has taken over.
                    return
                mine.write(_beat())

    thread = threading.Thread(target=keep, daemon=True, name="lease")
    thread.start()
    try:
        yield True
    finally:
        done.set()
        thread.join()
        with suppress(OSError):  # Without it the next one waits a little.
            mine.write(_RELEASED)


def _number_after_the_last(folder: Location, beat_seconds: float) -> int:
    """The number of the lease to take; 0 if the last one is alive."""
    numbers = [int(match[1]) for file in folder.files() if (match := _LEASE.fullmatch(file.name))]
    if not numbers:
        return 1
    last = folder / f"lease-{max(numbers):08}"
    first = seen = last.read()
    for _ in range(_BEATS):
        if seen == _RELEASED:
            break
        if seen != first:
            return 0
        time.sleep(beat_seconds)
        seen = last.read()
    return max(numbers) + 1 if seen in (first, _RELEASED) else 0


def _beat() -> bytes:
    return uuid.uuid4().hex.encode()
