"""Tracking against a real MLflow server that goes away."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD
from mlflow.exceptions import MlflowException
from PIL import Image

from pipelines.components import ConfigError
from pipelines.data.shards import read_manifest
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.tracking import run_page
from service.tracking.delivery import Tracker
from service.tracking.journal import Journal
from service.tracking.run_page import Input
from service.tracking.tracker import TrackingError, check_reachable, client, failing_clearly, start_run
from tests.conftest import free_port
from tests.patience import PATIENCE, wait_until

METRICS = {"loss/joint": 0.5, "weight/real": 0.25}


class Server:
    """``mlflow server`` on SQLite, that can be stopped and started."""

    def __init__(self, folder: Path, database: str = "server.db") -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._database = folder, database
        self.start()

    def start(self) -> None:
        store = f"sqlite:///{self._folder}/{self._database}"
        words = ["server", "--backend-store-uri", store, "--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--port", str(self.port), "--workers", "1"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(self.answers, "mlflow server answers")

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def pause(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def shown(client: MlflowClient, run_id: str) -> list[tuple[str, int]]:
    """Key and step of the pictures on MLflow's page, of which each is a full one and a thumbnail."""
    names = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    full, small = ([name.split("+") for name in names if name.endswith(end)] for end in (".png", ".webp"))
    found = [(name[0], int(name[2])) for name in full]
    assert sorted(found) == sorted((name[0], int(name[2])) for name in small)
    return sorted(found)


def test_a_picture_is_shown_once_whoever_has_delivered_it(tmp_path: Path) -> None:
    uri, picture = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "step.png"
    Image.new("RGB", (300, 200)).save(picture)
    run_id = start_run(uri, "selfgan", "run", "/runs/run", {}, {}, (tmp_path / "artifacts").as_uri(), resume=False)
    lonely = tmp_path / "samples+step+5+timestamp+1+name.png"  # The server went away before it had the thumbnail.
    Image.new("RGB", (300, 200)).save(lonely)
    MlflowClient(uri).log_artifact(run_id, str(lonely), "images")
    for journal in ("one.jsonl", "one.jsonl", "other.jsonl"):  # The last is another machine's, which knows of none.
        tracker = Tracker(uri, run_id, Journal(tmp_path / journal))
        for step in (5, 50):
            tracker.picture(picture, "samples", step)
        tracker.picture(tmp_path / "gone.png", "samples", 55)
        assert tracker.close(PATIENCE) == 0 and tracker.problem is None
    assert shown(MlflowClient(uri), run_id) == [("samples", 5), ("samples", 50)]
    assert "mlflow.loggedImages" in MlflowClient(uri).get_run(run_id).data.tags


