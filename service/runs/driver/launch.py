"""A run from the driver's side: check everything, hand the replicas to Ray Train, sum up."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from rich.console import Console

from pipelines.storage.location import Location
from service.artifacts import checkpoints, run_checkpoints
from service.configuration.config import Run, storage_root
from service.configuration.tree import dump
from service.runs.driver.cluster import Replicas
from service.runs.driver.preparation import Prepared, RunError, Started, started
from service.runs.driver.summary import Trained, finish
from service.runs.on_replica.outputs import Job
from service.runs.on_replica.worker import replica_main
from service.tracking.progress import Display, duration, new_status

#: Which checkpoints Ray Train believes that there are. It refuses to start where one of them is gone.
_RAYS_NOTES = "checkpoint_manager_snapshot.json"
Validation = Callable[[Job], ray.train.ValidationConfig]


def launch(run: Run, console: Console, began: float, validation: Validation) -> Trained:
    """Train a run to its end, and say where everything is.

    Args:
        began: when the user's command did, in seconds since the epoch.
        validation: how Ray Train is to evaluate checkpoints beside the training, if the run asks for it
            (`pipelines.evaluate.during_training.config`).

    Raises:
        ConfigError: the user's mistake; nothing has been started.
        RunError: the run diverged, or its replicas died more often than it allows.
    """
    with started(run, console, began) as at:
        console.print(f"{at.prepared.name}: {_introduction(at.prepared, at.replicas)}", highlight=False, soft_wrap=True)
        status = new_status()
        with Display(status, run.steps, console, at.marks, run.resume is not None):
            result = fit(at, replica_main, status, validation)
        if result.return_value is not None:
            raise RunError(f"{result.return_value}; the last good checkpoint is {_last(at.prepared)}")
        trained = finish(at.prepared, at.tracking_run, ray.get(status.read.remote()).replaced_rows)
    console.print(f"done: {run.steps:,} steps in {duration(time.time() - began)}", highlight=False)
    for title, text in trained.lines():
        console.print(f"  {title:<12}{text}", highlight=False, soft_wrap=True)
    return trained


def _introduction(prepared: Prepared, replicas: Replicas) -> str:
    run, manifest = prepared.run, prepared.manifest
    shape = "x".join(map(str, run.data.transform.shape))
    count = "1 replica" if run.replicas == 1 else f"{run.replicas} replicas"
    return f"{run.steps:,} steps of {run.batch.size} images, {manifest.rows:,} of {shape}, on {count} of {replicas.on}"


def fit(at: Started, main: Callable[[Job], Any], status: Any, validation: Validation | None = None) -> ray.train.Result:
    """Run `main` on every replica. Raises RunError if they fail for good, KeyboardInterrupt if the user stops them."""
    prepared, run = at.prepared, at.prepared.run
    storage = Location.of(storage_root(run.storage))
    accelerator = at.replicas.accelerator
    job = Job(dump(run), prepared.folder, prepared.tracking_uri, at.tracking_run, status, accelerator)
    folder = Location.of(prepared.folder)
    (folder / _RAYS_NOTES).delete()  # The folder says what there is, and they may say otherwise.
    run_checkpoints.forget_unmeasured(folder)
    xla = at.replicas.xla
    trainer = (partial(DataParallelTrainer, backend_config=xla) if xla else TorchTrainer)(
        main,
        train_loop_config=job,
        scaling_config=at.replicas.scaling,
        run_config=ray.train.RunConfig(
            name=prepared.name,
            storage_path=storage.path,
            storage_filesystem=None if storage.is_local else storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=run.cluster.max_failures),
        ),
        validation_config=validation(job) if validation and run.evaluation.during_training else None,
    )
    try:
        return trainer.fit()
    except (KeyboardInterrupt, SystemExit) as error:  # Ray Train stops the replicas at Ctrl-C, and then exits.
        raise KeyboardInterrupt(f"{prepared.resume} continues from the last checkpoint") from error
    except ray.train.TrainingFailedError as error:
        raise RunError(f"{_cause(error)}; {prepared.resume} continues from the last checkpoint") from error


def _cause(error: Exception) -> str:
    """The first line of what went wrong in a replica."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return str(error).strip().splitlines()[-1]
    rank, failure = sorted(failures.items())[0]
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    return f"replica {rank} failed: {lines[-1] if lines else type(failure).__name__}"


def _last(prepared: Prepared) -> str:
    found = run_checkpoints.steps(Location.of(prepared.folder))
    return str(Location.of(prepared.folder) / checkpoints.name_of(found[-1])) if found else "none yet"
