"""A TPU slice for Ray Train: which one, and how its hosts start. Nothing here needs torch_xla."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray.train
from ray._private.accelerators.tpu import TPUAcceleratorManager
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig
from ray.util.tpu import get_tpu_version_from_type, get_tpu_worker_resources

from pipelines.components import ConfigError

#: Of libtpu: a TPU would else round the factors of float32 convolutions to bfloat16, whatever torch_xla asks for.
FULL_PRECISION = "--xla_jf_conv_full_precision=true"
_TYPE, _TOPOLOGY = "ray.io/accelerator-type", "ray.io/tpu-topology"


@dataclass(frozen=True)
class Slice:
    """One slice of a TPU.

    Attributes:
        version: as Ray names them, such as v5litepod.
        topology: of its chips, such as 4x4.
        hosts: how many machines hold them; each is a replica.
        chips: on each host.
    """

    version: str
    topology: str
    hosts: int
    chips: int

    @classmethod
    def of(cls, version: str, topology: str) -> Slice:
        """Raises ConfigError if there is no such slice."""
        version = _version(version)
        if not TPUAcceleratorManager.is_valid_tpu_accelerator_topology(version, topology):
            raise ConfigError(f"cluster.topology: {version} has no slice of {topology}; as 4x4 of v5litepod or v6e")
        hosts, resources = get_tpu_worker_resources(topology, _accelerator_type(version))
        return cls(version, topology, hosts, int(resources["TPU"]))

    def __str__(self) -> str:
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.version} {self.topology}, {hosts} of {self.chips} chips"

    def has(self, node: Mapping[str, Any]) -> bool:
        """Whether a node, as `ray.nodes` gives it, is a host of such a slice."""
        return _slice_of(node) == self

    def scaling(self, cpus: float) -> ray.train.ScalingConfig:
        """What to ask Ray for: a worker on each host, with all of its chips and so many CPUs."""
        each = {"TPU": float(self.chips), "CPU": cpus}
        kind = _accelerator_type(self.version)
        if self.hosts == 1:
            # With a topology, Ray would take any host that has as many chips, and break a larger slice.
            where = {_TOPOLOGY: self.topology}
            return ray.train.ScalingConfig(
                use_tpu=True, num_workers=1, accelerator_type=kind, resources_per_worker=each, label_selector=where
            )
        return ray.train.ScalingConfig(
            use_tpu=True,
            num_workers=self.hosts,
            topology=self.topology,
            accelerator_type=kind,
            resources_per_worker=each,
        )


def find_slice(nodes: Iterable[Mapping[str, Any]], version: str | None, topology: str | None) -> Slice:
    """The slice that was asked for, or the only kind that a cluster has.

    Args:
        nodes: as `ray.nodes` gives them. An autoscaler's may be yet to come: then both have to be said.

    Raises:
        ConfigError: it is not clear which.
    """
    if version and topology:
        return Slice.of(version, topology)
    version = version and _version(version)
    found = {one for node in nodes if node["Alive"] and (one := _slice_of(node))}
    fitting = [
        one for one in found if one.version == (version or one.version) and one.topology == (topology or one.topology)
    ]
    if len(fitting) == 1:
        return fitting[0]
    has = ", ".join(sorted(map(str, found))) or "no slices that have come up"
    raise ConfigError(
        f"cluster.topology: which TPU slice? The cluster has {has}; say cluster.tpu=v5litepod cluster.topology=4x4"
    )


def _slice_of(node: Mapping[str, Any]) -> Slice | None:
    """The kind of slice of which a node is a host; None if it is of none, or of one that Ray does not know."""
    labels = node.get("Labels", {})
    try:
        return Slice.of(labels[_TYPE], labels[_TOPOLOGY])
    except (KeyError, ConfigError):
        return None


def _version(name: str) -> str:
    try:
        return str(get_tpu_version_from_type(name))
    except ValueError as error:
        raise ConfigError(f"cluster.tpu: {error}") from error


def _accelerator_type(version: str) -> str:
    """As nodes have it for a resource; Ray takes other names too, and then waits for ever."""
    return f"TPU-{version.upper()}"


@dataclass
class XlaConfig(BackendConfig):  # type: ignore[misc]
    """How workers find their chips.

    Attributes:
        emulated_chips: on the CPUs of each worker, instead of a TPU's; none if it is 0.
    """

    emulated_chips: int = 0

    @property
    def backend_cls(self) -> type[Backend]:
        return XlaBackend


class XlaBackend(Backend):  # type: ignore[misc]
    """Says which client PJRT is to use, before torch_xla is imported.

    The hosts of a slice find each other by what the TPU's own environment says of them; Ray's address of rank 0 would
    mislead them, whose first process may be another. Emulated chips know of none but their own process: several such
    get a process group of torch.distributed.
    """

    def on_start(self, worker_group: Any, backend_config: XlaConfig) -> None:
        chips = backend_config.emulated_chips
        worker_group.execute(_use_emulated if chips else _use_tpu, chips)
        if chips and len(worker_group) > 1:
            gloo = TorchConfig(backend="gloo")
            gloo.backend_cls().on_start(worker_group, gloo)


def _use_emulated(chips: int) -> None:
    os.environ |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(chips)}


def _use_tpu(_: int) -> None:
    # What a user says comes last, and counts.
    flags = f"{FULL_PRECISION} {os.environ.get('LIBTPU_INIT_ARGS', '')}".strip()
    os.environ |= {"PJRT_DEVICE": "TPU", "LIBTPU_INIT_ARGS": flags}
