"""Runs a function as N real replicas: processes of torch.distributed, on gloo."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

#: Replicas are forked from one process that has imported these, as imports take longer than what they do.
multiprocessing.set_forkserver_preload(["tests.replicas.test_exact"])


def run_replicas(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What rank 0 returns of ``function(rank, count, *arguments)``, called in `count` processes at once.

    One replica runs in the calling process. `function` and its arguments must be picklable.
    """
    if count == 1:
        return function(0, 1, *arguments)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_main, (count, folder, function, arguments), nprocs=count, start_method="forkserver")
        return torch.load(Path(folder, "result"), weights_only=False)


def _main(rank: int, count: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    result = function(rank, count, *arguments)
    if rank == 0:
        torch.save(result, Path(folder, "result"))
    gc.collect()  # A DistributedDataParallel that outlives its process group never ends.
    dist.barrier()
    dist.destroy_process_group()
