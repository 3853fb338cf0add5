"""The data set of a run: found, or made from its source."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipelines.components import ConfigError, name_of
from pipelines.data.ingest import Report, Tasks, here, ingest
from pipelines.data.plan import LANES, Options
from pipelines.data.ray_tasks import on_ray
from pipelines.data.shard_writer import Part, Work
from pipelines.data.shards import DamagedShardError, Manifest, count_labels, read_manifest
from pipelines.loading.shuffle_windows import least_bytes
from pipelines.storage.location import Location, join
from service.configuration.config import DataSet, Run, storage_root
from service.runs.driver.cluster import connect
from service.tracking.progress import duration

#: So little is done here before a cluster would have started.
_WORKS_HERE = 2
_LINE_SECONDS = 10.0


def prepare_all(run: Run, console: Console) -> list[tuple[str, Manifest]]:
    """`prepare`, of every data set of the run, which are read side by side.

    Raises:
        ConfigError: as `prepare` does; or their lanes differ, and so would the rows that replicas own.
    """
    count = len(run.data.domains) + 1
    found = [prepare(part, console, count) for part in runs_of(run)]
    lanes = [manifest.lanes for _, manifest in found]
    if len(set(lanes)) > 1:
        raise ConfigError(
            f"data.domains: the data sets have {', '.join(map(str, lanes))} lanes, and must have as many; "
            f"give each {max(lanes)} images at least"
        )
    return found


def pinned(run: Run, found: Sequence[tuple[str, Manifest]]) -> Run:
    """The run, reading what was found, though a source or a data set may have grown when it is resumed."""
    (data, manifest), *others = found
    domains = tuple(
        domain.model_copy(update={"version": its.version, "shards": place})
        for domain, (place, its) in zip(run.data.domains, others, strict=True)
    )
    versions = {"version": manifest.version, "shards": data, "domains": domains}
    return run.model_copy(update={"data": run.data.model_copy(update=versions)})


def runs_of(run: Run) -> list[Run]:
    """The run, with each of its data sets as the only one."""
    names = list(DataSet.model_fields)
    sets = [run.data, *run.data.domains]
    changes = [{"domains": (), **{name: getattr(one, name) for name in names}} for one in sets]
    return [run.model_copy(update={"data": run.data.model_copy(update=change)}) for change in changes]


def prepare(run: Run, console: Console, readers: int = 1) -> tuple[str, Manifest]:
    """Where the run's shards lie, and their manifest; a source that has none yet is ingested first.

    Args:
        readers: how many data sets share a replica's memory.

    Raises:
        ConfigError: the source is missing, or the shards are of other images than the run asks for.
    """
    folder = folder_of(run)
    location = Location.of(folder)
    try:
        manifest = read_manifest(location, run.data.version)
    except FileNotFoundError as error:
        if run.data.version is not None:
            raise ConfigError(f"data.version: {error}") from error
        manifest = write(run, console, folder=folder)
    except DamagedShardError as error:
        raise ConfigError(f"data.shards: {error}") from error
    except OSError as error:
        raise ConfigError(f"data.shards: {location} cannot be read: {error}") from error
    _check(run, manifest, location, readers)
    return location.uri, manifest


def folder_of(run: Run) -> str:
    """Where the run's shards are to be: where it says, or in a folder named by the source's content and the transform.

    A source that has changed is so ingested again.
    """
    if run.data.shards:
        return storage_root(run.data.shards)
    described = f"{run.data.source.fingerprint()}/{run.data.transform.model_dump_json()}/{run.data.stored}"
    described += run.data.source.choice
    if run.data.lanes != LANES:
        described += f"/{run.data.lanes}"
    digest = hashlib.blake2b(described.encode(), digest_size=6).hexdigest()
    return join(storage_root(run.storage), f"shards/{type(run.data.source).__name__.lower()}-{digest}")


def write(run: Run, console: Console, append: bool = False, folder: str | None = None) -> Manifest:
    """Ingest the run's source, in parallel if it is large, with progress on the console.

    Args:
        folder: where to, if that is known [default: the run's].

    Raises:
        ConfigError: as `ingest` does.
    """
    location = Location.of(folder or folder_of(run))
    data = run.data
    options = Options(stored=data.stored, append=append, skip_limit=data.skip_limit, lanes=data.lanes)
    try:
        with _shown(f"writing {run.data.source.describe()}", console) as report:
            return ingest(run.data.source, run.data.transform, location, options, _in_parallel(run), report)
    except OSError as error:
        raise ConfigError(f"data: {location} cannot be written, or its source not be read: {error}") from error
    except DamagedShardError as error:
        raise ConfigError(f"data.shards: {error}") from error


def _in_parallel(run: Run) -> Tasks:
    def tasks(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        if len(works) <= _WORKS_HERE:
            return here(works, progress)
        if not ray.is_initialized():
            connect(run)
        return on_ray(works, progress)

    return tasks


def _check(run: Run, manifest: Manifest, location: Location, readers: int) -> None:
    if manifest.transform is not None and not run.data.transform.made(manifest.transform):
        raise ConfigError(
            f"data.shards: {location} holds images made by {manifest.transform}, the recipe wants "
            f"{run.data.transform.model_dump()}; name another folder"
        )
    if run.task.needs_pairs and len(manifest.columns) < 2:
        raise ConfigError(f"task {name_of(run.task)}: {location} holds no pairs; take data.source=pairs")
    _check_labels(run, manifest, location)
    if run.replicas > manifest.lanes:
        raise ConfigError(
            f"replicas: {run.replicas} replicas cannot share the data set's {manifest.lanes} lanes; "
            f"ingest it into another folder with data.lanes={run.replicas} or more"
        )
    fewest = run.cluster.min_replicas or run.replicas
    least = readers * least_bytes(manifest, run.batch.size, fewest, int(np.prod(run.data.transform.shape)))
    if run.loader.memory_bytes < least:
        raise ConfigError(
            f"loader.memory_bytes: {run.loader.memory_bytes:,} is too little for {location}; "
            f"each of {fewest} replicas needs at least {least:,}"
        )


def _check_labels(run: Run, manifest: Manifest, location: Location) -> None:
    """Raise ConfigError if a sample has no label, or one that the task does not know."""
    task, wanted = run.task, f"task {name_of(run.task)}: wants"
    if not task.labels:
        return
    if manifest.several or task.several:
        found = len(manifest.classes) if manifest.several else 0
        if not task.several or task.labels != found:
            many = f"{task.labels} attributes" if task.several else "one label an image"
            raise ConfigError(f"{wanted} {many}, and {location} has {found or 'no'} attributes")
    try:
        labels = count_labels(location, manifest)
    except DamagedShardError as error:
        if run.data.damaged == "stop":
            raise ConfigError(f"data.shards: {error}") from error
        return  # Replicas look at the labels of what they read.
    missing = manifest.rows - labels.rows
    if missing or (labels.highest >= task.labels and not task.several):
        has = f"{missing:,} of {manifest.rows:,} samples without a label" if missing else f"label {labels.highest}"
        raise ConfigError(f"{wanted} labels 0 to {task.labels - 1}, and {location} has {has}")


@contextmanager
def _shown(title: str, console: Console) -> Iterator[Report]:
    """A bar with speed and time left; lines now and then where there is no terminal."""
    began = last = time.monotonic()
    at_first: int | None = None

    def speed(done: int) -> str:
        nonlocal at_first
        at_first = done if at_first is None else at_first
        return f"{(done - at_first) / max(time.monotonic() - began, 1e-3):,.0f} images/s"

    if not console.is_terminal:

        def report(done: int, samples: int) -> None:
            nonlocal last
            rate = speed(done)
            if time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                left = (samples - done) * (last - began) / max(done - (at_first or 0), 1)
                console.print(f"{title}: {done:,}/{samples:,} images, {rate}, {duration(left)} left", highlight=False)

        yield report
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(title, total=None, speed="")
        yield lambda done, samples: bar.update(task, completed=done, total=samples, speed=speed(done))
