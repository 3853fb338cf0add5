"""A run from the driver's side: check everything, hand the replicas to Ray Train, sum up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from rich.console import Console

from pipelines.shards import Manifest
from pipelines.storage import Location, join
from service import best, checkpoints, cluster, registry, tracking, validation
from service.cluster import Replicas
from service.components import ConfigError
from service.config import Run, dump, flatten, storage_root
from service.datasets import pinned, prepare_all
from service.pictures import curves
from service.progress import Display, duration, new_board
from service.tracking import TrackingError
from service.worker import Job, local_folder, replica_main


class RunError(RuntimeError):
    """A run that ended before its last step; its text is the one line to show."""


@dataclass(frozen=True)
class Prepared:
    """What is known before Ray starts."""

    run: Run
    folder: str
    data: str
    manifest: Manifest
    tracking_uri: str

    @property
    def name(self) -> str:
        return Location.of(self.folder).path.rpartition("/")[2]


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


def launch(run: Run, console: Console, began: float) -> str:
    """Train a run to its end, and say where everything is. Returns the registered model's URI.

    Args:
        began: when the user's command did, in seconds since the epoch.

    Raises:
        ConfigError: the user's mistake; nothing has been started.
        RunError: the run diverged, or its replicas died more often than it allows.
    """
    with started(run, console, began) as at:
        console.print(f"{at.prepared.name}: {_introduction(at.prepared, at.replicas)}", highlight=False, soft_wrap=True)
        board = new_board()
        with Display(board, run.steps, console, at.marks):
            result = fit(at, replica_main, board)
        if result.return_value is not None:
            raise RunError(f"{result.return_value}; the last good checkpoint is {_where(at.prepared, result)}")
        summary = _finish(at.prepared, at.tracking_run, result, ray.get(board.read.remote()).replaced_rows)
    console.print(f"done: {run.steps:,} steps in {duration(time.time() - began)}", highlight=False)
    for title, where in summary.items():
        console.print(f"  {title:<12}{where}", highlight=False, soft_wrap=True)
    return summary["model"]


@contextmanager
def started(run: Run, console: Console, began: float) -> Iterator[Started]:
    """A run's cluster and tracking, started; and ended, well or badly."""
    imported = time.time()
    prepared = _prepare(run, console)
    found = time.time()
    with ThreadPoolExecutor(1) as pool:  # Both take seconds, and neither needs the other.
        starting = pool.submit(_start_tracking, prepared)
        try:
            if not ray.is_initialized():  # An ingest may have joined it.
                cluster.connect(run.cluster)  # Here: a local Ray dies with the thread that starts it.
            replicas = cluster.replicas(run)
        except BaseException:
            ray.shutdown()
            with suppress(TrackingError):
                tracking.discard_run(prepared.tracking_uri, starting.result())
            raise
        try:
            tracking_run = starting.result()
        except TrackingError as error:
            ray.shutdown()
            raise ConfigError(f"tracking.uri: {prepared.tracking_uri} refuses the run: {error}") from error
    marks = ("begin", began), ("imports", imported), ("data", found), ("Ray and MLflow", time.time())
    try:
        described = {**dump(prepared.run), "name": prepared.name, "resume": None}
        (Location.of(prepared.folder) / "run.json").write(json.dumps(described, indent=2).encode())
        yield Started(prepared, tracking_run, replicas, marks)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with suppress(TrackingError):  # What went wrong first is what the user has to hear of.
            tracking.finish_run(prepared.tracking_uri, tracking_run, status, {"error": str(error)[:5000]})
        raise
    finally:
        ray.shutdown()


def _prepare(run: Run, console: Console) -> Prepared:
    root = storage_root(run.storage)
    _check_writable(root)
    uri = run.tracking_uri
    tracking.check_reachable(uri)
    if run.start_from is not None and run.resume is None and not (Location.of(run.start_from) / "state.json").exists():
        raise ConfigError(f"start_from: there is no checkpoint at {run.start_from}")
    found = prepare_all(run, console)
    data, manifest = found[0]
    cache = {"cache": storage_root(run.loader.cache) if run.loader.cache else None}
    run = pinned(run, found).model_copy(update={"loader": run.loader.model_copy(update=cache)})
    name = run.resume or run.name or f"{run.recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = join(root, name)
    if run.resume is None and (Location.of(folder) / "run.json").exists():
        raise ConfigError(f"name: {folder} is there already; resume={name} continues it")
    return Prepared(run, folder, data, manifest, uri)


