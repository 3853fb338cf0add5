"""Our loader, measured in a process of its own, as `peer_loaders` measures the others.

``python -m benchmarks.own_loader speed FOLDER SIZE SECONDS``: images a second on one core, to a float tensor.
``... bucket FOLDER SIZE MEMORY``: bytes a second of an epoch's images, on all cores.
``... memory FOLDER SIZE MEMORY``: the most bytes that this process held for reading two epochs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.peer_loaders import BATCH, measure, on_one_core
from pipelines.images import Transform
from pipelines.loader import Loader, Reading, open_loader
from pipelines.storage import Location
from service.pixels import to_model


def floats(loader: Loader) -> Iterator[torch.Tensor]:
    step = 0
    while True:
        yield to_model(loader.batch(step).images, torch.float32)
        step += 1


def held_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_epochs(loader: Loader, epochs: int) -> tuple[int, float]:
    """Images read, and seconds."""
    steps = epochs * loader.manifest.rows // BATCH
    began = time.perf_counter()
    for step in range(steps):
        loader.batch(step)
    return steps * BATCH, time.perf_counter() - began


def most_held(loader: Loader) -> int:
    """The most memory that reading two epochs adds to what the process had before."""
    before, most, done = held_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, held_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    read_epochs(loader, 2)
    done.set()
    watcher.join()
    return most - before


def main() -> None:
    command, uri, size, amount = sys.argv[1:]
    transform = Transform(size=int(size))
    if command == "speed":
        on_one_core()
    memory = (1 << 30) if command == "speed" else int(amount)
    loader = open_loader(Location.of(uri), transform, BATCH, 0, reading=Reading(memory_bytes=memory))
    if command == "speed":
        print(measure(floats(loader), int(size), float(amount)))
    elif command == "bucket":
        images, seconds = read_epochs(loader, 1)
        print(images * int(size) ** 2 * 3 / seconds)
    else:
        print(most_held(loader))
    loader.close()


if __name__ == "__main__":
    main()
