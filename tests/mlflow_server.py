"""MLflow with passwords, as it is deployed: trainings are users of it, and not its administrators."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import requests
from werkzeug.security import generate_password_hash

from tests.conftest import ROOT, free_port
from tests.patience import wait_until

ADMINISTRATOR = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "password-of-the-administrator"}
TRAININGS = {"MLFLOW_TRACKING_USERNAME": "trainings", "MLFLOW_TRACKING_PASSWORD": "password-of-the-trainings"}


def database(folder: Path) -> str:
    """Of runs, models and users: one, as it is deployed."""
    return f"sqlite:///{folder}/mlflow.db"


def settings(folder: Path) -> dict[str, str]:
    """The environment of the server's own programs."""
    auth = folder / "basic_auth.ini"
    auth.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database(folder)}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(auth),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMINISTRATOR["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMINISTRATOR["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


@contextlib.contextmanager
def mlflow_server(folder: Path, given: Mapping[str, str], artifacts: str) -> Iterator[str]:
    """A server in this folder, which knows its administrator and trainings; its address.

    Args:
        given: the environment, with what the server needs to reach its artifacts.
        artifacts: where these go.
    """
    port = free_port()
    own = {**given, **settings(folder)}
    made = [sys.executable, "-m", "service.tracking.accounts", database(folder)]
    done = subprocess.run(made, env={**own, **TRAININGS}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = [
        "server", "--app-name", "basic-auth", "--backend-store-uri", database(folder), "--port", str(port),
        "--allowed-hosts", f"127.0.0.1,127.0.0.1:{port}", "--workers", "1", "--artifacts-destination", artifacts,
    ]  # fmt: skip
    with serving([sys.executable, "-m", "mlflow", *words], f"http://127.0.0.1:{port}/health", folder, own):
        _hash_cheaply(folder / "mlflow.db")
        yield f"http://127.0.0.1:{port}"


def _hash_cheaply(file: Path) -> None:
    """Store passwords as fewer rounds: the server hashes them several times for every request."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for user in (ADMINISTRATOR, TRAININGS):
            stored = generate_password_hash(user["MLFLOW_TRACKING_PASSWORD"], "pbkdf2:sha256:1000")
            changed = connection.execute(
                "UPDATE users SET password_hash = ? WHERE username = ?", (stored, user["MLFLOW_TRACKING_USERNAME"])
            )
            assert changed.rowcount == 1


@contextlib.contextmanager
def serving(command: list[str], health: str, folder: Path, given: Mapping[str, str]) -> Iterator[None]:
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
