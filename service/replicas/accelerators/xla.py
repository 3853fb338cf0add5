"""Replicas on XLA by torch_xla's SPMD: the chips of all hosts are one device, and a compiler shares the work out.

Tensors are global. The rows of a batch are laid out over the chips, everything else is on each of them, and GSPMD
finds what has to be reduced: batch statistics, loss weights and gradients are plain sums in the program. One process
a host runs it, all of them in step, and each feeds the lanes that its chips hold.

PJRT's CPU client emulates chips, within one process. Between processes it reduces nothing, and says nothing: several
of them reduce through their hosts, by torch.distributed's gloo, and every reduction cuts the program in two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch_xla
import torch_xla.backends
import torch_xla.core.xla_model as xm
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from torch import Tensor, nn

from service.replicas.accelerators import AcceleratorError, Pending
from service.replicas.collectives import Collective, OneReplica, ProcessGroup


class Xla:
    """The calling process as one host's part of a pod, or as a replica on emulated chips.

    Args:
        rank: of the process among `world_size`, as Ray counts them; XLA may count in another order.

    Raises:
        AcceleratorError: XLA does not see as many processes as there are, or cannot add up over them.
    """

    fused = False
    compiles = True
    _order: Tensor | None

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        xr.use_spmd()
        if torch_xla.backends.get_mat_mul_precision() != "highest":  # A TPU would round float32 factors to bfloat16.
            torch_xla.backends.set_mat_mul_precision("highest")
        self.device = torch_xla.device()
        self.rank, self.world_size = rank, world_size
        apart = world_size > 1 and xr.device_type() == "CPU"
        self.in_step = not apart
        self.reads_as = rank if apart else xr.process_index()
        self.collective: Collective = ProcessGroup(through_host=True) if apart else OneReplica(in_one_place=False)
        self._feeds_a_part = world_size > 1 and not apart
        self._chips = xr.global_runtime_device_count()
        # Asked first: a sum over hosts of which some are missing would wait for ever.
        if not apart and (problem := wiring(world_size, xr.process_count(), xr.process_count())):
            raise AcceleratorError(problem)
        self._mesh = _pod(world_size) if self._feeds_a_part else _mesh(range(self._chips))
        self._keeps_order = not self._feeds_a_part or keeps_order(self._mesh)
        self._asked, self._rows = (0, 0), torch.arange(0, device=self.device)
        self._part_length, self._order = 0, None

    def wrap(self, loss: nn.Module, some_unused: bool = False) -> nn.Module:
        return loss  # Its gradients are sums over the rows, wherever those lie.

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        trained = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        if self.collective.world_size > 1:
            _average_gradients(trained, self.collective)
        before = [parameter.detach().clone() for parameter in trained]
        optimizer.step()
        with torch.no_grad():
            for parameter, kept in zip(trained, before, strict=True):
                parameter.copy_(torch.where(skip > 0, kept, parameter))

    def finish(self) -> None:
        torch_xla.sync()

    def rows(self, first: int, count: int, size: int, most: int) -> Tensor:
        if not self._feeds_a_part:
            if (first, count) != self._asked:
                self._asked, self._rows = (first, count), self._over_chips(torch.arange(first, first + count))
            return self._rows
        if len(self._rows) != size:
            self._rows = self._over_chips(torch.arange(size))
        here = self._chips // self.world_size
        self._part_length, self._order = math.ceil(most / here) * here, None
        as_many_each = self._part_length * self.world_size == size
        if not (as_many_each and self._keeps_order):
            numbers = self._of_all_processes(torch.arange(first, first + count, dtype=torch.int32), beyond=size)
            self._order = in_order(numbers, size)
        return self._rows

    def to_device(self, read: Tensor) -> Tensor:
        if not self._feeds_a_part:
            return self._over_chips(read)
        placed = self._of_all_processes(read)
        if self._order is not None:
            placed = placed.index_select(0, self._order)
            xs.mark_sharding(placed, self._mesh, _axes(placed))
        return placed

    def _over_chips(self, rows: Tensor) -> Tensor:
        """All rows of this process's mesh."""
        placed = rows.to(self.device)
        if len(rows) % self._chips == 0:
            xs.mark_sharding(placed, self._mesh, _axes(placed))
        return placed

    def _of_all_processes(self, own: Tensor, beyond: int = 0) -> Tensor:
        """What each process has read, one after the other: as long parts of all, filled up with `beyond`."""
        return fed(filled_up(own, self._part_length, beyond), self._mesh)

    def fetch(self, values: Mapping[str, Tensor]) -> Pending:
        stacked = torch.stack([value.to(torch.float64) for value in values.values()])
        torch_xla.sync()
        return _Computed(tuple(values), stacked)


