"""Checkpoints judged while training goes on: a task that Ray Train starts beside the replicas, which do not wait."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
from rich.console import Console

from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.protocol import protocol
from pipelines.storage.location import Location
from service.artifacts import run_checkpoints, run_figures
from service.artifacts.generator_folder import write_generator
from service.configuration.reading import from_tree
from service.generator import Generator
from service.runs.job import Job
from service.tracking import tracker as tracking

_LOOK_SECONDS = 0.5


def validate(checkpoint: ray.train.Checkpoint, job: Job) -> dict[str, float]:
    """What an evaluation finds of a checkpoint, which it logs to the run as well.

    It is abandoned where replicas leave before the run's end, who wait for it: a spot node is gone in 30 s. The
    evaluation of the next checkpoint does it first.
    """
    last, found = int(Path(checkpoint.path).name.removeprefix("step-")), dict[str, float]()
    try:
        with _interrupted_when_replicas_leave(job.status):
            for step in _waiting(Location.of(job.folder), last):
                with suppress(Exception) if step < last else nullcontext():  # An old failure is not this one's.
                    found = _measure(job, step)
    except KeyboardInterrupt:
        return {}
    return found


def _waiting(folder: Location, last: int) -> list[int]:
    """The checkpoints up to `last` that are whole, and still to be measured."""
    whole = run_checkpoints.steps(folder)
    return [step for step in run_checkpoints.unmeasured(folder) if step <= last and step in whole]


def _measure(job: Job, step: int) -> dict[str, float]:
    run, folder = from_tree(job.run), Location.of(job.folder)
    try:
        with TemporaryDirectory() as model:
            state = run_checkpoints.read(folder, step)
            write_generator(run, state, Path(model), {"step": str(step)})
            judged = protocol(run, Console(quiet=True))
            measured = evaluate(judged, Generator.read(Path(model)))
        run_figures.note(folder, step, measured)
        figures = {f"evaluation/{name}": value for name, value in measured.figures.items()}
        tracking.log_metrics(job.tracking_uri, job.tracking_run, state.step, figures, data=judged.input)
    except Exception:
        run_checkpoints.measured(folder, step)  # It would fail again.
        raise
    run_checkpoints.measured(folder, step)
    return figures


@contextmanager
def _interrupted_when_replicas_leave(status: Any) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread, within, when the status says so."""
    if ray.get(status.going.remote()):
        raise KeyboardInterrupt
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            with suppress(ray.exceptions.RayError):  # The driver is gone, or busy.
                if ray.get(status.going.remote(), timeout=_LOOK_SECONDS):
                    _thread.interrupt_main()
                    return

    # A run that was started in the background of a shell has inherited that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watching = threading.Thread(target=watch, daemon=True, name="leaving")
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
        signal.signal(signal.SIGINT, before)


def config(job: Job) -> ray.train.ValidationConfig:
    """What Ray Train is to do with checkpoints that are reported for validation.

    The task asks for no CPU of its own: where replicas have them all, it would wait for the end of the run.
    """
    given = ray.train.ValidationTaskConfig(fn_kwargs={"job": job})
    return ray.train.ValidationConfig(validate, given, ray_remote_kwargs={"num_cpus": 0})
