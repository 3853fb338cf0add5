"""A run from the driver's side: check everything, hand the replicas to Ray Train, sum up."""

from __future__ import annotations

import time

import ray
from rich.console import Console

from pipelines.storage.location import Location
from service.artifacts import checkpoints, run_checkpoints
from service.configuration.config import Run
from service.runs.driver.cluster import Replicas
from service.runs.driver.failures import RunError
from service.runs.driver.fitting import Validation, fit
from service.runs.driver.preparation import Prepared, started
from service.runs.driver.signals import Interrupted, heard
from service.runs.driver.summary import Trained, finish
from service.runs.on_replica.worker import replica_main
from service.tracking.progress import Display, duration, new_status


def launch(run: Run, console: Console, began: float, validation: Validation) -> Trained:
    """Train a run to its end, and say where everything is.

    Args:
        began: when the user's command did, in seconds since the epoch.
        validation: how Ray Train is to evaluate checkpoints beside the training, if the run asks for it
            (`pipelines.evaluate.during_training.config`).

    Raises:
        ConfigError: the user's mistake; nothing has been started.
        RunError: the run diverged, its replicas died more often than it allows, or another process has taken it over.
        OSError: the storage is away.
        Interrupted: Ctrl-C or SIGTERM; what was trained until then is kept.
    """
    with heard() as signals, started(run, console, began, signals.abort) as at:
        console.print(f"{at.prepared.name}: {_introduction(at.prepared, at.replicas)}", highlight=False, soft_wrap=True)
        status = new_status()
        with Display(status, run.steps, console, at.marks, run.resume is not None):
            ended = fit(at, replica_main, status, validation, signals)
        if ended is not None:
            raise RunError(f"{ended}; the last good checkpoint is {_last(at.prepared)}")
        trained = finish(at.prepared, at.tracking_run, ray.get(status.read.remote()))
    console.print(f"done: {trained.step:,} steps in {duration(time.time() - began)}", highlight=False)
    for title, text in trained.lines():
        console.print(f"  {title:<12}{text}", highlight=False, soft_wrap=True)
    if signals.caught is not None:  # It came too late for the run, but what would follow it is not to begin.
        raise Interrupted("the run itself is done", signals.caught)
    return trained


def _introduction(prepared: Prepared, replicas: Replicas) -> str:
    run, manifest = prepared.run, prepared.manifest
    shape = "x".join(map(str, run.data.transform.shape))
    count = "1 replica" if replicas.room == 1 else f"{replicas.room} replicas"
    more = f" (room for {replicas.room} of {run.replicas}; more join where there is room)"
    return (
        f"{run.steps:,} steps of {run.batch.size} images, {manifest.rows:,} of {shape}, on {count} of {replicas.on}"
        + (more if replicas.room < run.replicas else "")
    )


def _last(prepared: Prepared) -> str:
    try:
        found = run_checkpoints.steps(Location.of(prepared.folder))
    except OSError:  # The storage is away.
        return f"in {prepared.folder}"
    return str(Location.of(prepared.folder) / checkpoints.name_of(found[-1])) if found else "none yet"
