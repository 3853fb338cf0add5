"""What the network costs a step: predicted from its collectives, measured on slow links, carried on to many replicas.

Options: ``recipe=self-dcgan-mnist``, ``replicas=2,4,8``, ``links=0.2/1000,1/1000,1/100`` (ms of delay and Mbit/s of
each link here), ``steps=15``, ``networks=0.03/25000,0.02/400000`` (of those that it is carried on to), ``rows=64``.
Making links takes root.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks.links import INSIDE, can_be_made
from benchmarks.slow_wires import SlowLinks, slow_links
from pipelines.components import ConfigError

_STORE_PORT = 29_500
#: What a step's collectives are predicted from: the time of all-reduces of so many bytes.
PROBES = 256, 16_384, 262_144, 4_194_304


class Found(NamedTuple):
    """What one process of `benchmarks.on_link` prints.

    Attributes:
        probes: seconds of an all-reduce, by its bytes.
        step: seconds.
        collectives: bytes of each of a step's.
    """

    probes: Mapping[int, float]
    step: float
    collectives: Sequence[int]


class Network(NamedTuple):
    """What an all-reduce costs.

    Attributes:
        latency: seconds of one message from replica to replica.
        bandwidth: bytes a second.
        tree: whether small values go up and down a tree, as NCCL sends them between nodes, and not around a ring.
    """

    latency: float
    bandwidth: float
    tree: bool = False

    def seconds(self, size: int, replicas: int) -> float:
        """Of a sum of `size` bytes over so many replicas (Thakur et al. 2005 have both formulas)."""
        ring = 2 * (replicas - 1) * (self.latency + size / replicas / self.bandwidth)
        if not self.tree:
            return ring
        return min(ring, 2 * math.ceil(math.log2(replicas)) * (self.latency + size / self.bandwidth))


def fitted(probes: Mapping[int, float], replicas: int) -> Network:
    """The network by which a ring takes these times: the latency from the smallest, the bandwidth from the largest."""
    turns = 2 * (replicas - 1)
    small, large = min(probes), max(probes)
    bandwidth = turns * (large - small) / replicas / (probes[large] - probes[small])
    return Network(probes[small] / turns - small / replicas / bandwidth, bandwidth)


class Work(NamedTuple):
    """What a step takes besides the network.

    Attributes:
        fixed: seconds, however few rows there are.
        per_row: seconds for each of a replica's rows.
        collectives: bytes of each, without rows and for each row of the global batch.
    """

    fixed: float
    per_row: float
    collectives: Sequence[tuple[float, float]]

    def seconds(self, batch: int, replicas: int, network: Network) -> float:
        """Of a step, if nothing overlaps."""
        sizes = [fixed + per_row * batch for fixed, per_row in self.collectives]
        own = self.fixed + self.per_row * math.ceil(batch / replicas)
        return own + sum(network.seconds(round(size), replicas) for size in sizes)


def fitted_work(alone: Mapping[int, float], collectives: Mapping[int, Sequence[int]]) -> Work:
    """From one replica's seconds, and the bytes of collectives, by the size of the batch: two sizes of each."""
    (low, fast), (high, slow) = sorted(alone.items())
    per_row = (slow - fast) / (high - low)
    (less, few), (more, many) = sorted(collectives.items())
    rates = [(large - small) / (more - less) for small, large in zip(few, many, strict=True)]
    sizes = [(small - rate * less, rate) for small, rate in zip(few, rates, strict=True)]
    return Work(fast - per_row * low, per_row, sizes)


