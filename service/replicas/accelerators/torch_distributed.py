"""Replicas on torch.distributed: gloo between CPUs, nccl between CUDA devices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from service.replicas.accelerators import Pending
from service.replicas.collectives import Collective, OneReplica, ProcessGroup


class TorchDistributed:
    """The calling process as a replica. Its process group, if there is more than one, must stand."""

    fused = True
    in_step = False
    compiles = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":  # cuDNN may else choose sums whose order changes from run to run.
            torch.backends.cudnn.deterministic = True
        several = dist.is_initialized() and dist.get_world_size() > 1
        self.collective: Collective = ProcessGroup() if several else OneReplica()
        self.rank = self.reads_as = dist.get_rank() if several else 0
        self.world_size = self.collective.world_size
        self._asked, self._rows = (0, 0), torch.arange(0, device=device)

    def wrap(self, loss: nn.Module, some_unused: bool = False) -> nn.Module:
        if self.world_size == 1:
            return loss
        devices = [self.device] if self.device.type == "cuda" else None
        # Buffers are statistics of the global batch, equal on all replicas: no step has to send them.
        return DistributedDataParallel(
            loss,
            device_ids=devices,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=some_unused,
        )

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        if optimizer.defaults.get("fused"):
            # Fused optimizers read these two on the device: it is how torch's GradScaler skips a step.
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = skip  # type: ignore[attr-defined]
        else:
            for group in optimizer.param_groups:
                for parameter in filter(lambda one: one.grad is not None, group["params"]):
                    parameter.grad = torch.where(skip > 0, 0, parameter.grad)
        optimizer.step()

    def finish(self) -> None:
        """Kernels begin when they are asked for."""

    def rows(self, first: int, count: int, size: int, most: int) -> Tensor:
        if (first, count) != self._asked:
            self._asked, self._rows = (first, count), torch.arange(first, first + count, device=self.device)
        return self._rows

    def to_device(self, read: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return read
        return read.to(self.device, non_blocking=True)  # Copied in the background if the host's memory is pinned.

    def fetch(self, values: Mapping[str, Tensor]) -> Pending:
        return _Copy(tuple(values), torch.stack([value.to(torch.float64) for value in values.values()]))


class _Copy:
    """A copy to pinned memory, with an event behind it on CUDA."""

    def __init__(self, names: tuple[str, ...], values: Tensor) -> None:
        self._names = names
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def get(self) -> dict[str, float]:
        if self._event is not None:
            self._event.synchronize()
        return dict(zip(self._names, self._host.tolist(), strict=True))