def test_a_picture_that_was_on_its_way_when_it_is_sent_again_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first sending is not listed yet."""
    uri, picture = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "step.png"
    Image.new("L", (300, 200)).save(picture)
    run_id = start_run(uri, "selfgan", "run", "/runs/run", {}, {}, (tmp_path / "artifacts").as_uri(), resume=False)
    entry = {"picture": str(picture), "key": "samples", "step": 5, "time": 1}
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "list_artifacts", lambda *_: [])
        for name in ("once", "again"):
            journal = Journal(tmp_path / f"{name}.jsonl")
            journal.append(entry)
            assert Tracker(uri, run_id, journal).close(PATIENCE) == 0
    assert shown(MlflowClient(uri), run_id) == [("samples", 5)]


def test_a_server_that_goes_away_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
    server = Server(tmp_path)
    check_reachable(server.uri)
    run_id = start_run(server.uri, "selfgan", "run", "/runs/run", {"seed": 0}, {"tag": "value"}, None, resume=False)
    assert start_run(server.uri, "selfgan", "run", "/runs/run", {}, {}, None, resume=True) == run_id
    assert start_run(server.uri, "selfgan", "run", "/other/run", {}, {}, None, resume=True) != run_id
    tracker = Tracker(server.uri, run_id, Journal(tmp_path / "metrics.jsonl"))
    picture = tmp_path / "step.png"
    Image.new("L", (300, 200)).save(picture)
    for step in range(1, 101):
        if step == 30:
            server.pause()  # It takes requests, and answers none: who waits for it would wait for ever.
        tracker.metrics(step, METRICS)
        if step == 50:
            tracker.file(picture, "samples")
            tracker.picture(picture, "samples", step)
            tracker.tag("warning", "text")
    server.stop()
    assert tracker.close(1) > 0
    with pytest.raises(ConfigError, match="no MLflow server answers"):
        check_reachable(server.uri)
    server.start()
    # As another process would: the journal is all that is left of the first tracker.
    again = Tracker(server.uri, run_id, Journal(tmp_path / "metrics.jsonl"))
    again.metrics(100, METRICS)
    again.metrics(101, METRICS)
    again.picture(picture, "samples", 50)
    assert again.close(PATIENCE) == 0
    client = MlflowClient(server.uri)
    for name in METRICS:
        assert sorted({metric.step for metric in client.get_metric_history(run_id, name)}) == list(range(1, 102))
    assert [file.path for file in client.list_artifacts(run_id, "samples")] == ["samples/step.png"]
    assert [place for _, place in shown(client, run_id)] == [50]
    assert client.get_run(run_id).data.tags["warning"] == "text"
    server.stop()


def test_a_run_says_what_it_is_who_started_it_from_which_code_and_on_which_data(
    tmp_path: Path, digits: Location
) -> None:
    uri, manifest = f"sqlite:///{tmp_path}/mlflow.db", read_manifest(digits, None)
    client = MlflowClient(uri)
    client.create_experiment("selfgan", (tmp_path / "artifacts").as_uri())  # As a run of before has made it.
    inputs = [Input.of(digits, manifest, "training")]

    def start(resume: bool) -> str:
        about = run_page.about(load("digits", [f"storage={tmp_path}"]), inputs)
        return start_run(uri, "selfgan", "run", "/runs/run", {}, {}, None, resume, about, inputs)

    run_id = start(resume=False)
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.note.content"].endswith(
        f"Trains 5,000 steps of 64 images of 16x16 on {digits.name} (1,797 images, version 1), from seed 0."
    )
    assert run.data.tags["mlflow.user"] == run.info.user_id != ""
    assert run.data.tags["mlflow.source.name"] == "selfgan train digits"
    assert run.data.tags.get("mlflow.source.git.commit") == run_page.commit()
    client.set_tag(run_id, "mlflow.note.content", "a person's words")
    assert start(resume=True) == run_id
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.note.content"] == "a person's words"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == (digits.name, manifest.hash)
    assert json.loads(data.dataset.source) == {"uri": f"{digits}/{manifest.name}"}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    for name in ("selfgan", "another"):
        start_run(uri, name, "run", "/runs/run", {}, {}, None, resume=False)
        assert client.get_experiment_by_name(name).tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize("folder", ['/runs/a "good" one', "/runs/somebody's"])
def test_a_folder_with_quotes_in_its_name_is_found_again(folder: str, tmp_path: Path) -> None:
    def start(name: str, resume: bool) -> str:
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        return start_run(uri, "selfgan", name, folder, {}, {}, (tmp_path / "artifacts").as_uri(), resume)

    assert start("run", resume=False) == start("run", resume=True)


def test_one_with_both_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="it has both kinds of quotes"):
        start_run(f"sqlite:///{tmp_path}/mlflow.db", "selfgan", "run", "/runs/a\"b'c", {}, {}, None, resume=True)


def test_a_journal_survives_being_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    journal = Journal(file)
    for step in (1, 2, 3):
        journal.append({"step": step})
    journal.deliver(1)
    with file.open("a") as stream:
        stream.write('{"step": 4, "met')
    again = Journal(file)
    assert [entry["step"] for entry in again.pending()] == [2, 3]
    again.append({"step": 4})
    assert [entry["step"] for entry in Journal(file).entries] == [1, 2, 3, 4]


def test_a_nodes_reading_that_comes_after_the_end_is_not_missed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = start_run(uri, "selfgan", "mine", str(tmp_path), {}, {}, None, resume=False)
    tracker = Tracker(uri, run_id, Journal(tmp_path / "metrics.jsonl"))
    tracker.observed(1, {"system/node/cpu": 1.0})
    assert tracker.close(PATIENCE) == 0
    tracker.observed(2, {"system/node/cpu": 2.0})
    assert tracker.close(PATIENCE) == 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such run\n[SQL: SELECT *]", "no such run"),
        (
            "Failures while downloading:\n##### File a #####\nread timed out\n",
            "Failures while downloading: read timed out",
        ),
        ("", "MlflowException"),
    ],
)
def test_what_mlflow_says_is_told_in_one_line_with_its_reason(said: str, told: str) -> None:
    with pytest.raises(TrackingError) as found, failing_clearly():
        raise MlflowException(said)
    assert str(found.value) == told


@pytest.mark.parametrize(("given", "found"), [(None, False), ("true", True)])
def test_files_come_through_the_server_unless_a_user_says_otherwise(
    given: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    client(f"sqlite:///{tmp_path}/mlflow.db")
    assert MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD.is_set()
    assert MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD.get() is found
