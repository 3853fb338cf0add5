"""What nodes do: read, told, and logged beside the training."""

import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import ray
import ray.train
from mlflow import MlflowClient

from service.runs.on_replica import node_metrics
from service.tracking.delivery import Tracker
from service.tracking.journal import Journal
from service.tracking.progress import StatusActor
from service.tracking.system_metrics import NodeReadings
from service.tracking.tracker import history, start_run
from tests.patience import PATIENCE, wait_until


def test_a_node_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", none)
    values = NodeReadings().read()
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["network_receive_megabytes"] >= 0 and values["disk_usage_megabytes"] > 0
    assert all(isinstance(value, float | int) for value in values.values())
    assert not [name for name in values if name.startswith("gpu")]


def test_gpus_are_read_as_far_as_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def untold(_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    told = {
        "Init": lambda: None,
        "DeviceGetCount": lambda: 2,
        "DeviceGetHandleByIndex": str,
        "DeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=2e9 + 1e9 * int(gpu), total=8e9),
        "DeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=90 + int(gpu)),
        "DeviceGetPowerUsage": untold,
    }
    for name, answer in told.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
    values = {name: value for name, value in NodeReadings().read().items() if name.startswith("gpu")}
    assert values == {
        "gpu_0_memory_usage_percentage": 25, "gpu_0_memory_usage_megabytes": 2000, "gpu_0_utilization_percentage": 90,
        "gpu_1_memory_usage_percentage": 37.5, "gpu_1_memory_usage_megabytes": 3000, "gpu_1_utilization_percentage": 91,
    }  # fmt: skip


class Status:
    """A status in this process; asked for nodes, it is away once."""

    def __init__(self) -> None:
        self._actor = StatusActor()
        self._actor.post(7)
        self.node, self.nodes, self.away = SimpleNamespace(remote=self._actor.node), SimpleNamespace(remote=self.ask), 1

    def ask(self) -> Any:
        if self.away:
            self.away -= 1
            raise ray.exceptions.RaySystemError("busy")
        return self._actor.nodes()


@pytest.mark.parametrize("local_rank", [0, 1])
def test_one_replica_of_a_node_tells_what_it_does(local_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_metrics, "_SECONDS", 0.05)
    context = SimpleNamespace(get_local_rank=lambda: local_rank)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    ended, status = threading.Event(), Status()
    noted: list[tuple[int, Mapping[str, float]]] = []
    status._actor.node("another", {"cpu_utilization_percentage": 5.0})
    node_metrics.tell(status, ended)
    node_metrics.collect(status, ended, lambda step, values: noted.append((step, values)))
    mine = f"system/{socket.gethostname()}/cpu_utilization_percentage"
    wait_until(lambda: len(noted) > (3 if local_rank == 0 else 0), "nodes are noted")
    ended.set()
    assert {step for step, _ in noted} == {7}
    assert [values for _, values in noted if "system/another/cpu_utilization_percentage" in values] == [
        {"system/another/cpu_utilization_percentage": 5.0}
    ]
    assert any(mine in values for _, values in noted) == (local_rank == 0)


def test_what_nodes_do_is_logged_of_every_time_in_requests_that_mlflow_takes(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = start_run(uri, "selfgan", "run", "/runs/run", {}, {}, (tmp_path / "artifacts").as_uri(), resume=False)
    journal = Journal(tmp_path / "metrics.jsonl")
    for time in range(60):  # While the server was away.
        values = {f"system/node/gpu_{number}_utilization_percentage": float(time) for number in range(40)}
        journal.append({"step": 5, "time": 1000 + time, "metrics": values})
    tracker = Tracker(uri, run_id, journal)
    tracker.metrics(5, {"loss/real": 0.5})
    tracker.observed(5, {"system/node/gpu_0_utilization_percentage": 60.0})
    assert tracker.close(PATIENCE) == 0 and tracker.problem is None
    found = MlflowClient(uri).get_metric_history(run_id, "system/node/gpu_0_utilization_percentage")
    assert sorted(metric.value for metric in found) == list(range(61))
    assert history(uri, run_id) == [(5, {"loss/real": 0.5})], "curves are drawn of the run alone"
