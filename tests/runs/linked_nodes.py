"""Nodes of a Ray cluster behind links that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.links import INSIDE, Links, links
from tests.conftest import RAY_ENVIRONMENT, free_port
from tests.patience import PATIENCE, wait_until

#: Returns when the cluster has so many CPUs, in a process of its own: one process joins one cluster.
_THERE = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while ray.cluster_resources().get("CPU", 0) < int(sys.argv[2]):
    time.sleep(0.1)
"""


class LinkedNodes(NamedTuple):
    """A head without CPUs on this machine's side, and nodes of one CPU, each behind the link of its number.

    Attributes:
        address: of the cluster.
    """

    address: str
    links: Links


@contextlib.contextmanager
def linked_nodes(count: int) -> Iterator[LinkedNodes]:
    """Such a cluster, for as long as it is needed."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="links-", dir="/tmp")
    ray, processes = str(Path(sys.executable).with_name("ray")), []
    environment = {**os.environ, **RAY_ENVIRONMENT, "RAY_TMPDIR": folder}

    def start(*words: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, ray, "start", "--block", "--disable-usage-stats", *words]
        processes.append(subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.DEVNULL))

    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        net = undo.enter_context(links(count))
        undo.callback(_kill, processes)
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        start(*head, f"--node-ip-address={net.host}", f"--temp-dir={folder}")
        wait_until(lambda: _answers(net.host, port), "the head answers")
        environment["GLOO_SOCKET_IFNAME"] = INSIDE  # The host's name leads to nowhere in there.
        address = f"{net.host}:{port}"
        for node in range(count):  # One after the other: they share a folder, and names in it.
            own = f"--node-ip-address={net.address(node)}"
            start(f"--address={address}", "--num-cpus=1", own, before=net.within(node))
            there = [sys.executable, "-c", _THERE, address, str(node + 1)]
            subprocess.run(there, env=environment, check=True, timeout=PATIENCE)
        yield LinkedNodes(address, net)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), 1).close()
        return True
    return False


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
