"""What tests share: small data sets, one Ray cluster, and the project's command line as a user runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.images import Transform
from pipelines.ingest import ingest
from pipelines.sources.digits import Digits
from pipelines.storage import Location

ROOT = Path(__file__).resolve().parent.parent
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
    environment = {**os.environ, "COLUMNS": "200"}
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
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[tuple[str, str]]:
    """A running cluster of four CPUs, shared by all tests: its address, and its dashboard's."""
    port, dashboard = free_port(), free_port()
    ray = Path(sys.executable).with_name("ray")
    # The dashboard is what `ray job submit` talks to. Commands of this test run are not the cluster's business.
    start = [str(ray), "start", "--head", "--num-cpus=4", f"--port={port}", f"--dashboard-port={dashboard}"]
    cluster = subprocess.Popen(
        [*start, "--block", "--disable-usage-stats"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    address = f"127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    status = [str(ray), "status", f"--address={address}"]
    while subprocess.run(status, capture_output=True, cwd="/", check=False).returncode:
        if time.monotonic() > deadline:
            pytest.fail("the test cluster did not start")
        time.sleep(0.5)
    yield address, f"http://127.0.0.1:{dashboard}"
    cluster.terminate()
    cluster.wait(30)
