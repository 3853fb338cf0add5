"""Replicas handed to Ray Train, and waited for: until the run ends, leaves because it was asked to, or fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from pipelines.components import first_line
from pipelines.storage.location import Location
from service.artifacts import checkpoints, run_checkpoints
from service.configuration.config import storage_root
from service.configuration.tree import dump
from service.runs.driver.cluster import Replicas, started_here
from service.runs.driver.failures import FailureCount, RunError
from service.runs.driver.preparation import Started
from service.runs.driver.room import Room
from service.runs.driver.scaling import Unasked
from service.runs.driver.signals import Interrupted, Signals
from service.runs.driver.unmeasured import Unmeasured
from service.runs.driver.watchdog import Watchdog
from service.runs.job import Job
from service.runs.on_replica.agreement import Left
from service.tracking.progress import Status

#: Which checkpoints Ray Train believes that there are. It refuses to start where one of them is gone.
_RAYS_NOTES = "checkpoint_manager_snapshot.json"
_LOOK_SECONDS = 0.5
_ABORT_SECONDS = 20.0
_MOVES = {
    "preempted": "a node is to go: step {step:,} is kept, and the run goes on elsewhere",
    "room": "there is room for more replicas: step {step:,} is kept, and the run goes on with them",
}
Validation = Callable[[Job], ray.train.ValidationConfig]
Look = Callable[[Status], None]


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
    looks = [Watchdog(status, run.steps, run.cluster.patience_seconds).look, Room(status, at.replicas.scaling).look]
    if run.evaluation.stop is not None:
        folder = Location.of(at.prepared.folder)
        looks.append(Unmeasured(status, folder, lambda: _evaluation(at, status, validation)).look)
    others = set(placement_group_table())
    deaths, told = 0, False
    while True:
        try:
            begun = ray.get(status.leaving.remote())
            left = _left(run.cluster.max_failures, deaths + ray.get(status.failures.remote()))
            returned = _returned(_trainer(at, main, status, validation, left), status, signals, looks, begun)
        except ray.train.TrainingFailedError as error:
            deaths += _died_at_start(error)
            if _no_room(error) or (_died_at_start(error) and left):
                _give_places_back(others)
                if signals.caught is not None:
                    raise Interrupted(at.prepared.going_on, signals.caught) from error
                if _no_room(error) and not told:
                    told = True
                    status.say.remote("waiting for room for the replicas")
                continue
            raise RunError(f"{_cause(error)}; {at.prepared.going_on}") from error
        except ray.exceptions.RayError as error:  # The head of the cluster is gone, and with it the run's status.
            raise RunError(f"the cluster is lost ({first_line(error)}); {at.prepared.going_on}") from error
        except KeyboardInterrupt as error:
            code = error.code if isinstance(error, Interrupted) else None
            raise Interrupted(at.prepared.going_on, code or Interrupted().code) from error
        if not isinstance(returned, Left) or returned.why == "figure":
            done = isinstance(returned, Left) or returned is None
            if done and signals.caught is None:
                _evaluate_what_is_left(at, status, validation)
            return None if done else returned
        if signals.caught is not None or returned.why == "asked":
            raise Interrupted(at.prepared.going_on, signals.caught or Interrupted().code)
        status.say.remote(_MOVES[returned.why].format(step=returned.step))


def _evaluate_what_is_left(at: Started, status: Any, validation: Validation | None) -> None:
    """Evaluate checkpoints that a run left when it was stopped at its end: no later one will see to them."""
    started = _evaluation(at, status, validation)
    try:
        ray.get(started)
    except ray.exceptions.RayError as error:  # The run itself is done.
        status.warn.remote(f"the last checkpoints could not be evaluated: {first_line(error)}")


def _evaluation(at: Started, status: Any, validation: Validation | None) -> list[ray.ObjectRef]:
    """Start to evaluate the checkpoints that are still to be measured, if there are any; the task that does."""
    folder = Location.of(at.prepared.folder)
    steps = run_checkpoints.unmeasured(folder)
    if not steps or not validation or not at.prepared.run.evaluation.during_training:
        return []
    asked, last = validation(_job(at, status)), folder / checkpoints.name_of(steps[-1])
    task = ray.remote(**asked.ray_remote_kwargs)(asked.fn)
    return [task.remote(ray.train.Checkpoint(last.path, last.filesystem), **asked.task_config.fn_kwargs)]


class _Quiet:
    """Ray Train without its own answer to Ctrl-C, which is to abort the run at the first, and without two actors.

    Each would be one more process to wait for at every start. Ray Data has nothing to do, as replicas read the shards
    themselves; and nobody has to free the places of replicas whose controller died: the driver then ends, and with it
    what its job has reserved. On a cluster that this process has started, a third one goes (`scaling`).
    """

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [
            callback for callback in made if not isinstance(callback, DatasetsCallback | PlacementGroupCleanerCallback)
        ]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if started_here() and isinstance(given["scaling_policy"], FixedScalingPolicy):
            given["scaling_policy"] = Unasked(given["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**given)  # type: ignore[misc]


class _TorchTrainer(_Quiet, TorchTrainer):  # type: ignore[misc]  # Ray has no types.
    pass


class _GrouplessTrainer(_Quiet, DataParallelTrainer):  # type: ignore[misc]
    """Without a process group of torch's, for which Ray Train's controller would import torch first."""


def _returned(trainer: Any, status: Any, signals: Signals, looks: Sequence[Look], begun: int) -> Any:
    """What the replicas return. They are watched meanwhile, as this thread waits for Ray and hears signals.

    Args:
        looks: are called with the status now and then.
        begun: how many attempts there were before.
    """
    done = threading.Event()
    arguments = done, status, signals, looks, begun
    watching = threading.Thread(target=_watch, args=arguments, daemon=True, name="watching")
    signals.patient = True
    watching.start()
    try:
        return trainer.fit().return_value
    except KeyboardInterrupt:
        if trainer.controller is not None:
            with suppress(ray.exceptions.RayError):  # It answers by its end.
                ray.get(trainer.controller.abort.remote(), timeout=_ABORT_SECONDS)
        raise
    finally:
        signals.patient = False
        done.set()
        watching.join()


def _watch(done: threading.Event, status: Any, signals: Signals, looks: Sequence[Look], begun: int) -> None:
    """Until `done`: look after the replicas, and hand on the first signal."""
    told = False
    while not done.wait(_LOOK_SECONDS):
        try:
            posted = ray.get(status.read.remote(), timeout=_ABORT_SECONDS)
            for look in looks:
                look(posted)
            if signals.caught is None or told:
                continue
            told = True
            if posted.attempts == begun:  # No replica has begun: there is nothing to keep.
                signals.abort()
                return
            ray.get(status.ask.remote(), timeout=_ABORT_SECONDS)
            status.say.remote("stopping at the end of the step; once more stops at once")
        except ray.exceptions.RayError:  # The cluster is busy, or gone; the main thread hears of that.
            continue


def _left(allowed: int, failures: int) -> int:
    """How many failures are left of those that a run is allowed, where -1 stands for any number."""
    return allowed if allowed < 0 else max(0, allowed - failures)


def _trainer(
    at: Started, main: Callable[[Job], Any], status: Any, validation: Validation | None, max_failures: int
) -> Any:
    prepared, run = at.prepared, at.prepared.run
    storage = Location.of(storage_root(run.storage))
    job = _job(at, status)
    folder = Location.of(prepared.folder)
    (folder / _RAYS_NOTES).delete()  # The folder says what there is, and they may say otherwise.
    if not run.evaluation.during_training:  # What is left of when it was, nobody will measure.
        for step in run_checkpoints.unmeasured(folder):
            run_checkpoints.measured(folder, step)
    return _trainer_kind(at.replicas)(
        main,
        train_loop_config=job,
        scaling_config=at.replicas.scaling,
        run_config=ray.train.RunConfig(
            name=prepared.name,
            storage_path=storage.path,
            storage_filesystem=None if storage.is_local else storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures, controller_failure_limit=0),  # `fit` tries.
            callbacks=[FailureCount(status)],
        ),
        validation_config=validation(job) if validation and run.evaluation.during_training else None,
    )


def _trainer_kind(replicas: Replicas) -> Callable[..., Any]:
    if replicas.xla:
        return partial(_GrouplessTrainer, backend_config=replicas.xla)
    return _GrouplessTrainer if replicas.scaling.num_workers == 1 else _TorchTrainer


def _job(at: Started, status: Any) -> Job:
    prepared = at.prepared
    return Job(
        dump(prepared.run), prepared.folder, prepared.tracking_uri, at.tracking_run, status, at.replicas.accelerator
    )


def _died_at_start(error: ray.train.TrainingFailedError) -> bool:
    """Whether a replica died while replicas were being started."""
    failure = getattr(error, "controller_failure", None)
    return isinstance(failure, WorkerGroupStartupFailedError | ray.exceptions.RayActorError)


def _no_room(error: ray.train.TrainingFailedError) -> bool:
    """Whether replicas have found no room so far."""
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _give_places_back(others: Collection[str]) -> None:
    """Free what replicas have reserved: where one dies while it starts, Ray Train forgets that and waits for room.

    The id of a placement group ends with that of its job, which may have `others`.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, described in placement_group_table().items():
        if name.endswith(job) and name not in others and described["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


def _cause(error: Exception) -> str:
    """The first line of what went wrong in a replica."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return str(error).strip().splitlines()[-1]
    rank, failure = sorted(failures.items())[0]
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    return f"replica {rank} failed: {lines[-1] if lines else type(failure).__name__}"
