"""One replica of `benchmarks.scale`.

``python -m benchmarks.on_link REPLICAS STORE STEPS STORAGE RECIPE [KEY=VALUE ...] RANK``
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.distributed as dist

from benchmarks.in_process import opened
from benchmarks.operations import Counting
from benchmarks.scale import PROBES, Found

_WARM_UP, _TIMES = 3, 15


def seconds_of(work: Callable[[], object], times: int) -> float:
    """The median time of one call, on replicas that begin together."""
    taken = []
    for _ in range(times + _WARM_UP):
        dist.barrier() if dist.is_initialized() else None
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken[_WARM_UP:])


def found(steps: int, storage: str, recipe: str, *overrides: str) -> Found:
    several = dist.is_initialized()
    values = {size: torch.zeros(size // 4) for size in (PROBES if several else ())}
    probes = {size: seconds_of(partial(dist.all_reduce, value), _TIMES) for size, value in values.items()}
    with opened(recipe, ["data.source=digits", *overrides], storage) as replica:
        done = 0

        def step() -> None:
            nonlocal done
            replica.step(done)
            done += 1

        taken = seconds_of(step, steps)
        with Counting() as counted:
            step()
    return Found(probes, taken, [size for _, size in counted.collectives])


if __name__ == "__main__":
    count, store, steps, *words, rank = sys.argv[1:]
    torch.set_num_threads(1)
    if int(count) > 1:
        dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(count))
    result = found(int(steps), *words)
    if rank == "0":
        print(json.dumps(result))
