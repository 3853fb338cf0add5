"""The Ray cluster of a run: joined or started, and asked for replicas."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train

from service.circumstances import Cluster
from service.components import ConfigError
from service.config import Run, in_submitted_job

_ROOT = Path(__file__).resolve().parent.parent
_KNOCK_SECONDS = 5.0
#: The tracker tries again by itself, and keeps count of the time.
_WORKER_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}


def connect(cluster: Cluster) -> None:
    """Join the cluster, or start one on this machine.

    Raises:
        ConfigError: the address that was asked for does not answer.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    asked = os.environ.get("RAY_ADDRESS") if cluster.address == "auto" else cluster.address
    named = asked or _running()
    if named and named != "local":
        joining: dict[str, Any] = {"env_vars": _WORKER_ENVIRONMENT}
        if not in_submitted_job():  # Such a job's code the cluster has already.
            joining["working_dir"] = str(_ROOT)
        try:
            _knock(named)
            ray.init(address=named, runtime_env=joining, **quiet)
            return
        except OSError as error:  # Ray's ConnectionError too.
            if asked:
                raise ConfigError(
                    f"cluster.address: no Ray cluster answers at {named}; start it, or use cluster.address=local "
                    "(a cluster that wants a token wants RAY_AUTH_MODE=token)"
                ) from error
    starting = {"env_vars": {**_WORKER_ENVIRONMENT, "PYTHONPATH": str(_ROOT)}}
    ray.init(address="local", include_dashboard=False, runtime_env=starting, **quiet)


def _running() -> str | None:
    """The address of this machine's cluster, where Ray notes it; the cluster may be gone."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    return note.read_text().strip() if note.exists() else None


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def scaling(run: Run) -> ray.train.ScalingConfig:
    """What to ask Ray for.

    Raises:
        ConfigError: the cluster cannot hold that many replicas.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    use_gpu = run.cluster.accelerator == "cuda" or (run.cluster.accelerator == "auto" and gpus > 0)
    least = run.cluster.min_replicas or run.replicas
    share = run.cluster.cpus_per_replica or (1.0 if use_gpu else even_share(cpus, run.replicas))
    if use_gpu and least > gpus:
        raise ConfigError(f"replicas: {least} replicas need a GPU each, the cluster has {gpus:g}")
    if places(cpus, share) < least:
        machines = " + ".join(f"{count:g}" for count in cpus)
        raise ConfigError(
            f"replicas: the cluster has {machines} CPUs, room for {places(cpus, share)} replicas with {share:g} each, "
            f"not for {least}; ask for fewer, or set cluster.cpus_per_replica"
        )
    return ray.train.ScalingConfig(
        num_workers=(least, run.replicas) if run.cluster.min_replicas else run.replicas,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": share, **({"GPU": 1} if use_gpu else {})},
    )


def places(cpus: Sequence[float], share: float) -> int:
    """How many replicas with `share` CPUs find room on machines with so many: none can span two of them."""
    return sum(int(count / share + 1e-9) for count in cpus)


def even_share(cpus: Sequence[float], replicas: int) -> float:
    """The most whole CPUs that each of so many replicas can have; 1 if they cannot all have that."""
    shares = (float(share) for share in range(int(max(cpus, default=0)), 0, -1) if places(cpus, share) >= replicas)
    return next(shares, 1.0)
