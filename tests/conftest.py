"""What tests share: small data sets, one Ray cluster, and the project's command line as a user runs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.storage.location import Location

ROOT = Path(__file__).resolve().parent.parent
#: Whether a token is asked for would else depend on what this user has run before.
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The bundled digits at 16x16, as shards."""
    folder = Location.of(str(tmp_path_factory.mktemp("digits")))
    ingest(Digits(), Transform(size=16, channels=1, resample="bicubic"), folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets of the workplace; a user does not have them."""
    if not SHARED.exists():
        pytest.skip(f"REAL DATA NOT TESTED: {SHARED} is not there; made-up data covers the same code")
    return SHARED


def train_command(*words: str, address: str | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    """``python service/train.py WORDS`` in a process of its own."""
    environment = {**os.environ, **RAY_ENVIRONMENT, "COLUMNS": "200"}
    environment.pop("RAY_ADDRESS", None)
    if address:
        environment["RAY_ADDRESS"] = address
    return subprocess.Popen(
        [sys.executable, str(ROOT / "service" / "train.py"), *words],
        cwd=cwd or ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(*words: str, address: str | None = None, cwd: Path | None = None) -> tuple[int, str, str]:
    """Runs the command to its end: exit code, stdout, stderr."""
    process = train_command(*words, address=address, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[tuple[str, str]]:
    """A running cluster of four CPUs, shared by all tests: its address, and its dashboard's."""
    with started_cluster(RAY_ENVIRONMENT, cpus=4) as found:
        yield found


@contextlib.contextmanager
def started_cluster(environment: Mapping[str, str], cpus: int) -> Iterator[tuple[str, str]]:
    """A cluster of its own: its address, and its dashboard's."""
    port, dashboard = free_port(), free_port()
    ray = Path(sys.executable).with_name("ray")
    # The dashboard is what `ray job submit` talks to. Commands of this test run are not the cluster's business.
    # The agent's port is one for the whole machine, unless it is named.
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    start = [str(ray), "start", "--head", f"--num-cpus={cpus}", *ports]
    # Its notes on a running cluster are not to be found by, or mixed up with, this user's own.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    cluster = subprocess.Popen(
        [*start, "--block", "--disable-usage-stats", f"--temp-dir={temporary}"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(dashboard):
            if time.monotonic() > deadline:
                pytest.fail("the test cluster did not start")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
    finally:
        for process in [*psutil.Process(cluster.pid).children(recursive=True), psutil.Process(cluster.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
