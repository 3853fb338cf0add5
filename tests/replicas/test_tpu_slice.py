"""Which TPU slice a run is for, and what Ray is asked for: up to the edge, with nodes that only say they have chips."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.components import ConfigError
from service.artifacts.checkpoints import UnreadableCheckpointError
from service.configuration.recipe import load
from service.replicas.accelerators import AcceleratorError
from service.replicas.accelerators.xla_pod import Slice, find_slice
from service.runs.driver.cluster import replicas
from service.runs.on_replica import worker
from service.tracking.progress import StatusActor
from service.train import main
from tests.conftest import RAY_ENVIRONMENT, called, train

TINY = ["digits", "steps=2", "network.generator_channels=4", "network.critic_channels=4"]
XLA = "cluster.accelerator=xla"


def node(kind: str = "TPU-V5LITEPOD", topology: str = "4x4", alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Labels": {"ray.io/accelerator-type": kind, "ray.io/tpu-topology": topology}}


@pytest.mark.parametrize(
    ("version", "topology", "hosts", "chips"),
    [
        ("v5litepod", "2x2", 1, 4),
        ("v5litepod", "2x4", 1, 8),
        ("v5litepod", "4x4", 4, 4),
        ("TPU-V6E", "4x4", 4, 4),
        ("v4", "2x2x2", 2, 4),
    ],
)
def test_a_slice_has_so_many_hosts_and_chips(version: str, topology: str, hosts: int, chips: int) -> None:
    found = Slice.of(version, topology)
    assert (found.hosts, found.chips) == (hosts, chips)
    asked = found.scaling(8.0)
    assert asked.use_tpu and asked.num_workers == hosts
    # Ray knows nodes by this name only; with another, it waits for one for ever.
    assert asked.accelerator_type == f"TPU-{found.version.upper()}"
    assert asked.resources_per_worker == {"TPU": chips, "CPU": 8.0}
    # Else a host of a larger slice would do.
    assert (asked.label_selector or {}).get("ray.io/tpu-topology") == (topology if hosts == 1 else None)


def test_the_clusters_only_kind_of_slice_is_the_one() -> None:
    four = Slice.of("v5litepod", "4x4")
    assert find_slice([node(), node(), node("TPU-V4", "2x2x2", alive=False)], None, None) == four
    both = [node(), node("TPU-V6E", "2x4"), node("TPU-V99")]  # Ray does not know the last.
    assert find_slice(both, "v5litepod", None) == find_slice(both, None, "4x4") == four
    assert find_slice(both, "TPU-V5LITEPOD", None) == four
    with pytest.raises(ConfigError, match=r"cluster\.tpu: Invalid accelerator_type: v5e"):
        find_slice(both, "v5e", None)
    with pytest.raises(ConfigError, match=r"has v5litepod 4x4, 4 hosts of 4 chips, v6e 2x4, 1 host of 8 chips; say"):
        find_slice(both, None, None)
    assert find_slice([], "v5litepod", "4x4") == four  # An autoscaler will bring it.
    with pytest.raises(ConfigError, match="no slices that have come up"):
        find_slice([], "v5litepod", None)


@pytest.fixture(scope="module")
def joined(ray_cluster: tuple[str, str]) -> Iterator[None]:
    """This process is a driver of a cluster without a TPU."""
    ray.init(address=ray_cluster[0], log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "cluster.accelerator: xla needs a TPU, and the cluster has none"),
        (["cluster.emulated_chips=3"], "batch.size: 64 samples cannot be shared out evenly over 3 chips"),
        (["cluster.topology=3x4", "cluster.tpu=v5litepod"], "cluster.topology: v5litepod has no slice of 3x4"),
        (["cluster.topology=4x4", "cluster.tpu=v5e"], "cluster.tpu: "),
        (["cluster.topology=4x4", "cluster.tpu=v5litepod"], "takes replicas=4"),
        (["cluster.topology=4x4", "cluster.tpu=v5litepod", "cluster.accelerator=auto"], "takes replicas=4"),
        (["cluster.emulated_chips=3", "cluster.accelerator=auto"], "evenly over 3 chips"),
        (["cluster.emulated_chips=2", "cluster.topology=4x4"], "cluster.emulated_chips: "),
        (["cluster.topology=2x2", "cluster.tpu=v5litepod", "dtype=float64"], "dtype: a TPU multiplies in float32"),
        (["cluster.emulated_chips=2", "replicas=2", "cluster.min_replicas=1"], "cluster.min_replicas: "),
    ],
)
@pytest.mark.usefixtures("joined")
def test_what_cannot_be_is_said_in_one_line(words: list[str], said: str) -> None:
    on = [] if any(word.startswith("cluster.accelerator=") for word in words) else [XLA]
    with pytest.raises(ConfigError) as raised:
        replicas(load("digits", [*TINY[1:], *on, *words]))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_the_command_says_that_line(ray_cluster: tuple[str, str], tmp_path: Path) -> None:
    ray.shutdown()
    code, _, err = called(main, *TINY, XLA, f"storage={tmp_path}", address=ray_cluster[0])
    assert code == 2
    assert err.startswith("error: cluster.accelerator: xla needs a TPU") and err.count("\n") == 1, err


@contextlib.contextmanager
def environment(**words: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in words}
    os.environ |= words
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture
def pod() -> Iterator[str]:
    """A cluster whose Ray believes that it has a slice of 4x4, of four hosts, as on GKE."""
    assert not ray.is_initialized()
    # Sockets have short paths; and other programs' clusters are noted elsewhere.
    with TemporaryDirectory(prefix="pod-", dir="/tmp") as folder, environment(RAY_TMPDIR=folder, **RAY_ENVIRONMENT):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            for worker in range(4):
                with environment(
                    TPU_NAME="slice-0",
                    TPU_WORKER_ID=str(worker),
                    TPU_ACCELERATOR_TYPE="v5litepod-16",
                    TPU_TOPOLOGY="4x4",
                ):
                    cluster.add_node(num_cpus=2, resources={"TPU": 4}, node_ip_address=f"127.0.0.{10 + worker}")
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.mark.long
def test_a_run_takes_the_whole_slice(pod: str, tmp_path: Path) -> None:
    """As far as one gets without chips: Ray has reserved the slice, and a worker has started on each of its hosts."""
    words = [*TINY, f"storage={tmp_path}", "replicas=4"]  # The accelerator is found.
    code, out, err = train(*words, address=pod)
    assert "on 4 replicas of v5litepod 4x4, 4 hosts of 4 chips" in out, out + err
    assert code == 1
    assert "torch_xla is not installed where the replicas run: pip install 'selfgan[tpu]'" in err
    code, _, err = train(*TINY, f"storage={tmp_path}", "replicas=2", address=pod)
    assert code == 2 and "v5litepod 4x4, 4 hosts of 4 chips takes replicas=4" in err
    code, _, err = train(*words, "cluster.cpus_per_replica=3", address=pod)
    assert code == 2 and "a host of v5litepod 4x4, 4 hosts of 4 chips has 2 CPUs, not 3" in err


def test_a_pod_that_is_wired_wrongly_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts workers again when one fails; each looks at the status first."""
    status = StatusActor()
    actor = SimpleNamespace(read=SimpleNamespace(remote=status.read), give_up=SimpleNamespace(remote=status.give_up))
    job: Any = SimpleNamespace(status=actor, accelerator="cpu")

    def set_up(_: Any) -> None:
        raise AcceleratorError("of the 4 hosts that Ray has started, XLA counts 1")

    monkeypatch.setattr(worker, "set_up", set_up)
    monkeypatch.setattr(ray, "get", lambda found: found)
    with pytest.raises(AcceleratorError):
        worker.replica_main(job)
    assert worker.replica_main(job) == "of the 4 hosts that Ray has started, XLA counts 1"


def test_a_checkpoint_that_cannot_be_read_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    status = StatusActor()
    job: Any = SimpleNamespace(status=SimpleNamespace(read=SimpleNamespace(remote=status.read)), accelerator="cpu")

    def set_up(_: Any) -> None:
        raise UnreadableCheckpointError("checkpoint x cannot be read: not now")

    monkeypatch.setattr(worker, "set_up", set_up)
    monkeypatch.setattr(ray, "get", lambda found: found)
    with pytest.raises(UnreadableCheckpointError):
        worker.replica_main(job)
    assert status.read().hopeless is None
