"""What a run logs on the way, delivered to MLflow.

The step never waits for the server: what is logged goes into a journal, and a thread delivers it, for as
long as it takes. A restarted run goes on with its journal; since a run is a function of (recipe, data, seed,
step), what the journal holds of steps that are done again need not be logged again.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import requests
import tenacity
from PIL import Image, ImageOps

from service.tracking.journal import Journal
from service.tracking.tracker import client

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's limit on one request.
_NUMBERS_PER_REQUEST = 1000
#: Pixels of the small pictures on its page.
_THUMBNAIL = (256, 256)
#: These will not get better by trying again.
_PERMANENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED"})


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the server is away or busy, and does not refuse."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in _PERMANENT
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


class Tracker:
    """Delivers one run's metrics, files, pictures and tags.

    Args:
        uri: of the tracking server.
        run_id: of the MLflow run.
        journal: this run's.
    """

    def __init__(self, uri: str, run_id: str, journal: Journal) -> None:
        self._uri, self._run_id, self._journal = uri, run_id, journal
        self._known = {(entry["step"], name) for entry in journal.entries for name in entry.get("metrics", ())}
        self._pictures = {(entry["step"], entry["key"]) for entry in journal.entries if "picture" in entry}
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

    def observed(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers that tell of a time, such as a processor's load: a step that is done again has others.

        They come from a thread that does not know when the run ends; what comes later is not waited for, nor missed.
        """
        with self._changed:
            if not self._closing:
                self._note({"step": step, "time": int(time.time() * 1000), "metrics": dict(values)})

    def file(self, path: Path, folder: str) -> None:
        """Log a file as an artifact."""
        self._note({"file": str(path), "folder": folder})

    def picture(self, path: Path, key: str, step: int) -> None:
        """Log a picture that MLflow's page shows among those of the same key, by step; each once, as with numbers."""
        if (step, key) not in self._pictures:
            self._pictures.add((step, key))
            self._note({"picture": str(path), "key": key, "step": step, "time": int(time.time() * 1000)})

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
                count = 1  # A file, a picture or a tag that is refused does not hold up the numbers.
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
        if "picture" in entry:
            _show(server, self._run_id, entry)
            return 1
        entries = _together(pending)
        metrics = [
            Metric(key, value, other["time"], other["step"])
            for other in entries
            for key, value in other["metrics"].items()
        ]
        server.log_batch(self._run_id, metrics=metrics)
        return len(entries)


def _together(pending: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The oldest entries as far as they are numbers and fit into a request: one at least."""
    numbers = list(itertools.takewhile(lambda entry: "metrics" in entry, pending))
    counts = itertools.accumulate(len(entry["metrics"]) for entry in numbers)
    fitting = sum(1 for _ in itertools.takewhile(lambda count: count <= _NUMBERS_PER_REQUEST, counts))
    return numbers[: max(1, fitting)]


def _show(server: MlflowClient, run_id: str, entry: dict[str, Any]) -> None:
    """Log a picture and its thumbnail as `MlflowClient.log_image` does, but once, however often it is sent.

    `log_image` makes up a name at each call, so a picture whose answer was lost would be shown twice. The name is that
    of the picture that is there, which lacks its thumbnail, or one that follows from the entry.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

    path, key, step = Path(entry["picture"]), entry["key"].replace("/", "~"), entry["step"]
    if not path.exists():  # As with files.
        return
    named = re.compile(rf"images/(?P<stem>{re.escape(key)}(?P<gap>.)step(?P=gap){step}(?P=gap).*)\.(png|webp)")
    there = [found for file in server.list_artifacts(run_id, "images") if (found := named.fullmatch(file.path))]
    if any(found["stem"].endswith("compressed") for found in there):
        return
    own = f"{key}+step+{step}+timestamp+{entry['time']}+{uuid.uuid5(uuid.NAMESPACE_OID, f'{run_id} {key} {step}')}"
    stem, gap = there[0].group("stem", "gap") if there else (own, "+")
    server.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
    with Image.open(path) as image, TemporaryDirectory() as folder:
        full, small = (Path(folder, name) for name in (f"{stem}.png", f"{stem}{gap}compressed.webp"))
        image.save(full)
        ImageOps.contain(image, _THUMBNAIL).save(small)
        for file in (full, small):  # In this order: who finds the thumbnail sends nothing again.
            server.log_artifact(run_id, str(file), "images")
