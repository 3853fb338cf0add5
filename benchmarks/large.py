"""A data set of LSUN bedrooms' number of pictures: 3,033,042 small ones, written to an LMDB, ingested and read.

Options: ``pictures=3033042``, ``folder=`` (where 16 GB fit, removed afterwards) [default: a temporary one]. Beside it,
the order of 100 million rows.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import psutil
from PIL import Image

from benchmarks.own_loader import held_bytes
from pipelines.data.images import Transform
from pipelines.data.shards import read_manifest
from pipelines.loading.loader import open_loader
from pipelines.loading.order import Order
from pipelines.storage.location import Location

ROOT = Path(__file__).resolve().parent.parent
_SIZE, _BATCH, _DIFFERENT = 32, 64, 500
_ORDERED, _ROWS_OF_A_BLOCK = 100_000_000, 85


def main(*words: str) -> None:
    options = {"pictures": "3033042", "folder": ""} | dict(word.split("=", 1) for word in words)
    count = int(options["pictures"])
    with tempfile.TemporaryDirectory(dir=options["folder"] or None) as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        write(folder / "lmdb", count)
        print(
            f"  LMDB of {count:,} JPEGs of {_SIZE} pixels: {size_of(folder / 'lmdb')}, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
        ingested(folder)
        manifest = read_manifest(Location.of(str(folder / "shards")))
        described = (folder / "shards" / manifest.name).stat().st_size
        print(
            f"  {len(manifest.shards):,} shards, {size_of(folder / 'shards')}; manifest {described / 2**20:.1f} MiB",
            flush=True,
        )
        for step in (0, manifest.rows // _BATCH // 2):
            opened, read, held = alone(reading, str(folder / "shards"), step)
            print(f"  loader opened in {opened:.2f} s; the batch of step {step:,} {read:.2f} s later, {held:,.0f} MiB")
    made, shared, held = alone(ordering, _ORDERED)
    print(f"  order of {_ORDERED:,} rows: {made:.2f} s; a share in the middle {shared:.2f} s later, {held:,.0f} MiB")


def write(folder: Path, count: int) -> None:
    """Different keys, in no order, and pictures that come again: an ingest decodes each."""
    noise = np.random.default_rng(0)
    pictures = []
    for _ in range(_DIFFERENT):
        file = io.BytesIO()
        image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((_SIZE, _SIZE))
        image.save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    keys = sorted(hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(count))
    with lmdb.open(str(folder), map_size=1 << 36, sync=False) as environment:
        for start in range(0, count, 100_000):
            with environment.begin(write=True) as transaction:
                for number, key in enumerate(keys[start : start + 100_000]):
                    transaction.put(key.encode(), pictures[number % _DIFFERENT], append=True)


def ingested(folder: Path) -> None:
    """Print what the command takes; its memory is looked at every second, over all of its processes."""
    source, shards = f"data.source={{name: lsun, uri: {folder / 'lmdb'}}}", f"data.shards={folder / 'shards'}"
    words = [source, shards, f"storage={folder / 'runs'}", f"data.transform.size={_SIZE}", "cluster.address=local"]
    command = [sys.executable, "-m", "pipelines", "ingest", "dcgan-bedroom", *words]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    most_driver = most_task = 0
    while process.poll() is None:
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                own, _ = held_bytes(one.pid)
            except (psutil.Error, OSError, KeyError):  # It has ended.
                continue
            if one.pid == process.pid:
                most_driver = max(most_driver, own)
            elif "ray::" in one.name():
                most_task = max(most_task, own)
        time.sleep(1)
    if process.returncode:
        raise RuntimeError(f"the ingest ended with {process.returncode}")
    print(
        f"  ingest: {time.perf_counter() - began:.0f} s; memory of the command {most_driver / 2**20:,.0f} MiB, "
        f"of a task {most_task / 2**20:,.0f} MiB",
        flush=True,
    )


def reading(folder: str, step: int) -> tuple[float, float]:
    """Seconds until a loader is open, and then until it has a step's batch."""
    began = time.perf_counter()
    loader = open_loader(Location.of(folder), Transform(size=_SIZE), _BATCH, seed=0)
    opened = time.perf_counter()
    loader.batch(step)
    found = opened - began, time.perf_counter() - opened
    loader.close()
    return found


def ordering(rows: int) -> tuple[float, float]:
    """Seconds until there is an order of so many rows, and then until it has a replica's share of a step."""
    blocks = [_ROWS_OF_A_BLOCK] * (rows // _ROWS_OF_A_BLOCK)
    began = time.perf_counter()
    order = Order(blocks, 64, _BATCH, seed=0)
    made = time.perf_counter()
    order.share(rows // _BATCH // 2, 0, 1)
    return made - began, time.perf_counter() - made


def alone(function: Callable[..., tuple[float, float]], *given: object) -> tuple[float, float, float]:
    """What a function says in a process of its own, and how many MiB it added there to what imports take."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        before = pool.submit(most_held).result()
        found = pool.submit(function, *given).result()
        return *found, (pool.submit(most_held).result() - before) / 2**20


def most_held() -> int:
    """The most memory that this process has had, in bytes; `getrusage` begins with what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def size_of(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 2**30:.1f} GiB"
