"""Work as Ray tasks, on the CPUs (or GPUs) of a cluster or of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import ray

from pipelines.components import ConfigError
from pipelines.data.shard_writer import Part, Work, write_shard

W = TypeVar("W")
R = TypeVar("R")
#: Tasks that wait for a CPU are few, so that work that is stopped leaves little behind it.
_TASKS_PER_CPU = 2


def on_ray(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
    """Write shards, one a task.

    Raises:
        ConfigError, OSError: as the work does.
    """
    for _, part in as_tasks(write_shard, works):
        progress(part.samples)
        yield part


def as_tasks(function: Callable[[W], R], works: list[W], gpus: int = 0) -> Iterator[tuple[int, R]]:
    """Call a function for every piece of work on the Ray cluster that this process has joined.

    Args:
        gpus: that each call needs.

    Yields:
        The number of the piece and what came of it, as they are done.

    Raises:
        ConfigError, OSError: as the function does.
    """
    task = ray.remote(num_cpus=1, num_gpus=gpus)(function)
    resources = ray.cluster_resources()
    most = _TASKS_PER_CPU * max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
    waiting = iter(enumerate(works))
    running = {task.remote(work): number for number, work in islice(waiting, most)}
    while running:
        (done,), _ = ray.wait(list(running))
        number = running.pop(done)
        running |= {task.remote(work): following for following, work in islice(waiting, 1)}
        yield number, _result(done)


def on_devices(function: Callable[[W], R], works: list[W]) -> Iterator[tuple[int, R]]:
    """`as_tasks`, each on a GPU of its own where the cluster has some."""
    return as_tasks(function, works, gpus=int(ray.cluster_resources().get("GPU", 0) > 0))


def _result(done: ray.ObjectRef) -> R:  # type: ignore[type-var]
    try:
        found: R = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError | OSError):
            raise error.cause from error
        raise
    return found
