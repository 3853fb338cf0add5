"""What ends a run before its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
import ray.train


class RunError(RuntimeError):
    """A run that ended before its last step; its text is the one line to show."""


class FailureCount(ray.train.UserCallback):  # type: ignore[misc]  # Ray has no types.
    """Counts on the status what Ray Train charges: its own count begins anew whenever the run is handed to it."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Replicas have failed; the loss of a node that was announced is not charged."""
        if not any(getattr(error, "preempted", False) for error in worker_exceptions.values()):
            ray.get(self._status.fail.remote())
