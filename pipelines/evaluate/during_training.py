"""Checkpoints judged while training goes on: a task that Ray Train starts beside the replicas, which do not wait."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import ray.train
from rich.console import Console

from pipelines.evaluate.evaluation import evaluate, protocol
from pipelines.storage.location import Location
from service.artifacts import registry, run_checkpoints
from service.configuration.reading import from_tree
from service.generator import Generator
from service.runs.on_replica.outputs import Job
from service.tracking import tracker as tracking


def validate(checkpoint: ray.train.Checkpoint, job: Job) -> dict[str, float]:
    """What an evaluation finds of a checkpoint, which it logs to the run as well."""
    run, step = from_tree(job.run), int(Path(checkpoint.path).name.removeprefix("step-"))
    folder = Location.of(job.folder)
    try:
        with TemporaryDirectory() as model:
            state = run_checkpoints.read(folder, step)
            registry.write_generator(run, state, Path(model), {"step": str(step)})
            measured = evaluate(protocol(run, Console(quiet=True)), Generator.read(Path(model)))
    finally:
        run_checkpoints.measured(folder, step)
    figures = {f"evaluation/{name}": value for name, value in measured.figures.items()}
    tracking.log_metrics(job.tracking_uri, job.tracking_run, state.step, figures)
    return figures


def config(job: Job) -> ray.train.ValidationConfig:
    """What Ray Train is to do with checkpoints that are reported for validation.

    The task asks for no CPU of its own: where replicas have them all, it would wait for the end of the run.
    """
    given = ray.train.ValidationTaskConfig(fn_kwargs={"job": job})
    return ray.train.ValidationConfig(validate, given, ray_remote_kwargs={"num_cpus": 0})
