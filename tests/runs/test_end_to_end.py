"""From a submission to a champion that serves images: Ray with a token, MLflow with passwords, S3, each a process."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
import requests
from PIL import Image
from werkzeug.security import generate_password_hash

from tests.conftest import ROOT, free_port, started_cluster
from tests.data.s3_servers import BUCKET, SECRET, environment, moto
from tests.patience import PATIENCE, wait_until

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-" + "0" * 43}
USER = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "password-of-the-tests"}
RECIPE = [
    "digits", "steps=12", "network.generator_channels=4", "network.critic_channels=4", "logging.every=4",
    "checkpoints.every=6", "checkpoints.score_images=32", "replicas=2", "cluster.cpus_per_replica=1",
    "evaluation.samples=40", "evaluation.features.name=classifier", "evaluation.features.steps=10",
    f"evaluation.cache=s3://{BUCKET}/evaluations", f"storage=s3://{BUCKET}/runs",
    f"data.shards=s3://{BUCKET}/shards/digits", "promotion.least_recall=0", "promotion.least_coverage=0",
    "promotion.least_class_coverage=0",
]  # fmt: skip


class Service(NamedTuple):
    """What stands: addresses, and what a user has in his environment."""

    dashboard: str
    mlflow: str
    environment: dict[str, str]

    def run(self, *command: str, **changed: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env={**self.environment, **changed},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def retrain(self, night: str, *words: str) -> tuple[int, str]:
        """As the CronJob of the local overlay does."""
        launcher = ["-m", "pipelines.rayjob", "selfgan-retrain", f"--job={night}", f"--submit={self.dashboard}"]
        command = [sys.executable, "-m", "pipelines.retrain", *RECIPE, f"tracking.uri={self.mlflow}", *words]
        return self.run(*launcher, "--", *command)


@contextmanager
def mlflow_server(folder: Path, given: dict[str, str]) -> Iterator[str]:
    """MLflow with passwords, on SQLite, its artifacts in S3."""
    port = free_port()
    auth = folder / "basic_auth.ini"
    auth.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {USER['MLFLOW_TRACKING_USERNAME']}\nadmin_password = {USER['MLFLOW_TRACKING_PASSWORD']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    words = [
        "server", "--app-name", "basic-auth", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--port", str(port), "--allowed-hosts", f"127.0.0.1,127.0.0.1:{port}", "--workers", "1",
        "--artifacts-destination", f"s3://{BUCKET}/mlflow",
    ]  # fmt: skip
    with serving([sys.executable, "-m", "mlflow", *words], f"http://127.0.0.1:{port}/health", folder, {
        **given, "MLFLOW_AUTH_CONFIG_PATH": str(auth), "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }):  # fmt: skip
        _hash_cheaply(folder / "auth.db")
        yield f"http://127.0.0.1:{port}"


def _hash_cheaply(database: Path) -> None:
    """Store the administrator's password as fewer rounds: the server hashes it several times for every request."""
    stored = generate_password_hash(USER["MLFLOW_TRACKING_PASSWORD"], "pbkdf2:sha256:1000")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        changed = connection.execute("UPDATE users SET password_hash = ? WHERE username = 'admin'", (stored,))
        assert changed.rowcount == 1


@contextmanager
def serving(command: list[str], health: str, folder: Path, given: dict[str, str]) -> Iterator[None]:
    """A process that is ready when `health` answers; it and its children end with it."""
    said = folder / f"{Path(command[2]).name}.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=given, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or healthy(health), f"{command} answers")
        assert process.poll() is None, f"{command} did not start: {said.read_text()[-2000:]}"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with moto(free_port()) as endpoint:
        store = environment(endpoint)
        named = {
            "aws_access_key_id": store["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": store["AWS_SECRET_ACCESS_KEY"],
        }
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **named).create_bucket(Bucket=BUCKET)
        given = {**os.environ, **store, **USER, **TOKEN, "HOME": str(folder)}
        given.pop("RAY_ADDRESS", None)
        with mlflow_server(folder, given) as mlflow, started_cluster(given, cpus=4) as (_, dashboard):
            yield Service(dashboard, mlflow, given)


def test_a_submission_ends_with_a_champion_that_makes_images(service: Service, tmp_path: Path) -> None:
    code, said = service.retrain("night-1")
    assert code == 0, said
    assert "promoted" in said
    assert SECRET not in said
    asked = ["service/generate.py", "--model", "models:/selfgan-digits@champion", "--tracking", service.mlflow]
    asked += ["--cache", str(tmp_path / "cache"), "--n", "6", "--seed", "7"]
    code, said = service.run(*asked, "--out", str(tmp_path / "grid.png"))
    assert code == 0, said
    assert Image.open(tmp_path / "grid.png").size[0] > 100
    # The server's passwords hold: nobody else sees the model, and what was fetched is there without it.
    code, said = service.run(*asked, "--out", str(tmp_path / "no.png"), "--cache", str(tmp_path / "other"),
                             MLFLOW_TRACKING_PASSWORD="wrong")  # fmt: skip
    assert code == 1 and "error:" in said and "Traceback" not in said, said


def test_the_same_data_are_nothing_new(service: Service) -> None:
    code, said = service.retrain("night-2")
    assert code == 0 and "nothing new" in said.lower(), said


def test_ray_job_submit_passes_the_verdict_on(service: Service) -> None:
    command = [sys.executable, "-m", "pipelines.retrain", *RECIPE, f"tracking.uri={service.mlflow}", "seed=1"]
    ray = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        [ray, "job", "submit", "--address", service.dashboard, "--working-dir", str(ROOT), "--", *command],
        env=service.environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "promoted: better" in said or "held: not clearly better" in said, said
    assert "failed" in said.lower() and done.returncode != 0  # A verdict is an exit code, which Ray calls a failure.


def test_without_the_token_nothing_is_submitted(service: Service) -> None:
    launcher = ["-m", "pipelines.rayjob", "night", "--job=3", f"--submit={service.dashboard}", "--", "true"]
    code, said = service.run(*launcher, RAY_AUTH_TOKEN="b" * 64)
    assert code != 0 and "Traceback" not in said, said


def test_mlflow_serves_images(service: Service, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/selfgan-digits@champion",
               "--env-manager", "local", "--port", str(port)]  # fmt: skip
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name.
    given = {**service.environment, "MLFLOW_TRACKING_URI": service.mlflow, "PATH": programs}
    with serving(command, f"http://127.0.0.1:{port}/ping", tmp_path, given):
        asked = {"dataframe_split": {"columns": ["n", "seed"], "data": [[3, 7]]}}
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    images = json.loads(answer.text)["predictions"]
    assert (len(images), len(images[0]), len(images[0][0]), len(images[0][0][0])) == (3, 16, 16, 1)
