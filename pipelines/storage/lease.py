"""One at a time, among processes that share nothing but storage: a row of numbered leases with heartbeats."""

from __future__ import annotations

import _thread
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.storage.location import Location

_LEASE = re.compile(r"lease-(\d{8})")
_RELEASED = b"released"
_BEATS = 6


@contextmanager
def lease(
    folder: Location, patience_seconds: float, lost: Callable[[], None] = _thread.interrupt_main
) -> Iterator[bool]:
    """Hold the folder's lease within; yields False, and holds nothing, if somebody alive has it.

    The next lease in the row is created only if nobody else has (an atomic create). Who finds one that is neither
    released nor beating has waited for `patience_seconds`, that is six beats: clocks need not agree. A holder that
    died on this machine is known to be dead within half a second. One whose beats were away for longer than the
    patience hears of it when it finds that it was succeeded.

    Args:
        lost: is called then, on another thread; by default the main thread is interrupted, as by Ctrl-C.
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
                    lost()  # The beats were away for too long, and somebody has taken over.
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
        if seen == _RELEASED or _died_here(seen):
            return max(numbers) + 1
        if seen != first:
            return 0
        _wait_for_a_beat(beat_seconds, seen)
        seen = last.read()
    return max(numbers) + 1 if seen in (first, _RELEASED) else 0


def _wait_for_a_beat(seconds: float, seen: bytes) -> None:
    """Waits; not on, once the process that has left this beat is found to have died here."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not _died_here(seen):
        time.sleep(min(left, 0.5))


def _beat() -> bytes:
    return f"{uuid.uuid4().hex} {_place()} {os.getpid()} {_began(os.getpid())}".encode()


def _died_here(beat: bytes) -> bool:
    """Whether the process that has left a beat is one of this machine's, and has ended."""
    place, _, process = beat.decode(errors="replace").partition(" ")[2].partition(" ")
    pid, _, began = process.partition(" ")
    return bool(place) and place == _place() and pid.isdigit() and _began(int(pid)) != began


def _place() -> str:
    """Names this boot of this machine, and the numbers that processes have here; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process of this machine began, in its clock's ticks; empty if it is not there or has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
