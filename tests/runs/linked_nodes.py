"""Nodes in network namespaces of this machine, each on a link that can be cut."""

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

import psutil

from tests.conftest import RAY_ENVIRONMENT, free_port
from tests.patience import PATIENCE, wait_until

#: Of this process, as somebody else may run these tests on the same machine.
_NET, _BRIDGE = f"10.78.{os.getpid() % 250}", f"sg{os.getpid()}"
_INSIDE = "sg-link"
#: Returns when the cluster has so many CPUs, in a process of its own: one process joins one cluster.
_THERE = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while ray.cluster_resources().get("CPU", 0) < int(sys.argv[2]):
    time.sleep(0.1)
"""


def can_be_made() -> bool:
    """Whether this user may make namespaces here."""
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", f"{_BRIDGE}p"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", f"{_BRIDGE}p"], capture_output=True, check=False)
    return made


def _name(node: int) -> str:
    """Of a node's namespace, and of this machine's end of its link."""
    return f"{_BRIDGE}n{node}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class LinkedNodes:
    """A head without CPUs on this machine's side, and nodes of one CPU behind links.

    Attributes:
        address: of the cluster.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def cut(self, node: int) -> None:
        """Nothing goes in or out there any more, and nobody is told."""
        _ip("link", "set", _name(node), "down")

    def mend(self, node: int) -> None:
        _ip("link", "set", _name(node), "up")


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
        undo.callback(subprocess.run, ["ip", "link", "del", _BRIDGE], capture_output=True, check=False)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NET}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for node in range(count):
            for kind in ("netns", "link"):
                undo.callback(subprocess.run, ["ip", kind, "del", _name(node)], capture_output=True, check=False)
            _add(node)
        undo.callback(_kill, processes)
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        start(*head, f"--node-ip-address={_NET}.1", f"--temp-dir={folder}")
        wait_until(lambda: _answers(f"{_NET}.1", port), "the head answers")
        environment["GLOO_SOCKET_IFNAME"] = _INSIDE  # The host's name leads to nowhere in there.
        address = f"{_NET}.1:{port}"
        for node in range(count):  # One after the other: they share a folder, and names in it.
            inside = ("ip", "netns", "exec", _name(node))
            start(f"--address={address}", "--num-cpus=1", f"--node-ip-address={_NET}.{10 + node}", before=inside)
            there = [sys.executable, "-c", _THERE, address, str(node + 1)]
            subprocess.run(there, env=environment, check=True, timeout=PATIENCE)
        yield LinkedNodes(address)


def _add(node: int) -> None:
    name = _name(node)
    _ip("netns", "add", name)
    _ip("link", "add", name, "type", "veth", "peer", "name", _INSIDE, "netns", name)
    _ip("link", "set", name, "master", _BRIDGE, "up")
    _ip("-n", name, "addr", "add", f"{_NET}.{10 + node}/24", "dev", _INSIDE)
    for link in (_INSIDE, "lo"):
        _ip("-n", name, "link", "set", link, "up")


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
