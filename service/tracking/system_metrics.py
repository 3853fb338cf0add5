"""What a node's processors, memory, disk, network and GPUs do, under the names that MLflow's page groups.

MLflow's own monitor does not fit: it talks to the server from every node, and ends where one answer fails to come.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import psutil
import pynvml  # Of nvidia-ml-py. It is there whatever the machine has.


class NodeReadings:
    """Readings of this node; processors and network are measured from the first on."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # It tells what has been since it was asked last.
        self._before = psutil.net_io_counters()
        self._gpus = _gpus()

    def read(self) -> dict[str, float]:
        """The values by name, in percent, 1e6 bytes and watts."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._before.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._before.bytes_sent) / 1e6,
        }
        for number, gpu in enumerate(self._gpus):
            values |= {f"gpu_{number}_{name}": value for name, value in _of_gpu(gpu).items()}
        return values


def _gpus() -> list[Any]:
    """NVIDIA's handles of the GPUs that this process may see; none without a driver."""
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _of_gpu(gpu: Any) -> dict[str, float]:
    """What a GPU tells of itself; some tell no power, and a slice of one no load."""
    values: dict[str, float] = {}
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        values["memory_usage_percentage"] = memory.used / memory.total * 100
        values["memory_usage_megabytes"] = memory.used / 1e6
    with suppress(pynvml.NVMLError):
        values["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    with suppress(pynvml.NVMLError):
        milliwatts = pynvml.nvmlDeviceGetPowerUsage(gpu)
        values["power_usage_watts"] = milliwatts / 1000
        values["power_usage_percentage"] = milliwatts / pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) * 100
    return values