def measured(words: str, replicas: int, net: SlowLinks, steps: int, storage: str) -> Found:
    """One replica of a recipe, with options, behind each of the first links."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": INSIDE, "OMP_NUM_THREADS": "1"}
    store = f"tcp://{net.address(0)}:{_STORE_PORT}"
    command = [sys.executable, "-m", "benchmarks.on_link", str(replicas), store, str(steps), storage, *words.split()]
    root = Path(__file__).resolve().parent.parent
    processes = [
        subprocess.Popen(
            [*net.within(rank), *command, str(rank)], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
        )
        for rank in range(replicas)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a replica failed; its error stands above")
    probes, step, collectives = json.loads(printed[0].splitlines()[-1])
    return Found({int(size): seconds for size, seconds in probes.items()}, step, collectives)


def main(*words: str) -> None:
    options = {
        "recipe": "self-dcgan-mnist", "replicas": "2,4,8", "links": "0.2/1000,1/1000,1/100", "steps": "15",
        "networks": "0.03/25000,0.02/400000", "rows": "64",
    } | dict(word.split("=", 1) for word in words)  # fmt: skip
    if not can_be_made():
        raise ConfigError("this user may not make network namespaces here; run it as root")
    counts = [int(count) for count in options["replicas"].split(",")]
    recipe, steps, rows = options["recipe"], int(options["steps"]), int(options["rows"])
    with tempfile.TemporaryDirectory() as storage, slow_links(max(counts)) as net:
        alone = {size: measured(f"{recipe} batch.size={size}", 1, net, steps, storage).step for size in (8, 64)}
        sizes = {
            size: measured(f"{recipe} batch.size={size}", 2, net, 1, storage).collectives for size in (rows, 2 * rows)
        }
        _on_links(recipe, counts, _shapes(options["links"]), net, steps, storage)
    work = fitted_work(alone, sizes)
    print(
        f"  {recipe}: {work.fixed * 1e3:.1f} ms and {work.per_row * 1e3:.2f} ms a row on one core; "
        f"{len(work.collectives)} collectives, {sum(fixed for fixed, _ in work.collectives):,.0f} bytes and "
        f"{sum(per_row for _, per_row in work.collectives):.0f} for each row of the batch"
    )
    for delay, megabits in _shapes(options["networks"]):
        for tree in (False, True):
            _carried_on(work, rows, Network(delay * 1e-3, megabits * 125e3, tree))


def _shapes(written: str) -> list[tuple[float, float]]:
    """Milliseconds and Mbit/s of each."""
    return [(float(delay), float(rate)) for delay, rate in (one.split("/") for one in written.split(","))]


def _on_links(
    recipe: str, counts: Sequence[int], shapes: Sequence[tuple[float, float]], net: SlowLinks, steps: int, storage: str
) -> None:
    """Print what slow links add to a step, predicted from all-reduces alone, and measured."""
    bare = {count: measured(recipe, count, net, steps, storage) for count in counts}
    print(
        f"  {'replicas':<10}{'link':<20}{'found: latency':>16}{'bandwidth':>14}"
        f"{'network, predicted':>20}{'measured':>11}"
    )
    for (delay, megabits), count in product(shapes, counts):
        net.become(delay, megabits)
        found = measured(recipe, count, net, steps, storage)
        slow, fast = fitted(found.probes, count), fitted(bare[count].probes, count)
        measured_more = found.step - bare[count].step
        more = sum(slow.seconds(size, count) - fast.seconds(size, count) for size in found.collectives)
        print(
            f"  {count:<10}{f'{delay:g} ms, {megabits:g} Mbit/s':<20}{slow.latency * 1e3:>13.2f} ms"
            f"{slow.bandwidth * 8e-6:>7.0f} Mbit/s{more * 1e3:>17.1f} ms{measured_more * 1e3:>8.1f} ms",
            flush=True,
        )


def _carried_on(work: Work, rows: int, network: Network) -> None:
    """Print the step of many replicas, for a batch of so many rows and for so many rows on each replica."""
    kind = "tree or ring" if network.tree else "ring"
    print(f"  a network of {network.latency * 1e6:g} us and {network.bandwidth * 8e-9:g} Gbit/s, {kind}:")
    single = work.seconds(rows, 1, network)
    for replicas in (1, 8, 64, 256, 1024):
        growing = work.seconds(rows * replicas, replicas, network)
        fixed = f"{work.seconds(rows, replicas, network) * 1e3:8.1f} ms" if replicas <= rows else f"{'-':>11}"
        print(
            f"    {replicas:>5} replicas: a batch of {rows} {fixed}, {rows} rows each {growing * 1e3:8.1f} ms "
            f"({single / growing:.0%} of linear)"
        )
