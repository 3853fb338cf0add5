"""The work of an ingest as Ray tasks: one shard each, on the CPUs of a cluster or of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import ray

from pipelines.shard_writer import Part, Work, write_shard
from service.components import ConfigError

#: Tasks that wait for a CPU are few, so that an ingest that is stopped leaves little behind it.
_TASKS_PER_CPU = 2


def on_ray(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
    """Do the work on the Ray cluster that this process has joined.

    Raises:
        ConfigError, OSError: as the work does.
    """
    task = ray.remote(num_cpus=1)(write_shard)
    most = _TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(works)
    running = [task.remote(work) for work in islice(waiting, most)]
    while running:
        (done,), running = ray.wait(running)
        running += [task.remote(work) for work in islice(waiting, 1)]
        part = _result(done)
        progress(part.samples)
        yield part


def _result(done: ray.ObjectRef) -> Part:
    try:
        part: Part = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError | OSError):
            raise error.cause from error
        raise
    return part