class _Computed:
    """Values that the device has been asked for."""

    def __init__(self, names: tuple[str, ...], values: Tensor) -> None:
        self._names, self._values = names, values

    def get(self) -> dict[str, float]:
        return dict(zip(self._names, self._values.tolist(), strict=True))


def hosts_in_a_row(owners: Sequence[int]) -> list[int]:
    """Of chips whose processes are `owners`, the order in which each process's chips follow one another."""
    return sorted(range(len(owners)), key=lambda chip: (owners[chip], chip))


def wiring(world_size: int, processes: int, ones: int) -> str | None:
    """What is wrong with a pod, if anything is.

    Args:
        world_size: how many processes Ray has started.
        processes: how many XLA sees.
        ones: how many processes' values a sum over all chips has found.
    """
    if processes == world_size == ones:
        return None
    return (
        f"of the {world_size} hosts that Ray has started, XLA counts {processes} and adds up over {ones}: they are not "
        "one slice's hosts, or do not find each other (TPU_WORKER_HOSTNAMES, TPU_WORKER_ID; docs/tpu.md)"
    )


def _mesh(chips: Sequence[int]) -> xs.Mesh:
    return xs.Mesh(np.array(chips), (len(chips),), ("rows",))


def fed(own: Tensor, mesh: xs.Mesh) -> Tensor:
    """The rows of all processes, of which this one has its own: as many of each, one process after the other."""
    sharding = xs.ShardingSpec(mesh, _axes(own), minibatch=True)
    placed: Tensor = xm.send_cpu_data_to_device([own], torch_xla.device(), input_sharding=sharding)[0]
    return placed


def _axes(rows: Tensor) -> tuple[str | None, ...]:
    return ("rows", *[None] * (rows.dim() - 1))


def filled_up(rows: Tensor, length: int, value: int) -> Tensor:
    """(N, ...) -> (length, ...): a process has more rows of one batch than of the next, but a program's shapes stay."""
    longer = rows.new_full((length, *rows.shape[1:]), value)
    longer[: len(rows)] = rows
    return longer


def in_order(numbers: Tensor, size: int) -> Tensor:
    """Where rows 0, 1, .. size - 1 are among (N,) `numbers`, of which those that are no rows are larger."""
    return torch.argsort(numbers)[:size]


def _pod(world_size: int) -> xs.Mesh:
    """A mesh over all chips, in the order in which processes read; raises AcceleratorError if the pod is not one."""
    here, chips = xr.addressable_runtime_device_count(), xr.global_runtime_device_count()
    owners = _seen_by_all(torch.full((here,), xr.process_index()), _mesh(range(chips)))
    if problem := wiring(world_size, xr.process_count(), len(set(owners))):
        raise AcceleratorError(problem)
    return _mesh(hosts_in_a_row(owners))


def keeps_order(mesh: xs.Mesh) -> bool:
    """Whether what processes feed arrives in their order.

    torch_xla gives a process's rows to its chips as it counts those, wherever they stand in the mesh.
    """
    here, chips = xr.addressable_runtime_device_count(), xr.global_runtime_device_count()
    return _seen_by_all(torch.arange(here) + xr.process_index() * here, mesh) == list(range(chips))


def _seen_by_all(own: Tensor, mesh: xs.Mesh) -> list[int]:
    """A number of each chip, of which this process says those of its own."""
    numbers = fed(own, mesh) + 0
    xs.mark_sharding(numbers, mesh, (None,))
    seen: list[int] = numbers.tolist()
    return seen


def _average_gradients(parameters: Sequence[nn.Parameter], collective: Collective) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    with torch.no_grad():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean = collective.sum_over_replicas(flat) / collective.world_size
        for gradient, part in zip(gradients, mean.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
