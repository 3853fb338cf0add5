"""A replica that hangs is found: steps stand still, and it is silent. It is ended, and Ray starts the run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service.tracking.progress import Pulse, Status

_KILL_SECONDS = 60.0


def stands_still(posted: Status, steps: int, now: float, patience: float) -> bool:
    """Whether steps have been done in this attempt, and none for `patience` seconds though some are left."""
    return posted.moved_at is not None and posted.step < steps and now - posted.moved_at >= patience


def silent(posted: Status, now: float, patience: float) -> list[Pulse]:
    """The replicas of this attempt that have not been heard of for half the patience, by rank."""
    here = [pulse for _, pulse in sorted(posted.pulses.items()) if pulse.at >= posted.ready_at]
    return [pulse for pulse in here if now - pulse.at >= patience / 2]


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

    def look(self, posted: Status) -> None:
        """End what hangs, and say so."""
        now = time.time()
        if posted.attempts <= self._done or not stands_still(posted, self._steps, now, self._patience):
            return
        self._done = posted.attempts
        hung = silent(posted, now, self._patience)
        where = ", ".join(f"replica {pulse.rank} (process {pulse.pid} on {pulse.host})" for pulse in hung)
        told = f"no step for {self._patience:g} s: {where or 'every replica is alive, but none goes on'}"
        self._status.warn.remote(f"{told}; going back to the last checkpoint without {'it' if hung else 'them'}")
        _end(hung or list(posted.pulses.values()))


def _end(pulses: Sequence[Pulse]) -> None:
    """Kill processes where they are. A node that does not answer is Ray's to find."""
    killing = [
        ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(pulse.node, soft=False))(
            _kill_replica
        ).remote(pulse.pid)
        for pulse in pulses
    ]
    ray.wait(killing, num_returns=len(killing), timeout=_KILL_SECONDS)


def _kill_replica(pid: int) -> None:
    """Kill a process of Ray's on this node. One that is stopped hears of nothing less."""
    if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():  # The number may be another's by now.
        os.kill(pid, signal.SIGKILL)