def _check_writable(root: str) -> None:
    probe = Location.of(join(root, ".writable"))
    try:
        probe.write(b"")
        probe.delete()
    except OSError as error:
        raise ConfigError(f"storage: {root} cannot be written to: {error}") from error


def _start_tracking(prepared: Prepared) -> str:
    run, root = prepared.run, Path(storage_root(prepared.run.storage))
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
    )


def _introduction(prepared: Prepared, replicas: Replicas) -> str:
    run, manifest = prepared.run, prepared.manifest
    shape = "x".join(map(str, run.data.transform.shape))
    count = "1 replica" if run.replicas == 1 else f"{run.replicas} replicas"
    return f"{run.steps:,} steps of {run.batch.size} images, {manifest.rows:,} of {shape}, on {count} of {replicas.on}"


def fit(at: Started, main: Callable[[Job], Any], board: Any) -> ray.train.Result:
    """Run `main` on every replica. Raises RunError if they fail for good, KeyboardInterrupt if the user stops them."""
    prepared, run = at.prepared, at.prepared.run
    storage = Location.of(storage_root(run.storage))
    accelerator = at.replicas.accelerator
    job = Job(dump(run), prepared.folder, prepared.tracking_uri, at.tracking_run, board, accelerator)
    xla = at.replicas.xla
    trainer = (partial(DataParallelTrainer, backend_config=xla) if xla else TorchTrainer)(
        main,
        train_loop_config=job,
        scaling_config=at.replicas.scaling,
        run_config=ray.train.RunConfig(
            name=prepared.name,
            storage_path=storage.path,
            storage_filesystem=None if storage.is_local else storage.filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=run.checkpoints.keep),
            failure_config=ray.train.FailureConfig(max_failures=run.cluster.max_failures),
        ),
        validation_config=validation.config(job) if run.evaluation.during_training else None,
    )
    try:
        return trainer.fit()
    except (KeyboardInterrupt, SystemExit) as error:  # Ray Train stops the replicas at Ctrl-C, and then exits.
        raise KeyboardInterrupt(f"resume={prepared.name} continues from the last checkpoint") from error
    except ray.train.TrainingFailedError as error:
        raise RunError(f"{_cause(error)}; resume={prepared.name} continues from the last checkpoint") from error


def _cause(error: Exception) -> str:
    """The first line of what went wrong in a replica."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return str(error).strip().splitlines()[-1]
    rank, failure = sorted(failures.items())[0]
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    return f"replica {rank} failed: {lines[-1] if lines else type(failure).__name__}"


def _where(prepared: Prepared, result: ray.train.Result) -> str:
    if result.checkpoint is None:
        return "none yet"
    return str(Location.of(prepared.folder) / Path(result.checkpoint.path).name)


def _finish(prepared: Prepared, tracking_run: str, result: ray.train.Result, replaced_rows: int) -> dict[str, str]:
    """Register the model, draw the curves, and say where everything is."""
    run, uri, folder = prepared.run, prepared.tracking_uri, local_folder(prepared.folder, tracking_run)
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as path:
        state = checkpoints.load(Path(path))
    samples = sorted((folder / "samples").glob("*.png"))
    try:
        model = registry.register(run, state, uri, tracking_run, samples[-1] if samples else None)
        folder.mkdir(parents=True, exist_ok=True)
        if history := tracking.history(uri, tracking_run):
            curves(history, folder / "curves.png")
            tracking.log_file(uri, tracking_run, folder / "curves.png")
        tracking.finish_run(uri, tracking_run, "FINISHED", {"model": model, "data.replaced_rows": str(replaced_rows)})
    except TrackingError as error:
        raise RunError(
            f"trained, but MLflow at {uri} fails ({error}); resume={prepared.name} registers the model"
        ) from error
    kept = best.read(Location.of(prepared.folder))
    ui = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri
    return {
        "samples": str(samples[-1]) if samples else "in MLflow",
        "curves": str(folder / "curves.png"),
        "model": model,
        "checkpoints": f"{prepared.folder} (last step {state.step:,}" + (f", best {kept.folder})" if kept else ")"),
        "MLflow": f"{ui}   (run {tracking_run})",
    }
