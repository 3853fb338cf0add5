"""The Ray cluster of a run: joined or started, and asked for replicas."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
import ray.train

from pipelines.components import ConfigError, first_line
from service.configuration.config import Run, in_submitted_job
from service.configuration.own_recipes import modules_beside
from service.runs.driver.failures import RunError
from service.runs.driver.signals import kept

if TYPE_CHECKING:
    from service.replicas.accelerators.xla_pod import XlaConfig

_ROOT = Path(__file__).resolve().parents[3]
_KNOCK_SECONDS = 5.0
_WORKER_ENVIRONMENT = {
    # The tracker tries again by itself, and keeps count of the time.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # How long replicas wait for room on a node that may have gone. Then Ray Train is asked again for what there is.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}
#: Nobody drains a cluster that ends with its run.
_LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def connect(run: Run) -> None:
    """Join the run's cluster, or start one on this machine; parts beside the recipe's file come along.

    Raises:
        ConfigError: the address that was asked for does not answer.
        RunError: Ray does not start on this machine.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    cluster, beside = run.cluster, modules_beside(run.recipe_file)
    asked = os.environ.get("RAY_ADDRESS") if cluster.address == "auto" else cluster.address
    named = asked or _running()
    if named and named != "local":
        joining: dict[str, Any] = {"env_vars": _WORKER_ENVIRONMENT}
        if not in_submitted_job():  # Such a job's code the cluster has already.
            joining["working_dir"] = str(_ROOT)
        if beside:
            joining["py_modules"] = [str(module) for module in beside]
        try:
            _knock(named)
            with kept():
                ray.init(address=named, runtime_env=joining, **quiet)
            return
        except OSError as error:  # Ray's ConnectionError too.
            if asked:
                raise ConfigError(
                    f"cluster.address: no Ray cluster answers at {named}; start it, or use cluster.address=local "
                    "(a cluster that wants a token wants RAY_AUTH_MODE=token)"
                ) from error
    path = os.pathsep.join(dict.fromkeys([str(_ROOT), *(str(module.parent) for module in beside)]))
    try:
        # Inherited, and not a runtime environment: Ray's processes that stand ready could not be used in that.
        with kept(), _environment({**_WORKER_ENVIRONMENT, **_LOCAL_ENVIRONMENT, "PYTHONPATH": path}):
            ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray's own process manager raises plain ones.
        ray.shutdown()
        raise RunError(
            f"Ray does not start on this machine ({first_line(error)}); its logs are in "
            f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs; try again when the machine is less busy"  # noqa: S108
        ) from error


def started_here() -> bool:
    """Whether this process has started the cluster, and will end it."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within, processes that are started inherit these."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _running() -> str | None:
    """The address of this machine's cluster, where Ray notes it; the cluster may be gone."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    return note.read_text().strip() if note.exists() else None


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


@dataclass(frozen=True)
class Replicas:
    """How a run's replicas are to be started.

    Attributes:
        accelerator: what they run on.
        on: the same, for people.
        scaling: what to ask Ray for.
        room: for how many there is room now, at most as many as the run asks for.
        xla: how they find their chips, if they run on XLA.
    """

    accelerator: Literal["cpu", "cuda", "xla"]
    on: str
    scaling: ray.train.ScalingConfig
    room: int
    xla: XlaConfig | None = None


