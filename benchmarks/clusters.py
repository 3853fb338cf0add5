"""Clusters of several nodes on this machine, which come and go while a run trains."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parent.parent
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}
#: Prints the nodes that hold replicas, one a replica, in a process of its own: one process joins one cluster.
_HOLDERS = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
actors = ray._private.state.actors().values()
found = [one for one in actors if "RayTrainWorker" in one["ActorClassName"] and one["State"] == "ALIVE"]
print("HOLDERS", json.dumps([one["Address"]["NodeID"] for one in found]))
"""


@contextlib.contextmanager
def nodes(*cpus: int) -> Iterator[Cluster]:
    """A head without CPUs for replicas, and nodes with so many."""
    before = {name: os.environ.get(name) for name in (*RAY_ENVIRONMENT, "RAY_TMPDIR")}
    with TemporaryDirectory(prefix="nodes-", dir="/tmp") as folder:
        os.environ.update(RAY_ENVIRONMENT, RAY_TMPDIR=folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for count in cpus:
                cluster.add_node(num_cpus=count)
            yield cluster
        finally:
            cluster.shutdown()
            ray.shutdown()
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def holders(cluster: Cluster) -> list[str]:
    """The nodes that hold replicas, by their ids, one for each replica."""
    done = subprocess.run(
        [sys.executable, "-c", _HOLDERS, cluster.address], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("HOLDERS")]
    found: list[str] = json.loads(line.removeprefix("HOLDERS"))
    return found


def replicas(cluster: Cluster) -> list[psutil.Process]:
    """The processes that train."""
    port, found = ":" + cluster.address.rpartition(":")[2], []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and "RayTrainWorker" in " ".join(process.cmdline()) and port in " ".join(parent.cmdline()):
                found.append(process)
    return found


def announce_end(cluster: Cluster, node: str, seconds: int) -> None:
    """What a cloud's agent does some seconds before it takes a spot node."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address]
    command += ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)], check=True, capture_output=True)
