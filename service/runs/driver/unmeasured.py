"""Checkpoints that replicas wait to be measured, where nobody is at it: whoever was has died, or was never asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.storage.location import Location
from service.artifacts import run_checkpoints
from service.tracking.progress import Status

#: So long nothing is heard of an evaluation before another one is started: a task first has to import everything.
SILENT_SECONDS = 30.0
#: So often it is started. What ends it each time, such as a lack of memory, would end it again.
_TRIES = 3


class Unmeasured:
    """Starts an evaluation of what is left; gives it up when that has failed often.

    Args:
        status: the run's.
        folder: the run's.
        start: starts one, without waiting for its end.
    """

    def __init__(self, status: Any, folder: Location, start: Callable[[], object]) -> None:
        self._status, self._folder, self._start = status, folder, start
        self._waits_since, self._tries, self._started = 0.0, 0, 0.0

    def look(self, posted: Status) -> None:
        """To be called now and then."""
        if posted.waits_since is None:
            return
        if posted.waits_since != self._waits_since:
            self._waits_since, self._tries = posted.waits_since, 0
        if posted.clock - max(posted.waits_since, posted.measured_at, self._started) < SILENT_SECONDS:
            return
        self._tries, self._started = self._tries + 1, posted.clock
        if self._tries <= _TRIES:
            self._start()
            return
        for step in run_checkpoints.unmeasured(self._folder):
            run_checkpoints.measured(self._folder, step)
            self._status.warn.remote(f"step {step:,} cannot be evaluated; the run goes on without its figures")
