"""The data set of a run: found, or made from its source."""

from __future__ import annotations

import hashlib

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.ingest import ingest
from pipelines.shards import Manifest, read_manifest
from pipelines.storage import Location, join
from service.components import ConfigError
from service.config import Run, storage_root


def prepare(run: Run, console: Console) -> tuple[str, Manifest]:
    """Where the run's shards lie, and their manifest; a source that has none yet is ingested first.

    Raises:
        ConfigError: the source is missing, or the shards are of other images than the run asks for.
    """
    folder = run.data.shards or _default_folder(run)
    location = Location.of(folder)
    try:
        manifest = read_manifest(location)
    except FileNotFoundError:
        manifest = _ingest(run, location, console)
    wanted = run.data.transform.model_dump()
    if manifest.transform != wanted:
        raise ConfigError(
            f"data.shards: {location} holds images made by {manifest.transform}, the recipe wants {wanted}; "
            "name another folder"
        )
    if run.replicas > manifest.lanes:
        raise ConfigError(f"replicas: {run.replicas} replicas cannot share the data set's {manifest.lanes} lanes")
    return (location.path if location.is_local else folder), manifest


def _default_folder(run: Run) -> str:
    """A folder named by the source's content and the transform, so that a changed source is ingested again."""
    described = f"{run.data.source.fingerprint()}/{run.data.transform.model_dump_json()}"
    digest = hashlib.blake2b(described.encode(), digest_size=6).hexdigest()
    return join(storage_root(run.storage), f"shards/{type(run.data.source).__name__.lower()}-{digest}")


def _ingest(run: Run, location: Location, console: Console) -> Manifest:
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"writing {run.data.source.describe()}, images")
        return ingest(run.data.source, run.data.transform, location, lambda rows: bar.update(task, completed=rows))
