"""Our loader, measured in a process of its own, as `peer_loaders` measures the others.

``python -m benchmarks.own_loader speed FOLDER SIZE SECONDS``: images a second on one core, to a float tensor.
``... bucket FOLDER SIZE MEMORY``: CPU seconds for a GB of images, and bytes of them a second, on all cores, once
windows are opened as others are closed.
``... memory FOLDER SIZE MEMORY``: the most memory that reading an epoch added to this process: "KIND BYTES" by kind.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.peer_loaders import BATCH, measure, on_one_core
from pipelines.data.images import Transform
from pipelines.loading.loader import Loader, Reading, open_loader
from pipelines.storage.location import Location
from service.models.pixels import to_model


def floats(loader: Loader) -> Iterator[torch.Tensor]:
    step = 0
    while True:
        yield to_model(loader.batch(step).images, torch.float32)
        step += 1


def held_bytes(process: int | str = "self") -> tuple[int, int]:
    """A process's resident memory: its own, and files that it maps, which are the system's page cache."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
    return found["RssAnon"] + found["RssShmem"], found["RssFile"]


def read(loader: Loader, steps: range) -> float:
    """Images a second."""
    began = time.perf_counter()
    for step in steps:
        loader.batch(step)
    return len(steps) * BATCH / (time.perf_counter() - began)


def most_held(loader: Loader) -> tuple[int, int]:
    """The most memory, of its own and mapped, that reading an epoch adds to what the process had before."""
    before = most = held_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            now = held_bytes()
            most = max(most[0], now[0]), max(most[1], now[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        read(loader, range(loader.manifest.rows // BATCH))
    finally:
        done.set()
        watcher.join()
    return most[0] - before[0], most[1] - before[1]


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
        steps = loader.manifest.rows // BATCH
        read(loader, range(steps // 4))
        began, measured = time.process_time(), range(steps // 4, steps)
        rate = read(loader, measured) * int(size) ** 2 * 3
        print((time.process_time() - began) / (len(measured) * BATCH * int(size) ** 2 * 3e-9), rate)
    else:
        own, mapped = most_held(loader)
        print(f"mapped {mapped} own {own}")
    loader.close()


if __name__ == "__main__":
    main()
