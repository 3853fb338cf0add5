"""What stands before a run trains: its data, its cluster and its MLflow run, all checked."""

from __future__ import annotations

import _thread
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
from rich.console import Console

from pipelines.components import ConfigError
from pipelines.data.shards import Manifest
from pipelines.storage.location import Location, join
from service.artifacts import first_weights, run_checkpoints
from service.configuration import own_recipes
from service.configuration.compatibility import check_shares
from service.configuration.config import Run, storage_root
from service.configuration.tree import dump, flatten
from service.runs.driver import cluster
from service.runs.driver.claim import claimed
from service.runs.driver.cluster import Replicas
from service.runs.driver.datasets import pinned, prepare_all
from service.runs.driver.failures import RunError
from service.tracking import tracker as tracking
from service.tracking.run_page import Input, about
from service.tracking.tracker import TrackingError


@dataclass(frozen=True)
class Prepared:
    """What is known before Ray starts.

    Attributes:
        domains: where the further data sets of the run lie, and their manifests.
    """

    run: Run
    folder: str
    data: str
    manifest: Manifest
    tracking_uri: str
    domains: tuple[tuple[str, Manifest], ...] = ()

    @property
    def name(self) -> str:
        return Location.of(self.folder).name

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return self.run.resuming(self.name)

    @property
    def going_on(self) -> str:
        """What that command would do, in half a line."""
        try:
            steps = run_checkpoints.steps(Location.of(self.folder))
        except OSError:  # The storage is away: what ended the run is what the user has to hear of.
            return f"{self.resume} goes on with it"
        if not steps:
            return f"there is no checkpoint yet: {self.resume} begins at the first step"
        return f"{self.resume} goes on from step {steps[-1]:,}"


@dataclass(frozen=True)
class Started:
    """A run whose cluster and tracking stand.

    Attributes:
        marks: (name, time) of what has been passed so far.
    """

    prepared: Prepared
    tracking_run: str
    replicas: Replicas
    marks: tuple[tuple[str, float], ...]


@contextmanager
def started(
    run: Run, console: Console, began: float, lost: Callable[[], None] = _thread.interrupt_main
) -> Iterator[Started]:
    """A run's cluster and tracking, started; and ended, well or badly. No other process has the run meanwhile.

    Args:
        began: when the user's command did, in seconds since the epoch.
        lost: as `claimed` takes it.

    Raises:
        ConfigError: the user's mistake; nothing has been started.
        RunError: another process has the run now.
    """
    imported = time.time()
    root = storage_root(run.storage)
    _check_writable(root)
    name = run.resume or run.name or f"{run.recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = threading.Event()

    def stop() -> None:
        taken.set()
        lost()

    with claimed(root, name, stop):  # Before it is looked for: two that start it at once would both find nothing.
        try:
            prepared = prepare(run, join(root, name), console)
            marks = ("begin", began), ("imports", imported), ("data", time.time())
            with _tracked(prepared, marks, taken) as at:
                yield at
        except BaseException as error:
            if taken.is_set():
                raise RunError("another process has taken the run over while this one was silent") from error
            raise


@contextmanager
def _tracked(prepared: Prepared, marks: tuple[tuple[str, float], ...], taken: threading.Event) -> Iterator[Started]:
    """The run on a cluster and in MLflow, where it is ended too, unless it was `taken` over: it is another's then."""
    run = prepared.run
    with ThreadPoolExecutor(1) as pool:  # Both take seconds, and neither needs the other.
        starting = pool.submit(_start_tracking, prepared)
        try:
            if not ray.is_initialized():  # An ingest may have joined it.
                cluster.connect(run)  # Here: a local Ray dies with the thread that starts it.
            replicas = cluster.replicas(run)
        except BaseException:
            ray.shutdown()
            with suppress(TrackingError):
                if not taken.is_set():
                    _give_up(prepared, starting.result())
            raise
        try:
            tracking_run = starting.result()
        except TrackingError as error:
            ray.shutdown()
            raise ConfigError(f"tracking.uri: {prepared.tracking_uri} refuses the run: {error}") from error
    marks = (*marks, ("Ray and MLflow", time.time()))
    try:
        described = {**dump(prepared.run), "name": prepared.name, "resume": None}
        folder = Location.of(prepared.folder)
        (folder / "run.json").write(json.dumps(described, indent=2).encode())
        if run.recipe_file and run.resume is None:  # Whoever wants to know what was trained needs the file's comments.
            (folder / "recipe.yaml").write(own_recipes.read(run.recipe_file).encode())
        yield Started(prepared, tracking_run, replicas, marks)
    except BaseException as error:
        if taken.is_set():
            raise
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        if isinstance(error, KeyboardInterrupt) and not str(error):
            error.args = (prepared.going_on,)
        with suppress(TrackingError):  # What went wrong first is what the user has to hear of.
            tracking.finish_run(prepared.tracking_uri, tracking_run, status, {"error": str(error)[:5000]})
        raise
    finally:
        ray.shutdown()


def prepare(run: Run, folder: str, console: Console) -> Prepared:
    """Check what a run in that folder needs, and find or make its data.

    Raises:
        ConfigError: the user's mistake.
    """
    if run.resume is None and (Location.of(folder) / "run.json").exists():
        name = Location.of(folder).name
        raise ConfigError(f"name: {folder} is there already; {run.resuming(name)} goes on with it")
    uri = run.tracking_uri
    tracking.check_reachable(uri)
    if run.resume is None:
        run = first_weights.checked(run)
    found = prepare_all(run, console)
    data, manifest = found[0]
    for _, one in found:
        check_shares(run, one.lanes)
    cache = {"cache": storage_root(run.loader.cache) if run.loader.cache else None}
    run = pinned(run, found).model_copy(update={"loader": run.loader.model_copy(update=cache)})
    return Prepared(run, folder, data, manifest, uri, tuple(found[1:]))


def _check_writable(root: str) -> None:
    probe = Location.of(join(root, ".writable"))
    try:
        probe.write(b"")
        probe.delete()
    except OSError as error:
        raise ConfigError(f"storage: {root} cannot be written to: {error}") from error


def _give_up(prepared: Prepared, tracking_run: str) -> None:
    """What becomes of a run in MLflow whose cluster does not start: one that was there before keeps its history."""
    if prepared.run.resume is None:
        tracking.discard_run(prepared.tracking_uri, tracking_run)
    else:
        tracking.finish_run(prepared.tracking_uri, tracking_run, "FAILED")


def _start_tracking(prepared: Prepared) -> str:
    run, root = prepared.run, Path(storage_root(prepared.run.storage))
    found = (prepared.data, prepared.manifest), *prepared.domains
    inputs = [Input.of(Location.of(data), manifest, "training") for data, manifest in found]
    return tracking.start_run(
        prepared.tracking_uri,
        run.tracking.experiment,
        prepared.name,
        prepared.folder,
        parameters=dict(flatten(dump(run))),
        tags={
            "recipe": run.recipe,
            "recipe.hash": run.recipe_hash,
            "manifest.hash": prepared.manifest.hash,
            "manifest": str(Location.of(prepared.data) / prepared.manifest.name),
        },
        artifacts=None if run.tracking.uri else (root / "artifacts").as_uri(),
        resume=run.resume is not None,
        about=about(run, inputs),
        inputs=inputs,
    )
