"""A replica that hangs is found: steps stand still, and it is silent. It is ended, and Ray starts the run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service.tracking.progress import Pulse, Status

_KILL_SECONDS = 60.0


def present(posted: Status) -> list[Pulse]:
    """The replicas that have been heard of in this attempt, by rank."""
    return [pulse for _, pulse in sorted(posted.pulses.items()) if pulse.at >= posted.since]


def silent(posted: Status, patience: float) -> list[Pulse]:
    """Those of them that have not been heard of for half the patience."""
    return [pulse for pulse in present(posted) if posted.clock - pulse.at >= patience / 2]


class Watchdog:
    """Ends replicas that hang, once an attempt.

    Args:
        status: the run's.
        steps: of the run.
        patience: how long steps may stand still, in seconds.
    """

    def __init__(self, status: Any, steps: int, patience: float) -> None:
        self._status, self._steps, self._patience = status, steps, patience
        self._done = 0
        self._seen, self._since = (0, 0), time.monotonic()

    def look(self, posted: Status) -> None:
        """End what hangs, and say so."""
        if not self._stands_still(posted):
            return
        hung = silent(posted, self._patience)
        where = ", ".join(f"replica {pulse.rank} (process {pulse.pid} on {pulse.host})" for pulse in hung)
        told = f"no step for {self._patience:g} s: {where or 'every replica is alive, but none goes on'}"
        self._status.warn.remote(f"{told}; going back to the last checkpoint without {'it' if hung else 'them'}")
        if _end(hung or present(posted)):
            self._done = posted.attempts
        else:  # After another such time it is tried again.
            self._since = time.monotonic()

    def _stands_still(self, posted: Status) -> bool:
        """Whether steps have been done in this attempt, and none for the patience though some are left."""
        now, seen = time.monotonic(), (posted.attempts, posted.step)
        if posted.moved_at is None or posted.waits_since is not None or seen != self._seen:
            self._seen, self._since = seen, now
        left = posted.step < self._steps and posted.attempts > self._done
        return left and now - self._since >= self._patience


def _end(pulses: Sequence[Pulse]) -> bool:
    """Kill processes where they are; returns whether they are gone. A node that does not answer is Ray's to find."""
    killing = [
        ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(pulse.node, soft=False))(
            _kill_replica
        ).remote(pulse.pid)
        for pulse in pulses
    ]
    try:
        ray.get(killing, timeout=_KILL_SECONDS)
    except ray.exceptions.RayError:
        return False
    return True


def _kill_replica(pid: int) -> None:
    """Kill a process of Ray's on this node. One that is stopped hears of nothing less."""
    with suppress(FileNotFoundError, ProcessLookupError):  # It has gone by itself.
        if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():  # The number may be another's by now.
            os.kill(pid, signal.SIGKILL)
