"""Reductions over all replicas: the only arithmetic that knows there are several.

The convention that makes gradients exact: every replica computes the same loss L of the global batch, and
starts its backward pass from it. `sum_over_replicas` is its own adjoint, so that pass gives replica r the
gradient of W*L through r's rows, W replicas in all; DistributedDataParallel's mean over replicas then
gives the gradient of L, however unevenly the rows are shared out.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collective(Protocol):
    """What a batch statistic needs of the replicas."""

    world_size: int
    #: Whether all rows lie in the memory of one device, where torch's own kernels see every one of them.
    in_one_place: bool

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        """The sum of every replica's `value`, on every replica; differentiable, any number of times.

        Args:
            same_gradient: whether all replicas will have the same gradient of it, as of a loss that each computes from
                it alone. Their sum is then a multiple, and no collective.
        """
        ...


class OneReplica:
    """The whole batch is here.

    Args:
        in_one_place: no, if a compiler lays what looks like one tensor out over many devices, as XLA's SPMD does:
            sums are then the compiler's to reduce.
    """

    world_size = 1

    def __init__(self, in_one_place: bool = True) -> None:
        self.in_one_place = in_one_place

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        return value


class ProcessGroup:
    """The replicas of torch.distributed's default group, one process each.

    Args:
        through_host: whether the group knows no tensors of the device, and is given copies on the host.
    """

    in_one_place = False

    def __init__(self, through_host: bool = False) -> None:
        self.world_size = dist.get_world_size()
        self._through_host = through_host

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        times = self.world_size if same_gradient else None
        summed: Tensor = _AllReduceSum.apply(value, self._through_host, times)  # type: ignore[no-untyped-call]
        return summed


class _AllReduceSum(torch.autograd.Function):
    """All-reduce as a linear map: symmetric, so its backward is itself, to any order."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, through_host: bool, times: int | None) -> Tensor:
        ctx.through_host, ctx.times = through_host, times
        summed = value.detach().cpu() if through_host else value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.to(value.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.times is not None:
            return gradient * ctx.times, None, None
        back: Tensor = _AllReduceSum.apply(gradient, ctx.through_host, None)  # type: ignore[no-untyped-call]
        return back, None, None
