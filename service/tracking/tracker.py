"""MLflow tracking: a run begins, ends and is read there. What it logs on the way is delivered by `delivery`.

The registry (service/artifacts/registry.py) talks to the server too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from pipelines.components import ConfigError
from service.tracking.run_page import Input

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

#: MLflow's limit on one request.
_PARAMETERS_PER_REQUEST = 100
#: MLflow cuts longer parameters.
_PARAMETER_LENGTH = 6000
#: Tells MLflow's page that an experiment trains models and is not about agents.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
#: Databases whose tables are there, as this process has opened them.
_OPENED: set[str] = set()


class TrackingError(RuntimeError):
    """The tracking server fails, or cannot be reached."""


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Within, what MLflow raises becomes a TrackingError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException, ImportError, OSError) as error:
        raise TrackingError(_told(error)) from error


def _told(error: BaseException) -> str:
    """An error in one line: its first, or its last one as well, where the first only says that a list follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def check_reachable(uri: str, seconds: float = 5.0) -> None:
    """Raise ConfigError if a tracking server at an http(s) URI does not answer."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=seconds).raise_for_status()
    except requests.RequestException as error:
        reason = type(error).__name__
        raise ConfigError(
            f"tracking.uri: no MLflow server answers at {uri} ({reason}); start it, or leave tracking.uri out"
        ) from error


def missing_database(uri: str) -> Path | None:
    """The file of a tracking database in SQLite, if it is not there; MLflow creates what it is asked to read."""
    from sqlalchemy.engine import make_url

    if urlsplit(uri).scheme.partition("+")[0] != "sqlite":
        return None
    name = make_url(uri).database or ":memory:"
    return None if name == ":memory:" or name.startswith("file:") or Path(name).exists() else Path(name)


def client(uri: str) -> MlflowClient:
    """MLflow's client. The import takes seconds, so it is not the module's."""
    from mlflow import MlflowClient

    # Files come through the server, whose password is enough. Else MLflow hands out addresses of the bucket, which may
    # be out of reach, and tries those for minutes.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    for talkative in ("mlflow", "alembic"):  # Each step of creating a database is news to nobody.
        logging.getLogger(talkative).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # Its errors are raised, and told, as well.
    with _alone(uri):
        return MlflowClient(tracking_uri=uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Within, no other process opens the same SQLite file: MLflow creates its tables then, and two would collide."""
    path = uri.partition(":///")[2].partition("?")[0]
    if not uri.startswith("sqlite:///") or not path or uri in _OPENED:
        yield
        return
    with ExitStack() as held:
        with suppress(OSError):  # A file system without locks: then there is no more than luck.
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(Path(f"{path}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    _OPENED.add(uri)


def start_run(
    uri: str,
    experiment: str,
    name: str,
    folder: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: str | None,
    resume: bool,
    about: Mapping[str, str] | None = None,
    inputs: Sequence[Input] = (),
) -> str:
    """Create a run and log its parameters, or find the one that wrote to the same folder. Returns its id.

    Args:
        folder: of the run's checkpoints; names the run, where its name may not.
        artifacts: where a new experiment keeps its artifacts; None leaves it to the server.
        resume: whether the run may be there already.
        about: tags of a new run, which are not touched again: its description may be a person's by then.
        inputs: the data sets that it reads.

    Raises:
        TrackingError: the server fails.
    """
    with failing_clearly():
        from mlflow.entities import Param, RunTag

        server = client(uri)
        experiment_id = _experiment(server, experiment, artifacts)
        query = f"tags.checkpoints = {_quoted(folder)}"
        runs = server.search_runs([experiment_id], query, max_results=1) if resume else []
        found = runs[0] if runs else server.create_run(experiment_id, tags=dict(about or {}), run_name=name)
        run_id: str = found.info.run_id
        server.update_run(run_id, status="RUNNING")
        if not runs:
            values = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in parameters.items()]
            for start in range(0, len(values), _PARAMETERS_PER_REQUEST):
                server.log_batch(run_id, params=values[start : start + _PARAMETERS_PER_REQUEST])
        everything = {**tags, "checkpoints": folder}
        server.log_batch(run_id, tags=[RunTag(key, value) for key, value in everything.items()])
        if inputs:
            server.log_inputs(run_id, [_described(data) for data in inputs])
    return run_id


def _experiment(server: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of an experiment, which is there afterwards, and is one of training."""
    found = server.get_experiment_by_name(name)
    if found is None:
        return str(server.create_experiment(name, artifacts, tags=_KIND))
    for key, value in _KIND.items():
        if key not in found.tags:
            server.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def _described(data: Input) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = json.dumps({"num_rows": data.rows, "version": data.version})
    source = json.dumps({"uri": data.place})
    described = Dataset(data.name, data.digest, urlsplit(data.place).scheme or "local", source, profile=profile)
    return DatasetInput(described, [InputTag("mlflow.data.context", data.context)])


def _quoted(text: str) -> str:
    """As a filter of MLflow takes it, which knows two kinds of quotes and no way to write one within its own kind."""
    if "'" in text and '"' in text:
        raise TrackingError(f"MLflow cannot look for {text}: it has both kinds of quotes; leave one out of its name")
    return f'"{text}"' if "'" in text else f"'{text}'"


def discard_run(uri: str, run_id: str) -> None:
    """Delete a run that never started."""
    with failing_clearly():
        client(uri).delete_run(run_id)


def finish_run(uri: str, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
    """End a run as FINISHED, FAILED or KILLED."""
    server = client(uri)
    with failing_clearly():
        for key, value in (tags or {}).items():
            server.set_tag(run_id, key, value)
        server.set_terminated(run_id, status)


def history(uri: str, run_id: str) -> list[tuple[int, dict[str, float]]]:
    """Everything a run has logged of itself, and not of its nodes: (step, values by name), by step."""
    server = client(uri)
    steps: dict[int, dict[str, float]] = {}
    with failing_clearly():
        for name in server.get_run(run_id).data.metrics:
            if name.startswith("system/"):
                continue
            for metric in server.get_metric_history(run_id, name):
                steps.setdefault(metric.step, {})[name] = metric.value
    return sorted(steps.items())


def log_metrics(
    uri: str, run_id: str, step: int, values: Mapping[str, float], model: str | None = None, data: Input | None = None
) -> None:
    """Log numbers to the run, at a step.

    Args:
        model: the id of the logged model that they are of, whose page then shows them as well.
        data: what it was measured on; it becomes an input of the run.
    """
    now = int(time.time() * 1000)
    with failing_clearly():
        _log(client(uri), run_id, {name: (value, now) for name, value in values.items()}, step, model, data)


def adopt_metrics(uri: str, run_id: str, step: int, prefix: str, model: str, data: Input) -> None:
    """Let the run's last numbers at a step, of names that begin so, be the model's too. The run gets no new ones."""
    server = client(uri)
    with failing_clearly():
        names = [name for name in server.get_run(run_id).data.metrics if name.startswith(prefix)]
        found = {
            name: (metric.value, metric.timestamp)
            for name in names
            for metric in server.get_metric_history(run_id, name)
            if metric.step == step
        }
        _log(server, run_id, found, step, model, data)


def _log(
    server: MlflowClient,
    run_id: str,
    values: Mapping[str, tuple[float, int]],
    step: int,
    model: str | None,
    data: Input | None,
) -> None:
    """Log values with their times. MLflow ignores what the run has already."""
    from mlflow.entities import Metric

    measured = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
    if data and values:
        server.log_inputs(run_id, [_described(data)])
    metrics = [
        Metric(name, value, at, step, model_id=model, run_id=run_id, **measured) for name, (value, at) in values.items()
    ]
    server.log_batch(run_id, metrics=metrics)


def log_file(uri: str, run_id: str, file: Path, folder: str | None = None) -> None:
    """Log a file as an artifact of the run."""
    with failing_clearly():
        client(uri).log_artifact(run_id, str(file), folder)
