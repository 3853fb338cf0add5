"""MLflow tracking: what a run logs on the way. The registry (service/artifacts/registry.py) talks to the server too.

The step never waits for the server: what is logged goes into a journal, and a thread delivers it, for as
long as it takes. A restarted run goes on with its journal; since a run is a function of (recipe, data, seed,
step), what the journal holds of steps that are done again need not be logged again.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import tenacity

from pipelines.components import ConfigError
from service.tracking.journal import Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's limits on one request.
_PARAMETERS_PER_REQUEST = 100
_ENTRIES_PER_REQUEST = 40  # of up to 25 numbers: MLflow takes 1,000
#: MLflow cuts longer parameters.
_PARAMETER_LENGTH = 6000
#: These will not get better by trying again.
_PERMANENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED"})
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
        raise TrackingError(str(error).splitlines()[0]) from error


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
) -> str:
    """Create a run and log its parameters, or find the one that wrote to the same folder. Returns its id.

    Args:
        folder: of the run's checkpoints; names the run, where its name may not.
        artifacts: where a new experiment keeps its artifacts; None leaves it to the server.
        resume: whether the run may be there already.

    Raises:
        TrackingError: the server fails.
    """
    with failing_clearly():
        from mlflow.entities import Param, RunTag

        server = client(uri)
        found = server.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else server.create_experiment(experiment, artifacts)
        query = f"tags.checkpoints = {_quoted(folder)}"
        runs = server.search_runs([experiment_id], query, max_results=1) if resume else []
        run_id: str = (runs[0] if runs else server.create_run(experiment_id, run_name=name)).info.run_id
        server.update_run(run_id, status="RUNNING")
        if not runs:
            values = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in parameters.items()]
            for start in range(0, len(values), _PARAMETERS_PER_REQUEST):
                server.log_batch(run_id, params=values[start : start + _PARAMETERS_PER_REQUEST])
        everything = {**tags, "checkpoints": folder}
        server.log_batch(run_id, tags=[RunTag(key, value) for key, value in everything.items()])
    return run_id


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
    """Everything a run has logged: (step, values by name), by step."""
    server = client(uri)
    steps: dict[int, dict[str, float]] = {}
    with failing_clearly():
        for name in server.get_run(run_id).data.metrics:
            for metric in server.get_metric_history(run_id, name):
                steps.setdefault(metric.step, {})[name] = metric.value
    return sorted(steps.items())


def log_metrics(uri: str, run_id: str, step: int, values: Mapping[str, float]) -> None:
    """Log numbers to the run, at a step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    with failing_clearly():
        client(uri).log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def log_file(uri: str, run_id: str, file: Path, folder: str | None = None) -> None:
    """Log a file as an artifact of the run."""
    with failing_clearly():
        client(uri).log_artifact(run_id, str(file), folder)


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the server is away or busy, and does not refuse."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in _PERMANENT
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


class Tracker:
    """Delivers one run's metrics, files and tags.

    Args:
        uri: of the tracking server.
        run_id: of the MLflow run.
        journal: this run's.
    """

    def __init__(self, uri: str, run_id: str, journal: Journal) -> None:
        self._uri, self._run_id, self._journal = uri, run_id, journal
        self._known = {(entry["step"], name) for entry in journal.entries for name in entry.get("metrics", ())}
        self._changed = threading.Condition()
        self._closing = False
        self._given_up: str | None = None
        self._thread = threading.Thread(target=self._deliver_all, daemon=True, name="tracking")
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step, but not those that an earlier attempt at the run has logged there."""
        new = {name: value for name, value in values.items() if (step, name) not in self._known}
        if new:
            self._note({"step": step, "time": int(time.time() * 1000), "metrics": new})

    def file(self, path: Path, folder: str) -> None:
        """Log a file as an artifact."""
        self._note({"file": str(path), "folder": folder})

    def tag(self, key: str, value: str) -> None:
        self._note({"tag": key, "value": value})

    def close(self, patience_seconds: float) -> int:
        """Wait for what is pending; returns how many entries could not be delivered."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience_seconds)
        return len(self._journal.pending())

    @property
    def problem(self) -> str | None:
        """Why nothing more will be delivered, if it is so."""
        return self._given_up

    def _note(self, entry: dict[str, Any]) -> None:
        with self._changed:
            self._journal.append(entry)
            self._changed.notify()

    def _deliver_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._journal.pending())
                pending = self._journal.pending()
            if not pending:
                return
            try:
                count = self._deliver(pending)
            except Exception as error:  # A refusal ends delivery, never training.
                self._given_up = f"MLflow refuses: {str(error).splitlines()[0]}"
                if "metrics" in pending[0]:
                    return
                count = 1  # A file or a tag that is refused does not hold up the numbers.
            with self._changed:
                self._journal.deliver(count)

    @tenacity.retry(
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    def _deliver(self, pending: list[dict[str, Any]]) -> int:
        """Deliver the oldest entries: numbers together, anything else alone. Returns how many.

        MLflow ignores a number that it already has.
        """
        from mlflow.entities import Metric

        server = client(self._uri)
        entry = pending[0]
        if "tag" in entry:
            server.set_tag(self._run_id, entry["tag"], entry["value"])
            return 1
        if "file" in entry:
            if not Path(entry["file"]).exists():  # Another machine's, or deleted: there is nothing to deliver.
                return 1
            server.log_artifact(self._run_id, entry["file"], entry["folder"])
            return 1
        entries = list(itertools.takewhile(lambda other: "metrics" in other, pending))[:_ENTRIES_PER_REQUEST]
        metrics = [
            Metric(key, value, other["time"], other["step"])
            for other in entries
            for key, value in other["metrics"].items()
        ]
        server.log_batch(self._run_id, metrics=metrics)
        return len(entries)