def replicas(run: Run) -> Replicas:
    """What a run needs of the cluster.

    Raises:
        ConfigError: the cluster cannot hold that many replicas, or not such ones.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    has = Counter[str]()
    for node in nodes:
        has.update(node["Resources"])
    match run.cluster.accelerator:
        case "auto" if run.cluster.emulated_chips:
            return _emulated(run, nodes)
        case "auto" if has["TPU"] or run.cluster.tpu or run.cluster.topology:  # Or else is to come.
            return _on_tpu(run, nodes)
        case "xla":
            return _emulated(run, nodes) if run.cluster.emulated_chips else _on_tpu(run, nodes)
        case "cuda":
            return _on_gpus(run, nodes, has["GPU"])
        case "auto" if has["GPU"]:
            return _on_gpus(run, nodes, has["GPU"])
    return _on_cpus(run, nodes)


def _on_cpus(run: Run, nodes: Sequence[Mapping[str, Any]]) -> Replicas:
    if run.compile and run.compile.graphs:
        raise ConfigError("compile.graphs: graphs are CUDA's, and these replicas run on CPUs; set compile=true without")
    share = _share(run, nodes, run.cluster.cpus_per_replica or even_share(_cpus(nodes), run.replicas))
    return Replicas("cpu", f"{share:g} CPU", _scaling(run, {"CPU": share}), _room(run, nodes, share))


def _on_gpus(run: Run, nodes: Sequence[Mapping[str, Any]], gpus: float) -> Replicas:
    least = run.cluster.min_replicas or run.replicas
    if least > gpus:
        raise ConfigError(f"replicas: {least} replicas need a GPU each, the cluster has {gpus:g}")
    share = _share(run, nodes, run.cluster.cpus_per_replica or 1.0)
    return Replicas("cuda", "GPU", _scaling(run, {"CPU": share, "GPU": 1}), min(_room(run, nodes, share), int(gpus)))


def _on_tpu(run: Run, nodes: Sequence[Mapping[str, Any]]) -> Replicas:
    hosts = [node for node in nodes if node["Resources"].get("TPU")]
    if not hosts and not run.cluster.topology:
        raise ConfigError(
            "cluster.accelerator: xla needs a TPU, and the cluster has none; cluster.emulated_chips=4 emulates one on "
            "CPUs, and cluster.tpu and cluster.topology say for which slice to wait"
        )
    from service.replicas.accelerators.xla_pod import (  # It needs parts of Ray that other runs do not.
        XlaConfig,
        find_slice,
    )

    if run.dtype == "float64":
        raise ConfigError("dtype: a TPU multiplies in float32 at most; use float32, or cluster.accelerator=cpu")
    found = find_slice(hosts, run.cluster.tpu, run.cluster.topology)
    if run.replicas != found.hosts or run.cluster.min_replicas not in (None, found.hosts):
        raise ConfigError(f"replicas: each host of a slice is one, and {found} takes replicas={found.hosts}")
    _check_chips(run, found.chips)
    has = min(_cpus([host for host in hosts if found.has(host)]), default=None)
    cpus = run.cluster.cpus_per_replica or max(1.0, (has or 1.0) // 1)
    if has is not None and cpus > has:
        raise ConfigError(f"cluster.cpus_per_replica: a host of {found} has {has:g} CPUs, not {cpus:g}")
    return Replicas("xla", str(found), found.scaling(cpus), run.replicas, XlaConfig())


def _emulated(run: Run, nodes: Sequence[Mapping[str, Any]]) -> Replicas:
    from service.replicas.accelerators.xla_pod import XlaConfig  # As above.

    chips = run.cluster.emulated_chips
    if run.cluster.tpu or run.cluster.topology:
        raise ConfigError(
            "cluster.emulated_chips: cluster.tpu and cluster.topology name a real TPU; set those to null, or this to 0"
        )
    _check_chips(run, chips)
    share = _share(run, nodes, run.cluster.cpus_per_replica or even_share(_cpus(nodes), run.replicas))
    return Replicas("xla", f"{chips} emulated chips", _scaling(run, {"CPU": share}), run.replicas, XlaConfig(chips))


def _check_chips(run: Run, chips: int) -> None:
    if run.exact:
        raise ConfigError("exact: XLA's compiler chooses the order of sums over chips; set exact=false for it")
    if run.compile:
        raise ConfigError("compile: XLA compiles steps itself; set compile=false for it")
    if run.batch.rows_at_once:
        raise ConfigError("batch.rows_at_once: XLA's chips take their rows at once; set batch.rows_at_once=null for it")
    everywhere = run.replicas * chips
    if run.cluster.min_replicas not in (None, run.replicas):
        raise ConfigError("cluster.min_replicas: XLA's replicas are the hosts of one slice, which does not shrink")
    if run.batch.size % everywhere:
        raise ConfigError(f"batch.size: {run.batch.size} samples cannot be shared out evenly over {everywhere} chips")


def _scaling(run: Run, each: dict[str, float]) -> ray.train.ScalingConfig:
    least = run.cluster.min_replicas
    return ray.train.ScalingConfig(
        num_workers=(least, run.replicas) if least else run.replicas,
        use_gpu="GPU" in each,
        resources_per_worker=each,
        elastic_resize_monitor_interval_s=math.inf,  # It would end replicas without a word: see `room`.
    )


def _share(run: Run, nodes: Sequence[Mapping[str, Any]], share: float) -> float:
    """`share` CPUs for each replica, if there is room for them."""
    cpus, least = _cpus(nodes), run.cluster.min_replicas or run.replicas
    if places(cpus, share) < least:
        machines = " + ".join(f"{count:g}" for count in cpus)
        raise ConfigError(
            f"replicas: the cluster has {machines} CPUs, room for {places(cpus, share)} replicas with {share:g} each, "
            f"not for {least}; ask for fewer, or set cluster.cpus_per_replica"
        )
    return share


def _room(run: Run, nodes: Sequence[Mapping[str, Any]], share: float) -> int:
    return min(run.replicas, places(_cpus(nodes), share))


def _cpus(nodes: Sequence[Mapping[str, Any]]) -> list[float]:
    return [node["Resources"].get("CPU", 0.0) for node in nodes]


def places(cpus: Sequence[float], share: float) -> int:
    """How many replicas with `share` CPUs find room on machines with so many: none can span two of them."""
    return sum(int(count / share + 1e-9) for count in cpus)


def even_share(cpus: Sequence[float], replicas: int) -> float:
    """The most whole CPUs that each of so many replicas can have; 1 if they cannot all have that."""
    shares = (float(share) for share in range(int(max(cpus, default=0)), 0, -1) if places(cpus, share) >= replicas)
    return next(shares, 1.0)
