"""What `service` gives to Python: the command line's own functions, for notebooks and scripts."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from pipelines.components import ConfigError
from pipelines.evaluate import during_training
from pipelines.storage.location import Location
from service.artifacts import model_cache, run_checkpoints
from service.artifacts.checkpoints import State
from service.artifacts.generator_folder import write_generator
from service.configuration.config import Run, storage_root
from service.configuration.reading import from_tree
from service.configuration.recipe import load as load
from service.generator import Generator
from service.runs.driver.launch import launch
from service.runs.driver.summary import Trained


def train(run: Run, console: Console | None = None) -> Trained:
    """Train a run to its end, on the Ray cluster that is there or a local one.

    Args:
        run: from `load`.
        console: what a person should see; nothing by default.

    Raises:
        ConfigError: the user's mistake; nothing has been started.
        RunError: the run diverged, or its replicas died more often than it allows.
    """
    return launch(run, console or Console(quiet=True), time.time(), during_training.config)


def open_checkpoint(run: str, step: int | None = None) -> State:
    """A checkpoint of a run: step, weights, optimizers, and the configuration.

    Args:
        run: path or URI of the run's folder, such as ``runs/digits-20261126-120000``.
        step: of the checkpoint [default: the last].

    Raises:
        ConfigError: the folder has no such checkpoint.
        CheckpointError: it is damaged.
    """
    folder = storage_root(run)
    steps = run_checkpoints.steps(Location.of(folder))
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise ConfigError(f"{run}: has no {wanted}; there are {steps or 'none'}")
    return run_checkpoints.read(Location.of(folder), step or max(steps))


def open_generator(of: str | State, tracking_uri: str | None = None) -> Generator:
    """The generator of a registered model, or of a checkpoint; its averaged weights where it has them.

    Args:
        of: a ``models:/`` URI, a folder that ``selfgan export --format huggingface`` has written, or what
            `open_checkpoint` gave.
        tracking_uri: MLflow's server or database [default: runs/mlflow.db].

    Raises:
        NoModelError: there is no such model.
        TrackingError: MLflow fails.
    """
    if isinstance(of, str):
        uri = tracking_uri or f"sqlite:///{Path('runs/mlflow.db').resolve()}"
        return Generator.read(model_cache.folder_of(of, uri, model_cache.CACHE.expanduser()))
    with TemporaryDirectory() as folder:
        write_generator(from_tree(of.run), of, Path(folder), {"step": str(of.step)})
        return Generator.read(Path(folder))
