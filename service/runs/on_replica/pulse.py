"""A replica's signs of life: while it lives, the status hears of it, and the driver knows which one hangs."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from typing import Any

import ray
import ray.train

from service.runs.on_replica.memory import peak_bytes
from service.tracking.progress import Pulse

_SECONDS = 1.0


def beat(status: Any) -> threading.Event:
    """Send a sign of life now, and every second until the event that is returned is set."""
    context = ray.get_runtime_context()
    rank = ray.train.get_context().get_world_rank()
    pulse = Pulse(rank, socket.gethostname(), context.get_node_id(), os.getpid())
    done = threading.Event()

    def beating() -> None:
        while True:
            status.beat.remote(replace(pulse, peak_bytes=peak_bytes()))
            if done.wait(_SECONDS):
                return

    threading.Thread(target=beating, daemon=True, name="pulse").start()
    return done
