"""Replicas handed to Ray Train, and waited for: until the run ends, leaves because it was asked to, or fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipelines.storage.location import Location
from service.artifacts import run_checkpoints
from service.configuration.config import storage_root
from service.configuration.tree import dump
from service.runs.driver.failures import RunError
from service.runs.driver.preparation import Started
from service.runs.driver.signals import Interrupted, Signals
from service.runs.driver.watchdog import Watchdog
from service.runs.on_replica.agreement import Left
from service.runs.on_replica.outputs import Job

#: Which checkpoints Ray Train believes that there are. It refuses to start where one of them is gone.
_RAYS_NOTES = "checkpoint_manager_snapshot.json"
_LOOK_SECONDS = 0.5
Validation = Callable[[Job], ray.train.ValidationConfig]


def fit(
    at: Started,
    main: Callable[[Job], Any],
    status: Any,
    validation: Validation | None = None,
    signals: Signals | None = None,
) -> Any:
    """Run `main` on every replica, and start them again where nodes were announced to go; returns what rank 0 returns.

    Args:
        signals: the first one makes the run checkpoint and leave.

    Raises:
        RunError: they fail for good.
        Interrupted: the user, or the system, stops them.
    """
    signals = signals or Signals()
    run = at.prepared.run
    watchdog = Watchdog(status, run.steps, run.cluster.patience_seconds)
    while True:
        try:
            returned = _waited_for(_trainer(at, main, status, validation), status, signals, watchdog)
        except ray.train.TrainingFailedError as error:
            raise RunError(f"{_cause(error)}; {at.prepared.going_on}") from error
        except KeyboardInterrupt as error:
            code = error.code if isinstance(error, Interrupted) else None
            raise Interrupted(at.prepared.going_on, code or Interrupted().code) from error
        if not isinstance(returned, Left):
            return returned
        if signals.caught is not None or returned.why == "asked":
            raise Interrupted(at.prepared.going_on, signals.caught or Interrupted().code)
        status.say.remote(f"a node is to go: step {returned.step:,} is kept, and the run goes on elsewhere")


def _waited_for(trainer: DataParallelTrainer, status: Any, signals: Signals, watchdog: Watchdog) -> Any:
    """What the replicas return. The main thread stays free for signals: Ray would abort the run at the first."""
    done: Future[ray.train.Result] = Future()

    def train() -> None:
        try:
            done.set_result(trainer.fit())
        except BaseException as error:
            done.set_exception(error)

    told = False
    signals.patient = True
    try:
        threading.Thread(target=train, daemon=True, name="Ray Train").start()
        while not _ended(done):
            posted = ray.get(status.read.remote())
            watchdog.look(posted)
            if signals.caught is not None and not told:
                told = True
                if not posted.attempts:  # No replica has begun: there is nothing to keep.
                    raise Interrupted(code=signals.caught)
                ray.get(status.ask.remote())
                status.say.remote("stopping at the end of the step; once more stops at once")
        return done.result().return_value
    finally:
        signals.patient = False


def _ended(done: Future[Any]) -> bool:
    try:
        done.exception(_LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


def _trainer(at: Started, main: Callable[[Job], Any], status: Any, validation: Validation | None) -> Any:
    prepared, run = at.prepared, at.prepared.run
    storage = Location.of(storage_root(run.storage))
    accelerator = at.replicas.accelerator
    job = Job(dump(run), prepared.folder, prepared.tracking_uri, at.tracking_run, status, accelerator)
    folder = Location.of(prepared.folder)
    (folder / _RAYS_NOTES).delete()  # The folder says what there is, and they may say otherwise.
    run_checkpoints.forget_unmeasured(folder)
    xla = at.replicas.xla
    return (partial(DataParallelTrainer, backend_config=xla) if xla else TorchTrainer)(
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


def _cause(error: Exception) -> str:
    """The first line of what went wrong in a replica."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return str(error).strip().splitlines()[-1]
    rank, failure = sorted(failures.items())[0]
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    return f"replica {rank} failed: {lines[-1] if lines else type(failure).__name__}"
