"""What tests share: small data sets, one Ray cluster, and the project's command line as a user runs it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.storage.location import Location
from tests.patience import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parent.parent
#: Whether a token is asked for would else depend on what this user has run before.
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}
if "PYTEST_XDIST_WORKER" in os.environ:  # Threads that wait for each other by turning round cost minutes.
    torch.set_num_threads(1)
    # So with a run's replicas. Ray would besides let them wait for whatever else these tests compute.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
SHARED = ROOT.parent / "shared" / "data"


#: Files whose tests share nothing, and take minutes together.
APART = {f"tests/training/test_{name}.py" for name in ("combinations", "compiling", "recipes")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file stay together, as with ``--dist loadfile``, but for those of `APART`."""
    from xdist.scheduler import LoadFileScheduling

    if config.getoption("dist") != "loadfile":
        return None

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return nodeid if file in APART else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The bundled digits at 16x16, as shards."""
    folder = Location.of(str(tmp_path_factory.mktemp("digits")))
    ingest(Digits(), Transform(size=16, channels=1, resample="bicubic"), folder)
    return folder


@pytest.fixture(scope="session")
def digits_at_32(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Likewise, at 32x32."""
    folder = Location.of(str(tmp_path_factory.mktemp("digits-32")))
    ingest(Digits(), Transform(size=32, channels=1, resample="bicubic"), folder)
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
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def called(
    main: Callable[[], int], *words: str, address: str | None = None, cwd: Path | None = None, **given: str
) -> tuple[int, str, str]:
    """A command's `main`, called in this process with these words: exit code, stdout, stderr.

    It spares the seconds in which a process of its own imports everything; some tests of each command start one.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["command", *words])
        patch.chdir(cwd or ROOT)
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in {**RAY_ENVIRONMENT, "COLUMNS": "200", **given}.items():
            patch.setenv(name, value)
        if address:
            patch.setenv("RAY_ADDRESS", address)
        try:
            code = main()
        except SystemExit as ended:  # argparse's.
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            ray.shutdown()  # As the end of the process would.
    return code, out.getvalue(), err.getvalue()


#: Ports below those that the system gives to any program that asks for one, and above those of Ray's own workers.
#: Every process that runs tests goes through a range of its own, as a port is not taken before a server has started.
_RANGE = 20_000 + 4_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 3)
_PORTS = itertools.cycle(range(_RANGE, _RANGE + 4_000))
for _ in range(random.randrange(4_000)):  # Somebody else may run these tests on the same machine.
    next(_PORTS)


def free_port() -> int:
    while True:
        port = next(_PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[tuple[str, str]]:
    """A running cluster of four CPUs, shared by all tests: its address, and its dashboard's.

    Nobody drains its node, so that nobody need look whether it is drained.
    """
    with started_cluster({**RAY_ENVIRONMENT, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}, cpus=4) as found:
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
        wait_until(lambda: _answers(dashboard) or cluster.poll() is not None, "the test cluster answers")
        assert cluster.poll() is None, "the test cluster did not start"
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
    finally:
        for process in [*psutil.Process(cluster.pid).children(recursive=True), psutil.Process(cluster.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
