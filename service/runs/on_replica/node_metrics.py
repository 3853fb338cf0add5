"""What every node does while a run trains: read on the node, told to the status, and logged by rank 0.

All of it is on threads of its own, as nothing that trains is to wait for the status.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
import ray.train

from service.tracking.system_metrics import NodeReadings

#: As often as MLflow's own monitor reads.
_SECONDS = 10.0


def tell(status: Any, ended: threading.Event) -> None:
    """Tell the status what this node does, now and then until `ended`; one replica of each node does so."""
    if ray.train.get_context().get_local_rank() != 0:
        return
    host = socket.gethostname()

    def telling() -> None:
        readings = NodeReadings()
        while not ended.wait(_SECONDS):
            status.node.remote(host, readings.read())

    threading.Thread(target=telling, daemon=True, name="node").start()


def collect(status: Any, ended: threading.Event, note: Callable[[int, Mapping[str, float]], None]) -> None:
    """Hand to `note` what nodes have told the status, each by its name, with the step that the run is at."""

    def collecting() -> None:
        while not ended.wait(_SECONDS):
            with suppress(ray.exceptions.RayError):  # The driver is gone, or busy.
                step, told = ray.get(status.nodes.remote(), timeout=_SECONDS)
                for host, values in told.items():
                    note(step, {f"system/{host}/{name}": value for name, value in values.items()})

    threading.Thread(target=collecting, daemon=True, name="nodes").start()
